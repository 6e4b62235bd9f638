// Package entry turns a leaf into an entry and says who signed it.
//
// Parse reads the leaves of Rekor. It knows every kind of Rekor v1.5.4 (hashedrekord, dsse, intoto, rekord, rpm,
// jar, helm, alpine, tuf, cose, rfc3161) and of Rekor v2 (hashedrekord 0.0.2, dsse
// 0.0.2). What the logs are made of, hashedrekord, dsse and intoto with
// certificates or PKIX keys, takes a fast path; the rest goes through
// sigstore/rekor's own types. A differential test holds the two equal. ParseCT
// reads the leaves of CT logs, RFC 6962's and static-ct-api's.
//
// It keeps its share of P6 (one bad entry never stops the others): Parse and ParseCT
// never panic, and an error from them leaves the leaf to be counted, kept and reported.
package entry

import (
	"fmt"
	"time"
)

// Parse says what a leaf is and who signed it. It does not verify signatures, which
// is what the log did before it took the entry.
//
// A kind or apiVersion that is not known gives an *UnknownKindError. An entry of which
// only a part can be read gives both the entry, with the signers that could be
// read, and an error: match the one and report the other. Parse is safe for
// concurrent use and keeps no part of leaf.
func Parse(leaf []byte) (*Entry, error) {
	if e, ok, err := fast(leaf); ok {
		if err != nil {
			err = fmt.Errorf("parsing %s %s: %w", e.Kind, e.Version, err)
		}
		return e, err
	}
	return library(leaf)
}

// Entry is a leaf that has been parsed.
type Entry struct {
	Kind    string // "hashedrekord", "dsse", …; of CT "certificate", "precertificate"
	Version string // apiVersion, "0.0.1"; of CT "v1"
	// Digests are the artifact's digests, "sha256:<hex>"; of an attestation, its
	// payload's, then of intoto also its envelope's.
	Digests []string
	// Logged is when a CT log says that it took the entry, to the millisecond; zero for
	// other logs. It is in the leaf, and the log's own word.
	Logged time.Time
	// Signers are in the order of the entry. A PGP key ring has one for each key and
	// subkey, a TUF root one for each key, since any of them may have signed.
	Signers []Signer
}

// SignerType says what kind of verifier a signer is.
type SignerType string

// The kinds of verifier that Rekor's entries carry. Whatever has a certificate is
// X509: in the log a jar's PKCS7 has become one, and of a timestamp (rfc3161) it is
// the authority's. So PKCS7 is not given to any kind of Rekor v1.5.4.
const (
	X509     SignerType = "x509" // a certificate or precertificate; the only type with issuer and extensions
	PKIX     SignerType = "pkix" // a bare public key
	PGP      SignerType = "pgp"
	SSH      SignerType = "ssh"
	Minisign SignerType = "minisign"
	PKCS7    SignerType = "pkcs7"
	TUF      SignerType = "tuf"
)

// Signer is what one signature in an entry says about who made it. Every string
// in it may come from an attacker: NUL, bidirectional and control characters, and
// bytes that are no UTF-8, included.
type Signer struct {
	Type SignerType
	// Subjects: a certificate's subject alternative names, verbatim and in its order
	// (email, URI, DNS name, IP address, Fulcio's OtherName user name); the valid email
	// addresses in a PGP key ring's user IDs; an SSH key's comment if it is an email
	// address, though the log drops comments.
	Subjects []string
	// Issuer is the OIDC issuer of a Fulcio certificate: extension 1.8, else 1.1.
	Issuer string
	// Fingerprint is what rekor's Identity.Fingerprint and so rekor-monitor's
	// fingerprints are. Certificate: SHA-256 of its DER. Bare key, also of TUF and
	// minisign: SHA-256 of its SPKI DER. PGP: the key's or subkey's own fingerprint
	// (SHA-1 for version 4 keys). All in lower-case hex. SSH: "SHA256:<unpadded base64>".
	// "" for a precertificate, of whose DER a log keeps only a part.
	Fingerprint string
	// KeyFingerprint is SHA-256 of a certificate's or precertificate's SPKI DER, hex; ""
	// for other types.
	KeyFingerprint string
	Extensions     []Extension
	Certificate    []byte // DER of a certificate; nil for keys and precertificates
	// TBS is the DER TBSCertificate that a CT log keeps of a precertificate, its poison
	// taken out; nil otherwise. The CA's signature does not cover it: see
	// [Signer.CheckPrecertificate].
	TBS []byte
	// IssuerKeyHash, of a precertificate, is SHA-256 of the SPKI DER of the CA that is to
	// sign the certificate.
	IssuerKeyHash [32]byte
	// Chain is the DER of further certificates that the entry carries; not parsed.
	Chain               [][]byte
	SerialNumber        string // lower-case hex, two digits a byte
	NotBefore, NotAfter time.Time
}

// Extension is one X.509 extension. A Signer lists all that its certificate has,
// in order, duplicates included.
type Extension struct {
	OID string // dotted
	// Name is Fulcio's name for 1.3.6.1.4.1.57264.1.1–1.24, see [ExtensionName], else "".
	Name string
	// Value as text: what 1.1–1.6 hold as it is; the contents of one that is a DER
	// string, as Fulcio's later ones are; otherwise the bytes of the extension.
	Value string
}

// UnknownKindError is returned for a kind or apiVersion, of CT for a leaf's version,
// type or entry type, that is not known; such leaves are counted and reported, not lost.
type UnknownKindError struct{ Kind, Version string }

func (e *UnknownKindError) Error() string {
	return fmt.Sprintf("unknown entry kind %q, apiVersion %q", e.Kind, e.Version)
}
