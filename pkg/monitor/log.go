package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/watch"
)

// logRun is one log in one run.
type logRun struct {
	*run
	log       tlog.Log
	cfg       config.Log
	info      tlog.Info
	audit     tlog.Audit
	st        *logState
	fresh     bool // there was no state: this run takes the baseline
	decisions []state.Decision
	result    LogResult
	findings  []watch.Finding  // up to maxFindings of this run
	strays    []IncidentResult // of a log that has no state yet
	seen      map[string]bool  // incidents seen in this run
	advanced  bool             // the checkpoint was judged, and nothing counts against it
	clear     bool             // and every leaf up to it could be read
}

// watchLog does all that a run does about one log. Whatever goes wrong stays with
// this log (P6).
func (r *run) watchLog(l watched, loaded func()) {
	defer loaded()
	w := &logRun{run: r, log: l.Log, cfg: l.cfg, info: l.Info(), seen: make(map[string]bool)}
	w.result = LogResult{
		ID: w.info.ID, Origin: w.info.Origin, Type: w.info.Type, URL: w.info.URL, TreeID: w.info.TreeID,
		Coverage: l.cfg.Coverage, Status: StatusOK,
	}
	err := w.watch(loaded)
	if w.st != nil {
		w.closeUp()
	}
	w.conclude(w.dark(err))
}

// watch is the audit of one log from its saved state to what it serves now.
func (w *logRun) watch(loaded func()) error {
	if err := w.load(); err != nil {
		return err
	}
	loaded()
	w.audit = tlog.Audit{Log: w.log, Archive: archive{w}, Again: w.Again}
	trusted, err := w.trusted()
	if err != nil {
		return err
	}
	verdict, err := w.audit.Advance(w.work, trusted)
	if err != nil {
		return err
	}
	if w.fresh {
		if err := w.baseline(verdict); err != nil {
			return err
		}
	} else if err := w.judge(verdict, trusted); err != nil {
		return err
	}
	if w.st == nil || w.result.Error != "" {
		return nil
	}
	if w.cfg.Coverage == config.Full {
		return w.read(verdict)
	}
	return nil
}

// load takes the log's document from state, or prepares a new one. State that is
// lost or corrupt is an error until a decision takes a new baseline (P9).
func (w *logRun) load() error {
	ctx, cancel := w.keep()
	defer cancel()
	doc, err := w.State.LoadLog(ctx, w.info.ID)
	_, known := w.doc.known()[w.info.ID]
	var corrupt *state.CorruptError
	switch {
	case err == nil:
		w.decisions = notApplied(w.pending[w.info.ID], doc.Applied)
		w.st = &logState{doc: doc, state: w.State, every: w.CommitEvery}
		w.deliver.add(w.st)
		return nil
	case errors.Is(err, state.ErrNotExist) && known:
		err = state.Lost(w.info.ID)
	case errors.Is(err, state.ErrNotExist):
		w.fresh = true
		w.st = &logState{doc: w.newDoc(), state: w.State, every: w.CommitEvery}
		return nil
	}
	if !errors.As(err, &corrupt) && !errors.Is(err, state.ErrNotExist) && !isLost(err) {
		return err
	}
	w.decisions = w.pending[w.info.ID]
	i := slices.IndexFunc(w.decisions, func(d state.Decision) bool { return d.Kind == state.TakeBaseline })
	if i < 0 {
		return err
	}
	w.fresh = true
	fresh := w.newDoc()
	if corrupt != nil {
		fresh.Supersede(corrupt)
	}
	if sizes, err := w.State.Sizes(ctx, w.info.ID); err == nil && len(sizes) > 0 {
		fresh.ArchiveFloor = sizes[len(sizes)-1]
	}
	fresh.Notices = append(fresh.Notices, w.say("its state was gone (%v); a new baseline is taken by decision %s: %s. What the log held before it is not read", err, w.decisions[i].ID, w.decisions[i].Reason))
	w.st = &logState{doc: fresh, state: w.State, every: w.CommitEvery}
	return nil
}

func isLost(err error) bool { var lost *state.LostError; return errors.As(err, &lost) }

func (w *logRun) newDoc() *state.Log {
	return &state.Log{ID: w.info.ID, Type: w.info.Type, Origin: w.info.Origin, Service: w.info.URL}
}

func notApplied(decisions []state.Decision, applied []string) []state.Decision {
	var left []state.Decision
	for _, d := range decisions {
		if !slices.Contains(applied, d.ID) {
			left = append(left, d)
		}
	}
	return left
}

// say is a sentence about this log for a notice.
func (w *logRun) say(format string, args ...any) string {
	return fmt.Sprintf("%s (%s): ", w.info.Origin, w.info.ID) + fmt.Sprintf(format, args...)
}

// trusted is the checkpoint of the proven history, verified once more, or nil if
// there is none or a decision gives it up.
func (w *logRun) trusted() (*tlog.Checkpoint, error) {
	if w.fresh || w.decision(state.TakeBaseline) != nil {
		return nil, nil
	}
	cp, err := w.log.Open([]byte(w.st.read().Checkpoint))
	if err != nil {
		return nil, fmt.Errorf("the checkpoint in state/%s.json: %w; if the log's key was changed, configure both keys, "+
			"or decide: whosigned accept --log %s --baseline --reason …", w.info.ID, err, w.info.ID)
	}
	return &cp, nil
}

func (w *logRun) decision(kind state.DecisionKind) *state.Decision {
	for i := range w.decisions {
		if w.decisions[i].Kind == kind {
			return &w.decisions[i]
		}
	}
	return nil
}

// archive keeps every verified checkpoint in the state.
type archive struct{ w *logRun }

// Keep implements tlog.Archive.
func (a archive) Keep(ctx context.Context, cp tlog.Checkpoint) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTime)
	defer cancel()
	id := a.w.info.ID
	err := a.w.State.PutCheckpoint(ctx, id, cp)
	var contradiction *state.ContradictionError
	switch {
	case errors.As(err, &contradiction) && (cp.Size <= a.w.st.read().ArchiveFloor || a.w.decision(state.TakeBaseline) != nil):
		return cp.Note, nil // a decision gave up the history that it contradicts
	case errors.As(err, &contradiction):
		return contradiction.Archived, nil
	case err != nil:
		return nil, err
	}
	return a.w.State.Checkpoint(ctx, id, cp.Size)
}

// baseline begins to watch a log: its history is trusted from here on, and read
// from the start that applies.
func (w *logRun) baseline(v tlog.Verdict) error {
	if v.Incident != nil {
		// There is nothing yet that it could contradict, and nothing to keep it in but
		// the result: most likely the key is not this log's.
		w.st = nil
		return w.stray(v.Incident)
	}
	cp := v.Trusted
	start, why := w.start(cp)
	if w.cfg.Coverage == config.Full && !w.cfg.AcceptLag {
		if err := w.plan(start, cp.Size).refuse(); err != nil {
			w.st = nil
			return err
		}
	}
	var frontier *tlog.Frontier
	if w.cfg.Coverage == config.Full {
		f, incident, err := w.audit.Frontier(w.work, start, cp)
		if err != nil || incident != nil {
			w.st = nil
			if incident != nil {
				return w.stray(incident)
			}
			return err
		}
		frontier = &f
	}
	ctx, cancel := w.keep()
	defer cancel()
	now := w.Now().UTC()
	err := w.st.commit(ctx, func(d *state.Log) {
		d.Checkpoint, d.CheckpointGrew = string(cp.Note), now
		d.Origin = cp.Origin
		d.Start, d.Scanned = start, frontier
		if start > 0 {
			d.Gaps = append(d.Gaps, state.Gap{From: 0, To: start, Reason: why, At: now})
		}
		d.Rules = []state.RulesFrom{{Hash: w.Config.Rules.Hash(), From: start, At: now}}
		d.Notices = append(d.Notices, w.say("baseline taken at size %d; %s", cp.Size, w.reads(start)))
		for _, dec := range w.decisions {
			d.Applied = append(d.Applied, dec.ID)
		}
	})
	if err != nil {
		return err
	}
	if err := w.doc.remember(ctx, w.info.ID, w.info.URL); err != nil {
		return err
	}
	w.result.Status = StatusBaseline
	w.advanced = true
	w.deliver.add(w.st)
	return nil
}

// stray is an incident of a log that has no state yet. It is said in the result,
// so that the run ends as one that saw tampering, and as a health condition.
func (w *logRun) stray(in *tlog.Incident) error {
	w.result.Status = StatusTamper
	now := w.Now().UTC()
	w.health.atOnce("log:"+string(w.info.ID)+":first", w.say("%s. This log was never seen in order: if it was configured just now, its key or origin may be wrong", in.Text),
		"compare the configured key and origin with those that the log's operator publishes")
	w.strays = append(w.strays, IncidentResult{ID: in.ID, Log: w.info.ID, Kind: string(in.Kind), Proof: in.Proof, Text: in.Text, Opened: now})
	return errors.New(in.Text)
}

// start is the index that reading begins at, and why not at 0. The configured
// start is for a service that is seen for the first time; a new log of one already
// watched is read from its first entry.
func (w *logRun) start(cp tlog.Checkpoint) (start uint64, why string) {
	switch {
	case w.decision(state.TakeBaseline) != nil:
		return cp.Size, "new baseline: " + w.decision(state.TakeBaseline).Reason
	case w.services[w.info.URL]:
		return 0, ""
	case w.cfg.Start.Head:
		return cp.Size, "reading starts at the head"
	}
	return min(w.cfg.Start.Index, cp.Size), "reading starts at the configured index"
}

func (w *logRun) reads(start uint64) string {
	switch {
	case w.cfg.Coverage == config.Consistency:
		return "its history is proven, its entries are not read (coverage: consistency)"
	case start == 0:
		return "its entries are read from the first"
	}
	return fmt.Sprintf("its entries are read from index %d on, those before are not", start)
}

// judge commits what the verdict says about a log that was seen before.
func (w *logRun) judge(v tlog.Verdict, trusted *tlog.Checkpoint) error {
	ctx, cancel := w.keep()
	defer cancel()
	now := w.Now().UTC()
	if v.Unprovable {
		v.Incident = w.rollback(v, now)
	}
	var changes []func(*state.Log)
	if v.Incident != nil {
		change, err := w.accuse(ctx, v.Incident)
		if err != nil {
			return err
		}
		changes = append(changes, change)
	}
	decided, err := w.decide(ctx, v, now)
	if err != nil {
		return err
	}
	frozen := hasProof(w.st.read()) && w.decision(state.TakeBaseline) == nil && !w.closes(w.st.read())
	err = w.st.commit(ctx, func(d *state.Log) {
		for _, change := range append(changes, decided...) {
			change(d)
		}
		w.follow(d, v, trusted, frozen || v.Incident != nil && v.Incident.Proof, now)
	})
	if err != nil {
		return err
	}
	if err := w.doc.remember(ctx, w.info.ID, w.info.URL); err != nil {
		return err
	}
	w.deliver.poke()
	switch {
	case v.Incident != nil, frozen:
		w.result.Status = StatusTamper
	case v.Stale, v.Unprovable:
		w.result.Status = StatusStale
		w.health.lasting("log:"+string(w.info.ID)+":stale", w.say("it serves an older checkpoint of size %d, after size %d", v.Served.Size, v.Trusted.Size),
			"a cache or replica may lag; if it lasts, ask the log's operator")
	default:
		w.advanced = true
	}
	return nil
}

// follow moves the document to the verdict's checkpoint, unless proof of
// tampering freezes it.
func (w *logRun) follow(d *state.Log, v tlog.Verdict, trusted *tlog.Checkpoint, frozen bool, now time.Time) {
	if v.Unprovable {
		if d.Rollback == nil {
			d.Rollback = &now
		}
	} else if v.Served != nil {
		d.Rollback = nil
	}
	if frozen || v.Trusted.Note == nil {
		return
	}
	if trusted == nil || v.Trusted.Size > trusted.Size {
		d.CheckpointGrew = now
	}
	d.Checkpoint = string(v.Trusted.Note)
	if d.Origin != v.Trusted.Origin {
		d.Notices = append(d.Notices, w.say("the origin line of its checkpoints changed from %q to %q; it is the same log under the same key", d.Origin, v.Trusted.Origin))
		d.Origin = v.Trusted.Origin
	}
	if h := w.Config.Rules.Hash(); w.cfg.Coverage == config.Full && d.Scanned != nil && (len(d.Rules) == 0 || d.Rules[len(d.Rules)-1].Hash != h) {
		d.Rules = append(d.Rules, state.RulesFrom{Hash: h, From: d.Scanned.Size, At: now})
		d.Notices = append(d.Notices, w.say("the rules were changed: the new ones hold from index %d on; to hold them against earlier entries: whosigned scan --log %s --from N --to %d", d.Scanned.Size, w.info.ID, d.Scanned.Size))
	}
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

func hasProof(d *state.Log) bool {
	return slices.ContainsFunc(d.Incidents, func(i state.Incident) bool { return i.Proof && i.Closed == "" })
}

// closes says whether the decisions of this run close every proof that is open.
func (w *logRun) closes(d *state.Log) bool {
	for _, i := range d.Incidents {
		if i.Proof && i.Closed == "" && !slices.ContainsFunc(w.decisions, func(dec state.Decision) bool {
			return dec.Kind == state.CloseIncident && dec.Incident == i.ID
		}) {
			return false
		}
	}
	return true
}

// decide applies the operator's decisions, each once, and announces them.
func (w *logRun) decide(ctx context.Context, v tlog.Verdict, now time.Time) ([]func(*state.Log), error) {
	var changes []func(*state.Log)
	for _, dec := range w.decisions {
		var change func(*state.Log)
		var err error
		switch dec.Kind {
		case state.TakeBaseline:
			change, err = w.rebase(ctx, dec, v, now)
		case state.SkipTo:
			change, err = w.skip(dec, v, now)
		case state.CloseIncident:
			change = closeIncident(dec, w.say)
		case state.AcceptKey:
			change = func(d *state.Log) { d.Notices = append(d.Notices, w.say("a further key is accepted: %s", dec.Reason)) }
		default:
			err = fmt.Errorf("this release does not know decisions of kind %q", dec.Kind)
		}
		if err != nil {
			w.failf("decision %s for log %s was not applied: %v", dec.ID, dec.Log, err)
			continue
		}
		changes = append(changes, change, func(d *state.Log) { d.Applied = append(d.Applied, dec.ID) })
	}
	return changes, nil
}

// rebase takes a new baseline: what the log serves now is trusted from here on.
func (w *logRun) rebase(ctx context.Context, dec state.Decision, v tlog.Verdict, now time.Time) (func(*state.Log), error) {
	if v.Served == nil || v.Incident != nil {
		return nil, errors.New("the log serves no checkpoint that verifies")
	}
	sizes, err := w.State.Sizes(ctx, w.info.ID)
	if err != nil {
		return nil, err
	}
	scanned := w.st.read().Scanned
	if scanned != nil {
		f, incident, err := w.audit.Frontier(w.work, min(scanned.Size, v.Served.Size), *v.Served)
		if incident != nil {
			err = errors.New(incident.Text)
		}
		if err != nil {
			return nil, err
		}
		scanned = &f
	}
	return func(d *state.Log) {
		if len(sizes) > 0 {
			d.ArchiveFloor = max(d.ArchiveFloor, sizes[len(sizes)-1])
		}
		d.Scanned, d.Rollback, d.Stuck, d.Unproven = scanned, nil, nil, nil
		for i := range d.Incidents {
			if d.Incidents[i].Closed == "" {
				d.Incidents[i].Closed = dec.ID
			}
		}
		if scanned != nil {
			d.Gaps = append(d.Gaps, state.Gap{From: 0, To: scanned.Size, Reason: "read under the history given up for a new baseline: " + dec.Reason, Decision: dec.ID, At: now})
		}
		d.Notices = append(d.Notices, w.say("a new baseline is taken at size %d by decision of %s: %s. Its incidents are closed", v.Served.Size, dec.By, dec.Reason))
	}, nil
}

// skip passes over entries that are not to be read.
func (w *logRun) skip(dec state.Decision, v tlog.Verdict, now time.Time) (func(*state.Log), error) {
	if w.st.read().Scanned == nil {
		return nil, errors.New("the log's entries are not read (coverage: consistency)")
	}
	from := w.st.read().Scanned.Size
	if dec.SkipTo <= from {
		return nil, fmt.Errorf("entries are read up to index %d already", from)
	}
	f, incident, err := w.audit.Frontier(w.work, dec.SkipTo, v.Trusted)
	if incident != nil {
		err = errors.New(incident.Text)
	}
	if err != nil {
		return nil, err
	}
	return func(d *state.Log) {
		d.Scanned, d.Stuck = &f, nil
		d.Gaps = append(d.Gaps, state.Gap{From: from, To: dec.SkipTo, Reason: dec.Reason, Decision: dec.ID, At: now})
		d.Notices = append(d.Notices, w.say("entries %d to %d are skipped by decision of %s: %s", from, dec.SkipTo-1, dec.By, dec.Reason))
	}, nil
}

func closeIncident(dec state.Decision, say func(string, ...any) string) func(*state.Log) {
	return func(d *state.Log) {
		for i := range d.Incidents {
			if d.Incidents[i].ID == dec.Incident {
				d.Incidents[i].Closed = dec.ID
				d.Notices = append(d.Notices, say("incident %s is closed by decision of %s: %s", dec.Incident, dec.By, dec.Reason))
				return
			}
		}
		d.Notices = append(d.Notices, say("decision %s names incident %s, which this log does not have", dec.ID, dec.Incident))
	}
}

// accuse keeps an incident's evidence, and returns the change that lists it and
// alerts it, once, at once.
func (w *logRun) accuse(ctx context.Context, in *tlog.Incident) (func(*state.Log), error) {
	w.seen[in.ID] = true
	now := w.Now().UTC()
	evidence, err := json.MarshalIndent(in, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("incident %s: %w", in.ID, err)
	}
	name, err := w.State.PutIncident(ctx, w.info.ID, in.ID, evidence)
	if err != nil {
		return nil, fmt.Errorf("incident %s: %w", in.ID, err)
	}
	doc := w.st.read()
	i := slices.IndexFunc(doc.Incidents, func(k state.Incident) bool { return k.ID == in.ID })
	if i >= 0 && doc.Incidents[i].Closed != "" {
		// An operator has decided about this one: it is not alerted again, but the log
		// is not followed either.
		w.result.Error = in.Text + "; the incident is closed by decision, but the log still serves this: to follow it all the same: whosigned accept --baseline"
		return func(*state.Log) {}, nil
	}
	if i >= 0 && doc.Incidents[i].Ended == nil {
		return func(d *state.Log) {
			d.Incidents[i].Last = now
			if e := d.Incidents[i].Evidence; !slices.Contains(e, name) && len(e) < maxEvidence {
				d.Incidents[i].Evidence = append(slices.Clone(e), name)
			}
		}, nil
	}
	p, err := w.putAlert(ctx, report.Alert{
		Class: report.ClassTamper, Log: w.info.ID, Origin: w.info.Origin, LogType: w.info.Type,
		Incident: &report.Incident{ID: in.ID, Kind: in.Kind, Proof: in.Proof, Text: in.Text, Evidence: name, Checkpoints: in.Notes, Next: nextSteps(w.Config.Path, in)},
		Notes:    []string{"First seen " + now.Format(time.RFC3339) + " in run " + w.id + "."},
	})
	if err != nil {
		return nil, err
	}
	return func(d *state.Log) {
		k := state.Incident{ID: in.ID, Kind: string(in.Kind), Proof: in.Proof, Text: in.Text, Opened: now, Last: now, Evidence: []string{name}}
		if i >= 0 {
			k.Opened = d.Incidents[i].Opened
			k.Evidence = append(slices.Clone(d.Incidents[i].Evidence), name)
			d.Incidents[i] = k
		} else {
			d.Incidents = append(d.Incidents, k)
		}
		if p != nil {
			d.Outbox = append(d.Outbox, *p)
		}
	}, nil
}

// maxEvidence is how many evidence objects one incident may have: a log cannot
// fill our state by varying what it serves.
const maxEvidence = 50

// nextSteps is what a responder can do about an incident.
func nextSteps(path string, in *tlog.Incident) []string {
	steps := []string{
		"This shows what was served to us. Fetch the log's checkpoint from another network, and compare it with those above.",
		"Tell the log's operator; the evidence file holds everything that was served, and can be checked with the log's public key alone.",
	}
	accept := fmt.Sprintf("whosigned accept --config %s --log %s --incident %s --reason '…'", path, in.Log, in.ID)
	switch {
	case in.Proof:
		steps = append(steps, "Until a decision, the log's proven history stays where it is; new entries are read and reported as unproven.",
			"To follow what it serves now all the same: "+fmt.Sprintf("whosigned accept --config %s --log %s --baseline --reason '…'", path, in.Log))
	case in.Kind == tlog.BadLeaf:
		steps = append(steps, "Reading stops before this leaf and goes on after 6 hours, or at once by: "+
			fmt.Sprintf("whosigned accept --config %s --log %s --skip-to N --reason '…'", path, in.Log))
	}
	return append(steps, "When it is cleared up: "+accept)
}
