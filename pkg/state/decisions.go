package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/whosigned/whosigned/pkg/tlog"
)

// PutDecision writes what an operator decided and returns its ID, which follows
// from the decision: its time, then a hash. So IDs sort by time, and a repeated
// write is the same decision. d.ID is ignored.
func (s *State) PutDecision(ctx context.Context, d Decision) (string, error) {
	if err := d.check(); err != nil {
		return "", err
	}
	d.At = d.At.UTC().Round(0)
	d.ID = ""
	unnamed, err := json.Marshal(d)
	if err != nil {
		return "", fmt.Errorf("decision about log %s: %w", d.Log, err)
	}
	d.ID = strings.ToLower(d.At.Format("20060102T150405.000Z")) + "-" + contentHash(unnamed)
	data, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return "", fmt.Errorf("decision about log %s: %w", d.Log, err)
	}
	return d.ID, s.create(ctx, decisionName(d.ID), append(data, '\n'))
}

// MarkApplied records that a decision was applied, apart from the document of
// the log that it changed: should that be lost, an old decision must not be taken
// for a new one.
func (s *State) MarkApplied(ctx context.Context, id string) error {
	return s.create(ctx, "state/applied/"+id, []byte("{}\n"))
}

// Applied returns the IDs of the decisions that MarkApplied recorded.
func (s *State) Applied(ctx context.Context) (map[string]bool, error) {
	applied := make(map[string]bool)
	for name, err := range s.store.List(ctx, "state/applied/") {
		if err != nil {
			return nil, fmt.Errorf("applied decisions: %w", err)
		}
		applied[strings.TrimPrefix(name, "state/applied/")] = true
	}
	return applied, nil
}

// Decisions returns all decisions, oldest first, applied ones and those of a
// kind that this release does not know included. With an error, they are those that
// could be read.
func (s *State) Decisions(ctx context.Context) ([]Decision, error) {
	var all []Decision
	var failed []error
	for name, err := range s.store.List(ctx, "decisions/") {
		if err != nil {
			failed = append(failed, err)
			break
		}
		d, err := s.decision(ctx, name)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b Decision) int { return strings.Compare(a.ID, b.ID) })
	return all, errors.Join(failed...)
}

func (s *State) decision(ctx context.Context, name string) (Decision, error) {
	data, _, err := s.store.Read(ctx, name)
	if err != nil {
		return Decision{}, err
	}
	var d Decision
	err = json.Unmarshal(data, &d)
	if err == nil && decisionName(d.ID) != name {
		err = fmt.Errorf("it is decision %.100q", d.ID)
	}
	if err != nil {
		return Decision{}, &CorruptError{Name: name, Err: err, Remedy: "delete it, and decide again with whosigned accept"}
	}
	return d, nil
}

func decisionName(id string) string { return "decisions/" + id + ".json" }

// check refuses a decision that nobody could apply or account for.
func (d Decision) check() error {
	if _, err := tlog.ParseID(string(d.Log)); err != nil && d.Kind != TestAlert {
		return fmt.Errorf("decision: %w", err)
	}
	var complete bool
	switch d.Kind {
	case TestAlert:
		complete = d.Log == ""
	case TakeBaseline, SkipTo:
		complete = true
	case AcceptKey:
		complete = d.Key != ""
	case CloseIncident:
		complete = d.Incident != ""
	default:
		return fmt.Errorf("decision about log %s: unknown kind %q", d.Log, d.Kind)
	}
	if !complete {
		return fmt.Errorf("decision about log %s: %q without its %s", d.Log, d.Kind, d.Kind)
	}
	if strings.TrimSpace(d.Reason) == "" {
		return fmt.Errorf("decision about log %s: it needs a reason", d.Log)
	}
	// Four digits of a year keep IDs in the order of time.
	if year := d.At.UTC().Year(); d.At.IsZero() || year > 9999 {
		return fmt.Errorf("decision about log %s: its time is %v", d.Log, d.At)
	}
	return nil
}
