package monitor_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

func TestEntriesBeyondALeafWhoseHashIsWithheldTooAreStillSeen(t *testing.T) {
	w := shardWorld(t, "start: 0")
	w.others(256)
	w.want(monitor.ExitClean)
	w.others(256)
	w.v2.Inject(withheld, -1, tlogtest.Status(404))
	w.v2.Inject(tlogtest.Path("/tile/0/001"), -1, tlogtest.Status(404))
	w.mine()
	w.run()
	for range 8 {
		w.run()
	}
	n := w.signed()
	w.mine()
	w.run()
	if w.signed() <= n {
		t.Errorf("entries of ours seen after six hours: %d then %d", n, w.signed())
	}
}

func TestASinkThatHangsIsAHealthCondition(t *testing.T) {
	w := shardWorld(t, "start: 0")
	w.tune = func(m *monitor.Monitor) {
		monitor.DeliverWithin(m, 50*time.Millisecond)
		m.Sinks = append(m.Sinks, &hangingSink{memSink{name: "slow"}})
	}
	w.mine()
	w.run()
	for range 4 {
		w.run()
	}
	if w.mails("does not take alerts") == 0 {
		t.Errorf("nobody is told: %q", w.subjects())
	}
}

func TestAlertsOfALogThatIsNoLongerConfiguredSurviveAReadError(t *testing.T) {
	w := newWorld(t)
	w.others(30)
	w.mine()
	w.sinks[0].hook = func(report.Message, bool) error { return errors.New("down") }
	res := w.run()
	id := logOf(t, res, "v2.example").ID
	w.v1Only("start: 0", "v1.pub")
	w.store.hook = func(op, name string, after bool) error {
		if op == "read" && strings.HasPrefix(name, "state/"+string(id)) {
			return errors.New("storage hiccup")
		}
		return nil
	}
	w.run()
	w.store.hook, w.sinks[0].hook = nil, nil
	w.run()
	w.run()
	if n := w.signed(); n != 2 {
		t.Errorf("%d alerts, want 2; run.json %v; outbox %+v", n, w.runDoc().Logs, w.doc(id).Outbox)
	}
}

func TestALogAtTwoURLsIsWatchedAtOneAndTheOtherIsAnError(t *testing.T) {
	w := newWorld(t)
	w.others(5)
	w.v1Only("start: 0", "v1.pub")
	w.want(monitor.ExitClean)
	for _, again := range []string{w.serve(w.v1), w.serve(w.v1)} { // one may sort before the first
		w.logs += fmt.Sprintf("  - {type: rekor-v1, url: %q, key: v1.pub, start: 0}\n", again)
	}
	w.mine()
	res := w.want(monitor.ExitFailed)
	read := 0
	for _, l := range res.Logs {
		if l.URL == w.v1URL && l.Error == "" && l.Findings == 1 {
			read++
		} else if !strings.Contains(l.Error, "is watched at "+w.v1URL+" already") {
			t.Errorf("got %+v", l)
		}
	}
	if read != 1 || len(res.Logs) != 3 || w.signed() != 1 {
		t.Errorf("read at %d of %d URLs, and %d alerts; want 1 of 3, and 1", read, len(res.Logs), w.signed())
	}
}

func TestHolesAreAskedForHoweverOftenRunsAre(t *testing.T) {
	w := shardWorld(t, "start: 0")
	w.tune = func(m *monitor.Monitor) { m.Every = 500 * time.Millisecond }
	w.others(256)
	w.run()
	w.others(300)
	w.v2.Inject(withheld, -1, tlogtest.Status(404))
	for range 8 {
		w.run()
	}
	if res := w.run(); res.Logs[0].Holes != 256 {
		t.Errorf("%d holes, want 256", res.Logs[0].Holes)
	}
}

func TestASetBackLogThatWasNotReadToItsEndIsReadAsItIsServed(t *testing.T) {
	w := shardWorld(t, "start: 0")
	w.others(200)
	w.want(monitor.ExitClean)
	w.others(412)
	end := w.v2.Inject(tlogtest.Path("/tile/entries/"), -1, tlogtest.Status(503))
	w.run()
	end()
	w.show(w.fork(50, 256, 7000, 100))
	for range 3 {
		w.run()
	}
	if w.signed() == 0 {
		t.Errorf("what it serves was not read: %q", w.subjects())
	}
}

func TestRewrittenEntriesAreReadAfterABaseline(t *testing.T) {
	for name, refused := range map[string]bool{"proofs served": false, "proofs refused in one run": true} {
		t.Run(name, func(t *testing.T) {
			w := shardWorld(t, "start: 0")
			w.others(300)
			w.want(monitor.ExitClean)
			w.others(300)
			w.want(monitor.ExitClean)
			w.show(w.fork(50, 512, 7000, 100))
			if refused {
				end := w.v2.Inject(tlogtest.Path("/tile/0/"), -1, tlogtest.Status(503))
				w.run()
				end()
			}
			w.run()
			w.run()
			res := w.run()
			w.decide(state.Decision{Log: res.Logs[0].ID, Kind: state.TakeBaseline})
			w.run()
			if w.signed() == 0 {
				t.Errorf("they were not read: %q", w.subjects())
			}
		})
	}
}

func TestAHoleIsFilledThoughItsNeighbourIsStillMissing(t *testing.T) {
	w := shardWorld(t, "start: 0")
	w.others(256)
	w.want(monitor.ExitClean)
	w.others(256)
	w.mine()
	w.others(300)
	w.v2.Inject(withheld, -1, tlogtest.Status(404))
	end := w.v2.Inject(tlogtest.Path("/tile/entries/002"), -1, tlogtest.Status(404))
	for range 16 {
		w.run()
	}
	end()
	w.run()
	w.run()
	res := w.run()
	if res.Logs[0].Holes != 256 {
		t.Errorf("holes %d, want 256; mails %d", res.Logs[0].Holes, w.signed())
	}
}

func TestABaselineKeepsTheHolesBelowIt(t *testing.T) {
	w := shardWorld(t, "start: 0")
	w.others(256)
	w.want(monitor.ExitClean)
	w.mine()
	w.others(400)
	w.v2.Inject(withheld, -1, tlogtest.Status(404))
	var res *monitor.Result
	for range 8 {
		res = w.run()
	}
	size := w.v2.Tree().Size()
	w.others(10)
	w.run()
	w.show(w.fork(size, size+10, 9000))
	w.run()
	w.decide(state.Decision{Log: res.Logs[0].ID, Kind: state.TakeBaseline})
	w.run()
	w.v2.ClearFaults()
	w.run()
	if w.signed() == 0 {
		t.Errorf("entry 256 never read: %q", w.subjects())
	}
}

func TestTheTamperAlertOfALogNeverSeenSurvivesAFailedWrite(t *testing.T) {
	w := shardWorld(t, "start: 0")
	w.others(5)
	w.v2.EditNote(tlogtest.Unsigned)
	w.publish()
	w.store.hook = func(o, name string, after bool) error {
		if o == "create" && strings.HasPrefix(name, "incidents/") && !after {
			return errors.New("storage hiccup")
		}
		return nil
	}
	w.run()
	w.store.hook = nil
	w.run()
	w.run()
	if w.mails("Suspected tampering") == 0 {
		t.Errorf("no tamper alert: %q", w.subjects())
	}
}

func TestEntriesOfAForkThatCouldNotBeHadAreAskedForAgain(t *testing.T) {
	w := shardWorld(t, "start: 0")
	w.others(300)
	w.want(monitor.ExitClean)
	w.show(w.fork(50, 300, 7000, 100))
	end := w.v2.Inject(tlogtest.Path("/tile/entries/"), -1, tlogtest.Status(503))
	w.run()
	end()
	w.run()
	w.run()
	if w.signed() == 0 {
		t.Errorf("never read: %q", w.subjects())
	}
}
