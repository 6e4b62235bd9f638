package report

import (
	"fmt"
	"regexp"
	"strings"
)

// Markdown is the message for an issue tracker that shows GitHub Flavored Markdown
// (https://github.github.com/gfm/), at most limit characters long. They are counted
// as UTF-16 units and line ends as two, which is the most that any counter makes of them.
// What does not fit is counted, and it is said where all of it is.
//
// Nothing from a log can become a mention, a link, a reference, an image, HTML or
// structure: what is not a plain sentence stands in code, whose fence is longer than
// any run of backticks in it.
func (m Message) Markdown(limit int) string {
	// Half the room: what is escaped grows. The rest is cut line by line.
	return compose(m.alerts, limit/2).markdown(limit)
}

// maxCutNote is room for the sentence that says what was cut.
const maxCutNote = 200

func (d *document) markdown(limit int) string {
	var b strings.Builder
	room, cut := limit-maxCutNote, 0
	for _, bl := range d.blocks {
		if cut > 0 { // what comes after the first cut would stand out of place
			cut += bl.lines()
			continue
		}
		part := bl.markdown()
		for ; units(part) > room && bl.lines() > 1; cut++ {
			bl.Items, bl.Fields = bl.Items[:max(0, len(bl.Items)-1)], bl.Fields[:max(0, len(bl.Fields)-1)]
			part = bl.markdown()
		}
		if units(part) > room {
			cut++
			continue
		}
		room -= units(part)
		b.WriteString(part)
	}
	if cut > 0 {
		fmt.Fprintf(&b, "**Cut to fit: %s left out. All of it is in alerts/ where the state is kept, under the alert's ID.**\n", count(cut, "more line is", "more lines are"))
	}
	return b.String()
}

// lines is how many lines of content a block has.
func (bl block) lines() int { return max(1, len(bl.Items)+len(bl.Fields)) }

// markdown is the block, ended by an empty line.
func (bl block) markdown() string {
	var b strings.Builder
	text := safe(bl.Text, maxText)
	switch bl.Kind {
	case "title":
		b.WriteString("## " + inline(text) + "\n")
	case "heading":
		b.WriteString("### " + inline(text) + "\n")
	case "para":
		b.WriteString(inline(text) + "\n")
	case "steps":
		for n, item := range bl.Items {
			fmt.Fprintf(&b, "%d. %s\n", n+1, inline(safe(item, maxText)))
		}
	case "list":
		for _, item := range bl.Items {
			b.WriteString("- " + inline(safe(item, maxText)) + "\n")
		}
	case "fields":
		var lines, links []string
		for _, f := range bl.Fields {
			lines = append(lines, fmt.Sprintf("%-18s %s", safe(f.Name, 40)+":", Safe(f.Value)))
			if plainLink.MatchString(f.Link) {
				links = append(links, inline(safe(f.Name, 40))+": <"+f.Link+">\n")
			}
		}
		b.WriteString(fenced(lines))
		for _, l := range links {
			b.WriteString("\n" + l)
		}
	case "note":
		var lines []string
		for _, l := range bl.Items {
			lines = append(lines, safe(l, maxLine))
		}
		b.WriteString(inline(text) + "\n\n" + fenced(lines))
	}
	return b.String() + "\n"
}

// plainLink are links that hold nothing which Markdown gives a meaning.
var plainLink = regexp.MustCompile(`\Ahttps://[A-Za-z0-9.:-]+/[A-Za-z0-9./?=&%:_~+-]*\z`)

// plain are sentences that mean themselves in Markdown, and in which GitHub finds
// nothing to link: words, and marks that end a word or a clause. A dot or colon
// inside a word may be a host name or an emoji.
var plain = regexp.MustCompile(`\A(?:[A-Za-z]|[0-9]+ [A-Za-z])(?:[A-Za-z0-9 ,;()'"…%-]|[.:?](?: |\z))*\z`)

// linked is what GitHub links of what is otherwise plain: GH-123, and what may be
// the hash of a commit.
var linked = regexp.MustCompile(`(?i)\bGH-[0-9]|\b[0-9a-f]{7,}\b`)

// inline is one line of safe text inside a paragraph, a heading or an item.
func inline(s string) string {
	if s == "" || plain.MatchString(s) && !linked.MatchString(s) {
		return s
	}
	fence := strings.Repeat("`", longest(s)+1)
	return fence + " " + s + " " + fence // the two spaces are taken off again
}

// fenced is lines of safe text as a block of code.
func fenced(lines []string) string {
	text := strings.Join(lines, "\n")
	fence := strings.Repeat("`", max(3, longest(text)+1))
	return fence + "text\n" + text + "\n" + fence + "\n"
}

// longest is the length of the longest run of backticks.
func longest(s string) int {
	run, most := 0, 0
	for _, r := range s {
		if r != '`' {
			run = 0
			continue
		}
		run++
		most = max(most, run)
	}
	return most
}

// units counts UTF-16 units, and line ends as two.
func units(s string) int {
	n := 0
	for _, r := range s {
		n++
		if r == '\n' || r > 0xffff {
			n++
		}
	}
	return n
}
