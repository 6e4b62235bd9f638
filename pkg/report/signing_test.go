package report

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
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

// fitsTwo makes each finding of an alert two: of its rule, and of another one that fits
// the same entry.
func fitsTwo(a Alert, rule string) Alert {
	var both []watch.Finding
	for _, f := range a.Findings {
		other := f
		other.Rule = rule
		both = append(both, f, other)
	}
	a.Findings = both
	a.Seal()
	return a
}

// rules counts the lines of a message that name a rule.
func rules(m Message, rule string) int {
	return len(regexp.MustCompile(`(?m)^ *Rule: +`+regexp.QuoteMeta(rule)+` \(`).FindAllString(m.Text, -1))
}

func TestASigningThatTwoRulesFitIsOneItemThatNamesBothAndEveryLog(t *testing.T) {
	const logs = 4
	var alerts []Alert
	for i, name := range []string{"ct", "static", "rekor", "v1"}[:logs] {
		alerts = append(alerts, fitsTwo(found(name, uint64(10*i), "c1"), "app"))
	}
	m := Email(alerts)
	if got, want := m.Subject, "Signed as ci@acme.example: 1 entry in ct.example (and in 3 more logs)"; got != want {
		t.Errorf("got subject %q, want %q", got, want)
	}
	if n := strings.Count(m.Text, "Leaf hash:"); n != 1 || rules(m, "acme") != 1 || rules(m, "app") != 1 {
		t.Errorf("got %d items, which name the rules %d and %d times; want one that names each once", n, rules(m, "acme"), rules(m, "app"))
	}
	if n := strings.Count(m.Text, "Also in"); n != logs-1 {
		t.Errorf("got %d further places, want %d:\n%s", n, logs-1, m.Text)
	}
	// What has no certificate that chains is one item, too.
	for name, a := range map[string]Alert{"a key": found("ct", 7, ""), "an untrusted chain": found("ct", 7, "c1")} {
		if a.Findings[0].Trusted = watch.Unknown; name != "a key" {
			a.Findings[0].Trusted = watch.Untrusted
		}
		m := Email([]Alert{fitsTwo(a, "app")})
		if n := strings.Count(m.Text, "Leaf hash:"); n != 1 || rules(m, "app") != 1 || !strings.Contains(m.Subject, "1 entry in") {
			t.Errorf("%s: got %d items, subject %q:\n%s", name, n, m.Subject, m.Text)
		}
	}
}

func TestARuleThatFitsInOneLogOnlyIsNamedInTheItem(t *testing.T) {
	const digest = "the digest that was signed"
	ct, rekor := found("ct", 7, "c1"), found("rekor", 90, "c1")
	rekor.Findings[0].Rule = digest
	rekor.Seal()
	for name, alerts := range map[string][]Alert{"by itself": {ct, rekor}, "beside the other": {ct, fitsTwo(found("rekor", 90, "c1"), digest)}} {
		m := Email(alerts)
		if rules(m, "acme") != 1 || rules(m, digest) != 1 || strings.Count(m.Text, "Also in") != 1 || strings.Count(m.HTML, digest+" (matched") != 1 {
			t.Errorf("%s: want one item that names both rules and both logs:\n%s", name, m.Text)
		}
	}
	// Another of the certificate's names is another heading.
	rekor.Findings[0].Subject = "other@acme.example"
	rekor.Seal()
	if m := Email([]Alert{ct, rekor}); strings.Count(m.Text, "Leaf hash:") != 2 {
		t.Errorf("want two items:\n%s", m.Text)
	}
}

func TestAnEntryThatIsAlertedTwiceIsToldTwice(t *testing.T) {
	a := found("ct", 7, "c1")
	again := found("ct", 7, "c1")
	again.Notes = []string{"asked for again"}
	again.Seal()
	if m := Email([]Alert{a, again}); strings.Count(m.Text, "Leaf hash:") != 2 || strings.Contains(m.Subject, "more log") {
		t.Errorf("got subject %q, want both told:\n%s", m.Subject, m.Text)
	}
}

// Room ends in the first alert: what it does not show may not be called told there.
func TestOnlyWhatIsShownAboveIsCalledToldAbove(t *testing.T) {
	for _, tc := range []struct{ findings, items, leftOut int }{{30, 30, 5}, {60, 50, 35 + 10}} {
		var ids []string
		for i := range tc.findings {
			ids = append(ids, fmt.Sprintf("c%d", i))
		}
		m := Email([]Alert{found("ct", 7, ids...), found("rekor", 190, ids...)})
		items, told, leftOut := strings.Count(m.Text, "Leaf hash:"), 0, 0
		for _, n := range regexp.MustCompile(`(\d+) of them are certificates that are told of above`).FindAllStringSubmatch(m.Text, -1) {
			k, _ := strconv.Atoi(n[1])
			told += k
		}
		for _, n := range regexp.MustCompile(`(\d+) more findings are not shown here`).FindAllStringSubmatch(m.Text, -1) {
			k, _ := strconv.Atoi(n[1])
			leftOut += k
		}
		if also := strings.Count(m.Text, "Also in"); items != tc.items || told != also || leftOut != tc.leftOut || items+told+leftOut != 2*tc.findings {
			t.Errorf("%d in each of two logs: %d items, %d of them with another place, %d told of above, %d left out; want %d items, as many told as there are places, %d left out",
				tc.findings, items, also, told, leftOut, tc.items, tc.leftOut)
		}
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
