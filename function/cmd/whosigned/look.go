package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/notify"
	"github.com/whosigned/whosigned/pkg/report"
)

func newScan() *cobra.Command {
	f := &flags{}
	look := monitor.Look{}
	c := &cobra.Command{
		Use:   "scan --config FILE --log ID|ORIGIN|URL --from N --to M",
		Short: "Look at entries [N, M) of one log, whatever was read before",
		Long: `Read the entries with index N up to but not including M of one log, prove them against
the log's newest signed checkpoint, and print what the rules find. Live state is
neither read nor written, and no alert is sent.

Indexes are the log's own; for a Rekor v1 tree they start at 0 in each tree.`,
		Example: `  whosigned scan --config whosigned.yaml --log log2025-1.rekor.sigstore.dev --from 0 --to 1000
  whosigned scan --config whosigned.yaml --log $ID --from 500 --to 600 --json`,
		Args: flagsOnly,
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := f.openSilent(c)
			if err != nil {
				return err
			}
			if c.Flags().Changed("to") && look.To <= look.From {
				return usage(fmt.Errorf("--to %d must be larger than --from %d", look.To, look.From))
			}
			res, err := f.scan(c, m, look)
			if err != nil {
				return err
			}
			return f.print(c, res)
		},
	}
	f.common(c)
	f.result(c)
	c.Flags().StringVar(&look.Log, "log", "", "`LOG` to look at: its ID, origin or URL (default the only one configured)")
	c.Flags().Uint64Var(&look.From, "from", 0, "first index")
	c.Flags().Uint64Var(&look.To, "to", 0, "index after the last one (default the log's end)")
	return c
}

func (f *flags) scan(c *cobra.Command, m *monitor.Monitor, look monitor.Look) (*monitor.Result, error) {
	bar := f.progress(c)
	m.Progress = bar.update
	res, err := m.Scan(c.Context(), look)
	bar.finish()
	return res, err
}

// scanAll is for a configuration with startIndex or endIndex: a look at that range of
// each log, and one result of all. Of what rekor-monitor does then the files are
// written, and people are not alerted.
func (f *flags) scanAll(c *cobra.Command, m *monitor.Monitor) error {
	bar := f.progress(c)
	m.Progress = bar.update
	all, err := m.ScanConfigured(c.Context())
	bar.finish()
	if err != nil {
		return err
	}
	failing(all, writeIdentities(c.Context(), m, all))
	failing(all, writeIdentityMetadata(m.Config.Peer.Metadata, all, m.Config.Scan))
	return f.print(c, all)
}

// writeIdentities gives what a scan found to outputIdentities.
func writeIdentities(ctx context.Context, m *monitor.Monitor, res *monitor.Result) error {
	var alerts []report.Alert
	cut := 0
	for _, l := range res.Logs {
		a := report.Alert{
			Class: report.ClassIdentity, Created: res.Finished, Log: l.ID, Origin: l.Origin, LogType: l.Type,
			From: l.Scanned - min(l.Scanned, l.Entries), To: l.Scanned, Expected: l.Expected, Config: m.Config.Path,
		}
		for _, found := range res.Findings {
			if found.Log == l.ID && !found.Expected {
				a.Findings = append(a.Findings, found)
			}
		}
		a.Cut = l.Findings - l.Expected - len(a.Findings)
		if cut += a.Cut; len(a.Findings)+a.Cut > 0 {
			a.Seal()
			alerts = append(alerts, a)
		}
	}
	var errs []error
	for _, sink := range m.Sinks {
		if notify.Tells(sink) {
			continue
		}
		// What was found before an interruption was found.
		if _, err := notify.Deliver(context.WithoutCancel(ctx), sink, alerts); err != nil {
			errs = append(errs, fmt.Errorf("outputIdentities: %w", err))
		}
		if cut > 0 {
			errs = append(errs, fmt.Errorf("outputIdentities: %d findings are not in it, for one scan lists no more than %d; scan smaller ranges", cut, len(res.Findings)))
		}
	}
	return errors.Join(errs...)
}

// checkedAll is what check prints as JSON.
type checkedAll struct {
	*monitor.Checked
	// FirstCheckpoint is what a first run would take over from rekor-monitor.
	FirstCheckpoint *startingPoint `json:"firstCheckpoint,omitempty"`
}

// printSinks is printChecked, but a scan's sink is outputIdentities, and no other.
func printSinks(c *cobra.Command, m *monitor.Monitor, checked *monitor.Checked) {
	files := m.Config.Alerts.Identities
	if checked.Scan == nil || len(files) == 0 {
		printChecked(c.OutOrStdout(), checked)
		return
	}
	others := *checked
	others.Sinks = slices.DeleteFunc(slices.Clone(checked.Sinks), func(name string) bool {
		return slices.ContainsFunc(files, func(i config.Identities) bool { return i.Name == name })
	})
	printChecked(c.OutOrStdout(), &others)
	for _, i := range files {
		printer{c.OutOrStdout()}.line("identities     are written to %s", i.Path)
	}
}

func printStart(c *cobra.Command, first *startingPoint) {
	p := printer{c.OutOrStdout()}
	switch {
	case first == nil:
	case first.Error != "":
		p.line("first run      error: %s", first.Error)
	case first.Note != "":
		warn(c, first.Note)
	default:
		p.line("first run      goes on from %s: at entry %d of log %s", first.File, first.Entry, string(first.Log))
	}
}

func newCheck() *cobra.Command {
	f := &flags{}
	c := &cobra.Command{
		Use:   "check --config FILE",
		Short: "Validate a configuration; say what will be watched, from when, at what cost",
		Long: `Validate a configuration and ask every log for its checkpoint, without writing anything.
Says what will be watched, where reading begins or goes on, how many requests that
needs, and how many the schedule and budget give.

Exit status: 0 a run could do its job, 1 a log cannot be checked or is too much to read, 2
the configuration is wrong.`,
		Example: `  whosigned check --config whosigned.yaml
  whosigned check --config whosigned.yaml --every 15m --budget 10m --json`,
		Args: flagsOnly,
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := f.open(c)
			if err != nil {
				return err
			}
			saved, why, unreadable := firstCheckpoint(c.Context(), m)
			checked, err := m.Check(c.Context(), saved...)
			if err != nil {
				return err
			}
			var first *startingPoint
			if len(saved) > 0 || why != "" || unreadable != nil {
				first = startsFrom(checked, why, unreadable)
				first.File = m.Config.Peer.LogInfo
			}
			if f.json {
				if err := printJSON(c.OutOrStdout(), checkedAll{checked, first}); err != nil {
					return err
				}
			} else {
				printSinks(c, m, checked)
				printStart(c, first)
			}
			if !checked.OK() || first != nil && first.Error != "" {
				return &exitError{status: monitor.ExitFailed}
			}
			return nil
		},
	}
	f.common(c)
	f.result(c)
	f.schedule(c)
	c.Flags().DurationVar(&f.every, "every", 0, "`INTERVAL` of the schedule to compute with (default 1h)")
	return c
}
