package rekorv1

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/transparency-dev/merkle/compact"

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

// Offset is the global index of the tree's leaf 0: the sum of the sizes of the trees
// before it. The error says why it is not known.
func (t *Tree) Offset() (uint64, error) {
	now := t.state()
	return now.offset, now.offsetErr
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

// Frontier returns the left edge at size as proofs give it, see [tlog.Prover]. An
// inclusion proof is in the service's tree of the moment, which may be larger than
// cp's or, from a lagging replica, smaller, and must verify there.
func (t *Tree) Frontier(ctx context.Context, size uint64, cp tlog.Checkpoint) (*compact.Range, error) {
	return t.prover().Frontier(ctx, size, cp)
}

// LeafHash returns the hash of a leaf without needing its body, which may not be had.
func (t *Tree) LeafHash(ctx context.Context, index uint64, cp tlog.Checkpoint) (tlog.Hash, error) {
	return t.prover().LeafHash(ctx, index, cp)
}

func (t *Tree) prover() tlog.Prover {
	return tlog.Prover{Inclusion: t.inclusion, Append: t.consistency}
}

// consistency fetches the proof that one leaf was appended to a tree of the size
// given.
func (t *Tree) consistency(ctx context.Context, size uint64) (tlog.Nodes, error) {
	hashes, err := t.ConsistencyProof(ctx, size, size+1)
	if err != nil {
		return nil, err
	}
	nodes, err := tlog.AppendNodes(size, hashes)
	if err != nil {
		return nil, &tlog.Unverified{
			What:   fmt.Sprintf("the consistency proof from size %d to %d of tree %s at %s", size, size+1, t.treeID, t.service.url),
			Served: fmt.Appendf(nil, "%x", hashes),
			Err:    err,
		}
	}
	return nodes, nil
}

// inclusion fetches a leaf with its inclusion proof, and returns the nodes of
// the proof and the leaf's own. The root that it verifies under is the one
// served with it: that shows the proof to be whole, no more.
func (t *Tree) inclusion(ctx context.Context, index uint64, _ tlog.Checkpoint) (tlog.Nodes, error) {
	got, err := t.one(ctx, index)
	var leafErr *tlog.LeafError
	if errors.As(err, &leafErr) && leafErr.Served != nil {
		return nil, &tlog.Unverified{What: t.entryName(index), Served: leafErr.Served, Err: leafErr.Err}
	}
	if err != nil {
		return nil, err
	}
	nodes, err := openInclusion(index, got.leaves[0].Hash, got.entries[0].proof)
	if err != nil {
		return nil, &tlog.Unverified{What: "the inclusion proof of " + t.entryName(index), Served: got.raw, Err: err}
	}
	return nodes, nil
}

func (t *Tree) entryName(index uint64) string {
	return fmt.Sprintf("entry %d of tree %s at %s", index, t.treeID, t.service.url)
}

// openInclusion verifies Rekor's JSON form of an inclusion proof. Its logIndex,
// unlike the entry's, is the tree's own.
func openInclusion(index uint64, leaf tlog.Hash, raw []byte) (tlog.Nodes, error) {
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
		return nil, fmt.Errorf("not Rekor's inclusion proof: %.200q", err)
	}
	if p.LogIndex != index || p.TreeSize <= index || p.TreeSize > maxTotal {
		return nil, fmt.Errorf("it is for leaf %d in a tree of size %d, want leaf %d", p.LogIndex, p.TreeSize, index)
	}
	hashes, err := parseHashes(p.Hashes)
	if err != nil {
		return nil, err
	}
	return tlog.InclusionNodes(index, p.TreeSize, leaf, hashes, p.RootHash)
}
