package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

func keyHash(cert *x509.Certificate) [32]byte { return sha256.Sum256(cert.RawSubjectPublicKeyInfo) }

func poisoned(critical bool) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: poison, Critical: critical, Value: asn1.NullBytes})
	}
}

func TestAPrecertificateIsTrustedUnderTheIssuerThatTheLeafNames(t *testing.T) {
	year := 365 * 24 * time.Hour
	root := issue(t, nil, true, noon.Add(-year), noon.Add(year), nil)
	link := issue(t, root, true, noon.Add(-year/2), noon.Add(year/2), nil)
	other := issue(t, nil, true, noon.Add(-year), noon.Add(year), nil)
	signing := func(usages ...x509.ExtKeyUsage) *issuer {
		return issue(t, link, true, noon.Add(-year/2), noon.Add(year/2), func(c *x509.Certificate) {
			c.ExtKeyUsage, c.UnknownExtKeyUsage = usages, []asn1.ObjectIdentifier{precertificateSigning}
		})
	}
	signer, both := signing(), signing(x509.ExtKeyUsageCodeSigning)
	leaf := func(ca *issuer, from time.Time, edits ...func(*x509.Certificate)) []byte {
		return issue(t, ca, false, from, from.Add(10*time.Minute), func(c *x509.Certificate) {
			for _, edit := range edits {
				edit(c)
			}
		}).cert.Raw
	}
	precert := func(ca *issuer, edits ...func(*x509.Certificate)) []byte {
		return leaf(ca, noon, append(edits, poisoned(true))...)
	}
	otherName := func(c *x509.Certificate) {
		ext, err := cryptoutils.MarshalOtherNameSAN("bob!example.com", true)
		if err != nil {
			t.Fatal(err)
		}
		c.EmailAddresses, c.ExtraExtensions = nil, append(c.ExtraExtensions, *ext)
	}
	unknownCritical := func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: []int{1, 2, 3}, Critical: true, Value: asn1.NullBytes})
	}
	serverAuth := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
	forged := precert(link)
	forged[len(forged)-1] ^= 1

	// A second CA certificate for link's key and name, under another root.
	otherRoot := issue(t, nil, true, noon.Add(-year), noon.Add(year), nil)
	crossed := &issuer{cert: crossSign(t, link, otherRoot), key: link.key}

	full, err := ReadChains(write(t, root), write(t, link), ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	rootOnly, err := ReadChains(write(t, other, root), "", ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	crossRoot, err := ReadChains(write(t, otherRoot), "", ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	limited := &Chains{authorities: []authority{full.authorities[0]}}
	limited.authorities[0].start = noon.Add(time.Second)
	twice := &Chains{authorities: []authority{limited.authorities[0], full.authorities[0]}}

	for _, tc := range []struct {
		name   string
		chains *Chains
		cert   []byte
		issuer *issuer
		served [][]byte
		err    string // "" if trusted
	}{
		{"long expired, valid then", full, precert(link), link, nil, ""},
		{"user name in a critical extension", full, precert(link, otherName), link, nil, ""},
		{"intermediate served", rootOnly, precert(link), link, [][]byte{[]byte("garbage"), link.cert.Raw, root.cert.Raw}, ""},
		{"intermediate served under a cross-signed name", crossRoot, precert(link), link, [][]byte{crossed.cert.Raw}, ""},
		{"under the second authority", twice, precert(link), link, nil, ""},
		{"the leaf names another issuer", full, precert(link), other, nil, "the log's leaf names"},
		{"the leaf names the root", full, precert(link), root, nil, "the log's leaf names"},
		{"from another CA", full, precert(other), other, nil, "unknown authority"},
		{"served with another root", full, precert(other), other, [][]byte{other.cert.Raw}, "unknown authority"},
		{"intermediate not known", rootOnly, precert(link), link, nil, "unknown authority"},
		{"intermediate served too late", rootOnly, precert(link), link, append(make([][]byte, maxServed), link.cert.Raw), "unknown authority"},
		{"before the authority", limited, precert(link), link, nil, "was not valid on 2026-01-01T12:00:00Z"},
		{"before the intermediate was valid", full, leaf(link, noon.Add(-year*3/4), poisoned(true)), link, nil, "expired or is not yet valid"},
		{"not for code signing", full, precert(link, serverAuth), link, nil, "incompatible key usage"},
		{"another critical extension", full, precert(link, unknownCritical), link, nil, "unhandled critical extension"},
		{"altered after it was signed", full, forged, link, nil, "authority"},
		{"no poison", full, leaf(link, noon), link, nil, "no critical poison"},
		{"poison that does not poison", full, leaf(link, noon, poisoned(false)), link, nil, "no critical poison"},
		{"from a precertificate signing certificate", full, precert(signer), link, [][]byte{signer.cert.Raw, link.cert.Raw}, "precertificate signing certificate"},
		{"from one that may sign code too", full, precert(both), link, [][]byte{both.cert.Raw, link.cert.Raw}, "precertificate signing certificate"},
		{"from one that the leaf names", full, precert(both), both, [][]byte{link.cert.Raw, both.cert.Raw}, "precertificate signing certificate"},
		{"garbage", full, []byte("garbage"), link, nil, "not a precertificate"},
		{"nothing", full, nil, link, nil, "not a precertificate"},
	} {
		trusted, known, err := tc.chains.CheckPrecertificate(tc.cert, keyHash(tc.issuer.cert), tc.served)
		if trusted != (tc.err == "") || !known || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: got trusted %v, known %v, %v; want trusted %v, known, an error with %q", tc.name, trusted, known, err, tc.err == "", tc.err)
		}
	}
	if trusted, known, err := new(Chains).CheckPrecertificate(precert(link), keyHash(link.cert), nil); trusted || known || err != nil {
		t.Errorf("no authorities: got %v %v %v, want neither trusted nor known", trusted, known, err)
	}
	if trusted, known, err := full.Check(precert(link), nil); trusted || !known || err == nil {
		t.Errorf("Check of a poisoned certificate: got trusted %v, known %v, %v; want it untrusted", trusted, known, err)
	}
}

// certify is a CA certificate for a key of any type and size.
func certify(t testing.TB, parent *issuer, public any, edit func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "link"}, NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(time.Hour),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign}
	if edit != nil {
		edit(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, public, parent.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// padded makes certificates of somewhat less than size bytes.
func padded(size int) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		const rest = 470 // of the certificates that issue and certify make
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: []int{1, 2, 3}, Value: make([]byte, size-rest)})
	}
}

// TestWhatWouldCostTooMuchIsRefusedAndSaid has certificates that would be trusted if
// they were smaller or fewer, and RSA keys that no signature is verified with.
func TestWhatWouldCostTooMuchIsRefusedAndSaid(t *testing.T) {
	year := 365 * 24 * time.Hour
	root := issue(t, nil, true, noon.Add(-year), noon.Add(year), nil)
	chains, err := ReadChains(write(t, root), "", ReadFile)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	modulus := func(bits uint) *rsa.PublicKey {
		n := new(big.Int).Lsh(big.NewInt(1), bits-1)
		return &rsa.PublicKey{N: n.SetBit(n, 0, 1), E: 65537}
	}
	link := func(public any) *x509.Certificate { return certify(t, root, public, nil) }
	leaf := func(parent *x509.Certificate, signer crypto.Signer, edit func(*x509.Certificate)) []byte {
		template := &x509.Certificate{SerialNumber: big.NewInt(3), NotBefore: noon, NotAfter: noon.Add(time.Minute),
			EmailAddresses: []string{"me@example.com"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}
		if edit != nil {
			edit(template)
		}
		// The signer's key need not be the parent's.
		parent = &x509.Certificate{RawSubject: parent.RawSubject, SubjectKeyId: parent.SubjectKeyId}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	plain, rsaLink := link(key.Public()), link(small.Public())
	large, huge := link(modulus(maxRSA)), link(modulus(maxRSA+1))
	fat, fatter := certify(t, root, key.Public(), padded(maxLink)), certify(t, root, key.Public(), padded(maxLink+500))
	// Two links between root and leaf, and two that say so but another of root's name signed.
	middle := issue(t, root, true, noon.Add(-year/2), noon.Add(year/2), nil)
	last := certify(t, middle, key.Public(), nil)
	stranger := issue(t, nil, true, noon.Add(-year), noon.Add(year), nil)
	strange := certify(t, stranger, modulus(2048), nil)
	for _, cert := range []*x509.Certificate{fat, fatter} {
		if n := len(cert.Raw); (n > maxLink) != (cert == fatter) {
			t.Fatalf("got links of %d bytes, the limit is %d", n, maxLink)
		}
	}
	badURI := func(c *x509.Certificate) {
		ext := pkix.Extension{Id: subjectAltName, Value: slices.Concat([]byte{0x30, 0x82, 0x10, 0x04, 0x86, 0x82, 0x10, 0x00}, make([]byte, 0x1000))}
		c.EmailAddresses, c.ExtraExtensions = nil, append(c.ExtraExtensions, ext)
	}

	for _, tc := range []struct {
		name   string
		cert   []byte
		served []*x509.Certificate
		err    string // "" if trusted
	}{
		{"a link", leaf(plain, key, nil), []*x509.Certificate{plain}, ""},
		{"an RSA link", leaf(rsaLink, small, nil), []*x509.Certificate{rsaLink}, ""},
		{"an RSA link of the largest size", leaf(large, small, nil), []*x509.Certificate{large}, "crypto/rsa"},
		{"an RSA link beyond it", leaf(huge, small, nil), []*x509.Certificate{plain, huge}, "certificate 2 that was served with it: an RSA key of 8193 bits"},
		{"a link of the largest size", leaf(fat, key, nil), []*x509.Certificate{fat}, ""},
		{"a link beyond it", leaf(fatter, key, nil), []*x509.Certificate{fatter}, "more than the 8192 that are considered"},
		{"a link that is none", leaf(plain, key, nil), []*x509.Certificate{{Raw: []byte("garbage")}}, "certificate 1 that was served with it: x509: malformed certificate"},
		{"a ninth link", leaf(plain, key, nil), append(slices.Repeat([]*x509.Certificate{rsaLink}, maxServed), plain), "9 certificates were served with it, the first 8 are considered"},
		{"an eighth link", leaf(plain, key, nil), append(slices.Repeat([]*x509.Certificate{rsaLink}, maxServed-1), plain), ""},
		{"two links", leaf(last, key, nil), []*x509.Certificate{last, middle.cert}, ""},
		{"two links, root's first", leaf(last, key, nil), []*x509.Certificate{middle.cert, last}, ""},
		{"an RSA link that root seems to have signed", leaf(strange, small, nil), []*x509.Certificate{strange, stranger.cert}, "unknown authority"},
		{"the largest certificate", leaf(plain, key, padded(maxCertificate)), []*x509.Certificate{plain}, ""},
		{"a larger one", leaf(plain, key, padded(maxCertificate+500)), []*x509.Certificate{plain}, "more than the 65536 that are considered"},
		{"one that the error quotes", leaf(plain, key, badURI), []*x509.Certificate{plain}, "cannot parse URI"},
	} {
		var served [][]byte
		for _, cert := range tc.served {
			served = append(served, cert.Raw)
		}
		trusted, known, err := chains.Check(tc.cert, served)
		if trusted != (tc.err == "") || !known || (err == nil) != trusted {
			t.Errorf("%s: got trusted %v, known %v, %v; want trusted %v, known", tc.name, trusted, known, err, tc.err == "")
		} else if err == nil {
			continue
		} else if text := err.Error(); !strings.Contains(text, tc.err) || len(text) > 1000 {
			t.Errorf("%s: got %.1000q, want a short error with %q", tc.name, text, tc.err)
		} else if tc.err != "crypto/rsa" && strings.Contains(text, "crypto/rsa") {
			t.Errorf("%s: got %q: its RSA key was used", tc.name, text)
		}
	}
	certs := func(certs ...*x509.Certificate) []*x509.Certificate { return certs }
	two := &Chains{authorities: []authority{newAuthority("stranger", certs(stranger.cert), nil), newAuthority("root", certs(root.cert), certs(middle.cert))}}
	if trusted, _, err := two.Check(leaf(last, key, nil), [][]byte{strange.Raw, last.Raw}); !trusted {
		t.Errorf("a link that the second authority's intermediate signed: got %v, want it trusted", err)
	}
	larger := leaf(plain, key, func(c *x509.Certificate) { poisoned(true)(c); padded(maxCertificate + 500)(c) })
	if trusted, known, err := chains.CheckPrecertificate(larger, keyHash(plain), [][]byte{plain.Raw}); trusted || !known || err == nil || !strings.Contains(err.Error(), "more than the 65536") {
		t.Errorf("a larger precertificate: got trusted %v, known %v, %v; want it untrusted for its size", trusted, known, err)
	}
}

// crossSign certifies ca's name and key under another root.
func crossSign(t testing.TB, ca, root *issuer) *x509.Certificate {
	t.Helper()
	template := *ca.cert
	template.SerialNumber = root.cert.SerialNumber
	return sign(t, &template, root, ca.key)
}

func sign(t testing.TB, template *x509.Certificate, parent *issuer, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, key.Public(), parent.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestWhatFulcioSubmitsToACTLogIsTrusted(t *testing.T) {
	ca, err := tlogtest.NewCA("sigstore.test")
	if err != nil {
		t.Fatal(err)
	}
	_, submitted, err := ca.IssuePrecertified(tlogtest.Identity{UserName: "alice!example.com", Issuer: "https://issuer.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	read := func(location string) ([]byte, error) { return ca.RootPEM(), nil }
	chains, err := ReadChains("root", "", read)
	if err != nil {
		t.Fatal(err)
	}
	if trusted, known, err := chains.CheckPrecertificate(submitted.Precertificate, submitted.IssuerKeyHash, submitted.Chain); !trusted || !known || err != nil {
		t.Errorf("got trusted %v, known %v, %v; want it trusted", trusted, known, err)
	}
	if trusted, _, _ := chains.CheckPrecertificate(submitted.Precertificate, submitted.IssuerKeyHash, nil); trusted {
		t.Error("trusted without its intermediate, want it untrusted")
	}
}

func FuzzCheckPrecertificateNeverPanics(f *testing.F) {
	root := issue(f, nil, true, noon.Add(-time.Hour), noon.Add(time.Hour), nil)
	good := issue(f, root, false, noon, noon.Add(time.Minute), poisoned(true)).cert.Raw
	chains, err := ReadChains(write(f, root), "", ReadFile)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, root.cert.Raw)
	f.Add([]byte{0x30, 0}, []byte(nil))
	f.Fuzz(func(t *testing.T, der, served []byte) {
		trusted, _, err := chains.CheckPrecertificate(der, keyHash(root.cert), [][]byte{served})
		if trusted != (err == nil) {
			t.Errorf("got trusted %v with error %v", trusted, err)
		}
		// Of all bytes only those that root signed are trusted; fuzzing does not find others.
		if trusted && !bytes.Equal(der, good) {
			t.Errorf("%x is trusted, want only what the CA signed", der)
		}
	})
}
