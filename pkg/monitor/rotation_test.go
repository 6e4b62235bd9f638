package monitor_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// v1Only configures the Rekor v1 service with some keys.
func (w *world) v1Only(options string, keys ...string) {
	w.logs = fmt.Sprintf("  - {type: rekor-v1, url: %q, key: [%s], %s}\n", w.v1URL, strings.Join(keys, ", "), options)
}

// ours appends an entry of ours to a log.
func (w *world) ours(l *tlogtest.Log) {
	one, two := w.entry(github(mine))
	leaf := one
	if l == w.v2.Log {
		leaf = two
	}
	w.mark(leaf)
	l.Append(leaf)
}

// total sums up what the logs' results say, over all runs of a test.
type total struct{ entries, findings uint64 }

func (s *total) add(res *monitor.Result) {
	for _, l := range res.Logs {
		s.entries += l.Entries
		s.findings += uint64(l.Findings)
	}
}

func TestARotatedRekorV1TreeIsReadToItsEndAndTheNewOneFromZero(t *testing.T) {
	for name, newKey := range map[string]bool{"same key": false, "new key, configured before": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			keys := []string{"v1.pub"}
			next := ecKey(t)
			if newKey {
				w.writeKeyOf("v1b.pub", next)
				keys = append(keys, "v1b.pub")
			}
			w.v1Only("start: head", keys...)
			one, _ := w.strangerLeaves()
			grow := func(l *tlogtest.Log, n int) {
				for range n {
					l.Append(one(l.Tree().Size() + 10_000))
				}
			}
			grow(w.v1.Active().Log, 25)
			w.want(monitor.ExitClean)

			var sum total
			old := w.v1.Active()
			grow(old.Log, 13)
			w.ours(old.Log) // the old tree's last entry
			var key *ecdsaKey
			if newKey {
				key = next
			}
			w.rotate(key)
			w.ours(w.v1.Active().Log) // the new tree's first
			grow(w.v1.Active().Log, 31)

			res := w.want(monitor.ExitFindings)
			sum.add(res)
			if len(res.Logs) != 2 || len(res.Incidents) != 0 {
				t.Fatalf("logs %+v, incidents %+v", res.Logs, res.Incidents)
			}
			w.checkInvariants(w.trees(res))
			for range 2 {
				res = w.want(monitor.ExitClean)
				sum.add(res)
			}
			if sum.entries != 14+32 || sum.findings != 2 {
				t.Errorf("read %d entries with %d findings over all runs, want 46 and 2", sum.entries, sum.findings)
			}
			for _, l := range res.Logs {
				want := monitor.StatusOK
				if l.TreeID == fmt.Sprint(old.ID) {
					want = monitor.StatusRetired
				}
				if l.Status != want || l.Scanned != l.Size {
					t.Errorf("tree %s: %+v, want status %s", l.TreeID, l, want)
				}
			}
		})
	}
}

func TestARekorV1TreeUnderAKeyThatIsNotConfiguredIsAnErrorAndNothingIsLost(t *testing.T) {
	w := newWorld(t)
	w.v1Only("start: head", "v1.pub")
	w.others(5)
	w.want(monitor.ExitClean)
	next := ecKey(t)
	old := w.v1.Active()
	w.ours(old.Log)
	w.rotate(next)
	w.ours(w.v1.Active().Log)
	res := w.want(monitor.ExitFailed)
	if len(res.Findings) != 1 {
		t.Errorf("findings of the old tree: %+v", res.Findings)
	}
	if w.mails("verifies") == 0 {
		t.Errorf("nobody was told: %q", w.subjects())
	}
	w.writeKeyOf("v1b.pub", next)
	w.v1Only("start: head", "v1.pub", "v1b.pub")
	res = w.want(monitor.ExitFindings)
	if len(res.Findings) != 1 || res.Findings[0].Index != 0 {
		t.Errorf("findings of the new tree: %+v", res.Findings)
	}
	w.checkInvariants(w.trees(res))
}

func TestAShardThatIsFrozenIsReadToItsEndAndMayGoDark(t *testing.T) {
	w := newWorld(t)
	w.logs = w.v2Line(v2Origin, w.v2URL, "start: head")
	w.others(300)
	w.want(monitor.ExitClean)
	w.others(40)
	w.mine() // its last entry
	if err := w.v2.Freeze(w.now); err != nil {
		t.Fatal(err)
	}
	second, secondURL := w.shard("v3.example")
	_, ours := w.entry(github(mine))
	second.Append(ours)
	if err := second.Publish(); err != nil {
		t.Fatal(err)
	}
	w.logs += w.v2Line("v3.example", secondURL, "start: 0")
	res := w.want(monitor.ExitFindings)
	l := logOf(t, res, v2Origin)
	if l.Findings != 1 || l.Entries != 41 || len(res.Incidents) != 0 {
		t.Errorf("the frozen shard: %+v, incidents %+v", l, res.Incidents)
	}
	if l := logOf(t, res, "v3.example"); l.Findings != 1 || l.Scanned != 1 {
		t.Errorf("the new shard: %+v", l)
	}
	if l := logOf(t, w.want(monitor.ExitClean), v2Origin); l.Status != monitor.StatusRetired || l.Entries != 0 {
		t.Errorf("once it was read to its end: %+v", l)
	}
	w.v2.Inject(nil, 0, tlogtest.Status(404))
	for range 5 {
		res = w.want(monitor.ExitClean)
	}
	if l := logOf(t, res, v2Origin); l.Status != monitor.StatusRetired || l.Error != "" {
		t.Errorf("gone dark: %+v", l)
	}
	if n := w.mails("does not answer"); n != 1 {
		t.Errorf("%d notices that it went dark, want 1: %q", n, w.subjects())
	}
}

func TestALogThatGrowsAfterItSignedThatItIsFrozenIsProof(t *testing.T) {
	w := newWorld(t)
	w.logs = w.v2Line(v2Origin, w.v2URL, "start: 0")
	w.others(30)
	if err := w.v2.Freeze(w.now); err != nil {
		t.Fatal(err)
	}
	w.want(monitor.ExitClean)
	w.others(1)
	res := w.want(monitor.ExitTamper)
	if len(res.Incidents) != 1 || res.Incidents[0].Kind != string(tlog.FrozenGrowth) || !res.Incidents[0].Proof {
		t.Errorf("incidents %+v", res.Incidents)
	}
}

func TestATreeThatIsHiddenIsSaidAtOnce(t *testing.T) {
	w := newWorld(t)
	w.v1Only("start: 0", "v1.pub")
	w.others(5)
	old := w.v1.Active()
	w.want(monitor.ExitClean)
	w.others(3) // so that it was not read to its end
	w.rotate(nil)
	old.Hide()
	w.want(monitor.ExitFailed)
	if n := w.mails("no longer lists"); n != 1 {
		t.Errorf("%d alerts in the first run, want 1: %q", n, w.subjects())
	}
}

func TestReplicasThatLagWhileATreeRotatesAreNoFalseAlarm(t *testing.T) {
	w := newWorld(t)
	w.others(40)
	w.want(monitor.ExitClean)
	w.others(40)
	w.v1.Active().At(80, 60, 40)
	w.v2.At(80, 60, 40)
	for range 4 {
		res := w.run()
		if len(res.Incidents) != 0 {
			t.Fatalf("incidents %+v", res.Incidents)
		}
	}
	w.v1.Active().At()
	w.v2.At()
	res := w.want(monitor.ExitClean)
	for _, l := range res.Logs {
		if l.Scanned != 80 {
			t.Errorf("%+v", l)
		}
	}
}

func TestAnOlderCheckpointThatCannotBeProvenIsARollbackOnceItHasLasted(t *testing.T) {
	w := newWorld(t)
	w.logs = w.v2Line(v2Origin, w.v2URL, "start: 0")
	w.others(100)
	w.want(monitor.ExitClean)
	backup, err := w.v2.Tree().Fork(100)
	if err != nil {
		t.Fatal(err)
	}
	w.others(700)
	w.want(monitor.ExitClean)
	w.v2.Show(backup) // the operator restored it: tiles beyond it are gone
	res := w.run()
	if l := logOf(t, res, v2Origin); l.Status != monitor.StatusStale || len(res.Incidents) != 0 {
		t.Fatalf("in the first run: %+v, incidents %+v", l, res.Incidents)
	}
	w.now = w.now.Add(-time.Hour + 5*time.Minute)
	if res := w.run(); len(res.Incidents) != 0 {
		t.Fatalf("after 5 minutes: incidents %+v", res.Incidents)
	}
	res = w.want(monitor.ExitTamper)
	if res.Incidents[0].Kind != string(tlog.Rollback) || res.Incidents[0].Proof || w.mails("cannot prove that the one leads to the other") != 1 {
		t.Errorf("incidents %+v, mails %q", res.Incidents, w.subjects())
	}
}
