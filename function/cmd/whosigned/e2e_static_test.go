//go:build e2e && linux

package main_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"filippo.io/sunlight"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/tessera/api/layout"
	tessera "github.com/transparency-dev/tessera/client"
	"golang.org/x/mod/sumdb/note"
	sumdb "golang.org/x/mod/sumdb/tlog"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tiles"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// staticLog is a static CT log: a TesseraCT server that takes certificates, and a
// file server that shows its storage to readers.
type staticLog struct {
	ctLog
	origin string // host and path of the submission URL, without the port
	url    string // for readers
	dir    string
	roots  string // PEM file
	server *process
}

// startStatic starts a log that takes what the CAs issue.
func startStatic(t testing.TB, cas ...*tlogtest.CA) *staticLog {
	t.Helper()
	l := &staticLog{ctLog: newCTLog(t), origin: "127.0.0.1/acme", dir: filepath.Join(t.TempDir(), "log"), roots: writeRoots(t, cas)}
	reads := httptest.NewServer(http.FileServer(http.Dir(l.dir)))
	t.Cleanup(reads.Close)
	l.url = reads.URL
	// TesseraCT makes it with the first certificate, and refuses one that comes beside
	// that.
	if err := os.MkdirAll(filepath.Join(l.dir, "issuer"), 0o755); err != nil {
		t.Fatal(err)
	}
	l.serve(t)
	return l
}

// serve starts the server over the storage folder.
func (l *staticLog) serve(t testing.TB) {
	t.Helper()
	port, key := freePort(t), filepath.Join(t.TempDir(), "key.pem")
	l.submit = "http://127.0.0.1:" + port + "/acme"
	writeFile(t, key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: l.sec1}))
	l.server = start(t, "tesseract", filepath.Join(serversDir(t), "tesseract-v0.1.1", "posix"),
		"--http_endpoint=127.0.0.1:"+port, "--path_prefix=acme", "--origin="+l.origin, "--private_key="+key,
		"--roots_pem_file="+l.roots, "--storage_dir="+l.dir, "--checkpoint_interval=1s", "--batch_max_age=100ms",
		"--enable_publication_awaiter=false") // an SCT at once, rather than with the next checkpoint
	l.server.await(t, func() error {
		if _, err := get(l.submit + "/ct/v1/get-roots"); err != nil {
			return err
		}
		_, err := get(l.url + "/" + layout.CheckpointPath)
		return err
	})
}

// add submits certificates and waits until they are in the published tree. Where
// they are there, their SCTs say.
func (l *staticLog) add(t testing.TB, all ...issued) []logged {
	t.Helper()
	took := make([]logged, len(all))
	size := uint64(0)
	for i, sct := range l.submitAll(t, all) {
		ext, err := sunlight.ParseExtensions(sct.Extensions)
		if err != nil {
			t.Fatalf("the SCT for %+v: %v", all[i].id, err)
		}
		took[i] = logged{issued: all[i], index: uint64(ext.LeafIndex)}
		took[i].entry.Timestamp = sct.Timestamp
		took[i].leaf = took[i].entry.Leaf(ext.LeafIndex)
		size = max(size, took[i].index+1)
	}
	l.published(t, size)
	return took
}

// checkpoint reads the published checkpoint and verifies it.
func (l *staticLog) checkpoint(t testing.TB) sunlight.Checkpoint {
	t.Helper()
	raw, err := get(l.url + "/" + layout.CheckpointPath)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKIXPublicKey(l.key.spki(t))
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := sunlight.NewRFC6962Verifier(l.origin, key)
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open(raw, note.VerifierList(verifier))
	if err != nil {
		t.Fatal(err)
	}
	cp, err := sunlight.ParseCheckpoint(n.Text)
	if err != nil {
		t.Fatal(err)
	}
	return cp
}

// published waits until a checkpoint of at least size is out.
func (l *staticLog) published(t testing.TB, size uint64) {
	t.Helper()
	l.server.await(t, func() error {
		if cp := l.checkpoint(t); uint64(cp.N) < size {
			return fmt.Errorf("checkpoint of size %d, want %d", cp.N, size)
		}
		return nil
	})
}

// entries reads all data tiles of the published tree.
func (l *staticLog) entries(t testing.TB) []*sunlight.LogEntry {
	t.Helper()
	size := l.checkpoint(t).N
	var all []*sunlight.LogEntry
	for index := int64(0); index < size; index += sunlight.TileWidth {
		tile := sumdb.Tile{H: sunlight.TileHeight, L: -1, N: index / sunlight.TileWidth, W: int(min(sunlight.TileWidth, size-index))}
		rest, err := get(l.url + "/" + sunlight.TilePath(tile))
		if err != nil {
			t.Fatal(err)
		}
		for len(rest) > 0 {
			var e *sunlight.LogEntry
			if e, rest, err = sunlight.ReadTileLeaf(rest); err != nil {
				t.Fatalf("tile %s: %v", sunlight.TilePath(tile), err)
			}
			all = append(all, e)
		}
	}
	return all
}

// open makes whosigned's own reader of the log.
func (l *staticLog) open(t testing.TB) tlog.Log {
	t.Helper()
	log, err := tiles.New(tlog.NewClient(tlog.ClientOptions{}), tiles.Config{Type: tlog.StaticCT, URL: l.url, Key: l.tlogKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// testStaticCT reads a real TesseraCT with two full tiles and a part of one.
func (s *suite) testStaticCT(t *testing.T) {
	ca := newCA(t)
	l := startStatic(t, ca)
	if cp := l.checkpoint(t); cp.N != 0 || !bytes.Equal(cp.Hash[:], hasher.EmptyRoot()) {
		t.Errorf("an empty log has size %d and root %x", cp.N, cp.Hash)
	}
	audit := &tlog.Audit{Log: l.open(t), Archive: archive{}}
	read := readOn(t, audit, nil, tlog.Frontier{})
	if read.cp.Size != 0 || read.slice.To != 0 {
		t.Errorf("an empty log is read to %d, of %d", read.slice.To, read.cp.Size)
	}
	all := l.add(t, bystanders(t, ca, 30)...)
	old := l.checkpoint(t)
	read = readOn(t, audit, &read.cp, read.slice.Frontier)
	all = append(all, l.add(t, bystanders(t, ca, 570)...)...)
	t.Run("serves what was submitted", func(t *testing.T) { l.checkServed(t, old, all) })
	t.Run("is read and proven", func(t *testing.T) { checkAudited(t, audit, read, all) })
	t.Run("names whom it was submitted for", func(t *testing.T) { checkIdentities(t, l.open(t), ca, all) })
	if got := audit.Log.Info().Origin; got != l.origin {
		t.Errorf("its origin is taken for %q, want %q", got, l.origin)
	}
}

// checkServed shows with sunlight and tessera, which know nothing of TesseraCT, what
// it publishes. Without it the rest of the test would say little.
func (l *staticLog) checkServed(t *testing.T, old sunlight.Checkpoint, all []logged) {
	cp, entries := l.checkpoint(t), l.entries(t)
	size := uint64(cp.N)
	if size != uint64(len(all)) || len(entries) != len(all) {
		t.Fatalf("checkpoint of size %d, %d entries; want %d", size, len(entries), len(all))
	}
	base, err := url.Parse(l.url)
	if err != nil {
		t.Fatal(err)
	}
	fetcher, err := tessera.NewHTTPFetcher(base, nil)
	if err != nil {
		t.Fatal(err)
	}
	proofs, err := tessera.NewProofBuilder(t.Context(), size, fetcher.ReadTile)
	if err != nil {
		t.Fatal(err)
	}
	hashes, err := proofs.ConsistencyProof(t.Context(), uint64(old.N), size)
	if err != nil {
		t.Fatal(err)
	}
	if err := proof.VerifyConsistency(hasher, uint64(old.N), size, hashes, old.Hash[:], cp.Hash[:]); err != nil {
		t.Errorf("consistency from %d to %d: %v", old.N, size, err)
	}
	for _, a := range all {
		e := entries[a.index]
		if !bytes.Equal(e.MerkleTreeLeaf(), a.leaf) || !bytes.Equal(e.PreCertificate, a.entry.Precertificate) {
			t.Fatalf("entry %d, a %s for %+v, is served as %+v", a.index, a.kind(), a.id, e)
		}
		if !slices.Equal(e.ChainFingerprints, fingerprints(a.entry.Chain)) {
			t.Fatalf("entry %d names issuers %x, want %x", a.index, e.ChainFingerprints, fingerprints(a.entry.Chain))
		}
		hashes, err := proofs.InclusionProof(t.Context(), a.index)
		if err != nil {
			t.Fatal(err)
		}
		if err := proof.VerifyInclusion(hasher, a.index, size, hasher.HashLeaf(a.leaf), hashes, cp.Hash[:]); err != nil {
			t.Fatalf("inclusion of entry %d: %v", a.index, err)
		}
	}
	for _, issuer := range all[0].entry.Chain {
		if served, err := get(fmt.Sprintf("%s/issuer/%x", l.url, sha256.Sum256(issuer))); err != nil || !bytes.Equal(served, issuer) {
			t.Errorf("an issuer is served as %x, %v; want %x", served, err, issuer)
		}
	}
}

func fingerprints(chain [][]byte) (sums [][32]byte) {
	for _, cert := range chain {
		sums = append(sums, sha256.Sum256(cert))
	}
	return sums
}
