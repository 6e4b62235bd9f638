package tlogtest

import (
	"compress/gzip"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/http"
	"sort"
	"strings"
	"sync"
	"time"

	formats "github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/note"
)

// StaticCT serves a CT log as https://c2sp.org/static-ct-api, as a file server over
// TesseraCT's storage does: as with [Tiles] files appear when a checkpoint is
// published, and partial ones go away when they fill.
//
// Its leaves are MerkleTreeLeafs. A leaf that was appended and not submitted, or that
// is only in a tree that is shown in the true one's place, is served with the chain
// that was submitted at its index, if one was.
type StaticCT struct {
	*Gate
	*Log
	tiles Tiles // which exist, and the hash tiles; its lock is for heads and at, too
	heads map[uint64][]byte
	at    time.Time

	mu        sync.Mutex
	submitted []generated
	beside    map[uint64]CTEntry
	compress  bool

	// Chains are few and shared by many entries: a certificate is known by its address.
	fingerprints sync.Map // of *byte to Hash
	issuers      sync.Map // of Hash to []byte
}

// NewStaticCT makes an empty log with a published checkpoint of size 0. The key is
// ECDSA or RSA; the origin has no spaces.
func NewStaticCT(origin string, key crypto.Signer) (*StaticCT, error) {
	s := &StaticCT{Gate: &Gate{}, heads: make(map[uint64][]byte)}
	log, err := newLog(key, s.forget)
	if err != nil {
		return nil, err
	}
	s.Log, s.tiles.Log, s.tiles.origin = log, log, origin
	if err := s.Publish(); err != nil {
		return nil, err
	}
	return s, nil
}

// Origin is the log's true origin line.
func (s *StaticCT) Origin() string { return s.tiles.origin }

// Submit appends entries to the true tree, with their index in them.
func (s *StaticCT) Submit(entries ...CTEntry) {
	from := s.Tree().Size()
	s.Generate(uint64(len(entries)), func(index uint64) CTEntry { return entries[index-from] })
}

// Generate appends n entries that are made when they are asked for; see
// [Tree.Generate] and [SyntheticCT]. Only one at a time may grow the log.
func (s *StaticCT) Generate(n uint64, entry func(index uint64) CTEntry) {
	from := s.Tree().Size()
	s.mu.Lock()
	s.submitted = append(s.submitted, generated{from, from + n, entry})
	s.mu.Unlock()
	s.Tree().Generate(n, func(index uint64) []byte {
		e := entry(index)
		for _, issuer := range e.Chain {
			s.fingerprint(issuer)
		}
		return e.Leaf(int64(index))
	})
}

// Compress serves data tiles in gzip whether it was asked for or not, as a log may.
func (s *StaticCT) Compress() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compress = true
}

// LieBeside serves the precertificate and the chain of another entry with a leaf, as
// the tree commits to neither.
func (s *StaticCT) LieBeside(index uint64, e CTEntry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.beside == nil {
		s.beside = make(map[uint64]CTEntry)
	}
	s.beside[index] = e
}

// SetTime sets the time of tree heads that are signed from now on; the zero time is
// that of signing.
func (s *StaticCT) SetTime(at time.Time) {
	s.tiles.storage.Lock()
	defer s.tiles.storage.Unlock()
	s.at = at
}

// Publish signs and serves a checkpoint of what the tree that is shown holds now,
// anew if it has not grown.
func (s *StaticCT) Publish() error {
	s.tiles.storage.Lock()
	defer s.tiles.storage.Unlock()
	v := s.files()
	size := v.tree.Size()
	delete(s.heads, size)
	if _, err := s.sign(v, size); err != nil {
		return err
	}
	s.tiles.published = append(s.tiles.published, publication{v.tree, size})
	return nil
}

// forget drops signed notes when something else is shown than was signed.
func (s *StaticCT) forget() {
	s.tiles.storage.Lock()
	defer s.tiles.storage.Unlock()
	clear(s.heads)
}

// sign makes the note of a size, once until it is published again. The lock of
// s.tiles is held.
func (s *StaticCT) sign(v view, size uint64) ([]byte, error) {
	if signed := s.heads[size]; signed != nil {
		return signed, nil
	}
	root, err := v.tree.Root(size)
	if err != nil {
		return nil, err
	}
	origin, at := s.tiles.origin, s.at
	if v.origin != "" {
		origin = v.origin
	}
	if at.IsZero() {
		at = time.Now()
	}
	signer, err := newHeadSigner(origin, v.key, size, uint64(at.UnixMilli()), root)
	if err != nil {
		return nil, fmt.Errorf("signing as %s: %w", origin, err)
	}
	text := formats.Checkpoint{Origin: origin, Size: size, Hash: root[:]}.Marshal()
	signed, err := note.Sign(&note.Note{Text: string(text)}, signer)
	if err != nil {
		return nil, fmt.Errorf("signing the checkpoint of size %d of %s: %w", size, origin, err)
	}
	s.heads[size] = signed
	return signed, nil
}

// headSigner is a note.Signer of one tree head. It signs that, whatever the note's
// text is.
type headSigner struct {
	name string
	hash uint32
	body []byte // RFC6962NoteSignature
}

func (h headSigner) Name() string                { return h.name }
func (h headSigner) KeyHash() uint32             { return h.hash }
func (h headSigner) Sign([]byte) ([]byte, error) { return h.body, nil }

func newHeadSigner(name string, key crypto.Signer, size, timestamp uint64, root Hash) (headSigner, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return headSigner{}, fmt.Errorf("log key: %w", err)
	}
	sig, err := signTreeHead(key, size, timestamp, root)
	if err != nil {
		return headSigner{}, err
	}
	logID := sha256.Sum256(spki)
	id := sha256.Sum256(append([]byte(name+"\n\x05"), logID[:]...))
	return headSigner{name, binary.BigEndian.Uint32(id[:]), append(binary.BigEndian.AppendUint64(nil, timestamp), sig...)}, nil
}

// ServeHTTP serves the log, through the gate.
func (s *StaticCT) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.handle(w, r, http.HandlerFunc(s.serve))
}

func (s *StaticCT) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	kind, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	level, index, _ := strings.Cut(rest, "/")
	switch {
	case kind == layout.CheckpointPath && rest == "":
		s.serveCheckpoint(w, r)
	case kind == "issuer":
		s.serveIssuer(w, r, rest)
	case kind == "tile" && level == "data":
		s.serveData(w, r, index)
	case kind == "tile":
		s.tiles.serveHashes(w, r, level, index)
	default:
		http.NotFound(w, r)
	}
}

func (s *StaticCT) serveCheckpoint(w http.ResponseWriter, r *http.Request) {
	s.tiles.storage.Lock()
	v := s.look() // under the lock, so that forget drops what is signed for it
	size := s.tiles.newest(v.tree)
	if v.behind {
		size = v.size
	}
	signed, err := s.sign(v, size)
	s.tiles.storage.Unlock()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Cache-Control", "no-cache")
	serveFile(w, r, "text/plain; charset=utf-8", v.editNote(signed))
}

func (s *StaticCT) serveIssuer(w http.ResponseWriter, r *http.Request, name string) {
	sum, err := hex.DecodeString(name)
	if err != nil || len(sum) != sha256.Size {
		http.NotFound(w, r)
		return
	}
	der, ok := s.issuers.Load(Hash(sum))
	if !ok {
		http.NotFound(w, r)
		return
	}
	serveFile(w, r, "application/pkix-cert", der.([]byte))
}

func (s *StaticCT) serveData(w http.ResponseWriter, r *http.Request, index string) {
	n, partial, err := layout.ParseTileIndexPartial(index)
	if err != nil || !s.tiles.exists(0, n, partial) {
		http.NotFound(w, r)
		return
	}
	v := s.files()
	from, count := n*layout.TileWidth, width(partial)
	var tile []byte
	for i := from; i < from+count; i++ {
		leaf, lie, err := v.leaf(i)
		switch {
		case err != nil:
			http.NotFound(w, r)
			return
		case lie.Status != 0:
			refuse(w, lie.Status)
			return
		case lie.Missing:
			continue
		}
		tile = s.appendTileLeaf(tile, leaf, s.submittedAt(i))
		if i == from {
			tile = append(make([]byte, 0, int(count)*(len(tile)+64)), tile...) // leaves are much alike
		}
	}
	s.countRead(from, count)
	s.mu.Lock()
	compress := s.compress
	s.mu.Unlock()
	if compress {
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Content-Type", "application/octet-stream")
		z := gzip.NewWriter(w)
		_, _ = z.Write(tile)
		_ = z.Close()
		return
	}
	serveFile(w, r, "application/octet-stream", tile)
}

// appendTileLeaf writes the TileLeaf of a MerkleTreeLeaf, whatever that is, with what
// of e goes with it.
func (s *StaticCT) appendTileLeaf(tile, leaf []byte, e CTEntry) []byte {
	tile = append(tile, leaf[min(2, len(leaf)):]...)
	if len(leaf) >= 12 && binary.BigEndian.Uint16(leaf[10:]) == 1 { // precert_entry
		tile = appendVector(tile, 3, e.Precertificate)
	}
	var chain []byte
	for _, issuer := range e.Chain {
		sum := s.fingerprint(issuer)
		chain = append(chain, sum[:]...)
	}
	return appendVector(tile, 2, chain)
}

// submittedAt is the entry that was submitted at an index, if one was, or what is
// served for it.
func (s *StaticCT) submittedAt(index uint64) CTEntry {
	s.mu.Lock()
	runs := s.submitted
	lie, ok := s.beside[index]
	s.mu.Unlock()
	if ok {
		return lie
	}
	i := sort.Search(len(runs), func(i int) bool { return runs[i].to > index })
	if i == len(runs) || runs[i].from > index {
		return CTEntry{}
	}
	return runs[i].entry(index)
}

// fingerprint is the SHA-256 of an issuer, which is served from now on.
func (s *StaticCT) fingerprint(issuer []byte) Hash {
	if len(issuer) == 0 {
		return sha256.Sum256(nil)
	}
	if sum, ok := s.fingerprints.Load(&issuer[0]); ok {
		return sum.(Hash)
	}
	sum := sha256.Sum256(issuer)
	s.issuers.Store(sum, issuer)
	s.fingerprints.Store(&issuer[0], sum)
	return sum
}
