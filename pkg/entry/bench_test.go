package entry

import (
	"bytes"
	"testing"

	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
)

// Both benchmarks read the same hashedrekord with a Fulcio certificate.
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
