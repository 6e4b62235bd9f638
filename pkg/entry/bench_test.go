package entry

import (
	"bytes"
	"testing"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"

	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// All read certificates shaped as Fulcio's for a GitHub workflow.
//
//	go test -bench . -benchmem ./pkg/entry

func BenchmarkParse(b *testing.B) {
	for _, name := range []string{"hashedrekord-certificate", "hashedrekord-0.0.2-certificate", "hashedrekord-key-p256", "dsse-certificate"} {
		b.Run(name, func(b *testing.B) {
			leaf := readLeaf(b, name)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse(leaf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRekorLibrary(b *testing.B) {
	leaf := readLeaf(b, "hashedrekord-certificate")
	b.ReportAllocs()
	for b.Loop() {
		proposed, err := models.UnmarshalProposedEntry(bytes.NewReader(leaf), nil)
		if err != nil {
			b.Fatal(err)
		}
		impl, err := types.UnmarshalEntry(proposed)
		if err != nil {
			b.Fatal(err)
		}
		verifiers, err := impl.Verifiers()
		if err != nil {
			b.Fatal(err)
		}
		for _, v := range verifiers {
			if _, err := v.Identities(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// ctLeaves are the leaves of a certificate and of its precertificate.
func ctLeaves(b *testing.B) (certificate, precertificate []byte) {
	id := tlogtest.Identity{URI: "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1.2.3",
		Issuer: "https://token.actions.githubusercontent.com", Extensions: map[int]string{}}
	for n := 2; n <= 24; n++ {
		if n < 7 || n > 8 {
			id.Extensions[n] = "https://github.com/acme/app"
		}
	}
	final, submitted := pair(b, id)
	return certificateLeaf(b, final, nil), submitted.Leaf(-1)
}

func BenchmarkParseCT(b *testing.B) {
	certificate, precertificate := ctLeaves(b)
	for name, leaf := range map[string][]byte{"certificate": certificate, "precertificate": precertificate} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseCT(leaf); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

func BenchmarkCTLibrary(b *testing.B) {
	certificate, precertificate := ctLeaves(b)
	for name, leaf := range map[string][]byte{"certificate": certificate, "precertificate": precertificate} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := readWithLibrary(leaf); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

// readWithLibrary is what it takes to have a leaf's names from the CT library.
func readWithLibrary(raw []byte) error {
	var leaf ct.MerkleTreeLeaf
	if _, err := tls.Unmarshal(raw, &leaf); err != nil {
		return err
	}
	if leaf.TimestampedEntry.EntryType == ct.X509LogEntryType {
		_, err := leaf.X509Certificate()
		return err
	}
	_, err := leaf.Precertificate()
	return err
}

func BenchmarkCertificateID(b *testing.B) {
	certificate, precertificate := ctLeaves(b)
	for name, leaf := range map[string][]byte{"certificate": certificate, "precertificate": precertificate} {
		b.Run(name, func(b *testing.B) {
			e, err := ParseCT(leaf)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if e.Signers[0].CertificateID() == "" {
					b.Fatal("no ID")
				}
			}
		})
	}
}
