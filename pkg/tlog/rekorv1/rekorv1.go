// Package rekorv1 reads a Rekor v1 service over its REST API
// (https://github.com/sigstore/rekor/blob/v1.5.4/openapi.yaml). A service is one
// URL with many trees, one of them active, possibly under several keys; each tree
// is a [tlog.Log].
//
// It keeps its share of promise P1 (nothing unproven is believed):
//
//   - Log info is unsigned. A tree is accepted only if its note verifies under one
//     of the service's keys and its origin line ends in " - <tree ID>"; the key is
//     part of the tree's ID, so a known tree stays with it. Sizes come from the
//     signed note, never from log info's treeSize. The host name in the origin is
//     a replica's and means nothing.
//   - A leaf is the canonicalized body of an entry. Its hash is computed here, and
//     the UUID and index under which it was served must fit.
//   - What is served beside the leaf, the leaf does not commit to: [tlog.Claims].
//
// And of P6 and P7 (one bad entry never stops the others): a batch that fails is
// halved down to the leaf that cannot be had, and leaves before it are delivered.
//
// # Global and own indexes
//
// The API's logIndex counts over all trees of the service. A tree's first entry
// has the sum of the sizes of the trees before it, in the order of log info
// (inactive ones as listed, then the active one). That sum is computed in one
// place, [Service] list; everything else in this package counts in the tree's
// own indexes. The sum is only an address: a wrong one makes the service answer
// with entries that do not fit, never makes a wrong leaf acceptable. So the size
// of a tree whose note does not verify, say for want of its key, is taken from
// its note all the same: one bad tree must not hide those after it.
package rekorv1

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	formats "github.com/transparency-dev/formats/log"

	"github.com/whosigned/whosigned/pkg/tlog"
)

const (
	// maxLogInfo limits log info: each tree takes about 600 bytes of it.
	maxLogInfo = 1 << 20
	// maxTrees limits the trees of a service; the public one has a handful.
	maxTrees = 256
	// maxTotal is the end of global indexes; a sum beyond it is nonsense.
	maxTotal = 1 << 62
)

// Config says which service to read.
type Config struct {
	// URL of the service, without the path /api/v1.
	URL string
	// Keys are those that the service's trees may be signed with.
	Keys []tlog.Key
	// Accepted are further keys that an operator accepted for a known tree, by its
	// ID, which stays the same.
	Accepted map[tlog.ID][]tlog.Key
}

// Service is a Rekor v1 service. Its methods may be called concurrently.
type Service struct {
	client *tlog.Client
	url    string
	keys   []tlog.Key
	// accepted are further keys of known trees.
	accepted map[tlog.ID][]tlog.Key
	index    index
}

// New returns the service that cfg names; nothing is fetched yet.
func New(client *tlog.Client, cfg Config) *Service {
	return &Service{client: client, url: strings.TrimRight(cfg.URL, "/"), keys: slices.Clone(cfg.Keys), accepted: cfg.Accepted}
}

// Discovery is what a service's log info lists.
type Discovery struct {
	Trees   []*Tree   // accepted ones in the order of log info, the active one last
	Missing []tlog.ID // known trees that log info does not list
	Failed  []TreeError
}

// TreeError is a tree that log info lists and that is not accepted.
type TreeError struct {
	TreeID string  // as served
	ID     tlog.ID // of the known tree with that tree ID, else ""
	Err    error   // an *tlog.Unverified with the note
}

func (e TreeError) Error() string { return fmt.Sprintf("tree %q: %v", e.TreeID, e.Err) }
func (e TreeError) Unwrap() error { return e.Err }

// MissingTreeError says that a tree that the service had is not in its log info.
type MissingTreeError struct {
	ID  tlog.ID
	Err error // a *tlog.Unavailable
}

func (e *MissingTreeError) Error() string { return fmt.Sprintf("tree %s is missing: %v", e.ID, e.Err) }
func (e *MissingTreeError) Unwrap() error { return e.Err }

// Trees fetches log info and returns the service's trees. known are the IDs of
// the trees that were accepted before: each stays with the key in its ID. The
// error, an *tlog.Unavailable, means that there was no log info to judge.
func (s *Service) Trees(ctx context.Context, known []tlog.ID) (Discovery, error) {
	trees, err := s.list(ctx)
	if err != nil {
		return Discovery{}, err
	}
	d := Discovery{}
	seen := make(map[string]bool)
	for _, l := range trees {
		pins := pinned(known, l.treeID)
		tree, err := s.accept(l, pins, seen[l.treeID])
		seen[l.treeID] = true
		if err != nil {
			failed := TreeError{TreeID: l.treeID, Err: err}
			if len(pins) > 0 {
				failed.ID = pins[0]
			}
			d.Failed = append(d.Failed, failed)
			continue
		}
		d.Trees = append(d.Trees, tree)
	}
	for _, id := range known {
		if _, treeID, _ := strings.Cut(string(id), "-"); !seen[treeID] {
			d.Missing = append(d.Missing, id)
		}
	}
	return d, nil
}

// pinned returns the known trees with that tree ID: one, unless an operator
// accepted another key for it.
func pinned(known []tlog.ID, treeID string) []tlog.ID {
	var ids []tlog.ID
	for _, id := range known {
		if _, t, ok := strings.Cut(string(id), "-"); ok && t == treeID {
			ids = append(ids, id)
		}
	}
	return ids
}

// accept makes a listed tree a log if its note verifies: under the key it is
// pinned to, else under any of the service's.
func (s *Service) accept(l listed, pins []tlog.ID, again bool) (*Tree, error) {
	number, err := strconv.ParseInt(l.treeID, 10, 64)
	switch {
	case err != nil || number <= 0 || strconv.FormatInt(number, 10) != l.treeID:
		return nil, s.unverified(l, errors.New("not a tree ID: want a positive decimal number below 2^63"))
	case again:
		return nil, s.unverified(l, errors.New("log info lists the tree twice"))
	}
	keys := s.keys
	if len(pins) > 0 {
		keys = slices.DeleteFunc(slices.Clone(keys), func(k tlog.Key) bool {
			return !slices.Contains(pins, treeLogID(k, l.treeID))
		})
		keys = append(keys, s.accepted[pins[0]]...)
		if len(keys) == 0 {
			// A mistake in the configuration, and not the log's doing.
			return nil, fmt.Errorf("the tree is known as %s, whose key is not among the %d of the service; configure that key, or accept the new one", pins[0], len(s.keys))
		}
	}
	cp, key, err := openNote(l.note, l.treeID, keys)
	if err != nil {
		if len(pins) > 0 && l.err == nil {
			err = fmt.Errorf("the tree is known as %s, and its note verifies under another key of the service only: %w", pins[0], err)
		}
		return nil, s.unverified(l, err)
	}
	t := &Tree{
		service: s,
		id:      treeLogID(key, l.treeID),
		treeID:  l.treeID,
		prefix:  fmt.Sprintf("%016x", number),
		keys:    []tlog.Key{key},
	}
	if len(pins) > 0 {
		t.keys = keys
		if !slices.Contains(pins, t.id) {
			t.id = pins[0] // under an accepted key it stays the same log
		}
	}
	t.update(l, cp)
	return t, nil
}

// treeLogID is the log ID of a Rekor v1 tree.
func treeLogID(key tlog.Key, treeID string) tlog.ID { return tlog.ID(key.Hex() + "-" + treeID) }

func (s *Service) unverified(l listed, err error) error {
	return &tlog.Unverified{
		What:   fmt.Sprintf("the note of tree %.20q in %s", l.treeID, s.infoURL()),
		Served: l.note,
		Err:    err,
	}
}

// openNote verifies the note of a tree.
func openNote(note []byte, treeID string, keys []tlog.Key) (tlog.Checkpoint, tlog.Key, error) {
	cp, key, err := tlog.OpenCheckpoint(note, keys)
	if err != nil {
		return tlog.Checkpoint{}, tlog.Key{}, err
	}
	if !strings.HasSuffix(cp.Origin, " - "+treeID) {
		return tlog.Checkpoint{}, tlog.Key{}, fmt.Errorf("its origin %.200q does not end in %q: it is another tree's", cp.Origin, " - "+treeID)
	}
	return cp, key, nil
}

// listed is a tree as log info lists it.
type listed struct {
	treeID string
	note   []byte
	active bool
	err    error // why the note verifies under none of the service's keys
	// offset is the global index of the tree's entry 0; offsetErr is set if a tree
	// before it has no size.
	offset    uint64
	offsetErr error
}

func (s *Service) infoURL() string { return s.url + "/api/v1/log" }

// list fetches log info and gives each tree its place among the global indexes.
func (s *Service) list(ctx context.Context) ([]listed, error) {
	raw, err := s.client.Get(ctx, s.infoURL(), maxLogInfo)
	if err != nil {
		return nil, err
	}
	type shard struct {
		TreeID         string `json:"treeID"`
		SignedTreeHead string `json:"signedTreeHead"`
	}
	var info struct {
		shard
		InactiveShards []shard `json:"inactiveShards"`
	}
	err = json.Unmarshal(raw, &info)
	switch {
	case err != nil:
		return nil, &tlog.Unavailable{What: s.infoURL(), Err: fmt.Errorf("not Rekor's log info: %w", err)}
	case info.TreeID == "":
		return nil, &tlog.Unavailable{What: s.infoURL(), Err: errors.New("not Rekor's log info: it names no active tree")}
	case len(info.InactiveShards) >= maxTrees:
		return nil, &tlog.Unavailable{What: s.infoURL(), Err: fmt.Errorf("log info lists %d trees, more than our limit of %d", len(info.InactiveShards)+1, maxTrees)}
	}
	trees := make([]listed, 0, len(info.InactiveShards)+1)
	for _, sh := range info.InactiveShards {
		trees = append(trees, listed{treeID: sh.TreeID, note: []byte(sh.SignedTreeHead)})
	}
	trees = append(trees, listed{treeID: info.TreeID, note: []byte(info.SignedTreeHead), active: true})
	s.place(trees)
	return trees, nil
}

// place computes where among the global indexes each tree begins.
func (s *Service) place(trees []listed) {
	var next uint64
	var unknown error
	for i := range trees {
		l := &trees[i]
		l.offset, l.offsetErr = next, unknown
		cp, _, err := openNote(l.note, l.treeID, s.keys)
		size := cp.Size
		if l.err = err; err != nil {
			var f formats.Checkpoint
			if _, err := f.Unmarshal(l.note); err != nil && unknown == nil {
				unknown = fmt.Errorf("the size of tree %.20q, which comes before, is not known: %.200q", l.treeID, err)
			}
			size = f.Size
		}
		if size > maxTotal || next > maxTotal-size {
			unknown = fmt.Errorf("the trees up to %.20q have more entries than there are indexes", l.treeID)
			continue
		}
		next += size
	}
}
