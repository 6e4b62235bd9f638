// Package rfc6962 reads certificate transparency logs over the API of RFC 6962
// section 4 (https://www.rfc-editor.org/rfc/rfc6962#section-4), as ct_server speaks it
// for Fulcio.
//
// It keeps its share of P1 (nothing unproven is believed): a tree head counts only
// under the log's key, from the first run on; the hash of each leaf is computed from
// its bytes; what is served beside a leaf, the tree does not commit to, and is handed
// out as what it is, a [tlog.Submission]. It keeps its share of P5 (memory does not
// grow with the range): pages are limited in entries and bytes and read ahead within
// the client's budget. It keeps its share of P6 and P7 (one bad entry never stops
// the others): a page that fails is halved down to the leaf that cannot be had, and
// the leaves before it are delivered.
package rfc6962

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"

	ct "github.com/google/certificate-transparency-go"
	"github.com/transparency-dev/merkle/compact"

	"github.com/whosigned/whosigned/pkg/tlog"
)

const (
	// maxProofHashes is more than any proof in a tree of 2^62 leaves has.
	maxProofHashes = 128
	// maxProof limits the answer that carries them, 47 bytes a hash.
	maxProof = 32 << 10
)

var (
	_ tlog.Log        = (*Log)(nil)
	_ tlog.LeafHasher = (*Log)(nil)
)

// Config says which log to read.
type Config struct {
	URL string // base URL, under which "ct/v1/" is
	Key tlog.Key
	// Accepted are further keys that its tree heads may be signed with, because an
	// operator decided so.
	Accepted []tlog.Key
	// ID is the log's ID as a trusted root gives it. Default: that of Key.
	ID tlog.ID
	// Retired says that the log takes no more entries.
	Retired bool
}

// Log is an RFC 6962 log. It implements [tlog.Log] and [tlog.LeafHasher].
type Log struct {
	client *tlog.Client
	info   tlog.Info
	keys   []tlog.Key
	size   atomic.Uint64 // of the newest checkpoint returned
	pages  pages
}

// New checks cfg; it makes no request.
func New(c *tlog.Client, cfg Config) (*Log, error) {
	u, err := url.Parse(cfg.URL)
	switch {
	case err != nil:
		return nil, fmt.Errorf("log URL: %w", err)
	case u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("log URL %q: want https://<host>/<path>", cfg.URL)
	case cfg.Key.Public == nil:
		return nil, fmt.Errorf("log %s: no public key given", cfg.URL)
	}
	if cfg.ID == "" {
		cfg.ID = tlog.ID(cfg.Key.Hex())
	}
	// A note's origin has neither "+" nor spaces.
	origin := strings.ReplaceAll(strings.TrimRight(u.Host+u.EscapedPath(), "/"), "+", "%2B")
	return &Log{client: c, keys: append([]tlog.Key{cfg.Key}, cfg.Accepted...), info: tlog.Info{
		ID:     cfg.ID,
		Type:   tlog.RFC6962,
		Origin: origin,
		URL:    strings.TrimRight(cfg.URL, "/"),
		Active: !cfg.Retired,
	}}, nil
}

// Info describes the log. Its origin, which the protocol does not have, is the URL
// without scheme, as in https://c2sp.org/static-ct-api.
func (l *Log) Info() tlog.Info { return l.info }

func (l *Log) url(format string, args ...any) string {
	return l.info.URL + "/ct/v1/" + fmt.Sprintf(format, args...)
}

// Checkpoint fetches the signed tree head, which the log signs anew each time, and
// returns it in the form of a note; see [tlog.TreeHead].
func (l *Log) Checkpoint(ctx context.Context) (tlog.Checkpoint, error) {
	at := l.url("get-sth")
	raw, err := l.client.Get(ctx, at, tlog.MaxCheckpoint)
	if err != nil {
		return tlog.Checkpoint{}, err
	}
	var sth ct.GetSTHResponse
	if err := json.Unmarshal(raw, &sth); err != nil {
		return tlog.Checkpoint{}, &tlog.Unavailable{What: at, Err: fmt.Errorf("not a signed tree head: %.200q", err)}
	}
	if sth.SHA256RootHash == nil && sth.TreeHeadSignature == nil {
		return tlog.Checkpoint{}, &tlog.Unavailable{What: at, Err: errors.New("not a signed tree head: it has neither root hash nor signature")}
	}
	cp, err := l.open(sth)
	if err != nil {
		return tlog.Checkpoint{}, &tlog.Unverified{What: "tree head " + at, Served: raw, Err: err}
	}
	l.size.Store(cp.Size)
	return cp, nil
}

func (l *Log) open(sth ct.GetSTHResponse) (tlog.Checkpoint, error) {
	head := tlog.TreeHead{Size: sth.TreeSize, Timestamp: sth.Timestamp, Signature: sth.TreeHeadSignature}
	if len(sth.SHA256RootHash) != len(head.Root) {
		return tlog.Checkpoint{}, fmt.Errorf("root hash of %d bytes, want %d", len(sth.SHA256RootHash), len(head.Root))
	}
	head.Root = tlog.Hash(sth.SHA256RootHash)
	var err error
	for _, key := range l.keys {
		// The tree head does not say which key signed it, the note does.
		var cp tlog.Checkpoint
		if cp, err = l.Open(head.Note(l.info.Origin, key)); err == nil {
			return cp, nil
		}
	}
	return tlog.Checkpoint{}, err
}

// Open verifies a tree head in the form of a note. The origin, which nobody signs,
// may be any.
func (l *Log) Open(note []byte) (tlog.Checkpoint, error) {
	cp, _, err := tlog.OpenTreeHead(note, l.keys)
	return cp, err
}

// ConsistencyProof implements [tlog.Log]. A replica whose tree is still smaller than
// to refuses with 400, an *tlog.Unavailable.
func (l *Log) ConsistencyProof(ctx context.Context, from, to uint64) ([][]byte, error) {
	if from < 1 || from >= to {
		return nil, fmt.Errorf("no consistency proof from size %d to %d: want 1 <= from < to", from, to)
	}
	at := l.url("get-sth-consistency?first=%d&second=%d", from, to)
	raw, err := l.client.Get(ctx, at, maxProof)
	if err != nil {
		return nil, err
	}
	var p ct.GetSTHConsistencyResponse
	if err := json.Unmarshal(raw, &p); err != nil {
		return nil, &tlog.Unavailable{What: at, Err: fmt.Errorf("not a consistency proof: %w", err)}
	}
	if err := checkHashes(p.Consistency); err != nil {
		return nil, &tlog.Unverified{What: at, Served: raw, Err: err}
	}
	return p.Consistency, nil
}

func checkHashes(hashes [][]byte) error {
	if len(hashes) > maxProofHashes {
		return fmt.Errorf("a proof of %d hashes; none has more than %d", len(hashes), maxProofHashes)
	}
	for i, h := range hashes {
		if len(h) != len(tlog.Hash{}) {
			return fmt.Errorf("hash %d of the proof has %d bytes, want %d", i, len(h), len(tlog.Hash{}))
		}
	}
	return nil
}

// Frontier returns the left edge at size as proofs give it, see [tlog.Prover]. An
// inclusion proof must verify in the tree of cp.
func (l *Log) Frontier(ctx context.Context, size uint64, cp tlog.Checkpoint) (*compact.Range, error) {
	return l.prover().Frontier(ctx, size, cp)
}

// LeafHash returns the hash of a leaf without needing its bytes, which may not be had.
func (l *Log) LeafHash(ctx context.Context, index uint64, cp tlog.Checkpoint) (tlog.Hash, error) {
	return l.prover().LeafHash(ctx, index, cp)
}

func (l *Log) prover() tlog.Prover { return tlog.Prover{Inclusion: l.inclusion, Append: l.appended} }

// appended fetches the proof that one leaf was appended to the tree of a size.
func (l *Log) appended(ctx context.Context, size uint64) (tlog.Nodes, error) {
	hashes, err := l.ConsistencyProof(ctx, size, size+1)
	if err != nil {
		return nil, err
	}
	nodes, err := tlog.AppendNodes(size, hashes)
	if err != nil {
		return nil, &tlog.Unverified{
			What:   fmt.Sprintf("the consistency proof from size %d to %d of %s", size, size+1, l.info.URL),
			Served: fmt.Appendf(nil, "%x", hashes),
			Err:    err,
		}
	}
	return nodes, nil
}

// inclusion fetches a leaf with the proof that it is in the tree of cp.
func (l *Log) inclusion(ctx context.Context, index uint64, cp tlog.Checkpoint) (tlog.Nodes, error) {
	at := l.url("get-entry-and-proof?leaf_index=%d&tree_size=%d", index, cp.Size)
	raw, err := l.client.Get(ctx, at, tlog.MaxChunk)
	if err != nil {
		if tlog.Divisible(err) {
			err = &tlog.LeafError{Index: index, End: index + 1, Err: err}
		}
		return nil, err
	}
	var p ct.GetEntryAndProofResponse
	if err := json.Unmarshal(raw, &p); err != nil {
		err = &tlog.Unavailable{What: at, Err: fmt.Errorf("not an entry and its proof: %w", err)}
		return nil, &tlog.LeafError{Index: index, End: index + 1, Err: err}
	}
	err = checkHashes(p.AuditPath)
	if err == nil {
		var nodes tlog.Nodes
		if nodes, err = tlog.InclusionNodes(index, cp.Size, tlog.LeafHash(p.LeafInput), p.AuditPath, cp.Root); err == nil {
			return nodes, nil
		}
	}
	return nil, &tlog.Unverified{What: "the inclusion proof " + at, Served: raw, Err: err}
}
