package main

import (
	"cmp"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/state"
)

func newTestAlert() *cobra.Command {
	p := &place{}
	var reason string
	c := &cobra.Command{
		Use:   "test-alert (--project ID --region REGION | --config FILE | --state URL) [--reason TEXT]",
		Short: "Have the next run send a test alert through every sink",
		Long: `Leave a decision in the state that the next run turns into a test alert through every sink,
whatever class of alerts it takes. That it arrives proves the way from the run to the
people; that it does not is in the run's result and in "whosigned status".

Needs, on Google Cloud, roles/storage.objectCreator on the state bucket; with --project
also roles/cloudfunctions.viewer.

` + endpointHelp,
		Example: `  whosigned test-alert --config whosigned.yaml --reason "we changed the mail address"
  whosigned test-alert --project acme-security --region europe-west1`,
		Args: flagsOnly,
		RunE: func(c *cobra.Command, _ []string) error {
			if strings.TrimSpace(reason) == "" {
				return usage(errors.New("--reason is empty: it is what people read"))
			}
			sinks, err := p.find(c)
			if err != nil {
				return err
			}
			st, err := openAt(c.Context(), p.state)
			if err != nil {
				return err
			}
			m := &monitor.Monitor{State: st}
			id, err := m.Accept(c.Context(), state.Decision{Kind: state.TestAlert, Reason: reason, By: who()})
			if err != nil {
				return err
			}
			out := printer{c.OutOrStdout()}
			out.line("decision %s is recorded in %s; the next run sends the test alert to %s", id, p.state, cmp.Or(strings.Join(sinks, ", "), "every sink that it is configured with"))
			out.line("to make that run now: %s", p.runCommand())
			return nil
		},
	}
	p.anyFlags(c)
	c.Flags().StringVar(&reason, "reason", "whosigned test-alert", "why, in a sentence that the alert repeats")
	return c
}

// find completes the place by its state, and names the sinks if the configuration
// is at hand.
func (p *place) find(c *cobra.Command) (sinks []string, err error) {
	if p.inCloud() {
		d, err := p.deployed(c.Context())
		if err == nil {
			p.state, err = p.stateOf(d)
		}
		return nil, err
	}
	if p.config == "" {
		return nil, nil
	}
	cfg, err := p.load(c)
	if err != nil {
		return nil, err
	}
	p.state = cmp.Or(p.state, cfg.State)
	if sinks = sinkNames(cfg.Alerts); len(sinks) == 0 {
		return nil, usage(errors.New(p.config + ": no sink is configured under alerts, so nobody would get it"))
	}
	return sinks, nil
}

// sinkNames are the sinks that reach people; a file of identities takes findings only.
func sinkNames(a config.Alerts) []string {
	var names []string
	for _, e := range a.Emails {
		names = append(names, cmp.Or(e.Name, "email"))
	}
	for _, g := range a.GitHubs {
		names = append(names, cmp.Or(g.Name, "github"))
	}
	for _, f := range a.Folders {
		names = append(names, cmp.Or(f.Name, "folder"))
	}
	return names
}
