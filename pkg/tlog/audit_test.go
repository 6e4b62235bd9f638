package tlog_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// judgement is a Verdict in one word.
func judgement(v tlog.Verdict) string {
	switch {
	case v.Incident != nil:
		return string(v.Incident.Kind)
	case v.Stale:
		return "stale"
	case v.Unprovable:
		return "unprovable"
	}
	return "clean"
}

func TestEveryCheckpointIsJudgedByWhatWasSeenBefore(t *testing.T) {
	for _, tt := range []struct {
		name  string
		only  string // protocol; both if empty
		start uint64 // size of the log when it is first trusted
		then  func(t *testing.T, w *world)
		want  string
		moves uint64 // size of the trusted checkpoint after it; start if 0
	}{
		{name: "nothing new", start: 260, then: func(*testing.T, *world) {}, want: "clean"},
		{name: "growth", start: 260, then: func(t *testing.T, w *world) { w.grow(t, 40) }, want: "clean", moves: 300},
		{name: "growth from one leaf", start: 1, then: func(t *testing.T, w *world) { w.grow(t, 1) }, want: "clean", moves: 2},
		{name: "growth from the empty tree", then: func(t *testing.T, w *world) { w.grow(t, 40) }, want: "clean", moves: 40},
		{name: "an empty tree that stays empty", then: func(*testing.T, *world) {}, want: "clean"},
		{name: "another root at the trusted size", start: 260, then: func(t *testing.T, w *world) { w.Show(w.rewritten(t)) }, want: "fork"},
		{name: "another root at the trusted size, which is not archived", start: 260, then: func(t *testing.T, w *world) {
			w.audit.Archive = archive{}
			w.Show(w.rewritten(t))
		}, want: "fork"},
		{name: "another root at an archived size", start: 260, then: func(t *testing.T, w *world) {
			cp := w.trust(t)
			w.grow(t, 40)
			w.advance(t, &cp)
			forged := w.rewritten(t)
			short, err := forged.Fork(260)
			must(t, err)
			w.Show(short)
		}, want: "fork", moves: 300},
		{name: "growth of a rewritten tree", start: 260, then: func(t *testing.T, w *world) {
			forged := w.rewritten(t)
			forged.Generate(40, leafAt)
			w.Show(forged)
			w.publish(t)
		}, want: "inconsistent"},
		{name: "an older checkpoint that is a prefix", start: 260, then: func(t *testing.T, w *world) {
			old := w.replay(t)
			w.grow(t, 40)
			w.advance(t, nil)
			w.gate.Inject(w.checkpoints, 0, old)
		}, want: "stale", moves: 300},
		{name: "set back to an older state", start: 260, then: func(t *testing.T, w *world) {
			w.grow(t, 40)
			w.advance(t, nil)
			short, err := w.Tree().Fork(260)
			must(t, err)
			w.Show(short)
		}, want: "unprovable", moves: 300},
		{name: "set back to a state of another history", start: 260, then: func(t *testing.T, w *world) {
			w.grow(t, 40)
			w.advance(t, nil)
			forged := w.rewritten(t)
			short, err := forged.Fork(250)
			must(t, err)
			w.Show(short)
		}, want: "unprovable", moves: 300},
		{name: "set back to nothing", start: 260, then: func(_ *testing.T, w *world) { w.Show(&tlogtest.Tree{}) }, want: "unprovable"},
		{name: "wrong key", start: 260, then: func(t *testing.T, w *world) {
			if w.tiles != nil {
				w.SignWith(edKey(t))
			} else {
				w.SignWith(ecKey(t))
			}
		}, want: "bad-checkpoint"},
		{name: "wrong origin", start: 260, then: func(_ *testing.T, w *world) { w.CallItself("rekor.example.com-42") }, want: "bad-checkpoint"},
		{name: "unsigned", start: 260, then: func(_ *testing.T, w *world) { w.EditNote(tlogtest.Unsigned) }, want: "bad-checkpoint"},
		{name: "garbled", start: 260, then: func(_ *testing.T, w *world) { w.EditNote(tlogtest.Garbled) }, want: "bad-checkpoint"},
		{name: "a hundred signatures too many", start: 260, then: func(_ *testing.T, w *world) { w.EditNote(tlogtest.Padded(20 << 10)) }, want: "bad-checkpoint"},
		{name: "longer than our limit, in log info", only: "Rekor v1", start: 260, then: func(_ *testing.T, w *world) {
			w.EditNote(tlogtest.Padded(tlog.MaxCheckpoint))
		}, want: "bad-checkpoint"},
		// What is cut off at our limit cannot be judged.
		{name: "longer than our limit", only: "tiles", start: 260, then: func(_ *testing.T, w *world) {
			w.EditNote(tlogtest.Padded(tlog.MaxCheckpoint))
		}, want: "error"},
		{name: "endless", start: 260, then: func(_ *testing.T, w *world) { w.gate.Inject(w.checkpoints, 0, tlogtest.Oversize(-1)) }, want: "error"},
		{name: "a page of something else", only: "tiles", start: 260, then: func(_ *testing.T, w *world) {
			w.gate.Inject(w.checkpoints, 0, tlogtest.Garbage())
		}, want: "bad-checkpoint"},
		{name: "down", start: 260, then: func(_ *testing.T, w *world) { w.gate.Inject(nil, 0, tlogtest.Status(500)) }, want: "error"},
		{name: "proof altered", start: 260, then: func(t *testing.T, w *world) {
			w.grow(t, 40)
			w.gate.Inject(w.proofs, 0, tlogtest.Edit(flip))
		}, want: "inconsistent"},
		{name: "proof of no known form", only: "tiles", start: 260, then: func(t *testing.T, w *world) {
			w.grow(t, 40)
			w.gate.Inject(w.proofs, 0, tlogtest.Garbage())
		}, want: "inconsistent"},
		{name: "proof refused", start: 260, then: func(t *testing.T, w *world) {
			w.grow(t, 40)
			w.gate.Inject(w.proofs, 0, tlogtest.Status(400))
		}, want: "error"},
		{name: "proof of an older checkpoint altered", start: 260, then: func(t *testing.T, w *world) {
			old := w.replay(t)
			w.grow(t, 40)
			w.advance(t, nil)
			w.gate.Inject(w.checkpoints, 0, old)
			w.gate.Inject(w.proofs, 0, tlogtest.Edit(flip))
		}, want: "unprovable", moves: 300},
		{name: "proof of an older checkpoint away", start: 260, then: func(t *testing.T, w *world) {
			old := w.replay(t)
			w.grow(t, 40)
			w.advance(t, nil)
			w.gate.Inject(w.checkpoints, 0, old)
			w.gate.Inject(w.proofs, 0, tlogtest.Status(503))
		}, want: "error", moves: 300},
		{name: "frozen", only: "tiles", start: 260, then: func(t *testing.T, w *world) { must(t, w.tiles.Freeze(time.Now())) }, want: "clean"},
		{name: "frozen, then grown", only: "tiles", start: 260, then: func(t *testing.T, w *world) {
			must(t, w.tiles.Freeze(time.Now()))
			w.advance(t, nil)
			w.grow(t, 40)
		}, want: "frozen-growth"},
		{name: "frozen at less than it has", only: "tiles", start: 260, then: func(t *testing.T, w *world) {
			must(t, w.tiles.Freeze(time.Now()))
			old := w.replay(t)
			w.grow(t, 40)
			w.advance(t, nil)
			w.gate.Inject(w.checkpoints, 0, old)
		}, want: "frozen-growth", moves: 300},
	} {
		t.Run(tt.name, func(t *testing.T) {
			overBoth(t, func(t *testing.T, start func(uint64) *world) {
				if tt.only != "" && !strings.HasSuffix(t.Name(), strings.ReplaceAll(tt.only, " ", "_")) {
					t.SkipNow()
				}
				w := start(tt.start)
				w.trust(t)
				tt.then(t, w)
				trusted := w.last
				v, err := w.audit.Advance(t.Context(), &trusted)
				if got := judgement(v); err != nil && tt.want != "error" || err == nil && got != tt.want {
					t.Fatalf("got %s, %v (%+v), want %s", got, err, v.Incident, tt.want)
				}
				if size := max(tt.moves, tt.start); v.Trusted.Size != size || v.Trusted.Note == nil {
					t.Errorf("trusted size %d, want %d", v.Trusted.Size, size)
				}
				if v.Unprovable {
					v.Incident = tlog.NewRollback(w.audit.Log.Info().ID, trusted, *v.Served, time.Now())
				}
				if v.Incident != nil {
					checkEvidence(t, w, v.Incident)
				}
			})
		})
	}
}

func TestAFaultThatPassesWhenLookedAtAgainIsNobodysFault(t *testing.T) {
	for _, tt := range []struct {
		name   string
		inject func(w *world, bad *world)
	}{
		{"checkpoint of another key, once", func(w, bad *world) {
			w.gate.Inject(w.checkpoints, 1, tlogtest.Instead(bad.handler))
		}},
		{"checkpoint of another key, twice", func(w, bad *world) {
			w.gate.Inject(w.checkpoints, 2, tlogtest.Instead(bad.handler))
		}},
		{"checkpoint of another key, then an error, then good", func(w, bad *world) {
			w.gate.Inject(w.checkpoints, 1, tlogtest.Instead(bad.handler))
			w.gate.Inject(w.checkpoints, 1, tlogtest.Status(404))
		}},
		{"proof altered once", func(w, _ *world) { w.gate.Inject(w.proofs, 1, tlogtest.Edit(flip)) }},
		{"proofs altered by a cache", func(w, _ *world) { w.gate.Inject(cached(w.proofs), 0, tlogtest.Edit(flip)) }},
		{"proof refused by a replica that lags", func(w, _ *world) { w.gate.Inject(w.proofs, 2, tlogtest.Status(400)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			overBoth(t, func(t *testing.T, start func(uint64) *world) {
				w, bad := start(260), start(300)
				trusted := w.trust(t)
				w.grow(t, 40)
				tt.inject(w, bad)
				v := w.advance(t, &trusted)
				if got := judgement(v); got != "clean" || v.Trusted.Size != 300 {
					t.Errorf("got %s at size %d, want clean at 300: %+v", got, v.Trusted.Size, v.Incident)
				}
			})
		})
	}
}

func TestALogDoesNotClearItselfByGoingSilentOnceItWasLookedAtAgain(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(uint64) *world) {
		for looks, want := range map[int]string{1: "an error", 2: "bad-checkpoint"} {
			w, bad := start(260), start(260)
			trusted := w.trust(t)
			answers := 0
			w.gate.Inject(w.checkpoints, looks, func(rw http.ResponseWriter, r *http.Request, _ http.Handler) {
				bad.handler.ServeHTTP(rw, r)
				if answers++; answers == looks {
					w.gate.Inject(nil, 0, tlogtest.Status(404))
				}
			})
			v, err := w.audit.Advance(t.Context(), &trusted)
			got := judgement(v)
			if err != nil {
				got = "an error"
			}
			if got != want {
				t.Errorf("served %d times: got %s (%v), want %s", looks, got, err, want)
			}
		}
	})
}

func TestWhatCouldNotBeLookedAtAgainDoesNotCount(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(uint64) *world) {
		w, bad := start(260), start(260)
		trusted := w.trust(t)
		w.audit.Again = []time.Duration{time.Hour}
		ctx, cancel := context.WithCancel(t.Context())
		for name, ask := range map[string]func() (*tlog.Incident, error){
			"Advance": func() (*tlog.Incident, error) {
				v, err := w.audit.Advance(ctx, &trusted)
				return v.Incident, err
			},
			"Frontier": func() (*tlog.Incident, error) {
				_, in, err := w.audit.Frontier(ctx, 100, trusted)
				return in, err
			},
		} {
			ctx, cancel = context.WithCancel(t.Context())
			w.gate.ClearFaults()
			w.gate.Inject(w.checkpoints, 0, tlogtest.Instead(bad.handler))
			w.gate.Inject(w.proofs, 0, tlogtest.Edit(flip))
			w.audit.Log = &watched{Log: w.audit.Log, after: cancel}
			in, err := ask()
			if !errors.Is(err, context.Canceled) || in != nil && name != "Advance" {
				t.Errorf("%s: got incident %+v and error %v, want that it was cancelled", name, in, err)
			}
		}
		cancel()
	})
}

func TestProofIsNotLookedAtAgain(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(uint64) *world) {
		w := start(260)
		trusted := w.trust(t)
		w.Show(w.rewritten(t))
		before := w.gate.Requests()["GET "+w.info]
		if got := judgement(w.advance(t, &trusted)); got != "fork" {
			t.Errorf("got %s, want fork", got)
		}
		if looks := w.gate.Requests()["GET "+w.info] - before; looks != 1 {
			t.Errorf("the checkpoint was fetched %d times, want once", looks)
		}
	})
}

func TestAFrozenNoteStaysTrustedBesideOneThatIsNot(t *testing.T) {
	w := newTiles(t, 260, edKey(t))
	w.trust(t)
	plain := w.replay(t)
	must(t, w.tiles.Freeze(time.Now()))
	w.advance(t, &w.last)
	if !w.last.Frozen {
		t.Fatal("the frozen note of the trusted size is not taken over")
	}
	w.gate.Inject(w.checkpoints, 0, plain)
	w.advance(t, &w.last)
	if !w.last.Frozen {
		t.Error("the log was let off its promise by its older note")
	}
}

func TestOurArchiveIsCheckedLikeTheLog(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(uint64) *world) {
		for _, tt := range []struct {
			name string
			note func(w *world) []byte
		}{
			{"garbled", func(w *world) []byte { return tlogtest.Garbled(w.last.Note) }},
			{"of another size", func(w *world) []byte {
				w.grow(t, 1)
				return w.advance(t, nil).Trusted.Note
			}},
		} {
			w := start(260)
			trusted := w.trust(t)
			note := tt.note(w)
			w.audit.Archive = archive{trusted.Size: note, trusted.Size + 1: note}
			if w.Tree().Size() != trusted.Size {
				short, err := w.Tree().Fork(trusted.Size)
				must(t, err)
				w.Show(short)
			}
			v, err := w.audit.Advance(t.Context(), &trusted)
			if err == nil || !strings.Contains(err.Error(), "archive") || v.Incident != nil {
				t.Errorf("%s: got %v and %+v, want an error that names the archive and no incident", tt.name, err, v.Incident)
			}
		}
	})
}

func TestSkewedReplicasAreNoIncidentAndAreReadToTheEnd(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(uint64) *world) {
		w := start(40)
		trusted := w.trust(t)
		f := tlog.Frontier{}
		w.grow(t, 30)
		w.At(70, 55, 62)
		const runs = 200
		for range runs {
			v, err := w.audit.Advance(t.Context(), &trusted)
			if v.Incident != nil {
				t.Fatalf("a replica that lags became an incident: %s", v.Incident.Text)
			}
			if err == nil {
				trusted = v.Trusted
			}
			r := w.audit.Reader(t.Context(), trusted, f, trusted.Size)
			slice, err := r.Next(&recorder{})
			r.Close()
			if slice.Incident != nil {
				t.Fatalf("a replica that lags became an incident: %s", slice.Incident.Text)
			}
			if err == nil {
				f = slice.Frontier
			}
			if f.Size == 70 {
				break
			}
		}
		wantFrontier(t, w, f, 70)
	})
}

func TestFrontierIsProvenAtEverySize(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(uint64) *world) {
		w := start(1000)
		cp := w.trust(t)
		var sizes []uint64
		for size := range cp.Size + 1 {
			boundary := size&(size-1) == 0 || (size+1)&size == 0 || size%256 < 2 || size > 998
			if boundary || !testing.Short() {
				sizes = append(sizes, size)
			}
		}
		for _, size := range sizes {
			f, in, err := w.audit.Frontier(t.Context(), size, cp)
			if err != nil || in != nil {
				t.Fatalf("frontier at %d: %v, %+v", size, err, in)
			}
			wantFrontier(t, w, f, size)
		}
		if _, in, err := w.audit.Frontier(t.Context(), 1001, cp); err == nil || in != nil {
			t.Errorf("frontier beyond the tree: got error %v, incident %+v, want an error", err, in)
		}
	})
}

func TestAFrontierThatDoesNotProveIsAnIncidentOnceItLasts(t *testing.T) {
	for _, tt := range []struct {
		name   string
		inject func(w, forged *world)
		want   string
	}{
		{"left edge of another tree", func(w, forged *world) {
			w.gate.Inject(w.leaves, 0, tlogtest.Instead(forged.handler))
			if w.tiles != nil {
				w.gate.Inject(w.proofs, 0, tlogtest.Instead(forged.handler))
			}
		}, "bad-proof"},
		{"proof altered", func(w, _ *world) { w.gate.Inject(w.proofs, 0, tlogtest.Edit(flip)) }, "bad-proof"},
		{"proof altered by a cache", func(w, _ *world) { w.gate.Inject(cached(w.proofs), 0, tlogtest.Edit(flip)) }, ""},
		{"proof altered twice", func(w, _ *world) { w.gate.Inject(w.proofs, 2, tlogtest.Edit(flip)) }, ""},
		{"down", func(w, _ *world) { w.gate.Inject(nil, 0, tlogtest.Status(500)) }, "error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			overBoth(t, func(t *testing.T, start func(uint64) *world) {
				w := start(300)
				var forged *world
				if w.tiles != nil {
					forged = newTiles(t, 300, w.signer)
				} else {
					forged = newRekor(t, 300, w.signer)
				}
				forged.Show(forged.rewritten(t))
				cp := w.trust(t)
				tt.inject(w, forged)
				f, in, err := w.audit.Frontier(t.Context(), 257, cp)
				switch {
				case tt.want == "error":
					if err == nil || in != nil {
						t.Errorf("got %v, %+v, want an error", err, in)
					}
				case err != nil:
					t.Errorf("got error %v", err)
				case tt.want == "" && in == nil:
					wantFrontier(t, w, f, 257)
				case in == nil || string(in.Kind) != tt.want:
					t.Errorf("got %+v, want %q", in, tt.want)
				default:
					checkEvidence(t, w, in)
				}
			})
		})
	}
}

func TestAHoleIsPassedOnlyWithTheProvenHash(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(uint64) *world) {
		w := start(300)
		cp := w.trust(t)
		for _, index := range []uint64{0, 1, 2, 127, 128, 255, 256, 298, 299} {
			before, _, err := w.audit.Frontier(t.Context(), index, cp)
			must(t, err)
			leaf, next, err := w.audit.Hole(t.Context(), cp, before)
			if want := tlog.LeafHash(leafAt(index)); err != nil || leaf.Hash != want || leaf.Index != index {
				t.Errorf("leaf %d: got %d with hash %s (%v), want %s", index, leaf.Index, leaf.Hash, err, want)
				continue
			}
			wantFrontier(t, w, next, index+1)
			in := tlog.NewHole(w.audit.Log.Info().ID, []tlog.LeafProof{leaf}, cp.Note, "status 500")
			checkEvidence(t, w, in)
			if again := tlog.NewHole(in.Log, []tlog.LeafProof{{Index: index, Hash: leaf.Hash}}, nil, "other words"); again.ID != in.ID {
				t.Errorf("leaf %d: incidents %s and %s, want one", index, in.ID, again.ID)
			}
		}
	})
}

func TestAHoleWithAWrongHashIsRefused(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(uint64) *world) {
		w := start(300)
		cp := w.trust(t)
		before, _, err := w.audit.Frontier(t.Context(), 137, cp)
		must(t, err)
		honest := w.audit.Log
		w.audit.Log = wrongHash{honest.(logAndHasher)}
		if leaf, next, err := w.audit.Hole(t.Context(), cp, before); err == nil || next.Size != 137 {
			t.Errorf("a wrong hash, %s, passes leaf 137: %v", leaf.Hash, err)
		}
		w.audit.Log = honest
		w.gate.Inject(w.proofs, 0, tlogtest.Edit(flip))
		if leaf, next, err := w.audit.Hole(tlog.Fresh(t.Context()), cp, before); err == nil || next.Size != 137 {
			t.Errorf("altered proofs: hash %s passes leaf 137: %v", leaf.Hash, err)
		}
		w.gate.ClearFaults()
		w.gate.Inject(cached(w.proofs), 0, tlogtest.Edit(flip))
		if _, next, err := w.audit.Hole(t.Context(), cp, before); err != nil {
			t.Errorf("a cache alters proofs: %v", err)
		} else {
			wantFrontier(t, w, next, 138)
		}
	})
}

func TestIncidentsKeepTheirIDAndDifferFromOthers(t *testing.T) {
	overBoth(t, func(t *testing.T, start func(uint64) *world) {
		w := start(300)
		cp := w.trust(t)
		kinds := map[string]func() *tlog.Incident{
			"fork":     func() *tlog.Incident { w.Show(w.rewritten(t)); return w.advance(t, &cp).Incident },
			"bad note": func() *tlog.Incident { w.EditNote(tlogtest.Garbled); return w.advance(t, &cp).Incident },
			"leaf 10":  func() *tlog.Incident { w.Lie(10, tlogtest.Lie{Data: []byte("a")}); return w.readOnce(t, cp) },
			"leaf 20":  func() *tlog.Incident { w.Lie(20, tlogtest.Lie{Data: []byte("a")}); return w.readOnce(t, cp) },
			"hole 10": func() *tlog.Incident {
				return tlog.NewHole(w.audit.Log.Info().ID, []tlog.LeafProof{{Index: 10}}, nil, "")
			},
			"left edge 10": func() *tlog.Incident { return w.badEdge(t, 10, cp) },
			"left edge 20": func() *tlog.Incident { return w.badEdge(t, 20, cp) },
			"rollback":     func() *tlog.Incident { return tlog.NewRollback(w.audit.Log.Info().ID, cp, cp, time.Now()) },
		}
		seen := map[string]string{}
		for name, make := range kinds {
			var ids []string
			for range 2 {
				in := make()
				w.Honest()
				w.gate.ClearFaults()
				if in == nil {
					t.Fatalf("%s: no incident", name)
				}
				ids = append(ids, in.ID)
			}
			if ids = slices.Compact(ids); len(ids) != 1 {
				t.Errorf("%s: IDs %q, want one", name, ids)
			}
			if other := seen[ids[0]]; other != "" {
				t.Errorf("%s and %s have one ID, %s", name, other, ids[0])
			}
			seen[ids[0]] = name
		}
	})
}

func (w *world) readOnce(t testing.TB, cp tlog.Checkpoint) *tlog.Incident {
	t.Helper()
	r := w.audit.Reader(t.Context(), cp, tlog.Frontier{}, cp.Size)
	defer r.Close()
	slice, err := r.Next(&recorder{})
	must(t, err)
	return slice.Incident
}

func (w *world) badEdge(t testing.TB, size uint64, cp tlog.Checkpoint) *tlog.Incident {
	t.Helper()
	w.gate.Inject(w.proofs, 0, tlogtest.Edit(flip))
	_, in, err := w.audit.Frontier(tlog.Fresh(t.Context()), size, cp)
	must(t, err)
	return in
}
