package entry

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

// The DER contents of the OIDs that are read, not only listed.
const (
	oidSAN       = "\x55\x1d\x11"
	oidIssuer    = arcDER + "\x01"
	oidOtherName = arcDER + "\x07"
	oidIssuerV2  = arcDER + "\x08"
	oidSCTList   = "\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x02"
	oidPoison    = "\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x03"
)

// The tags of a TBSCertificate's optional fields that are read.
const (
	tagVersion    der.Tag = 0xa0 // [0]
	tagExtensions der.Tag = 0xa3 // [3]
)

// What is read of one certificate. A leaf may have 16 MiB, and a name takes 2 bytes
// there and 16 here, an extension 7 and 48. An OID's text takes time that grows with
// its square.
const (
	maxNames      = 1 << 18
	maxExtensions = 1 << 16
	maxOID        = 64 // bytes
)

// What is said of each of what may be millions is not made anew.
var (
	tooManyExtensions = fmt.Sprintf("more than %d extensions", maxExtensions)
	tooManyNames      = fmt.Sprintf("more than %d subject alternative names", maxNames)
)

// FromCertificate says whom a certificate names. It reads what identifies (SANs,
// issuer, extensions, serial number, validity) and nothing else, so it also reads
// certificates that crypto/x509 refuses: for their key, a duplicate
// extension, a negative serial number, a name that is no valid URI. On an error the
// Signer has whatever could be read; fingerprint and certificate it always has.
//
// The Signer keeps cert.
func FromCertificate(cert []byte) (Signer, error) {
	s := Signer{Type: X509}
	var p problems
	s.setCertificate(cert, &p)
	if len(p) > 0 {
		return s, fmt.Errorf("certificate %s: %w", s.Fingerprint, p)
	}
	return s, nil
}

func (s *Signer) setCertificate(cert []byte, p *problems) {
	s.Certificate, s.Fingerprint = cert, sha256Hex(cert)
	if tbs, whole, ok := readOuter(cert, p); !ok {
		p.add("not a DER certificate")
	} else {
		s.readTBS(tbs, p)
		if !whole {
			p.add("not a certificate but a TBSCertificate")
		}
	}
}

func (s *Signer) setTBS(raw []byte, p *problems) {
	s.TBS = raw
	if tbs, whole, ok := readOuter(raw, p); !ok {
		p.add("not a DER TBSCertificate")
	} else {
		s.readTBS(tbs, p)
		if whole {
			p.add("not a TBSCertificate but a certificate")
		}
	}
}

// readOuter finds the contents of the TBSCertificate in raw, whether that is one or
// is a whole certificate: neither names anybody less for being in the other's place.
func readOuter(raw []byte, p *problems) (tbs cryptobyte.String, whole, ok bool) {
	input := cryptobyte.String(raw)
	var outer cryptobyte.String
	if !input.ReadASN1(&outer, der.SEQUENCE) {
		return nil, false, false
	}
	if !input.Empty() {
		p.add(fmt.Sprintf("%d bytes after its end", len(input)))
	}
	if !outer.PeekASN1Tag(der.SEQUENCE) {
		return outer, false, true
	}
	return tbs, true, outer.ReadASN1(&tbs, der.SEQUENCE)
}

// problems is what could not be read of a certificate, each said once: a hostile
// one can have a million.
type problems []string

func (p *problems) add(problem string) {
	if !slices.Contains(*p, problem) {
		*p = append(*p, problem)
	}
}

func (p problems) Error() string { return strings.Join(p, "; ") }

// passOver adds what is wrong with a list's next element, which cryptobyte does not
// read, and moves past it: what comes after may name somebody. It knows the end of an
// element with a tag number above 30, or whose length has more bytes than DER allows;
// after any other, nothing of the list is left.
func (p *problems) passOver(list *cryptobyte.String, problem string) {
	p.add(problem)
	rest := *list
	*list = nil
	var b uint8
	if !rest.ReadUint8(&b) {
		return
	}
	for more := b&0x1f == 0x1f; more; more = b&0x80 != 0 { // X.690, section 8.1.2.4
		if !rest.ReadUint8(&b) {
			return
		}
	}
	if !rest.ReadUint8(&b) {
		return
	}
	length := uint64(b)
	if b >= 0x80 { // section 8.1.3.5
		var octets []byte
		if b == 0x80 || !rest.ReadBytes(&octets, int(b&0x7f)) {
			return
		}
		length = 0
		for _, b := range octets {
			if length = length<<8 | uint64(b); length > uint64(len(rest)) {
				return
			}
		}
	}
	if length <= uint64(len(rest)) {
		*list = rest[length:]
	}
}

// readTBS reads a TBSCertificate, RFC 5280 section 4.1. Whatever comes before them,
// extensions are read: they are what names somebody.
func (s *Signer) readTBS(tbs cryptobyte.String, p *problems) {
	var serial, validity, key, skipped cryptobyte.String
	var tag der.Tag
	all := tbs
	tbs.SkipOptionalASN1(tagVersion)
	if !tbs.ReadASN1(&serial, der.INTEGER) ||
		!tbs.ReadAnyASN1Element(&skipped, &tag) || // signature algorithm
		!tbs.ReadAnyASN1Element(&skipped, &tag) || // issuer's name
		!tbs.ReadASN1(&validity, der.SEQUENCE) ||
		!tbs.ReadAnyASN1Element(&skipped, &tag) || // subject's name
		!tbs.ReadASN1Element(&key, der.SEQUENCE) {
		p.add("fields before its extensions are malformed")
		s.readFields(all, p)
		return
	}
	if len(serial) > 1 && serial[0] == 0 {
		serial = serial[1:] // the sign of a positive number
	}
	sum := sha256.Sum256(key)
	var space [2 * (sha256.Size + 21)]byte // RFC 5280 has serial numbers of up to 20 bytes
	text := string(hex.AppendEncode(hex.AppendEncode(space[:0], sum[:]), serial))
	s.KeyFingerprint, s.SerialNumber = text[:2*sha256.Size], text[2*sha256.Size:]

	var ok bool
	if s.NotBefore, ok = readTime(&validity); ok {
		s.NotAfter, ok = readTime(&validity)
	}
	if !ok {
		p.add("validity is malformed")
	}
	s.readFields(tbs, p)
}

// readFields reads the extensions among the fields of a TBSCertificate.
func (s *Signer) readFields(fields cryptobyte.String, p *problems) {
	for !fields.Empty() {
		var field cryptobyte.String
		var tag der.Tag
		if !fields.ReadAnyASN1(&field, &tag) {
			p.passOver(&fields, "fields are malformed")
			continue
		}
		if tag != tagExtensions {
			continue
		}
		// There is one list. A second one is not for a reader to pass over in silence.
		for more := true; more; more = !field.Empty() {
			var list cryptobyte.String
			if !field.ReadAnyASN1(&list, &tag) {
				p.passOver(&field, "extensions are malformed")
				continue
			}
			if tag != der.SEQUENCE {
				p.add("extensions are malformed")
			}
			s.readExtensions(list, p)
		}
	}
}

// readTime reads a Time. cryptobyte takes as long for the two of a certificate as
// for all of its extensions, so the form that RFC 5280 asks for, YYMMDDHHMMSSZ, is
// read here and any other there. A time that in UTC lies outside of the years
// 0–9999, as those with an offset can, is none: JSON has no form for it, so one
// certificate with it could stop a report.
func readTime(s *cryptobyte.String) (t time.Time, ok bool) {
	var text cryptobyte.String
	if rest := *s; rest.ReadASN1(&text, der.UTCTime) {
		if t, ok = utcTime(text); ok {
			*s = rest
			return t, true
		}
		ok = s.ReadASN1UTCTime(&t)
	} else {
		ok = s.ReadASN1GeneralizedTime(&t)
	}
	if t = t.UTC(); t.Year() < 0 || t.After(lastTime) {
		return time.Time{}, false
	}
	return t, ok
}

// lastTime is the last second that RFC 3339 and X.509 can write.
var lastTime = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

func utcTime(text []byte) (t time.Time, ok bool) {
	var n [6]int // year, month, day, hour, minute, second
	if len(text) != 2*len(n)+1 || text[2*len(n)] != 'Z' {
		return t, false
	}
	for i := range n {
		tens, ones := text[2*i]-'0', text[2*i+1]-'0'
		if tens > 9 || ones > 9 {
			return t, false
		}
		n[i] = 10*int(tens) + int(ones)
	}
	year := 2000 + n[0]
	if n[0] >= 50 {
		year -= 100 // RFC 5280, section 4.1.2.5.1
	}
	t = time.Date(year, time.Month(n[1]), n[2], n[3], n[4], n[5], 0, time.UTC)
	// Date takes the 30th of February for a day in March, and 24:00 for 0:00 of the next.
	hour, minute, second := t.Clock()
	return t, t.Month() == time.Month(n[1]) && hour == n[3] && minute == n[4] && second == n[5]
}

// readExtensions lists all extensions and takes subjects and issuer from them.
func (s *Signer) readExtensions(list cryptobyte.String, p *problems) {
	if s.Extensions == nil {
		s.Extensions = make([]Extension, 0, min(len(list)/40+1, 64)) // a Fulcio extension takes 40 bytes or more
	}
	// Values share one copy of the list; each ends where what is still unread begins.
	all := string(list)
	var issuerV1, issuerRaw string
	for !list.Empty() {
		var ext, oid, value cryptobyte.String
		var tag der.Tag
		if !list.ReadAnyASN1(&ext, &tag) {
			p.passOver(&list, "extensions are malformed")
			continue
		}
		if tag != der.SEQUENCE {
			p.add("extensions are malformed") // which need not hide whom one names
		}
		if !ext.ReadASN1(&oid, der.OBJECT_IDENTIFIER) ||
			!ext.SkipOptionalASN1(der.BOOLEAN) || // critical
			!ext.ReadASN1(&value, der.OCTET_STRING) {
			p.add("an extension is malformed")
			continue
		}
		length, decoded := textLength(oid, value)
		end := len(all) - len(list) - len(ext)
		text := all[end-length : end]
		if len(s.Extensions) >= maxExtensions {
			p.add(tooManyExtensions) // what names somebody is still read
		} else if dotted, name, ok := oidText(oid); ok {
			s.Extensions = append(s.Extensions, Extension{OID: dotted, Name: name, Value: text})
		} else {
			p.add("an extension's OID is malformed")
		}
		switch string(oid) {
		case oidSAN:
			s.readNames(value, all[end-len(value):end], p)
		case oidIssuer:
			issuerV1 = first(issuerV1, text)
		case oidIssuerV2:
			if decoded {
				s.Issuer = first(s.Issuer, text)
			} else {
				issuerRaw = first(issuerRaw, text)
			}
		}
	}
	s.Issuer = first(s.Issuer, first(issuerV1, issuerRaw))
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// textLength says how many bytes at the end of an extension's value are its text:
// the contents if it is one DER string, else all of it. Fulcio's 1.1–1.6 hold the bare
// text, which could itself look like a DER string.
func textLength(oid, value cryptobyte.String) (length int, decoded bool) {
	length = len(value)
	if n := len(arcDER); len(oid) == n+1 && string(oid[:n]) == arcDER && oid[n] <= 6 {
		return length, true
	}
	if contents, ok := readString(&value); ok && value.Empty() {
		return len(contents), true
	}
	return length, false
}

// readString reads a string of any type whose contents are text as they are.
func readString(s *cryptobyte.String) (text cryptobyte.String, ok bool) {
	if s.Empty() {
		return nil, false
	}
	switch tag := der.Tag((*s)[0]); tag {
	case der.UTF8String, der.PrintableString, der.IA5String, der.T61String, asn1.TagNumericString:
		ok = s.ReadASN1(&text, tag)
	}
	return text, ok
}

// readNames appends the names of a SubjectAltName extension, RFC 5280 section 4.2.1.6,
// in order and verbatim; of the OtherNames only Fulcio's user name. text is value once
// more: the names are parts of it, ten thousand of them no more memory than one.
func (s *Signer) readNames(value cryptobyte.String, text string, p *problems) {
	var names cryptobyte.String
	if !value.ReadASN1(&names, der.SEQUENCE) || !value.Empty() {
		p.add("subject alternative names are malformed")
	}
	after := len(value)
	if n := count(names); n > 64 {
		s.Subjects = slices.Grow(s.Subjects, n) // growing step by step takes several times as much
	}
	for !names.Empty() {
		if len(s.Subjects) >= maxNames {
			p.add(tooManyNames)
			return
		}
		var name cryptobyte.String
		var tag der.Tag
		if !names.ReadAnyASN1(&name, &tag) {
			p.passOver(&names, "subject alternative names are malformed")
			continue
		}
		switch tag {
		case der.Tag(1).ContextSpecific(), // email
			der.Tag(2).ContextSpecific(), // DNS name
			der.Tag(6).ContextSpecific(): // URI
			end := len(text) - after - len(names)
			s.Subjects = append(s.Subjects, text[end-len(name):end])
		case der.Tag(7).ContextSpecific():
			if len(name) != net.IPv4len && len(name) != net.IPv6len {
				p.add("an IP address is malformed")
				continue
			}
			s.Subjects = append(s.Subjects, net.IP(name).String())
		case der.Tag(0).ContextSpecific().Constructed():
			s.readOtherName(name, p)
		case der.Tag(3).ContextSpecific().Constructed(), // X.400 address
			der.Tag(4).ContextSpecific().Constructed(), // directory name
			der.Tag(5).ContextSpecific().Constructed(), // EDI party name
			der.Tag(8).ContextSpecific():               // registered ID
			// They hold nothing that a rule could name.
		default:
			p.add("a subject alternative name has an unknown tag")
		}
	}
}

// count is how many elements a list has, up to maxNames.
func count(list cryptobyte.String) (n int) {
	var element cryptobyte.String
	var tag der.Tag
	for n < maxNames && list.ReadAnyASN1Element(&element, &tag) {
		n++
	}
	return n
}

// readOtherName appends the user name in Fulcio's OtherName. Another's is none, if it
// has the form of one: else it could be Fulcio's.
func (s *Signer) readOtherName(name cryptobyte.String, p *problems) {
	var oid, value cryptobyte.String
	whole := name.ReadASN1(&oid, der.OBJECT_IDENTIFIER) &&
		name.ReadASN1(&value, der.Tag(0).ContextSpecific().Constructed()) && name.Empty()
	if string(oid) != oidOtherName {
		if !whole {
			p.add("an OtherName is malformed")
		}
		return
	}
	user, _ := readString(&value)
	if len(user) > 0 {
		s.Subjects = append(s.Subjects, string(user))
	}
	if !whole || len(user) == 0 || !value.Empty() {
		p.add("Fulcio's OtherName is malformed")
	}
}

// fromKey makes a signer of a bare key's SPKI DER. Its fingerprint is that of the
// key encoded anew, as rekor's library has it; a key of an algorithm that Go
// cannot parse is still a signer, by the encoding it came in.
func fromKey(spki []byte) (Signer, error) {
	if key, err := x509.ParsePKIXPublicKey(spki); err == nil {
		if again, err := cryptoutils.MarshalPublicKeyToDER(key); err == nil {
			spki = again
		}
	} else {
		input := cryptobyte.String(spki)
		var outer, algorithm, oid, bits cryptobyte.String
		if !input.ReadASN1(&outer, der.SEQUENCE) || !input.Empty() ||
			!outer.ReadASN1(&algorithm, der.SEQUENCE) || !algorithm.ReadASN1(&oid, der.OBJECT_IDENTIFIER) ||
			!outer.ReadASN1(&bits, der.BIT_STRING) || !outer.Empty() {
			return Signer{}, fmt.Errorf("public key: %w", err)
		}
	}
	return Signer{Type: PKIX, Fingerprint: sha256Hex(spki)}, nil
}

func sha256Hex(b []byte) string {
	sum := sha256.Sum256(b)
	var text [2 * sha256.Size]byte
	hex.Encode(text[:], sum[:])
	return string(text[:])
}
