//go:build e2e && linux

package main_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-openapi/runtime"
	"github.com/sigstore/rekor/pkg/generated/models"
	rekorssh "github.com/sigstore/rekor/pkg/pki/ssh"
	"github.com/sigstore/rekor/pkg/types"
	_ "github.com/sigstore/rekor/pkg/types/alpine/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/cose/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/hashedrekord/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/helm/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/intoto/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/intoto/v0.0.2"
	_ "github.com/sigstore/rekor/pkg/types/jar/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/rekord/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/rfc3161/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/rpm/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/tuf/v0.0.1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/dsse"
	"github.com/theupdateframework/go-tuf"
	gocose "github.com/veraison/go-cose"
)

// signer signs artifacts with a key, and has a certificate for it or none.
type signer struct {
	key         *ecdsa.PrivateKey
	spki        []byte
	certificate *x509.Certificate // nil for a bare key
}

func newSigner(t testing.TB) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{key: key, spki: spkiOf(t, key.Public())}
}

// fingerprint is SHA-256 of the certificate or, for a bare key, of its SPKI.
func (s *signer) fingerprint() string {
	der := s.spki
	if s.certificate != nil {
		der = s.certificate.Raw
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// pem is the certificate or the public key.
func (s *signer) pem(t testing.TB) []byte {
	t.Helper()
	encode := func() ([]byte, error) { return cryptoutils.MarshalPublicKeyToPEM(s.key.Public()) }
	if s.certificate != nil {
		encode = func() ([]byte, error) { return cryptoutils.MarshalCertificateToPEM(s.certificate) }
	}
	b, err := encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (s *signer) sign(t testing.TB, artifact []byte) []byte {
	t.Helper()
	digest := sha256.Sum256(artifact)
	sig, err := ecdsa.SignASN1(rand.Reader, s.key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// envelope is a DSSE envelope around an in-toto statement about a random digest.
func (s *signer) envelope(t testing.TB) []byte {
	t.Helper()
	statement, err := json.Marshal(map[string]any{
		"_type":         "https://in-toto.io/Statement/v0.1",
		"predicateType": "https://slsa.dev/provenance/v0.2",
		"subject":       []any{map[string]any{"name": "app", "digest": map[string]string{"sha256": hex.EncodeToString(randomBytes(t, 32))}}},
		"predicate":     map[string]any{"builder": map[string]string{"id": "https://example.test/builder"}, "buildType": "e2e"},
	})
	if err != nil {
		t.Fatal(err)
	}
	sign, err := signature.LoadECDSASigner(s.key, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := dsse.WrapSigner(sign, "application/vnd.in-toto+json").SignMessage(bytes.NewReader(statement))
	if err != nil {
		t.Fatal(err)
	}
	return envelope
}

func randomBytes(t testing.TB, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

// uploaded is an entry that a log took.
type uploaded struct {
	index       uint64 // the log's own
	kind        string
	leaf        []byte
	fingerprint string // of its signer as rekor's own library gives it; "" if that has none
}

// add uploads an entry to the active tree.
func (r *rekorV1) add(t testing.TB, kind, version string, props types.ArtifactProperties) uploaded {
	t.Helper()
	proposed, err := types.NewProposedEntry(t.Context(), kind, version, props)
	if err != nil {
		t.Fatalf("making a %s entry: %v", kind, err)
	}
	request, err := json.Marshal(proposed)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := post(r.url+"/api/v1/log/entries", request)
	if err != nil {
		t.Fatalf("uploading a %s entry: %v", kind, err)
	}
	var entries models.LogEntry
	if err := json.Unmarshal(answer, &entries); err != nil {
		t.Fatal(err)
	}
	for uuid, e := range entries {
		body, ok := e.Body.(string)
		if !ok {
			t.Fatalf("entry %s has a body of type %T", uuid, e.Body)
		}
		leaf, err := base64.StdEncoding.DecodeString(body)
		if err != nil {
			t.Fatal(err)
		}
		return uploaded{uint64(*e.Verification.InclusionProof.LogIndex), kind, leaf, libraryFingerprint(t, leaf)}
	}
	t.Fatalf("uploading a %s entry: the answer names none: %s", kind, answer)
	return uploaded{}
}

// libraryFingerprint asks rekor's own types who signed a leaf.
func libraryFingerprint(t testing.TB, leaf []byte) string {
	t.Helper()
	proposed, err := models.UnmarshalProposedEntry(bytes.NewReader(leaf), runtime.JSONConsumer())
	if err != nil {
		t.Fatal(err)
	}
	e, err := types.UnmarshalEntry(proposed)
	if err != nil {
		t.Fatal(err)
	}
	verifiers, err := e.Verifiers()
	if err != nil {
		return "" // rfc3161
	}
	identities, err := verifiers[0].Identities()
	if err != nil {
		t.Fatal(err)
	}
	return identities[0].Fingerprint
}

// hashedRekord uploads a signature by s over random bytes.
func (r *rekorV1) hashedRekord(t testing.TB, s *signer) uploaded {
	t.Helper()
	artifact := randomBytes(t, 32)
	digest := sha256.Sum256(artifact)
	return r.add(t, "hashedrekord", "0.0.1", types.ArtifactProperties{PKIFormat: "x509", ArtifactHash: "sha256:" + hex.EncodeToString(digest[:]),
		SignatureBytes: s.sign(t, artifact), PublicKeyBytes: [][]byte{s.pem(t)}})
}

// attestation uploads an in-toto statement by s as kind dsse or intoto.
func (r *rekorV1) attestation(t testing.TB, s *signer, kind, version string) uploaded {
	t.Helper()
	return r.add(t, kind, version, types.ArtifactProperties{PKIFormat: "x509", ArtifactBytes: s.envelope(t), PublicKeyBytes: [][]byte{s.pem(t)}})
}

// rareKinds uploads an entry of every other kind and key type that rekor-server
// takes, for the most part rekor's own samples.
func (r *rekorV1) rareKinds(t testing.TB) []uploaded {
	t.Helper()
	dir := filepath.Join(moduleDir(t, "github.com/sigstore/rekor@v1.5.4"), "pkg")
	sample := func(path string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	hello := sample("pki/ssh/testdata/hello_world.txt")
	sshSignature, err := rekorssh.Sign(string(sample("pki/ssh/testdata/id_rsa")), bytes.NewReader(hello))
	if err != nil {
		t.Fatal(err)
	}
	keyed := newSigner(t)
	timestamp, root := tufMetadata(t)

	var all []uploaded
	for _, u := range []struct {
		kind, version, format string
		artifact, sig, key    []byte
	}{
		{"rekord", "0.0.1", "pgp", sample("types/rekord/tests/test_file.txt"), sample("types/rekord/tests/test_file.sig"), sample("types/rekord/tests/test_public_key.key")},
		{"rekord", "0.0.1", "ssh", hello, sshSignature, sample("pki/ssh/testdata/id_rsa.pub")},
		{"rekord", "0.0.1", "minisign", sample("pki/minisign/testdata/hello_world.txt"), sample("pki/minisign/testdata/hello_world.txt.minisig"), sample("pki/minisign/testdata/minisign.pub")},
		{"rekord", "0.0.1", "x509", hello, keyed.sign(t, hello), keyed.pem(t)},
		{"helm", "0.0.1", "pgp", sample("types/helm/tests/test-0.1.0.tgz.prov"), nil, sample("types/helm/tests/test_helm_armor.pub")},
		{"alpine", "0.0.1", "x509", sample("types/alpine/tests/test_alpine.apk"), nil, sample("types/alpine/tests/test_alpine.pub")},
		{"jar", "0.0.1", "pkcs7", sample("types/jar/v0.0.1/tests/test.jar"), nil, nil},
		{"rpm", "0.0.1", "pgp", sample("types/rpm/tests/test.rpm"), nil, sample("types/rpm/tests/test_rpm_public_key.key")},
		{"cose", "0.0.1", "x509", coseMessage(t, keyed), nil, keyed.pem(t)},
		{"tuf", "0.0.1", "tuf", timestamp, nil, root},
		{"rfc3161", "0.0.1", "", sample("types/rfc3161/tests/test.tsr"), nil, nil},
	} {
		props := types.ArtifactProperties{PKIFormat: u.format, ArtifactBytes: u.artifact, SignatureBytes: u.sig}
		if u.key != nil {
			props.PublicKeyBytes = [][]byte{u.key}
		}
		all = append(all, r.add(t, u.kind, u.version, props))
	}
	return all
}

// tufMetadata makes a TUF repository of a moment ago; rekor's sample has expired.
func tufMetadata(t testing.TB) (timestamp, root []byte) {
	t.Helper()
	store := tuf.MemoryStore(nil, map[string][]byte{"app": []byte("app")})
	repo, err := tuf.NewRepo(store)
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(repo.Init(false))
	for _, role := range []string{"root", "snapshot", "targets", "timestamp"} {
		_, err := repo.GenKey(role)
		must(err)
	}
	must(repo.AddTarget("app", nil))
	must(repo.Snapshot())
	must(repo.Timestamp())
	must(repo.Commit())
	meta, err := store.GetMeta()
	must(err)
	return meta["timestamp.json"], meta["root.json"]
}

// coseMessage is a COSE_Sign1 message by s.
func coseMessage(t testing.TB, s *signer) []byte {
	t.Helper()
	sign, err := gocose.NewSigner(gocose.AlgorithmES256, s.key)
	if err != nil {
		t.Fatal(err)
	}
	headers := gocose.Headers{Protected: gocose.ProtectedHeader{gocose.HeaderLabelAlgorithm: gocose.AlgorithmES256}}
	message, err := gocose.Sign1(rand.Reader, sign, headers, randomBytes(t, 32), nil)
	if err != nil {
		t.Fatal(err)
	}
	return message
}
