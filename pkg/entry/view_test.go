package entry

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/big"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"
	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	tilescert "github.com/sigstore/rekor-tiles/v2/pkg/verifier/certificate"
	tileskey "github.com/sigstore/rekor-tiles/v2/pkg/verifier/publickey"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
	"google.golang.org/protobuf/encoding/protojson"
)

func base64Of(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// view is what rekor's library and crypto/x509 say of an entry, without any of our
// code: the oracle of the differential tests.
type view struct {
	subjects, fingerprints []string
	certificates           []*x509.Certificate
}

func rekorView(leaf []byte) (v view, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	if v, err := tilesView(leaf); err == nil {
		return v, nil
	}
	proposed, err := models.UnmarshalProposedEntry(bytes.NewReader(leaf), nil)
	if err != nil {
		return v, err
	}
	impl, err := types.UnmarshalEntry(proposed)
	if err != nil {
		return v, err
	}
	verifiers, err := impl.Verifiers()
	if err != nil {
		return v, err
	}
	for _, verifier := range verifiers {
		identities, err := verifier.Identities()
		if err != nil {
			return v, err
		}
		v.subjects = append(v.subjects, verifier.Subjects()...)
		for _, id := range identities {
			v.fingerprints = append(v.fingerprints, id.Fingerprint)
			if cert, ok := id.Crypto.(*x509.Certificate); ok {
				v.certificates = append(v.certificates, cert)
			}
		}
	}
	return v, nil
}

func tilesView(leaf []byte) (v view, err error) {
	var e pb.Entry
	if err := protojson.Unmarshal(leaf, &e); err != nil {
		return v, err
	}
	signatures := e.GetSpec().GetDsseV002().GetSignatures()
	if e.Kind == "hashedrekord" {
		signatures = []*pb.Signature{e.GetSpec().GetHashedRekordV002().GetSignature()}
	}
	if e.ApiVersion != "0.0.2" || len(signatures) == 0 || e.Kind != "hashedrekord" && e.Kind != "dsse" {
		return v, errors.New("not an entry of Rekor v2")
	}
	for _, s := range signatures {
		if raw := s.GetVerifier().GetPublicKey().GetRawBytes(); raw != nil {
			key, err := tileskey.NewVerifier(bytes.NewReader(raw))
			if err != nil {
				return v, err
			}
			id, err := key.Identity()
			if err != nil {
				return v, err
			}
			v.fingerprints = append(v.fingerprints, id.Fingerprint)
			continue
		}
		cert, err := tilescert.NewVerifier(bytes.NewReader(s.GetVerifier().GetX509Certificate().GetRawBytes()))
		if err != nil {
			return v, err
		}
		id, err := cert.Identity()
		if err != nil {
			return v, err
		}
		v.fingerprints = append(v.fingerprints, id.Fingerprint)
		v.certificates = append(v.certificates, id.Crypto.(*x509.Certificate))
		v.subjects = append(v.subjects, cryptoutils.GetSubjectAlternateNames(id.Crypto.(*x509.Certificate))...)
	}
	return v, nil
}

// check says where an entry differs. An entry may name more: PGP keys of
// algorithms that rekor's library leaves out.
func (v view) check(e *Entry) error {
	var subjects []string
	signers := map[string]Signer{}
	for _, s := range e.Signers {
		subjects = append(subjects, s.Subjects...)
		signers[s.Fingerprint] = s
	}
	for _, f := range v.fingerprints {
		if _, ok := signers[f]; !ok {
			return fmt.Errorf("fingerprint %s is missing in %+v", f, e.Signers)
		}
	}
	for s, signer := range signers {
		if signer.Type != PGP && !slices.Contains(v.fingerprints, s) {
			return fmt.Errorf("fingerprint %s is not in rekor's %q", s, v.fingerprints)
		}
	}
	for _, s := range v.subjects {
		if !slices.ContainsFunc(subjects, func(ours string) bool { return sameName(ours, s) }) {
			return fmt.Errorf("subject %q is missing in %q", s, subjects)
		}
	}
	for _, cert := range v.certificates {
		if err := checkCertificate(cert, signers[fingerprintOf(cert.Raw)]); err != nil {
			return err
		}
	}
	return nil
}

func fingerprintOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// sameName allows for crypto/x509 parsing URIs; ours are verbatim.
func sameName(ours, theirs string) bool {
	if ours == theirs {
		return true
	}
	u, err := url.Parse(ours)
	return err == nil && u.String() == theirs
}

// checkCertificate says where a signer differs from crypto/x509's view.
func checkCertificate(cert *x509.Certificate, s Signer) error {
	if s.Type != X509 || s.Fingerprint != fingerprintOf(cert.Raw) || !bytes.Equal(s.Certificate, cert.Raw) {
		return fmt.Errorf("got %s %s, want the certificate %s", s.Type, s.Fingerprint, fingerprintOf(cert.Raw))
	}
	if want := fingerprintOf(cert.RawSubjectPublicKeyInfo); s.KeyFingerprint != want {
		return fmt.Errorf("got key fingerprint %s, want %s", s.KeyFingerprint, want)
	}
	if !s.NotBefore.Equal(cert.NotBefore) || !s.NotAfter.Equal(cert.NotAfter) {
		return fmt.Errorf("got %v to %v, want %v to %v", s.NotBefore, s.NotAfter, cert.NotBefore, cert.NotAfter)
	}
	serial, ok := new(big.Int).SetString(s.SerialNumber, 16)
	if !ok || cert.SerialNumber.Sign() >= 0 && serial.Cmp(cert.SerialNumber) != 0 {
		return fmt.Errorf("got serial number %s, want %x", s.SerialNumber, cert.SerialNumber)
	}
	if len(cert.Extensions) == 0 {
		return nil // crypto/x509 ignores them in version 1, and all that comes after a wrong field; we do not
	}
	theirs := cryptoutils.GetSubjectAlternateNames(cert)
	for _, name := range theirs {
		if !slices.ContainsFunc(s.Subjects, func(ours string) bool { return sameName(ours, name) }) {
			return fmt.Errorf("subject %q is missing in %q", name, s.Subjects)
		}
	}
	// They ignore OtherNames when there are several.
	if _, err := cryptoutils.UnmarshalOtherNameSAN(cert.Extensions); len(theirs) != len(s.Subjects) && (err == nil || err.Error() == "no OtherName found") {
		return fmt.Errorf("got subjects %q, want %q", s.Subjects, theirs)
	}
	if len(s.Extensions) != len(cert.Extensions) {
		return fmt.Errorf("got %d extensions, want %d", len(s.Extensions), len(cert.Extensions))
	}
	var issuerV1, issuerV2 string
	oddIssuer := false // a string with characters that encoding/asn1 refuses; ours are verbatim
	for i, ext := range cert.Extensions {
		got := s.Extensions[i]
		if got.OID != ext.Id.String() || got.Name != ExtensionName(got.OID) {
			return fmt.Errorf("got extension %s %q, want %s", got.OID, got.Name, ext.Id)
		}
		want := string(ext.Value)
		deprecated := len(got.OID) == len(arc)+1 && strings.HasPrefix(got.OID, arc) && got.OID[len(arc)] <= '6'
		var text string
		if rest, err := asn1.Unmarshal(ext.Value, &text); !deprecated && err == nil && len(rest) == 0 && ext.Value[0] != asn1.TagBMPString && ext.Value[0] != asn1.TagGeneralString {
			want = text
		} else if !deprecated && err != nil && strings.HasSuffix(want, got.Value) {
			want = got.Value // a string with characters that encoding/asn1 refuses
		}
		if got.Value != want {
			return fmt.Errorf("extension %s: got %q, want %q", got.OID, got.Value, want)
		}
		switch {
		case got.OID == arc+"1":
			issuerV1 = want
		case got.OID == arc+"8" && want == text:
			issuerV2 = want
		case got.OID == arc+"8":
			oddIssuer = true
		}
	}
	if want := first(issuerV2, issuerV1); want != "" && !oddIssuer && s.Issuer != want {
		return fmt.Errorf("got issuer %q, want %q", s.Issuer, want)
	}
	return nil
}

// checkAgainstLibrary holds ParseCT against the CT library, which refuses what is
// not whole, and against our own reading of whole certificates.
func checkAgainstLibrary(t *testing.T, name string, leaf []byte) {
	t.Helper()
	e, err := ParseCT(leaf)
	if (e == nil) && err == nil || e != nil && len(e.Signers) != 1 {
		t.Fatalf("%s: got %+v, %v, want one signer or an error", name, e, err)
	}
	var theirs ct.MerkleTreeLeaf
	rest, refused := tls.Unmarshal(leaf, &theirs)
	if refused != nil || len(rest) > 0 {
		if err == nil {
			t.Errorf("%s: got no error; the library says %v, %d bytes left", name, refused, len(rest))
		}
		return
	}
	// It leaves unknown versions and types to its caller.
	if theirs.Version != ct.V1 || theirs.LeafType != ct.TimestampedEntryLeafType || e == nil {
		if unknown := (*UnknownKindError)(nil); e != nil || !errors.As(err, &unknown) {
			t.Errorf("%s: got %+v, %v, want an *UnknownKindError for %+v", name, e, err, theirs)
		}
		return
	}
	s, entry := e.Signers[0], theirs.TimestampedEntry
	if entry.Timestamp <= math.MaxInt64/2 && !e.Logged.IsZero() && e.Logged.UnixMilli() != int64(entry.Timestamp) {
		t.Errorf("%s: got it logged %v, the library %d", name, e.Logged, entry.Timestamp)
	}
	whole := s.Certificate
	switch entry.EntryType {
	case ct.X509LogEntryType:
		if e.Kind != "certificate" || !bytes.Equal(s.Certificate, entry.X509Entry.Data) || s.TBS != nil {
			t.Errorf("%s: got %s %x, the library a certificate %x", name, e.Kind, s.Certificate, entry.X509Entry.Data)
		}
	case ct.PrecertLogEntryType:
		want := entry.PrecertEntry
		if e.Kind != "precertificate" || !bytes.Equal(s.TBS, want.TBSCertificate) || s.IssuerKeyHash != want.IssuerKeyHash || s.Certificate != nil || s.Fingerprint != "" {
			t.Errorf("%s: got %s %x of %x, the library a precertificate %x of %x", name, e.Kind, s.TBS, s.IssuerKeyHash, want.TBSCertificate, want.IssuerKeyHash)
		}
		whole = wrap(s.TBS)
	}
	again, _ := FromCertificate(whole)
	if !reflect.DeepEqual(again.Subjects, s.Subjects) || again.Issuer != s.Issuer || !reflect.DeepEqual(again.Extensions, s.Extensions) ||
		again.KeyFingerprint != s.KeyFingerprint || again.SerialNumber != s.SerialNumber || !again.NotBefore.Equal(s.NotBefore) {
		// A certificate in a TBSCertificate's place is read; wrapped once more it is not.
		if s.TBS == nil || !strings.Contains(err.Error(), "but a certificate") {
			t.Errorf("%s: got\n%+v\nin a certificate of its own\n%+v", name, s, again)
		}
	}
	if s.CertificateID() != again.CertificateID() {
		t.Errorf("%s: got ID %q, in a certificate of its own %q", name, s.CertificateID(), again.CertificateID())
	}
}

// wrap makes a certificate, its signature aside, of a TBSCertificate.
func wrap(tbs []byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddASN1(der.SEQUENCE, func(*cryptobyte.Builder) {})
		b.AddASN1BitString([]byte{1})
	})
	return b.BytesOrPanic()
}
