package monitor

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
)

// closeUp ends what is over: suspicions that are no longer seen, and logs that
// were read to their end.
func (w *logRun) closeUp() {
	doc := w.st.read()
	if doc.Checkpoint == "" {
		return // a baseline that was not taken
	}
	now := w.Now().UTC()
	var ended []string
	for _, i := range doc.Incidents {
		if i.Closed == "" && i.Ended == nil && !i.Proof && !w.seen[i.ID] && w.judged(i, doc) {
			ended = append(ended, i.ID)
		}
	}
	retired := doc.Retired == nil && w.readToEnd(doc)
	if len(ended) == 0 && !retired {
		return
	}
	ctx, cancel := w.keep()
	defer cancel()
	var over []state.Pending
	for _, id := range ended {
		p, err := w.putAlert(ctx, report.Alert{
			Class: report.ClassTamper, Log: w.info.ID, Origin: w.info.Origin, LogType: w.info.Type,
			Notes: []string{w.say("incident %s is no longer seen since run %s. It stays on file, and runs end with status 4 until a decision: "+
				"whosigned accept --log %s --incident %s --reason …", id, w.id, w.info.ID, id)},
		})
		if err != nil {
			w.failf("announcing that incident %s is over: %v", id, err)
			return
		}
		if p != nil {
			over = append(over, *p)
		}
	}
	err := w.st.commit(ctx, func(d *state.Log) {
		for i := range d.Incidents {
			if slices.Contains(ended, d.Incidents[i].ID) {
				d.Incidents[i].Ended = &now
			}
		}
		if retired {
			d.Retired = &now
			d.Notices = append(d.Notices, w.say("it takes no more entries, and was read to its last one; it may now go dark"))
		}
		d.Outbox = append(d.Outbox, over...)
	})
	if err != nil {
		w.failf("log %s: %v", w.info.ID, err)
		return
	}
	w.deliver.poke()
}

// judged says whether this run looked at what the incident is about.
func (w *logRun) judged(i state.Incident, doc *state.Log) bool {
	switch tlog.Kind(i.Kind) {
	case tlog.BadLeaf, tlog.BadProof:
		return w.clear && len(doc.Holes) == 0
	case tlog.MissingLeaf:
		return w.clear // those still missing were seen
	}
	return w.advanced
}

// readToEnd says whether a log that takes no more entries was read to its end.
func (w *logRun) readToEnd(doc *state.Log) bool {
	cp, err := w.log.Open([]byte(doc.Checkpoint))
	if err != nil || !w.advanced || w.info.Active && !cp.Frozen {
		return false
	}
	return doc.Scanned == nil || doc.Scanned.Size == cp.Size
}

// unopened reports a known log that cannot be opened: its service is down, no
// longer lists it, or lists it with a note that does not verify.
func (r *run) unopened(f notFound, unverified *tlog.Unverified) {
	w := &logRun{run: r, cfg: f.cfg, info: tlog.Info{ID: f.id, Type: f.typ, URL: f.url}, seen: make(map[string]bool)}
	w.result = LogResult{ID: f.id, Type: f.typ, URL: f.url, Coverage: f.cfg.Coverage, Status: StatusOK}
	err := w.load()
	if err != nil || w.fresh {
		w.st = nil
		w.conclude(errors.Join(err, f.err))
		return
	}
	w.info.Origin = w.st.read().Origin
	w.result.Origin = w.info.Origin
	switch {
	case unverified != nil:
		err = w.unverified(unverified)
	case f.missing && w.st.read().Retired == nil:
		r.health.atOnce("log:"+string(f.id)+":missing", w.say("%v", f.err), "a service must not hide a tree: ask its operator; if it was taken down for good, remove it by an exclusive decision")
		err = f.err
	default:
		err = f.err
	}
	w.conclude(w.dark(err))
}

func (w *logRun) unverified(u *tlog.Unverified) error {
	ctx, cancel := w.keep()
	defer cancel()
	change, err := w.accuse(ctx, tlog.NewBadCheckpoint(w.info.ID, tlog.BadKey, u))
	if err != nil {
		return err
	}
	w.result.Status = StatusTamper
	if err := w.st.commit(ctx, change); err != nil {
		return err
	}
	w.deliver.poke()
	return u
}

// dark lets a retired log that was read to its end go: one notice, no error.
func (w *logRun) dark(err error) error {
	var gone *tlog.Unavailable
	if err == nil || w.st == nil || w.st.read().Retired == nil {
		return err
	}
	if !errors.As(err, &gone) && w.log != nil {
		return err
	}
	if w.result.Status == StatusTamper {
		return err
	}
	w.result.Status = StatusRetired
	if w.st.read().Dark != nil {
		return nil
	}
	ctx, cancel := w.keep()
	defer cancel()
	now := w.Now().UTC()
	return w.st.commit(ctx, func(d *state.Log) {
		d.Dark = &now
		d.Notices = append(d.Notices, w.say("it was read to its end and no longer answers (%v); that is not said again", err))
	})
}

// finish says what there is to say about the run as a whole, delivers what is
// left, and releases the lease.
func (r *run) finish(ctx context.Context) *Result {
	for name, n := range r.deliver.stuckSinks() {
		r.health.lasting("sink:"+name, fmt.Sprintf("sink %q does not take alerts: %s", name, n), "see the error; the alerts wait in the outbox and are tried again in every run")
	}
	notices := r.collectNotices()
	keep, cancel := r.keep()
	defer cancel()
	open, say := r.health.reconcile(r.doc.doc.Conditions)
	say = append(notices, say...)
	var pending *state.Pending
	if len(say) > 0 {
		var err error
		if pending, err = r.putAlert(keep, report.Alert{Class: report.ClassHealth, Health: say, Headline: r.firstRunHeadline(), Notes: r.firstRunNotes()}); err != nil {
			r.failf("health alert: %v", err)
		}
	}
	r.result.Health = conditionResults(open)
	err := r.doc.commit(keep, func(d *state.Run) {
		d.Conditions = open
		if pending != nil {
			d.Outbox = append(d.Outbox, *pending)
		}
		for _, id := range r.forgotten {
			delete(d.Logs, id)
		}
		d.Services = r.servicesWatched(d.Services)
	})
	if err != nil {
		r.failf("run.json: %v", err)
	} else {
		r.clearNotices(keep)
	}
	r.result.Alerts = r.deliver.finish()
	r.conclude(ctx)
	return &r.result
}

// conclude writes the result into run.json and releases the lease.
func (r *run) conclude(ctx context.Context) {
	stats := r.Client.Stats()
	r.result.Requests, r.result.Bytes = stats.Requests, stats.Bytes
	slices.SortFunc(r.result.Logs, func(a, b LogResult) int {
		return compareInfo(tlog.Info{URL: a.URL, ID: a.ID}, tlog.Info{URL: b.URL, ID: b.ID})
	})
	r.result.Finished = r.Now().UTC()
	r.result.Exit = r.result.exit()
	last := r.result
	last.Findings = nil // they are in findings/
	keep, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTime)
	defer cancel()
	err := r.doc.commit(keep, func(d *state.Run) {
		d.Lease = nil
		d.Last, d.LastRun = last, r.started
		if !r.result.failed() {
			d.LastGood = r.started
		}
	})
	if err != nil {
		r.failf("releasing the lease: %v", err)
		r.result.Exit = r.result.exit()
	}
}

// firstRunNotes are said with the first health alert of all.
func (r *run) firstRunNotes() []string {
	if !r.doc.first {
		return nil
	}
	notes := []string{"This is the first run: what each log holds now is taken as the baseline. From here on its history is proven, run by run."}
	for _, rule := range r.Config.Rules.Describe() {
		notes = append(notes, "Watching for "+rule)
	}
	return append(notes, "A log shows us what it shows us: a view forked for us alone cannot be seen without witnesses.")
}

// firstRunHeadline titles the mail of the first run, if nothing is wrong.
func (r *run) firstRunHeadline() string {
	n := 0
	for _, l := range r.result.Logs {
		if l.Status == StatusBaseline {
			n++
		}
	}
	switch {
	case !r.doc.first || n == 0:
		return ""
	case n == 1:
		return "first run: baseline taken for 1 log"
	}
	return fmt.Sprintf("first run: baseline taken for %d logs", n)
}

// servicesWatched are the services whose logs, all of them, have a state now.
// Only then is a log that appears later read from its first entry.
func (r *run) servicesWatched(before []string) []string {
	ok := make(map[string]bool)
	for _, l := range r.result.Logs {
		_, known := r.doc.doc.Logs[l.ID]
		if was, seen := ok[l.URL]; seen {
			known = known && was
		}
		ok[l.URL] = known
	}
	all := slices.Clone(before)
	for url, known := range ok {
		if known && !slices.Contains(all, url) {
			all = append(all, url)
		}
	}
	slices.Sort(all)
	return all
}

// collectNotices are what the logs' documents hold to be said once.
func (r *run) collectNotices() []report.Health {
	var say []report.Health
	for _, s := range r.logStates() {
		doc := s.read()
		for _, text := range doc.Notices {
			say = append(say, report.Health{Key: "log:" + string(doc.ID), State: report.Notice, Text: text, Since: r.started})
		}
	}
	return say
}

// clearNotices forgets notices that an outbox now holds.
func (r *run) clearNotices(ctx context.Context) {
	for _, s := range r.logStates() {
		if doc := s.read(); len(doc.Notices) == 0 {
			continue
		}
		if err := s.commit(ctx, func(d *state.Log) { d.Notices = nil }); err != nil {
			r.failf("log %s: %v", s.doc.ID, err)
		}
	}
}

// logStates are the documents of the logs that this run loaded or made.
func (r *run) logStates() []*logState {
	var all []*logState
	for _, b := range r.deliver.all() {
		if s, ok := b.(*logState); ok {
			all = append(all, s)
		}
	}
	return all
}
