package tlogtest

import (
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"io"
	"math"
	"testing"
	"time"

	"filippo.io/sunlight"
	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/client"
	"golang.org/x/mod/sumdb/note"
)

const staticOrigin = "ctfe.example.com/2026"

// newStaticCT serves an empty log; entry makes a certificate or a precertificate in turn.
func newStaticCT(t testing.TB, key crypto.Signer) (log *StaticCT, base string, entry func(uint64) CTEntry) {
	t.Helper()
	log, err := NewStaticCT(staticOrigin, key)
	if err != nil {
		t.Fatal(err)
	}
	ca := newCA(t)
	_, certificate, err := ca.IssueForCT(github())
	if err != nil {
		t.Fatal(err)
	}
	_, precertificate, err := ca.IssuePrecertified(github())
	if err != nil {
		t.Fatal(err)
	}
	if entry, err = SyntheticCT(certificate, precertificate); err != nil {
		t.Fatal(err)
	}
	return log, serve(t, log), entry
}

func growStatic(t testing.TB, log *StaticCT, n uint64, entry func(uint64) CTEntry) {
	t.Helper()
	log.Generate(n, entry)
	if err := log.Publish(); err != nil {
		t.Fatal(err)
	}
}

// openHead fetches the checkpoint and verifies it as sunlight's clients do.
func openHead(t testing.TB, base, origin string, key crypto.PublicKey) (sunlight.Checkpoint, time.Time, error) {
	t.Helper()
	_, raw := get(t, base+"/checkpoint")
	v, err := sunlight.NewRFC6962Verifier(origin, key)
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open(raw, note.VerifierList(v))
	if err != nil {
		return sunlight.Checkpoint{}, time.Time{}, err
	}
	cp, err := sunlight.ParseCheckpoint(n.Text)
	if err != nil {
		t.Fatal(err)
	}
	millis, err := sunlight.RFC6962SignatureTimestamp(n.Sigs[0])
	if err != nil {
		t.Fatal(err)
	}
	return cp, time.UnixMilli(millis), nil
}

func mustHead(t testing.TB, log *StaticCT, base string) sunlight.Checkpoint {
	t.Helper()
	cp, _, err := openHead(t, base, staticOrigin, log.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	return cp
}

// tileLeaves reads a data tile with sunlight.
func tileLeaves(t testing.TB, url string) (leaves []*sunlight.LogEntry) {
	t.Helper()
	status, tile := get(t, url)
	if status != 200 {
		t.Fatalf("%s: status %d", url, status)
	}
	for len(tile) > 0 {
		e, rest, err := sunlight.ReadTileLeaf(tile)
		if err != nil {
			t.Fatalf("%s: leaf %d: %v", url, len(leaves), err)
		}
		leaves, tile = append(leaves, e), rest
	}
	return leaves
}

func TestStaticCTServesWhatWasSubmittedAsSunlightReadsIt(t *testing.T) {
	log, base, entry := newStaticCT(t, p256(t))
	growStatic(t, log, 300, entry)
	log.Submit(entry(300), entry(301))
	if err := log.Publish(); err != nil {
		t.Fatal(err)
	}
	cp := mustHead(t, log, base)
	if want := mustRoot(t, log.Tree(), 302); cp.N != 302 || Hash(cp.Hash) != want || cp.Origin != staticOrigin {
		t.Fatalf("checkpoint %+v, want 302 with root %x", cp, want)
	}
	leaves := append(tileLeaves(t, base+"/tile/data/000"), tileLeaves(t, base+"/tile/data/001.p/46")...)
	if len(leaves) != 302 {
		t.Fatalf("%d leaves, want 302", len(leaves))
	}
	root := rootOf(t, func(i uint64) []byte { return leaves[i].MerkleTreeLeaf() }, 302)
	if root != Hash(cp.Hash) {
		t.Errorf("the leaves hash to %x, want %x", root, cp.Hash)
	}
	for i, got := range leaves {
		want := entry(uint64(i))
		certificate := want.Certificate
		if got.IsPrecert {
			certificate = want.TBS
		}
		if got.LeafIndex != int64(i) || got.Timestamp != int64(want.Timestamp) || got.IsPrecert != (want.Certificate == nil) ||
			!bytes.Equal(got.Certificate, certificate) || !bytes.Equal(got.PreCertificate, want.Precertificate) ||
			got.IssuerKeyHash != want.IssuerKeyHash || len(got.ChainFingerprints) != len(want.Chain) {
			t.Fatalf("leaf %d: got %+v, want %+v", i, got, want)
		}
		for j, f := range got.ChainFingerprints {
			if f != sha256.Sum256(want.Chain[j]) {
				t.Errorf("leaf %d: issuer %d has fingerprint %x", i, j, f)
			}
		}
	}
	for _, want := range entry(0).Chain {
		status, got := get(t, fmt.Sprintf("%s/issuer/%x", base, sha256.Sum256(want)))
		if status != 200 || !bytes.Equal(got, want) {
			t.Errorf("issuer: status %d, %d bytes", status, len(got))
		}
	}
	for _, path := range []string{"/issuer/", "/issuer/00", fmt.Sprintf("/issuer/%064d", 0), "/tile/data/002", "/tile/data/001", "/tile/entries/000", "/checkpoint/x", "/"} {
		if status, _ := get(t, base+path); status != 404 {
			t.Errorf("%s: status %d, want 404", path, status)
		}
	}
}

func TestStaticCTSignsTreeHeadsWithRSAToo(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := newHeadSigner(staticOrigin, key, 7, 8, Hash{9})
	if err != nil {
		t.Fatal(err)
	}
	head := ct.SignedTreeHead{Version: ct.V1, TreeSize: 7, Timestamp: 8, SHA256RootHash: ct.SHA256Hash{9}}
	// sunlight v0.3.0 verifies no RSA tree head.
	if rest, err := tls.Unmarshal(signer.body[8:], (*tls.DigitallySigned)(&head.TreeHeadSignature)); err != nil || len(rest) > 0 {
		t.Fatalf("signature: %v, %d bytes left", err, len(rest))
	}
	verifier, err := ct.NewSignatureVerifier(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := verifier.VerifySTHSignature(head); err != nil {
		t.Error(err)
	}
	if _, err := NewStaticCT(staticOrigin, edKey(t)); err == nil {
		t.Error("an Ed25519 key: no error")
	}
}

func TestStaticCTPartialTilesGoWhenTheyFill(t *testing.T) {
	log, base, entry := newStaticCT(t, p256(t))
	growStatic(t, log, 44, entry)
	growStatic(t, log, 10, entry)
	check := func(want map[string]int) {
		t.Helper()
		for path, want := range want {
			for _, dir := range []string{"/tile/data/", "/tile/0/"} {
				if status, _ := get(t, base+dir+path); status != want {
					t.Errorf("%s%s: status %d, want %d", dir, path, status, want)
				}
			}
		}
	}
	check(map[string]int{"000.p/44": 200, "000.p/54": 200, "000.p/50": 404, "000": 404})
	growStatic(t, log, 202, entry)
	check(map[string]int{"000.p/44": 404, "000.p/54": 404, "000": 200})
}

func TestStaticCTProvesGrowth(t *testing.T) {
	log, base, entry := newStaticCT(t, p256(t))
	growStatic(t, log, 260, entry)
	old := mustHead(t, log, base)
	growStatic(t, log, 400, entry)
	cp := mustHead(t, log, base)
	b, err := client.NewProofBuilder(t.Context(), uint64(cp.N), fetcher(t, base).ReadTile)
	if err != nil {
		t.Fatal(err)
	}
	hashes, err := b.ConsistencyProof(t.Context(), uint64(old.N), uint64(cp.N))
	if err != nil {
		t.Fatal(err)
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, uint64(old.N), uint64(cp.N), hashes, old.Hash[:], cp.Hash[:]); err != nil {
		t.Error(err)
	}
}

func TestStaticCTCompressesUnasked(t *testing.T) {
	log, base, entry := newStaticCT(t, p256(t))
	growStatic(t, log, 3, entry)
	_, want := get(t, base+"/tile/data/000.p/3")
	log.Compress()
	resp, body, err := try(t.Context(), base+"/tile/data/000.p/3")
	if err != nil || resp.Header.Get("Content-Encoding") != "gzip" {
		t.Fatalf("headers %v, %v", resp.Header, err)
	}
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(z); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v; want the tile's %d", len(got), err, len(want))
	}
}

func TestStaticCTDatesItsTreeHeads(t *testing.T) {
	log, base, entry := newStaticCT(t, p256(t))
	growStatic(t, log, 3, entry)
	_, first := get(t, base+"/checkpoint")
	if _, again := get(t, base+"/checkpoint"); !bytes.Equal(first, again) {
		t.Error("a checkpoint is no file: it changed unpublished")
	}
	want := time.UnixMilli(1_700_000_000_123)
	log.SetTime(want)
	if err := log.Publish(); err != nil {
		t.Fatal(err)
	}
	cp, at, err := openHead(t, base, staticOrigin, log.PublicKey())
	if err != nil || cp.N != 3 || !at.Equal(want) {
		t.Errorf("size %d at %s, %v; want 3 at %s", cp.N, at, err, want)
	}
}

func TestStaticCTLiesUnderItsOwnSignature(t *testing.T) {
	other := p256(t)
	for _, tt := range []struct {
		name   string
		lie    func(*testing.T, *StaticCT)
		origin string
		size   int64 // -1: does not verify
		truth  bool
	}{
		{"honest", func(*testing.T, *StaticCT) {}, staticOrigin, 300, true},
		{"fork", func(t *testing.T, l *StaticCT) {
			fork, err := l.Tree().Rewrite(7, []byte("\x00\x00forged"))
			if err != nil {
				t.Fatal(err)
			}
			l.Show(fork)
		}, staticOrigin, 300, false},
		{"rollback", func(_ *testing.T, l *StaticCT) { l.At(200) }, staticOrigin, 200, true},
		{"other key", func(_ *testing.T, l *StaticCT) { l.SignWith(other) }, staticOrigin, -1, false},
		{"other origin", func(_ *testing.T, l *StaticCT) { l.CallItself("other.example.com") }, "other.example.com", 300, true},
		{"unsigned", func(_ *testing.T, l *StaticCT) { l.EditNote(Unsigned) }, staticOrigin, -1, false},
		{"garbled", func(_ *testing.T, l *StaticCT) { l.EditNote(Garbled) }, staticOrigin, -1, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log, base, entry := newStaticCT(t, p256(t))
			growStatic(t, log, 300, entry)
			tt.lie(t, log)
			cp, _, err := openHead(t, base, tt.origin, log.PublicKey())
			if tt.size < 0 {
				if err == nil {
					t.Fatalf("it verifies: %+v", cp)
				}
			} else if err != nil || cp.N != tt.size {
				t.Fatalf("size %d, %v; want %d", cp.N, err, tt.size)
			} else if truth := mustRoot(t, log.Tree(), uint64(cp.N)); (Hash(cp.Hash) == truth) != tt.truth {
				t.Errorf("root %x, the true one is %x", cp.Hash, truth)
			}
			log.Honest()
			if cp := mustHead(t, log, base); cp.N != 300 {
				t.Errorf("honest again: size %d", cp.N)
			}
		})
	}
}

func TestStaticCTServesLeavesOtherwiseThanHashed(t *testing.T) {
	log, base, entry := newStaticCT(t, p256(t))
	growStatic(t, log, 10, entry)
	const tile = "/tile/data/000.p/10"
	log.Lie(3, Lie{Data: entry(4).Leaf(3)})
	leaves := tileLeaves(t, base+tile)
	if len(leaves) != 10 || !bytes.Equal(leaves[3].MerkleTreeLeaf(), entry(4).Leaf(3)) || len(leaves[3].ChainFingerprints) != 2 {
		t.Errorf("leaf 3 of %d: %+v", len(leaves), leaves[3])
	}
	log.LieBeside(5, CTEntry{Precertificate: []byte("another"), Chain: [][]byte{[]byte("stranger")}})
	leaves = tileLeaves(t, base+tile)
	if want := sha256.Sum256([]byte("stranger")); !bytes.Equal(leaves[5].MerkleTreeLeaf(), entry(5).Leaf(5)) ||
		string(leaves[5].PreCertificate) != "another" || len(leaves[5].ChainFingerprints) != 1 || leaves[5].ChainFingerprints[0] != want {
		t.Errorf("leaf 5: %+v", leaves[5])
	}
	log.Lie(3, Lie{Missing: true})
	if leaves := tileLeaves(t, base+tile); len(leaves) != 9 {
		t.Errorf("%d leaves, want 9", len(leaves))
	}
	log.Lie(3, Lie{Status: 500})
	if status, _ := get(t, base+tile); status != 500 {
		t.Errorf("status %d, want 500", status)
	}
	if log.Reads(0) != 3 || log.Reads(10) != 0 {
		t.Errorf("leaf 0 read %d times, want 3; leaf 10 %d", log.Reads(0), log.Reads(10))
	}
}

func TestStaticCTServesTheLargestLeaves(t *testing.T) {
	log, base, _ := newStaticCT(t, p256(t))
	log.Submit(CTEntry{Certificate: make([]byte, math.MaxUint16+1)})
	log.Append(CTEntry{TBS: []byte("appended")}.Leaf(-1))
	if err := log.Publish(); err != nil {
		t.Fatal(err)
	}
	status, tile := get(t, base+"/tile/data/000.p/2")
	e, rest, err := sunlight.ReadTileLeaf(tile)
	if status != 200 || err != nil || len(e.Certificate) != math.MaxUint16+1 {
		t.Fatalf("status %d, %+v, %v", status, e, err)
	}
	if want := append(CTEntry{TBS: []byte("appended")}.Leaf(-1)[2:], 0, 0, 0, 0, 0); !bytes.Equal(rest, want) {
		t.Errorf("a leaf with no submission is served as %q, want %q", rest, want)
	}
}

func BenchmarkServeFullDataTile(b *testing.B) {
	log, base, entry := newStaticCT(b, p256(b))
	growStatic(b, log, 256, entry)
	for b.Loop() {
		status, tile := get(b, base+"/tile/data/000")
		if status != 200 {
			b.Fatalf("status %d", status)
		}
		b.SetBytes(int64(len(tile)))
	}
	b.ReportMetric(256*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}
