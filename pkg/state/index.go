package state

import (
	"bytes"
	"errors"
	"slices"
	"sort"

	"github.com/whosigned/whosigned/pkg/tlog"
)

// Index is how far a log is read under index coverage. It is part of the log's
// document, so that the commit that settles an entry names what was found in it. A
// change replaces it whole.
type Index struct {
	// Queries are the values that the search index is asked for. Entries from the
	// index given on are held against the rules; those before are counted in Earlier.
	Queries map[string]uint64 `json:"queries"`
	// Seen are the entries that are settled, and in which nothing was found: proven and
	// held against the rules, or earlier ones. Found are those with findings.
	Seen  Leaves `json:"seen"`
	Found Leaves `json:"found,omitempty"`
	// Forgetful: some of Seen were forgotten, since there were too many. They are read
	// again, and would be counted in Earlier again.
	Forgetful bool `json:"forgetful,omitempty"`
	// Unproven are entries that were alerted though they do not prove. They are asked
	// for again, and are news once they do.
	Unproven Leaves `json:"unproven,omitempty"`
	// Earlier counts those settled since it was last said how many.
	Earlier uint64 `json:"earlier,omitempty"`
	// NoSubjects: it was said that the server takes email addresses and no other subjects.
	NoSubjects bool `json:"no_subjects,omitempty"`

	kept
}

// UnmarshalJSON and MarshalJSON keep unknown fields.
func (x *Index) UnmarshalJSON(b []byte) error {
	type plain Index
	if err := x.decode(b, (*plain)(x)); err != nil {
		return err
	}
	return errors.Join(x.Seen.check(), x.Found.check(), x.Unproven.check())
}

// MarshalJSON is described with UnmarshalJSON.
func (x Index) MarshalJSON() ([]byte, error) {
	type plain Index
	return x.encode(plain(x))
}

// Settled reports whether an entry is in Seen or Found.
func (x *Index) Settled(leaf tlog.Hash) bool { return x.Seen.Has(leaf) || x.Found.Has(leaf) }

// Settle adds entries to Seen and Found, and forgets some of Seen beyond limit entries:
// they are only read again. What was found in one of Found would be told again, so those
// have twice the room before some are forgotten.
func (x *Index) Settle(seen, found []tlog.Hash, limit int) {
	x.Seen, x.Found = x.Seen.With(seen...), x.Found.With(found...)
	for x.Found.Len() > 2*limit {
		x.Found = x.Found.Half()
	}
	for x.Seen.Len() > max(0, limit-x.Found.Len()) {
		x.Seen, x.Forgetful = x.Seen.Half(), true
	}
}

// leafPrefix is how much of a leaf hash is kept, in bytes. Whoever wanted an entry
// to pass for one of 2^16 others would have to hash 2^112 leaves.
const leafPrefix = 16

// Leaves is a set of leaf hashes: the first 16 bytes of each, ascending; in JSON one
// base64 text. It does not change; With and Half make another one.
type Leaves []byte

// Len is the number of leaves.
func (l Leaves) Len() int { return len(l) / leafPrefix }

// Has reports whether a leaf is in the set.
func (l Leaves) Has(leaf tlog.Hash) bool {
	i := l.find(leaf)
	return i < l.Len() && bytes.Equal(l.at(i), leaf[:leafPrefix])
}

// With is the set with further leaves.
func (l Leaves) With(leaves ...tlog.Hash) Leaves {
	var more []tlog.Hash
	for _, leaf := range leaves {
		if !l.Has(leaf) {
			more = append(more, leaf)
		}
	}
	slices.SortFunc(more, func(a, b tlog.Hash) int { return bytes.Compare(a[:], b[:]) })
	out := make(Leaves, 0, len(l)+leafPrefix*len(more))
	at := 0
	for _, leaf := range more {
		if len(out) > 0 && bytes.Equal(out[len(out)-leafPrefix:], leaf[:leafPrefix]) {
			continue // the one before, once more
		}
		next := l.find(leaf) * leafPrefix
		out = append(append(out, l[at:next]...), leaf[:leafPrefix]...)
		at = next
	}
	return append(out, l[at:]...)
}

// Half is every other leaf of the set, which hashes make any half of it.
func (l Leaves) Half() Leaves {
	out := make(Leaves, 0, len(l)/2)
	for i := 1; i < l.Len(); i += 2 {
		out = append(out, l.at(i)...)
	}
	return out
}

func (l Leaves) at(i int) []byte { return l[i*leafPrefix : (i+1)*leafPrefix : (i+1)*leafPrefix] }

// find is the place of the first leaf that is not before the one given.
func (l Leaves) find(leaf tlog.Hash) int {
	return sort.Search(l.Len(), func(i int) bool { return bytes.Compare(l.at(i), leaf[:leafPrefix]) >= 0 })
}

func (l Leaves) check() error {
	if len(l)%leafPrefix != 0 {
		return errors.New("a set of leaves is cut short")
	}
	for i := 1; i < l.Len(); i++ {
		if bytes.Compare(l.at(i-1), l.at(i)) >= 0 {
			return errors.New("a set of leaves is not in order")
		}
	}
	return nil
}
