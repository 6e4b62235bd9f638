package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/whosigned/whosigned/pkg/state"
)

// schedule is after how long without a run one is missing: the largest gap between
// two, a run's own time, and time for the second attempt.
func schedule(every time.Duration, d *deployment) time.Duration {
	timeout := 30 * time.Minute
	if d != nil {
		if given, err := time.ParseDuration(d.env["WHOSIGNED_EVERY"]); err == nil && every == 0 {
			every = given
		}
		if given, err := time.ParseDuration(d.env["WHOSIGNED_TIMEOUT"]); err == nil && given > 0 {
			timeout = given
		}
	}
	if every <= 0 {
		every = time.Hour
	}
	return every + timeout + 10*time.Minute
}

// judge says what is wrong, worst first.
func (s *status) judge(p *place, doc *state.Run, allowed time.Duration) {
	before := s.Problems
	s.Problems = []problem{} // and not null in JSON
	config := shellWord(s.Config)
	if s.Config == "" || strings.HasPrefix(s.Config, inline) {
		config = "FILE"
	}
	if strings.HasPrefix(s.State, "gs://") {
		config += " --state " + shellWord(s.State)
	}
	for _, i := range s.Incidents {
		s.problem(fmt.Sprintf("TAMPERING: incident %s of log %s is open for %s", i.ID, i.Log, s.ago(i.Opened)),
			"look at the evidence, then decide: whosigned accept --config "+config+" --log "+shellWord(string(i.Log))+" --incident "+shellWord(i.ID)+" --reason TEXT")
	}
	s.Problems = append(s.Problems, before...)
	s.judgeRuns(p, doc, allowed)
	for _, l := range s.Logs {
		if l.FallingBehind {
			s.problem(fmt.Sprintf("log %s is falling behind: %d entries are unread, the oldest for %s", cmp.Or(l.Origin, l.URL), l.Unread, age(time.Duration(l.Lag)*time.Second)),
				"run more often or longer, read it with coverage: consistency, or skip with whosigned accept --skip-to")
		}
	}
	for _, c := range s.Health {
		if c.Said && !strings.Contains(s.why(), c.Text) {
			s.problem(fmt.Sprintf("for %s: %s", s.ago(c.Since), c.Text), "the alert about it says what to do; the next run closes it once it is over")
		}
	}
	s.judgeAlerts()
}

func (s *status) judgeRuns(p *place, doc *state.Run, allowed time.Duration) {
	logs := "see what it said where it runs"
	if p.inCloud() {
		logs = "see what it said: " + p.logsCommand()
	}
	if s.Running != nil && s.At.After(s.Running.Expires) {
		s.problem(fmt.Sprintf("run %s never ended: its lease ran out %s ago", s.Running.Run, s.ago(s.Running.Expires)),
			"it was killed, or out of memory; proven progress is kept and the next run goes on from there; "+logs)
		s.Running = nil
	}
	paused := s.Job != nil && s.Job.State == jobPaused // is said already
	// A run at work may just be the one; a lease may also be of one that was killed.
	if last := cmp.Or(doc.LastRun, doc.FirstRun); !paused && (s.At.Sub(last) > 2*allowed || s.Running == nil && s.At.Sub(last) > allowed) {
		s.problem(fmt.Sprintf("no run has ended for %s, and the schedule allows %s", s.ago(last), age(allowed)), missing(p)+"; to make one: "+p.runCommand())
	}
	if s.FailingSince != nil {
		s.problem("runs do not do their job for "+s.ago(*s.FailingSince)+": "+s.why(), logs)
	}
}

// why is what the last run said of its failure.
func (s *status) why() string {
	var why []string
	if s.LastRun != nil {
		why = append(why, s.LastRun.Errors...)
	}
	for _, l := range s.Logs {
		if l.Error != "" {
			why = append(why, "log "+cmp.Or(l.Origin, l.URL)+": "+l.Error)
		}
	}
	if len(why) == 0 && len(s.Undelivered) > 0 {
		why = append(why, "an alert that no sink took")
	}
	return strings.Join(why, "; ")
}

func missing(p *place) string {
	if p.inCloud() {
		return "see why Scheduler's calls fail: " + p.jobCommand("describe")
	}
	return "see why its scheduler does not start it (with another schedule than hourly, say so with --every)"
}

// judgeAlerts is about alerts that wait. Without a refusal, those of a run at work
// are on their way.
func (s *status) judgeAlerts() {
	var oldest time.Time
	n := 0
	for _, u := range s.Undelivered {
		if s.Running != nil && len(u.Refused) == 0 {
			continue
		}
		if n++; oldest.IsZero() || u.Since.Before(oldest) {
			oldest = u.Since
		}
	}
	if n > 0 {
		what := "an alert is undelivered for " + s.ago(oldest)
		if n > 1 {
			what = fmt.Sprintf("%d alerts are undelivered, the oldest for %s", n, s.ago(oldest))
		}
		s.problem(what, "mend the sink, whose refusal is below; every run tries again")
	}
}

// age is a duration as people say it: its two largest units.
func age(d time.Duration) string {
	d = max(0, d).Round(time.Second)
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return d.String()
}
