package report

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/watch"
)

// found is an identity alert of one log with a finding for each certificate.
func found(log string, index uint64, certificates ...string) Alert {
	a := Alert{Class: ClassIdentity, Log: tlog.ID(strings.Repeat(log[:1], 64)), Origin: log + ".example", Created: time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC), From: index, To: index + uint64(len(certificates))}
	for i, c := range certificates {
		a.Findings = append(a.Findings, watch.Finding{Rule: "acme", Origin: a.Origin, Log: a.Log, Index: index + uint64(i), Subject: "ci@acme.example", CertificateID: c, Trusted: watch.Trusted,
			LeafHash: tlog.LeafHash([]byte{byte(index), byte(i)})})
	}
	a.Seal()
	return a
}

func TestOneCertificateInSeveralLogsIsOneItemOfOneMessage(t *testing.T) {
	ct, rekor, other := found("ct", 7, "c1"), found("rekor", 90, "c1"), found("b", 3, "c2")
	groups := Group([]Alert{ct, other, rekor})
	if len(groups) != 2 || len(groups[0]) != 2 || groups[0][0].ID != ct.ID || groups[0][1].ID != rekor.ID {
		t.Fatalf("got %d groups, the first of %d; want the two alerts about c1 together, and the third apart", len(groups), len(groups[0]))
	}
	m := Email(groups[0])
	if got, want := m.Subject, "Signed as ci@acme.example: 1 entry in ct.example (and in 1 more log)"; got != want {
		t.Errorf("got subject %q, want %q", got, want)
	}
	for _, f := range []watch.Finding{ct.Findings[0], rekor.Findings[0]} {
		for name, text := range map[string]string{"text": m.Text, "HTML": m.HTML} {
			if n := strings.Count(text, f.LeafHash.String()); n != 1 {
				t.Errorf("%s: the leaf of %s is named %d times, want once", name, f.Origin, n)
			}
		}
	}
	if n := strings.Count(m.Text, "Matched"); strings.Count(m.Text, "Also in") != 1 || n > 1 {
		t.Errorf("want one item that names the other log:\n%s", m.Text)
	}
}

func TestWhatIsNotTheSameSigningIsToldByItself(t *testing.T) {
	base := found("ct", 7, "c1")
	untrusted := found("rekor", 90, "c1")
	untrusted.Findings[0].Trusted = watch.Untrusted
	untrusted.Seal()
	tamper := found("rekor", 90, "c1")
	tamper.Class = ClassTamper
	tamper.Seal()
	for name, a := range map[string]Alert{
		"another certificate": found("rekor", 90, "c2"), "a key": found("rekor", 90, ""), "an untrusted chain with the same ID": untrusted, "tampering": tamper,
	} {
		if groups := Group([]Alert{base, a}); len(groups) != 2 {
			t.Errorf("%s: got %d groups, want 2", name, len(groups))
		}
	}
	// Two entries of one log are two things signed.
	twice := Email([]Alert{found("ct", 7, "c1", "c1")})
	if n := strings.Count(twice.Text, "Leaf hash"); n != 2 {
		t.Errorf("got %d items, want 2:\n%s", n, twice.Text)
	}
	// What only one of the alerts holds is still told in full.
	m := Email([]Alert{base, found("rekor", 90, "c1", "c3")})
	if !strings.Contains(m.Subject, "2 alerts") || strings.Count(m.Text, "Also in") != 1 || strings.Count(m.Text, "Leaf hash") != 2 {
		t.Errorf("got %s, want a digest in which c1 is one item and c3 another:\n%s", m.Subject, m.Text)
	}
}

func TestWhatACertificateSignedIsNotBuriedInItsItem(t *testing.T) {
	ct, rekor := found("ct", 7, "c1"), found("rekor", 90, slices.Repeat([]string{"c1"}, 30)...)
	for i := range rekor.Findings {
		rekor.Findings[i].Digests = []string{fmt.Sprintf("sha256:%064d", i)}
	}
	rekor.Seal()
	m := Email([]Alert{ct, rekor})
	for _, f := range rekor.Findings {
		if !strings.Contains(m.Text, f.Digests[0]) || !strings.Contains(m.Text, f.LeafHash.String()) {
			t.Errorf("index %d: its artifact or its leaf is not named", f.Index)
		}
	}
	if n := strings.Count(m.Text, "Also in"); n != maxSame {
		t.Errorf("got %d further places in the item, want %d", n, maxSame)
	}
	unproven := found("rekor", 90, "c1")
	unproven.Findings[0].Unproven = true
	unproven.Seal()
	if m := Email([]Alert{ct, unproven}); strings.Contains(m.Text, "Also in") || !strings.Contains(m.Text, "do not hash into a root") {
		t.Errorf("the unproven one is not told by itself:\n%s", m.Text)
	}
}
