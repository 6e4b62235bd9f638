package tlog_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// wantLeaves checks that a visitor was shown the true leaves [from, to), each once.
func wantLeaves(t testing.TB, got []tlog.Leaf, from, to uint64) {
	t.Helper()
	if uint64(len(got)) != to-from {
		t.Errorf("%d leaves were shown, want those of [%d, %d)", len(got), from, to)
		return
	}
	for i, leaf := range got {
		if index := from + uint64(i); leaf.Index != index || !bytes.Equal(leaf.Data, leafAt(index)) {
			t.Errorf("leaf %d, %q, was shown as leaf %d", leaf.Index, leaf.Data, index)
			return
		}
	}
}

// readAll reads from a frontier to the end, or to where it cannot go on, and checks
// after each slice that what was shown is what was proven.
func (w *world) readAll(t testing.TB, v *recorder, cp tlog.Checkpoint, from tlog.Frontier) (tlog.Slice, error) {
	t.Helper()
	r := w.audit.Reader(t.Context(), cp, from, cp.Size)
	defer r.Close()
	at := from.Size
	for {
		slice, err := r.Next(v)
		if err != nil {
			return slice, err
		}
		if slice.From != at {
			t.Errorf("a slice from %d, after one to %d", slice.From, at)
		}
		wantLeaves(t, v.take(), slice.From, slice.To)
		wantFrontier(t, w, slice.Frontier, slice.To)
		at = slice.To
		if slice.Stuck != nil || slice.Err != nil || r.Done() {
			return slice, nil
		}
		if slice.To == slice.From {
			t.Fatalf("an empty slice at %d without a reason", slice.To)
		}
	}
}

func TestEveryLeafIsShownOnceAndProven(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(uint64) *world) {
		w := start(600)
		cp := w.trust(t)
		for _, row := range []struct{ from, slice int }{{0, 0}, {0, 1 << 20}, {0, 100}, {0, 256}, {1, 99}, {255, 50}, {256, 256}, {599, 1}, {600, 1}, {590, 1}} {
			f, _, err := w.audit.Frontier(t.Context(), uint64(row.from), cp)
			must(t, err)
			v := &recorder{end: row.slice}
			slice, err := w.readAll(t, v, cp, f)
			if err != nil || slice.Stuck != nil || slice.Err != nil || slice.Incident != nil || slice.To != 600 || v.resets != 0 {
				t.Errorf("from %d in slices of %d: ended at %d, %+v, %v", row.from, row.slice, slice.To, slice, err)
			}
		}
	})
}

func TestReadingEndsWhereItIsTold(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(uint64) *world) {
		w := start(300)
		cp := w.trust(t)
		for _, to := range []uint64{0, 1, 100, 256, 257, 300, 1000} {
			r := w.audit.Reader(t.Context(), cp, tlog.Frontier{}, to)
			v := &recorder{}
			slice, err := r.Next(v)
			if end := min(to, cp.Size); err != nil || slice.To != end || !r.Done() || slice.Err != nil {
				t.Errorf("to %d: ended at %d (%v, %v), done: %v", to, slice.To, err, slice.Err, r.Done())
			}
			wantLeaves(t, v.leaves, 0, slice.To)
			wantFrontier(t, w, slice.Frontier, slice.To)
			r.Close()
		}
	})
}

func TestReadingStopsAtTheLeafThatIsNotTheOneSigned(t *testing.T) {
	forged := []byte("forged")
	u := func(i uint64) *uint64 { return &i }
	// The tables say where reading stops; bundle is true where tiles stop at the
	// beginning of a bundle, which is as small as that protocol allows.
	for _, tt := range []struct {
		name     string
		rekor    bool // only
		at       uint64
		lie      func(w *world, at uint64)
		bundle   bool
		incident bool
	}{
		{name: "altered", at: 137, lie: func(w *world, at uint64) { w.Lie(at, tlogtest.Lie{Data: forged}) }, incident: true},
		{name: "first one altered", at: 0, lie: func(w *world, at uint64) { w.Lie(at, tlogtest.Lie{Data: forged}) }, incident: true},
		{name: "last one altered", at: 299, lie: func(w *world, at uint64) { w.Lie(at, tlogtest.Lie{Data: forged}) }, incident: true},
		{name: "last one of a slice altered", at: 99, lie: func(w *world, at uint64) { w.Lie(at, tlogtest.Lie{Data: forged}) }, incident: true},
		{name: "first one of a slice altered", at: 100, lie: func(w *world, at uint64) { w.Lie(at, tlogtest.Lie{Data: forged}) }, incident: true},
		{name: "emptied", at: 137, lie: func(w *world, at uint64) { w.Lie(at, tlogtest.Lie{Data: []byte{}}) }, incident: true},
		{name: "two altered", at: 137, lie: func(w *world, at uint64) {
			w.Lie(at, tlogtest.Lie{Data: forged})
			w.Lie(at+5, tlogtest.Lie{Data: forged})
		}, incident: true},
		{name: "swapped", at: 137, lie: func(w *world, at uint64) { _ = w.Swap(at, at+1) }, incident: true},
		{name: "swapped with one far away", at: 7, lie: func(w *world, at uint64) { _ = w.Swap(at, 290) }, incident: true},
		{name: "repeated", at: 138, lie: func(w *world, at uint64) { w.Lie(at, tlogtest.Lie{Data: leafAt(at - 1)}) }, incident: true},
		// Leaving one out of a bundle moves those after it.
		{name: "missing", at: 137, lie: func(w *world, at uint64) { w.Lie(at, tlogtest.Lie{Missing: true}) }, incident: false},
		{name: "withheld", at: 270, lie: func(w *world, at uint64) { w.Lie(at, tlogtest.Lie{Status: 500}) }, bundle: true},
		{name: "gone", at: 270, lie: func(w *world, at uint64) { w.Lie(at, tlogtest.Lie{Status: 404}) }, bundle: true},
		{name: "under a wrong index", rekor: true, at: 137, lie: func(w *world, at uint64) { w.Lie(at, tlogtest.Lie{Index: u(at + 1)}) }, incident: true},
		{name: "under a wrong UUID", rekor: true, at: 137, lie: func(w *world, at uint64) {
			w.Lie(at, tlogtest.Lie{UUID: fmt.Sprintf("%016x%s", 1, tlog.LeafHash(leafAt(at)))})
		}, incident: true},
		{name: "another under the right UUID", rekor: true, at: 137, lie: func(w *world, at uint64) {
			w.Lie(at, tlogtest.Lie{Data: forged, UUID: tlog.LeafHash(leafAt(at)).String()})
		}, incident: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			overBoth(t, func(t *testing.T, start func(uint64) *world) {
				w := start(300)
				if tt.rekor && w.tiles != nil {
					t.SkipNow()
				}
				cp := w.trust(t)
				tt.lie(w, tt.at)
				at, incident := tt.at, tt.incident || w.tiles != nil && tt.name == "missing"
				if w.tiles != nil && tt.bundle {
					at -= at % 256
				}
				sizes := []int{0, 100}
				if testing.Short() {
					sizes = sizes[1:]
				}
				for _, slices := range sizes {
					slice, err := w.readAll(t, &recorder{end: slices}, cp, tlog.Frontier{})
					if err != nil || slice.To != at || slice.Stuck == nil || slice.Err != nil {
						t.Fatalf("slices of %d: ended at %d, %+v, %v; want stuck at %d", slices, slice.To, slice, err, at)
					}
					if !incident {
						if slice.Incident != nil {
							t.Errorf("slices of %d: incident %+v, want none", slices, slice.Incident)
						}
						continue
					}
					if slice.Incident == nil || slice.Incident.Kind != tlog.BadLeaf {
						t.Fatalf("slices of %d: incident %+v, want %s", slices, slice.Incident, tlog.BadLeaf)
					}
					checkEvidence(t, w, slice.Incident)
					leaf := slice.Incident.Leaves[0]
					if want := tlog.LeafHash(leafAt(at)); leaf.Index != at || leaf.ProvenHash == nil || *leaf.ProvenHash != want {
						t.Errorf("slices of %d: the evidence says leaf %d hashes to %v, want leaf %d, %s", slices, leaf.Index, leaf.ProvenHash, at, want)
					}
				}
				// What was read counts; past the leaf, its hash alone is believed.
				before, _, err := w.audit.Frontier(t.Context(), at, cp)
				if err != nil {
					return // the left edge is not to be had beside this leaf
				}
				if hole, _, err := w.audit.Hole(t.Context(), cp, before); err != nil || hole.Hash != tlog.LeafHash(leafAt(at)) {
					t.Errorf("hash of leaf %d: %s, %v", at, hole.Hash, err)
				}
			})
		})
	}
}

// forge makes answers about leaves wrong, in a form that passes all checks
// but the tree's.
func (w *world) forge(times int) {
	var mu sync.Mutex
	w.gate.Inject(w.leaves, 0, func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		// The log lies to all who ask meanwhile, so one asks at a time, and none has an
		// answer before the log is honest again.
		answer := httptest.NewRecorder()
		mu.Lock()
		if times > 0 {
			times--
			for i := uint64(0); i < 300; i += 10 {
				w.Lie(i, tlogtest.Lie{Data: []byte("forged")})
			}
		}
		next.ServeHTTP(answer, r)
		w.Honest()
		mu.Unlock()
		maps.Copy(rw.Header(), answer.Header())
		rw.WriteHeader(answer.Code)
		_, _ = rw.Write(answer.Body.Bytes())
	})
}

// half is a body cut off.
func half(body []byte) []byte { return body[:len(body)/2] }

func TestAfterATransientFaultEveryLeafIsShownOnce(t *testing.T) {
	for _, tt := range []struct {
		name   string
		inject func(w *world)
	}{
		{"leaves forged once", func(w *world) { w.forge(1) }},
		{"leaves garbled once", func(w *world) { w.gate.Inject(w.leaves, 1, tlogtest.Garbage()) }},
		{"leaves gone twice", func(w *world) { w.gate.Inject(w.leaves, 2, tlogtest.Status(404)) }},
		{"leaves cut short", func(w *world) { w.gate.Inject(w.leaves, 3, tlogtest.Truncate(100)) }},
		{"leaves cut off by a cache", func(w *world) {
			if w.tiles != nil { // POST is not cached
				w.gate.Inject(cached(w.leaves), 0, tlogtest.Edit(half))
			}
		}},
		{"leaves garbled by a cache", func(w *world) {
			if w.tiles != nil {
				w.gate.Inject(cached(w.leaves), 0, tlogtest.Garbage())
			}
		}},
		{"proof altered once", func(w *world) { w.gate.Inject(w.proofs, 1, tlogtest.Edit(flip)) }},
		{"proofs altered by a cache", func(w *world) { w.gate.Inject(cached(w.proofs), 0, tlogtest.Edit(flip)) }},
		{"proof refused by a replica that lags", func(w *world) { w.gate.Inject(w.proofs, 2, tlogtest.Status(400)) }},
		{"an error now and then", func(w *world) { w.gate.Inject(nil, 3, tlogtest.Status(503)) }},
		{"a connection lost", func(w *world) { w.gate.Inject(nil, 3, tlogtest.Cut()) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			overBoth(t, func(t *testing.T, start func(uint64) *world) {
				w := start(300)
				cp := w.trust(t)
				tt.inject(w)
				slice, err := w.readAll(t, &recorder{end: 100}, cp, tlog.Frontier{})
				if err != nil || slice.Incident != nil || slice.Stuck != nil || slice.Err != nil || slice.To != 300 {
					t.Errorf("ended at %d of 300: %+v, incident %+v, %v", slice.To, slice, slice.Incident, err)
				}
			})
		})
	}
}

func TestADisputedSliceIsReadToItsEndThoughTheVisitorWouldEndIt(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(uint64) *world) {
		w := start(200)
		cp := w.trust(t)
		w.Lie(137, tlogtest.Lie{Data: []byte("forged")})
		v := &recorder{}
		v.saw = func(tlog.Leaf) {
			if v.resets > 1 {
				v.end = 10 // as if time were over
			}
		}
		slice, err := w.readAll(t, v, cp, tlog.Frontier{})
		if err != nil || slice.To != 137 || slice.Incident == nil || slice.Incident.Kind != tlog.BadLeaf {
			t.Fatalf("ended at %d: %+v, %v; want an incident at 137", slice.To, slice, err)
		}
		checkEvidence(t, w, slice.Incident)
	})
}

func TestALogThatServesAnotherBadLeafEachTimeIsAccused(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(uint64) *world) {
		w := start(250)
		cp := w.trust(t)
		var mu sync.Mutex
		next := uint64(240)
		w.gate.Inject(w.leaves, 0, func(rw http.ResponseWriter, r *http.Request, honest http.Handler) {
			mu.Lock()
			w.Lie(next, tlogtest.Lie{Data: []byte("forged")})
			next = next * 9 / 10
			mu.Unlock()
			honest.ServeHTTP(rw, r)
		})
		v := &recorder{}
		slice, err := w.readAll(t, v, cp, tlog.Frontier{})
		if err != nil || slice.Incident == nil || slice.Stuck == nil {
			t.Fatalf("ended at %d: %+v, %v; want an incident", slice.To, slice, err)
		}
		checkEvidence(t, w, slice.Incident)
		// Four reads of the slice and one of the leaf, not one more for each lie.
		if reads := w.Reads(0); reads > 8 {
			t.Errorf("leaf 0 was read %d times", reads)
		}
	})
}

func TestALogWhoseLeavesDoNotProveIsAccusedWithoutItsProofs(t *testing.T) {
	for name, effect := range map[string]tlogtest.Effect{
		"refused": tlogtest.Status(404), "failing": tlogtest.Status(500), "altered": tlogtest.Edit(flip),
	} {
		t.Run(name, func(t *testing.T) {
			overBoth(t, func(t *testing.T, start func(uint64) *world) {
				w := start(250)
				cp := w.trust(t)
				w.Lie(137, tlogtest.Lie{Data: []byte("forged")})
				w.gate.Inject(w.proofs, 0, effect)
				slice, err := w.readAll(t, &recorder{}, cp, tlog.Frontier{})
				if err != nil || slice.Incident == nil || slice.To != 0 {
					t.Fatalf("ended at %d: %+v, %v; want an incident at 0", slice.To, slice, err)
				}
				checkEvidence(t, w, slice.Incident)
			})
		})
	}
}

func TestAProofThatIsNotTheLogsIsAnIncidentAtItsSlice(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(uint64) *world) {
		w := start(300)
		cp := w.trust(t)
		w.gate.Inject(w.proofs, 0, tlogtest.Edit(flip))
		slice, err := w.readAll(t, &recorder{end: 100}, cp, tlog.Frontier{})
		if err != nil || slice.To != 0 || slice.Incident == nil {
			t.Fatalf("ended at %d: %+v, %v; want an incident at 0", slice.To, slice, err)
		}
		checkEvidence(t, w, slice.Incident)
	})
}

func TestInterruptedReadingKeepsWhatProves(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(uint64) *world) {
		for name, stop := range map[string]func(w *world, cancel func()){
			"cancelled": func(_ *world, cancel func()) { cancel() },
			"log away":  func(w *world, _ func()) { w.down() },
		} {
			w := start(1000)
			cp := w.trust(t)
			stopped := make(chan struct{})
			w.gate.Inject(w.beyond(512), 0, func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
				select {
				case <-stopped:
					tlogtest.Status(503)(rw, r, next)
				case <-r.Context().Done():
				}
			})
			ctx, cancel := context.WithCancel(t.Context())
			r := w.audit.Reader(ctx, cp, tlog.Frontier{}, cp.Size)
			v := &recorder{saw: func(leaf tlog.Leaf) {
				if leaf.Index == 300 {
					stop(w, cancel)
					close(stopped)
				}
			}}
			slice, err := r.Next(v)
			if err != nil || slice.Err == nil || slice.To <= 300 || slice.To > 520 || slice.Incident != nil || slice.Stuck != nil {
				t.Fatalf("%s: ended at %d: %+v, %v; want progress past 300 and why it ended", name, slice.To, slice, err)
			}
			wantLeaves(t, v.take(), 0, slice.To)
			wantFrontier(t, w, slice.Frontier, slice.To)
			r.Close()
			cancel()

			w.gate.ClearFaults()
			v.saw = nil
			if rest, err := w.readAll(t, v, cp, slice.Frontier); err != nil || rest.To != 1000 {
				t.Errorf("%s: reading on ended at %d: %v", name, rest.To, err)
			}
		}
	})
}

// beyond matches requests for leaves from an index on.
func (w *world) beyond(index uint64) tlogtest.Match {
	return func(r *http.Request) bool {
		if !w.leaves(r) {
			return false
		}
		if w.tiles != nil {
			var bundle uint64
			_, err := fmt.Sscanf(r.URL.Path, "/tile/entries/%d", &bundle)
			return err == nil && bundle*256 >= index
		}
		raw, err := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(raw))
		var q struct{ LogIndexes []uint64 }
		return err == nil && json.Unmarshal(raw, &q) == nil && len(q.LogIndexes) > 0 && q.LogIndexes[0] >= index
	}
}

// down makes the log answer nothing but proofs.
func (w *world) down() {
	w.gate.Inject(func(r *http.Request) bool { return !w.proofs(r) }, 0, tlogtest.Status(503))
}

func TestABadAnswerCountsOnlyIfThereWasTimeToLookAgain(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(uint64) *world) {
		w := start(200)
		cp := w.trust(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w.gate.Inject(w.leaves, 0, tlogtest.Garbage())
		w.audit.Log = &interrupted{Log: w.audit.Log, cancel: cancel}
		r := w.audit.Reader(ctx, cp, tlog.Frontier{}, cp.Size)
		defer r.Close()
		slice, err := r.Next(&recorder{})
		if err != nil || slice.Incident != nil || slice.Stuck != nil || slice.Err == nil {
			t.Errorf("got %+v, %v, want that it was interrupted", slice, err)
		}
	})
}

func TestABadLeafCountsOnceItWasServedAgain(t *testing.T) {
	for looks, want := range map[int]bool{1: false, 2: true} {
		w := newTiles(t, 200, edKey(t))
		cp := w.trust(t)
		answers := 0
		w.gate.Inject(w.leaves, looks, func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
			tlogtest.Edit(half)(rw, r, next)
			if answers++; answers == looks {
				w.down()
			}
		})
		slice, err := w.readAll(t, &recorder{}, cp, tlog.Frontier{})
		if got := slice.Incident != nil; err != nil || got != want || (slice.Stuck != nil) != want || (slice.Err != nil) == want || slice.To == 0 {
			t.Errorf("served %d times: got %+v, %v, want an incident: %v", looks, slice, err, want)
		}
	}
}

func TestALeafOutOfOrderIsAnError(t *testing.T) {
	w := newTiles(t, 200, edKey(t))
	cp := w.trust(t)
	w.audit.Log = skipping{w.audit.Log}
	slice, err := w.readAll(t, &recorder{}, cp, tlog.Frontier{})
	if err == nil {
		t.Errorf("a skipped leaf was not noticed: %+v", slice)
	}
}

func TestAStreamThatEndsEarlyIsNotTheEnd(t *testing.T) {
	w := newTiles(t, 200, edKey(t))
	cp := w.trust(t)
	w.audit.Log = ending{w.audit.Log, 150}
	slice, err := w.readAll(t, &recorder{}, cp, tlog.Frontier{})
	if err != nil || slice.Err == nil || slice.To != 150 {
		t.Errorf("ended at %d: %v, %v; want an interruption at 150", slice.To, slice.Err, err)
	}
}

func TestAFrontierThatWasNotProvenProvesNothing(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(uint64) *world) {
		w := start(300)
		cp := w.trust(t)
		f, _, err := w.audit.Frontier(t.Context(), 137, cp)
		must(t, err)
		f.Hashes[0][0] ^= 1
		r := w.audit.Reader(t.Context(), cp, f, cp.Size)
		defer r.Close()
		slice, err := r.Next(&recorder{})
		if err == nil && (slice.To > 137 || slice.Incident == nil) {
			t.Errorf("leaves up to %d prove from a wrong frontier", slice.To)
		}
	})
}
