package monitor

import (
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/watch"
)

// Events are what a run tells its Logger of findings, incidents, changes of health
// and logs: one record each, with the attributes "event", "run" and, named as the
// event, the value. They are told before the commit that makes them count, so that after a crash
// one may be told twice, but none is lost.
func (r *run) event(level slog.Level, name string, value any, format string, args ...any) {
	r.Logger.LogAttrs(r.last, level, fmt.Sprintf(format, args...), slog.String("event", name), slog.String("run", r.id), slog.Any(name, value))
}

// LevelCritical is the level of incidents: above slog.LevelError.
const LevelCritical = slog.LevelError + 4

func (w *logRun) sayFindings(findings []watch.Finding) {
	if w.deliver == nil {
		return // a look prints what it finds
	}
	for _, f := range findings {
		level, text := slog.LevelWarn, "signed as %s: rule %q, index %d of %s"
		if f.Expected {
			level, text = slog.LevelInfo, "expected: "+text
		}
		w.event(level, "finding", f, text, f.Subject, f.Rule, f.Index, f.Origin)
	}
}

func (w *logRun) sayIncident(i IncidentResult) {
	w.event(LevelCritical, "incident", i, "%s", w.say("%s", i.Text))
}

func (r *run) sayEach(health []report.Health) {
	for _, h := range health {
		level := slog.LevelWarn
		if h.State == report.Closed || h.State == report.Notice {
			level = slog.LevelInfo
		}
		r.event(level, "health", h, "%s: %s", h.State, h.Text)
	}
}

func (w *logRun) sayLog() {
	level := slog.LevelInfo
	if w.result.Error != "" {
		level = slog.LevelWarn
	}
	w.event(level, "log", w.result, "%s", w.say("%s, size %d, scanned %d", w.result.Status, w.result.Size, w.result.Scanned))
}

// fallAfter and fallRuns say when a log counts as falling behind: it lags by more
// than fallAfter, and by more in each of the last fallRuns runs than in the one before.
const (
	fallAfter = 24 * time.Hour
	fallRuns  = 6
)

// lags adds a run's lag to those of the runs before.
func lags(before []int64, lag time.Duration) []int64 {
	all := append(slices.Clone(before), int64(lag/time.Second))
	return all[max(0, len(all)-fallRuns-1):]
}

// grew says whether the lag grew in each of the last fallRuns runs.
func grew(lags []int64) bool {
	for i := range len(lags) - 1 {
		if lags[i+1] <= lags[i] {
			return false
		}
	}
	return len(lags) > fallRuns
}

// copyEvidence copies incidents to where nobody can delete them.
func (r *run) copyEvidence() {
	if r.Evidence == nil {
		return
	}
	ctx, cancel := r.keep()
	defer cancel()
	if err := r.State.CopyIncidents(ctx, r.Evidence); err != nil {
		r.failf("copying incidents to the evidence bucket: %v; they are in the state, and the next run copies what is missing", err)
	}
}
