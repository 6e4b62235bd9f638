package rfc6962

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// archive keeps notes in memory.
type archive struct {
	mu    sync.Mutex
	notes map[uint64][]byte
}

func (a *archive) Keep(_ context.Context, cp tlog.Checkpoint) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.notes == nil {
		a.notes = map[uint64][]byte{}
	}
	if a.notes[cp.Size] == nil {
		a.notes[cp.Size] = cp.Note
	}
	return a.notes[cp.Size], nil
}

func (f *fixture) audit() *tlog.Audit {
	return &tlog.Audit{Log: f.log, Archive: &archive{}, Again: []time.Duration{time.Millisecond, time.Millisecond}}
}

// visitor collects indexes, and ends a slice after so many.
type visitor struct {
	every int
	seen  []uint64
}

func (v *visitor) Visit(leaf tlog.Leaf) bool {
	v.seen = append(v.seen, leaf.Index)
	return len(v.seen)%v.every == 0
}
func (v *visitor) Reset() { v.seen = nil }

// scan reads [from.Size, cp.Size) in slices of up to 700 and returns where it ended.
func scan(t *testing.T, a *tlog.Audit, cp tlog.Checkpoint, from tlog.Frontier) (tlog.Frontier, tlog.Slice) {
	t.Helper()
	r := a.Reader(t.Context(), cp, from, cp.Size)
	defer r.Close()
	for !r.Done() {
		v := &visitor{every: 700}
		slice, err := r.Next(v)
		if err != nil {
			t.Fatal(err)
		}
		if got := uint64(len(v.seen)); got != slice.To-slice.From || got > 0 && v.seen[0] != slice.From {
			t.Fatalf("slice %d to %d: %d leaves were shown", slice.From, slice.To, got)
		}
		from = slice.Frontier
		if slice.Stuck != nil || slice.Err != nil || slice.Incident != nil {
			return from, slice
		}
	}
	return from, tlog.Slice{}
}

func advance(t *testing.T, a *tlog.Audit, trusted *tlog.Checkpoint) tlog.Verdict {
	t.Helper()
	v, err := a.Advance(t.Context(), trusted)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAnHonestLogIsReadAndProvenAsItGrows(t *testing.T) {
	f := serve(t, 0)
	a := f.audit()
	var trusted *tlog.Checkpoint
	var at tlog.Frontier
	for _, grow := range []uint64{0, 1, 0, 2500, 1499} {
		f.Generate(grow, entries())
		v := advance(t, a, trusted)
		if v.Incident != nil || v.Stale || v.Unprovable || v.Trusted.Size != f.Tree().Size() {
			t.Fatalf("size %d: got %+v", f.Tree().Size(), v)
		}
		trusted = &v.Trusted
		var end tlog.Slice
		if at, end = scan(t, a, v.Trusted, at); at.Size != v.Trusted.Size {
			t.Fatalf("read to %d of %d: %+v", at.Size, v.Trusted.Size, end)
		}
	}
	// Another reader starts in the middle.
	middle, incident, err := a.Frontier(t.Context(), 1234, *trusted)
	if err != nil || incident != nil {
		t.Fatal(incident, err)
	}
	if end, stop := scan(t, a, *trusted, middle); !reflect.DeepEqual(end, at) {
		t.Errorf("from the middle: got %+v (%+v), want %+v", end, stop, at)
	}
}

func TestAForkIsProvenByTwoTreeHeads(t *testing.T) {
	f := serve(t, 50)
	a := f.audit()
	before := advance(t, a, nil).Trusted
	fork, err := f.Tree().Rewrite(20, data(1000))
	if err != nil {
		t.Fatal(err)
	}
	f.Show(fork)
	v := advance(t, a, &before)
	if v.Incident == nil || v.Incident.Kind != tlog.Fork || !v.Incident.Proof || len(v.Incident.Notes) != 2 || v.Trusted.Root != before.Root {
		t.Fatalf("got %+v, want a fork", v)
	}
	for _, note := range v.Incident.Notes {
		if cp, err := f.log.Open([]byte(note)); err != nil || cp.Size != 50 {
			t.Errorf("the note opens as %+v, %v", cp, err)
		}
	}
	// Grown beyond the size we know, it can only be inconsistent.
	fork.Append(data(50))
	if v = advance(t, a, &before); v.Incident == nil || v.Incident.Kind != tlog.Inconsistent || v.Incident.Proof {
		t.Errorf("got %+v, want an inconsistency", v)
	}
	f.Honest()
	if v = advance(t, a, &before); v.Incident != nil {
		t.Errorf("honest again: got %+v", v.Incident)
	}
}

func TestALogThatShrinksIsStaleOrUnprovable(t *testing.T) {
	f := serve(t, 50)
	a := f.audit()
	before := advance(t, a, nil).Trusted
	// A lagging replica answers get-sth, any other the proof.
	f.At(30)
	clear := f.Inject(tlogtest.Path("consistency"), 0, tlogtest.Instead(upToDate(t, f)))
	if v := advance(t, a, &before); !v.Stale || v.Incident != nil || v.Trusted.Size != 50 || v.Served.Size != 30 {
		t.Errorf("a lagging replica: got %+v, want stale", v)
	}
	clear()
	if v := advance(t, a, &before); !v.Unprovable || v.Incident != nil || v.Trusted.Size != 50 {
		t.Errorf("a log set back: got %+v, want unprovable", v)
	}
	fork, err := f.Tree().Rewrite(3, data(1000))
	if err != nil {
		t.Fatal(err)
	}
	f.Show(fork)
	if v := advance(t, a, &before); v.Incident == nil || v.Incident.Kind != tlog.Fork {
		t.Errorf("rewritten and set back to a size seen before: got %+v, want a fork", v)
	}
	f.At(29)
	f.Inject(tlogtest.Path("consistency"), 0, tlogtest.Instead(upToDate(t, f)))
	if v := advance(t, a, &before); !v.Unprovable || v.Trusted.Size != 50 {
		t.Errorf("rewritten and set back to another size: got %+v, want unprovable", v)
	}
	f.At(0)
	if v := advance(t, a, &before); !v.Unprovable || v.Trusted.Size != 50 {
		t.Errorf("a log set back to nothing: got %+v, want unprovable", v)
	}
}

// upToDate is a replica with the whole of f's tree.
func upToDate(t *testing.T, f *fixture) *tlogtest.RFC6962 {
	t.Helper()
	other := serve(t, f.Tree().Size())
	return other.RFC6962
}

func TestReplicasThatSkewAreNoIncident(t *testing.T) {
	f := serve(t, 1000)
	a := f.audit()
	f.At(1000, 990, 1000) // in turn, whatever is asked
	trusted := advance(t, a, nil).Trusted
	f.Generate(500, entries())
	f.At(1500, 1400, 1500)
	v, err := a.Advance(t.Context(), &trusted)
	if err != nil || v.Incident != nil || v.Unprovable {
		t.Fatalf("got %+v, %v", v, err)
	}
	for range 20 {
		at, slice := scan(t, a, v.Trusted, tlog.Frontier{})
		if slice.Incident != nil {
			t.Fatalf("got the incident %s", slice.Incident.Text)
		}
		if at.Size == v.Trusted.Size {
			return
		}
	}
	t.Error("never read to the end")
}

func TestALyingLeafIsAnIncidentAndWhatIsBeforeItCounts(t *testing.T) {
	const n, bad = 1800, 1234
	for name, lie := range map[string]tlogtest.Lie{
		"another leaf":      {Data: data(bad + 1)},
		"one with an index": {Data: entries()(bad).Leaf(bad)},
		"an empty one":      {Data: []byte{}},
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t, n)
			a := f.audit()
			f.Lie(bad, lie)
			trusted := advance(t, a, nil).Trusted
			at, slice := scan(t, a, trusted, tlog.Frontier{})
			if at.Size != bad || slice.Incident == nil || slice.Incident.Kind != tlog.BadLeaf || slice.Stuck == nil {
				t.Fatalf("ended at %d with %+v, want a bad leaf at %d", at.Size, slice, bad)
			}
			evidence := slice.Incident.Leaves[0]
			want := tlog.LeafHash(data(bad))
			if evidence.Index != bad || string(evidence.Served) != string(lie.Data) || evidence.ProvenHash == nil || *evidence.ProvenHash != want {
				t.Errorf("got evidence %+v, want the leaf as served and hash %s as proven", evidence, want)
			}
			f.Honest()
			if at, slice = scan(t, a, trusted, at); at.Size != n {
				t.Errorf("honest again: ended at %d with %+v", at.Size, slice)
			}
		})
	}
}

// A leaf that is left out of a page moves all after it up.
func TestALeafLeftOutIsFound(t *testing.T) {
	const n, bad = 300, 123
	f := serve(t, n)
	a := f.audit()
	f.Lie(bad, tlogtest.Lie{Missing: true})
	trusted := advance(t, a, nil).Trusted
	at, slice := scan(t, a, trusted, tlog.Frontier{})
	if at.Size != bad || slice.Stuck == nil || slice.Stuck.Index != bad || slice.Incident == nil {
		t.Fatalf("ended at %d with %+v, want to be stuck at %d", at.Size, slice, bad)
	}
}

func TestALeafThatCannotBeHadBecomesAHole(t *testing.T) {
	const n, bad = 300, 123
	f := serve(t, n)
	a := f.audit()
	f.Lie(bad, tlogtest.Lie{Status: 500})
	trusted := advance(t, a, nil).Trusted
	at, slice := scan(t, a, trusted, tlog.Frontier{})
	if at.Size != bad || slice.Stuck == nil || slice.Stuck.Index != bad || slice.Incident != nil {
		t.Fatalf("ended at %d with %+v, want to be stuck at %d", at.Size, slice, bad)
	}
	hole, past, err := a.Hole(t.Context(), trusted, at)
	if want := tlog.LeafHash(data(bad)); err != nil || hole.Hash != want || past.Size != bad+1 {
		t.Fatalf("got %+v, %d, %v; want hash %s", hole, past.Size, err, want)
	}
	if at, slice = scan(t, a, trusted, past); at.Size != n {
		t.Errorf("past the hole: ended at %d with %+v", at.Size, slice)
	}
}

func TestALogThatIsAwayInterruptsTheSliceAndWhatCameCounts(t *testing.T) {
	const n = 2500
	f := serve(t, n)
	a := f.audit()
	trusted := advance(t, a, nil).Trusted
	f.Inject(tlogtest.Path("get-entries"), 0, when(t, func(from, _ uint64) bool { return from >= 1000 }, tlogtest.Status(503)))
	at, slice := scan(t, a, trusted, tlog.Frontier{})
	var unavailable *tlog.Unavailable
	if at.Size != 1000 || !errors.As(slice.Err, &unavailable) || !strings.Contains(slice.Err.Error(), "503") {
		t.Errorf("ended at %d with %v, want 1000 and an Unavailable", at.Size, slice.Err)
	}
}
