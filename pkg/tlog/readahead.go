package tlog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

// MaxChunk is the most bytes that one chunk may take: a bundle of 256 entries of
// 65,535 bytes, rounded up.
const MaxChunk = 17 << 20

const (
	defaultBudget = 48 << 20
	firstEstimate = 1 << 20
	minEstimate   = 64 << 10
)

// Budget bounds the bytes that all logs together read ahead (P5). One lane of
// it, of MaxChunk bytes, is for chunks that prove larger than expected, one at a
// time; the rest is for all others.
type Budget struct {
	normal   *semaphore.Weighted
	size     int64 // of normal
	oversize *semaphore.Weighted

	mu   sync.Mutex
	held int64 // of normal
	all  int64 // of both lanes
	peak int64 // of all
}

// NewBudget makes a Budget of so many bytes: 48 MiB if 0, and never less than
// two chunks of the largest size.
func NewBudget(bytes int64) *Budget {
	if bytes == 0 {
		bytes = defaultBudget
	}
	size := max(bytes-MaxChunk, MaxChunk)
	return &Budget{normal: semaphore.NewWeighted(size), size: size, oversize: semaphore.NewWeighted(1)}
}

func (b *Budget) count(normal, oversize int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held += normal
	b.all += normal + oversize
	b.peak = max(b.peak, b.all)
}

// reserve waits for n bytes of the normal lane.
func (b *Budget) reserve(ctx context.Context, n int64) error {
	if err := b.normal.Acquire(ctx, n); err != nil {
		return context.Cause(ctx)
	}
	b.count(n, 0)
	return nil
}

// reserveMore takes n more bytes for a stream that holds some, if nobody waits
// for any and the stream has then at most twice what is left. That way one
// stream can use two thirds, and one whose consumer stands still leaves enough
// for the others (P6).
func (b *Budget) reserveMore(n, held int64) bool {
	b.mu.Lock()
	left := b.size - b.held - n
	b.mu.Unlock()
	if held+n > 2*left || !b.normal.TryAcquire(n) {
		return false
	}
	b.count(n, 0)
	return true
}

func (b *Budget) release(n int64) {
	b.count(-n, 0)
	b.normal.Release(n)
}

func (b *Budget) reserveOversize(ctx context.Context) error {
	if err := b.oversize.Acquire(ctx, 1); err != nil {
		return context.Cause(ctx)
	}
	b.count(0, MaxChunk)
	return nil
}

func (b *Budget) releaseOversize() {
	b.count(0, -MaxChunk)
	b.oversize.Release(1)
}

// Chunk is a range of leaves [From, To) that is fetched at once.
type Chunk struct {
	From, To uint64
	// Bytes is what the answer will hardly exceed, for want of answers to learn that
	// from; 0 if nothing is known.
	Bytes int64
}

// ReadAhead streams the leaves of chunks in order, fetching ahead as much as
// the host of url bears and the client's [Budget] allows.
//
// fetch gets one chunk's leaves, in an answer of at most limit bytes, through c;
// it returns how many bytes the leaves keep alive, which must not exceed limit. Those
// bytes are given back to the budget when the consumer has moved past the chunk.
// If fetch fails with a *TooLargeError, the leaves that came with it are delivered
// and given up, and then the rest of the chunk is fetched by itself with MaxChunk: as
// often as that gives a leaf. Any other error ends the stream, after the leaves that
// came with it and all before.
//
// When the consumer stops early, or ctx ends, ReadAhead returns only after every
// fetch has ended and every byte is given back. A stream waits for budget
// only while it holds none, so streams that share one cannot block each other for
// good, provided that each is consumed independently of the others.
func ReadAhead(ctx context.Context, c *Client, url string, chunks iter.Seq[Chunk],
	fetch func(ctx context.Context, ch Chunk, limit int64) ([]Leaf, int64, error)) iter.Seq2[Leaf, error] {
	return func(yield func(Leaf, error) bool) {
		h, err := c.host(url)
		if err != nil {
			yield(Leaf{}, &Unavailable{What: url, Err: err})
			return
		}
		next, stop := iter.Pull(chunks)
		defer stop()
		ctx, cancel := context.WithCancel(ctx)
		r := &reader{host: h, budget: c.budget, next: next, fetch: fetch, landed: make(chan struct{}, 1)}
		defer r.drain()
		defer cancel()
		for {
			f, err := r.head(ctx)
			if err != nil {
				yield(Leaf{}, &Unavailable{What: "reading ahead of " + url, Err: err})
				return
			}
			if f == nil || !r.deliver(ctx, f, yield) {
				return
			}
		}
	}
}

// reader is the state of one ReadAhead; only its fetches run in other goroutines.
type reader struct {
	host   *host
	budget *Budget
	next   func() (Chunk, bool)
	fetch  func(ctx context.Context, ch Chunk, limit int64) ([]Leaf, int64, error)

	landed  chan struct{} // a fetch has ended since it was last looked
	pending *Chunk        // taken from next, waiting for budget
	line    []*future     // in order
	held    atomic.Int64  // of the normal lane, by the line
	sizes   sizes
}

// future is a chunk that is being fetched.
type future struct {
	chunk  Chunk
	limit  int64 // what the fetch may use; 0 if it waits for the oversize lane
	done   chan struct{}
	leaves []Leaf
	size   int64
	err    error
	held   int64 // what is left of limit, once done
}

// head keeps the line topped up until its first has been fetched, and takes that;
// nil after the last chunk.
func (r *reader) head(ctx context.Context) (*future, error) {
	for {
		if err := r.topUp(ctx); err != nil || len(r.line) == 0 {
			return nil, err
		}
		select {
		case <-r.line[0].done:
			return r.line[0], nil
		case <-r.landed:
			// The host may bear more now, and the chunk may have left some budget. Were
			// the line topped up only when its first lands, one slow chunk would idle the rest.
		}
	}
}

// topUp starts fetching as many chunks as host and budget allow.
func (r *reader) topUp(ctx context.Context) error {
	// Twice what runs at once, so that a slow first chunk does not idle the rest.
	for len(r.line) < 2*r.host.allowed() {
		if r.pending == nil {
			chunk, ok := r.next()
			if !ok {
				break
			}
			r.pending = &chunk
		}
		limit := r.sizes.estimate()
		if r.sizes.n == 0 && r.pending.Bytes > 0 {
			limit = min(max(r.pending.Bytes, minEstimate), MaxChunk)
		}
		switch first := len(r.line) == 0; {
		case limit > r.budget.size/4:
			// Chunks this large are not read ahead. Each pushes two from sizes, so that
			// it is soon seen that they have become smaller.
			if !first {
				return nil
			}
			r.sizes.add(0)
			r.line = append(r.line, later(*r.pending))
		case first:
			if err := r.budget.reserve(ctx, limit); err != nil {
				return err
			}
			r.start(ctx, *r.pending, limit)
		case r.budget.reserveMore(limit, r.held.Load()):
			r.start(ctx, *r.pending, limit)
		default:
			return nil
		}
		r.pending = nil
	}
	return nil
}

// start begins to fetch a chunk into limit reserved bytes.
func (r *reader) start(ctx context.Context, chunk Chunk, limit int64) {
	f := &future{chunk: chunk, limit: limit, held: limit, done: make(chan struct{})}
	r.line = append(r.line, f)
	r.held.Add(limit)
	go func() {
		defer func() {
			close(f.done)
			select {
			case r.landed <- struct{}{}:
			default:
			}
		}()
		f.leaves, f.size, f.err = r.fetch(ctx, chunk, limit)
		// Give back at once what the estimate was too high by.
		r.giveBack(f, limit-min(f.size, limit))
	}()
}

// later is a chunk that is not read ahead: it goes, when it is first, through the
// oversize lane.
func later(chunk Chunk) *future {
	f := &future{chunk: chunk, done: make(chan struct{})}
	close(f.done)
	return f
}

func (r *reader) giveBack(f *future, n int64) {
	f.held -= n
	r.held.Add(-n)
	r.budget.release(n)
}

// deliver yields a finished chunk and gives its bytes back. It reports whether
// to go on.
func (r *reader) deliver(ctx context.Context, f *future, yield func(Leaf, error) bool) bool {
	r.line = r.line[1:]
	defer func() {
		f.leaves = nil // the line's array lives on; the chunk must not
		r.giveBack(f, f.held)
	}()
	if f.limit == 0 {
		// Nothing of the normal lane is kept for this chunk while it waits for the
		// other, and who has the other waits for nothing.
		if err := r.budget.reserveOversize(ctx); err != nil {
			yield(Leaf{}, f.named(&Unavailable{What: "reading ahead", Err: err}))
			return false
		}
		defer r.budget.releaseOversize()
		f.limit = MaxChunk
		f.leaves, f.size, f.err = r.fetch(ctx, f.chunk, f.limit)
	}
	for _, leaf := range f.leaves {
		if !yield(leaf, nil) {
			return false
		}
	}
	if IsTooLarge(f.err) && (f.limit < MaxChunk || len(f.leaves) > 0) {
		r.sizes.add(2 * f.limit)
		f.chunk.From += uint64(len(f.leaves))
		// Other streams may have the oversize lane before it is this one's turn again.
		r.line = slices.Insert(r.line, 0, later(f.chunk))
		return true
	}
	r.sizes.add(f.size)
	if f.err != nil {
		yield(Leaf{}, f.named(f.err))
		return false
	}
	return true
}

// named makes sure that the error says which leaves are missing.
func (f *future) named(err error) error {
	var leaf *LeafError
	if errors.As(err, &leaf) {
		return err
	}
	return fmt.Errorf("leaves %d to %d: %w", f.chunk.From+uint64(len(f.leaves)), f.chunk.To-1, err)
}

// drain waits for the fetches still running, whose context has been cancelled.
func (r *reader) drain() {
	for _, f := range r.line {
		<-f.done
		r.giveBack(f, f.held)
	}
}

// sizes remembers how large recent chunks were.
type sizes struct {
	recent [16]int64
	n      int
}

func (s *sizes) add(n int64) {
	s.recent[s.n%len(s.recent)] = n
	s.n++
}

// estimate is what the next chunk will hardly exceed.
func (s *sizes) estimate() int64 {
	if s.n == 0 {
		return firstEstimate
	}
	var largest int64
	for _, n := range s.recent {
		largest = max(largest, n)
	}
	return min(max(largest+largest/8, minEstimate), MaxChunk)
}
