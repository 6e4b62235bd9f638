package tlogtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// CA issues certificates as Fulcio does: a P-384 root and intermediate, and leaves
// with no subject, code signing use and Fulcio's extensions. A rogue one is just
// another CA.
type CA struct {
	Root, Intermediate *x509.Certificate
	key                *ecdsa.PrivateKey // the intermediate's
}

// Identity is what a certificate says about who asked for it.
type Identity struct {
	// The subject alternative names, of which Fulcio sets one. They go into the
	// certificate unchecked, so that hostile ones can be made.
	URI, Email, DNSName string
	UserName            string // as an OtherName
	// Issuer is the OIDC issuer, in extensions 1.1 and 1.8.
	Issuer string
	// LegacyIssuer leaves out extension 1.8, as Fulcio did before 2022.
	LegacyIssuer bool
	// Extensions by the last arc of 1.3.6.1.4.1.57264.1: raw bytes up to 6, a DER
	// UTF8String above. 9 is the build signer URI, 12 the source repository URI; see
	// Fulcio's docs/oid-info.md.
	Extensions map[int]string
	NotBefore  time.Time     // zero: now
	Lifetime   time.Duration // zero: 10 minutes
	Key        crypto.Signer // nil: a new P-256 key
}

// Signer is a key that entries are signed with, and what vouches for it.
type Signer struct {
	Key         crypto.Signer
	Certificate []byte // DER; nil for a bare key
}

// NewCA makes a CA whose certificates carry an organization's name.
func NewCA(organization string) (*CA, error) {
	now := time.Now()
	template := func(name string) *x509.Certificate {
		return &x509.Certificate{
			Subject:               pkix.Name{Organization: []string{organization}, CommonName: name},
			NotBefore:             now.AddDate(-5, 0, 0),
			NotAfter:              now.AddDate(5, 0, 0),
			KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
			BasicConstraintsValid: true,
			IsCA:                  true,
		}
	}
	rootKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("root key: %w", err)
	}
	ca := &CA{}
	if ca.key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader); err != nil {
		return nil, fmt.Errorf("intermediate key: %w", err)
	}
	root := template("root")
	if ca.Root, err = issue(root, root, rootKey.Public(), rootKey); err != nil {
		return nil, fmt.Errorf("root certificate: %w", err)
	}
	intermediate := template("intermediate")
	intermediate.MaxPathLenZero = true
	intermediate.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	if ca.Intermediate, err = issue(intermediate, ca.Root, ca.key.Public(), rootKey); err != nil {
		return nil, fmt.Errorf("intermediate certificate: %w", err)
	}
	return ca, nil
}

func issue(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := issueDER(template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// issueDER gives the template a serial number unless it has one.
func issueDER(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) ([]byte, error) {
	var err error
	if template.SerialNumber == nil {
		if template.SerialNumber, err = cryptoutils.GenerateSerialNumber(); err != nil {
			return nil, err
		}
	}
	if template.SubjectKeyId, err = cryptoutils.SKID(public); err != nil {
		return nil, err
	}
	return x509.CreateCertificate(rand.Reader, template, parent, public, key)
}

// RootPEM is the root certificate.
func (ca *CA) RootPEM() []byte { return certificatePEM(ca.Root.Raw) }

// IntermediatePEM is the intermediate certificate.
func (ca *CA) IntermediatePEM() []byte { return certificatePEM(ca.Intermediate.Raw) }

// Issue makes a certificate, and its key unless the identity brings one.
func (ca *CA) Issue(id Identity) (Signer, error) {
	template, key, err := id.template()
	if err != nil {
		return Signer{}, err
	}
	der, err := issueDER(template, ca.Intermediate, key.Public(), ca.key)
	if err != nil {
		return Signer{}, fmt.Errorf("issuing a certificate for %+v: %w", id, err)
	}
	return Signer{Key: key, Certificate: der}, nil
}

// template is the certificate to be issued, and the key it is for.
func (id Identity) template() (*x509.Certificate, crypto.Signer, error) {
	key := id.Key
	if key == nil {
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, nil, fmt.Errorf("certificate key: %w", err)
		}
	}
	extensions, err := id.render()
	if err != nil {
		return nil, nil, err
	}
	notBefore, lifetime := id.NotBefore, id.Lifetime
	if notBefore.IsZero() {
		notBefore = time.Now()
	}
	if lifetime == 0 {
		lifetime = 10 * time.Minute
	}
	return &x509.Certificate{
		NotBefore:       notBefore,
		NotAfter:        notBefore.Add(lifetime),
		KeyUsage:        x509.KeyUsageDigitalSignature,
		ExtKeyUsage:     []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		ExtraExtensions: extensions,
	}, key, nil
}

// lastRawArc is the last of the deprecated extensions, whose values are raw bytes.
const lastRawArc = 6

// render makes the certificate's extensions in the order in which Fulcio does.
func (id Identity) render() ([]pkix.Extension, error) {
	values := maps.Clone(id.Extensions)
	if values == nil {
		values = make(map[int]string)
	}
	if id.Issuer != "" {
		values[1] = id.Issuer
		if !id.LegacyIssuer {
			values[8] = id.Issuer
		}
	}
	san, err := id.subjectAltName()
	if err != nil {
		return nil, err
	}
	out := []pkix.Extension{san}
	for _, arc := range slices.Sorted(maps.Keys(values)) {
		value := []byte(values[arc])
		if arc > lastRawArc {
			// A RawValue, since MarshalWithParams refuses what is not UTF-8.
			if value, err = asn1.Marshal(asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: value}); err != nil {
				return nil, fmt.Errorf("extension 1.3.6.1.4.1.57264.1.%d: %w", arc, err)
			}
		}
		out = append(out, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, arc}, Value: value})
	}
	return out, nil
}

// subjectAltName is critical, as RFC 5280 wants where there is no subject.
func (id Identity) subjectAltName() (pkix.Extension, error) {
	var names []asn1.RawValue
	for tag, name := range map[int]string{1: id.Email, 2: id.DNSName, 6: id.URI} { // GeneralName's tags
		if name != "" {
			names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte(name)})
		}
	}
	slices.SortFunc(names, func(a, b asn1.RawValue) int { return a.Tag - b.Tag })
	if id.UserName != "" {
		other, err := asn1.MarshalWithParams(cryptoutils.OtherName{ID: cryptoutils.OIDOtherName, Value: id.UserName}, "tag:0")
		if err != nil {
			return pkix.Extension{}, fmt.Errorf("user name %q: %w", id.UserName, err)
		}
		names = append(names, asn1.RawValue{FullBytes: other})
	}
	value, err := asn1.Marshal(names)
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("subject alternative name: %w", err)
	}
	return pkix.Extension{Id: cryptoutils.SANOID, Critical: true, Value: value}, nil
}

func certificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
