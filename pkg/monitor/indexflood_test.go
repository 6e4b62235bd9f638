package monitor_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// remembered is how many entries the state remembers of one log.
const remembered = 1 << 17

// junk are leaf hashes of no entry, which come before that of any entry.
func junk(name string, n int) []tlog.Hash {
	leaves := make([]tlog.Hash, n)
	for i := range leaves {
		leaves[i] = tlog.LeafHash(fmt.Append(nil, name, i))
		leaves[i][0], leaves[i][1] = 0, 0
	}
	return leaves
}

// flood lists leaves of the active tree under a value.
func (w *world) flood(value string, leaves []tlog.Hash) {
	prefix := w.v1.Active().UUID(nil)[:16]
	uuids := make([]string, len(leaves))
	for i, leaf := range leaves {
		uuids[i] = prefix + leaf.String()
	}
	w.v1.Index().List(value, uuids...)
}

// settle makes the state remember leaves, as earlier runs would have left it.
func (w *world) settle(id tlog.ID, seen, found []tlog.Hash) {
	w.t.Helper()
	d := w.doc(id)
	d.Index.Settle(seen, found, remembered)
	if err := state.New(w.store).SaveLog(context.Background(), d); err != nil {
		w.t.Fatal(err)
	}
}

// brief runs until n requests for entries were made.
func (w *world) brief(n int) monitor.LogResult {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	made := 0
	defer w.v1.Inject(tlogtest.Path(retrievePath), 0, func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if made++; made == n {
			cancel()
		}
		next.ServeHTTP(rw, r)
	})()
	res, err := w.monitor().Run(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	w.now = w.now.Add(time.Hour)
	return logOf(w.t, res, v1Origin)
}

// What an attacker logs under our name lengthens the one answer that the index gives.
func TestAFloodUnderOneValueHidesNeitherItsOwnEntriesNorThoseOfAnother(t *testing.T) {
	w := indexWorld(t, "head")
	w.extra = watchExact(mine, other)
	w.others(3)
	l := logOf(t, w.want(monitor.ExitClean), v1Origin)
	flood := junk("a", 60000)
	w.settle(l.ID, flood, nil)
	w.flood(mine, flood)
	w.flood(mine, junk("b", 500))
	w.flood(other, junk("c", 500))
	w.mine()
	w.email()
	w.checkIndex(logOf(t, w.want(monitor.ExitFindings), v1Origin), 3)
	w.mine()
	w.checkIndex(logOf(t, w.want(monitor.ExitFindings), v1Origin), 3)
	if n := w.mails("is taken in"); n != 0 {
		t.Errorf("%d mails about a limit that was not reached", n)
	}
}

func TestAnAnswerBeyondTheLimitIsSaidAndWhatWasReadOfItCounts(t *testing.T) {
	w := indexWorld(t, "head")
	w.extra = watchExact(mine, other)
	w.others(3)
	l := logOf(t, w.want(monitor.ExitClean), v1Origin)
	flood := junk("a", 100000)
	w.settle(l.ID, flood, nil)
	w.flood(mine, flood)
	w.v1.Index().List(mine, elsewhere(120000)...)
	w.mine()
	w.email()
	res := w.want(monitor.ExitFindings)
	// The server answers in another order each time, and all but 2 % of it is read.
	for i := 0; i < 10 && w.proven(l.ID, 3) == 0; i++ {
		res = w.run()
		if res.Exit != monitor.ExitFindings && res.Exit != monitor.ExitClean {
			t.Fatalf("exit %d: %+v", res.Exit, logOf(t, res, v1Origin))
		}
	}
	l = logOf(t, res, v1Origin)
	w.checkIndex(l, 3)
	if l.Error != "" || !strings.Contains(strings.Join(l.Notes, "\n"), "lists more for subject "+fmt.Sprintf("%q", mine)) {
		t.Errorf("error %q, notes %q: want none, and one that names the value", l.Error, l.Notes)
	}
	if n := w.mails("its answer is longer than the 17 MiB"); n != 1 {
		t.Errorf("%d mails say so, want 1: %q", n, w.subjects())
	}
}

func TestAValueWhoseAnswerIsCutGetsNothingOfAFullMemory(t *testing.T) {
	w := indexWorld(t, "head")
	w.extra = watchExact(mine, other)
	l := logOf(t, w.want(monitor.ExitClean), v1Origin)
	w.settle(l.ID, nil, junk("c", remembered)) // whose of the values they are cannot be told
	w.v1.Index().List(mine, elsewhere(230000)...)
	w.flood(mine, junk("d", 20))
	w.email()
	l = logOf(t, w.want(monitor.ExitFindings), v1Origin)
	if w.proven(l.ID, 0) != 1 || !strings.Contains(strings.Join(l.Notes, "\n"), "more are not read") {
		t.Errorf("%d findings of the other value, want 1; notes %q", w.proven(l.ID, 0), l.Notes)
	}
}

// elsewhere are UUIDs of a tree that the service does not have.
func elsewhere(n int) []string {
	uuids := make([]string, n)
	for i, leaf := range junk("elsewhere", n) {
		uuids[i] = "00000000000000ff" + leaf.String()
	}
	return uuids
}

func TestALongAnswerThatDoesNotComeLeavesHalfOfTheTimeToTheRest(t *testing.T) {
	w := indexWorld(t, "head")
	w.extra = watchExact(mine, other)
	w.want(monitor.ExitClean)
	w.flood(mine, junk("a", 14000))
	w.email()
	var asked atomic.Int64
	w.v1.Inject(asksFor(mine), 0, func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if asked.Add(1) > 1 {
			tlogtest.Hang()(rw, r, next)
			return
		}
		next.ServeHTTP(rw, r)
	})
	w.tune = tuned(w.tune, func(m *monitor.Monitor) { m.Budget = 4 * time.Second })
	l := logOf(t, w.want(monitor.ExitFailed), v1Origin)
	if asked.Load() != 2 || w.proven(l.ID, 0) != 1 || !strings.Contains(l.Error, "did not answer for 1 of 2 values") {
		t.Errorf("asked %d times, %+v: want the other value's entry found", asked.Load(), l)
	}
}

// asksFor matches searches for a subject.
func asksFor(subject string) tlogtest.Match {
	length := int64(len(fmt.Sprintf(`{"subject":%q}`, subject)))
	return func(r *http.Request) bool {
		return strings.HasSuffix(r.URL.Path, searchPath) && r.ContentLength == length
	}
}

func tuned(all ...func(*monitor.Monitor)) func(*monitor.Monitor) {
	return func(m *monitor.Monitor) {
		for _, tune := range all {
			tune(m)
		}
	}
}

func TestAnAnswerWithoutEndIsAFailureAndWhatWasReadOfItCounts(t *testing.T) {
	w := indexWorld(t, "head")
	w.others(3)
	w.want(monitor.ExitClean)
	w.mine()
	end := w.v1.Inject(asksFor(mine), 0, tlogtest.Oversize(-1))
	for range 2 {
		l := logOf(t, w.want(monitor.ExitFailed), v1Origin)
		if !strings.Contains(l.Error, "search index did not answer for 1 of 1 value (its history was checked)") {
			t.Errorf("%+v", l)
		}
		w.checkIndex(l, 3)
	}
	end()
	w.checkIndex(logOf(t, w.want(monitor.ExitClean), v1Origin), 3)
}

func TestAValueThatFillsTheMemoryIsSaidAndKeepsNoOtherOut(t *testing.T) {
	w := indexWorld(t, "head")
	w.extra = watchExact(mine, other)
	w.others(3)
	l := logOf(t, w.want(monitor.ExitClean), v1Origin)
	flood := junk("a", remembered)
	w.settle(l.ID, nil, flood)
	w.flood(mine, flood)
	w.mine() // at 3
	w.email()
	l = logOf(t, w.want(monitor.ExitFindings), v1Origin)
	if w.proven(l.ID, 3) != 0 || w.proven(l.ID, 4) != 1 {
		t.Errorf("%d and %d findings at 3 and 4, want 0 and 1", w.proven(l.ID, 3), w.proven(l.ID, 4))
	}
	const text = "of 131073 entries seen there, 131072 were settled before this run; 1 more are not read"
	w.want(monitor.ExitClean)
	if n := w.mails("its search index lists more for subject"); n != 1 || w.mails(text) != 1 {
		t.Errorf("%d mails about the limit, want 1: %q", n, w.subjects())
	}
	// It is read when there is room again.
	d := w.doc(l.ID)
	if n := d.Index.Found.Len(); n != remembered+1 {
		t.Errorf("%d entries with findings are remembered, want those of the flood and one", n)
	}
	d.Index.Found = state.Leaves(nil).With(flood[:1000]...)
	d.Index.Seen = state.Leaves(nil).With(flood[1000:]...)
	if err := state.New(w.store).SaveLog(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	l = logOf(t, w.want(monitor.ExitFindings), v1Origin)
	if w.proven(l.ID, 3) != 1 || l.Findings < 1 {
		t.Errorf("%+v", l)
	}
}

func TestEntriesInWhichNothingWasFoundAreForgottenAndReadAgainInSilence(t *testing.T) {
	w := indexWorld(t, "head")
	for range 12 {
		w.mine() // from before the rules hold
	}
	w.want(monitor.ExitClean)
	l := logOf(t, w.want(monitor.ExitClean), v1Origin)
	w.settle(l.ID, junk("a", remembered-5), nil) // which takes half of those 12
	w.mine()
	l = logOf(t, w.want(monitor.ExitFindings), v1Origin)
	for range 3 {
		w.want(monitor.ExitClean)
	}
	w.checkIndex(l, 12)
	d := w.doc(l.ID).Index
	if n := d.Seen.Len() + d.Found.Len(); n > remembered || d.Found.Len() != 1 || !d.Forgetful || d.Earlier != 0 {
		t.Errorf("%d remembered, %d with findings, forgetful %v, earlier %d", n, d.Found.Len(), d.Forgetful, d.Earlier)
	}
	if n := w.mails("entries from before the rules hold"); n != 1 {
		t.Errorf("%d mails count earlier entries, want the first only", n)
	}
}

func TestP7EntriesThatCannotBeHadDoNotKeepTheBudgetFromTheOthers(t *testing.T) {
	w := indexWorld(t, "head")
	w.want(monitor.ExitClean)
	w.flood(mine, junk("a", 3000)) // all before ours in the order of the hashes
	w.mine()
	id := w.brief(20).ID
	for i := 0; w.proven(id, 0) == 0; i++ {
		if i == 40 {
			t.Fatalf("not found in %d runs that read 200 of 3001 entries each", i)
		}
		w.brief(20)
	}
}

func TestP7EveryValueHasItsTurnWhateverIsListedForAnother(t *testing.T) {
	w := indexWorld(t, "head")
	w.extra = watchExact(mine, other)
	w.want(monitor.ExitClean)
	w.flood(mine, junk("a", 3000))
	w.email()
	if l := w.brief(20); w.proven(l.ID, 0) != 1 {
		t.Errorf("%+v: the only entry of the other value was not read first", l)
	}
}

// The old rule would have found it; the index did not answer for it, and by the new
// rule it comes too early.
func TestAnEntryIsNotSettledAsTooEarlyWhileAValueThatListsItFails(t *testing.T) {
	w := indexWorld(t, "head")
	w.want(monitor.ExitClean)
	w.mine() // at 0
	ours, err := w.v1.Active().Tree().Leaf(0)
	if err != nil {
		t.Fatal(err)
	}
	w.v1.Index().List(other, w.v1.Active().UUID(ours))
	w.extra = watchExact(mine, other)
	end := w.v1.Inject(asksFor(mine), 0, tlogtest.Status(http.StatusInternalServerError))
	w.want(monitor.ExitFailed)
	end()
	w.checkIndex(logOf(t, w.want(monitor.ExitFindings), v1Origin), 0)
}
