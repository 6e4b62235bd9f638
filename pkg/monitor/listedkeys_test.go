package monitor_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"fmt"
	"html"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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

const otherKey = "the trusted root now has another key"

// underKey is the same shard as the trusted root lists it under another key.
func (s *sigstore) underKey(key crypto.Signer) listedLog {
	s.t.Helper()
	l, err := tlogtest.NewTiles(strings.TrimPrefix(s.v2URL, "http://"), key)
	if err != nil {
		s.t.Fatal(err)
	}
	return listedLog{URL: s.v2URL, Key: l.Log}
}

// accept takes the key of a listed log for the log with that ID.
func (s *sigstore) accept(id tlog.ID, l listedLog) {
	s.t.Helper()
	key, err := l.Key.PublicKeyPEM()
	if err != nil {
		s.t.Fatal(err)
	}
	s.decide(state.Decision{Log: id, Kind: state.AcceptKey, Key: string(key)})
}

// With an ECDSA key, nothing in the trusted root tells a shard from a Rekor v1 service.
func TestAnECDSAKeyInAShardsPlaceIsAnotherKeyAndNoNewService(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	id := logOf(t, s.want(monitor.ExitClean), s.v2.Origin()).ID
	key := ecKey(t)
	s.root.Rekor[1] = s.underKey(key)
	s.publishRoot()
	// Another history altogether under the new key.
	evil := s.root.Rekor[1]
	forged, err := tlogtest.NewTiles(s.v2.Origin(), key)
	if err != nil {
		t.Fatal(err)
	}
	_, foreign := s.entry(github("https://github.com/other/x"))
	forged.Append(foreign, foreign, foreign)
	if err := forged.Publish(); err != nil {
		t.Fatal(err)
	}
	mend := s.v2.Inject(nil, 0, tlogtest.Instead(forged))
	for range 2 {
		res := s.want(monitor.ExitFailed)
		if l := logOf(t, res, s.v2.Origin()); l.ID != id || !strings.Contains(l.Error, "another key") || len(res.Logs) != 4 {
			t.Fatalf("got %+v of %d logs, want the shard held", l, len(res.Logs))
		}
	}
	if s.mails(otherKey) != 1 {
		t.Errorf("nobody was told: %q", s.subjects())
	}
	mend()
	s.v2.SignWith(key)
	s.issue()
	s.accept(id, evil)
	if l := logOf(t, s.want(monitor.ExitFindings), s.v2.Origin()); l.ID != id || l.Scanned != 2 {
		t.Errorf("got %+v, want the same log read on once the key is accepted", l)
	}
}

func TestAnECDSAShardIsHeldToItsKeyAsAnyOther(t *testing.T) {
	for _, beside := range []string{"before", "after", "in place of"} {
		t.Run(beside, func(t *testing.T) {
			s := newSigstore(t)
			first, second := ecKey(t), ecKey(t)
			old, another := s.underKey(first), s.underKey(second)
			s.v2.SignWith(first)
			s.root.Rekor[1] = old
			s.publishRoot()
			s.issue()
			id := logOf(t, s.want(monitor.ExitClean), s.v2.Origin()).ID
			s.root.Rekor = map[string][]listedLog{
				"before": {s.root.Rekor[0], another, old}, "after": {s.root.Rekor[0], old, another}, "in place of": {s.root.Rekor[0], another},
			}[beside]
			s.publishRoot()
			s.issue()
			if beside != "in place of" { // and not in use
				if l := logOf(t, s.want(monitor.ExitFindings), s.v2.Origin()); l.ID != id || l.Scanned != 2 {
					t.Fatalf("got %+v, want it read on under its key", l)
				}
			}
			s.v2.SignWith(second)
			res := s.want(monitor.ExitFailed)
			if l := logOf(t, res, s.v2.Origin()); l.ID != id || len(res.Incidents) != 0 || s.mails(otherKey) != 1 {
				t.Fatalf("got %+v, incidents %+v, mails %q; want it held", l, res.Incidents, s.subjects())
			}
			s.accept(id, another)
			s.issue()
			if l := logOf(t, s.want(monitor.ExitFindings), s.v2.Origin()); l.ID != id || l.Scanned != l.Size {
				t.Errorf("got %+v, want it read on under both keys", l)
			}
		})
	}
}

func TestAnECDSAShardThatMovesAndIsDownThereIsNotForgotten(t *testing.T) {
	s := newSigstore(t)
	key := ecKey(t)
	s.v2.SignWith(key)
	s.root.Rekor[1] = s.underKey(key)
	s.publishRoot()
	s.issue()
	id := logOf(t, s.want(monitor.ExitClean), s.v2.Origin()).ID
	s.root.Rekor[1].URL = s.serve(http.NotFoundHandler())
	s.publishRoot()
	if res := s.want(monitor.ExitFailed); idsOf(res, tlog.RekorV2) != string(id) || s.mails("not configured any more") != 0 {
		t.Errorf("got\n%s\nmails %q; want the log that is down", s.statuses(res), s.subjects())
	}
}

func TestARekorV1ServiceBesideAShardAtOneURLIsAServiceOfItsOwn(t *testing.T) {
	s := newSigstore(t)
	s.besideShard(s.v1, "/api/")
	service := s.root.Rekor[0]
	s.root.Rekor = s.root.Rekor[1:]
	s.publishRoot()
	s.issue()
	s.want(monitor.ExitClean)
	service.URL = s.v2URL
	s.root.Rekor = append(s.root.Rekor, service)
	s.publishRoot()
	s.issue()
	for range 2 {
		res := s.run()
		if got, want := s.statuses(res), "rekor-v1 ok 2/2"; res.Exit == monitor.ExitFailed || !strings.Contains(strings.Replace(got, "baseline", "ok", 1), want) || s.mails(otherKey) != 0 {
			t.Fatalf("exit %d, mails %q, got\n%s\nwant both read", res.Exit, s.subjects(), got)
		}
	}
	// The shard's key is dropped: the service has not taken its place.
	s.root.Rekor = s.root.Rekor[1:]
	s.publishRoot()
	s.issue()
	if res := s.want(monitor.ExitFindings); found(res, tlog.RekorV2) != 1 {
		t.Errorf("the shard's last entry is not read:\n%s", s.statuses(res))
	}
}

func TestAnotherKeyUnderTheSameLogIDIsHeldUntilItIsAccepted(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	id := logOf(t, s.want(monitor.ExitClean), s.v2.Origin()).ID
	raw, err := hex.DecodeString(string(id))
	if err != nil {
		t.Fatal(err)
	}
	key := ecKey(t)
	s.root.Rekor[1] = s.underKey(key)
	s.root.Rekor[1].ID = raw
	s.publishRoot()
	s.v2.SignWith(key)
	s.issue()
	for range 2 { // what was remembered is not overwritten
		res := s.want(monitor.ExitFailed)
		if l := logOf(t, res, s.v2.Origin()); l.ID != id || l.Scanned != 1 || !strings.Contains(l.Error, "another key") || len(res.Incidents) != 0 {
			t.Fatalf("got %+v, incidents %+v; want it held", l, res.Incidents)
		}
	}
	if s.mails(otherKey) != 1 {
		t.Errorf("want one mail about it: %q", s.subjects())
	}
	s.accept(id, s.root.Rekor[1])
	if l := logOf(t, s.want(monitor.ExitFindings), s.v2.Origin()); l.ID != id || l.Scanned != 2 {
		t.Errorf("got %+v, want it read on", l)
	}
	s.issue()
	if l := logOf(t, s.want(monitor.ExitFindings), s.v2.Origin()); l.Scanned != 3 || l.Status != monitor.StatusOK {
		t.Errorf("got %+v, want it read on from then", l)
	}
}

func TestAnotherKeyUnderTheSameIDOpensNewTreesOfRekorV1Only(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	before := idsOf(s.want(monitor.ExitClean), tlog.RekorV1)
	raw, err := hex.DecodeString(before[:64])
	if err != nil {
		t.Fatal(err)
	}
	s.issue() // the last entry under the old key
	key := ecKey(t)
	s.rotate(key)
	s.root.Rekor[0] = listedLog{URL: s.v1URL, Key: s.v1.Active().Log, ID: raw}
	s.publishRoot()
	s.issue()
	res := s.want(monitor.ExitFindings)
	if ids := idsOf(res, tlog.RekorV1); found(res, tlog.RekorV1) != 2 || !strings.Contains(ids, before) || s.mails("another key under the ID") != 1 {
		t.Errorf("got %d findings in %s, mails %q; want the old tree read on, the new one from its first entry, and a word about it", found(res, tlog.RekorV1), ids, s.subjects())
	}
	// The old tree is not the new key's.
	s.v1.Trees()[0].SignWith(key)
	if res := s.run(); res.Exit != monitor.ExitTamper {
		t.Errorf("exit %d, want %d: a watched tree is signed by a key that is not its own", res.Exit, monitor.ExitTamper)
	}
}

func TestTheMailAboutAnotherKeySavesAndAcceptsIt(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	s.want(monitor.ExitClean)
	long, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tlogtest.NewRFC6962(long)
	if err != nil {
		t.Fatal(err)
	}
	another := listedLog{URL: s.v2URL, Key: l.Log}
	s.root.Rekor[1] = another
	s.publishRoot()
	old := s.tune
	s.tune = func(m *monitor.Monitor) { old(m); m.Config.State = "gs://acme-state/x" }
	s.want(monitor.ExitFailed)
	want, err := another.Key.PublicKeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	save, accept := regexp.MustCompile(`\(echo .*? > new\.pub`), regexp.MustCompile(`whosigned accept .*? --reason`)
	i := slices.IndexFunc(s.sinks[0].got(), func(m report.Message) bool { return strings.Contains(m.Text, "> new.pub") })
	if i < 0 {
		t.Fatalf("no mail has a command: %q", s.subjects())
	}
	m := s.sinks[0].got()[i]
	for part, text := range map[string]string{"text": m.Text, "HTML": html.UnescapeString(strings.ReplaceAll(m.HTML, "<wbr>", ""))} {
		if got := accept.FindString(text); !strings.Contains(got, "--state gs://acme-state/x --log ") || !strings.Contains(got, " --key new.pub ") {
			t.Errorf("%s: the state, the log or the key is not named: %s", part, got)
		}
		if command := save.FindString(text); strings.ContainsAny(command, "%\\") {
			t.Errorf("%s: %s: a sink shows some of that otherwise", part, command)
		}
		dir := t.TempDir()
		sh := exec.Command("sh", "-c", save.FindString(text))
		sh.Dir = dir
		if out, err := sh.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", part, err, out)
		}
		saved, err := os.ReadFile(filepath.Join(dir, "new.pub"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := tlog.ParseKeyPEM(saved)
		if err != nil {
			t.Errorf("%s: what it saves is no key: %v: %q", part, err, saved)
			continue
		}
		if key, err := tlog.ParseKeyPEM(want); err != nil || !got.Same(key) {
			t.Errorf("%s: it saves another key than %s (%v)", part, want, err)
		}
	}
}

func TestFurtherKeysOfALogThatHangsHoldUpNoOther(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	s.want(monitor.ExitClean)
	for range 5 {
		other, err := tlogtest.NewRFC6962(ecKey(t))
		if err != nil {
			t.Fatal(err)
		}
		s.root.CT = append(s.root.CT, listedLog{URL: s.ctURL, Key: other.Log})
	}
	s.publishRoot()
	s.issue()
	s.ct.Inject(nil, 0, tlogtest.Hang())
	old := s.tune
	s.tune = func(m *monitor.Monitor) {
		old(m)
		m.Client = tlog.NewClient(tlog.ClientOptions{Backoff: time.Millisecond, Timeout: 100 * time.Millisecond})
		m.Budget = 2 * time.Second // one after the other, they take longer
	}
	res := s.want(monitor.ExitFailed)
	if got, want := s.statuses(res), "rekor-v1 ok 2/2\nrekor-v2 ok 2/2\nrfc6962 error 1/1\nstatic-ct ok 2/2"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestOfTwoKeysListedForOneNewPlaceTheOneInUseIsWatched(t *testing.T) {
	s := newSigstore(t)
	other, err := tlogtest.NewRFC6962(ecKey(t))
	if err != nil {
		t.Fatal(err)
	}
	s.root.CT = append([]listedLog{{URL: s.ctURL, Key: other.Log}}, s.root.CT...)
	s.publishRoot()
	s.issue()
	if got, want := s.statuses(s.want(monitor.ExitClean)), "rekor-v1 baseline 1/1\nrekor-v2 baseline 1/1\nrfc6962 baseline 1/1\nstatic-ct baseline 1/1"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestUnderAnAcceptedKeyALogsProtocolIsStillKnown(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	res := s.want(monitor.ExitClean)
	id := tlog.ID(idsOf(res, tlog.RFC6962))
	key := ecKey(t)
	other, err := tlogtest.NewRFC6962(key)
	if err != nil {
		t.Fatal(err)
	}
	s.root.CT[0] = listedLog{URL: s.ctURL, Key: other.Log}
	s.publishRoot()
	s.ct.SignWith(key)
	s.want(monitor.ExitFailed)
	s.accept(id, s.root.CT[0])
	s.want(monitor.ExitClean)
	// Down, it is one that does not answer, and not one of which nothing is known.
	s.ct.Inject(nil, 0, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	res = s.want(monitor.ExitFailed)
	for _, l := range res.Logs {
		if l.ID == id && (l.Type != tlog.RFC6962 || strings.Contains(l.Error, "nothing says which protocol")) {
			t.Errorf("got %s: %s", fmt.Sprint(l.Type), l.Error)
		}
	}
}
