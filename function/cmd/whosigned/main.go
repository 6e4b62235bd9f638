// Command whosigned watches transparency logs from a terminal or in CI: the same
// run that the Cloud Function makes every hour.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/monitor"
)

func main() { os.Exit(run()) }

// run is main for tests too: it returns the exit status.
func run() int {
	// A run's memory is bounded by its read-ahead budget; the limit keeps the
	// collector from letting garbage double that.
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(64 << 20)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal saves progress and ends; a second one ends at once.
	context.AfterFunc(ctx, stop)
	return execute(ctx, os.Args[1:], os.Stdout, os.Stderr)
}

// exitError carries an exit status through cobra.
type exitError struct {
	status int
	err    error // nil if everything was said already
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}
func (e *exitError) Unwrap() error { return e.err }

func usage(err error) error { return &exitError{monitor.ExitUsage, err} }

func execute(ctx context.Context, args []string, out, errOut io.Writer) int {
	root := newRoot(out, errOut)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return monitor.ExitClean
	}
	var exit *exitError
	if !errors.As(err, &exit) {
		exit = &exitError{classify(err), err}
	}
	if exit.err != nil {
		fmt.Fprintf(errOut, "whosigned: %s\n", safeLines(exit.err.Error()))
	}
	return exit.status
}

// classify is the exit status of an error that says nothing of it: what is wrong
// with the command line or the configuration is 2.
func classify(err error) int {
	var cfg *config.Error
	var name *monitor.NoLogError
	if errors.As(err, &cfg) || errors.As(err, &name) {
		return monitor.ExitUsage
	}
	return monitor.ExitFailed
}

func newRoot(out, errOut io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "whosigned",
		Short: "Know within the hour when somebody signs software as you",
		Long: `whosigned watches Sigstore's transparency logs. It proves that each log only ever
grew, reads every new entry, and alerts you when somebody signs as you. When a log
lies it keeps the evidence to prove it.

Start with:   whosigned demo                      (offline, a few seconds)
Then:         whosigned check --config FILE       (what would be watched, at what cost)
              whosigned run   --config FILE       (one pass; state is kept between passes)

Exit status of run and scan; the first that applies:
  2  the command line or the configuration is wrong, nothing was done
  4  tampering, in every run until "whosigned accept" closes the incident
  1  the job was not done: a log unchecked, an alert that no sink took, another run at work
  3  findings that no "expect" clause covers
  0  clean`,
		Example:       `  whosigned demo`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			err := fmt.Errorf("unknown command %q", args[0])
			if near := c.SuggestionsFor(args[0]); len(near) > 0 {
				err = fmt.Errorf("%w; did you mean %q?", err, near[0])
			}
			return usage(fmt.Errorf("%w\nsee: %s --help", err, c.CommandPath()))
		},
		RunE: func(c *cobra.Command, _ []string) error {
			// Nothing was asked for: what there is to ask is not the answer to it.
			c.SetOut(errOut)
			return usage(c.Help())
		},
		SuggestionsMinimumDistance: 2,
		CompletionOptions:          cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetOut(out)
	root.SetErr(errOut)
	root.Flags().Bool("version", false, "print the version") // and not -v, which is --verbose elsewhere
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage(fmt.Errorf("%w\nsee: %s --help", err, c.CommandPath()))
	})
	root.AddCommand(newRun(), newScan(), newCheck(), newCheckBundle(), newAccept(), newStatus(), newTestAlert(), newDemo(), newImport(openImporter), newFromRekorMonitor())
	return root
}

// flagsOnly is for commands that take no arguments.
func flagsOnly(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usage(fmt.Errorf("%s takes flags only, not %q\nsee: %s --help", c.CommandPath(), args[0], c.CommandPath()))
}

// version is the module's, as the go command recorded it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
