// Package report says to people what a run found: an [Alert] is what an outbox
// holds, and [Email] makes of one alert, or of a digest of many, a message in
// text and HTML that a responder can act on.
//
// It keeps its share of P3 (no alert is lost, none is buried): an alert's ID
// follows from its content, so that a repeat after a crash can be recognised,
// what is cut from a message is counted and pointed at, and a digest names
// tampering first. And of P9 (no silent gap): a message says what is unproven,
// untrusted or vouched for by nothing, and that a log shows only what it shows us.
//
// What comes from a log is hostile. It is shown through [Safe], nothing in it is
// made a link, and it cannot change the structure of the HTML.
package report

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/watch"
)

// Class is what an alert is about; each class is routed by itself.
type Class string

// The classes, the gravest first.
const (
	ClassTamper   Class = "tamper"
	ClassIdentity Class = "identity"
	ClassHealth   Class = "health"
)

// Classes are all classes, the gravest first.
func Classes() []Class { return []Class{ClassTamper, ClassIdentity, ClassHealth} }

// rank orders classes by gravity; a class that is not known comes last.
func (c Class) rank() int {
	for i, known := range Classes() {
		if c == known {
			return i
		}
	}
	return len(Classes())
}

// Alert is findings, an incident or a health notice on its way to people. Its
// JSON is what alerts/<id>.json holds.
type Alert struct {
	ID      string    `json:"id"` // set by Seal
	Class   Class     `json:"class"`
	Created time.Time `json:"created"`
	Run     string    `json:"run,omitempty"`

	// Log is empty for an alert about the run as a whole.
	Log     tlog.ID   `json:"log,omitempty"`
	Origin  string    `json:"origin,omitempty"`
	LogType tlog.Type `json:"logType,omitempty"`
	// From and To are the slice [From, To) that the alert is about; both 0 if none.
	From uint64 `json:"from"`
	To   uint64 `json:"to"`

	// Findings are the slice's findings that are not expected.
	Findings []watch.Finding `json:"findings,omitempty"`
	Expected int             `json:"expected,omitempty"` // findings that are expected: counted, not listed
	Cut      int             `json:"cut,omitempty"`      // findings that are neither expected nor in Findings
	Pointer  string          `json:"pointer,omitempty"`  // the object that holds all of them

	// Config is the path of the run's configuration, for the commands that a message
	// tells to give.
	Config string `json:"config,omitempty"`

	// Headline, if set, is the title of an alert that holds nothing but notices.
	Headline string    `json:"headline,omitempty"`
	Incident *Incident `json:"incident,omitempty"`
	Health   []Health  `json:"health,omitempty"`
	Notes    []string  `json:"notes,omitempty"` // sentences that are to be said with it
	// About are the IDs of incidents alerted before, of which Notes say what became.
	About []string `json:"about,omitempty"`
}

// Incident is what a tamper alert tells of an incident.
type Incident struct {
	ID    string    `json:"id"`
	Kind  tlog.Kind `json:"kind"`
	Proof bool      `json:"proof"` // else suspicion
	Text  string    `json:"text"`
	// Evidence is the path of the object with everything that was served.
	Evidence string `json:"evidence,omitempty"`
	// Checkpoints are signed notes verbatim, the trusted one first.
	Checkpoints []string `json:"checkpoints,omitempty"`
	// Next are steps and commands: how to check it elsewhere, how to accept it.
	Next []string `json:"next,omitempty"`
}

// HealthState is where a health condition stands.
type HealthState string

// The states of a health condition. A notice is no condition: it is said once, and
// nothing has to end.
const (
	Opened   HealthState = "opened"
	Reminder HealthState = "reminder"
	Closed   HealthState = "closed"
	Notice   HealthState = "notice"
)

// Health is a change of a health condition, its daily reminder, or a notice.
type Health struct {
	Key   string      `json:"key"`
	State HealthState `json:"state"`
	Text  string      `json:"text"`
	Since time.Time   `json:"since"` // when the trouble began
	Next  string      `json:"next,omitempty"`
}

// Seal sets the alert's ID: 32 hex digits of the SHA-256 over class, log, slice
// and content. Created, Run, Config and Origin (a Rekor v1 origin differs by
// replica) do not count, so the same thing alerted by two runs has one ID; reminders count
// their days, so each has its own. Call it last.
//
// Seal also replaces times that JSON cannot carry: a log may claim any.
func (a *Alert) Seal() {
	content := *a
	content.ID, content.Run, content.Config, content.Origin, content.Created = "", "", "", "", time.Time{}
	content.Findings = make([]watch.Finding, len(a.Findings))
	for i := range a.Findings {
		f := &a.Findings[i]
		f.Times = storable(f.Times)
		content.Findings[i] = *f
		content.Findings[i].Origin = ""
	}
	content.Health = make([]Health, len(a.Health))
	for i := range a.Health {
		h := &a.Health[i]
		if !inJSON(h.Since) {
			h.Since = time.Time{}
		}
		content.Health[i] = *h
		if h.State == Reminder {
			day := a.Created.Sub(h.Since) / (24 * time.Hour)
			content.Health[i].State += HealthState(fmt.Sprintf(" %d", day))
		}
	}
	b, err := json.Marshal(content)
	if err != nil {
		// Not reachable: what is left are strings, numbers and times that fit. An ID of
		// what could be said is still better than none.
		b = fmt.Appendf(nil, "%s %s %d %d %v", a.Class, a.Log, a.From, a.To, err)
	}
	sum := sha256.Sum256(b)
	a.ID = hex.EncodeToString(sum[:16])
}

// inJSON reports whether RFC 3339, and so JSON, can carry t.
func inJSON(t time.Time) bool { return t.UTC().Year() >= 1 && t.UTC().Year() <= 9999 }

// storable returns times with those that JSON cannot carry told in words.
func storable(times []watch.Time) []watch.Time {
	var out []watch.Time
	for i, t := range times {
		if inJSON(t.Time) {
			continue
		}
		if out == nil {
			out = append(out, times...)
		}
		out[i].What = fmt.Sprintf("%s (%d seconds since 1970, which is no date)", t.What, t.Time.Unix())
		out[i].Time = time.Time{}
	}
	if out == nil {
		return times
	}
	return out
}

// total is how many findings the alert stands for.
func (a *Alert) total() int { return len(a.Findings) + a.Cut }

// gravity orders alerts: by class, and what is said of tampering later after the
// tampering itself.
func (a *Alert) gravity() int {
	g := 2 * a.Class.rank()
	if a.Class == ClassTamper && a.Incident == nil {
		g++
	}
	return g
}

// name is what to call the alert's log: its origin, of a Rekor v1 tree without the
// tree ID.
func (a *Alert) name() string {
	switch {
	case a.Origin != "":
		host, _, _ := strings.Cut(a.Origin, " - ")
		return host
	case a.Log != "":
		return "log " + string(a.Log)
	default:
		return "whosigned"
	}
}

// Title says in one line what happened to whom. It is safe in headers, terminals
// and HTML that is escaped, and at most 150 characters long.
func (a *Alert) Title() string {
	switch {
	case a.Incident != nil:
		return a.incidentTitle()
	case len(a.Findings) > 0:
		return a.findingsTitle()
	case len(a.Health) > 0:
		return a.healthTitle()
	}
	text := "alert about " + a.name()
	if len(a.Notes) > 0 {
		text = a.Notes[0]
	}
	if a.Class == ClassTamper {
		return a.aftermathTitle(text)
	}
	return safe("whosigned: "+event(text), maxSubject)
}

// aftermathTitle titles what is said about tampering that was alerted before: it
// must not read like another alarm.
func (a *Alert) aftermathTitle(text string) string {
	lead := "About tampering: "
	switch rest, over := strings.CutPrefix(text, "no longer seen: "); {
	case over:
		lead, text = "Tampering over: ", rest
	case strings.HasPrefix(text, "incident ") && strings.Contains(text, " is closed by decision "),
		strings.HasPrefix(text, "a new baseline is taken "):
		lead = "Tampering decided: "
	}
	if !aboutLog.MatchString(text) && len(a.Notes) > 0 {
		lead += safe(a.name(), 60) + ": "
	}
	return safe(lead+event(text), maxSubject)
}

func (a *Alert) incidentTitle() string {
	what := "Suspected tampering: "
	if a.Incident.Proof {
		what = "TAMPERING: "
	}
	return safe(what+safe(a.name(), 60)+": "+shortHashes(a.Incident.Text), maxSubject)
}

// event is a sentence of ours as a title has room for it: of the log that it is
// about only the name is left, and hashes are cut, so that what happened stands in
// the line. The whole sentence is in the message.
func event(s string) string {
	if m := aboutLog.FindStringSubmatch(s); m != nil {
		about := Alert{Origin: m[1]}
		s = safe(about.name(), 60) + ": " + s[len(m[0]):]
	}
	return shortHashes(single.ReplaceAllStringFunc(s, func(n string) string {
		return strings.NewReplacer("entries", "entry", "leaves", "leaf").Replace(n)
	}))
}

var (
	// aboutLog is how sentences about a log begin: its origin, and its ID in brackets.
	aboutLog = regexp.MustCompile(`(?s)^(.+?) \((?:log )?[0-9a-f]{8,}(?:-[0-9]+)?…?\): `)
	single   = regexp.MustCompile(`(?:^|\s)1 (?:entries|leaves)\b`)
)

// shortHashes cuts hashes and log IDs to what people compare by eye.
func shortHashes(s string) string {
	return longHex.ReplaceAllStringFunc(s, func(hash string) string { return hash[:8] + "…" })
}

var longHex = regexp.MustCompile(`[0-9a-fA-F]{32,}`)

func (a *Alert) findingsTitle() string {
	// Names of attackers' choosing are kept short enough that the figures and the log
	// still stand in the line.
	first := a.Findings[0]
	who := safe(first.Subject, 56)
	if first.Subject == "" {
		who = safe("key "+first.Fingerprint, 56)
	}
	others, untrusted, unproven := map[string]bool{}, true, true
	for _, f := range a.Findings {
		if f.Subject != first.Subject || f.Subject == "" && f.Fingerprint != first.Fingerprint {
			others[cmp.Or(f.Subject, f.Fingerprint)] = true
		}
		untrusted = untrusted && f.Trusted == watch.Untrusted
		unproven = unproven && f.Unproven
	}
	title := "Signed as " + who
	switch by := workflow(first); {
	case len(others) > 0:
		title += fmt.Sprintf(" and %d more", len(others))
	case by != "" && by != first.Subject && !untrusted: // what an untrusted chain says of itself is no news
		title += " by " + safe(by, 50)
	}
	if untrusted {
		title += ", untrusted chain"
	}
	if unproven {
		title += " (unproven)"
	}
	return safe(fmt.Sprintf("%s: %s in %s", title, count(a.entries(), "entry", "entries"), safe(a.name(), 36)), maxSubject)
}

// workflow is what signed, as Fulcio puts it: the CI workflow's URI.
func workflow(f watch.Finding) string {
	return extension(&f, "build-signer-uri")
}

// healthTitle names trouble before notices: those can wait.
func (a *Alert) healthTitle() string {
	var opened, lasting, over, notices int
	first := a.Health[0]
	for _, h := range a.Health {
		if first.State == Notice && h.State != Notice {
			first = h
		}
		switch h.State {
		case Notice:
			notices++
		case Closed:
			over++
		case Reminder:
			lasting++
		default:
			opened++
		}
	}
	text := event(first.Text)
	lead := map[HealthState]string{Reminder: "still: ", Closed: "over: "}[first.State]
	switch {
	case notices == len(a.Health) && a.Headline != "":
		return safe("whosigned: "+a.Headline, maxSubject)
	case notices == len(a.Health) && notices == 1:
		return safe("whosigned: notice: "+text, maxSubject)
	case notices == len(a.Health):
		return safe(fmt.Sprintf("whosigned: %d notices, first: %s", notices, text), maxSubject)
	case len(a.Health) == 1:
		return safe("whosigned health: "+lead+text, maxSubject)
	}
	var parts []string
	for _, n := range []struct {
		n    int
		what string
	}{{opened, "new"}, {lasting, "lasting"}, {over, "over"}} {
		if n.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n.n, n.what))
		}
	}
	if notices > 0 {
		parts = append(parts, count(notices, "notice", "notices"))
	}
	return safe(fmt.Sprintf("whosigned health: %s: %s%s", strings.Join(parts, ", "), lead, text), maxSubject)
}

// count writes a number with its noun.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
