package monitor_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// That it had ended before we came excuses a log that does not answer, and nothing else.
func TestAnEndedLogThatServesWhatDoesNotVerifyFailsTheRun(t *testing.T) {
	for name, list := range map[string]func(*sigstore, *tlogtest.Log) (url string){
		"Rekor v1": func(s *sigstore, another *tlogtest.Log) string {
			s.root.Rekor[0].Key, s.root.Rekor[0].Ended = another, true
			return s.v1URL
		},
		"CT": func(s *sigstore, another *tlogtest.Log) string {
			s.root.CT[0].Key, s.root.CT[0].Ended = another, true
			return s.ctURL
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSigstore(t)
			another, err := tlogtest.NewRFC6962(ecKey(t))
			if err != nil {
				t.Fatal(err)
			}
			url := list(s, another.Log)
			s.publishRoot()
			s.issue()
			res := s.want(monitor.ExitFailed)
			i := slices.IndexFunc(res.Logs, func(l monitor.LogResult) bool { return l.URL == url })
			if i < 0 {
				t.Fatalf("no log at %s in %+v", url, res.Logs)
			}
			if l := res.Logs[i]; l.Status != monitor.StatusError || !strings.Contains(l.Error, "verif") || s.mails(url+" cannot be read") != 1 {
				t.Errorf("got %s: %q, mails %q; want an error that says what does not verify, and a mail at once", l.Status, l.Error, s.subjects())
			}
		})
	}
}

// Its silence excuses a dropped log of nothing that it has signed.
func TestADroppedLogThatContradictsItselfAndWithholdsItsEntriesIsNotLetGo(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	s.want(monitor.ExitClean)
	s.issue()
	s.want(monitor.ExitFindings)
	s.root.CT = s.root.CT[1:]
	s.publishRoot()
	fork, err := s.ct.Tree().Rewrite(1, []byte("another"))
	if err != nil {
		t.Fatal(err)
	}
	s.ct.Show(fork)
	s.ct.Inject(tlogtest.Path("get-entries"), 0, tlogtest.Status(503))
	res := s.want(monitor.ExitTamper)
	for _, l := range res.Logs {
		if l.Type == tlog.RFC6962 && (l.Status != monitor.StatusTamper || !strings.Contains(l.Error, "503")) {
			t.Errorf("got status %s, error %q; want %s, and that its entries cannot be read", l.Status, l.Error, monitor.StatusTamper)
		}
	}
	if idsOf(res, tlog.RFC6962) == "" || s.mails("TAMPERING") != 1 {
		t.Errorf("it is not watched, or nobody was told: %q", s.subjects())
	}
}
