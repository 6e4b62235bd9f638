package monitor_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

const (
	retrievePath = "/log/entries/retrieve"
	searchPath   = "/index/retrieve"
	other        = "alice@acme.example"
)

// watchExact are rules that the index can be asked for.
func watchExact(subjects ...string) string {
	rules := make([]string, len(subjects))
	for i, s := range subjects {
		rules[i] = fmt.Sprintf("{name: rule %d, subject: {exact: %q}}", i, s)
	}
	return "watch: [" + strings.Join(rules, ", ") + "]\n"
}

// indexWorld is a Rekor v1 service under index coverage.
func indexWorld(t testing.TB, start string) *world {
	w := newWorld(t)
	w.logs = fmt.Sprintf("  - {type: rekor-v1, url: %q, key: v1.pub, start: %s}\n", w.v1URL, start)
	w.extra = watchExact(mine)
	w.v1.Index().On()
	w.cover(config.Index)
	return w
}

func (w *world) cover(c config.Coverage) {
	w.tune = func(m *monitor.Monitor) {
		for i := range m.Config.Logs {
			m.Config.Logs[i].Coverage = c
		}
	}
}

// email adds an entry of another signer of ours to Rekor v1.
func (w *world) email() {
	one, _ := w.entry(tlogtest.Identity{Email: other, Issuer: "https://accounts.example"})
	w.mark(one)
	w.v1.Append(one)
}

// checkIndex: every entry of ours from start on is in the findings that the state
// names, once, proven and labelled, and was delivered or is pending (P2, P3).
func (w *world) checkIndex(l monitor.LogResult, start uint64) {
	w.t.Helper()
	d := w.doc(l.ID)
	i := slices.IndexFunc(w.v1.Trees(), func(t *tlogtest.RekorTree) bool { return fmt.Sprint(t.ID) == l.TreeID })
	tree := w.v1.Trees()[i].Tree()
	found := map[uint64]int{}
	for f, err := range state.New(w.store).Findings(context.Background(), d.Findings) {
		if err != nil {
			w.t.Fatal(err)
		}
		if !f.BestEffort || f.Unproven {
			w.t.Errorf("the finding at %d is labelled best effort %v, unproven %v", f.Index, f.BestEffort, f.Unproven)
		}
		found[f.Index]++
	}
	told := map[string]bool{}
	for _, m := range w.sinks[0].got() {
		for _, hash := range leafHashes(m) {
			told[hash] = true
		}
	}
	for i := range tree.Size() {
		leaf, err := tree.Leaf(i)
		if err != nil {
			w.t.Fatal(err)
		}
		want := 0
		if w.isMine(leaf) && i >= start {
			want = 1
		}
		if found[i] != want {
			w.t.Errorf("entry %d is in %d findings, want %d", i, found[i], want)
		}
		if got := told[hashOf(leaf)]; got != (want == 1) && len(d.Outbox) == 0 {
			w.t.Errorf("entry %d was delivered: %v, want %v", i, got, want == 1)
		}
	}
}

func TestIndexCoverageFindsOnceWhatTheIndexListsAndLabelsIt(t *testing.T) {
	w := indexWorld(t, "head")
	w.others(5)
	w.mine()
	w.mine()
	w.want(monitor.ExitClean)
	if n := w.mails("2 entries from before the rules hold"); n != 1 {
		t.Errorf("%d mails say that two earlier entries are not reported, want 1: %q", n, w.subjects())
	}
	w.others(20)
	w.mine()
	l := logOf(t, w.want(monitor.ExitFindings), v1Origin)
	if l.Findings != 1 || l.Entries != 1 || l.Status != monitor.StatusOK || l.Size != 28 {
		t.Errorf("second run: %+v", l)
	}
	w.checkIndex(l, 7)
	for i := uint64(7); i < 27; i++ {
		if n := w.v1.Active().Reads(i); n != 0 {
			t.Fatalf("entry %d, which is a stranger's, was read %d times", i, n)
		}
	}
	if n := w.mails("search index, best effort"); n != 1 {
		t.Errorf("%d mails say that it is best effort, want 1", n)
	}
	before := w.v1.Requests()["POST /api/v1"+retrievePath]
	w.want(monitor.ExitClean)
	if n := w.v1.Requests()["POST /api/v1"+retrievePath]; n != before {
		t.Errorf("%d requests for entries that are settled", n-before)
	}
	if n := w.mails("2 entries from before the rules hold"); n != 1 {
		t.Errorf("%d mails say so after three runs, want 1", n)
	}
}

func TestIndexCoverageReadsFromTheConfiguredStart(t *testing.T) {
	w := indexWorld(t, "1")
	w.mine()
	w.others(3)
	w.mine()
	l := logOf(t, w.want(monitor.ExitFindings), v1Origin)
	if l.Findings != 1 || l.Status != monitor.StatusBaseline {
		t.Errorf("first run: %+v", l)
	}
	w.checkIndex(l, 1)
}

func TestAnEntryThatIsIndexedLateIsFoundLate(t *testing.T) {
	w := indexWorld(t, "head")
	w.others(3)
	w.want(monitor.ExitClean)
	w.v1.Index().Hold()
	w.mine()
	w.others(300)
	w.want(monitor.ExitClean)
	w.v1.Index().Release()
	w.checkIndex(logOf(t, w.want(monitor.ExitFindings), v1Origin), 3)
}

func TestP1AnEntryThatTheIndexPointsAtIsNotBelievedUnproven(t *testing.T) {
	stranger := func(w *world) []byte {
		one, _ := w.entry(github("https://github.com/someone/else"))
		return one
	}
	for name, tc := range map[string]struct {
		lie      func(w *world) (end func())
		unproven int // findings that are alerted all the same
	}{
		"another body under its own UUID": {func(w *world) func() {
			w.v1.Active().Lie(4, tlogtest.Lie{Data: stranger(w)})
			return w.v1.Active().Honest
		}, 0},
		"another body under the UUID asked for": {func(w *world) func() {
			leaf, _ := w.v1.Active().Tree().Leaf(4)
			w.v1.Active().Lie(4, tlogtest.Lie{Data: stranger(w), UUID: w.v1.Active().UUID(leaf)})
			return w.v1.Active().Honest
		}, 0},
		"a proof to a root that it does not lead to": {func(w *world) func() {
			return w.v1.Inject(tlogtest.Path(retrievePath), 0, tlogtest.Edit(func(body []byte) []byte {
				return bytes.ReplaceAll(body, []byte(`"rootHash":"`), []byte(`"rootHash":"00`))
			}))
		}, 1},
		"a proof in another history": {func(w *world) func() {
			fake, err := tlogtest.NewRekorV1(ecKey(w.t))
			if err != nil {
				w.t.Fatal(err)
			}
			leaf, _ := w.v1.Active().Tree().Leaf(4)
			for range 4 {
				fake.Append(stranger(w))
			}
			fake.Append(leaf)
			return w.v1.Inject(tlogtest.Path(retrievePath), 0, tlogtest.Instead(fake))
		}, 1},
		"no proof": {func(w *world) func() {
			return w.v1.Inject(tlogtest.Path(retrievePath), 0, tlogtest.Edit(func(body []byte) []byte {
				return bytes.ReplaceAll(body, []byte(`"inclusionProof"`), []byte(`"otherProof"`))
			}))
		}, 1},
		"another global index": {func(w *world) func() {
			i := uint64(3)
			w.v1.Active().Lie(4, tlogtest.Lie{Index: &i})
			return w.v1.Active().Honest
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := indexWorld(t, "head")
			w.others(4)
			w.want(monitor.ExitClean)
			w.mine() // at 4
			w.others(6)
			w.mine() // at 11, about which there is no lie
			end := tc.lie(w)
			var id tlog.ID
			for range 2 {
				l := logOf(t, w.want(monitor.ExitTamper), v1Origin)
				id = l.ID
				if l.Status != monitor.StatusTamper || l.Size != 12 {
					t.Errorf("%+v", l)
				}
				if len(w.doc(l.ID).Incidents) != 1 {
					t.Errorf("incidents %+v, want one", w.doc(l.ID).Incidents)
				}
			}
			if n := w.proven(id, 4); n != 0 {
				t.Errorf("%d findings at the entry are taken for proven", n)
			}
			if n := w.mails("(unproven)"); n != tc.unproven {
				t.Errorf("%d mails about an unproven finding, want %d: %q", n, tc.unproven, w.subjects())
			}
			end()
			l := logOf(t, w.want(monitor.ExitTamper), v1Origin) // until a decision
			if l.Findings == 0 || l.Error != "" {
				t.Errorf("after the lie: %+v", l)
			}
			if in := w.doc(l.ID).Incidents[0]; in.Ended == nil {
				t.Errorf("the incident is not over: %+v", in)
			}
			w.decide(state.Decision{Kind: state.CloseIncident, Log: l.ID, Incident: w.doc(l.ID).Incidents[0].ID})
			w.want(monitor.ExitClean)
			if four, eleven := w.proven(l.ID, 4), w.proven(l.ID, 11); four != 1 || eleven != 1 {
				t.Errorf("%d and %d proven findings, want one each", four, eleven)
			}
		})
	}
}

// proven counts the findings at an index that do not say they are unproven.
func (w *world) proven(id tlog.ID, index uint64) int {
	w.t.Helper()
	n := 0
	for f, err := range state.New(w.store).Findings(context.Background(), w.doc(id).Findings) {
		if err != nil {
			w.t.Fatal(err)
		}
		if !f.Unproven && f.Index == index {
			n++
		}
	}
	return n
}

func TestWhatVerifiesWhenAskedAgainIsNoSuspicion(t *testing.T) {
	w := indexWorld(t, "head")
	w.want(monitor.ExitClean)
	w.mine()
	w.v1.Inject(tlogtest.Path(retrievePath), 1, tlogtest.Edit(func(body []byte) []byte {
		return bytes.ReplaceAll(body, []byte(`"rootHash":"`), []byte(`"rootHash":"00`))
	}))
	w.checkIndex(logOf(t, w.want(monitor.ExitFindings), v1Origin), 0)
}

func TestAnEntryBeyondTheCheckpointWaitsForTheNextRun(t *testing.T) {
	w := indexWorld(t, "head")
	w.others(3)
	w.want(monitor.ExitClean)
	var info []byte
	isInfo := func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/api/v1/log") }
	w.v1.Inject(isInfo, 1, tlogtest.Edit(func(body []byte) []byte { info = body; return body }))
	w.want(monitor.ExitClean)
	stale := w.v1.Inject(isInfo, 0, tlogtest.Edit(func([]byte) []byte { return info }))
	w.mine()
	l := logOf(t, w.want(monitor.ExitClean), v1Origin)
	if l.Status != monitor.StatusOK || l.Size != 3 || len(l.Notes) != 1 || !strings.Contains(l.Notes[0], "newer than the checkpoint") {
		t.Errorf("%+v", l)
	}
	stale()
	w.checkIndex(logOf(t, w.want(monitor.ExitFindings), v1Origin), 3)
}

func TestTreesOfAServiceShareOneSearchAndARotationLosesNothing(t *testing.T) {
	w := indexWorld(t, "head")
	w.extra = watchExact(mine, other)
	w.others(3)
	w.want(monitor.ExitClean)
	w.mine() // at 3, the old tree's last
	w.rotate(nil)
	w.mine()
	w.email()
	before := w.v1.Requests()["POST /api/v1"+searchPath]
	res := w.want(monitor.ExitFindings)
	if n := w.v1.Requests()["POST /api/v1"+searchPath] - before; n != 3 {
		t.Errorf("%d searches for two values in two trees, want 2 and a probe", n)
	}
	if len(res.Logs) != 2 {
		t.Fatalf("%d trees", len(res.Logs))
	}
	for _, l := range res.Logs {
		start := uint64(0)
		if l.Size == 4 {
			start = 3
		}
		w.checkIndex(l, start)
	}
}

func TestATreeThatIsOverBeforeTheRulesHoldIsNotRead(t *testing.T) {
	w := indexWorld(t, "head")
	w.mine()
	w.rotate(nil)
	w.others(1)
	w.want(monitor.ExitClean)
	w.want(monitor.ExitClean)
	if n := w.v1.Trees()[0].Reads(0); n != 0 {
		t.Errorf("its entry was read %d times", n)
	}
}

func TestNewRulesHoldFromNowOnAndEarlierEntriesAreCounted(t *testing.T) {
	w := indexWorld(t, "head")
	w.others(2)
	w.want(monitor.ExitClean)
	w.email()
	w.email()
	w.mine()
	w.v1.Index().Hold()
	w.mine() // of a rule that held then, and indexed later
	w.v1.Index().Release()
	w.extra = watchExact(mine, other)
	l := logOf(t, w.want(monitor.ExitFindings), v1Origin)
	if l.Findings != 2 {
		t.Errorf("%+v: want the two of the rule that held before", l)
	}
	for _, text := range []string{"the new ones hold from index 6 on, and its search index is asked for 1 further values", "2 entries from before the rules hold", "whosigned scan --config"} {
		if n := w.mails(text); n == 0 {
			t.Errorf("no mail says %q: %q", text, w.subjects())
		}
	}
	w.email()
	l = logOf(t, w.want(monitor.ExitFindings), v1Origin)
	if l.Findings != 1 {
		t.Errorf("%+v", l)
	}
	rules := w.doc(l.ID).Rules
	if len(rules) != 2 || rules[1].From != 6 {
		t.Errorf("rules %+v", rules)
	}
	w.want(monitor.ExitClean)
}

func TestIndexCoverageGoesOnFromWhatWasReadInFull(t *testing.T) {
	w := indexWorld(t, "0")
	w.mine()
	w.cover(config.Full)
	w.want(monitor.ExitFindings)
	w.cover(config.Index)
	w.mine()
	l := logOf(t, w.want(monitor.ExitFindings), v1Origin)
	if l.Findings != 1 {
		t.Errorf("%+v: want the new one only", l)
	}
}

func TestIndexCoverageAfterConsistencyAloneFindsWhatCameSinceTheBaseline(t *testing.T) {
	w := indexWorld(t, "head")
	w.mine()
	w.cover(config.Consistency)
	w.want(monitor.ExitClean)
	w.mine()
	w.want(monitor.ExitClean)
	w.cover(config.Index)
	w.checkIndex(logOf(t, w.want(monitor.ExitFindings), v1Origin), 1)
}

func TestRulesThatTheIndexCannotBeAskedForAreRefusedOrSaid(t *testing.T) {
	w := indexWorld(t, "0")
	w.mine()
	w.extra = ""
	l := logOf(t, w.want(monitor.ExitFailed), v1Origin)
	if !strings.Contains(l.Error, "coverage: index can ask for none of the 1 rules") {
		t.Errorf("%+v", l)
	}
	w.extra = "watch: [{name: ours, subject: [{exact: " + mine + "}, {glob: \"https://github.com/acme/*\"}]}]\n"
	l = logOf(t, w.run(), v1Origin)
	if len(l.Notes) != 1 || !strings.Contains(l.Notes[0], `rule "ours": subject glob`) {
		t.Errorf("notes %q", l.Notes)
	}
}

func TestEachRuleThatTheIndexDoesNotCoverIsNoted(t *testing.T) {
	for _, tc := range []struct {
		globs, notes int
		last         string
	}{{3, 3, "host3.example"}, {20, 20, "host20.example"}, {25, 20, "(and 5 more: see whosigned check)"}} {
		w := indexWorld(t, "0")
		w.extra = strings.TrimSuffix(watchExact(mine), "]\n")
		for i := range tc.globs {
			w.extra += fmt.Sprintf(", {name: glob %d, subject: {glob: \"*@host%d.example\"}}", i+1, i+1)
		}
		w.extra += "]\n"
		w.others(1)
		l := logOf(t, w.want(monitor.ExitClean), v1Origin)
		if len(l.Notes) != tc.notes || !strings.Contains(l.Notes[0], `rule "glob 1"`) || !strings.Contains(l.Notes[tc.notes-1], tc.last) {
			t.Errorf("%d rules: %d notes %q, want %d of which the last says %q", tc.globs, len(l.Notes), l.Notes, tc.notes, tc.last)
		}
	}
}

func TestCheckSaysWhatTheIndexLeavesUncoveredOfLogsOfTheTrustedRoot(t *testing.T) {
	s := newSigstore(t)
	s.v1.Index().On()
	s.items = fmt.Sprintf("  - {url: %q, coverage: index}\n", s.v1URL)
	s.tune = func(m *monitor.Monitor) {
		cfg, err := config.Parse(filepath.Join(s.dir, "whosigned.yaml"), fmt.Appendf(nil,
			"state: file:///unused\ntrust: {tuf: %q, root: tuf-root.json}\nwatch: [{name: a, subject: {exact: %q}}, {name: b, subject: {glob: \"*@b.example\"}}, {name: c, issuer: {exact: i}}]\nlogs:\n  - discover: all\n%s",
			s.tuf.URL, mine, s.items))
		if err != nil {
			t.Fatal(err)
		}
		m.Config = cfg
	}
	m := s.monitor()
	c, err := m.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range []string{"b", "c"} {
		if !slices.ContainsFunc(c.Warnings[c.Configured:], func(w string) bool {
			return strings.Contains(w, "coverage: index does not cover rule \""+rule+"\"")
		}) {
			t.Errorf("nothing is said of rule %s: %q, of which %d are the configuration's own", rule, c.Warnings, c.Configured)
		}
	}
	if !slices.Equal(c.Warnings[:c.Configured], m.Config.Warnings) {
		t.Errorf("the first %d warnings are %q, want the configuration's own %q", c.Configured, c.Warnings[:c.Configured], m.Config.Warnings)
	}
}

func TestCheckAsksTheIndex(t *testing.T) {
	look := func(w *world) (*monitor.Checked, monitor.LogPlan) {
		t.Helper()
		c, err := w.monitor().Check(t.Context())
		if err != nil || len(c.Logs) != 1 {
			t.Fatalf("%+v, %v", c, err)
		}
		return c, c.Logs[0]
	}
	w := indexWorld(t, "0")
	w.extra = watchExact(other, mine)
	w.email()
	w.email()
	w.mine()
	before := w.v1.Requests()["POST /api/v1"+searchPath]
	c, l := look(w)
	if want := (monitor.IndexPlan{Values: 2, Asked: `email "` + other + `"`, Listed: 2}); l.Index == nil || *l.Index != want || !c.OK() {
		t.Errorf("got %+v, error %q; want %+v", l.Index, l.Error, want)
	}
	if n := w.v1.Requests()["POST /api/v1"+searchPath] - before; n != 3 {
		t.Errorf("%d searches, want 2 and a probe", n)
	}
	w.v1.Index().BeforeSubjects()
	if c, l = look(w); !c.OK() || l.Index == nil || !strings.Contains(l.Index.Warning, "rules by subjects that are no email addresses are not covered here") {
		t.Errorf("before v1.5.4: %+v, error %q", l.Index, l.Error)
	}
	w.v1.Index().Off()
	if c, l = look(w); c.OK() || !strings.Contains(l.Error, "501") {
		t.Errorf("without an index: OK %v, error %q", c.OK(), l.Error)
	}
	w.v1.Inject(tlogtest.Path(searchPath), 0, tlogtest.Status(404))
	if c, l = look(w); c.OK() || !strings.Contains(l.Error, "404") {
		t.Errorf("behind a proxy that hides it: OK %v, error %q", c.OK(), l.Error)
	}
}

func TestAnEntryThatDoesNotParseIsKeptAndReportedOnce(t *testing.T) {
	w := indexWorld(t, "head")
	w.want(monitor.ExitClean)
	leaf := []byte(`{"kind":"new","apiVersion":"9.9.9"}`)
	w.v1.Append(leaf)
	w.v1.Index().List(mine, w.v1.Active().UUID(leaf))
	w.mine()
	l := logOf(t, w.want(monitor.ExitFindings), v1Origin)
	if l.Unparsed != 1 || l.Findings != 1 || len(w.store.names("findings/"+string(l.ID)+"/unparsed/")) != 1 {
		t.Errorf("%+v", l)
	}
	if l = logOf(t, w.want(monitor.ExitClean), v1Origin); l.Unparsed != 0 {
		t.Errorf("reported again: %+v", l)
	}
}

// after every operation of the store and the sink.
