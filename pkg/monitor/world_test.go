package monitor_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// world is two logs, a configuration that watches them, and what a run leaves
// behind. Time stands still unless a test moves it.
type world struct {
	t     testing.TB
	dir   string
	v1    *tlogtest.RekorV1
	v2    *tlogtest.Tiles
	v1URL string
	v2URL string
	ca    *tlogtest.CA
	store *memStore
	sinks []*memSink
	now   time.Time
	// yaml is the configuration's logs and rules, with %s for nothing.
	logs  string
	extra string
	tune  func(*monitor.Monitor)
	n     int
	// marks are the hashes of the leaves made for us.
	marks map[[32]byte]bool
}

const mine = "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1"

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), marks: map[[32]byte]bool{}, store: newMemStore(), sinks: []*memSink{{name: "folder"}}, now: time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)}
	var err error
	if w.ca, err = tlogtest.NewCA("sigstore.example"); err != nil {
		t.Fatal(err)
	}
	if w.v1, err = tlogtest.NewRekorV1(ecKey(t)); err != nil {
		t.Fatal(err)
	}
	w.v2, w.v2URL = w.shard("v2.example")
	w.v1URL = w.serve(w.v1)
	w.writeKey("v1.pub", w.v1.Active().Log)
	w.write("root.pem", w.ca.RootPEM())
	w.write("intermediate.pem", w.ca.IntermediatePEM())
	w.logs = w.both("start: 0")
	return w
}

// both configures the two logs.
func (w *world) both(options string) string {
	return fmt.Sprintf("  - {type: rekor-v1, url: %q, key: v1.pub, %s}\n", w.v1URL, options) + w.v2Line("v2.example", w.v2URL, options)
}

func (w *world) v2Line(origin, url, options string) string {
	return fmt.Sprintf("  - {type: rekor-v2, url: %q, key: %s.pub, origin: %s, %s}\n", url, origin, origin, options)
}

func (w *world) shard(origin string) (*tlogtest.Tiles, string) {
	w.t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := tlogtest.NewTiles(origin, key)
	if err != nil {
		w.t.Fatal(err)
	}
	w.writeKey(origin+".pub", l.Log)
	return l, w.serve(l)
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (w *world) serve(h http.Handler) string {
	w.t.Helper()
	url, stop, err := tlogtest.Serve(context.Background(), h)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { stop() })
	return url
}

func (w *world) write(name string, data []byte) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), data, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

type ecdsaKey = ecdsa.PrivateKey

// rotate makes the active tree inactive and starts a new one, under the same key
// if none is given.
func (w *world) rotate(key *ecdsaKey) {
	w.t.Helper()
	var signer crypto.Signer
	if key != nil {
		signer = key
	}
	if err := w.v1.Rotate(signer); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) writeKeyOf(name string, key *ecdsaKey) {
	w.t.Helper()
	pem, err := cryptoutils.MarshalPublicKeyToPEM(key.Public())
	if err != nil {
		w.t.Fatal(err)
	}
	w.write(name, pem)
}

func (w *world) isMine(leaf []byte) bool { return w.marks[sha256.Sum256(leaf)] }

func hashOf(leaf []byte) string { return tlog.LeafHash(leaf).String() }

// mark remembers that leaves are ours.
func (w *world) mark(leaves ...[]byte) {
	for _, leaf := range leaves {
		w.marks[sha256.Sum256(leaf)] = true
	}
}

func (w *world) writeKey(name string, l *tlogtest.Log) {
	w.t.Helper()
	pem, err := l.PublicKeyPEM()
	if err != nil {
		w.t.Fatal(err)
	}
	w.write(name, pem)
}

// entry makes one leaf for each protocol.
func (w *world) entry(id tlogtest.Identity) (one, two []byte) {
	w.t.Helper()
	signer, err := w.ca.Issue(id)
	if err != nil {
		w.t.Fatal(err)
	}
	w.n++
	artifact := fmt.Appendf(nil, "artifact %d", w.n)
	if one, err = tlogtest.HashedRekordV001(signer, artifact); err != nil {
		w.t.Fatal(err)
	}
	if two, err = tlogtest.HashedRekordV002(signer, artifact); err != nil {
		w.t.Fatal(err)
	}
	return one, two
}

// github is a workflow's identity.
func github(workflow string) tlogtest.Identity {
	return tlogtest.Identity{URI: workflow, Issuer: "https://token.actions.githubusercontent.com", Extensions: map[int]string{9: workflow}}
}

// mine adds an entry of ours to both logs, others n of strangers.
func (w *world) mine() {
	one, two := w.entry(github(mine))
	w.mark(one, two)
	w.v1.Active().Append(one)
	w.v2.Append(two)
	w.publish()
}

func (w *world) others(n int) {
	one, two := w.strangerLeaves()
	for range n {
		w.v1.Active().Append(one(w.v1.Active().Tree().Size()))
		w.v2.Append(two(w.v2.Tree().Size()))
	}
	w.publish()
}

func (w *world) strangerLeaves() (one, two func(uint64) []byte) {
	w.t.Helper()
	signer, err := w.ca.Issue(github("https://github.com/someone/else/.github/workflows/ci.yml@refs/heads/main"))
	if err != nil {
		w.t.Fatal(err)
	}
	if one, err = tlogtest.Synthetic(tlogtest.HashedRekordV001, signer); err != nil {
		w.t.Fatal(err)
	}
	if two, err = tlogtest.Synthetic(tlogtest.HashedRekordV002, signer); err != nil {
		w.t.Fatal(err)
	}
	return one, two
}

func (w *world) publish() {
	w.t.Helper()
	if err := w.v2.Publish(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) config() *config.Config {
	w.t.Helper()
	yaml := "state: file:///unused\ncaRootsFile: root.pem\ncaIntermediatesFile: intermediate.pem\nlogs:\n" + w.logs
	if !strings.Contains(w.extra, "watch:") {
		yaml += "watch: [{name: acme, subject: {glob: \"https://github.com/acme/*\"}}]\n"
	}
	cfg, err := config.Parse(filepath.Join(w.dir, "whosigned.yaml"), []byte(yaml+w.extra))
	if err != nil {
		w.t.Fatal(err)
	}
	return cfg
}

func (w *world) monitor() *monitor.Monitor {
	m := &monitor.Monitor{
		Config: w.config(), State: state.New(w.store), Client: tlog.NewClient(tlog.ClientOptions{Backoff: time.Millisecond}), Version: "test",
		Now: func() time.Time { return w.now }, Again: []time.Duration{time.Millisecond, time.Millisecond},
		Logger: slog.New(slog.NewTextHandler(testWriter{w.t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, s := range w.sinks {
		m.Sinks = append(m.Sinks, s)
	}
	if w.tune != nil {
		w.tune(m)
	}
	return m
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// run makes a run an hour after the last.
func (w *world) run() *monitor.Result {
	w.t.Helper()
	res, err := w.monitor().Run(context.Background())
	if err != nil {
		w.t.Fatalf("run: %v", err)
	}
	w.now = w.now.Add(time.Hour)
	return res
}

// want runs and checks the exit status.
func (w *world) want(exit int) *monitor.Result {
	w.t.Helper()
	res := w.run()
	if res.Exit != exit {
		b, _ := json.MarshalIndent(res, "", " ")
		w.t.Fatalf("exit %d, want %d: %s", res.Exit, exit, b)
	}
	return res
}

// log is the result of the log with an origin that begins so.
func logOf(t testing.TB, res *monitor.Result, origin string) monitor.LogResult {
	t.Helper()
	for _, l := range res.Logs {
		if strings.HasPrefix(l.Origin, origin) {
			return l
		}
	}
	b, _ := json.Marshal(res.Logs)
	t.Fatalf("no log %s in the result: %s", origin, b)
	return monitor.LogResult{}
}

func (w *world) doc(id tlog.ID) *state.Log {
	w.t.Helper()
	d, err := state.New(w.store).LoadLog(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

func (w *world) decide(d state.Decision) {
	w.t.Helper()
	d.Reason, d.By = "a test", "tester"
	if _, err := w.monitor().Accept(context.Background(), d); err != nil {
		w.t.Fatal(err)
	}
}

// subjects of everything that a sink acknowledged.
func (w *world) subjects() []string {
	var all []string
	for _, m := range w.sinks[0].got() {
		all = append(all, m.Subject)
	}
	return all
}

// count says how many messages' subjects or texts contain text.
func (w *world) mails(text string) int {
	n := 0
	for _, m := range w.sinks[0].got() {
		if strings.Contains(m.Subject, text) || strings.Contains(m.Text, text) {
			n++
		}
	}
	return n
}

// follows counts the messages that say what became of the incident, and of nothing
// else.
func (w *world) follows(incident string) int {
	n := 0
	for _, m := range w.sinks[0].got() {
		threads, news := m.Threads()
		if !news && slices.ContainsFunc(threads, func(t report.Thread) bool { return slices.Contains(t.Keys, "incident:"+incident) }) {
			n++
		}
	}
	return n
}

// signed counts the alerts about us that were delivered, however many messages told
// of them.
func (w *world) signed() int { return signedIn(w.sinks[0]) }

func signedIn(s *memSink) int {
	n := 0
	for _, m := range s.got() {
		if strings.Contains(m.Subject, "Signed as") {
			n += len(m.Alerts())
		}
	}
	return n
}

// errCrashed is what everything answers once the process is dead.
var errCrashed = errors.New("the process was killed")

// checkInvariants recomputes from what is stored, and from the true logs, what
// P1 to P3 promise.
func (w *world) checkInvariants(trees map[tlog.ID]*tlogtest.Tree) {
	w.t.Helper()
	ctx := context.Background()
	s := state.New(w.store)
	for id, tree := range trees {
		d, err := s.LoadLog(ctx, id)
		if errors.Is(err, state.ErrNotExist) {
			continue
		}
		if err != nil {
			w.t.Fatalf("state of %s: %v", id, err)
		}
		if d.Scanned == nil {
			w.t.Fatalf("log %s has no scanned frontier", id)
		}
		// P1: what was scanned is what the log holds.
		r, err := d.Scanned.Range()
		if err != nil {
			w.t.Fatal(err)
		}
		got, err := tlog.Root(r)
		if err != nil {
			w.t.Fatal(err)
		}
		want, err := tree.Root(d.Scanned.Size)
		if err != nil || got != tlog.Hash(want) {
			w.t.Fatalf("log %s: root of the scanned %d entries is %s, want %x (%v)", id, d.Scanned.Size, got, want, err)
		}
		w.checkFindings(s, d, tree)
	}
}

// checkFindings: every entry of ours below the cursor is in the findings that the
// state names, once (P2), and an alert about it is delivered or pending (P3).
func (w *world) checkFindings(s *state.State, d *state.Log, tree *tlogtest.Tree) {
	w.t.Helper()
	ctx := context.Background()
	found := map[uint64]int{}
	for f, err := range s.Findings(ctx, d.Findings) {
		if err != nil {
			w.t.Fatal(err)
		}
		found[f.Index]++
	}
	told := map[string]bool{}
	for _, sink := range w.sinks {
		for _, m := range sink.got() {
			for _, hash := range leafHashes(m) {
				told[hash] = true
			}
		}
	}
	for _, p := range d.Outbox {
		payload, err := s.Alert(ctx, p.Alert)
		if err != nil {
			w.t.Fatalf("alert %s is in the outbox, and its payload is not there: %v", p.Alert, err)
		}
		var a report.Alert
		if err := json.Unmarshal(payload, &a); err != nil {
			w.t.Fatal(err)
		}
		for _, f := range a.Findings {
			told[f.LeafHash.String()] = true
		}
	}
	for i := d.Start; i < d.Scanned.Size; i++ {
		leaf, err := tree.Leaf(i)
		if err != nil {
			w.t.Fatal(err)
		}
		want := 0
		if w.isMine(leaf) {
			want = 1
		}
		if found[i] != want {
			w.t.Fatalf("log %s: entry %d is in %d findings, want %d", d.ID, i, found[i], want)
		}
		if hash := tlog.LeafHash(leaf).String(); want == 1 && !told[hash] {
			w.t.Fatalf("log %s: the finding at entry %d was not delivered and is not pending", d.ID, i)
		}
	}
}

func leafHashes(m report.Message) []string {
	var all []string
	for _, field := range strings.FieldsFunc(m.Text, func(r rune) bool { return !strings.ContainsRune("0123456789abcdef", r) }) {
		if b, err := hex.DecodeString(field); err == nil && len(b) == 32 {
			all = append(all, field)
		}
	}
	return all
}
