package monitor_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
	"github.com/whosigned/whosigned/pkg/trust/trusttest"
)

// anotherRepository has the trusted root given out by another TUF repository.
func (s *sigstore) anotherRepository() {
	s.tuf = trusttest.New(s.t)
	s.publishRoot()
	s.write("tuf-root.json", s.tuf.InitialRoot())
}

func TestThatTUFMetadataIsGoneIsSaid(t *testing.T) {
	for name, byHand := range map[string]bool{"discovered": false, "by hand": true} {
		t.Run(name, func(t *testing.T) {
			const said = "is gone, and was begun anew at its initial root"
			s := newSigstore(t)
			if byHand {
				s.byHand(fmt.Sprintf("  - {type: rekor-v2, url: %q}\n", s.v2URL))
			}
			s.want(monitor.ExitClean)
			s.want(monitor.ExitClean)
			s.store.lose("trust/")
			s.want(monitor.ExitClean)
			if s.mails(said) != 1 {
				t.Errorf("nobody was told: %q", s.subjects())
			}
			// Another repository's was never there.
			s.anotherRepository()
			s.want(monitor.ExitClean)
			if s.mails(said) != 1 {
				t.Errorf("said of a repository that is new: %q", s.subjects())
			}
		})
	}
}

// unreadable makes reads below a prefix fail until it is called.
func (s *sigstore) unreadable(prefix string) (mend func()) {
	s.store.hook = func(op, name string, _ bool) error {
		if op == "read" && strings.HasPrefix(name, prefix) {
			return errors.New("503 from the bucket")
		}
		return nil
	}
	return func() { s.store.hook = nil }
}

func TestTUFMetadataThatCannotBeReadIsNotBegunAnew(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	s.want(monitor.ExitClean)
	before := s.saved0()
	s.tuf.Rollback() // what a fresh client would take
	mend := s.unreadable("trust/")
	for range 4 {
		res := s.want(monitor.ExitFailed)
		if res.Trust == monitor.TrustOK || len(res.Errors) != 1 || !strings.Contains(res.Errors[0], "503 from the bucket") || !strings.Contains(res.Errors[0], "not begun anew") || len(res.Incidents) != 0 {
			t.Fatalf("trust %q, errors %q; want it said what could not be read", res.Trust, res.Errors)
		}
	}
	if s.mails("lets this be read") != 1 || s.mails("no verified keys from before") != 0 || s.mails("check the network") != 0 {
		t.Errorf("want one mail, about the store: %q", s.subjects())
	}
	mend()
	if after := s.saved0(); after != before {
		t.Errorf("the metadata kept was changed:\n%s\nwas\n%s", after, before)
	}
	s.issue()
	if res := s.want(monitor.ExitFindings); res.Trust != monitor.TrustRejected {
		t.Errorf("trust %q, want the rollback seen", res.Trust)
	}
}

// saved0 is the metadata kept of the only repository.
func (s *sigstore) saved0() string {
	s.t.Helper()
	data, _, err := s.store.Read(s.t.Context(), s.store.names("trust/")[0])
	if err != nil {
		s.t.Fatal(err)
	}
	return string(data)
}

func TestConditionsThatABlindRunCannotJudgeStayAsTheyAre(t *testing.T) {
	for name, blind := range map[string]func(*sigstore) func(){
		"a store that fails": func(s *sigstore) func() { return s.unreadable("trust/") },
		"damaged metadata": func(s *sigstore) func() {
			kept := s.store.names("trust/")[0]
			whole, _, err := s.store.Read(s.t.Context(), kept)
			if err != nil {
				s.t.Fatal(err)
			}
			s.store.put(kept, []byte("{"))
			return func() { s.store.put(kept, whole) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSigstore(t)
			s.root.CT[1].Raw = "AAAA" // one that cannot be used
			other := s.root.Rekor[1]
			s.publishRoot()
			s.issue()
			s.want(monitor.ExitClean)
			s.ct.SetTime(s.now.Add(-48 * time.Hour)) // and a log's own
			other.Key = s.underKey(ecKey(t)).Key     // and another key
			s.root.Rekor[1] = other
			s.publishRoot()
			open := conditions(s.want(monitor.ExitFailed))
			if strings.Count(open, "\n") < 2 {
				t.Fatalf("got %s, want three conditions", open)
			}
			mend := blind(s)
			res := s.want(monitor.ExitFailed)
			for _, key := range strings.Split(open, "\n") {
				if !strings.Contains(conditions(res), key) {
					t.Errorf("a blind run has closed %s", key)
				}
			}
			mend()
			if got := conditions(s.want(monitor.ExitFailed)); got != open {
				t.Errorf("got\n%s\nwant\n%s", got, open)
			}
			for _, m := range s.sinks[0].got() {
				if strings.Contains(m.Text, "Over: trust:key") || strings.Contains(m.Text, "Over: trust:unusable") || strings.Contains(m.Text, "Over: log:") {
					t.Errorf("said to be over: %s", m.Subject)
				}
			}
		})
	}
}

func conditions(res *monitor.Result) string {
	var keys []string
	for _, c := range res.Health {
		keys = append(keys, c.Key)
	}
	return strings.Join(keys, "\n")
}

func TestWhatAFailedRefreshVerifiedIsKept(t *testing.T) {
	s := newSigstore(t)
	s.want(monitor.ExitClean)
	version := func() (v int64) {
		var kept struct{ Root string }
		var root struct{ Signed struct{ Version int64 } }
		if err := json.Unmarshal([]byte(s.saved0()), &kept); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(kept.Root), &root); err != nil {
			t.Fatal(err)
		}
		return root.Signed.Version
	}
	before := version()
	s.tuf.RotateRoot()
	s.tuf.Inject(tlogtest.Path("timestamp.json"), tlogtest.Status(503))
	if res := s.want(monitor.ExitClean); res.Trust != monitor.TrustUnreachable {
		t.Fatalf("trust %q", res.Trust)
	}
	if got := version(); got != before+1 {
		t.Errorf("got root version %d kept, want %d: the new one was verified before the refresh failed", got, before+1)
	}
}

func TestAfterALostRunEveryServiceUnderTUFCountsAsWatchedBefore(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	id := logOf(t, s.want(monitor.ExitClean), s.v2.Origin()).ID
	s.store.spoil("run.json")
	s.rotate(nil)
	s.issue()
	s.decide(state.Decision{Log: id, Kind: state.TakeBaseline})
	// The new tree is not begun at its head, nor do the others begin anew.
	res := s.run()
	if found(res, tlog.RekorV1) != 1 || found(res, tlog.RFC6962) != 1 {
		t.Errorf("exit %d, %d findings; want the new tree read from its first entry:\n%s", res.Exit, len(res.Findings), s.statuses(res))
	}
}

func TestAnAuthorityThatCannotBeReadIsNotSaidToBeALog(t *testing.T) {
	s := newSigstore(t)
	var root map[string]any
	if err := json.Unmarshal(s.root.bytes(t), &root); err != nil {
		t.Fatal(err)
	}
	root["certificateAuthorities"] = append(root["certificateAuthorities"].([]any), map[string]any{
		"uri": "https://fulcio2.example", "certChain": map[string]any{"certificates": []any{map[string]any{"rawBytes": "AAAA"}}}})
	data, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	s.tuf.SetTrustedRoot(data)
	s.want(monitor.ExitClean)
	if s.mails("certificates that lead to it count as untrusted") != 1 || s.mails("what is logged there") != 0 {
		t.Errorf("mails %q", s.subjects())
	}
}
