package monitor_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/transparency-dev/tessera/api/layout"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// The logs that the benchmarks read.

const benchOrigin = "bench.example"

// serve makes a log and serves it.
func (j job) serve(t *testing.T) servedLog {
	handler, log := j.build(t)
	pem, err := log.PublicKeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	url, stop, err := tlogtest.Serve(context.Background(), j.shaped(handler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stop() })
	return servedLog{Type: j.Type, URL: url, Key: pem, Entries: j.Entries}
}

// build makes a log.
func (j job) build(t *testing.T) (http.Handler, *tlogtest.Log) {
	key := crypto.Signer(ecKey(t))
	switch j.Type {
	case tlog.RekorV1:
		l, err := tlogtest.NewRekorV1(key)
		if err != nil {
			t.Fatal(err)
		}
		l.Active().Tree().Generate(j.Entries, j.leaves(t))
		return l, l.Active().Log
	case tlog.RekorV2:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		l, err := tlogtest.NewTiles(benchOrigin, key)
		if err != nil {
			t.Fatal(err)
		}
		l.Tree().Generate(j.Entries, j.leaves(t))
		if err := l.Publish(); err != nil {
			t.Fatal(err)
		}
		return l, l.Log
	case tlog.RFC6962:
		l, err := tlogtest.NewRFC6962(key)
		if err != nil {
			t.Fatal(err)
		}
		l.Generate(j.Entries, j.submitted(t))
		return l, l.Log
	case tlog.StaticCT:
		l, err := tlogtest.NewStaticCT(benchOrigin, key)
		if err != nil {
			t.Fatal(err)
		}
		l.Generate(j.Entries, j.submitted(t))
		if err := l.Publish(); err != nil {
			t.Fatal(err)
		}
		return l, l.Log
	}
	t.Fatalf("no log of type %q", j.Type)
	return nil, nil
}

// pageWidth is how many entries one request asks for.
func pageWidth(t tlog.Type) uint64 {
	switch t {
	case tlog.RekorV1:
		return 10
	case tlog.RFC6962:
		return 1000
	}
	return layout.EntryBundleWidth
}

// pagePath is what is asked for to get a page; a Rekor v1 is asked by POST.
func pagePath(t tlog.Type, from, to uint64) string {
	if t == tlog.RFC6962 {
		return fmt.Sprintf("/ct/v1/get-entries?start=%d&end=%d", from, to-1)
	}
	path := "/" + layout.EntriesPath(from/layout.EntryBundleWidth, uint8(to-from))
	if t == tlog.StaticCT {
		path = strings.Replace(path, "/tile/entries/", "/tile/data/", 1)
	}
	return path
}

// rareMatch is the index of the entry of ours.
const rareMatch = 777

// leaves makes entries of strangers, of several workflows, and one of ours.
func (j job) leaves(t *testing.T) func(uint64) []byte {
	ca, err := tlogtest.NewCA("sigstore.example")
	if err != nil {
		t.Fatal(err)
	}
	make1 := tlogtest.HashedRekordV002
	if j.Type == tlog.RekorV1 {
		make1 = tlogtest.HashedRekordV001
	}
	var signers []tlogtest.Signer
	for i := range 8 {
		s, err := ca.Issue(workflow(fmt.Sprintf("https://github.com/someone/else-%d", i)))
		if err != nil {
			t.Fatal(err)
		}
		signers = append(signers, s)
	}
	us, err := ca.Issue(workflow("https://github.com/acme/app"))
	if err != nil {
		t.Fatal(err)
	}
	ours, err := make1(us, []byte("ours"))
	if err != nil {
		t.Fatal(err)
	}
	others, err := tlogtest.Synthetic(make1, signers...)
	if err != nil {
		t.Fatal(err)
	}
	if j.Leaves == "max" {
		others = largest(t, signers)
	}
	return func(i uint64) []byte {
		if i == rareMatch {
			return ours
		}
		return others(i)
	}
}

// workflow is an identity with all the extensions that GitHub's have, so that a
// leaf is of the usual 2.3 kB.
func workflow(repository string) tlogtest.Identity {
	uri := repository + "/.github/workflows/release.yml@refs/heads/main"
	digest := "8f7a4d4d1f1c0bd8c9e6f3a2b1c0d9e8f7a6b5c4"
	return tlogtest.Identity{URI: uri, Issuer: "https://token.actions.githubusercontent.com", Extensions: map[int]string{
		2: "push", 3: digest, 4: "release", 5: strings.TrimPrefix(repository, "https://github.com/"), 6: "refs/heads/main",
		9: uri, 10: digest, 11: "github-hosted", 12: repository, 13: digest, 14: "refs/heads/main", 15: "123456789",
		16: repository[:strings.LastIndex(repository, "/")], 17: "12345678", 18: uri, 19: digest, 20: "push",
		21: repository + "/actions/runs/1234567890/attempts/1", 22: "public",
	}}
}

// largest makes leaves of up to 65,535 bytes: a signature of that size, an
// attestation of as many signers as there is room for, and now and then one that
// does not parse.
func largest(t *testing.T, signers []tlogtest.Signer) func(uint64) []byte {
	one, err := tlogtest.HashedRekordV002(signers[0], []byte("large"))
	if err != nil {
		t.Fatal(err)
	}
	const content = `"signature":{"content":"`
	at := bytes.Index(one, []byte(content)) + len(content)
	padded := append(bytes.Clone(one[:at]), bytes.Repeat([]byte("A"), (math.MaxUint16-len(one))/4*4)...)
	padded = append(padded, one[at:]...)
	many := signers
	var attestation []byte
	for {
		leaf, err := tlogtest.DSSEV002([]byte("{}"), many...)
		if err != nil {
			t.Fatal(err)
		}
		if len(leaf) > math.MaxUint16 {
			break
		}
		attestation = leaf
		many = append(many, signers[len(many)%len(signers)])
	}
	broken := bytes.Repeat([]byte("x"), math.MaxUint16)
	return func(i uint64) []byte {
		switch {
		case i%100 == 99:
			return broken
		case i%2 == 0:
			return attestation
		}
		return padded
	}
}

// keepAnswers is up to how many entries a log's answers are kept, so that
// making them costs no CPU time while a reader is measured.
const keepAnswers = 250_000

// inFlightPath is where a served log tells how many requests it ever
// answered at once, since it was last asked.
const inFlightPath = "/in-flight"

// shaped serves a log with j's latency and slots.
func (j job) shaped(h http.Handler) http.Handler {
	kept := map[string][]byte{} // from what is asked for to its answer
	if j.Type != tlog.RekorV1 && j.Entries <= keepAnswers && j.Leaves == "" {
		for from := uint64(0); from < j.Entries; from += pageWidth(j.Type) {
			path := pagePath(j.Type, from, min(from+pageWidth(j.Type), j.Entries))
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
			kept[path] = w.Body.Bytes()
		}
	}
	slots := make(chan struct{}, cmp.Or(j.Slots, 1<<10))
	var now, most atomic.Int64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == inFlightPath {
			fmt.Fprint(w, most.Swap(0))
			return
		}
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(j.Latency)
		if body, ok := kept[r.URL.RequestURI()]; ok {
			// ct_server, unlike a file server, does not say how long its answer is.
			if j.Type != tlog.RFC6962 {
				w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			}
			_, _ = w.Write(body)
			return
		}
		if strings.HasSuffix(r.URL.Path, "/retrieve") {
			slots <- struct{}{}
			defer func() { <-slots }()
			began := time.Now()
			defer func() { time.Sleep(j.Service - time.Since(began)) }()
		}
		h.ServeHTTP(w, r)
	})
}

func mostInFlight(t testing.TB, log servedLog) (n int) {
	t.Helper()
	resp, err := http.Get(log.URL + inFlightPath)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := fmt.Fscan(resp.Body, &n); err != nil {
		t.Fatal(err)
	}
	return n
}
