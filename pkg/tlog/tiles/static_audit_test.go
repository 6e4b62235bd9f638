package tiles

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// scan reads a whole log through the audit.
type scan struct{ leaves []tlog.Leaf }

func (s *scan) Visit(leaf tlog.Leaf) bool { s.leaves = append(s.leaves, leaf); return false }
func (s *scan) Reset()                    { s.leaves = nil }

// archive keeps notes in memory.
type archive map[uint64][]byte

func (a archive) Keep(_ context.Context, cp tlog.Checkpoint) ([]byte, error) {
	if a[cp.Size] == nil {
		a[cp.Size] = cp.Note
	}
	return a[cp.Size], nil
}

func (c *ctLog) audit() *tlog.Audit {
	return &tlog.Audit{Log: c.log, Archive: archive{}, Again: []time.Duration{time.Millisecond}}
}

func advance(t *testing.T, a *tlog.Audit, trusted *tlog.Checkpoint) tlog.Verdict {
	t.Helper()
	v, err := a.Advance(t.Context(), trusted)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAnAuditProvesACTLogAndItsGrowth(t *testing.T) {
	c := serveCT(t, 300)
	a := c.audit()
	first := advance(t, a, nil).Trusted
	c.grow(t, 70_000)
	c.SetTime(time.Now().Add(time.Minute))
	c.publish(t)
	v := advance(t, a, &first)
	if v.Incident != nil || v.Trusted.Size != 70_300 {
		t.Fatalf("got %+v, want size 70300", v)
	}
	again := advance(t, a, &v.Trusted)
	if again.Incident != nil || again.Trusted.Size != 70_300 {
		t.Fatalf("a tree head signed anew: %+v", again)
	}
	for _, from := range []uint64{69_000, 70_299} {
		edge, incident, err := a.Frontier(t.Context(), from, v.Trusted)
		if err != nil || incident != nil {
			t.Fatalf("left edge at %d: %+v, %v", from, incident, err)
		}
		r := a.Reader(t.Context(), v.Trusted, edge, v.Trusted.Size)
		var seen scan
		slice, err := r.Next(&seen)
		r.Close()
		if err != nil || slice.To != 70_300 || slice.Stuck != nil || uint64(len(seen.leaves)) != 70_300-from {
			t.Errorf("from %d: %+v, %v with %d leaves", from, slice, err, len(seen.leaves))
		}
	}
}

func TestAnAuditCatchesACTLogThatForks(t *testing.T) {
	c := serveCT(t, 300)
	a := c.audit()
	first := advance(t, a, nil).Trusted
	fork, err := c.Tree().Rewrite(7, c.entry(8).Leaf(7))
	if err != nil {
		t.Fatal(err)
	}
	c.Show(fork)
	c.CallItself("other.example") // it does not sign this
	if v := advance(t, a, &first); v.Incident == nil || v.Incident.Kind != tlog.Fork || !v.Incident.Proof || v.Trusted.Root != first.Root {
		t.Errorf("got %+v, want the proof of a fork", v)
	}
	fork.Append(c.entry(300).Leaf(300))
	c.publish(t)
	if v := advance(t, a, &first); v.Incident == nil || v.Incident.Kind != tlog.Inconsistent {
		t.Errorf("got %+v, want an inconsistency", v)
	}
}

func TestAnAuditCatchesACTLogThatLiesAboutALeaf(t *testing.T) {
	withoutIndex := func(c *ctLog) []byte { return c.entry(270).Leaf(-1) }
	otherTime := func(c *ctLog) []byte { l := c.entry(270).Leaf(270); l[9]++; return l }
	for name, lie := range map[string]func(*ctLog) []byte{"no leaf_index": withoutIndex, "other timestamp": otherTime, "other leaf": func(c *ctLog) []byte { return c.entry(1).Leaf(1) }} {
		t.Run(name, func(t *testing.T) {
			c := serveCT(t, 300)
			a := c.audit()
			cp := advance(t, a, nil).Trusted
			c.Lie(270, tlogtest.Lie{Data: lie(c)})
			r := a.Reader(t.Context(), cp, tlog.Frontier{}, cp.Size)
			defer r.Close()
			var seen scan
			slice, err := r.Next(&seen)
			if err != nil || slice.To != 270 || slice.Stuck == nil || slice.Incident == nil || slice.Incident.Kind != tlog.BadLeaf || len(seen.leaves) != 270 {
				t.Fatalf("got %+v, %v with %d leaves; want a bad leaf 270", slice, err, len(seen.leaves))
			}
			evidence := slice.Incident.Leaves[0]
			if !bytes.Equal(evidence.Served, lie(c)) || evidence.ProvenHash == nil || *evidence.ProvenHash != tlog.LeafHash(c.entry(270).Leaf(270)) {
				t.Errorf("evidence %+v, want what was served and the hash of the true leaf", evidence)
			}
		})
	}
}

func TestAHoleInACTLogIsProvenAndPassed(t *testing.T) {
	for name, effect := range map[string]tlogtest.Effect{"500": tlogtest.Status(500), "too large": tlogtest.GzipBomb(20 << 20)} {
		t.Run(name, func(t *testing.T) {
			c := serveCT(t, 600)
			a := c.audit()
			cp := advance(t, a, nil).Trusted
			c.Inject(tlogtest.Path("/tile/data/001"), 0, effect)
			r := a.Reader(t.Context(), cp, tlog.Frontier{}, cp.Size)
			slice, err := r.Next(&scan{})
			r.Close()
			if err != nil || slice.To != 256 || slice.Stuck == nil || slice.Stuck.End != 512 || slice.Incident != nil {
				t.Fatalf("got %+v, %v; want to be stuck at [256, 512)", slice, err)
			}
			edge := slice.Frontier
			for index := slice.Stuck.Index; index < slice.Stuck.End; index++ {
				var p tlog.LeafProof
				if p, edge, err = a.Hole(t.Context(), cp, edge); err != nil || p.Hash != tlog.LeafHash(c.entry(index).Leaf(int64(index))) {
					t.Fatalf("hole %d: %+v, %v", index, p, err)
				}
			}
			r = a.Reader(t.Context(), cp, edge, cp.Size)
			defer r.Close()
			if slice, err := r.Next(&scan{}); err != nil || slice.From != 512 || slice.To != 600 {
				t.Errorf("after the hole: %+v, %v", slice, err)
			}
		})
	}
}

func TestALeafIndexThatIsWrongIsInTheTreeAllTheSame(t *testing.T) {
	c := serveCT(t, 2)
	wrong, missing := c.entry(2).Leaf(7), c.entry(3).Leaf(-1)
	unknown := bytes.Replace(c.entry(4).Leaf(4), []byte{0, 8, 0, 0, 5}, []byte{0, 12, 9, 0, 1, 'x', 0, 0, 5}, 1)
	broken := bytes.Replace(c.entry(5).Leaf(5), []byte{0, 8, 0, 0, 5}, []byte{0, 8, 0, 0, 6}, 1)
	c.Append(wrong, missing, unknown, broken)
	c.publish(t)
	a := c.audit()
	cp := advance(t, a, nil).Trusted
	r := a.Reader(t.Context(), cp, tlog.Frontier{}, cp.Size)
	defer r.Close()
	var seen scan
	if slice, err := r.Next(&seen); err != nil || slice.To != 6 || slice.Stuck != nil {
		t.Fatalf("got %+v, %v; want all 6 leaves proven", slice, err)
	}
	want := []string{"0 true", "1 true", "7 true", "0 false", "4 true", "0 false"}
	for i, leaf := range seen.leaves {
		index, err := LeafIndex(leaf.Data)
		if got := fmt.Sprint(index, " ", err == nil); got != want[i] {
			t.Errorf("leaf %d says %s (%v), want %s", i, got, err, want[i])
		}
	}
	for _, leaf := range [][]byte{nil, {0}, wrong[:20], append(slices.Clone(wrong[:10]), 9, 9, 9)} {
		if index, err := LeafIndex(leaf); err == nil {
			t.Errorf("%x says %d, want an error", leaf, index)
		}
	}
}
