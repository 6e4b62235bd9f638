//go:build e2e && linux

package main_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// rekorV1Entries is how many entries BenchmarkE2ERekorV1 uploads: enough that a
// run takes some seconds.
const rekorV1Entries = 3000

// BenchmarkE2ERekorV1 compares a whole run over a real rekor-server with a plain
// client that only fetches the same pages, with as many requests in flight as suit
// the server best. Both see it with its caches warm. Run it with -benchtime 3x.
func BenchmarkE2ERekorV1(b *testing.B) {
	s := &suite{program: filepath.Join(b.TempDir(), "whosigned")}
	s.trillian = startTrillian(b)
	command(b, nil, "go", "build", "-o", s.program, ".")
	v1 := startRekorV1(b, s.trillian)
	upload(b, v1, rekorV1Entries)
	fetchAll(b, v1.url, 16)

	var plain, run time.Duration
	for b.Loop() {
		best := time.Duration(0)
		for _, inFlight := range []int{8, 16, 32} {
			if took := fetchAll(b, v1.url, inFlight); best == 0 || took < best {
				best = took
			}
		}
		plain += best
		m := s.monitor(b)
		m.sendGrid(b) // for the first run's mail
		m.configure(b, nil, v1.watched("0"))
		began := time.Now()
		r := m.run(b, 0)
		run += time.Since(began)
		if l := r.log(b, v1.id(b, v1.active())); l.Scanned != rekorV1Entries {
			b.Fatalf("read %d entries, want %d", l.Scanned, rekorV1Entries)
		}
	}
	perSecond := func(d time.Duration) float64 { return float64(b.N*rekorV1Entries) / d.Seconds() }
	b.ReportMetric(perSecond(run), "entries/s")
	b.ReportMetric(perSecond(plain), "plain-entries/s")
	b.ReportMetric(plain.Seconds()/run.Seconds(), "of-plain")
	b.ReportMetric(0, "ns/op")
}

// upload adds entries with several clients at once.
func upload(b *testing.B, v1 *rekorV1, n int) {
	b.Helper()
	signer := newSigner(b)
	var clients sync.WaitGroup
	for c := range 16 {
		clients.Go(func() {
			for i := c; i < n; i += 16 {
				v1.hashedRekord(b, signer)
			}
		})
	}
	clients.Wait()
	if b.Failed() {
		b.FailNow()
	}
}

// fetchAll retrieves all pages of ten and throws them away.
func fetchAll(b *testing.B, url string, inFlight int) time.Duration {
	b.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: inFlight}}
	pages := make(chan int)
	began := time.Now()
	var workers sync.WaitGroup
	for range inFlight {
		workers.Go(func() {
			for from := range pages {
				if err := fetchPage(client, url, from); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for from := 0; from < rekorV1Entries; from += 10 {
		pages <- from
	}
	close(pages)
	workers.Wait()
	return time.Since(began)
}

func fetchPage(client *http.Client, url string, from int) error {
	body := fmt.Appendf(nil, `{"logIndexes": [%d`, from)
	for i := from + 1; i < from+10; i++ {
		body = fmt.Appendf(body, ",%d", i)
	}
	res, err := client.Post(url+"/api/v1/log/entries/retrieve", "application/json", bytes.NewReader(append(body, "]}"...)))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("page %d: status %s", from, res.Status)
	}
	_, err = io.Copy(io.Discard, res.Body)
	return err
}
