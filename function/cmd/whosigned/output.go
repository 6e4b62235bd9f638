package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

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

// safeLines makes text that has lines safe for a terminal.
func safeLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = report.Safe(lines[i])
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
		if l.Error != "" {
			p.line("          error: %s", l.Error)
		}
		for _, n := range l.Notes {
			p.line("          note: %s", strings.TrimPrefix(n, fmt.Sprintf("%s (%s): ", l.Origin, l.ID)))
		}
	}
	p.findings(r)
	for _, i := range r.Incidents {
		kind := "suspicion"
		if i.Proof {
			kind = "PROOF"
		}
		p.line("\nTAMPERING (%s), incident %s of log %s", kind, i.ID, string(i.Log))
		p.line("  %s", i.Text)
		if i.Ended != nil {
			p.line("  no longer seen since %s; on file until accepted", i.Ended.Format("2006-01-02 15:04 MST"))
		}
		if i.Evidence != "" {
			p.line("  evidence: %s", i.Evidence)
		}
	}
	for _, n := range r.Notices {
		p.line("notice: %s", n)
	}
	for _, c := range r.Health {
		if !c.Said {
			continue // most trouble passes by itself, and the log's own line tells of it
		}
		p.line("health: %s (since %s)", c.Text, c.Since.Format("2006-01-02 15:04 MST"))
	}
	for sink, text := range r.Alerts.Failed {
		p.line("sink %s failed: %s", sink, text)
	}
	for _, e := range r.Errors {
		p.line("error: %s", e)
	}
	p.line("\nalerts: %d delivered, %d pending · %d requests, %.1f MB · exit %d (%s)", r.Alerts.Delivered, r.Alerts.Pending, r.Requests, float64(r.Bytes)/1e6, r.Exit, meaning[r.Exit])
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
	return fmt.Sprintf("size %d · read up to %d · %d new · %s", l.Size, l.Scanned, l.Entries, found)
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
	who := f.Subject
	if who == "" {
		who = f.SignerType + " key " + f.Fingerprint
	}
	unproven := ""
	if f.Unproven {
		unproven = " (unproven)"
	}
	p.line("\nFOUND%s: rule %s: signed as %s", unproven, f.Rule, who)
	p.line("  %s %s at index %d of %s", f.Kind, f.Version, f.Index, f.Origin)
	if f.Issuer != "" {
		p.line("  issuer %s · chain trusted: %s", f.Issuer, string(f.Trusted))
	}
	for _, e := range f.Extensions {
		if e.Name == "build-signer-uri" {
			p.line("  workflow %s", e.Value)
		}
	}
	p.line("  %s %s", f.SignerType, f.Fingerprint)
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
	for _, l := range c.Logs {
		name := l.Origin
		if name == "" {
			name = l.URL
		}
		p.line("\nlog            %s (%s, coverage %s)", name, string(l.Type), string(l.Coverage))
		if l.ID != "" {
			p.line("  id           %s", string(l.ID))
		}
		if l.Error != "" {
			p.line("  error        %s", l.Error)
			continue
		}
		switch {
		case c.Scan != nil:
			p.line("  size         %d; SCAN of entries [%d, %d)", l.Size, l.From, l.To)
		case l.Known:
			p.line("  size         %d; reading goes on at index %d", l.Size, l.From)
		default:
			p.line("  size         %d; reading would begin at index %d", l.Size, l.From)
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
}

// notUsed names what is configured for monitoring, and idle in a scan.
func notUsed(configured string) string {
	if configured == "" {
		return ""
	}
	return "; not used: " + configured
}
