package monitor_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// said are the notes of the identity alerts that were delivered, by the leaf hash of each
// alert's first finding; an alert that was delivered twice counts once.
func (w *world) said() map[string][]string {
	notes := map[string][]string{}
	for _, m := range w.sinks[0].got() {
		for _, a := range m.Alerts() {
			if a.Class == report.ClassIdentity && len(a.Findings) > 0 {
				notes[a.Findings[0].LeafHash.String()] = a.Notes
			}
		}
	}
	return notes
}

// isAt is the note that says where the certificate of index here was found before.
func isAt(here, there uint64, log tlog.ID, at time.Time) string {
	return fmt.Sprintf("The certificate of index %d is also at index %d of log %s, found by the run of %s.", here, there, log, at.Format(time.RFC3339))
}

// recorded is where the state says that a certificate was found first.
func (w *world) recorded(certificate string) state.Signing {
	w.t.Helper()
	first, err := state.New(w.store).PutSigning(w.t.Context(), certificate, state.Signing{Log: "nowhere"})
	if err != nil {
		w.t.Fatal(err)
	}
	return first
}

// signs adds to the Rekor v2 shard what somebody signed with a certificate.
func (s *sigstore) signs(signer tlogtest.Signer) (leaf []byte) {
	s.t.Helper()
	s.n++
	leaf, err := tlogtest.HashedRekordV002(signer, fmt.Appendf(nil, "artifact %d", s.n))
	if err != nil {
		s.t.Fatal(err)
	}
	s.v2.Append(leaf)
	s.publish()
	return leaf
}

func TestALaterRunThatFindsTheCertificateInAnotherLogSaysWhereItWasBefore(t *testing.T) {
	s := newSigstore(t)
	s.want(monitor.ExitClean)
	stranger, _, err := s.ca.IssuePrecertified(github("https://github.com/someone/else/.github/workflows/ci.yml@refs/heads/main"))
	if err != nil {
		t.Fatal(err)
	}
	signer, issued, err := s.ca.IssuePrecertified(github(mine))
	if err != nil {
		t.Fatal(err)
	}
	s.signs(stranger) // so that the two logs have the certificate at different indexes
	s.ct.Submit(issued)
	at := s.now
	before := s.want(monitor.ExitFindings).Findings[0]
	if notes := s.said()[before.LeafHash.String()]; len(notes) != 0 {
		t.Errorf("the first log that has it: got notes %q, want none", notes)
	}

	leaf := s.signs(signer)
	if f := s.want(monitor.ExitFindings).Findings[0]; f.CertificateID != before.CertificateID || f.Log == before.Log {
		t.Fatalf("got a finding of certificate %s in %s, want the one of %s in another log", f.CertificateID, f.LogType, before.LogType)
	}
	want := isAt(1, before.Index, before.Log, at)
	if got := s.said()[hashOf(leaf)]; len(got) != 1 || got[0] != want {
		t.Errorf("got notes %q, want %q", got, want)
	}
	if n := s.mails(want); n != 1 {
		t.Errorf("the note is in %d mails, want 1: %q", n, s.subjects())
	}
	// A further thing signed with it is told where the certificate was first, and what the
	// first log has again is told nothing.
	leaf = s.signs(signer)
	s.ct.Submit(issued)
	for _, f := range s.want(monitor.ExitFindings).Findings {
		var want []string
		if f.LeafHash.String() == hashOf(leaf) {
			want = []string{isAt(2, before.Index, before.Log, at)}
		}
		if got := s.said()[f.LeafHash.String()]; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s, index %d: got notes %q, want %q", f.LogType, f.Index, got, want)
		}
	}
	if got := s.recorded(before.CertificateID); got != (state.Signing{Log: before.Log, Index: before.Index, At: at}) {
		t.Errorf("got %+v recorded, want index %d of %s at %s", got, before.Index, before.Log, at)
	}
}

// forged is the certificate of an entry with another signature: it has the same
// certificate ID, and anybody can make it.
func forged(e tlogtest.CTEntry) tlogtest.CTEntry {
	e.Certificate = bytes.Clone(e.Certificate)
	e.Certificate[len(e.Certificate)-1] ^= 1
	return e
}

func TestNobodyCanPlantThatACertificateWasFoundBefore(t *testing.T) {
	s := newSigstore(t)
	s.want(monitor.ExitClean)
	signer, issued, err := s.ca.IssueForCT(github(mine))
	if err != nil {
		t.Fatal(err)
	}
	s.ct.Submit(forged(issued))
	planted := s.want(monitor.ExitFindings).Findings[0]
	at := s.now
	leaf := s.signs(signer)
	real := s.want(monitor.ExitFindings).Findings[0]
	if planted.Trusted != "no" || real.Trusted != "yes" || planted.CertificateID != real.CertificateID {
		t.Fatalf("trusted %s, then %s; certificates %s, then %s; want no, yes, and the same certificate ID", planted.Trusted, real.Trusted, planted.CertificateID, real.CertificateID)
	}
	if got := s.said()[hashOf(leaf)]; len(got) != 0 {
		t.Errorf("the real one: got notes %q, want none", got)
	}
	// Nor is a forged one that comes later told to be the same as the real one.
	s.static.Submit(forged(issued))
	if err := s.static.Publish(); err != nil {
		t.Fatal(err)
	}
	again := s.want(monitor.ExitFindings).Findings[0]
	if got := s.said()[again.LeafHash.String()]; len(got) != 0 {
		t.Errorf("the forged one: got notes %q, want none", got)
	}
	if got := s.recorded(real.CertificateID); got != (state.Signing{Log: real.Log, Index: real.Index, At: at}) {
		t.Errorf("got %+v recorded, want index %d of %s at %s", got, real.Index, real.Log, at)
	}
}

func TestWhereACertificateWasBeforeIsNoReasonToHoldBackItsAlert(t *testing.T) {
	s := newSigstore(t)
	s.want(monitor.ExitClean)
	signer, issued, err := s.ca.IssuePrecertified(github(mine))
	if err != nil {
		t.Fatal(err)
	}
	s.ct.Submit(issued)
	s.want(monitor.ExitFindings)
	names := s.store.names("signings/")
	if len(names) != 1 {
		t.Fatalf("got %q, want one certificate recorded", names)
	}
	s.store.put(names[0], []byte("{"))
	leaf := s.signs(signer)
	res := s.want(monitor.ExitFindings)
	if notes, told := s.said()[hashOf(leaf)]; !told || len(notes) != 0 || res.Alerts.Pending != 0 {
		t.Errorf("delivered %v with notes %q, %d pending; want it delivered without a note", told, notes, res.Alerts.Pending)
	}
	warned := strings.Join(res.Warnings, "\n")
	if !strings.Contains(warned, "where the certificate of index 0 was found before is unknown") || !strings.Contains(warned, names[0]) {
		t.Errorf("got warnings %q, want one that names %s", warned, names[0])
	}
}

// An alert of this run waits for the other logs, which may have the certificate too. One
// that was left from an earlier run has waited long enough.
func TestAnAlertLeftFromAnEarlierRunDoesNotWaitForLogsThatAreBeingRead(t *testing.T) {
	w := newWorld(t)
	w.others(5)
	w.want(monitor.ExitClean)
	w.ours(w.v1.Active().Log)
	w.sinks[0].hook = func(report.Message, bool) error { return errors.New("connection refused") }
	if res := w.want(monitor.ExitFailed); res.Alerts.Pending != 1 {
		t.Fatalf("alerts %+v, want one left", res.Alerts)
	}
	told := make(chan struct{})
	tell := sync.OnceFunc(func() { close(told) })
	w.sinks[0].hook = func(m report.Message, after bool) error {
		if after && strings.HasPrefix(m.Subject, "Signed as") {
			tell()
		}
		return nil
	}
	const long = 10 * time.Second // half of what an alert of this run may wait
	var asked, late atomic.Bool
	w.v2.Inject(tlogtest.Path("/tile/entries/"), 0, func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		asked.Store(true)
		select {
		case <-told:
		case <-time.After(long):
			late.Store(true)
		}
		next.ServeHTTP(rw, r)
	})
	w.others(1)
	if res := w.want(monitor.ExitClean); w.signed() != 1 || res.Alerts.Pending != 0 {
		t.Errorf("%d alerts delivered, %+v; want the one that was left", w.signed(), res.Alerts)
	}
	if !asked.Load() || late.Load() {
		t.Errorf("another log was being read: %v; delivered only after %s: %v", asked.Load(), long, late.Load())
	}
}

// killAt ends the process, as far as the store and the sink can tell, before or after the
// last of steps: beginnings of operations that come in this order, "a then b".
func (w *world) killAt(after bool, steps string) *killer {
	k := &killer{where: fmt.Sprintf("%s, after=%v", steps, after)}
	path := strings.Split(steps, " then ")
	hook := func(op string, done bool) error {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.dead {
			return errCrashed
		}
		if !strings.HasPrefix(op, path[0]) {
			return nil
		}
		if len(path) == 1 {
			if done == after {
				k.dead = true
				return errCrashed
			}
		} else if done {
			path = path[1:]
		}
		return nil
	}
	w.store.hook = func(op, name string, done bool) error { return hook(op+" "+name, done) }
	w.sinks[0].hook = func(m report.Message, done bool) error { return hook("send "+m.Subject, done) }
	return k
}

// Of two runs that find a certificate in a log each, one is killed at a step around the
// record of where it was first. The later log's alert alone says where the certificate
// was before, and it says the same however often it is made: it has one ID.
func TestWhichLogHadACertificateFirstSurvivesARunKilledAtAnyStep(t *testing.T) {
	for _, steps := range []string{ // LOG is the one that shows the certificate in that run
		"create findings/", "create signings/", "create alerts/", "create alerts/ then replace state/LOG",
		"send Signed", "send Signed then replace state/LOG",
	} {
		for _, after := range []bool{false, true} {
			for _, second := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, after=%v, second run=%v", steps, after, second), func(t *testing.T) {
					w := newWorld(t)
					w.others(3)
					res := w.want(monitor.ExitClean)
					log := logOf(t, res, v1Origin).ID
					one, two := w.entry(github(mine))
					w.mark(one, two)
					w.v1.Active().Append(one)
					if second {
						w.want(monitor.ExitFindings)
						w.v2.Append(two)
						w.publish()
						log = logOf(t, res, v2Origin).ID
					}
					k := w.killAt(after, strings.ReplaceAll(steps, "LOG", string(log)))
					w.crash(k)
					if !k.dead {
						t.Fatalf("the run has no step %s", k.where)
					}
					w.revive()
					if !second {
						w.v2.Append(two)
						w.publish()
					}
					w.checkTold(k, one, two)
				})
			}
		}
	}
}

// revive goes on with a new process once the lease of the dead one has expired.
func (w *world) revive() {
	w.now = w.now.Add(2 * time.Hour)
	w.store.hook, w.sinks[0].hook = nil, nil
}

// checkTold runs, and rechecks that all of one signing is told, and of which leaf it is
// said that the certificate was elsewhere before. A record, once made, holds.
func (w *world) checkTold(k *killer, one, two []byte) {
	w.t.Helper()
	recorded := len(w.store.names("signings/")) == 1
	res := w.run()
	w.checkInvariants(w.trees(res))
	w.checkDelivered(0, k)
	names := w.store.names("signings/")
	if len(names) != 1 {
		w.t.Fatalf("got %q, want one certificate recorded", names)
	}
	first := w.recorded(strings.TrimSuffix(strings.TrimPrefix(names[0], "signings/"), ".json"))
	if recorded && first.Log != logOf(w.t, res, v1Origin).ID {
		w.t.Errorf("got log %s recorded as the first, want the Rekor v1 tree", first.Log)
	}
	earlier, later := one, two
	if first.Log == logOf(w.t, res, v2Origin).ID { // no run but the last got so far as to record it
		earlier, later = two, one
	}
	notes, want := w.said(), isAt(3, 3, first.Log, first.At)
	if got := notes[hashOf(later)]; len(got) != 1 || got[0] != want {
		w.t.Errorf("the later log's alert: got notes %q, want %q", got, want)
	}
	if got := notes[hashOf(earlier)]; len(got) != 0 {
		w.t.Errorf("the first log's alert: got notes %q, want none", got)
	}
}
