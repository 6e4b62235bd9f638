package rekorv1

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

const (
	searchPath   = "/index/retrieve"
	searchURI    = "POST /api/v1/index/retrieve"
	retrieveURI  = "POST /api/v1/log/entries/retrieve"
	retrievePath = "/log/entries/retrieve"
)

// indexed serves a tree of n leaves, with the search index on.
func indexed(t testing.TB, n uint64) (*fixture, *Tree) {
	t.Helper()
	private, key := newKey(t)
	f := serve(t, private, bodies("a", 0, n)...)
	f.rekor.Index().On()
	tree, _ := f.tree(t, key)
	return f, tree
}

// list lists leaves under a key.
func (f *fixture) list(key string, leaves ...[]byte) {
	for _, leaf := range leaves {
		f.rekor.Index().List(key, f.rekor.Active().UUID(leaf))
	}
}

// all wants everything that is listed.
func all(int, tlog.Hash) bool { return true }

func email(value string) Query   { return Query{Field: "email", Value: value} }
func subject(value string) Query { return Query{Field: "subject", Value: value} }

func TestTheIndexIsAskedOnceForEachValueAndAnswersForAllTrees(t *testing.T) {
	private, key := newKey(t)
	f := serve(t, private, bodies("a", 0, 3)...)
	f.rekor.Index().On()
	f.list("a@b.c", body("a", 0), body("a", 1))
	f.list("https://d", body("a", 1))
	f.rotate(t, private, bodies("b", 0, 2)...)
	f.list("A@B.C", body("b", 1), body("b", 1))
	f.rekor.Index().List("a@b.c", tlog.LeafHash(body("a", 2)).String(), "00000000000000ff"+tlog.LeafHash(body("x", 1)).String())

	d := f.discover(t, nil, key)
	queries := []Query{email("a@b.c"), subject("HTTPS://D"), email("nobody@b.c")}
	for i, want := range []struct {
		hits   map[string][]int
		others map[string]int
	}{
		{map[string][]int{string(body("a", 0)): {0}, string(body("a", 1)): {0, 1}, string(body("a", 2)): {0}}, map[string]int{"255": 1, d.Trees[1].treeID: 1}},
		{map[string][]int{string(body("b", 1)): {0}, string(body("a", 2)): {0}}, map[string]int{"255": 1, d.Trees[0].treeID: 3}},
	} {
		found := d.Trees[i].Search(t.Context(), queries, all)
		got := map[string][]int{}
		for j, h := range found.Hits {
			for leaf := range want.hits {
				if tlog.LeafHash([]byte(leaf)) == h.Leaf {
					got[leaf] = h.Queries
				}
			}
			if j > 0 && bytes.Compare(found.Hits[j-1].Leaf[:], h.Leaf[:]) >= 0 {
				t.Errorf("tree %d: hits are not in order", i)
			}
			if plain := h.Leaf == tlog.LeafHash(body("a", 2)); h.Plain != plain {
				t.Errorf("tree %d: hit %s is plain: %v, want %v", i, h.Leaf, h.Plain, plain)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want.hits) || len(found.Hits) != len(want.hits) {
			t.Errorf("tree %d: got %v, want %v", i, got, want.hits)
		}
		if fmt.Sprint(found.Others) != fmt.Sprint(want.others) {
			t.Errorf("tree %d: of other trees %v, want %v", i, found.Others, want.others)
		}
		for q, err := range found.Failed {
			if err != nil {
				t.Errorf("tree %d: %s: %v", i, queries[q], err)
			}
		}
	}
	if n := f.rekor.Requests()[searchURI]; n != 4 {
		t.Errorf("%d requests for three values, want 3 and a probe", n)
	}
}

func TestAKeyAndADigestAreAskedForAsRekorHasThem(t *testing.T) {
	f, tree := indexed(t, 0)
	signer, err := tlogtest.NewKeySigner()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := tlogtest.HashedRekordV001(signer, []byte("artifact"))
	if err != nil {
		t.Fatal(err)
	}
	f.rekor.Append(leaf)
	pem, err := signer.PEM()
	if err != nil {
		t.Fatal(err)
	}
	const digest = "c7c5c1d70c5dec4416ab6158afd0b223ef40c29b1dc1f97ed9428b94d4cadb1c"
	for _, q := range []Query{{Field: "publicKey", Format: "x509", Value: string(pem)}, {Field: "hash", Value: digest}} {
		found := tree.Search(t.Context(), []Query{q}, all)
		if len(found.Hits) != 1 || found.Hits[0].Leaf != tlog.LeafHash(leaf) || found.Failed[0] != nil {
			t.Errorf("%s: got %+v", q, found)
		}
	}
}

func TestAServerThatPassesOverSubjectsIsNotTakenToListNone(t *testing.T) {
	f, tree := indexed(t, 1)
	f.rekor.Index().BeforeSubjects()
	f.list("a@b.c", body("a", 0))
	found := tree.Search(t.Context(), []Query{subject("https://d"), email("a@b.c")}, all)
	if !errors.Is(found.Failed[0], ErrNoSubjects) || found.Failed[1] != nil || len(found.Hits) != 1 {
		t.Errorf("got %+v", found)
	}
}

func TestWhatFailsAboutOneQueryFailsThatOneOnly(t *testing.T) {
	asks := func(value string) tlogtest.Match {
		return func(r *http.Request) bool {
			return strings.HasSuffix(r.URL.Path, searchPath) && r.ContentLength == int64(len(email(value).body()))
		}
	}
	for name, tc := range map[string]struct {
		effect tlogtest.Effect
		hits   int // of the query that fails
	}{
		"refused":       {tlogtest.Status(http.StatusBadRequest), 0},
		"not processed": {tlogtest.Status(http.StatusUnprocessableEntity), 0},
		"not all UUIDs": {tlogtest.Edit(func(body []byte) []byte {
			return bytes.Replace(body, []byte(`["`), []byte(`["0123","`), 1)
		}), 1},
		"beyond what is read of an answer": {tlogtest.Edit(func(body []byte) []byte {
			return append(append(bytes.TrimSuffix(bytes.TrimSpace(body), []byte("]")), bytes.Repeat([]byte(",\"x\""), tlog.MaxChunk/4)...), ']')
		}), 1},
		"an answer without end": {tlogtest.Oversize(-1), 1},
	} {
		t.Run(name, func(t *testing.T) {
			f, tree := indexed(t, 2)
			f.list("bad@b.example", body("a", 0))
			f.list("a@b.c", body("a", 1))
			f.list("worse@b.example", body("a", 0))
			f.rekor.Inject(asks("bad@b.example"), 0, tc.effect)
			f.rekor.Inject(asks("worse@b.example"), 0, tc.effect)
			queries := []Query{email("bad@b.example"), email("a@b.c"), email("worse@b.example")}
			found := tree.Search(t.Context(), queries, all)
			failed := 0
			for _, err := range found.Failed {
				if err != nil {
					failed++
				}
			}
			if failed != 2 || found.Failed[1] != nil || len(found.Hits) != 1+tc.hits {
				t.Errorf("%d failed (%v), %d hits; want 2, %d", failed, found.Failed, len(found.Hits), 1+tc.hits)
			}
		})
	}
}

func TestAServiceThatFailsIsNotAskedForTheRest(t *testing.T) {
	for name, effect := range map[string]tlogtest.Effect{
		"off": tlogtest.Status(http.StatusNotImplemented), "not there": tlogtest.Status(http.StatusNotFound),
		"garbage": tlogtest.Garbage(), "cut": tlogtest.Cut(),
	} {
		f, tree := indexed(t, 1)
		f.rekor.Inject(tlogtest.Path(searchPath), 0, effect)
		var queries []Query
		for i := range 100 {
			queries = append(queries, email(fmt.Sprintf("a%d@b.c", i)))
		}
		found := tree.Search(t.Context(), queries, all)
		for i, err := range found.Failed {
			var gone *tlog.Unavailable
			if !errors.As(err, &gone) {
				t.Errorf("%s: query %d: %v, want an *Unavailable", name, i, err)
			}
		}
		if n := f.rekor.Requests()[searchURI]; n > searches*4 {
			t.Errorf("%s: %d requests, want those of one round", name, n)
		}
	}
}

func TestEntriesAreReadByTheirHashesTenAtATime(t *testing.T) {
	f, tree := indexed(t, 40)
	var leaves []tlog.Hash
	for i := uint64(5); i < 40; i++ {
		leaves = append(leaves, tlog.LeafHash(body("a", i)))
	}
	leaves[7] = tlog.LeafHash([]byte("none"))
	entries := tree.Entries(t.Context(), leaves)
	for i, e := range entries {
		if i == 7 {
			if !errors.Is(e.Err, ErrNoEntry) {
				t.Errorf("entry %d: %v, want %v", i, e.Err, ErrNoEntry)
			}
			continue
		}
		root, _ := f.rekor.Active().Tree().Root(40)
		if e.Err != nil || e.Leaf.Index != uint64(5+i) || !bytes.Equal(e.Leaf.Data, body("a", uint64(5+i))) || e.Size != 40 || e.Root != tlog.Hash(root) {
			t.Errorf("entry %d: %+v", i, e)
		}
	}
	if n := f.rekor.Requests()[retrieveURI]; n != 4 {
		t.Errorf("%d requests for 35 entries, want 4", n)
	}
}

func TestAnEntryThatDoesNotFitFailsAlone(t *testing.T) {
	const bad = 13
	lie := func(lie tlogtest.Lie) func(*fixture) {
		return func(f *fixture) { f.rekor.Active().Lie(bad, lie) }
	}
	edit := func(change func(e map[string]any, proof map[string]any)) func(*fixture) {
		return func(f *fixture) {
			f.rekor.Inject(tlogtest.Path(retrievePath), 0, editEntries(t, func(list []map[string]map[string]any) []map[string]map[string]any {
				if _, e := find(list, bad); e != nil {
					change(e, e["verification"].(map[string]any)["inclusionProof"].(map[string]any))
				}
				return list
			}))
		}
	}
	index := uint64(12)
	for name, tc := range map[string]struct {
		fault func(*fixture)
		leaf  bool // what was served hashes to what was asked for
		gone  bool // nothing was served
	}{
		"another body":           {lie(tlogtest.Lie{Data: body("b", bad)}), false, false},
		"another UUID":           {lie(tlogtest.Lie{UUID: strings.Repeat("0", 80)}), false, false},
		"another index":          {lie(tlogtest.Lie{Index: &index}), true, false},
		"another global index":   {edit(func(e, _ map[string]any) { e["logIndex"] = 5 }), true, false},
		"status 500":             {lie(tlogtest.Lie{Status: 500}), false, true},
		"another root":           {edit(func(_, proof map[string]any) { proof["rootHash"] = strings.Repeat("0", 64) }), true, false},
		"no root":                {edit(func(_, proof map[string]any) { proof["rootHash"] = "" }), true, false},
		"another place":          {edit(func(_, proof map[string]any) { proof["logIndex"] = 3 }), true, false},
		"a place beyond":         {edit(func(_, proof map[string]any) { proof["logIndex"] = 40 }), true, false},
		"a place below zero":     {edit(func(_, proof map[string]any) { proof["logIndex"] = -1 }), true, false},
		"a larger tree":          {edit(func(_, proof map[string]any) { proof["treeSize"] = 80 }), true, false},
		"hashes left out":        {edit(func(_, proof map[string]any) { proof["hashes"] = []string{} }), true, false},
		"hashes that are none":   {edit(func(_, proof map[string]any) { proof["hashes"] = []string{"x"} }), true, false},
		"no verification at all": {edit(func(e, _ map[string]any) { delete(e, "verification") }), true, false},
	} {
		t.Run(name, func(t *testing.T) {
			f, tree := indexed(t, 40)
			tc.fault(f)
			var leaves []tlog.Hash
			for i := range uint64(40) {
				leaves = append(leaves, tlog.LeafHash(body("a", i)))
			}
			for i, e := range tree.Entries(t.Context(), leaves) {
				if i != bad {
					if e.Err != nil || e.Leaf.Index != uint64(i) {
						t.Errorf("entry %d: %+v", i, e)
					}
					continue
				}
				var unverified *tlog.Unverified
				var gone *tlog.Unavailable
				if errors.As(e.Err, &unverified) == tc.gone || errors.As(e.Err, &gone) != tc.gone {
					t.Errorf("the bad entry: %v, unavailable: %v", e.Err, tc.gone)
				}
				if unverified != nil && len(unverified.Served) == 0 {
					t.Error("what was served is not kept")
				}
				if got := e.Leaf.Data != nil; got != tc.leaf {
					t.Errorf("the leaf is there: %v, want %v", got, tc.leaf)
				}
			}
		})
	}
}

func TestAnEntryOfAnotherTreeIsNotThisTrees(t *testing.T) {
	private, key := newKey(t)
	f := serve(t, private, bodies("a", 0, 3)...)
	f.rotate(t, private, bodies("b", 0, 3)...)
	for _, tree := range f.discover(t, nil, key).Trees {
		entries := tree.Entries(t.Context(), []tlog.Hash{tlog.LeafHash(body("a", 2)), tlog.LeafHash(body("b", 2))})
		mine, theirs := entries[0], entries[1]
		if tree.Info().Active {
			mine, theirs = theirs, mine
		}
		if mine.Err != nil || mine.Leaf.Index != 2 || !errors.Is(theirs.Err, ErrNoEntry) {
			t.Errorf("tree %s: %+v, %v", tree.treeID, mine, theirs.Err)
		}
	}
}

func TestEntriesThatCannotBeHadAreUnavailable(t *testing.T) {
	for name, effect := range map[string]tlogtest.Effect{
		"cut": tlogtest.Cut(), "garbage": tlogtest.Garbage(), "status": tlogtest.Status(http.StatusServiceUnavailable),
	} {
		f, tree := indexed(t, 3)
		f.rekor.Inject(tlogtest.Path(retrievePath), 0, effect)
		for i, e := range tree.Entries(t.Context(), []tlog.Hash{tlog.LeafHash(body("a", 0)), tlog.LeafHash(body("a", 1))}) {
			var gone *tlog.Unavailable
			if !errors.As(e.Err, &gone) {
				t.Errorf("%s: entry %d: %v, want an *Unavailable", name, i, e.Err)
			}
		}
	}
	_, tree := indexed(t, 3)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if e := tree.Entries(ctx, []tlog.Hash{tlog.LeafHash(body("a", 0))})[0]; !errors.Is(e.Err, context.Canceled) {
		t.Errorf("without time: %v", e.Err)
	}
}

func FuzzUUID(f *testing.F) {
	f.Add("")
	f.Add(strings.Repeat("a", 64))
	f.Add("108e9186e8c5677a" + strings.Repeat("B", 64))
	f.Fuzz(func(t *testing.T, uuid string) {
		id, ok := parseUUID(uuid)
		if !ok {
			return
		}
		want := id.leaf.String()
		if len(uuid) == 80 {
			want = fmt.Sprintf("%016x", id.tree) + want
		}
		if !strings.EqualFold(want, uuid) {
			t.Errorf("%q is read as %q", uuid, want)
		}
	})
}
