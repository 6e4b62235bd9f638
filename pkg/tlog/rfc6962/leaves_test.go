package rfc6962

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

const (
	badLeaf  = 13 // the leaf that the faults below are about
	allCount = 30
)

// asked is the range [from, to) of a get-entries request.
func asked(t testing.TB, r *http.Request) (from, to uint64) {
	t.Helper()
	q := r.URL.Query()
	from, err := strconv.ParseUint(q.Get("start"), 10, 64)
	if err != nil {
		t.Error(err)
	}
	last, err := strconv.ParseUint(q.Get("end"), 10, 64)
	if err != nil {
		t.Error(err)
	}
	return from, last + 1
}

// when strikes only requests for which it is so.
func when(t testing.TB, so func(from, to uint64) bool, effect tlogtest.Effect) tlogtest.Effect {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if so(asked(t, r)) {
			effect(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}
}

// editPage changes the entries that are served.
func editPage(t testing.TB, edit func([]ct.LeafEntry) []ct.LeafEntry) tlogtest.Effect {
	return tlogtest.Edit(func(body []byte) []byte {
		var page ct.GetEntriesResponse
		if err := json.Unmarshal(body, &page); err != nil {
			t.Error(err)
		}
		page.Entries = edit(page.Entries)
		out, err := json.Marshal(page)
		if err != nil {
			t.Error(err)
		}
		return out
	})
}

func text(s string) tlogtest.Effect { return tlogtest.Edit(func([]byte) []byte { return []byte(s) }) }

func TestLeavesAreAllReadInOrderWhateverThePages(t *testing.T) {
	const n = 1500
	for _, row := range []struct {
		most    uint64
		aligned bool
	}{{1000, true}, {1000, false}, {256, true}, {256, false}, {480, true}, {600, false}, {5000, true}, {7, true}, {32, false}, {1, false}} {
		t.Run(fmt.Sprint(row), func(t *testing.T) {
			f := serve(t, n)
			f.SetPage(row.most, row.aligned)
			f.checkpoint(t)
			for _, from := range []uint64{0, 255, 1000, 1001} {
				leaves, err := read(t.Context(), f.log, from, n)
				if err != nil {
					t.Fatalf("from %d: %v", from, err)
				}
				wantLeaves(t, leaves, from, n)
			}
			if leaves, err := read(t.Context(), f.log, 100, 100); err != nil || len(leaves) != 0 {
				t.Errorf("an empty range: got %d leaves, %v", len(leaves), err)
			}
		})
	}
}

func TestOncePagesAreKnownEachTakesOneRequestAndNoLeafComesTwice(t *testing.T) {
	const n = 4000
	for _, row := range []struct {
		most    uint64
		aligned bool
		from    uint64
		learnt  uint64
		known   int // requests for all once the page is known
	}{
		{1000, true, 0, 1000, 4},
		{1000, false, 0, 1000, 4},
		{1000, true, 500, 1000, 4},
		{256, true, 0, 256, 16},
		{256, true, 500, 256, 15},
		{256, false, 500, 256, 15},
		{512, true, 500, 512, 8},
		{600, false, 0, 600, 7},
		{5000, true, 0, 1000, 4},
	} {
		t.Run(fmt.Sprint(row), func(t *testing.T) {
			f := serve(t, n)
			f.SetPage(row.most, row.aligned)
			f.checkpoint(t)
			for round := range 2 {
				before := requests(f)
				leaves, err := read(t.Context(), f.log, row.from, n)
				if err != nil {
					t.Fatal(err)
				}
				wantLeaves(t, leaves, row.from, n)
				for i := row.from; i < n; i++ {
					if got := f.Reads(i); got != round+1 {
						t.Fatalf("round %d: leaf %d was served %d times", round, i, got)
					}
				}
				if got := f.log.pages.entries(); got != row.learnt {
					t.Errorf("round %d: learnt that a page has %d entries, want %d", round, got, row.learnt)
				}
				if got := requests(f) - before; round == 1 && got != row.known {
					t.Errorf("took %d requests, want %d", got, row.known)
				}
			}
		})
	}
}

// requests counts those for pages.
func requests(f *fixture) (n int) {
	for name, times := range f.Requests() {
		if strings.Contains(name, "get-entries") {
			n += times
		}
	}
	return n
}

func TestASmallPageIsForgottenWhenLargerOnesCome(t *testing.T) {
	const n = 3000
	f := serve(t, n)
	f.checkpoint(t)
	f.SetPage(10, false)
	if _, err := read(t.Context(), f.log, 0, 1000); err != nil || f.log.pages.entries() != 10 {
		t.Fatalf("got %v with pages of %d, want 10", err, f.log.pages.entries())
	}
	f.SetPage(1000, true)
	for range 4 {
		leaves, err := read(t.Context(), f.log, 0, n)
		if err != nil {
			t.Fatal(err)
		}
		wantLeaves(t, leaves, 0, n)
	}
	if got := f.log.pages.entries(); got < 40 {
		t.Errorf("still asks for %d at once", got)
	}
}

func TestNothingPastTheEndIsEverAskedFor(t *testing.T) {
	const n = 1234
	f := serve(t, n)
	f.checkpoint(t)
	f.Inject(tlogtest.Path("get-entries"), 0, when(t, func(_, to uint64) bool { return to > n }, func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		t.Errorf("asked for %s of a log of size %d", r.URL.RawQuery, n)
	}))
	if _, err := read(t.Context(), f.log, 0, n); err != nil {
		t.Error(err)
	}
	f.Lie(n-1, tlogtest.Lie{Status: 500})
	if _, err := read(t.Context(), f.log, n-1, n); err == nil {
		t.Error("got a leaf that cannot be had")
	}
}

func TestALogThatAsksForPatienceGetsIt(t *testing.T) {
	f := serve(t, 100)
	f.SetPage(10, true)
	f.checkpoint(t)
	f.Inject(tlogtest.Path("get-entries"), 1, tlogtest.TooManyRequests(time.Second))
	start := time.Now()
	leaves, err := read(t.Context(), f.log, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	wantLeaves(t, leaves, 0, 100)
	if waited := time.Since(start); waited < time.Second {
		t.Errorf("all came within %s of a 429 that asked for 1 s", waited)
	}
}

// large serves leaves of the sizes given, with so many bytes beside each.
func large(t *testing.T, beside int, sizes ...int) *fixture {
	t.Helper()
	f := serve(t, 0)
	for i, size := range sizes {
		f.Submit(tlogtest.CTEntry{Timestamp: uint64(i), Certificate: bytes.Repeat([]byte{byte('a' + i)}, size), Chain: [][]byte{make([]byte, beside)}})
	}
	f.checkpoint(t)
	return f
}

func TestLeavesTooLargeTogetherAreReadApart(t *testing.T) {
	if testing.Short() {
		t.Skip("moves some hundred megabytes")
	}
	f := large(t, 1<<20, slices.Repeat([]int{1 << 20}, 16)...) // 45 MB as JSON
	for range 2 {
		leaves, err := read(t.Context(), f.log, 0, 16)
		if err != nil || len(leaves) != 16 {
			t.Fatalf("got %d leaves, %v; want 16", len(leaves), err)
		}
		for i, leaf := range leaves {
			if want, err := f.Tree().Leaf(uint64(i)); err != nil || leaf.Index != uint64(i) || !bytes.Equal(leaf.Data, want) {
				t.Fatalf("place %d: got leaf %d with %d bytes, want %d (%v)", i, leaf.Index, len(leaf.Data), len(want), err)
			}
		}
	}
	// Small ones after them are read in large pages again.
	f.Generate(3000, entries())
	cp := f.checkpoint(t)
	if _, err := read(t.Context(), f.log, 16, cp.Size); err != nil {
		t.Fatal(err)
	}
	if got := f.log.pages.entries(); got != maxPage {
		t.Errorf("asks for %d at once, want %d", got, maxPage)
	}
}

func TestALeafBeyondTheLimitIsBlamedAndPassed(t *testing.T) {
	if testing.Short() {
		t.Skip("moves some hundred megabytes")
	}
	f := large(t, 5<<20, 100, 8<<20, 100)
	got, err := read(t.Context(), f.log, 0, 3)
	var leafErr *tlog.LeafError
	var large *tlog.TooLargeError
	if len(got) != 1 || !errors.As(err, &leafErr) || leafErr.Index != 1 || leafErr.Served != nil || !errors.As(err, &large) {
		t.Fatalf("got %d leaves, %v; want one and a LeafError for leaf 1 that is too large", len(got), err)
	}
	if got, err = read(t.Context(), f.log, 2, 3); err != nil || len(got) != 1 {
		t.Errorf("after it: got %d leaves, %v", len(got), err)
	}
}

func TestAChunkKeepsNoMoreThanItTells(t *testing.T) {
	f := serve(t, 500)
	f.SetPage(200, true)
	f.checkpoint(t)
	before := f.log.client.Stats().Bytes
	leaves, size, err := f.log.fetch(t.Context(), tlog.Chunk{From: 0, To: 500}, tlog.MaxChunk)
	if fetched := int64(f.log.client.Stats().Bytes - before); err != nil || size != fetched {
		t.Fatalf("told of %d bytes, %v; fetched %d", size, err, fetched)
	}
	wantLeaves(t, leaves, 0, 500)
	leaves, size, err = f.log.fetch(t.Context(), tlog.Chunk{From: 0, To: 500}, size-1)
	var large *tlog.TooLargeError
	if !errors.As(err, &large) || size != 0 || leaves != nil {
		t.Errorf("into a byte less: got %d leaves, %d bytes, %v; want none, and too large", len(leaves), size, err)
	}
}

func TestEntriesKnownNotToFitAreNotAskedFor(t *testing.T) {
	const each = tlog.MaxChunk / 7
	for _, row := range []struct {
		n, bytes uint64 // of the chunk; of an entry in the latest page
		limit    int64
		want     uint64 // leaves
		tooLarge bool
		requests int
	}{
		{7, each, tlog.MaxChunk, 7, false, 1},
		{8, each, tlog.MaxChunk, 7, true, 1},
		{500, each, tlog.MaxChunk, 7, true, 1},
		{2, tlog.MaxChunk, tlog.MaxChunk, 1, true, 1},
		{1, 2 * tlog.MaxChunk, tlog.MaxChunk, 1, false, 1},
		{8, each, tlog.MaxChunk - 1, 0, true, 0},
	} {
		f := serve(t, 500)
		f.checkpoint(t)
		f.log.pages.each.Store(int64(row.bytes))
		leaves, _, err := f.log.fetch(t.Context(), tlog.Chunk{From: 0, To: row.n}, row.limit)
		if (err != nil) != row.tooLarge || row.tooLarge && !tlog.IsTooLarge(err) || requests(f) != row.requests {
			t.Errorf("%+v: took %d requests, %v", row, requests(f), err)
		}
		wantLeaves(t, leaves, 0, row.want)
	}
}

func TestReadingStopsWhenTheConsumerDoes(t *testing.T) {
	f := serve(t, 5000)
	f.checkpoint(t)
	for leaf, err := range f.log.Leaves(t.Context(), 5, 5000) {
		if err != nil {
			t.Fatal(err)
		}
		if leaf.Index == 17 {
			break
		}
	}
}
