package monitor_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// BenchmarkRFC6962 is BenchmarkRekorV2 with a CT log. Its floor reads leaves as a
// run does, out of JSON and base64; the bare one looks for the quotes around them.
func BenchmarkRFC6962(b *testing.B) {
	loopback(b, job{Type: tlog.RFC6962, Entries: entries(50_000)})
}

// BenchmarkRFC6962Latency is BenchmarkRekorV2Latency with pages of a thousand.
func BenchmarkRFC6962Latency(b *testing.B) {
	late(b, job{Type: tlog.RFC6962, Entries: entries(100_000), Latency: 50 * time.Millisecond})
}

// BenchmarkStaticCT is BenchmarkRekorV2 with a static CT log.
func BenchmarkStaticCT(b *testing.B) {
	loopback(b, job{Type: tlog.StaticCT, Entries: entries(100_000)})
}

// BenchmarkStaticCTLatency is BenchmarkRekorV2Latency with a static CT log.
func BenchmarkStaticCTLatency(b *testing.B) {
	late(b, job{Type: tlog.StaticCT, Entries: entries(200_000), Latency: 50 * time.Millisecond})
}

// submitted makes what Fulcio submits: precertificates of strangers, of several
// workflows, and one of ours.
func (j job) submitted(t *testing.T) func(uint64) tlogtest.CTEntry {
	ca, err := tlogtest.NewCA("sigstore.example")
	if err != nil {
		t.Fatal(err)
	}
	submit := func(id tlogtest.Identity) tlogtest.CTEntry {
		_, e, err := ca.IssuePrecertified(id)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	var strangers []tlogtest.CTEntry
	for i := range 8 {
		strangers = append(strangers, submit(workflow(fmt.Sprintf("https://github.com/someone/else-%d", i))))
	}
	others, err := tlogtest.SyntheticCT(strangers...)
	if err != nil {
		t.Fatal(err)
	}
	// outsize are a precertificate with a long extension, a certificate of names and
	// little else, and what is none, each with as many bytes as a log has of it.
	outsize := func(size int) func(uint64) tlogtest.CTEntry {
		id := workflow("https://github.com/someone/large")
		id.Extensions[22] = string(bytes.Repeat([]byte("x"), size/2))
		known, err := tlogtest.SyntheticCT(submit(id), tlogtest.CTEntry{Certificate: ofNames(t, size)})
		if err != nil {
			t.Fatal(err)
		}
		broken := bytes.Repeat([]byte("x"), size)
		return func(i uint64) tlogtest.CTEntry {
			if i%100 == 99 {
				return tlogtest.CTEntry{Timestamp: i, Certificate: broken}
			}
			return known(i)
		}
	}
	if j.Leaves == "max" {
		others = outsize(65_000)
	}
	if j.Leaves == "huge" {
		typical, huge := others, outsize(12<<20) // 16 MiB in base64
		others = func(i uint64) tlogtest.CTEntry {
			// One fills a page of an RFC 6962 log, and all the room that a tile may take.
			if every := map[tlog.Type]uint64{tlog.RFC6962: 1, tlog.StaticCT: 256}[j.Type]; i%every == 0 && i/every < hugeLeaves {
				return huge(i / every)
			}
			return typical(i)
		}
	}
	ours := submit(workflow("https://github.com/acme/app"))
	if j.Leaves == "beside" {
		typical, junk := others, bytes.Repeat([]byte("x"), 12<<20)
		others = func(i uint64) tlogtest.CTEntry {
			e := typical(i)
			if i < hugeBeside {
				e.Chain = [][]byte{junk}
			}
			return e
		}
	}
	if j.Leaves == "fitting" {
		// Its name takes six times the room in JSON, and what is beside it does not count
		// in the tree.
		id, der := ours, ofNames(t, 0, asn1.RawValue{Class: 2, Tag: 1, Bytes: append(make([]byte, 60_000), "@acme.example"...)})
		id.Precertificate = longSignature(t, ours.Precertificate, 4<<20)
		typical := others
		others = func(i uint64) tlogtest.CTEntry {
			switch {
			case i < largeFitting:
				return tlogtest.CTEntry{Timestamp: i, Certificate: der}
			case i < largeFitting+hugeBeside:
				return id
			}
			return typical(i)
		}
	}
	return func(i uint64) tlogtest.CTEntry {
		if i == rareMatch {
			return ours
		}
		return others(i)
	}
}

// How many leaves of a log with huge ones are huge, how many have 16 MiB beside them,
// and how many large ones fit a rule.
const (
	hugeLeaves   = 8
	hugeBeside   = 16
	largeFitting = 200
)

// longSignature gives a certificate a signature of so many bytes.
func longSignature(t *testing.T, der []byte, size int) []byte {
	var c struct {
		TBS, Algorithm asn1.RawValue
		Signature      asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &c); err != nil {
		t.Fatal(err)
	}
	c.Signature = asn1.BitString{Bytes: make([]byte, size), BitLength: 8 * size}
	der, err := asn1.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// ofNames makes a certificate that has the given names, and as many more as so many
// bytes hold.
func ofNames(t *testing.T, size int, first ...asn1.RawValue) []byte {
	var list []byte
	for _, name := range first {
		b, err := asn1.Marshal(name)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, b...)
	}
	list = append(list, bytes.Repeat([]byte{0x82, 1, 'x'}, size/3)...)
	names, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: list})
	if err != nil {
		t.Fatal(err)
	}
	key := ecKey(t)
	template := &x509.Certificate{ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: names}}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
