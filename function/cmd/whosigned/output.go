package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/watch"
)

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	// Log content stays readable; < and > are no danger outside HTML.
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// printer writes lines whose every argument is made safe for a terminal.
type printer struct{ w io.Writer }

func (p printer) line(format string, args ...any) {
	for i, a := range args {
		switch v := a.(type) {
		case string:
			args[i] = report.Safe(v)
		case error:
			args[i] = report.Safe(v.Error())
		case fmt.Stringer:
			args[i] = report.Safe(v.String())
		}
	}
	fmt.Fprintf(p.w, format+"\n", args...)
}

// maxErrorLine is room for an error's whole line: what to do next stands at its end.
const maxErrorLine = 4000

// safeLines makes text that has lines safe for a terminal.
func safeLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = report.SafeUpTo(lines[i], maxErrorLine)
	}
	return strings.Join(lines, "\n")
}

// meaning is what an exit status says, in short; --help has it in full.
var meaning = map[int]string{
	monitor.ExitClean: "clean", monitor.ExitFailed: "the job was not done", monitor.ExitFindings: "unexpected findings",
	monitor.ExitTamper: "tampering",
}

// maxShown is how many findings are printed; --json has more, findings/ all.
const maxShown = 50

// printResult tells a result to people.
func printResult(w io.Writer, r *monitor.Result) {
	p := printer{w}
	if r.Trust != "" && r.Trust != monitor.TrustOK {
		goesOn := ""
		if len(r.Logs) > 0 {
			goesOn = ": the last verified keys are used"
		}
		p.line("trust     %s%s", r.Trust, goesOn)
	}
	for _, l := range r.Logs {
		name := l.Origin
		if name == "" {
			name = l.URL
		}
		p.line("%-8s  %s", string(l.Status), name)
		if l.ID != "" {
			p.line("          %s · %s", string(l.Type), read(&l))
			p.line("          id %s", string(l.ID))
		}
		if l.Lag > 0 || l.FallingBehind {
			p.line("          %s", behind(&l))
		}
		if l.Error != "" {
			p.line("          error: %s", l.Error)
		}
		for _, n := range l.Notes {
			p.line("          note: %s", strings.TrimPrefix(n, fmt.Sprintf("%s (%s): ", l.Origin, l.ID)))
		}
	}
	p.findings(r)
	for _, i := range r.Incidents {
		p.incident(i)
	}
	for _, n := range r.Notices {
		p.line("notice: %s", n)
	}
	for _, c := range r.Health {
		if !c.Said {
			continue // most trouble passes by itself, and the log's own line tells of it
		}
		p.line("health: %s (since %s)", c.Text, c.Since.Format(minutes))
	}
	for sink, text := range r.Alerts.Failed {
		p.line("sink %s failed: %s", sink, text)
	}
	for _, e := range r.Errors {
		p.line("error: %s", e)
	}
	if r.FailingSince != nil && r.FailingSince.Before(r.Started) {
		overdue := ""
		if r.Overdue {
			overdue = ", longer than the configuration's patience"
		}
		p.line("runs do not do their job since %s%s", r.FailingSince.Format(minutes), overdue)
	}
	if r.Alerts.Oldest != nil && r.Alerts.Oldest.Before(r.Started) {
		p.line("an alert is undelivered since %s", r.Alerts.Oldest.Format(minutes))
	}
	p.line("\nalerts: %d delivered, %d pending · %d requests, %.1f MB · exit %d (%s)", r.Alerts.Delivered, r.Alerts.Pending, r.Requests, float64(r.Bytes)/1e6, r.Exit, meaning[r.Exit])
}

// minutes is the form of a time for people.
const minutes = "2006-01-02 15:04 MST"

func (p printer) incident(i monitor.IncidentResult) {
	kind := "suspicion"
	if i.Proof {
		kind = "PROOF"
	}
	p.line("\nTAMPERING (%s), incident %s of log %s", kind, i.ID, string(i.Log))
	p.line("  %s", i.Text)
	if i.Ended != nil {
		p.line("  no longer seen since %s; on file until accepted", i.Ended.Format(minutes))
	}
	if i.Evidence != "" {
		p.line("  evidence: %s", i.Evidence)
	}
}

// read says how far a log was read, and what was found.
func read(l *monitor.LogResult) string {
	if l.Coverage == config.Consistency {
		return fmt.Sprintf("size %d · history only (coverage: consistency)", l.Size)
	}
	found := "nothing found"
	if l.Findings > 0 {
		found = fmt.Sprintf("%d found, %d of them expected", l.Findings, l.Expected)
	}
	if l.Coverage == config.Index {
		return fmt.Sprintf("size %d · by its search index, best effort · %d new · %s", l.Size, l.Entries, found)
	}
	return fmt.Sprintf("size %d · read up to %d · %d new · %s", l.Size, l.Scanned, l.Entries, found)
}

// behind says how much of a log is still to be read, and for how long it has been.
func behind(l *monitor.LogResult) string {
	text := fmt.Sprintf("%d unread, the oldest for %s", l.Size-min(l.Scanned, l.Size), age(time.Duration(l.Lag)*time.Second))
	if l.FallingBehind {
		text += "; FALLING BEHIND: more comes in than is read"
	}
	return text
}

func (p printer) findings(r *monitor.Result) {
	expected, shown, hidden := 0, 0, r.FindingsCut
	for _, f := range r.Findings {
		switch {
		case f.Expected:
			expected++
		case shown == maxShown:
			hidden++
		default:
			shown++
			p.finding(f)
		}
	}
	if hidden > 0 {
		p.line("\n… and %d more findings: see --json, and findings/ in the state", hidden)
	}
	if expected > 0 {
		p.line("\n%d expected findings are not shown", expected)
	}
}

func (p printer) finding(f watch.Finding) {
	// A precertificate has no fingerprint but its key's.
	signer := strings.TrimSpace(f.SignerType + " " + f.Fingerprint)
	if f.Fingerprint == "" && f.KeyFingerprint != "" {
		signer = f.SignerType + " key " + f.KeyFingerprint
	}
	who := f.Subject
	switch {
	case who != "":
	case f.SignerType == "":
		who = "nobody that the entry names"
	default:
		who = f.SignerType + " key " + cmp.Or(f.Fingerprint, f.KeyFingerprint)
	}
	labels := ""
	if f.Unproven {
		labels = " (unproven)"
	}
	if f.BestEffort {
		labels += " (by the search index, best effort)"
	}
	p.line("\nFOUND%s: rule %s: signed as %s", labels, f.Rule, who)
	p.line("  %s %s at index %d of %s", f.Kind, f.Version, f.Index, f.Origin)
	if f.Issuer != "" {
		p.line("  issuer %s · chain trusted: %s", f.Issuer, string(f.Trusted))
	}
	for _, e := range f.Extensions {
		if e.Name == "build-signer-uri" {
			p.line("  workflow %s", e.Value)
		}
	}
	if signer != "" {
		p.line("  %s", signer)
	}
	if len(f.Digests) > 0 {
		p.line("  artifact %s", strings.Join(f.Digests, " "))
	}
	for _, t := range f.Times {
		p.line("  %s %s (vouched for by %s)", t.What, t.Time.UTC().Format("2006-01-02 15:04:05 MST"), t.Vouched)
	}
	if f.Link != "" {
		p.line("  %s", f.Link)
	}
}

func printChecked(w io.Writer, c *monitor.Checked) {
	p := printer{w}
	p.line("configuration  %s", c.Config)
	stored, sinks := c.State, strings.Join(c.Sinks, ", ")
	if c.Scan != nil {
		p.line("SCAN           of entries %s, for startIndex or endIndex is set: each run looks at these alone", *c.Scan)
		stored = "none is kept by a scan" + notUsed(stored)
		sinks = "nobody is alerted by a scan" + notUsed(sinks)
	}
	p.line("state          %s", stored)
	if c.Trust != "" {
		p.line("trust          %s", c.Trust)
	}
	if c.TrustError != "" {
		p.line("  error        %s", c.TrustError)
	}
	for _, text := range c.Problems {
		p.line("PROBLEM        %s", text)
	}
	for _, l := range c.Logs {
		name := l.Origin
		if name == "" {
			name = l.URL
		}
		p.line("\nlog            %s (%s, coverage %s)", name, string(l.Type), string(l.Coverage))
		if l.ID != "" {
			p.line("  id           %s", string(l.ID))
		}
		if l.Discovered {
			p.line("  found in     the trusted root%s", map[bool]string{true: ", which says that it takes no more entries"}[l.Retired])
		}
		if l.Error != "" {
			p.line("  error        %s", l.Error)
			continue
		}
		switch {
		case c.Scan != nil && l.From == l.To:
			p.line("  size         %d; none of its entries are among those of the SCAN", l.Size)
		case c.Scan != nil:
			p.line("  size         %d; SCAN of entries [%d, %d)", l.Size, l.From, l.To)
		case l.Coverage == config.Consistency:
			p.line("  size         %d; its history is proven, no entry is read", l.Size)
		case l.Coverage == config.Index:
			p.line("  size         %d; its history is proven, and its search index is asked (best effort)", l.Size)
		case l.Imported != "":
			p.line("  size         %d; reading would go on at index %d, from the checkpoint in %s", l.Size, l.From, l.Imported)
		case l.Known:
			p.line("  size         %d; reading goes on at index %d", l.Size, l.From)
		default:
			p.line("  size         %d; reading would begin at index %d", l.Size, l.From)
		}
		if i := l.Index; i != nil {
			p.line("  index        is asked for %d values; for %s it lists %d entries of this log", i.Values, i.Asked, i.Listed)
			if i.Warning != "" {
				p.line("  warning      %s", i.Warning)
			}
		}
		if l.Plan != nil {
			p.line("  cost         %s", *l.Plan)
		}
		if l.Refused != "" {
			p.line("  REFUSED      %s", l.Refused)
		}
	}
	p.line("")
	for _, r := range c.Rules {
		p.line("rule           %s", r)
	}
	p.line("sinks          %s", sinks)
	p.line("CAs            %d", c.CAs)
	// The configuration's own were printed when it was read.
	for _, text := range c.Warnings[c.Configured:] {
		p.line("warning        %s", text)
	}
}

// notUsed names what is configured for monitoring, and idle in a scan.
func notUsed(configured string) string {
	if configured == "" {
		return ""
	}
	return "; not used: " + configured
}

// printStatus tells a status to people.
func printStatus(w io.Writer, s *status) error {
	p := printer{w}
	switch {
	case s.Healthy:
		p.line("healthy")
	case s.Exit == monitor.ExitTamper:
		p.line("NOT HEALTHY: tampering")
	default:
		p.line("NOT HEALTHY")
	}
	for _, b := range s.Problems {
		p.line("\nproblem       %s", b.What)
		p.line("  next        %s", b.Next)
	}
	p.line("")
	p.deployment(s)
	p.row("configuration", s.Config)
	p.line("%-13s %s", "state", s.State)
	p.row("version", s.Version)
	p.runs(s)
	for _, n := range s.Notes {
		p.line("%-13s %s", "note", n)
	}
	if err := p.logs(s); err != nil {
		return err
	}
	for _, i := range s.Incidents {
		p.incident(i)
	}
	for _, c := range s.Health {
		said := "not alerted yet: it has not lasted"
		if c.Said {
			said = "alerted"
		}
		p.line("\nhealth        %s (for %s; %s)", c.Text, s.ago(c.Since), said)
	}
	for _, u := range s.Undelivered {
		p.line("\nundelivered   %s alert %s for %s, waiting for %s", u.Class, u.Alert, s.ago(u.Since), strings.Join(u.Sinks, ", "))
		for _, sink := range slices.Sorted(maps.Keys(u.Refused)) {
			p.line("  %s: %s", sink, u.Refused[sink])
		}
	}
	return nil
}

// row is a line of a table, if there is something to say.
func (p printer) row(name, value string) {
	if value != "" {
		p.line("%-13s %s", name, value)
	}
}

func (p printer) deployment(s *status) {
	if d := s.Deployment; d != nil {
		p.line("%-13s %s in %s of %s: %s", "function", d.Name, d.Region, d.Project, d.State)
		p.row("runtime", d.Runtime)
		p.row("revision", d.Revision)
		if d.Updated != nil {
			p.line("%-13s %s (%s ago)", "updated", d.Updated.UTC().Format(minutes), s.ago(*d.Updated))
		}
		p.row("source", d.Source)
		p.row("service", d.URL)
	}
	if j := s.Job; j != nil {
		p.line("%-13s %s (%s), job %s", "schedule", j.Schedule, j.TimeZone, j.State)
		attempt := "none yet"
		if j.LastAttempt != "" {
			attempt = j.LastAttempt + ": " + j.outcome()
		}
		p.row("last attempt", attempt)
		p.row("next attempt", j.Next)
	}
}

func (p printer) runs(s *status) {
	if s.Running != nil {
		p.line("%-13s run %s; its lease ends in %s", "at work", s.Running.Run, age(s.Running.Expires.Sub(s.At)))
	}
	if s.LastRun != nil {
		p.line("%-13s %s (%s ago): exit %d (%s)", "last run", s.LastRun.Started.UTC().Format(minutes), s.ago(s.LastRun.Started), s.LastRun.Exit, meaning[s.LastRun.Exit])
	}
	if s.LastGoodRun != nil {
		p.line("%-13s %s (%s ago)", "last good", s.LastGoodRun.UTC().Format(minutes), s.ago(*s.LastGoodRun))
	} else {
		p.row("last good", "none yet")
	}
}

// logs is a table of how each log stands.
func (p printer) logs(s *status) error {
	if len(s.Logs) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', 0)
	row := printer{t}
	row.line("\nLOG\tSTATUS\tSIZE\tSCANNED\tUNREAD\tLAG\tREAD IN ALL")
	for _, l := range s.Logs {
		name, lag, scanned := cmp.Or(l.Origin, l.URL), "-", fmt.Sprint(l.Scanned)
		if l.Unread > 0 {
			lag = age(time.Duration(l.Lag) * time.Second)
		}
		switch l.Coverage {
		case string(config.Consistency):
			scanned = "history only"
		case string(config.Index):
			scanned = "index"
		}
		row.line("%s\t%s\t%d\t%s\t%d\t%s\t%d", name, string(l.Status), l.Size, scanned, l.Unread, lag, l.Entries)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, l := range s.Logs {
		if l.Error != "" {
			p.line("  %s: %s", cmp.Or(l.Origin, l.URL), l.Error)
		}
	}
	return nil
}
