package tlogtest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-openapi/runtime"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	rekorv2 "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/sigstore/rekor-tiles/v2/pkg/types/hashedrekord"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/protobuf/encoding/protojson"
)

func newCA(t testing.TB) *CA {
	t.Helper()
	ca, err := NewCA("sigstore.test")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issued(t testing.TB, ca *CA, id Identity) Signer {
	t.Helper()
	s, err := ca.Issue(id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// github is the identity of a release workflow, with all that Fulcio writes for it.
func github() Identity {
	return Identity{
		URI:    "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1.2.3",
		Issuer: "https://token.actions.githubusercontent.com",
		Extensions: map[int]string{
			2: "push", 3: strings.Repeat("ab", 20), 4: "release", 5: "acme/app", 6: "refs/tags/v1.2.3",
			9:  "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1.2.3",
			10: strings.Repeat("ab", 20), 11: "github-hosted", 12: "https://github.com/acme/app",
			13: strings.Repeat("ab", 20), 14: "refs/tags/v1.2.3", 15: "123456789", 16: "https://github.com/acme",
			17: "987654321", 18: "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1.2.3",
			19: strings.Repeat("ab", 20), 20: "push", 21: "https://github.com/acme/app/actions/runs/1/attempts/1",
			22: "public", 23: "production", 24: "repo:acme/app:ref:refs/tags/v1.2.3",
		},
	}
}

func TestCertificatesAreAsFulcioMakesThem(t *testing.T) {
	ca := newCA(t)
	der := issued(t, ca, github()).Certificate
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if got := cert.NotAfter.Sub(cert.NotBefore); got != 10*time.Minute || time.Since(cert.NotBefore) > time.Minute {
		t.Errorf("valid from %v for %v", cert.NotBefore, got)
	}
	if len(cert.Subject.Names) != 0 || cert.IsCA || !slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}) {
		t.Errorf("subject %v, CA %v, usages %v", cert.Subject, cert.IsCA, cert.ExtKeyUsage)
	}
	if got, want := cryptoutils.GetSubjectAlternateNames(cert), github().URI; !slices.Equal(got, []string{want}) {
		t.Errorf("subjects %q, want %q", got, want)
	}
	ext, err := certificate.ParseExtensions(cert.Extensions)
	if err != nil {
		t.Fatal(err)
	}
	if ext.Issuer != github().Issuer || ext.BuildSignerURI != github().Extensions[9] || ext.GithubWorkflowTrigger != "push" ||
		ext.SourceRepositoryVisibilityAtSigning != "public" {
		t.Errorf("extensions %+v", ext)
	}
	raw := map[int][]byte{}
	for _, e := range cert.Extensions {
		if len(e.Id) == 9 && e.Id[6] == 57264 {
			raw[e.Id[8]] = e.Value
		}
	}
	want := slices.Sorted(maps.Keys(github().Extensions))
	want = append([]int{1}, want...)
	want = slices.Insert(want, slices.Index(want, 9), 8)
	if got := slices.Sorted(maps.Keys(raw)); !slices.Equal(got, want) {
		t.Errorf("extensions %v, want %v", got, want)
	}
	var utf8 string
	if rest, err := asn1.UnmarshalWithParams(raw[24], &utf8, "utf8"); err != nil || len(rest) > 0 || utf8 != github().Extensions[24] || string(raw[1]) != github().Issuer {
		t.Errorf("extension 1.24 is %q (%v), 1.1 is %q", utf8, err, raw[1])
	}
}

// verifyChain verifies as of NotBefore, after taking off the critical OtherName.
func verifyChain(t *testing.T, ca *CA, der []byte) error {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca.RootPEM()) || !intermediates.AppendCertsFromPEM(ca.IntermediatePEM()) {
		t.Fatal("no certificates in the CA's PEM")
	}
	cert.UnhandledCriticalExtensions = slices.DeleteFunc(cert.UnhandledCriticalExtensions, cryptoutils.SANOID.Equal)
	_, err = cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: cert.NotBefore,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}})
	return err
}

func TestCertificatesChainToTheirOwnCAOnly(t *testing.T) {
	ca, rogue := newCA(t), newCA(t)
	for name, id := range map[string]Identity{
		"URI":       github(),
		"email":     {Email: "me@example.com", Issuer: "https://accounts.google.com"},
		"DNS name":  {DNSName: "build.example.com"},
		"user name": {UserName: "alice!example.com", Issuer: "https://issuer.example.com"},
		"old":       {Email: "me@example.com", Issuer: "https://accounts.google.com", LegacyIssuer: true, NotBefore: time.Now().AddDate(-2, 0, 0)},
	} {
		s := issued(t, ca, id)
		if err := verifyChain(t, ca, s.Certificate); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if verifyChain(t, rogue, s.Certificate) == nil {
			t.Errorf("%s: chains to another CA", name)
		}
	}
	if ca.Root.PublicKey.(*ecdsa.PublicKey).Curve != elliptic.P384() || ca.Intermediate.PublicKey.(*ecdsa.PublicKey).Curve != elliptic.P384() {
		t.Error("the CA's keys are not P-384")
	}
}

func TestUserNameIsACriticalOtherName(t *testing.T) {
	der := issued(t, newCA(t), Identity{UserName: "alice!example.com"}).Certificate
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := cryptoutils.UnmarshalOtherNameSAN(cert.Extensions); err != nil || got != "alice!example.com" {
		t.Errorf("OtherName %q (%v)", got, err)
	}
	if len(cert.UnhandledCriticalExtensions) != 1 {
		t.Errorf("unhandled critical extensions %v, want the SAN", cert.UnhandledCriticalExtensions)
	}
}

func TestHostileIdentitiesCanBeIssued(t *testing.T) {
	for name, id := range map[string]Identity{
		"control characters": {Email: "me@example.com\x00\x1b[31m\r\nBcc: x", Issuer: "<script>"},
		"no UTF-8":           {UserName: "a", Extensions: map[int]string{9: "\xff\xfe", 1: "\xff"}},
		"huge":               {Email: strings.Repeat("a", 1<<16)},
		"nothing":            {},
	} {
		if _, err := newCA(t).Issue(id); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRekorV1LeavesAreCanonicalToRekor(t *testing.T) {
	ca := newCA(t)
	cert := issued(t, ca, github())
	bare, err := NewKeySigner()
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	payload := []byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"app","digest":{"sha256":"00"}}]}`)
	for name, row := range map[string]struct {
		make          func() ([]byte, error)
		kind, version string
		signers       []Signer
	}{
		"hashedrekord by certificate": {func() ([]byte, error) { return HashedRekordV001(cert, payload) }, "hashedrekord", "0.0.1", []Signer{cert}},
		"hashedrekord by key":         {func() ([]byte, error) { return HashedRekordV001(bare, payload) }, "hashedrekord", "0.0.1", []Signer{bare}},
		"hashedrekord by P-384":       {func() ([]byte, error) { return HashedRekordV001(Signer{Key: p384}, payload) }, "hashedrekord", "0.0.1", []Signer{{Key: p384}}},
		"hashedrekord by Ed25519":     {func() ([]byte, error) { s := Signer{Key: edKey(t)}; return HashedRekordV001(s, payload) }, "hashedrekord", "0.0.1", nil},
		"dsse":                        {func() ([]byte, error) { return DSSEV001(payload, cert) }, "dsse", "0.0.1", []Signer{cert}},
		"dsse by two":                 {func() ([]byte, error) { return DSSEV001(payload, cert, bare) }, "dsse", "0.0.1", []Signer{cert, bare}},
		"intoto":                      {func() ([]byte, error) { return IntotoV002(payload, cert) }, "intoto", "0.0.2", []Signer{cert}},
	} {
		t.Run(name, func(t *testing.T) {
			leaf, err := row.make()
			if err != nil {
				t.Fatal(err)
			}
			e := unmarshalV1(t, leaf)
			if again, err := types.CanonicalizeEntry(t.Context(), e); err != nil || !bytes.Equal(again, leaf) && row.kind != "dsse" {
				t.Errorf("canonicalized again (%v):\n%s\nwant\n%s", err, again, leaf)
			}
			var head struct{ Kind, APIVersion string }
			if err := json.Unmarshal(leaf, &head); err != nil || head.Kind != row.kind || head.APIVersion != row.version {
				t.Errorf("entry %+v (%v), want %s %s", head, err, row.kind, row.version)
			}
			checkVerifiers(t, e, row.signers)
		})
	}
}

func unmarshalV1(t *testing.T, leaf []byte) types.EntryImpl {
	t.Helper()
	pe, err := models.UnmarshalProposedEntry(bytes.NewReader(leaf), runtime.JSONConsumer())
	if err != nil {
		t.Fatal(err)
	}
	e, err := types.UnmarshalEntry(pe)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// checkVerifiers compares with what rekor reads out of an entry, in any order.
func checkVerifiers(t *testing.T, e types.EntryImpl, signers []Signer) {
	t.Helper()
	verifiers, err := e.Verifiers()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, v := range verifiers {
		b, err := v.CanonicalValue()
		if err != nil {
			t.Fatal(err)
		}
		got[string(b)] = true
	}
	for _, s := range signers {
		want, err := s.PEM()
		if err != nil {
			t.Fatal(err)
		}
		if !got[string(want)] {
			t.Errorf("%d verifiers, none of them is %s", len(got), want)
		}
	}
}

func TestRekorV2LeavesAreTheServers(t *testing.T) {
	bare, err := NewKeySigner()
	if err != nil {
		t.Fatal(err)
	}
	artifact := []byte("artifact")
	digest := sha256.Sum256(artifact)
	for name, s := range map[string]Signer{"certificate": issued(t, newCA(t), github()), "key": bare, "Ed25519": {Key: edKey(t)}} {
		t.Run(name, func(t *testing.T) {
			leaf, err := HashedRekordV002(s, artifact)
			if err != nil {
				t.Fatal(err)
			}
			e := unmarshalV2(t, leaf).GetSpec().GetHashedRekordV002()
			if name != "Ed25519" { // whose hash is SHA-512
				want, err := hashedrekord.ToEntryHash(digest[:], e.GetSignature())
				if got := rfc6962.DefaultHasher.HashLeaf(leaf); err != nil || !bytes.Equal(got, want) {
					t.Errorf("leaf hash %x, rekor-tiles computes %x (%v)", got, want, err)
				}
				verifySHA256(t, s, artifact, e.GetSignature().GetContent())
			}
			leaf, err = DSSEV002(artifact, s, bare)
			if err != nil {
				t.Fatal(err)
			}
			d := unmarshalV2(t, leaf).GetSpec().GetDsseV002()
			if sigs := d.GetSignatures(); len(sigs) != 2 || bytes.Compare(sigs[0].GetContent(), sigs[1].GetContent()) >= 0 ||
				!bytes.Equal(d.GetPayloadHash().GetDigest(), digest[:]) {
				t.Errorf("dsse entry %s", leaf)
			}
			if name == "key" {
				verifySHA256(t, s, dsse.PAE(InTotoPayload, artifact), d.GetSignatures()[0].GetContent())
			}
		})
	}
}

func unmarshalV2(t *testing.T, leaf []byte) *rekorv2.Entry {
	t.Helper()
	var e rekorv2.Entry
	if err := protojson.Unmarshal(leaf, &e); err != nil {
		t.Fatal(err)
	}
	return &e
}

func verifySHA256(t *testing.T, s Signer, message, sig []byte) {
	t.Helper()
	v, err := signature.LoadVerifier(s.Key.Public(), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.VerifySignature(bytes.NewReader(sig), bytes.NewReader(message)); err != nil {
		t.Error(err)
	}
}

func TestSyntheticLeavesAreUniqueAndParse(t *testing.T) {
	ca := newCA(t)
	signers := []Signer{issued(t, ca, github()), issued(t, ca, Identity{Email: "me@example.com", Issuer: "https://accounts.google.com"})}
	v1, err := Synthetic(HashedRekordV001, signers...)
	if err != nil {
		t.Fatal(err)
	}
	v2, err := Synthetic(HashedRekordV002, signers...)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(v2(0)); n < 2200 || n > 2700 {
		t.Errorf("a synthetic Rekor v2 leaf has %d bytes, a real one 2.3 kB", n)
	}
	seen := map[string]uint64{}
	for _, i := range []uint64{0, 1, 2, 3, 255, 256, 1 << 20, 1<<63 + 1, 1<<64 - 1} {
		for _, leaf := range [][]byte{v1(i), v2(i)} {
			if other, ok := seen[string(leaf)]; ok {
				t.Errorf("leaf %d is leaf %d", i, other)
			}
			seen[string(leaf)] = i
		}
		if !bytes.Equal(v1(i), v1(i)) {
			t.Errorf("leaf %d is not always the same", i)
		}
		checkSynthetic(t, v1(i), v2(i), i)
	}
}

// checkSynthetic parses both forms; rekor verifies the signature as it unmarshals.
func checkSynthetic(t *testing.T, v1, v2 []byte, i uint64) {
	t.Helper()
	verifiers, err := unmarshalV1(t, v1).Verifiers()
	if err != nil {
		t.Fatal(err)
	}
	pem, err := verifiers[0].CanonicalValue()
	if err != nil {
		t.Fatal(err)
	}
	certs, err := cryptoutils.UnmarshalCertificatesFromPEM(pem)
	if err != nil || len(certs) != 1 {
		t.Fatalf("leaf %d: %d certificates (%v)", i, len(certs), err)
	}
	der := unmarshalV2(t, v2).GetSpec().GetHashedRekordV002().GetSignature().GetVerifier().GetX509Certificate().GetRawBytes()
	if !bytes.Equal(certs[0].Raw, der) {
		t.Errorf("leaf %d: another certificate in its two forms", i)
	}
}

func TestSyntheticNeedsCertificates(t *testing.T) {
	bare, err := NewKeySigner()
	if err != nil {
		t.Fatal(err)
	}
	for name, signers := range map[string][]Signer{"no signer": nil, "a bare key": {bare}} {
		if _, err := Synthetic(HashedRekordV002, signers...); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
