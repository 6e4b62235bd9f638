package tlogtest

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// Hash is a SHA-256 Merkle tree hash; it can be assigned to a tlog.Hash. (This
// package does not import tlog, so that tlog's own tests can use it.)
type Hash = [32]byte

// Tree is a growing RFC 6962 Merkle tree in memory: the hash of every perfect
// subtree, 64 bytes a leaf, and either the leaves themselves or a function that
// makes them. It is safe for concurrent use. The zero Tree is empty.
type Tree struct {
	mu     sync.RWMutex
	levels [][]Hash // levels[l][i] is the root of leaves [i<<l, (i+1)<<l)
	runs   []run
}

// run is a stretch of leaves that were appended together. Runs, like hashes, never
// change once they are in a tree, so forks share them.
type run struct {
	from     uint64
	leaf     func(index uint64) []byte
	appended time.Time
}

// NewTree makes a tree of the given leaves.
func NewTree(leaves ...[]byte) *Tree {
	t := &Tree{}
	t.Append(leaves...)
	return t
}

// Append adds leaves. They are not copied.
func (t *Tree) Append(leaves ...[]byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	from := t.size()
	leaves = slices.Clone(leaves)
	t.grow(uint64(len(leaves)), func(i uint64) []byte { return leaves[i-from] })
}

// Generate adds n leaves that are made when they are asked for, and so take no
// memory. leaf must always give the same bytes for an index of the tree, and may be
// called concurrently.
func (t *Tree) Generate(n uint64, leaf func(index uint64) []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.grow(n, leaf)
}

func (t *Tree) grow(n uint64, leaf func(uint64) []byte) {
	if n == 0 {
		return
	}
	from := t.size()
	t.runs = append(t.runs, run{from: from, leaf: leaf, appended: time.Now()})
	for l := 0; n>>l > 0; l++ {
		if l == len(t.levels) {
			t.levels = append(t.levels, nil)
		}
		t.levels[l] = slices.Grow(t.levels[l], int(n>>l)+1)
	}
	const batch = 1 << 16
	for done := uint64(0); done < n; done += batch {
		for _, h := range hashLeaves(from+done, min(batch, n-done), leaf) {
			t.push(h)
		}
	}
}

// push adds one leaf hash and the roots of the subtrees that it completes.
func (t *Tree) push(h Hash) {
	for level := 0; ; level++ {
		if level == len(t.levels) {
			t.levels = append(t.levels, nil)
		}
		row := append(t.levels[level], h)
		t.levels[level] = row
		if len(row)%2 != 0 {
			return
		}
		h = Hash(rfc6962.DefaultHasher.HashChildren(row[len(row)-2][:], row[len(row)-1][:]))
	}
}

// hashLeaves hashes on all cores: a million leaves are two gigabytes.
func hashLeaves(from, n uint64, leaf func(uint64) []byte) []Hash {
	hashes := make([]Hash, n)
	workers := uint64(runtime.GOMAXPROCS(0))
	if n < 1024 {
		workers = 1
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := n * w / workers; i < n*(w+1)/workers; i++ {
				hashes[i] = Hash(rfc6962.DefaultHasher.HashLeaf(leaf(from + i)))
			}
		})
	}
	wg.Wait()
	return hashes
}

func (t *Tree) size() uint64 {
	if len(t.levels) == 0 {
		return 0
	}
	return uint64(len(t.levels[0]))
}

// Size is the number of leaves.
func (t *Tree) Size() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.size()
}

// Leaf returns the leaf at an index, which the caller must not change.
func (t *Tree) Leaf(index uint64) ([]byte, error) {
	leaf, _, err := t.leaf(index)
	return leaf, err
}

// leaf returns also when the leaf was appended.
func (t *Tree) leaf(index uint64) ([]byte, time.Time, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if size := t.size(); index >= size {
		return nil, time.Time{}, fmt.Errorf("leaf %d is beyond the tree of size %d", index, size)
	}
	i, found := slices.BinarySearchFunc(t.runs, index, func(r run, index uint64) int {
		switch {
		case r.from < index:
			return -1
		case r.from > index:
			return 1
		}
		return 0
	})
	if !found {
		i--
	}
	return t.runs[i].leaf(index), t.runs[i].appended, nil
}

// Find returns the index of the leaf with a given hash; it looks at every leaf.
func (t *Tree) Find(leafHash Hash) (index uint64, found bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if len(t.levels) == 0 {
		return 0, false
	}
	i := slices.Index(t.levels[0], leafHash)
	return uint64(max(i, 0)), i >= 0
}

// hashes returns count hashes of a level from an index on, concatenated, as a
// hash tile has them.
func (t *Tree) hashes(level uint, from, count uint64) ([]byte, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if int(level) >= len(t.levels) || from+count > uint64(len(t.levels[level])) {
		return nil, fmt.Errorf("nodes %d to %d of level %d are beyond the tree of size %d", from, from+count, level, t.size())
	}
	out := make([]byte, 0, count*32)
	for _, h := range t.levels[level][from : from+count] {
		out = append(out, h[:]...)
	}
	return out, nil
}

// nodes looks hashes up by their IDs.
func (t *Tree) nodes(ids []compact.NodeID) [][]byte {
	out := make([][]byte, len(ids))
	for i, id := range ids {
		h := t.levels[id.Level][id.Index]
		out[i] = h[:]
	}
	return out
}

// Root is the root hash that the tree had at a size.
func (t *Tree) Root(size uint64) (Hash, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if err := t.holds(size); err != nil {
		return Hash{}, err
	}
	if size == 0 {
		return Hash(rfc6962.DefaultHasher.EmptyRoot()), nil
	}
	hashes := t.nodes(compact.RangeNodes(0, size, nil))
	root := hashes[len(hashes)-1]
	for i := len(hashes) - 2; i >= 0; i-- {
		root = rfc6962.DefaultHasher.HashChildren(hashes[i], root)
	}
	return Hash(root), nil
}

// ConsistencyProof proves that the tree of size from is a prefix of that of size
// to; it is empty if they are equal or from is 0.
func (t *Tree) ConsistencyProof(from, to uint64) ([][]byte, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if err := t.holds(to); err != nil {
		return nil, err
	}
	n, err := proof.Consistency(from, to)
	if err != nil {
		return nil, err
	}
	return n.Rehash(t.nodes(n.IDs), rfc6962.DefaultHasher.HashChildren)
}

// InclusionProof proves that the leaf at an index is in the tree of a size.
func (t *Tree) InclusionProof(index, size uint64) ([][]byte, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if err := t.holds(size); err != nil {
		return nil, err
	}
	n, err := proof.Inclusion(index, size)
	if err != nil {
		return nil, err
	}
	return n.Rehash(t.nodes(n.IDs), rfc6962.DefaultHasher.HashChildren)
}

func (t *Tree) holds(size uint64) error {
	if have := t.size(); size > have {
		return fmt.Errorf("size %d is beyond the tree of size %d", size, have)
	}
	return nil
}

// Fork returns a tree with the same first leaves that grows on its own. It costs
// nothing: the two share what they have in common.
func (t *Tree) Fork(at uint64) (*Tree, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if err := t.holds(at); err != nil {
		return nil, err
	}
	f := &Tree{}
	for l, row := range t.levels {
		if n := at >> l; n > 0 {
			f.levels = append(f.levels, row[:n:n]) // full slices: an append copies
		}
	}
	for _, r := range t.runs {
		if r.from < at {
			f.runs = append(f.runs, r)
		}
	}
	return f, nil
}

// Rewrite returns a tree of the same size in which the leaf at an index is
// another: what a log shows that forks its view or rewrites its history.
func (t *Tree) Rewrite(index uint64, leaf []byte) (*Tree, error) {
	if size := t.Size(); index >= size {
		return nil, fmt.Errorf("leaf %d is beyond the tree of size %d", index, size)
	}
	f, err := t.Fork(index)
	if err != nil {
		return nil, err
	}
	f.Append(leaf)
	t.mu.RLock()
	defer t.mu.RUnlock()
	for i, r := range t.runs {
		end := t.size()
		if i+1 < len(t.runs) {
			end = t.runs[i+1].from
		}
		if end <= index+1 {
			continue
		}
		r.from = max(r.from, index+1)
		f.runs = append(f.runs, r)
	}
	for _, h := range t.levels[0][index+1:] {
		f.push(h)
	}
	return f, nil
}
