package tlog_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/rekorv1"
	"github.com/whosigned/whosigned/pkg/tlog/tiles"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

const testOrigin = "rekor.example/2026"

// world is a log served over one of the protocols, and its audit.
type world struct {
	*tlogtest.Log
	gate    *tlogtest.Gate
	handler http.Handler
	tiles   *tlogtest.Tiles // nil for Rekor v1
	url     string
	key     tlog.Key
	signer  crypto.Signer
	audit   *tlog.Audit
	origin  string          // what the signed origin line ends in
	last    tlog.Checkpoint // trusted after the last advance that succeeded

	checkpoints, leaves, proofs tlogtest.Match
	info                        string // path of the checkpoint
}

// overBoth runs f over both protocols; start serves a log of n leaves.
func overBoth(t *testing.T, f func(t *testing.T, start func(n uint64) *world)) {
	t.Helper()
	t.Run("tiles", func(t *testing.T) {
		f(t, func(n uint64) *world { return newTiles(t, n, edKey(t)) })
	})
	t.Run("Rekor v1", func(t *testing.T) {
		f(t, func(n uint64) *world { return newRekor(t, n, ecKey(t)) })
	})
}

func edKey(t testing.TB) crypto.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	return key
}

func ecKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newTiles(t testing.TB, n uint64, signer crypto.Signer) *world {
	t.Helper()
	served, err := tlogtest.NewTiles(testOrigin, signer)
	must(t, err)
	w := &world{
		Log: served.Log, gate: served.Gate, handler: served, tiles: served, signer: signer, origin: testOrigin, info: "/checkpoint",
		leaves: tlogtest.Path("/tile/entries/"),
		proofs: func(r *http.Request) bool {
			return strings.Contains(r.URL.Path, "/tile/") && !strings.Contains(r.URL.Path, "entries")
		},
	}
	w.serve(t, n)
	log, err := tiles.New(w.client(), tiles.Config{URL: w.url, Origin: testOrigin, Key: w.key})
	must(t, err)
	w.audit.Log = log
	return w
}

func newRekor(t testing.TB, n uint64, signer crypto.Signer) *world {
	t.Helper()
	served, err := tlogtest.NewRekorV1(signer)
	must(t, err)
	w := &world{
		Log: served.Active().Log, gate: served.Gate, handler: served, signer: signer, info: "/api/v1/log",
		origin: fmt.Sprintf(" - %d", served.Active().ID),
		leaves: tlogtest.Path("/log/entries/retrieve"),
		proofs: tlogtest.Path("/log/proof"),
	}
	w.serve(t, n)
	d, err := rekorv1.New(w.client(), rekorv1.Config{URL: w.url, Keys: []tlog.Key{w.key}}).Trees(t.Context(), nil)
	must(t, err)
	if len(d.Trees) != 1 {
		t.Fatalf("got %d trees (failed: %v), want 1", len(d.Trees), d.Failed)
	}
	w.audit.Log = d.Trees[0]
	return w
}

func (w *world) serve(t testing.TB, n uint64) {
	t.Helper()
	w.checkpoints = func(r *http.Request) bool { return r.URL.Path == w.info }
	w.grow(t, n)
	server := httptest.NewServer(w.handler)
	t.Cleanup(server.Close)
	w.url = server.URL
	key, err := tlog.NewKey(w.signer.Public())
	must(t, err)
	w.key = key
	w.audit = &tlog.Audit{Archive: archive{}, Again: []time.Duration{time.Millisecond, time.Millisecond}}
}

func (w *world) client() *tlog.Client {
	return tlog.NewClient(tlog.ClientOptions{Backoff: time.Millisecond})
}

// leafAt is the leaf that the tests put at an index.
func leafAt(i uint64) []byte { return fmt.Appendf(nil, `{"n":%d}`, i) }

func (w *world) grow(t testing.TB, n uint64) {
	t.Helper()
	w.Tree().Generate(n, leafAt)
	w.publish(t)
}

// publish makes the tree that is shown visible in full.
func (w *world) publish(t testing.TB) {
	t.Helper()
	if w.tiles != nil {
		must(t, w.tiles.Publish())
	}
}

// rewritten is the tree with another leaf 5.
func (w *world) rewritten(t testing.TB) *tlogtest.Tree {
	t.Helper()
	tree, err := w.Tree().Rewrite(5, []byte("forged"))
	must(t, err)
	return tree
}

// replay serves the checkpoint of this moment for ever.
func (w *world) replay(t testing.TB) tlogtest.Effect {
	t.Helper()
	resp, err := http.Get(w.url + w.info)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return tlogtest.Edit(func([]byte) []byte { return body })
}

// flip changes every hash in a tile, one in a proof.
func flip(body []byte) []byte {
	const field = `"hashes":["`
	if i := bytes.Index(body, []byte(field)); i >= 0 {
		at := i + len(field)
		if body[at] == '0' {
			body[at] = '1'
		} else {
			body[at] = '0'
		}
		return body
	}
	if bytes.HasPrefix(body, []byte("{")) {
		return body // a proof without hashes
	}
	for i := range body {
		body[i] ^= 1
	}
	return body
}

// cached matches what a cache between us and the log answers.
func cached(match tlogtest.Match) tlogtest.Match {
	return func(r *http.Request) bool { return match(r) && r.Header.Get("Cache-Control") != "no-cache" }
}

// archive keeps notes in memory.
type archive map[uint64][]byte

func (a archive) Keep(_ context.Context, cp tlog.Checkpoint) ([]byte, error) {
	if a[cp.Size] == nil {
		a[cp.Size] = cp.Note
	}
	return a[cp.Size], nil
}

// advance fails the test on an error.
func (w *world) advance(t testing.TB, trusted *tlog.Checkpoint) tlog.Verdict {
	t.Helper()
	v, err := w.audit.Advance(t.Context(), trusted)
	if err != nil {
		t.Fatalf("Advance: %v", err)
	}
	w.last = v.Trusted
	return v
}

// trust takes a baseline.
func (w *world) trust(t testing.TB) tlog.Checkpoint {
	t.Helper()
	v := w.advance(t, nil)
	if v.Incident != nil || v.Trusted.Note == nil {
		t.Fatalf("baseline of an honest log: %+v", v)
	}
	return v.Trusted
}

// checkEvidence is the third party: it has the key and the incident's JSON.
func checkEvidence(t *testing.T, w *world, in *tlog.Incident) {
	t.Helper()
	raw, err := json.Marshal(in)
	must(t, err)
	var got tlog.Incident
	must(t, json.Unmarshal(raw, &got))
	if got.Log != w.audit.Log.Info().ID || got.Text == "" || !strings.HasPrefix(got.ID, string(got.Kind)+"-") {
		t.Errorf("incident %q of log %q: %q", got.ID, got.Log, got.Text)
	}
	if want := got.Kind == tlog.Fork || got.Kind == tlog.FrozenGrowth; got.Proof != want {
		t.Errorf("%s: proof is %v, want %v", got.Kind, got.Proof, want)
	}
	var notes []tlog.Checkpoint
	for i, note := range got.Notes {
		cp, _, err := tlog.OpenCheckpoint([]byte(note), []tlog.Key{w.key})
		if err != nil || !strings.HasSuffix(cp.Origin, w.origin) {
			t.Fatalf("%s: note %d, of %q, does not verify: %v", got.Kind, i, cp.Origin, err)
		}
		notes = append(notes, cp)
	}
	want := map[tlog.Kind]int{
		tlog.Fork: 2, tlog.FrozenGrowth: 2, tlog.Inconsistent: 2, tlog.Rollback: 2,
		tlog.BadLeaf: 1, tlog.BadProof: 1, tlog.MissingLeaf: 1,
	}[got.Kind]
	if len(notes) != want {
		t.Fatalf("%s: %d notes, want %d", got.Kind, len(notes), want)
	}
	if err := shows(w, got, notes); err != nil {
		t.Errorf("%s: the evidence does not show it: %v\n%s", got.Kind, err, raw)
	}
}

// shows checks that the evidence shows what the incident says.
func shows(w *world, in tlog.Incident, notes []tlog.Checkpoint) error {
	switch in.Kind {
	case tlog.Fork:
		if notes[0].Size != notes[1].Size || notes[0].Root == notes[1].Root {
			return fmt.Errorf("sizes %d and %d, roots %s and %s", notes[0].Size, notes[1].Size, notes[0].Root, notes[1].Root)
		}
	case tlog.FrozenGrowth:
		if !notes[0].Frozen || notes[1].Size <= notes[0].Size {
			return fmt.Errorf("frozen: %v, sizes %d and %d", notes[0].Frozen, notes[0].Size, notes[1].Size)
		}
	case tlog.Rollback:
		if notes[1].Size >= notes[0].Size {
			return fmt.Errorf("sizes %d and %d", notes[0].Size, notes[1].Size)
		}
	case tlog.Inconsistent:
		if in.Consistency.Root != notes[0].Root || in.Consistency.From != notes[0].Size {
			return fmt.Errorf("the proof is not from the first note")
		}
		return denies(in.Consistency, notes[1])
	case tlog.BadCheckpoint:
		cp, _, err := tlog.OpenCheckpoint(in.Served, []tlog.Key{w.key})
		if len(in.Served) == 0 || err == nil && strings.HasSuffix(cp.Origin, w.origin) {
			return fmt.Errorf("what was served, %.80q, is in order", in.Served)
		}
	case tlog.BadLeaf:
		return leafShown(in, notes[0])
	case tlog.BadProof:
		if in.Edge != nil {
			if root, err := rootOf(*in.Edge); err != nil || root != in.Consistency.Root || in.Edge.Size != in.Consistency.From {
				return fmt.Errorf("the edge has root %s, the proof %s: %w", root, in.Consistency.Root, err)
			}
		}
		return denies(in.Consistency, notes[0])
	case tlog.MissingLeaf:
		for _, leaf := range in.Leaves {
			if err := provenLeaf(leaf, notes[0]); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("unknown kind")
	}
	return nil
}

// denies checks that a proof does not verify.
func denies(c *tlog.ConsistencyEvidence, cp tlog.Checkpoint) error {
	if c == nil || c.To != cp.Size {
		return fmt.Errorf("there is no proof to size %d", cp.Size)
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, c.From, c.To, c.Hashes, c.Root[:], cp.Root[:]); err == nil {
		return fmt.Errorf("the proof from %d to %d verifies", c.From, c.To)
	}
	return nil
}

// leafShown checks that a leaf as served is not the one in the tree of cp; where
// the log gave no proof, that with the leaf as served there is none.
func leafShown(in tlog.Incident, cp tlog.Checkpoint) error {
	leaf := in.Leaves[0]
	if leaf.Served != nil && (leaf.ServedHash == nil || tlog.LeafHash(leaf.Served) != *leaf.ServedHash) {
		return fmt.Errorf("the leaf does not have its hash")
	}
	if leaf.ProvenHash == nil {
		if leaf.Error == "" || leaf.ServedHash == nil {
			return fmt.Errorf("neither the proven hash nor why there is none")
		}
		return denies(in.Consistency, cp)
	}
	if leaf.ServedHash == nil && len(in.Served) == 0 {
		return fmt.Errorf("nothing was served")
	}
	if leaf.ServedHash != nil && *leaf.ServedHash == *leaf.ProvenHash {
		return fmt.Errorf("the leaf is the one that was signed")
	}
	return provenLeaf(leaf, cp)
}

// provenLeaf checks the proof of a leaf's hash.
func provenLeaf(leaf tlog.LeafEvidence, cp tlog.Checkpoint) error {
	tree, err := leaf.Before.Range()
	if err != nil {
		return err
	}
	if tree.End() != leaf.Index {
		return fmt.Errorf("the edge before leaf %d has size %d", leaf.Index, tree.End())
	}
	if err := tree.Append(leaf.ProvenHash[:], nil); err != nil {
		return err
	}
	root, err := tlog.Root(tree)
	if err != nil {
		return err
	}
	return proof.VerifyConsistency(rfc6962.DefaultHasher, leaf.Index+1, cp.Size, leaf.Proof, root[:], cp.Root[:])
}

func rootOf(f tlog.Frontier) (tlog.Hash, error) {
	r, err := f.Range()
	if err != nil {
		return tlog.Hash{}, err
	}
	return tlog.Root(r)
}

// wantFrontier compares a frontier with the true tree.
func wantFrontier(t testing.TB, w *world, f tlog.Frontier, size uint64) {
	t.Helper()
	root, err := rootOf(f)
	must(t, err)
	want, err := w.Tree().Root(size)
	must(t, err)
	if f.Size != size || root != tlog.Hash(want) {
		t.Errorf("frontier of size %d with root %s, want %d with %x", f.Size, root, size, want)
	}
}

// logAndHasher is what both protocols implement.
type logAndHasher interface {
	tlog.Log
	tlog.LeafHasher
}

// wrongHash gives another hash than the leaf's.
type wrongHash struct{ logAndHasher }

func (wrongHash) LeafHash(context.Context, uint64, tlog.Checkpoint) (tlog.Hash, error) {
	return tlog.LeafHash([]byte("forged")), nil
}

// watched calls after once the log has given a checkpoint or a proof.
type watched struct {
	tlog.Log
	after func()
}

func (l *watched) Checkpoint(ctx context.Context) (tlog.Checkpoint, error) {
	defer l.after()
	return l.Log.Checkpoint(ctx)
}

func (l *watched) ConsistencyProof(ctx context.Context, from, to uint64) ([][]byte, error) {
	defer l.after()
	return l.Log.ConsistencyProof(ctx, from, to)
}

// recorder is a visitor that keeps what it was shown, and ends slices.
type recorder struct {
	leaves []tlog.Leaf
	end    int // leaves in a slice; 0 for no end
	resets int
	saw    func(tlog.Leaf)
}

func (v *recorder) Visit(leaf tlog.Leaf) bool {
	v.leaves = append(v.leaves, leaf)
	if v.saw != nil {
		v.saw(leaf)
	}
	return len(v.leaves) == v.end
}

func (v *recorder) Reset() { v.leaves, v.resets = nil, v.resets+1 }

// take returns what was shown in a slice.
func (v *recorder) take() []tlog.Leaf {
	leaves := v.leaves
	v.leaves = nil
	return leaves
}

// interrupted calls cancel when leaves are asked for a second time.
type interrupted struct {
	tlog.Log
	asked  int
	cancel func()
}

func (l *interrupted) Leaves(ctx context.Context, from, to uint64) iter.Seq2[tlog.Leaf, error] {
	if l.asked++; l.asked == 2 {
		l.cancel()
	}
	return l.Log.Leaves(ctx, from, to)
}

// skipping leaves out leaf 7.
type skipping struct{ tlog.Log }

func (l skipping) Leaves(ctx context.Context, from, to uint64) iter.Seq2[tlog.Leaf, error] {
	return func(yield func(tlog.Leaf, error) bool) {
		for leaf, err := range l.Log.Leaves(ctx, from, to) {
			if leaf.Index != 7 && !yield(leaf, err) {
				return
			}
		}
	}
}

// ending ends every stream at an index.
type ending struct {
	tlog.Log
	at uint64
}

func (l ending) Leaves(ctx context.Context, from, to uint64) iter.Seq2[tlog.Leaf, error] {
	return l.Log.Leaves(ctx, from, min(to, l.at))
}
