package monitor_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"math"
	"net/http"
	"net/http/httptest"
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

	"github.com/transparency-dev/tessera/api/layout"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/notify"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/rekorv1"
	"github.com/whosigned/whosigned/pkg/tlog/tiles"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
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
	// Leaves is "" for hashedrekords with Fulcio certificates, or "max" for leaves
	// as large as a bundle takes.
	Leaves  string
	Latency time.Duration
	// Slots, if set, is how many requests for entries are answered at once, each of
	// which takes Service: a slow server, such as a real Rekor v1.
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
	readPlain  = "plain" // the same bytes with net/http, InFlight requests at a time, hashed if they are bundles
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
}

func (f figures) perSecond() float64   { return float64(f.Entries) / f.Wall.Seconds() }
func (f figures) cpuPerEntry() float64 { return float64(f.CPU.Microseconds()) / float64(f.Entries) }

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
	var leaves iter.Seq2[tlog.Leaf, error]
	if j.Log.Type == tlog.RekorV2 {
		l, err := tiles.New(client, tiles.Config{URL: j.Log.URL, Origin: benchOrigin, Key: key})
		if err != nil {
			t.Fatal(err)
		}
		leaves = l.Leaves(t.Context(), 0, j.Log.Entries)
	} else {
		trees, err := rekorv1.New(client, rekorv1.Config{URL: j.Log.URL, Keys: []tlog.Key{key}}).Trees(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		leaves = trees.Trees[0].Leaves(t.Context(), 0, j.Log.Entries)
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

// plain prepares to get the same answers without any code of ours.
func (j job) plain(t *testing.T) func() (uint64, uint64) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: j.InFlight}}
	width := uint64(layout.EntryBundleWidth)
	ask := func(from, to uint64) (*http.Response, error) {
		return client.Get(j.Log.URL + "/" + layout.EntriesPath(from/width, uint8(to-from)))
	}
	if j.Log.Type == tlog.RekorV1 {
		width = 10
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
			for rest := body.Bytes(); j.Log.Type == tlog.RekorV2 && len(rest) > 0; {
				size := 2 + int(binary.BigEndian.Uint16(rest))
				sha256.Sum256(rest[2:size])
				rest = rest[size:]
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

const benchOrigin = "bench.example"

// serve makes a log and serves it.
func (j job) serve(t *testing.T) servedLog {
	leaf := j.leaves(t)
	var handler http.Handler
	var log *tlogtest.Log
	if j.Type == tlog.RekorV2 {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		l, err := tlogtest.NewTiles(benchOrigin, key)
		if err != nil {
			t.Fatal(err)
		}
		l.Tree().Generate(j.Entries, leaf)
		if err := l.Publish(); err != nil {
			t.Fatal(err)
		}
		handler, log = l, l.Log
	} else {
		l, err := tlogtest.NewRekorV1(crypto.Signer(ecKey(t)))
		if err != nil {
			t.Fatal(err)
		}
		l.Active().Tree().Generate(j.Entries, leaf)
		handler, log = l, l.Active().Log
	}
	pem, err := log.PublicKeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	url, stop, err := tlogtest.Serve(context.Background(), j.shaped(handler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stop() })
	return servedLog{Type: j.Type, URL: url, Key: pem, Entries: j.Entries}
}

// rareMatch is the index of the entry of ours.
const rareMatch = 777

// leaves makes entries of strangers, of several workflows, and one of ours.
func (j job) leaves(t *testing.T) func(uint64) []byte {
	ca, err := tlogtest.NewCA("sigstore.example")
	if err != nil {
		t.Fatal(err)
	}
	make1 := tlogtest.HashedRekordV002
	if j.Type == tlog.RekorV1 {
		make1 = tlogtest.HashedRekordV001
	}
	var signers []tlogtest.Signer
	for i := range 8 {
		s, err := ca.Issue(workflow(fmt.Sprintf("https://github.com/someone/else-%d", i)))
		if err != nil {
			t.Fatal(err)
		}
		signers = append(signers, s)
	}
	us, err := ca.Issue(workflow("https://github.com/acme/app"))
	if err != nil {
		t.Fatal(err)
	}
	ours, err := make1(us, []byte("ours"))
	if err != nil {
		t.Fatal(err)
	}
	others, err := tlogtest.Synthetic(make1, signers...)
	if err != nil {
		t.Fatal(err)
	}
	if j.Leaves == "max" {
		others = largest(t, signers)
	}
	return func(i uint64) []byte {
		if i == rareMatch {
			return ours
		}
		return others(i)
	}
}

// workflow is an identity with all the extensions that GitHub's have, so that a
// leaf is of the usual 2.3 kB.
func workflow(repository string) tlogtest.Identity {
	uri := repository + "/.github/workflows/release.yml@refs/heads/main"
	digest := "8f7a4d4d1f1c0bd8c9e6f3a2b1c0d9e8f7a6b5c4"
	return tlogtest.Identity{URI: uri, Issuer: "https://token.actions.githubusercontent.com", Extensions: map[int]string{
		2: "push", 3: digest, 4: "release", 5: strings.TrimPrefix(repository, "https://github.com/"), 6: "refs/heads/main",
		9: uri, 10: digest, 11: "github-hosted", 12: repository, 13: digest, 14: "refs/heads/main", 15: "123456789",
		16: repository[:strings.LastIndex(repository, "/")], 17: "12345678", 18: uri, 19: digest, 20: "push",
		21: repository + "/actions/runs/1234567890/attempts/1", 22: "public",
	}}
}

// largest makes leaves of up to 65,535 bytes: a signature of that size, an
// attestation of as many signers as there is room for, and now and then one that
// does not parse.
func largest(t *testing.T, signers []tlogtest.Signer) func(uint64) []byte {
	one, err := tlogtest.HashedRekordV002(signers[0], []byte("large"))
	if err != nil {
		t.Fatal(err)
	}
	const content = `"signature":{"content":"`
	at := bytes.Index(one, []byte(content)) + len(content)
	padded := append(bytes.Clone(one[:at]), bytes.Repeat([]byte("A"), (math.MaxUint16-len(one))/4*4)...)
	padded = append(padded, one[at:]...)
	many := signers
	var attestation []byte
	for {
		leaf, err := tlogtest.DSSEV002([]byte("{}"), many...)
		if err != nil {
			t.Fatal(err)
		}
		if len(leaf) > math.MaxUint16 {
			break
		}
		attestation = leaf
		many = append(many, signers[len(many)%len(signers)])
	}
	broken := bytes.Repeat([]byte("x"), math.MaxUint16)
	return func(i uint64) []byte {
		switch {
		case i%100 == 99:
			return broken
		case i%2 == 0:
			return attestation
		}
		return padded
	}
}

// keepAnswers is up to how many entries a log's answers are kept, so that
// making them costs no CPU time while a reader is measured.
const keepAnswers = 250_000

// shaped serves a log with j's latency and slots.
func (j job) shaped(h http.Handler) http.Handler {
	var kept sync.Map // from what is asked for to its answer
	if j.Type == tlog.RekorV2 && j.Entries <= keepAnswers && j.Leaves == "" {
		for i := uint64(0); i < j.Entries; i += layout.EntryBundleWidth {
			p := uint8(min(layout.EntryBundleWidth, j.Entries-i))
			path := "/" + layout.EntriesPath(i/layout.EntryBundleWidth, p)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
			kept.Store(path, w.Body.Bytes())
		}
	}
	slots := make(chan struct{}, cmp.Or(j.Slots, 1<<10))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(j.Latency)
		if body, ok := kept.Load(r.URL.Path); ok {
			w.Header().Set("Content-Length", fmt.Sprint(len(body.([]byte))))
			_, _ = w.Write(body.([]byte))
			return
		}
		if strings.HasSuffix(r.URL.Path, "/retrieve") {
			slots <- struct{}{}
			defer func() { <-slots }()
			began := time.Now()
			defer func() { time.Sleep(j.Service - time.Since(began)) }()
		}
		h.ServeHTTP(w, r)
	})
}
