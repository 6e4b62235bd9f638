package tlog

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"
)

// chunksOf cuts [0, n) into chunks of ten.
func chunksOf(n uint64) iter.Seq[Chunk] {
	return func(yield func(Chunk) bool) {
		for from := uint64(0); from < n; from += 10 {
			if !yield(Chunk{from, min(n, from+10), 0}) {
				return
			}
		}
	}
}

// fetcher makes a fetch function whose chunks take a time and a size, as a log
// would that is asked through c.
func fetcher(c *Client, size func(Chunk) int64) func(context.Context, Chunk, int64) ([]Leaf, int64, error) {
	return func(ctx context.Context, ch Chunk, limit int64) ([]Leaf, int64, error) {
		if _, err := c.Get(ctx, logURL, limit); err != nil {
			return nil, 0, err
		}
		n := size(ch)
		if n > limit {
			return nil, 0, &Unavailable{What: "chunk", Err: &TooLargeError{limit}}
		}
		var leaves []Leaf
		for i := ch.From; i < ch.To; i++ {
			leaves = append(leaves, Leaf{Index: i})
		}
		return leaves, n, nil
	}
}

// fitting is fetcher for leaves of a size each, of which it gets as many as fit.
func fitting(c *Client, each int64) func(context.Context, Chunk, int64) ([]Leaf, int64, error) {
	return func(ctx context.Context, ch Chunk, limit int64) ([]Leaf, int64, error) {
		part := min(ch.To, ch.From+uint64(limit/each))
		size := int64(part-ch.From) * each
		leaves, n, err := fetcher(c, fixed(size))(ctx, Chunk{From: ch.From, To: part}, limit)
		if err == nil && part < ch.To {
			err = &Unavailable{What: "rest of the chunk", Err: &TooLargeError{limit}}
		}
		return leaves, n, err
	}
}

func fixed(n int64) func(Chunk) int64 { return func(Chunk) int64 { return n } }

// idle fails if anything of c's budget or its host's slots is still held.
func idle(t *testing.T, c *Client) {
	t.Helper()
	b := c.budget
	if b.held != 0 || b.all != 0 || !b.normal.TryAcquire(b.size) || !b.oversize.TryAcquire(1) {
		t.Errorf("the budget still holds %d bytes, %d of both lanes", b.held, b.all)
		return
	}
	b.normal.Release(b.size)
	b.oversize.Release(1)
	h, _ := c.host(logURL)
	if h.inFlight != 0 || h.queue.Len() != 0 {
		t.Errorf("%d requests in flight, %d queued", h.inFlight, h.queue.Len())
	}
}

// network answers after a random time of up to twice d.
func network(d time.Duration) http.RoundTripper {
	return roundTrip(func(r *http.Request) (*http.Response, error) { return takes(rand.N(2*d), ok)(r) })
}

func TestLeavesComeInOrderWhateverTheirSizeAndTime(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for name, size := range map[string]func(Chunk) int64{
		"empty":                fixed(0),
		"usual":                fixed(584_000),
		"larger than expected": fixed(3 << 20),
		"all oversize":         fixed(MaxChunk),
		"one oversize in ten": func(ch Chunk) int64 {
			if ch.From%100 == 50 {
				return MaxChunk
			}
			return 60_000
		},
		"any": func(ch Chunk) int64 { return rand.New(rand.NewPCG(random.Uint64(), ch.From)).Int64N(MaxChunk) },
		"growing and shrinking": func(ch Chunk) int64 {
			return int64(1) << (14 + min(ch.From/10%20, 20-ch.From/10%20))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex // random is not safe for concurrent use
				c := NewClient(ClientOptions{Base: network(20 * time.Millisecond)})
				locked := func(ch Chunk) int64 { mu.Lock(); defer mu.Unlock(); return size(ch) }
				var next uint64
				for leaf, err := range ReadAhead(t.Context(), c, logURL, chunksOf(1995), fetcher(c, locked)) {
					if err != nil || leaf.Index != next {
						t.Fatalf("got leaf %d, error %v; want leaf %d", leaf.Index, err, next)
					}
					next++
				}
				if next != 1995 {
					t.Errorf("the stream ended at %d, want 1995", next)
				}
				if c.budget.peak > defaultBudget {
					t.Errorf("%d bytes were reserved at once, want at most %d", c.budget.peak, defaultBudget)
				}
				idle(t, c)
			})
		})
	}
}

func TestWhatIsHeldStaysWithinWhatIsReserved(t *testing.T) {
	// Counts what fetched chunks really hold until the consumer has moved past them.
	synctest.Test(t, func(t *testing.T) {
		c := NewClient(ClientOptions{Base: network(20 * time.Millisecond)})
		var mu sync.Mutex
		var held, peak int64
		sizeOf := func(ch Chunk) int64 { return int64(ch.From*7919%29) * 600_000 }
		hold := func(n int64) { mu.Lock(); defer mu.Unlock(); held += n; peak = max(peak, held) }
		get := fetcher(c, sizeOf)
		fetch := func(ctx context.Context, ch Chunk, limit int64) ([]Leaf, int64, error) {
			leaves, n, err := get(ctx, ch, limit)
			hold(n)
			return leaves, n, err
		}
		for leaf, err := range ReadAhead(t.Context(), c, logURL, chunksOf(3000), fetch) {
			if err != nil {
				t.Fatal(err)
			}
			if leaf.Index%10 == 9 {
				time.Sleep(time.Millisecond)
				hold(-sizeOf(Chunk{leaf.Index - 9, 0, 0}))
			}
		}
		if peak == 0 || peak > c.budget.peak || c.budget.peak > defaultBudget {
			t.Errorf("held %d bytes, reserved %d, want held <= reserved <= %d", peak, c.budget.peak, defaultBudget)
		}
	})
}

func TestLogsThatShareAFullBudgetAllArrive(t *testing.T) {
	for name, size := range map[string]int64{"usual chunks": 584_000, "large chunks": 7 << 20, "all oversize": MaxChunk} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// The least budget there is: one normal chunk of the largest size and one oversize.
				c := NewClient(ClientOptions{Budget: NewBudget(1), Base: network(20 * time.Millisecond)})
				var wg sync.WaitGroup
				for log := range 5 {
					wg.Go(func() {
						var n int
						for leaf, err := range ReadAhead(t.Context(), c, logURL, chunksOf(300), fetcher(c, fixed(size))) {
							if err != nil || leaf.Index != uint64(n) {
								t.Errorf("log %d: leaf %d, error %v; want leaf %d", log, leaf.Index, err, n)
								return
							}
							n++
							time.Sleep(time.Duration(log) * time.Millisecond) // some consume slowly
						}
						if n != 300 {
							t.Errorf("log %d ended at %d, want 300", log, n)
						}
					})
				}
				wg.Wait()
				if c.budget.peak > 2*MaxChunk {
					t.Errorf("%d bytes were reserved at once, want at most %d", c.budget.peak, 2*MaxChunk)
				}
				idle(t, c)
			})
		})
	}
}

func TestAConsumerThatStandsStillLeavesBudgetForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewClient(ClientOptions{Base: network(20 * time.Millisecond)})
		start := time.Now()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for leaf := range ReadAhead(t.Context(), c, logURL, chunksOf(3000), fetcher(c, fixed(584_000))) {
					if leaf.Index == 1000 { // by now it reads far ahead
						time.Sleep(time.Hour)
					}
				}
			})
		}
		time.Sleep(10 * time.Second)
		var n int
		for _, err := range ReadAhead(t.Context(), c, logURL, chunksOf(1000), fetcher(c, fixed(584_000))) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if took := time.Since(start); n != 1000 || took > time.Minute {
			t.Errorf("got %d leaves in %s while others stood still, want 1000 within a minute", n, took)
		}
		wg.Wait()
		idle(t, c)
	})
}

func TestStoppingEarlyLeavesNothingBehind(t *testing.T) {
	cause := errors.New("the run is over")
	for _, tt := range []struct {
		name string
		size int64 // of a chunk
		stop func(n int, cancel context.CancelCauseFunc) (leave bool)
	}{
		{"break at the first leaf", 584_000, func(int, context.CancelCauseFunc) bool { return true }},
		{"break within a chunk", 584_000, func(n int, _ context.CancelCauseFunc) bool { return n == 105 }},
		{"break in an oversize chunk", MaxChunk, func(n int, _ context.CancelCauseFunc) bool { return n == 105 }},
		{"context ends", 584_000, func(n int, c context.CancelCauseFunc) bool {
			if n == 105 {
				c(cause)
			}
			return false
		}},
		{"context ends between oversize chunks", MaxChunk, func(n int, c context.CancelCauseFunc) bool {
			if n == 109 {
				c(cause)
			}
			return false
		}},
		{"break within a chunk of parts", 10 * MaxChunk / 3, func(n int, _ context.CancelCauseFunc) bool { return n == 104 }},
		{"break at the end of a part", 10 * MaxChunk / 3, func(n int, _ context.CancelCauseFunc) bool { return n == 105 }},
		{"context ends between the parts of a chunk", 10 * MaxChunk / 3, func(n int, c context.CancelCauseFunc) bool {
			if n == 105 {
				c(cause)
			}
			return false
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := NewClient(ClientOptions{Base: network(20 * time.Millisecond)})
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				var running atomic.Int32
				get := fetcher(c, fixed(tt.size))
				if tt.size > MaxChunk {
					get = fitting(c, tt.size/10)
				}
				fetch := func(ctx context.Context, ch Chunk, limit int64) ([]Leaf, int64, error) {
					running.Add(1)
					defer running.Add(-1)
					return get(ctx, ch, limit)
				}
				var n int
				var last error
				for leaf, err := range ReadAhead(ctx, c, logURL, chunksOf(100_000), fetch) {
					if err != nil {
						last = err
						continue
					}
					if leaf.Index != uint64(n) {
						t.Fatalf("leaf %d, want %d", leaf.Index, n)
					}
					if tt.stop(n, cancel) {
						break
					}
					n++
				}
				if ctx.Err() != nil && !errors.Is(last, context.Canceled) && !errors.Is(last, cause) {
					t.Errorf("the stream ended with %v, want the context's error", last)
				}
				// The bubble itself fails if a goroutine is left for good.
				if got := running.Load(); got != 0 {
					t.Errorf("%d fetches still run", got)
				}
				idle(t, c)
			})
		})
	}
}

func TestAnErrorEndsTheStreamAfterTheLeavesBeforeIt(t *testing.T) {
	bad := errors.New("bad chunk")
	for _, tt := range []struct {
		name string
		fail func(ch Chunk) ([]Leaf, error)
		last uint64 // leaves before the error
		want string
	}{
		{"a whole chunk", func(Chunk) ([]Leaf, error) { return nil, &Unavailable{What: "GET chunk", Err: bad} },
			500, "leaves 500 to 509: GET chunk: bad chunk"},
		{"the end of a chunk", func(ch Chunk) ([]Leaf, error) {
			return []Leaf{{Index: 500}, {Index: 501}}, &LeafError{Index: 502, End: 503, Err: bad}
		}, 502, "leaf 502: bad chunk"},
		{"an answer beyond the protocol's maximum", func(Chunk) ([]Leaf, error) { return nil, &TooLargeError{MaxChunk} },
			500, "leaves 500 to 509: the answer is larger than the limit of 17825792 bytes"},
		{"a leaf beyond it after some that fit", func(ch Chunk) ([]Leaf, error) {
			if ch.From == 500 {
				return []Leaf{{Index: 500}, {Index: 501}}, &TooLargeError{MaxChunk}
			}
			return nil, &TooLargeError{MaxChunk}
		}, 502, "leaves 502 to 509: the answer is larger than the limit of 17825792 bytes"},
		{"the end of a rest", func(ch Chunk) ([]Leaf, error) {
			if ch.From == 500 {
				return []Leaf{{Index: 500}, {Index: 501}}, &TooLargeError{MaxChunk}
			}
			return []Leaf{{Index: 502}}, &LeafError{Index: 503, End: 504, Err: bad}
		}, 503, "leaf 503: bad chunk"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := NewClient(ClientOptions{Base: network(20 * time.Millisecond)})
				get := fetcher(c, fixed(584_000))
				fetch := func(ctx context.Context, ch Chunk, limit int64) ([]Leaf, int64, error) {
					if ch.To == 510 {
						leaves, err := tt.fail(ch)
						return leaves, 0, err
					}
					return get(ctx, ch, limit)
				}
				var n uint64
				var got []string
				for leaf, err := range ReadAhead(t.Context(), c, logURL, chunksOf(1000), fetch) {
					if err != nil {
						got = append(got, err.Error())
						continue
					}
					if leaf.Index != n {
						t.Fatalf("leaf %d, want %d", leaf.Index, n)
					}
					n++
				}
				if n != tt.last || !slices.Equal(got, []string{tt.want}) {
					t.Errorf("got %d leaves and errors %q, want %d and %q", n, got, tt.last, tt.want)
				}
				idle(t, c)
			})
		})
	}
}

func TestAnOversizeChunkIsAskedForAgainOnceWithTheMaximum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewClient(ClientOptions{Base: network(20 * time.Millisecond)})
		var mu sync.Mutex
		asked := map[uint64][]int64{}
		var running, most atomic.Int32
		get := fetcher(c, func(ch Chunk) int64 {
			if ch.From%200 == 100 {
				return MaxChunk
			}
			return 1000
		})
		fetch := func(ctx context.Context, ch Chunk, limit int64) ([]Leaf, int64, error) {
			mu.Lock()
			asked[ch.From] = append(asked[ch.From], limit)
			mu.Unlock()
			if limit == MaxChunk {
				most.Store(max(most.Load(), running.Add(1)))
				defer running.Add(-1)
			}
			return get(ctx, ch, limit)
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for _, err := range ReadAhead(t.Context(), c, logURL, chunksOf(1000), fetch) {
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if most.Load() != 1 {
			t.Errorf("%d oversize fetches ran at once, want 1", most.Load())
		}
		for from, limits := range asked {
			if len(limits) > 3*2 || from%200 == 100 && !slices.Contains(limits, MaxChunk) {
				t.Errorf("chunk %d was asked for with limits %v", from, limits)
			}
		}
		idle(t, c)
	})
}

func TestFetchedChunksHoldNoMoreThanTheirSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 1000
		c := NewClient(ClientOptions{Base: network(20 * time.Millisecond)})
		for leaf, err := range ReadAhead(t.Context(), c, logURL, chunksOf(2000), fetcher(c, fixed(size))) {
			if err != nil {
				t.Fatal(err)
			}
			if leaf.Index%500 == 0 {
				time.Sleep(time.Minute) // until all that was begun is there
				c.budget.mu.Lock()
				held := c.budget.held
				c.budget.mu.Unlock()
				if held == 0 || held > 2*maxInFlight*size {
					t.Errorf("at leaf %d %d bytes are reserved for chunks of %d", leaf.Index, held, size)
				}
			}
		}
	})
}

func TestDeliveredChunksAreNotKeptAlive(t *testing.T) {
	c := NewClient(ClientOptions{})
	var mu sync.Mutex
	fetched := map[uint64]weak.Pointer[[64]byte]{}
	fetch := func(_ context.Context, ch Chunk, _ int64) ([]Leaf, int64, error) {
		data := new([64]byte)
		mu.Lock()
		defer mu.Unlock()
		fetched[ch.From] = weak.Make(data)
		return []Leaf{{Index: ch.From, Data: data[:]}}, 64, nil
	}
	for leaf, err := range ReadAhead(t.Context(), c, logURL, chunksOf(200), fetch) {
		if err != nil {
			t.Fatal(err)
		}
		runtime.GC()
		mu.Lock()
		for from, p := range fetched {
			// This loop's own variable may hold the one before.
			if from+10 < leaf.Index && p.Value() != nil {
				t.Fatalf("at leaf %d chunk %d is still in memory", leaf.Index, from)
			}
		}
		mu.Unlock()
	}
}

func TestABrokenURLIsAnErrorOfTheStream(t *testing.T) {
	c := NewClient(ClientOptions{})
	for _, err := range ReadAhead(t.Context(), c, "http://%zz", chunksOf(10), fetcher(c, fixed(0))) {
		if err == nil {
			t.Error("no error")
		}
	}
}

// In fake time the figure does not depend on the machine.
func TestAt50MillisecondsReadingAheadIsTwentyTimesOneAtATime(t *testing.T) {
	for name, size := range map[string]int64{"Rekor v2 bundle": 584_000, "Rekor v1 page": 57_000} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const latency = 50 * time.Millisecond
				const chunks = 2000
				c := NewClient(ClientOptions{Base: takes(latency, ok)})
				start := time.Now()
				for _, err := range ReadAhead(t.Context(), c, logURL, chunksOf(10*chunks), fetcher(c, fixed(size))) {
					if err != nil {
						t.Fatal(err)
					}
				}
				took := time.Since(start)
				t.Logf("%.1f times, %d MiB reserved at most", float64(chunks*latency)/float64(took), c.budget.peak>>20)
				if took > chunks*latency/20 {
					t.Errorf("%d chunks took %s, want at most a twentieth of %s", chunks, took, chunks*latency)
				}
			})
		})
	}
}

func TestALargeChunkNowAndThenDoesNotEndReadingAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const latency, chunks = 50 * time.Millisecond, 500
		c := NewClient(ClientOptions{Base: takes(latency, ok)})
		start := time.Now()
		for _, err := range ReadAhead(t.Context(), c, logURL, chunksOf(10*chunks), fetcher(c, func(ch Chunk) int64 {
			if ch.From%100 == 90 {
				return MaxChunk
			}
			return 584_000
		})) {
			if err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took > chunks*latency/2 {
			t.Errorf("%d chunks, each tenth a large one, took %s, want at most half of %s", chunks, took, chunks*latency)
		}
	})
}

func TestASlowFirstChunkDoesNotIdleTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewClient(ClientOptions{Base: roundTrip(takes(50*time.Millisecond, ok))})
		quick := fetcher(c, fixed(10_000))
		var fetched atomic.Int32
		fetch := func(ctx context.Context, ch Chunk, limit int64) ([]Leaf, int64, error) {
			if ch.From == 0 {
				time.Sleep(time.Second)
			}
			defer fetched.Add(1)
			return quick(ctx, ch, limit)
		}
		for leaf, err := range ReadAhead(t.Context(), c, logURL, chunksOf(10_000), fetch) {
			if err != nil {
				t.Fatal(err)
			}
			// The host bears more with every answer, so the line, of 8 at first, has to grow:
			// here to 20, when the budget has no more for chunks expected to take a mebibyte.
			if got, want := fetched.Load(), int32(12); leaf.Index == 0 && got < want {
				t.Errorf("%d chunks were fetched when the first, slow one was, want at least %d", got, want)
			}
		}
	})
}
