package tlogtest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"reflect"
	"testing"
	"time"

	"filippo.io/sunlight"
	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/google/certificate-transparency-go/x509util"
)

var someone = Identity{Email: "someone@example.com", Issuer: "https://accounts.example.com", NotBefore: time.UnixMilli(1_700_000_000_000)}

// submitted are a certificate's and a precertificate's entry, the latter with the
// final certificate.
func submitted(t testing.TB) (ca *CA, final CTEntry, pre CTEntry, cert []byte) {
	t.Helper()
	ca, err := NewCA("sigstore.example.com")
	if err != nil {
		t.Fatal(err)
	}
	if _, final, err = ca.IssueForCT(someone); err != nil {
		t.Fatal(err)
	}
	s, pre, err := ca.IssuePrecertified(someone)
	if err != nil {
		t.Fatal(err)
	}
	return ca, final, pre, s.Certificate
}

// checkEntry reads an entry as it is served with Google's library.
func checkEntry(t *testing.T, e CTEntry) {
	t.Helper()
	raw, err := ct.RawLogEntryFromLeaf(7, &ct.LeafEntry{LeafInput: e.Leaf(-1), ExtraData: e.ExtraData()})
	if err != nil {
		t.Fatal(err)
	}
	got := CTEntry{Timestamp: raw.Leaf.TimestampedEntry.Timestamp}
	if p := raw.Leaf.TimestampedEntry.PrecertEntry; p != nil {
		got.TBS, got.IssuerKeyHash, got.Precertificate = p.TBSCertificate, p.IssuerKeyHash, raw.Cert.Data
	} else {
		got.Certificate = raw.Cert.Data
	}
	for _, c := range raw.Chain {
		got.Chain = append(got.Chain, c.Data)
	}
	if !reflect.DeepEqual(got, e) {
		t.Errorf("got entry %+v, want %+v", got, e)
	}
	chain := raw.Chain
	if e.Precertificate != nil {
		chain = append([]ct.ASN1Cert{{Data: e.Precertificate}}, chain...)
	} else {
		chain = append([]ct.ASN1Cert{{Data: e.Certificate}}, chain...)
	}
	want, err := ct.MerkleTreeLeafFromRawChain(chain, raw.Leaf.TimestampedEntry.EntryType, e.Timestamp)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := tls.Marshal(*want); err != nil || !bytes.Equal(b, e.Leaf(-1)) {
		t.Errorf("got leaf %x, want %x (%v)", e.Leaf(-1), b, err)
	}
}

func TestEntriesAreThoseThatACTLogMakesOfTheChain(t *testing.T) {
	_, final, pre, _ := submitted(t)
	checkEntry(t, final)
	checkEntry(t, pre)
	if final.Certificate == nil || pre.Certificate != nil || final.Timestamp != 1_700_000_000_000 || pre.Timestamp != final.Timestamp {
		t.Errorf("got entries %+v and %+v", final, pre)
	}
}

func TestTheFinalCertificateIsThePrecertificateWithAnSCTListForItsPoison(t *testing.T) {
	ca, _, pre, cert := submitted(t)
	precert, err := ctx509.ParseCertificate(pre.Precertificate)
	if ctx509.IsFatal(err) {
		t.Fatal(err)
	}
	if !precert.IsPrecertificate() {
		t.Error("the precertificate has no poison")
	}
	final, err := ctx509.ParseCertificate(cert)
	if ctx509.IsFatal(err) {
		t.Fatal(err)
	}
	if tbs, err := ctx509.RemoveSCTList(final.RawTBSCertificate); err != nil || !bytes.Equal(tbs, pre.TBS) {
		t.Errorf("the final certificate without its SCTs is %x (%v), want %x", tbs, err, pre.TBS)
	}
	issuer, err := ctx509.ParseCertificate(ca.Intermediate.Raw)
	if ctx509.IsFatal(err) {
		t.Fatal(err)
	}
	for what, c := range map[string]*ctx509.Certificate{"precertificate": precert, "final certificate": final} {
		if err := c.CheckSignatureFrom(issuer); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if want := sha256.Sum256(issuer.RawSubjectPublicKeyInfo); pre.IssuerKeyHash != want {
		t.Errorf("got issuer key hash %x, want %x", pre.IssuerKeyHash, want)
	}
	scts, err := x509util.ParseSCTsFromCertificate(cert)
	if err != nil || len(scts) != 1 {
		t.Fatalf("got %d SCTs, %v; want 1", len(scts), err)
	}
	leaf, err := ct.MerkleTreeLeafForEmbeddedSCT([]*ctx509.Certificate{final, issuer}, scts[0].Timestamp)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := tls.Marshal(*leaf); err != nil || !bytes.Equal(b, pre.Leaf(-1)) {
		t.Errorf("the embedded SCT is for leaf %x (%v), want %x", b, err, pre.Leaf(-1))
	}
	input, err := ct.SerializeSCTSignatureInput(*scts[0], ct.LogEntry{Leaf: *leaf})
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(input)
	if !ecdsa.VerifyASN1(ca.Intermediate.PublicKey.(*ecdsa.PublicKey), digest[:], scts[0].Signature.Signature) {
		t.Error("the SCT's signature does not verify under the CA's key")
	}
}

func TestAStaticCTLeafCarriesItsIndex(t *testing.T) {
	_, final, pre, _ := submitted(t)
	for _, e := range []CTEntry{final, pre} {
		for _, index := range []int64{0, 1, 1<<40 - 1} {
			want := (&sunlight.LogEntry{
				Certificate: append(e.Certificate, e.TBS...), IsPrecert: e.Certificate == nil, IssuerKeyHash: e.IssuerKeyHash,
				LeafIndex: index, Timestamp: int64(e.Timestamp),
			}).MerkleTreeLeaf()
			if got := e.Leaf(index); !bytes.Equal(got, want) {
				t.Errorf("index %d: got leaf %x, want %x", index, got, want)
			}
		}
	}
}

func TestSyntheticEntriesAreUniqueAndWhole(t *testing.T) {
	_, final, pre, _ := submitted(t)
	entry, err := SyntheticCT(final, pre)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i := range uint64(6) {
		e := entry(i)
		checkEntry(t, e)
		if !reflect.DeepEqual(e, entry(i)) {
			t.Errorf("entry %d is another the second time", i)
		}
		der := string(e.Certificate) + string(e.Precertificate)
		if seen[der] || e.Timestamp != final.Timestamp+i {
			t.Errorf("entry %d of time %d is not its own", i, e.Timestamp)
		}
		seen[der] = true
	}
	if _, err := SyntheticCT(); err == nil {
		t.Error("no entries: got a generator, want an error")
	}
}
