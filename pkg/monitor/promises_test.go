package monitor_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

const (
	v1Origin = "rekor.example.com - "
	v2Origin = "v2.example"
)

// trees are the true trees by log ID, for checkInvariants.
func (w *world) trees(res *monitor.Result) map[tlog.ID]*tlogtest.Tree {
	m := map[tlog.ID]*tlogtest.Tree{}
	for _, l := range res.Logs {
		switch {
		case l.Type == tlog.RekorV2 && strings.HasPrefix(l.Origin, v2Origin):
			m[l.ID] = w.v2.Tree()
		case l.Type == tlog.RekorV1:
			for _, tree := range w.v1.Trees() {
				if fmt.Sprint(tree.ID) == l.TreeID {
					m[l.ID] = tree.Tree()
				}
			}
		}
	}
	return m
}

func TestARunFindsEveryEntryOfOursOnceAndAlertsIt(t *testing.T) {
	w := newWorld(t)
	w.others(270)
	w.mine()
	w.others(10)
	res := w.want(monitor.ExitFindings)
	for _, origin := range []string{v1Origin, v2Origin} {
		l := logOf(t, res, origin)
		if l.Status != monitor.StatusBaseline || l.Findings != 1 || l.Entries != 281 || l.Scanned != 281 {
			t.Errorf("first run: %+v", l)
		}
	}
	w.checkInvariants(w.trees(res))
	if res := w.want(monitor.ExitClean); res.Alerts.Delivered != 0 {
		t.Errorf("the second run delivered %d alerts, want none", res.Alerts.Delivered)
	}
	w.others(300)
	w.mine()
	res = w.want(monitor.ExitFindings)
	if l := logOf(t, res, v1Origin); l.Entries != 301 || l.Findings != 1 || l.Status != monitor.StatusOK {
		t.Errorf("third run: %+v", l)
	}
	w.checkInvariants(w.trees(res))
	if n := w.signed(); n != 4 {
		t.Errorf("%d alerts about us, want 4: %q", n, w.subjects())
	}
}

func TestP1ALeafThatIsNotWhatTheLogSignedStopsTheCursor(t *testing.T) {
	for name, lie := range map[string]func(w *world, i uint64){
		"altered in tiles": func(w *world, i uint64) {
			_, other := w.entry(github(mine))
			w.v2.Lie(i, tlogtest.Lie{Data: other})
		},
		"altered in Rekor v1, UUID and timestamp to match": func(w *world, i uint64) {
			other, _ := w.entry(github(mine))
			w.v1.Active().Lie(i, tlogtest.Lie{Data: other})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.others(100)
			w.want(monitor.ExitClean)
			w.others(400)
			lie(w, 317)
			res := w.want(monitor.ExitTamper)
			origin := v1Origin
			if strings.Contains(name, "tiles") {
				origin = v2Origin
			}
			l := logOf(t, res, origin)
			if l.Scanned != 317 || l.Status != monitor.StatusTamper {
				t.Fatalf("got %+v, want the cursor at 317 and status tamper", l)
			}
			w.checkInvariants(w.trees(res))
			if n := w.mails("leaf 317"); n != 1 {
				t.Errorf("%d tamper alerts name leaf 317, want 1: %q", n, w.subjects())
			}
			// The log behaves again: reading goes on, and the end is announced.
			w.v1.Active().Honest()
			w.v2.Honest()
			res = w.want(monitor.ExitTamper)
			if l := logOf(t, res, origin); l.Scanned != 500 {
				t.Errorf("after the lie: %+v", l)
			}
			if w.mails("no longer seen") != 1 {
				t.Errorf("the end of the suspicion was not announced: %q", w.subjects())
			}
			w.checkInvariants(w.trees(res))
			id := res.Incidents[0].ID
			if w.follows(id) != 1 {
				t.Errorf("the end is not said of %s", id)
			}
			w.decide(state.Decision{Log: l.ID, Kind: state.CloseIncident, Incident: id})
			w.want(monitor.ExitClean)
			if w.follows(id) != 2 {
				t.Errorf("the decision is not said of %s", id)
			}
		})
	}
}

func TestP2TheCommitThatMovesTheCursorNamesTheFindings(t *testing.T) {
	w := newWorld(t)
	w.mine()
	var atCommit []string
	w.store.hook = func(op, name string, after bool) error {
		if op == "replace" && strings.HasPrefix(name, "state/") && !after {
			for n := range w.store.objects {
				if strings.HasPrefix(n, "findings/") || strings.HasPrefix(n, "alerts/") {
					atCommit = append(atCommit, n)
				}
			}
		}
		return nil
	}
	res := w.want(monitor.ExitFindings)
	w.store.hook = nil
	for _, l := range res.Logs {
		head := w.doc(l.ID).Findings
		if head == "" || !slices.Contains(atCommit, head) {
			t.Errorf("log %s: findings object %q was not there when a commit named it", l.Origin, head)
		}
	}
	w.checkInvariants(w.trees(res))
}

func TestP3AnAlertLeavesTheOutboxOnlyWhenEachSinkTookIt(t *testing.T) {
	w := newWorld(t)
	down := &memSink{name: "down", hook: func(report.Message, bool) error { return errors.New("no route") }}
	w.sinks = append(w.sinks, down)
	w.mine()
	res := w.want(monitor.ExitFindings) // one sink took it
	if res.Alerts.Pending == 0 || res.Alerts.Failed["down"] == "" {
		t.Errorf("alerts: %+v, want some pending for the sink that is down", res.Alerts)
	}
	if w.signed() != 2 {
		t.Errorf("the other sink got %q", w.subjects())
	}
	w.sinks[0].hook = down.hook
	w.mine()
	if res := w.want(monitor.ExitFailed); res.Alerts.Pending < 2 {
		t.Errorf("alerts: %+v, want what no sink took pending", res.Alerts)
	}
	down.hook, w.sinks[0].hook = nil, nil
	if res := w.want(monitor.ExitClean); res.Alerts.Pending != 0 {
		t.Errorf("alerts: %+v, want none pending", res.Alerts)
	}
	for _, s := range w.sinks {
		if n := signedIn(s); n != 4 {
			t.Errorf("sink %s got %d alerts about us, want 4", s.name, n)
		}
	}
}

func TestP3MoreThanFiftyPendingBecomeOneDigest(t *testing.T) {
	w := newWorld(t)
	w.logs = w.v2Line(v2Origin, w.v2URL, "start: 0")
	w.sinks[0].hook = func(report.Message, bool) error { return errors.New("down") }
	for range 60 {
		w.mine()
		w.run()
	}
	w.sinks[0].hook = nil
	before := len(w.sinks[0].got())
	w.run()
	n := 0
	for _, m := range w.sinks[0].got()[before:] {
		if strings.Contains(m.Text, "Signed as") {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d messages for more than 50 pending alerts, want 1 digest: %q", n, w.subjects()[before:])
	}
}

func TestP3ASinkThatIsRemovedIsDroppedAloud(t *testing.T) {
	w := newWorld(t)
	w.sinks = append(w.sinks, &memSink{name: "gone", hook: func(report.Message, bool) error { return errors.New("down") }})
	w.mine()
	w.run()
	w.sinks = w.sinks[:1]
	res := w.want(monitor.ExitClean)
	if res.Alerts.Pending != 0 || w.mails(`sink "gone"`) == 0 {
		t.Errorf("pending %d, mails %q", res.Alerts.Pending, w.subjects())
	}
}

func TestP4ASecondRunDoesNotStartAndALostCommitStopsTheLog(t *testing.T) {
	w := newWorld(t)
	w.mine()
	other := w.monitor()
	var second error
	done := false
	w.store.hook = func(op, name string, after bool) error {
		if op == "replace" && strings.HasPrefix(name, "state/") && !done {
			done = true
			w.store.mu.Unlock()
			_, second = other.Run(context.Background())
			w.store.mu.Lock()
		}
		return nil
	}
	w.want(monitor.ExitFindings)
	var lease *state.LeaseError
	if !errors.As(second, &lease) {
		t.Errorf("the second run: %v, want a *state.LeaseError", second)
	}
	// Another writer changes the log's state under a run that holds the lease.
	w.others(5)
	done = false
	w.store.hook = func(op, name string, after bool) error {
		if op == "replace" && strings.HasPrefix(name, "state/") && !after && !done {
			done = true
			w.store.put(name, w.store.objects[name].data)
		}
		return nil
	}
	res := w.want(monitor.ExitFailed)
	w.store.hook = nil
	w.checkInvariants(w.trees(res))
	w.checkInvariants(w.trees(w.want(monitor.ExitClean)))
}

func TestP6OneBadLogDoesNotStopTheOther(t *testing.T) {
	w := newWorld(t)
	w.mine()
	w.v1.Inject(tlogtest.Path("/api/v1/"), -1, tlogtest.Garbage())
	res := w.want(monitor.ExitFailed)
	if l := logOf(t, res, v2Origin); l.Findings != 1 {
		t.Errorf("the log beside a broken one: %+v", l)
	}
	w.v1.ClearFaults()
	if l := logOf(t, w.want(monitor.ExitFindings), v1Origin); l.Findings != 1 {
		t.Errorf("the log that was broken: %+v", l)
	}
}

func TestP6AnEntryThatDoesNotParseIsHashedKeptAndReported(t *testing.T) {
	w := newWorld(t)
	w.others(3)
	bad := [][]byte{[]byte("not JSON"), []byte(`{"apiVersion":"9.9.9","kind":"hashedrekord","spec":{}}`), {}}
	for _, b := range bad {
		w.v2.Append(b)
	}
	w.mine()
	res := w.want(monitor.ExitFindings)
	l := logOf(t, res, v2Origin)
	if l.Unparsed != len(bad) || l.Findings != 1 || l.Scanned != 7 {
		t.Errorf("got %+v", l)
	}
	kept := w.store.names("findings/" + string(l.ID) + "/unparsed/")
	if len(kept) != len(bad) {
		t.Errorf("kept %q, want %d leaves", kept, len(bad))
	}
	if w.mails("could not be parsed") != 1 {
		t.Errorf("mails: %q", w.subjects())
	}
	w.checkInvariants(w.trees(res))
}

func TestP7ARunThatIsCutShortGoesOnWhereItWas(t *testing.T) {
	w := newWorld(t)
	w.others(1500)
	w.mine()
	// One slice holds it all: what is kept is the part that was read of it.
	ctx, cancel := context.WithCancel(context.Background())
	m := w.monitor()
	m.Progress = func(_ tlog.Info, scanned, _ uint64) {
		if scanned > 600 {
			cancel()
		}
	}
	res, err := m.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if res.Exit != monitor.ExitFailed {
		t.Errorf("exit %d after an interrupt, want 1", res.Exit)
	}
	read := uint64(0)
	for _, l := range res.Logs {
		read += l.Scanned
	}
	if read == 0 {
		t.Error("nothing that was read was kept")
	}
	w.checkInvariants(w.trees(res))
	w.now = w.now.Add(time.Hour)
	res = w.want(monitor.ExitFindings)
	for _, l := range res.Logs {
		if l.Scanned != 1501 {
			t.Errorf("after the next run: %+v", l)
		}
	}
	w.checkInvariants(w.trees(res))
}

func TestP7ALeafThatCannotBeHadBecomesAHoleAfterSixHours(t *testing.T) {
	for name, withhold := range map[string]func(w *world, i uint64, give bool){
		"Rekor v1 answers 500": func(w *world, i uint64, give bool) {
			w.v1.Active().Lie(i, tlogtest.Lie{Status: 500})
			if give {
				w.v1.Active().Honest()
			}
		},
		"Rekor v1 leaves it out": func(w *world, i uint64, give bool) {
			w.v1.Active().Lie(i, tlogtest.Lie{Missing: true})
			if give {
				w.v1.Active().Honest()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.others(20)
			w.want(monitor.ExitClean)
			w.others(12)
			w.mine() // index 32: to be withheld
			w.others(5)
			w.mine() // index 38: beyond it
			withhold(w, 32, false)
			res := w.run()
			l := logOf(t, res, v1Origin)
			if l.Scanned != 32 || res.Exit != monitor.ExitFailed {
				t.Fatalf("exit %d, %+v; want the cursor before leaf 32", res.Exit, l)
			}
			// What lies beyond it is seen all the same.
			if l.Unproven == 0 || l.Findings != 1 {
				t.Errorf("beyond the leaf: %+v", l)
			}
			for range 6 {
				res = w.run()
			}
			l = logOf(t, res, v1Origin)
			if l.Scanned != 39 || l.Holes != 1 || res.Exit != monitor.ExitTamper {
				t.Fatalf("after six hours: exit %d, %+v", res.Exit, l)
			}
			withhold(w, 32, true)
			res = w.run()
			l = logOf(t, res, v1Origin)
			if l.Holes != 0 || l.Findings != 1 {
				t.Errorf("when it is served again: %+v", l)
			}
		})
	}
}

func TestP8TroubleIsAlertedOnceItHasLastedAndSaidToBeOver(t *testing.T) {
	w := newWorld(t)
	w.others(3)
	w.want(monitor.ExitClean)
	before := len(w.subjects())
	w.v2.Inject(tlogtest.Path("/"), -1, tlogtest.Status(404))
	for i := range 3 {
		w.want(monitor.ExitFailed)
		if n := len(w.subjects()) - before; n != 0 {
			t.Fatalf("%d alerts after %d hours, want none before 3: %q", n, i, w.subjects())
		}
	}
	w.want(monitor.ExitFailed)
	if n := w.mails("could not be checked"); n != 1 {
		t.Fatalf("%d alerts after 3 hours, want 1: %q", n, w.subjects())
	}
	for range 20 {
		w.run()
	}
	if n := w.mails("could not be checked"); n != 1 {
		t.Errorf("%d alerts before a day has passed, want 1", n)
	}
	for range 6 {
		w.run()
	}
	if n := w.mails("could not be checked"); n != 2 {
		t.Errorf("%d alerts after a day, want a reminder", n)
	}
	w.v2.ClearFaults()
	w.want(monitor.ExitClean)
	if n := w.mails("could not be checked"); n != 3 {
		t.Errorf("%d alerts when it is over, want 3: %q", n, w.subjects())
	}
}

func TestP8TamperingAlertsAtOnceWithTheEvidence(t *testing.T) {
	w := newWorld(t)
	w.others(50)
	w.want(monitor.ExitClean)
	fork, err := w.v2.Tree().Fork(20)
	if err != nil {
		t.Fatal(err)
	}
	_, two := w.strangerLeaves()
	for fork.Size() < 50 {
		fork.Append(two(1000 + fork.Size()))
	}
	w.v2.Show(fork)
	res := w.want(monitor.ExitTamper)
	if len(res.Incidents) != 1 || !res.Incidents[0].Proof || w.mails("TAMPERING") != 1 {
		t.Fatalf("incidents %+v, mails %q", res.Incidents, w.subjects())
	}
	if o, ok := w.store.objects[res.Incidents[0].Evidence]; !ok || strings.Count(string(o.data), "v2.example\\n50\\n") != 2 {
		t.Errorf("the evidence does not hold both signed notes: %s", o.data)
	}
	// The trusted state is frozen, exit stays 4, and an attacker cannot blind us.
	_, ours := w.entry(github(mine))
	fork.Append(ours)
	w.publish()
	res = w.want(monitor.ExitTamper)
	l := logOf(t, res, v2Origin)
	if l.Size != 50 || l.Scanned != 50 || l.Unproven != 1 || l.Findings != 1 {
		t.Errorf("while frozen: %+v", l)
	}
	if w.mails("(unproven)") != 1 {
		t.Errorf("mails %q", w.subjects())
	}
	accused := res.Incidents[0].ID
	w.decide(state.Decision{Log: l.ID, Kind: state.TakeBaseline})
	res = w.run()
	if w.follows(accused) != 1 {
		t.Errorf("the baseline is not said of %s", accused)
	}
	if l := logOf(t, res, v2Origin); res.Exit == monitor.ExitTamper || l.Scanned != 51 {
		t.Errorf("after a new baseline: exit %d, %+v", res.Exit, l)
	}
	w.want(monitor.ExitClean)
}

func TestP9LostStateIsAnErrorUntilADecision(t *testing.T) {
	for name, lose := range map[string]func(w *world, id tlog.ID){
		"gone":        func(w *world, id tlog.ID) { delete(w.store.objects, "state/"+string(id)+".json") },
		"cut short":   func(w *world, id tlog.ID) { w.store.put("state/"+string(id)+".json", []byte(`{"format": 1, "min`)) },
		"not a state": func(w *world, id tlog.ID) { w.store.put("state/"+string(id)+".json", []byte("hello")) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.others(10)
			id := logOf(t, w.want(monitor.ExitClean), v2Origin).ID
			lose(w, id)
			w.mine()
			for range 2 {
				res := w.want(monitor.ExitFailed)
				found := false
				for _, l := range res.Logs {
					found = found || l.ID == id && l.Status == monitor.StatusError && strings.Contains(l.Error, "state/"+string(id)) && strings.Contains(l.Error, "--baseline")
				}
				if !found {
					t.Fatalf("no error names the object and the decision: %+v", res.Logs)
				}
			}
			w.decide(state.Decision{Log: id, Kind: state.TakeBaseline})
			res := w.want(monitor.ExitClean)
			if l := logOf(t, res, v2Origin); l.Status != monitor.StatusBaseline || l.Scanned != 11 {
				t.Errorf("after the decision: %+v", l)
			}
			if w.mails("a new baseline is taken by decision") != 1 {
				t.Errorf("mails %q", w.subjects())
			}
			w.mine()
			w.want(monitor.ExitFindings)
		})
	}
}

func TestP9ANewerFormatIsRefused(t *testing.T) {
	w := newWorld(t)
	w.others(3)
	id := logOf(t, w.want(monitor.ExitClean), v2Origin).ID
	name := "state/" + string(id) + ".json"
	w.store.put(name, []byte(strings.Replace(string(w.store.objects[name].data), `"min_reader": 1`, `"min_reader": 7`, 1)))
	before := string(w.store.objects[name].data)
	res := w.want(monitor.ExitFailed)
	if b := string(w.store.objects[name].data); b != before {
		t.Error("state of a newer format was written over")
	}
	if len(res.Logs) != 2 {
		t.Errorf("logs %+v", res.Logs)
	}
}

func TestP9LossOfRunJSONIsNoFirstRun(t *testing.T) {
	w := newWorld(t)
	w.others(3)
	w.want(monitor.ExitClean)
	delete(w.store.objects, "run.json")
	if _, err := w.monitor().Run(context.Background()); err == nil || !strings.Contains(err.Error(), "run.json") {
		t.Errorf("got %v, want an error that names run.json", err)
	}
}

func TestP9TheFirstRunAtTheHeadSaysWhatItDoesNotRead(t *testing.T) {
	w := newWorld(t)
	w.logs = w.both("start: head")
	w.others(10)
	w.mine()
	res := w.want(monitor.ExitClean)
	l := logOf(t, res, v2Origin)
	if d := w.doc(l.ID); l.Scanned != 11 || len(d.Gaps) != 1 || d.Gaps[0].To != 11 {
		t.Errorf("got %+v, gaps %+v", l, d.Gaps)
	}
	if w.mails("read from index 11 on, those before are not") == 0 {
		t.Errorf("mails %v", w.sinks[0].got())
	}
}

// twoRunsNeeded is a schedule on which 1,300 entries of Rekor v1 take longer than a day.
func twoRunsNeeded(m *monitor.Monitor) { m.Budget, m.Every = 2*time.Second, 30*time.Hour }

func TestP9MoreThanCanBeReadIsRefusedInFigures(t *testing.T) {
	w := newWorld(t)
	w.others(1300)
	w.tune = twoRunsNeeded
	w.logs = fmt.Sprintf("  - {type: rekor-v1, url: %q, key: v1.pub, start: 0}\n", w.v1URL)
	res := w.run()
	if l := res.Logs[0]; res.Exit != monitor.ExitFailed || !strings.Contains(l.Error, "refused") || !strings.Contains(l.Error, "130 requests of 10 entries; a run of 2s every 30h0m0s can make about 120: 2 runs") {
		t.Fatalf("exit %d, %+v", res.Exit, l)
	}
	w.tune = nil
	w.want(monitor.ExitClean)
}

func TestP10AFailedRunIsSeenFromOutside(t *testing.T) {
	w := newWorld(t)
	w.v2.Inject(tlogtest.Path("/checkpoint"), -1, tlogtest.Status(404))
	if res := w.want(monitor.ExitFailed); logOf(t, res, v1Origin).Error != "" {
		t.Errorf("logs %+v", res.Logs)
	}
}
