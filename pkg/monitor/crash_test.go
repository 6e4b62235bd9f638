package monitor_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// killer ends the process, as far as the store and the sinks can tell, at one
// step of a run: before the operation takes effect, or after it did and before its
// answer arrives. Every later operation fails.
type killer struct {
	mu    sync.Mutex
	at    int // the step, counted from 0; each operation has two
	step  int
	dead  bool
	where string
}

func (k *killer) hit(op string, after bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dead {
		return errCrashed
	}
	if after == (k.at%2 == 1) {
		if k.step == k.at/2 {
			k.dead = true
			k.where = fmt.Sprintf("%s, after=%v", op, after)
			return errCrashed
		}
	}
	if after {
		k.step++
	}
	return nil
}

// TestARunKilledAtAnyStepLosesNothing stops a run before and after every store
// and sink operation, goes on with a new process, and rechecks P1 to P4 from what
// is stored and what the sinks received.
func TestARunKilledAtAnyStepLosesNothing(t *testing.T) {
	stride := 1
	if testing.Short() {
		stride = 7
	}
	for at := 0; ; at += stride {
		w, k := crashWorld(t, at)
		w.crash(k)
		// The next hour, and once more: the lease of the dead run has expired.
		w.now = w.now.Add(2 * time.Hour)
		w.store.hook, w.sinks[0].hook = nil, nil
		res := w.run()
		w.checkInvariants(w.trees(res))
		for _, l := range res.Logs {
			if l.Scanned != l.Size || l.Size == 0 {
				t.Fatalf("killed at step %d (%s): %+v", at, k.where, l)
			}
		}
		if res.Alerts.Pending != 0 || len(res.Incidents) != 0 {
			t.Fatalf("killed at step %d (%s): alerts %+v, incidents %+v", at, k.where, res.Alerts, res.Incidents)
		}
		w.checkDelivered(at, k)
		if !k.dead {
			t.Logf("%d steps", at)
			return // the run had fewer steps than that
		}
	}
}

// crashWorld is two logs after a first run, with something new in each.
func crashWorld(t *testing.T, at int) (*world, *killer) {
	w := newWorld(t)
	w.others(12)
	w.want(monitor.ExitClean)
	w.others(20)
	w.mine()
	w.others(130) // enough for several slices
	w.mine()
	w.tune = func(m *monitor.Monitor) { m.SliceEntries = 16 }
	return w, &killer{at: at}
}

// crash makes a run that is killed.
func (w *world) crash(k *killer) {
	w.store.hook = func(op, name string, after bool) error { return k.hit(op+" "+name, after) }
	w.sinks[0].hook = func(m report.Message, after bool) error { return k.hit("send "+m.Subject, after) }
	res, err := w.monitor().Run(context.Background())
	if err == nil && k.dead && res.Exit == monitor.ExitClean {
		w.t.Fatalf("a run killed at %s says it is clean", k.where)
	}
}

// checkDelivered: each entry of ours was alerted in each log at least once, and
// a repeat carries the same alert ID as the first.
func (w *world) checkDelivered(at int, k *killer) {
	w.t.Helper()
	ids := map[string]map[string]bool{}
	for _, m := range w.sinks[0].got() {
		// A message may tell of the same certificate in several logs: each has an alert
		// of its own, which the message names.
		shown := leafHashes(m)
		for _, a := range m.Alerts() {
			for _, f := range a.Findings {
				hash := f.LeafHash.String()
				if !slices.Contains(shown, hash) {
					w.t.Fatalf("killed at step %d (%s): %q does not show leaf %s", at, k.where, m.Subject, hash)
				}
				if ids[hash] == nil {
					ids[hash] = map[string]bool{}
				}
				ids[hash][a.ID] = true
			}
		}
	}
	for _, tree := range []*tlogtest.Tree{w.v1.Active().Tree(), w.v2.Tree()} {
		for i := range tree.Size() {
			leaf, err := tree.Leaf(i)
			if err != nil {
				w.t.Fatal(err)
			}
			hash := hashOf(leaf)
			if w.isMine(leaf) && len(ids[hash]) != 1 {
				w.t.Fatalf("killed at step %d (%s): entry %d was alerted under %d IDs, want 1", at, k.where, i, len(ids[hash]))
			}
		}
	}
}

// TestTheVeryFirstRunKilledAtAnyStepTakesItsBaselineInTheNext is the same for the
// run that has no state yet.
func TestTheVeryFirstRunKilledAtAnyStepTakesItsBaselineInTheNext(t *testing.T) {
	stride := 1
	if testing.Short() {
		stride = 7
	}
	for at := 0; ; at += stride {
		w := newWorld(t)
		w.others(10)
		w.mine()
		k := &killer{at: at}
		w.crash(k)
		w.now = w.now.Add(2 * time.Hour)
		w.store.hook, w.sinks[0].hook = nil, nil
		res := w.run()
		w.checkInvariants(w.trees(res))
		for _, l := range res.Logs {
			if l.Scanned != 11 || l.Error != "" {
				t.Fatalf("killed at step %d (%s): %+v", at, k.where, l)
			}
		}
		w.checkDelivered(at, k)
		if n := w.mails("baseline taken"); n == 0 {
			t.Fatalf("killed at step %d (%s): nobody was told of the baseline", at, k.where)
		}
		if !k.dead {
			t.Logf("%d steps", at)
			return
		}
	}
}
