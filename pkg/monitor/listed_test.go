package monitor_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// byHand configures single logs in discover's place, with keys from the TUF root.
func (s *sigstore) byHand(items string) (back func()) {
	s.t.Helper()
	discover := s.tune
	s.tune = func(m *monitor.Monitor) {
		yaml := fmt.Sprintf("state: file:///unused\ntrust: {tuf: %q, root: tuf-root.json}\nwatch: [{name: acme, subject: {glob: \"https://github.com/acme/*\"}}]\nlogs:\n%s", s.tuf.URL, items)
		cfg, err := config.Parse(filepath.Join(s.dir, "whosigned.yaml"), []byte(yaml))
		if err != nil {
			s.t.Fatal(err)
		}
		m.Config = cfg
	}
	return func() { s.tune = discover }
}

func TestDiscoverAddedLaterStartsAtTheHeadsAsAFirstRunDoes(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	s.issue()
	discover := s.byHand(fmt.Sprintf("  - {type: rekor-v2, url: %q}\n", s.v2URL))
	s.want(monitor.ExitClean)
	discover()
	if got, want := s.statuses(s.want(monitor.ExitClean)), "rekor-v1 baseline 2/2\nrekor-v2 ok 2/2\nrfc6962 baseline 2/2\nstatic-ct baseline 2/2"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestALogByHandUnderAnotherKeyOfTheTrustedRootGoesOnOnceThatIsAccepted(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	s.byHand(fmt.Sprintf("  - {type: rekor-v2, url: %q}\n", s.v2URL))
	id := logOf(t, s.want(monitor.ExitClean), s.v2.Origin()).ID
	other, _ := s.namedShard()
	s.root.Rekor[1] = listedLog{URL: s.v2URL, Key: other.Log}
	s.publishRoot()
	s.issue()
	s.want(monitor.ExitFailed)
	key, err := other.PublicKeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	s.decide(state.Decision{Log: id, Kind: state.AcceptKey, Key: string(key)})
	if l := logOf(t, s.want(monitor.ExitFindings), s.v2.Origin()); l.ID != id || l.Scanned != 2 {
		t.Errorf("got %+v, want the same log read on", l)
	}
	// A look from a terminal knows it, too.
	checked, err := s.monitor().Check(t.Context())
	if err != nil || !checked.OK() || checked.Logs[0].ID != id || !checked.Logs[0].Known {
		t.Errorf("check: %v, %+v", err, checked)
	}
	if res, err := s.monitor().Scan(t.Context(), monitor.Look{Log: string(id), To: 2}); err != nil || res.Logs[0].Scanned != 2 {
		t.Errorf("scan by the log's ID: %v, %+v", err, res)
	}
}

func TestAKeyListedBesideALogsOwnIsNotUsedUntilItIsAccepted(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	s.want(monitor.ExitClean)
	key := ecKey(t)
	other, err := tlogtest.NewRFC6962(key)
	if err != nil {
		t.Fatal(err)
	}
	s.root.CT = append(s.root.CT, listedLog{URL: s.ctURL, Key: other.Log})
	s.publishRoot()
	s.issue()
	const four = "rekor-v1 ok 2/2\nrekor-v2 ok 2/2\nrfc6962 ok 2/2\nstatic-ct ok 2/2"
	if got := s.statuses(s.want(monitor.ExitFindings)); got != four {
		t.Fatalf("before it is used:\n%s\nwant\n%s", got, four)
	}
	s.ct.SignWith(key)
	res := s.want(monitor.ExitFailed)
	if len(res.Logs) != 4 || len(res.Incidents) != 0 || s.mails("the trusted root now has another key") != 1 {
		t.Fatalf("once it is used: %d logs, incidents %+v, mails %q", len(res.Logs), res.Incidents, s.subjects())
	}
	var id tlog.ID
	for _, l := range res.Logs {
		if l.Error != "" {
			id = l.ID
		}
	}
	pem, err := other.PublicKeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	s.decide(state.Decision{Log: id, Kind: state.AcceptKey, Key: string(pem)})
	if got := s.statuses(s.want(monitor.ExitClean)); got != four {
		t.Errorf("once it is accepted:\n%s\nwant\n%s", got, four)
	}
}

func TestARekorV1ServiceThatTUFComesToListIsReadFromItsFirstEntry(t *testing.T) {
	s := newSigstore(t)
	s.want(monitor.ExitClean)
	v1, err := tlogtest.NewRekorV1(ecKey(t))
	if err != nil {
		t.Fatal(err)
	}
	one, _ := s.entry(github(mine))
	v1.Active().Append(one)
	s.root.Rekor = append(s.root.Rekor, listedLog{URL: s.serve(v1), Key: v1.Active().Log})
	s.publishRoot()
	if res := s.want(monitor.ExitFindings); len(res.Findings) != 1 {
		t.Errorf("got %d findings, want the one of the new service", len(res.Findings))
	}
}

func TestALogThatIsGoneForGoodFailsNoRun(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	// One that had ended before we came, one that the root drops, one that is excluded.
	s.root.CT[0].Ended = true
	s.ct.Inject(nil, 0, tlogtest.Status(404))
	s.items = fmt.Sprintf("  - {url: %q, exclude: true}\n", s.staticURL)
	s.publishRoot()
	s.want(monitor.ExitClean)
	s.root.Rekor, s.root.CT = s.root.Rekor[:1], s.root.CT[:1]
	s.publishRoot()
	s.v2.Inject(nil, 0, tlogtest.Status(404))
	if got, want := s.statuses(s.want(monitor.ExitClean)), " retired 0/0\nrekor-v1 ok 1/1\nrekor-v2 retired 1/1"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// Excluded, it is left alone.
	s.items += fmt.Sprintf("  - {url: %q, exclude: true}\n", s.v2URL)
	if got, want := s.statuses(s.want(monitor.ExitClean)), " retired 0/0\nrekor-v1 ok 1/1"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestATrustedRootThatListsNothingIsAFailedRun(t *testing.T) {
	s := newSigstore(t)
	s.root.Rekor, s.root.CT = nil, nil
	s.publishRoot()
	if res := s.want(monitor.ExitFailed); len(res.Errors) != 1 || !strings.Contains(res.Errors[0], "lists no log") {
		t.Errorf("got %q", res.Errors)
	}
}

func TestWithoutATrustedRootWhatStandsStaysAndWhatNeedsNoneIsWatched(t *testing.T) {
	s := newSigstore(t)
	own, err := tlogtest.NewRekorV1(ecKey(t))
	if err != nil {
		t.Fatal(err)
	}
	s.writeKey("own.pub", own.Active().Log)
	s.items = fmt.Sprintf("  - {type: rekor-v1, url: %q, key: own.pub}\n", s.serve(own))
	leaf, _ := s.entry(github("https://github.com/someone/else"))
	own.Active().Append(leaf)
	s.issue()
	s.want(monitor.ExitClean)
	fork, err := s.ct.Tree().Rewrite(0, []byte("another"))
	if err != nil {
		t.Fatal(err)
	}
	s.ct.Show(fork)
	s.sinks[0].hook = func(report.Message, bool) error { return errors.New("no route") }
	s.want(monitor.ExitTamper)
	s.sinks[0].hook = nil

	kept := s.store.names("trust/")[0]
	whole, _, err := s.store.Read(t.Context(), kept)
	if err != nil {
		t.Fatal(err)
	}
	s.store.put(kept, []byte("{"))
	own.Active().Append([]byte("no entry"))
	res := s.want(monitor.ExitTamper)
	if s.mails("TAMPERING") != 1 || res.Trust != monitor.TrustDamaged {
		t.Errorf("trust %q; what waited was not delivered: %q", res.Trust, s.subjects())
	}
	if len(res.Logs) != 1 || res.Logs[0].Scanned != 2 {
		t.Errorf("got %+v, want the log with a key of its own read", res.Logs)
	}
	s.store.put(kept, whole)
	if res := s.want(monitor.ExitTamper); len(res.Logs) != 5 {
		t.Errorf("got %d logs, want all 5 again", len(res.Logs))
	}
}

func TestAnImportThatWasCutShortCanBeRepeated(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	saved := s.saved()
	s.issue()
	writes := 0
	s.store.hook = func(op, name string, after bool) error {
		if strings.HasPrefix(name, "state/") && op == "replace" && !after {
			if writes++; writes == 2 {
				return errCrashed
			}
		}
		return nil
	}
	if _, err := s.monitor().Import(t.Context(), saved); err == nil {
		t.Fatal("got no error from an import that was cut short")
	}
	s.store.hook = nil
	imported, err := s.monitor().Import(t.Context(), saved)
	if err != nil || len(imported) != 4 {
		t.Fatalf("got %v, %v; want all 4", imported, err)
	}
	if res := s.want(monitor.ExitFindings); len(res.Findings) != 4 {
		t.Errorf("got %d findings, want the 4 of after the import", len(res.Findings))
	}
}

// A log whose issuers never come must not hold up the others: it can invent as many
// leaves that fit a rule as it likes.
func TestIssuersThatHangHoldUpNoOtherLog(t *testing.T) {
	s := newSigstore(t)
	s.want(monitor.ExitClean)
	rogue, err := tlogtest.NewCA("rogue.example")
	if err != nil {
		t.Fatal(err)
	}
	_, entry, err := rogue.IssuePrecertified(github(mine))
	if err != nil {
		t.Fatal(err)
	}
	many, err := tlogtest.SyntheticCT(entry)
	if err != nil {
		t.Fatal(err)
	}
	s.static.Generate(200, many)
	s.static.Inject(tlogtest.Path("issuer/"), 0, tlogtest.Hang())
	s.issue()
	old := s.tune
	s.tune = func(m *monitor.Monitor) { old(m); monitor.IssuerTimes(m, 20*time.Millisecond, 50*time.Millisecond) }
	res := s.want(monitor.ExitFindings)
	for _, l := range res.Logs {
		if l.Scanned != l.Size {
			t.Errorf("%s: read %d of %d", l.Type, l.Scanned, l.Size)
		}
	}
	asked := 0
	for path, n := range s.static.Requests() {
		if strings.Contains(path, "issuer/") {
			asked += n
		}
	}
	if asked == 0 || asked > 20 {
		t.Errorf("asked for issuers %d times, want a few of 200: the time for that is limited", asked)
	}
	unknown := 0
	for _, f := range res.Findings {
		if f.LogType == tlog.StaticCT && f.Trusted == "unknown" && strings.Contains(f.TrustErr, "cannot be had") {
			unknown++
		}
	}
	if unknown != 200 {
		t.Errorf("got %d findings whose chain is unknown, want 200: trouble is not distrust", unknown)
	}
}

func TestACheckWithoutStateSaysWhatAFirstRunWouldDo(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	s.items = fmt.Sprintf("  - {url: %q, exclude: true}\n", s.staticURL)
	m := s.monitor()
	m.State = nil
	checked, err := m.Check(t.Context())
	if err != nil || !checked.OK() || len(checked.Logs) != 3 {
		t.Fatalf("got %v, %+v; want three logs and no trouble", err, checked)
	}
	if !strings.Contains(strings.Join(checked.Warnings, "\n"), s.staticURL+" is excluded by the configuration") {
		t.Errorf("what is excluded is not said: %q", checked.Warnings)
	}
}
