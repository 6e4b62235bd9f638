package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/whosigned/whosigned/pkg/monitor"
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
  whosigned scan --config whosigned.yaml --log https://rekor.example --from 5000 --to 6000 --json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := f.open(c)
			if err != nil {
				return err
			}
			if c.Flags().Changed("to") && look.To <= look.From {
				return usage(fmt.Errorf("--to %d must be larger than --from %d", look.To, look.From))
			}
			return scanOne(c, f, m, look)
		},
	}
	f.common(c)
	f.result(c)
	c.Flags().StringVar(&look.Log, "log", "", "`LOG` to look at: its ID, origin or URL (default the only one configured)")
	c.Flags().Uint64Var(&look.From, "from", 0, "first index")
	c.Flags().Uint64Var(&look.To, "to", 0, "index after the last one (default the log's end)")
	return c
}

func scanOne(c *cobra.Command, f *flags, m *monitor.Monitor, look monitor.Look) error {
	bar := newProgress(c.ErrOrStderr())
	m.Progress = bar.update
	res, err := m.Scan(c.Context(), look)
	bar.finish()
	if err != nil {
		return err
	}
	return f.print(c, res)
}

// scanAll is for a rekor-monitor configuration with startIndex or endIndex: a
// look at that range of each log.
func scanAll(c *cobra.Command, f *flags, m *monitor.Monitor) error {
	if len(m.Config.Logs) > 1 && f.json {
		return usage(errors.New("startIndex and endIndex with several logs: use whosigned scan --log for JSON"))
	}
	status := monitor.ExitClean
	for _, l := range m.Config.Logs {
		err := scanOne(c, f, m, monitor.Look{Log: l.URL, From: m.Config.Scan.Start, To: m.Config.Scan.End})
		var exit *exitError
		switch {
		case errors.As(err, &exit):
			status = max(status, exit.status)
		case err != nil:
			fmt.Fprintf(c.ErrOrStderr(), "whosigned: %s\n", safeLines(err.Error()))
			status = max(status, monitor.ExitFailed)
		}
	}
	if status != monitor.ExitClean {
		return &exitError{status: status}
	}
	return nil
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
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := f.open(c)
			if err != nil {
				return err
			}
			if m.State == nil {
				return usage(fmt.Errorf("%s: no state: is configured", f.config))
			}
			checked, err := m.Check(c.Context())
			if err != nil {
				return err
			}
			if f.json {
				if err := printJSON(c.OutOrStdout(), checked); err != nil {
					return err
				}
			} else {
				printChecked(c.OutOrStdout(), checked)
			}
			if !checked.OK() {
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
