package trust_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
	"github.com/whosigned/whosigned/pkg/trust"
	"github.com/whosigned/whosigned/pkg/trust/trusttest"
)

// world is a repository with a client that has no state but what it is given.
type world struct {
	t    testing.TB
	repo *trusttest.Repo
	from trust.Repository
	http *http.Client
}

func newWorld(t testing.TB) *world {
	t.Helper()
	t.Setenv("TMPDIR", t.TempDir())
	repo := trusttest.New(t)
	repo.SetTrustedRoot(published(t))
	from, err := trust.NewRepository(repo.URL+"/", repo.InitialRoot())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left, err := filepath.Glob(filepath.Join(os.TempDir(), "whosigned-tuf-*")); err != nil || len(left) != 0 {
			t.Errorf("left in the temporary folder: %v, %v", left, err)
		}
	})
	return &world{t, repo, from, tlog.NewClient(tlog.ClientOptions{Timeout: 10 * time.Second}).HTTP()}
}

// published is a trusted root with the public good's two Rekor logs.
func published(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile("../../testdata/trusted_root_public_good.json")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// grown is that with a third one.
func grown(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile("../../testdata/trusted_root_staging.json")
	if err != nil {
		t.Fatal(err)
	}
	var into, from map[string]json.RawMessage
	var old, shards []json.RawMessage
	for _, err := range []error{
		json.Unmarshal(published(t), &into), json.Unmarshal(data, &from),
		json.Unmarshal(into["tlogs"], &old), json.Unmarshal(from["tlogs"], &shards),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if into["tlogs"], err = json.Marshal(append(old, shards[1])); err != nil {
		t.Fatal(err)
	}
	if data, err = json.Marshal(into); err != nil {
		t.Fatal(err)
	}
	return data
}

func (w *world) refresh(saved *trust.Metadata, now time.Time) (*trust.Metadata, *trust.Root, error) {
	w.t.Helper()
	m, root, err := w.from.Refresh(w.t.Context(), w.http, saved, now)
	if m != nil && saved != nil {
		for role, pair := range map[string][2]string{
			metadata.ROOT: {saved.Root, m.Root}, metadata.TIMESTAMP: {saved.Timestamp, m.Timestamp},
			metadata.SNAPSHOT: {saved.Snapshot, m.Snapshot}, metadata.TARGETS: {saved.Targets, m.Targets},
		} {
			if before, after := version(pair[0]), version(pair[1]); after != 0 && after < before {
				w.t.Errorf("%s went back from version %d to %d", role, before, after)
			}
		}
	}
	return m, root, err
}

// fresh is a refresh that must succeed, and whose result another instance reads.
func (w *world) fresh(saved *trust.Metadata) *trust.Metadata {
	w.t.Helper()
	now := time.Now()
	m, root, err := w.refresh(saved, now)
	if err != nil || root == nil || !m.Verified.Equal(now) {
		w.t.Fatalf("Refresh = root %v, %v, verified %v; want a root, verified %v", root, err, m, now)
	}
	data, err := json.Marshal(m)
	if err != nil {
		w.t.Fatal(err)
	}
	var read trust.Metadata
	if err := json.Unmarshal(data, &read); err != nil || read != *m {
		w.t.Fatalf("metadata come back as %+v (%v), want %+v", read, err, *m)
	}
	return &read
}

func version(text string) int64 {
	var m struct {
		Signed struct {
			Version int64 `json:"version"`
		} `json:"signed"`
	}
	_ = json.Unmarshal([]byte(text), &m) // "" has none
	return m.Signed.Version
}

func versions(m *trust.Metadata) string {
	return fmt.Sprintf("%d %d %d %d", version(m.Root), version(m.Timestamp), version(m.Snapshot), version(m.Targets))
}

func wantLogs(t testing.TB, root *trust.Root, n int) {
	t.Helper()
	if root == nil {
		t.Fatalf("got no trusted root, want one with %d Rekor logs", n)
	}
	if len(root.Rekor) != n {
		t.Fatalf("got a trusted root with %d Rekor logs, want %d", len(root.Rekor), n)
	}
}

func TestTheFirstRefreshGivesTheTrustedRoot(t *testing.T) {
	w := newWorld(t)
	m, root, err := w.refresh(nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	wantLogs(t, root, 2)
	if got := versions(m); got != "1 2 2 2" || m.Target != string(published(t)) {
		t.Errorf("got versions %s and %d bytes, want 1 2 2 2 and what was published", got, len(m.Target))
	}
}

func TestWhatDidNotChangeIsNotFetchedAgain(t *testing.T) {
	w := newWorld(t)
	m := w.fresh(nil)
	w.repo.Requests()
	again := w.fresh(m)
	if got, want := w.repo.Requests(), map[string]int{"/2.root.json": 1, "/timestamp.json": 1}; !reflect.DeepEqual(got, want) {
		t.Errorf("asked for %v, want %v", got, want)
	}
	again.Verified = m.Verified
	if *again != *m {
		t.Errorf("got versions %s, want %s and all else as saved", versions(again), versions(m))
	}
}

func TestAShardThatIsAddedIsFound(t *testing.T) {
	w := newWorld(t)
	m := w.fresh(nil)
	w.repo.SetTrustedRoot(grown(t))
	_, root, err := w.refresh(m, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	wantLogs(t, root, 3)
}

func TestRootsAreFollowedThroughEveryVersion(t *testing.T) {
	w := newWorld(t)
	m := w.fresh(nil)
	for range 2 {
		w.repo.RotateRoot()
	}
	m = w.fresh(m)
	w.repo.RotateKeys(metadata.TIMESTAMP, metadata.SNAPSHOT, metadata.TARGETS)
	w.repo.RotateRoot()
	for name, saved := range map[string]*trust.Metadata{"from saved metadata": m, "from the initial root": nil} {
		if got := w.fresh(saved); got.Root != string(w.repo.RootVersion(5)) {
			t.Errorf("%s: got root version %d, want 5", name, version(got.Root))
		}
	}
}

func TestAnUpdateThatEndsEarlyKeepsItsNewRoot(t *testing.T) {
	w := newWorld(t)
	m := w.fresh(nil)
	w.repo.RotateRoot()
	w.repo.RotateKeys(metadata.TIMESTAMP)
	mend := w.repo.Inject(tlogtest.Path("/timestamp"), tlogtest.Status(http.StatusBadGateway))
	got, root, err := w.refresh(m, time.Now())
	if !errors.As(err, new(*trust.UnreachableError)) {
		t.Errorf("got %v, want an *UnreachableError", err)
	}
	wantLogs(t, root, 2)
	// The timestamp is void under the new root, and the next one may have any version.
	if versions(got) != "3 0 2 2" || got.Target != m.Target {
		t.Errorf("kept versions %s, want 3 0 2 2 and the target", versions(got))
	}
	mend()
	w.fresh(got)
}

func TestANewerInitialRootIsWhereAnUpdateBegins(t *testing.T) {
	w := newWorld(t)
	m := w.fresh(nil)
	w.repo.RotateRootSignedBy(1) // as it is never to be taken: only its holder can know it
	_, _, err := w.refresh(m, time.Now())
	if !errors.As(err, new(*trust.RejectedError)) {
		t.Fatalf("got %v, want a *RejectedError", err)
	}
	w.from.Root = w.repo.RootVersion(2)
	if got := w.fresh(m); version(got.Root) != 2 {
		t.Errorf("got root version %d, want 2, which is built in now", version(got.Root))
	}
}

func TestRepositoriesAreNamedApart(t *testing.T) {
	root := trusttest.New(t).InitialRoot()
	other := trusttest.New(t).InitialRoot()
	named := func(url string, root []byte) trust.Repository {
		r, err := trust.NewRepository(url, root)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	seen := map[string]string{}
	s, err := state.Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]trust.Repository{
		"public good": trust.PublicGood(), "staging": trust.Staging(),
		"by URL":           named("https://tuf-repo-cdn.sigstore.dev/", trust.PublicGood().Root),
		"another root":     named("https://TUF-repo-cdn.sigstore.dev", root),
		"yet another root": named("https://tuf-repo-cdn.sigstore.dev", other),
		"path":             named("https://tuf-repo-cdn.sigstore.dev/a/../..", root),
		"port":             named("http://127.0.0.1:8080", root),
		"IPv6":             named("http://[::1]:8080", root),
		"odd host":         named("https://.Ä_/x", root),
	} {
		id := r.ID()
		if before, ok := seen[id]; ok {
			t.Errorf("%s and %s have one ID, %s", name, before, id)
		}
		seen[id] = name
		if err := s.SaveTrust(t.Context(), id, &state.Trust{Metadata: trust.Metadata{Root: "x"}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	later := trust.PublicGood()
	later.Root = root // as a later release has built in
	if later.ID() != trust.PublicGood().ID() {
		t.Error("a newer built-in root changes the ID, which forgets the versions seen")
	}
}

func TestARepositoryNeedsAURLAndARootThatSignsItself(t *testing.T) {
	root := trusttest.New(t).InitialRoot()
	for _, tc := range []struct {
		url  string
		root []byte
		want string
	}{
		{"tuf.example.com", root, "not an https:// URL"},
		{"ftp://tuf.example.com", root, "not an https:// URL"},
		{"https://", root, "not an https:// URL"},
		{"https://a b", root, "not a URL"},
		{"http://tuf.example.com", root, "use https://"},
		{"https://me:secret@tuf.example.com", root, "me:xxxxx@"},
		{"https://tuf.example.com?x=1", root, "query"},
		{"https://tuf.example.com", nil, "not a TUF root.json"},
		{"https://tuf.example.com", []byte(`{"signed": {"_type": "root", "keys": {"a": null}, "roles": {"root": {"keyids": ["a"], "threshold": 1}}}}`), "not a TUF root.json"},
		{"https://tuf.example.com", bytes.Replace(root, []byte(`"version": 1`), []byte(`"version": 7`), 1), "not enough signatures"},
		{"https://tuf.example.com", append(bytes.TrimSuffix(root, []byte("}\n")), "\xff}"...), "not text"},
	} {
		if _, err := trust.NewRepository(tc.url, tc.root); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("NewRepository(%q, %.40q) = %v, want an error with %q", tc.url, tc.root, err, tc.want)
		}
	}
}
