package monitor_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// withheld is the shard's second bundle.
var withheld = tlogtest.Path("/tile/entries/001")

func TestWhatIsReadOutsideTheTrustedHistoryIsCommittedInBoundedSlices(t *testing.T) {
	// A slice ends at its limit, but for the batches that are being matched then.
	inHand := runtime.GOMAXPROCS(0) + 2
	for name, tt := range map[string]struct {
		leaf func(w *world) func(i uint64) []byte
		most int // leaves between two commits
	}{
		"leaves that do not parse": {func(*world) func(uint64) []byte {
			return func(i uint64) []byte { return append(fmt.Appendf(nil, "%d", i), make([]byte, 60_000)...) }
		}, 100 + 9*inHand},
		"leaves of ours": {func(w *world) func(uint64) []byte {
			signer, err := w.ca.Issue(github(mine))
			if err != nil {
				t.Fatal(err)
			}
			leaf, err := tlogtest.Synthetic(tlogtest.HashedRekordV002, signer)
			if err != nil {
				t.Fatal(err)
			}
			return leaf
		}, 1000 + 64*inHand},
	} {
		t.Run(name, func(t *testing.T) {
			w := shardWorld(t, "start: 0")
			w.others(50)
			w.want(monitor.ExitClean)
			f := w.fork(20, 20, 0)
			n := uint64(tt.most + 200)
			f.Generate(n, tt.leaf(w))
			w.show(f)
			slice, most := 0, 0
			w.store.hook = func(op, name string, after bool) error {
				switch {
				case !after:
				case op == "create" && strings.Contains(name, "/unparsed/"):
					slice++
				case op == "create" && strings.HasPrefix(name, "findings/"):
					slice += bytes.Count(w.store.objects[name].data, []byte(`"rule":`))
				case op == "replace" && strings.HasPrefix(name, "state/"):
					most, slice = max(most, slice), 0
				}
				return nil
			}
			if l := w.want(monitor.ExitTamper).Logs[0]; l.Unproven != f.Size() || uint64(l.Unparsed+l.Findings) != n {
				t.Errorf("%+v, want all %d leaves read", l, f.Size())
			}
			if most > tt.most || most < 50 {
				t.Errorf("%d leaves in one slice, want at most %d", most, tt.most)
			}
		})
	}
}

func TestAnErrorBeyondALeafThatCannotBeHadIsSaidToo(t *testing.T) {
	w := shardWorld(t, "start: 0")
	w.others(256)
	w.want(monitor.ExitClean)
	w.others(256)
	w.mine()
	w.v2.Inject(withheld, -1, tlogtest.Status(404))
	w.failing("create", "findings/")
	l := w.want(monitor.ExitFailed).Logs[0]
	if !strings.Contains(l.Error, "leaves 256 to 511") || !strings.Contains(l.Error, "storage hiccup") {
		t.Errorf("error %q, want both", l.Error)
	}
}

func TestARunOfHolesIsOneIncidentAndIsRefilledByNeighbours(t *testing.T) {
	w := shardWorld(t, "start: 0")
	w.others(256)
	w.want(monitor.ExitClean)
	w.others(200)
	w.mine()
	w.others(100)
	w.v2.Inject(withheld, -1, tlogtest.Status(404))
	var res *monitor.Result
	for range 8 {
		res = w.run()
	}
	if l := res.Logs[0]; l.Holes != 256 || l.Scanned != 557 || len(res.Incidents) != 1 || res.Incidents[0].Ended != nil || w.mails("no longer seen") != 0 {
		t.Fatalf("%+v, incidents %+v, mails %q; want 256 holes and one incident that goes on", l, res.Incidents, w.subjects())
	}
	before := 0
	for path, n := range w.v2.Requests() {
		if strings.Contains(path, "/tile/entries/001") {
			before -= n
		}
	}
	w.run()
	for path, n := range w.v2.Requests() {
		if strings.Contains(path, "/tile/entries/001") {
			before += n
		}
	}
	if before > 4 {
		t.Errorf("256 holes in one bundle cost %d requests a run", before)
	}
	w.v2.ClearFaults()
	res = w.want(monitor.ExitTamper)
	if l := res.Logs[0]; l.Holes != 0 || l.Findings != 1 || w.mails("no longer seen") != 1 || w.mails("Signed as") != 1 {
		t.Errorf("when it is served again: %+v, mails %q", l, w.subjects())
	}
	w.checkInvariants(w.trees(res))
}

func TestEachHistoryIsReadFromWhereItDiffersAndOnce(t *testing.T) {
	t.Run("another fork after the first was read", func(t *testing.T) {
		w := shardWorld(t, "start: 0")
		w.others(50)
		w.want(monitor.ExitClean)
		w.show(w.fork(20, 50, 1000))
		w.want(monitor.ExitTamper)
		w.show(w.fork(20, 200, 1000))
		w.want(monitor.ExitTamper)
		w.show(w.fork(20, 210, 5000, 100))
		if l := w.want(monitor.ExitTamper).Logs[0]; l.Findings != 1 || w.mails("(unproven)") != 1 {
			t.Errorf("%+v, mails %q; want ours at 100 of the second fork found", l, w.subjects())
		}
	})
	t.Run("set back and grown again", func(t *testing.T) {
		w := shardWorld(t, "start: 0")
		w.others(100)
		w.want(monitor.ExitClean)
		f := w.fork(50, 90, 7000, 60)
		w.show(f)
		if l := w.run().Logs[0]; l.Findings != 1 {
			t.Errorf("under the older checkpoint: %+v", l)
		}
		w.want(monitor.ExitTamper)
		_, two := w.strangerLeaves()
		for f.Size() < 130 {
			f.Append(two(7000 + f.Size()))
		}
		w.publish()
		res := w.want(monitor.ExitTamper)
		if l := res.Logs[0]; l.Findings != 0 || l.Unproven != 40 {
			t.Errorf("grown on: %+v, want the 40 new ones read", l)
		}
		w.decide(state.Decision{Log: res.Logs[0].ID, Kind: state.TakeBaseline})
		if l := w.want(monitor.ExitFindings).Logs[0]; l.Scanned != 130 || l.Findings != 1 {
			t.Errorf("under the new baseline: %+v, want ours at 60 proven", l)
		}
	})
	t.Run("a bad checkpoint between", func(t *testing.T) {
		w := shardWorld(t, "start: 0")
		w.others(50)
		w.want(monitor.ExitClean)
		f := w.fork(20, 50, 1000)
		w.show(f)
		w.want(monitor.ExitTamper)
		_, ours := w.entry(github(mine))
		f.Append(ours)
		w.publish()
		w.want(monitor.ExitTamper)
		w.v2.EditNote(tlogtest.Garbled)
		w.want(monitor.ExitTamper)
		w.v2.EditNote(nil)
		_, two := w.strangerLeaves()
		f.Append(two(9000))
		w.publish()
		if l := w.want(monitor.ExitTamper).Logs[0]; l.Unproven != 1 || w.mails("Signed as") != 1 {
			t.Errorf("%+v, mails %q; want the one new leaf read", l, w.subjects())
		}
	})
	t.Run("set back to a state that we know", func(t *testing.T) {
		w := shardWorld(t, "start: 0")
		w.others(99)
		w.mine()
		w.want(monitor.ExitFindings)
		old := w.fork(100, 100, 0)
		w.others(700)
		w.want(monitor.ExitClean)
		w.v2.Show(old)
		for range 2 {
			if l := w.run().Logs[0]; l.Unproven != 0 || l.Findings != 0 {
				t.Errorf("%+v, want nothing read twice", l)
			}
		}
	})
}

func TestAnAcceptedKeyKeepsTheRekorV1Tree(t *testing.T) {
	w := newWorld(t)
	w.v1Only("start: head", "v1.pub")
	w.others(5)
	w.want(monitor.ExitClean)
	w.mine()
	w.sinks[0].hook = func(report.Message, bool) error { return errors.New("down") }
	id := w.want(monitor.ExitFailed).Logs[0].ID
	w.sinks[0].hook = nil
	next := ecKey(t)
	w.v1.Active().SignWith(next)
	res := w.want(monitor.ExitTamper)
	if len(res.Incidents) != 1 || res.Incidents[0].Kind != string(tlog.BadKey) || w.mails("Signed as") != 1 {
		t.Fatalf("incidents %+v, mails %q", res.Incidents, w.subjects())
	}
	w.writeKeyOf("next.pub", next)
	other, err := tlogtest.NewRekorV1(next)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := other.Active().PublicKeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	w.decide(state.Decision{Log: id, Kind: state.AcceptKey, Key: string(pem)})
	w.mine()
	res = w.want(monitor.ExitTamper)
	if len(res.Logs) != 1 || res.Logs[0].ID != id || res.Logs[0].Entries != 1 || res.Logs[0].Findings != 1 || w.mails("a further key is accepted") != 1 {
		t.Errorf("%+v, mails %q; want the same log, read on by one entry", res.Logs, w.subjects())
	}
	w.decide(state.Decision{Log: id, Kind: state.CloseIncident, Incident: res.Incidents[0].ID})
	w.want(monitor.ExitClean)
	if res = w.want(monitor.ExitClean); len(w.doc(id).Applied) != 2 || w.mails("a further key is accepted") != 1 {
		t.Errorf("applied %q, mails %q; want each decision applied and said once", w.doc(id).Applied, w.subjects())
	}
	w.checkInvariants(w.trees(res))
}

func TestATreeThatNeverVerifiesDoesNotKeepLaterOnesFromBeingReadWhole(t *testing.T) {
	w := newWorld(t)
	next := ecKey(t)
	w.rotate(next) // the first tree is under a key that nobody configures
	w.writeKeyOf("next.pub", next)
	w.v1Only("start: head", "next.pub")
	w.others(5)
	w.want(monitor.ExitFailed)
	w.rotate(nil)
	w.ours(w.v1.Active().Log)
	res := w.want(monitor.ExitFailed)
	if len(res.Findings) != 1 || res.Findings[0].Index != 0 {
		t.Errorf("findings %+v, want ours, the new tree's first", res.Findings)
	}
}

func TestABadAnswerThatCannotBeLookedAtAgainIsNoEvidence(t *testing.T) {
	page := func(times int64, then tlogtest.Effect) tlogtest.Effect {
		var n atomic.Int64
		return func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
			if n.Add(1) > times {
				then(rw, r, next)
				return
			}
			tlogtest.Edit(func(b []byte) []byte {
				if strings.HasSuffix(r.URL.Path, "/api/v1/log") {
					return bytes.Replace(b, []byte(`rekor.example.com - `), []byte(`maintenance - `), 1)
				}
				return []byte("<html>maintenance</html>")
			})(rw, r, next)
		}
	}
	for name, tt := range map[string]struct {
		inject func(w *world)
		again  time.Duration
	}{
		"the shard goes down after it":    {func(w *world) { w.v2.Inject(nil, -1, page(1, tlogtest.Status(503))) }, time.Millisecond},
		"Rekor v1 goes down after it":     {func(w *world) { w.v1.Inject(nil, -1, page(1, tlogtest.Status(503))) }, time.Millisecond},
		"the run is ended before, shard":  {func(w *world) { w.v2.Inject(nil, -1, page(1<<40, nil)) }, time.Hour},
		"the run is ended before, Rekor1": {func(w *world) { w.v1.Inject(nil, -1, page(1<<40, nil)) }, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.others(30)
			w.want(monitor.ExitClean)
			tt.inject(w)
			w.tune = func(m *monitor.Monitor) {
				m.Again = []time.Duration{tt.again}
				if tt.again > time.Minute {
					m.Budget = 300 * time.Millisecond
				}
			}
			res := w.want(monitor.ExitFailed)
			if len(res.Incidents) != 0 || w.mails("ampering") != 0 {
				t.Errorf("incidents %+v, mails %q", res.Incidents, w.subjects())
			}
			w.tune = nil
			w.v1.ClearFaults()
			w.v2.ClearFaults()
			w.want(monitor.ExitClean)
		})
	}
}

func TestAReplicaThatLagsInARotationIsAskedAsOftenAsTheWaitsSay(t *testing.T) {
	w := newWorld(t)
	w.v1Only("start: 0", "v1.pub")
	w.others(5)
	w.want(monitor.ExitClean)
	w.rotate(nil)
	w.others(5)
	// Two of its answers lack the old tree, as from a replica that was set up anew.
	w.v1.Inject(func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/api/v1/log") }, 2, tlogtest.Edit(func(b []byte) []byte {
		var info map[string]any
		if err := json.Unmarshal(b, &info); err != nil {
			return b
		}
		info["inactiveShards"] = []any{}
		b, _ = json.Marshal(info)
		return b
	}))
	if res := w.want(monitor.ExitClean); len(res.Logs) != 2 || w.mails("no longer lists") != 0 {
		t.Errorf("logs %+v, mails %q", res.Logs, w.subjects())
	}
}

func TestAKeyTakenOutOfTheConfigurationIsAnErrorAndNoTampering(t *testing.T) {
	w := newWorld(t)
	w.v1Only("start: 0", "v1.pub")
	w.others(5)
	w.want(monitor.ExitClean)
	next := ecKey(t)
	w.rotate(next)
	w.writeKeyOf("next.pub", next)
	w.v1Only("start: 0", "next.pub") // in the place of the old one, not beside it
	res := w.want(monitor.ExitFailed)
	if len(res.Incidents) != 0 || w.mails("ampering") != 0 || !strings.Contains(res.Logs[0].Error+res.Logs[1].Error, "configure that key") {
		t.Errorf("logs %+v, incidents %+v, mails %q", res.Logs, res.Incidents, w.subjects())
	}
}

func TestWhatDoesNotVerifyAtTheFirstLookIsTamperingWithEvidence(t *testing.T) {
	w := shardWorld(t, "start: 0")
	w.others(10)
	w.v2.EditNote(tlogtest.Garbled)
	for range 3 {
		res := w.want(monitor.ExitTamper)
		if len(res.Incidents) != 1 || len(w.store.names(res.Incidents[0].Evidence)) != 1 {
			t.Fatalf("incidents %+v, want one with its evidence", res.Incidents)
		}
	}
	if n := w.mails("Suspected tampering"); n != 1 {
		t.Errorf("%d alerts of tampering, want 1: %q", n, w.subjects())
	}
	w.v2.EditNote(nil)
	w.want(monitor.ExitClean)
}

func TestABadLeftEdgeWhenReadingStartsIsAnIncidentThatStays(t *testing.T) {
	w := shardWorld(t, "coverage: consistency")
	w.others(300)
	w.want(monitor.ExitClean)
	w.logs = w.v2Line(v2Origin, w.v2URL, "start: 100")
	w.v2.Inject(tlogtest.Path("/tile/0/"), -1, tlogtest.Edit(func(b []byte) []byte { b[33] ^= 1; return b }))
	res := w.want(monitor.ExitTamper)
	if len(res.Incidents) != 1 || len(w.store.names(res.Incidents[0].Evidence)) != 1 || w.mails("Suspected tampering") != 1 {
		t.Fatalf("incidents %+v, mails %q", res.Incidents, w.subjects())
	}
	w.v2.ClearFaults()
	if l := w.want(monitor.ExitTamper).Logs[0]; l.Scanned != 300 || l.Entries != 200 || w.mails("no longer seen") != 1 {
		t.Errorf("once it is honest: %+v, mails %q", l, w.subjects())
	}
}

func TestALogCannotFillTheStateByVaryingWhatItServes(t *testing.T) {
	w := shardWorld(t, "start: 0")
	w.others(10)
	w.want(monitor.ExitClean)
	var n atomic.Int64
	w.v2.Inject(tlogtest.Path("/checkpoint"), -1, tlogtest.Edit(func([]byte) []byte { return fmt.Appendf(nil, "nonsense %d", n.Add(1)) }))
	for range 15 {
		w.want(monitor.ExitTamper)
	}
	if kept := w.store.names("incidents/"); len(kept) != 10 {
		t.Errorf("%d evidence objects after 15 runs, want the first 10", len(kept))
	}
}

func TestRoutineSigningBeyondALeafThatCannotBeHadIsNoAlarm(t *testing.T) {
	w := shardWorld(t, "start: 0")
	w.extra = "watch:\n  - name: acme\n    subject: {glob: \"https://github.com/acme/*\"}\n    expect: [{subject: {exact: \"" + mine + "\"}}]\n"
	w.others(256)
	w.want(monitor.ExitClean)
	w.others(256)
	w.mine()
	w.v2.Inject(withheld, -1, tlogtest.Status(404))
	if l := w.want(monitor.ExitFailed).Logs[0]; l.Findings != 1 || l.Expected != 1 || w.mails("Signed as") != 0 {
		t.Errorf("%+v, mails %q; want it expected", l, w.subjects())
	}
	// The same entry in another history is never routine.
	w.v2.ClearFaults()
	w.want(monitor.ExitClean)
	w.show(w.fork(20, 600, 1000, 550))
	if l := w.want(monitor.ExitTamper).Logs[0]; l.Findings != 1 || l.Expected != 0 || w.mails("(unproven)") != 1 {
		t.Errorf("in a fork: %+v, mails %q", l, w.subjects())
	}
}

func TestARetiredTreeThatGrowsIsSaidAndReadOn(t *testing.T) {
	w := newWorld(t)
	w.v1Only("start: 0", "v1.pub")
	w.others(5)
	w.want(monitor.ExitClean)
	w.rotate(nil)
	w.want(monitor.ExitClean)
	w.ours(w.v1.Trees()[0].Log)
	w.rotate(nil) // the server starts anew, and signs its inactive trees once more
	// It signs the growth and does not serve it, so that reading on is seen to fail.
	res := w.want(monitor.ExitFailed)
	for _, l := range res.Logs {
		if l.TreeID == fmt.Sprint(w.v1.Trees()[0].ID) && (l.Size != 6 || !strings.Contains(l.Error, "leaf 5")) {
			t.Errorf("%+v, want leaf 5 asked for", l)
		}
	}
	if w.mails("it grew to size 6 after") != 1 {
		t.Errorf("mails %q", w.subjects())
	}
}

func TestOneFailureOfARetiredTreeIsNotSaid(t *testing.T) {
	w := newWorld(t)
	w.v1Only("start: 0", "v1.pub")
	w.others(5)
	w.want(monitor.ExitClean)
	w.rotate(nil)
	w.want(monitor.ExitClean)
	before := len(w.subjects())
	w.v1.Inject(nil, -1, tlogtest.Status(404))
	w.want(monitor.ExitFailed) // the active tree cannot be read either
	w.v1.ClearFaults()
	w.want(monitor.ExitClean)
	if got := w.subjects()[before:]; len(got) != 0 {
		t.Errorf("mails %q, want none", got)
	}
}

func TestAFurtherShardWithoutAStartIsReadFromItsFirstEntry(t *testing.T) {
	w := shardWorld(t, "coverage: full")
	w.others(3)
	if l := w.want(monitor.ExitClean).Logs[0]; l.Entries != 0 {
		t.Errorf("the first shard: %+v, want it read from its head on", l)
	}
	next, url := w.shard("v3.example")
	_, ours := w.entry(github(mine))
	next.Append(ours)
	if err := next.Publish(); err != nil {
		t.Fatal(err)
	}
	w.logs += w.v2Line("v3.example", url, "coverage: full")
	if l := logOf(t, w.want(monitor.ExitFindings), "v3.example"); l.Entries != 1 {
		t.Errorf("the further shard: %+v", l)
	}
}

func TestAStoreThatFailsNowAndThenLosesNothing(t *testing.T) {
	w := newWorld(t)
	for range 10 {
		w.others(20)
		w.mine()
	}
	w.tune = func(m *monitor.Monitor) { m.SliceEntries = 64 }
	n := 0
	w.store.hook = func(op, name string, after bool) error {
		if op == "replace" && !after {
			if n++; n%9 == 0 {
				return errors.New("storage hiccup")
			}
		}
		return nil
	}
	for range 6 {
		if _, err := w.monitor().Run(context.Background()); err != nil {
			t.Logf("run: %v", err) // the lease could not be taken, or was not released
		}
		w.now = w.now.Add(time.Hour)
	}
	w.store.hook = nil
	res := w.run()
	w.checkInvariants(w.trees(res))
	for _, l := range res.Logs {
		if l.Scanned != 210 {
			t.Errorf("%+v", l)
		}
	}
}
