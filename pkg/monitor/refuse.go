package monitor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/state"
)

// Refuse is the run of an invalid configuration: it watches nothing and leaves
// every log's state as it is, but says what is wrong: as a health condition, opened
// once for each generation of the configuration and closed by the first run with a
// valid one. What waits in the outboxes is delivered meanwhile. It needs State, and
// Config with as much as could be read; alerts go to Sinks, and those for sinks that
// are not among them stay in the outbox.
//
// The error is for a run that could not begin, as that of [Monitor.Run].
func (m *Monitor) Refuse(ctx context.Context, generation string, problem error) (*Result, error) {
	m.defaults()
	m.Budget = min(m.Budget, refuseTime)
	began := time.Now()
	r, err := m.begin(ctx, true)
	if err != nil {
		return nil, err
	}
	defer r.clock(ctx, began)()
	r.deliver = r.startDelivery(r.doc)
	r.loadOutboxes()
	r.deliver.begin()
	text := fmt.Sprintf("the configuration is invalid, and nothing is watched: %.4000s", problem)
	r.failf("%s", text)
	for key := range r.doc.conditions() {
		if !strings.HasPrefix(key, configKey) {
			r.health.hold(key) // not judged
		}
	}
	r.health.atOnce(configKey+generation, text, "mend the configuration, or put its last version back; the next run reads it anew")
	return r.finish(), nil
}

const (
	configKey  = "config:"
	refuseTime = 2 * time.Minute // beyond it nobody need wait for the lease
)

// loadOutboxes makes known what waits in the logs' outboxes: it is delivered, and
// counted, also while nothing is watched.
func (r *run) loadOutboxes() {
	for id := range r.doc.known() {
		ctx, cancel := r.keep()
		doc, err := r.State.LoadLog(ctx, id)
		cancel()
		if err != nil {
			r.failf("log %s: what waits in its outbox is not delivered: %v", id, err)
			continue
		}
		r.deliver.add(&logState{doc: doc, state: r.State, pace: pace{every: r.CommitEvery, hurry: r.work.Done()}})
	}
}

// testAlerts sends an alert to every sink, whatever class it takes, for each
// decision that asks for one.
func (r *run) testAlerts() {
	if len(r.tests) == 0 {
		return
	}
	ctx, cancel := r.keep()
	defer cancel()
	for _, dec := range r.tests {
		if err := r.testAlert(ctx, dec); err != nil {
			r.failf("the test alert of decision %s: %v", dec.ID, err)
		}
	}
}

func (r *run) testAlert(ctx context.Context, dec state.Decision) error {
	var all []string
	for _, s := range r.Sinks {
		all = append(all, s.Name())
	}
	p, err := r.putAlertFor(ctx, all, report.Alert{
		Class: report.ClassHealth, Headline: "test alert: this is only a test",
		Health: []report.Health{{Key: "test:" + dec.ID, State: report.Notice, Since: dec.At,
			Text: fmt.Sprintf("%s asked for a test alert through every sink: %s", dec.By, dec.Reason)}},
		Notes: []string{"Nothing is wrong. That you read this shows that alerts reach you."},
	})
	if err != nil {
		return err
	}
	if p == nil {
		return errors.New("no sink is configured; it is sent once there is one")
	}
	if err := r.doc.commit(ctx, func(d *state.Run) { d.Outbox = append(d.Outbox, *p) }); err != nil {
		return err
	}
	r.wasApplied(dec)
	return nil
}
