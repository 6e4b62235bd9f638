package monitor_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// found counts a run's findings in logs of a type.
func found(res *monitor.Result, typ tlog.Type) (n int) {
	for _, f := range res.Findings {
		if f.LogType == typ {
			n++
		}
	}
	return n
}

// idsOf are the logs of a type in a result.
func idsOf(res *monitor.Result, typ tlog.Type) string {
	var ids []string
	for _, l := range res.Logs {
		if l.Type == typ {
			ids = append(ids, string(l.ID))
		}
	}
	return strings.Join(ids, " ")
}

const readOn = "it is read to its last entry under the key known from before"

func TestARekorV1ServiceThatTheTrustedRootDropsIsReadToItsLastEntry(t *testing.T) {
	odd := sha256.Sum256([]byte("not the hash of the key"))
	for name, id := range map[string][]byte{"with the usual log ID": nil, "with a log ID of its own": odd[:]} {
		t.Run(name, func(t *testing.T) {
			s := newSigstore(t)
			s.root.Rekor[0].ID = id
			s.publishRoot()
			s.issue()
			before := idsOf(s.want(monitor.ExitClean), tlog.RekorV1)
			s.root.Rekor = s.root.Rekor[1:]
			s.publishRoot()
			s.issue()
			res := s.want(monitor.ExitFindings)
			if n, after := found(res, tlog.RekorV1), idsOf(res, tlog.RekorV1); n != 1 || after != before {
				t.Errorf("got %d findings in %q, want its last entry in %q", n, after, before)
			}
			if s.mails(readOn) != 1 || s.mails("not configured any more") != 0 {
				t.Errorf("want it said, once, that it is read to its end: %q", s.subjects())
			}
			// Off, it fails no run.
			s.v1.Inject(nil, 0, tlogtest.Status(404))
			if after := idsOf(s.want(monitor.ExitClean), tlog.RekorV1); after != before {
				t.Errorf("off, the tree %q is shown as %q", before, after)
			}
			// Excluded, it is left.
			s.items = fmt.Sprintf("  - {url: %q, exclude: true}\n", s.v1URL)
			if res := s.want(monitor.ExitClean); idsOf(res, tlog.RekorV1) != "" {
				t.Errorf("excluded, and watched: %+v", res.Logs)
			}
		})
	}
}

// Nothing but what it was found to speak tells that such a key is a Rekor v1 service's.
func TestARekorV1KeyWithALogIDOfItsOwnIsOneOfItsService(t *testing.T) {
	s := newSigstore(t)
	odd := sha256.Sum256([]byte("not the hash of the key"))
	s.root.Rekor[0].ID = odd[:]
	s.publishRoot()
	s.issue()
	s.want(monitor.ExitClean)
	s.issue() // the last entry under the old key
	s.rotate(ecKey(t))
	s.root.Rekor = append(s.root.Rekor, listedLog{URL: s.v1URL, Key: s.v1.Active().Log})
	s.publishRoot()
	s.issue()
	if res := s.want(monitor.ExitFindings); found(res, tlog.RekorV1) != 2 || strings.Count(s.statuses(res), "rekor-v1") != 2 {
		t.Errorf("got %d findings, want the old tree's last and the new one's first:\n%s", found(res, tlog.RekorV1), s.statuses(res))
	}
}

func TestADroppedLogThatWasReadToItsEndGoesDarkWithOneWord(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	s.want(monitor.ExitClean)
	s.root.Rekor = s.root.Rekor[:1]
	s.publishRoot()
	later := func() {
		s.now = s.now.Add(30 * time.Hour)
		s.want(monitor.ExitClean)
	}
	for range 3 {
		later()
	}
	s.v2.Inject(nil, 0, tlogtest.Status(404))
	for range 5 {
		later()
	}
	if n := s.mails("does not answer"); n != 1 {
		t.Errorf("got %d mails about it, want 1: %q", n, s.subjects())
	}
}

// The trees that were watched at a mirror are there, and not at the root's URL.
func TestADroppedRekorV1ServiceIsReadOnWithAllItsKeysWhereItWasRead(t *testing.T) {
	s := newSigstore(t)
	mirror := s.serve(s.v1)
	first := s.v1.Active()
	s.rotate(ecKey(t))
	s.root.Rekor = append(s.root.Rekor, listedLog{URL: s.v1URL, Key: s.v1.Active().Log})
	s.publishRoot()
	key, err := first.PublicKeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	k, err := tlog.ParseKeyPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	s.items = fmt.Sprintf("  - {id: %s, url: %q}\n", k.Hex(), mirror)
	s.issue()
	res := s.want(monitor.ExitClean)
	before := idsOf(res, tlog.RekorV1)
	for _, w := range res.Warnings {
		if strings.Contains(w, "excluded") {
			t.Errorf("watched at a mirror, and said to be excluded: %s", w)
		}
	}
	s.root.Rekor = s.root.Rekor[1:2]
	s.publishRoot()
	s.v1.Inject(func(r *http.Request) bool { return !strings.HasSuffix(mirror, r.Host) }, 0, tlogtest.Status(500))
	one, _ := s.entry(github(mine))
	s.v1.Active().Append(one)
	if res := s.want(monitor.ExitFindings); found(res, tlog.RekorV1) != 1 || idsOf(res, tlog.RekorV1) != before {
		t.Errorf("got %d findings in %s, want the last entry of the trees %s", found(res, tlog.RekorV1), idsOf(res, tlog.RekorV1), before)
	}
}

func TestALogByHandThatTheTrustedRootDropsIsReadToItsLastEntry(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	hand := fmt.Sprintf("  - {type: rekor-v2, url: %q}\n  - {type: rekor-v1, url: %q}\n  - {type: rfc6962, url: %q}\n", s.v2URL, s.v1URL, s.ctURL)
	s.byHand(hand)
	before := s.want(monitor.ExitClean)
	listed := s.root
	s.root.Rekor, s.root.CT = nil, listed.CT[1:]
	s.publishRoot()
	s.issue()
	res := s.want(monitor.ExitFindings)
	for _, typ := range []tlog.Type{tlog.RekorV1, tlog.RekorV2, tlog.RFC6962} {
		if n := found(res, typ); n != 1 || idsOf(res, typ) != idsOf(before, typ) {
			t.Errorf("%s: got %d findings in %s, want the last entry", typ, n, idsOf(res, typ))
		}
	}
	s.want(monitor.ExitClean)
	if s.mails(readOn) != 1 || s.mails("not configured any more") != 0 || s.mails("missing") != 0 {
		t.Errorf("want it said once, and no more: %q", s.subjects())
	}
	if checked, err := s.monitor().Check(t.Context()); err != nil || !checked.OK() {
		t.Errorf("check: %v, %+v", err, checked)
	}
	// Listed again, it is one like the others.
	s.root = listed
	s.publishRoot()
	s.issue()
	if got, want := s.statuses(s.want(monitor.ExitFindings)), "rekor-v1 ok 3/3\nrekor-v2 ok 3/3\nrfc6962 ok 3/3"; got != want || s.mails("again") != 1 {
		t.Errorf("got\n%s\nwant\n%s\nand one mail about it: %q", got, want, s.subjects())
	}
	// Dropped again, that is said again; taken out of the configuration, it is left.
	s.root.Rekor = listed.Rekor[:1]
	s.publishRoot()
	s.want(monitor.ExitClean)
	if s.mails(readOn) != 2 {
		t.Errorf("not said that it is dropped again: %q", s.subjects())
	}
	s.byHand(hand[strings.Index(hand, "\n")+1:])
	if res := s.want(monitor.ExitClean); idsOf(res, tlog.RekorV2) != "" || s.mails("not configured any more") != 1 {
		t.Errorf("got %s, mails %q; want it left", s.statuses(res), s.subjects())
	}
}

func TestALogByHandThatNoTrustedRootEverListedIsAnErrorThatNamesTheItem(t *testing.T) {
	s := newSigstore(t)
	s.byHand(fmt.Sprintf("  - {type: rekor-v1, url: %q}\n  - {type: rekor-v2, url: \"http://127.0.0.1:1\"}\n", s.v1URL))
	for range 2 {
		if res := s.want(monitor.ExitFailed); len(res.Errors) != 1 || !strings.Contains(res.Errors[0], "logs[1].key: missing") {
			t.Errorf("got %q", res.Errors)
		}
	}
}

func TestARekorV1KeyThatTheTrustedRootDropsKeepsItsTreesAndOpensNoNewOne(t *testing.T) {
	for name, byHand := range map[string]bool{"discovered": false, "by hand": true} {
		t.Run(name, func(t *testing.T) {
			s := newSigstore(t)
			if byHand {
				s.byHand(fmt.Sprintf("  - {type: rekor-v1, url: %q}\n", s.v1URL))
			}
			old := ecKey(t)
			s.rotate(old)
			s.root.Rekor = append(s.root.Rekor, listedLog{URL: s.v1URL, Key: s.v1.Active().Log})
			s.publishRoot()
			s.issue()
			s.want(monitor.ExitClean)
			s.issue() // the last entry under the old key
			s.rotate(ecKey(t))
			s.root.Rekor = append([]listedLog{{URL: s.v1URL, Key: s.v1.Active().Log}}, s.root.Rekor[1:2]...)
			s.publishRoot()
			s.issue()
			if res := s.want(monitor.ExitFindings); found(res, tlog.RekorV1) != 2 {
				t.Fatalf("got %d findings, want the old tree's last and the new one's first:\n%s", found(res, tlog.RekorV1), s.statuses(res))
			}
			if s.mails("trees known under it are read to their last entry") != 1 {
				t.Errorf("nobody was told of the key: %q", s.subjects())
			}
			s.rotate(old)
			s.issue()
			if res := s.want(monitor.ExitFailed); found(res, tlog.RekorV1) != 0 || len(res.Incidents) != 0 {
				t.Errorf("got %d findings, incidents %+v; want nothing of a new tree under a key that the root dropped", found(res, tlog.RekorV1), res.Incidents)
			}
		})
	}
}

// besideShard serves another log at the shard's URL.
func (s *sigstore) besideShard(other http.Handler, prefix string) {
	s.v2.Inject(nil, 0, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.HasPrefix(r.URL.Path, prefix) {
			other.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func TestALogOfAnotherKindAtTheSameURLIsAnotherLog(t *testing.T) {
	s := newSigstore(t)
	s.besideShard(s.ct, "/ct/")
	shard := s.root.Rekor[1]
	s.root.CT[0].URL = shard.URL
	s.root.Rekor = s.root.Rekor[:1]
	s.publishRoot()
	s.issue()
	s.want(monitor.ExitClean)
	// A shard comes: it is no other key of the CT log.
	s.root.Rekor = append(s.root.Rekor, shard)
	s.publishRoot()
	if res := s.want(monitor.ExitFindings); found(res, tlog.RekorV2) != 1 {
		t.Errorf("the shard is not read from its first entry:\n%s", s.statuses(res))
	}
	// And goes: the CT log has not taken its place.
	s.root.Rekor = s.root.Rekor[:1]
	s.publishRoot()
	s.issue()
	if res := s.want(monitor.ExitFindings); found(res, tlog.RekorV2) != 1 {
		t.Errorf("the dropped shard's last entry is not read:\n%s", s.statuses(res))
	}
}

func TestALogThatMovesLeavesItsURLToAnother(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	s.want(monitor.ExitClean)
	another, err := tlogtest.NewRFC6962(ecKey(t))
	if err != nil {
		t.Fatal(err)
	}
	_, entry, err := s.ca.IssuePrecertified(github(mine))
	if err != nil {
		t.Fatal(err)
	}
	another.Submit(entry)
	s.ct.Inject(func(r *http.Request) bool { return strings.HasSuffix(s.ctURL, r.Host) }, 0, tlogtest.Instead(another))
	s.root.CT = append(s.root.CT, listedLog{URL: s.ctURL, Key: another.Log})
	s.root.CT[0].URL = s.serve(s.ct)
	s.publishRoot()
	if got, want := s.statuses(s.want(monitor.ExitFindings)), "rekor-v1 ok 1/1\nrekor-v2 ok 1/1\nrfc6962 baseline 1/1\nrfc6962 ok 1/1\nstatic-ct ok 1/1"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestATrustedRootThatComesAnotherWayHasNews(t *testing.T) {
	s := newSigstore(t)
	s.want(monitor.ExitClean)
	// The same deployment by another repository, and by one of somebody else's.
	shard, url := s.namedShard()
	_, two := s.entry(github(mine))
	shard.Append(two)
	if err := shard.Publish(); err != nil {
		t.Fatal(err)
	}
	s.root.Rekor = append(s.root.Rekor, listedLog{URL: url, Key: shard.Log})
	s.anotherRepository()
	if res := s.want(monitor.ExitFindings); len(res.Findings) != 1 || s.mails("the trusted root now lists a log at "+url) != 1 {
		t.Errorf("got %d findings, mails %q; want the new shard announced and read from its first entry", len(res.Findings), s.subjects())
	}
	theirs := newSigstore(t)
	theirs.issue()
	s.root = theirs.root
	s.anotherRepository()
	res := s.want(monitor.ExitClean)
	if s.mails("the trusted root now lists") != 1 || s.mails("no longer lists") != 0 {
		t.Errorf("somebody else's logs are no news: %q", s.subjects())
	}
	if n := strings.Count(s.statuses(res), "baseline"); n != 4 {
		t.Errorf("got\n%s\nwant all 4 begun at their heads", s.statuses(res))
	}
}

// lose takes objects out of the store.
func (s *memStore) lose(prefix string) {
	for _, name := range s.names(prefix) {
		s.mu.Lock()
		delete(s.objects, name)
		s.mu.Unlock()
	}
}

// spoil spoils an object.
func (s *memStore) spoil(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(name, bytes.Repeat([]byte("x"), 10))
}
