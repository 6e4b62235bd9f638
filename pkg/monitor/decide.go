package monitor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
)

// decision is the first of a kind that is still to be applied.
func (w *logRun) decision(kind state.DecisionKind) *state.Decision {
	for i := range w.decisions {
		if w.decisions[i].Kind == kind {
			return &w.decisions[i]
		}
	}
	return nil
}

// wasApplied marks decisions apart from the log's document: see state.MarkApplied.
func (r *run) wasApplied(decisions ...state.Decision) {
	ctx, cancel := r.keep()
	defer cancel()
	for _, d := range decisions {
		if err := r.State.MarkApplied(ctx, d.ID); err != nil {
			r.failf("decision %s: %v", d.ID, err)
		}
	}
}

// announce is the change that says a decision about incidents to those who were
// told of them.
func (w *logRun) announce(ctx context.Context, incidents []string, text string) (func(*state.Log), error) {
	p, err := w.putAlert(ctx, report.Alert{
		Class: report.ClassTamper, Log: w.info.ID, Origin: w.info.Origin, LogType: w.info.Type, Notes: []string{text}, About: incidents,
	})
	if err != nil {
		return nil, err
	}
	return func(d *state.Log) {
		if p != nil {
			d.Outbox = append(d.Outbox, *p)
		}
	}, nil
}

// decideEarly applies the decisions that need nothing of the log: they hold even
// while it cannot be opened.
func (w *logRun) decideEarly() error {
	var early, late []state.Decision
	for _, dec := range w.decisions {
		if dec.Kind == state.CloseIncident || dec.Kind == state.AcceptKey {
			early = append(early, dec)
		} else {
			late = append(late, dec)
		}
	}
	if len(early) == 0 || w.fresh {
		return nil
	}
	ctx, cancel := w.keep()
	defer cancel()
	var announced []func(*state.Log)
	for _, dec := range early {
		if dec.Kind == state.CloseIncident {
			said, err := w.announce(ctx, []string{dec.Incident}, fmt.Sprintf("incident %s is closed by decision of %s: %s", dec.Incident, dec.By, dec.Reason))
			if err != nil {
				return err
			}
			announced = append(announced, said)
		}
	}
	err := w.st.commit(ctx, func(d *state.Log) {
		for _, dec := range early {
			if dec.Kind == state.AcceptKey {
				d.Notices = append(d.Notices, w.notice("a further key is accepted for this log, and for no other of its service, by decision of %s: %s", dec.By, dec.Reason))
			} else {
				w.closeIncident(d, dec)
			}
			d.Applied = append(d.Applied, dec.ID)
		}
		for _, said := range announced {
			said(d)
		}
	})
	if err != nil {
		return err
	}
	w.wasApplied(early...)
	w.decisions = late
	return nil
}

func (w *logRun) closeIncident(d *state.Log, dec state.Decision) {
	i := slices.IndexFunc(d.Incidents, func(k state.Incident) bool { return k.ID == dec.Incident })
	if i < 0 {
		d.Notices = append(d.Notices, w.notice("decision %s names incident %s, which this log does not have", dec.ID, dec.Incident))
		return
	}
	d.Incidents[i].Closed = dec.ID
	w.result.Notes = append(w.result.Notes, w.say("incident %s is closed by decision of %s: %s", dec.Incident, dec.By, dec.Reason))
}

// decide prepares the decisions that need the log. A baseline that cannot be
// taken is an error: the log must not be followed without it.
func (w *logRun) decide(v tlog.Verdict, now time.Time) ([]func(*state.Log), error) {
	var changes []func(*state.Log)
	var left []state.Decision
	for _, dec := range w.decisions {
		var change func(*state.Log)
		var err error
		switch dec.Kind {
		case state.TakeBaseline:
			if change, err = w.rebase(dec, v, now); err != nil {
				return nil, fmt.Errorf("decision %s, a new baseline, cannot be applied yet: %w", dec.ID, err)
			}
		case state.SkipTo:
			change, err = w.skip(dec, v, now)
		default:
			err = fmt.Errorf("this release does not know decisions of kind %q", dec.Kind)
		}
		if err != nil {
			w.failf("decision %s for log %s was not applied: %v", dec.ID, dec.Log, err)
			continue
		}
		left = append(left, dec)
		changes = append(changes, change, func(d *state.Log) { d.Applied = append(d.Applied, dec.ID) })
	}
	w.decisions = left // those that will have been applied
	return changes, nil
}

// rebase takes a new baseline: what the log serves now is trusted from here on.
// Reading goes on where the histories are known to be one, so that nothing that the
// new one holds is passed over.
func (w *logRun) rebase(dec state.Decision, v tlog.Verdict, now time.Time) (func(*state.Log), error) {
	if v.Served == nil || v.Incident != nil {
		return nil, errors.New("the log serves no checkpoint that verifies")
	}
	sizes, err := w.State.Sizes(w.work, w.info.ID)
	if err != nil {
		return nil, err
	}
	doc := w.st.read()
	scanned := doc.Scanned
	if scanned != nil {
		f, incident, err := w.audit.Frontier(w.work, min(w.common(doc, *v.Served), scanned.Size), *v.Served)
		if incident != nil {
			err = errors.New(incident.Text)
		}
		if err != nil {
			return nil, err
		}
		scanned = &f
	}
	ctx, cancel := w.keep()
	defer cancel()
	announced := func(*state.Log) {}
	var closes []string
	for _, i := range openIncidents(doc) {
		closes = append(closes, i.ID)
	}
	if len(closes) > 0 {
		if announced, err = w.announce(ctx, closes, fmt.Sprintf("a new baseline is taken at size %d by decision of %s, and the log's incidents are closed: %s", v.Served.Size, dec.By, dec.Reason)); err != nil {
			return nil, err
		}
	}
	return func(d *state.Log) {
		announced(d)
		if len(sizes) > 0 {
			d.ArchiveFloor = max(d.ArchiveFloor, sizes[len(sizes)-1])
		}
		d.Scanned, d.Rollback, d.Stuck, d.Unproven, d.Strays = scanned, nil, nil, nil, nil
		d.Seen, d.Lags = nil, nil
		d.Grown(now)
		// Those above are read again.
		d.Holes = slices.DeleteFunc(slices.Clone(d.Holes), func(h state.Hole) bool { return h.Index >= scannedOf(d) })
		for i := range d.Incidents {
			if d.Incidents[i].Closed == "" {
				d.Incidents[i].Closed = dec.ID
			}
		}
		d.Notices = append(d.Notices, w.notice("a new baseline is taken at size %d by decision of %s: %s. Its incidents are closed; its entries are read from index %d on", v.Served.Size, dec.By, dec.Reason, scannedOf(d)))
	}, nil
}

// common is the largest size, as far as is known, at which the log's trusted
// history and cp's are one; not below where reading began.
func (w *logRun) common(doc *state.Log, cp tlog.Checkpoint) uint64 {
	floor := min(doc.Start, cp.Size)
	if trusted, err := w.log.Open([]byte(doc.Checkpoint)); err == nil && w.extends(trusted, cp) {
		return trusted.Size
	}
	all, err := w.State.Sizes(w.work, w.info.ID)
	if err != nil || len(doc.Strays) >= maxStrays {
		return floor
	}
	sizes := slices.DeleteFunc(all, func(s uint64) bool {
		return s > doc.Size || s > cp.Size || s <= floor || s <= doc.ArchiveFloor || slices.Contains(doc.Strays, s)
	})
	differ := sort.Search(len(sizes), func(i int) bool {
		note, err := w.State.Checkpoint(w.work, w.info.ID, sizes[i])
		if err != nil {
			return true
		}
		old, err := w.log.Open(note)
		return err != nil || !w.extends(old, cp)
	})
	if differ == 0 {
		return floor
	}
	return sizes[differ-1]
}

// extends says whether the log proves that cp's tree extends old's.
func (w *logRun) extends(old, cp tlog.Checkpoint) bool {
	ok, err := w.audit.Extends(w.work, old, cp)
	return ok && err == nil
}

// skip passes over entries that are not to be read.
func (w *logRun) skip(dec state.Decision, v tlog.Verdict, now time.Time) (func(*state.Log), error) {
	doc := w.st.read()
	switch {
	case doc.Scanned == nil:
		return nil, errors.New("the log's entries are not read (coverage: consistency)")
	case hasProof(doc):
		return nil, errors.New("the log's history is frozen by proof of tampering: decide about that first")
	case dec.SkipTo <= doc.Scanned.Size:
		return nil, fmt.Errorf("entries are read up to index %d already", doc.Scanned.Size)
	}
	f, incident, err := w.audit.Frontier(w.work, dec.SkipTo, v.Trusted)
	if incident != nil {
		err = errors.New(incident.Text)
	}
	if err != nil {
		return nil, err
	}
	return func(d *state.Log) {
		from := scannedOf(d)
		d.Scanned, d.Stuck = &f, nil
		d.Read()
		d.Gaps = append(d.Gaps, state.Gap{From: from, To: dec.SkipTo, Reason: dec.Reason, Decision: dec.ID, At: now})
		d.Notices = append(d.Notices, w.notice("entries %d to %d are skipped by decision of %s: %s", from, dec.SkipTo-1, dec.By, dec.Reason))
	}, nil
}
