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
	"github.com/whosigned/whosigned/pkg/watch"
)

// Bounds of a slice besides Monitor.SliceEntries.
const (
	sliceTime     = 30 * time.Second
	sliceFindings = 1000
	sliceUnparsed = 100
	maxNotes      = 20 // in a log's result
	alertFindings = 50 // listed in one alert; the rest is counted and pointed at
)

// read scans every leaf between what was scanned before and the trusted
// checkpoint, and what lies outside the trusted history as unproven.
func (w *logRun) read(v tlog.Verdict) error {
	if w.st.read().Scanned == nil {
		if err := w.startReading(v.Trusted); err != nil {
			return err
		}
	}
	var err error
	if !hasProof(w.st.read()) {
		if err = w.scan(v.Trusted); err == nil {
			err = w.fillHoles()
		}
	}
	// Whatever keeps the trusted history from being read must not blind us to the rest.
	return errors.Join(err, w.scanUnproven(v))
}

// startReading is for a log whose coverage was consistency or index before.
func (w *logRun) startReading(cp tlog.Checkpoint) error {
	start, why := w.cfg.Start.Index, "reading starts at the configured index"
	if w.cfg.Start.Head {
		start, why = cp.Size, "coverage was not full before; reading starts at the head"
	}
	start = min(start, cp.Size)
	if !w.cfg.AcceptLag {
		if err := w.plan(start, cp.Size).refuse(); err != nil {
			return err
		}
	}
	f, incident, err := w.audit.Frontier(w.work, start, cp)
	if incident != nil {
		return w.charge(incident)
	}
	if err != nil {
		return err
	}
	ctx, cancel := w.keep()
	defer cancel()
	now := w.Now().UTC()
	return w.st.commit(ctx, func(d *state.Log) {
		d.Scanned, d.Start = &f, start
		d.Grown(now)
		if start > 0 {
			d.Gaps = append(d.Gaps, state.Gap{From: 0, To: start, Reason: why, At: now})
		}
		d.Rules = append(d.Rules, state.RulesFrom{Hash: w.Config.Rules.Hash(), From: start, At: now})
		d.Notices = append(d.Notices, w.notice("coverage is full now; %s", w.reads(start)))
	})
}

// scan reads up to the trusted checkpoint, slice by slice, each proven and
// committed before the next.
func (w *logRun) scan(cp tlog.Checkpoint) error {
	m := w.matcher()
	for {
		reader := w.audit.Reader(w.work, cp, *w.st.read().Scanned, cp.Size)
		passed, err := w.slices(reader, m, cp)
		reader.Close()
		m.Reset()
		if err != nil || !passed {
			w.clear = err == nil && reader.Done() && w.st.read().Stuck == nil
			return err
		}
	}
}

// slices reads until the end, the budget, or a leaf that cannot be had; passed
// says that such a leaf has become a hole, and reading can go on after it.
func (w *logRun) slices(reader *tlog.Reader, m *matcher, cp tlog.Checkpoint) (passed bool, err error) {
	for !reader.Done() {
		w.bound(m)
		from := w.st.read().Scanned.Size
		m.saw = func(leaves int) { w.Progress(w.info, from+uint64(leaves), cp.Size) }
		slice, err := reader.Next(m)
		ctx, cancel := w.keep()
		if err == nil {
			err = w.commitSlice(ctx, slice, m)
		}
		if err == nil && slice.Stuck != nil {
			passed, err = w.stuck(slice, cp)
		}
		cancel()
		if err != nil || slice.Stuck != nil {
			return passed, err
		}
		if slice.Err != nil {
			if w.work.Err() != nil {
				return false, nil // the budget is over; what was read is committed
			}
			return false, fmt.Errorf("reading on at index %d: %w", slice.To, slice.Err)
		}
	}
	return false, nil
}

// commitSlice makes a proven slice count. First everything that the commit will
// name is written, then the one commit that names it and moves the cursor (P1,
// P2); only then may its alerts be delivered (P3).
func (w *logRun) commitSlice(ctx context.Context, slice tlog.Slice, m *matcher) error {
	findings, bad := m.take()
	if slice.To == slice.From && slice.Incident == nil {
		return nil
	}
	kept, err := w.keepFindings(ctx, slice.From, slice.To, findings, bad)
	if err != nil {
		return err
	}
	w.sayFindings(findings)
	accused := func(*state.Log) {}
	if slice.Incident != nil {
		if accused, err = w.accuse(ctx, slice.Incident); err != nil {
			return err
		}
		w.result.Status = StatusTamper
	}
	err = w.st.commit(ctx, func(d *state.Log) {
		d.Scanned = &slice.Frontier
		d.Entries += slice.To - slice.From
		d.Read()
		if d.Stuck != nil && d.Stuck.Index < slice.To {
			d.Stuck = nil
		}
		kept.apply(d)
		accused(d)
	})
	if err != nil {
		return err
	}
	w.count(slice.To-slice.From, findings, bad)
	w.deliver.poke()
	return nil
}

// kept is what was written for a slice and has yet to be named by a commit.
type kept struct {
	object   string // "" if nothing was found
	found    uint64
	unparsed uint64
	alerts   []state.Pending
}

func (k kept) apply(d *state.Log) {
	if k.object != "" {
		d.Findings = k.object
	}
	d.Found += k.found
	d.Unparsed += k.unparsed
	d.Outbox = append(d.Outbox, k.alerts...)
}

// keepFindings writes a slice's findings, the leaves that do not parse, and the
// alerts.
func (w *logRun) keepFindings(ctx context.Context, from, to uint64, findings []watch.Finding, bad []unparsed) (kept, error) {
	k := kept{found: uint64(len(findings)), unparsed: uint64(len(bad))}
	for _, u := range bad {
		if _, err := w.State.PutUnparsed(ctx, w.info.ID, u.leaf.Index, u.leaf.Data); err != nil {
			return k, fmt.Errorf("keeping leaf %d, which does not parse: %w", u.leaf.Index, err)
		}
	}
	if len(findings) == 0 {
		return k, nil
	}
	var err error
	if k.object, err = w.State.PutFindings(ctx, w.info.ID, from, to, w.st.read().Findings, findings); err != nil {
		return k, fmt.Errorf("findings of entries %d to %d: %w", from, to-1, err)
	}
	// An untrusted chain is routed by itself: anybody can make one.
	var alarming, untrusted []watch.Finding
	expected := 0
	for _, f := range findings {
		switch {
		case f.Expected:
			expected++
		case f.Trusted == watch.Untrusted:
			untrusted = append(untrusted, f)
		default:
			alarming = append(alarming, f)
		}
	}
	for _, group := range [][]watch.Finding{alarming, untrusted} {
		if len(group) == 0 {
			continue
		}
		a := w.identityAlert(from, to, group, expected, k.object)
		w.sayWhere(ctx, &a)
		p, err := w.putAlert(ctx, a)
		if err != nil {
			return k, err
		}
		if p != nil {
			k.alerts = append(k.alerts, *p)
		}
		expected = 0 // said once
	}
	return k, nil
}

// maxSeen bounds the certificates of an alert that are looked up.
const maxSeen = 20

// sayWhere says of certificates that another log has shown where that was: an alert that
// comes later, for Rekor may take hours to show what a certificate was issued for, must
// not read like another theft.
func (w *logRun) sayWhere(ctx context.Context, a *report.Alert) {
	looked := map[string]bool{}
	for _, f := range a.Findings {
		if f.CertificateID == "" || f.Trusted != watch.Trusted || f.Unproven || looked[f.CertificateID] || len(looked) >= maxSeen {
			continue
		}
		looked[f.CertificateID] = true
		here := state.Signing{Log: w.info.ID, Index: f.Index, At: w.started}
		first, err := w.State.PutSigning(ctx, f.CertificateID, here)
		if err != nil {
			w.warnf("%s", w.say("where the certificate of index %d was found before is unknown: %v", f.Index, err))
			continue
		}
		if first.Log != here.Log {
			a.Notes = append(a.Notes, fmt.Sprintf("The certificate of index %d is also at index %d of log %s, found by the run of %s.",
				f.Index, first.Index, first.Log, first.At.Format(time.RFC3339)))
		}
	}
}

func (w *logRun) identityAlert(from, to uint64, findings []watch.Finding, expected int, object string) report.Alert {
	a := report.Alert{
		Class: report.ClassIdentity, Log: w.info.ID, Origin: w.info.Origin, LogType: w.info.Type, From: from, To: to,
		Findings: findings, Expected: expected, Pointer: object,
	}
	if len(findings) > alertFindings {
		a.Findings, a.Cut = findings[:alertFindings], len(findings)-alertFindings
	}
	return a
}

// count adds committed findings to the result.
func (w *logRun) count(entries uint64, findings []watch.Finding, bad []unparsed) {
	w.result.Entries += entries
	w.result.Findings += len(findings)
	w.result.Unparsed += len(bad)
	for _, f := range findings {
		if f.Expected {
			w.result.Expected++
		}
	}
	w.findings = append(w.findings, findings[:min(len(findings), maxFindings-len(w.findings))]...)
	if w.issuers != nil && w.issuers.odd.Load() != nil {
		w.health.daily("log:"+string(w.info.ID)+":beside", w.say("%s", *w.issuers.odd.Load()),
			"tell the log's operator; whether such a certificate leads to a trusted CA is not known, and it is alerted")
	}
	if len(bad) == 0 {
		return
	}
	kinds := map[string]int{}
	for _, u := range bad {
		switch {
		case u.kind != nil:
			kinds[fmt.Sprintf("unknown kind %.40q %.20q", u.kind.Kind, u.kind.Version)]++
		default:
			kinds[fmt.Sprintf("%.200s", u.err)]++
		}
	}
	var parts []string
	for text, n := range kinds {
		parts = append(parts, fmt.Sprintf("%d × %s", n, text))
	}
	slices.Sort(parts)
	if len(parts) > 5 {
		parts = append(parts[:5], "…")
	}
	text := w.say("%s could not be parsed, the first at index %d: %s", counted(len(bad)), bad[0].leaf.Index, strings.Join(parts, "; "))
	if len(w.result.Notes) < maxNotes {
		w.result.Notes = append(w.result.Notes, text)
	}
	w.health.daily("log:"+string(w.info.ID)+":unparsed", text, "they are hashed, counted and kept under findings/"+string(w.info.ID)+"/unparsed; a newer release may read them")
}

func counted(n int) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}

func (w *logRun) matcher() *matcher {
	if w.issuers == nil {
		w.issuers = w.newIssuers() // what they take counts for the whole run
	}
	return newMatcher(w.Config, w.info, w.workers, w.issuers)
}

// bound ends a slice of m that begins now at its limits, or with the budget.
func (w *logRun) bound(m *matcher) {
	began := w.Now()
	m.end = func(leaves, findings, unparsed int) bool {
		return leaves >= w.SliceEntries || findings >= sliceFindings || unparsed >= sliceUnparsed ||
			w.Now().Sub(began) >= sliceTime || w.work.Err() != nil
	}
}

// scanUnproven reads what lies outside the trusted history, so that nobody can
// blind us by being caught, or by withholding one leaf: beyond a leaf that cannot
// be passed, or under a checkpoint that is not trusted. Its findings are alerted,
// marked unproven; the trusted cursor does not move.
func (w *logRun) scanUnproven(v tlog.Verdict) error {
	doc := w.st.read()
	var cp tlog.Checkpoint
	var from uint64
	stuck, goesOn, err := false, false, error(nil)
	switch {
	case v.Served != nil && (hasProof(doc) || v.Incident != nil || v.Unprovable):
		cp = *v.Served
		from, goesOn, err = w.unprovenFrom(doc, cp)
	case doc.Stuck != nil:
		cp, stuck = v.Trusted, true
		from, goesOn, err = w.unprovenFrom(doc, cp)
		from = max(from, doc.Stuck.End)
	case doc.Unproven != nil && w.advanced:
		ctx, cancel := w.keep()
		defer cancel()
		return w.st.commit(ctx, func(d *state.Log) { d.Unproven = nil })
	default:
		return nil
	}
	if err != nil {
		return err
	}
	if doc.Unproven != nil && !goesOn {
		ctx, cancel := w.keep()
		err := w.st.commit(ctx, func(d *state.Log) { d.Unproven = nil }) // it was of another history
		cancel()
		if err != nil {
			return err
		}
	}
	m := w.matcher()
	if u := doc.Unproven; u != nil && goesOn && !stuck {
		for _, r := range u.Missed {
			if _, err := w.unprovenSlice(m, cp, r.From, r.To, stuck); err != nil || w.work.Err() != nil {
				return err
			}
		}
	}
	for from < cp.Size && w.work.Err() == nil {
		next, err := w.unprovenSlice(m, cp, from, cp.Size, stuck)
		if err != nil {
			return err
		}
		from = next
	}
	return nil
}

// unprovenFrom is where to read on outside the trusted history: where the last
// run ended, if it read the same history, else where this one is known to be ours.
// Trouble on the network must not start it over, and alert everything again; a
// proof that is refused may.
func (w *logRun) unprovenFrom(doc *state.Log, cp tlog.Checkpoint) (from uint64, goesOn bool, err error) {
	if u := doc.Unproven; u != nil {
		before, err := w.log.Open([]byte(u.Note))
		if err == nil {
			goesOn, err = w.audit.Extends(w.work, before, cp)
		}
		var status *tlog.StatusError
		if err != nil && w.work.Err() != nil || errors.As(err, &status) && status.Code >= 500 {
			return 0, false, fmt.Errorf("reading on outside the trusted history: %w", err)
		}
		if err == nil && goesOn {
			return u.Scanned, true, nil
		}
	}
	return min(w.common(doc, cp), doc.Scanned.Size), false, nil
}

// unprovenSlice reads some leaves without a proof and commits what was found. An
// entry beyond a leaf that cannot be had may be routine; one of another history
// never is.
func (w *logRun) unprovenSlice(m *matcher, cp tlog.Checkpoint, from, to uint64, stuck bool) (uint64, error) {
	w.bound(m)
	next, missed, err := visitAll(w.work, w.log, m, from, to)
	findings, bad := m.take()
	if err != nil && next == from {
		return from, fmt.Errorf("reading entry %d outside the trusted history: %w", from, err)
	}
	for i := range findings {
		findings[i].Unproven = true
		findings[i].Expected = findings[i].Expected && stuck
	}
	ctx, cancel := w.keep()
	defer cancel()
	kept, err := w.keepFindings(ctx, from, next, findings, bad)
	if err != nil {
		return from, err
	}
	w.sayFindings(findings)
	err = w.st.commit(ctx, func(d *state.Log) {
		kept.apply(d)
		d.Unproven = d.Unproven.Read(string(cp.Note), from, next, missed)
	})
	if err != nil {
		return from, err
	}
	w.result.Unproven += next - from
	for _, r := range missed {
		w.result.Unproven -= r.To - r.From
		if len(w.result.Notes) < maxNotes {
			w.result.Notes = append(w.result.Notes, w.say("outside the trusted history, entries %d to %d could not be had; they are asked for again in the next run", r.From, r.To-1))
		}
	}
	w.count(0, findings, bad)
	w.deliver.poke()
	return next, nil
}

// conclude puts the log into the run's result.
func (w *logRun) conclude(err error) {
	l := &w.result
	incidents := w.strays
	switch {
	case err != nil && l.Error == "":
		l.Error = err.Error()
	case err != nil:
		l.Error += "; " + err.Error()
	}
	if w.st != nil {
		doc := w.st.read()
		incidents = append(incidents, w.describe(doc)...)
	}
	key := "log:" + string(w.info.ID)
	if l.Error != "" {
		w.health.hold(key + ":")
		if l.Status != StatusTamper {
			l.Status = StatusError
		}
		w.health.lasting(key+":unchecked", w.say("it could not be checked: %s", l.Error), "see the error; if the log is down, its status page")
	}
	w.sayLog()
	w.report(*l, w.findings, incidents)
}

// describe fills in the result from the document as committed, and returns the
// incidents that no decision has closed.
func (w *logRun) describe(doc *state.Log) []IncidentResult {
	l := &w.result
	l.Size = doc.Size
	var cp tlog.Checkpoint
	if w.log != nil {
		if trusted, err := w.log.Open([]byte(doc.Checkpoint)); err == nil {
			cp = trusted
			l.Size, l.Origin = cp.Size, cp.Origin
		}
	}
	if doc.Scanned != nil {
		l.Scanned = doc.Scanned.Size
	}
	l.Holes = len(doc.Holes)
	if w.cfg.Coverage == config.Full {
		lag := doc.Lag(w.Now())
		l.Lag, l.FallingBehind = int64(lag/time.Second), lag > fallAfter && grew(doc.Lags)
	}
	w.standing(doc, cp)
	return openIncidents(doc)
}

// openIncidents are those that no decision has closed.
func openIncidents(doc *state.Log) []IncidentResult {
	var open []IncidentResult
	for _, i := range doc.Incidents {
		if i.Closed != "" {
			continue
		}
		r := IncidentResult{ID: i.ID, Log: doc.ID, Kind: i.Kind, Proof: i.Proof, Text: i.Text, Opened: i.Opened, Ended: i.Ended}
		if len(i.Evidence) > 0 {
			r.Evidence = i.Evidence[len(i.Evidence)-1]
		}
		open = append(open, r)
	}
	return open
}

// standing picks the status of a log that was checked, and its health.
func (w *logRun) standing(doc *state.Log, cp tlog.Checkpoint) {
	l := &w.result
	key := "log:" + string(w.info.ID)
	full := w.cfg.Coverage == config.Full && doc.Scanned != nil
	behind := full && doc.Scanned.Size < cp.Size
	switch {
	case l.Status != StatusOK && l.Status != StatusBaseline || l.Error != "":
	case behind:
		l.Status = StatusBehind
		l.Notes = append(l.Notes, w.say("%s still to be read", counted(int(cp.Size-doc.Scanned.Size))))
		if !w.cfg.AcceptLag {
			w.health.lasting(key+":behind", w.say("reading is behind by %s", counted(int(cp.Size-doc.Scanned.Size))),
				"give runs more time (--budget), run more often (--every), or set accept_lag: true")
		}
	case l.Status == StatusBaseline:
	case doc.Retired != nil:
		l.Status = StatusRetired
	case cp.Frozen:
		l.Status = StatusFrozen
	}
	// A trusted root also lists logs that have been replaced without saying so. One that
	// has grown since, and the newest of its kind, are to grow on.
	replaced := w.cfg.Discovered && !w.cfg.QuietGiven && !doc.CheckpointGrew.After(doc.Watched) &&
		slices.ContainsFunc(w.Config.Logs, func(l config.Log) bool { return l.Kind == w.cfg.Kind && l.Since.After(w.cfg.Since) })
	grew := doc.CheckpointGrew
	if w.cfg.Since.After(grew) {
		grew = w.cfg.Since // it need not take entries before
	}
	if q := w.cfg.QuietAfter; q > 0 && w.advanced && w.info.Active && !w.ended() && !replaced && !cp.Frozen && w.Now().Sub(grew) > q {
		w.health.atOnce(key+":quiet", w.say("it has not grown since %s", grew.Format(time.RFC3339)),
			"compare with the log's status page: it may be down, or we may be shown an old view")
	}
	if w.served.IsZero() || !w.info.Active {
		return
	}
	// RFC 6962 section 3.5: a log's newest tree head is never older than its maximum
	// merge delay, whether or not it has grown.
	if age := w.Now().Sub(w.served); age > tlog.MaxMergeDelay {
		w.health.atOnce(key+":old-tree-head", w.say("its newest tree head was signed %s ago, at %s: it has to sign one every %s", age.Round(time.Minute), w.served.Format(time.RFC3339), tlog.MaxMergeDelay),
			"the log may be down, or we may be shown an old view: compare with its status page")
	} else if age < -time.Hour {
		w.health.atOnce(key+":future-tree-head", w.say("its newest tree head says that it was signed at %s, which is in the future", w.served.Format(time.RFC3339)), "the log's clock is wrong, or ours is")
	}
}
