package tlogtest

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

func numbered(i uint64) []byte { return fmt.Appendf(nil, "leaf %d", i) }

func numberedTree(n uint64) *Tree {
	t := &Tree{}
	t.Generate(n, numbered)
	return t
}

// rootOf computes a root another way: leaf by leaf with a compact range.
func rootOf(t *testing.T, leaf func(uint64) []byte, size uint64) Hash {
	t.Helper()
	r := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	for i := range size {
		if err := r.Append(rfc6962.DefaultHasher.HashLeaf(leaf(i)), nil); err != nil {
			t.Fatal(err)
		}
	}
	if size == 0 {
		return Hash(rfc6962.DefaultHasher.EmptyRoot())
	}
	root, err := r.GetRootHash(nil)
	if err != nil {
		t.Fatal(err)
	}
	return Hash(root)
}

func mustRoot(t *testing.T, tree *Tree, size uint64) Hash {
	t.Helper()
	root, err := tree.Root(size)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func TestTreeProvesEverySizeAgainstEveryOther(t *testing.T) {
	const n = 130
	tree := &Tree{}
	for i := range uint64(n) { // grown one by one, where the others grow at once
		tree.Append(numbered(i))
	}
	for to := range uint64(n + 1) {
		want := rootOf(t, numbered, to)
		if got := mustRoot(t, tree, to); got != want {
			t.Fatalf("root of size %d: got %x, want %x", to, got, want)
		}
		for from := uint64(1); from < to; from++ {
			p, err := tree.ConsistencyProof(from, to)
			if err != nil {
				t.Fatal(err)
			}
			old := mustRoot(t, tree, from)
			if err := proof.VerifyConsistency(rfc6962.DefaultHasher, from, to, p, old[:], want[:]); err != nil {
				t.Fatalf("consistency of %d with %d: %v", from, to, err)
			}
		}
		for i := range to {
			p, err := tree.InclusionProof(i, to)
			if err != nil {
				t.Fatal(err)
			}
			if err := proof.VerifyInclusion(rfc6962.DefaultHasher, i, to, rfc6962.DefaultHasher.HashLeaf(numbered(i)), p, want[:]); err != nil {
				t.Fatalf("inclusion of %d in %d: %v", i, to, err)
			}
		}
	}
}

func TestTreeHashesGeneratedLeavesAsIfAppended(t *testing.T) {
	for _, n := range []uint64{0, 1, 2, 255, 256, 257, 1023, 1024, 1 << 16, 1<<16 + 3} {
		tree := numberedTree(n)
		tree.Append([]byte("appended"))
		tree.Generate(2, numbered)
		leaf := func(i uint64) []byte {
			if i == n {
				return []byte("appended")
			}
			return numbered(i)
		}
		if got, want := mustRoot(t, tree, n+3), rootOf(t, leaf, n+3); got != want {
			t.Errorf("%d generated, 1 appended, 2 generated: root %x, want %x", n, got, want)
		}
		for _, i := range []uint64{0, n / 2, n, n + 1, n + 2} {
			got, err := tree.Leaf(i)
			if err != nil || !bytes.Equal(got, leaf(i)) {
				t.Errorf("%d generated: leaf %d is %q (%v), want %q", n, i, got, err, leaf(i))
			}
		}
	}
}

func TestForkSharesThePastAndGrowsOnItsOwn(t *testing.T) {
	for _, at := range []uint64{0, 1, 5, 6, 299, 300} {
		tree := numberedTree(300)
		fork, err := tree.Fork(at)
		if err != nil {
			t.Fatal(err)
		}
		fork.Append([]byte("forged"))
		tree.Append([]byte("honest"))
		want := func(last string) func(uint64) []byte {
			return func(i uint64) []byte {
				if i == at && last == "forged" || i == 300 {
					return []byte(last)
				}
				return numbered(i)
			}
		}
		if got, want := mustRoot(t, fork, at+1), rootOf(t, want("forged"), at+1); got != want {
			t.Errorf("fork at %d: root %x, want %x", at, got, want)
		}
		if got, want := mustRoot(t, tree, 301), rootOf(t, want("honest"), 301); got != want {
			t.Errorf("the tree that was forked at %d: root %x, want %x", at, got, want)
		}
		if leaf, err := fork.Leaf(at); err != nil || string(leaf) != "forged" {
			t.Errorf("leaf %d of the fork: %q (%v)", at, leaf, err)
		}
	}
}

func TestRewriteChangesOneLeafAndTheRootOnly(t *testing.T) {
	for _, index := range []uint64{0, 1, 99, 100, 101, 255, 256, 259} {
		tree := numberedTree(100)
		tree.Append([]byte("one"), []byte("two"))
		tree.Generate(158, numbered)
		rewritten, err := tree.Rewrite(index, []byte("another"))
		if err != nil {
			t.Fatal(err)
		}
		leaf := func(i uint64) []byte {
			if i == index {
				return []byte("another")
			}
			b, err := tree.Leaf(i)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		if got, want := mustRoot(t, rewritten, 260), rootOf(t, leaf, 260); got != want || got == mustRoot(t, tree, 260) {
			t.Errorf("leaf %d rewritten: root %x, want %x", index, got, want)
		}
		for i := range uint64(260) {
			if got, err := rewritten.Leaf(i); err != nil || !bytes.Equal(got, leaf(i)) {
				t.Fatalf("leaf %d rewritten: leaf %d is %q (%v), want %q", index, i, got, err, leaf(i))
			}
		}
	}
}

func TestTreeRefusesWhatItDoesNotHold(t *testing.T) {
	tree := numberedTree(3)
	for name, f := range map[string]func() error{
		"root of 4":             func() error { _, err := tree.Root(4); return err },
		"leaf 3":                func() error { _, err := tree.Leaf(3); return err },
		"leaf 0 of an empty":    func() error { _, err := NewTree().Leaf(0); return err },
		"consistency 2 to 4":    func() error { _, err := tree.ConsistencyProof(2, 4); return err },
		"consistency 3 to 2":    func() error { _, err := tree.ConsistencyProof(3, 2); return err },
		"inclusion of 3 in 3":   func() error { _, err := tree.InclusionProof(3, 3); return err },
		"inclusion of 0 in 4":   func() error { _, err := tree.InclusionProof(0, 4); return err },
		"fork at 4":             func() error { _, err := tree.Fork(4); return err },
		"rewrite of 3":          func() error { _, err := tree.Rewrite(3, nil); return err },
		"rewrite of an empty's": func() error { _, err := NewTree().Rewrite(0, nil); return err },
		"nodes beyond":          func() error { _, err := tree.hashes(0, 2, 2); return err },
		"a level beyond":        func() error { _, err := tree.hashes(9, 0, 1); return err },
	} {
		if f() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func BenchmarkGenerateMillion(b *testing.B) {
	ca, err := NewCA("bench")
	if err != nil {
		b.Fatal(err)
	}
	s, err := ca.Issue(Identity{URI: "https://github.com/acme/app", Issuer: "https://token.actions.githubusercontent.com"})
	if err != nil {
		b.Fatal(err)
	}
	leaf, err := Synthetic(HashedRekordV002, s)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(leaf(0))) * 1e6)
	for b.Loop() {
		(&Tree{}).Generate(1e6, leaf)
	}
}
