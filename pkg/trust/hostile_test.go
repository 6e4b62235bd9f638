package trust_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
	"github.com/whosigned/whosigned/pkg/trust"
	"github.com/whosigned/whosigned/pkg/trust/trusttest"
)

func TestARootWithoutEnoughOldSignaturesIsRefused(t *testing.T) {
	for n := range 2 {
		w := newWorld(t)
		m := w.fresh(nil)
		w.repo.RotateRootSignedBy(n)
		w.repo.SetTrustedRoot(grown(t))
		got, root, err := w.refresh(m, time.Now())
		var rejected *trust.RejectedError
		if !errors.As(err, &rejected) || rejected.Role != metadata.ROOT || rejected.Trusted != 1 || rejected.Served != 2 {
			t.Errorf("signed by %d old keys: got %v, want a *RejectedError for root version 2 after 1", n, err)
		}
		wantLogs(t, root, 2)
		if *got != *m {
			t.Errorf("signed by %d old keys: got versions %s, want all as saved", n, versions(got))
		}
	}
}

func TestWhatHasExpiredIsSaidWithItsRole(t *testing.T) {
	for _, tc := range []struct {
		role    string
		version int64
		kept    string // versions of what may be kept
	}{
		{metadata.ROOT, 2, "2 2 2 2"},
		{metadata.TIMESTAMP, 3, "1 2 2 2"},
		{metadata.SNAPSHOT, 3, "1 3 2 2"},
		{metadata.TARGETS, 3, "1 3 3 2"},
	} {
		t.Run(tc.role, func(t *testing.T) {
			w := newWorld(t)
			m := w.fresh(nil)
			w.repo.Expire(tc.role)
			got, root, err := w.refresh(m, time.Now())
			var expired *trust.ExpiredError
			if !errors.As(err, &expired) || expired.Role != tc.role || expired.Version != tc.version || time.Since(expired.Expired) < time.Hour {
				t.Errorf("got %v, want an *ExpiredError for %s version %d", err, tc.role, tc.version)
			}
			wantLogs(t, root, 2)
			if versions(got) != tc.kept || got.Verified != m.Verified {
				t.Errorf("kept versions %s, verified %v; want %s, %v", versions(got), got.Verified, tc.kept, m.Verified)
			}
			if _, root, err := w.refresh(nil, time.Now()); root != nil || !errors.As(err, &expired) || expired.Role != tc.role {
				t.Errorf("without anything saved: got root %v, %v; want none and an *ExpiredError", root, err)
			}
			w.repo.Heal(tc.role)
			w.fresh(got)
		})
	}
}

func TestRollbacksAreRefusedByAFreshInstance(t *testing.T) {
	for _, tc := range []struct {
		name            string
		attack          func(*trusttest.Repo)
		role            string
		served, trusted int64
		kept            string
	}{
		{"timestamp", (*trusttest.Repo).Rollback, metadata.TIMESTAMP, 2, 3, "1 3 3 3"},
		{"snapshot, by a new timestamp", (*trusttest.Repo).RollbackSnapshot, metadata.TIMESTAMP, 4, 3, "1 3 3 3"},
		{"targets, by a new snapshot", (*trusttest.Repo).RollbackTargets, metadata.SNAPSHOT, 4, 3, "1 4 3 3"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.repo.SetTrustedRoot(grown(t))
			m := w.fresh(nil)
			tc.attack(w.repo)
			if _, root, err := w.refresh(nil, time.Now()); err != nil || len(root.Rekor) != 2 {
				t.Fatalf("without saved metadata: %v, %v; the attack must work there, or this tests nothing", root, err)
			}
			got, root, err := w.refresh(m, time.Now())
			var rejected *trust.RejectedError
			if !errors.As(err, &rejected) || rejected.Role != tc.role || rejected.Served != tc.served || rejected.Trusted != tc.trusted {
				t.Errorf("got %v, want a *RejectedError for %s version %d after %d", err, tc.role, tc.served, tc.trusted)
			}
			wantLogs(t, root, 3)
			if versions(got) != tc.kept || got.Target != m.Target {
				t.Errorf("kept versions %s, want %s", versions(got), tc.kept)
			}
		})
	}
}

func TestAFrozenRepositoryExpires(t *testing.T) {
	w := newWorld(t)
	m := w.fresh(nil)
	_, root, err := w.refresh(m, time.Now().AddDate(0, 0, 8))
	var expired *trust.ExpiredError
	if !errors.As(err, &expired) || expired.Role != metadata.TIMESTAMP || expired.Version != 2 {
		t.Errorf("got %v, want an *ExpiredError for timestamp version 2", err)
	}
	wantLogs(t, root, 2)
}

func TestTheLastVerifiedKeysStayWhenARepositoryIsGone(t *testing.T) {
	w := newWorld(t)
	m := w.fresh(nil)
	w.repo.Inject(nil, tlogtest.Status(http.StatusServiceUnavailable))
	for _, tc := range []struct {
		days    int
		expired bool
	}{{0, false}, {6, false}, {8, true}, {1000, true}} {
		got, root, err := w.refresh(m, time.Now().AddDate(0, 0, tc.days))
		if !errors.As(err, new(*trust.UnreachableError)) || errors.As(err, new(*trust.ExpiredError)) != tc.expired {
			t.Errorf("after %d days: got %v, want an *UnreachableError, and expired %v in it", tc.days, err, tc.expired)
		}
		wantLogs(t, root, 2)
		if *got != *m {
			t.Errorf("after %d days: got versions %s, want all as saved", tc.days, versions(got))
		}
	}
}

// null is a targets.json on which go-tuf v2.4.2 panics before it looks at signatures.
const null = `{"signed": {"_type": "targets", "version": 9, "targets": {"trusted_root.json": null}}, "signatures": []}`

func TestARepositoryThatMisbehavesChangesNothing(t *testing.T) {
	instead := func(text string) tlogtest.Effect { return tlogtest.Edit(func([]byte) []byte { return []byte(text) }) }
	long := func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		_, _ = w.Write(bytes.Repeat([]byte{' '}, 1<<20)) // the client may be gone
	}
	huge := func(r *trusttest.Repo) {
		r.Targets(func(s *metadata.TargetsType) { s.Targets["trusted_root.json"].Length = 1 << 40 })
	}
	for _, tc := range []struct {
		name     string
		path     string
		effect   tlogtest.Effect
		prepare  func(*trusttest.Repo)
		rejected string // role; "" for unreachable
		says     string
	}{
		{"500", "", tlogtest.Status(http.StatusInternalServerError), nil, "", "status code: 500"},
		{"no timestamp", "/timestamp", tlogtest.Status(http.StatusNotFound), nil, "", "status code: 404"},
		{"no snapshot", ".snapshot.json", tlogtest.Status(http.StatusNotFound), nil, "", "status code: 404"},
		{"no targets", ".targets.json", tlogtest.Status(http.StatusNotFound), nil, "", "status code: 404"},
		{"no target", "/targets/", tlogtest.Status(http.StatusNotFound), nil, "", "status code: 404"},
		{"no answer for roots", ".root.json", tlogtest.Status(http.StatusForbidden), nil, "", "status code: 403"},
		{"redirect", "/timestamp", tlogtest.Redirect("http://127.0.0.1:1/"), nil, "", "status code: 302"},
		{"connection cut", "/timestamp", tlogtest.Cut(), nil, "", "EOF"},
		{"answer cut", "/timestamp", tlogtest.Truncate(10), nil, "", "unexpected EOF"},
		{"hang", "/timestamp", tlogtest.Hang(), nil, "", "deadline"},
		{"slowloris", "/timestamp", tlogtest.Slow(1, 20*time.Millisecond), nil, "", "deadline"},
		{"endless timestamp", "/timestamp", tlogtest.Oversize(-1), nil, metadata.TIMESTAMP, "larger than the 16384 bytes"},
		{"endless root", "/2.root", long, nil, metadata.ROOT, "larger than the 512000 bytes"},
		{"endless snapshot", ".snapshot.json", tlogtest.Oversize(-1), nil, metadata.SNAPSHOT, "larger than the 2000000 bytes"},
		{"endless targets", ".targets.json", tlogtest.Oversize(-1), nil, metadata.TARGETS, "larger than the 4194304 bytes"},
		{"endless target", "/targets/", tlogtest.Oversize(-1), nil, "trusted_root.json", "larger than the"},
		{"bomb", "/timestamp", tlogtest.GzipBomb(1 << 30), nil, metadata.TIMESTAMP, "larger than the 16384 bytes"},
		{"garbage timestamp", "/timestamp", tlogtest.Garbage(), nil, metadata.TIMESTAMP, "not text"},
		{"portal", "/timestamp", instead("<html>log in</html>"), nil, metadata.TIMESTAMP, "invalid character"},
		{"root instead of timestamp", "/timestamp", instead(`{"signed": {"_type": "root"}}`), nil, metadata.TIMESTAMP, "root"},
		{"null in targets", ".targets.json", instead(null), nil, metadata.TARGETS, "does not survive"},
		{"other target", "/targets/", instead(trusttest.Empty), nil, "trusted_root.json", "length"},
		{"target of that length", "/targets/", tlogtest.Edit(func(b []byte) []byte { b[len(b)/2] ^= 1; return b }), nil, "trusted_root.json", "sha256"},
		{"huge target", "/targets/", tlogtest.Oversize(-1), huge, "trusted_root.json", "larger than the 4194304 bytes"},
		{"no trusted root", "", nil, func(r *trusttest.Repo) { r.SetTrustedRoot([]byte("{}")) }, "trusted_root.json", "mediaType"},
		{"no target listed", "", nil, func(r *trusttest.Repo) {
			r.Targets(func(s *metadata.TargetsType) { s.Targets = map[string]*metadata.TargetFiles{} })
		}, metadata.TARGETS, "not found"},
		{"timestamp of nothing", "", nil, func(r *trusttest.Repo) {
			r.Timestamp(func(s *metadata.TimestampType) { s.Meta = map[string]*metadata.MetaFiles{} })
		}, metadata.TIMESTAMP, "does not survive"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			m := w.fresh(nil)
			if tc.says == "deadline" {
				w.http = tlog.NewClient(tlog.ClientOptions{Timeout: 100 * time.Millisecond}).HTTP()
			}
			w.repo.SetTrustedRoot(grown(t))
			if tc.prepare != nil {
				tc.prepare(w.repo)
			}
			if tc.effect != nil {
				w.repo.Inject(tlogtest.Path(tc.path), tc.effect)
			}
			check := func(err error) {
				t.Helper()
				var rejected *trust.RejectedError
				switch {
				case tc.rejected == "" && !errors.As(err, new(*trust.UnreachableError)):
					t.Errorf("got %v, want an *UnreachableError", err)
				case tc.rejected != "" && (!errors.As(err, &rejected) || rejected.Role != tc.rejected):
					t.Errorf("got %v, want a *RejectedError for %s", err, tc.rejected)
				case !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), w.from.URL):
					t.Errorf("got %v, want it to say %q and %s", err, tc.says, w.from.URL)
				}
			}
			got, root, err := w.refresh(m, time.Now())
			check(err)
			wantLogs(t, root, 2)
			if got.Target != m.Target || got.Targets != m.Targets || got.Verified != m.Verified {
				t.Errorf("got versions %s, want targets as saved (%s)", versions(got), versions(m))
			}
			if _, root, err := w.refresh(nil, time.Now()); root != nil {
				t.Errorf("without saved metadata: got a root with %d logs, want none", len(root.Rekor))
			} else {
				check(err)
			}
		})
	}
}

func TestACacheThatIsStaleIsBypassed(t *testing.T) {
	w := newWorld(t)
	w.repo.SetTrustedRoot(grown(t))
	m := w.fresh(nil)
	w.repo.Rollback()
	stale := httptest.NewRecorder()
	w.repo.Handler().ServeHTTP(stale, httptest.NewRequest(http.MethodGet, "/timestamp.json", nil))
	w.repo.Renew()
	w.repo.Inject(tlogtest.Path("/timestamp"), func(rw http.ResponseWriter, r *http.Request, origin http.Handler) {
		if r.Header.Get("Cache-Control") == "no-cache" {
			origin.ServeHTTP(rw, r)
			return
		}
		_, _ = rw.Write(stale.Body.Bytes())
	})
	if got := w.fresh(m); version(got.Timestamp) != 4 {
		t.Errorf("got timestamp version %d, want 4 past the cache", version(got.Timestamp))
	}
}

func TestAStolenKeysVersionsEndWithItsRotation(t *testing.T) {
	w := newWorld(t)
	w.repo.Timestamp(func(s *metadata.TimestampType) { s.Version = 1 << 40 })
	m := w.fresh(nil)
	w.repo.Reset(metadata.TIMESTAMP)
	w.repo.Renew()
	if _, _, err := w.refresh(m, time.Now()); !errors.As(err, new(*trust.RejectedError)) {
		t.Errorf("before the rotation: got %v, want a *RejectedError", err)
	}
	w.repo.RotateKeys(metadata.TIMESTAMP)
	now, root, err := w.from.Refresh(t.Context(), w.http, m, time.Now())
	if err != nil || version(now.Timestamp) > 10 {
		t.Errorf("after it: got versions %s, %v; want the timestamp to count anew", versions(now), err)
	}
	wantLogs(t, root, 2)
}

func TestDelegationsAreFollowedSoFarAndNoFurther(t *testing.T) {
	for depth, found := range map[int]bool{1: true, 8: true, 9: false, 20: false} {
		w := newWorld(t)
		w.repo.Delegate(depth)
		m, root, err := w.refresh(nil, time.Now())
		if found {
			if err != nil {
				t.Errorf("%d delegations: %v", depth, err)
				continue
			}
			wantLogs(t, root, 2)
			w.fresh(m)
		} else if !errors.As(err, new(*trust.RejectedError)) || root != nil {
			t.Errorf("%d delegations: got %v, %v; want a *RejectedError", depth, root, err)
		}
	}
}

func TestARefreshEnds(t *testing.T) {
	w := newWorld(t)
	m := w.fresh(nil)
	silent := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	})}
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, root, err := w.from.Refresh(t.Context(), silent, m, start)
		if !errors.As(err, new(*trust.UnreachableError)) || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 2*time.Minute {
			t.Errorf("got %v after %v, want an *UnreachableError after two minutes", err, time.Since(start))
		}
		wantLogs(t, root, 2)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Whatever a repository serves in a role's place, it is refused, and nothing else happens.
func FuzzNothingUnsignedIsTaken(f *testing.F) {
	for _, text := range []string{"", "{}", "null", null, `{"signed": {"_type": "root", "keys": {"a": null}, "roles": null}, "signatures": [{}, null]}`,
		`{"signed": {"_type": "timestamp", "meta": {"snapshot.json": null}}, "signatures": null}`, `{"signed": {"_type": "snapshot", "meta": null}}`} {
		for role := range uint8(4) {
			f.Add(role, []byte(text))
		}
	}
	w := newWorld(f)
	m := w.fresh(nil)
	w.repo.SetTrustedRoot(grown(f))
	f.Fuzz(func(t *testing.T, role uint8, data []byte) {
		name := []string{"root", "timestamp", "snapshot", "targets"}[role%4] + ".json"
		client := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			rec := httptest.NewRecorder()
			if strings.HasSuffix(r.URL.Path, name) {
				_, _ = rec.Write(data)
			} else {
				w.repo.Handler().ServeHTTP(rec, r)
			}
			return rec.Result(), nil
		})}
		got, root, err := w.from.Refresh(t.Context(), client, m, time.Now())
		if err == nil || root == nil || got.Target != m.Target {
			t.Errorf("%s is taken for %s: %v", data, name, err)
		}
	})
}
