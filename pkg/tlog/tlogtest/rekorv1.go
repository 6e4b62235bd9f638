package tlogtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"
	"github.com/go-openapi/strfmt"
	"github.com/go-openapi/swag/conv"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/util"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"
	"github.com/transparency-dev/merkle/rfc6962"
)

// RekorV1 serves trees as rekor-server v1.5.4 does over REST, reading only: log
// info, public key, consistency proofs and entries by index, by UUID and ten at a
// time. What is appended is served at once.
type RekorV1 struct {
	*Gate
	mux   *http.ServeMux
	index SearchIndex

	mu        sync.Mutex
	trees     []*RekorTree // in order; the last one is active
	host      string
	timestamp string // further line of the notes
}

// RekorTree is one of a Rekor v1 service's trees.
type RekorTree struct {
	*Log
	ID int64

	mu      sync.Mutex
	length  uint64 // of an inactive tree, as it was rotated
	note    []byte // of an inactive tree: signed once, when the server started
	started int    // how often it did
}

// firstTreeID looks like the ones that Trillian makes.
const firstTreeID = 1193050959916656506

// NewRekorV1 makes a service with one empty, active tree. The key is of a kind that
// Rekor signs with: ECDSA, Ed25519 or RSA.
func NewRekorV1(key crypto.Signer) (*RekorV1, error) {
	s := &RekorV1{Gate: &Gate{}, host: "rekor.example.com"}
	s.mux = s.routes()
	if err := s.Rotate(key); err != nil {
		return nil, err
	}
	return s, nil
}

// Active is the tree that takes entries.
func (s *RekorV1) Active() *RekorTree {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trees[len(s.trees)-1]
}

// Trees are all trees, the inactive ones first.
func (s *RekorV1) Trees() []*RekorTree {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.trees)
}

// Append adds leaves to the active tree.
func (s *RekorV1) Append(leaves ...[]byte) { s.Active().Append(leaves...) }

// Rotate makes the active tree inactive, for ever at its present size, and starts
// an empty one. A nil key goes on with the active tree's.
func (s *RekorV1) Rotate(key crypto.Signer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if key == nil && len(s.trees) > 0 {
		key = s.trees[len(s.trees)-1].key
	}
	tree := &RekorTree{ID: firstTreeID + int64(len(s.trees))<<40}
	log, err := newLog(key, tree.restart)
	if err != nil {
		return err
	}
	tree.Log = log
	if _, err := signature.LoadSigner(key, crypto.SHA256); err != nil {
		return fmt.Errorf("key of tree %d: %w", tree.ID, err)
	}
	if n := len(s.trees); n > 0 {
		old := s.trees[n-1]
		old.mu.Lock()
		old.length = old.truth.Size()
		old.mu.Unlock()
	}
	s.trees = append(s.trees, tree)
	s.restart()
	return nil
}

// SetHost sets the name of the replica that answers, which it writes into origins
// and signature lines. It is "rekor.example.com" at first.
func (s *RekorV1) SetHost(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.host = host
	s.restart()
}

// SetTimestamp adds a "Timestamp: <nanoseconds>" line to the notes, as Rekor did
// until 2023 and public-good entries of that time carry; 0 leaves it out.
func (s *RekorV1) SetTimestamp(unixNano int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timestamp = ""
	if unixNano != 0 {
		s.timestamp = "Timestamp: " + strconv.FormatInt(unixNano, 10)
	}
	s.restart()
}

// restart makes inactive trees' notes be signed again; s.mu is held.
func (s *RekorV1) restart() {
	for _, t := range s.trees {
		t.restart()
	}
}

func (t *RekorTree) restart() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.note = nil
	t.started++
}

// Hide leaves an inactive tree out of log info; its entries are still served.
func (t *RekorTree) Hide() { t.tell(func(told *tale) { told.hidden = true }) }

// shard is a tree as one request sees it.
type shard struct {
	view
	served *RekorTree
	id     string
	base   uint64 // global index of its first entry
	logID  string
	signer signature.Signer
	active bool
	host   string
	extra  []string
	noted  string // signedNote's, once this request has made it

	started int // the server start that the view is from
}

// shards takes the view of every tree, for one request.
func (s *RekorV1) shards() ([]*shard, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*shard, 0, len(s.trees))
	var base uint64
	for i, t := range s.trees {
		t.mu.Lock()
		started, length := t.started, t.length
		t.mu.Unlock()
		sh := &shard{
			started: started,
			view:    t.look(), served: t, id: strconv.FormatInt(t.ID, 10), base: base,
			host: s.host, active: i == len(s.trees)-1,
		}
		if s.timestamp != "" {
			sh.extra = []string{s.timestamp}
		}
		var err error
		if sh.signer, err = signature.LoadSigner(sh.key, crypto.SHA256); err != nil {
			return nil, fmt.Errorf("key of tree %s: %w", sh.id, err)
		}
		der, err := x509.MarshalPKIXPublicKey(sh.key.Public())
		if err != nil {
			return nil, fmt.Errorf("key of tree %s: %w", sh.id, err)
		}
		sum := sha256.Sum256(der)
		sh.logID = hex.EncodeToString(sum[:])
		out = append(out, sh)
		base += length
	}
	return out, nil
}

// signedNote is the tree's checkpoint: an inactive tree's as it was signed at the
// server's start, otherwise signed anew.
func (sh *shard) signedNote(ctx context.Context) (string, error) {
	if sh.noted != "" {
		return sh.noted, nil
	}
	note, err := sh.newNote(ctx)
	if err != nil {
		return "", err
	}
	sh.noted = string(sh.editNote(note))
	return sh.noted, nil
}

func (sh *shard) newNote(ctx context.Context) ([]byte, error) {
	if sh.active || sh.behind {
		return sh.sign(ctx)
	}
	sh.served.mu.Lock()
	defer sh.served.mu.Unlock()
	if sh.served.note == nil {
		b, err := sh.sign(ctx)
		if err != nil {
			return nil, err
		}
		if sh.served.started != sh.started {
			return b, nil // started again meanwhile: not that start's note
		}
		sh.served.note = b
	}
	return sh.served.note, nil
}

func (sh *shard) sign(ctx context.Context) ([]byte, error) {
	root, err := sh.tree.Root(sh.size)
	if err != nil {
		return nil, err
	}
	origin := sh.host + " - " + sh.id
	if sh.origin != "" {
		origin = sh.origin
	}
	note, err := util.CreateSignedCheckpoint(util.Checkpoint{Origin: origin, Size: sh.size, Hash: root[:], OtherContent: sh.extra})
	if err != nil {
		return nil, fmt.Errorf("checkpoint of tree %s: %w", sh.id, err)
	}
	if _, err := note.Sign(sh.host, sh.signer, options.WithContext(ctx)); err != nil {
		return nil, fmt.Errorf("checkpoint of tree %s: %w", sh.id, err)
	}
	return note.MarshalText()
}

// entry is the log entry of a leaf, proven against the tree of the moment.
func (sh *shard) entry(ctx context.Context, index uint64) (models.LogEntry, error) {
	leaf, lie, err := sh.leaf(index)
	if err != nil {
		return nil, err
	}
	_, appended, err := sh.tree.leaf(index)
	if err != nil {
		return nil, err
	}
	proof, err := sh.tree.InclusionProof(index, sh.size)
	if err != nil {
		return nil, err
	}
	root, err := sh.tree.Root(sh.size)
	if err != nil {
		return nil, err
	}
	note, err := sh.signedNote(ctx)
	if err != nil {
		return nil, err
	}
	if lie.Index != nil {
		index = *lie.Index
	}
	uuid := lie.UUID
	if uuid == "" {
		uuid = fmt.Sprintf("%016x%x", sh.served.ID, rfc6962.DefaultHasher.HashLeaf(leaf))
	}
	e := models.LogEntryAnon{
		Body:           leaf,
		IntegratedTime: conv.Pointer(appended.Unix()),
		LogID:          &sh.logID,
		LogIndex:       conv.Pointer(int64(sh.base + index)),
	}
	set, err := sh.signEntry(ctx, e)
	if err != nil {
		return nil, fmt.Errorf("signed entry timestamp of %s: %w", uuid, err)
	}
	e.Verification = &models.LogEntryAnonVerification{
		InclusionProof: &models.InclusionProof{
			Checkpoint: &note,
			Hashes:     hexes(proof),
			LogIndex:   conv.Pointer(int64(index)),
			RootHash:   conv.Pointer(hex.EncodeToString(root[:])),
			TreeSize:   conv.Pointer(int64(sh.size)),
		},
		SignedEntryTimestamp: strfmt.Base64(set),
	}
	return models.LogEntry{uuid: e}, nil
}

// signEntry signs body, time, index and log ID in canonical JSON (RFC 8785).
func (sh *shard) signEntry(ctx context.Context, e models.LogEntryAnon) ([]byte, error) {
	payload, err := e.MarshalBinary()
	if err != nil {
		return nil, err
	}
	canonical, err := jsoncanonicalizer.Transform(payload)
	if err != nil {
		return nil, err
	}
	return sh.signer.SignMessage(bytes.NewReader(canonical), options.WithContext(ctx))
}

func hexes(hashes [][]byte) []string {
	out := make([]string, 0, len(hashes)) // never null in JSON
	for _, h := range hashes {
		out = append(out, hex.EncodeToString(h))
	}
	return out
}
