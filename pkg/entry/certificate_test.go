package entry

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

func TestCertificatesReadAsCryptoX509ReadsThem(t *testing.T) {
	_, fulcioLike := fulcioCertificate(t)
	user, err := cryptoutils.MarshalOtherNameSAN("alice!example.com", true)
	if err != nil {
		t.Fatal(err)
	}
	_, userName := selfSigned(t, &x509.Certificate{SerialNumber: big.NewInt(7), ExtraExtensions: []pkix.Extension{*user}})
	_, plain := selfSigned(t, &x509.Certificate{SerialNumber: big.NewInt(8)})
	_, v1Only := selfSigned(t, &x509.Certificate{SerialNumber: big.NewInt(9), ExtraExtensions: fulcioExtensions(t)[:1]})
	for name, cert := range map[string]*x509.Certificate{"Fulcio's": fulcioLike, "every name": everyName(t), "user name": userName, "plain": plain, "issuer 1.1 only": v1Only} {
		s, err := FromCertificate(cert.Raw)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if err := checkCertificate(cert, s); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAFulcioCertificateHasEveryExtensionByName(t *testing.T) {
	_, cert := fulcioCertificate(t)
	s, err := FromCertificate(cert.Raw)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range s.Extensions {
		if e.Name != "" && e.Name != "issuer" {
			got[e.Name] = e.Value
		}
	}
	if len(got) != lastExtension-3 { // without the two issuers and the OtherName
		t.Errorf("got %d names, want %d: %v", len(got), lastExtension-3, got)
	}
	for name, value := range got {
		if value != name { // as fulcioExtensions makes them
			t.Errorf("%s: got %q, want %q", name, value, name)
		}
	}
	if want := "https://token.actions.githubusercontent.com"; s.Issuer != want {
		t.Errorf("got issuer %q, want %q", s.Issuer, want)
	}
}

func TestASerialNumberHasNoSignByte(t *testing.T) {
	_, cert := selfSigned(t, &x509.Certificate{SerialNumber: big.NewInt(0x80ff)})
	s, err := FromCertificate(cert.Raw)
	if err != nil || s.SerialNumber != "80ff" {
		t.Errorf("got %q, %v, want 80ff", s.SerialNumber, err)
	}
}

// ext is an extension of a certificate that crypto/x509 would not make.
type ext struct {
	oid   string // DER contents
	value []byte
}

// hostile builds a certificate by hand. Everything that identifies nobody is
// unlike anything that crypto/x509 accepts.
func hostile(extensions ...ext) []byte {
	var b cryptobyte.Builder
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(der.INTEGER, func(b *cryptobyte.Builder) { b.AddBytes([]byte{0xff, 0x01}) }) // negative
			b.AddASN1(der.NULL, func(*cryptobyte.Builder) {})                                      // signature algorithm
			b.AddASN1(der.NULL, func(*cryptobyte.Builder) {})                                      // issuer
			b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(der.UTCTime, func(b *cryptobyte.Builder) { b.AddBytes([]byte("260101000000Z")) })
				b.AddASN1(der.UTCTime, func(b *cryptobyte.Builder) { b.AddBytes([]byte("250101000000Z")) })
			})
			b.AddASN1(der.NULL, func(*cryptobyte.Builder) {})     // subject
			b.AddASN1(der.SEQUENCE, func(*cryptobyte.Builder) {}) // key
			b.AddASN1(der.Tag(3).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
				b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
					for _, e := range extensions {
						b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
							b.AddASN1(der.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes([]byte(e.oid)) })
							b.AddASN1Boolean(true)
							b.AddASN1OctetString(e.value)
						})
					}
				})
			})
		})
	})
	return b.BytesOrPanic()
}

// names is a SubjectAltName value: a name per pair of tag and contents.
func names(pairs ...any) []byte {
	var b cryptobyte.Builder
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		for i := 0; i < len(pairs); i += 2 {
			b.AddASN1(der.Tag(pairs[i].(int)).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(pairs[i+1].(string))) })
		}
	})
	return b.BytesOrPanic()
}

// tlv is an element with less than 128 bytes of contents.
func tlv(tag byte, contents string) string {
	if len(contents) > 127 {
		panic("tlv: long form")
	}
	return string([]byte{tag, byte(len(contents))}) + contents
}

func utf8(text string) []byte {
	b, err := asn1.MarshalWithParams(text, "utf8")
	if err != nil {
		panic(err)
	}
	return b
}

func TestHostileCertificatesGiveWhatCanBeRead(t *testing.T) {
	const email, dns, uri, ip = 1, 2, 6, 7
	many := make([]any, 0, 20000)
	wantMany := make([]string, 0, 10000)
	for range 10000 {
		many = append(many, email, "a@b")
		wantMany = append(wantMany, "a@b")
	}
	deep := bytes.Repeat([]byte{0x30, 0x80}, 10000)
	user, err := cryptoutils.MarshalOtherNameSAN("alice", false)
	if err != nil {
		t.Fatal(err)
	}
	twoUsers := append(bytes.Clone(user.Value), user.Value[2:]...)
	twoUsers[1] += byte(len(user.Value) - 2)
	const oddTag = "a subject alternative name has an unknown tag"
	mail, ab := tlv(0x81, "a@b"), []string{"a@b"}
	san := func(names string) []byte { return hostile(ext{oidSAN, []byte(tlv(0x30, names))}) }
	list := tlv(0x30, string(sanElement(t)))
	fields := func(after string) []byte {
		before := extended(t)
		return wrap([]byte(tlv(0x30, string(before[2:])+after)))
	}
	tests := map[string]struct {
		cert     []byte
		subjects []string
		issuer   string
		values   []string // of all extensions but the SANs
		err      string
	}{
		"nothing known":     {cert: hostile(), subjects: nil},
		"NUL":               {cert: hostile(ext{oidSAN, names(email, "me@example.com\x00.evil.com")}), subjects: []string{"me@example.com\x00.evil.com"}},
		"bidi":              {cert: hostile(ext{oidSAN, names(email, "me\u202e@example.com")}), subjects: []string{"me\u202e@example.com"}},
		"not UTF-8":         {cert: hostile(ext{oidSAN, names(dns, "\xff\xfe")}), subjects: []string{"\xff\xfe"}},
		"empty name":        {cert: hostile(ext{oidSAN, names(email, "")}), subjects: []string{""}},
		"invalid URI":       {cert: hostile(ext{oidSAN, names(uri, "https://%zz\n/\"<b>")}), subjects: []string{"https://%zz\n/\"<b>"}},
		"unknown name type": {cert: hostile(ext{oidSAN, names(8, "x", uri, "u")}), subjects: []string{"u"}},
		"short IP address":  {cert: hostile(ext{oidSAN, names(ip, "abc", email, "a@b")}), subjects: []string{"a@b"}, err: "an IP address is malformed"},
		"mapped IP address": {cert: hostile(ext{oidSAN, names(ip, "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x7f\x00\x00\x01")}), subjects: []string{"127.0.0.1"}},
		"ten thousand":      {cert: hostile(ext{oidSAN, names(many...)}), subjects: wantMany},
		"two SAN extensions": {cert: hostile(ext{oidSAN, names(email, "a@b")}, ext{oidSAN, names(dns, "c")}),
			subjects: []string{"a@b", "c"}},
		"cut SANs":       {cert: hostile(ext{oidSAN, []byte{0x30, 9, 0x81, 1, 'a'}}), err: "names are malformed"},
		"cut name":       {cert: hostile(ext{oidSAN, []byte{0x30, 6, 0x81, 1, 'a', 0x82, 9, 'b'}}), subjects: []string{"a"}, err: "names are malformed"},
		"bytes after":    {cert: hostile(ext{oidSAN, append(names(email, "a@b"), 0)}), subjects: []string{"a@b"}, err: "names are malformed"},
		"empty SAN":      {cert: hostile(ext{oidSAN, nil}), err: "names are malformed"},
		"no SAN list":    {cert: hostile(ext{oidSAN, utf8("a@b")}), err: "names are malformed"},
		"two user names": {cert: hostile(ext{oidSAN, twoUsers}), subjects: []string{"alice", "alice"}},
		"odd user name": {cert: hostile(ext{oidSAN, append([]byte{0x30, 14, 0xa0, 12, 0x06, 10}, oidOtherName...)}),
			err: "OtherName is malformed"},
		"another's OtherName":               {cert: san(tlv(0xa0, tlv(6, "\x2a")+tlv(0xa0, tlv(0x16, "me@example.com"))))},
		"another's OtherName without value": {cert: san(tlv(0xa0, tlv(6, "\x2a")) + mail), subjects: ab, err: "an OtherName is malformed"},
		"an OtherName with more after it":   {cert: san(tlv(0xa0, tlv(6, "\x2a")+tlv(0xa0, "")+"x") + mail), subjects: ab, err: "an OtherName is malformed"},
		"an OtherName without OID":          {cert: san(tlv(0xa0, tlv(0xa0, tlv(0x0c, "me"))) + mail), subjects: ab, err: "an OtherName is malformed"},
		"a user name with more after it":    {cert: san(tlv(0xa0, tlv(6, oidOtherName)+tlv(0xa0, tlv(0x0c, "me")+tlv(0x0c, "x")))), subjects: []string{"me"}, err: "Fulcio's OtherName is malformed"},
		"a user name, its OtherName longer": {cert: san(tlv(0xa0, tlv(6, oidOtherName)+tlv(0xa0, tlv(0x0c, "me"))+"x")), subjects: []string{"me"}, err: "Fulcio's OtherName is malformed"},
		"a user name of another string":     {cert: san(tlv(0xa0, tlv(6, oidOtherName)+tlv(0xa0, tlv(0x16, "me")))), subjects: []string{"me"}},
		"a user name that is no string":     {cert: san(tlv(0xa0, tlv(6, oidOtherName)+tlv(0xa0, tlv(0x04, "me"))) + mail), subjects: ab, err: "Fulcio's OtherName is malformed"},
		"an empty user name":                {cert: san(tlv(0xa0, tlv(6, oidOtherName)+tlv(0xa0, tlv(0x0c, "")))), err: "Fulcio's OtherName is malformed"},

		// What RFC 5280 has a tag for and no rule could name; and what it has none for.
		"names of other types":           {cert: san(tlv(0xa3, tlv(0x30, "")) + tlv(0xa4, tlv(0x30, "")) + tlv(0xa5, "") + tlv(0x88, "\x2a") + mail), subjects: ab},
		"email in pieces":                {cert: san(tlv(0xa1, tlv(0x16, "me@example.com")) + mail), subjects: ab, err: oddTag},
		"DNS name in pieces":             {cert: san(tlv(0xa2, tlv(0x16, "example.com")) + mail), subjects: ab, err: oddTag},
		"URI in pieces":                  {cert: san(tlv(0xa6, tlv(0x16, "https://example.com")) + mail), subjects: ab, err: oddTag},
		"IP address in pieces":           {cert: san(tlv(0xa7, tlv(0x04, "1234")) + mail), subjects: ab, err: oddTag},
		"OtherName in one piece":         {cert: san(tlv(0x80, "me@example.com") + mail), subjects: ab, err: oddTag},
		"directory name in one piece":    {cert: san(tlv(0x84, "me@example.com") + mail), subjects: ab, err: oddTag},
		"registered ID in pieces":        {cert: san(tlv(0xa8, tlv(0x06, "\x2a")) + mail), subjects: ab, err: oddTag},
		"a name of a tag to come":        {cert: san(tlv(0x89, "me@example.com") + mail), subjects: ab, err: oddTag},
		"a bare IA5String":               {cert: san(tlv(0x16, "me@example.com") + mail), subjects: ab, err: oddTag},
		"a bare UTF8String":              {cert: san(tlv(0x0c, "me@example.com") + mail), subjects: ab, err: oddTag},
		"an email of another class":      {cert: san(tlv(0x41, "me@example.com") + mail), subjects: ab, err: oddTag},
		"a name with tag 31":             {cert: san("\x9f\x1f\x02xx" + mail), subjects: ab, err: "names are malformed"},
		"a name with tag 16384":          {cert: san("\x9f\x81\x80\x00\x02xx" + mail), subjects: ab, err: "names are malformed"},
		"a name with a long length":      {cert: san("\x81\x81\x02xx" + mail), subjects: ab, err: "names are malformed"},
		"a name with a longer length":    {cert: san("\x81\x89" + strings.Repeat("\x00", 8) + "\x02xx" + mail), subjects: ab, err: "names are malformed"},
		"a name of no length":            {cert: san("\xa1\x80" + tlv(0x16, "x") + "\x00\x00" + mail), err: "names are malformed"},
		"a name longer than all":         {cert: san(mail + "\x9f\x1f\x88" + strings.Repeat("\xff", 8) + mail), subjects: ab, err: "names are malformed"},
		"a name of 2^64 bytes":           {cert: san("\x9f\x1f\x89\x01" + strings.Repeat("\x00", 8) + mail), err: "names are malformed"},
		"a name that ends in its tag":    {cert: san(mail + "\x9f\x81"), subjects: ab, err: "names are malformed"},
		"a name that ends in its length": {cert: san(mail + "\x9f\x1f\x82\x01"), subjects: ab, err: "names are malformed"},
		"a name without length":          {cert: san(mail + "\x9f\x1f"), subjects: ab, err: "names are malformed"},

		"an extension in a SET":               {cert: wrap(extended(t, []byte(tlv(0x31, string(sanElement(t)[2:]))))), subjects: ab, err: "extensions are malformed"},
		"a list of extensions in a SET":       {cert: fields(tlv(0xa3, tlv(0x31, list[2:]))), subjects: ab, err: "extensions are malformed"},
		"an extension that is a NULL":         {cert: wrap(extended(t, slices.Concat([]byte(tlv(0x05, "")), sanElement(t)))), subjects: ab, err: "an extension is malformed"},
		"an extension with tag 31":            {cert: wrap(extended(t, slices.Concat([]byte("\x3f\x1f\x02xx"), sanElement(t)))), subjects: ab, err: "extensions are malformed"},
		"an extension with a long length":     {cert: wrap(extended(t, slices.Concat([]byte("\x30\x81\x02xx"), sanElement(t)))), subjects: ab, err: "extensions are malformed"},
		"a list of extensions that is a NULL": {cert: fields(tlv(0xa3, tlv(0x05, "")+list)), subjects: ab, err: "extensions are malformed"},
		"a list of extensions with tag 31":    {cert: fields(tlv(0xa3, "\x3f\x1f\x02xx"+list)), subjects: ab, err: "extensions are malformed"},
		"a field with tag 31":                 {cert: fields("\xbf\x1f\x02xx" + tlv(0xa3, list)), subjects: ab, err: "fields are malformed"},
		"an issuer's name with tag 31":        {cert: wrap([]byte(tlv(0x30, tlv(0x02, "\x01")+tlv(0x30, "")+"\xbf\x1f\x00"+tlv(0xa3, list)))), subjects: ab, err: "fields before its extensions are malformed"},
		"duplicate issuer": {cert: hostile(ext{oidIssuerV2, utf8("https://one")}, ext{oidIssuerV2, utf8("https://two")}),
			issuer: "https://one", values: []string{"https://one", "https://two"}},
		"issuer 1.1 first": {cert: hostile(ext{oidIssuer, []byte("old")}, ext{oidIssuerV2, utf8("new")}), issuer: "new", values: []string{"old", "new"}},
		"issuer 1.1 only":  {cert: hostile(ext{oidIssuer, []byte("old")}), issuer: "old", values: []string{"old"}},
		"issuer 1.1 that looks like DER": {cert: hostile(ext{oidIssuer, utf8("old")}), issuer: "\x0c\x03old",
			values: []string{"\x0c\x03old"}},
		"issuer 1.8 not DER":            {cert: hostile(ext{oidIssuerV2, []byte("https://raw")}), issuer: "https://raw", values: []string{"https://raw"}},
		"issuer 1.8 not DER, 1.1 there": {cert: hostile(ext{oidIssuerV2, []byte("https://raw")}, ext{oidIssuer, []byte("old")}), issuer: "old", values: []string{"https://raw", "old"}},
		"issuer with bytes after it":    {cert: hostile(ext{oidIssuerV2, append(utf8("x"), 'y')}), issuer: "\x0c\x01xy", values: []string{"\x0c\x01xy"}},
		"empty issuer":                  {cert: hostile(ext{oidIssuerV2, utf8("")}, ext{oidIssuer, []byte("old")}), issuer: "old", values: []string{"", "old"}},
		"malformed OID":                 {cert: hostile(ext{"\x80", nil}, ext{oidIssuer, []byte("i")}), issuer: "i", values: []string{"i"}, err: "OID is malformed"},
		"OID with an endless arc":       {cert: hostile(ext{strings.Repeat("\xff", 40) + "\x01", utf8("v")}), values: []string{"v"}},
		"deep nesting":                  {cert: hostile(ext{"\x2a", deep}), values: []string{string(deep)}},
		"no certificate":                {cert: []byte("no certificate"), err: "not a DER certificate"},
		"empty":                         {cert: nil, err: "not a DER certificate"},
		"indefinite length":             {cert: []byte{0x30, 0x80, 0x30, 0x80}, err: "not a DER certificate"},
		"length beyond its end":         {cert: []byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff}, err: "not a DER certificate"},
		"cut before its extensions":     {cert: []byte{0x30, 5, 0x30, 3, 0x02, 1, 1}, err: "fields before its extensions"},
		"serial number of another type": {cert: bytes.Replace(hostile(ext{oidIssuer, []byte("i")}), []byte{0x02, 0x02}, []byte{0x04, 0x02}, 1), issuer: "i", values: []string{"i"}, err: "fields before its extensions"},
		"another certificate behind it": {cert: append(hostile(ext{oidIssuer, []byte("i")}), hostile()...), issuer: "i", values: []string{"i"}, err: "after its end"},
		"extension of an unknown tagging": {cert: bytes.Replace(hostile(ext{oidIssuer, []byte("i")}, ext{oidIssuer, []byte("jjjj")}), []byte{0x04, 0x04}, []byte{0x05, 0x04}, 1),
			issuer: "i", values: []string{"i"}, err: "an extension is malformed"},
	}
	for name, test := range tests {
		s, err := FromCertificate(test.cert)
		if (err != nil) != (test.err != "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: got error %v, want %q", name, err, test.err)
		}
		if !reflect.DeepEqual(s.Subjects, test.subjects) {
			t.Errorf("%s: got subjects %.200q, want %.200q", name, s.Subjects, test.subjects)
		}
		if s.Issuer != test.issuer {
			t.Errorf("%s: got issuer %q, want %q", name, s.Issuer, test.issuer)
		}
		var values []string
		for _, e := range s.Extensions {
			if e.OID != "2.5.29.17" {
				values = append(values, e.Value)
			}
		}
		if !reflect.DeepEqual(values, test.values) {
			t.Errorf("%s: got values %.200q, want %.200q", name, values, test.values)
		}
		if s.Type != X509 || s.Fingerprint != fingerprintOf(test.cert) || !bytes.Equal(s.Certificate, test.cert) {
			t.Errorf("%s: got %s %s, want the certificate with its fingerprint", name, s.Type, s.Fingerprint)
		}
		if _, err := x509.ParseCertificate(test.cert); err == nil {
			t.Errorf("%s: crypto/x509 accepts it, so the test shows nothing", name)
		}
	}
}

func TestAMillionProblemsMakeAShortError(t *testing.T) {
	bad := make([]ext, 5000)
	for i := range bad {
		bad[i] = ext{"\x80", []byte{byte(i)}}
	}
	if _, err := FromCertificate(hostile(bad...)); err == nil || len(err.Error()) > 500 {
		t.Errorf("got %.600v, want a short error", err)
	}
}

func TestAKeyOfAnUnknownAlgorithmIsStillASigner(t *testing.T) {
	unknown := []byte{0x30, 12, 0x30, 4, 0x06, 2, 0x2a, 0x03, 0x03, 4, 0, 1, 2, 3}
	s, err := fromKey(unknown)
	if err != nil || s.Type != PKIX || s.Fingerprint != fingerprintOf(unknown) {
		t.Errorf("got %+v, %v, want a key with the fingerprint of its encoding", s, err)
	}
	for name, raw := range map[string][]byte{"empty": nil, "text": []byte("ssh-ed25519 AAAA"), "cut": unknown[:10], "bytes after": append(bytes.Clone(unknown), 0)} {
		if s, err := fromKey(raw); err == nil {
			t.Errorf("%s: got %+v, want an error", name, s)
		}
	}
}

// TestAnyByteAltered reaches what a fuzzer seldom does: certificates that crypto/x509
// still accepts, each different in one byte.
func TestAnyByteAltered(t *testing.T) {
	_, fulcioLike := fulcioCertificate(t)
	accepted, stride := 0, 1
	if testing.Short() {
		stride = 7
	}
	for name, raw := range map[string][]byte{"Fulcio's": fulcioLike.Raw, "every name": everyName(t).Raw} {
		for i := 0; i < len(raw); i += stride {
			for _, flip := range []byte{0x01, 0x02, 0x10, 0x20, 0x80, 0xff} {
				altered := bytes.Clone(raw)
				altered[i] ^= flip
				if checkAgainstX509(t, altered) {
					accepted++
				}
				if t.Failed() {
					t.Fatalf("%s, byte %d flipped by %#x", name, i, flip)
				}
			}
		}
	}
	if accepted < 1000/stride {
		t.Errorf("crypto/x509 accepted %d altered certificates, too few to show anything", accepted)
	}
}

// writable is false for times that crypto/x509 accepts and JSON does not: see readTime.
func writable(at time.Time) bool {
	_, err := at.UTC().MarshalJSON()
	return err == nil
}

// checkAgainstX509 holds FromCertificate against crypto/x509, if that accepts raw.
func checkAgainstX509(t *testing.T, raw []byte) (accepted bool) {
	t.Helper()
	s, err := FromCertificate(raw)
	if s.Type != X509 || s.Fingerprint != fingerprintOf(raw) {
		t.Errorf("got %s %s, want a certificate with its fingerprint", s.Type, s.Fingerprint)
	}
	cert, refused := x509.ParseCertificate(raw)
	if refused != nil || !writable(cert.NotBefore) || !writable(cert.NotAfter) {
		return false
	}
	// It passes over a second list of extensions, which we read.
	if tbs, ok := tbsOf(raw); !ok {
		return false
	} else if _, _, ok := withoutExtensions(tbs); !ok {
		return false
	}
	// crypto/x509 does not look into OtherNames, at names that it does not know, nor at
	// what follows a wrong field.
	var p problems
	errors.As(err, &p)
	for _, problem := range p {
		if len(cert.Extensions) > 0 && problem != "a subject alternative name has an unknown tag" && !strings.HasSuffix(problem, "OtherName is malformed") {
			t.Errorf("crypto/x509 accepts it, we say %s", problem)
		}
	}
	if err := checkCertificate(cert, s); err != nil {
		t.Error(err)
	}
	return true
}

// oddNames are names of each kind that is passed over, or reported, or both.
var oddNames = ext{oidSAN, []byte(tlv(0x30, tlv(0xa1, "a@b")+tlv(0x80, "a@b")+tlv(0xa0, tlv(6, "\x2a"))+tlv(0xa4, "")+"\x9f\x1f\x02xx\x81\x81\x02xx"+tlv(0x81, "a@b")))}

func FuzzFromCertificate(f *testing.F) {
	_, fulcioLike := fulcioCertificate(f)
	f.Add(fulcioLike.Raw)
	f.Add(everyName(f).Raw)
	f.Add(hostile(ext{oidSAN, names(1, "a@b", 7, "1234")}, ext{oidIssuerV2, utf8("https://one")}))
	f.Add(hostile(oddNames))
	_, accepted := selfSigned(f, &x509.Certificate{SerialNumber: big.NewInt(7), ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17},
		Value: []byte(tlv(0x30, tlv(0xa1, "a@b")+tlv(0x80, "a@b")+tlv(0xa0, tlv(6, "\x2a")+tlv(0xa0, ""))+tlv(0x88, "\x2a")+tlv(0x81, "a@b")))}}})
	f.Add(accepted.Raw)
	for _, name := range leafNames(f) {
		if e, err := Parse(readLeaf(f, name)); err == nil {
			for _, s := range e.Signers {
				f.Add(s.Certificate)
			}
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) { checkAgainstX509(t, raw) })
}
