package rekorv1

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/whosigned/whosigned/pkg/tlog"
)

const (
	// maxAnswer limits an answer that is read whole and kept for all trees: about
	// 12,600 UUIDs. A longer one is read as it comes, see [Tree.Search].
	maxAnswer = 1 << 20
	// maxKept limits the UUIDs that are kept of all answers: 2.5 MiB.
	maxKept = 1 << 16
	// searches is how many queries are asked at once.
	searches = 4
	// maxSubject is the most characters of a subject that rekor-server takes.
	maxSubject = 512
)

// Query is one value to ask the search index for (POST index/retrieve, see
// https://github.com/sigstore/rekor/blob/v1.5.4/openapi.yaml). The index compares
// without regard to case; what it lists may have nothing to do with the value.
type Query struct {
	Field  string // "email", "hash", "subject" (from rekor-server v1.5.4 on) or "publicKey"
	Value  string // of publicKey, the key as its format has it
	Format string // of publicKey: "x509", "pgp", "ssh", "minisign"
}

func (q Query) String() string {
	if q.Format != "" {
		return fmt.Sprintf("%s of format %s", q.Field, q.Format)
	}
	return fmt.Sprintf("%s %q", q.Field, q.Value)
}

// body is the request for one query.
func (q Query) body() []byte {
	field := any(q.Value)
	if q.Format != "" {
		field = struct {
			Format  string `json:"format"`
			Content []byte `json:"content"`
		}{q.Format, []byte(q.Value)}
	}
	body, err := json.Marshal(map[string]any{q.Field: field})
	if err != nil { // strings and bytes always marshal
		return nil
	}
	return body
}

// ErrNoSubjects says that a server takes no subjects. One before v1.5.4 passes over
// the field and answers with an empty list.
var ErrNoSubjects = errors.New("the server's search index cannot be asked for subjects (rekor-server before v1.5.4)")

// Hit is an entry that the search index lists.
type Hit struct {
	Leaf tlog.Hash
	// Queries lists it, by their places among those asked.
	Queries []int
	// Plain: it is listed without a tree ID, and may be any tree's.
	Plain bool
}

// Found is what the search index lists for some queries.
type Found struct {
	Hits []Hit // of this tree, by leaf hash, each once
	// Listed counts what is listed of this tree for each query, in its place.
	Listed []int
	// Others counts what is listed of other trees, by tree ID.
	Others map[string]int
	// Failed has an error for each query, in the place of the query, that was not
	// answered or not in full; nil if there is none. What was listed all the same
	// counts. A *tlog.TooLargeError in it: the answer is longer than [tlog.MaxChunk],
	// and was read to there.
	Failed []error
}

// Search asks the service's search index, which all its trees share, and returns the
// entries of this tree for which want reports true. It is told of each that is listed,
// with the place of the query, in no order; an entry is a hit as soon as it is wanted
// for one query. Nothing ties the index to the trees: what it lists has yet to be read,
// and what it does not list may be there. Queries of one field and value are one.
//
// Each query is sent once for all trees, and its answer kept as long as the
// [Service]. But anybody can make the index list any number of entries under any
// value, in one answer without pages. What is too long to be kept, each tree asks for
// itself and reads as it comes, up to [tlog.MaxChunk] (about 215,000 UUIDs), so that
// only what is wanted is held. rekor-server lists in another order each time (it
// ranges over a map, pkg/api/index.go): what lies beyond the limit this time may be
// read the next.
//
// When none of a few queries is answered, for a reason that is not about the query,
// such as status 501 of a server without an index, the search ends: the queries that
// are left fail with it unasked.
func (t *Tree) Search(ctx context.Context, queries []Query, want func(query int, leaf tlog.Hash) bool) Found {
	c := collector{
		want: want, at: make(map[tlog.Hash]int),
		found: Found{Listed: make([]int, len(queries)), Others: make(map[string]int), Failed: make([]error, len(queries))},
	}
	c.tree, _ = strconv.ParseUint(t.treeID, 10, 64) // it was checked when the tree was accepted
	var long []int
	for i, l := range t.service.search(ctx, queries) {
		c.found.Failed[i] = l.err
		for _, id := range l.ids {
			c.take(i, id)
		}
		if l.long {
			long = append(long, i)
		}
	}
	// Long ones may take all the time there is: each must come first some day.
	rand.Shuffle(len(long), func(i, j int) { long[i], long[j] = long[j], long[i] })
	for _, i := range long {
		c.found.Failed[i] = t.service.stream(ctx, queries[i], func(id entryID) { c.take(i, id) })
	}
	slices.SortFunc(c.found.Hits, func(a, b Hit) int { return bytes.Compare(a.Leaf[:], b.Leaf[:]) })
	return c.found
}

// collector makes of lists what is found of one tree.
type collector struct {
	tree  uint64
	want  func(query int, leaf tlog.Hash) bool
	at    map[tlog.Hash]int // places in found.Hits
	found Found
}

func (c *collector) take(query int, id entryID) {
	if id.tree != 0 && id.tree != c.tree {
		c.found.Others[strconv.FormatUint(id.tree, 10)]++
		return
	}
	c.found.Listed[query]++
	wanted := c.want(query, id.leaf)
	n, known := c.at[id.leaf]
	if !known && !wanted {
		return
	}
	if !known {
		n = len(c.found.Hits)
		c.at[id.leaf] = n
		c.found.Hits = append(c.found.Hits, Hit{Leaf: id.leaf, Plain: true})
	}
	h := &c.found.Hits[n]
	h.Plain = h.Plain && id.tree == 0
	if !slices.Contains(h.Queries, query) {
		h.Queries = append(h.Queries, query)
	}
}

// entryID is a UUID of an entry.
type entryID struct {
	tree uint64 // 0 if it has none
	leaf tlog.Hash
}

// list is the answer to one query.
type list struct {
	ids  []entryID
	long bool // too long to be kept; then there are no ids
	err  error
}

// index is what a service's search index has answered.
type index struct {
	mu    sync.Mutex
	lists map[Query]list
	held  int // IDs in lists
}

// search answers queries, in their order, from what is kept, and asks for the rest.
func (s *Service) search(ctx context.Context, queries []Query) []list {
	s.index.mu.Lock()
	defer s.index.mu.Unlock()
	if s.index.lists == nil {
		s.index.lists = make(map[Query]list)
	}
	var left []Query
	asked := make(map[Query]bool)
	for _, q := range queries {
		if _, known := s.index.lists[q]; !known && !asked[q] {
			left, asked[q] = append(left, q), true
		}
	}
	left, over := s.withoutSubjects(ctx, left)
	for len(left) > 0 && over == nil {
		batch := left[:min(searches, len(left))]
		left = left[len(batch):]
		answers := make([]list, len(batch))
		var wg sync.WaitGroup
		for i, q := range batch {
			wg.Go(func() { answers[i] = s.ask(ctx, q) })
		}
		wg.Wait()
		answered := false
		for i, q := range batch {
			s.keep(q, answers[i])
			if err := answers[i].err; err == nil || aboutQuery(err) {
				answered = true
			}
		}
		// One may be slow for what others had listed there; that must not keep out the rest.
		if !answered {
			over = answers[0].err
		}
	}
	for _, q := range left {
		s.index.lists[q] = list{err: fmt.Errorf("not asked for, since the search index fails: %w", over)}
	}
	lists := make([]list, len(queries))
	for i, q := range queries {
		lists[i] = s.index.lists[q]
	}
	return lists
}

// withoutSubjects finds out whether the server knows the field "subject", if there
// are subjects to ask for. What is too long must be refused; a server that takes it
// does not look at the field, and would list nothing for any subject.
func (s *Service) withoutSubjects(ctx context.Context, queries []Query) (left []Query, over error) {
	isSubject := func(q Query) bool { return q.Field == "subject" }
	if !slices.ContainsFunc(queries, isSubject) {
		return queries, nil
	}
	l := s.ask(ctx, Query{Field: "subject", Value: strings.Repeat("x", maxSubject+1)})
	switch {
	case l.err == nil:
		for _, q := range queries {
			if isSubject(q) {
				s.index.lists[q] = list{err: ErrNoSubjects}
			}
		}
		return slices.DeleteFunc(slices.Clone(queries), isSubject), nil
	case aboutQuery(l.err):
		return queries, nil
	}
	return queries, l.err
}

// aboutQuery reports whether a failure is about what was asked, and other queries
// may fare better.
func aboutQuery(err error) bool {
	var malformed *malformedList
	if errors.As(err, &malformed) {
		return true
	}
	var status *tlog.StatusError
	return errors.As(err, &status) && (status.Code == http.StatusBadRequest || status.Code == http.StatusUnprocessableEntity)
}

// keep remembers an answer, within the limit.
func (s *Service) keep(q Query, l list) {
	if s.index.held+len(l.ids) > maxKept {
		l = list{long: true}
	}
	s.index.held += len(l.ids)
	s.index.lists[q] = l
}

// ErrNoEntry says that the service does not have an entry in the tree.
var ErrNoEntry = errors.New("the service has no such entry in this tree")

// Entry is an entry that was asked for by its leaf hash.
type Entry struct {
	// Leaf hashes to what was asked for. Without an error its Index is its place in
	// the tree of Size and Root: the inclusion proof verifies. That root is the one
	// served with it, which has yet to be proven to be the log's.
	Leaf   tlog.Leaf
	Size   uint64
	Root   tlog.Hash
	Served []byte // the answer that it came in, as evidence
	// Err is ErrNoEntry, an *tlog.Unavailable or an *tlog.Unverified; with the last
	// the leaf is set if it was served, and nothing is known of its place.
	Err error
}

// Entries reads entries by their leaf hashes, ten with one request (POST
// log/entries/retrieve), and returns one for each hash in their order. A request
// that fails, or whose answer does not fit, is halved down to the entry that fails
// by itself.
func (t *Tree) Entries(ctx context.Context, leaves []tlog.Hash) []Entry {
	out := make([]Entry, len(leaves))
	for i := 0; i < len(leaves); i += batchSize {
		end := min(i+batchSize, len(leaves))
		t.lookUp(ctx, leaves[i:end], out[i:end])
	}
	return out
}

func (t *Tree) lookUp(ctx context.Context, leaves []tlog.Hash, out []Entry) {
	err := t.entries(ctx, leaves, out)
	if err == nil {
		return
	}
	if len(leaves) > 1 && tlog.Divisible(err) {
		half := len(leaves) / 2
		t.lookUp(ctx, leaves[:half], out[:half])
		t.lookUp(ctx, leaves[half:], out[half:])
		return
	}
	var bad *tlog.BadAnswer
	if errors.As(err, &bad) {
		err = &tlog.Unavailable{What: "POST " + t.retrieveURL(), Err: err}
		if !bad.Malformed {
			err = t.unverifiedEntry(leaves[0], bad.Served, bad.Err)
		}
	}
	for i := range out {
		if out[i].Err = err; len(leaves) > 1 {
			out[i] = Entry{Err: err}
		}
	}
}

func (t *Tree) unverifiedEntry(leaf tlog.Hash, served []byte, err error) error {
	return &tlog.Unverified{What: fmt.Sprintf("entry %s%s of tree %s at %s", t.prefix, leaf, t.treeID, t.service.url), Served: served, Err: err}
}

// entries makes one request. The error is a *[tlog.BadAnswer] if something in the answer
// does not fit; what is left out is no error.
func (t *Tree) entries(ctx context.Context, leaves []tlog.Hash, out []Entry) error {
	at := make(map[tlog.Hash]int, len(leaves))
	uuids := make([]string, len(leaves))
	for i, leaf := range leaves {
		at[leaf], uuids[i], out[i] = i, t.prefix+leaf.String(), Entry{Err: ErrNoEntry}
	}
	query, err := json.Marshal(map[string][]string{"entryUUIDs": uuids})
	if err != nil {
		return err
	}
	raw, err := t.service.client.Post(ctx, t.retrieveURL(), "application/json", query, tlog.MaxChunk)
	if err != nil {
		return err
	}
	all, err := parseRetrieved(raw)
	if err != nil {
		return &tlog.BadAnswer{Err: err, Served: raw, Malformed: true}
	}
	for _, e := range all {
		p, proofErr := parsePlace(e.proof)
		leaf, err := t.leaf(p.Index, e)
		if err != nil {
			return &tlog.BadAnswer{Err: err, Served: raw}
		}
		i, wanted := at[leaf.Hash]
		if !wanted {
			return &tlog.BadAnswer{Err: fmt.Errorf("entry %s is served, which was not asked for", leaf.Claims.UUID), Served: raw}
		}
		out[i] = Entry{Leaf: leaf, Size: p.Size, Root: p.Root, Served: raw}
		if err := cmp.Or(proofErr, t.checkPlace(leaf, e.proof)); err != nil {
			out[i].Err = t.unverifiedEntry(leaf.Hash, raw, err)
		}
	}
	return nil
}

// place is where an inclusion proof says that its leaf is. Its index is the tree's
// own.
type place struct {
	Index uint64    `json:"logIndex"`
	Size  uint64    `json:"treeSize"`
	Root  tlog.Hash `json:"rootHash"`
}

func parsePlace(proof []byte) (p place, err error) {
	if proof == nil {
		return p, errors.New("no inclusion proof is served with it")
	}
	if err := json.Unmarshal(proof, &p); err != nil {
		return place{}, fmt.Errorf("its inclusion proof: %.200q", err)
	}
	return p, nil
}

// checkPlace verifies the inclusion proof and that the global index fits it.
func (t *Tree) checkPlace(leaf tlog.Leaf, proof []byte) error {
	if _, err := openInclusion(leaf.Index, leaf.Hash, proof); err != nil {
		return fmt.Errorf("its inclusion proof: %w", err)
	}
	now := t.state()
	if want := now.offset + leaf.Index; now.offsetErr == nil && leaf.Claims.GlobalIndex != want {
		return fmt.Errorf("it is served with logIndex %d, and by its inclusion proof that is %d", leaf.Claims.GlobalIndex, want)
	}
	return nil
}
