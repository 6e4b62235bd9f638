package monitor_test

import (
	"crypto/ed25519"
	"crypto/rand"
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

func TestALogThatTheTrustedRootTakesBackIsWatchedAsBefore(t *testing.T) {
	for name, tt := range map[string]struct {
		drop, back func(*sigstore)
		log        func(*sigstore) *tlogtest.Gate
	}{
		"dropped": {
			drop: func(s *sigstore) { s.root.CT = s.root.CT[1:] },
			back: func(s *sigstore) { s.root.CT = append([]listedLog{{URL: s.ctURL, Key: s.ct.Log}}, s.root.CT...) },
			log:  func(s *sigstore) *tlogtest.Gate { return s.ct.Gate },
		},
		"ended": {
			drop: func(s *sigstore) { s.root.Rekor[1].Ended = true },
			back: func(s *sigstore) { s.root.Rekor[1].Ended = false },
			log:  func(s *sigstore) *tlogtest.Gate { return s.v2.Gate },
		},
		"Rekor v1, ended": {
			drop: func(s *sigstore) { s.root.Rekor[0].Ended = true },
			back: func(s *sigstore) { s.root.Rekor[0].Ended = false },
			log:  func(s *sigstore) *tlogtest.Gate { return s.v1.Gate },
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSigstore(t)
			s.issue()
			s.want(monitor.ExitClean)
			tt.drop(s)
			s.publishRoot()
			if got := s.statuses(s.run()); !strings.Contains(got, "retired 1/1") {
				t.Fatalf("got\n%s\nwant one retired", got)
			}
			tt.back(s)
			s.publishRoot()
			if got := s.statuses(s.run()); strings.Contains(got, "retired") || s.mails("takes entries again") > 1 || s.mails("take entries again") != 1 {
				t.Errorf("got\n%s\nwant none retired, and that it is said: %q", got, s.subjects())
			}
			tt.log(s).Inject(nil, 0, tlogtest.Status(503))
			s.want(monitor.ExitFailed)
		})
	}
}

func TestAnEndedLogThatGrowsOnIsReadAndIsNoNoise(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	s.want(monitor.ExitClean)
	s.root.Rekor[1].Ended = true
	s.publishRoot()
	s.want(monitor.ExitClean)
	before := len(s.subjects())
	_, foreign := s.entry(github("https://github.com/other/x"))
	for i := range uint64(6) {
		s.v2.Append(foreign)
		s.publish()
		for _, l := range s.want(monitor.ExitClean).Logs {
			if l.Type == tlog.RekorV2 && l.Scanned != 2+i {
				t.Errorf("read to %d, want %d", l.Scanned, 2+i)
			}
		}
	}
	if n := len(s.subjects()) - before; n != 1 || s.mails("it is read on") != 1 || s.mails("it takes no more entries, and was read to its last one") != 1 {
		t.Errorf("%d mails for 6 runs, want one: %q", n, s.subjects())
	}
}

func TestARekorV1ServiceThatTheTrustedRootEndedMayGoDark(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	s.want(monitor.ExitClean)
	s.root.Rekor[0].Ended = true
	s.publishRoot()
	s.want(monitor.ExitClean)
	s.v1.Inject(nil, 0, tlogtest.Status(404))
	for range 6 {
		s.want(monitor.ExitClean)
	}
	if s.mails("does not answer since") != 1 {
		t.Errorf("mails %q; want one notice", s.subjects())
	}
}

func TestALogThatNeedNotGrowIsNotQuiet(t *testing.T) {
	for name, arrange := range map[string]func(*sigstore) (of string){
		"ahead of its start": func(s *sigstore) string {
			ahead, url := s.namedShard()
			if err := ahead.Publish(); err != nil {
				t.Fatal(err)
			}
			s.root.Rekor = append(s.root.Rekor, listedLog{URL: url, Key: ahead.Log, Since: s.now.Add(2000 * time.Hour).Format(time.RFC3339)})
			return strings.TrimPrefix(url, "http://")
		},
		"Rekor v1 that the trusted root ended": func(s *sigstore) string {
			s.root.Rekor[0].Ended = true
			return "rekor.example.com"
		},
	} {
		s := newSigstore(t)
		s.extra = "quiet_after: 24h\n"
		of := arrange(s)
		s.publishRoot()
		s.issue()
		s.run()
		s.now = s.now.Add(30 * time.Hour)
		for _, h := range s.run().Health {
			if strings.Contains(h.Text, "it has not grown since") && strings.Contains(h.Text, of) {
				t.Errorf("%s: said: %s", name, h.Text)
			}
		}
	}
}

func TestStateThatDoesNotSayWhyALogIsRetiredIsCompleted(t *testing.T) {
	s := newSigstore(t)
	s.issue()
	s.want(monitor.ExitClean)
	s.root.Rekor[1].Ended = true
	s.publishRoot()
	s.want(monitor.ExitClean)
	for _, name := range s.store.names("state/") { // as the release before wrote it
		old := string(s.store.objects[name].data)
		for _, field := range []string{"retired_by_date", "retired_said"} {
			old = strings.Replace(old, `"`+field+`"`, `"not_`+field+`"`, 1)
		}
		s.store.put(name, []byte(old))
	}
	s.want(monitor.ExitClean)
	s.root.Rekor[1].Ended = false
	s.publishRoot()
	if got := s.statuses(s.want(monitor.ExitClean)); strings.Contains(got, "retired") {
		t.Errorf("got\n%s\nwant none retired", got)
	}
	if n := s.mails("it takes no more entries, and was read to its last one"); n != 1 {
		t.Errorf("that it was read to its last entry was said %d times", n)
	}
}

func TestALogBeforeItsStartIsNoError(t *testing.T) {
	s := newSigstore(t)
	shard, url := s.namedShard()
	down := shard.Inject(nil, 0, tlogtest.Status(404))
	s.root.Rekor = append(s.root.Rekor, listedLog{URL: url, Key: shard.Log, Since: s.now.Add(20 * time.Hour).Format(time.RFC3339)})
	s.publishRoot()
	for range 5 {
		s.want(monitor.ExitClean)
	}
	s.now = s.now.Add(20 * time.Hour)
	s.want(monitor.ExitFailed)
	down()
	s.want(monitor.ExitClean)
}

func TestWhatALogTookWhileItCouldNotBeWatchedIsSaid(t *testing.T) {
	s := newSigstore(t)
	down := s.ct.Inject(nil, 0, tlogtest.Status(503))
	s.want(monitor.ExitFailed)
	s.issue()
	s.run()
	if s.mails("should have been watched since") != 0 {
		t.Error("said too soon")
	}
	down()
	s.run()
	if s.mails("it should have been watched since") != 1 || s.mails("--from … --to 1") != 1 {
		t.Errorf("mails %q; want that what it took until now is not read", s.subjects())
	}
}

func TestServicesUnderOneURLAreKeptApart(t *testing.T) {
	for name, beside := range map[string]func(*sigstore){
		"CT": func(s *sigstore) {
			url := s.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.URL.Path, "/api/") {
					s.v1.ServeHTTP(w, r)
				} else {
					s.ct.ServeHTTP(w, r)
				}
			}))
			s.root.Rekor[0].URL, s.root.CT[0].URL = url, url
		},
		"Rekor v2": func(s *sigstore) {
			s.v2.Inject(func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/api/") }, 0, tlogtest.Instead(s.v1))
			s.root.Rekor[0].URL = s.v2URL
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSigstore(t)
			beside(s)
			s.publishRoot()
			s.issue()
			s.want(monitor.ExitClean)
			s.issue()
			s.want(monitor.ExitFindings)
			if got := s.statuses(s.want(monitor.ExitClean)); strings.Count(got, "ok 2/2") != 4 {
				t.Errorf("got\n%s\nwant four logs, read", got)
			}
		})
	}
}

func TestALogThatIsListedTwiceIsWatchedOnce(t *testing.T) {
	for name, url := range map[string]func(*sigstore) string{
		"at one URL":   func(s *sigstore) string { return s.ctURL },
		"at two URLs":  func(s *sigstore) string { return s.serve(s.ct) },
		"once it ends": func(s *sigstore) string { s.root.CT[0].Ended = true; return s.serve(s.ct) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSigstore(t)
			again := listedLog{URL: url(s), Key: s.ct.Log}
			s.root.CT = append(s.root.CT, again)
			s.publishRoot()
			s.issue()
			res := s.want(monitor.ExitClean)
			if !strings.Contains(strings.Join(res.Warnings, "\n"), "twice, at") {
				t.Errorf("warnings %q", res.Warnings)
			}
			s.issue()
			res = s.want(monitor.ExitFindings)
			var at []string
			for _, l := range res.Logs {
				if l.Type == tlog.RFC6962 {
					at = append(at, l.URL)
				}
			}
			want := s.ctURL
			if name == "once it ends" {
				want = again.URL
			}
			if len(at) != 1 || at[0] != want {
				t.Errorf("watched at %q, want %s alone", at, want)
			}
		})
	}
}

func TestADiscoveredShardMayHaveAnotherOriginThanItsURL(t *testing.T) {
	for _, item := range []string{
		"  - {url: %q, origin: log.acme.example}\n",
		"  - {url: %q, origin: log.acme.example, type: rekor-v2}\n",
		"  - {url: %q, origin: log.acme.example, type: rekor-v2, key: own.pub}\n",
	} {
		s := newSigstore(t)
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		shard, err := tlogtest.NewTiles("log.acme.example", key)
		if err != nil {
			t.Fatal(err)
		}
		if err := shard.Publish(); err != nil {
			t.Fatal(err)
		}
		s.writeKey("own.pub", shard.Log)
		id := sha256.Sum256(append([]byte("log.acme.example\n\x01"), key.Public().(ed25519.PublicKey)...))
		url := s.serve(shard)
		s.root.Rekor = append(s.root.Rekor, listedLog{URL: url, Key: shard.Log, ID: id[:]})
		s.publishRoot()
		s.items = fmt.Sprintf(item, url)
		if got := s.statuses(s.want(monitor.ExitClean)); strings.Count(got, "rekor-v2 baseline") != 2 {
			t.Errorf("%s: got\n%s\nwant both shards", item, got)
		}
	}
}

func TestAnECDSAShardIsFoundInTheTrustedRootAndMayBeNamedOne(t *testing.T) {
	for _, item := range []string{"", "  - {url: %q, type: rekor-v2}\n", "  - {url: %q, coverage: full}\n"} {
		s := newSigstore(t)
		var shard http.Handler
		url := s.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { shard.ServeHTTP(w, r) }))
		l, err := tlogtest.NewTiles(strings.TrimPrefix(url, "http://"), ecKey(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Publish(); err != nil {
			t.Fatal(err)
		}
		shard = l
		s.root.Rekor = append(s.root.Rekor, listedLog{URL: url, Key: l.Log})
		s.publishRoot()
		if item != "" {
			s.items = fmt.Sprintf(item, url)
		}
		s.want(monitor.ExitClean)
		_, ours := s.entry(github(mine))
		l.Append(ours)
		if err := l.Publish(); err != nil {
			t.Fatal(err)
		}
		if res := s.want(monitor.ExitFindings); len(res.Findings) != 1 {
			t.Errorf("%q: %d findings, want one", item, len(res.Findings))
		}
		s.want(monitor.ExitClean)
	}
}

func TestTheNewestLogOfItsKindIsToGrowFromTheStart(t *testing.T) {
	for name, tt := range map[string]struct {
		items string
		quiet bool
	}{
		"the newest":                {"", true},
		"an older one":              {"older", false},
		"an older one that is told": {"told", true},
	} {
		s := newSigstore(t)
		s.extra = "quiet_after: 24h\n"
		if tt.items != "" {
			newer, url := s.namedShard()
			if err := newer.Publish(); err != nil {
				t.Fatal(err)
			}
			s.root.Rekor = append(s.root.Rekor, listedLog{URL: url, Key: newer.Log, Since: "2026-01-01T00:00:00Z"})
			s.publishRoot()
		}
		if tt.items == "told" {
			s.items = fmt.Sprintf("  - {url: %q, quiet_after: 24h}\n", s.v2URL)
		}
		s.issue()
		s.run()
		s.now = s.now.Add(30 * time.Hour)
		said := false
		for _, h := range s.run().Health {
			said = said || strings.Contains(h.Text, "it has not grown since") && strings.Contains(h.Text, strings.TrimPrefix(s.v2URL, "http://"))
		}
		if said != tt.quiet {
			t.Errorf("%s: that it does not grow is said: %v, want %v", name, said, tt.quiet)
		}
	}
}
