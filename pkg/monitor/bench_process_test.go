package monitor_test

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/notify"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/rekorv1"
	"github.com/whosigned/whosigned/pkg/tlog/rfc6962"
	"github.com/whosigned/whosigned/pkg/tlog/tiles"
)

// What is measured runs in processes of its own, this test binary started once
// more: the log's CPU time and memory are then not the monitor's, and the peak of
// one case is not that of another.

// memoryLimit is the one that main sets.
const memoryLimit = 64 << 20

// A job is what one process does.
type job struct {
	Do string
	// To serve a log.
	Type    tlog.Type
	Entries uint64
	// Leaves is "" for what Fulcio's users sign: hashedrekords with certificates, or
	// what a CT log has of those; "max" for leaves of which 256, a bundle, have the
	// size of the largest answer; "huge" for those of a CT log that fill one each.
	Leaves  string
	Latency time.Duration
	// Slots, if set, is how many requests for entries a Rekor v1 answers at once, each
	// of which takes Service: a slow server, such as a real one.
	Slots   int
	Service time.Duration
	// To read it.
	Dir      string
	Log      servedLog
	InFlight int
}

// The jobs.
const (
	serveLog   = "serve"
	runMonitor = "run"   // Monitor.Run, as the command does it
	readFloor  = "floor" // fetch with our client and its read-ahead, and hash: nothing else
	readPlain  = "plain" // the same bytes with net/http, InFlight requests at a time, hashed unless they are a Rekor v1's
)

// servedLog is how to read a log that another process serves.
type servedLog struct {
	Type    tlog.Type
	URL     string
	Key     []byte
	Entries uint64
}

// figures are what reading a log took.
type figures struct {
	Entries, Findings uint64
	Wall, CPU         time.Duration
	Allocs, Bytes     uint64
	PeakRSS           uint64
	InFlight          int // requests at once, at most, as the server saw it
}

func (f figures) perSecond() float64   { return float64(f.Entries) / f.Wall.Seconds() }
func (f figures) cpuPerEntry() float64 { return float64(f.CPU.Microseconds()) / float64(f.Entries) }
func (f figures) cores() float64       { return f.CPU.Seconds() / f.Wall.Seconds() }

const jobVariable = "WHOSIGNED_BENCHMARK_JOB"

// TestJobOfABenchmark is no test: it is what the processes of the benchmarks do.
func TestJobOfABenchmark(t *testing.T) {
	raw := os.Getenv(jobVariable)
	if raw == "" {
		t.Skip("a helper of the benchmarks")
	}
	var j job
	if err := json.Unmarshal([]byte(raw), &j); err != nil {
		t.Fatal(err)
	}
	out := json.NewEncoder(os.NewFile(3, "answer"))
	var answer any
	if j.Do == serveLog {
		answer = j.serve(t)
	} else {
		debug.SetMemoryLimit(memoryLimit)
		answer = j.measure(t)
	}
	if err := out.Encode(answer); err != nil {
		t.Fatal(err)
	}
	if j.Do == serveLog {
		_, _ = io.Copy(io.Discard, os.Stdin) // until the parent closes it, or dies
	}
}

// start begins a job in a process of its own and waits for its answer.
func start[T any](t testing.TB, j job) (answer T, stop func()) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command(exe, "-test.run=^TestJobOfABenchmark$", "-test.timeout=0")
	cmd.Env = append(os.Environ(), jobVariable+"="+string(raw))
	cmd.ExtraFiles = []*os.File{w}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", raw, err, &output)
		}
	})
	t.Cleanup(stop)
	w.Close()
	if err := json.NewDecoder(r).Decode(&answer); err != nil {
		stop()
		t.Fatalf("%s gave no answer: %v", raw, err)
	}
	return answer, stop
}

// serve starts a log as j asks for.
func serve(t testing.TB, j job) servedLog {
	t.Helper()
	j.Do = serveLog
	log, _ := start[servedLog](t, j)
	return log
}

// read measures one way to read a log.
func read(t testing.TB, log servedLog, do string, inFlight int) figures {
	t.Helper()
	f, stop := start[figures](t, job{Do: do, Log: log, Dir: t.TempDir(), InFlight: inFlight})
	stop()
	if f.Entries != log.Entries {
		t.Fatalf("%s read %d entries, want %d", do, f.Entries, log.Entries)
	}
	f.InFlight = mostInFlight(t, log)
	return f
}

// measure does what j says once, and what it took.
func (j job) measure(t *testing.T) figures {
	read := map[string]func(*testing.T) func() (uint64, uint64){
		runMonitor: j.monitor, readFloor: j.floor, readPlain: j.plain,
	}[j.Do](t)
	defer j.profile(t)()
	var before, after runtime.MemStats
	var began, ended syscall.Rusage
	runtime.ReadMemStats(&before)
	usage(t, &began)
	start := time.Now()
	var f figures
	f.Entries, f.Findings = read()
	f.Wall = time.Since(start)
	usage(t, &ended)
	runtime.ReadMemStats(&after)
	f.CPU = cpuTime(ended) - cpuTime(began)
	f.Allocs, f.Bytes = after.Mallocs-before.Mallocs, after.TotalAlloc-before.TotalAlloc
	f.PeakRSS = peakRSS(t)
	return f
}

// profile writes a CPU profile of each reader to the folder BENCH_PROFILE, if it is set.
func (j job) profile(t *testing.T) (stop func()) {
	dir := os.Getenv("BENCH_PROFILE")
	if dir == "" {
		return func() {}
	}
	file, err := os.Create(filepath.Join(dir, fmt.Sprintf("%s-%s-%d.pprof", j.Log.Type, j.Do, os.Getpid())))
	if err != nil {
		t.Fatal(err)
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		t.Fatal(err)
	}
	return func() {
		pprof.StopCPUProfile()
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func usage(t testing.TB, u *syscall.Rusage) {
	t.Helper()
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, u); err != nil {
		t.Fatal(err)
	}
}

func cpuTime(u syscall.Rusage) time.Duration {
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// peakRSS is the most memory that this process ever had, in bytes; 0 where the
// system does not tell.
func peakRSS(t testing.TB) uint64 {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var kilobytes uint64
	if _, err := fmt.Sscan(rest, &kilobytes); err != nil {
		t.Fatalf("VmHWM: %v", err)
	}
	return kilobytes << 10
}

// rules: some that nothing fits, each of another form, and one that is made for
// the rare entry of ours.
const benchRules = `
watch:
  - {name: acme, subject: {glob: "https://github.com/acme/*"}, issuer: {exact: "https://token.actions.githubusercontent.com"}}
  - {name: people, subject: {regex: ".*@acme\\.example"}}
  - {name: key, fingerprint: {exact: "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"}}
  - {name: builds, extensions: {build-signer-uri: {glob: "https://github.com/acme-corp/*"}}}
monitoredValues: {certIdentities: [{certSubject: 'acme\.example$', issuers: ['https://accounts\.google\.com']}]}
`

// monitor prepares a run with its state and mail in a folder.
func (j job) monitor(t *testing.T) func() (uint64, uint64) {
	yaml := fmt.Sprintf("state: \"file://%s/state\"\nlogs:\n  - {type: %s, url: %q, key: log.pub, start: 0, accept_lag: true%s}\n"+
		"alerts: {folder: {path: mail}}\n%s", j.Dir, j.Log.Type, j.Log.URL,
		map[tlog.Type]string{tlog.RekorV2: ", origin: " + benchOrigin}[j.Log.Type], benchRules)
	if err := os.WriteFile(filepath.Join(j.Dir, "log.pub"), j.Log.Key, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Parse(filepath.Join(j.Dir, "whosigned.yaml"), []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	st, err := state.Open(t.Context(), cfg.State)
	if err != nil {
		t.Fatal(err)
	}
	sinks, err := notify.Open(cfg.Alerts, os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	m := &monitor.Monitor{Config: cfg, State: st, Sinks: sinks, Client: tlog.NewClient(tlog.ClientOptions{})}
	return func() (uint64, uint64) {
		res, err := m.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		l := res.Logs[0]
		if l.Error != "" || l.Scanned != l.Size || len(res.Errors) > 0 {
			t.Fatalf("%+v, %q", l, res.Errors)
		}
		return l.Entries, uint64(l.Findings)
	}
}

// floor prepares to fetch and hash what a run does.
func (j job) floor(t *testing.T) func() (uint64, uint64) {
	client := tlog.NewClient(tlog.ClientOptions{})
	key, err := tlog.ParseKeyPEM(j.Log.Key)
	if err != nil {
		t.Fatal(err)
	}
	leaves, err := j.open(t, client, key)
	if err != nil {
		t.Fatal(err)
	}
	return func() (n, _ uint64) {
		for _, err := range leaves {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		return n, 0
	}
}

// open starts reading the log without a run.
func (j job) open(t *testing.T, client *tlog.Client, key tlog.Key) (iter.Seq2[tlog.Leaf, error], error) {
	var l tlog.Log
	var err error
	switch j.Log.Type {
	case tlog.RekorV1:
		trees, err := rekorv1.New(client, rekorv1.Config{URL: j.Log.URL, Keys: []tlog.Key{key}}).Trees(t.Context(), nil)
		if err != nil {
			return nil, err
		}
		l = trees.Trees[0]
	case tlog.RFC6962:
		l, err = rfc6962.New(client, rfc6962.Config{URL: j.Log.URL, Key: key})
	default:
		l, err = tiles.New(client, tiles.Config{Type: j.Log.Type, URL: j.Log.URL, Origin: benchOrigin, Key: key})
	}
	if err != nil {
		return nil, err
	}
	return l.Leaves(t.Context(), 0, j.Log.Entries), nil
}

// plain prepares to get the same answers without any code of ours.
func (j job) plain(t *testing.T) func() (uint64, uint64) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: j.InFlight}}
	width := pageWidth(j.Log.Type)
	ask := func(from, to uint64) (*http.Response, error) {
		return client.Get(j.Log.URL + pagePath(j.Log.Type, from, to))
	}
	if j.Log.Type == tlog.RekorV1 {
		ask = func(from, to uint64) (*http.Response, error) {
			var indexes []uint64
			for i := from; i < to; i++ {
				indexes = append(indexes, i)
			}
			body, err := json.Marshal(map[string][]uint64{"logIndexes": indexes})
			if err != nil {
				return nil, err
			}
			return client.Post(j.Log.URL+"/api/v1/log/entries/retrieve", "application/json", bytes.NewReader(body))
		}
	}
	var next, done atomic.Uint64
	worker := func() error {
		var body bytes.Buffer
		for {
			to := next.Add(width)
			from := to - width
			if to = min(to, j.Log.Entries); from >= to {
				return nil
			}
			resp, err := ask(from, to)
			if err != nil {
				return err
			}
			body.Reset()
			_, err = body.ReadFrom(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK {
				return fmt.Errorf("status %d, %v", resp.StatusCode, err)
			}
			if n := hashPage(j.Log.Type, body.Bytes()); n != to-from && j.Log.Type != tlog.RekorV1 {
				return fmt.Errorf("%d entries from %d on, want %d", n, from, to-from)
			}
			done.Add(to - from)
		}
	}
	return func() (uint64, uint64) {
		var wg sync.WaitGroup
		for range cmp.Or(j.InFlight, 1) {
			wg.Go(func() {
				if err := worker(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		return done.Load(), 0
	}
}

// hashPage hashes what is hashed of each entry, as simply as can be, and says how
// many entries there are.
func hashPage(t tlog.Type, page []byte) (n uint64) {
	switch t {
	case tlog.RekorV2:
		for ; len(page) > 0; n++ {
			size := 2 + int(binary.BigEndian.Uint16(page))
			sha256.Sum256(page[2:size])
			page = page[size:]
		}
	case tlog.StaticCT:
		for rest := cryptobyte.String(page); !rest.Empty(); n++ {
			leaf := rest
			var kind uint16
			var skipped cryptobyte.String
			if !rest.Skip(8) || !rest.ReadUint16(&kind) || kind == 1 && !rest.Skip(sha256.Size) ||
				!rest.ReadUint24LengthPrefixed(&skipped) || !rest.ReadUint16LengthPrefixed(&skipped) {
				return n
			}
			sha256.Sum256(leaf[:len(leaf)-len(rest)])
			if kind == 1 && !rest.ReadUint24LengthPrefixed(&skipped) || !rest.ReadUint16LengthPrefixed(&skipped) {
				return n
			}
		}
	case tlog.RFC6962:
		leaf := make([]byte, 0, 64<<10)
		for ; ; n++ {
			_, rest, ok := bytes.Cut(page, []byte(`"leaf_input":"`))
			if !ok {
				return n
			}
			text, rest, _ := bytes.Cut(rest, []byte{'"'})
			var err error
			if leaf, err = base64.StdEncoding.AppendDecode(leaf[:0], text); err != nil {
				return n
			}
			sha256.Sum256(leaf)
			page = rest
		}
	}
	return n
}
