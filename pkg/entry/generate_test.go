package entry

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"flag"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	v1 "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/sigstore/rekor/pkg/types"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	tufdata "github.com/theupdateframework/go-tuf/data"
	tufkeys "github.com/theupdateframework/go-tuf/pkg/keys"
	tufsign "github.com/theupdateframework/go-tuf/sign"
	gocose "github.com/veraison/go-cose"
	"google.golang.org/protobuf/encoding/protojson"
)

var update = flag.Bool("update", false, "write testdata anew, with rekor's own library and its samples")

// TestLeavesAreGenerated writes testdata/*.json with -update: leaves as the
// servers write them, made by rekor's library of rekor's samples and of throw-away
// keys. testdata/public-good-*.json are leaves of the public Rekor, from the bundles
// in sigstore-go and protobuf-specs.
func TestLeavesAreGenerated(t *testing.T) {
	if !*update {
		t.Skip("only with -update")
	}
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/sigstore/rekor").Output()
	if err != nil {
		t.Fatal(err)
	}
	root := strings.TrimSpace(string(out))
	sample := func(name string) []byte {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	save := func(name string, leaf []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join("testdata", name+".json"), leaf, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	rekor := func(name, kind, version string, p types.ArtifactProperties) {
		t.Helper()
		ctx := context.Background()
		proposed, err := types.NewProposedEntry(ctx, kind, version, p)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		impl, err := types.CreateVersionedEntry(proposed)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		leaf, err := types.CanonicalizeEntry(ctx, impl)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		save(name, leaf)
	}
	artifact := []byte("an artifact")
	sum := sha256.Sum256(artifact)
	sum512 := sha512.Sum512(artifact)

	key, cert := fulcioCertificate(t)
	rekor("hashedrekord-certificate", "hashedrekord", "0.0.1", types.ArtifactProperties{
		ArtifactHash: hex.EncodeToString(sum[:]), SignatureBytes: sign(t, key, sum[:], crypto.SHA256),
		PublicKeyBytes: [][]byte{pemOf(cert)}, PKIFormat: "x509"})
	rootKey, ca := selfSigned(t, &x509.Certificate{SerialNumber: big.NewInt(2), IsCA: true, BasicConstraintsValid: true,
		Subject: pkix.Name{CommonName: "root"}, KeyUsage: x509.KeyUsageCertSign})
	chainKey, chained := issue(t, &x509.Certificate{SerialNumber: big.NewInt(3), EmailAddresses: []string{"chain@example.com"}}, ca, rootKey)
	rekor("hashedrekord-chain", "hashedrekord", "0.0.1", types.ArtifactProperties{
		ArtifactHash: hex.EncodeToString(sum[:]), SignatureBytes: sign(t, chainKey, sum[:], crypto.SHA256),
		PublicKeyBytes: [][]byte{append(pemOf(chained), pemOf(ca)...)}, PKIFormat: "x509"})
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]crypto.Signer{"rsa": rsaKey, "p256": p256} {
		rekor("hashedrekord-key-"+name, "hashedrekord", "0.0.1", types.ArtifactProperties{
			ArtifactHash: hex.EncodeToString(sum[:]), SignatureBytes: sign(t, k, sum[:], crypto.SHA256),
			PublicKeyBytes: [][]byte{pemKey(t, k.Public())}, PKIFormat: "x509"})
	}
	edSignature, err := edKey.Sign(rand.Reader, sum512[:], &ed25519.Options{Hash: crypto.SHA512})
	if err != nil {
		t.Fatal(err)
	}
	rekor("hashedrekord-key-ed25519", "hashedrekord", "0.0.1", types.ArtifactProperties{
		ArtifactHash: "sha512:" + hex.EncodeToString(sum512[:]), SignatureBytes: edSignature,
		PublicKeyBytes: [][]byte{pemKey(t, edKey.Public())}, PKIFormat: "x509"})

	one := envelope(t, key)
	two := envelope(t, key, p256)
	rekor("dsse-certificate", "dsse", "0.0.1", types.ArtifactProperties{ArtifactBytes: one, PublicKeyBytes: [][]byte{pemOf(cert)}})
	rekor("dsse-two-signers", "dsse", "0.0.1", types.ArtifactProperties{ArtifactBytes: two, PublicKeyBytes: [][]byte{pemOf(cert), pemKey(t, p256.Public())}})
	rekor("intoto-0.0.1-key", "intoto", "0.0.1", types.ArtifactProperties{ArtifactBytes: envelope(t, p256), PublicKeyBytes: [][]byte{pemKey(t, p256.Public())}})
	rekor("intoto-0.0.1-certificate", "intoto", "0.0.1", types.ArtifactProperties{ArtifactBytes: one, PublicKeyBytes: [][]byte{pemOf(cert)}})
	rekor("intoto-0.0.2-two-signers", "intoto", "0.0.2", types.ArtifactProperties{ArtifactBytes: two, PublicKeyBytes: [][]byte{pemOf(cert), pemKey(t, p256.Public())}})

	pki := func(name, format, file, signature, public string) {
		t.Helper()
		rekor(name, "rekord", "0.0.1", types.ArtifactProperties{ArtifactBytes: sample(file), SignatureBytes: sample(signature),
			PublicKeyBytes: [][]byte{sample(public)}, PKIFormat: format})
	}
	pki("rekord-pgp", "pgp", "tests/test_file.txt", "tests/test_file.sig", "tests/test_public_key.key")
	pki("rekord-ssh", "ssh", "pkg/pki/ssh/testdata/hello_world.txt", "pkg/pki/ssh/testdata/hello_world.txt.sig", "pkg/pki/ssh/testdata/id_rsa.pub")
	pki("rekord-minisign", "minisign", "pkg/pki/minisign/testdata/hello_world.txt", "pkg/pki/minisign/testdata/hello_world.txt.minisig", "pkg/pki/minisign/testdata/minisign.pub")
	rekor("rekord-certificate", "rekord", "0.0.1", types.ArtifactProperties{ArtifactBytes: artifact, SignatureBytes: sign(t, key, sum[:], crypto.SHA256),
		PublicKeyBytes: [][]byte{pemOf(cert)}, PKIFormat: "x509"})
	rekor("rpm", "rpm", "0.0.1", types.ArtifactProperties{ArtifactBytes: sample("pkg/types/rpm/tests/test.rpm"),
		PublicKeyBytes: [][]byte{sample("pkg/types/rpm/tests/test_rpm_public_key.key")}})
	rekor("jar", "jar", "0.0.1", types.ArtifactProperties{ArtifactBytes: sample("pkg/types/jar/v0.0.1/tests/test.jar")})
	rekor("alpine", "alpine", "0.0.1", types.ArtifactProperties{ArtifactBytes: sample("pkg/types/alpine/tests/test_alpine.apk"),
		PublicKeyBytes: [][]byte{sample("pkg/types/alpine/tests/test_alpine.pub")}})
	rekor("helm", "helm", "0.0.1", types.ArtifactProperties{ArtifactBytes: sample("pkg/types/helm/tests/test-0.1.0.tgz.prov"),
		PublicKeyBytes: [][]byte{sample("pkg/types/helm/tests/test_helm_armor.pub")}})
	rekor("rfc3161", "rfc3161", "0.0.1", types.ArtifactProperties{ArtifactBytes: sample("pkg/types/rfc3161/tests/test.tsr")})
	rekor("cose", "cose", "0.0.1", types.ArtifactProperties{ArtifactBytes: coseMessage(t, p256), PublicKeyBytes: [][]byte{pemKey(t, p256.Public())},
		AdditionalAuthenticatedData: []byte("aad")})
	fresh, stamp := tufMetadata(t)
	rekor("tuf", "tuf", "0.0.1", types.ArtifactProperties{ArtifactBytes: stamp, PublicKeyBytes: [][]byte{fresh}})
	// The library refuses an expired root, so this leaf is put together by hand.
	expired, err := jsoncanonicalizer.Transform([]byte(`{"apiVersion":"0.0.1","kind":"tuf","spec":{"metadata":{"content":` +
		string(sample("pkg/types/tuf/v0.0.1/tests/test_timestamp.json")) + `},"root":{"content":` + string(sample("pkg/types/tuf/v0.0.1/tests/test_root.json")) + `}}}`))
	if err != nil {
		t.Fatal(err)
	}
	save("tuf-expired", expired)

	byCertificate := &pb.Verifier{KeyDetails: v1.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
		Verifier: &pb.Verifier_X509Certificate{X509Certificate: &v1.X509Certificate{RawBytes: cert.Raw}}}
	spki, err := x509.MarshalPKIXPublicKey(edKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	byKey := &pb.Verifier{KeyDetails: v1.PublicKeyDetails_PKIX_ED25519_PH, Verifier: &pb.Verifier_PublicKey{PublicKey: &pb.PublicKey{RawBytes: spki}}}
	tiles := func(name, kind string, spec *pb.Spec) {
		t.Helper()
		raw, err := protojson.Marshal(&pb.Entry{Kind: kind, ApiVersion: "0.0.2", Spec: spec})
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := jsoncanonicalizer.Transform(raw)
		if err != nil {
			t.Fatal(err)
		}
		save(name, leaf)
	}
	tiles("hashedrekord-0.0.2-certificate", "hashedrekord", &pb.Spec{Spec: &pb.Spec_HashedRekordV002{HashedRekordV002: &pb.HashedRekordLogEntryV002{
		Data:      &v1.HashOutput{Algorithm: v1.HashAlgorithm_SHA2_256, Digest: sum[:]},
		Signature: &pb.Signature{Content: sign(t, key, sum[:], crypto.SHA256), Verifier: byCertificate}}}})
	tiles("hashedrekord-0.0.2-key", "hashedrekord", &pb.Spec{Spec: &pb.Spec_HashedRekordV002{HashedRekordV002: &pb.HashedRekordLogEntryV002{
		Data:      &v1.HashOutput{Algorithm: v1.HashAlgorithm_SHA2_512, Digest: sum512[:]},
		Signature: &pb.Signature{Content: edSignature, Verifier: byKey}}}})
	tiles("dsse-0.0.2-two-signers", "dsse", &pb.Spec{Spec: &pb.Spec_DsseV002{DsseV002: &pb.DSSELogEntryV002{
		PayloadHash: &v1.HashOutput{Algorithm: v1.HashAlgorithm_SHA2_256, Digest: sum[:]},
		Signatures:  []*pb.Signature{{Content: []byte{1}, Verifier: byCertificate}, {Content: []byte{2}, Verifier: byKey}}}}})
}

func sign(t testing.TB, key crypto.Signer, digest []byte, hash crypto.Hash) []byte {
	t.Helper()
	sig, err := key.Sign(rand.Reader, digest, hash)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func pemOf(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

func pemKey(t testing.TB, key crypto.PublicKey) []byte {
	t.Helper()
	text, err := cryptoutils.MarshalPublicKeyToPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// envelope is a DSSE envelope over an in-toto statement.
func envelope(t testing.TB, keys ...crypto.Signer) []byte {
	t.Helper()
	payload := []byte(`{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://slsa.dev/provenance/v0.2","subject":[]}`)
	e := dsse.Envelope{PayloadType: "application/vnd.in-toto+json", Payload: base64.StdEncoding.EncodeToString(payload)}
	sum := sha256.Sum256(dsse.PAE(e.PayloadType, payload))
	for _, key := range keys {
		e.Signatures = append(e.Signatures, dsse.Signature{Sig: base64.StdEncoding.EncodeToString(sign(t, key, sum[:], crypto.SHA256))})
	}
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func coseMessage(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	m := gocose.NewSign1Message()
	m.Payload = []byte("hello")
	m.Headers.Protected[gocose.HeaderLabelAlgorithm] = gocose.AlgorithmES256
	signer, err := gocose.NewSigner(gocose.AlgorithmES256, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Sign(rand.Reader, []byte("aad"), signer); err != nil {
		t.Fatal(err)
	}
	b, err := m.MarshalCBOR()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// tufMetadata is a root that lasts, and a timestamp, under an Ed25519 and an ECDSA key.
func tufMetadata(t testing.TB) (root, timestamp []byte) {
	t.Helper()
	ed, err := tufkeys.GenerateEd25519Key()
	if err != nil {
		t.Fatal(err)
	}
	ec, err := tufkeys.GenerateEcdsaKey()
	if err != nil {
		t.Fatal(err)
	}
	expires := time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC)
	r := tufdata.NewRoot()
	r.Expires, r.Version = expires, 1
	var ids []string
	for _, key := range []tufkeys.Signer{ed, ec} {
		r.AddKey(key.PublicData())
		ids = append(ids, key.PublicData().IDs()...)
	}
	for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
		r.Roles[role] = &tufdata.Role{KeyIDs: ids, Threshold: 1}
	}
	s := tufdata.NewTimestamp()
	s.Expires, s.Version = expires, 1
	marshal := func(v any) []byte {
		signed, err := tufsign.Marshal(v, ed, ec)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(signed)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	return marshal(r), marshal(s)
}

// fulcioCertificate is shaped like Fulcio's for a GitHub workflow, with every
// extension that Fulcio has.
func fulcioCertificate(t testing.TB) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	caKey, ca := selfSigned(t, &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true,
		Subject: pkix.Name{Organization: []string{"sigstore.dev"}, CommonName: "sigstore-intermediate"}, KeyUsage: x509.KeyUsageCertSign})
	workflow, err := url.Parse("https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(bytes.Repeat([]byte{0x5a}, 20)),
		NotBefore:    time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2026, 3, 1, 12, 10, 0, 0, time.UTC),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		URIs:         []*url.URL{workflow},
		ExtraExtensions: append(fulcioExtensions(t), pkix.Extension{
			Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: append([]byte{0x04, 120}, make([]byte, 120)...)}),
	}
	return issue(t, template, ca, caKey)
}

// fulcioExtensions are 1.1–1.24, save 1.7, with their names as values; the
// issuer is GitHub's.
func fulcioExtensions(t testing.TB) []pkix.Extension {
	t.Helper()
	var extensions []pkix.Extension
	for n := 1; n <= lastExtension; n++ {
		if n == 7 {
			continue
		}
		_, text := fulcio(byte(n))
		if text == "issuer" {
			text = "https://token.actions.githubusercontent.com"
		}
		value := []byte(text)
		if n > 7 {
			var err error
			if value, err = asn1.MarshalWithParams(text, "utf8"); err != nil {
				t.Fatal(err)
			}
		}
		extensions = append(extensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, n}, Value: value})
	}
	return extensions
}

func selfSigned(t testing.TB, template *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	return issue(t, template, nil, nil)
}

// issue makes a certificate under a CA, or self-signed without one.
func issue(t testing.TB, template, ca *x509.Certificate, caKey *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if template.NotAfter.IsZero() {
		template.NotBefore = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		template.NotAfter = time.Date(2060, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if ca == nil {
		ca, caKey = template, key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}

// everyName is a certificate with a subject of each type.
func everyName(t testing.TB) *x509.Certificate {
	t.Helper()
	uri, err := url.Parse("spiffe://example.com/service")
	if err != nil {
		t.Fatal(err)
	}
	_, cert := selfSigned(t, &x509.Certificate{SerialNumber: big.NewInt(0xabc), EmailAddresses: []string{"a@example.com", "B@Example.com"},
		DNSNames: []string{"example.com"}, IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1), net.ParseIP("2001:db8::1")}, URIs: []*url.URL{uri}})
	return cert
}
