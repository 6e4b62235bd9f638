package rekorv1

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

const (
	badLeaf  = 13 // the leaf that the faults below are about
	allCount = 30
)

// asking strikes only requests that ask for the leaf.
func asking(t testing.TB, index uint64, effect tlogtest.Effect) tlogtest.Effect {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if slices.Contains(asked(t, r), index) {
			effect(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}
}

// editEntries changes the list of entries that is served.
func editEntries(t testing.TB, edit func([]map[string]map[string]any) []map[string]map[string]any) tlogtest.Effect {
	return tlogtest.Edit(func(body []byte) []byte {
		var list []map[string]map[string]any
		if err := json.Unmarshal(body, &list); err != nil {
			t.Error(err)
		}
		out, err := json.Marshal(edit(list))
		if err != nil {
			t.Error(err)
		}
		return out
	})
}

type entryList = []map[string]map[string]any

func find(list entryList, index uint64) (uuid string, e map[string]any) {
	for _, m := range list {
		for uuid, e := range m {
			if e["logIndex"] == float64(index) {
				return uuid, e
			}
		}
	}
	return "", nil
}

func TestFaultsOfOneLeafStopOnlyThere(t *testing.T) {
	const (
		clean       = iota // nothing is wrong
		withheld           // a LeafError without anything served
		wrong              // a LeafError with what was served
		unavailable        // nothing to judge
	)
	text := func(s string) tlogtest.Effect { return tlogtest.Edit(func([]byte) []byte { return []byte(s) }) }
	lie := func(l tlogtest.Lie) func(*testing.T, *fixture) {
		return func(_ *testing.T, f *fixture) { f.rekor.Active().Lie(badLeaf, l) }
	}
	inject := func(e tlogtest.Effect) func(*testing.T, *fixture) {
		return func(_ *testing.T, f *fixture) { f.rekor.Inject(tlogtest.Path("retrieve"), 0, e) }
	}
	strike := func(e tlogtest.Effect) func(*testing.T, *fixture) {
		return func(t *testing.T, f *fixture) { inject(asking(t, badLeaf, e))(t, f) }
	}
	edit := func(change func(entryList) entryList) func(*testing.T, *fixture) {
		return func(t *testing.T, f *fixture) { strike(editEntries(t, change))(t, f) }
	}
	hash := tlog.LeafHash(body("a", badLeaf)).String()
	index := func(i uint64) *uint64 { return &i }
	for _, row := range []struct {
		name  string
		fault func(*testing.T, *fixture)
		want  int
	}{
		{"honest", func(*testing.T, *fixture) {}, clean},
		{"served in another order", inject(editEntries(t, func(l entryList) entryList { slices.Reverse(l); return l })), clean},
		{"all in one object", edit(func(l entryList) entryList {
			all := map[string]map[string]any{}
			for _, m := range l {
				for uuid, e := range m {
					all[uuid] = e
				}
			}
			return entryList{all}
		}), clean},
		{"a UUID without tree ID", lie(tlogtest.Lie{UUID: hash}), clean},
		{"a UUID in capitals", lie(tlogtest.Lie{UUID: strings.ToUpper(hash)}), clean},
		{"no more than 3 at once: 422", inject(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if len(asked(t, r)) > 3 {
				tlogtest.Status(422)(w, r, next)
				return
			}
			next.ServeHTTP(w, r)
		}), clean},
		{"left out", lie(tlogtest.Lie{Missing: true}), withheld},
		{"500", lie(tlogtest.Lie{Status: 500}), withheld},
		{"404", lie(tlogtest.Lie{Status: 404}), withheld},
		{"endless", strike(tlogtest.Oversize(-1)), withheld},
		{"a compressed bomb", strike(tlogtest.GzipBomb(20 << 20)), withheld},
		{"an empty answer", strike(text("")), withheld},
		{"garbage", strike(tlogtest.Garbage()), wrong},
		{"null", strike(text("null")), wrong},
		{"another JSON", strike(text(`{"code":500,"message":"no"}`)), wrong},
		{"a wrong index, that of another", lie(tlogtest.Lie{Index: index(badLeaf + 1)}), wrong},
		{"a wrong index, of none asked for", lie(tlogtest.Lie{Index: index(1000)}), wrong},
		{"a wrong UUID", lie(tlogtest.Lie{UUID: strings.Repeat("0", 80)}), wrong},
		{"a UUID of no form", lie(tlogtest.Lie{UUID: hash[:63]}), wrong},
		{"another tree's UUID", lie(tlogtest.Lie{UUID: "0000000000000001" + hash}), wrong},
		{"an altered body under its old UUID", edit(func(l entryList) entryList {
			_, e := find(l, badLeaf)
			e["body"] = "eyJhIjoxfQ=="
			return l
		}), wrong},
		{"a body that is not base64", edit(func(l entryList) entryList {
			_, e := find(l, badLeaf)
			e["body"] = "{}"
			return l
		}), wrong},
		{"swapped bodies", inject(editEntries(t, func(l entryList) entryList {
			_, e := find(l, badLeaf)
			if _, o := find(l, badLeaf+1); e != nil && o != nil {
				e["body"], o["body"] = o["body"], e["body"]
			} else if e != nil {
				e["body"] = "e30="
			}
			return l
		})), wrong},
		{"served twice", edit(func(l entryList) entryList {
			uuid, e := find(l, badLeaf)
			return append(l, map[string]map[string]any{uuid: e})
		}), wrong},
		{"more than was asked for", edit(func(l entryList) entryList {
			return append(l, map[string]map[string]any{strings.Repeat("a", 80): {"logIndex": 5000, "body": "", "integratedTime": 1}})
		}), wrong},
		{"no logIndex", edit(func(l entryList) entryList {
			_, e := find(l, badLeaf)
			delete(e, "logIndex")
			return l
		}), wrong},
		{"429", strike(tlogtest.Status(429)), unavailable},
		{"503", strike(tlogtest.Status(503)), unavailable},
		{"cut", strike(tlogtest.Cut()), unavailable},
		{"truncated", strike(tlogtest.Truncate(100)), unavailable},
		{"a redirect", strike(tlogtest.Redirect("https://example.com/")), unavailable},
	} {
		t.Run(row.name, func(t *testing.T) {
			key, public := newKey(t)
			f := serve(t, key, bodies("a", 0, allCount)...)
			tree, _ := f.tree(t, public)
			row.fault(t, f)
			leaves, err := read(tree, t.Context(), 0, allCount)
			if row.want == clean {
				if err != nil {
					t.Fatalf("got %v, want all leaves", err)
				}
				wantBodies(t, leaves, "a", 0, allCount)
				return
			}
			var leafErr *tlog.LeafError
			if row.want == unavailable {
				// Nothing of the batch need have come.
				wantBodies(t, leaves, "a", 0, 10)
				var un *tlog.Unavailable
				if !errors.As(err, &un) || errors.As(err, &leafErr) {
					t.Fatalf("got %v, want an Unavailable", err)
				}
				return
			}
			wantBodies(t, leaves, "a", 0, badLeaf)
			if !errors.As(err, &leafErr) || leafErr.Index != badLeaf || leafErr.End != badLeaf+1 || (leafErr.Served != nil) != (row.want == wrong) {
				t.Fatalf("got %v (%+v), want a LeafError for %d, with what was served: %t", err, leafErr, badLeaf, row.want == wrong)
			}
			rest, err := read(tree, t.Context(), badLeaf+1, allCount)
			if err != nil {
				t.Fatalf("after the leaf: %v", err)
			}
			wantBodies(t, rest, "a", badLeaf+1, allCount)
		})
	}
}

// What is consistent in itself can only be judged by the root.
func TestALeafRewrittenWithItsUUIDIsDeliveredWithItsHash(t *testing.T) {
	key, public := newKey(t)
	f := serve(t, key, bodies("a", 0, allCount)...)
	tree, _ := f.tree(t, public)
	f.rekor.Active().Lie(badLeaf, tlogtest.Lie{Data: []byte("{}")})
	leaves, err := read(tree, t.Context(), 0, allCount)
	if err != nil || len(leaves) != allCount || leaves[badLeaf].Hash != tlog.LeafHash([]byte("{}")) {
		t.Errorf("got %d leaves, %v; want all, number %d with the hash of what was served", len(leaves), err, badLeaf)
	}
}

func TestAServiceThatFailsAltogetherBlamesNoLeaf(t *testing.T) {
	key, public := newKey(t)
	for name, effect := range map[string]tlogtest.Effect{
		"500":     tlogtest.Status(500),
		"404":     tlogtest.Status(404),
		"501":     tlogtest.Status(501),
		"garbage": tlogtest.Garbage(),
		"endless": tlogtest.Oversize(-1),
		"a login page": tlogtest.Edit(func([]byte) []byte {
			return []byte("<html>who are you?</html>")
		}),
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t, key, bodies("a", 0, allCount)...)
			tree, cp := f.tree(t, public)
			f.rekor.Inject(tlogtest.Path("retrieve"), 0, effect)
			_, leavesErr := read(tree, t.Context(), badLeaf, allCount)
			_, frontierErr := tree.Frontier(t.Context(), 9, cp) // 8 is a power of two
			for _, err := range []error{leavesErr, frontierErr} {
				var un *tlog.Unavailable
				var leafErr *tlog.LeafError
				if !errors.As(err, &un) || errors.As(err, &leafErr) {
					t.Errorf("got %v, want an Unavailable", err)
				}
			}
		})
	}
}

func TestLeavesBesideOthersThatAreMissingAreBlamedToo(t *testing.T) {
	key, public := newKey(t)
	f := serve(t, key, bodies("a", 0, allCount)...)
	tree, _ := f.tree(t, public)
	for i := uint64(10); i < 20; i++ {
		f.rekor.Active().Lie(i, tlogtest.Lie{Status: 500})
	}
	for i := uint64(10); i < 20; i++ {
		_, err := read(tree, t.Context(), i, allCount)
		var leafErr *tlog.LeafError
		if !errors.As(err, &leafErr) || leafErr.Index != i {
			t.Errorf("leaf %d: got %v, want a LeafError for it", i, err)
		}
	}
	leaves, err := read(tree, t.Context(), 20, allCount)
	if err != nil {
		t.Fatal(err)
	}
	wantBodies(t, leaves, "a", 20, allCount)
}

func TestLeavesThatCameAreNotAskedForAgainToBlameTheNext(t *testing.T) {
	key, public := newKey(t)
	f := serve(t, key, bodies("a", 0, allCount)...)
	tree, _ := f.tree(t, public)
	f.rekor.Active().Lie(badLeaf, tlogtest.Lie{Status: 500})
	var mu sync.Mutex
	times := map[uint64]int{}
	f.rekor.Inject(tlogtest.Path("retrieve"), 0, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		mu.Lock()
		defer mu.Unlock()
		if indexes := asked(t, r); !slices.Contains(indexes, badLeaf) {
			for _, i := range indexes {
				times[i]++
			}
		}
		next.ServeHTTP(w, r)
	})
	leaves, _ := read(tree, t.Context(), 0, allCount)
	wantBodies(t, leaves, "a", 0, badLeaf)
	for i := range uint64(badLeaf) {
		if times[i] != 1 {
			t.Errorf("leaf %d was served %d times, want once", i, times[i])
		}
	}
}

func TestTheOnlyLeafOfATreeIsBlamedWithoutNeighbours(t *testing.T) {
	key, public := newKey(t)
	f := serve(t, key, body("a", 0))
	tree, _ := f.tree(t, public)
	f.rekor.Active().Lie(0, tlogtest.Lie{Status: 500})
	_, err := read(tree, t.Context(), 0, 1)
	var leafErr *tlog.LeafError
	if !errors.As(err, &leafErr) {
		t.Errorf("got %v, want a LeafError", err)
	}
}

func TestLeavesTooLargeTogetherAreReadApart(t *testing.T) {
	if testing.Short() {
		t.Skip("moves some hundred megabytes")
	}
	var leaves [][]byte
	for i := range 12 {
		leaves = append(leaves, bytes.Repeat([]byte{byte('a' + i)}, 2<<20)) // ten are 27 MiB as JSON
	}
	tree := canned(t, leaves)
	next := 0
	for leaf, err := range tree.Leaves(t.Context(), 0, 12) {
		if err != nil {
			t.Fatal(err)
		}
		if leaf.Index != uint64(next) || !bytes.Equal(leaf.Data, leaves[next]) {
			t.Fatalf("got leaf %d with %d bytes, want leaf %d", leaf.Index, len(leaf.Data), next)
		}
		next++
	}
	if next != 12 {
		t.Errorf("got %d leaves, want 12", next)
	}
}

func TestABatchTooLargeForLessThanTheMaximumIsNotHalved(t *testing.T) {
	tree := canned(t, typical(10))
	leaves, size, err := tree.fetch(t.Context(), tlog.Chunk{From: 0, To: 10}, 20_000)
	if requests := tree.service.client.Stats().Requests; !tlog.IsTooLarge(err) || len(leaves) != 0 || size != 0 || requests != 1 {
		t.Errorf("got %d leaves, %d bytes, %v by %d requests; want none, too large, by one", len(leaves), size, err, requests)
	}
}

func TestALeafBeyondTheLimitIsBlamedAndPassed(t *testing.T) {
	if testing.Short() {
		t.Skip("moves some hundred megabytes")
	}
	leaves := bodies("a", 0, 3)
	leaves[1] = bytes.Repeat([]byte("x"), tlog.MaxChunk)
	tree := canned(t, leaves)
	got, err := read(tree, t.Context(), 0, 3)
	var leafErr *tlog.LeafError
	var large *tlog.TooLargeError
	if len(got) != 1 || !errors.As(err, &leafErr) || leafErr.Index != 1 || leafErr.Served != nil || !errors.As(err, &large) {
		t.Fatalf("got %d leaves, %v; want one and a LeafError for leaf 1 that is too large", len(got), err)
	}
	if got, err = read(tree, t.Context(), 2, 3); err != nil || len(got) != 1 {
		t.Errorf("after it: got %d leaves, %v", len(got), err)
	}
}

func TestAFailureThatGoesAwayIsNobodysFault(t *testing.T) {
	key, public := newKey(t)
	f := serve(t, key, bodies("a", 0, allCount)...)
	tree, _ := f.tree(t, public)
	for times := range 6 {
		clear := f.rekor.Inject(tlogtest.Path("retrieve"), times+1, editEntries(t, func(l entryList) entryList {
			if len(l) > 1 {
				return l[:len(l)-1]
			}
			return l
		}))
		leaves, err := read(tree, t.Context(), 0, allCount)
		clear()
		if err != nil {
			t.Fatalf("%d failures: %v", times, err)
		}
		wantBodies(t, leaves, "a", 0, allCount)
	}
}

func TestFreshReadingBypassesCaches(t *testing.T) {
	key, public := newKey(t)
	f := serve(t, key, bodies("a", 0, allCount)...)
	tree, cp := f.tree(t, public)
	var mu sync.Mutex
	stale := map[string]bool{}
	f.rekor.Inject(nil, 0, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		mu.Lock()
		stale[r.URL.Path] = r.Header.Get("Cache-Control") != "no-cache"
		mu.Unlock()
		next.ServeHTTP(w, r)
	})
	ctx := tlog.Fresh(t.Context())
	if _, err := tree.Checkpoint(ctx); err != nil {
		t.Error(err)
	}
	if _, err := tree.LeafHash(ctx, 5, cp); err != nil {
		t.Error(err)
	}
	if _, err := read(tree, ctx, 0, allCount); err != nil {
		t.Error(err)
	}
	for _, path := range []string{"/api/v1/log", "/api/v1/log/proof", "/api/v1/log/entries/retrieve"} {
		if s, ok := stale[path]; !ok || s {
			t.Errorf("%s: asked for %t, may be cached %t", path, ok, s)
		}
	}
}

func TestTheSignedEntryTimestampVouchesForTheTimeAlone(t *testing.T) {
	key, public := newKey(t)
	set := func(field string, value any) tlogtest.Effect {
		return editEntries(t, func(l entryList) entryList {
			_, e := find(l, 0)
			e[field] = value
			return l
		})
	}
	for _, row := range []struct {
		name    string
		effect  tlogtest.Effect
		vouched bool
		zero    bool
	}{
		{"honest", set("attestation", map[string]any{"data": "eyJ9"}), true, false},
		{"another log's ID beside it", set("logID", strings.Repeat("0", 64)), true, false},
		{"another time", set("integratedTime", 1600000000), false, false},
		{"no time", set("integratedTime", 0), false, true},
		{"a time before time", set("integratedTime", -1), false, true},
		{"a time that JSON cannot say", set("integratedTime", maxTime+1), false, true},
		{"no verification", set("verification", nil), false, false},
		{"an empty one", set("verification", map[string]any{}), false, false},
		{"not base64", set("verification", map[string]any{"signedEntryTimestamp": "%"}), false, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := serve(t, key, bodies("a", 0, 1)...)
			tree, _ := f.tree(t, public)
			f.rekor.Inject(tlogtest.Path("retrieve"), 0, row.effect)
			leaves, err := read(tree, t.Context(), 0, 1)
			if err != nil {
				t.Fatal(err)
			}
			c := leaves[0].Claims
			if got := c.Vouched(); got != row.vouched || c.IntegratedTime.IsZero() != row.zero {
				t.Errorf("got vouched %t at %s, want %t, zero %t", got, c.IntegratedTime, row.vouched, row.zero)
			}
			if _, err := json.Marshal(c.IntegratedTime); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestReadingStopsWhenTheConsumerDoes(t *testing.T) {
	key, public := newKey(t)
	f := serve(t, key, bodies("a", 0, 500)...)
	tree, _ := f.tree(t, public)
	for leaf, err := range tree.Leaves(t.Context(), 5, 500) {
		if err != nil {
			t.Fatal(err)
		}
		if leaf.Index == 17 {
			break
		}
	}
	if leaves, err := read(tree, t.Context(), 7, 7); len(leaves) != 0 || err != nil {
		t.Errorf("an empty range: got %d leaves, %v", len(leaves), err)
	}
}

func ExampleService_Trees() {
	key, err := tlog.ParseKeyPEM([]byte(`-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE2G2Y+2tabdTV5BcGiBIx0a9fAFwr
kBbmLSGtks4L3qX6yYY0zufBnhC8Ur/iy55GhWP/9A/bY2LhC30M9+RYtw==
-----END PUBLIC KEY-----`))
	if err != nil {
		fmt.Println(err)
		return
	}
	service := New(tlog.NewClient(tlog.ClientOptions{}), Config{URL: "https://rekor.sigstore.dev", Keys: []tlog.Key{key}})
	fmt.Println(service.infoURL(), treeLogID(key, "1193050959916656506"))
	// Output: https://rekor.sigstore.dev/api/v1/log c0d23d6ad406973f9559f3ba2d1ca01f84147d8ffc5b8445c224f98b9591801d-1193050959916656506
}
