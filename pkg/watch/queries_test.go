package watch

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/whosigned/whosigned/pkg/entry"
)

func TestQueriesAskForExactSubjectsAndSayWhatTheyLeaveOut(t *testing.T) {
	long := "https://" + strings.Repeat("é", 505)
	sha := "sha256:" + strings.Repeat("0", 64)
	pem := []Query{{"publicKey", "PEM", "x509"}, {"hash", "sha256:384fb9a44fabe158be2757b9b8d8f67029f2280fcc1776ab2a53103e6f0c582d", ""}}
	for name, tc := range map[string]struct {
		rule      Rule
		queries   []Query
		uncovered string // part of the one sentence; "" for none
	}{
		"an address":                    {Rule{Clause: Clause{Subject: AnyOf{{Exact, "alice@acme.com"}}}}, []Query{{"email", "alice@acme.com", ""}}, ""},
		"a workflow":                    {Rule{Clause: Clause{Subject: AnyOf{{Exact, "https://acme.com/x@main"}}}}, []Query{{"subject", "https://acme.com/x@main", ""}}, ""},
		"a user name":                   {Rule{Clause: Clause{Subject: AnyOf{{Exact, "alice!acme.com"}}}}, []Query{{"subject", "alice!acme.com", ""}}, ""},
		"an address with a name":        {Rule{Clause: Clause{Subject: AnyOf{{Exact, "A <a@acme.com>"}}}}, []Query{{"subject", "A <a@acme.com>", ""}}, ""},
		"with an issuer too":            {Rule{Clause: Clause{Subject: AnyOf{{Exact, "a@b.c"}}, Issuer: AnyOf{{Glob, "*"}}}}, []Query{{"email", "a@b.c", ""}}, ""},
		"several":                       {Rule{Clause: Clause{Subject: AnyOf{{Exact, "a@b.c"}, {Exact, "d"}, {Exact, "a@b.c"}}}}, []Query{{"email", "a@b.c", ""}, {"subject", "d", ""}}, ""},
		"exact and glob":                {Rule{Clause: Clause{Subject: AnyOf{{Exact, "a@b.c"}, {Glob, "*@b.c"}}}}, []Query{{"email", "a@b.c", ""}}, `subject glob "*@b.c"`},
		"a glob without wildcards":      {Rule{Clause: Clause{Subject: AnyOf{{Glob, "a.b"}}}}, []Query{{"subject", "a.b", ""}}, ""},
		"a regex that is a text":        {Rule{Clause: Clause{Subject: AnyOf{{Regex, `a\.b`}}}}, []Query{{"subject", "a.b", ""}}, ""},
		"a regex with a dot":            {Rule{Clause: Clause{Subject: AnyOf{{Regex, `alice@acme.com`}}}}, []Query{{"email", "alice@acme.com", ""}}, "other texts that it fits are not"},
		"a regex of a choice":           {Rule{Clause: Clause{Subject: AnyOf{{Regex, `a|b`}}}}, nil, "exact texts only"},
		"a regex without case":          {Rule{Clause: Clause{Subject: AnyOf{{Regex, `(?i)abc`}}}}, nil, "exact texts only"},
		"rekor-monitor's, a plain text": {Rule{Clause: Clause{Subject: AnyOf{{Search, `abc`}}}, Compat: true}, []Query{{"subject", "abc", ""}}, "other texts that it fits are not"},
		"rekor-monitor's, anchored":     {Rule{Clause: Clause{Subject: AnyOf{{Search, `^a\.b$`}}}, Compat: true}, []Query{{"subject", "a.b", ""}}, ""},
		"rekor-monitor's, half so":      {Rule{Clause: Clause{Subject: AnyOf{{Search, `^a\.b`}}}, Compat: true}, []Query{{"subject", "a.b", ""}}, "other texts that it fits are not"},
		"rekor-monitor's, by line":      {Rule{Clause: Clause{Subject: AnyOf{{Search, `(?m)^a$`}}}, Compat: true}, nil, "exact texts only"},
		"anchors and nothing between":   {Rule{Clause: Clause{Subject: AnyOf{{Search, `^$`}}}, Compat: true}, nil, "exact texts only"},
		"one anchor":                    {Rule{Clause: Clause{Subject: AnyOf{{Search, `^`}}}, Compat: true}, nil, "exact texts only"},
		"an issuer only":                {Rule{Clause: Clause{Issuer: AnyOf{{Exact, "i"}}}}, nil, "neither issuers nor extensions"},
		"extensions only":               {Rule{Clause: Clause{Extensions: []ExtensionPattern{{Name: "issuer", Value: AnyOf{{Exact, "i"}}}}}}, nil, "neither issuers nor extensions"},
		"a fingerprint":                 {Rule{Clause: Clause{Fingerprint: AnyOf{{Exact, "c0ffee"}}}}, nil, "does not follow from a fingerprint"},
		"a fingerprint and a subject":   {Rule{Clause: Clause{Subject: AnyOf{{Exact, "d"}}, Fingerprint: AnyOf{{Exact, "c0ffee"}}}}, []Query{{"subject", "d", ""}}, ""},
		"digests":                       {Rule{Digest: AnyOf{{Exact, sha}}, Clause: Clause{Subject: AnyOf{{Glob, "*"}}}}, []Query{{"hash", sha, ""}}, ""},
		"a digest that is none":         {Rule{Digest: AnyOf{{Exact, "sha256:c0ffee"}}}, nil, `digest exact "sha256:c0ffee": the search index is asked for whole digests only`},
		"a digest and a pattern":        {Rule{Digest: AnyOf{{Exact, sha}, {Glob, "sha256:*"}}}, []Query{{"hash", sha, ""}}, `digest glob "sha256:*": the search index is asked for whole digests only`},
		"no digest, but a subject":      {Rule{Digest: AnyOf{{Glob, "*"}}, Clause: Clause{Subject: AnyOf{{Exact, "d"}}}}, []Query{{"subject", "d", ""}}, ""},
		"a bare key":                    {Rule{Keys: []string{"PEM"}, Signer: Keys, Clause: Clause{Fingerprint: AnyOf{{Exact, "c0ffee"}}}}, pem, ""},
		"a key":                         {Rule{Keys: []string{"PEM"}, Clause: Clause{Fingerprint: AnyOf{{Exact, "c0ffee"}}}}, pem, "certificates for its keys"},
		"a key of a certificate":        {Rule{Keys: []string{"PEM"}, Signer: Certificates, Clause: Clause{Fingerprint: AnyOf{{Exact, "c0ffee"}}}}, nil, "lists certificates by their own text and not by their key"},
		"a key and a subject":           {Rule{Keys: []string{"PEM"}, Clause: Clause{Subject: AnyOf{{Exact, "d"}}, Fingerprint: AnyOf{{Exact, "c0ffee"}}}}, []Query{{"subject", "d", ""}}, ""},
		"a key, and a fingerprint":      {Rule{Keys: []string{"PEM"}, Clause: Clause{Fingerprint: AnyOf{{Exact, "c0ffee"}, {Exact, "beef"}}}}, nil, "name the key"},
		"too long":                      {Rule{Clause: Clause{Subject: AnyOf{{Exact, long}}}}, nil, "it has 513 characters"},
		"as long as may be":             {Rule{Clause: Clause{Subject: AnyOf{{Exact, long[:len(long)-2]}}}}, []Query{{"subject", long[:len(long)-2], ""}}, ""},
	} {
		tc.rule.Name = "acme"
		queries, uncovered := compile(t, tc.rule).Queries()
		if !reflect.DeepEqual(queries, tc.queries) {
			t.Errorf("%s: asks for %v, want %v", name, queries, tc.queries)
		}
		if got, want := len(uncovered), min(1, len(tc.uncovered)); got != want || want == 1 && (!strings.Contains(uncovered[0], tc.uncovered) || !strings.Contains(uncovered[0], `rule "acme"`)) {
			t.Errorf("%s: uncovered %q, want %d that contain %q", name, uncovered, want, tc.uncovered)
		}
	}
}

// What an honest index lists for a query are the signers with that subject in any
// case. Of a pattern that is covered whole, nothing else may fit.
func TestNoSubjectFitsACoveredPatternThatTheIndexWouldNotListForItsQuery(t *testing.T) {
	alphabet := []string{"a", "B", ".", "x", "\n", "é"}
	var subjects []string
	for n := 1; n <= 4; n++ {
		for i := range pow(len(alphabet), n) {
			var b strings.Builder
			for range n {
				b.WriteString(alphabet[i%len(alphabet)])
				i /= len(alphabet)
			}
			subjects = append(subjects, b.String())
		}
	}
	covered := 0
	for _, text := range []string{"a", "a.B", `a\.B`, "^a$", `^a\.B$`, "^a.B$", `\Aa\z`, `(a)`, `a{1}`, `[a]`, `a\n`, "a$", "^a", "(?s)a.B", `\Qa.B\E`, "é"} {
		for _, how := range []How{Exact, Glob, Regex, Search} {
			rules, err := Compile([]Rule{{Name: "r", Clause: Clause{Subject: AnyOf{{how, text}}}}})
			if err != nil {
				continue
			}
			queries, uncovered := rules.Queries()
			if len(uncovered) > 0 {
				continue
			}
			covered++
			for _, subject := range subjects {
				fits := len(rules.Match(entryOf(entry.Signer{Type: entry.PGP, Subjects: []string{subject}}), nil)) > 0
				listed := slices.ContainsFunc(queries, func(q Query) bool { return strings.EqualFold(q.Value, subject) })
				if fits && !listed {
					t.Errorf("%s %q fits %q, which is not listed for %v", how, text, subject, queries)
				}
			}
		}
	}
	if covered < 20 {
		t.Errorf("only %d patterns are covered: the test tests little", covered)
	}
}

func pow(base, n int) int {
	p := 1
	for range n {
		p *= base
	}
	return p
}

func TestIndexCoverageIsRefusedIfItCanAskForNothing(t *testing.T) {
	exact := Rule{Name: "exact", Clause: Clause{Subject: AnyOf{{Exact, "a@b.c"}}}}
	glob := Rule{Name: "glob", Clause: Clause{Subject: AnyOf{{Glob, "*@b.c"}}}}
	for _, tc := range []struct {
		rules    []Rule
		refused  string
		warnings int
	}{
		{[]Rule{exact}, "", 0},
		{[]Rule{exact, glob}, "", 1},
		{[]Rule{glob}, "none of the 1 rules", 1},
		{nil, "there are no rules", 0},
	} {
		warnings, refused := compile(t, tc.rules...).CheckQueries()
		if got := fmt.Sprint(refused); (refused != nil) != (tc.refused != "") || !strings.Contains(got, tc.refused) {
			t.Errorf("%v: refused with %v, want %q", tc.rules, refused, tc.refused)
		}
		if len(warnings) != tc.warnings {
			t.Errorf("%v: warnings %q, want %d", tc.rules, warnings, tc.warnings)
		}
	}
	if _, refused := (*Rules)(nil).CheckQueries(); refused == nil {
		t.Error("no rules at all are not refused")
	}
}
