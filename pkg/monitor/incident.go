package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
)

// maxEvidence is how many evidence objects one incident may have: a log cannot
// fill our state by varying what it serves.
const maxEvidence = 10

func hasProof(d *state.Log) bool {
	return slices.ContainsFunc(d.Incidents, func(i state.Incident) bool { return i.Proof && i.Closed == "" })
}

// rollback is the incident that an unprovable older checkpoint becomes once it
// has lasted; nil before.
func (w *logRun) rollback(v tlog.Verdict, now time.Time) *tlog.Incident {
	since := w.st.read().Rollback
	if since == nil || now.Sub(*since) < rollbackAfter {
		return nil
	}
	return tlog.NewRollback(w.info.ID, v.Trusted, *v.Served, *since)
}

// accuse keeps an incident's evidence, and returns the change that lists it and
// alerts it: once, and at once.
func (w *logRun) accuse(ctx context.Context, in *tlog.Incident) (func(*state.Log), error) {
	w.seen[in.ID] = true
	now := w.Now().UTC()
	doc := w.st.read()
	i := slices.IndexFunc(doc.Incidents, func(k state.Incident) bool { return k.ID == in.ID })
	goesOn := i >= 0 && doc.Incidents[i].Ended == nil
	if goesOn && doc.Incidents[i].Closed != "" {
		// An operator has decided about this one: it is not alerted again, but what the
		// log serves is not believed either.
		w.result.Error = in.Text + "; the incident is closed by decision, but the log still serves this: to follow it all the same: whosigned accept --baseline"
		return func(*state.Log) {}, nil
	}
	var evidence []string
	if i >= 0 {
		evidence = slices.Clone(doc.Incidents[i].Evidence)
	}
	if len(evidence) < maxEvidence {
		name, err := w.putEvidence(ctx, in)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(evidence, name) {
			evidence = append(evidence, name)
		}
	}
	if goesOn {
		return func(d *state.Log) { d.Incidents[i].Last, d.Incidents[i].Evidence = now, evidence }, nil
	}
	p, err := w.putAlert(ctx, w.tamperAlert(in, evidence[len(evidence)-1]))
	if err != nil {
		return nil, err
	}
	w.sayIncident(IncidentResult{ID: in.ID, Log: w.info.ID, Kind: string(in.Kind), Proof: in.Proof, Text: in.Text, Opened: now, Evidence: evidence[len(evidence)-1]})
	return func(d *state.Log) {
		k := state.Incident{ID: in.ID, Kind: string(in.Kind), Proof: in.Proof, Text: in.Text, Opened: now, Last: now, Evidence: evidence}
		if i >= 0 {
			d.Incidents[i] = k // it was over, and is news again
		} else {
			d.Incidents = append(d.Incidents, k)
		}
		if p != nil {
			d.Outbox = append(d.Outbox, *p)
		}
	}, nil
}

func (w *logRun) putEvidence(ctx context.Context, in *tlog.Incident) (string, error) {
	evidence, err := json.MarshalIndent(in, "", "  ")
	if err != nil {
		return "", fmt.Errorf("incident %s: %w", in.ID, err)
	}
	name, err := w.State.PutIncident(ctx, w.info.ID, in.ID, evidence)
	if err != nil {
		return "", fmt.Errorf("incident %s: %w", in.ID, err)
	}
	return name, nil
}

func (w *logRun) tamperAlert(in *tlog.Incident, evidence string) report.Alert {
	return report.Alert{
		Class: report.ClassTamper, Log: w.info.ID, Origin: w.info.Origin, LogType: w.info.Type,
		Incident: &report.Incident{ID: in.ID, Kind: in.Kind, Proof: in.Proof, Text: in.Text, Evidence: evidence, Checkpoints: in.Notes, Next: w.nextSteps(in)},
		Notes:    []string{"First seen " + w.Now().UTC().Format(time.RFC3339) + " in run " + w.id + "."},
	}
}

// charge is accuse with a commit of its own.
func (w *logRun) charge(in *tlog.Incident) error {
	ctx, cancel := w.keep()
	defer cancel()
	change, err := w.accuse(ctx, in)
	if err != nil {
		return err
	}
	w.result.Status = StatusTamper
	if err := w.st.commit(ctx, change); err != nil {
		return err
	}
	w.deliver.poke()
	return errors.New(in.Text)
}

// stray is an incident of a log that has no state yet, and nothing that could be
// frozen: most likely its configured key or origin is wrong. It makes the run one
// that saw tampering, is alerted when it is first seen, and then is a condition.
func (w *logRun) stray(in *tlog.Incident) error {
	w.result.Status = StatusTamper
	r := IncidentResult{ID: in.ID, Log: w.info.ID, Kind: string(in.Kind), Proof: in.Proof, Text: in.Text, Opened: w.Now().UTC()}
	defer func() { w.strays = append(w.strays, r) }()
	if w.deliver == nil {
		return errors.New(in.Text) // a look keeps nothing
	}
	key := "log:" + string(w.info.ID) + ":first"
	condition := func() {
		w.health.atOnce(key, w.say("%s. This log was never seen in order: if it was configured just now, its key or origin may be wrong", in.Text),
			"compare the configured key and origin with those that the log's operator publishes")
	}
	ctx, cancel := w.keep()
	defer cancel()
	var err error
	if r.Evidence, err = w.putEvidence(ctx, in); err != nil {
		return err
	}
	if _, known := w.doc.conditions()[key]; known {
		condition()
		return errors.New(in.Text)
	}
	w.sayIncident(r)
	p, err := w.putAlert(ctx, w.tamperAlert(in, r.Evidence))
	if err == nil && p != nil {
		err = w.doc.commit(ctx, func(d *state.Run) { d.Outbox = append(d.Outbox, *p) })
	}
	if err == nil {
		condition() // only now: the next run must not take the alert for sent
	}
	w.deliver.poke()
	return errors.Join(errors.New(in.Text), err)
}

// nextSteps are the decisions that an incident asks for; what to look at first is
// said by the report.
func (w *logRun) nextSteps(in *tlog.Incident) []string {
	accept := w.accept()
	var steps []string
	switch {
	case in.Proof:
		steps = append(steps, "To follow what it serves now all the same: "+accept+" --baseline --reason '…'")
	case in.Kind == tlog.BadLeaf && len(in.Leaves) > 0:
		steps = append(steps, fmt.Sprintf("Reading stops before this leaf and goes on after %s, or at once by: %s --skip-to %d --reason '…'", holeAfter, accept, in.Leaves[0].Index+1))
	}
	return append(steps, fmt.Sprintf("When it is cleared up: %s --incident %s --reason '…'", accept, in.ID))
}

// accept is the beginning of the command that decides about this log. A state in a
// bucket is named, as the configuration may leave it to the deployment.
func (w *logRun) accept() string {
	command := "whosigned accept --config " + w.Config.Path
	if strings.HasPrefix(w.Config.State, "gs://") {
		command += " --state " + w.Config.State
	}
	return fmt.Sprintf("%s --log %s", command, w.info.ID)
}
