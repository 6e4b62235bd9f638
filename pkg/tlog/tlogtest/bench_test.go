package tlogtest

import (
	"crypto"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// How fast the logs serve bounds what benchmarks that read from them can show.

func BenchmarkServeFullBundle(b *testing.B) {
	log, base := newTiles(b, edKey(b))
	leaf, err := Synthetic(HashedRekordV002, issued(b, newCA(b), github()))
	if err != nil {
		b.Fatal(err)
	}
	log.Tree().Generate(256, leaf)
	if err := log.Publish(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		resp, err := http.Get(base + "/tile/entries/000")
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(n)
	}
	b.ReportMetric(256*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}

func BenchmarkRetrieveTen(b *testing.B) {
	s, base := newRekor(b, crypto.Signer(p256(b)))
	leaf, err := Synthetic(HashedRekordV001, issued(b, newCA(b), github()))
	if err != nil {
		b.Fatal(err)
	}
	s.Active().Tree().Generate(1000, leaf)
	i := 0
	for b.Loop() {
		q := strings.ReplaceAll(strings.Trim(fmt.Sprint(tenFrom(i)), "[]"), " ", ",")
		if status, _ := post(b, base+"/api/v1/log/entries/retrieve", `{"logIndexes":[`+q+`]}`); status != 200 {
			b.Fatalf("status %d", status)
		}
		i = (i + 10) % 1000
	}
	b.ReportMetric(10*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}

func tenFrom(i int) (out []int) {
	for n := range 10 {
		out = append(out, i+n)
	}
	return out
}
