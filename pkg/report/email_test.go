package report

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/net/html"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/watch"
)

var (
	noon  = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	logID = tlog.ID(strings.Repeat("c0d23d6a", 8) + "-1193050959916656506")
)

// finding is one with every field set; i tells them apart.
func finding(i uint64) watch.Finding {
	global := i + 1_000_000
	return watch.Finding{
		Rule: "releases", Matched: "subject", Log: logID, Origin: "rekor.example.com - 1193050959916656506", LogType: tlog.RekorV1,
		Index: i, LogIndex: &global, UUID: "108e9186e8c5677a" + strings.Repeat("ab", 32),
		LeafHash: tlog.LeafHash([]byte{byte(i)}), Kind: "hashedrekord", Version: "0.0.1",
		SignerType: "x509", Subject: "releases@acme.com", Subjects: []string{"releases@acme.com", "https://acme.com/second"},
		Issuer: "https://accounts.google.com", Fingerprint: strings.Repeat("12", 32), KeyFingerprint: strings.Repeat("34", 32),
		SerialNumber: "7f00ff", Digests: []string{"sha256:" + strings.Repeat("56", 32)},
		Extensions: []watch.Extension{
			{OID: "1.3.6.1.4.1.57264.1.8", Name: "issuer", Value: "https://accounts.google.com"},
			{OID: "1.3.6.1.4.1.57264.1.9", Name: "build-signer-uri", Value: "https://github.com/mallory/app/.github/workflows/release.yml@refs/heads/main"},
		},
		Times: []watch.Time{
			{Time: noon, What: "integrated", Vouched: "signed entry timestamp"},
			{Time: noon.Add(-time.Minute), What: "certificate not before", Vouched: "certificate"},
			{Time: noon.Add(9 * time.Minute), What: "claimed", Vouched: "nothing"},
		},
		Trusted: watch.Untrusted, TrustErr: "certificate signed by unknown authority", Unproven: true,
		Link: "https://search.sigstore.dev/?logIndex=1000000",
	}
}

func identityAlert() Alert {
	a := Alert{Class: ClassIdentity, Created: noon, Run: "run-1", Log: logID, Origin: "rekor.example.com - 1193050959916656506", LogType: tlog.RekorV1,
		From: 100, To: 200, Findings: []watch.Finding{finding(101), finding(102), finding(103)}, Expected: 12,
		Pointer: "findings/" + string(logID) + "/100-200-aabbccdd.jsonl", Notes: []string{"leaf 150 could not be parsed: it is counted and kept"}}
	a.Findings[1].Trusted, a.Findings[1].Unproven = watch.Trusted, false
	a.Seal()
	return a
}

func tamperAlert() Alert {
	note := "rekor.example.com - 1193050959916656506\n1234\n" + strings.Repeat("A", 43) + "=\n\n— rekor.example.com " + strings.Repeat("wNI9ajBF", 12) + "=\n"
	a := Alert{Class: ClassTamper, Created: noon, Run: "run-1", Log: logID, Origin: "rekor.example.com", LogType: tlog.RekorV1, Incident: &Incident{
		ID: "fork-0011223344556677", Kind: tlog.Fork, Proof: true, Text: "served two roots for size 1234",
		Evidence: "incidents/" + string(logID) + "/fork-0011223344556677.json", Checkpoints: []string{note, strings.Replace(note, "AAAA", "BBBB", 1)},
		Next: []string{"whosigned accept --config whosigned.yaml --log " + string(logID) + " --incident fork-0011223344556677 --reason \"…\""}}}
	a.Seal()
	return a
}

func healthAlert(state HealthState) Alert {
	a := Alert{Class: ClassHealth, Created: noon, Log: logID, Origin: "rekor.example.com", LogType: tlog.RekorV1, Health: []Health{{
		Key: "log unreachable", State: state, Text: "rekor.example.com gave no checkpoint for 3h12m: dial tcp: connection refused", Since: noon.Add(-3 * time.Hour), Next: "check the network of the function"}}}
	a.Seal()
	return a
}

func TestEmailTellsEveryFieldOfAFindingInTextAndHTML(t *testing.T) {
	a := identityAlert()
	m := Email([]Alert{a})
	page := visible(t, m.HTML)
	f := a.Findings[0]
	for _, want := range []string{
		f.Rule, "matched: subject", f.Origin, string(f.Log), "101 (1000101 over all trees", f.UUID, f.LeafHash.String(), "hashedrekord 0.0.1", "x509",
		"releases@acme.com", "https://acme.com/second", f.Issuer, f.Fingerprint, f.KeyFingerprint, f.SerialNumber, f.Digests[0],
		"build-signer-uri", f.Extensions[1].Value, "2026-11-22 12:00:00 UTC, integrated; signed entry timestamp vouches for it", "claimed; nothing vouches for it",
		"NOT trusted: certificate signed by unknown authority", "trusted: it leads to a trusted CA", "Unproven", f.Link,
		"12 expected ones were recorded and not listed", "leaf 150 could not be parsed", a.ID, "100 up to, not including, 200", "run-1",
	} {
		for what, in := range map[string]string{"text": m.Text, "HTML": page} {
			if !strings.Contains(in, want) {
				t.Errorf("%s lacks %q", what, want)
			}
		}
	}
	if m.ID != a.ID || m.Class != ClassIdentity || !m.Created.Equal(noon) {
		t.Errorf("message is %s, %s, %v; want the alert's %s, identity, %v", m.ID, m.Class, m.Created, a.ID, noon)
	}
}

func TestTamperMailSaysWhatWasServedToUsAndWhatToDo(t *testing.T) {
	m := Email([]Alert{tamperAlert()})
	for _, want := range []string{"This is proof", "what others were shown", "01. Keep the evidence", "05. whosigned accept", "   | 1234\n", "Signed note, as served (1)"} {
		if !strings.Contains(m.Text, want) {
			t.Errorf("text lacks %q:\n%s", want, m.Text)
		}
	}
	a := tamperAlert()
	a.Incident.Proof = false
	if m := Email([]Alert{a}); !strings.Contains(m.Text, "This is a suspicion. It shows what was served to us") {
		t.Errorf("a suspicion is not said to be one:\n%s", m.Text)
	}
}

func TestSubjectSaysWhatHappenedToWhom(t *testing.T) {
	one := identityAlert()
	one.Findings = one.Findings[1:2]
	several := identityAlert()
	several.Findings[2].Subject, several.Cut = "ops@acme.com", 40
	untrusted := identityAlert()
	untrusted.Findings = untrusted.Findings[:1]
	suspicion := tamperAlert()
	suspicion.Incident.Proof = false
	fork := tamperAlert()
	fork.Incident.Text = "two signed roots for tree size 7: " + strings.Repeat("a", 64) + " and " + strings.Repeat("b", 64)
	key := identityAlert()
	key.Findings = []watch.Finding{{Fingerprint: "SHA256:abc", SignerType: "ssh"}}
	hostile := identityAlert()
	hostile.Findings[0].Subject = "a\r\nBcc: all@acme.com\u202e" + strings.Repeat("x", 1000)
	lost := Alert{Class: ClassHealth, Notes: []string{"baseline taken at 12"}}
	notice := Health{State: Notice, Text: "the rules were changed"}
	notices := func(headline string, h ...Health) []Alert {
		return []Alert{{Class: ClassHealth, Headline: headline, Health: h}}
	}
	down := healthAlert(Reminder).Health[0]
	grew := Health{State: Notice, Text: "rekor.example.com - 1193050959916656506 (" + string(logID) + "): it grew to size 7 after it had been read to its end"}
	behind := healthAlert(Opened).Health[0]
	behind.Text = strings.Repeat("x", 200) + " (log c0d23d6ac0d2…): reading is 1 entries behind"
	left := Health{State: Notice, Text: "log " + string(logID) + " at https://rekor.example.com is not configured any more; it had 11 entries"}
	about := func(class Class, note string) []Alert {
		return []Alert{{Class: class, Log: logID, Origin: "rekor.example.com - 1193050959916656506", Notes: []string{note}}}
	}
	for name, c := range map[string]struct {
		alerts []Alert
		want   string
	}{
		"one":       {[]Alert{one}, "Signed as releases@acme.com by https://github.com/mallory/app/.github/workflows/…: 1 entry in rekor.example.com"},
		"several":   {[]Alert{several}, "Signed as releases@acme.com and 1 more: 43 entries in rekor.example.com"},
		"untrusted": {[]Alert{untrusted}, "Signed as releases@acme.com, untrusted chain (unproven): 1 entry in rekor.example.com"},
		"key":       {[]Alert{key}, "Signed as key SHA256:abc: 1 entry in rekor.example.com"},
		"proof":     {[]Alert{tamperAlert()}, "TAMPERING: rekor.example.com: served two roots for size 1234"},
		"hashes":    {[]Alert{fork}, "TAMPERING: rekor.example.com: two signed roots for tree size 7: aaaaaaaa… and bbbbbbbb…"},
		"suspicion": {[]Alert{suspicion}, "Suspected tampering: rekor.example.com: served two roots for size 1234"},
		"health":    {[]Alert{healthAlert(Opened)}, "whosigned health: rekor.example.com gave no checkpoint for 3h12m: dial tcp: connection refused"},
		"over":      {[]Alert{healthAlert(Closed)}, "whosigned health: over: rekor.example.com gave no checkpoint for 3h12m: dial tcp: connection refused"},
		"note":      {[]Alert{lost}, "whosigned: baseline taken at 12"},
		"notice":    {notices("", notice), "whosigned: notice: the rules were changed"},
		"notices":   {notices("", notice, notice), "whosigned: 2 notices, first: the rules were changed"},
		"first run": {notices("first run: baseline taken for 2 logs", notice, notice), "whosigned: first run: baseline taken for 2 logs"},
		"trouble before notices": {notices("first run: baseline taken for 1 log", notice, down),
			"whosigned health: 1 lasting, 1 notice: still: rekor.example.com gave no checkpoint for 3h12m: dial tcp: connection refused"},
		"log of a notice":      {notices("", grew), "whosigned: notice: rekor.example.com: it grew to size 7 after it had been read to its end"},
		"log of notices":       {notices("", grew, left), "whosigned: 2 notices, first: rekor.example.com: it grew to size 7 after it had been read to its end"},
		"hash in a notice":     {notices("", left), "whosigned: notice: log c0d23d6a…-1193050959916656506 at https://rekor.example.com is not configured any more; it had 11 entries"},
		"log of a note":        {about(ClassHealth, grew.Text), "whosigned: rekor.example.com: it grew to size 7 after it had been read to its end"},
		"long name of a log":   {notices("", behind), "whosigned health: " + strings.Repeat("x", 59) + "…: reading is 1 entry behind"},
		"tampering over":       {about(ClassTamper, "no longer seen: rekor.example.com - 1193050959916656506 (log c0d23d6ac0d2…): incident fork-0011. It stays on file"), "Tampering over: rekor.example.com: incident fork-0011. It stays on file"},
		"incident decided":     {about(ClassTamper, "incident fork-0011 is closed by decision of bob: a test"), "Tampering decided: rekor.example.com: incident fork-0011 is closed by decision of bob: a test"},
		"baseline decided":     {about(ClassTamper, "a new baseline is taken at size 7 by decision of bob: a test"), "Tampering decided: rekor.example.com: a new baseline is taken at size 7 by decision of bob: a test"},
		"about tampering":      {about(ClassTamper, "its evidence was moved"), "About tampering: rekor.example.com: its evidence was moved"},
		"tampering before end": {append(about(ClassTamper, "no longer seen: it"), tamperAlert()), "TAMPERING: rekor.example.com: served two roots for size 1234 (and 1 more alert)"},
		"digest":               {[]Alert{healthAlert(Opened), one}, "whosigned: 2 alerts (1 identity, 1 health), first: Signed as releases@acme.com by https://github.com/mallory/app/.github/workflows/…: 1 …"},
		"worst first": {[]Alert{healthAlert(Opened), one, tamperAlert()},
			"TAMPERING: rekor.example.com: served two roots for size 1234 (and 2 more alerts)"},
		"hostile": {[]Alert{hostile}, `Signed as a\r\nBcc: all@acme.com\u{202e}x…`},
	} {
		t.Run(name, func(t *testing.T) {
			got := Email(c.alerts).Subject
			if got != c.want && !(strings.HasSuffix(c.want, "…") && strings.HasPrefix(got, strings.TrimSuffix(c.want, "…"))) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if n := utf8.RuneCountInString(got); n > 150 || got != Safe(got) {
				t.Errorf("subject of %d characters, safe %v: %q", n, got == Safe(got), got)
			}
		})
	}
}

func TestNoticesAreListedAndAreNoConditions(t *testing.T) {
	a := healthAlert(Opened)
	a.Health = append(a.Health, Health{Key: "log:1", State: Notice, Text: "baseline taken at size 12"}, Health{Key: "log:2", State: Notice, Text: "the rules were changed"})
	m := Email([]Alert{a})
	if want := "-- Notices\n\n * baseline taken at size 12\n * the rules were changed\n"; !strings.Contains(m.Text, want) {
		t.Errorf("got\n%s\nwant in it\n%s", m.Text, want)
	}
	if got := strings.Count(m.Text, "State:"); got != 1 {
		t.Errorf("%d conditions have a state, want the 1 that is a condition:\n%s", got, m.Text)
	}
}

func TestWhatIsCutIsCountedAndPointedAt(t *testing.T) {
	a := identityAlert()
	a.Findings = nil
	for i := range uint64(60) {
		a.Findings = append(a.Findings, finding(i))
	}
	a.Cut = 1000
	m := Email([]Alert{a})
	if got := strings.Count(m.Text, "Leaf hash:"); got != maxFindings {
		t.Errorf("%d findings shown, want %d", got, maxFindings)
	}
	if want := "1010 more findings are not shown here. All of them are in " + a.Pointer; !strings.Contains(m.Text, want) {
		t.Errorf("text lacks %q", want)
	}

	var many []Alert
	for i := range 300 {
		a := identityAlert()
		a.From = uint64(i)
		a.Seal()
		many = append(many, a)
	}
	m = Email(many)
	if want := "And 200 more alerts"; !strings.Contains(m.Text, want) {
		t.Errorf("digest lacks %q", want)
	}
	if m.ID == many[0].ID || m.ID != Email(reversed(many)).ID {
		t.Errorf("digest's ID %s is an alert's or depends on the order", m.ID)
	}
}

func reversed(a []Alert) []Alert {
	r := slices.Clone(a)
	slices.Reverse(r)
	return r
}

func TestHugeContentMakesNoHugeMessage(t *testing.T) {
	huge := strings.Repeat("/", 1<<20)
	a := tamperAlert()
	a.Incident.Text, a.Incident.Checkpoints = huge, slices.Repeat([]string{strings.Repeat(huge+"\n", 3)}, 50)
	a.Notes = slices.Repeat([]string{huge}, 1000)
	for i := range uint64(60) {
		f := finding(i)
		f.Subject, f.Issuer, f.Subjects = huge, huge, slices.Repeat([]string{huge}, 1000)
		f.Extensions = slices.Repeat([]watch.Extension{{OID: huge, Value: huge}}, 1000)
		a.Findings = append(a.Findings, f)
	}
	a.Incident.Next = slices.Repeat([]string{huge}, 1000)
	m := Email(slices.Repeat([]Alert{a}, 1000))
	if n := len(m.Text) + len(m.HTML); n > 10<<20 {
		t.Errorf("message of %d bytes", n)
	}
}

func TestSealGivesTheSameThingOneIDAndOthersAnother(t *testing.T) {
	base := identityAlert()
	again := identityAlert()
	again.Created, again.Run, again.Config, again.Origin = noon.Add(time.Hour), "run-2", "other.yaml", "rekor-7f9c - 1193050959916656506"
	again.Findings[0].Origin = again.Origin
	if again.Seal(); again.ID != base.ID {
		t.Errorf("a repeat has ID %s, want %s", again.ID, base.ID)
	}
	if len(base.ID) != 32 {
		t.Errorf("ID %q is not 32 hex digits", base.ID)
	}
	for name, change := range map[string]func(*Alert){
		"class":    func(a *Alert) { a.Class = ClassTamper },
		"log":      func(a *Alert) { a.Log = "00" },
		"slice":    func(a *Alert) { a.To++ },
		"finding":  func(a *Alert) { a.Findings[0].Subject += "x" },
		"expected": func(a *Alert) { a.Expected++ },
		"note":     func(a *Alert) { a.Notes = nil },
		"incident": func(a *Alert) { a.Incident = &Incident{ID: "x"} },
	} {
		a := identityAlert()
		change(&a)
		if a.Seal(); a.ID == base.ID {
			t.Errorf("another %s, but the same ID", name)
		}
	}
	opened, reminder, closed := healthAlert(Opened), healthAlert(Reminder), healthAlert(Closed)
	next := healthAlert(Reminder)
	next.Created = next.Created.Add(24 * time.Hour)
	next.Seal()
	ids := []string{opened.ID, reminder.ID, closed.ID, next.ID}
	slices.Sort(ids)
	if len(slices.Compact(ids)) != 4 {
		t.Errorf("opened, two days' reminders and closed share an ID: %v", ids)
	}
}

func TestSealMakesTimesThatALogInventedStorable(t *testing.T) {
	a := identityAlert()
	a.Findings[0].Times = []watch.Time{{Time: time.Unix(1<<60, 0), What: "integrated", Vouched: "nothing"}}
	a.Seal()
	b, err := json.Marshal(a)
	if err != nil {
		t.Fatalf("alert cannot be stored: %v", err)
	}
	var back Alert
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if m := Email([]Alert{back}); !strings.Contains(m.Text, "1152921504606846976 seconds since 1970") {
		t.Errorf("the claimed time is not told:\n%s", m.Text)
	}
}

func TestLinksAreOnlyThoseOfOurMaking(t *testing.T) {
	for _, c := range []struct{ link, want string }{
		{"https://search.sigstore.dev/?logIndex=1", "https://search.sigstore.dev/?logIndex=1"},
		{"http://search.sigstore.dev/", ""},
		{"javascript:alert(1)", ""},
		{"https://user@evil.example/", ""},
		{"https:///nohost", ""},
		{"https://ok.example/\u202e", ""},
		{`https://ok.example/"onclick="x`, "https://ok.example/%22onclick=%22x"},
	} {
		a := Alert{Class: ClassIdentity, Findings: []watch.Finding{{Subject: "http://evil.example/", Link: c.link, TrustErr: "https://evil.example"}}}
		a.Seal()
		var got []string
		for n := range parse(t, Email([]Alert{a}).HTML).Descendants() {
			if n.Data == "a" && n.Type == html.ElementNode {
				got = append(got, n.Attr[0].Val)
			}
		}
		if want := slices.DeleteFunc([]string{c.want}, func(s string) bool { return s == "" }); !slices.Equal(got, want) {
			t.Errorf("Link %q: HTML links to %q, want %q", c.link, got, want)
		}
	}
}

func parse(t testing.TB, page string) *html.Node {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatalf("HTML does not parse: %v", err)
	}
	return root
}

// visible is the text of a page.
func visible(t testing.TB, page string) string {
	var b strings.Builder
	for n := range parse(t, page).Descendants() {
		if n.Type == html.TextNode {
			b.WriteString(n.Data)
		}
	}
	return b.String()
}

// structure is a page's elements with their attributes, without its text. <wbr>
// counts as text: it has neither content nor attributes.
func structure(t testing.TB, page string) string {
	var b strings.Builder
	var walk func(n *html.Node, depth int)
	walk = func(n *html.Node, depth int) {
		switch {
		case n.Type == html.ElementNode && n.Data == "wbr" && len(n.Attr) == 0 && n.FirstChild == nil:
			return
		case n.Type != html.TextNode:
			fmt.Fprintf(&b, "%*s%d %s %v\n", depth, "", n.Type, n.Data, n.Attr)
		}
		for c := range n.ChildNodes() {
			walk(c, depth+1)
		}
	}
	walk(parse(t, page), 0)
	return b.String()
}

// FuzzEmail puts s everywhere a log's text can get to.
func FuzzEmail(f *testing.F) {
	for _, s := range hostileStrings {
		f.Add(s)
	}
	filled := func(s string) []Alert {
		a, h := tamperAlert(), healthAlert(Reminder)
		x := watch.Finding{Rule: s, Matched: s, Log: tlog.ID(s), Origin: s, LogType: tlog.Type(s), UUID: s, Kind: s, Version: s, SignerType: s,
			Subject: s, Subjects: []string{s}, Issuer: s, Fingerprint: s, KeyFingerprint: s, SerialNumber: s, Digests: []string{s}, Trusted: watch.Untrusted, TrustErr: s,
			Extensions: []watch.Extension{{OID: s, Name: s, Value: s}}, Times: []watch.Time{{Time: noon, What: s, Vouched: s}}, Link: "javascript:" + s}
		a.Findings, a.Origin, a.Log, a.Pointer, a.Notes, a.Run, a.Config, a.ID = []watch.Finding{x}, s, tlog.ID(s), s, []string{s}, s, s, s
		a.Incident.Text, a.Incident.ID, a.Incident.Kind, a.Incident.Evidence, a.Incident.Next = s, s, tlog.Kind(s), s, []string{s}
		a.Incident.Checkpoints = []string{s}
		h.Health[0].Key, h.Health[0].Text, h.Health[0].Next = s, s, s
		return []Alert{a, h}
	}
	want := structure(f, Email(filled("plain")).HTML)
	f.Fuzz(func(t *testing.T, s string) {
		if s == "" {
			return // an empty field is left out, which changes the structure rightly
		}
		m := Email(filled(s))
		if got := structure(t, m.HTML); got != want {
			t.Errorf("%q changes the structure of the HTML to\n%s", s, got)
		}
		for what, out := range map[string]string{"subject": m.Subject, "text": strings.ReplaceAll(m.Text, "\n", ""), "HTML": strings.ReplaceAll(m.HTML, "\n", "")} {
			if r, bad := harmful(out); bad {
				t.Errorf("%q brings %U into the %s", s, r, what)
			}
		}
		if strings.Contains(m.Subject, "\n") {
			t.Errorf("%q brings a line end into the subject", s)
		}
	})
}
