package function

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fsouza/fake-gcs-server/fakestorage"

	"github.com/whosigned/whosigned/pkg/monitor"
)

// cloud is a world with the buckets that the deployment's environment names.
type cloud struct {
	*world
	d       *deployment
	buckets *fakestorage.Server
}

// cloudLeaves is how many leaves the log has: several bundles and a partial one.
const cloudLeaves = 1000

func newCloud(tb testing.TB, d *deployment) *cloud {
	tb.Helper()
	w := newWorld(tb)
	w.add("https://github.com/stranger/app/.github/workflows/ci.yml@refs/heads/main", cloudLeaves)
	buckets, err := fakestorage.NewServerWithOptions(fakestorage.Options{Scheme: "http", Host: "127.0.0.1"})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(buckets.Stop)
	bucket, object := d.location(tb, "WHOSIGNED_CONFIG")
	buckets.CreateObject(fakestorage.Object{
		ObjectAttrs: fakestorage.ObjectAttrs{BucketName: bucket, Name: object}, Content: []byte(w.config()),
	})
	bucket, _ = d.location(tb, "WHOSIGNED_STATE")
	buckets.CreateBucketWithOpts(fakestorage.CreateBucketOpts{Name: bucket})
	return &cloud{w, d, buckets}
}

// location is the bucket and the object that a variable of the deployment names.
func (d *deployment) location(tb testing.TB, variable string) (bucket, object string) {
	tb.Helper()
	u, err := url.Parse(d.env[variable])
	if err != nil || u.Scheme != "gs" || u.Host == "" {
		tb.Fatalf("%s in the function's environment: got %q, want a gs:// URL", variable, d.env[variable])
	}
	return u.Host, strings.TrimPrefix(u.Path, "/")
}

// environment is what the process finds: Cloud Run's variables, the module's, and
// where this test has the buckets, the mail server and its key.
func (c *cloud) environment(port string) []string {
	env := []string{
		"HOME=/root", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"PORT=" + port, "K_SERVICE=whosigned", "K_REVISION=whosigned-00001-abc", "K_CONFIGURATION=whosigned",
		"FUNCTION_TARGET=" + c.d.entry, "FUNCTION_SIGNATURE_TYPE=http",
	}
	for _, name := range slices.Sorted(maps.Keys(c.d.env)) {
		env = append(env, name+"="+c.d.env[name])
	}
	return append(env,
		"STORAGE_EMULATOR_HOST="+strings.TrimPrefix(c.buckets.URL(), "http://"),
		"SENDGRID_API_KEY_FILE="+filepath.Join(c.dir, "api-key"),
		"SENDGRID_HOST="+c.env["SENDGRID_HOST"],
	)
}

// launch starts the binary and returns once it accepts connections, which is how
// Cloud Run, too, finds out that it is ready.
func (c *cloud) launch(tb testing.TB, binary string) *instance {
	tb.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	address := free.Addr().String()
	if err := free.Close(); err != nil {
		tb.Fatal(err)
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		tb.Fatal(err)
	}
	i := &instance{t: tb, url: "http://" + address, cmd: exec.Command(binary), log: &buffer{}, exited: make(chan struct{})}
	i.cmd.Env, i.cmd.Stdout, i.cmd.Stderr = c.environment(port), i.log, i.log
	began := time.Now()
	if err := i.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() {
		i.err = i.cmd.Wait()
		close(i.exited)
	}()
	tb.Cleanup(i.kill)
	ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
	defer cancel()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err == nil {
			i.ready = time.Since(began)
			_ = conn.Close() // it has told what it was to tell
			return i
		}
		select {
		case <-again.C:
		case <-i.exited:
			tb.Fatalf("the binary exited before it listened: %v\n%s", i.err, i.log)
		case <-ctx.Done():
			tb.Fatalf("the binary does not listen on PORT=%s: %v\n%s", port, err, i.log)
		}
	}
}

// kill ends the process, if it is still there.
func (i *instance) kill() {
	_ = i.cmd.Process.Signal(syscall.SIGKILL) // it may be gone already
	<-i.exited
}

// schedule sends what Cloud Scheduler sends, with a method.
func (i *instance) schedule(tb testing.TB, method string) response {
	tb.Helper()
	r, err := http.NewRequestWithContext(tb.Context(), method, i.url+"/", nil)
	if err != nil {
		tb.Fatal(err)
	}
	for name, value := range map[string]string{
		"User-Agent":                    "Google-Cloud-Scheduler",
		"Content-Type":                  "application/octet-stream",
		"Authorization":                 "Bearer header.claims.signature",
		"X-CloudScheduler":              "true",
		"X-CloudScheduler-JobName":      "whosigned",
		"X-CloudScheduler-ScheduleTime": "2026-08-21T10:07:00Z",
	} {
		r.Header.Set(name, value)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		tb.Fatalf("%s: %v\n%s", method, err, i.log)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return response{answer.StatusCode, body, err}
}

// scheduled makes one run and returns its result.
func (i *instance) scheduled(tb testing.TB) *monitor.Result {
	tb.Helper()
	answer := i.schedule(tb, http.MethodPost)
	if answer.status != http.StatusOK {
		tb.Fatalf("answer to Cloud Scheduler: got status %d, want 200\n%s\n%s", answer.status, answer.body, i.log)
	}
	return answer.result(tb)
}

// resident is a value of /proc/PID/status, in MiB; 0 where there is no such file.
func (i *instance) resident(tb testing.TB, name string) float64 {
	tb.Helper()
	if runtime.GOOS != "linux" {
		return 0
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", i.cmd.Process.Pid))
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == name+":" {
			kibibytes, err := strconv.ParseFloat(fields[1], 64)
			if err != nil {
				tb.Fatal(err)
			}
			return kibibytes / 1024
		}
	}
	tb.Fatalf("/proc/%d/status has no %s", i.cmd.Process.Pid, name)
	return 0
}

func (d *deployment) answersScheduler(t *testing.T, binary string) {
	c := newCloud(t, d)
	i := c.launch(t, binary)
	if got := i.schedule(t, http.MethodGet); got.status != http.StatusMethodNotAllowed {
		t.Errorf("answer to a GET: got status %d, want 405\n%s", got.status, got.body)
	}
	result := i.scheduled(t)
	if result.Exit != monitor.ExitClean || len(result.Logs) != 1 {
		t.Fatalf("result: got exit %d and %d logs, want exit 0 and 1 log\n%s", result.Exit, len(result.Logs), i.log)
	}
	if l := result.Logs[0]; l.Size != cloudLeaves || l.Scanned != cloudLeaves {
		t.Errorf("result for the log: got size %d and %d scanned, want %d of each", l.Size, l.Scanned, cloudLeaves)
	}
	if mails := c.subjects(); len(mails) != 1 {
		t.Errorf("mails after the first run: got %q, want one that says what is watched from now on", mails)
	}
	bucket, _ := d.location(t, "WHOSIGNED_STATE")
	if _, err := c.buckets.GetObject(bucket, "run.json"); err != nil {
		t.Errorf("gs://%s/run.json after the run: %v", bucket, err)
	}
	t.Logf("after a run over %d entries: %.0f MiB, at most %.0f MiB", cloudLeaves, i.resident(t, "VmRSS"), i.resident(t, "VmHWM"))
	if took, err := i.terminate(); err != nil {
		t.Errorf("end after SIGTERM: got %v after %v, want status 0", err, took)
	}
	runs := runLines(t, i.log.String())
	if len(runs) != 1 {
		t.Fatalf("log lines about the run: got %d, want 1\n%s", len(runs), i.log)
	}
	for key, want := range map[string]any{"run": result.Run, "trigger": "whosigned", "outcome": "clean", "failed": false} {
		if got := runs[0][key]; got != want {
			t.Errorf("%s in the log line about the run: got %v, want %v", key, got, want)
		}
	}
}

// starts reports what a cold start costs. The aims: ready in 100 ms, idle under 80 MiB.
// They are not asserted, as they depend on the machine.
func (d *deployment) starts(t *testing.T, binary string) {
	c := newCloud(t, d)
	var ready, idle []float64
	for range 10 {
		i := c.launch(t, binary)
		ready = append(ready, float64(i.ready.Microseconds())/1e3)
		idle = append(idle, i.resident(t, "VmRSS"))
		i.kill()
	}
	t.Logf("medians of %d starts: ready in %.0f ms, idle with %.0f MiB; the zip has %.2f MiB, the binary %.1f MiB",
		len(ready), median(ready), median(idle), mebibytes(t, d.zip), mebibytes(t, binary))
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

func mebibytes(tb testing.TB, name string) float64 {
	tb.Helper()
	info, err := os.Stat(name)
	if err != nil {
		tb.Fatal(err)
	}
	return float64(info.Size()) / (1 << 20)
}
