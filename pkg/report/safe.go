package report

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// How many characters of a text are shown, by what it is.
const (
	maxSubject = 150  // of a message
	maxValue   = 400  // a value from a log
	maxText    = 2000 // a sentence of ours
	maxLine    = 1000 // a line of a signed note
)

// Safe returns s as one line that can be shown to people: in a terminal, a mail
// header, text, and, escaped, in HTML. What cannot be seen or would change how the
// rest is seen becomes a visible escape (control characters and ANSI escapes,
// line ends, bidirectional and zero-width characters, fillers and
// variation selectors, piled up accents, invalid UTF-8), and what is longer than
// 400 characters is cut with a mark. Safe(Safe(s)) is Safe(s). The exact bytes are
// in the findings' JSON.
func Safe(s string) string { return safe(s, maxValue) }

// SafeUpTo is Safe, but cut at limit characters.
func SafeUpTo(s string, limit int) string { return safe(s, limit) }

// maxMarks is how many combining marks a letter may carry: more than any script
// needs stack up over the neighbouring lines.
const maxMarks = 3

// safe is Safe cut to limit characters.
func safe(s string, limit int) string {
	mark := "…"
	if limit > maxSubject {
		mark = fmt.Sprintf("… [cut: %d bytes]", len(s))
	}
	room := limit - utf8.RuneCountInString(mark)
	var b strings.Builder
	length, fits := 0, 0 // characters written; bytes of b that leave room for the mark
	marks := maxMarks    // carried by the last letter; a mark without a letter is escaped
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		shown := s[i : i+size]
		switch {
		case r == utf8.RuneError && size <= 1:
			shown, marks = fmt.Sprintf(`\x{%02x}`, s[i]), maxMarks
		case unicode.IsMark(r) && !hidden(r) && marks < maxMarks:
			marks++
		case unicode.IsMark(r) || hidden(r):
			shown, marks = escape(r), maxMarks
		case unicode.IsLetter(r):
			marks = 0
		default:
			marks = maxMarks
		}
		i += size
		b.WriteString(shown)
		length += utf8.RuneCountInString(shown)
		if length <= room {
			fits = b.Len()
		}
		if length > limit {
			return b.String()[:fits] + mark
		}
	}
	return b.String()
}

// hidden reports whether r cannot be seen, or acts on the text around it.
// IsPrint is false for every control, format (bidirectional, zero-width, tags),
// line separator, private and unassigned character and every space but U+0020;
// the rest are letters, marks and symbols that show nothing.
func hidden(r rune) bool {
	return !unicode.IsPrint(r) || r == '\u2800' ||
		unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

func escape(r rune) string {
	switch r {
	case '\n':
		return `\n`
	case '\r':
		return `\r`
	case '\t':
		return `\t`
	}
	return fmt.Sprintf(`\u{%04x}`, r)
}
