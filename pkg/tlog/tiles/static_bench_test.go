package tiles

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"filippo.io/sunlight"

	"github.com/whosigned/whosigned/pkg/tlog"
)

// BenchmarkCTLeaves reads data tiles as Fulcio's CT log has them over loopback, and
// with round trips of 50 ms; BenchmarkCTFloor fetches and hashes the same bytes and
// does nothing else.
func BenchmarkCTLeaves(b *testing.B) {
	for _, bench := range []struct {
		name    string
		latency time.Duration
	}{{"loopback", 0}, {"50ms", 50 * time.Millisecond}} {
		b.Run(bench.name, func(b *testing.B) {
			l, _, size := benchCT(b, bench.latency)
			b.ReportAllocs()
			var n uint64
			for b.Loop() {
				read, err := all(l.Leaves(b.Context(), 0, size))
				if err != nil {
					b.Fatal(err)
				}
				n += read
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

func BenchmarkCTFloor(b *testing.B) {
	_, url, size := benchCT(b, 0)
	buf := make([]byte, 1<<20)
	client := &http.Client{Transport: &http.Transport{}}
	b.ReportAllocs()
	var n int
	for b.Loop() {
		for i := range size / 256 {
			resp, err := client.Get(url + "/" + dataTilePath(i, 0))
			if err != nil {
				b.Fatal(err)
			}
			body := bytes.NewBuffer(buf[:0])
			if _, err := body.ReadFrom(resp.Body); err != nil {
				b.Fatal(err)
			}
			resp.Body.Close()
			for rest := body.Bytes(); len(rest) > 0; n++ {
				leaf, size, err := readTileLeaf(rest)
				if err != nil {
					b.Fatal(err)
				}
				tlog.LeafHash(rest[:leaf.entry])
				rest = rest[size:]
			}
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "entries/s")
}

// BenchmarkDataTile is the work on a tile that was fetched; sunlight's share is what
// parsing with it would cost, hashing included.
func BenchmarkDataTile(b *testing.B) {
	tile, _ := tileOf(ctEntries(b), 0, 256)
	l, work := &Log{}, make([]byte, len(tile))
	b.Run("ours", func(b *testing.B) {
		b.SetBytes(int64(len(tile)))
		b.ReportAllocs()
		for b.Loop() {
			copy(work, tile) // it becomes leaves
			if _, _, err := l.splitDataTile(work, tlog.Chunk{To: 256}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("sunlight", func(b *testing.B) {
		b.SetBytes(int64(len(tile)))
		b.ReportAllocs()
		for b.Loop() {
			for rest := tile; len(rest) > 0; {
				var e *sunlight.LogEntry
				var err error
				if e, rest, err = sunlight.ReadTileLeaf(rest); err != nil {
					b.Fatal(err)
				}
				tlog.LeafHash(e.MerkleTreeLeaf())
			}
		}
	})
}

// benchCT serves 80 data tiles from memory, each answer late by latency.
func benchCT(b *testing.B, latency time.Duration) (*Log, string, uint64) {
	b.Helper()
	const tiles = 80
	tile, _ := tileOf(ctEntries(b), 0, 256)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !wait(r.Context(), latency) {
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(tile)))
		w.Write(tile)
	}))
	b.Cleanup(s.Close)
	key, err := tlog.NewKey(ecKey(b).Public())
	if err != nil {
		b.Fatal(err)
	}
	l, err := New(tlog.NewClient(tlog.ClientOptions{}), Config{Type: tlog.StaticCT, URL: s.URL, Key: key})
	if err != nil {
		b.Fatal(err)
	}
	return l, s.URL, tiles * 256
}

func wait(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
