// Package monitor is the run: one pass over all logs. Read [Monitor.Run] from the
// top. It is the only package that knows all the others; nothing calls back.
//
//	begin      load run.json, take the lease, read decisions       (monitor.go)
//	anchor     which keys and logs the trusted root has now        (trust.go, listed.go)
//	discover   which logs there are now                            (discover.go)
//	each log, all at once                                          (log.go)
//	  advance  a newer checkpoint, proven consistent with the old one
//	  scan     slice by slice: leaves, proof, findings, one commit   (scan.go)
//	deliver    meanwhile: outboxes to sinks                        (deliver.go)
//	finish     health conditions, result, release the lease        (finish.go, health.go)
//
// Promises kept here, each by the code that its name stands beside: P1 and P2 by
// the order of writes in commitSlice, P3 by the outboxes and deliver, P4 by logState
// (compare-and-swap; a lost one stops the log), P6 by running each log by itself,
// P7 by slices, the budget and holes, P8 by conditions, P9 by notices, P10 by
// Result.Exit.
package monitor

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/notify"
	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/watch"
)

// Monitor is everything that a run needs. The fields are set once.
type Monitor struct {
	Config *config.Config
	State  *state.State
	Sinks  []notify.Sink
	Client *tlog.Client
	Logger *slog.Logger
	// Version is said in results.
	Version string
	// Every is how often runs are scheduled, and Budget how long one may work:
	// together they say what can be read. Defaults: 1 h and 25 min.
	Every  time.Duration
	Budget time.Duration
	// Now is the clock; default time.Now.
	Now func() time.Time
	// Progress is told how far a log was read; default nothing.
	Progress func(log tlog.Info, scanned, size uint64)
	// SliceEntries bounds a slice; default 65,536. A slice also ends after 30 s, 1,000
	// findings, or 100 leaves that do not parse.
	SliceEntries int
	// CommitEvery is the shortest time between two commits of one document; default
	// what State's store asks for.
	CommitEvery time.Duration
	// Grace is how long a run goes on keeping and delivering what it has once its
	// context has ended; then it is over in as long again. Default 1 min.
	Grace time.Duration
	// Trouble is what went wrong on the way to this run, such as a secret that cannot
	// be read: the run is made all the same, and counts as one that failed.
	Trouble []string
	// Evidence is where incidents are copied to, such as a bucket that nobody can
	// delete from; default nowhere.
	Evidence *state.State
	// Again is how long to wait before each further look at what counts against a
	// log; default 0.2 s and 2 s.
	Again []time.Duration

	delivery time.Duration // bounds one delivery to a sink; default deliveryTime
	hold     time.Duration // default holdTime
	// issuerTime and issuersTime are what a CT log may take for certificates beside its
	// leaves; defaults the constants of the name.
	issuerTime, issuersTime time.Duration
}

// Limits and delays of the design.
const (
	holeAfter     = 6 * time.Hour    // that a leaf cannot be had before it is a hole
	rollbackAfter = 10 * time.Minute // that a rollback has lasted before it is an incident
	commitTime    = time.Minute      // for one commit after the run's own time is over
	leaseMargin   = 5 * time.Minute  // beyond the budget
)

func (m *Monitor) defaults() {
	if m.Every == 0 {
		m.Every = time.Hour
	}
	if m.Budget == 0 {
		m.Budget = 25 * time.Minute
	}
	if m.Now == nil {
		m.Now = time.Now
	}
	if m.Progress == nil {
		m.Progress = func(tlog.Info, uint64, uint64) {}
	}
	if m.SliceEntries == 0 {
		m.SliceEntries = 1 << 16
	}
	if len(m.Again) == 0 {
		m.Again = []time.Duration{200 * time.Millisecond, 2 * time.Second}
	}
	if m.CommitEvery == 0 && m.State != nil {
		m.CommitEvery = m.State.Pace()
	}
	if m.Grace == 0 {
		m.Grace = commitTime
	}
	if m.delivery == 0 {
		m.delivery = deliveryTime
	}
	if m.hold == 0 {
		m.hold = holdTime
	}
	if m.issuerTime == 0 {
		m.issuerTime, m.issuersTime = issuerTime, issuersTime
	}
	if m.Logger == nil {
		m.Logger = slog.New(slog.DiscardHandler)
	}
}

// run is one pass in progress.
type run struct {
	*Monitor
	id      string
	started time.Time
	before  tlog.Stats // what the client had done for other runs
	// work ends with the budget or when the caller's context does; what has to be
	// kept or delivered is so until last ends, Grace after the caller's context.
	caller, work, last context.Context
	workers            workers
	health             *health
	deliver            *delivery
	doc                *runState
	keys               []state.Decision // accepted keys
	tests              []state.Decision // alerts to send as a test
	refused            bool             // the configuration is invalid: see Refuse
	forgotten          []tlog.ID        // logs that are not configured any more
	blind              bool             // there is no trusted root: which logs there are is not known
	relisted           bool             // run.json was lost: every service counts as watched before
	listed             map[tlog.ID]state.Listed
	listedBy           string
	// services are those that were watched before this run.
	services map[string]bool
	pending  map[tlog.ID][]state.Decision

	mu     sync.Mutex
	result Result
}

// Run makes one pass over all logs. The error is for a run that could not begin:
// a *state.LeaseError, or state that cannot be used. Otherwise the result says what
// went wrong, in Result.Exit too. When ctx ends, proven progress is saved.
func (m *Monitor) Run(ctx context.Context) (*Result, error) {
	m.defaults()
	began := time.Now()
	r, err := m.begin(ctx, false)
	if err != nil {
		return nil, err
	}
	defer r.clock(ctx, began)()

	r.deliver = r.startDelivery(r.doc)
	r.testAlerts()
	held := r.anchor(r.work)
	found, failed := r.discover(r.work, r.doc.known(), r.keys)
	failed = append(failed, held...)
	r.standStill(found)
	r.notWatched(found, failed)
	for _, f := range failed {
		r.failedLog(f)
	}
	var logs, loaded sync.WaitGroup
	for _, l := range found {
		loaded.Add(1)
		logs.Go(func() { r.watchLog(l, sync.OnceFunc(loaded.Done)) })
	}
	loaded.Wait()
	r.deliver.begin()
	logs.Wait()
	r.deliver.release()
	if err := context.Cause(ctx); err != nil {
		r.failf("interrupted: %v; proven progress is saved, and the next run goes on from there", err)
	}
	return r.finish(), nil
}

// clock limits the run's time, which began before it took the lease. What it returns
// ends all of its contexts.
func (r *run) clock(ctx context.Context, began time.Time) (stop context.CancelFunc) {
	r.caller = ctx
	work, endWork := context.WithDeadline(ctx, began.Add(r.Budget))
	last, endLast := context.WithCancel(context.WithoutCancel(ctx))
	r.work, r.last = work, last
	grace := r.Grace // the run's Monitor is another once it has its trusted root
	graced := context.AfterFunc(ctx, func() {
		if sleep(last, grace) == nil {
			endLast()
		}
	})
	r.doc.pace.hurry = work.Done()
	return func() { graced(); endLast(); endWork() }
}

// begin loads run.json and takes the lease; on the very first run it writes
// run.json before anything else. One that is lost is not made anew by a run that is
// refused, which does not know the services that were watched.
func (m *Monitor) begin(ctx context.Context, refused bool) (*run, error) {
	started := m.Now().UTC()
	decisions, decisionsErr := m.State.Decisions(ctx)
	// Before the lease is taken: what fails after it would leave it behind.
	applied, err := m.State.Applied(ctx)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	doc, err := m.State.LoadRun(ctx)
	relisted := false
	first := errors.Is(err, state.ErrNotExist)
	if first {
		doc = &state.Run{FirstRun: started}
	} else if err != nil && refused {
		return nil, fmt.Errorf("state: %w", err)
	} else if err != nil {
		if doc, err = m.withoutRun(ctx, err, decisions, started); err != nil {
			return nil, fmt.Errorf("state: %w", err)
		}
		relisted = true
	}
	id := runID(started)
	if err := m.State.AcquireLease(ctx, doc, id, started.Add(m.Budget+leaseMargin), started); err != nil {
		return nil, err
	}
	r := &run{Monitor: m, id: id, started: started, refused: refused, relisted: relisted, workers: newWorkers(), health: newHealth(started, m.Config.Patience)}
	if m.Client != nil {
		r.before = m.Client.Stats()
	}
	r.doc = &runState{doc: doc, state: m.State, first: first || len(doc.Logs) == 0, pace: pace{every: m.CommitEvery, last: time.Now()}}
	r.result = Result{
		Run: id, Version: m.Version, Started: started, Logs: []LogResult{}, Findings: []watch.Finding{},
		Incidents: []IncidentResult{}, Health: []ConditionResult{}, Warnings: append(slices.Clone(m.Config.Warnings), m.unrouted()...),
	}
	r.services = make(map[string]bool)
	for _, url := range doc.Services {
		r.services[url] = true
	}
	for _, t := range m.Trouble {
		r.failf("%s", t)
	}
	if decisionsErr != nil {
		r.failf("decisions: %v", decisionsErr)
	}
	r.sortDecisions(decisions, applied)
	return r, nil
}

// unrouted says which alerts nobody would get (P9).
func (m *Monitor) unrouted() []string {
	if len(m.Sinks) == 0 {
		return []string{"no sink is configured under alerts: nobody is told of what is found, but by the result and the exit status"}
	}
	var warnings []string
	for _, class := range report.Classes() {
		if len(m.sinksFor(class)) == 0 {
			warnings = append(warnings, fmt.Sprintf("no sink takes alerts of class %s", class))
		}
	}
	return warnings
}

// withoutRun begins with a new run.json where the old one is lost or corrupt, if
// an operator has decided to take a new baseline of a log since. Every configured
// service counts as watched before, so no log of it is started at its head.
func (m *Monitor) withoutRun(ctx context.Context, lost error, decisions []state.Decision, now time.Time) (*state.Run, error) {
	var corrupt *state.CorruptError
	if !isLost(lost) && !errors.As(lost, &corrupt) {
		return nil, lost
	}
	applied, err := m.State.Applied(ctx)
	if err != nil {
		return nil, err
	}
	decided := false
	for _, d := range decisions {
		if d.Kind != state.TakeBaseline || applied[d.ID] {
			continue
		}
		l, err := m.State.LoadLog(ctx, d.Log)
		decided = decided || err != nil || !slices.Contains(l.Applied, d.ID)
	}
	if !decided {
		return nil, lost
	}
	doc := &state.Run{FirstRun: now}
	if corrupt != nil {
		doc.Supersede(corrupt)
	}
	for _, l := range m.Config.Logs {
		doc.Services = append(doc.Services, l.URL)
	}
	return doc, nil
}

func runID(now time.Time) string {
	var b [4]byte
	rand.Read(b[:])
	return now.Format("20060102T150405Z") + "-" + hex.EncodeToString(b[:])
}

// sortDecisions gives each log its decisions. Accepted keys are needed before a
// log can be opened, in every run; the others are applied once.
func (r *run) sortDecisions(all []state.Decision, applied map[string]bool) {
	r.pending = make(map[tlog.ID][]state.Decision)
	for _, d := range all {
		if d.Kind == state.AcceptKey {
			r.keys = append(r.keys, d)
		}
		switch {
		case applied[d.ID]:
		case d.Kind == state.TestAlert:
			r.tests = append(r.tests, d)
		default:
			r.pending[d.Log] = append(r.pending[d.Log], d)
		}
	}
}

// keep is a context for what must be written although the run's time is over.
func (r *run) keep() (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.last, commitTime)
}

func (r *run) failf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Errors = append(r.result.Errors, fmt.Sprintf(format, args...))
	r.Logger.Error(fmt.Sprintf(format, args...), "run", r.id)
}

func (r *run) warnf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Warnings = append(r.result.Warnings, fmt.Sprintf(format, args...))
}

// report adds a log's outcome to the result.
func (r *run) report(l LogResult, findings []watch.Finding, incidents []IncidentResult) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Logs = append(r.result.Logs, l)
	room := min(len(findings), maxFindings-len(r.result.Findings))
	r.result.Findings = append(r.result.Findings, findings[:room]...)
	r.result.FindingsCut += l.Findings - room
	r.result.Incidents = append(r.result.Incidents, incidents...)
}

// failedLog reports a log, or a service, that could not be opened. What was served
// and does not verify is an incident of the log if it is known.
func (r *run) failedLog(f notFound) {
	var unverified *tlog.Unverified
	errors.As(f.err, &unverified)
	if f.id == "" && f.cfg.Discovered && f.cfg.Retired && unverified == nil {
		// It took its last entry before we came, and nothing of it was promised to us.
		text := fmt.Sprintf("%s takes no more entries, as the trusted root says, and does not answer: %v", f.url, f.err)
		r.report(LogResult{Type: f.typ, URL: f.url, Coverage: f.cfg.Coverage, Status: StatusRetired, Notes: []string{text}}, nil, nil)
		r.health.lasting("service:"+f.url+":", text, "nothing, or leave it out: logs: [{url: \""+f.url+"\", exclude: true}]")
		return
	}
	if f.id == "" && f.cfg.Discovered && f.cfg.Since.After(r.started) && unverified == nil {
		text := fmt.Sprintf("%s is to take entries from %s on, as the trusted root says, and does not answer yet: %v", f.url, f.cfg.Since.Format(time.RFC3339), f.err)
		r.report(LogResult{Type: f.typ, URL: f.url, Coverage: f.cfg.Coverage, Status: StatusOK, Notes: []string{text}}, nil, nil)
		return
	}
	if f.id == "" {
		r.report(LogResult{Type: f.typ, URL: f.url, Coverage: f.cfg.Coverage, Status: StatusError, Error: f.err.Error()}, nil, nil)
		key, text := "service:"+f.url+":"+f.tree, f.url+" cannot be read: "+f.err.Error()
		if unverified != nil {
			// A tree that was never watched, most likely after a rotation to a new key: it
			// does not pass by itself.
			r.health.atOnce(key, text, "if the operator announced a new key, add it to this log's key list; its entries are then read from the first")
			return
		}
		r.health.lasting(key, text, "check the URL, the network and the log's status page")
		return
	}
	r.unopened(f, unverified)
}

// notWatched is for logs that were watched and are not configured any more: that
// is said, their pending alerts are still delivered, and they are forgotten once
// nothing is left to deliver or to decide.
func (r *run) notWatched(found []watched, failed []notFound) {
	if r.blind {
		return
	}
	now := make(map[tlog.ID]bool)
	for _, l := range found {
		now[l.Info().ID] = true
	}
	for _, f := range failed {
		now[f.id] = true
	}
	for id, url := range r.doc.known() {
		if !now[id] && !r.unlisted(failed, url) {
			r.leave(id, url)
		}
	}
}

// unlisted says whether a service could not be asked for its logs.
func (r *run) unlisted(failed []notFound, url string) bool {
	return slices.ContainsFunc(failed, func(f notFound) bool { return f.url == url && f.id == "" })
}

// leave stops watching a log.
func (r *run) leave(id tlog.ID, url string) {
	w := &logRun{run: r, info: tlog.Info{ID: id, URL: url}, seen: make(map[string]bool)}
	text := fmt.Sprintf("log %s at %s is not configured any more and is no longer watched; its state is kept", id, url)
	r.warnf("%s", text)
	err := w.load()
	if err == nil && !w.fresh {
		err = w.decideEarly()
	}
	if err != nil && !isLost(err) {
		// Its alerts may still be pending: the next run asks again.
		r.failf("log %s, which is not configured any more: %v", id, err)
		r.health.atOnce("unwatched:"+string(id), text, "see the error")
		return
	}
	if err != nil || w.fresh {
		r.forgotten = append(r.forgotten, id)
		r.health.notice("unwatched:"+string(id), text)
		return
	}
	doc := w.st.read()
	incidents := openIncidents(doc)
	r.mu.Lock()
	r.result.Incidents = append(r.result.Incidents, incidents...)
	r.mu.Unlock()
	if len(doc.Outbox) > 0 || len(incidents) > 0 || len(doc.Notices) > 0 {
		r.health.atOnce("unwatched:"+string(id), text, "its pending alerts are delivered, and its open incidents are kept until a decision")
		return
	}
	r.forgotten = append(r.forgotten, id)
	r.health.notice("unwatched:"+string(id), text)
}

// putAlert seals an alert, writes its payload and returns what an outbox holds of
// it: nothing if no sink takes its class.
func (r *run) putAlert(ctx context.Context, a report.Alert) (*state.Pending, error) {
	return r.putAlertFor(ctx, r.sinksFor(a.Class), a)
}

func (r *run) putAlertFor(ctx context.Context, sinks []string, a report.Alert) (*state.Pending, error) {
	a.Created, a.Run, a.Config = r.Now().UTC(), r.id, r.Config.Path
	a.Seal()
	payload, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("alert: %w", err)
	}
	if err := r.State.PutAlert(ctx, a.ID, payload); err != nil {
		var exists *state.ExistsError
		// The same alert of an earlier, cut-off try: only when and by which run it was
		// made differs.
		if !errors.As(err, &exists) {
			return nil, err
		}
	}
	if len(sinks) == 0 {
		return nil, nil
	}
	return &state.Pending{Alert: a.ID, Class: string(a.Class), Since: a.Created, Sinks: sinks}, nil
}

// sinksFor names the sinks that take a class of alerts.
func (m *Monitor) sinksFor(class report.Class) []string {
	var names []string
	for _, s := range m.Sinks {
		if s.Takes(class) {
			names = append(names, s.Name())
		}
	}
	return names
}
