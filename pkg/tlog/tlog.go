// Package tlog says what a transparency log is to whosigned, and audits one:
// given what was proven before and a log, [Audit] proves that the log only
// grew, reads every new leaf, and hashes it into a root that the log's signed
// checkpoint commits to.
//
// It keeps promise P1 (nothing unproven is believed): Audit reports progress
// past a leaf only if the leaf's bytes were hashed here, or if it is a hole
// whose hash was proven. It keeps its share of P5 (memory does not grow with the
// range) through [Budget] and [ReadAhead], and of P7 (a run always makes
// progress) through slices and holes.
//
// The Merkle arithmetic is transparency-dev/merkle's; see RFC 6962 section 2.1,
// and https://c2sp.org/tlog-checkpoint for checkpoints.
package tlog

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"regexp"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
)

// Hash is a SHA-256 Merkle tree hash: of a leaf, a node or a root.
type Hash [32]byte

// String returns the hash in lower-case hex.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText and UnmarshalText give the hash as lower-case hex.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText parses 64 hex digits.
func (h *Hash) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil || len(b) != len(h) {
		return fmt.Errorf("hash %.100q is not 64 hex digits", text)
	}
	copy(h[:], b)
	return nil
}

// LeafHash is the RFC 6962 hash of a leaf's bytes.
func LeafHash(leaf []byte) Hash { return Hash(rfc6962.DefaultHasher.HashLeaf(leaf)) }

// ID names a log in state, paths, flags and messages: the log ID of its key, 64
// hex digits; for a Rekor v1 tree followed by "-" and the tree ID in decimal. It
// is never derived from the origin line of a Rekor v1 or CT checkpoint, which
// may change while the log stays the same.
type ID string

var idForm = regexp.MustCompile(`\A[0-9a-f]{64}(-[0-9]{1,20})?\z`)

// ParseID checks that s has the form of an ID; an ID is safe in a path.
func ParseID(s string) (ID, error) {
	if !idForm.MatchString(s) {
		return "", fmt.Errorf("%q is not a log ID: want 64 hex digits, for Rekor v1 followed by -<tree ID>", s)
	}
	return ID(s), nil
}

// Type is the protocol a log speaks, as the configuration spells it.
type Type string

// The protocols.
const (
	RekorV1  Type = "rekor-v1"
	RekorV2  Type = "rekor-v2"
	RFC6962  Type = "rfc6962"
	StaticCT Type = "static-ct"
)

// Info describes a log. Only ID is identity; the rest is for people.
type Info struct {
	ID     ID
	Type   Type
	Origin string // first line of its newest checkpoint; unauthenticated for Rekor v1 and CT
	URL    string // base URL of the service that serves it
	TreeID string // Rekor v1 only, decimal
	// Active is false for a log that takes no more entries: an inactive Rekor v1
	// tree, a Rekor v2 shard past its trusted root's validFor.end.
	Active bool
}

// Leaf is the exact bytes hashed into the tree at an index.
type Leaf struct {
	Index  uint64  // in the log's own tree
	Data   []byte  // what is hashed; it aliases the fetched buffer, so keeping it keeps the buffer
	Hash   Hash    // LeafHash(Data), computed here, never taken from the log
	Claims *Claims // what the log says of the leaf without the tree committing to it; nil for most logs
	// Submission gets what a CT log serves beside the leaf; nil for other logs. It may
	// have to fetch: call it for findings only. It keeps the fetched buffer, as Data does.
	Submission func(ctx context.Context) (Submission, error)
	// Beside is how many bytes of the fetched buffer Submission keeps, besides Data.
	Beside int
}

// Submission is what a CA handed to a CT log, as the log serves it. The leaf hash
// does not cover it: the precertificate has to be checked against the leaf, the
// chain may link and never anchor.
type Submission struct {
	Precertificate []byte   // DER; nil of a leaf that is a certificate
	Chain          [][]byte // DER, the issuer first; fewer, or none, if the log has no more
}

// Claims is what Rekor v1 serves beside a leaf. None of it is in the leaf hash.
type Claims struct {
	UUID           string // tree ID and leaf hash, checked against the leaf when it was read
	GlobalIndex    uint64 // logIndex over all trees of the service, as search.sigstore.dev shows it
	IntegratedTime time.Time
	// Vouched verifies the signed entry timestamp over body, time, index and log
	// ID, and reports whether the log's key vouches for IntegratedTime. It costs a
	// signature verification: call it for findings only.
	Vouched func() bool
}

// Log is one append-only Merkle tree. Its methods return what was served only
// after the checks that need no state: sizes within limits, signatures, forms.
// An error is an *Unverified if the log served something that does not verify,
// an *Unavailable (or one wrapping it) if it served nothing usable.
//
// All methods may be called concurrently. Those called with a context from
// [Fresh] bypass every cache, ours and those between us and the log.
type Log interface {
	Info() Info
	// Open verifies a signed note that was kept or found elsewhere exactly as
	// Checkpoint verifies one that it fetched, without fetching anything.
	Open(note []byte) (Checkpoint, error)
	// Checkpoint fetches the newest checkpoint, size-limited and verified under
	// the log's key.
	Checkpoint(ctx context.Context) (Checkpoint, error)
	// ConsistencyProof returns the RFC 6962 proof that the tree of size from is a
	// prefix of that of size to, 1 <= from < to. It is not verified.
	ConsistencyProof(ctx context.Context, from, to uint64) ([][]byte, error)
	// Leaves streams [from, to) in order, prefetched, each with its hash computed.
	// to must not exceed the size of a checkpoint this log returned. An error ends
	// the stream; it names the first index that could not be had. Errors about a
	// single leaf are a *LeafError.
	Leaves(ctx context.Context, from, to uint64) iter.Seq2[Leaf, error]
	// Frontier returns the compact range [0, size), 1 <= size <= cp.Size, as the
	// log gives it. The caller proves it against cp.
	Frontier(ctx context.Context, size uint64, cp Checkpoint) (*compact.Range, error)
}

// LeafHasher is implemented by logs that can give a leaf's hash apart from the
// leaf (a level-0 tile). The hash is not verified.
type LeafHasher interface {
	LeafHash(ctx context.Context, index uint64, cp Checkpoint) (Hash, error)
}

// LeafError says that the leaves [Index, End) could not be had, or are not what
// they should be, when their neighbours can: the log answers with an error for
// them, leaves one out, serves it under a wrong index or UUID, or it is larger
// than our limit. A batch is halved until the range is as small as the protocol
// allows: one leaf for Rekor v1, one bundle for tiles.
type LeafError struct {
	Index, End uint64
	// Served is what was served instead, if anything was: kept as evidence.
	Served []byte
	Err    error
}

func (e *LeafError) Error() string {
	if e.End == e.Index+1 {
		return fmt.Sprintf("leaf %d: %v", e.Index, e.Err)
	}
	return fmt.Sprintf("leaves %d to %d: %v", e.Index, e.End-1, e.Err)
}
func (e *LeafError) Unwrap() error { return e.Err }

// Unavailable means that the log gave nothing to judge: network trouble, an HTTP
// error, a time limit, an answer beyond our size limit. It is never an incident.
type Unavailable struct {
	What string // what was asked for, with its URL
	Err  error
}

func (e *Unavailable) Error() string { return fmt.Sprintf("%s: %v", e.What, e.Err) }
func (e *Unavailable) Unwrap() error { return e.Err }

// Unverified means that the log served something that does not verify. If it
// persists when fetched again it is a suspicion.
type Unverified struct {
	What   string // what was served, with its URL
	Served []byte // verbatim, as far as our size limit goes
	Err    error
}

func (e *Unverified) Error() string { return fmt.Sprintf("%s does not verify: %v", e.What, e.Err) }
func (e *Unverified) Unwrap() error { return e.Err }

type freshKey struct{}

// Fresh returns a context under which logs bypass every cache. Before anything
// served counts against a log it is fetched again this way: replicas skew and
// CDNs corrupt, and neither is tampering.
func Fresh(ctx context.Context) context.Context { return context.WithValue(ctx, freshKey{}, true) }

// IsFresh reports whether ctx came from [Fresh].
func IsFresh(ctx context.Context) bool { v, _ := ctx.Value(freshKey{}).(bool); return v }

// ranges builds compact ranges with the RFC 6962 hasher.
var ranges = compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}

// NewRange is the compact range [0, size) with the given node hashes, left to
// right. It fails if their number is not that which size asks for.
func NewRange(size uint64, hashes [][]byte) (*compact.Range, error) {
	for _, h := range hashes {
		if len(h) != len(Hash{}) {
			return nil, fmt.Errorf("compact range of size %d: a node of %d bytes, want %d", size, len(h), len(Hash{}))
		}
	}
	return ranges.NewRange(0, size, hashes)
}

// Root is the RFC 6962 root of a compact range that starts at 0; compact has
// none for the empty one.
func Root(r *compact.Range) (Hash, error) {
	if r.End() == 0 {
		return Hash(rfc6962.DefaultHasher.EmptyRoot()), nil
	}
	root, err := r.GetRootHash(nil)
	if err != nil {
		return Hash{}, err
	}
	return Hash(root), nil
}

// Frontier is a compact range [0, Size) as state keeps it.
type Frontier struct {
	Size   uint64
	Hashes []Hash
}

// Save copies a compact range for state.
func Save(r *compact.Range) Frontier {
	f := Frontier{Size: r.End()}
	for _, h := range r.Hashes() {
		f.Hashes = append(f.Hashes, Hash(h))
	}
	return f
}

// Range is the compact range that was saved.
func (f Frontier) Range() (*compact.Range, error) {
	hashes := make([][]byte, len(f.Hashes))
	for i := range f.Hashes {
		hashes[i] = append([]byte(nil), f.Hashes[i][:]...)
	}
	return NewRange(f.Size, hashes)
}

// jsonFrontier fixes the form on disk.
type jsonFrontier struct {
	Size   uint64 `json:"size"`
	Hashes []Hash `json:"hashes"`
}

// MarshalJSON writes {"size": N, "hashes": ["<hex>", …]}.
func (f Frontier) MarshalJSON() ([]byte, error) { return json.Marshal(jsonFrontier(f)) }

// UnmarshalJSON reads that and checks that the number of hashes fits the size.
func (f *Frontier) UnmarshalJSON(b []byte) error {
	var j struct {
		Size   uint64  `json:"size"`
		Hashes []*Hash `json:"hashes"` // null must not pass for a hash of zeros
	}
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	if want := compact.RangeSize(0, j.Size); len(j.Hashes) != want {
		return fmt.Errorf("frontier of size %d has %d hashes, want %d", j.Size, len(j.Hashes), want)
	}
	*f = Frontier{Size: j.Size}
	for _, h := range j.Hashes {
		if h == nil {
			return fmt.Errorf("frontier of size %d has null for a hash", j.Size)
		}
		f.Hashes = append(f.Hashes, *h)
	}
	return nil
}
