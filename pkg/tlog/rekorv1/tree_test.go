package rekorv1

import (
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// sizes are all up to n, the boundaries under -short.
func sizes(n uint64) []uint64 {
	var all []uint64
	for i := uint64(1); i <= n; i++ {
		if testing.Short() && !slices.Contains([]uint64{1, 2, 3, 4, 5, 7, 8, 9, 255, 256, 257, 511, 512, 513, n - 1, n}, i) {
			continue
		}
		all = append(all, i)
	}
	return all
}

// edges are the left edges of a test tree, by size, computed from its leaves.
func edges(t *testing.T, name string, n uint64) []tlog.Frontier {
	t.Helper()
	r, err := tlog.NewRange(0, nil)
	if err != nil {
		t.Fatal(err)
	}
	all := []tlog.Frontier{tlog.Save(r)}
	for i := range n {
		h := tlog.LeafHash(body(name, i))
		if err := r.Append(h[:], nil); err != nil {
			t.Fatal(err)
		}
		all = append(all, tlog.Save(r))
	}
	return all
}

func TestFrontierIsTheLeftEdgeAtEverySize(t *testing.T) {
	const n = 1000
	key, public := newKey(t)
	f := serve(t, key, bodies("before", 0, 17)...)
	f.rotate(t, nil, bodies("a", 0, n)...)
	tree := f.discover(t, nil, public).Trees[1]
	cp, err := tree.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := edges(t, "a", n)
	for _, size := range sizes(n) {
		r, err := tree.Frontier(t.Context(), size, cp)
		if err != nil {
			t.Fatalf("size %d: %v", size, err)
		}
		if got := tlog.Save(r); !reflect.DeepEqual(got, want[size]) {
			t.Fatalf("size %d: got %v, want %v", size, got, want[size])
		}
	}
	for _, size := range []uint64{0, n + 1} {
		if _, err := tree.Frontier(t.Context(), size, cp); err == nil {
			t.Errorf("size %d: got an edge, want an error", size)
		}
	}
}

func TestFrontierIsTheSameInEveryTreeOfTheMoment(t *testing.T) {
	const n = 70
	whole := tlogtest.NewTree(bodies("a", 0, n)...)
	want := edges(t, "a", n)
	for size := uint64(1); size <= n; size++ {
		root, err := whole.Root(size)
		if err != nil {
			t.Fatal(err)
		}
		for index := range size {
			hashes, err := whole.InclusionProof(index, size)
			if err != nil {
				t.Fatal(err)
			}
			raw := fmt.Appendf(nil, `{"logIndex":%d,"treeSize":%d,"rootHash":"%x","hashes":[%s]}`, index, size, root, quoteHex(hashes))
			known, err := openInclusion(index, tlog.LeafHash(body("a", index)), raw)
			if err != nil {
				t.Fatalf("leaf %d of %d: %v", index, size, err)
			}
			r, err := known.Edge(index + 1)
			if err != nil {
				t.Fatalf("leaf %d of %d: %v", index, size, err)
			}
			if got := tlog.Save(r); !reflect.DeepEqual(got, want[index+1]) {
				t.Fatalf("leaf %d of %d: got %v, want %v", index, size, got, want[index+1])
			}
		}
	}
}

func quoteHex(hashes [][]byte) string {
	var out []string
	for _, h := range hashes {
		out = append(out, fmt.Sprintf("%q", fmt.Sprintf("%x", h)))
	}
	return strings.Join(out, ",")
}

func TestALeafThatCannotBeHadHasItsHashAndEdgeFromProofs(t *testing.T) {
	const n = 300
	key, public := newKey(t)
	f := serve(t, key, bodies("a", 0, n)...)
	tree, cp := f.tree(t, public)
	want := edges(t, "a", n)
	for _, size := range sizes(n) {
		index := size - 1
		f.rekor.Active().Lie(index, tlogtest.Lie{Missing: true})
		got, err := tree.LeafHash(t.Context(), index, cp)
		if err != nil || got != tlog.LeafHash(body("a", index)) {
			t.Fatalf("leaf %d: got %s, %v", index, got, err)
		}
		r, err := tree.Frontier(t.Context(), size, cp)
		if powerOfTwo := index&(index-1) == 0; powerOfTwo {
			var leafErr *tlog.LeafError
			if !errors.As(err, &leafErr) {
				t.Fatalf("size %d: got %v, want a LeafError", size, err)
			}
		} else if err != nil || !reflect.DeepEqual(tlog.Save(r), want[size]) {
			t.Fatalf("size %d: got %v, %v; want %v", size, r, err, want[size])
		}
		f.rekor.Active().Honest()
	}
	if _, err := tree.LeafHash(t.Context(), n, cp); err == nil {
		t.Error("got a hash beyond the checkpoint, want an error")
	}
}

func TestTheOnlyLeafOfATreeIsItsRoot(t *testing.T) {
	key, public := newKey(t)
	f := serve(t, key, body("a", 0))
	tree, cp := f.tree(t, public)
	f.rekor.Active().Lie(0, tlogtest.Lie{Status: 500})
	if got, err := tree.LeafHash(t.Context(), 0, cp); err != nil || got != tlog.LeafHash(body("a", 0)) {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestFrontierThatDoesNotFitIsUnverified(t *testing.T) {
	key, public := newKey(t)
	replace := func(pairs ...string) tlogtest.Effect {
		return tlogtest.Edit(func(b []byte) []byte { return []byte(strings.NewReplacer(pairs...).Replace(string(b))) })
	}
	hash := tlog.LeafHash(body("a", 20)).String()
	for name, effect := range map[string]tlogtest.Effect{
		"an altered sibling":   replace(hash, strings.Repeat("00", 32)),
		"a sibling missing":    replace(`"`+hash+`",`, ``),
		"a sibling too many":   replace(`"`+hash+`",`, `"`+hash+`","`+hash+`",`),
		"a sibling not hex":    replace(hash, strings.Repeat("xy", 32)),
		"a sibling too short":  replace(hash, hash[:62]),
		"a root not hex":       replace(`"rootHash":"`, `"rootHash":"x`),
		"another index":        replace(`"logIndex":21,"rootHash"`, `"logIndex":20,"rootHash"`),
		"a tree without it":    replace(`"treeSize":30`, `"treeSize":21`),
		"an absurd tree":       replace(`"treeSize":30`, `"treeSize":9223372036854775808`),
		"no proof":             replace(`"inclusionProof"`, `"other"`),
		"no object as a proof": replace(`"inclusionProof":{`, `"inclusionProof":7,"other":{`),
		"another body":         replace(`"body":"ey`, `"body":"eZ`),
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t, key, bodies("a", 0, 30)...)
			tree, cp := f.tree(t, public)
			f.rekor.Inject(tlogtest.Path("retrieve"), 0, effect)
			_, err := tree.Frontier(t.Context(), 22, cp)
			var unverified *tlog.Unverified
			if !errors.As(err, &unverified) || len(unverified.Served) == 0 {
				t.Errorf("got %v, want an Unverified with what was served", err)
			}
		})
	}
}

func TestErrorsSayLittleOfWhatWasServedAndThatQuoted(t *testing.T) {
	key, public := newKey(t)
	odd, long := strings.Repeat(`\u0000\u202e\u001b[2J\n`, 10_000), strings.Repeat("9", 100_000)
	hash := tlog.LeafHash(body("a", 20)).String()
	for name, pair := range map[string][2]string{
		"a proof's index":     {`"logIndex":21,"rootHash"`, `"logIndex":` + long + `,"rootHash"`},
		"a proof's size":      {`"treeSize":30`, `"treeSize":` + long},
		"a proof's root":      {`"rootHash":"`, `"rootHash":"` + odd},
		"a proof's hash":      {hash, odd},
		"an entry's index":    {`"logIndex":21,"ver`, `"logIndex":` + long + `,"ver`},
		"an entry's time":     {`"integratedTime":`, `"integratedTime":` + long},
		"an entry's UUID":     {`[{"`, `[{"` + odd},
		"something instead":   {`[{"`, "\x1b[2J" + odd},
		"an entry's body":     {`"body":"`, `"body":"` + odd},
		"a field's beginning": {`"body":"`, `"body":` + odd + `"`},
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t, key, bodies("a", 0, 30)...)
			tree, cp := f.tree(t, public)
			f.rekor.Inject(tlogtest.Path("retrieve"), 0, tlogtest.Edit(func(b []byte) []byte {
				return []byte(strings.Replace(string(b), pair[0], pair[1], 1))
			}))
			_, frontierErr := tree.Frontier(t.Context(), 22, cp)
			entry := tree.Entries(t.Context(), []tlog.Hash{tlog.LeafHash(body("a", 21))})[0]
			for _, err := range []error{frontierErr, entry.Err} {
				if err == nil {
					t.Fatal("no error")
				}
				if s := err.Error(); len(s) > 1000 || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
					t.Errorf("got %d bytes: %.1000q", len(s), s)
				}
			}
		})
	}
}

func TestConsistencyProofsAreThoseOfTheTree(t *testing.T) {
	key, public := newKey(t)
	f := serve(t, key, bodies("a", 0, 30)...)
	f.rotate(t, nil, bodies("b", 0, 40)...)
	for i, tree := range f.discover(t, nil, public).Trees {
		cp, err := tree.Checkpoint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for from := uint64(1); from < cp.Size; from++ {
			hashes, err := tree.ConsistencyProof(t.Context(), from, cp.Size)
			if err != nil {
				t.Fatal(err)
			}
			old, err := f.rekor.Trees()[i].Tree().Root(from)
			if err != nil {
				t.Fatal(err)
			}
			if err := proof.VerifyConsistency(rfc6962.DefaultHasher, from, cp.Size, hashes, old[:], cp.Root[:]); err != nil {
				t.Fatalf("tree %d, %d to %d: %v", i, from, cp.Size, err)
			}
		}
		for _, pair := range [][2]uint64{{0, 5}, {5, 5}, {6, 5}} {
			if _, err := tree.ConsistencyProof(t.Context(), pair[0], pair[1]); err == nil {
				t.Errorf("%d to %d: got a proof, want an error", pair[0], pair[1])
			}
		}
		// A replica that lags behind.
		_, err = tree.ConsistencyProof(t.Context(), 5, cp.Size+1)
		var unavailable *tlog.Unavailable
		var status *tlog.StatusError
		if !errors.As(err, &unavailable) || !errors.As(err, &status) || status.Code != http.StatusBadRequest {
			t.Errorf("beyond the tree: got %v, want an Unavailable with status 400", err)
		}
	}
}

func TestConsistencyProofsAreLimited(t *testing.T) {
	key, public := newKey(t)
	one := `"` + strings.Repeat("00", 32) + `"`
	text := func(s string) tlogtest.Effect { return tlogtest.Edit(func([]byte) []byte { return []byte(s) }) }
	for name, row := range map[string]struct {
		effect     tlogtest.Effect
		unverified bool
	}{
		"garbage":        {tlogtest.Garbage(), false},
		"endless":        {tlogtest.Oversize(-1), false},
		"refused":        {tlogtest.Status(400), false},
		"too many":       {text(`{"hashes":[` + strings.Repeat(one+",", 200) + one + `]}`), true},
		"not hex":        {text(`{"hashes":["` + strings.Repeat("zz", 32) + `"]}`), true},
		"too short":      {text(`{"hashes":["00"]}`), true},
		"not a string":   {text(`{"hashes":[7]}`), false},
		"of wrong shape": {text(`{"hashes":[` + strings.Repeat(one+",", 50) + one + `]}`), true},
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t, key, bodies("a", 0, 30)...)
			tree, cp := f.tree(t, public)
			f.rekor.Inject(tlogtest.Path("/log/proof"), 0, row.effect)
			_, err := tree.ConsistencyProof(t.Context(), 21, 22)
			if name == "of wrong shape" { // which is for the caller to see, here for us
				_, err = tree.LeafHash(t.Context(), 21, cp)
			}
			var unavailable *tlog.Unavailable
			var unverified *tlog.Unverified
			if errors.As(err, &unverified) != row.unverified || errors.As(err, &unavailable) == row.unverified {
				t.Errorf("got %v (%T), want unverified: %t", err, err, row.unverified)
			}
		})
	}
}

func TestOpenVerifiesKeptNotes(t *testing.T) {
	key, public := newKey(t)
	other, _ := newKey(t)
	f := serve(t, key, bodies("a", 0, 30)...)
	tree, cp := f.tree(t, public)
	if got, err := tree.Open(cp.Note); err != nil || got.Root != cp.Root || got.Size != 30 {
		t.Errorf("got %+v, %v; want %+v", got, err, cp)
	}
	stranger := serve(t, other, bodies("a", 0, 30)...)
	stranger.rekor.Active().SignWith(other)
	note := ""
	stranger.rekor.Active().EditNote(func(n []byte) []byte { note = string(n); return n })
	if _, err := stranger.service(public).Trees(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Open([]byte(note)); err == nil {
		t.Error("a stranger's note was opened")
	}
}
