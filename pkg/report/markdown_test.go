package report

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/watch"
)

// hostile are texts that mean something on GitHub or in Markdown.
var hostile = []string{
	"@octocat", "@acme/security look", "fixes #1", "GH-12", "acme/alerts#1", "0123456789abcdef0123456789abcdef01234567", "deadbeef",
	"https://evil.example/x", "www.evil.example", "evil@evil.example", "[click](https://evil.example)", "![x](https://evil.example/x.png)", "[ref]: https://evil.example",
	"<img src=x>", "<script>alert(1)</script>", "<!-- whosigned alert=00000000000000000000000000000000 -->", "-->", "<details>", "&lt;b&gt; &#64;octocat",
	"# heading", "> quote", "> [!WARNING]", "- [ ] task", "1. one", "---", "| a | b |", "***bold***", "__bold__", "~~gone~~", ":tada:", "$x$", "\\", "\\@octocat", "[^1]",
	"`", "``", "``` x ```", "`````````", "a ` b `` c", "```text", "~~~", "\n\n@octocat\n\n", "```\n@octocat\n```", "\r\n# heading", "\tcode @octocat",
	"\u202e\u2066@octocat", "\x00@octocat", "\xff@octocat", "\u200b@octocat", "＠octocat", " leading", "trailing ", "  ", "",
}

// full is an alert that says s wherever a log or a CA has a say.
func full(s string) Alert {
	f := watch.Finding{Rule: s, Matched: s, Log: tlog.ID(s), Origin: s, LogType: tlog.Type(s), UUID: s, Kind: s, Version: s, SignerType: s, Subject: s, Subjects: []string{s, s},
		Issuer: s, Fingerprint: s, KeyFingerprint: s, SerialNumber: s, Digests: []string{s}, Extensions: []watch.Extension{{OID: s, Name: s, Value: s}},
		Times: []watch.Time{{What: s, Vouched: s}}, Trusted: watch.Untrusted, TrustErr: s, Link: "x" + s}
	a := Alert{Class: ClassTamper, Created: time.Unix(1e9, 0), Run: s, Log: tlog.ID(s), Origin: s, LogType: tlog.Type(s), To: 7, Findings: []watch.Finding{f, f}, Cut: 3, Pointer: s, Config: s,
		Incident: &Incident{ID: s, Kind: tlog.Kind(s), Text: s, Evidence: s, Checkpoints: []string{s, s + "\n" + s}, Next: []string{s}},
		Health:   []Health{{Key: s, State: Opened, Text: s, Next: s}, {Key: s, State: Notice, Text: s}}, Notes: []string{s, "a note: " + s}}
	a.Seal()
	return a
}

// outsideCode is what of a Markdown text is not code, line by line. It fails the test
// if a fence or a span is not closed.
func outsideCode(t *testing.T, text string) []string {
	t.Helper()
	var lines []string
	fence := ""
	for _, line := range strings.Split(text, "\n") {
		ticks := len(line) - len(strings.TrimLeft(line, "`"))
		switch {
		case fence != "":
			if ticks >= len(fence) && strings.TrimSpace(line[ticks:]) == "" {
				fence = ""
			}
		case ticks >= 3 && line[ticks:] == "text":
			fence = line[:ticks]
		default:
			lines = append(lines, outsideSpans(t, line))
		}
	}
	if fence != "" {
		t.Errorf("a block of code is not closed:\n%s", text)
	}
	return lines
}

var backticks = regexp.MustCompile("`+")

func outsideSpans(t *testing.T, line string) string {
	t.Helper()
	var out strings.Builder
	for {
		open := backticks.FindStringIndex(line)
		if open == nil {
			out.WriteString(line)
			return out.String()
		}
		length := open[1] - open[0]
		closed := -1
		for _, run := range backticks.FindAllStringIndex(line[open[1]:], -1) {
			if run[1]-run[0] == length {
				closed = open[1] + run[1]
				break
			}
		}
		if closed < 0 {
			t.Errorf("code is not closed: %q", line)
			return line
		}
		out.WriteString(line[:open[0]] + "CODE")
		line = line[closed:]
	}
}

// ours is what may stand outside of code: our structure, and words.
var ours = regexp.MustCompile(`\A(?:#{2,3} |- |[0-9]+\. )?(?:CODE|(?:[A-Za-z]|[0-9]+ [A-Za-z])[A-Za-z0-9 ,;()'"…%.:?-]*)?\z`)

func TestMarkdownFromALogStaysInCode(t *testing.T) {
	for _, s := range hostile {
		for _, around := range []string{"%s", "word %s word", "%s%[1]s"} {
			text := fmt.Sprintf(around, s)
			m := Email([]Alert{full(text)})
			for _, line := range outsideCode(t, m.Markdown(60000)) {
				if !ours.MatchString(line) || linked.MatchString(line) || regexp.MustCompile(`[.:][^ ]`).MatchString(line) || strings.Contains(line, "octocat") {
					t.Errorf("%q: outside of code stands %q", text, line)
				}
			}
			if digest := Email([]Alert{full(text), full("x")}); strings.Contains(strings.Join(outsideCode(t, digest.Markdown(60000)), "\n"), "octocat") {
				t.Errorf("%q: a digest shows it outside of code", text)
			}
			title := m.Title()
			if strings.ContainsAny(title, "`\n\r\x00\u202e") || mention.MatchString(title) || reference.MatchString(title) || units(title) > 256 {
				t.Errorf("%q: title %q", text, title)
			}
		}
	}
}

func TestMarkdownShowsOurWordsAsWordsAndOurLinksAsLinks(t *testing.T) {
	a := full("x")
	a.Findings[0].Link = "https://search.sigstore.dev/?logIndex=7"
	a.Findings[1].Link = "https://search.sigstore.dev/?logIndex=7>)<b>"
	got := Email([]Alert{a}).Markdown(60000)
	for _, want := range []string{"\n### What to do next\n", "\n1. Keep the evidence: copy x somewhere", "This is a suspicion. It shows what was served to us", "Look at it: <https://search.sigstore.dev/?logIndex=7>\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
	if n := strings.Count(got, "<https"); n != 1 {
		t.Errorf("%d links, want one", n)
	}
}

var leftOut = regexp.MustCompile(`\*\*Cut to fit: ([0-9]+) more lines? (?:is|are) left out\.`)

func TestMarkdownKeepsItsLimitAndSaysWhatItCuts(t *testing.T) {
	for _, s := range []string{"x", "𝕏", "`", "\u202e", "a\n", "```"} {
		a := full(strings.Repeat(s, 420))
		a.Findings = slices.Repeat(a.Findings, 10)
		a.Notes = slices.Repeat(a.Notes, 30)
		a.Incident.Checkpoints = slices.Repeat([]string{strings.Repeat(s+"\n", 60)}, 4)
		a.Seal()
		m := Email([]Alert{a})
		whole := m.Markdown(10 << 20)
		if leftOut.MatchString(whole) {
			t.Errorf("%.10q: cut although there is room", s)
		}
		for _, limit := range []int{300, 1000, 5000, 20000, 65000} {
			got := m.Markdown(limit)
			if n := units(got); n > limit {
				t.Errorf("%.10q: %d characters, want at most %d", s, n, limit)
			}
			outsideCode(t, got)
			if !leftOut.MatchString(got) && !strings.Contains(got, "not shown here. All of them are in") {
				t.Errorf("%.10q in %d characters does not say what is cut", s, limit)
			}
		}
	}
}

func TestMarkdownCountsEveryLineThatItLeavesOut(t *testing.T) {
	d := document{}
	d.title(ClassHealth, "title")
	d.add(block{Kind: "list", Items: slices.Repeat([]string{strings.Repeat("word ", 20)}, 50)})
	d.fields(slices.Repeat([]field{{Name: "Name", Value: "value"}}, 20))
	d.para("the end")
	for _, limit := range []int{1000, 2000, 4000} {
		got := d.markdown(limit)
		shown := strings.Count(got, "- word") + strings.Count(got, "Name:")
		var cut int
		if m := leftOut.FindStringSubmatch(got); m != nil {
			fmt.Sscan(m[1], &cut)
		}
		if shown+cut != 50+20+1 {
			t.Errorf("in %d characters %d lines are shown and %d said to be left out, want 71 in all", limit, shown, cut)
		}
	}
}

func TestThreadsAreWhatAMessageGoesOnWith(t *testing.T) {
	since := time.Unix(1e9, 0)
	health := func(states ...HealthState) Alert {
		a := Alert{Class: ClassHealth}
		for i, s := range states {
			a.Health = append(a.Health, Health{Key: fmt.Sprint(i), State: s, Since: since, Text: "t"})
		}
		return a
	}
	tamper := func(note string, about ...string) Alert {
		return Alert{Class: ClassTamper, Log: "aa", Notes: []string{note}, About: about}
	}
	const id = "bad-leaf-0123456789abcdef"
	for _, row := range []struct {
		name  string
		alert Alert
		keys  string // of the threads
		news  bool
		opens string
	}{
		{"findings", Alert{Class: ClassIdentity, Findings: make([]watch.Finding, 1)}, "", true, ""},
		{"opened", health(Opened), "", true, "health:0"},
		{"reminder", health(Reminder), "health:0", false, "health:0"},
		{"closed", health(Closed), "health:0", false, ""},
		{"notice", health(Notice), "", true, ""},
		{"closed and opened", health(Closed, Opened), "health:0", true, "health:1"},
		{"closed and reminder", health(Closed, Reminder), "health:0 health:1", false, "health:1"},
		{"an incident", Alert{Class: ClassTamper, Log: "aa", Incident: &Incident{ID: id}}, "", true, "incident:" + id + " tamper:aa"},
		{"no longer seen", tamper("no longer seen: incident fork-ffffffffffffffff", id), "incident:" + id + " tamper:aa", false, ""},
		{"a baseline that closes two", tamper("a new baseline is taken", id, "fork-1"), "incident:" + id + " tamper:aa incident:fork-1 tamper:aa", false, ""},
		{"about none by ID", tamper("a new baseline is taken"), "tamper:aa", false, ""},
	} {
		row.alert.Seal()
		m := Email([]Alert{row.alert})
		threads, news := m.Threads()
		var keys []string
		for _, th := range threads {
			keys = append(keys, th.Keys...)
			if row.alert.Class == ClassHealth && !th.Since.Equal(since) {
				t.Errorf("%s: since %v", row.name, th.Since)
			}
		}
		if got := strings.Join(keys, " "); got != row.keys || news != row.news {
			t.Errorf("%s: goes on with %q, news %v; want %q, %v", row.name, got, news, row.keys, row.news)
		}
		if got := strings.Join(m.Opens(), " "); got != row.opens {
			t.Errorf("%s: opens %q, want %q", row.name, got, row.opens)
		}
	}
	if _, news := Email([]Alert{health(Closed), health(Reminder)}).Threads(); !news {
		t.Error("a digest is no news")
	}
}
