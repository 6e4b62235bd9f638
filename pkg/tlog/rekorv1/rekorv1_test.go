package rekorv1

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

func newKey(t testing.TB) (crypto.Signer, tlog.Key) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := tlog.NewKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return private, key
}

// body is the leaf that the tests put at an index.
func body(tree string, i uint64) []byte {
	return fmt.Appendf(nil, `{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"tree":%q,"n":%d}}`, tree, i)
}

func bodies(tree string, from, to uint64) [][]byte {
	var leaves [][]byte
	for i := from; i < to; i++ {
		leaves = append(leaves, body(tree, i))
	}
	return leaves
}

// fixture is a served Rekor and a client of it.
type fixture struct {
	rekor  *tlogtest.RekorV1
	client *tlog.Client
	url    string
}

func serve(t testing.TB, key crypto.Signer, leaves ...[]byte) *fixture {
	t.Helper()
	rekor, err := tlogtest.NewRekorV1(key)
	if err != nil {
		t.Fatal(err)
	}
	rekor.Append(leaves...)
	server := httptest.NewServer(rekor)
	t.Cleanup(server.Close)
	return &fixture{rekor, tlog.NewClient(tlog.ClientOptions{Backoff: time.Millisecond}), server.URL}
}

func (f *fixture) rotate(t testing.TB, key crypto.Signer, leaves ...[]byte) {
	t.Helper()
	if err := f.rekor.Rotate(key); err != nil {
		t.Fatal(err)
	}
	f.rekor.Append(leaves...)
}

func (f *fixture) service(keys ...tlog.Key) *Service {
	return New(f.client, Config{URL: f.url + "/", Keys: keys})
}

func (f *fixture) discover(t testing.TB, known []tlog.ID, keys ...tlog.Key) Discovery {
	t.Helper()
	d, err := f.service(keys...).Trees(t.Context(), known)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// tree is the only tree of a service, with its checkpoint.
func (f *fixture) tree(t testing.TB, key tlog.Key) (*Tree, tlog.Checkpoint) {
	t.Helper()
	d := f.discover(t, nil, key)
	if len(d.Trees) != 1 {
		t.Fatalf("got %d trees (failed: %v), want 1", len(d.Trees), d.Failed)
	}
	cp, err := d.Trees[0].Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return d.Trees[0], cp
}

// read collects [from, to) and the error that ended it.
func read(t *Tree, ctx context.Context, from, to uint64) ([]tlog.Leaf, error) {
	var leaves []tlog.Leaf
	for leaf, err := range t.Leaves(ctx, from, to) {
		if err != nil {
			return leaves, err
		}
		leaves = append(leaves, leaf)
	}
	return leaves, nil
}

// wantBodies compares leaves with those of a test tree from an index on.
func wantBodies(t *testing.T, got []tlog.Leaf, tree string, from, to uint64) {
	t.Helper()
	if uint64(len(got)) != to-from {
		t.Fatalf("got %d leaves, want %d", len(got), to-from)
	}
	for i, leaf := range got {
		index := from + uint64(i)
		if leaf.Index != index || !bytes.Equal(leaf.Data, body(tree, index)) || leaf.Hash != tlog.LeafHash(leaf.Data) {
			t.Fatalf("leaf %d: got index %d, data %q, hash %s", index, leaf.Index, leaf.Data, leaf.Hash)
		}
	}
}

var infoPath = func(r *http.Request) bool { return r.URL.Path == "/api/v1/log" }

// editInfo changes log info as JSON.
func editInfo(t *testing.T, edit func(map[string]any)) tlogtest.Effect {
	return tlogtest.Edit(func(body []byte) []byte {
		var info map[string]any
		if err := json.Unmarshal(body, &info); err != nil {
			t.Error(err)
		}
		edit(info)
		out, err := json.Marshal(info)
		if err != nil {
			t.Error(err)
		}
		return out
	})
}

func TestEveryTreeOfAServiceIsReadAtItsOwnIndexes(t *testing.T) {
	one, oneKey := newKey(t)
	two, twoKey := newKey(t)
	f := serve(t, one, bodies("a", 0, 13)...)
	f.rotate(t, nil)                       // the same key, and it stays empty
	f.rotate(t, two, bodies("c", 0, 7)...) // a new key
	f.rotate(t, nil, bodies("d", 0, 25)...)
	d := f.discover(t, nil, twoKey, oneKey)
	if len(d.Trees) != 4 || len(d.Failed) != 0 || len(d.Missing) != 0 {
		t.Fatalf("got %+v, want 4 trees", d)
	}
	global := uint64(0)
	for i, want := range []struct {
		name string
		size uint64
		key  tlog.Key
	}{{"a", 13, oneKey}, {"b", 0, oneKey}, {"c", 7, twoKey}, {"d", 25, twoKey}} {
		tree := d.Trees[i]
		info := tree.Info()
		treeID := strconv.FormatInt(f.rekor.Trees()[i].ID, 10)
		if wantInfo := (tlog.Info{
			ID: tlog.ID(want.key.Hex() + "-" + treeID), Type: tlog.RekorV1, Origin: "rekor.example.com - " + treeID,
			URL: f.url, TreeID: treeID, Active: i == 3,
		}); info != wantInfo {
			t.Errorf("tree %s: got %+v, want %+v", want.name, info, wantInfo)
		}
		if _, err := tlog.ParseID(string(info.ID)); err != nil {
			t.Error(err)
		}
		cp, err := tree.Checkpoint(t.Context())
		if err != nil || cp.Size != want.size {
			t.Fatalf("tree %s: got checkpoint of size %d, %v; want %d", want.name, cp.Size, err, want.size)
		}
		leaves, err := read(tree, t.Context(), 0, cp.Size)
		if err != nil {
			t.Fatalf("tree %s: %v", want.name, err)
		}
		wantBodies(t, leaves, want.name, 0, want.size)
		for _, leaf := range leaves {
			wantUUID := fmt.Sprintf("%016x%s", f.rekor.Trees()[i].ID, leaf.Hash)
			if c := leaf.Claims; c.GlobalIndex != global || c.UUID != wantUUID || !c.Vouched() || time.Since(c.IntegratedTime) > time.Hour {
				t.Fatalf("tree %s, leaf %d: claims %+v, vouched %t; want global index %d, UUID %s", want.name, leaf.Index, *c, c.Vouched(), global, wantUUID)
			}
			global++
		}
	}
}

func TestATreeIsAcceptedOnlyForItsSignedNote(t *testing.T) {
	key, public := newKey(t)
	stranger, strangerKey := newKey(t)
	for _, row := range []struct {
		name string
		keys []tlog.Key
		do   func(f *fixture)
		want string // part of the error; "" if the tree is accepted
	}{
		{"honest", nil, func(*fixture) {}, ""},
		{"another replica's host name", nil, func(f *fixture) { f.rekor.SetHost("pod-7c9d") }, ""},
		{"a Timestamp line", nil, func(f *fixture) { f.rekor.SetTimestamp(1_600_000_000_000_000_000) }, ""},
		{"treeSize and rootHash lie", nil, func(f *fixture) {
			f.rekor.Inject(infoPath, 0, editInfo(t, func(info map[string]any) {
				info["treeSize"], info["rootHash"] = 1<<40, strings.Repeat("00", 32)
			}))
		}, ""},
		{"signed by a stranger", nil, func(f *fixture) { f.rekor.Active().SignWith(stranger) }, "verifies under"},
		{"no keys configured", []tlog.Key{}, func(*fixture) {}, "verifies under"},
		{"another key configured", []tlog.Key{strangerKey}, func(*fixture) {}, "verifies under"},
		{"another tree's origin", nil, func(f *fixture) { f.rekor.Active().CallItself("rekor.example.com - 12345") }, "another tree's"},
		{"origin without tree ID", nil, func(f *fixture) { f.rekor.Active().CallItself("rekor.example.com") }, "another tree's"},
		{"altered note", nil, func(f *fixture) {
			f.rekor.Active().EditNote(func(n []byte) []byte { return bytes.Replace(n, []byte("\n30\n"), []byte("\n31\n"), 1) })
		}, "verifies under"},
		{"unsigned note", nil, func(f *fixture) {
			f.rekor.Active().EditNote(func(n []byte) []byte { return n[:bytes.Index(n, []byte("\n\n"))+2] })
		}, "no signature"},
		{"empty note", nil, func(f *fixture) { f.rekor.Active().EditNote(func([]byte) []byte { return nil }) }, "not a signed note"},
		{"endless note", nil, func(f *fixture) {
			f.rekor.Active().EditNote(func(n []byte) []byte { return append(bytes.Repeat([]byte("x"), 100<<10), n...) })
		}, "longer than"},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := serve(t, key, bodies("a", 0, 30)...)
			tree, _ := f.tree(t, public)
			row.do(f)
			keys := row.keys
			if keys == nil {
				keys = []tlog.Key{public}
			}
			d := f.discover(t, nil, keys...)
			cp, cpErr := tree.Checkpoint(t.Context())
			if row.want == "" {
				if len(d.Trees) != 1 || len(d.Failed) != 0 || cpErr != nil || cp.Size != 30 {
					t.Fatalf("got %+v, checkpoint %+v, %v; want the tree of size 30", d, cp, cpErr)
				}
				return
			}
			if len(d.Trees) != 0 || len(d.Failed) != 1 || d.Failed[0].ID != "" {
				t.Fatalf("got %+v, want one failed tree", d)
			}
			errs := []error{d.Failed[0]}
			if row.keys == nil {
				errs = append(errs, cpErr)
			}
			for _, err := range errs {
				var unverified *tlog.Unverified
				if !errors.As(err, &unverified) || !strings.Contains(err.Error(), row.want) {
					t.Errorf("got %v, want an Unverified that says %q", err, row.want)
				}
			}
		})
	}
}

func TestAKnownTreeStaysWithItsKey(t *testing.T) {
	one, oneKey := newKey(t)
	two, twoKey := newKey(t)
	f := serve(t, one, bodies("a", 0, 3)...)
	tree, _ := f.tree(t, oneKey)
	known := []tlog.ID{tree.Info().ID}
	both := f.discover(t, known, twoKey, oneKey).Trees[0]

	f.rekor.Active().SignWith(two)
	if _, err := both.Checkpoint(t.Context()); !errors.As(err, new(*tlog.Unverified)) {
		t.Errorf("checkpoint: got %v, want an Unverified", err)
	}
	for name, keys := range map[string][]tlog.Key{"both keys": {oneKey, twoKey}, "the new key only": {twoKey}} {
		d := f.discover(t, known, keys...)
		if len(d.Trees) != 0 || len(d.Failed) != 1 || len(d.Missing) != 0 {
			t.Fatalf("%s: got %+v, want the tree to fail", name, d)
		}
		var unverified *tlog.Unverified
		// A key that was taken out of the configuration is not the log's doing.
		blamed := errors.As(d.Failed[0], &unverified) && bytes.Contains(unverified.Served, []byte(d.Failed[0].TreeID))
		if d.Failed[0].ID != known[0] || blamed != (name == "both keys") {
			t.Errorf("%s: got %+v, want an Unverified for %s with its note if its key is configured", name, d.Failed[0], known[0])
		}
	}
	// Once an operator accepted the new key, it is the same log under either.
	accepted := New(f.client, Config{URL: f.url, Keys: []tlog.Key{oneKey}, Accepted: map[tlog.ID][]tlog.Key{known[0]: {twoKey}}})
	if d, err := accepted.Trees(t.Context(), known); err != nil || len(d.Trees) != 1 || d.Trees[0].Info().ID != known[0] {
		t.Errorf("accepted: got %+v (%v), want the tree under its old ID", d, err)
	}
	// One that is not known is taken under the new key.
	for _, known := range [][]tlog.ID{nil, append(known, treeLogID(twoKey, tree.treeID))} {
		if d := f.discover(t, known, oneKey, twoKey); len(d.Trees) != 1 || d.Trees[0].Info().ID != treeLogID(twoKey, tree.treeID) {
			t.Errorf("known %v: got %+v, want the tree under the second key", known, d)
		}
	}
}

func TestATreeThatVanishesFromLogInfoIsMissing(t *testing.T) {
	key, public := newKey(t)
	f := serve(t, key, bodies("a", 0, 12)...)
	f.rotate(t, nil, bodies("b", 0, 5)...)
	d := f.discover(t, nil, public)
	old, active := d.Trees[0], d.Trees[1]
	known := []tlog.ID{old.Info().ID, active.Info().ID}
	f.rekor.Inject(infoPath, 0, editInfo(t, func(info map[string]any) { delete(info, "inactiveShards") }))

	d = f.discover(t, known, public)
	if len(d.Trees) != 1 || d.Trees[0].Info().ID != known[1] || !slices.Equal(d.Missing, known[:1]) {
		t.Errorf("got %+v, want %s missing and the other there", d, known[0])
	}
	_, err := old.Checkpoint(t.Context())
	var missing *MissingTreeError
	var unavailable *tlog.Unavailable
	if !errors.As(err, &missing) || missing.ID != known[0] || !errors.As(err, &unavailable) {
		t.Errorf("got %v, want a MissingTreeError for %s that is an Unavailable", err, known[0])
	}
}

func TestOneBadTreeHidesNoOther(t *testing.T) {
	one, oneKey := newKey(t)
	two, twoKey := newKey(t)
	f := serve(t, one, bodies("a", 0, 13)...)
	f.rotate(t, two, bodies("b", 0, 7)...)

	d := f.discover(t, nil, twoKey)
	if len(d.Trees) != 1 || len(d.Failed) != 1 {
		t.Fatalf("got %+v, want the tree with the unknown key to fail alone", d)
	}
	leaves, err := read(d.Trees[0], t.Context(), 0, 7)
	if err != nil {
		t.Fatal(err)
	}
	wantBodies(t, leaves, "b", 0, 7)

	// Without any size nothing is guessed, and no tampering suspected.
	f.rekor.Trees()[0].EditNote(func([]byte) []byte { return []byte("nonsense") })
	d = f.discover(t, nil, oneKey, twoKey)
	if len(d.Trees) != 1 || len(d.Failed) != 1 {
		t.Fatalf("got %+v, want the tree with the garbled note to fail alone", d)
	}
	_, err = read(d.Trees[0], t.Context(), 0, 7)
	var unavailable *tlog.Unavailable
	if !errors.As(err, &unavailable) || !strings.Contains(err.Error(), "global indexes") {
		t.Errorf("got %v, want an Unavailable about global indexes", err)
	}
	if _, err := d.Trees[0].ConsistencyProof(t.Context(), 3, 7); err != nil {
		t.Errorf("consistency proof: %v", err)
	}
}

func TestLogInfoThatCannotBeReadIsUnavailable(t *testing.T) {
	key, public := newKey(t)
	text := func(s string) tlogtest.Effect { return tlogtest.Edit(func([]byte) []byte { return []byte(s) }) }
	for name, effect := range map[string]tlogtest.Effect{
		"garbage":        tlogtest.Garbage(),
		"endless":        tlogtest.Oversize(-1),
		"truncated":      tlogtest.Truncate(100),
		"a list":         text(`[]`),
		"null":           text(`null`),
		"empty":          text(``),
		"no active tree": text(`{}`),
		"wrong types":    text(`{"treeID": 7, "inactiveShards": 7}`),
		"many trees":     text(`{"treeID":"1","inactiveShards":[` + strings.Repeat(`{},`, 5000) + `{}]}`),
		"500":            tlogtest.Status(500),
		"cut":            tlogtest.Cut(),
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t, key, bodies("a", 0, 3)...)
			tree, _ := f.tree(t, public)
			f.rekor.Inject(infoPath, 0, effect)
			_, listErr := f.service(public).Trees(t.Context(), nil)
			_, cpErr := tree.Checkpoint(t.Context())
			for _, err := range []error{listErr, cpErr} {
				var unavailable *tlog.Unavailable
				var unverified *tlog.Unverified
				if !errors.As(err, &unavailable) || errors.As(err, &unverified) {
					t.Errorf("got %v, want an Unavailable", err)
				}
			}
		})
	}
}

func TestTreeIDsAreDecimalAndListedOnce(t *testing.T) {
	key, public := newKey(t)
	f := serve(t, key, bodies("a", 0, 3)...)
	for _, bad := range []any{"", "x", "-5", "0", "007", "+7", "../../etc", "99999999999999999999", nil} {
		clear := f.rekor.Inject(infoPath, 1, editInfo(t, func(info map[string]any) {
			info["inactiveShards"] = []any{map[string]any{"treeID": bad, "signedTreeHead": info["signedTreeHead"]}, nil}
		}))
		d := f.discover(t, nil, public)
		clear()
		if len(d.Trees) != 1 || len(d.Failed) != 2 {
			t.Errorf("tree ID %v: got %+v, want it to fail", bad, d)
		}
	}
	f.rekor.Inject(infoPath, 1, editInfo(t, func(info map[string]any) {
		info["inactiveShards"] = []any{map[string]any{"treeID": info["treeID"], "signedTreeHead": info["signedTreeHead"]}}
	}))
	if d := f.discover(t, nil, public); len(d.Trees) != 1 || len(d.Failed) != 1 {
		t.Errorf("a tree listed twice: got %+v, want it once", d)
	}
}

func TestSizesThatOverflowGiveNoPlace(t *testing.T) {
	f := &fixture{client: tlog.NewClient(tlog.ClientOptions{})}
	note := []byte("x - 1\n" + strconv.FormatUint(1<<63, 10) + "\n" + strings.Repeat("A", 43) + "=\n")
	trees := []listed{{treeID: "1", note: note}, {treeID: "2", note: note}, {treeID: "3"}}
	f.service().place(trees)
	if trees[0].offsetErr != nil || trees[1].offsetErr == nil || trees[2].offsetErr == nil {
		t.Errorf("got %v, %v, %v; want a place for the first only", trees[0].offsetErr, trees[1].offsetErr, trees[2].offsetErr)
	}
}

func TestASizeThatIsNoNumberIsSaidInPart(t *testing.T) {
	f := &fixture{client: tlog.NewClient(tlog.ClientOptions{})}
	note := []byte("x - 1\n" + strings.Repeat("9", 100_000) + "\n" + strings.Repeat("A", 43) + "=\n")
	trees := []listed{{treeID: "1", note: note}, {treeID: "2"}}
	f.service().place(trees)
	if err := trees[1].offsetErr; err == nil || len(err.Error()) > 1000 {
		t.Errorf("got %.1000q", err)
	}
}

// asked are the global indexes that a retrieve request asks for.
func asked(t testing.TB, r *http.Request) []uint64 {
	t.Helper()
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		t.Error(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(raw))
	var q struct {
		LogIndexes []uint64 `json:"logIndexes"`
	}
	if err := json.Unmarshal(raw, &q); err != nil {
		t.Errorf("request %q: %v", raw, err)
	}
	return q.LogIndexes
}
