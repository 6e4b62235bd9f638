package rfc6962

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"

	"github.com/whosigned/whosigned/pkg/tlog"
)

// canned serves pages of up to 1000 entries as ct_server does, rendered beforehand,
// so that a benchmark measures us and not the server. Each answer comes after a wait.
type canned struct {
	entries [][]byte
	wait    time.Duration

	running, peak atomic.Int64 // requests
}

func (c *canned) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := c.running.Add(1)
	defer c.running.Add(-1)
	for peak := c.peak.Load(); n > peak && !c.peak.CompareAndSwap(peak, n); peak = c.peak.Load() {
	}
	if c.wait > 0 {
		time.Sleep(c.wait)
	}
	q := r.URL.Query()
	from, err := strconv.Atoi(q.Get("start"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	last, err := strconv.Atoi(q.Get("end"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	size := 0
	page := c.entries[from:min(last+1, from+maxPage)]
	for _, e := range page {
		size += len(e) + 1
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(pageStart)+size-1+len(pageEnd)))
	_, _ = w.Write(pageStart)
	for i, e := range page {
		if i > 0 {
			_, _ = w.Write([]byte{','})
		}
		_, _ = w.Write(e)
	}
	_, _ = w.Write(pageEnd)
}

// typical are entries of the size that Fulcio's have: 4.6 kB each.
func typical(n int) [][]byte {
	random := rand.New(rand.NewPCG(1, 2))
	const leaf, extra = 1000, 2400
	entries := make([][]byte, n)
	raw := make([]byte, leaf+extra)
	for i := range entries {
		for j := range raw {
			raw[j] = byte(random.Uint32())
		}
		entries[i] = fmt.Appendf(nil, `{"leaf_input":"%s","extra_data":"%s"}`,
			base64.StdEncoding.EncodeToString(raw[:leaf]), base64.StdEncoding.EncodeToString(raw[leaf:]))
	}
	return entries
}

func (c *canned) serve(b *testing.B) *Log {
	b.Helper()
	server := httptest.NewServer(c)
	b.Cleanup(server.Close)
	_, key := newKey(b)
	l, err := New(tlog.NewClient(tlog.ClientOptions{}), Config{URL: server.URL, Key: key})
	if err != nil {
		b.Fatal(err)
	}
	return l
}

// BenchmarkPage is what a page of 1000 entries costs once it is there: ours is all
// that Leaves does with it; floor finds each leaf, decodes and hashes it, no more.
func BenchmarkPage(b *testing.B) {
	c := &canned{entries: typical(maxPage)}
	l := c.serve(b)
	raw, err := l.client.Get(b.Context(), l.entriesURL(0, maxPage), tlog.MaxChunk)
	if err != nil {
		b.Fatal(err)
	}
	run := func(name string, f func(b *testing.B, raw []byte)) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			page := bytes.Clone(raw)
			for b.Loop() {
				copy(page, raw) // a page is read into, and this costs all of them the same
				f(b, page)
			}
		})
	}
	run("ours", func(b *testing.B, raw []byte) {
		if leaves, err := l.leaves(0, maxPage, raw); err != nil || len(leaves) != maxPage {
			b.Fatal(len(leaves), err)
		}
	})
	run("parse-only", func(b *testing.B, raw []byte) {
		if entries, err := parsePage(raw, maxPage); err != nil || len(entries) != maxPage {
			b.Fatal(len(entries), err)
		}
	})
	run("encoding-json", func(b *testing.B, raw []byte) {
		var page ct.GetEntriesResponse
		if err := json.Unmarshal(raw, &page); err != nil || len(page.Entries) != maxPage {
			b.Fatal(len(page.Entries), err)
		}
	})
	run("floor", floor)
}

func floor(b *testing.B, raw []byte) {
	n := 0
	data := make([]byte, 4096)
	for rest := raw; ; n++ {
		_, after, ok := bytes.Cut(rest, []byte(`"leaf_input":"`))
		if !ok {
			break
		}
		leaf, after, _ := bytes.Cut(after, []byte(`"`))
		size, err := base64.StdEncoding.Decode(data, leaf)
		if err != nil {
			b.Fatal(err)
		}
		tlog.LeafHash(data[:size])
		rest = after
	}
	if n != maxPage {
		b.Fatal(n)
	}
}

// BenchmarkLeaves reads 50,000 leaves over loopback HTTP, at once and with 50 ms to
// each answer. floor makes the same requests, as many at a time as ours had at
// most, and throws the answers away.
func BenchmarkLeaves(b *testing.B) {
	const n = 50_000
	entries := typical(n)
	for _, wait := range []time.Duration{0, 50 * time.Millisecond} {
		c := &canned{entries: entries, wait: wait}
		l := c.serve(b)
		report := func(b *testing.B) {
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
			b.ReportMetric(float64(c.peak.Load()), "in-flight")
		}
		b.Run(fmt.Sprintf("ours/%s", wait), func(b *testing.B) {
			c.peak.Store(0)
			b.ReportAllocs()
			for b.Loop() {
				count := 0
				for _, err := range l.Leaves(b.Context(), 0, n) {
					if err != nil {
						b.Fatal(err)
					}
					count++
				}
				if count != n {
					b.Fatal(count)
				}
			}
			report(b)
		})
		b.Run(fmt.Sprintf("floor/%s", wait), func(b *testing.B) {
			workers := int(max(1, c.peak.Load()))
			b.ReportAllocs()
			for b.Loop() {
				floorLeaves(b.Context(), b, l, n, workers)
			}
			report(b)
		})
	}
}

func floorLeaves(ctx context.Context, b *testing.B, l *Log, n uint64, workers int) {
	work := make(chan uint64)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for from := range work {
				if _, err := l.client.Get(ctx, l.entriesURL(from, from+maxPage), tlog.MaxChunk); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for from := uint64(0); from < n; from += maxPage {
		work <- from
	}
	close(work)
	wg.Wait()
}
