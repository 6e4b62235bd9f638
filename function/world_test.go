package function

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"

	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/notify/notifytest"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// TestMain also makes the test binary what Google's builder makes of this package:
// a program that serves the registered function with the Functions Framework.
func TestMain(m *testing.M) {
	if port := os.Getenv("FUNCTION_TEST_PORT"); port != "" {
		deployed.tune = func(m *monitor.Monitor) {
			m.Progress = func(_ tlog.Info, scanned, _ uint64) { fmt.Fprintln(os.Stderr, readMark, scanned) }
		}
		fmt.Fprintln(os.Stderr, funcframework.StartHostPort("127.0.0.1", port))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// readMark begins a line in which the program says how far it has read.
const readMark = "entries read:"

const (
	mine   = "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1"
	issuer = "https://token.actions.githubusercontent.com"
	apiKey = "SG.test-key"
)

// world is a log, a SendGrid and a folder: what a deployed function meets.
type world struct {
	t        testing.TB
	dir      string
	ca       *tlogtest.CA
	log      *tlogtest.Tiles
	logURL   string
	sendgrid *notifytest.SendGrid
	env      map[string]string
	n        int
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), sendgrid: &notifytest.SendGrid{Key: apiKey}}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err == nil {
		w.log, err = tlogtest.NewTiles("log.example", key)
	}
	if err == nil {
		w.ca, err = tlogtest.NewCA("sigstore.example")
	}
	if err != nil {
		t.Fatal(err)
	}
	mail := httptest.NewServer(w.sendgrid)
	t.Cleanup(mail.Close)
	var stop func() error
	if w.logURL, stop, err = tlogtest.Serve(context.Background(), w.log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stop() }) // the test is over, and so is every request
	w.write("api-key", apiKey+"\n")
	w.write("whosigned.yaml", w.config())
	w.env = map[string]string{
		"WHOSIGNED_CONFIG":      filepath.Join(w.dir, "whosigned.yaml"),
		"WHOSIGNED_STATE":       (&url.URL{Scheme: "file", Path: filepath.Join(w.dir, "state")}).String(),
		"WHOSIGNED_TIMEOUT":     "1740s",
		"WHOSIGNED_EVERY":       "60m",
		"SENDGRID_API_KEY_FILE": filepath.Join(w.dir, "api-key"),
		"SENDGRID_HOST":         mail.URL,
		"GOOGLE_CLOUD_PROJECT":  "acme-security",
	}
	return w
}

// config is a valid configuration, its keys inline so that it can be anywhere.
func (w *world) config() string {
	w.t.Helper()
	pem, err := w.log.PublicKeyPEM()
	if err != nil {
		w.t.Fatal(err)
	}
	return fmt.Sprintf(`state: %s
logs:
  - {type: rekor-v2, url: %q, key: %q, origin: log.example, start: 0, accept_lag: true}
watch:
  - name: ours
    subject: {glob: "https://github.com/acme/*"}
alerts:
  email: {via: sendgrid, from: whosigned@acme.example, to: security@acme.example}
`, (&url.URL{Scheme: "file", Path: filepath.Join(w.dir, "state")}).String(), w.logURL, pem)
}

func (w *world) write(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// sign adds an entry of ours to the log.
func (w *world) sign() {
	w.t.Helper()
	w.n++
	w.add(mine, 1)
}

// add appends n entries signed as somebody and publishes them.
func (w *world) add(subject string, n int) {
	w.t.Helper()
	signer, err := w.ca.Issue(tlogtest.Identity{URI: subject, Issuer: issuer})
	if err != nil {
		w.t.Fatal(err)
	}
	for i := range n {
		leaf, err := tlogtest.HashedRekordV002(signer, fmt.Appendf(nil, "artifact %d of %d", i, w.log.Tree().Size()))
		if err != nil {
			w.t.Fatal(err)
		}
		w.log.Append(leaf)
	}
	if err := w.log.Publish(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) getenv(name string) string { return w.env[name] }

// state opens what the function keeps.
func (w *world) state() *state.State {
	w.t.Helper()
	st, err := state.Open(w.t.Context(), w.env["WHOSIGNED_STATE"])
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

// left is what runs have left behind: the lease, and how far the log was read.
func (w *world) left() (run *state.Run, scanned uint64) {
	w.t.Helper()
	st := w.state()
	run, err := st.LoadRun(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for id := range run.Logs {
		l, err := st.LoadLog(w.t.Context(), id)
		if err != nil {
			w.t.Fatal(err)
		}
		if l.Scanned != nil {
			scanned = l.Scanned.Size
		}
	}
	return run, scanned
}

// subjects are those of the mails that arrived.
func (w *world) subjects() []string {
	var all []string
	for _, m := range w.sendgrid.Mails() {
		all = append(all, m.Subject)
	}
	return all
}

// buffer is a log that may be written and read at once.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// local is the endpoint in this process: for tests that look inside.
type local struct {
	t      testing.TB
	server *httptest.Server
	log    *buffer
	read   *meter
}

// here serves the endpoint; a limit is a deadline that the platform puts on requests.
func (w *world) here(tune func(*endpoint), limit ...time.Duration) *local {
	w.t.Helper()
	l := &local{t: w.t, log: &buffer{}, read: newMeter()}
	e := &endpoint{getenv: w.getenv, log: l.log, stop: newStopper(func(int) {}), clock: production}
	e.first.Do(func() {}) // this process keeps its own memory limit and signals
	e.tune = func(m *monitor.Monitor) {
		m.Progress = func(_ tlog.Info, scanned, _ uint64) { fmt.Fprintln(l.read, readMark, scanned) }
	}
	if tune != nil {
		tune(e)
	}
	l.server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		for _, d := range limit {
			ctx, cancel := context.WithTimeout(r.Context(), d)
			defer cancel()
			r = r.WithContext(ctx)
		}
		e.ServeHTTP(rw, r)
	}))
	w.t.Cleanup(func() {
		l.server.Close()
		if w.t.Failed() {
			w.t.Logf("the function's log:\n%s", l.log)
		}
	})
	return l
}

func (l *local) send(ctx context.Context) response { return post(ctx, l.t, l.server.URL) }

type response struct {
	status int
	body   []byte
	err    error
}

func (r response) result(t testing.TB) *monitor.Result {
	t.Helper()
	var res monitor.Result
	if err := json.Unmarshal(r.body, &res); err != nil || r.err != nil {
		t.Fatalf("answer %d %s: %v, %v", r.status, r.body, err, r.err)
	}
	return &res
}

func (r response) failure(t testing.TB) failure {
	t.Helper()
	var f failure
	if err := json.Unmarshal(r.body, &f); err != nil || r.err != nil {
		t.Fatalf("answer %d %s: %v, %v", r.status, r.body, err, r.err)
	}
	return f
}

// post sends Scheduler's request.
func post(ctx context.Context, t testing.TB, url string) response {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/", strings.NewReader("{}"))
	if err != nil {
		return response{err: err}
	}
	req.Header.Set("User-Agent", "Google-Cloud-Scheduler")
	req.Header.Set("X-CloudScheduler-JobName", "whosigned")
	req.Header.Set("X-Cloud-Trace-Context", strings.Repeat("ab", 16)+"/7;o=1")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return response{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return response{resp.StatusCode, body, err}
}

// instance is the function in a process of its own.
type instance struct {
	t      testing.TB
	url    string
	cmd    *exec.Cmd
	log    *buffer
	read   *meter
	exited chan struct{}
	err    error // of the process, once it has exited
	ready  time.Duration
}

// start runs the function as Cloud Run does.
func (w *world) start() *instance {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	program, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	i := &instance{t: w.t, url: "http://127.0.0.1:" + port, cmd: exec.Command(program), log: &buffer{}, read: newMeter(), exited: make(chan struct{})}
	// The race detector would have the program sleep for a second before it exits.
	i.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "FUNCTION_TEST_PORT="+port, "FUNCTION_TARGET=Monitor", "FUNCTION_SIGNATURE_TYPE=http", "K_SERVICE=whosigned", "K_REVISION=whosigned-00001-abc")
	for name, value := range w.env {
		i.cmd.Env = append(i.cmd.Env, name+"="+value)
	}
	i.cmd.Stdout, i.cmd.Stderr = i.log, i.read
	began := time.Now()
	if err := i.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		i.err = i.cmd.Wait()
		close(i.exited)
	}()
	w.t.Cleanup(func() {
		_ = i.cmd.Process.Kill() // it may be gone already
		<-i.exited
		if w.t.Failed() {
			w.t.Logf("the function's log:\n%s\n%s", i.log, &i.read.rest)
		}
	})
	for {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			conn.Close()
			i.ready = time.Since(began)
			return i
		}
		select {
		case <-i.exited:
			w.t.Fatalf("the function exited before it listened: %v\n%s", i.err, &i.read.rest)
		case <-time.After(time.Millisecond):
		}
	}
}

func (i *instance) send(ctx context.Context) response { return post(ctx, i.t, i.url) }

// runLines are the run lines of the process once there are n: they come through a pipe,
// maybe after the answer.
func (i *instance) runLines(n int) []map[string]any {
	i.t.Helper()
	late := time.After(10 * time.Second)
	for {
		lines := runLines(i.t, i.log.String())
		if len(lines) >= n {
			return lines
		}
		select {
		case <-late:
			return lines
		case <-time.After(time.Millisecond):
		}
	}
}

// terminate sends SIGTERM and returns how long it took, and how the process ended.
func (i *instance) terminate() (time.Duration, error) {
	i.t.Helper()
	began := time.Now()
	if err := i.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		i.t.Fatal(err)
	}
	select {
	case <-i.exited:
	case <-time.After(2 * stopTime):
		i.t.Fatal("the process is still there")
	}
	return time.Since(began), i.err
}

// meter tells how far a program has read, by what it writes on stderr.
type meter struct {
	rest buffer // what else it writes

	mu    sync.Mutex
	part  []byte // of a line
	most  uint64
	moved chan struct{} // replaced whenever most grows
}

func newMeter() *meter { return &meter{moved: make(chan struct{})} }

func (m *meter) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.part = append(m.part, p...)
	for {
		line, rest, ok := bytes.Cut(m.part, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		m.part = rest
		var n uint64
		if _, err := fmt.Sscanf(string(line), readMark+" %d", &n); err != nil {
			fmt.Fprintf(&m.rest, "%s\n", line)
		} else if n > m.most {
			m.most = n
			close(m.moved)
			m.moved = make(chan struct{})
		}
	}
}

// wait returns once n entries have been read.
func (m *meter) wait(t testing.TB, n uint64) {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		m.mu.Lock()
		most, moved := m.most, m.moved
		m.mu.Unlock()
		if most >= n {
			return
		}
		select {
		case <-moved:
		case <-timeout:
			t.Fatalf("only %d of %d entries were read within a minute", most, n)
		}
	}
}

// stall makes the log hold back the entries of a bundle and all after it, until
// release is called.
func (w *world) stall(bundle int) (release func()) {
	open := make(chan struct{})
	held := func(r *http.Request) bool {
		rest, ok := strings.CutPrefix(r.URL.Path, "/tile/entries/")
		var n int
		_, err := fmt.Sscanf(rest, "%d", &n)
		return ok && err == nil && n >= bundle
	}
	w.log.Inject(held, 0, func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		select {
		case <-open:
			next.ServeHTTP(rw, r)
		case <-r.Context().Done():
		}
	})
	release = sync.OnceFunc(func() { close(open) })
	w.t.Cleanup(release)
	return release
}

// parse reads a log, in which every line must be one JSON object.
func parse(t testing.TB, log string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(log) {
		if strings.TrimSpace(line) == "" {
			continue // the framework's way of flushing
		}
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		all = append(all, m)
	}
	return all
}

// runLines are the lines of invocations.
func runLines(t testing.TB, log string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for _, m := range parse(t, log) {
		if m["event"] == "run" {
			all = append(all, m)
		}
	}
	return all
}
