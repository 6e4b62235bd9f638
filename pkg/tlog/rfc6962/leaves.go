package rfc6962

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync/atomic"

	"github.com/whosigned/whosigned/pkg/tlog"
)

const (
	// maxPage is the most entries asked for at once: what ct_server gives.
	maxPage = 1000
	// pageBytes is how large a page may be expected to be. One much larger would be
	// too large for ReadAhead to have several in flight.
	pageBytes = 6 << 20
	// typicalEntry is the size of an entry of Fulcio's log in a page.
	typicalEntry = 6000
	// retryPages is after how many pages that came whole a larger one is tried.
	retryPages = 64
)

// pages is what was learnt of the pages that the server gives, so that each chunk
// takes one request. The zero value knows nothing.
type pages struct {
	most  atomic.Uint64 // entries of a page that the server cut short; 0: none was
	each  atomic.Int64  // bytes of an entry in the latest page; 0: none came yet
	whole atomic.Int64  // pages since most was learnt that were not cut
}

// entries is how many to ask for at once.
func (p *pages) entries() uint64 {
	n := uint64(maxPage)
	if most := p.most.Load(); most > 0 {
		n = most
	}
	return max(1, min(n, uint64(pageBytes/p.bytes(1))))
}

// bytes is how large a page of n entries may be expected to be.
func (p *pages) bytes(n uint64) int64 {
	each := p.each.Load()
	if each == 0 {
		each = typicalEntry
	}
	return int64(n) * each
}

// learn is told of a chunk that was read: its largest page, and whether the server
// cut one short. An aligned server, for which the first page of a chunk that does not
// begin where its pages do is shorter, so shows its maximum in the next one.
func (p *pages) learn(largest uint64, cut bool) {
	switch {
	case cut:
		p.most.Store(largest)
		p.whole.Store(0)
	case p.most.Load() > 0 && p.whole.Add(1)%retryPages == 0:
		// It may have been the server's plight of a moment. A page cut short costs
		// nothing: the rest of the chunk takes the request that it would have taken.
		p.most.Store(min(2*p.most.Load(), maxPage))
	}
}

// Leaves reads pages by get-entries, each of at most 1000 entries and
// [tlog.MaxChunk] bytes. A server that gives shorter ones is asked on from where they
// end. A page that is refused, too large, empty or not what was asked for is halved
// down to the first leaf that fails by itself.
func (l *Log) Leaves(ctx context.Context, from, to uint64) iter.Seq2[tlog.Leaf, error] {
	return tlog.ReadAhead(ctx, l.client, l.info.URL, l.chunks(from, to), l.fetch)
}

// chunks cuts [from, to) into pages that end at multiples of their size, as an
// aligned server's do.
func (l *Log) chunks(from, to uint64) iter.Seq[tlog.Chunk] {
	return func(yield func(tlog.Chunk) bool) {
		for from < to {
			n := l.pages.entries()
			end := min(from-from%n+n, to)
			if !yield(tlog.Chunk{From: from, To: end, Bytes: l.pages.bytes(end-from) * 9 / 8}) {
				return
			}
			from = end
		}
	}
}

// fetch gets one chunk for [tlog.ReadAhead].
func (l *Log) fetch(ctx context.Context, c tlog.Chunk, limit int64) (leaves []tlog.Leaf, size int64, err error) {
	var rest error
	// What does not fit is known without reading a megabyte of it.
	switch fit := uint64(limit / l.pages.bytes(1)); {
	case c.To-c.From <= fit:
	case limit < tlog.MaxChunk:
		return nil, 0, &tlog.TooLargeError{Limit: limit}
	case c.To-c.From > 1:
		c.To, rest = c.From+max(fit, 1), &tlog.TooLargeError{Limit: limit}
	}
	// [next, end) is asked for; [next, bad) is not known to be had as a whole.
	next, end, bad := c.From, c.To, c.To
	var largest uint64
	cut, failed := false, false
	for next < c.To {
		got, n, err := l.page(ctx, next, end, limit-size)
		switch {
		case err == nil:
			if leaves == nil {
				leaves = got
			} else {
				leaves = append(leaves, got...)
			}
			size += n
			next += uint64(len(got))
			largest = max(largest, uint64(len(got)))
			switch {
			case next < end:
				cut = true
			case next == bad:
				bad, end = c.To, c.To // what failed before does not any more
			default:
				end = next + max((bad-next)/2, 1)
			}
		case tlog.IsTooLarge(err) && limit < tlog.MaxChunk:
			return nil, 0, err // ReadAhead gets the chunk again, and until then nothing is kept of it
		case !tlog.Divisible(err):
			return leaves, size, err
		case end-next > 1:
			if failed = true; tlog.IsTooLarge(err) {
				l.pages.each.Store(max(l.pages.each.Load(), (limit-size)/int64(end-next)))
			}
			bad = end
			if end = next + (bad-next)/2; len(leaves) == 0 {
				end = next + 1 // shows soonest whether the log gives anything
			}
		case size > 0 && tlog.IsTooLarge(err):
			return leaves, size, err // ReadAhead goes on with the rest
		default:
			return leaves, size, l.blame(ctx, next, len(leaves) > 0, limit-size, err)
		}
	}
	if !failed {
		l.pages.learn(largest, cut)
	}
	return leaves, size, rest
}

// page gets the leaves from an index on with one request: at least one, and at most
// up to index to. It returns also how many bytes they keep alive.
func (l *Log) page(ctx context.Context, from, to uint64, limit int64) ([]tlog.Leaf, int64, error) {
	raw, err := l.client.Get(ctx, l.entriesURL(from, to), limit)
	if err != nil {
		return nil, 0, err
	}
	leaves, err := l.leaves(from, to, raw)
	if err != nil {
		return nil, 0, err
	}
	size := int64(len(raw))
	l.pages.each.Store(max(1, size/int64(len(leaves))))
	return leaves, size, nil
}

// leaves reads a page and overwrites it. It gives one leaf at least.
func (l *Log) leaves(from, to uint64, raw []byte) ([]tlog.Leaf, error) {
	entries, err := parsePage(raw, to-from)
	if err != nil {
		return nil, &tlog.BadAnswer{Err: err, Served: raw, Malformed: errors.Is(err, errMalformed)}
	}
	if len(entries) == 0 {
		return nil, &tlog.BadAnswer{Err: fmt.Errorf("no entry is served from leaf %d on", from)}
	}
	leaves := make([]tlog.Leaf, len(entries))
	var data []byte
	for i, e := range entries {
		index := from + uint64(i)
		data = slices.Grow(data[:0], base64.StdEncoding.DecodedLen(len(e.leaf)))
		n, err := base64.StdEncoding.Decode(data[:cap(data)], e.leaf)
		if err != nil {
			return nil, &tlog.BadAnswer{Err: fmt.Errorf("the leaf_input of leaf %d: %w", index, err), Served: raw}
		}
		// The leaf goes where its base64 was: it needs no more memory than the page,
		// which is kept for what is served beside it. (A page in which another one
		// fails is asked for again, so what it is blamed with stands as it was served.)
		e.leaf = e.leaf[:copy(e.leaf, data[:n]):n]
		leaves[i] = tlog.Leaf{Index: index, Data: e.leaf, Hash: tlog.LeafHash(e.leaf), Submission: l.submission(index, e), Beside: len(e.extra)}
	}
	return leaves, nil
}

func (l *Log) entriesURL(from, to uint64) string {
	return l.url("get-entries?start=%d&end=%d", from, to-1)
}

// blame is [tlog.Blame], which need not ask for others if some came.
func (l *Log) blame(ctx context.Context, index uint64, othersCame bool, limit int64, err error) error {
	return tlog.Blame(l.entriesURL(index, index+1), index, l.size.Load(), err, func(other uint64) error {
		if othersCame {
			return nil
		}
		_, _, err := l.page(ctx, other, other+1, limit)
		return err
	})
}
