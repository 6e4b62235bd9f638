package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/notify"
	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
)

// flags are those that several commands share.
type flags struct {
	config  string
	state   string // of accept; "": what the environment or the configuration says
	json    bool
	verbose bool
	every   time.Duration
	budget  time.Duration
}

func (f *flags) common(c *cobra.Command) {
	c.Flags().StringVar(&f.config, "config", "", "configuration: a `FILE` or gs://bucket/object (YAML; rekor-monitor's files work too)")
	c.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "log what is done, on stderr")
	if err := c.MarkFlagRequired("config"); err != nil {
		panic(err) // the flag was defined above
	}
	c.PreRunE = func(c *cobra.Command, _ []string) error { return checkFlags(c) }
}

// checkFlags does what cobra does itself, but later, and then its errors look like
// any other.
func checkFlags(c *cobra.Command) error {
	if err := errors.Join(c.ValidateRequiredFlags(), c.ValidateFlagGroups()); err != nil {
		return usage(fmt.Errorf("%w\nsee: %s --help", err, c.CommandPath()))
	}
	return nil
}

func (f *flags) result(c *cobra.Command) {
	c.Flags().BoolVar(&f.json, "json", false, "print the result as JSON on stdout")
}

func (f *flags) schedule(c *cobra.Command) {
	c.Flags().DurationVar(&f.budget, "budget", 25*time.Minute, "how long one pass may work; it ends with proven progress saved")
}

// open makes a monitor of a configuration file, with its sinks.
func (f *flags) open(c *cobra.Command) (*monitor.Monitor, error) {
	m, err := f.openSilent(c)
	if err != nil {
		return nil, err
	}
	return m, openSinks(m, m.Config.Alerts)
}

func openSinks(m *monitor.Monitor, alerts config.Alerts) (err error) {
	if m.Sinks, err = notify.Open(alerts, os.Getenv); err != nil {
		return usage(err)
	}
	return nil
}

// openSilent makes a monitor that alerts nobody, and so needs no secrets: a scan
// or a decision is made from a laptop that has none.
func (f *flags) openSilent(c *cobra.Command) (*monitor.Monitor, error) {
	cfg, err := config.Load(c.Context(), f.config)
	if err != nil {
		return nil, usage(err)
	}
	if f.every < 0 || f.budget < 0 {
		return nil, usage(errors.New("--every and --budget must not be negative"))
	}
	st, err := f.openState(c.Context(), cfg)
	if err != nil {
		return nil, usage(fmt.Errorf("%s: %w", f.config, err))
	}
	for _, w := range cfg.Warnings {
		warn(c, w)
	}
	return &monitor.Monitor{
		Config: cfg, State: st, Version: version(), Logger: logger(c.ErrOrStderr(), f.verbose),
		Client: tlog.NewClient(tlog.ClientOptions{Version: version(), Insecure: cfg.InsecureHosts()}),
		Every:  f.every, Budget: f.budget,
	}, nil
}

func warn(c *cobra.Command, text string) {
	fmt.Fprintf(c.ErrOrStderr(), "warning: %s\n", report.Safe(text))
}

// openState opens the configured state, or that of WHOSIGNED_STATE or --state; a
// scan alone needs none.
func (f *flags) openState(ctx context.Context, cfg *config.Config) (*state.State, error) {
	cfg.State = cmp.Or(f.state, os.Getenv("WHOSIGNED_STATE"), cfg.State)
	if cfg.State == "" {
		return nil, nil
	}
	return state.Open(ctx, cfg.State)
}

func logger(w io.Writer, verbose bool) *slog.Logger {
	if !verbose {
		return slog.New(slog.DiscardHandler) // what went wrong is in the result
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func newRun() *cobra.Command {
	f, far := &flags{}, &remote{}
	c := &cobra.Command{
		Use:   "run (--config FILE | --remote --project ID --region REGION)",
		Short: "Make one pass over all logs: prove, read, match, alert",
		Long: `Make one pass over all configured logs. Each is proven consistent with what was seen
before, every entry since is read, hashed into the signed root and held against
the rules; then the new state is saved and alerts are delivered.

The first pass takes a baseline: by default reading starts at the newest entry (start:
head); with "start: 0" at the first. If a log holds more than schedule and budget can
read, the pass says so in figures and refuses, unless the log has accept_lag: true.

Ctrl-C ends the pass with its proven progress saved, and status 1. With --every and
--json each pass prints one JSON document.
` + remoteHelp,
		Example: `  whosigned run --config whosigned.yaml
  whosigned run --config whosigned.yaml --every 1h          # until interrupted
  whosigned run --config whosigned.yaml --json | jq .findings
  whosigned run --remote --project acme-security --region europe-west1`,
		Args: flagsOnly,
		RunE: func(c *cobra.Command, _ []string) error {
			if far.on {
				return far.run(c, f)
			}
			m, err := f.openSilent(c)
			if err != nil {
				return err
			}
			alerts := m.Config.Alerts
			if m.Config.Scan != nil { // it alerts nobody, and needs nobody's secrets
				alerts = config.Alerts{Identities: alerts.Identities}
			}
			if err := openSinks(m, alerts); err != nil {
				return err
			}
			if m.Config.Scan != nil && f.every > 0 {
				return usage(fmt.Errorf("%s: startIndex or endIndex makes the run a one-off scan of entries %s, and after that nobody would watch: to monitor every %s, remove both keys; to scan once, leave out --every", f.config, m.Config.Scan, f.every))
			}
			if m.Config.Scan != nil {
				return f.scanAll(c, m)
			}
			if m.State == nil {
				return usage(fmt.Errorf("%s: no state: is configured; a run keeps what it has proven: state: file:///path, or WHOSIGNED_STATE=gs://BUCKET in the environment", f.config))
			}
			return f.loop(c, m)
		},
	}
	f.common(c)
	f.result(c)
	f.schedule(c)
	c.Flags().DurationVar(&f.every, "every", 0, "run again `INTERVAL` after the start of the last pass, until interrupted (default one pass)")
	far.flags(c)
	return c
}

// loop makes one pass, or one every interval until interrupted. The exit status
// is that of the last pass.
func (f *flags) loop(c *cobra.Command, m *monitor.Monitor) error {
	ctx := c.Context()
	for {
		next := time.Now().Add(f.every)
		err := f.pass(c, m)
		if f.every == 0 || ctx.Err() != nil {
			return err
		}
		if err != nil && !isExit(err) {
			fmt.Fprintf(c.ErrOrStderr(), "whosigned: %s\n", safeLines(err.Error()))
		}
		wait := time.NewTimer(time.Until(next))
		select {
		case <-ctx.Done():
			wait.Stop()
			return &exitError{status: monitor.ExitFailed, err: errors.New("interrupted between passes")}
		case <-wait.C:
		}
		// Secrets may have been rotated.
		if sinks, err := notify.Open(m.Config.Alerts, os.Getenv); err == nil {
			m.Sinks = sinks
		}
	}
}

func isExit(err error) bool {
	var exit *exitError
	return errors.As(err, &exit) && exit.err == nil
}

func (f *flags) pass(c *cobra.Command, m *monitor.Monitor) error {
	if err := f.firstImport(c, m); err != nil {
		return err
	}
	bar := f.progress(c)
	m.Progress = bar.update
	res, err := m.Run(c.Context())
	bar.finish()
	if err != nil {
		return err
	}
	before := len(res.Warnings)
	failing(res, writeIdentityMetadata(m.Config.Peer.Metadata, res, nil))
	for _, w := range res.Warnings[before:] {
		warn(c, w)
	}
	return f.print(c, res)
}

// failing makes a result one of a run that failed, for what the command itself did after
// it: what is printed and the exit status are one.
func failing(res *monitor.Result, err error) {
	if err != nil {
		res.Add(&monitor.Result{Errors: []string{err.Error()}, Finished: res.Finished})
	}
}

// firstImport makes a first run go on from the checkpoint that rekor-monitor left where
// the configuration's logInfoFile says.
func (f *flags) firstImport(c *cobra.Command, m *monitor.Monitor) error {
	saved, why, err := firstCheckpoint(c.Context(), m)
	if why != "" {
		warn(c, why)
	}
	if err != nil || len(saved) == 0 {
		return err
	}
	imported, err := m.Import(c.Context(), saved)
	if err != nil {
		return fmt.Errorf("logInfoFile: %w; to begin without it, remove the file or the key", err)
	}
	for _, i := range imported {
		fmt.Fprintf(c.ErrOrStderr(), "whosigned: first run: log %s goes on at entry %d, from the checkpoint in %s\n", i.Log, i.Size, report.Safe(i.File))
	}
	return nil
}

// print writes a result and turns it into an exit status.
func (f *flags) print(c *cobra.Command, res *monitor.Result) error {
	if f.json {
		if err := printJSON(c.OutOrStdout(), res); err != nil {
			return err
		}
	} else {
		printResult(c.OutOrStdout(), res)
	}
	if res.Exit != monitor.ExitClean {
		return &exitError{status: res.Exit}
	}
	return nil
}
