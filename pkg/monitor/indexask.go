package monitor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/rekorv1"
	"github.com/whosigned/whosigned/pkg/watch"
)

// listing is what the index lists for one query.
type listing struct {
	entries, settled int  // settled before this run
	refused          int  // not read, since no more is remembered for the value
	cut              bool // the answer is longer than is read of one
}

// ask asks the index, and takes of what it lists what this run is to read. Anybody can
// have any number of entries listed under any value, for Rekor takes every key that says
// it is somebody's: so each value has a share of what is read and of what is remembered
// that no other can take. A value that needs more than there is for it is said to.
func (x *indexRun) ask(doc *state.Log) ([]rekorv1.Hit, rekorv1.Found) {
	// Long answers may take all the time they get: half of what is left.
	end, _ := x.work.Deadline()
	ctx, cancel := context.WithTimeout(x.work, time.Until(end)/2)
	defer cancel()
	toRead, kept := newShares(indexHits, len(x.queries)), newShares(indexSeen, len(x.queries))
	known := 0
	found := x.tree.Search(ctx, inRekor(x.queries), func(query int, leaf tlog.Hash) bool {
		l := &x.listed[query]
		l.entries++
		switch {
		case doc.Index.Found.Has(leaf):
			known++
			kept.take(query)
			l.settled++
		case doc.Index.Seen.Has(leaf):
			l.settled++
		case toRead.take(query):
			return true
		default:
			x.unread++
			x.partly(doc, query)
		}
		return false
	})
	for query, err := range found.Failed {
		if err != nil && !errors.Is(err, rekorv1.ErrNoSubjects) {
			x.partly(doc, query)
		}
		if tlog.IsTooLarge(err) {
			x.listed[query].cut, found.Failed[query] = true, nil
			kept.shut(query) // how much of what is remembered is its own cannot be told
		}
	}
	kept.pool -= max(0, doc.Index.Found.Len()-known) // remembered all the same
	hits := slices.DeleteFunc(found.Hits, func(h rekorv1.Hit) bool {
		if slices.ContainsFunc(h.Queries, kept.take) {
			return false
		}
		for _, query := range h.Queries {
			x.listed[query].refused++
			x.partly(doc, query)
		}
		return true
	})
	return hits, found
}

// partly says that not all was taken of what is listed for a query: other entries may
// be listed for it too.
func (x *indexRun) partly(doc *state.Log, query int) {
	x.partial = min(x.partial, x.from(doc, rekorv1.Hit{Queries: []int{query}}))
}

// shares divides something among values: half of it evenly, the other half to those
// that come first.
type shares struct {
	each, pool int
	taken      []int
}

func newShares(all, values int) *shares {
	each := all / 2 / values
	return &shares{each, all - each*values, make([]int, values)}
}

// take takes one for a value, if there is one for it.
func (s *shares) take(value int) bool {
	switch {
	case s.taken[value] < s.each:
	case s.pool > 0:
		s.pool--
	default:
		return false
	}
	s.taken[value]++
	return true
}

// shut leaves a value nothing but what others leave.
func (s *shares) shut(value int) { s.taken[value] = max(s.taken[value], s.each) }

// inTurn begins at another hit in each run, so that those that cannot be had do not
// keep the budget from the others, and lets every value have its turn, so that what is
// listed for one does not either. Hits are in the order of their hashes: the fractions
// of multiples of the golden ratio begin far from where the runs before began.
func (x *indexRun) inTurn(hits []rekorv1.Hit) []rekorv1.Hit {
	if len(hits) == 0 {
		return nil
	}
	run := uint64(x.started.Unix() / max(int64(x.Every.Seconds()), 1))
	first := int(run * 0x9E3779B97F4A7C15 >> 32 * uint64(len(hits)) >> 32)
	hits = slices.Concat(hits[first:], hits[:first])
	turns, turn := make([]int, len(x.queries)), make(map[tlog.Hash]int, len(hits))
	for _, h := range hits {
		mine := math.MaxInt
		for _, query := range h.Queries {
			mine = min(mine, turns[query])
			turns[query]++
		}
		turn[h.Leaf] = mine
	}
	slices.SortStableFunc(hits, func(a, b rekorv1.Hit) int { return cmp.Compare(turn[a.Leaf], turn[b.Leaf]) })
	return hits
}

// tellLimits says of a value that more is listed for it than we take in (P9). Anybody
// can cause that, and it does not pass by itself.
func (x *indexRun) tellLimits(q watch.Query, l listing) {
	var limits []string
	if l.cut {
		limits = append(limits, fmt.Sprintf("its answer is longer than the %d MiB that are read of one, which are another part of it each time", tlog.MaxChunk>>20))
	}
	if l.refused > 0 {
		limits = append(limits, fmt.Sprintf("%d more are not read, since no more are remembered for one value", l.refused))
	}
	if len(limits) == 0 {
		return
	}
	text := fmt.Sprintf("its search index lists more for %s than is taken in: of %s seen there, %d were settled before this run; %s",
		q, counted(l.entries), l.settled, strings.Join(limits, "; "))
	x.note("%s", text)
	x.health.daily("log:"+string(x.info.ID)+":index-limit:"+q.String(), x.say("%s", text),
		"what is left out is not seen here; the CT logs have every certificate: watch them in full")
}
