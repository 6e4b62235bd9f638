package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/tlog"
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
		p.line("          %s · size %d · read up to %d · %d entries in this run · %d findings, %d of them expected",
			string(l.Type), l.Size, l.Scanned, l.Entries, l.Findings, l.Expected)
		if l.ID != "" {
			p.line("          log %s · coverage %s", string(l.ID), string(l.Coverage))
		}
		if l.Error != "" {
			p.line("          error: %s", l.Error)
		}
		for _, n := range l.Notes {
			p.line("          note: %s", n)
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
	for _, c := range r.Health {
		p.line("health: %s (since %s)", c.Text, c.Since.Format("2006-01-02 15:04 MST"))
	}
	for sink, text := range r.Alerts.Failed {
		p.line("sink %s failed: %s", sink, text)
	}
	for _, e := range r.Errors {
		p.line("error: %s", e)
	}
	p.line("\nalerts: %d delivered, %d pending · %d requests, %.1f MB · exit %d", r.Alerts.Delivered, r.Alerts.Pending, r.Requests, float64(r.Bytes)/1e6, r.Exit)
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
	p.line("state          %s", c.State)
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
		from := fmt.Sprintf("would begin at index %d", l.From)
		if l.Known {
			from = fmt.Sprintf("goes on at index %d", l.From)
		}
		p.line("  size         %d; reading %s", l.Size, from)
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
	p.line("sinks          %s", strings.Join(c.Sinks, ", "))
	p.line("CAs            %d", c.CAs)
}

// progress draws a bar for each log that takes a while, on a terminal only.
type progress struct {
	mu   sync.Mutex
	bars *mpb.Progress
	logs map[tlog.ID]*mpb.Bar
}

func newProgress(w io.Writer) *progress {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return &progress{}
	}
	return &progress{bars: mpb.New(mpb.WithOutput(f), mpb.WithWidth(60)), logs: make(map[tlog.ID]*mpb.Bar)}
}

// barFrom is how many entries a scan must have for a bar.
const barFrom = 2000

func (p *progress) update(log tlog.Info, scanned, size uint64) {
	if p.bars == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	bar, ok := p.logs[log.ID]
	if !ok {
		if size-min(scanned, size) < barFrom {
			return
		}
		bar = p.bars.AddBar(int64(size),
			mpb.PrependDecorators(decor.Name(report.Safe(log.Origin)+" ", decor.WCSyncSpaceR), decor.CountersNoUnit("%d / %d", decor.WCSyncSpace)),
			mpb.AppendDecorators(decor.AverageSpeed(0, "%.0f entries/s"), decor.OnComplete(decor.AverageETA(decor.ET_STYLE_GO, decor.WCSyncSpace), "")))
		// The average is over this run's entries.
		bar.SetRefill(int64(scanned))
		p.logs[log.ID] = bar
	}
	bar.SetTotal(int64(size), false)
	bar.SetCurrent(int64(scanned))
}

func (p *progress) finish() {
	if p.bars == nil {
		return
	}
	p.mu.Lock()
	for _, bar := range p.logs {
		bar.Abort(false)
	}
	p.mu.Unlock()
	p.bars.Wait()
}
