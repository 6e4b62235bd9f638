package watch

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/entry"
)

func compile(t testing.TB, specs ...Rule) *Rules {
	t.Helper()
	rules, err := Compile(specs)
	if err != nil {
		t.Fatalf("Compile: %v", err)
	}
	return rules
}

func certificate() entry.Signer {
	return entry.Signer{
		Type: entry.X509, Subjects: []string{"https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1"},
		Issuer: "https://token.actions.githubusercontent.com", Fingerprint: "aa11", KeyFingerprint: "bb22",
		Certificate: []byte("der"), SerialNumber: "0a",
		Extensions: []entry.Extension{
			{OID: "2.5.29.17", Value: "raw"},
			{OID: "1.3.6.1.4.1.57264.1.1", Name: "issuer", Value: "https://token.actions.githubusercontent.com"},
			{OID: "1.3.6.1.4.1.57264.1.8", Name: "issuer", Value: "https://token.actions.githubusercontent.com"},
			{OID: "1.3.6.1.4.1.57264.1.9", Name: "build-signer-uri", Value: "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1"},
			{OID: "1.3.6.1.4.1.57264.1.11", Name: "runner-environment", Value: ""},
			{OID: "1.2.3.4", Value: "\x0c\x05hello"}, // a DER UTF8String
		},
		NotBefore: time.Unix(1700000000, 0), NotAfter: time.Unix(1700000600, 0),
	}
}

func pgp() entry.Signer {
	return entry.Signer{Type: entry.PGP, Subjects: []string{"bob@acme.com", "Alice@Acme.com"}, Fingerprint: "c0ffee"}
}

func entryOf(signers ...entry.Signer) *entry.Entry {
	return &entry.Entry{Kind: "hashedrekord", Version: "0.0.1", Digests: []string{"sha256:00"}, Signers: signers}
}

func TestPatternMatchesTheWholeTextAsItsKindSays(t *testing.T) {
	for _, tc := range []struct {
		how     How
		pattern string
		fits    []string
		not     []string
	}{
		{Exact, "a.b", []string{"a.b"}, []string{"axb", "a.b ", "A.b", ""}},
		{Glob, "https://github.com/acme/*", []string{"https://github.com/acme/", "https://github.com/acme/x/y@z"}, []string{"https://github.com/acme", "http://github.com/acme/x", " https://github.com/acme/x"}},
		{Glob, "a*c", []string{"ac", "abc", "a\nc", "a\xffc", "a/c"}, []string{"acd", "Ac", "bac"}},
		{Glob, "a?c", []string{"abc", "aéc", "a/c", "a\xffc"}, []string{"ac", "abbc"}},
		{Glob, `[a].(b)\*`, []string{`[a].(b)\x`}, []string{`a.(b)\x`, `[a]x(b)\x`}},
		{Glob, "a.b", []string{"a.b"}, []string{"axb"}},
		{Regex, "a|b", []string{"a", "b"}, []string{"ab", "xa", "bx", "a\n"}},
		{Regex, "(?i)acme", []string{"ACME"}, []string{"acme corp"}},
		{Regex, `\Qa)|(b`, []string{"a)|(b"}, []string{"a", "b"}},
		{Regex, "^a$", []string{"a"}, []string{"a\nb"}},
		{Search, `user@domain\.com`, []string{"user@domain.com", "xuser@domain.com.evil"}, []string{"user@domainxcom"}},
		{Search, "(?i)acme", []string{"the ACME corp"}, nil},
	} {
		m, err := (Pattern{tc.how, tc.pattern}).compile()
		if err != nil {
			t.Fatalf("%s %q: %v", tc.how, tc.pattern, err)
		}
		for _, text := range tc.fits {
			if !m.fits(text) {
				t.Errorf("%s %q does not fit %q, want that it does", tc.how, tc.pattern, text)
			}
		}
		for _, text := range tc.not {
			if m.fits(text) {
				t.Errorf("%s %q fits %q, want that it does not", tc.how, tc.pattern, text)
			}
		}
	}
}

func any1(how How, text string) AnyOf { return AnyOf{{how, text}} }

func TestRuleFitsASigner(t *testing.T) {
	ext := func(name, value string) []ExtensionPattern {
		return []ExtensionPattern{{name, any1(Exact, value)}}
	}
	uri := certificate().Subjects[0]
	noIssuer := certificate()
	noIssuer.Issuer = ""
	noSubject := certificate()
	noSubject.Subjects = nil
	hidden := entry.Signer{Type: entry.X509, Fingerprint: "aa11"} // should have a certificate and shows none
	twoIssuers := certificate()
	twoIssuers.Extensions = append(twoIssuers.Extensions, entry.Extension{OID: "1.3.6.1.4.1.57264.1.8", Name: "issuer", Value: "https://accounts.google.com"})
	pre := certificate()
	pre.Certificate, pre.TBS, pre.Fingerprint = nil, []byte("tbs"), ""
	for _, tc := range []struct {
		name    string
		rule    Rule
		signer  entry.Signer
		matched string // "" for no finding
		subject string
	}{
		{"a subject", Rule{Clause: Clause{Subject: any1(Glob, "https://github.com/acme/*")}}, certificate(), "subject", uri},
		{"the second subject of two", Rule{Clause: Clause{Subject: any1(Regex, "(?i)alice@.*")}}, pgp(), "subject", "Alice@Acme.com"},
		{"one of two patterns", Rule{Clause: Clause{Subject: AnyOf{{Exact, "x"}, {Exact, "bob@acme.com"}}}}, pgp(), "subject", "bob@acme.com"},
		{"another subject", Rule{Clause: Clause{Subject: any1(Exact, "bob")}}, pgp(), "", ""},
		{"subject and issuer", Rule{Clause: Clause{Subject: any1(Glob, "*acme*"), Issuer: any1(Glob, "https://token.*")}}, certificate(), "subject", uri},
		{"subject and another issuer", Rule{Clause: Clause{Subject: any1(Glob, "*acme*"), Issuer: any1(Exact, "https://accounts.google.com")}}, certificate(), "", ""},
		{"an issuer that hides behind another", Rule{Clause: Clause{Subject: any1(Glob, "*acme*"), Issuer: any1(Exact, "https://accounts.google.com")}}, twoIssuers, "subject", uri},
		{"a precertificate is a certificate", Rule{Signer: Certificates, Clause: Clause{Subject: any1(Glob, "*acme*")}}, pre, "subject", uri},
		{"a precertificate is no key", Rule{Signer: Keys, Clause: Clause{Subject: any1(Glob, "*acme*")}}, pre, "", ""},
		{"any issuer needs an issuer", Rule{Clause: Clause{Issuer: any1(Regex, ".*")}}, pgp(), "", ""},
		{"an issuer alone", Rule{Clause: Clause{Issuer: any1(Glob, "https://token.*")}}, certificate(), "issuer", uri},
		{"a fingerprint", Rule{Clause: Clause{Fingerprint: any1(Exact, "c0ffee")}}, pgp(), "fingerprint", "bob@acme.com"},
		{"a certificate's key", Rule{Clause: Clause{Fingerprint: any1(Exact, "bb22")}}, certificate(), "fingerprint", uri},
		{"rekor-monitor: not a certificate's key", Rule{Compat: true, Clause: Clause{Fingerprint: any1(Exact, "bb22")}}, certificate(), "", ""},
		{"fingerprints are case-sensitive", Rule{Clause: Clause{Fingerprint: any1(Exact, "C0FFEE")}}, pgp(), "", ""},
		{"an extension by name", Rule{Clause: Clause{Extensions: ext("build-signer-uri", uri)}}, certificate(), "extension 1.3.6.1.4.1.57264.1.9", uri},
		{"an extension by OID", Rule{Clause: Clause{Extensions: ext("1.3.6.1.4.1.57264.1.9", uri)}}, certificate(), "extension 1.3.6.1.4.1.57264.1.9", uri},
		{"an extension, no subject", Rule{Clause: Clause{Extensions: ext("build-signer-uri", uri)}}, noSubject, "extension 1.3.6.1.4.1.57264.1.9", ""},
		{"an extension with another value", Rule{Clause: Clause{Extensions: ext("build-signer-uri", "x")}}, certificate(), "", ""},
		{"an extension of others, DER text", Rule{Clause: Clause{Extensions: ext("1.2.3.4", "hello")}}, certificate(), "extension 1.2.3.4", uri},
		{"an extension of others, raw", Rule{Clause: Clause{Extensions: ext("1.2.3.4", "\x0c\x05hello")}}, certificate(), "extension 1.2.3.4", uri},
		{"issuer as an extension, either OID", Rule{Clause: Clause{Extensions: ext("issuer", "https://token.actions.githubusercontent.com")}}, certificate(), "extension 1.3.6.1.4.1.57264.1.1", uri},
		{"an empty extension", Rule{Clause: Clause{Extensions: []ExtensionPattern{{"runner-environment", any1(Glob, "*")}}}}, certificate(), "extension 1.3.6.1.4.1.57264.1.11", uri},
		{"rekor-monitor: not an empty extension", Rule{Compat: true, Clause: Clause{Extensions: []ExtensionPattern{{"runner-environment", any1(Glob, "*")}}}}, certificate(), "", ""},
		{"all extensions", Rule{Clause: Clause{Extensions: append(ext("build-signer-uri", uri), ext("1.2.3.4", "hello")...)}}, certificate(), "extension 1.3.6.1.4.1.57264.1.9", uri},
		{"all but one extension", Rule{Clause: Clause{Extensions: append(ext("build-signer-uri", uri), ext("1.2.3.4", "bye")...)}}, certificate(), "", ""},
		{"keys only: a key", Rule{Signer: Keys, Clause: Clause{Subject: any1(Glob, "*")}}, pgp(), "subject", "bob@acme.com"},
		{"keys only: a certificate", Rule{Signer: Keys, Clause: Clause{Subject: any1(Glob, "*")}}, certificate(), "", ""},
		{"keys only: a hidden certificate", Rule{Signer: Keys, Clause: Clause{Fingerprint: any1(Glob, "*")}}, hidden, "", ""},
		{"certificates only: a key", Rule{Signer: Certificates, Clause: Clause{Subject: any1(Glob, "*")}}, pgp(), "", ""},
		{"no issuer", Rule{Signer: Certificates, Clause: Clause{Subject: any1(Search, "acme")}}, noIssuer, "subject", uri},
		{"rekor-monitor: no issuer, no identity", Rule{Compat: true, Signer: Certificates, Clause: Clause{Subject: any1(Search, "acme")}}, noIssuer, "", ""},
		{"rekor-monitor: subjects are anybody's", Rule{Compat: true, Clause: Clause{Subject: any1(Search, "acme")}}, noIssuer, "subject", uri},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.rule.Name = "r"
			found := compile(t, tc.rule).Match(entryOf(tc.signer), nil)
			if tc.matched == "" {
				if len(found) != 0 {
					t.Fatalf("got %+v, want no finding", found)
				}
				return
			}
			if len(found) != 1 || found[0].Matched != tc.matched || found[0].Subject != tc.subject || found[0].Rule != "r" {
				t.Fatalf("got %+v, want one finding, matched %q, subject %q", found, tc.matched, tc.subject)
			}
		})
	}
}

func TestFindingCarriesWhatAResponderNeeds(t *testing.T) {
	rules := compile(t, Rule{Name: "r", Clause: Clause{Extensions: []ExtensionPattern{{"1.2.3.4", any1(Exact, "hello")}}}})
	found := rules.Match(entryOf(pgp(), certificate()), func(*entry.Signer) (Trust, string) { return Untrusted, "no such CA" })
	if len(found) != 1 {
		t.Fatalf("got %d findings, want 1", len(found))
	}
	f := found[0]
	var oids []string
	for _, x := range f.Extensions {
		oids = append(oids, x.OID+"="+x.Value)
	}
	got := fmt.Sprint(f.Kind, f.Version, f.Digests, f.SignerType, f.Issuer, f.Fingerprint, f.KeyFingerprint, f.SerialNumber, f.Trusted, f.TrustErr, f.Expected)
	want := fmt.Sprint("hashedrekord", "0.0.1", []string{"sha256:00"}, "x509", "https://token.actions.githubusercontent.com", "aa11", "bb22", "0a", Untrusted, "no such CA", false)
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if len(oids) != 5 || oids[4] != "1.2.3.4=hello" {
		t.Errorf("got extensions %q, want Fulcio's four and the matched one, decoded", oids)
	}
	if f.Certificate != "-----BEGIN CERTIFICATE-----\nZGVy\n-----END CERTIFICATE-----\n" {
		t.Errorf("got certificate %q, want the PEM of the signer's", f.Certificate)
	}
	if len(f.Times) != 2 || f.Times[0].What != "certificate not before" || f.Times[0].Time.Unix() != 1700000000 || f.Times[1].Time.Unix() != 1700000600 {
		t.Errorf("got times %+v, want the certificate's two", f.Times)
	}
}

func TestADigestIsTheEntrysWhoeverSigned(t *testing.T) {
	digest := any1(Exact, "sha256:00")
	for _, tc := range []struct {
		name    string
		rule    Rule
		entry   *entry.Entry
		matched []string
	}{
		{"alone", Rule{Digest: digest}, entryOf(certificate(), pgp()), []string{"digest", "digest"}},
		{"another", Rule{Digest: any1(Exact, "sha256:01")}, entryOf(certificate()), nil},
		{"and a subject", Rule{Digest: digest, Clause: Clause{Subject: any1(Glob, "*@acme.com")}}, entryOf(certificate(), pgp()), []string{"subject"}},
		{"of an entry without signers", Rule{Digest: digest}, entryOf(), []string{"digest"}},
		{"keys only, no signers", Rule{Digest: digest, Signer: Keys}, entryOf(), nil},
	} {
		tc.rule.Name = "r"
		var got []string
		for _, f := range compile(t, tc.rule).Match(tc.entry, nil) {
			got = append(got, f.Matched)
		}
		if !slices.Equal(got, tc.matched) {
			t.Errorf("%s: matched %q, want %q", tc.name, got, tc.matched)
		}
	}
}

func TestOneFindingForEachSignerAndRule(t *testing.T) {
	rules := compile(t,
		Rule{Name: "a", Clause: Clause{Subject: any1(Glob, "*acme*")}},
		Rule{Name: "b", Clause: Clause{Subject: any1(Regex, "(?i).*@acme.com")}})
	calls := 0
	found := rules.Match(entryOf(certificate(), pgp(), pgp()), func(s *entry.Signer) (Trust, string) {
		calls++
		return Trusted, ""
	})
	var got []string
	for _, f := range found {
		got = append(got, f.Rule+":"+f.SignerType+":"+string(f.Trusted))
	}
	want := "a:x509:yes a:pgp:unknown b:pgp:unknown a:pgp:unknown b:pgp:unknown"
	if strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if calls != 1 {
		t.Errorf("trust was asked %d times, want once, for the certificate", calls)
	}
	if rules.Match(entryOf(entry.Signer{Type: entry.SSH, Subjects: []string{"x"}}), func(*entry.Signer) (Trust, string) {
		t.Error("trust was asked for a signer that fits nothing")
		return Unknown, ""
	}) != nil {
		t.Error("got findings, want none")
	}
}

func TestExpectedOnlyIfProvenAndComplete(t *testing.T) {
	releases := Clause{Extensions: []ExtensionPattern{{"build-signer-uri", any1(Glob, "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v*")}}}
	subject := Clause{Subject: any1(Glob, "https://github.com/acme/*")}
	issuer := Clause{Extensions: []ExtensionPattern{{"issuer", any1(Exact, "https://token.actions.githubusercontent.com")}}}
	two := certificate()
	two.Subjects = append(two.Subjects, "https://github.com/evil/app")
	split := certificate()
	split.Extensions[1].Value = "https://evil.example.com"
	google := certificate()
	google.Extensions = append(google.Extensions, entry.Extension{OID: "1.3.6.1.4.1.57264.1.8", Name: "issuer", Value: "https://accounts.google.com"})
	byIssuer := Clause{Issuer: any1(Exact, "https://token.actions.githubusercontent.com")}
	hidden := entry.Signer{Type: entry.X509, Subjects: []string{"https://github.com/acme/app"}}
	key := entry.Signer{Type: entry.SSH, Subjects: []string{"https://github.com/acme/app"}}
	for _, tc := range []struct {
		name   string
		signer entry.Signer
		trust  Trust
		expect []Clause
		want   bool
	}{
		{"trusted, fits", certificate(), Trusted, []Clause{releases}, true},
		{"untrusted", certificate(), Untrusted, []Clause{releases}, false},
		{"unknown", certificate(), Unknown, []Clause{releases}, false},
		{"no clause", certificate(), Trusted, nil, false},
		{"second clause fits", certificate(), Trusted, []Clause{{Subject: any1(Exact, "x")}, releases}, true},
		{"one pattern of a clause does not fit", certificate(), Trusted, []Clause{{Issuer: any1(Exact, "x"), Extensions: releases.Extensions}}, false},
		{"all subjects fit", certificate(), Trusted, []Clause{subject}, true},
		{"a second subject hides behind the first", two, Trusted, []Clause{subject}, false},
		{"both issuer extensions fit", certificate(), Trusted, []Clause{issuer}, true},
		{"the two issuer extensions differ", split, Trusted, []Clause{issuer}, false},
		{"the issuer fits", certificate(), Trusted, []Clause{byIssuer}, true},
		{"a second issuer hides behind the first", google, Trusted, []Clause{byIssuer}, false},
		{"an extension that is not there", key, Unknown, []Clause{releases}, false},
		{"a key has no chain", key, Unknown, []Clause{subject}, true},
		{"a certificate that is not shown is no key", hidden, Trusted, []Clause{subject}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rules := compile(t, Rule{Name: "r", Clause: Clause{Subject: any1(Glob, "*")}, Expect: tc.expect})
			found := rules.Match(entryOf(tc.signer), func(*entry.Signer) (Trust, string) { return tc.trust, "" })
			if len(found) != 1 || found[0].Expected != tc.want {
				t.Errorf("got %+v, want one finding with expected %v", found, tc.want)
			}
		})
	}
}

func TestCompileSaysEverythingThatIsWrong(t *testing.T) {
	subject := Clause{Subject: any1(Exact, "a")}
	_, err := Compile([]Rule{
		{Name: "a", Clause: Clause{Subject: AnyOf{{Exact, "x"}, {Regex, "("}}}},
		{Name: "a", Clause: subject},
		{Clause: subject, Signer: "x"},
		{Name: "b"},
		{Name: "c", Clause: Clause{Extensions: []ExtensionPattern{{"build-signer", any1(Exact, "x")}, {"1.2", nil}}}},
		{Name: "d", Clause: subject, Expect: []Clause{{}, {Issuer: any1("like", "x")}, {Extensions: []ExtensionPattern{{"1.2", any1(Glob, "")}}}}},
		{Name: "e", Clause: Clause{Fingerprint: any1(Search, "[")}},
	})
	many, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("got %v, want joined errors", err)
	}
	var got []string
	for _, e := range many.Unwrap() {
		var at *RuleError
		if !errors.As(e, &at) {
			t.Fatalf("got %v, want a *RuleError", e)
		}
		got = append(got, fmt.Sprintf("%d %s", at.Rule, at.Field))
	}
	want := "0 subject[1]|1 name|2 name|2 signer|3 |4 extensions[0]|4 extensions[1]|5 expect[0]|5 expect[1].issuer[0]|5 expect[2].extensions[0].value[0]|6 fingerprint[0]"
	if strings.Join(got, "|") != want {
		t.Errorf("got  %s\nwant %s\n%v", strings.Join(got, "|"), want, err)
	}
}

func TestWarningsNameLooseExpectations(t *testing.T) {
	for _, tc := range []struct {
		pattern Pattern
		before  string // "" for no warning
	}{
		{Pattern{Glob, "https://github.com/acme/repo*"}, "https://github.com/acme/repo"},
		{Pattern{Glob, "https://github.com/acme/repo?"}, "https://github.com/acme/repo"},
		{Pattern{Glob, "https://github.com/acme*/repo"}, "https://github.com/acme"},
		{Pattern{Glob, "https://github.com/acme/*-release/x"}, "https://github.com/acme/"},
		{Pattern{Glob, "https://*.acme.com/x"}, "https://"},
		{Pattern{Glob, "bob*@acme.com"}, "bob"},
		{Pattern{Glob, "https://github.com/acme/*/x*@refs/heads/main"}, "https://github.com/acme/*/x"},
		{Pattern{Glob, "https://github.com/acme/*"}, ""},
		{Pattern{Glob, "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v*"}, ""},
		{Pattern{Glob, "https://github.com/acme/*/.github/workflows/*@refs/heads/main"}, ""},
		{Pattern{Glob, "*@acme.com"}, ""},
		{Pattern{Glob, "*"}, ""},
		{Pattern{Exact, "acme/repo*"}, ""},
		{Pattern{Regex, `https://github\.com/acme/repo.*`}, "https://github.com/acme/repo"},
		{Pattern{Regex, `https://github\.com/acme/repo[^/]+/x`}, "https://github.com/acme/repo"},
		{Pattern{Regex, `(https://github\.com/acme/repo)(.*)`}, "https://github.com/acme/repo"},
		{Pattern{Regex, `https://github\.com/acme/.*`}, ""},
		{Pattern{Regex, `https://github\.com/acme/[^/]+/x`}, ""},
		{Pattern{Regex, `https://github\.com/acme/app[0-9]+/x`}, ""},
		{Pattern{Regex, `https://github\.com/acme/app/r\.yml@refs/tags/v.*`}, ""},
	} {
		rules := compile(t, Rule{Name: "r", Clause: Clause{Subject: any1(Glob, "acme/repo*")}, Expect: []Clause{{Subject: AnyOf{tc.pattern}}}})
		warnings := rules.Warnings()
		switch {
		case tc.before == "" && len(warnings) != 0:
			t.Errorf("%s: got %+v, want no warning", tc.pattern, warnings)
		case tc.before != "" && (len(warnings) != 1 || warnings[0].Field != "expect[0].subject[0]" || !strings.Contains(warnings[0].Text, fmt.Sprintf("after %q", tc.before))):
			t.Errorf("%s: got %+v, want one that names what is before the wildcard, %q", tc.pattern, warnings, tc.before)
		}
	}

	w := compile(t, Rule{Name: "r", Clause: Clause{Fingerprint: any1(Exact, "A0B1")}}).Warnings()
	if len(w) != 1 || w[0].Field != "fingerprint[0]" || !strings.Contains(w[0].Text, `"a0b1"`) {
		t.Errorf("got %+v, want one about upper-case hex", w)
	}
}

func TestHashChangesIfAndOnlyIfARuleDoes(t *testing.T) {
	a := Rule{Name: "a", Clause: Clause{Subject: any1(Exact, "x")}}
	b := Rule{Name: "b", Clause: Clause{Subject: any1(Exact, "y")}}
	glob := Rule{Name: "a", Clause: Clause{Subject: any1(Glob, "x")}}
	none := (*Rules)(nil).Hash()
	ab := compile(t, a, b).Hash()
	if got := compile(t, b, a).Hash(); got != ab {
		t.Errorf("got %s in another order, want %s", got, ab)
	}
	seen := map[string]string{}
	for name, h := range map[string]string{"none": none, "a": compile(t, a).Hash(), "ab": ab, "glob": compile(t, glob).Hash()} {
		if other, taken := seen[h]; taken {
			t.Errorf("%s and %s have one hash, want two", name, other)
		}
		seen[h] = name
	}
	if compile(t).Hash() != none {
		t.Error("no rules and nil differ, want one hash")
	}
}

func TestDescribeSaysEachRuleInOneLine(t *testing.T) {
	got := compile(t, Rule{Name: "r", Signer: Certificates,
		Clause: Clause{Subject: AnyOf{{Glob, "a*"}, {Exact, "b"}}, Extensions: []ExtensionPattern{{"issuer", any1(Exact, "i")}}},
		Expect: []Clause{{Issuer: any1(Regex, "x")}},
	}).Describe()
	want := `r: subject glob "a*" or exact "b", and extension issuer exact "i", of a certificate; expected if issuer regex "x"`
	if len(got) != 1 || got[0] != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func fiveRules(t testing.TB) *Rules {
	return compile(t,
		Rule{Name: "glob", Clause: Clause{Subject: any1(Glob, "https://github.com/whosigned/*"), Issuer: any1(Exact, "https://token.actions.githubusercontent.com")}},
		Rule{Name: "search", Compat: true, Signer: Certificates, Clause: Clause{Subject: any1(Search, `me@example\.com`)}},
		Rule{Name: "extension", Clause: Clause{Extensions: []ExtensionPattern{{"source-repository-uri", any1(Exact, "https://github.com/whosigned/x")}}}},
		Rule{Name: "own", Clause: Clause{Extensions: []ExtensionPattern{{"1.2.3", any1(Exact, "x")}}}},
		Rule{Name: "fingerprint", Clause: Clause{Fingerprint: any1(Exact, "abcd")}})
}

func TestMatchOfNothingDoesNotAllocate(t *testing.T) {
	rules, e := fiveRules(t), entryOf(certificate())
	if n := testing.AllocsPerRun(100, func() { rules.Match(e, nil) }); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

func BenchmarkMatchOfNothing(b *testing.B) {
	rules, e := fiveRules(b), entryOf(certificate())
	b.ReportAllocs()
	for b.Loop() {
		rules.Match(e, nil)
	}
}

// A glob is compiled to a regular expression; the oracle is the textbook
// table.
func FuzzGlobMeansWhatItSays(f *testing.F) {
	f.Add("a*b?c", "aXXbYc")
	f.Add(`.\+[*`, `.\+[anything`)
	f.Fuzz(func(t *testing.T, pattern, text string) {
		p, s := []rune(pattern), []rune(text)
		if pattern == "" || len(p) > 40 || len(s) > 40 || string(p) != pattern || string(s) != text {
			t.Skip() // the oracle knows only valid UTF-8
		}
		m, err := (Pattern{Glob, pattern}).compile()
		if err != nil {
			t.Fatalf("glob %q does not compile: %v", pattern, err)
		}
		if got, want := m.fits(text), globFits(p, s); got != want {
			t.Errorf("glob %q on %q: got %v, want %v", pattern, text, got, want)
		}
		(Pattern{Glob, pattern}).loose()
		(Pattern{Regex, pattern}).loose()
	})
}

// globFits fills a table: fits[j] says whether the pattern so far fits text[:j].
func globFits(pattern, text []rune) bool {
	fits := make([]bool, len(text)+1)
	fits[0] = true
	for _, p := range pattern {
		next := make([]bool, len(text)+1)
		for j := range next {
			switch {
			case p == '*':
				next[j] = fits[j] || j > 0 && next[j-1]
			case j > 0:
				next[j] = fits[j-1] && (p == '?' || p == text[j-1])
			}
		}
		fits = next
	}
	return fits[len(text)]
}
