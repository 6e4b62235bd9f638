package report

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// hostileStrings are what an attacker would have a log carry.
var hostileStrings = []string{
	"plain", "a\x00b", "\x1b[31mred\x1b]8;;http://evil\x07link\x1b]8;;\x07", "a\r\nBcc: x@y.z\r\n\r\nbody", "\u202Eevil\u2066\u2069\u200E\u200F", "zero\u200bwidth\u2060\ufeff",
	"\xff\xfe invalid \xed\xa0\x80", "</td></tr></table><script>alert(1)</script>", `"><img src=x onerror=alert(1)>`, "<!--", "]]>", "&lt;b&gt;&#x3c;", "{{.Subject}}", "<wbr onclick=x>",
	"http://evil.example/login", "javascript:alert(1)", "</pre></title><style>*{display:none}</style>", "Z\u0301\u0302\u0303\u0304\u0305\u0306algo", "\u0301first", "\u3164\u115f\u2800\ufe0f\U000e0041",
	"\u0085\u2028\u2029\u009b31m", strings.Repeat("A", 5000), strings.Repeat("\u202e", 5000), "שלום עולם 123", "ไทย हिन्दी é", "'\"`\\$(reboot)", "=cmd|' /C calc'!A0", "\n", " ", "1234\nrekor\n\n— x y",
}

func TestSafeShowsWhatCannotBeSeen(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"releases@acme.com", "releases@acme.com"},
		{"ไทย हिन्दी é Ünï שלום", "ไทย हिन्दी é Ünï שלום"},
		{"a\x00\x1b[1m\x7f", `a\u{0000}\u{001b}[1m\u{007f}`},
		{"a\r\n\tb", `a\r\n\tb`},
		{"\u202egpj.exe\u2066\u200f", `\u{202e}gpj.exe\u{2066}\u{200f}`},
		{"a\u200bb\ufeff\u2060", `a\u{200b}b\u{feff}\u{2060}`},
		{"a\u00a0b\u3000c\u2028", `a\u{00a0}b\u{3000}c\u{2028}`},
		{"\u3164\u2800\ufe0f\U000e0041\u034f", `\u{3164}\u{2800}\u{fe0f}\u{e0041}\u{034f}`},
		{"a\xff\xc0\xafb", `a\x{ff}\x{c0}\x{af}b`},
		{"e\u0301\u0302\u0303\u0304", "e\u0301\u0302\u0303" + `\u{0304}`},
		{"\u0301:\u0302", `\u{0301}:\u{0302}`},
		{"\ufffd", "\ufffd"},
	} {
		if got := Safe(c.in); got != c.want {
			t.Errorf("Safe(%q) = %q, want %q", c.in, got, c.want)
		}
	}
	long := Safe(strings.Repeat("é", 10_000))
	if n := utf8.RuneCountInString(long); n > maxValue || !strings.HasSuffix(long, "… [cut: 20000 bytes]") {
		t.Errorf("a long text is shown with %d characters and ends in %q", n, long[len(long)-30:])
	}
}

// harmful finds a character that no output may hold.
func harmful(s string) (rune, bool) {
	for _, r := range s {
		if unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Bidi_Control, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point) {
			return r, true
		}
	}
	return 0, !utf8.ValidString(s)
}

func FuzzSafe(f *testing.F) {
	for _, s := range hostileStrings {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := Safe(s)
		if r, bad := harmful(got); bad {
			t.Errorf("Safe(%q) holds %U", s, r)
		}
		if n := utf8.RuneCountInString(got); n > maxValue {
			t.Errorf("Safe(%q) has %d characters", s, n)
		}
		if again := Safe(got); again != got {
			t.Errorf("Safe(Safe(%q)) = %q, want %q", s, again, got)
		}
		// Nothing is lost: what needs no escape stands as it was.
		if _, bad := harmful(s); !bad && !strings.ContainsFunc(s, unicode.IsMark) && utf8.RuneCountInString(s) <= maxValue && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == '\u2800' }) && got != s {
			t.Errorf("Safe(%q) = %q, want it unchanged", s, got)
		}
	})
}
