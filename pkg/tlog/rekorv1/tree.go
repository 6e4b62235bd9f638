package rekorv1

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/whosigned/whosigned/pkg/tlog"
)

const (
	// maxProofHashes is more than any proof in a tree of 2^62 leaves has.
	maxProofHashes = 128
	// maxProof limits the answer that carries them, 67 bytes a hash.
	maxProof = 32 << 10
)

var (
	_ tlog.Log        = (*Tree)(nil)
	_ tlog.LeafHasher = (*Tree)(nil)
)

// Tree is one tree of a [Service]. It implements [tlog.Log] and [tlog.LeafHasher].
type Tree struct {
	service *Service
	id      tlog.ID
	treeID  string
	prefix  string     // tree ID as UUIDs begin: 16 hex digits
	keys    []tlog.Key // the one in its ID, and those that an operator accepted

	mu  sync.Mutex
	now state
}

// state is what the newest verified log info says of the tree.
type state struct {
	origin    string
	active    bool
	size      uint64
	offset    uint64 // global index of leaf 0
	offsetErr error
}

func (t *Tree) update(l listed, cp tlog.Checkpoint) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now = state{origin: cp.Origin, active: l.active, size: cp.Size, offset: l.offset, offsetErr: l.offsetErr}
}

func (t *Tree) state() state {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.now
}

// Info describes the tree, as of the newest checkpoint that was fetched.
func (t *Tree) Info() tlog.Info {
	now := t.state()
	return tlog.Info{
		ID:     t.id,
		Type:   tlog.RekorV1,
		Origin: now.origin,
		URL:    t.service.url,
		TreeID: t.treeID,
		Active: now.active,
	}
}

// Open verifies a note of the tree under its keys.
func (t *Tree) Open(note []byte) (tlog.Checkpoint, error) {
	cp, _, err := openNote(note, t.treeID, t.keys)
	return cp, err
}

// Checkpoint fetches log info and verifies the tree's note in it. A tree that is
// not listed any more is a *MissingTreeError. The note of an inactive tree was
// signed when the server started and stays the same.
func (t *Tree) Checkpoint(ctx context.Context) (tlog.Checkpoint, error) {
	trees, err := t.service.list(ctx)
	if err != nil {
		return tlog.Checkpoint{}, err
	}
	for _, l := range trees {
		if l.treeID != t.treeID {
			continue
		}
		cp, err := t.Open(l.note)
		if err != nil {
			return tlog.Checkpoint{}, t.service.unverified(l, err)
		}
		t.update(l, cp)
		return cp, nil
	}
	return tlog.Checkpoint{}, &MissingTreeError{ID: t.id, Err: &tlog.Unavailable{
		What: t.service.infoURL(),
		Err:  fmt.Errorf("log info lists %d trees, tree %s is none of them", len(trees), t.treeID),
	}}
}

// ConsistencyProof asks for the proof by tree ID. A replica whose tree is still
// smaller than to refuses with 400, an *tlog.Unavailable.
func (t *Tree) ConsistencyProof(ctx context.Context, from, to uint64) ([][]byte, error) {
	if from < 1 || from >= to {
		return nil, fmt.Errorf("no consistency proof from size %d to %d: want 1 <= from < to", from, to)
	}
	url := fmt.Sprintf("%s/api/v1/log/proof?firstSize=%d&lastSize=%d&treeID=%s", t.service.url, from, to, t.treeID)
	raw, err := t.service.client.Get(ctx, url, maxProof)
	if err != nil {
		return nil, err
	}
	var p struct {
		Hashes []string `json:"hashes"`
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return nil, &tlog.Unavailable{What: url, Err: fmt.Errorf("not Rekor's consistency proof: %w", err)}
	}
	hashes, err := parseHashes(p.Hashes)
	if err != nil {
		return nil, &tlog.Unverified{What: url, Served: raw, Err: err}
	}
	return hashes, nil
}

func parseHashes(hashes []string) ([][]byte, error) {
	if len(hashes) > maxProofHashes {
		return nil, fmt.Errorf("a proof of %d hashes; none has more than %d", len(hashes), maxProofHashes)
	}
	out := make([][]byte, len(hashes))
	for i, h := range hashes {
		b, err := hex.DecodeString(h)
		if err != nil || len(b) != len(tlog.Hash{}) {
			return nil, fmt.Errorf("hash %d of the proof, %.80q, is not 64 hex digits", i, h)
		}
		out[i] = b
	}
	return out, nil
}

// nodes is hashes of a proof by their place in the tree.
type nodes map[compact.NodeID][]byte

// proofNodes tells the places of a proof's hashes, and checks their number. RFC
// 6962 folds the nodes of the tree's ragged right edge into one hash; that one is
// nobody's place.
func proofNodes(n proof.Nodes, hashes [][]byte) (nodes, error) {
	_, begin, end := n.Ephem()
	folded := max(end-begin-1, 0)
	if want := len(n.IDs) - folded; len(hashes) != want {
		return nil, fmt.Errorf("a proof of %d hashes, want %d", len(hashes), want)
	}
	out := make(nodes)
	for i, id := range n.IDs {
		switch {
		case folded == 0 || i < begin:
			out[id] = hashes[i]
		case i >= end:
			out[id] = hashes[i-folded]
		}
	}
	return out, nil
}

// Frontier returns the left edge at size as the inclusion proof of leaf size-1
// gives it: the proof's left siblings are the compact range before the leaf. The
// proof is in the service's tree of the moment, which may be larger than cp's or,
// from a lagging replica, smaller, and must verify there. If that leaf cannot be
// had, the consistency proof size-1→size gives the same, but where size-1 is a
// power of two.
func (t *Tree) Frontier(ctx context.Context, size uint64, cp tlog.Checkpoint) (*compact.Range, error) {
	if size < 1 || size > cp.Size {
		return nil, fmt.Errorf("no left edge at %d in a tree of size %d", size, cp.Size)
	}
	last := size - 1
	known, err := t.inclusion(ctx, last)
	var leafErr *tlog.LeafError
	if errors.As(err, &leafErr) && last&(last-1) != 0 {
		if known, err = t.consistency(ctx, last); err != nil {
			return nil, errors.Join(leafErr, err)
		}
	}
	if err != nil {
		return nil, err
	}
	return edge(known, size)
}

// edge is the compact range [0, size), of known nodes.
func edge(known nodes, size uint64) (*compact.Range, error) {
	var hashes [][]byte
	for _, id := range compact.RangeNodes(0, size-1, nil) {
		hashes = append(hashes, known[id])
	}
	r, err := tlog.NewRange(size-1, hashes)
	if err != nil {
		return nil, err
	}
	if err := r.Append(known[compact.NewNodeID(0, size-1)], nil); err != nil {
		return nil, err
	}
	return r, nil
}

// LeafHash returns the hash of a leaf without needing its body, which may not be
// had: the consistency proof index→index+1 contains it. Leaf 0 is in none;
// its hash is the root of a tree of size 1, else the first sibling in the
// inclusion proof of leaf 1.
func (t *Tree) LeafHash(ctx context.Context, index uint64, cp tlog.Checkpoint) (tlog.Hash, error) {
	var known nodes
	var err error
	switch {
	case index >= cp.Size:
		return tlog.Hash{}, fmt.Errorf("no leaf %d in a tree of size %d", index, cp.Size)
	case index > 0:
		known, err = t.consistency(ctx, index)
	case cp.Size == 1:
		return cp.Root, nil
	default:
		known, err = t.inclusion(ctx, 1)
	}
	if err != nil {
		return tlog.Hash{}, err
	}
	return tlog.Hash(known[compact.NewNodeID(0, index)]), nil
}

// consistency fetches the proof that one leaf was appended to a tree of the size
// given. It contains that leaf's hash, and the compact range before it unless
// size is a power of two.
func (t *Tree) consistency(ctx context.Context, size uint64) (nodes, error) {
	n, err := proof.Consistency(size, size+1)
	if err != nil {
		return nil, err
	}
	hashes, err := t.ConsistencyProof(ctx, size, size+1)
	if err != nil {
		return nil, err
	}
	known, err := proofNodes(n, hashes)
	if err != nil {
		return nil, &tlog.Unverified{
			What:   fmt.Sprintf("the consistency proof from size %d to %d of tree %s at %s", size, size+1, t.treeID, t.service.url),
			Served: fmt.Appendf(nil, "%x", hashes),
			Err:    err,
		}
	}
	return known, nil
}

// inclusion fetches a leaf with its inclusion proof, and returns the nodes of
// the proof and the leaf's own. The root that it verifies under is the one
// served with it: that shows the proof to be whole, no more.
func (t *Tree) inclusion(ctx context.Context, index uint64) (nodes, error) {
	got, err := t.one(ctx, index)
	var leafErr *tlog.LeafError
	if errors.As(err, &leafErr) && leafErr.Served != nil {
		return nil, &tlog.Unverified{What: t.entryName(index), Served: leafErr.Served, Err: leafErr.Err}
	}
	if err != nil {
		return nil, err
	}
	known, err := openInclusion(index, got.leaves[0].Hash, got.entries[0].proof)
	if err != nil {
		return nil, &tlog.Unverified{What: "the inclusion proof of " + t.entryName(index), Served: got.raw, Err: err}
	}
	return known, nil
}

func (t *Tree) entryName(index uint64) string {
	return fmt.Sprintf("entry %d of tree %s at %s", index, t.treeID, t.service.url)
}

// openInclusion verifies Rekor's JSON form of an inclusion proof. Its logIndex,
// unlike the entry's, is the tree's own.
func openInclusion(index uint64, leaf tlog.Hash, raw []byte) (nodes, error) {
	if raw == nil {
		return nil, errors.New("there is none")
	}
	var p struct {
		LogIndex uint64    `json:"logIndex"`
		TreeSize uint64    `json:"treeSize"`
		RootHash tlog.Hash `json:"rootHash"`
		Hashes   []string  `json:"hashes"`
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return nil, err
	}
	if p.LogIndex != index || p.TreeSize <= index || p.TreeSize > maxTotal {
		return nil, fmt.Errorf("it is for leaf %d in a tree of size %d, want leaf %d", p.LogIndex, p.TreeSize, index)
	}
	hashes, err := parseHashes(p.Hashes)
	if err != nil {
		return nil, err
	}
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, p.TreeSize, leaf[:], hashes, p.RootHash[:]); err != nil {
		return nil, err
	}
	n, err := proof.Inclusion(index, p.TreeSize)
	if err != nil {
		return nil, err
	}
	known, err := proofNodes(n, hashes)
	if err != nil {
		return nil, err
	}
	known[compact.NewNodeID(0, index)] = leaf[:]
	return known, nil
}
