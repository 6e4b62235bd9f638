package trust_test

import (
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
	"github.com/whosigned/whosigned/pkg/trust"
)

func TestDamagedMetadataAreNoFreshStart(t *testing.T) {
	w := newWorld(t)
	m := w.fresh(nil)
	for name, damage := range map[string]func(*trust.Metadata){
		"nothing":                  func(m *trust.Metadata) { *m = trust.Metadata{} },
		"root cut short":           func(m *trust.Metadata) { m.Root = m.Root[:len(m.Root)-20] },
		"root altered":             func(m *trust.Metadata) { m.Root = strings.Replace(m.Root, `"threshold": 2`, `"threshold": 1`, 1) },
		"timestamp altered":        func(m *trust.Metadata) { m.Timestamp = strings.Replace(m.Timestamp, `"version": 2`, `"version": 1`, 2) },
		"snapshot for a timestamp": func(m *trust.Metadata) { m.Timestamp = m.Snapshot },
		"snapshot garbled":         func(m *trust.Metadata) { m.Snapshot = "{}" },
		"targets null":             func(m *trust.Metadata) { m.Targets = null },
		"target another":           func(m *trust.Metadata) { m.Target = string(grown(t)) },
		"target none":              func(m *trust.Metadata) { m.Target = "{}" },
	} {
		t.Run(name, func(t *testing.T) {
			bad := *m
			damage(&bad)
			if bad == *m {
				t.Fatal("nothing is damaged")
			}
			got, root, err := w.refresh(&bad, time.Now())
			var damaged *trust.DamagedError
			if got != nil || root != nil || !errors.As(err, &damaged) || !strings.Contains(err.Error(), "trust/"+w.from.ID()) {
				t.Errorf("got %v, %v, %v; want neither, and a *DamagedError that names the object", got, root, err)
			}
		})
	}
}

func TestRunsAtOnceSaveTheNewest(t *testing.T) {
	w := newWorld(t)
	folder := "file://" + filepath.ToSlash(t.TempDir())
	const rounds = 8
	run := func() {
		s, err := state.Open(t.Context(), folder)
		if err != nil {
			t.Error(err)
			return
		}
		for range rounds {
			saved, err := s.LoadTrust(t.Context(), w.from.ID())
			var before *trust.Metadata
			switch {
			case errors.Is(err, state.ErrNotExist):
				saved = &state.Trust{}
			case err != nil:
				t.Error(err)
				return
			default:
				before = &saved.Metadata
			}
			m, _, err := w.from.Refresh(t.Context(), w.http, before, time.Now())
			if err != nil {
				t.Error(err)
				return
			}
			saved.Metadata = *m
			if err := s.SaveTrust(t.Context(), w.from.ID(), saved); err != nil {
				t.Error(err)
				return
			}
			for role, got := range map[string][2]string{metadata.ROOT: {m.Root, saved.Root}, metadata.TIMESTAMP: {m.Timestamp, saved.Timestamp}} {
				if version(got[1]) < version(got[0]) {
					t.Errorf("saved %s version %d after %d was verified", role, version(got[1]), version(got[0]))
				}
			}
		}
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(run)
	}
	wg.Go(func() {
		for i := range rounds {
			if i%2 == 0 {
				w.repo.RotateRoot()
			}
			w.repo.SetTrustedRoot(grown(t))
		}
	})
	wg.Wait()
	s, err := state.Open(t.Context(), folder)
	if err != nil {
		t.Fatal(err)
	}
	saved, err := s.LoadTrust(t.Context(), w.from.ID())
	if err != nil {
		t.Fatal(err)
	}
	if m := w.fresh(&saved.Metadata); version(m.Root) != 1+rounds/2 {
		t.Errorf("got root version %d, want %d", version(m.Root), 1+rounds/2)
	}
}

// One run saw the root that revokes the targets key; another, whose mirror kept the old
// root, took what the stolen key had signed.
func TestMergeTakesNothingThatARevokedKeySigned(t *testing.T) {
	w := newWorld(t)
	old := w.fresh(nil)
	w.repo.SetTrustedRoot(grown(t))
	misled := w.fresh(old)
	w.repo.SetTrustedRoot(published(t))
	w.repo.RotateKeys(metadata.TARGETS)
	w.repo.Inject(tlogtest.Path("/timestamp"), tlogtest.Status(http.StatusBadGateway))
	informed, _, _ := w.refresh(old, time.Now())
	if misled.Target == old.Target || informed.Target != old.Target || version(informed.Root) != 2 {
		t.Fatalf("versions %s and %s: the test shows nothing", versions(misled), versions(informed))
	}
	for _, m := range []*trust.Metadata{informed.Merge(misled), misled.Merge(informed)} {
		if m.Target != old.Target || version(m.Root) != 2 {
			t.Errorf("got versions %s, target of the revoked key: %v; want what was verified before", versions(m), m.Target == misled.Target)
		}
	}
}

func TestMergeKeepsTheNewestOfBoth(t *testing.T) {
	w := newWorld(t)
	old := w.fresh(nil)
	w.repo.RotateRoot()
	mend := w.repo.Inject(tlogtest.Path("/timestamp"), tlogtest.Status(http.StatusBadGateway))
	rootOnly, _, _ := w.refresh(old, time.Now())
	mend()
	w.repo.SetTrustedRoot(grown(t))
	mend = w.repo.Inject(tlogtest.Path(".root.json"), tlogtest.Status(http.StatusNotFound))
	noRoot := w.fresh(old)
	mend()
	mend = w.repo.Inject(tlogtest.Path(".targets.json"), tlogtest.Status(http.StatusBadGateway))
	noTargets, _, _ := w.refresh(old, time.Now())
	first, _, _ := w.refresh(nil, time.Now())
	mend()
	all := w.fresh(old)
	w.repo.Reset(metadata.TIMESTAMP, metadata.SNAPSHOT, metadata.TARGETS)
	w.repo.SetTrustedRoot(published(t))
	w.repo.RotateKeys(metadata.TIMESTAMP, metadata.SNAPSHOT)
	anew, _, err := w.from.Refresh(t.Context(), w.http, all, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name     string
		a, b     *trust.Metadata
		versions string
		target   string
	}{
		{"of itself", old, old, "1 2 2 2", old.Target},
		{"new and old", all, old, "2 3 3 3", all.Target},
		{"root of one, the rest of the other", rootOnly, noRoot, "2 3 3 3", all.Target},
		{"targets that could not be fetched", noTargets, noRoot, "2 3 3 3", all.Target},
		{"nothing but a root", first, old, "2 3 3 2", old.Target},
		{"before and after stolen keys", anew, all, versions(anew), anew.Target},
	} {
		for _, m := range []*trust.Metadata{tc.a.Merge(tc.b), tc.b.Merge(tc.a)} {
			if versions(m) != tc.versions || m.Target != tc.target {
				t.Errorf("%s: got versions %s with %d bytes, want %s with %d", tc.name, versions(m), len(m.Target), tc.versions, len(tc.target))
			}
			if _, _, err := w.from.Refresh(t.Context(), w.http, m, time.Now()); errors.As(err, new(*trust.DamagedError)) {
				t.Errorf("%s: %v", tc.name, err)
			}
		}
	}
	// A target that a delegated role lists changes without the targets.
	later := *old
	later.Target, later.Verified = "later", old.Verified.Add(time.Second)
	if x, y := old.Merge(&later), later.Merge(old); *x != later || *y != later {
		t.Errorf("of what was verified at two times: got %s and %s, want the later", x.Verified, y.Verified)
	}
}
