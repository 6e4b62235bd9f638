package entry

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

// CheckPrecertificate reports whether a precertificate is the one that a leaf of a CT
// log commits to: DER whose TBSCertificate, its poison taken out, is exactly the
// Signer's TBS. Only then may it stand for the leaf. It does not verify signatures.
//
// A precertificate that a precertificate signing certificate issued (RFC 6962 section
// 3.1) never is: there the log puts another issuer into what it commits to. Fulcio
// has no such certificate.
func (s *Signer) CheckPrecertificate(precertificate []byte) error {
	if len(s.TBS) == 0 {
		return errors.New("precertificate: the leaf commits to none")
	}
	tbs, ok := tbsOf(precertificate)
	if !ok {
		return fmt.Errorf("precertificate %s: not a DER certificate", sha256Hex(precertificate))
	}
	rest, poisons, ok := withoutExtensions(tbs, oidPoison)
	switch {
	case !ok:
		return fmt.Errorf("precertificate %s: its extensions are malformed", sha256Hex(precertificate))
	case poisons != 1:
		return fmt.Errorf("precertificate %s: %d poison extensions, want 1", sha256Hex(precertificate), poisons)
	case !bytes.Equal(rest, s.TBS):
		return fmt.Errorf("precertificate %s: without its poison its TBSCertificate is %s, the leaf commits to %s",
			sha256Hex(precertificate), sha256Hex(rest), sha256Hex(s.TBS))
	}
	return nil
}

// CertificateID is the same for a certificate wherever it is found, and for its
// precertificate: SHA-256, in lower-case hex, of the TBSCertificate without SCT list and
// without poison (RFC 6962 sections 3.1 and 3.3). It covers neither the CA's signature
// nor, of two certificates alike but for their SCTs, which it is: one that nobody trusts
// may have the ID of one that chains. It is "" for a key, and for what no CA that
// follows those sections makes: not DER throughout, both of the extensions, one twice.
func (s *Signer) CertificateID() string {
	tbs := s.TBS
	if tbs == nil {
		var ok bool
		if tbs, ok = tbsOf(s.Certificate); !ok {
			return ""
		}
	}
	rest, n, ok := withoutExtensions(tbs, oidSCTList, oidPoison)
	if !ok || n > 1 {
		return ""
	}
	return sha256Hex(rest)
}

// tbsOf is the TBSCertificate in a certificate, with tag and length.
func tbsOf(certificate []byte) (tbs []byte, ok bool) {
	input := cryptobyte.String(certificate)
	var body cryptobyte.String
	ok = input.ReadASN1(&body, der.SEQUENCE) && input.Empty() &&
		body.ReadASN1Element((*cryptobyte.String)(&tbs), der.SEQUENCE) &&
		body.SkipASN1(der.SEQUENCE) && body.SkipASN1(der.BIT_STRING) && body.Empty()
	return tbs, ok
}

// withoutExtensions gives a TBSCertificate without the n extensions that have one of
// the OIDs. Every other byte stays, but for the three lengths around them: a library
// that decodes and encodes anew drops what it does not know, so that certificates
// that differ there, in a second list of extensions say, would become one. ok is false
// if a byte lies where RFC 5280 section 4.1 has nothing.
func withoutExtensions(tbs []byte, oids ...string) (rest []byte, n int, ok bool) {
	input := cryptobyte.String(tbs)
	var body, field, list cryptobyte.String
	if !input.ReadASN1(&body, der.SEQUENCE) || !input.Empty() {
		return nil, 0, false
	}
	all := body
	if !body.SkipOptionalASN1(tagVersion) || !body.SkipASN1(der.INTEGER) {
		return nil, 0, false // no TBSCertificate
	}
	for !body.Empty() && !body.PeekASN1Tag(tagExtensions) {
		var tag der.Tag
		if !body.ReadAnyASN1Element(&field, &tag) {
			return nil, 0, false
		}
	}
	if body.Empty() {
		return tbs, 0, true
	}
	before := all[:len(all)-len(body)]
	if !body.ReadASN1(&field, tagExtensions) || !body.Empty() || !field.ReadASN1(&list, der.SEQUENCE) || !field.Empty() {
		return nil, 0, false
	}
	kept := make([]byte, 0, len(list))
	for !list.Empty() {
		var element, contents, oid cryptobyte.String
		if !list.ReadASN1Element(&element, der.SEQUENCE) {
			return nil, 0, false
		}
		if inner := element; !inner.ReadASN1(&contents, der.SEQUENCE) || !contents.ReadASN1(&oid, der.OBJECT_IDENTIFIER) {
			return nil, 0, false
		}
		if contains(oids, oid) {
			n++
		} else {
			kept = append(kept, element...)
		}
	}
	if n == 0 {
		return tbs, 0, true
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, len(tbs)))
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(before)
		if len(kept) == 0 {
			return // Extensions has one at least
		}
		b.AddASN1(tagExtensions, func(b *cryptobyte.Builder) {
			b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(kept) })
		})
	})
	rest, err := b.Bytes()
	return rest, n, err == nil
}

func contains(oids []string, oid []byte) bool {
	for _, o := range oids {
		if o == string(oid) {
			return true
		}
	}
	return false
}
