package tlog

import (
	"context"
	"errors"
	"fmt"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// Nodes is hashes of a tree by their place in it, as proofs give them.
type Nodes map[compact.NodeID]Hash

// InclusionNodes verifies the RFC 6962 proof that the leaf at index, with the hash
// given, is in the tree of that size and root, and returns the nodes of the proof and
// the leaf's own. The left siblings among them are the left edge [0, index).
func InclusionNodes(index, size uint64, leaf Hash, hashes [][]byte, root Hash) (Nodes, error) {
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, size, leaf[:], hashes, root[:]); err != nil {
		return nil, inHex(err)
	}
	n, err := proof.Inclusion(index, size)
	if err != nil {
		return nil, err
	}
	nodes, err := placed(n, hashes)
	if err != nil {
		return nil, err
	}
	nodes[compact.NewNodeID(0, index)] = leaf
	return nodes, nil
}

// AppendNodes returns the nodes of the RFC 6962 consistency proof from size to
// size+1: the hash of the leaf at index size and, unless size is a power of two, the
// left edge before it. The proof is checked for its shape only.
func AppendNodes(size uint64, hashes [][]byte) (Nodes, error) {
	n, err := proof.Consistency(size, size+1)
	if err != nil {
		return nil, err
	}
	return placed(n, hashes)
}

// placed tells the places of a proof's hashes, and checks their number. RFC 6962
// folds the nodes of the tree's ragged right edge into one hash; that one is nobody's
// place.
func placed(n proof.Nodes, hashes [][]byte) (Nodes, error) {
	_, begin, end := n.Ephem()
	folded := max(end-begin-1, 0)
	if want := len(n.IDs) - folded; len(hashes) != want {
		return nil, fmt.Errorf("a proof of %d hashes, want %d", len(hashes), want)
	}
	nodes := make(Nodes)
	for i, id := range n.IDs {
		at := i
		switch {
		case folded == 0 || i < begin:
		case i >= end:
			at = i - folded
		default:
			continue
		}
		if len(hashes[at]) != len(Hash{}) {
			return nil, fmt.Errorf("hash %d of the proof has %d bytes, want %d", at, len(hashes[at]), len(Hash{}))
		}
		nodes[id] = Hash(hashes[at])
	}
	return nodes, nil
}

// Edge is the compact range [0, size), size at least 1, of which the nodes must have
// the left edge [0, size-1) and the leaf after it.
func (n Nodes) Edge(size uint64) (*compact.Range, error) {
	var hashes [][]byte
	for _, id := range compact.RangeNodes(0, size-1, nil) {
		h, ok := n[id]
		if !ok {
			return nil, fmt.Errorf("the left edge at %d lacks node %d of level %d", size, id.Index, id.Level)
		}
		hashes = append(hashes, h[:])
	}
	r, err := NewRange(size-1, hashes)
	if err != nil {
		return nil, err
	}
	leaf, ok := n[compact.NewNodeID(0, size-1)]
	if !ok {
		return nil, fmt.Errorf("the left edge at %d lacks leaf %d", size, size-1)
	}
	if err := r.Append(leaf[:], nil); err != nil {
		return nil, err
	}
	return r, nil
}

// Prover gets the nodes of a log that serves proofs and no tiles.
type Prover struct {
	// Inclusion gets the nodes of the inclusion proof of a leaf, [InclusionNodes], in
	// the tree of cp or one that the log has at the moment. The error is, or wraps, a
	// *LeafError if the leaf cannot be had.
	Inclusion func(ctx context.Context, index uint64, cp Checkpoint) (Nodes, error)
	// Append gets the nodes of the consistency proof from size to size+1, [AppendNodes].
	Append func(ctx context.Context, size uint64) (Nodes, error)
}

// Frontier returns the compact range [0, size), as [Log] wants it: the left siblings
// in the inclusion proof of leaf size-1, then that leaf's hash. If that leaf cannot
// be had, the consistency proof size-1→size gives the same, but where size-1 is a
// power of two.
func (p Prover) Frontier(ctx context.Context, size uint64, cp Checkpoint) (*compact.Range, error) {
	if size < 1 || size > cp.Size {
		return nil, fmt.Errorf("no left edge at %d in a tree of size %d", size, cp.Size)
	}
	last := size - 1
	nodes, err := p.Inclusion(ctx, last, cp)
	var leafErr *LeafError
	if errors.As(err, &leafErr) && last&(last-1) != 0 {
		if nodes, err = p.Append(ctx, last); err != nil {
			return nil, errors.Join(leafErr, err)
		}
	}
	if err != nil {
		return nil, err
	}
	return nodes.Edge(size)
}

// LeafHash returns the hash of a leaf without needing its bytes, as [LeafHasher]
// wants it: the consistency proof index→index+1 contains it. Leaf 0 is in none; its
// hash is the root of a tree of size 1, else the first sibling in the inclusion proof
// of leaf 1.
func (p Prover) LeafHash(ctx context.Context, index uint64, cp Checkpoint) (Hash, error) {
	var nodes Nodes
	var err error
	switch {
	case index >= cp.Size:
		return Hash{}, fmt.Errorf("no leaf %d in a tree of size %d", index, cp.Size)
	case index > 0:
		nodes, err = p.Append(ctx, index)
	case cp.Size == 1:
		return cp.Root, nil
	default:
		nodes, err = p.Inclusion(ctx, 1, cp)
	}
	if err != nil {
		return Hash{}, err
	}
	return nodes[compact.NewNodeID(0, index)], nil
}
