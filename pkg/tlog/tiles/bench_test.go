package tiles

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/whosigned/whosigned/pkg/tlog"
)

// BenchmarkLeaves reads bundles as Rekor v2 has them over loopback; BenchmarkFloor
// fetches and hashes the same bytes and does nothing else.
func BenchmarkLeaves(b *testing.B) {
	l, _, size := benchLog(b)
	b.ReportAllocs()
	var n int
	for b.Loop() {
		for _, err := range l.Leaves(b.Context(), 0, size) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "entries/s")
}

func BenchmarkFloor(b *testing.B) {
	_, url, size := benchLog(b)
	buf := make([]byte, 1<<20)
	client := &http.Client{Transport: &http.Transport{}}
	b.ReportAllocs()
	var n int
	for b.Loop() {
		for i := range size / 256 {
			resp, err := client.Get(fmt.Sprintf("%s/tile/entries/%03d", url, i))
			if err != nil {
				b.Fatal(err)
			}
			body := bytes.NewBuffer(buf[:0])
			if _, err := body.ReadFrom(resp.Body); err != nil {
				b.Fatal(err)
			}
			resp.Body.Close()
			for rest := body.Bytes(); len(rest) > 0; n++ {
				size := 2 + int(binary.BigEndian.Uint16(rest))
				tlog.LeafHash(rest[2:size])
				rest = rest[size:]
			}
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "entries/s")
}

// benchLog serves 20 bundles of 256 entries of 2.3 kB from memory.
func benchLog(b *testing.B) (*Log, string, uint64) {
	b.Helper()
	const bundles = 20
	entry := append([]byte{2300 >> 8, 2300 & 0xff}, bytes.Repeat([]byte("e"), 2300)...)
	bundle := bytes.Repeat(entry, 256)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(bundle)))
		w.Write(bundle)
	}))
	b.Cleanup(s.Close)
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	key, err := tlog.NewKey(public)
	if err != nil {
		b.Fatal(err)
	}
	l, err := New(tlog.NewClient(tlog.ClientOptions{}), Config{URL: s.URL, Origin: origin, Key: key})
	if err != nil {
		b.Fatal(err)
	}
	return l, s.URL, bundles * 256
}
