package monitor

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/rekorv1"
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
	archived  []uint64         // sizes that this run was the first to archive
	source    string           // of an import
	issuers   *issuers
	served    time.Time // when the newest tree head served was signed; CT only
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
	err := w.guard(func() error { return w.watch(loaded) })
	if w.st != nil {
		w.closeUp()
	}
	w.conclude(w.dark(err))
}

// guard makes of a panic the failure of this log: a bug that one log meets must not
// end the run of the others (P6).
func (w *logRun) guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			w.Logger.Error("panic", "run", w.id, "log", w.info.ID, "stack", fmt.Sprintf("%.8000s", debug.Stack()))
			err = fmt.Errorf("a bug in whosigned, please report it: panic: %.1000v", p)
		}
	}()
	return f()
}

// watch is the audit of one log from its saved state to what it serves now.
func (w *logRun) watch(loaded func()) error {
	if err := w.load(); err != nil {
		return err
	}
	loaded()
	if err := w.decideEarly(); err != nil {
		return err
	}
	w.audit = tlog.Audit{Log: w.log, Archive: archive{w}, Again: w.Again}
	trusted, err := w.trusted()
	if err != nil {
		return err
	}
	verdict, err := w.audit.Advance(w.work, trusted)
	if verdict.Served != nil {
		w.served = verdict.Served.Time
		if w.info.Type == tlog.StaticCT { // its name is known from its first checkpoint on
			w.info.Origin = verdict.Served.Origin
		}
	}
	if err != nil && !w.fresh {
		// What was archived and not judged must not be taken for our history later.
		return errors.Join(err, w.noteStrays(tlog.Verdict{Unprovable: true}))
	}
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
	switch w.cfg.Coverage {
	case config.Full:
		return w.read(verdict)
	case config.Index:
		return w.readIndex(verdict)
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
		w.st = w.newState(doc)
		w.deliver.add(w.st)
		return nil
	case errors.Is(err, state.ErrNotExist) && known:
		err = state.Lost(w.info.ID)
	case errors.Is(err, state.ErrNotExist):
		w.fresh = true
		w.st = w.newState(w.newDoc())
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
	fresh.Notices = append(fresh.Notices, w.notice("its state was gone; a new baseline is taken by decision %s: %s. What the log held before it is not read", w.decisions[i].ID, w.decisions[i].Reason))
	w.st = w.newState(fresh)
	return nil
}

func isLost(err error) bool { var lost *state.LostError; return errors.As(err, &lost) }

func (w *logRun) newState(doc *state.Log) *logState {
	return &logState{doc: doc, state: w.State, pace: pace{every: w.CommitEvery, hurry: w.work.Done()}}
}

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

// notice is a sentence about this log that is to be said once.
func (w *logRun) notice(format string, args ...any) state.Notice {
	return state.Notice{At: w.Now().UTC(), Text: w.say(format, args...)}
}

// say is a sentence about this log for a notice.
func (w *logRun) say(format string, args ...any) string {
	name := w.info.Origin
	if name == "" {
		name = w.info.URL
	}
	return fmt.Sprintf("%s (log %.12s…): ", name, w.info.ID) + fmt.Sprintf(format, args...)
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
			"or decide: %s --baseline --reason …", w.info.ID, err, w.accept())
	}
	return &cp, nil
}

// archive keeps every verified checkpoint in the state.
type archive struct{ w *logRun }

// Keep implements tlog.Archive.
func (a archive) Keep(_ context.Context, cp tlog.Checkpoint) ([]byte, error) {
	ctx, cancel := a.w.keep()
	defer cancel()
	id := a.w.info.ID
	if note, err := a.w.State.Checkpoint(ctx, id, cp.Size); err == nil {
		if kept, err := a.w.log.Open(note); err == nil && kept.Root == cp.Root {
			return note, nil
		}
	} else if errors.Is(err, state.ErrNotExist) {
		a.w.archived = append(a.w.archived, cp.Size)
	}
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
		d.Checkpoint, d.CheckpointGrew, d.Watched = string(cp.Note), now, now
		d.Origin, d.Size, d.Coverage = cp.Origin, cp.Size, string(w.cfg.Coverage)
		d.Start, d.Scanned = start, frontier
		d.Grown(now)
		if start > 0 {
			d.Gaps = append(d.Gaps, state.Gap{From: 0, To: start, Reason: why, At: now})
		}
		d.Rules = []state.RulesFrom{{Hash: w.Config.Rules.Hash(), From: start, At: now}}
		d.Notices = append(d.Notices, w.notice("baseline taken at size %d; %s", cp.Size, w.reads(start)))
		if since := w.failedSince(); start > 0 && !since.IsZero() && w.decision(state.TakeBaseline) == nil {
			d.Notices = append(d.Notices, w.notice("it should have been watched since %s and could not be; what it took until now is not read. To look there: whosigned scan --config %s --log %s --from … --to %d",
				since.Format(time.RFC3339), w.Config.Path, w.info.ID, start))
		}
		for _, dec := range w.decisions {
			d.Applied = append(d.Applied, dec.ID)
		}
	})
	if err != nil {
		return err
	}
	w.wasApplied(w.decisions...)
	if err := w.doc.remember(ctx, w.info.ID, w.info.URL); err != nil {
		return err
	}
	w.result.Status = StatusBaseline
	w.advanced = true
	w.deliver.add(w.st)
	return nil
}

// start is the index that reading begins at, and why not at 0. The configured
// start is for a service that is seen for the first time; a new log of one already
// watched is read from its first entry.
func (w *logRun) start(cp tlog.Checkpoint) (start uint64, why string) {
	switch {
	case w.decision(state.TakeBaseline) != nil:
		return cp.Size, "new baseline: " + w.decision(state.TakeBaseline).Reason
	case w.cfg.Discovered && !w.cfg.Start.Given && w.listedLater():
		return 0, "" // the trusted root came to list it while we watched
	case w.services[w.info.URL], w.sinceImport():
		return 0, ""
	case w.info.Type == tlog.RekorV2 && !w.cfg.Discovered && !w.cfg.Start.Given && w.hasSibling():
		return 0, "" // a further shard: what it took before we were told of it counts
	case w.cfg.Start.Head:
		return cp.Size, "reading starts at the head"
	}
	return min(w.cfg.Start.Index, cp.Size), "reading starts at the configured index"
}

// failedSince is since when runs have failed to take this log's baseline; zero if none
// has.
func (w *logRun) failedSince() time.Time {
	open := w.doc.conditions()
	if c, ok := open["log:"+string(w.info.ID)+":unchecked"]; ok {
		return c.Since
	}
	return open["service:"+w.info.URL+":"].Since
}

func (w *logRun) listedLater() bool {
	key, _, _ := strings.Cut(string(w.info.ID), "-")
	return w.listed[tlog.ID(key)].Later
}

// sinceImport says whether this is a tree or shard that came after another monitor had
// saved the checkpoint that watching goes on from.
func (w *logRun) sinceImport() bool {
	imported := w.doc.imported()
	if tree, ok := w.log.(*rekorv1.Tree); ok {
		after, ok := imported[w.info.URL]
		base, err := tree.Offset()
		return ok && err == nil && base >= after
	}
	if w.info.Type != tlog.RekorV2 || w.cfg.Start.Given {
		return false
	}
	return slices.ContainsFunc(w.Config.Logs, func(l config.Log) bool {
		_, ok := imported[l.URL]
		return ok && l.Type == tlog.RekorV2 && !l.Since.IsZero() && l.Since.Before(w.cfg.Since)
	})
}

// hasSibling says whether another Rekor v2 shard was watched before this run.
func (w *logRun) hasSibling() bool {
	for _, l := range w.Config.Logs {
		if l.Type == tlog.RekorV2 && l.URL != w.info.URL && w.services[l.URL] {
			return true
		}
	}
	return false
}

func (w *logRun) reads(start uint64) string {
	switch {
	case w.cfg.Coverage == config.Consistency:
		return "its history is proven, its entries are not read (coverage: consistency)"
	case w.cfg.Coverage == config.Index:
		return "its history is proven, and its search index is asked (coverage: index, best effort)"
	case start == 0:
		return "its entries are read from the first"
	}
	return fmt.Sprintf("its entries are read from index %d on, those before are not", start)
}

// judge commits what the verdict says about a log that was seen before.
func (w *logRun) judge(v tlog.Verdict, trusted *tlog.Checkpoint) error {
	now := w.Now().UTC()
	if v.Unprovable {
		v.Incident = w.rollback(v, now)
	}
	if err := w.noteStrays(v); err != nil {
		return err
	}
	changes, err := w.decide(v, now)
	if err != nil {
		return err
	}
	ctx, cancel := w.keep()
	defer cancel()
	if v.Incident != nil {
		change, err := w.accuse(ctx, v.Incident)
		if err != nil {
			return err
		}
		changes = append(changes, change)
	}
	changes = append(changes, func(d *state.Log) { d.Lags = lags(d.Lags, d.Lag(now)) })
	frozen := hasProof(w.st.read()) && w.decision(state.TakeBaseline) == nil || v.Incident != nil && v.Incident.Proof
	err = w.st.commit(ctx, func(d *state.Log) {
		w.follow(d, v, trusted, frozen, now)
		for _, change := range changes {
			change(d)
		}
	})
	if err != nil {
		return err
	}
	w.wasApplied(w.decisions...)
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
		if d.Retired != nil {
			d.Retired = nil
			w.health.daily("log:"+string(w.info.ID)+":grows", w.say("it grew to size %d after it had been read to its end as one that takes no more entries; it is read on", v.Trusted.Size),
				"its operator may have ended it later than announced; if it goes on, ask")
		}
	}
	if d.RetiredByDate && !w.ended() {
		d.Retired, d.RetiredByDate, d.RetiredSaid, d.Dark, d.DarkSaid = nil, false, false, nil, false
		d.Notices = append(d.Notices, w.notice("the trusted root lists it among the logs that take entries again; it is watched as before"))
	}
	d.Checkpoint, d.Size = string(v.Trusted.Note), v.Trusted.Size
	d.Grown(now)
	d.Strays = slices.DeleteFunc(slices.Clone(d.Strays), func(s uint64) bool { return s == v.Trusted.Size })
	if c := string(w.cfg.Coverage); d.Coverage != c {
		if d.Coverage == string(config.Full) && w.cfg.Coverage == config.Index {
			d.Notices = append(d.Notices, w.notice("coverage is index now: entries from index %d on are only found if its search index lists them", scannedOf(d)))
		}
		if d.Coverage != "" && w.cfg.Coverage == config.Consistency {
			d.Notices = append(d.Notices, w.notice("coverage is consistency now: its history is proven, entries from index %d on are not read", scannedOf(d)))
		}
		d.Coverage = c
	}
	if d.Origin != v.Trusted.Origin {
		d.Notices = append(d.Notices, w.notice("the origin line of its checkpoints changed from %q to %q; it is the same log under the same key", d.Origin, v.Trusted.Origin))
		d.Origin = v.Trusted.Origin
	}
	if h := w.Config.Rules.Hash(); w.cfg.Coverage == config.Full && d.Scanned != nil && (len(d.Rules) == 0 || d.Rules[len(d.Rules)-1].Hash != h) {
		d.Rules = append(d.Rules, state.RulesFrom{Hash: h, From: d.Scanned.Size, At: now})
		d.Notices = append(d.Notices, w.notice("the rules were changed: the new ones hold from index %d on; to hold them against earlier entries: whosigned scan --config %s --log %s --from %d --to %d", d.Scanned.Size, w.Config.Path, w.info.ID, d.Start, d.Scanned.Size))
	}
}

// maxStrays bounds what a log can make us remember of other histories. With as many
// nothing archived is taken to be of the trusted one: see common.
const maxStrays = 1000

// noteStrays remembers the sizes that this run archived of another history than
// the trusted, before anything else can fail.
func (w *logRun) noteStrays(v tlog.Verdict) error {
	doc := w.st.read()
	outside := hasProof(doc) || v.Incident != nil || v.Unprovable || w.decision(state.TakeBaseline) != nil
	if !outside || len(w.archived) == 0 || len(doc.Strays) >= maxStrays {
		return nil
	}
	ctx, cancel := w.keep()
	defer cancel()
	return w.st.commit(ctx, func(d *state.Log) { d.Strays = append(d.Strays, w.archived...) })
}
