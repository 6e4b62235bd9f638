package watch

import (
	"regexp"
	"regexp/syntax"
	"testing"
)

func TestLongestLiteralIsInEverythingThatFits(t *testing.T) {
	for expr, want := range map[string]string{
		`user@domain\.com`:       "user@domain.com",
		`^https://a/.*@b\.com$`:  "https://a/",
		`.*@acme\.example`:       "@acme.example",
		`(?:x(acme)+)y`:          "acme",
		`a|b`:                    "",
		`acme?`:                  "acm",
		`(acme)?x`:               "x",
		`(acme)*`:                "",
		`(acme){0,2}`:            "",
		`(?i)acme`:               "",
		`a(?i)cme`:               "a",
		"acme\uFFFDcorp":         "", // fits "acme\xffcorp" too
		`\Qa.*b\E`:               "a.*b",
		`[ab]c`:                  "c",
		`https?://(x|y)\.(test)`: "http",
	} {
		re, err := syntax.Parse(expr, syntax.Perl)
		if err != nil {
			t.Fatalf("%q: %v", expr, err)
		}
		if got := longestLiteral(re); got != want {
			t.Errorf("longest literal of %q: got %q, want %q", expr, got, want)
		}
	}
}

// Looking for the literal first must not lose what the expression fits.
func FuzzALiteralHidesNoMatch(f *testing.F) {
	for _, seed := range [][2]string{
		{`.*@acme\.example`, "a@acme.example"}, {"a\uFFFDb", "a\xffb"}, {"(?i)k", "\u212a"}, {`(a|b)+c`, "abc"},
		{`x*`, ""}, {`\x{D800}`, "\uFFFD"}, {`(?s)a.b`, "a\nb"}, {`\bacme\b`, "an acme"}, {`(?:ab){2}`, "abab"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, expr, text string) {
		oracle, err := regexp.Compile(expr)
		if err != nil || expr == "" || len(expr) > 100 {
			t.Skip()
		}
		m, err := Pattern{Search, expr}.compile()
		if err != nil {
			t.Fatalf("search %q does not compile: %v", expr, err)
		}
		if got, want := m.fits(text), oracle.MatchString(text); got != want {
			t.Errorf("search %q on %q: got %v, want %v", expr, text, got, want)
		}
		whole, err := Pattern{Regex, expr}.compile()
		if err != nil {
			return
		}
		if got, want := whole.fits(text), whole.re.MatchString(text); got != want {
			t.Errorf("regex %q on %q: got %v, want %v", expr, text, got, want)
		}
	})
}
