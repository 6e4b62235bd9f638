package watch

import (
	"encoding/asn1"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode/utf8"
)

// How says how a Pattern matches.
type How string

// The ways to match. Search is rekor-monitor's: an unanchored regular expression.
const (
	Exact  How = "exact"
	Glob   How = "glob"  // the whole text; * any characters including /, ? one, nothing else special
	Regex  How = "regex" // the whole text: \A(?:…)\z
	Search How = "search"
)

// Pattern is what a text is compared with. All matching is case-sensitive unless
// the expression itself says otherwise.
type Pattern struct {
	How  How    `json:"how"`
	Text string `json:"text"`
}

func (p Pattern) String() string { return fmt.Sprintf("%s %q", p.How, p.Text) }

// AnyOf are patterns of which one has to fit; empty asks for nothing.
type AnyOf []Pattern

func (a AnyOf) String() string {
	texts := make([]string, len(a))
	for i, p := range a {
		texts[i] = p.String()
	}
	return strings.Join(texts, " or ")
}

// matcher is a compiled Pattern: a text without a regular expression is compared.
type matcher struct {
	prefix string // what every text that fits begins with
	part   string // what it contains; finding out that it does not costs far less than re
	re     *regexp.Regexp
}

func (p Pattern) compile() (matcher, error) {
	if p.Text == "" {
		return matcher{}, errors.New("the pattern is empty; leave the key out to match anything")
	}
	switch p.How {
	case Exact:
		return matcher{prefix: p.Text}, nil
	case Glob:
		at := strings.IndexAny(p.Text, "*?")
		if at < 0 {
			return matcher{prefix: p.Text}, nil
		}
		expr := strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(regexp.QuoteMeta(p.Text))
		re, err := regexp.Compile(`(?s)\A` + expr + `\z`)
		return matcher{prefix: p.Text[:at], re: re}, err
	case Regex:
		// Printing the parsed expression closes what the text may have left open
		// (\Q without \E), so that the anchors stay outside of it.
		parsed, err := syntax.Parse(p.Text, syntax.Perl)
		if err != nil {
			return matcher{}, err
		}
		re, err := regexp.Compile(`\A(?:` + parsed.String() + `)\z`)
		return matcher{part: longestLiteral(parsed), re: re}, err
	case Search:
		parsed, err := syntax.Parse(p.Text, syntax.Perl)
		if err != nil {
			return matcher{}, err
		}
		re, err := regexp.Compile(p.Text)
		return matcher{part: longestLiteral(parsed), re: re}, err
	}
	return matcher{}, fmt.Errorf("unknown way to match %q; use exact, glob or regex", p.How)
}

func (m matcher) fits(text string) bool {
	if m.re == nil {
		return text == m.prefix
	}
	return strings.HasPrefix(text, m.prefix) && strings.Contains(text, m.part) && m.re.MatchString(text)
}

// longestLiteral is a text that everything the expression fits contains; "" if
// none is plain to see.
func longestLiteral(re *syntax.Regexp) string {
	switch re.Op {
	case syntax.OpLiteral:
		// U+FFFD in an expression fits every byte that is no UTF-8.
		if re.Flags&syntax.FoldCase == 0 && !slices.Contains(re.Rune, utf8.RuneError) {
			return string(re.Rune)
		}
	case syntax.OpConcat:
		longest := ""
		for _, sub := range re.Sub {
			if part := longestLiteral(sub); len(part) > len(longest) {
				longest = part
			}
		}
		return longest
	case syntax.OpCapture, syntax.OpPlus:
		return longestLiteral(re.Sub[0])
	}
	return ""
}

func anyFits(any []matcher, text string) bool {
	return slices.ContainsFunc(any, func(m matcher) bool { return m.fits(text) })
}

// derText is the text of an extension that holds one DER string, which is how
// extensions other than Fulcio's first six carry theirs.
func derText(raw string) (string, bool) {
	var text string
	rest, err := asn1.Unmarshal([]byte(raw), &text)
	return text, err == nil && len(rest) == 0
}

// delimiters end a path segment of the identities that Fulcio certifies.
const delimiters = "/@:#"

// loose finds a wildcard that stands inside a path segment, and returns the part
// of the pattern before it. acme/repo* fits acme/repo-evil too, so an expect clause
// that says so silences more than it seems to. What follows the @ of a URL is a
// ref of a repository already named in full, and left alone.
func (p Pattern) loose() (before string, found bool) {
	switch p.How {
	case Glob:
		return looseParts(globParts(p.Text))
	case Regex, Search:
		parsed, err := syntax.Parse(p.Text, syntax.Perl)
		if err != nil {
			return "", false
		}
		return looseParts(regexParts(nil, parsed.Simplify()))
	}
	return "", false
}

// part is a literal stretch of a pattern or, with wild set, a stretch that may be
// letters of another's choosing.
type part struct {
	literal string
	wild    bool
}

func globParts(text string) []part {
	var parts []part
	for len(text) > 0 {
		at := strings.IndexAny(text, "*?")
		if at < 0 {
			return append(parts, part{literal: text})
		}
		if at > 0 {
			parts = append(parts, part{literal: text[:at]})
		}
		parts = append(parts, part{wild: true})
		text = strings.TrimLeft(text[at:], "*?")
	}
	return parts
}

// regexParts flattens an expression; what it cannot tell apart it takes for a
// stretch without letters, which ends a literal and is not warned of.
func regexParts(parts []part, re *syntax.Regexp) []part {
	switch re.Op {
	case syntax.OpLiteral:
		return append(parts, part{literal: string(re.Rune)})
	case syntax.OpConcat, syntax.OpCapture:
		for _, sub := range re.Sub {
			parts = regexParts(parts, sub)
		}
		return parts
	case syntax.OpStar, syntax.OpPlus:
		return append(parts, part{wild: letters(re.Sub[0])})
	case syntax.OpBeginLine, syntax.OpEndLine, syntax.OpBeginText, syntax.OpEndText, syntax.OpEmptyMatch:
		return parts
	}
	return append(parts, part{})
}

// letters reports whether one character of re may be a letter.
func letters(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return true
	case syntax.OpCharClass:
		for i := 0; i+1 < len(re.Rune); i += 2 {
			if re.Rune[i] <= 'z' && re.Rune[i+1] >= 'a' {
				return true
			}
		}
	case syntax.OpCapture:
		return letters(re.Sub[0])
	}
	return false
}

func looseParts(parts []part) (before string, found bool) {
	for i, p := range parts {
		if !p.wild {
			before += p.literal
			continue
		}
		if url := strings.Index(before, "://"); url >= 0 && strings.Contains(before[url:], "@") {
			return "", false
		}
		opens := i == 0 || strings.ContainsRune(delimiters, last(parts[i-1].literal))
		closes := i == len(parts)-1 || strings.ContainsRune(delimiters, first(parts[i+1].literal))
		if !opens || !closes {
			return before, true
		}
		before += "*"
	}
	return "", false
}

// first and last give the rune at a literal's end; U+FFFD, no delimiter, if it is empty.
func first(s string) rune {
	for _, r := range s {
		return r
	}
	return '\uFFFD'
}

func last(s string) rune {
	r := '\uFFFD'
	for _, r = range s {
	}
	return r
}
