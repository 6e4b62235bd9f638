//go:build e2e && linux

package main_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// functionBinary is what Cloud Run would start. WHOSIGNED_FUNCTION names the one
// that TestPackaging built from the zip that Terraform made. Without it the
// buildpack's main is built over the working tree: an overlay puts it into the
// module, so that the versions are go.mod's and nothing is written beside the code.
func functionBinary(t testing.TB) string {
	t.Helper()
	if binary := os.Getenv("WHOSIGNED_FUNCTION"); binary != "" {
		t.Logf("the function is %s (WHOSIGNED_FUNCTION)", binary)
		return binary
	}
	dir := t.TempDir()
	root := strings.TrimSpace(string(command(t, nil, "go", "list", "-m", "-f", "{{.Dir}}")))
	app := filepath.Join(root, "function", "functions.local", "app")
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(app, "main.go"): filepath.Join(dir, "main.go")}})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "main.go"), []byte(functionMain))
	writeFile(t, filepath.Join(dir, "overlay.json"), overlay)
	binary := filepath.Join(dir, "main")
	command(t, nil, "go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary, app)
	t.Log("WHOSIGNED_FUNCTION is not set: the function is built from the working tree, not from Terraform's zip")
	return binary
}

// functionMain is the main package that Google's Go buildpack generates for a
// function that registers itself, in short.
const functionMain = `package main

import (
	"log"
	"os"

	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"

	_ "github.com/whosigned/whosigned/function"
)

func main() { log.Fatal(funcframework.Start(os.Getenv("PORT"))) }
`

// instance is a process as Cloud Run starts it.
type instance struct {
	url    string
	cmd    *exec.Cmd
	stdout string // the file
	stderr bytes.Buffer
	read   int64         // of stdout
	ready  time.Duration // until it listened
	exited chan struct{} // closed once err says how
	err    error
}

// launch starts the function with an environment and waits until it listens.
func launch(t testing.TB, binary string, env ...string) *instance {
	t.Helper()
	port := freePort(t)
	i := &instance{url: "http://127.0.0.1:" + port + "/", cmd: exec.Command(binary), exited: make(chan struct{})}
	stdout, err := os.CreateTemp(t.TempDir(), "stdout")
	if err != nil {
		t.Fatal(err)
	}
	i.stdout = stdout.Name()
	i.cmd.Stdout, i.cmd.Stderr = stdout, &i.stderr
	i.cmd.Env = append([]string{"PATH=/usr/bin:/bin", "HOME=/", "PORT=" + port, "K_SERVICE=whosigned", "K_REVISION=whosigned-00001-abc",
		"K_CONFIGURATION=whosigned", "FUNCTION_TARGET=Monitor", "FUNCTION_SIGNATURE_TYPE=http"}, env...)
	i.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	began := time.Now()
	if err := i.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		i.err = i.cmd.Wait()
		_ = stdout.Close() // the process had its own
		close(i.exited)
	}()
	t.Cleanup(func() {
		i.end(syscall.SIGKILL)
		if t.Failed() {
			t.Logf("the last lines of the function at %s:\n%s%s", i.url, tail(i.stdout, 8<<10), i.stderr.String())
		}
	})
	for {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			i.ready = time.Since(began)
			_ = conn.Close()
			return i
		}
		select {
		case <-i.exited:
			t.Fatalf("the function exited before it listened: %v", i.err)
		case <-time.After(time.Millisecond):
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("the function does not listen after a minute: %v", err)
		}
	}
}

// end sends a signal and returns how long the process took to end, and how it did.
func (i *instance) end(signal syscall.Signal) (took time.Duration, err error) {
	began := time.Now()
	_ = i.cmd.Process.Signal(signal) // it may be gone already
	<-i.exited
	return time.Since(began), i.err
}

// peak is the most memory that the process has held so far, in bytes.
func (i *instance) peak(t testing.TB) uint64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", i.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			n, err := strconv.ParseUint(f[1], 10, 53)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatalf("the kernel does not say what process %d has held", i.cmd.Process.Pid)
	return 0
}

// answer is what Scheduler gets.
type answer struct {
	status int
	body   string
	err    error // of the connection
}

// invoke sends the request of Cloud Scheduler.
func (i *instance) invoke() answer {
	r, err := http.NewRequest(http.MethodPost, i.url, nil)
	if err != nil {
		return answer{err: err}
	}
	for name, value := range map[string]string{
		"User-Agent": "Google-Cloud-Scheduler", "Content-Type": "application/octet-stream", "X-CloudScheduler": "true",
		"X-CloudScheduler-JobName": "whosigned", "X-CloudScheduler-ScheduleTime": time.Now().UTC().Format(time.RFC3339),
		"X-Cloud-Trace-Context": "105445aa7843bc8bf206b12000100000/1;o=1",
	} {
		r.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, string(body), err}
}

// start invokes without waiting for the answer.
func (i *instance) start() <-chan answer {
	answers := make(chan answer, 1)
	go func() { answers <- i.invoke() }()
	return answers
}

// runLine is the part of a run's log line that metrics and alerts live on.
type runLine struct {
	Run         string   `json:"run"`
	Trigger     string   `json:"trigger"`
	Outcome     string   `json:"outcome"`
	Failed      bool     `json:"failed"`
	Overdue     bool     `json:"overdue"`
	Tamper      bool     `json:"tamper"`
	Undelivered bool     `json:"undelivered"`
	Duration    float64  `json:"duration_seconds"`
	Memory      uint64   `json:"memory_bytes"`
	Entries     uint64   `json:"entries"`
	Findings    int      `json:"findings"`
	Expected    int      `json:"expected"`
	Delivered   int      `json:"delivered"`
	Pending     int      `json:"pending"`
	Errors      []string `json:"errors"`

	raw string
}

// The limits of Cloud Logging that lines keep to.
const (
	maxLineBytes    = 64 << 10
	maxRunLineBytes = 16 << 10
)

// lines reads what the process has logged since the last call, checks that Cloud
// Logging could read it, and returns the lines about runs.
func (i *instance) lines(t testing.TB) []runLine {
	t.Helper()
	all, err := os.ReadFile(i.stdout)
	if err != nil {
		t.Fatal(err)
	}
	var runs []runLine
	news := all[i.read:]
	i.read = int64(len(all))
	for raw := range bytes.Lines(news) {
		if len(raw) == 1 {
			continue // the Functions Framework ends each request on Cloud Run with one
		}
		var line struct {
			Severity string `json:"severity"`
			Message  string `json:"message"`
			Event    string `json:"event"`
			Trace    string `json:"logging.googleapis.com/trace"`
			Labels   struct {
				Run string `json:"whosigned_run"`
			} `json:"logging.googleapis.com/labels"`
		}
		if err := json.Unmarshal(raw, &line); err != nil {
			t.Errorf("a log line is not JSON: %v\n%.2000s", err, raw)
			continue
		}
		if line.Severity == "" || line.Message == "" || line.Trace != "projects/e2e/traces/105445aa7843bc8bf206b12000100000" || len(raw) > maxLineBytes {
			t.Errorf("a log line of %d bytes without its severity, message or trace: %.2000s", len(raw), raw)
		}
		if line.Event != "run" {
			continue
		}
		run := runLine{raw: string(raw)}
		if err := json.Unmarshal(raw, &run); err != nil {
			t.Errorf("the line of a run: %v\n%s", err, raw)
		}
		if len(raw) > maxRunLineBytes || run.Trigger != "whosigned" || run.Run != line.Labels.Run || run.Duration <= 0 || run.Memory == 0 {
			t.Errorf("the line of a run, %d bytes, is not as it should be: %s", len(raw), raw)
		}
		runs = append(runs, run)
	}
	return runs
}

// gone says whether a connection broke, as it does when its server is killed.
func gone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}
