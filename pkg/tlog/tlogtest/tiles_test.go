package tlogtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	rekornote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/client"
	"golang.org/x/mod/sumdb/note"
)

func p256(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func edKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newTiles(t testing.TB, key crypto.Signer) (*Tiles, string) {
	t.Helper()
	log, err := NewTiles("tiles.example.com", key)
	if err != nil {
		t.Fatal(err)
	}
	return log, serve(t, log)
}

func serve(t testing.TB, h http.Handler) string {
	t.Helper()
	url, stop, err := Serve(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return url
}

// get fetches with no help from net/http: no redirects followed, nothing decompressed.
func get(t testing.TB, url string) (int, []byte) {
	t.Helper()
	resp, body, err := try(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

func try(ctx context.Context, url string) (*http.Response, []byte, error) {
	c := &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{DisableCompression: true, DisableKeepAlives: true},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	return resp, body, err
}

func noteVerifier(t testing.TB, origin string, key crypto.PublicKey) note.Verifier {
	t.Helper()
	v, err := signature.LoadVerifier(key, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	nv, err := rekornote.NewNoteVerifier(origin, v)
	if err != nil {
		t.Fatal(err)
	}
	return nv
}

func fetcher(t testing.TB, base string) *client.HTTPFetcher {
	t.Helper()
	u, err := url.Parse(base + "/")
	if err != nil {
		t.Fatal(err)
	}
	f, err := client.NewHTTPFetcher(u, http.DefaultClient)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func publish(t testing.TB, log *Tiles, n uint64) {
	t.Helper()
	log.Tree().Generate(n, numbered)
	if err := log.Publish(); err != nil {
		t.Fatal(err)
	}
}

func TestTilesVerifyWithTesserasClient(t *testing.T) {
	for name, key := range map[string]crypto.Signer{"Ed25519": edKey(t), "ECDSA": p256(t)} {
		t.Run(name, func(t *testing.T) {
			log, base := newTiles(t, key)
			f := fetcher(t, base)
			v := noteVerifier(t, log.Origin(), log.PublicKey())
			var sizes []uint64
			for _, grow := range []uint64{0, 1, 254, 1, 1, 300, 70000} {
				publish(t, log, grow)
				cp, _, _, err := client.FetchCheckpoint(t.Context(), f.ReadCheckpoint, v, log.Origin())
				if err != nil {
					t.Fatal(err)
				}
				if want := mustRoot(t, log.Tree(), cp.Size); cp.Size != log.Tree().Size() || !bytes.Equal(cp.Hash, want[:]) {
					t.Fatalf("checkpoint of size %d with root %x, want %d with %x", cp.Size, cp.Hash, log.Tree().Size(), want)
				}
				if cp.Size > 0 {
					checkWithTessera(t, log, f, sizes, cp.Size, cp.Hash)
				}
				sizes = append(sizes, cp.Size)
			}
		})
	}
}

// checkWithTessera proves the older sizes and some leaves, from tiles and bundles.
func checkWithTessera(t *testing.T, log *Tiles, f *client.HTTPFetcher, older []uint64, size uint64, root []byte) {
	t.Helper()
	pb, err := client.NewProofBuilder(t.Context(), size, f.ReadTile)
	if err != nil {
		t.Fatal(err)
	}
	for _, old := range older {
		if old == 0 {
			continue
		}
		p, err := pb.ConsistencyProof(t.Context(), old, size)
		if err != nil {
			t.Fatal(err)
		}
		oldRoot := mustRoot(t, log.Tree(), old)
		if err := proof.VerifyConsistency(rfc6962.DefaultHasher, old, size, p, oldRoot[:], root); err != nil {
			t.Errorf("consistency of %d with %d: %v", old, size, err)
		}
	}
	for _, i := range []uint64{0, size / 2, size - 1} {
		bundle, err := client.GetEntryBundle(t.Context(), f.ReadEntryBundle, i/256, size)
		if err != nil {
			t.Fatal(err)
		}
		leaf := bundle.Entries[i%256]
		p, err := pb.InclusionProof(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, i, size, rfc6962.DefaultHasher.HashLeaf(leaf), p, root); err != nil {
			t.Errorf("inclusion of %d in %d: %v", i, size, err)
		}
	}
}

func TestTilesServesFilesOnlyWhereAFileServerWould(t *testing.T) {
	log, base := newTiles(t, edKey(t))
	publish(t, log, 10)
	publish(t, log, 290) // 300
	log.Append([]byte("not published"))
	for path, want := range map[string]int{
		"/checkpoint":                           200,
		"/tile/0/000":                           200,
		"/tile/0/000.p/10":                      404, // gone, for the tile is full
		"/tile/0/001.p/44":                      200,
		"/tile/0/001.p/43":                      404, // never published
		"/tile/0/001.p/45":                      404, // not yet
		"/tile/0/001":                           404,
		"/tile/0/002":                           404,
		"/tile/1/000.p/1":                       200,
		"/tile/1/000":                           404,
		"/tile/2/000":                           404,
		"/tile/63/000":                          404,
		"/tile/64/000":                          404,
		"/tile/-1/000":                          404,
		"/tile/0/x999/x999/999":                 404,
		"/tile/0/1":                             404,
		"/tile/0/001.p/0":                       404,
		"/tile/0/001.p/256":                     404,
		"/tile/entries/000":                     200,
		"/tile/entries/000.p/10":                404,
		"/tile/entries/001.p/44":                200,
		"/tile/entries/001":                     404,
		"/tile/entries/":                        404,
		"/tile/entries":                         404,
		"/tile/":                                404,
		"/":                                     404,
		"/tile/63/x072/x057/x594/x037/x927/935": 404,
	} {
		if got, _ := get(t, base+path); got != want {
			t.Errorf("GET %s: status %d, want %d", path, got, want)
		}
	}
	publish(t, log, 0) // 301
	for path, want := range map[string]int{"/tile/0/001.p/44": 200, "/tile/0/001.p/45": 200} {
		if got, _ := get(t, base+path); got != want {
			t.Errorf("after another checkpoint GET %s: status %d, want %d", path, got, want)
		}
	}
	if resp, err := http.Post(base+"/checkpoint", "", nil); err != nil || resp.StatusCode != 405 {
		t.Errorf("POST: %v (%v), want status 405", resp, err)
	}
}

func TestFreezeSignsALineThatGrowthContradicts(t *testing.T) {
	log, base := newTiles(t, p256(t))
	publish(t, log, 5)
	at := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	if err := log.Freeze(at); err != nil {
		t.Fatal(err)
	}
	_, raw := get(t, base+"/checkpoint")
	n, err := note.Open(raw, note.VerifierList(noteVerifier(t, log.Origin(), log.PublicKey())))
	if err != nil {
		t.Fatal(err)
	}
	if want := "\nLog frozen — Sun Nov 22 08:00:00 UTC 2026\n"; !strings.HasSuffix(n.Text, want) {
		t.Errorf("frozen note %q does not end in %q", n.Text, want)
	}
	publish(t, log, 1)
	if _, raw = get(t, base+"/checkpoint"); bytes.Contains(raw, []byte("frozen")) || !bytes.Contains(raw, []byte("\n6\n")) {
		t.Errorf("the checkpoint after the frozen one is %q", raw)
	}
}

func TestTilesServeTheCheckpointOfTheTreeThatIsShown(t *testing.T) {
	log, base := newTiles(t, edKey(t))
	publish(t, log, 10)
	size := func() string {
		_, raw := get(t, base+"/checkpoint")
		return strings.Split(string(raw), "\n")[1]
	}
	fork, err := log.Tree().Fork(5)
	if err != nil {
		t.Fatal(err)
	}
	fork.Generate(20, numbered)
	for _, step := range []struct {
		what string
		do   func()
		want string
	}{
		{"nothing", func() {}, "10"},
		{"appended, not published", func() { log.Append(numbered(10)) }, "10"},
		{"fork shown, not published", func() { log.Show(fork) }, "10"},
		{"fork published", func() { publish(t, log, 0) }, "25"},
		{"honest again", log.Honest, "10"},
		{"published", func() { publish(t, log, 0) }, "11"},
		{"fork shown again", func() { log.Show(fork) }, "25"},
	} {
		if step.do(); size() != step.want {
			t.Errorf("%s: checkpoint of size %s, want %s", step.what, size(), step.want)
		}
	}
}

func TestTilesLeafLimitIsTold(t *testing.T) {
	log, base := newTiles(t, edKey(t))
	log.Append(make([]byte, 1<<16-1))
	if err := log.Publish(); err != nil {
		t.Fatal(err)
	}
	if got, body := get(t, base+"/tile/entries/000.p/1"); got != 200 || len(body) != 1<<16+1 {
		t.Errorf("largest leaf: status %d and %d bytes", got, len(body))
	}
	log.Append(make([]byte, 1<<16))
	if err := log.Publish(); err != nil {
		t.Fatal(err)
	}
	if got, body := get(t, base+"/tile/entries/000.p/2"); got != 500 || !strings.Contains(string(body), "65535") {
		t.Errorf("leaf too large: status %d, %q", got, body)
	}
}

func TestTilesCountsReadsAndRequests(t *testing.T) {
	log, base := newTiles(t, edKey(t))
	publish(t, log, 300)
	for _, path := range []string{"/tile/entries/000", "/tile/entries/001.p/44", "/tile/entries/001.p/44", "/tile/entries/002"} {
		get(t, base+path)
	}
	for i, want := range map[uint64]int{0: 1, 255: 1, 256: 2, 299: 2, 300: 0} {
		if got := log.Reads(i); got != want {
			t.Errorf("leaf %d: read %d times, want %d", i, got, want)
		}
	}
	want := map[string]int{"GET /tile/entries/000": 1, "GET /tile/entries/001.p/44": 2, "GET /tile/entries/002": 1}
	if got := log.Requests(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("requests %v, want %v", got, want)
	}
}
