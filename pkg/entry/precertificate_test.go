package entry

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"os"
	"strings"
	"testing"

	ct "github.com/google/certificate-transparency-go"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/google/certificate-transparency-go/x509util"
	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

func TestACertificateHasOneIDWhereverItIsFound(t *testing.T) {
	final, submitted := pair(t, tlogtest.Identity{Email: "alice@example.com", Issuer: "https://issuer.example.com"})
	want := fingerprintOf(submitted.TBS)
	leaf := readLeaf(t, "hashedrekord-0.0.2-certificate")
	inRekor, err := Parse(leaf)
	if err != nil {
		t.Fatal(err)
	}
	inRekor, err = Parse(bytes.Replace(leaf, []byte(base64Of(inRekor.Signers[0].Certificate)), []byte(base64Of(final)), 1))
	if err != nil {
		t.Fatal(err)
	}
	inCT, err := ParseCT(certificateLeaf(t, final, nil))
	if err != nil {
		t.Fatal(err)
	}
	precert, err := ParseCT(submitted.Leaf(7))
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]Signer{"Rekor": inRekor.Signers[0], "CT": inCT.Signers[0], "CT, precertificate": precert.Signers[0],
		"precertificate itself": {Type: X509, Certificate: submitted.Precertificate}} {
		if got := s.CertificateID(); got != want {
			t.Errorf("%s: got ID %q, want %q", name, got, want)
		}
	}
	again, _ := pair(t, tlogtest.Identity{Email: "alice@example.com", Issuer: "https://issuer.example.com"})
	if got := (&Signer{Certificate: again}).CertificateID(); got == want || got == "" {
		t.Errorf("another certificate of the same name: got ID %q, want its own", got)
	}
	key, err := Parse(readLeaf(t, "hashedrekord-key-p256"))
	if err != nil {
		t.Fatal(err)
	}
	if got := key.Signers[0].CertificateID(); got != "" {
		t.Errorf("a key: got ID %q, want none", got)
	}
}

func TestTheIDOfACertificateIsWhatTheCTLibraryWouldHash(t *testing.T) {
	withList := 0
	for name, raw := range goodCertificates(t) {
		cert, err := x509.ParseCertificate(raw)
		if err != nil {
			t.Fatal(err)
		}
		tbs := cert.RawTBSCertificate
		for _, remove := range []func([]byte) ([]byte, error){ctx509.RemoveSCTList, ctx509.RemoveCTPoison} {
			if without, err := remove(tbs); err == nil {
				tbs = without
				withList++
			}
		}
		if got, want := (&Signer{Certificate: raw}).CertificateID(), fingerprintOf(tbs); got != want {
			t.Errorf("%s: got ID %q, want %q", name, got, want)
		}
	}
	if withList < 5 {
		t.Errorf("%d certificates have an SCT list or poison, too few to show anything", withList)
	}
}

// TestTheIDCoversWhatTheCTLogSigned takes real certificates of the public-good Fulcio
// and verifies their SCTs over exactly the bytes that the ID is the hash of.
func TestTheIDCoversWhatTheCTLogSigned(t *testing.T) {
	text, err := os.ReadFile("../../testdata/trusted_root_public_good.json")
	if err != nil {
		t.Fatal(err)
	}
	type raw struct {
		RawBytes []byte `json:"rawBytes"`
	}
	var root struct {
		Ctlogs []struct {
			PublicKey raw `json:"publicKey"`
		} `json:"ctlogs"`
		CertificateAuthorities []struct {
			CertChain struct {
				Certificates []raw `json:"certificates"`
			} `json:"certChain"`
		} `json:"certificateAuthorities"`
	}
	if err := json.Unmarshal(text, &root); err != nil {
		t.Fatal(err)
	}
	verified := 0
	for name, cert := range goodCertificates(t) {
		scts, err := x509util.ParseSCTsFromCertificate(cert)
		if err != nil || len(scts) == 0 || !strings.HasPrefix(name, "public-good-") {
			continue
		}
		tbs, _ := tbsOf(cert)
		rest, n, ok := withoutExtensions(tbs, oidSCTList)
		if !ok || n != 1 || fingerprintOf(rest) != (&Signer{Certificate: cert}).CertificateID() {
			t.Errorf("%s: got %d SCT lists, %v; want 1, and its ID over the rest", name, n, ok)
			continue
		}
		parsed, err := x509.ParseCertificate(cert)
		if err != nil {
			t.Fatal(err)
		}
		for _, ca := range root.CertificateAuthorities {
			issuer, err := x509.ParseCertificate(ca.CertChain.Certificates[0].RawBytes)
			if err != nil || parsed.CheckSignatureFrom(issuer) != nil {
				continue
			}
			for _, log := range root.Ctlogs {
				if sha256.Sum256(log.PublicKey.RawBytes) != scts[0].LogID.KeyID {
					continue
				}
				key, err := x509.ParsePKIXPublicKey(log.PublicKey.RawBytes)
				if err != nil {
					t.Fatal(err)
				}
				verifier, err := ct.NewSignatureVerifier(key)
				if err != nil {
					t.Fatal(err)
				}
				entry := ct.LogEntry{Leaf: ct.MerkleTreeLeaf{TimestampedEntry: &ct.TimestampedEntry{EntryType: ct.PrecertLogEntryType,
					PrecertEntry: &ct.PreCert{IssuerKeyHash: sha256.Sum256(issuer.RawSubjectPublicKeyInfo), TBSCertificate: rest}}}}
				if err := verifier.VerifySCTSignature(*scts[0], entry); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				verified++
			}
		}
	}
	if verified == 0 {
		t.Error("verified no SCT")
	}
}

// rebuild is a certificate with its list of extensions changed by edit, and with
// more after the list, in its wrapper and in the TBSCertificate. Its signature stays.
func rebuild(t testing.TB, cert []byte, edit func(extensions []cryptobyte.String) []cryptobyte.String, inWrapper, inTBS []byte) []byte {
	t.Helper()
	input := cryptobyte.String(cert)
	var outer, tbs, wrapper, list cryptobyte.String
	if !input.ReadASN1(&outer, der.SEQUENCE) || !outer.ReadASN1(&tbs, der.SEQUENCE) {
		t.Fatal("not a certificate")
	}
	var b cryptobyte.Builder
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
			for !tbs.PeekASN1Tag(tagExtensions) {
				var field cryptobyte.String
				var tag der.Tag
				if !tbs.ReadAnyASN1Element(&field, &tag) {
					t.Fatal("no extensions")
				}
				b.AddBytes(field)
			}
			if !tbs.ReadASN1(&wrapper, tagExtensions) || !wrapper.ReadASN1(&list, der.SEQUENCE) {
				t.Fatal("extensions are malformed")
			}
			var extensions []cryptobyte.String
			for !list.Empty() {
				var element cryptobyte.String
				if !list.ReadASN1Element(&element, der.SEQUENCE) {
					t.Fatal("an extension is malformed")
				}
				extensions = append(extensions, element)
			}
			b.AddASN1(tagExtensions, func(b *cryptobyte.Builder) {
				b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
					for _, element := range edit(extensions) {
						b.AddBytes(element)
					}
				})
				b.AddBytes(inWrapper)
			})
			b.AddBytes(inTBS)
		})
		b.AddBytes(outer)
	})
	return b.BytesOrPanic()
}

// element is an extension as it lies in a list, with more at its end.
func element(oid string, value []byte, more ...byte) cryptobyte.String {
	var b cryptobyte.Builder
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(der.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes([]byte(oid)) })
		b.AddASN1OctetString(value)
		b.AddBytes(more)
	})
	return b.BytesOrPanic()
}

func TestNoOtherCertificateGetsTheIDOfACertificate(t *testing.T) {
	final, _ := pair(t, tlogtest.Identity{Email: "alice@example.com", Issuer: "https://issuer.example.com"})
	want := (&Signer{Certificate: final}).CertificateID()
	san := element(oidSAN, names(1, "mallory@example.com"))
	same := func(extensions []cryptobyte.String) []cryptobyte.String { return extensions }
	plus := func(more ...cryptobyte.String) func([]cryptobyte.String) []cryptobyte.String {
		return func(extensions []cryptobyte.String) []cryptobyte.String { return append(extensions, more...) }
	}
	list := func(elements ...cryptobyte.String) []byte {
		return sequence(bytes.Join(asBytes(elements), nil))
	}
	listed := func(elements ...cryptobyte.String) []byte {
		var b cryptobyte.Builder
		b.AddASN1(tagExtensions, func(b *cryptobyte.Builder) { b.AddBytes(list(elements...)) })
		return b.BytesOrPanic()
	}
	long := append([]byte{0x30, 0x83, 0, final[2], final[3]}, final[4:]...)
	seen := map[string]string{}
	for name, cert := range map[string][]byte{
		"another name":                             rebuild(t, final, plus(san), nil, nil),
		"another extension":                        rebuild(t, final, plus(element("\x2a\x03", nil)), nil, nil),
		"extensions in another order":              rebuild(t, final, swapped, nil, nil),
		"a second list in the wrapper":             rebuild(t, final, same, list(san), nil),
		"a second wrapper":                         rebuild(t, final, same, nil, listed(san)),
		"a field behind the wrapper":               rebuild(t, final, same, nil, []byte{5, 0}),
		"bytes at an extension's end":              rebuild(t, final, plus(element("\x2a\x03", nil, 5, 0)), nil, nil),
		"an extension that is none":                rebuild(t, final, plus(cryptobyte.String{0x30, 2, 5, 0}), nil, nil),
		"a name for an extension":                  rebuild(t, final, plus(cryptobyte.String{0x04, 1, 'a'}), nil, nil),
		"a second SCT list":                        rebuild(t, final, plus(element(oidSCTList, nil)), nil, nil),
		"SCT list and poison":                      rebuild(t, final, plus(element(oidPoison, asn1.NullBytes)), nil, nil),
		"a name under almost the SCT list's OID":   rebuild(t, final, plus(element("\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x80\x02", san)), nil, nil),
		"a name under an OID below the SCT list's": rebuild(t, final, plus(element(oidSCTList+"\x01", san)), nil, nil),
		"bytes after its end":                      append(bytes.Clone(final), 0),
		"length that is not minimal":               long,
		"TBSCertificate alone":                     final[4 : 4+len(mustTBS(t, final))],
		"nothing":                                  nil,
	} {
		got := (&Signer{Certificate: cert}).CertificateID()
		if got == want {
			t.Errorf("%s: has the certificate's ID", name)
		}
		if other, ok := seen[got]; ok && got != "" {
			t.Errorf("%s: has the ID of %s", name, other)
		}
		seen[got] = name
		// The same in a CT log, which keeps what it was given.
		if tbs, ok := tbsOf(cert); ok && (&Signer{TBS: tbs}).CertificateID() != got {
			t.Errorf("%s: got ID %q, of its TBSCertificate %q", name, got, (&Signer{TBS: tbs}).CertificateID())
		}
	}
	if unchanged := rebuild(t, final, same, nil, nil); !bytes.Equal(unchanged, final) {
		t.Error("rebuild changes what it should not, so the test shows nothing")
	}
	for name, cert := range map[string][]byte{
		"the SCT list elsewhere": rebuild(t, final, func(all []cryptobyte.String) []cryptobyte.String {
			return append([]cryptobyte.String{all[len(all)-1]}, all[:len(all)-1]...)
		}, nil, nil),
		"other SCTs": rebuild(t, final, func(all []cryptobyte.String) []cryptobyte.String {
			return append(all[:len(all)-1], element(oidSCTList, nil))
		}, nil, nil),
		"another signature": append(bytes.Clone(final[:len(final)-1]), final[len(final)-1]^1),
	} {
		if got := (&Signer{Certificate: cert}).CertificateID(); got != want {
			t.Errorf("%s: got ID %q, want the certificate's", name, got)
		}
	}
}

func TestWhatIsNotLaidOutAsACertificateHasNoID(t *testing.T) {
	final, submitted := pair(t, tlogtest.Identity{Email: "alice@example.com"})
	input := cryptobyte.String(final)
	var fields cryptobyte.String
	if !input.ReadASN1(&fields, der.SEQUENCE) {
		t.Fatal("not a certificate")
	}
	long := append(bytes.Clone(submitted.TBS), 0)
	for name, s := range map[string]Signer{
		"nothing":                           {},
		"a TBSCertificate of no bytes":      {TBS: []byte{}},
		"a certificate as TBSCertificate":   {TBS: final},
		"a TBSCertificate as certificate":   {Certificate: submitted.TBS},
		"bytes after the TBSCertificate":    {TBS: long},
		"a field after the signature":       {Certificate: sequence(append(bytes.Clone(fields), 5, 0))},
		"no signature":                      {Certificate: sequence(mustTBS(t, final))},
		"extensions that end in the middle": {TBS: submitted.TBS[:len(submitted.TBS)-1]},
	} {
		if got := s.CertificateID(); got != "" {
			t.Errorf("%s: got ID %q, want none", name, got)
		}
	}
}

func asBytes(elements []cryptobyte.String) (out [][]byte) {
	for _, e := range elements {
		out = append(out, e)
	}
	return out
}

func swapped(extensions []cryptobyte.String) []cryptobyte.String {
	extensions[0], extensions[1] = extensions[1], extensions[0]
	return extensions
}

func mustTBS(t testing.TB, cert []byte) []byte {
	t.Helper()
	tbs, ok := tbsOf(cert)
	if !ok {
		t.Fatal("not a certificate")
	}
	return tbs
}

func TestTheIDCoversEveryByteThatIsNotTheSCTs(t *testing.T) {
	final, _ := pair(t, tlogtest.Identity{Email: "alice@example.com", Issuer: "https://issuer.example.com"})
	tbs := mustTBS(t, final)
	want := (&Signer{TBS: tbs}).CertificateID()
	// The list is the last extension: its value may change, and whether it is critical.
	at := bytes.Index(tbs, append([]byte{6, byte(len(oidSCTList))}, oidSCTList...))
	if at < 0 {
		t.Fatal("the certificate has no SCT list")
	}
	value := at + 2 + len(oidSCTList)
	inside := 0
	for i := range tbs {
		for _, flip := range []byte{0x01, 0x02, 0x10, 0x20, 0x80, 0xff} {
			altered := bytes.Clone(tbs)
			altered[i] ^= flip
			poison := i == value-1 && altered[i] == oidPoison[len(oidPoison)-1] // the two OIDs differ by a bit
			if got := (&Signer{TBS: altered}).CertificateID(); got == want && i < value && !poison {
				t.Errorf("byte %d flipped by %#x: the ID stays", i, flip)
			} else if got == want {
				inside++
			}
		}
	}
	if inside == 0 {
		t.Error("no byte of the SCT list is left out of the ID")
	}
}

func TestAPrecertificateIsCheckedAgainstTheLeaf(t *testing.T) {
	final, submitted := pair(t, tlogtest.Identity{UserName: "alice!example.com", Issuer: "https://issuer.example.com"})
	_, other := pair(t, tlogtest.Identity{UserName: "alice!example.com", Issuer: "https://issuer.example.com"})
	e, err := ParseCT(submitted.Leaf(-1))
	if err != nil {
		t.Fatal(err)
	}
	precert := submitted.Precertificate
	same := func(extensions []cryptobyte.String) []cryptobyte.String { return extensions }
	plus := func(more cryptobyte.String) []byte {
		return rebuild(t, precert, func(extensions []cryptobyte.String) []cryptobyte.String { return append(extensions, more) }, nil, nil)
	}
	mallory := element(oidSAN, names(1, "mallory@example.com"))
	for name, test := range map[string]struct {
		signer Signer
		der    []byte
		err    string // "" if it is the leaf's
	}{
		"the one submitted":                         {e.Signers[0], precert, ""},
		"another":                                   {e.Signers[0], other.Precertificate, "the leaf commits to " + fingerprintOf(submitted.TBS)},
		"the final certificate":                     {e.Signers[0], final, "0 poison extensions, want 1"},
		"the committed bytes in a certificate":      {e.Signers[0], wrap(submitted.TBS), "0 poison extensions, want 1"},
		"the TBSCertificate alone":                  {e.Signers[0], mustTBS(t, precert), "not a DER certificate"},
		"with another name":                         {e.Signers[0], plus(mallory), "the leaf commits to"},
		"with an SCT list":                          {e.Signers[0], plus(element(oidSCTList, nil)), "the leaf commits to"},
		"with two poisons":                          {e.Signers[0], plus(element(oidPoison, asn1.NullBytes)), "2 poison extensions"},
		"with a second list of extensions":          {e.Signers[0], rebuild(t, precert, same, sequence(mallory), nil), "its extensions are malformed"},
		"with a field behind its extensions":        {e.Signers[0], rebuild(t, precert, same, nil, []byte{5, 0}), "its extensions are malformed"},
		"with bytes after its end":                  {e.Signers[0], append(bytes.Clone(precert), 0), "not a DER certificate"},
		"garbage":                                   {e.Signers[0], []byte("garbage"), "not a DER certificate"},
		"nothing":                                   {e.Signers[0], nil, "not a DER certificate"},
		"nothing for a leaf that commits to none":   {Signer{}, nil, "commits to none"},
		"the right one for a leaf of a certificate": {Signer{Certificate: final}, precert, "commits to none"},
	} {
		err := test.signer.CheckPrecertificate(test.der)
		if (err != nil) != (test.err != "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: got %v, want %q", name, err, test.err)
		}
	}
}

func TestAPrecertificateWithoutOtherExtensionsLeavesNoList(t *testing.T) {
	rest, n, ok := withoutExtensions(body(t, ext{oidPoison, asn1.NullBytes}), oidPoison)
	if want := extended(t); !ok || n != 1 || !bytes.Equal(rest, want) {
		t.Errorf("got %x, %d, %v; want %x, without its list", rest, n, ok, want)
	}
}
