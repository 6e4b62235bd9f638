package tlog

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"
)

func TestAChunkOfLeavesThatDoNotFitTogetherComesInParts(t *testing.T) {
	for _, tt := range []struct {
		name  string
		each  int64
		parts int // that a chunk of ten takes once its size is known
	}{
		{"seven of ten fit", MaxChunk / 7, 2},
		{"two at a time", MaxChunk / 2, 5},
		{"one by one", MaxChunk, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := NewClient(ClientOptions{Base: network(20 * time.Millisecond)})
				var wg sync.WaitGroup
				for range 3 {
					wg.Go(func() {
						var n uint64
						var mu sync.Mutex
						asked := map[uint64]int{} // by the end of a chunk, which its parts share
						get := fitting(c, tt.each)
						fetch := func(ctx context.Context, ch Chunk, limit int64) ([]Leaf, int64, error) {
							mu.Lock()
							asked[ch.To]++
							mu.Unlock()
							return get(ctx, ch, limit)
						}
						for leaf, err := range ReadAhead(t.Context(), c, logURL, chunksOf(1000), fetch) {
							if err != nil || leaf.Index != n {
								t.Errorf("got leaf %d, error %v; want leaf %d", leaf.Index, err, n)
								return
							}
							n++
						}
						if n != 1000 || asked[1000] != tt.parts {
							t.Errorf("got %d leaves, want 1000; the last chunk took %d fetches, want %d", n, asked[1000], tt.parts)
						}
					})
				}
				wg.Wait()
				if c.budget.peak > defaultBudget {
					t.Errorf("%d bytes were reserved at once, want at most %d", c.budget.peak, defaultBudget)
				}
				idle(t, c)
			})
		})
	}
}

func TestLeavesThatFitAreDeliveredBeforeTheRestIsFetched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewClient(ClientOptions{Base: network(20 * time.Millisecond)})
		var limits []int64
		var delivered, before uint64
		get := fitting(c, 300<<10) // three in the mebibyte that is expected at first
		fetch := func(ctx context.Context, ch Chunk, limit int64) ([]Leaf, int64, error) {
			limits, before = append(limits, limit), delivered
			return get(ctx, ch, limit)
		}
		for leaf, err := range ReadAhead(t.Context(), c, logURL, chunksOf(10), fetch) {
			if err != nil || leaf.Index != delivered {
				t.Fatalf("got leaf %d, error %v; want leaf %d", leaf.Index, err, delivered)
			}
			delivered++
		}
		if !slices.Equal(limits, []int64{firstEstimate, MaxChunk}) || before != 3 || delivered != 10 {
			t.Errorf("fetched with limits %v, the last time after %d leaves, and got %d; want %v, 3 and 10",
				limits, before, delivered, []int64{firstEstimate, MaxChunk})
		}
		idle(t, c)
	})
}

func TestNothingOfAPartIsHeldWhileTheRestIsFetched(t *testing.T) {
	c := NewClient(ClientOptions{})
	var parts []weak.Pointer[[64]byte]
	fetch := func(_ context.Context, ch Chunk, _ int64) ([]Leaf, int64, error) {
		runtime.GC()
		for i, p := range parts {
			if p.Value() != nil {
				t.Errorf("while leaves %d to %d are fetched, leaf %d is still in memory", ch.From, ch.To-1, i)
			}
		}
		if c.budget.all > MaxChunk {
			t.Errorf("while leaves %d to %d are fetched, %d bytes are reserved, want at most %d", ch.From, ch.To-1, c.budget.all, MaxChunk)
		}
		data := new([64]byte)
		parts = append(parts, weak.Make(data))
		leaf := []Leaf{{Index: ch.From, Data: data[:]}}
		if len(parts) == 10 {
			return leaf, 64, nil
		}
		return leaf, 64, &TooLargeError{MaxChunk}
	}
	var n uint64
	for leaf, err := range ReadAhead(t.Context(), c, logURL, chunksOf(10), fetch) {
		if err != nil || leaf.Index != n {
			t.Fatalf("got leaf %d, error %v; want leaf %d", leaf.Index, err, n)
		}
		n++
	}
	if n != 10 {
		t.Errorf("got %d leaves, want 10", n)
	}
}

func TestAChunkOfManyPartsDoesNotKeepTheOversizeLaneFromOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewClient(ClientOptions{Base: network(20 * time.Millisecond)})
		ctx, cancel := context.WithCancel(t.Context())
		many := func(yield func(Chunk) bool) { yield(Chunk{From: 0, To: 1 << 20}) }
		var wg sync.WaitGroup
		wg.Go(func() {
			for range ReadAhead(ctx, c, logURL, many, fitting(c, MaxChunk)) { // until it is told to stop
			}
		})
		time.Sleep(time.Second)
		start := time.Now()
		var n int
		for _, err := range ReadAhead(t.Context(), c, logURL, chunksOf(100), fetcher(c, fixed(MaxChunk))) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if took := time.Since(start); n != 100 || took > 5*time.Second {
			t.Errorf("got %d leaves in %s beside a chunk of a million parts, want 100 within 5 s", n, took)
		}
		cancel()
		wg.Wait()
		idle(t, c)
	})
}
