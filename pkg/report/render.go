package report

import (
	_ "embed"
	"html"
	"html/template"
	"strings"
	"unicode/utf8"

	"github.com/whosigned/whosigned/pkg/watch"
)

// document is a message before it is text or HTML. Its strings are as they came;
// text and html, and only they, make them safe.
type document struct {
	subject string
	blocks  []block
	// What is left of the message's room.
	findings, bytes, incidents int
	nexts                      int // alerts whose findings are told what to do about
	share                      int // findings an alert may show
	// in are the findings that are told in the item of another, items what is named
	// there, and shown the items that the message had room for.
	in    map[*watch.Finding]*watch.Finding
	items map[*watch.Finding]*item
	shown map[*watch.Finding]bool
}

// block is a piece of a document; Kind says which of the others are set.
type block struct {
	Kind   string // "title", "heading", "para", "steps", "list", "fields" or "note"
	Class  Class
	Text   string
	Items  []string
	Fields []field
}

// field is a line of a table. Link, if set, is where Value leads.
type field struct{ Name, Value, Link string }

func (d *document) add(b block) {
	d.bytes -= min(len(b.Text), maxText)
	for _, item := range b.Items {
		d.bytes -= min(len(item), maxText)
	}
	for _, f := range b.Fields {
		d.bytes -= len(f.Name) + min(len(f.Value), maxValue)
	}
	d.blocks = append(d.blocks, b)
}

func (d *document) title(class Class, s string) { d.add(block{Kind: "title", Class: class, Text: s}) }
func (d *document) heading(s string)            { d.add(block{Kind: "heading", Text: s}) }
func (d *document) para(s string)               { d.add(block{Kind: "para", Text: s}) }
func (d *document) steps(items []string)        { d.add(block{Kind: "steps", Items: limit(items, maxItems)}) }
func (d *document) note(name, note string) {
	lines := strings.Split(strings.TrimRight(note, "\n"), "\n")
	if len(lines) > maxLines {
		lines = append(lines[:maxLines:maxLines], "… [cut: the rest is in the evidence]")
	}
	d.add(block{Kind: "note", Text: name, Items: lines})
}

func (d *document) list(heading string, items []string) {
	if len(items) == 0 {
		return
	}
	d.heading(heading)
	d.add(block{Kind: "list", Items: limit(items, maxItems)})
	if n := len(items) - maxItems; n > 0 {
		d.para("And " + count(n, "more", "more") + ", with the alert where the state is kept.")
	}
}

// fields adds those that have a value.
func (d *document) fields(all []field) {
	var set []field
	for _, f := range all {
		if f.Value != "" {
			set = append(set, f)
		}
	}
	d.add(block{Kind: "fields", Fields: set})
}

// text renders the document for people who read plain text.
func (d *document) text() string {
	var b strings.Builder
	line := func(parts ...string) { b.WriteString(strings.Join(parts, "") + "\n") }
	for i, bl := range d.blocks {
		if i > 0 && bl.Kind != "fields" {
			line()
		}
		switch text := safe(bl.Text, maxText); bl.Kind {
		case "title":
			if i > 0 {
				line()
			}
			line(text)
			line(strings.Repeat("=", min(utf8.RuneCountInString(text), 78)))
		case "heading":
			line("-- ", text)
		case "para":
			line(text)
		case "steps":
			for n, item := range bl.Items {
				line(string(rune('0'+(n+1)/10%10)), string(rune('0'+(n+1)%10)), ". ", safe(item, maxText))
			}
		case "list":
			for _, item := range bl.Items {
				line(" * ", safe(item, maxText))
			}
		case "fields":
			for _, f := range bl.Fields {
				name := safe(f.Name, 40)
				line("   ", name, ":", strings.Repeat(" ", max(1, 18-utf8.RuneCountInString(name))), Safe(f.Value))
			}
		case "note":
			line(text, ":")
			for _, l := range bl.Items {
				line("   | ", safe(l, maxLine))
			}
		}
	}
	return b.String()
}

//go:embed email.html
var layout string

// html renders the document as a page that needs nothing but itself.
func (d *document) html() string {
	// Parsed per message: messages are few, and a package variable would be one more
	// thing that starts with the program.
	t, err := template.New("email").Funcs(template.FuncMap{
		"value": func(s string) template.HTML { return broken(Safe(s)) },
		"name":  func(s string) string { return safe(s, 40) },
		"line":  func(s string) template.HTML { return broken(safe(s, maxLine)) },
		"text":  func(s string) template.HTML { return broken(safe(s, maxText)) },
		"color": func(c Class) template.CSS { return template.CSS(colors[c.rank()]) },
	}).Parse(layout)
	if err != nil {
		return "<!doctype html><title>whosigned</title><p>This message cannot be shown as HTML; see its text."
	}
	var b strings.Builder
	if err := t.Execute(&b, struct {
		Subject string
		Blocks  []block
	}{d.subject, d.blocks}); err != nil {
		return "<!doctype html><title>whosigned</title><p>This message cannot be shown as HTML; see its text."
	}
	return b.String()
}

// colors stand out on white and on black: tamper, identity, health, and the rest.
var colors = [...]string{"#d32f2f", "#b26a00", "#5c7a99", "#777"}

// broken escapes safe text, and lets lines break at the joints of URLs and mail
// addresses with <wbr>. That also keeps mail programs, which make links of what
// looks like one, from making one of what an attacker signed as.
func broken(s string) template.HTML {
	var b strings.Builder
	for len(s) > 0 {
		i := strings.IndexAny(s, "/@.") + 1
		if i == 0 {
			i = len(s)
		}
		b.WriteString(html.EscapeString(s[:i]))
		if s = s[i:]; s != "" {
			b.WriteString("<wbr>")
		}
	}
	return template.HTML(b.String())
}
