package report

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/whosigned/whosigned/pkg/watch"
)

// Message is an alert, or a digest of many, as it is sent.
type Message struct {
	ID      string    // of the alert; of a digest, a hash over those of its alerts
	Class   Class     // of a digest, the gravest
	Created time.Time // of a digest, the newest
	Subject string
	Text    string
	HTML    string

	alerts []Alert // that it was made of, the gravest first
}

// What one message shows at most. The rest is counted and pointed at.
const (
	maxFindings  = 50
	maxBytes     = 256 << 10 // of text, after which no finding and no alert is begun
	maxAlerts    = 100       // of a digest
	maxIncidents = 10        // told in full
	maxNexts     = 5         // alerts whose findings are told what to do about
	maxItems     = 50        // of a list: notes, health conditions, extensions
	maxSame      = 10        // subjects, digests, times of a finding
	maxNotes     = 4         // of an incident
	maxLines     = 40        // of a signed note
)

// Email makes a message of one alert, or a digest of many, the gravest first. The
// alerts must be sealed.
func Email(alerts []Alert) Message {
	sorted := slices.Clone(alerts)
	slices.SortStableFunc(sorted, func(a, b Alert) int {
		return cmp.Or(cmp.Compare(a.gravity(), b.gravity()), a.Created.Compare(b.Created))
	})
	d := compose(sorted, maxBytes)
	m := Message{ID: messageID(sorted), Class: gravest(sorted), Subject: d.subject, Text: d.text(), HTML: d.html(), alerts: sorted}
	for _, a := range sorted {
		if a.Created.After(m.Created) {
			m.Created = a.Created
		}
	}
	return m
}

// compose makes the document of alerts, the gravest first. After so many bytes no
// finding and no alert is begun.
func compose(sorted []Alert, bytes int) *document {
	items, in := fold(sorted)
	one := oneSigning(sorted, in)
	d := &document{subject: subject(sorted, one), in: in, items: items, shown: make(map[*watch.Finding]bool), findings: maxFindings, bytes: bytes, incidents: maxIncidents, nexts: maxNexts}
	share := 0 // alerts that share the room for findings
	for _, a := range sorted {
		share += min(1, len(a.Findings))
	}
	d.share = max(1, maxFindings/max(1, share))
	if len(sorted) != 1 && !one {
		d.overview(gravest(sorted), sorted)
	}
	for i := range sorted {
		if i == maxAlerts || d.bytes <= 0 {
			d.title(sorted[i].Class, "And "+count(len(sorted)-i, "more alert", "more alerts"))
			d.para("No room for them here: " + byClass(sorted[i:]) + ". Each is in alerts/ where the state is kept, under its ID, and in findings/ and incidents/ beside it.")
			break
		}
		d.alert(&sorted[i])
	}
	return d
}

func gravest(sorted []Alert) Class {
	if len(sorted) == 0 {
		return ClassHealth
	}
	return sorted[0].Class
}

// overview heads a digest: what is in it, so that no alert hides behind a bulky one.
func (d *document) overview(class Class, sorted []Alert) {
	d.title(class, d.subject)
	d.para(fmt.Sprintf("This digest holds %s: %s.", count(len(sorted), "alert", "alerts"), byClass(sorted)))
	var titles []string
	for i := range limit(sorted, maxAlerts) {
		titles = append(titles, sorted[i].Title())
	}
	d.add(block{Kind: "list", Items: titles})
	if n := len(sorted) - maxAlerts; n > 0 {
		d.para("And " + count(n, "more", "more") + ".")
	}
}

// messageID is the alert's ID, or a hash over those of a digest's alerts.
func messageID(alerts []Alert) string {
	if len(alerts) == 1 {
		return alerts[0].ID
	}
	ids := make([]string, len(alerts))
	for i, a := range alerts {
		ids[i] = a.ID
	}
	slices.Sort(ids)
	sum := sha256.Sum256([]byte(strings.Join(ids, "\n")))
	return hex.EncodeToString(sum[:16])
}

func subject(sorted []Alert, one bool) string {
	switch {
	case one:
		more := fmt.Sprintf(" (and in %s)", count(len(sorted)-1, "more log", "more logs"))
		return safe(sorted[0].Title(), maxSubject-len(more)) + more
	case len(sorted) == 0:
		return "whosigned: no alerts"
	case len(sorted) == 1:
		return sorted[0].Title()
	case sorted[0].Class == ClassTamper:
		more := fmt.Sprintf(" (and %s)", count(len(sorted)-1, "more alert", "more alerts"))
		return safe(sorted[0].Title(), maxSubject-len(more)) + more
	default:
		return safe(fmt.Sprintf("whosigned: %d alerts (%s), first: %s", len(sorted), byClass(sorted), sorted[0].Title()), maxSubject)
	}
}

// byClass counts alerts: "1 tamper, 50 identity".
func byClass(alerts []Alert) string {
	n := map[Class]int{}
	for _, a := range alerts {
		n[a.Class]++
	}
	var parts []string
	for _, c := range Classes() {
		if n[c] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[c], c))
		}
	}
	return cmp.Or(strings.Join(parts, ", "), "none")
}

// alert adds everything a responder needs of one alert.
func (d *document) alert(a *Alert) {
	d.title(a.Class, a.Title())
	if a.Incident != nil {
		d.incident(a)
	}
	if a.total() > 0 || a.Expected > 0 {
		d.found(a)
	}
	d.health(a.Health)
	d.list("Notes", a.Notes)

	d.heading("This alert")
	about := []field{{Name: "Alert ID", Value: a.ID}, {Name: "Class", Value: string(a.Class)}, {Name: "Made", Value: stamp(a.Created)}}
	if a.Run != "" {
		about = append(about, field{Name: "Run", Value: a.Run})
	}
	if a.Log != "" {
		about = append(about, field{Name: "Log", Value: a.Origin}, field{Name: "Log ID", Value: string(a.Log)}, field{Name: "Log type", Value: string(a.LogType)})
	}
	if a.To > 0 {
		about = append(about, field{Name: "Leaves", Value: fmt.Sprintf("%d up to, not including, %d", a.From, a.To)})
	}
	d.fields(about)
}

// incident tells what was served, what that shows, and what to do next.
func (d *document) incident(a *Alert) {
	in := a.Incident
	d.para(in.Text)
	if d.incidents--; d.incidents < 0 {
		d.fields([]field{{Name: "Evidence", Value: in.Evidence}, {Name: "Incident", Value: in.ID}})
		return
	}
	d.heading("What this shows")
	if in.Proof {
		d.para("This is proof. The log's own key signed statements that cannot all be true; anybody who has the key can check that from the notes below, without trusting us. " +
			"Trusted state of this log is frozen until an operator decides. Reading goes on, and what it finds is marked unproven.")
	} else {
		d.para("This is a suspicion. It shows what was served to us, and it was still served when we asked again past every cache. " +
			"A broken server or something on the network between may be behind it. Nothing of it is believed, what was proven before stays, and every run asks again.")
	}
	d.para("It says nothing about what others were shown: a view forked for us alone looks the same from here.")
	d.heading("What to do next")
	d.steps(append([]string{
		"Keep the evidence: copy " + cmp.Or(in.Evidence, "the incident's folder") + " somewhere that whosigned does not write to.",
		"Look from elsewhere: fetch the log's checkpoint over another network and from another monitor or witness, and compare size and root with the notes below.",
		"Do not rely on new entries of this log until it is explained. Signatures you have verified before this keep the standing they had.",
		"Tell the log's operator, and send the notes below along.",
	}, in.Next...))
	d.heading("Evidence")
	d.fields([]field{
		{Name: "Incident", Value: in.ID}, {Name: "Kind", Value: string(in.Kind)},
		{Name: "Strength", Value: map[bool]string{true: "proof", false: "suspicion"}[in.Proof]},
		{Name: "Evidence", Value: in.Evidence},
	})
	for i, note := range in.Checkpoints {
		if i == maxNotes {
			d.para(fmt.Sprintf("%s in the evidence.", count(len(in.Checkpoints)-i, "more note is", "more notes are")))
			break
		}
		name := "Signed note, as trusted before"
		if i > 0 {
			name = fmt.Sprintf("Signed note, as served (%d)", i)
		}
		d.note(name, note)
	}
}

// found lists the alert's findings within what the message has room for.
func (d *document) found(a *Alert) {
	intro := count(a.entries(), "entry fits", "entries fit") + " your rules and nothing that you expect."
	if a.total() == 0 {
		intro = "Nothing unexpected was found."
	}
	if a.Expected > 0 {
		intro += " " + count(a.Expected, "expected one was", "expected ones were") + " recorded and not listed."
	}
	untrusted, unproven := a.doubt()
	d.para(untrusted + intro)
	if unproven != "" {
		d.para(unproven)
	}
	if slices.ContainsFunc(a.Findings, func(f watch.Finding) bool { return f.BestEffort }) {
		d.para("Found through Rekor's search index, best effort: there may be more that the index leaves out.")
	}
	d.next(a)
	shown, items, told := 0, 0, make(map[spot]bool)
	for i := range a.Findings {
		f := &a.Findings[i]
		if of := d.in[f]; d.shown[of] { // of a rule that its item names, or of another alert's
			shown++
			if of.Log != f.Log {
				told[spotOf(f)] = true
			}
			continue
		}
		if items == d.share || d.findings == 0 || d.bytes <= 0 {
			continue // what is told above is counted as that
		}
		d.findings--
		items++
		shown++
		d.shown[f] = true
		d.finding(f)
	}
	if len(told) > 0 {
		d.para(count(len(told), "of them is a certificate that is", "of them are certificates that are") + " told of above, with every log that it was found in.")
	}
	if rest := a.total() - shown; rest > 0 {
		d.para(fmt.Sprintf("%s not shown here. All of them are in %s.",
			count(rest, "more finding is", "more findings are"), cmp.Or(a.Pointer, "findings/ where the state is kept")))
	}
}

func (d *document) finding(f *watch.Finding) {
	d.heading(safe(cmp.Or(f.Subject, "key "+f.Fingerprint), maxSubject))
	fields := append(d.signer(f), d.entry(f)...)
	if it := d.items[f]; it != nil {
		fields = append(fields, many("Also in", len(it.also), func(i int) string { return place(it.also[i]) })...)
	}
	for _, e := range limit(f.Extensions, maxItems) {
		if e.Name == "issuer" && e.Value == f.Issuer {
			continue // said above, and certificates say it twice
		}
		fields = append(fields, field{Name: cmp.Or(e.Name, e.OID), Value: e.Value})
	}
	if n := len(f.Extensions) - maxItems; n > 0 {
		fields = append(fields, field{Name: "Extensions", Value: fmt.Sprintf("and %d more", n)})
	}
	d.fields(fields)
}

// signer says who signed and how far that can be believed.
func (d *document) signer(f *watch.Finding) []field {
	fields := []field{{Name: "Rule", Value: f.Rule + " (matched: " + f.Matched + ")"}}
	if it := d.items[f]; it != nil {
		for _, other := range it.rules {
			fields = append(fields, field{Name: "Rule", Value: other.Rule + " (matched: " + other.Matched + ")"})
		}
	}
	fields = append(fields, field{Name: "Signer", Value: f.SignerType})
	fields = append(fields, many("Subject", cmp.Or(len(f.Subjects), 1), func(i int) string {
		if len(f.Subjects) == 0 {
			return f.Subject
		}
		return f.Subjects[i]
	})...)
	fields = append(fields, field{Name: "Issuer", Value: f.Issuer}, field{Name: "Chain", Value: chain(f)})
	if f.Unproven {
		fields = append(fields, field{Name: "Unproven", Value: "these leaves were served to us, but do not hash into a root that the log's trusted history commits to"})
	}
	if f.BestEffort {
		fields = append(fields, field{Name: "Found", Value: bestEffort})
	}
	return append(fields, field{Name: "Fingerprint", Value: f.Fingerprint},
		field{Name: "Key fingerprint", Value: f.KeyFingerprint}, field{Name: "Serial number", Value: f.SerialNumber})
}

// bestEffort labels what coverage: index found.
const bestEffort = "through Rekor's search index, best effort: the entry is proven, and others may be left out without our noticing"

// entry says what was signed, where that is logged, and when.
func (d *document) entry(f *watch.Finding) []field {
	fields := many("Artifact", len(f.Digests), func(i int) string { return f.Digests[i] })
	fields = append(fields, many("Time", len(f.Times), func(i int) string { return vouched(f.Times[i]) })...)
	index := fmt.Sprint(f.Index)
	if f.LogIndex != nil {
		index += fmt.Sprintf(" (%d over all trees of the service)", *f.LogIndex)
	}
	return append(fields,
		field{Name: "Kind", Value: strings.TrimSuffix(f.Kind+" "+f.Version, " ")},
		field{Name: "Log", Value: f.Origin},
		field{Name: "Log ID", Value: string(f.Log)},
		field{Name: "Log type", Value: string(f.LogType)},
		field{Name: "Index", Value: index},
		field{Name: "Entry UUID", Value: f.UUID},
		field{Name: "Leaf hash", Value: f.LeafHash.String()},
		field{Name: "Look at it", Value: f.Link, Link: link(f.Link)})
}

func chain(f *watch.Finding) string {
	why := ""
	if f.TrustErr != "" {
		why = ": " + f.TrustErr
	}
	switch f.Trusted {
	case watch.Trusted:
		return "trusted: it leads to a trusted CA"
	case watch.Untrusted:
		return "NOT trusted" + cmp.Or(why, ": it leads to no trusted CA")
	default:
		return "unknown" + cmp.Or(why, ": a key has no chain, or there is no CA certificate to check against")
	}
}

func vouched(t watch.Time) string {
	by := "; " + t.Vouched + " vouches for it"
	if t.Vouched == "" || t.Vouched == "nothing" {
		by = "; nothing vouches for it"
	}
	if t.Time.IsZero() {
		return t.What + by
	}
	return stamp(t.Time) + ", " + t.What + by
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// link is raw if it is fit to be clicked on: https, a host, and nothing hidden.
// It comes from our own code, which builds it of our own parts; this is the
// second look.
func link(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || safe(raw, maxText) != raw {
		return ""
	}
	return u.String()
}

func (d *document) health(all []Health) {
	var conditions []Health
	var notices []string
	for _, h := range all {
		if h.State == Notice {
			notices = append(notices, h.Text)
		} else {
			conditions = append(conditions, h)
		}
	}
	for _, h := range limit(conditions, maxItems) {
		d.heading(map[HealthState]string{Reminder: "Still: ", Closed: "Over: "}[h.State] + h.Key)
		d.para(h.Text)
		d.fields([]field{{Name: "State", Value: string(h.State)}, {Name: "Since", Value: stamp(h.Since)}, {Name: "What to do", Value: h.Next}})
	}
	if n := len(conditions) - maxItems; n > 0 {
		d.para(fmt.Sprintf("And %s, in run.json where the state is kept.", count(n, "more condition", "more conditions")))
	}
	d.list("Notices", notices)
}

// many makes a field of each of n values, up to maxSame, and counts the rest.
func many(name string, n int, value func(int) string) []field {
	var fields []field
	for i := range min(n, maxSame) {
		fields = append(fields, field{Name: name, Value: value(i)})
	}
	if n > maxSame {
		fields = append(fields, field{Name: name, Value: fmt.Sprintf("and %d more", n-maxSame)})
	}
	return fields
}

func limit[T any](s []T, n int) []T { return s[:min(len(s), n)] }
