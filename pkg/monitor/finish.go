package monitor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/whosigned/whosigned/pkg/config"
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
	// The end of a closed one is only recorded, so that it would be news again.
	var ended, announce []string
	for _, i := range doc.Incidents {
		if i.Ended == nil && !i.Proof && !w.seen[i.ID] && w.judged(i, doc) {
			ended = append(ended, i.ID)
			if i.Closed == "" {
				announce = append(announce, i.ID)
			}
		}
	}
	toEnd, byDate := w.readToEnd(doc)
	retired := doc.Retired == nil && toEnd
	answers := doc.Dark != nil && w.advanced
	// A release before this one did not say why.
	unsaid := doc.Retired != nil && toEnd && !doc.RetiredSaid
	if len(ended) == 0 && !retired && !answers && !unsaid {
		return
	}
	ctx, cancel := w.keep()
	defer cancel()
	var over []state.Pending
	for _, id := range announce {
		p, err := w.putAlert(ctx, report.Alert{
			Class: report.ClassTamper, Log: w.info.ID, Origin: w.info.Origin, LogType: w.info.Type, About: []string{id},
			Notes: []string{"no longer seen: " + w.say("incident %s. It stays on file, and runs end with status 4 until a decision: "+
				"%s --incident %s --reason '…'", id, w.accept(), id)},
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
		if answers {
			d.Dark, d.DarkSaid = nil, false
		}
		if unsaid {
			d.RetiredByDate, d.RetiredSaid = byDate, true
		}
		if retired {
			d.Retired, d.RetiredByDate = &now, byDate
			if !d.RetiredSaid {
				d.Notices = append(d.Notices, w.notice("it takes no more entries, and was read to its last one; it may now go dark"))
			}
			d.RetiredSaid = true
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
		return !slices.ContainsFunc(doc.Holes, func(h state.Hole) bool { return h.Incident == i.ID })
	}
	return w.advanced
}

// readToEnd says whether a log that takes no more entries was read to its end, and
// whether only the trusted root says that it takes none.
func (w *logRun) readToEnd(doc *state.Log) (toEnd, byDate bool) {
	cp, err := w.log.Open([]byte(doc.Checkpoint))
	if err != nil || !w.advanced {
		return false, false
	}
	said := cp.Frozen || w.info.Type == tlog.RekorV1 && !w.info.Active
	if byDate = !said; byDate && !w.ended() {
		return false, false
	}
	if w.cfg.Coverage == config.Index {
		return w.clear, byDate
	}
	return doc.Scanned == nil || doc.Scanned.Size == cp.Size, byDate
}

// ended: the trusted root says that it takes no more entries.
func (w *logRun) ended() bool { return w.cfg.Retired || w.cfg.Gone }

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
	if err := w.decideEarly(); err != nil {
		w.conclude(errors.Join(err, f.err))
		return
	}
	switch {
	case unverified != nil:
		err = w.unverified(unverified)
	case f.missing && w.st.read().Retired == nil:
		r.health.atOnce("log:"+string(f.id)+":missing", w.say("%v", f.err), "a service must not hide a tree: ask its operator why")
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

// dark lets a log be that is not there yet, and a retired one that was read to its end
// go: one notice, no error.
func (w *logRun) dark(err error) error {
	var gone *tlog.Unavailable
	if err != nil && w.fresh && w.cfg.Discovered && w.cfg.Since.After(w.started) && errors.As(err, &gone) {
		w.result.Notes = append(w.result.Notes, w.say("it is to take entries from %s on, as the trusted root says, and does not answer yet: %v", w.cfg.Since.Format(time.RFC3339), err))
		return nil
	}
	if err = w.darkListed(err); err == nil || w.st == nil || w.st.read().Retired == nil {
		return err
	}
	if !errors.As(err, &gone) && w.log != nil {
		return err
	}
	if w.st.read().RetiredByDate && !w.ended() {
		return err // the trusted root has it among those that take entries again
	}
	if w.result.Status == StatusTamper {
		return err
	}
	w.result.Status = StatusRetired
	now := w.Now().UTC()
	doc := w.st.read()
	if doc.DarkSaid || doc.Dark != nil && now.Sub(*doc.Dark) < w.Config.Patience {
		return nil
	}
	ctx, cancel := w.keep()
	defer cancel()
	return w.st.commit(ctx, func(d *state.Log) {
		if d.Dark == nil {
			d.Dark = &now
			return
		}
		d.DarkSaid = true
		d.Notices = append(d.Notices, w.notice("it was read to its end, and does not answer since %s (%v); that is not said again", d.Dark.Format(time.RFC3339), err))
	})
}

// finish says what there is to say about the run as a whole, delivers what is
// left, and releases the lease.
func (r *run) finish() *Result {
	r.deliver.settle()
	for name, n := range r.deliver.stuckSinks() {
		r.health.lasting("sink:"+name, fmt.Sprintf("sink %q does not take alerts: %s", name, n), "see the error; the alerts wait in the outbox and are tried again in every run")
	}
	if err := r.sayHealth(); err != nil {
		r.failf("what is to be said about health is kept for the next run: %v", err)
	} else {
		r.clearNotices()
	}
	r.copyEvidence()
	r.result.Alerts = r.deliver.finish()
	r.conclude()
	return &r.result
}

// sayHealth writes the alert of what changed in health, and of what is to be said
// once, and commits it together with the conditions: neither counts as said
// without the other.
func (r *run) sayHealth() error {
	keep, cancel := r.closing()
	defer cancel()
	notices := r.collectNotices()
	open, say := r.health.reconcile(r.doc.conditions())
	if r.refused && len(r.Sinks) == 0 {
		for key, c := range open {
			if strings.HasPrefix(key, configKey) {
				c.Said = time.Time{} // nobody was told
				open[key] = c
			}
		}
	}
	r.result.Health = conditionResults(open)
	for _, n := range notices {
		r.result.Notices = append(r.result.Notices, n.Text)
	}
	say = append(notices, say...)
	r.sayEach(say)
	var pending []state.Pending
	if len(say) > 0 {
		p, err := r.putAlert(keep, report.Alert{Class: report.ClassHealth, Health: say, Headline: r.firstRunHeadline(), Notes: r.firstRunNotes()})
		if err != nil {
			return err
		}
		if p != nil {
			pending = append(pending, *p)
		}
	}
	return r.doc.commit(keep, func(d *state.Run) {
		d.Conditions = open
		d.Outbox = append(d.Outbox, pending...)
		for _, id := range r.forgotten {
			delete(d.Logs, id)
		}
		if !r.refused {
			d.Services = servicesWatched(d)
			if listed, by := r.remembered(); len(listed) > 0 {
				d.Listed, d.ListedBy = listed, by
			}
		}
	})
}

// spent writes into the result what this run asked of the network.
func (r *run) spent() {
	if r.Client == nil {
		return
	}
	now := r.Client.Stats()
	r.result.Requests, r.result.Bytes = now.Requests-r.before.Requests, now.Bytes-r.before.Bytes
}

// conclude writes the result into run.json and releases the lease.
func (r *run) conclude() {
	r.spent()
	slices.SortFunc(r.result.Logs, func(a, b LogResult) int {
		return compareInfo(tlog.Info{URL: a.URL, ID: a.ID}, tlog.Info{URL: b.URL, ID: b.ID})
	})
	r.result.Finished = r.Now().UTC()
	r.settle()
	last := r.result
	last.Findings = nil // they are in findings/
	keep, cancel := r.closing()
	defer cancel()
	err := r.doc.commit(keep, func(d *state.Run) {
		d.Lease = nil
		d.Last, d.LastRun, d.FailingSince = last, r.started, last.FailingSince
		if !last.Failed {
			d.LastGood = r.started
		}
	})
	if err != nil {
		r.failf("releasing the lease: %v", err)
		r.settle()
	}
}

// settle says how the run went, and for how long runs have gone badly.
func (r *run) settle() {
	r.result.settle()
	r.result.FailingSince, r.result.Overdue = nil, false
	if !r.result.Failed {
		return
	}
	since := r.doc.failingSince()
	if since == nil {
		since = &r.started
	}
	r.result.FailingSince = since
	r.result.Overdue = r.Now().Sub(*since) >= r.Config.Patience
}

// closing is a context for what ends a run: it is written also when the time for
// everything else is over.
func (r *run) closing() (context.Context, context.CancelFunc) {
	limit := commitTime
	if r.caller.Err() != nil {
		limit = r.Grace
	}
	return context.WithTimeout(context.WithoutCancel(r.caller), limit)
}

// firstRunNotes are said with the first health alert of all.
func (r *run) firstRunNotes() []string {
	if !r.doc.first || r.refused || r.baselines() == 0 {
		return nil
	}
	notes := []string{"This is the first run: what each log holds now is taken as the baseline. From here on its history is proven, run by run."}
	for _, rule := range r.Config.Rules.Describe() {
		notes = append(notes, "Watching for "+rule)
	}
	return append(notes, "A log shows us what it shows us: a view forked for us alone cannot be seen without witnesses.")
}

// baselines is how many logs this run saw first.
func (r *run) baselines() (n int) {
	for _, l := range r.result.Logs {
		if l.Status == StatusBaseline {
			n++
		}
	}
	return n
}

// firstRunHeadline titles the mail of the first run, if nothing is wrong.
func (r *run) firstRunHeadline() string {
	n := r.baselines()
	switch {
	case !r.doc.first || n == 0:
		return ""
	case n == 1:
		return "first run: baseline taken for 1 log"
	}
	return fmt.Sprintf("first run: baseline taken for %d logs", n)
}

// servicesWatched are the services of which a log has been watched once the run
// that saw the service first is over. A log of theirs that appears later is read
// from its first entry.
func servicesWatched(d *state.Run) []string {
	all := slices.Clone(d.Services)
	for _, url := range d.Logs {
		if !slices.Contains(all, url) {
			all = append(all, url)
		}
	}
	slices.Sort(all)
	return all
}

// collectNotices are what the logs' documents hold to be said once.
func (r *run) collectNotices() []report.Health {
	if r.refused {
		return nil // a refusal leaves the logs' documents as they are, but for their outboxes
	}
	var say []report.Health
	for _, s := range r.logStates() {
		doc := s.read()
		for _, n := range doc.Notices {
			say = append(say, report.Health{Key: "log:" + string(doc.ID), State: report.Notice, Text: n.Text, Since: n.At})
		}
	}
	return say
}

// clearNotices forgets notices that an outbox now holds.
func (r *run) clearNotices() {
	if r.refused {
		return
	}
	for _, s := range r.logStates() {
		doc := s.read()
		if len(doc.Notices) == 0 {
			continue
		}
		keep, cancel := r.closing()
		if err := s.commit(keep, func(d *state.Log) { d.Notices = nil }); err != nil {
			r.failf("log %s: %v", doc.ID, err)
		}
		cancel()
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
