//go:build e2e && linux

package main_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	dssepb "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	rekornote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore/pkg/signature"
	formats "github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/note"
	"google.golang.org/protobuf/encoding/protojson"
)

// shard is a Rekor v2 log: a server that takes entries, and a file server that
// shows its storage to readers.
type shard struct {
	version string // of rekor-tiles
	origin  string // host and port that readers see
	url     string // for readers
	write   string // for uploads
	dir     string
	secret  ed25519.PrivateKey
	key     keyPair
	server  *process
	reads   atomic.Pointer[http.Handler]
}

// wrap changes how the storage is shown to readers.
func (s *shard) wrap(middleware func(http.Handler) http.Handler) {
	h := middleware(http.FileServer(http.Dir(s.dir)))
	s.reads.Store(&h)
}

// startShard starts a shard of its own with the given version of rekor-tiles.
func startShard(t testing.TB, version string) *shard {
	t.Helper()
	_, secret, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := &shard{version: version, dir: filepath.Join(t.TempDir(), "log"), secret: secret, key: writeKeyPair(t, secret, secret.Public())}
	s.wrap(func(files http.Handler) http.Handler { return files })
	reads := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*s.reads.Load()).ServeHTTP(w, r) }))
	t.Cleanup(reads.Close)
	s.url, s.origin = reads.URL, strings.TrimPrefix(reads.URL, "http://")
	s.serve(t)
	return s
}

// serve starts the server over the storage folder.
func (s *shard) serve(t testing.TB) {
	t.Helper()
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	s.write = "http://127.0.0.1:" + port
	s.server = start(t, "rekor-tiles-"+s.version, filepath.Join(serversDir(t), "tiles-"+s.version, "posix"), "serve",
		"--hostname="+s.origin, "--storage-dir="+s.dir, "--signer-filepath="+s.key.private,
		"--checkpoint-interval=1s", "--batch-max-age=100ms",
		"--http-port="+port, "--grpc-port="+freePort(t), "--http-metrics-port="+freePort(t))
	s.server.await(t, func() error {
		if _, err := get(s.write + "/healthz"); err != nil {
			return err
		}
		_, err := get(s.url + "/" + layout.CheckpointPath)
		return err
	})
}

// add uploads an entry, waits until it is in the tree, and returns its index and
// its leaf.
func (s *shard) add(t testing.TB, request *pb.CreateEntryRequest) (index uint64, leaf []byte) {
	t.Helper()
	tle, err := s.tryAdd(request)
	if err != nil {
		t.Fatal(err)
	}
	return uint64(tle.GetLogIndex()), tle.GetCanonicalizedBody()
}

func (s *shard) tryAdd(request *pb.CreateEntryRequest) (*rekorpb.TransparencyLogEntry, error) {
	body, err := protojson.Marshal(request)
	if err != nil {
		return nil, err
	}
	answer, err := post(s.write+"/api/v2/log/entries", body)
	if err != nil {
		return nil, err
	}
	tle := &rekorpb.TransparencyLogEntry{}
	return tle, protojson.Unmarshal(answer, tle)
}

// checkpoint reads the published checkpoint and verifies it.
func (s *shard) checkpoint(t testing.TB) formats.Checkpoint {
	t.Helper()
	raw, err := get(s.url + "/" + layout.CheckpointPath)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := signature.LoadVerifier(s.secret.Public(), 0)
	if err != nil {
		t.Fatal(err)
	}
	nv, err := rekornote.NewNoteVerifier(s.origin, verifier)
	if err != nil {
		t.Fatal(err)
	}
	cp, _, _, err := formats.ParseCheckpoint(raw, s.origin, nv)
	if err != nil {
		t.Fatal(err)
	}
	return *cp
}

// published waits until a checkpoint of at least size is out.
func (s *shard) published(t testing.TB, size uint64) {
	t.Helper()
	s.server.await(t, func() error {
		if cp := s.checkpoint(t); cp.Size < size {
			return fmt.Errorf("checkpoint of size %d, want %d", cp.Size, size)
		}
		return nil
	})
}

// freeze stops the server and signs the checkpoint anew with the line that says
// so, as rekor-tiles' freeze-checkpoint does, which knows only Google Cloud.
func (s *shard) freeze(t testing.TB) {
	t.Helper()
	s.server.stop(t)
	cp := s.checkpoint(t)
	signer, err := signature.LoadSigner(s.secret, 0)
	if err != nil {
		t.Fatal(err)
	}
	ns, err := rekornote.NewNoteSigner(t.Context(), s.origin, signer)
	if err != nil {
		t.Fatal(err)
	}
	text := string(cp.Marshal()) + "Log frozen — " + time.Now().UTC().Format(time.UnixDate) + "\n"
	signed, err := note.Sign(&note.Note{Text: text}, ns)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(s.dir, layout.CheckpointPath), signed)
}

// snapshot copies the storage folder of a shard that is not running.
func (s *shard) snapshot(t testing.TB) string {
	t.Helper()
	return copyOf(t, s.dir)
}

// restore puts the storage folder of a shard that is not running back; ""
// empties it.
func (s *shard) restore(t testing.TB, snapshot string) {
	t.Helper()
	replaceDir(t, s.dir, snapshot)
}

// bundle returns the path of the newest file that holds the bundle of index.
func (s *shard) bundle(t testing.TB, index uint64) string {
	t.Helper()
	full := filepath.Join(s.dir, filepath.FromSlash(layout.EntriesPath(index/layout.EntryBundleWidth, 0)))
	if _, err := os.Stat(full); err == nil {
		return full
	} else if !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	size := s.checkpoint(t).Size
	return filepath.Join(s.dir, filepath.FromSlash(layout.EntriesPath(index/layout.EntryBundleWidth, uint8(size%layout.EntryBundleWidth))))
}

// verifierV2 is what Rekor v2 is told about who signed.
func verifierV2(s *signer) *pb.Verifier {
	v := &pb.Verifier{KeyDetails: commonpb.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256}
	if s.certificate != nil {
		v.Verifier = &pb.Verifier_X509Certificate{X509Certificate: &commonpb.X509Certificate{RawBytes: s.certificate.Raw}}
	} else {
		v.Verifier = &pb.Verifier_PublicKey{PublicKey: &pb.PublicKey{RawBytes: s.spki}}
	}
	return v
}

// hashedRekordV2 is a request for a signature by s over random bytes.
func hashedRekordV2(t testing.TB, s *signer) *pb.CreateEntryRequest {
	t.Helper()
	artifact := randomBytes(t, 32)
	digest := sha256.Sum256(artifact)
	return &pb.CreateEntryRequest{Spec: &pb.CreateEntryRequest_HashedRekordRequestV002{HashedRekordRequestV002: &pb.HashedRekordRequestV002{
		Digest:    digest[:],
		Signature: &pb.Signature{Content: s.sign(t, artifact), Verifier: verifierV2(s)},
	}}}
}

// dsseV2 is a request for an attestation by s.
func dsseV2(t testing.TB, s *signer) *pb.CreateEntryRequest {
	t.Helper()
	var envelope dssepb.Envelope
	if err := protojson.Unmarshal(s.envelope(t), &envelope); err != nil {
		t.Fatal(err)
	}
	verifiers := []*pb.Verifier{verifierV2(s)}
	//lint:ignore SA1019 what the older shards hold has to be read
	return &pb.CreateEntryRequest{Spec: &pb.CreateEntryRequest_DsseRequestV002{DsseRequestV002: &pb.DSSERequestV002{Envelope: &envelope, Verifiers: verifiers}}}
}

// spkiOf is the DER form of a public key.
func spkiOf(t testing.TB, public any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
