package function

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/whosigned/whosigned/pkg/monitor"
)

// runLine is the line of an invocation. Metrics and alerts live on it.
type runLine struct {
	Run           string      `json:"run,omitempty"`
	Version       string      `json:"version"`
	Trigger       string      `json:"trigger"`
	Outcome       kind        `json:"outcome"`
	Failed        bool        `json:"failed"`
	Overdue       bool        `json:"overdue"`
	Tamper        bool        `json:"tamper"`
	FallingBehind bool        `json:"falling_behind"`
	Undelivered   bool        `json:"undelivered"`
	Duration      float64     `json:"duration_seconds"`
	Memory        uint64      `json:"memory_bytes"`
	Entries       uint64      `json:"entries"`
	Findings      int         `json:"findings"`
	Expected      int         `json:"expected"`
	Incidents     int         `json:"incidents"`
	Trust         string      `json:"trust,omitempty"`
	Delivered     int         `json:"delivered"`
	Pending       int         `json:"pending"`
	Requests      uint64      `json:"requests"`
	Bytes         uint64      `json:"bytes"`
	Logs          []logStatus `json:"logs"`
	Errors        []string    `json:"errors"`
	Cut           bool        `json:"cut,omitempty"`
}

// logStatus is a log in the line of a run.
type logStatus struct {
	ID      string         `json:"id"`
	Origin  string         `json:"origin"`
	Status  monitor.Status `json:"status"`
	Size    uint64         `json:"size"`
	Scanned uint64         `json:"scanned"`
	Lag     int64          `json:"lag_seconds"`
	Error   string         `json:"error,omitempty"`
}

// logLine is the line of a log.
type logLine struct {
	logStatus
	Type          string `json:"type"`
	FallingBehind bool   `json:"falling_behind"`
	Entries       uint64 `json:"entries"`
	Findings      int    `json:"findings"`
}

func statusOf(l monitor.LogResult) logStatus {
	return logStatus{ID: string(l.ID), Origin: cmp.Or(l.Origin, l.URL), Status: l.Status, Size: l.Size, Scanned: l.Scanned, Lag: l.Lag, Error: l.Error}
}

func lineOf(l monitor.LogResult) logLine {
	return logLine{logStatus: statusOf(l), Type: string(l.Type), FallingBehind: l.FallingBehind, Entries: l.Entries, Findings: l.Findings}
}

// lateAfter is how long an alert waits for a sink before it counts as undelivered.
const lateAfter = 3 * time.Hour

// say writes the line of an invocation, once.
func (in *invocation) say(o outcome) { in.said.Do(func() { in.write(o) }) }

// late writes the line of an invocation that nobody waits for any more.
func (in *invocation) late(why error) {
	in.say(outcome{kind: failed, err: fmt.Errorf("%w, and the run had not ended by then; its lease expires by itself, and the next run goes on from what was committed", why)})
}

func (in *invocation) write(o outcome) {
	l := runLine{
		Version: in.version, Trigger: in.trigger, Outcome: o.kind, Failed: o.err != nil && o.kind != busy,
		// Without a result nobody knows since when: that counts as too long.
		Overdue:  o.err != nil && o.kind != busy,
		Duration: time.Since(in.started).Seconds(), Memory: memoryUsed(), Logs: []logStatus{}, Errors: []string{},
	}
	if o.err != nil {
		l.Errors = append(l.Errors, o.err.Error())
	}
	text := fmt.Sprintf("run: %s", o.kind)
	if o.res != nil {
		l.take(o.res)
		text = fmt.Sprintf("run: %s; %d logs, %d new entries, %d findings (%d expected), %d alerts delivered, %d pending",
			o.kind, len(l.Logs), l.Entries, l.Findings, l.Expected, l.Delivered, l.Pending)
	}
	l.fit(maxRunLine - envelope)
	in.logger.LogAttrs(context.Background(), o.level(), text, slog.String("event", "run"), slog.Any("run", l))
	if o.stack != nil {
		in.logger.Error("the stack of the panic", "stack", clip(string(o.stack), maxRunLine))
	}
}

func (o outcome) level() slog.Level {
	switch o.kind {
	case tamper:
		return monitor.LevelCritical
	case invalid, unusable, failed:
		return slog.LevelError
	case findings:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// take adds what a result says.
func (l *runLine) take(r *monitor.Result) {
	l.Run, l.Failed, l.Overdue, l.Tamper = r.Run, l.Failed || r.Failed, r.Overdue, len(r.Incidents) > 0
	l.Incidents, l.Delivered, l.Pending = len(r.Incidents), r.Alerts.Delivered, r.Alerts.Pending
	l.Undelivered = r.Alerts.Oldest != nil && r.Finished.Sub(*r.Alerts.Oldest) >= lateAfter
	l.Requests, l.Bytes, l.Trust = r.Requests, r.Bytes, r.Trust
	for _, log := range r.Logs {
		l.FallingBehind = l.FallingBehind || log.FallingBehind
		l.Entries += log.Entries
		l.Findings += log.Findings
		l.Expected += log.Expected
		l.Logs = append(l.Logs, statusOf(log))
	}
	for _, text := range r.Errors {
		if !slices.ContainsFunc(l.Errors, func(said string) bool { return strings.Contains(text, said) }) {
			l.Errors = append(l.Errors, text)
		}
	}
}

// envelope is room for what every line has beside its event's fields: time, severity,
// message, labels and trace.
const envelope = 1 << 10

// fit leaves out what does not fit, the least needed first: the ends of long texts,
// the logs' errors, which are in their own lines, then whole logs, those in trouble last.
func (l *runLine) fit(limit int) {
	fits := func() bool { return len(encode(l)) <= limit }
	if fits() {
		return
	}
	l.Cut = true
	l.Errors = l.Errors[:min(len(l.Errors), 5)]
	for i := range l.Errors {
		l.Errors[i] = clip(l.Errors[i], 300)
	}
	for i := range l.Logs {
		l.Logs[i].ID, l.Logs[i].Origin = clip(l.Logs[i].ID, 100), clip(l.Logs[i].Origin, 100)
		l.Logs[i].Error = clip(l.Logs[i].Error, 100)
	}
	if fits() {
		return
	}
	slices.SortStableFunc(l.Logs, func(a, b logStatus) int { return cmp.Compare(rank(a), rank(b)) })
	for i := range l.Logs {
		l.Logs[i].Error = ""
	}
	for !fits() && len(l.Logs) > 0 {
		l.Logs = l.Logs[:len(l.Logs)*9/10]
	}
}

// rank orders logs by how much they need to be looked at.
func rank(l logStatus) int {
	switch {
	case l.Status == monitor.StatusTamper:
		return 0
	case l.Error != "" || l.Status == monitor.StatusError:
		return 1
	case l.Lag > 0:
		return 2
	}
	return 3
}
