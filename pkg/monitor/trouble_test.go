package monitor_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/notify"
	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// shardWorld is a world in which only the Rekor v2 shard is watched.
func shardWorld(t testing.TB, options string) *world {
	w := newWorld(t)
	w.logs = w.v2Line(v2Origin, w.v2URL, options)
	return w
}

// fork is another history of the shard: the true one up to at, then leaves made from
// seed up to size, but for entries of ours at some indexes.
func (w *world) fork(at, size, seed uint64, ours ...uint64) *tlogtest.Tree {
	w.t.Helper()
	f, err := w.v2.Tree().Fork(at)
	if err != nil {
		w.t.Fatal(err)
	}
	_, two := w.strangerLeaves()
	for f.Size() < size {
		leaf := two(seed + f.Size())
		if slices.Contains(ours, f.Size()) {
			_, leaf = w.entry(github(mine))
		}
		f.Append(leaf)
	}
	return f
}

// show lets the shard serve and sign a tree.
func (w *world) show(f *tlogtest.Tree) {
	w.t.Helper()
	w.v2.Show(f)
	w.publish()
}

// failing makes operations of the store fail whose object begins with prefix.
func (w *world) failing(op, prefix string) {
	w.store.hook = func(o, name string, after bool) error {
		if o == op && strings.HasPrefix(name, prefix) && !after {
			return errors.New("storage hiccup")
		}
		return nil
	}
}

func (w *world) runDoc() *state.Run {
	w.t.Helper()
	d, err := state.New(w.store).LoadRun(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// hangingSink takes as long as it is given.
type hangingSink struct{ memSink }

func (s *hangingSink) Send(ctx context.Context, m report.Message) error {
	<-ctx.Done()
	return &notify.SendError{Sink: s.name, Alert: m.ID, Down: true, Err: ctx.Err()}
}

func TestASinkThatHangsCostsNeitherTheLogNorTheLease(t *testing.T) {
	w := shardWorld(t, "start: 0")
	w.tune = func(m *monitor.Monitor) {
		monitor.DeliverWithin(m, 20*time.Millisecond)
		m.Sinks = append(m.Sinks, &hangingSink{memSink{name: "slow"}})
	}
	w.mine()
	res := w.want(monitor.ExitFindings)
	if l := logOf(t, res, v2Origin); l.Error != "" || len(res.Errors) != 0 || res.Alerts.Failed["slow"] == "" || w.signed() != 1 {
		t.Errorf("%+v, errors %q, alerts %+v; want only the sink to fail", l, res.Errors, res.Alerts)
	}
	if d := w.runDoc(); d.Lease != nil || len(d.Outbox) != 1 {
		t.Errorf("lease %+v, outbox %+v; want it released, and the notice pending", d.Lease, d.Outbox)
	}
	if box := w.doc(res.Logs[0].ID).Outbox; len(box) != 1 || !box[0].Taken || box[0].Errors["slow"] == "" {
		t.Errorf("outbox %+v, want it recorded that one sink took the alert, and why the other did not", box)
	}
	w.mine()
	if l := logOf(t, w.want(monitor.ExitFindings), v2Origin); l.Scanned != 2 {
		t.Errorf("the next run: %+v", l)
	}
}

func TestAFailedWriteThatNobodyElseWonDoesNotLoseTheLog(t *testing.T) {
	w := shardWorld(t, "start: 0")
	w.mine()
	var sent atomic.Bool // by the sink's goroutine
	failed := false
	w.sinks[0].hook = func(report.Message, bool) error { sent.Store(true); return nil }
	w.store.hook = func(op, name string, after bool) error {
		if op == "replace" && strings.HasPrefix(name, "state/") && sent.Load() && !failed && !after {
			failed = true
			return errors.New("storage hiccup")
		}
		return nil
	}
	res := w.run()
	if !failed || len(res.Errors) != 0 || logOf(t, res, v2Origin).Error != "" {
		t.Errorf("errors %q, logs %+v; want only the acknowledgement lost", res.Errors, res.Logs)
	}
	w.store.hook = nil
	if res := w.want(monitor.ExitClean); res.Alerts.Pending != 0 || w.signed() != 2 {
		t.Errorf("alerts %+v, mails %q; want the alert once more, as nobody knows that it was taken", res.Alerts, w.subjects())
	}
}

func TestWhatIsToBeSaidIsKeptUntilItCouldBeWritten(t *testing.T) {
	for name, tt := range map[string]struct {
		trouble func(w *world)
		says    string
	}{
		"a baseline": {func(w *world) { w.failing("create", "alerts/") }, "baseline taken"},
		"a condition that has lasted": {func(w *world) {
			w.want(monitor.ExitClean)
			w.v2.Inject(tlogtest.Path("/"), -1, tlogtest.Status(404))
			for range 3 {
				w.want(monitor.ExitFailed)
			}
			w.failing("create", "alerts/")
		}, "could not be checked"},
		"a condition, when its commit fails": {func(w *world) {
			w.want(monitor.ExitClean)
			w.v2.Inject(tlogtest.Path("/"), -1, tlogtest.Status(404))
			for range 3 {
				w.want(monitor.ExitFailed)
			}
			n := 0 // the lease is the first
			w.store.hook = func(op, name string, after bool) error {
				if op == "replace" && name == "run.json" && !after {
					if n++; n == 2 {
						return errors.New("storage hiccup")
					}
				}
				return nil
			}
		}, "could not be checked"},
	} {
		t.Run(name, func(t *testing.T) {
			w := shardWorld(t, "start: 0")
			w.others(3)
			tt.trouble(w)
			if res := w.want(monitor.ExitFailed); len(res.Errors) == 0 {
				t.Error("no error says that an alert could not be written")
			}
			w.store.hook = nil
			w.run()
			if w.mails(tt.says) != 1 {
				t.Errorf("mails %q, want one that says %q", w.subjects(), tt.says)
			}
		})
	}
}

func TestAnOldBaselineDecisionIsNotTakenForANewOne(t *testing.T) {
	for name, lose := range map[string]func(id tlog.ID) []string{
		"the log's document is lost again": func(id tlog.ID) []string { return []string{"state/" + string(id) + ".json"} },
		"run.json is lost again":           func(tlog.ID) []string { return []string{"run.json"} },
	} {
		t.Run(name, func(t *testing.T) {
			w := shardWorld(t, "start: 0")
			w.others(10)
			id := w.want(monitor.ExitClean).Logs[0].ID
			again := func() error {
				for _, object := range lose(id) {
					delete(w.store.objects, object)
				}
				res, err := w.monitor().Run(context.Background())
				w.now = w.now.Add(time.Hour)
				if err == nil && res.Exit != monitor.ExitFailed {
					t.Fatalf("exit %d, want state that is lost to be an error: %+v", res.Exit, res.Logs)
				}
				return err
			}
			first := again()
			w.decide(state.Decision{Log: id, Kind: state.TakeBaseline})
			w.run()
			w.want(monitor.ExitClean)
			if err := again(); (err == nil) != (first == nil) {
				t.Errorf("lost again: %v; lost first: %v", err, first)
			}
		})
	}
}

func TestABaselineThatCannotBeTakenYetMovesNothing(t *testing.T) {
	for name, trouble := range map[string]func(w *world){
		"the archive cannot be listed": func(w *world) { w.failing("list", "checkpoints/") },
		"the left edge cannot be had":  func(w *world) { w.v2.Inject(tlogtest.Path("/tile/0/"), -1, tlogtest.Status(404)) },
		"the checkpoint is not signed": func(w *world) { w.v2.EditNote(tlogtest.Unsigned) },
	} {
		t.Run(name, func(t *testing.T) {
			w := shardWorld(t, "start: 10")
			w.others(50)
			w.want(monitor.ExitClean)
			f := w.fork(20, 60, 1000, 25)
			w.show(f)
			res := w.want(monitor.ExitTamper)
			id := res.Logs[0].ID
			before := w.doc(id)
			w.decide(state.Decision{Log: id, Kind: state.TakeBaseline})
			trouble(w)
			res = w.want(monitor.ExitTamper)
			after := w.doc(id)
			if after.Checkpoint != before.Checkpoint || after.Scanned.Size != before.Scanned.Size || len(after.Applied) != 0 || res.Logs[0].Error == "" {
				t.Errorf("%+v, applied %q; want nothing moved, and an error", res.Logs[0], after.Applied)
			}
			w.store.hook = nil
			w.v2.ClearFaults()
			w.v2.EditNote(nil)
			res = w.want(monitor.ExitFindings)
			if l := res.Logs[0]; l.Size != 60 || l.Scanned != 60 || l.Entries != 50 || l.Findings != 1 {
				t.Errorf("once it can be taken: %+v, want [10, 60) of the new history read", l)
			}
		})
	}
}

func TestAClosedIncidentThatEndedIsNewsWhenItComesBack(t *testing.T) {
	for name, closedFirst := range map[string]bool{"closed once it had ended": false, "closed while it went on": true} {
		t.Run(name, func(t *testing.T) {
			w := shardWorld(t, "start: 0")
			w.others(10)
			w.want(monitor.ExitClean)
			w.v2.EditNote(tlogtest.Garbled)
			res := w.want(monitor.ExitTamper)
			decide := func() {
				w.decide(state.Decision{Log: res.Logs[0].ID, Kind: state.CloseIncident, Incident: res.Incidents[0].ID})
			}
			if closedFirst {
				decide()
				w.want(monitor.ExitFailed)
				w.v2.EditNote(nil)
			} else {
				w.v2.EditNote(nil)
				w.want(monitor.ExitTamper)
				decide()
			}
			w.want(monitor.ExitClean)
			w.now = w.now.Add(90 * 24 * time.Hour)
			w.v2.EditNote(tlogtest.Garbled)
			res = w.want(monitor.ExitTamper)
			if n := w.mails("Suspected tampering"); n != 2 || len(res.Incidents) != 1 {
				t.Errorf("%d alerts, incidents %+v; want a second alert three months later", n, res.Incidents)
			}
		})
	}
}

func TestClosingAnIncidentThatGoesOnDoesNotBlindUs(t *testing.T) {
	for name, size := range map[string]uint64{"proof: two roots for one size": 50, "suspicion: it does not prove that it grew": 60} {
		t.Run(name, func(t *testing.T) {
			w := shardWorld(t, "start: 0")
			w.others(50)
			w.want(monitor.ExitClean)
			f := w.fork(20, size, 1000)
			w.show(f)
			res := w.want(monitor.ExitTamper)
			w.decide(state.Decision{Log: res.Logs[0].ID, Kind: state.CloseIncident, Incident: res.Incidents[0].ID})
			res = w.want(monitor.ExitFailed)
			if l := res.Logs[0]; !strings.Contains(l.Error, "--baseline") || l.Size != 50 {
				t.Errorf("closed while it goes on: %+v; want an error that names the decision to take", l)
			}
			for range 2 {
				_, ours := w.entry(github(mine))
				f.Append(ours)
				w.publish()
				if l := w.run().Logs[0]; l.Findings != 1 || l.Unproven != 1 || l.Scanned != 50 {
					t.Errorf("ours in what it serves now: %+v", l)
				}
			}
			if n := w.mails("(unproven)"); n != 2 {
				t.Errorf("%d alerts about us, want 2: %q", n, w.subjects())
			}
		})
	}
}

func TestAnIncidentOfALogThatIsDarkCanBeClosed(t *testing.T) {
	for name, dark := range map[string]tlogtest.Effect{"404": tlogtest.Status(404), "cut off": tlogtest.Cut()} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.others(50)
			w.want(monitor.ExitClean)
			w.show(w.fork(20, 50, 1000))
			w.v1.Active().EditNote(tlogtest.Garbled)
			res := w.want(monitor.ExitTamper)
			if len(res.Incidents) != 2 {
				t.Fatalf("incidents %+v, want one of each log", res.Incidents)
			}
			w.v1.Inject(tlogtest.Path("/"), -1, dark)
			w.v2.Inject(tlogtest.Path("/"), -1, dark)
			w.want(monitor.ExitTamper)
			for _, i := range res.Incidents {
				w.decide(state.Decision{Log: i.Log, Kind: state.CloseIncident, Incident: i.ID})
			}
			res = w.want(monitor.ExitFailed)
			if len(res.Incidents) != 0 || w.mails("closed by decision") != 2 {
				t.Errorf("incidents %+v, mails %q", res.Incidents, w.subjects())
			}
		})
	}
}

// refusingSink refuses some messages, as SendGrid's 400 does, and takes the others.
type refusingSink struct {
	*memSink
	refuses string
}

func (s *refusingSink) Send(ctx context.Context, m report.Message) error {
	if strings.Contains(m.Subject, s.refuses) {
		return &notify.SendError{Sink: s.name, Alert: m.ID, Err: errors.New("400 bad content")}
	}
	return s.memSink.Send(ctx, m)
}

func TestAnAlertThatIsRefusedOrUnreadableDoesNotHoldUpOthers(t *testing.T) {
	for name, refused := range map[string]bool{"refused": true, "unreadable": false} {
		t.Run(name, func(t *testing.T) {
			w := shardWorld(t, "start: 0")
			if refused {
				w.tune = func(m *monitor.Monitor) { m.Sinks = []notify.Sink{&refusingSink{w.sinks[0], "Signed as"}} }
			} else {
				w.sinks[0].hook = func(report.Message, bool) error { return errors.New("down") }
			}
			w.others(30)
			w.mine()
			w.run()
			w.sinks[0].hook = nil
			if !refused {
				for _, name := range w.store.names("alerts/") {
					w.store.put(name, []byte("{"))
				}
			}
			w.show(w.fork(20, 31, 1000))
			res := w.want(monitor.ExitTamper)
			if w.mails("TAMPERING") != 1 || res.Alerts.Pending == 0 || res.Alerts.Failed["folder"] == "" {
				t.Errorf("mails %q, alerts %+v; want the alert of tampering delivered beside the one that cannot be", w.subjects(), res.Alerts)
			}
		})
	}
}

func TestTheAlertsOfALogThatIsNoLongerConfiguredAreStillDelivered(t *testing.T) {
	w := newWorld(t)
	w.others(30)
	w.mine()
	w.sinks[0].hook = func(report.Message, bool) error { return errors.New("down") }
	w.want(monitor.ExitFailed)
	w.show(w.fork(20, 31, 1000))
	res := w.want(monitor.ExitTamper)
	w.v1Only("start: 0", "v1.pub")
	w.want(monitor.ExitTamper)
	w.sinks[0].hook = nil
	if now := w.want(monitor.ExitTamper); now.Alerts.Pending != 0 || w.signed() != 2 || w.mails("TAMPERING") != 1 || w.mails("no longer watched") == 0 {
		t.Errorf("alerts %+v, mails %q", now.Alerts, w.subjects())
	}
	w.decide(state.Decision{Log: res.Incidents[0].Log, Kind: state.CloseIncident, Incident: res.Incidents[0].ID})
	w.want(monitor.ExitClean) // says that it is closed
	w.want(monitor.ExitClean)
	if d := w.runDoc(); len(d.Logs) != 1 {
		t.Errorf("run.json still names %v", d.Logs)
	}
}

func TestARepeatedNoticeAfterACrashCarriesTheSameAlertID(t *testing.T) {
	w := shardWorld(t, "start: 0")
	w.others(5)
	w.want(monitor.ExitClean)
	w.extra = "watch: [{name: other, subject: {glob: \"https://github.com/other/*\"}}]\n"
	dead := false
	w.store.hook = func(op, name string, after bool) error {
		if dead {
			return errCrashed
		}
		if op == "replace" && name == "run.json" && after && strings.Contains(string(w.store.objects[name].data), `"outbox"`) {
			dead = true // the notice is in the outbox, and the log's document still holds it
			return errCrashed
		}
		return nil
	}
	if res, err := w.monitor().Run(context.Background()); err == nil && res.Exit == monitor.ExitClean {
		t.Error("a run that was killed says it is clean")
	}
	w.store.hook = nil
	w.now = w.now.Add(time.Hour)
	w.run()
	ids := map[string]int{}
	for _, m := range w.sinks[0].got() {
		if strings.Contains(m.Text, "rules were changed") {
			ids[m.ID]++
		}
	}
	if !dead || len(ids) != 1 {
		t.Errorf("the notice came under the IDs %v, want one", ids)
	}
}

func TestWhatIsSaidOnceIsInTheResult(t *testing.T) {
	w := shardWorld(t, "start: 0")
	w.others(5)
	if res := w.want(monitor.ExitClean); len(res.Notices) != 1 || !strings.Contains(res.Notices[0], "baseline taken") {
		t.Errorf("notices %q, want the baseline", res.Notices)
	}
	w.logs = w.v2Line(v2Origin, w.v2URL, "start: 0, coverage: consistency")
	w.mine()
	if res := w.want(monitor.ExitClean); len(res.Notices) != 1 || w.mails("entries from index 5 on are not read") != 1 {
		t.Errorf("notices %q, mails %q; want it said that entries are no longer read", res.Notices, w.subjects())
	}
	if res := w.want(monitor.ExitClean); len(res.Notices) != 0 {
		t.Errorf("notices %q, want none a second time", res.Notices)
	}
}

func TestASkipThatCannotBeAppliedIsRefused(t *testing.T) {
	w := shardWorld(t, "start: 0")
	w.others(256)
	id := w.want(monitor.ExitClean).Logs[0].ID
	accept := func(to uint64) error {
		_, err := w.monitor().Accept(context.Background(), state.Decision{Log: id, Kind: state.SkipTo, SkipTo: to, Reason: "a test", By: "tester"})
		return err
	}
	w.others(300)
	w.v2.Inject(tlogtest.Path("/tile/entries/001"), -1, tlogtest.Status(404))
	w.want(monitor.ExitFailed) // stuck at 256 of 556
	for _, to := range []uint64{0, 256, 557, 1 << 62} {
		var usage *monitor.NoLogError
		if err := accept(to); !errors.As(err, &usage) {
			t.Errorf("--skip-to %d: %v, want a refusal", to, err)
		}
	}
	w.show(w.fork(20, 556, 1000))
	w.want(monitor.ExitTamper)
	w.v2.Show(nil) // it tells the truth again; the proof stays
	if err := accept(512); err != nil {
		t.Fatal(err)
	}
	res := w.want(monitor.ExitTamper)
	if d := w.doc(id); d.Scanned.Size != 256 || len(d.Gaps) != 0 || len(d.Applied) != 0 || len(res.Errors) == 0 {
		t.Errorf("under proof of tampering: scanned %d, gaps %+v, errors %q", d.Scanned.Size, d.Gaps, res.Errors)
	}
}
