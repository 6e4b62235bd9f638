package entry

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/pki/minisign"
	"github.com/sigstore/rekor/pkg/pki/pgp"
	pki "github.com/sigstore/rekor/pkg/pki/pkitypes"
	"github.com/sigstore/rekor/pkg/pki/ssh"
	pkix509 "github.com/sigstore/rekor/pkg/pki/x509"
	"github.com/sigstore/rekor/pkg/types"
	alpine "github.com/sigstore/rekor/pkg/types/alpine/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/cose/v0.0.1" // the kinds register themselves
	_ "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/hashedrekord/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/helm/v0.0.1"
	intoto1 "github.com/sigstore/rekor/pkg/types/intoto/v0.0.1"
	intoto2 "github.com/sigstore/rekor/pkg/types/intoto/v0.0.2"
	jar "github.com/sigstore/rekor/pkg/types/jar/v0.0.1"
	rekord "github.com/sigstore/rekor/pkg/types/rekord/v0.0.1"
	rfc3161 "github.com/sigstore/rekor/pkg/types/rfc3161/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/rpm/v0.0.1"
	tuf "github.com/sigstore/rekor/pkg/types/tuf/v0.0.1"

	"github.com/sassoftware/relic/v8/lib/pkcs9"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	tufdata "github.com/theupdateframework/go-tuf/data"
	tufkeys "github.com/theupdateframework/go-tuf/pkg/keys"
	"google.golang.org/protobuf/encoding/protojson"
)

// maxLibrary is the most bytes of a leaf that the library is given: it takes up to 35
// times that in memory. No honest entry of Rekor's has as many, for what is signed is
// not in it.
const maxLibrary = 2 << 20

// library parses a leaf of any kind through the types of sigstore/rekor and
// sigstore/rekor-tiles. With an error the entry, if not nil, has what could be read.
func library(leaf []byte) (e *Entry, err error) {
	var head struct {
		Kind    string `json:"kind"`
		Version string `json:"apiVersion"`
	}
	if err := json.Unmarshal(leaf, &head); err != nil {
		return nil, fmt.Errorf("leaf is not an entry: %w", err)
	}
	// The kinds parse hostile keys and archives with code that was not written for
	// it. One leaf must not end the run.
	defer func() {
		if r := recover(); r != nil {
			e, err = nil, fmt.Errorf("parsing %s %s: panic: %v", head.Kind, head.Version, r)
		}
	}()
	e = &Entry{Kind: head.Kind, Version: head.Version}
	if len(leaf) > maxLibrary {
		return nil, fmt.Errorf("parsing %s %s: a leaf of %d bytes, more than the %d that are parsed", cut(head.Kind), cut(head.Version), len(leaf), maxLibrary)
	}
	switch head.Kind + " " + head.Version {
	case "hashedrekord 0.0.2", "dsse 0.0.2":
		err = e.fromTiles(leaf)
	case "alpine 0.0.1", "cose 0.0.1", "dsse 0.0.1", "hashedrekord 0.0.1", "helm 0.0.1", "intoto 0.0.1",
		"intoto 0.0.2", "jar 0.0.1", "rekord 0.0.1", "rfc3161 0.0.1", "rpm 0.0.1", "tuf 0.0.1":
		err = e.fromRekor(leaf)
	default:
		return nil, &UnknownKindError{Kind: cut(head.Kind), Version: cut(head.Version)}
	}
	if err != nil {
		err = fmt.Errorf("parsing %s %s: %w", e.Kind, e.Version, err)
		if len(e.Signers) == 0 {
			return nil, err
		}
	}
	return e, err
}

// cut bounds what a hostile leaf can put into counters and reports.
func cut(s string) string {
	const limit = 64
	if len(s) > limit {
		return strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}

// fromTiles reads an entry of Rekor v2.
func (e *Entry) fromTiles(leaf []byte) error {
	var entry pb.Entry
	// A later server may add members; those that identify a signer are not among them.
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(leaf, &entry); err != nil {
		return err
	}
	var hash *v1.HashOutput
	var signatures []*pb.Signature
	switch e.Kind {
	case "hashedrekord":
		spec := entry.GetSpec().GetHashedRekordV002()
		hash, signatures = spec.GetData(), []*pb.Signature{spec.GetSignature()}
	case "dsse":
		spec := entry.GetSpec().GetDsseV002()
		hash, signatures = spec.GetPayloadHash(), spec.GetSignatures()
	}
	if len(hash.GetDigest()) > 0 {
		e.Digests = []string{hashName(hash.GetAlgorithm().String()) + ":" + hex.EncodeToString(hash.GetDigest())}
	}
	if len(signatures) == 0 {
		return errors.New("no signatures")
	}
	var problems []error
	for _, signature := range signatures {
		if cert := signature.GetVerifier().GetX509Certificate().GetRawBytes(); len(cert) > 0 {
			s, err := FromCertificate(cert)
			e.Signers = append(e.Signers, s)
			problems = append(problems, err)
		} else if key := signature.GetVerifier().GetPublicKey().GetRawBytes(); len(key) > 0 {
			s, err := fromKey(key)
			if err == nil {
				e.Signers = append(e.Signers, s)
			}
			problems = append(problems, err)
		} else {
			problems = append(problems, errors.New("a signature without certificate or key"))
		}
	}
	return errors.Join(problems...)
}

// fromRekor reads an entry of Rekor v1.
func (e *Entry) fromRekor(leaf []byte) error {
	proposed, err := models.UnmarshalProposedEntry(bytes.NewReader(leaf), nil)
	if err != nil {
		return err
	}
	impl, err := types.UnmarshalEntry(proposed)
	if err != nil {
		return err
	}
	// An entry without an artifact's digest (intoto's early ones) is none the worse.
	if digest, err := impl.ArtifactHash(); err == nil {
		e.Digests = append(e.Digests, digest)
	}
	switch impl := impl.(type) {
	case *intoto1.V001Entry:
		if h := impl.IntotoObj.Content.Hash; h != nil && h.Algorithm != nil && h.Value != nil {
			e.Digests = append(e.Digests, strings.ToLower(*h.Algorithm+":"+*h.Value))
		}
	case *intoto2.V002Entry:
		if h := impl.IntotoObj.Content.Hash; h != nil && h.Algorithm != nil && h.Value != nil {
			e.Digests = append(e.Digests, strings.ToLower(*h.Algorithm+":"+*h.Value))
		}
	// The next three hold PEM. Read here, a certificate that crypto/x509 refuses is
	// still a signer.
	case *rekord.V001Entry:
		if signature := impl.RekordObj.Signature; *signature.Format == "x509" {
			return e.addPEM(*signature.PublicKey.Content)
		}
	case *jar.V001Entry:
		if signature := impl.JARModel.Signature; signature != nil && signature.PublicKey != nil && signature.PublicKey.Content != nil {
			return e.addPEM(*signature.PublicKey.Content)
		}
	case *alpine.V001Entry:
		return e.addPEM(*impl.AlpineModel.PublicKey.Content)
	case *rfc3161.V001Entry:
		return e.addTimestamp(*impl.Rfc3161Obj.Tsr.Content)
	case *tuf.V001Entry:
		return e.addRoot(impl.TufObj.Root.Content)
	}
	verifiers, err := impl.Verifiers()
	if err != nil {
		return err
	}
	var problems []error
	for _, verifier := range verifiers {
		problems = append(problems, e.addVerifier(verifier))
	}
	return errors.Join(problems...)
}

// addVerifier adds the signers in a verifier of rekor's library.
func (e *Entry) addVerifier(verifier pki.PublicKey) error {
	switch verifier := verifier.(type) {
	case *pkix509.PublicKey:
		text, err := verifier.CanonicalValue()
		if err != nil {
			return err
		}
		return e.addPEM(text)
	case *pgp.PublicKey:
		return e.addPGP(verifier)
	case *ssh.PublicKey:
		return e.addIdentities(verifier, SSH)
	case *minisign.PublicKey:
		return e.addIdentities(verifier, Minisign)
	}
	return fmt.Errorf("verifier of unknown type %T", verifier)
}

func (e *Entry) addPEM(text []byte) error {
	s, ok, err := fromPEM(text)
	if !ok {
		return errors.New("neither a PEM public key nor PEM certificates")
	}
	e.Signers = append(e.Signers, s)
	return err
}

func (e *Entry) addIdentities(verifier pki.PublicKey, as SignerType) error {
	identities, err := verifier.Identities()
	if err != nil {
		return err
	}
	for _, id := range identities {
		e.Signers = append(e.Signers, Signer{Type: as, Subjects: verifier.Subjects(), Fingerprint: id.Fingerprint})
	}
	return nil
}

// addPGP adds a signer for each key and subkey of a key ring: the signature may be
// of any. Rekor's library leaves DSA and ElGamal keys out; their owner may watch
// for them all the same.
func (e *Entry) addPGP(ring *pgp.PublicKey) error {
	entities, err := ring.Entities()
	if err != nil {
		return err
	}
	subjects := ring.Subjects() // in the order of a map
	slices.Sort(subjects)
	subjects = slices.Compact(subjects)
	for _, entity := range entities {
		add := func(fingerprint []byte) {
			e.Signers = append(e.Signers, Signer{Type: PGP, Subjects: subjects, Fingerprint: hex.EncodeToString(fingerprint)})
		}
		if entity.PrimaryKey != nil {
			add(entity.PrimaryKey.Fingerprint)
		}
		for _, subkey := range entity.Subkeys {
			if subkey.PublicKey != nil {
				add(subkey.PublicKey.Fingerprint)
			}
		}
	}
	return nil
}

// addTimestamp adds the timestamp authorities' certificates. Rekor's library has no
// verifier for them.
func (e *Entry) addTimestamp(response []byte) error {
	var tsr pkcs9.TimeStampResp
	if _, err := asn1.Unmarshal(response, &tsr); err != nil {
		return err
	}
	token := tsr.TimeStampToken.Content
	certs, err := token.Certificates.Parse()
	if err != nil {
		return err
	}
	var problems []error
	for _, info := range token.SignerInfos {
		cert, err := info.FindCertificate(certs)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		s, err := FromCertificate(cert.Raw)
		for _, other := range certs {
			if other != cert {
				s.Chain = append(s.Chain, other.Raw)
			}
		}
		e.Signers = append(e.Signers, s)
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// addRoot adds the keys of a TUF root. Rekor's library refuses a root once it has
// expired, and every root in a log does; what an entry says must not depend on the day.
func (e *Entry) addRoot(content any) error {
	// Base64 of JSON, or the JSON itself.
	text, err := json.Marshal(content)
	if encoded, ok := content.(string); ok {
		text, err = base64.StdEncoding.DecodeString(encoded)
	}
	if err != nil {
		return fmt.Errorf("root: %w", err)
	}
	var signed tufdata.Signed
	if err := json.Unmarshal(text, &signed); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	var root tufdata.Root
	if err := json.Unmarshal(signed.Signed, &root); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	var problems []error
	for _, id := range slices.Sorted(maps.Keys(root.Keys)) {
		spki, err := tufKey(root.Keys[id])
		if err == nil {
			var s Signer
			if s, err = fromKey(spki); err == nil {
				s.Type = TUF
				e.Signers = append(e.Signers, s)
			}
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("root key %q: %w", cut(id), err))
		}
	}
	return errors.Join(problems...)
}

// tufKey is a TUF key's SPKI DER.
func tufKey(key *tufdata.PublicKey) ([]byte, error) {
	if key == nil {
		return nil, errors.New("is null")
	}
	verifier, err := tufkeys.GetVerifier(key)
	if err != nil {
		return nil, err
	}
	public := []byte(verifier.Public())
	if key.Type == tufdata.KeyTypeEd25519 {
		return cryptoutils.MarshalPublicKeyToDER(ed25519.PublicKey(public))
	}
	// Early TUF roots, Sigstore's first among them, have a hex point for a P-256 key.
	if point, err := hex.DecodeString(verifier.Public()); err == nil {
		p256, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
		if err != nil {
			return nil, err
		}
		return cryptoutils.MarshalPublicKeyToDER(p256)
	}
	return public, nil
}
