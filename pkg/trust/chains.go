package trust

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	pbtrust "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// Chains are the certificate authorities whose certificates are trusted. The zero
// value knows none. They do not change, and may be used concurrently.
type Chains struct{ authorities []authority }

// authority is one CA: roots and intermediates that are trusted for a time.
type authority struct {
	uri                  string
	roots, intermediates *x509.CertPool
	all                  []*x509.Certificate // of both pools, which give out none
	start, end           time.Time           // zero: not limited
}

func newAuthority(uri string, roots, intermediates []*x509.Certificate) authority {
	a := authority{uri: uri, roots: x509.NewCertPool(), intermediates: x509.NewCertPool(), all: slices.Concat(roots, intermediates)}
	for _, cert := range roots {
		a.roots.AddCert(cert)
	}
	for _, cert := range intermediates {
		a.intermediates.AddCert(cert)
	}
	return a
}

// Len is the number of authorities.
func (c *Chains) Len() int {
	if c == nil {
		return 0
	}
	return len(c.authorities)
}

func (c *Chains) add(raw json.RawMessage) error {
	var pb pbtrust.CertificateAuthority
	if err := lenient.Unmarshal(raw, &pb); err != nil {
		return err
	}
	var certs []*x509.Certificate
	for i, pbCert := range pb.GetCertChain().GetCertificates() {
		cert, err := x509.ParseCertificate(pbCert.GetRawBytes())
		if err != nil {
			return fmt.Errorf("certificate %d: %w", i, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return errors.New("no certificates")
	}
	last := len(certs) - 1 // the chain ends with its root
	a := newAuthority(pb.GetUri(), certs[last:], certs[:last])
	if v := pb.GetValidFor(); v != nil {
		if v.GetStart() != nil {
			a.start = v.GetStart().AsTime()
		}
		if v.GetEnd() != nil {
			a.end = v.GetEnd().AsTime()
		}
	}
	c.authorities = append(c.authorities, a)
	return nil
}

// ReadChains reads CA certificates from the PEM at two locations; intermediates
// may be "".
func ReadChains(roots, intermediates string, read Read) (*Chains, error) {
	anchors, err := readCertificates(roots, read)
	if err != nil {
		return nil, err
	}
	var links []*x509.Certificate
	if intermediates != "" {
		if links, err = readCertificates(intermediates, read); err != nil {
			return nil, err
		}
	}
	return &Chains{authorities: []authority{newAuthority(roots, anchors, links)}}, nil
}

func readCertificates(location string, read Read) ([]*x509.Certificate, error) {
	data, err := read(location)
	if err != nil {
		return nil, fmt.Errorf("CA certificates: %w", err)
	}
	// The library stops at the first thing that is not PEM, trailing space included.
	certs, err := cryptoutils.UnmarshalCertificatesFromPEM(bytes.TrimSpace(data))
	if err != nil {
		return nil, fmt.Errorf("CA certificates in %s: %w", location, err)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("CA certificates in %s: no PEM block of type CERTIFICATE", location)
	}
	return certs, nil
}

// What is considered of what anybody may put into a log, for each costs work:
// crypto/x509 makes many times its size of a certificate that is all names, and verifies an
// RSA signature in a time that grows with the square of the key. What Fulcio issues is
// far below.
const (
	maxCertificate = 64 << 10 // bytes
	maxServed      = 8        // certificates served beside one
	maxLink        = 8 << 10  // bytes of each
	maxRSA         = 8192     // bits of a link's modulus; the exponent Go limits, to 31
	maxText        = 256      // bytes of why one cannot be parsed
)

var (
	// subjectAltName is the extension that Fulcio marks critical and fills with an
	// OtherName, which crypto/x509 does not handle.
	subjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	// poison is the extension that makes a certificate a precertificate, and
	// precertificateSigning the key usage of a CA that only issues those: RFC 6962
	// section 3.1.
	poison                = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}
	precertificateSigning = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 4}
)

// Check reports whether the certificate der chains to an authority that was valid
// at the certificate's NotBefore, with all of the chain valid then, for code
// signing. chain are certificates served with it: they may link, never anchor.
// known is false if there are no authorities to check against; err says why a
// certificate is not trusted. Any bytes may be given: one of more than 64 KiB is not
// trusted, and of the chain the first 8 are considered that have no more than 8 KiB and
// no RSA key of more than 8192 bits.
func (c *Chains) Check(der []byte, chain [][]byte) (trusted, known bool, err error) {
	if c.Len() == 0 {
		return false, false, nil
	}
	cert, err := parse(der, maxCertificate)
	if err != nil {
		return false, true, fmt.Errorf("not a certificate: %w", err)
	}
	return c.check(cert, chain, func(*x509.Certificate) error { return nil })
}

// CheckPrecertificate is Check for a precertificate: der with its poison (RFC 6962
// section 3.1). The chain is trusted only if the certificate that issued der in it has
// the key that the CT log's leaf names, issuerKeyHash: SHA-256 of its SPKI DER. That
// der is the one that the leaf commits to is for the caller to check.
//
// One that a precertificate signing certificate issued is not trusted: the leaf
// names another issuer.
func (c *Chains) CheckPrecertificate(der []byte, issuerKeyHash [32]byte, chain [][]byte) (trusted, known bool, err error) {
	if c.Len() == 0 {
		return false, false, nil
	}
	cert, err := parse(der, maxCertificate)
	if err != nil {
		return false, true, fmt.Errorf("not a precertificate: %w", err)
	}
	if !slices.ContainsFunc(cert.UnhandledCriticalExtensions, poison.Equal) {
		return false, true, errors.New("not a precertificate: no critical poison extension")
	}
	cert.UnhandledCriticalExtensions = slices.DeleteFunc(cert.UnhandledCriticalExtensions, poison.Equal)
	trusted, known, err = c.check(cert, chain, func(issuer *x509.Certificate) error {
		if onlyPrecertificates(issuer) {
			return errPrecertificateSigning
		}
		if got := sha256.Sum256(issuer.RawSubjectPublicKeyInfo); got != issuerKeyHash {
			return fmt.Errorf("issued by the key %x, the log's leaf names %x", got, issuerKeyHash)
		}
		return nil
	})
	// Such an issuer seldom is for code signing too, so that the chain does not verify.
	if err != nil && !errors.Is(err, errPrecertificateSigning) && len(chain) > 0 {
		issuer, parseErr := parse(chain[0], maxLink)
		if parseErr == nil && bytes.Equal(issuer.RawSubject, cert.RawIssuer) && onlyPrecertificates(issuer) {
			err = fmt.Errorf("%w: %w", errPrecertificateSigning, err)
		}
	}
	return trusted, known, err
}

var errPrecertificateSigning = errors.New("issued by a precertificate signing certificate, which is not supported")

func onlyPrecertificates(issuer *x509.Certificate) bool {
	return slices.ContainsFunc(issuer.UnknownExtKeyUsage, precertificateSigning.Equal)
}

func parse(der []byte, limit int) (*x509.Certificate, error) {
	if len(der) > limit {
		return nil, fmt.Errorf("%d bytes, more than the %d that are considered", len(der), limit)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil && len(err.Error()) > maxText { // it quotes a name, whatever its size
		err = errors.New(err.Error()[:maxText] + "…")
	}
	return cert, err
}

// links are the served certificates that are considered; refused says why others are
// not.
func links(served [][]byte) (links []*x509.Certificate, refused error) {
	var errs []error
	for i, der := range served {
		if i == maxServed {
			errs = append(errs, fmt.Errorf("%d certificates were served with it, the first %d are considered", len(served), maxServed))
			break
		}
		link, err := parse(der, maxLink)
		if err == nil {
			if key, ok := link.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxRSA {
				err = fmt.Errorf("an RSA key of %d bits, more than the %d that are considered", key.N.BitLen(), maxRSA)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("certificate %d that was served with it: %w", i+1, err))
			continue
		}
		links = append(links, link)
	}
	return links, errors.Join(errs...)
}

// check tries every authority; accept judges the certificate that issued cert, of
// each chain that verifies.
func (c *Chains) check(cert *x509.Certificate, chain [][]byte, accept func(issuer *x509.Certificate) error) (trusted, known bool, err error) {
	cert.UnhandledCriticalExtensions = slices.DeleteFunc(cert.UnhandledCriticalExtensions, subjectAltName.Equal)
	served, refused := links(chain)
	var errs []error
	for _, a := range c.authorities {
		if err := a.check(cert, served, accept); err != nil {
			errs = append(errs, err)
			continue
		}
		return true, true, nil
	}
	return false, true, errors.Join(append(errs, refused)...)
}

func (a authority) check(cert *x509.Certificate, served []*x509.Certificate, accept func(issuer *x509.Certificate) error) error {
	at := cert.NotBefore
	if !a.start.IsZero() && at.Before(a.start) || !a.end.IsZero() && at.After(a.end) {
		return fmt.Errorf("authority %s was not valid on %s", a.uri, at.UTC().Format(time.RFC3339))
	}
	intermediates := a.intermediates
	if signed := a.signed(served); len(signed) > 0 {
		intermediates = intermediates.Clone()
		for _, link := range signed {
			intermediates.AddCert(link)
		}
	}
	verified, err := cert.Verify(x509.VerifyOptions{
		Roots: a.roots, Intermediates: intermediates, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	})
	if err != nil {
		return fmt.Errorf("authority %s: %w", a.uri, err)
	}
	var errs []error
	for _, path := range verified {
		// A root that is in its own pool has no issuer but itself.
		if err := accept(path[min(1, len(path)-1)]); err != nil {
			errs = append(errs, err)
			continue
		}
		return nil
	}
	return fmt.Errorf("authority %s: %w", a.uri, errors.Join(errs...))
}

// signed are the served certificates that the authority signed, itself or through
// others of them. Verify, which judges them, builds chains from the leaf up: given what
// anybody can serve, it would verify a hundred signatures with keys that are not known.
func (a authority) signed(served []*x509.Certificate) (signed []*x509.Certificate) {
	signers := slices.Clone(a.all)
	rest := slices.Clone(served)
	for i := 0; i < len(signers); i++ {
		rest = slices.DeleteFunc(rest, func(link *x509.Certificate) bool {
			ok := bytes.Equal(link.RawIssuer, signers[i].RawSubject) && link.CheckSignatureFrom(signers[i]) == nil
			if ok {
				signers = append(signers, link)
			}
			return ok
		})
	}
	return signers[len(a.all):]
}
