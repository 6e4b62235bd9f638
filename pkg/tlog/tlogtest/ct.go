package tlogtest

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	ctx509 "github.com/google/certificate-transparency-go/x509"
)

// The extensions of RFC 6962 sections 3.1 and 3.3.
var (
	oidPoison  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}
	oidSCTList = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}
)

// CTEntry is what a CA submits to a CT log, and what the log makes of it: a
// certificate, or a precertificate with what the leaf has of it.
type CTEntry struct {
	Timestamp uint64 // milliseconds since 1970, by the log's clock

	Certificate []byte // DER; nil for a precertificate

	TBS            []byte   // DER TBSCertificate of the precertificate without its poison
	IssuerKeyHash  [32]byte // SHA-256 of the issuer's SPKI
	Precertificate []byte   // DER

	Chain [][]byte // DER, the issuer first, up to the root
}

// IssueForCT is Issue with the entry that a CT log makes of the certificate, as
// Fulcio submits it where the SCT is not embedded.
func (ca *CA) IssueForCT(id Identity) (Signer, CTEntry, error) {
	s, err := ca.Issue(id)
	if err != nil {
		return Signer{}, CTEntry{}, err
	}
	return s, CTEntry{Timestamp: id.millis(), Certificate: s.Certificate, Chain: ca.chain()}, nil
}

// IssuePrecertified issues a precertificate and then the certificate, as public-good
// Fulcio does. The entry is that of the precertificate, the signer's certificate the
// final one: the same but for an SCT list in the poison's place. The SCT has its
// right form; who verifies it will find that the CA, and no log, signed it.
func (ca *CA) IssuePrecertified(id Identity) (Signer, CTEntry, error) {
	template, key, err := id.template()
	if err != nil {
		return Signer{}, CTEntry{}, err
	}
	extensions := template.ExtraExtensions
	template.ExtraExtensions = append(slices.Clone(extensions), pkix.Extension{Id: oidPoison, Critical: true, Value: asn1.NullBytes})
	precert, err := issueDER(template, ca.Intermediate, key.Public(), ca.key)
	if err != nil {
		return Signer{}, CTEntry{}, fmt.Errorf("issuing a precertificate for %+v: %w", id, err)
	}
	e := CTEntry{
		Timestamp:      id.millis(),
		IssuerKeyHash:  sha256.Sum256(ca.Intermediate.RawSubjectPublicKeyInfo),
		Precertificate: precert,
		Chain:          ca.chain(),
	}
	if e.TBS, err = withoutPoison(precert); err != nil {
		return Signer{}, CTEntry{}, err
	}
	list, err := ca.sctList(e)
	if err != nil {
		return Signer{}, CTEntry{}, err
	}
	template.ExtraExtensions = append(slices.Clone(extensions), pkix.Extension{Id: oidSCTList, Value: list})
	final, err := issueDER(template, ca.Intermediate, key.Public(), ca.key)
	if err != nil {
		return Signer{}, CTEntry{}, fmt.Errorf("issuing a certificate for %+v: %w", id, err)
	}
	return Signer{Key: key, Certificate: final}, e, nil
}

func (ca *CA) chain() [][]byte { return [][]byte{ca.Intermediate.Raw, ca.Root.Raw} }

func (id Identity) millis() uint64 {
	at := id.NotBefore
	if at.IsZero() {
		at = time.Now()
	}
	return uint64(at.UnixMilli())
}

// withoutPoison is the TBSCertificate that a log commits to.
func withoutPoison(precert []byte) ([]byte, error) {
	var outer struct{ TBS, Algorithm, Signature asn1.RawValue }
	if _, err := asn1.Unmarshal(precert, &outer); err != nil {
		return nil, fmt.Errorf("precertificate: %w", err)
	}
	tbs, err := ctx509.RemoveCTPoison(outer.TBS.FullBytes)
	if err != nil {
		return nil, fmt.Errorf("precertificate: %w", err)
	}
	return tbs, nil
}

// sctList is the value of the extension of RFC 6962 section 3.3, with one SCT.
func (ca *CA) sctList(e CTEntry) ([]byte, error) {
	// The signature is over the leaf but for its leaf_type, which is 0 like the
	// signature_type that stands there (section 3.2).
	digest := sha256.Sum256(e.Leaf(-1))
	sig, err := ca.key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("SCT: %w", err)
	}
	spki := sha256.Sum256(ca.Intermediate.RawSubjectPublicKeyInfo)
	sct := append([]byte{0}, spki[:]...)
	sct = binary.BigEndian.AppendUint64(sct, e.Timestamp)
	sct = append(sct, 0, 0, 4, 3) // no extensions; SHA-256 with ECDSA
	sct = appendVector(sct, 2, sig)
	return asn1.Marshal(appendVector(nil, 2, appendVector(nil, 2, sct)))
}

// appendVector appends a TLS opaque vector with a length of so many bytes.
func appendVector(b []byte, lengthBytes int, v []byte) []byte {
	for i := lengthBytes - 1; i >= 0; i-- {
		b = append(b, byte(len(v)>>(8*i)))
	}
	return append(b, v...)
}

// Leaf is the entry's MerkleTreeLeaf (RFC 6962 section 3.4), what a log hashes into
// its tree. An index of 0 or more goes into it as the leaf_index extension of
// https://c2sp.org/static-ct-api; with -1 the leaf has no extensions.
func (e CTEntry) Leaf(index int64) []byte {
	size := 2 + 8 + 2 + 3 + 2 + len(e.Certificate) + len(e.TBS) + 32 + 8
	b := append(make([]byte, 0, size), 0, 0) // v1, timestamped_entry
	b = binary.BigEndian.AppendUint64(b, e.Timestamp)
	if e.Certificate != nil {
		b = appendVector(append(b, 0, 0), 3, e.Certificate) // x509_entry
	} else {
		b = append(append(b, 0, 1), e.IssuerKeyHash[:]...) // precert_entry
		b = appendVector(b, 3, e.TBS)
	}
	if index < 0 {
		return append(b, 0, 0)
	}
	b = append(b, 0, 8, 0, 0, 5) // of extensions, leaf_index, and its length
	return append(b, byte(index>>32), byte(index>>24), byte(index>>16), byte(index>>8), byte(index))
}

// ExtraData is what get-entries gives beside the leaf (RFC 6962 section 4.6): the
// certificate_chain, or the PrecertChainEntry.
func (e CTEntry) ExtraData() []byte {
	var chain []byte
	for _, c := range e.Chain {
		chain = appendVector(chain, 3, c)
	}
	var b []byte
	if e.Certificate == nil {
		b = appendVector(b, 3, e.Precertificate)
	}
	return appendVector(b, 3, chain)
}

// SyntheticCT returns a generator that is fast enough for a million entries: the
// given ones in turn, each a millisecond later than the one before and with the index
// in its certificate's serial number. So every entry is unique and commits to its
// precertificate; only the CA's signature does not verify.
func SyntheticCT(entries ...CTEntry) (func(index uint64) CTEntry, error) {
	if len(entries) == 0 {
		return nil, errors.New("synthetic entries: none given")
	}
	serials := make([][]byte, len(entries))
	for i, e := range entries {
		der := e.Certificate
		if der == nil {
			der = e.Precertificate
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("synthetic entries: entry %d: %w", i, err)
		}
		if serials[i] = cert.SerialNumber.Bytes(); len(serials[i]) < 16 {
			return nil, fmt.Errorf("synthetic entries: entry %d: a serial number of %d bytes has no room for an index", i, len(serials[i]))
		}
	}
	return func(index uint64) CTEntry {
		n := index % uint64(len(entries))
		e := entries[n]
		number := func(der []byte) []byte {
			if at := bytes.Index(der, serials[n]); at >= 0 {
				der = bytes.Clone(der)
				binary.BigEndian.PutUint64(der[at+4:], index) // its first bytes keep its length
			}
			return der
		}
		e.Timestamp += index
		e.Certificate, e.TBS, e.Precertificate = number(e.Certificate), number(e.TBS), number(e.Precertificate)
		return e
	}, nil
}
