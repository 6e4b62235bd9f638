package main

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"

	"github.com/spf13/cobra"

	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
)

func newAccept() *cobra.Command {
	f := &flags{}
	var log, key, incident, reason string
	var baseline bool
	var skipTo uint64
	c := &cobra.Command{
		Use:   "accept --config FILE --log ID (--baseline | --skip-to N | --key FILE | --incident ID) --reason TEXT",
		Short: "Record a decision about a log; the next run applies and announces it",
		Long: `Record what you decided about a log. The decision is kept in the state for good, with
its reason; the next run applies it once and announces it to every sink.

  --baseline      trust what the log serves now, and close its incidents: after lost
                  state, or after tampering that was cleared up
  --skip-to N     do not read the entries before index N; the gap is recorded. For a
                  backlog that need not be read, or a leaf that cannot be had
  --key FILE      accept a further key (PEM) for this log
  --incident ID   close one incident: runs no longer end with status 4 because of it`,
		Example: `  whosigned accept --config whosigned.yaml --log $ID --incident $INCIDENT --reason "operator restored a backup, see INC-42"
  whosigned accept --config whosigned.yaml --log $ID --skip-to 1200 --reason "backfill is done elsewhere"`,
		Args: flagsOnly,
		RunE: func(c *cobra.Command, _ []string) error {
			id, err := tlog.ParseID(log)
			if err != nil {
				return usage(fmt.Errorf("--log: %w", err))
			}
			if strings.TrimSpace(reason) == "" {
				return usage(errors.New("--reason is empty: say why, those who come after you will ask"))
			}
			d := state.Decision{Log: id, Reason: reason, By: who()}
			switch given := c.Flags().Changed; {
			case baseline:
				d.Kind = state.TakeBaseline
			case given("skip-to"):
				d.Kind, d.SkipTo = state.SkipTo, skipTo
			case incident != "":
				d.Kind, d.Incident = state.CloseIncident, incident
			case given("key"):
				pem, err := os.ReadFile(key)
				if err == nil {
					_, err = tlog.ParseKeyPEM(pem)
				}
				if err != nil {
					return usage(fmt.Errorf("--key %s: %w", key, err))
				}
				d.Kind, d.Key = state.AcceptKey, string(pem)
			default:
				return usage(errors.New("--baseline=false and --incident '' decide nothing"))
			}
			m, err := f.openSilent(c)
			if err != nil {
				return err
			}
			if m.State == nil {
				return usage(fmt.Errorf("%s: no state: is configured; say where it is: --state gs://BUCKET", f.config))
			}
			decision, err := m.Accept(c.Context(), d)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "decision %s is recorded; the next run applies and announces it\n", decision)
			return nil
		},
	}
	f.common(c)
	c.Flags().StringVar(&f.state, "state", "", "`URL` of the state, such as gs://BUCKET (default what WHOSIGNED_STATE or the configuration says)")
	c.Flags().StringVar(&log, "log", "", "`ID` of the log, as run and check print it")
	c.Flags().BoolVar(&baseline, "baseline", false, "trust what the log serves now")
	c.Flags().Uint64Var(&skipTo, "skip-to", 0, "go on reading at index `N`")
	c.Flags().StringVar(&key, "key", "", "accept the public key in `FILE`")
	c.Flags().StringVar(&incident, "incident", "", "close the incident with this `ID`")
	c.Flags().StringVar(&reason, "reason", "", "why, in a sentence")
	c.MarkFlagsMutuallyExclusive("baseline", "skip-to", "key", "incident")
	c.MarkFlagsOneRequired("baseline", "skip-to", "key", "incident")
	for _, name := range []string{"log", "reason"} {
		if err := c.MarkFlagRequired(name); err != nil {
			panic(err) // the flag was defined above
		}
	}
	return c
}

// who names the operator for the record.
func who() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}
