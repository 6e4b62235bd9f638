package function

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/notify"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
)

// invocation is one request at work.
type invocation struct {
	*endpoint
	started time.Time
	trigger string
	version string
	logger  *slog.Logger
	said    sync.Once
}

// run makes the run that a request asks for. Nothing is kept from one to the next:
// configuration and secrets are read anew, so that neither needs a new deployment.
func (in *invocation) run(ctx context.Context) (o outcome) {
	defer func() {
		if p := recover(); p != nil {
			o = panicked(p, debug.Stack())
		}
	}()
	env, err := readEnvironment(in.getenv)
	if err != nil {
		return outcome{kind: invalid, err: err}
	}
	until, err := in.until(ctx, env.timeout)
	if err != nil {
		return outcome{kind: invalid, err: err}
	}
	ctx, cancel := context.WithDeadline(ctx, until.Add(-in.clock.margin/6))
	defer cancel()
	last := time.AfterFunc(time.Until(until)-in.clock.margin/30, func() { in.late(errDeadline) })
	defer last.Stop()
	cfg, err := load(ctx, env)
	if err != nil {
		return in.refuse(ctx, env, err)
	}
	m, err := in.open(ctx, env, cfg)
	if err != nil {
		return outcome{kind: unusable, err: err}
	}
	if m.Budget = time.Until(until) - in.clock.margin; m.Budget <= 0 {
		return outcome{kind: failed, err: fmt.Errorf("reading the configuration %s took so long that no time is left for the run; the next one tries again", env.name())}
	}
	res, err := m.Run(ctx)
	if err != nil {
		return couldNotBegin(ctx, err)
	}
	return finished(res)
}

// until is when the answer must be there: after the function's timeout, or at the
// request's own deadline if that is earlier.
func (in *invocation) until(ctx context.Context, timeout time.Duration) (time.Time, error) {
	until := in.started.Add(timeout)
	if d, ok := ctx.Deadline(); ok && d.Before(until) {
		until = d
	}
	// The platform's own clock has started a little earlier.
	if left := until.Sub(in.started); left.Round(time.Second) < in.clock.least {
		return until, fmt.Errorf("the platform ends this request after %v, and a run needs at least %v: raise the function's timeout (timeout_seconds of the Terraform module)",
			left.Round(time.Second), in.clock.least)
	}
	return until, nil
}

var errDeadline = errors.New("the platform ends this request now")

func load(ctx context.Context, env environment) (*config.Config, error) {
	var cfg *config.Config
	var err error
	if env.inline() {
		if cfg, err = config.Parse(env.name(), []byte(env.config)); err == nil {
			cfg.Path = env.name()
		}
	} else {
		cfg, err = config.Load(ctx, env.config)
	}
	if err != nil {
		return nil, err
	}
	if cfg.Scan != nil {
		return nil, &config.Error{Generation: cfg.Generation, Alerts: cfg.Alerts, Problems: []config.Problem{{File: env.name(), Key: "startIndex",
			Text: "startIndex and endIndex ask for one scan, and the function watches: remove them, and scan with: whosigned scan"}}}
	}
	return cfg, nil
}

// open makes a monitor of a configuration. A sink whose secret is missing does not
// stop the watching: that is trouble, and the run that meets it has failed.
func (in *invocation) open(ctx context.Context, env environment, cfg *config.Config) (*monitor.Monitor, error) {
	location := cfg.State
	if env.state != "" {
		if location = env.state; cfg.State != "" && strings.TrimSuffix(cfg.State, "/") != strings.TrimSuffix(env.state, "/") {
			cfg.Warnings = append(cfg.Warnings, fmt.Sprintf("%s: state: %s is not used: WHOSIGNED_STATE says %s", env.name(), cfg.State, env.state))
		}
	}
	if location == "" {
		return nil, errors.New("nothing says where state is kept: set WHOSIGNED_STATE to gs://bucket, or state: in the configuration")
	}
	st, err := state.Open(ctx, location)
	if err != nil {
		return nil, err
	}
	cfg.State = location
	m := in.monitor(env, st, cfg)
	m.Client = tlog.NewClient(tlog.ClientOptions{Version: in.version, Insecure: cfg.InsecureHosts(), Logger: in.logger})
	if m.Sinks, err = notify.Open(cfg.Alerts, in.getenv); err != nil {
		m.Trouble = append(m.Trouble, secretsTrouble(err))
	}
	if env.evidence != "" {
		if m.Evidence, err = state.Open(ctx, env.evidence); err != nil {
			m.Trouble = append(m.Trouble, fmt.Sprintf("WHOSIGNED_EVIDENCE: %v; incidents are kept in the state alone", err))
		}
	}
	return m, nil
}

// monitor is what a run and a refusal have in common.
func (in *invocation) monitor(env environment, st *state.State, cfg *config.Config) *monitor.Monitor {
	m := &monitor.Monitor{Config: cfg, State: st, Version: in.version, Logger: in.logger, Every: env.every, Grace: grace}
	if in.tune != nil {
		in.tune(m)
	}
	return m
}

func secretsTrouble(err error) string {
	return fmt.Sprintf("a sink cannot be opened, and its alerts wait in the outbox: %v; add or mend the secret's version, which the next run reads", err)
}

// refuse answers for a configuration that cannot be used. If it could be read, people
// are told, once for each generation of it, by the sinks that it configures; no log's
// state is touched. What passes by itself, such as a bucket that does not answer, is
// not told: whoever watches our log lines sees it last.
func (in *invocation) refuse(ctx context.Context, env environment, problem error) outcome {
	o := outcome{kind: invalid, err: problem}
	if ctx.Err() != nil {
		return outcome{kind: failed, err: fmt.Errorf("interrupted while the configuration was read (%w): %w", context.Cause(ctx), problem)}
	}
	var wrong *config.Error
	if !errors.As(problem, &wrong) || env.state == "" {
		return o
	}
	generation := wrong.Generation
	if env.inline() {
		sum := sha256.Sum256([]byte(env.config))
		generation = hex.EncodeToString(sum[:8])
	}
	if generation == "" {
		return o
	}
	st, err := state.Open(ctx, env.state)
	if err != nil {
		o.err = errors.Join(problem, err)
		return o
	}
	// What other sinks have yet to take stays in the outbox, also if the alerts section
	// is what is wrong and there are none now.
	sinks, sinksErr := notify.Open(wrong.Alerts, in.getenv)
	m := in.monitor(env, st, &config.Config{Path: env.name(), State: env.state, Alerts: wrong.Alerts, Patience: patience})
	m.Sinks = sinks
	if o.res, err = m.Refuse(ctx, generation, problem); err != nil {
		o.err = errors.Join(problem, fmt.Errorf("and nobody could be told: %w", err))
	} else if sinksErr != nil {
		o.err = errors.Join(problem, errors.New(secretsTrouble(sinksErr)))
	}
	return o
}

// patience is the default of the configuration's, which cannot be read.
const patience = 3 * time.Hour
