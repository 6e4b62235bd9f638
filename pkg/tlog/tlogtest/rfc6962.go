package tlogtest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"sync"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"github.com/transparency-dev/merkle/rfc6962"
)

// RFC6962 serves a CT log as https://www.rfc-editor.org/rfc/rfc6962#section-4 says
// and ct_server does it, reading only: get-sth, get-sth-consistency, get-entries and
// get-entry-and-proof. What is submitted is served at once, and each tree head is
// signed anew. [Log.EditNote] changes the JSON of get-sth; an origin is nowhere.
type RFC6962 struct {
	*Gate
	*Log
	mux *http.ServeMux

	mu      sync.Mutex
	most    uint64 // entries of a page
	aligned bool
	at      time.Time // of tree heads; zero: now
	beside  map[uint64][]byte
	byLeaf  map[Hash][]byte
	made    []generated
}

// generated is a stretch of entries that are made when they are asked for.
type generated struct {
	from, to uint64
	entry    func(index uint64) CTEntry
}

// NewRFC6962 makes an empty log that gives pages of 1000 entries, aligned, as
// ct_server does. The key is ECDSA or RSA.
func NewRFC6962(key crypto.Signer) (*RFC6962, error) {
	s := &RFC6962{Gate: &Gate{}, most: 1000, aligned: true, byLeaf: make(map[Hash][]byte)}
	log, err := newLog(key, func() {})
	if err != nil {
		return nil, err
	}
	s.Log = log
	if _, err := signTreeHead(key, 0, 0, Hash{}); err != nil {
		return nil, err
	}
	s.mux = http.NewServeMux()
	for name, answer := range map[string]func(*http.Request, view) (any, error){
		"get-sth":             s.getSTH,
		"get-sth-consistency": getConsistency,
		"get-entries":         s.getEntries,
		"get-entry-and-proof": s.getEntryAndProof,
	} {
		s.mux.HandleFunc("GET /ct/v1/"+name, func(w http.ResponseWriter, r *http.Request) {
			v := s.look()
			body, err := answer(r, v)
			if err == nil && name == "get-sth" {
				body = json.RawMessage(v.editNote(body.(json.RawMessage)))
			}
			respondCT(w, body, err)
		})
	}
	return s, nil
}

// SetPage says how many entries a page has at most, and whether a request for that
// many or more ends at a multiple of it.
func (s *RFC6962) SetPage(most uint64, aligned bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.most, s.aligned = most, aligned
}

// SetTime sets the time of tree heads; the zero time is now.
func (s *RFC6962) SetTime(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = at
}

// Submit appends entries to the true tree. A leaf that is appended to a tree
// otherwise is served with the extra_data of the entry that was submitted with the
// same leaf, or with none.
func (s *RFC6962) Submit(entries ...CTEntry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range entries {
		leaf := e.Leaf(-1)
		s.byLeaf[Hash(rfc6962.DefaultHasher.HashLeaf(leaf))] = e.ExtraData()
		s.Append(leaf)
	}
}

// Generate adds n entries to the true tree that are made when they are asked for; see
// [Tree.Generate] and [SyntheticCT].
func (s *RFC6962) Generate(n uint64, entry func(index uint64) CTEntry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := s.Tree().Size()
	s.made = append(s.made, generated{from, from + n, entry})
	s.Tree().Generate(n, func(index uint64) []byte { return entry(index).Leaf(-1) })
}

// LieBeside serves other extra_data with a leaf, which the tree does not commit to;
// nil ends that.
func (s *RFC6962) LieBeside(index uint64, extra []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beside = maps.Clone(s.beside)
	if s.beside == nil {
		s.beside = make(map[uint64][]byte)
	}
	s.beside[index] = extra
	if extra == nil {
		delete(s.beside, index)
	}
}

// extra is what is served beside a leaf.
func (s *RFC6962) extra(index uint64, leaf []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.beside[index]; ok {
		return b
	}
	for _, g := range s.made {
		if g.from <= index && index < g.to {
			if e := g.entry(index); bytes.Equal(e.Leaf(-1), leaf) {
				return e.ExtraData()
			}
		}
	}
	if len(s.byLeaf) == 0 {
		return nil
	}
	return s.byLeaf[Hash(rfc6962.DefaultHasher.HashLeaf(leaf))]
}

// ServeHTTP serves the log, through the gate.
func (s *RFC6962) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handle(w, r, s.mux) }

// statusError is an error that has an HTTP status of its own.
type statusError struct {
	code int
	err  error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

func badRequest(format string, args ...any) error {
	return &statusError{http.StatusBadRequest, fmt.Errorf(format, args...)}
}

func respondCT(w http.ResponseWriter, body any, err error) {
	if err == nil {
		var b []byte
		if b, err = json.Marshal(body); err == nil {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(b) // fails only if the client has gone
			return
		}
	}
	status := &statusError{code: http.StatusInternalServerError}
	errors.As(err, &status)
	http.Error(w, fmt.Sprintf("%s\n%v", http.StatusText(status.code), err), status.code)
}

// numbers reads query parameters as ct_server does: decimal, from 0 to 2^63-1.
func numbers(r *http.Request, names ...string) (a, b uint64, err error) {
	var out [2]uint64
	for i, name := range names {
		n, err := strconv.ParseInt(r.URL.Query().Get(name), 10, 64)
		if err != nil {
			return 0, 0, badRequest("parameter %q: %w", name, err)
		}
		if n < 0 {
			return 0, 0, badRequest("parameter %q: %d is less than 0", name, n)
		}
		out[i] = uint64(n)
	}
	return out[0], out[1], nil
}

func (s *RFC6962) getSTH(_ *http.Request, v view) (any, error) {
	s.mu.Lock()
	at := s.at
	s.mu.Unlock()
	if at.IsZero() {
		at = time.Now()
	}
	root, err := v.tree.Root(v.size)
	if err != nil {
		return nil, err
	}
	sth := ct.GetSTHResponse{TreeSize: v.size, Timestamp: uint64(at.UnixMilli()), SHA256RootHash: root[:]}
	if sth.TreeHeadSignature, err = signTreeHead(v.key, v.size, sth.Timestamp, root); err != nil {
		return nil, err
	}
	body, err := json.Marshal(sth)
	return json.RawMessage(body), err
}

// signTreeHead makes the DigitallySigned of a tree head (RFC 6962 section 3.5).
func signTreeHead(key crypto.Signer, size, timestamp uint64, root Hash) ([]byte, error) {
	input, err := ct.SerializeSTHSignatureInput(ct.SignedTreeHead{
		Version: ct.V1, TreeSize: size, Timestamp: timestamp, SHA256RootHash: ct.SHA256Hash(root),
	})
	if err != nil {
		return nil, fmt.Errorf("tree head of size %d: %w", size, err)
	}
	algorithms := []byte{4, 3} // SHA-256, ECDSA
	switch key.Public().(type) {
	case *ecdsa.PublicKey:
	case *rsa.PublicKey:
		algorithms[1] = 1
	default:
		return nil, fmt.Errorf("a CT log signs with ECDSA or RSA, not with a key of type %T", key.Public())
	}
	digest := sha256.Sum256(input)
	sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("signing the tree head of size %d: %w", size, err)
	}
	return appendVector(algorithms, 2, sig), nil
}

func getConsistency(r *http.Request, v view) (any, error) {
	first, second, err := numbers(r, "first", "second")
	switch {
	case err != nil:
		return nil, err
	case second < first:
		return nil, badRequest("invalid first, second params: %d %d", first, second)
	case second > v.size:
		return nil, badRequest("need tree size: %d for proof but only got: %d", second, v.size)
	}
	proof, err := v.tree.ConsistencyProof(first, second)
	if proof == nil {
		proof = [][]byte{} // never null in JSON
	}
	return ct.GetSTHConsistencyResponse{Consistency: proof}, err
}

func (s *RFC6962) getEntries(r *http.Request, v view) (any, error) {
	start, last, err := numbers(r, "start", "end")
	switch {
	case err != nil:
		return nil, err
	case start > last:
		return nil, badRequest("start (%d) and end (%d) is not a valid range", start, last)
	case start >= v.size:
		return nil, badRequest("need tree size: %d to get leaves but only got: %d", start+1, v.size)
	}
	end := min(s.pageEnd(start, last), v.size)
	page := ct.GetEntriesResponse{Entries: make([]ct.LeafEntry, 0, end-start)}
	for i := start; i < end; i++ {
		e, lie, err := s.entry(v, i)
		if err != nil {
			return nil, err
		}
		if !lie.Missing {
			page.Entries = append(page.Entries, e)
		}
	}
	s.countRead(start, end-start)
	return page, nil
}

// pageEnd is where the page ends that is asked for by its first and last index.
func (s *RFC6962) pageEnd(start, last uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last-start+1 < s.most {
		return last + 1
	}
	end := start + s.most
	if s.aligned {
		end -= end % s.most
	}
	return end
}

// entry is an entry as it is served.
func (s *RFC6962) entry(v view, index uint64) (ct.LeafEntry, Lie, error) {
	leaf, lie, err := v.leaf(index)
	if err == nil && lie.Status != 0 {
		err = &statusError{lie.Status, errors.New("the backend does not answer")}
	}
	return ct.LeafEntry{LeafInput: leaf, ExtraData: s.extra(index, leaf)}, lie, err
}

func (s *RFC6962) getEntryAndProof(r *http.Request, v view) (any, error) {
	index, size, err := numbers(r, "leaf_index", "tree_size")
	switch {
	case err != nil:
		return nil, err
	case size == 0 || index >= size:
		return nil, badRequest("leaf_index %d out of range for tree of size %d", index, size)
	case size > v.size:
		return nil, badRequest("need tree size: %d for proof but only got: %d", size, v.size)
	}
	e, lie, err := s.entry(v, index)
	if err != nil {
		return nil, err
	}
	if lie.Missing {
		return nil, &statusError{http.StatusNotFound, fmt.Errorf("leaf %d is not there", index)}
	}
	proof, err := v.tree.InclusionProof(index, size)
	if proof == nil {
		proof = [][]byte{}
	}
	s.countRead(index, 1)
	return ct.GetEntryAndProofResponse{LeafInput: e.LeafInput, ExtraData: e.ExtraData, AuditPath: proof}, err
}
