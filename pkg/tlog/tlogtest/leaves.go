//lint:file-ignore SA1019 dsse 0.0.2 is deprecated for uploads, and in public logs for ever

package tlogtest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekorv2 "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/sigstore/rekor/pkg/types"
	_ "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1" // registers the kind with types
	_ "github.com/sigstore/rekor/pkg/types/hashedrekord/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/intoto/v0.0.2"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"
	"google.golang.org/protobuf/encoding/protojson"
)

// InTotoPayload is the DSSE payload type of in-toto attestations.
const InTotoPayload = "application/vnd.in-toto+json"

// NewKeySigner makes a signer with a P-256 key and no certificate.
func NewKeySigner() (Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Signer{}, fmt.Errorf("signing key: %w", err)
	}
	return Signer{Key: key}, nil
}

// PEM is the certificate or else the public key, as clients upload it.
func (s Signer) PEM() ([]byte, error) {
	if s.Certificate != nil {
		return certificatePEM(s.Certificate), nil
	}
	return publicKeyPEM(s.Key.Public())
}

// algorithm is the one that Sigstore's clients choose for the key. A hashedrekord's
// signature is over a digest: with Ed25519 that is Ed25519ph.
func (s Signer) algorithm(prehashed bool) (signature.AlgorithmDetails, []signature.LoadOption, error) {
	var opts []signature.LoadOption
	if prehashed {
		opts = append(opts, options.WithED25519ph())
	}
	alg, err := signature.GetDefaultAlgorithmDetails(s.Key.Public(), opts...)
	return alg, opts, err
}

func (s Signer) sign(message []byte, prehashed bool) ([]byte, signature.AlgorithmDetails, error) {
	alg, opts, err := s.algorithm(prehashed)
	if err != nil {
		return nil, alg, err
	}
	loaded, err := signature.LoadSignerWithOpts(s.Key, append(opts, options.WithHash(alg.GetHashType()))...)
	if err != nil {
		return nil, alg, err
	}
	sig, err := loaded.SignMessage(bytes.NewReader(message))
	return sig, alg, err
}

// envelope signs a payload into a DSSE envelope, once by each signer.
func envelope(payloadType string, payload []byte, signers []Signer) (dsse.Envelope, error) {
	env := dsse.Envelope{PayloadType: payloadType, Payload: base64.StdEncoding.EncodeToString(payload)}
	for i, s := range signers {
		sig, _, err := s.sign(dsse.PAE(payloadType, payload), false)
		if err != nil {
			return env, fmt.Errorf("signer %d: %w", i, err)
		}
		env.Signatures = append(env.Signatures, dsse.Signature{Sig: base64.StdEncoding.EncodeToString(sig)})
	}
	return env, nil
}

// HashedRekordV001 is the leaf that Rekor v1 makes of a signed artifact.
func HashedRekordV001(s Signer, artifact []byte) ([]byte, error) {
	sig, alg, err := s.sign(artifact, true)
	if err != nil {
		return nil, fmt.Errorf("hashedrekord 0.0.1: %w", err)
	}
	pem, err := s.PEM()
	if err != nil {
		return nil, fmt.Errorf("hashedrekord 0.0.1: %w", err)
	}
	digest := alg.GetHashType().New()
	digest.Write(artifact)
	return canonicalV1("hashedrekord", "0.0.1", types.ArtifactProperties{
		ArtifactHash:   hex.EncodeToString(digest.Sum(nil)),
		SignatureBytes: sig,
		PublicKeyBytes: [][]byte{pem},
		PKIFormat:      "x509",
	})
}

// DSSEV001 is the leaf that Rekor v1 makes of an attestation.
func DSSEV001(payload []byte, signers ...Signer) ([]byte, error) {
	return attestationV1("dsse", "0.0.1", payload, signers)
}

// IntotoV002 is the leaf that Rekor v1 makes of an attestation uploaded as intoto.
func IntotoV002(payload []byte, signers ...Signer) ([]byte, error) {
	return attestationV1("intoto", "0.0.2", payload, signers)
}

func attestationV1(kind, version string, payload []byte, signers []Signer) ([]byte, error) {
	env, err := envelope(InTotoPayload, payload, signers)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", kind, version, err)
	}
	raw, err := json.Marshal(env)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", kind, version, err)
	}
	props := types.ArtifactProperties{ArtifactBytes: raw}
	for _, s := range signers {
		pem, err := s.PEM()
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", kind, version, err)
		}
		props.PublicKeyBytes = append(props.PublicKeyBytes, pem)
	}
	return canonicalV1(kind, version, props)
}

// canonicalV1 goes the way of an upload: the client's proposed entry, then what the
// server verifies and canonicalizes.
func canonicalV1(kind, version string, props types.ArtifactProperties) ([]byte, error) {
	ctx := context.Background() // nothing is fetched: all properties are bytes
	proposed, err := types.NewProposedEntry(ctx, kind, version, props)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", kind, version, err)
	}
	e, err := types.CreateVersionedEntry(proposed)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", kind, version, err)
	}
	leaf, err := types.CanonicalizeEntry(ctx, e)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", kind, version, err)
	}
	return leaf, nil
}

// HashedRekordV002 is the leaf that Rekor v2 makes of a signed artifact.
func HashedRekordV002(s Signer, artifact []byte) ([]byte, error) {
	sig, alg, err := s.sign(artifact, true)
	if err != nil {
		return nil, fmt.Errorf("hashedrekord 0.0.2: %w", err)
	}
	signed, err := s.signatureV2(sig, alg)
	if err != nil {
		return nil, fmt.Errorf("hashedrekord 0.0.2: %w", err)
	}
	digest := alg.GetHashType().New()
	digest.Write(artifact)
	return canonicalV2(&rekorv2.Entry{Kind: "hashedrekord", ApiVersion: "0.0.2", Spec: &rekorv2.Spec{
		Spec: &rekorv2.Spec_HashedRekordV002{HashedRekordV002: &rekorv2.HashedRekordLogEntryV002{
			Data:      &common.HashOutput{Algorithm: alg.GetProtoHashType(), Digest: digest.Sum(nil)},
			Signature: signed,
		}},
	}})
}

// DSSEV002 is the leaf that Rekor v2 makes of an attestation. Its servers took
// attestations until v2.2.
func DSSEV002(payload []byte, signers ...Signer) ([]byte, error) {
	var signatures []*rekorv2.Signature
	for i, s := range signers {
		sig, alg, err := s.sign(dsse.PAE(InTotoPayload, payload), false)
		if err != nil {
			return nil, fmt.Errorf("dsse 0.0.2: signer %d: %w", i, err)
		}
		signed, err := s.signatureV2(sig, alg)
		if err != nil {
			return nil, fmt.Errorf("dsse 0.0.2: signer %d: %w", i, err)
		}
		signatures = append(signatures, signed)
	}
	// The server puts signatures in the order of their bytes.
	slices.SortFunc(signatures, func(a, b *rekorv2.Signature) int { return bytes.Compare(a.Content, b.Content) })
	digest := sha256.Sum256(payload)
	return canonicalV2(&rekorv2.Entry{Kind: "dsse", ApiVersion: "0.0.2", Spec: &rekorv2.Spec{
		Spec: &rekorv2.Spec_DsseV002{DsseV002: &rekorv2.DSSELogEntryV002{
			PayloadHash: &common.HashOutput{Algorithm: common.HashAlgorithm_SHA2_256, Digest: digest[:]},
			Signatures:  signatures,
		}},
	}})
}

func (s Signer) signatureV2(sig []byte, alg signature.AlgorithmDetails) (*rekorv2.Signature, error) {
	v := &rekorv2.Verifier{KeyDetails: alg.GetSignatureAlgorithm()}
	if s.Certificate != nil {
		v.Verifier = &rekorv2.Verifier_X509Certificate{X509Certificate: &common.X509Certificate{RawBytes: s.Certificate}}
	} else {
		spki, err := x509.MarshalPKIXPublicKey(s.Key.Public())
		if err != nil {
			return nil, err
		}
		v.Verifier = &rekorv2.Verifier_PublicKey{PublicKey: &rekorv2.PublicKey{RawBytes: spki}}
	}
	return &rekorv2.Signature{Content: sig, Verifier: v}, nil
}

func canonicalV2(e *rekorv2.Entry) ([]byte, error) {
	raw, err := protojson.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", e.Kind, e.ApiVersion, err)
	}
	leaf, err := jsoncanonicalizer.Transform(raw)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", e.Kind, e.ApiVersion, err)
	}
	return leaf, nil
}

// Synthetic returns a generator for [Tree.Generate] that is fast enough for a
// million leaves: hashedrekords of the given signers in turn, made once by maker
// ([HashedRekordV001] or [HashedRekordV002]), each with the index in its
// certificate's serial number. So every leaf, and every certificate, is unique, and
// the signature over the artifact is valid; the CA's over the certificate is not.
func Synthetic(maker func(Signer, []byte) ([]byte, error), signers ...Signer) (func(index uint64) []byte, error) {
	if len(signers) == 0 {
		return nil, errors.New("synthetic leaves: no signers")
	}
	var templates []template
	for i, s := range signers {
		leaf, err := maker(s, []byte("synthetic"))
		if err != nil {
			return nil, fmt.Errorf("synthetic leaves: signer %d: %w", i, err)
		}
		t, err := newTemplate(leaf, s.Certificate)
		if err != nil {
			return nil, fmt.Errorf("synthetic leaves: signer %d: %w", i, err)
		}
		templates = append(templates, t)
	}
	return func(index uint64) []byte { return templates[index%uint64(len(templates))].leaf(index) }, nil
}

// template is a leaf whose certificate is filled in.
type template struct {
	data   []byte
	der    []byte
	serial int                     // where in der the index goes
	at     int                     // where in data the certificate goes
	encode func(der []byte) []byte // of constant length
}

func newTemplate(leaf, der []byte) (template, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return template{}, fmt.Errorf("certificate: %w", err)
	}
	serial := cert.SerialNumber.Bytes()
	if len(serial) < 16 {
		return template{}, fmt.Errorf("certificate: a serial number of %d bytes has no room for an index", len(serial))
	}
	t := template{data: leaf, der: der, serial: bytes.Index(der, serial) + 4} // its first bytes keep its length
	for _, encode := range []func([]byte) []byte{
		func(der []byte) []byte { return base64.StdEncoding.AppendEncode(nil, der) },                 // Rekor v2
		func(der []byte) []byte { return base64.StdEncoding.AppendEncode(nil, certificatePEM(der)) }, // Rekor v1
	} {
		if at := bytes.Index(leaf, encode(der)); at >= 0 {
			t.at, t.encode = at, encode
			return t, nil
		}
	}
	return template{}, errors.New("the leaf does not hold the certificate")
}

func (t template) leaf(index uint64) []byte {
	der := bytes.Clone(t.der)
	binary.BigEndian.PutUint64(der[t.serial:], index)
	leaf := bytes.Clone(t.data)
	copy(leaf[t.at:], t.encode(der))
	return leaf
}
