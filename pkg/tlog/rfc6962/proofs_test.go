package rfc6962

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

func TestConsistencyProofsAreThoseOfTheTree(t *testing.T) {
	f := serve(t, 60)
	cp := f.checkpoint(t)
	for from := uint64(1); from < cp.Size; from++ {
		hashes, err := f.log.ConsistencyProof(t.Context(), from, cp.Size)
		if err != nil {
			t.Fatal(err)
		}
		old, err := f.Tree().Root(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := proof.VerifyConsistency(rfc6962.DefaultHasher, from, cp.Size, hashes, old[:], cp.Root[:]); err != nil {
			t.Fatalf("%d to %d: %v", from, cp.Size, err)
		}
	}
	for _, pair := range [][2]uint64{{0, 5}, {5, 5}, {6, 5}} {
		if _, err := f.log.ConsistencyProof(t.Context(), pair[0], pair[1]); err == nil {
			t.Errorf("%d to %d: got a proof, want an error", pair[0], pair[1])
		}
	}
	// A replica that lags behind.
	_, err := f.log.ConsistencyProof(t.Context(), 5, cp.Size+1)
	var unavailable *tlog.Unavailable
	var status *tlog.StatusError
	if !errors.As(err, &unavailable) || !errors.As(err, &status) || status.Code != http.StatusBadRequest {
		t.Errorf("beyond the tree: got %v, want an Unavailable with status 400", err)
	}
}

func TestConsistencyProofsAreLimited(t *testing.T) {
	hashes := func(n, size int) tlogtest.Effect {
		list := slices.Repeat([][]byte{bytes.Repeat([]byte{1}, size)}, n)
		body, err := json.Marshal(map[string]any{"consistency": list})
		if err != nil {
			t.Fatal(err)
		}
		return tlogtest.Edit(func([]byte) []byte { return body })
	}
	for name, row := range map[string]struct {
		effect     tlogtest.Effect
		unverified bool
	}{
		"garbage":                   {tlogtest.Garbage(), false},
		"endless":                   {tlogtest.Oversize(-1), false},
		"refused":                   {tlogtest.Status(400), false},
		"not base64":                {tlogtest.Edit(func([]byte) []byte { return []byte(`{"consistency":["%"]}`) }), false},
		"too many":                  {hashes(200, 32), true},
		"too short":                 {hashes(1, 31), true},
		"too long":                  {hashes(1, 33), true},
		"of wrong shape, too long":  {hashes(50, 32), true},
		"of wrong shape, too short": {hashes(0, 32), true},
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t, 30)
			cp := f.checkpoint(t)
			f.Inject(tlogtest.Path("consistency"), 0, row.effect)
			_, err := f.log.ConsistencyProof(t.Context(), 21, 22)
			if strings.HasPrefix(name, "of wrong shape") { // which is for the caller to see, here for us
				_, err = f.log.LeafHash(t.Context(), 21, cp)
			}
			var unavailable *tlog.Unavailable
			var unverified *tlog.Unverified
			if errors.As(err, &unverified) != row.unverified || errors.As(err, &unavailable) == row.unverified {
				t.Errorf("got %v (%T), want unverified: %t", err, err, row.unverified)
			}
		})
	}
}

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

// edges are the left edges of the test's tree, by size, computed from its leaves.
func edges(t *testing.T, n uint64) []tlog.Frontier {
	t.Helper()
	r, err := tlog.NewRange(0, nil)
	if err != nil {
		t.Fatal(err)
	}
	all := []tlog.Frontier{tlog.Save(r)}
	for i := range n {
		h := tlog.LeafHash(data(i))
		if err := r.Append(h[:], nil); err != nil {
			t.Fatal(err)
		}
		all = append(all, tlog.Save(r))
	}
	return all
}

func TestFrontierIsTheLeftEdgeAtEverySize(t *testing.T) {
	const n = 1000
	f := serve(t, n)
	cp := f.checkpoint(t)
	want := edges(t, n)
	for _, size := range sizes(n) {
		r, err := f.log.Frontier(t.Context(), size, cp)
		if err != nil {
			t.Fatalf("size %d: %v", size, err)
		}
		if got := tlog.Save(r); !reflect.DeepEqual(got, want[size]) {
			t.Fatalf("size %d: got %v, want %v", size, got, want[size])
		}
	}
	for _, size := range []uint64{0, n + 1} {
		if _, err := f.log.Frontier(t.Context(), size, cp); err == nil {
			t.Errorf("size %d: got an edge, want an error", size)
		}
	}
}

func TestALeafThatCannotBeHadHasItsHashAndEdgeFromProofs(t *testing.T) {
	const n = 300
	f := serve(t, n)
	cp := f.checkpoint(t)
	want := edges(t, n)
	for _, size := range sizes(n) {
		index := size - 1
		f.Lie(index, tlogtest.Lie{Status: 404})
		got, err := f.log.LeafHash(t.Context(), index, cp)
		if err != nil || got != tlog.LeafHash(data(index)) {
			t.Fatalf("leaf %d: got %s, %v", index, got, err)
		}
		r, err := f.log.Frontier(t.Context(), size, cp)
		if powerOfTwo := index&(index-1) == 0; powerOfTwo {
			var leafErr *tlog.LeafError
			if !errors.As(err, &leafErr) {
				t.Fatalf("size %d: got %v, want a LeafError", size, err)
			}
		} else if err != nil || !reflect.DeepEqual(tlog.Save(r), want[size]) {
			t.Fatalf("size %d: got %v, %v; want %v", size, r, err, want[size])
		}
		f.Honest()
	}
	if _, err := f.log.LeafHash(t.Context(), n, cp); err == nil {
		t.Error("got a hash beyond the checkpoint, want an error")
	}
}

func TestTheOnlyLeafOfATreeIsItsRoot(t *testing.T) {
	f := serve(t, 1)
	cp := f.checkpoint(t)
	f.Lie(0, tlogtest.Lie{Status: 500})
	if got, err := f.log.LeafHash(t.Context(), 0, cp); err != nil || got != tlog.LeafHash(data(0)) {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestFrontierThatDoesNotFitIsUnverified(t *testing.T) {
	edit := func(change func(map[string]any, []any)) tlogtest.Effect {
		return tlogtest.Edit(func(body []byte) []byte {
			var m map[string]any
			if err := json.Unmarshal(body, &m); err != nil {
				panic(err)
			}
			change(m, m["audit_path"].([]any))
			out, err := json.Marshal(m)
			if err != nil {
				panic(err)
			}
			return out
		})
	}
	for _, row := range []struct {
		name       string
		effect     tlogtest.Effect
		unverified bool
	}{
		{"an altered sibling", edit(func(m map[string]any, path []any) { path[0] = strings.Repeat("A", 43) + "=" }), true},
		{"a sibling missing", edit(func(m map[string]any, path []any) { m["audit_path"] = path[1:] }), true},
		{"a sibling too many", edit(func(m map[string]any, path []any) { m["audit_path"] = append(path, path[0]) }), true},
		{"a sibling too short", edit(func(m map[string]any, path []any) { path[0] = "AAAA" }), true},
		{"hundreds of siblings", edit(func(m map[string]any, path []any) { m["audit_path"] = slices.Repeat(path, 100) }), true},
		{"no proof", edit(func(m map[string]any, path []any) { delete(m, "audit_path") }), true},
		{"another leaf", edit(func(m map[string]any, path []any) { m["leaf_input"] = "AAAA" }), true},
		{"no leaf", edit(func(m map[string]any, path []any) { delete(m, "leaf_input") }), true},
		// These leave it to the consistency proof.
		{"a sibling not base64", edit(func(m map[string]any, path []any) { path[0] = "%" }), false},
		{"garbage", tlogtest.Garbage(), false},
		{"endless", tlogtest.Oversize(-1), false},
		{"no such path", tlogtest.Status(404), false},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := serve(t, 30)
			cp := f.checkpoint(t)
			f.Inject(tlogtest.Path("get-entry-and-proof"), 0, row.effect)
			r, err := f.log.Frontier(t.Context(), 22, cp)
			var unverified *tlog.Unverified
			if errors.As(err, &unverified) != row.unverified || row.unverified && len(unverified.Served) == 0 {
				t.Fatalf("got %v, want an Unverified with what was served: %t", err, row.unverified)
			}
			if want := edges(t, 22)[22]; !row.unverified && (err != nil || !reflect.DeepEqual(tlog.Save(r), want)) {
				t.Errorf("got %v, %v; want %v", r, err, want)
			}
		})
	}
}
