package tlog

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Kind says what an incident is about.
type Kind string

// The kinds of incident. Fork and FrozenGrowth are proof, the others suspicion.
const (
	// Fork: two valid signatures, one size, two roots.
	Fork Kind = "fork"
	// FrozenGrowth: the log grew after it signed that it is frozen.
	FrozenGrowth Kind = "frozen-growth"
	// Inconsistent: the log could not prove that it only grew.
	Inconsistent Kind = "inconsistent"
	// Rollback: an older checkpoint that can no longer be proven a prefix of the
	// history seen before, and that has lasted.
	Rollback Kind = "rollback"
	// BadCheckpoint: a checkpoint that does not verify.
	BadCheckpoint Kind = "bad-checkpoint"
	// BadLeaf: a leaf that is not the one the signed checkpoint commits to.
	BadLeaf Kind = "bad-leaf"
	// BadProof: a proof or tile that does not fit the signed checkpoint.
	BadProof Kind = "bad-proof"
	// MissingLeaf: a leaf that could not be had for so long that it is a hole.
	MissingLeaf Kind = "missing-leaf"
	// BadKey: a known tree whose checkpoints verify under another key than its own.
	BadKey Kind = "bad-key"
)

// Incident is tampering with its evidence: enough for a third party to check
// it, given the log's key. It shows what was served to us.
type Incident struct {
	ID    string `json:"id"` // the same as long as the same thing goes on
	Kind  Kind   `json:"kind"`
	Proof bool   `json:"proof"` // else suspicion
	Log   ID     `json:"log"`
	Text  string `json:"text"`
	// Notes are signed notes verbatim: the trusted one first, then what was served.
	Notes []string `json:"notes,omitempty"`
	// Consistency is the consistency proof that was served and did not verify.
	Consistency *ConsistencyEvidence `json:"consistency_proof,omitempty"`
	Leaves      []LeafEvidence       `json:"leaves,omitempty"`
	// Edge is what was served as the left edge of the tree at Edge.Size.
	Edge *Frontier `json:"edge,omitempty"`
	// Served is the answer that does not verify, verbatim, if it is none of the above.
	Served []byte `json:"served,omitempty"`
}

// ConsistencyEvidence is a consistency proof (RFC 6962 section 2.1.2) as served.
type ConsistencyEvidence struct {
	From   uint64   `json:"from"`
	To     uint64   `json:"to"`
	Root   Hash     `json:"root"` // at From: signed, or computed from what was served
	Hashes [][]byte `json:"hashes"`
}

// LeafEvidence is a leaf as served beside the hash that the log committed to.
type LeafEvidence struct {
	Index      uint64 `json:"index"`
	Served     []byte `json:"served,omitempty"`
	ServedHash *Hash  `json:"served_hash,omitempty"`
	// ProvenHash is in the tree of the first of Notes: Before, the left edge of the
	// tree at Index, extended by it has a root that Proof, the consistency proof
	// from size Index+1 to the note's, proves. Nil if the log gave no proof.
	ProvenHash *Hash     `json:"proven_hash,omitempty"`
	Before     *Frontier `json:"before,omitempty"`
	Proof      [][]byte  `json:"proof,omitempty"`
	Error      string    `json:"error,omitempty"`
}

// LeafProof shows that the leaf at Index hashes to Hash in the tree of a signed
// checkpoint.
type LeafProof struct {
	Index       uint64
	Hash        Hash
	Before      Frontier // [0, Index)
	Consistency [][]byte // from size Index+1 to the checkpoint's; empty if that is it
}

func (e *LeafEvidence) prove(p LeafProof) {
	e.ProvenHash, e.Before, e.Proof = &p.Hash, &p.Before, p.Consistency
}

// newIncident gives the incident its ID: a hash over the log, the kind and what
// stays the same while it lasts.
func newIncident(log ID, kind Kind, lasting ...any) *Incident {
	sum := sha256.Sum256([]byte(strings.Join([]string{string(log), string(kind), fmt.Sprint(lasting...)}, "\n")))
	return &Incident{
		ID:    string(kind) + "-" + hex.EncodeToString(sum[:8]),
		Kind:  kind,
		Proof: kind == Fork || kind == FrozenGrowth,
		Log:   log,
	}
}

// NewHole is the suspicion that neighbouring leaves, at least one, are withheld:
// their hashes are proven under note, their bytes could not be had.
func NewHole(log ID, leaves []LeafProof, note []byte, reason string) *Incident {
	first := leaves[0].Index
	in := newIncident(log, MissingLeaf, first)
	what := fmt.Sprintf("leaf %d", first)
	if n := len(leaves); n > 1 {
		what = fmt.Sprintf("leaves %d to %d", first, first+uint64(n)-1)
	}
	in.Text = fmt.Sprintf("%s could not be had: %s. What is missing has its hash proven and recorded; reading goes on after it, and it is asked for again in later runs", what, reason)
	in.Notes = []string{string(note)}
	for _, leaf := range leaves {
		evidence := LeafEvidence{Index: leaf.Index, Error: reason}
		evidence.prove(leaf)
		in.Leaves = append(in.Leaves, evidence)
	}
	return in
}

// NewBadCheckpoint is the suspicion that follows from a checkpoint, or what was
// served in place of one, that does not verify.
func NewBadCheckpoint(log ID, kind Kind, err *Unverified) *Incident {
	in := newIncident(log, kind)
	in.Text = err.Error()
	in.Served = err.Served
	return in
}
