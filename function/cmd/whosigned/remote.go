package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/watch"
)

// remote makes the deployed function run, instead of running here.
type remote struct {
	place
	on      bool
	timeout time.Duration
}

const remoteHelp = `
With --remote the deployed function makes the pass: its Cloud Scheduler job is forced,
the run is followed in its state to the end, and its result is printed as if it had been
made here, with the same exit status. A run already at work is followed instead. Ctrl-C
stops following; the run goes on. Needs roles/cloudfunctions.viewer,
roles/cloudscheduler.viewer and roles/cloudscheduler.jobRunner in the project, and
roles/storage.objectViewer on the state bucket.

` + endpointHelp

func (r *remote) flags(c *cobra.Command) {
	c.Flags().BoolVar(&r.on, "remote", false, "have the function on Google Cloud make the pass")
	r.cloudFlags(c)
	r.jobFlags(c)
	c.Flags().StringVar(&r.state, "state", "", "`URL` of its state (default what the function is told)")
	c.Flags().DurationVar(&r.timeout, "timeout", 40*time.Minute, "how long to follow the run")
	c.MarkFlagsRequiredTogether("remote", "project", "region")
	for _, here := range []string{"config", "every", "budget"} {
		c.MarkFlagsMutuallyExclusive("remote", here)
	}
	check := c.PreRunE
	c.PreRunE = func(c *cobra.Command, args []string) error {
		if r.on {
			// Where the function runs its configuration is known.
			if err := c.Flags().SetAnnotation("config", cobra.BashCompOneRequiredFlag, []string{"false"}); err != nil {
				return err
			}
		}
		if err := check(c, args); err != nil {
			return err
		}
		return r.validate(c)
	}
}

func (r *remote) validate(c *cobra.Command) error {
	if !r.on {
		for _, name := range []string{"name", "job", "scheduler-region", "state", "timeout"} {
			if c.Flags().Changed(name) {
				return usage(fmt.Errorf("--%s is for --remote\nsee: %s --help", name, c.CommandPath()))
			}
		}
		return nil
	}
	if r.timeout <= 0 {
		return usage(errors.New("--timeout must be positive"))
	}
	return r.check()
}

// run forces a run and prints its result.
func (r *remote) run(c *cobra.Command, f *flags) error {
	d, err := r.deployed(c.Context())
	if err != nil {
		return err
	}
	location, err := r.stateOf(d)
	if err != nil {
		return err
	}
	st, err := openAt(c.Context(), location)
	if err != nil {
		return err
	}
	jobs, err := r.scheduler(c.Context())
	if err != nil {
		return err
	}
	p := printer{c.ErrOrStderr()}
	w := &follower{
		place: &r.place, state: st, jobs: jobs, say: p.line, bars: f.progress(c), known: make(map[string]bool),
		// An instance starts within seconds, and Scheduler tries again after 5 minutes.
		begin: 7 * time.Minute, settle: 10 * time.Second,
	}
	ctx, cancel := context.WithTimeoutCause(c.Context(), r.timeout, errTimeout)
	defer cancel()
	res, err := w.follow(ctx)
	w.bars.finish()
	if err != nil {
		return w.stopped(ctx, err, r.timeout)
	}
	return f.print(c, res)
}

var errTimeout = errors.New("timeout")

// follower waits for a run to end. It tells runs apart by their IDs: this machine's
// clock may differ from Google's.
type follower struct {
	place *place
	state *state.State
	jobs  *scheduler
	say   func(format string, args ...any)
	bars  *progress
	known map[string]bool // runs that are not the one awaited
	at    string          // the run that is at work, once it is seen
	// begin is how long a forced run may take to begin, and settle how long after
	// Scheduler's attempt has failed: by then it has taken the lease, or never will.
	begin, settle time.Duration
}

// errLeaseOver says that the run at work will not end any more.
var errLeaseOver = errors.New("its lease is over")

// follow returns the result of the run at work, or else of one that it forces.
func (w *follower) follow(ctx context.Context) (*monitor.Result, error) {
	before, err := w.jobs.get(ctx)
	if err != nil {
		return nil, err
	}
	if before.State == jobPaused {
		w.say("job %s is paused: this one run is forced, and no other follows until: %s", w.place.jobName(), w.place.jobCommand("resume"))
	}
	doc, last, err := w.load(ctx)
	if err != nil {
		return nil, err
	}
	if last != nil {
		w.known[last.Run] = true
	}
	if l := doc.Lease; l != nil {
		// Both times are Google's.
		left := l.Expires.Sub(before.asked)
		if left > 0 {
			w.at = l.Run
			w.say("run %s is at work already: following it (its lease ends in %s)", l.Run, age(left))
			res, err := w.wait(ctx, func(waited time.Duration) error {
				if waited > left {
					return errLeaseOver
				}
				return nil
			})
			if !errors.Is(err, errLeaseOver) {
				return res, err
			}
			w.say("run %s has not ended, and its lease is over: it was killed", l.Run)
		}
		w.known[l.Run], w.at = true, ""
	}
	if err := w.jobs.run(ctx); err != nil {
		return nil, err
	}
	w.say("job %s is forced; waiting for the run to begin", w.place.jobName())
	return w.wait(ctx, w.beginning(ctx, before))
}

// beginning gives up if no run begins. Scheduler's own account of the attempt says
// why it may not: the state does not hear of a call that the function never gets.
func (w *follower) beginning(ctx context.Context, before *job) func(time.Duration) error {
	var failed time.Duration
	return func(waited time.Duration) error {
		if w.at != "" {
			return nil
		}
		j, err := w.jobs.get(ctx)
		if err != nil {
			return err
		}
		if j.LastAttempt == before.LastAttempt || !j.failed() {
			failed = 0
		} else if failed == 0 {
			failed = waited
		} else if waited-failed > w.settle {
			return fmt.Errorf("no run began: Scheduler's call of the function failed (%s); %s", j.outcome(), w.place.remedy(j.Code))
		}
		if waited > w.begin {
			return fmt.Errorf("no run has begun within %s; %s", age(w.begin), w.lookAt())
		}
		return nil
	}
}

// wait polls the state until a run that is not known has ended. It gives up with the
// error of patience.
func (w *follower) wait(ctx context.Context, patience func(waited time.Duration) error) (*monitor.Result, error) {
	began := time.Now()
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 4*time.Second) {
		doc, last, err := w.load(ctx)
		if err != nil {
			return nil, err
		}
		if last != nil && !w.known[last.Run] {
			w.restore(ctx, last)
			return last, nil
		}
		if l := doc.Lease; l != nil && l.Run != w.at && !w.known[l.Run] {
			w.at = l.Run
			w.say("run %s has begun", l.Run)
		}
		w.draw(ctx, doc)
		if err := patience(time.Since(began)); err != nil {
			return nil, err
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// load reads run.json, which is empty before the first run.
func (w *follower) load(ctx context.Context) (*state.Run, *monitor.Result, error) {
	doc, err := w.state.LoadRun(ctx)
	if errors.Is(err, state.ErrNotExist) {
		return new(state.Run), nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	last, err := result(doc)
	return doc, last, err
}

// draw shows how far each log is read, where somebody looks.
func (w *follower) draw(ctx context.Context, doc *state.Run) {
	if w.bars.bars == nil || w.at == "" {
		return
	}
	for id := range doc.Logs {
		if l, err := w.state.LoadLog(ctx, id); err == nil && l.Scanned != nil {
			w.bars.update(tlog.Info{ID: id, Origin: l.Origin}, l.Scanned.Size, max(l.Size, l.Scanned.Size))
		}
	}
}

// restore puts findings back into a result, of which run.json keeps only how many
// there were: those of each log at the indexes that the run read.
func (w *follower) restore(ctx context.Context, res *monitor.Result) {
	if res.Exit < monitor.ExitClean || res.Exit > monitor.ExitTamper {
		res.Exit = monitor.ExitFailed // of another release: what it means is unknown
	}
	res.Findings = []watch.Finding{}
	all := 0
	for _, l := range res.Logs {
		all += l.Findings
		if l.Findings == 0 {
			continue
		}
		doc, err := w.state.LoadLog(ctx, l.ID)
		if err != nil {
			continue // they count as cut
		}
		for found, err := range w.state.Findings(ctx, doc.Findings) {
			if err != nil || found.Index+l.Entries < l.Scanned || len(res.Findings) == maxRestored {
				break
			}
			if found.Index < l.Scanned {
				res.Findings = append(res.Findings, found)
			}
		}
	}
	res.FindingsCut = max(0, all-len(res.Findings))
}

// maxRestored bounds the findings that are read back.
const maxRestored = 1000

// stopped says how far following got, and that the run does not depend on it.
func (w *follower) stopped(ctx context.Context, err error, timeout time.Duration) error {
	goes := "a run that was forced goes on by itself"
	if w.at != "" {
		goes = "run " + w.at + " goes on by itself"
	}
	switch {
	case ctx.Err() == nil:
		return err
	case !errors.Is(context.Cause(ctx), errTimeout):
		return fmt.Errorf("interrupted: %s; see: %s", goes, w.place.command("status"))
	case w.at == "":
		return fmt.Errorf("no run has begun within %s; %s", timeout, w.lookAt())
	}
	return fmt.Errorf("run %s has not ended within %s; if it was killed, its lease has to run out first; %s", w.at, timeout, w.lookAt())
}

func (w *follower) lookAt() string {
	return "see: " + w.place.command("status") + "\nand: " + w.place.logsCommand()
}
