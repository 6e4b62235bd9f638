package monitor_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

func TestAnIndexThatFailsLeavesTheHistoryCheckedAndLosesNothing(t *testing.T) {
	for name, effect := range map[string]tlogtest.Effect{
		"off":             tlogtest.Status(http.StatusNotImplemented),
		"not there":       tlogtest.Status(http.StatusNotFound),
		"refuses":         tlogtest.Status(http.StatusForbidden),
		"busy":            tlogtest.TooManyRequests(0),
		"cuts":            tlogtest.Cut(),
		"says nonsense":   tlogtest.Garbage(),
		"says another":    tlogtest.Edit(func([]byte) []byte { return []byte(`{"a":1}`) }),
		"lists no UUIDs":  tlogtest.Edit(func([]byte) []byte { return []byte(`["x"]`) }),
		"lists a tree ID": tlogtest.Edit(func([]byte) []byte { return []byte(`["` + strings.Repeat("0", 16) + `"]`) }),
	} {
		t.Run(name, func(t *testing.T) {
			w := indexWorld(t, "head")
			w.others(3)
			w.want(monitor.ExitClean)
			// The probe for subjects is answered, so that the query itself fails.
			w.v1.Inject(tlogtest.Path(searchPath), 1, func(rw http.ResponseWriter, r *http.Request, next http.Handler) { next.ServeHTTP(rw, r) })
			end := w.v1.Inject(tlogtest.Path(searchPath), 0, func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.ContentLength > 500 {
					next.ServeHTTP(rw, r)
					return
				}
				effect(rw, r, next)
			})
			w.mine()
			for i := range 5 {
				res := w.want(monitor.ExitFailed)
				l := logOf(t, res, v1Origin)
				if l.Size != 4 || l.Status != monitor.StatusError || !strings.Contains(l.Error, "search index did not answer for 1 of 1 value (its history was checked)") {
					t.Fatalf("run %d: %+v", i, l)
				}
			}
			if n := w.mails("search index did not answer"); n != 1 {
				t.Errorf("%d mails about it in five hours, want 1: %q", n, w.subjects())
			}
			end()
			w.checkIndex(logOf(t, w.want(monitor.ExitFindings), v1Origin), 3)
		})
	}
}

func TestAServerThatDoesNotKnowSubjectsIsAskedForAddressesAndTheRestIsSaid(t *testing.T) {
	w := indexWorld(t, "0")
	w.extra = watchExact(mine, other)
	w.v1.Index().BeforeSubjects()
	w.mine()
	w.email()
	// Nothing that a run could do about it makes it a failure, and it is not silent.
	l := logOf(t, w.want(monitor.ExitFindings), v1Origin)
	if l.Findings != 1 || l.Error != "" || !strings.Contains(strings.Join(l.Notes, "\n"), "before v1.5.4") {
		t.Errorf("%+v", l)
	}
	if w.mails("rules by subjects that are no email addresses are not covered here") != 1 {
		t.Errorf("nobody was told: %q", w.subjects())
	}
}

func TestJunkInTheIndexHidesNothing(t *testing.T) {
	w := indexWorld(t, "head")
	w.others(3)
	w.want(monitor.ExitClean)
	w.mine()
	w.mine()
	ours, _ := w.v1.Active().Tree().Leaf(3)
	theirs, _ := w.v1.Active().Tree().Leaf(1)
	uuid := w.v1.Active().UUID(ours)
	junk := []string{uuid, strings.ToUpper(uuid), uuid[16:], w.v1.Active().UUID(theirs), strings.Repeat("0", 64), "00000000000000ff" + uuid[16:]}
	for i := range 3000 {
		junk = append(junk, uuid[:16]+tlog.LeafHash(fmt.Append(nil, i)).String())
	}
	w.v1.Index().List(mine, junk...)
	var l monitor.LogResult
	for i := range 5 {
		exit := monitor.ExitClean
		if i == 0 {
			exit = monitor.ExitFindings
		}
		l = logOf(t, w.want(exit), v1Origin)
	}
	w.checkIndex(l, 3)
	for _, text := range []string{"3000 entries that its search index lists cannot be had", "1 entry of 1 trees that the service does not have, such as tree 255"} {
		if n := w.mails(text); n != 1 {
			t.Errorf("%d mails say %q, want 1: %q", n, text, w.subjects())
		}
	}
}

func TestAForkDoesNotBlindIndexCoverage(t *testing.T) {
	w := indexWorld(t, "head")
	w.others(4)
	w.want(monitor.ExitClean)
	fork, err := w.v1.Active().Tree().Fork(3)
	if err != nil {
		t.Fatal(err)
	}
	one, _ := w.entry(github("https://github.com/someone/else"))
	fork.Append(one)
	w.v1.Active().Show(fork)
	w.want(monitor.ExitTamper)
	one, _ = w.entry(github(mine))
	fork.Append(one)
	w.v1.Index().List(mine, w.v1.Active().UUID(one))
	w.want(monitor.ExitTamper)
	w.want(monitor.ExitTamper)
	if n := w.mails("(unproven)"); n != 1 {
		t.Errorf("%d mails about an unproven finding, want 1: %q", n, w.subjects())
	}
	// The history that was trusted goes on, but that is not believed either until an
	// operator decides.
	w.v1.Active().Honest()
	w.others(3) // to a size of which no other root was seen
	w.mine()    // at 7
	l := logOf(t, w.want(monitor.ExitTamper), v1Origin)
	if n := w.mails("(unproven)"); n != 2 || w.proven(l.ID, 7) != 0 {
		t.Errorf("%d mails about unproven findings, want 2; %d proven", n, w.proven(l.ID, 7))
	}
	w.decide(state.Decision{Kind: state.TakeBaseline, Log: l.ID})
	w.run()
	if n := w.proven(l.ID, 7); n != 1 {
		t.Errorf("%d proven findings after the decision, want 1", n)
	}
	if set := w.doc(l.ID).Index.Unproven; set.Len() != 0 {
		t.Errorf("%d entries are still remembered as unproven", set.Len())
	}
}

func TestOnAForkATheftThatFitsAnExpectClauseIsAlertedToo(t *testing.T) {
	w := indexWorld(t, "head")
	w.extra = fmt.Sprintf("watch: [{name: ours, subject: {exact: %q}, expect: [{issuer: {exact: %q}}]}]\n", mine, github(mine).Issuer)
	w.others(4)
	w.want(monitor.ExitClean)
	w.mine()
	if l := logOf(t, w.want(monitor.ExitClean), v1Origin); l.Expected != 1 {
		t.Fatalf("%+v: want one that is expected", l)
	}
	fork, err := w.v1.Active().Tree().Fork(3)
	if err != nil {
		t.Fatal(err)
	}
	one, _ := w.entry(github("https://github.com/someone/else"))
	fork.Append(one, one)
	w.v1.Active().Show(fork)
	w.want(monitor.ExitTamper)
	one, _ = w.entry(github(mine))
	fork.Append(one)
	w.v1.Index().List(mine, w.v1.Active().UUID(one))
	l := logOf(t, w.want(monitor.ExitTamper), v1Origin)
	if n := w.mails("(unproven)"); n != 1 || l.Findings != 1 || l.Expected != 0 {
		t.Errorf("%d mails about an unproven finding, want 1: %+v", n, l)
	}
}

func TestIndexCoverageTogetherWithChangedRulesReadsFromNowOn(t *testing.T) {
	for _, before := range []config.Coverage{config.Consistency, config.Full} {
		w := indexWorld(t, "head")
		w.cover(before)
		w.others(2)
		w.want(monitor.ExitClean)
		w.email() // at 2 and 3, when no rule was for them
		w.email()
		w.want(monitor.ExitClean)
		w.email() // at 4, between the last run and the one with the new rules
		w.extra = watchExact(mine, other)
		w.cover(config.Index)
		l := logOf(t, w.want(monitor.ExitClean), v1Origin)
		if l.Findings != 0 || w.mails("entries that it lists are read from index 5 on") != 1 || w.mails("3 entries from before the rules hold") != 1 {
			t.Errorf("after %s: %+v, %q", before, l, w.subjects())
		}
		if rules := w.doc(l.ID).Rules; len(rules) != 2 || rules[1].From != 5 {
			t.Errorf("after %s: rules %+v, want the new ones from 5 on", before, rules)
		}
		w.email()
		w.checkIndex(logOf(t, w.want(monitor.ExitFindings), v1Origin), 5)
	}
}

func TestABudgetThatEndsLeavesTheRestToTheNextRun(t *testing.T) {
	w := indexWorld(t, "0")
	for range 40 {
		w.mine()
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	n := 0
	w.v1.Inject(tlogtest.Path(retrievePath), 0, func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if n++; n == 3 {
			cancel()
		}
		next.ServeHTTP(rw, r)
	})
	res, err := w.monitor().Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if l := logOf(t, res, v1Origin); l.Findings < 20 || l.Findings >= 40 {
		t.Errorf("%d findings of an interrupted run, want 20 to 39", l.Findings)
	}
	w.now = w.now.Add(time.Hour)
	w.checkIndex(logOf(t, w.want(monitor.ExitFindings), v1Origin), 0)
}

// TestARunOfIndexCoverageKilledAtAnyStepLosesAndRepeatsNothing stops a run before and
func TestARunOfIndexCoverageKilledAtAnyStepLosesAndRepeatsNothing(t *testing.T) {
	for _, first := range []bool{false, true} {
		stride := 1
		if testing.Short() {
			stride = 7
		}
		for at := 0; ; at += stride {
			w := indexWorld(t, "1")
			w.mine()
			w.others(5)
			if !first {
				w.want(monitor.ExitClean)
			}
			w.mine()
			w.others(3)
			w.mine()
			k := &killer{at: at}
			w.crash(k)
			w.now = w.now.Add(2 * time.Hour)
			w.store.hook, w.sinks[0].hook = nil, nil
			res := w.run()
			l := logOf(t, res, v1Origin)
			w.checkIndex(l, 1)
			if l.Error != "" || res.Alerts.Pending != 0 || t.Failed() {
				t.Fatalf("killed at step %d (%s), first run %v: %+v", at, k.where, first, l)
			}
			w.checkIDs(at, k)
			if !k.dead {
				t.Logf("%d steps", at)
				break
			}
		}
	}
}

// checkIDs: an entry that is alerted again carries the ID of the first alert.
func (w *world) checkIDs(at int, k *killer) {
	w.t.Helper()
	ids := map[string]map[string]bool{}
	for _, m := range w.sinks[0].got() {
		for _, hash := range leafHashes(m) {
			if ids[hash] == nil {
				ids[hash] = map[string]bool{}
			}
			ids[hash][m.ID] = true
		}
	}
	tree := w.v1.Active().Tree()
	for i := range tree.Size() {
		leaf, err := tree.Leaf(i)
		if err != nil {
			w.t.Fatal(err)
		}
		if of := ids[hashOf(leaf)]; len(of) > 1 {
			w.t.Fatalf("killed at step %d (%s): entry %d was alerted under %d IDs, want 1", at, k.where, i, len(of))
		}
	}
}
