package entry

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

const logged = 1767225600123 // 2026-01-01, and 123 ms

// certificateLeaf and precertificateLeaf are leaves as the CT library writes them.
func certificateLeaf(t testing.TB, cert, extensions []byte) []byte {
	t.Helper()
	return marshalLeaf(t, ct.TimestampedEntry{Timestamp: logged, EntryType: ct.X509LogEntryType, X509Entry: &ct.ASN1Cert{Data: cert}, Extensions: extensions})
}

func precertificateLeaf(t testing.TB, tbs, extensions []byte) []byte {
	t.Helper()
	return marshalLeaf(t, ct.TimestampedEntry{Timestamp: logged, EntryType: ct.PrecertLogEntryType, Extensions: extensions,
		PrecertEntry: &ct.PreCert{IssuerKeyHash: issuerKey, TBSCertificate: tbs}})
}

var issuerKey = [32]byte{1, 2, 3, 31: 9}

func marshalLeaf(t testing.TB, e ct.TimestampedEntry) []byte {
	t.Helper()
	b, err := tls.Marshal(ct.MerkleTreeLeaf{Version: ct.V1, LeafType: ct.TimestampedEntryLeafType, TimestampedEntry: &e})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// pair is a certificate and its precertificate, as public-good Fulcio makes them.
func pair(t testing.TB, id tlogtest.Identity) (final []byte, submitted tlogtest.CTEntry) {
	t.Helper()
	ca, err := tlogtest.NewCA("sigstore.test")
	if err != nil {
		t.Fatal(err)
	}
	s, submitted, err := ca.IssuePrecertified(id)
	if err != nil {
		t.Fatal(err)
	}
	return s.Certificate, submitted
}

func TestACTLeafNamesItsSigner(t *testing.T) {
	final, submitted := pair(t, tlogtest.Identity{Email: "alice@example.com", Issuer: "https://issuer.example.com",
		Extensions: map[int]string{9: "https://example.com/build"}})
	for name, extensions := range map[string][]byte{"RFC 6962": nil, "static-ct-api": {0, 0, 5, 0, 0, 0, 0, 7}} {
		t.Run(name, func(t *testing.T) {
			e, err := ParseCT(certificateLeaf(t, final, extensions))
			if err != nil {
				t.Fatal(err)
			}
			want, err := FromCertificate(final)
			if err != nil {
				t.Fatal(err)
			}
			checkCT(t, e, "certificate", want)

			e, err = ParseCT(precertificateLeaf(t, submitted.TBS, extensions))
			if err != nil {
				t.Fatal(err)
			}
			want.Certificate, want.Fingerprint, want.TBS, want.IssuerKeyHash = nil, "", submitted.TBS, issuerKey
			want.Extensions = slices.DeleteFunc(want.Extensions, func(x Extension) bool { return x.OID == "1.3.6.1.4.1.11129.2.4.2" })
			checkCT(t, e, "precertificate", want)
		})
	}
}

func checkCT(t *testing.T, e *Entry, kind string, want Signer) {
	t.Helper()
	if at := time.UnixMilli(logged).UTC(); e.Kind != kind || e.Version != "v1" || e.Logged != at || e.Digests != nil {
		t.Errorf("got %s %s logged %v with digests %q, want %s v1 logged %v without", e.Kind, e.Version, e.Logged, e.Digests, kind, at)
	}
	if len(e.Signers) != 1 || !reflect.DeepEqual(e.Signers[0], want) {
		t.Errorf("%s: got signers\n%+v\nwant one\n%+v", kind, e.Signers, want)
	}
	if s := e.Signers[0]; !slices.Equal(s.Subjects, []string{"alice@example.com"}) || s.Issuer != "https://issuer.example.com" {
		t.Errorf("%s: got %q, issuer %q, want Alice's", kind, s.Subjects, s.Issuer)
	}
}

// goodCertificates are certificates that crypto/x509 reads: real, as Fulcio makes
// them, and with every kind of name.
func goodCertificates(t testing.TB) map[string][]byte {
	t.Helper()
	_, fulcioLike := fulcioCertificate(t)
	_, plain := selfSigned(t, &x509.Certificate{SerialNumber: big.NewInt(8)})
	final, submitted := pair(t, tlogtest.Identity{URI: "https://example.com/workflow", Issuer: "https://issuer.example.com"})
	userName, _ := pair(t, tlogtest.Identity{UserName: "alice!example.com", Issuer: "https://issuer.example.com"})
	good := map[string][]byte{"Fulcio's": fulcioLike.Raw, "every name": everyName(t).Raw, "plain": plain.Raw, "final": final,
		"precertificate": submitted.Precertificate, "user name": userName}
	for _, name := range leafNames(t) {
		if !strings.HasPrefix(name, "public-good-") {
			continue
		}
		e, err := Parse(readLeaf(t, name))
		if err != nil {
			t.Fatal(err)
		}
		if cert := e.Signers[0].Certificate; cert != nil {
			good[name] = cert
		}
	}
	return good
}

func TestCTLeavesReadAsTheCTLibraryReadsThem(t *testing.T) {
	for name, cert := range goodCertificates(t) {
		parsed, err := x509.ParseCertificate(cert)
		if err != nil {
			t.Fatal(err)
		}
		leaf := certificateLeaf(t, cert, nil)
		checkAgainstLibrary(t, name, leaf)
		e, err := ParseCT(leaf)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := checkCertificate(parsed, e.Signers[0]); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		leaf = precertificateLeaf(t, parsed.RawTBSCertificate, nil)
		checkAgainstLibrary(t, name, leaf)
		if _, err := ParseCT(leaf); err != nil {
			t.Errorf("TBSCertificate of %s: %v", name, err)
		}
	}
}

// body is the TBSCertificate of a certificate that hostile made.
func body(t testing.TB, extensions ...ext) []byte {
	t.Helper()
	input := cryptobyte.String(hostile(extensions...))
	var outer, tbs cryptobyte.String
	if !input.ReadASN1(&outer, der.SEQUENCE) || !outer.ReadASN1Element(&tbs, der.SEQUENCE) {
		t.Fatal("hostile made no certificate")
	}
	return tbs
}

func TestHostileCTLeavesGiveWhatCanBeRead(t *testing.T) {
	const email = 1
	san := ext{oidSAN, names(email, "a@b")}
	cert, tbs := hostile(san), body(t, san)
	user, err := cryptoutils.MarshalOtherNameSAN("alice", true)
	if err != nil {
		t.Fatal(err)
	}
	big := ext{oidSAN, names(email, strings.Repeat("x", 1<<20)+"@b")}
	many := make([]any, 0, 10000)
	var wantMany []string
	for i := range 5000 {
		name := fmt.Sprintf("%d@b", i)
		many, wantMany = append(many, email, name), append(wantMany, name)
	}
	lie := func(leaf []byte, at int, b byte) []byte {
		leaf = bytes.Clone(leaf)
		leaf[at] = b
		return leaf
	}
	c, p := certificateLeaf(t, cert, nil), precertificateLeaf(t, tbs, nil)
	indefinite := append([]byte{0x30, 0x80}, append(bytes.Clone(tbs[4:]), 0, 0)...)
	octets, err := asn1.Marshal(tbs)
	if err != nil {
		t.Fatal(err)
	}
	ab := []string{"a@b"}
	const header, keyHash = 12, 32
	for name, test := range map[string]struct {
		leaf     []byte
		subjects []string
		issuer   string
		err      string
	}{
		"a certificate":                     {leaf: c, subjects: ab},
		"a precertificate":                  {leaf: p, subjects: ab},
		"negative serial number":            {leaf: p, subjects: ab}, // as hostile makes them all
		"NUL, bidi, no UTF-8":               {leaf: precertificateLeaf(t, body(t, ext{oidSAN, names(email, "a\x00\u202e\xff@b")}), nil), subjects: []string{"a\x00\u202e\xff@b"}},
		"empty name":                        {leaf: precertificateLeaf(t, body(t, ext{oidSAN, names(email, "")}), nil), subjects: []string{""}},
		"empty list of names":               {leaf: precertificateLeaf(t, body(t, ext{oidSAN, names()}), nil)},
		"empty SAN extension":               {leaf: precertificateLeaf(t, body(t, ext{oidSAN, nil}), nil), err: "names are malformed"},
		"user name":                         {leaf: precertificateLeaf(t, body(t, ext{oidSAN, user.Value}), nil), subjects: []string{"alice"}},
		"five thousand names":               {leaf: precertificateLeaf(t, body(t, ext{oidSAN, names(many...)}), nil), subjects: wantMany},
		"a megabyte":                        {leaf: precertificateLeaf(t, body(t, san, big), nil), subjects: []string{"a@b", strings.Repeat("x", 1<<20) + "@b"}},
		"no extensions":                     {leaf: precertificateLeaf(t, body(t), nil)},
		"two SAN extensions":                {leaf: precertificateLeaf(t, body(t, san, ext{oidSAN, names(email, "c@d")}), nil), subjects: []string{"a@b", "c@d"}},
		"two issuers":                       {leaf: precertificateLeaf(t, body(t, san, ext{oidIssuerV2, utf8("https://one")}, ext{oidIssuerV2, utf8("https://two")}), nil), subjects: ab, issuer: "https://one"},
		"two lists of extensions":           {leaf: precertificateLeaf(t, second(t, tbs, ext{oidSAN, names(email, "c@d")}), nil), subjects: []string{"a@b", "c@d"}},
		"two lists in one wrapper":          {leaf: precertificateLeaf(t, extended(t, sanElement(t), sanElement(t)), nil), subjects: []string{"a@b", "a@b"}},
		"serial number of another type":     {leaf: precertificateLeaf(t, bytes.Replace(tbs, []byte{0x02, 0x02}, []byte{0x04, 0x02}, 1), nil), subjects: ab, err: "fields before its extensions are malformed"},
		"poison left in":                    {leaf: precertificateLeaf(t, body(t, san, ext{oidPoison, asn1.NullBytes}), nil), subjects: ab},
		"a certificate for TBSCertificate":  {leaf: precertificateLeaf(t, cert, nil), subjects: ab, err: "not a TBSCertificate but a certificate"},
		"a TBSCertificate for certificate":  {leaf: certificateLeaf(t, tbs, nil), subjects: ab, err: "not a certificate but a TBSCertificate"},
		"TBSCertificate in an OCTET STRING": {leaf: precertificateLeaf(t, octets, nil), err: "not a DER TBSCertificate"},
		"TBSCertificate without its tag":    {leaf: precertificateLeaf(t, tbs[4:], nil), err: "not a DER TBSCertificate"},
		"bytes after the TBSCertificate":    {leaf: precertificateLeaf(t, append(bytes.Clone(tbs), 0), nil), subjects: ab, err: "1 bytes after its end"},
		"bytes after the certificate":       {leaf: certificateLeaf(t, append(bytes.Clone(cert), 0), nil), subjects: ab, err: "1 bytes after its end"},
		"indefinite length":                 {leaf: precertificateLeaf(t, indefinite, nil), err: "not a DER TBSCertificate"},
		"length that is not minimal":        {leaf: precertificateLeaf(t, append([]byte{0x30, 0x83, 0, byte(len(tbs[2:]) >> 8), byte(len(tbs[2:]))}, tbs[2:]...), nil), err: "not a DER TBSCertificate"},
		"no DER":                            {leaf: certificateLeaf(t, []byte("no DER"), nil), err: "not a DER certificate"},
		"no certificate at all":             {leaf: append(c[:header:header], 0, 0, 0, 0, 0), err: "not a DER certificate"},
		"bytes after the leaf":              {leaf: append(bytes.Clone(p), 1, 2, 3), subjects: ab, err: "3 bytes after the leaf's end"},
		"no leaf extensions":                {leaf: p[:len(p)-2], subjects: ab, err: "the leaf's extensions are malformed"},
		"leaf extensions beyond the end":    {leaf: lie(c, len(c)-1, 1), subjects: ab, err: "the leaf's extensions are malformed"},
		"length beyond the leaf":            {leaf: lie(c, header, 0xff), subjects: ab, err: "the leaf ends before its certificate does"},
		"length beyond the leaf, precert":   {leaf: lie(p, header+keyHash, 0xff), subjects: ab, err: "the leaf ends before its certificate does"},
		"length short of the certificate":   {leaf: lie(c, header+2, c[header+2]-1), err: "not a DER certificate"},
		"cut in its length":                 {leaf: p[:header+keyHash+2], err: "the leaf ends before its certificate does"},
		"logged beyond all years":           {leaf: lie(c, 2, 0xff), subjects: ab, err: "timestamp is out of range"},
		"ends in the year 10000":            {leaf: certificateLeaf(t, generalized(cert, "99991231235959-0100"), nil), subjects: ab, err: "validity is malformed"},
		"starts before the year 0":          {leaf: certificateLeaf(t, generalized(cert, "00000101000000+0100"), nil), subjects: ab, err: "validity is malformed"},
	} {
		e, err := ParseCT(test.leaf)
		if (err != nil) != (test.err != "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: got error %.300v, want %q", name, err, test.err)
		}
		if e == nil {
			t.Errorf("%s: got no entry", name)
			continue
		}
		s := e.Signers[0]
		if !reflect.DeepEqual(s.Subjects, test.subjects) || s.Issuer != test.issuer {
			t.Errorf("%s: got %.200q, issuer %q, want %.200q, issuer %q", name, s.Subjects, s.Issuer, test.subjects, test.issuer)
		}
		// What a finding is made of can be written.
		for _, at := range []time.Time{e.Logged, s.NotBefore, s.NotAfter} {
			if _, err := json.Marshal(at); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// second is tbs with another list of extensions behind its own.
func second(t testing.TB, tbs []byte, extensions ...ext) []byte {
	t.Helper()
	other := cryptobyte.String(body(t, extensions...))
	input := cryptobyte.String(tbs)
	var all, contents, field cryptobyte.String
	var tag der.Tag
	if !input.ReadASN1(&all, der.SEQUENCE) || !other.ReadASN1(&contents, der.SEQUENCE) {
		t.Fatal("no TBSCertificate")
	}
	for tag != tagExtensions {
		if !contents.ReadAnyASN1Element(&field, &tag) {
			t.Fatal("no extensions")
		}
	}
	var b cryptobyte.Builder
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(all); b.AddBytes(field) })
	return b.BytesOrPanic()
}

// generalized is a certificate of hostile's with another validity, of equal ends.
func generalized(cert []byte, at string) []byte {
	text := func(tag byte, s string) string { return string([]byte{tag, byte(len(s))}) + s }
	old := text(0x17, "260101000000Z") + text(0x17, "250101000000Z")
	times := text(0x18, at) + text(0x18, at)
	cert = bytes.Replace(cert, []byte(text(0x30, old)), []byte(text(0x30, times)), 1)
	// The lengths of certificate and TBSCertificate, one byte each.
	cert[1] += byte(len(times) - len(old))
	cert[3] += byte(len(times) - len(old))
	return cert
}

func TestCTLeavesThatCannotBeParsedAreErrors(t *testing.T) {
	_, fulcioLike := fulcioCertificate(t)
	leaf := certificateLeaf(t, fulcioLike.Raw, nil)
	set := func(at int, b byte) []byte {
		leaf := bytes.Clone(leaf)
		leaf[at] = b
		return leaf
	}
	for name, test := range map[string]struct {
		leaf []byte
		err  string
		kind *UnknownKindError
	}{
		"nothing":                {leaf: nil, err: "leaf is empty"},
		"one byte":               {leaf: leaf[:1], err: "leaf of 1 bytes ends before its entry"},
		"ends in its timestamp":  {leaf: leaf[:9], err: "leaf of 9 bytes ends before its entry"},
		"ends in its type":       {leaf: leaf[:11], err: "leaf of 11 bytes ends before its entry"},
		"ends in the key hash":   {leaf: append(set(11, 1)[:12:12], make([]byte, 31)...), err: "leaf of 43 bytes ends before its TBSCertificate"},
		"an unknown version":     {leaf: set(0, 1), kind: &UnknownKindError{"MerkleTreeLeaf", "v2"}},
		"the last version":       {leaf: set(0, 255), kind: &UnknownKindError{"MerkleTreeLeaf", "v256"}},
		"an unknown leaf type":   {leaf: set(1, 7), kind: &UnknownKindError{"leaf type 7", "v1"}},
		"an unknown entry type":  {leaf: set(11, 2), kind: &UnknownKindError{"entry type 2", "v1"}},
		"a far-off entry type":   {leaf: set(10, 0x80), kind: &UnknownKindError{"entry type 32768", "v1"}},
		"JSON, as Rekor's":       {leaf: []byte(`{"apiVersion":"0.0.1"}`), kind: &UnknownKindError{"MerkleTreeLeaf", "v124"}},
		"a bare DER certificate": {leaf: fulcioLike.Raw, kind: &UnknownKindError{"MerkleTreeLeaf", "v49"}},
	} {
		e, err := ParseCT(test.leaf)
		if e != nil || err == nil {
			t.Errorf("%s: got %+v, %v, want no entry and an error", name, e, err)
			continue
		}
		var unknown *UnknownKindError
		if errors.As(err, &unknown); !reflect.DeepEqual(unknown, test.kind) || !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: got %v, want %v %s", name, err, test.kind, test.err)
		}
	}
}

func TestParseCTKeepsOfTheLeafOnlyTheCertificate(t *testing.T) {
	final, submitted := pair(t, tlogtest.Identity{UserName: "alice!example.com", Issuer: "https://issuer.example.com"})
	for name, leaf := range map[string][]byte{"certificate": certificateLeaf(t, final, nil), "precertificate": precertificateLeaf(t, submitted.TBS, nil)} {
		got, err := ParseCT(leaf)
		if err != nil {
			t.Fatal(err)
		}
		want, err := ParseCT(bytes.Clone(leaf))
		if err != nil {
			t.Fatal(err)
		}
		clear(leaf)
		for _, e := range []*Entry{got, want} {
			e.Signers[0].Certificate, e.Signers[0].TBS = nil, nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: the entry changed with the leaf's buffer", name)
		}
	}
}

// TestAHugeLeafTakesBoundedMemory has leaves of 16 MiB that are all names, all
// extensions, all of what is neither, and one OID, which to write in decimal would take
// hours. What is wrong with each of millions is said once.
func TestAHugeLeafTakesBoundedMemory(t *testing.T) {
	const size = 1<<24 - 1<<10
	san := ext{oidSAN, names(1, "a@b")}
	element := []byte{0x30, 5, 6, 1, 0x2a, 4, 0} // an extension, as small as they get
	for name, test := range map[string]struct {
		tbs      []byte
		subjects int
		err      string
	}{
		"names":            {body(t, san, ext{oidSAN, sequence(bytes.Repeat([]byte{0x81, 0}, size/2))}), maxNames, "more than 262144 subject alternative names"},
		"extensions":       {extended(t, append(bytes.Repeat(element, size/len(element)), sanElement(t)...)), 1, "more than 65536 extensions"},
		"OID":              {body(t, san, ext{"\x2a" + strings.Repeat("\xff", size) + "\x01", nil}), 1, "OID is malformed"},
		"odd names":        {body(t, ext{oidSAN, sequence(append(bytes.Repeat([]byte{0xa1, 0}, size/2), "\x81\x03a@b"...))}), 1, "unknown tag"},
		"odd tags":         {body(t, ext{oidSAN, sequence(append(bytes.Repeat([]byte{0x9f, 31, 0}, size/3), "\x81\x03a@b"...))}), 1, "names are malformed"},
		"OtherNames":       {body(t, san, ext{oidSAN, sequence(bytes.Repeat([]byte(tlv(0xa0, tlv(6, oidOtherName))), size/14))}), 1, "OtherName is malformed"},
		"IP addresses":     {body(t, san, ext{oidSAN, sequence(bytes.Repeat([]byte{0x87, 0}, size/2))}), 1, "an IP address is malformed"},
		"SANs":             {extended(t, bytes.Repeat(sanElement(t), size/len(sanElement(t)))), maxNames, "more than 262144 subject alternative names"},
		"odd extensions":   {extended(t, append(bytes.Repeat([]byte{5, 0}, size/2), sanElement(t)...)), 1, "an extension is malformed"},
		"extensions' tags": {extended(t, append(bytes.Repeat([]byte{0x3f, 31, 0}, size/3), sanElement(t)...)), 1, "extensions are malformed"},
		"OIDs":             {body(t, slices.Repeat([]ext{{"\x2a" + strings.Repeat("\xff", maxOID-2) + "\x01", nil}, san}, 1000)...), 1000, ""},
	} {
		leaf := precertificateLeaf(t, test.tbs, nil)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		e, err := ParseCT(leaf)
		runtime.ReadMemStats(&after)
		if e == nil || len(e.Signers[0].Subjects) != test.subjects || (err == nil) != (test.err == "") || err != nil && (!strings.Contains(err.Error(), test.err) || len(err.Error()) > 300) {
			t.Errorf("%s: got %v and not %d subjects, want them and %q", name, err, test.subjects, test.err)
		}
		// Slices grow by copying, so this is more than is ever held.
		if got := after.TotalAlloc - before.TotalAlloc; got > 4*size {
			t.Errorf("%s: allocated %d MiB for a leaf of %d MiB", name, got>>20, len(leaf)>>20)
		}
	}
}

func sequence(contents []byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(contents) })
	return b.BytesOrPanic()
}

func sanElement(t testing.TB) []byte {
	t.Helper()
	b, err := asn1.Marshal(pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: names(1, "a@b")})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// extended is a TBSCertificate of hostile's with these lists of extensions, as they
// are.
func extended(t testing.TB, lists ...[]byte) []byte {
	t.Helper()
	input := cryptobyte.String(body(t))
	var all, field cryptobyte.String
	var tag der.Tag
	if !input.ReadASN1(&all, der.SEQUENCE) {
		t.Fatal("no TBSCertificate")
	}
	var b cryptobyte.Builder
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		for all.ReadAnyASN1Element(&field, &tag) && tag != tagExtensions {
			b.AddBytes(field)
		}
		if len(lists) == 0 {
			return
		}
		b.AddASN1(tagExtensions, func(b *cryptobyte.Builder) {
			for _, list := range lists {
				b.AddBytes(sequence(list))
			}
		})
	})
	return b.BytesOrPanic()
}

func TestAnyByteOfACTLeafAltered(t *testing.T) {
	_, fulcioLike := fulcioCertificate(t)
	stride := 1
	if testing.Short() {
		stride = 7
	}
	for name, leaf := range map[string][]byte{"certificate": certificateLeaf(t, fulcioLike.Raw, nil), "precertificate": precertificateLeaf(t, fulcioLike.RawTBSCertificate, []byte{1})} {
		for i := 0; i < len(leaf); i += stride {
			for _, flip := range []byte{0x01, 0x10, 0x80, 0xff} {
				altered := bytes.Clone(leaf)
				altered[i] ^= flip
				checkAgainstLibrary(t, fmt.Sprintf("%s, byte %d flipped by %#x", name, i, flip), altered)
			}
			checkAgainstLibrary(t, fmt.Sprintf("%s cut at %d", name, i), leaf[:i])
			if t.Failed() {
				t.FailNow()
			}
		}
	}
}

func FuzzParseCT(f *testing.F) {
	for _, cert := range goodCertificates(f) {
		f.Add(certificateLeaf(f, cert, nil))
		if tbs, ok := tbsOf(cert); ok {
			f.Add(precertificateLeaf(f, tbs, []byte{0, 0, 5, 0, 0, 0, 0, 7}))
		}
	}
	san := ext{oidSAN, names(1, "a@b", 7, "1234")}
	f.Add(precertificateLeaf(f, second(f, body(f, san), san), nil))
	f.Add(precertificateLeaf(f, hostile(san), nil))
	f.Add(precertificateLeaf(f, body(f, oddNames), nil))
	f.Add(precertificateLeaf(f, extended(f, slices.Concat([]byte("\x05\x00\x3f\x1f\x00\x30\x81\x00"), sanElement(f))), nil))
	f.Add(certificateLeaf(f, body(f, san, ext{oidPoison, asn1.NullBytes}, ext{oidSCTList, nil}), nil))
	f.Fuzz(func(t *testing.T, leaf []byte) { checkAgainstLibrary(t, "leaf", leaf) })
}
