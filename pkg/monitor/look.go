package monitor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/watch"
)

// LogPlan is one log as `whosigned check` shows it.
type LogPlan struct {
	ID       tlog.ID         `json:"id,omitempty"`
	Origin   string          `json:"origin,omitempty"`
	Type     tlog.Type       `json:"type"`
	URL      string          `json:"url"`
	TreeID   string          `json:"treeId,omitempty"`
	Coverage config.Coverage `json:"coverage"`
	Size     uint64          `json:"size"`
	From     uint64          `json:"from"`         // where reading goes on, or would begin
	To       uint64          `json:"to,omitempty"` // of a scan: the index after its last entry; From if it has none here
	Known    bool            `json:"known"`        // it has state already
	// Discovered: it is watched because the trusted root lists it. Retired: that says
	// that it takes no more entries.
	Discovered bool  `json:"discovered,omitempty"`
	Retired    bool  `json:"retired,omitempty"`
	Plan       *Plan `json:"plan,omitempty"`
	// Imported is the file of the checkpoint that reading would go on from, of those that
	// Check was given.
	Imported string `json:"imported,omitempty"`
	// Index is what the service's search index answered, under coverage: index.
	Index   *IndexPlan `json:"index,omitempty"`
	Refused string     `json:"refused,omitempty"`
	Error   string     `json:"error,omitempty"`
}

// Checked is what `whosigned check` finds out. Its JSON is a stable interface.
type Checked struct {
	Config string `json:"config"`
	State  string `json:"state"`
	// Scan is set if startIndex or endIndex make a run a one-off scan of this range.
	Scan  *config.Scan `json:"scan,omitempty"`
	Logs  []LogPlan    `json:"logs"`
	Rules []string     `json:"rules"`
	Sinks []string     `json:"sinks"`
	CAs   int          `json:"certificateAuthorities"`
	// Trust and TrustError say how the TUF repository fared, as in [Result.Trust].
	Trust      string   `json:"trust,omitempty"`
	TrustError string   `json:"trustError,omitempty"`
	Problems   []string `json:"problems,omitempty"` // what is asked for and not in the trusted root
	// ImportError is why the checkpoints that Check was given cannot be imported.
	ImportError string   `json:"-"`
	Warnings    []string `json:"warnings,omitempty"`
	// Configured is how many of the warnings, the first ones, the configuration had when
	// it was read.
	Configured int `json:"-"`
}

// OK says whether a run could do its job.
func (c *Checked) OK() bool {
	if len(c.Problems) > 0 || c.TrustError != "" || c.ImportError != "" {
		return false
	}
	for _, l := range c.Logs {
		if l.Error != "" || l.Refused != "" {
			return false
		}
	}
	return true
}

// Check says what a run would watch, where, from when and at what cost, if saved was
// imported before it. It writes nothing.
func (m *Monitor) Check(ctx context.Context, saved ...ImportedCheckpoint) (*Checked, error) {
	m.defaults()
	doc, decisions := &state.Run{}, []state.Decision(nil)
	if m.State != nil { // a scan keeps none
		var err error
		if doc, err = m.State.LoadRun(ctx); errors.Is(err, state.ErrNotExist) {
			doc = &state.Run{}
		} else if err != nil {
			return nil, fmt.Errorf("state: %w", err)
		}
		if decisions, err = m.State.Decisions(ctx); err != nil {
			return nil, fmt.Errorf("decisions: %w", err)
		}
	}
	c := &Checked{
		Config: m.Config.Path, State: m.Config.State, Scan: m.Config.Scan, Rules: m.Config.Rules.Describe(), Sinks: []string{},
		CAs: m.Config.Chains.Len(), Warnings: append(slices.Clone(m.Config.Warnings), m.unrouted()...), Logs: []LogPlan{},
		Configured: len(m.Config.Warnings),
	}
	for _, s := range m.Sinks {
		c.Sinks = append(c.Sinks, s.Name())
	}
	r := &run{Monitor: m, work: ctx, last: context.WithoutCancel(ctx), started: m.Now().UTC(), services: map[string]bool{}, doc: &runState{doc: doc}, health: newHealth(m.Now().UTC(), m.Config.Patience)}
	for _, url := range doc.Services {
		r.services[url] = true
	}
	applied := map[string]bool(nil)
	if m.State != nil {
		var err error
		if applied, err = m.State.Applied(ctx); err != nil {
			return nil, err
		}
	}
	r.sortDecisions(decisions, applied)
	a := m.anchored(ctx)
	c.Trust = a.status
	if a.err != nil {
		c.TrustError = a.err.Error()
	}
	own := *m
	own.Config = a.cfg
	r.Monitor = &own
	c.Warnings = append(c.Warnings, excluded(own.Config)...)
	var held []notFound
	if !a.blind {
		r.list()
		held = r.resume()
	}
	c.CAs = own.Config.Chains.Len()
	for _, w := range own.Config.Warnings {
		if !slices.Contains(c.Warnings, w) {
			c.Warnings = append(c.Warnings, w)
		}
	}
	for _, p := range a.problems {
		c.Problems = append(c.Problems, p.String())
	}
	found, failed := own.discover(ctx, doc.Logs, r.keys)
	failed = append(failed, held...)
	if c.Scan != nil {
		for i, p := range own.parts(ctx, *c.Scan, found, failed) {
			c.Logs = append(c.Logs, own.scanAt(ctx, found[i], p))
		}
		found = nil
	}
	imported, err := r.importers(saved, found, failed)
	if err != nil {
		c.ImportError = err.Error()
	}
	for _, w := range imported {
		w.mark(doc)
	}
	for _, l := range found {
		i := slices.IndexFunc(imported, func(w *logRun) bool { return w.info.ID == l.Info().ID })
		if i < 0 {
			c.Logs = append(c.Logs, r.lookAt(ctx, l, nil))
			continue
		}
		p := r.lookAt(ctx, l, imported[i].st.read())
		p.Imported = imported[i].source
		c.Logs = append(c.Logs, p)
	}
	for _, f := range failed {
		if f.cfg.Discovered && f.cfg.Retired && f.id == "" && !errors.As(f.err, new(*tlog.Unverified)) {
			// As a run has it: there is nothing to be done about it.
			c.Warnings = append(c.Warnings, fmt.Sprintf("%s takes no more entries, as the trusted root says, and does not answer: %v", f.url, f.err))
			continue
		}
		c.Logs = append(c.Logs, LogPlan{ID: f.id, Type: f.typ, URL: f.url, Coverage: f.cfg.Coverage, Error: f.err.Error()})
	}
	return c, nil
}

// planned asks a log for its checkpoint; without one the plan has the error.
func planned(ctx context.Context, l watched) (LogPlan, tlog.Checkpoint) {
	info := l.Info()
	p := LogPlan{ID: info.ID, Origin: info.Origin, Type: info.Type, URL: info.URL, TreeID: info.TreeID, Coverage: l.cfg.Coverage, Discovered: l.cfg.Discovered, Retired: l.cfg.Retired}
	cp, err := l.Checkpoint(ctx)
	if err != nil {
		p.Error = err.Error()
		return p, cp
	}
	p.Size, p.Origin = cp.Size, cp.Origin
	return p, cp
}

// lookAt plans for a log; imported, if set, is what an import would write of it.
func (r *run) lookAt(ctx context.Context, l watched, imported *state.Log) LogPlan {
	info := l.Info()
	p, cp := planned(ctx, l)
	if p.Error != "" {
		return p
	}
	w := &logRun{run: r, log: l.Log, cfg: l.cfg, info: info}
	p.From, _ = w.start(cp)
	doc, err := (*state.Log)(nil), state.ErrNotExist
	if r.State != nil { // before the first apply, say, nothing names it
		doc, err = r.State.LoadLog(ctx, info.ID)
	}
	switch _, known := r.doc.doc.Logs[info.ID]; {
	case imported != nil:
		p.From = imported.Start
	case err == nil:
		p.Known = true
		if doc.Scanned != nil {
			p.From = doc.Scanned.Size
		}
	case errors.Is(err, state.ErrNotExist) && !known:
	case errors.Is(err, state.ErrNotExist):
		p.Error = state.Lost(info.ID).Error()
		return p
	default:
		p.Error = err.Error()
		return p
	}
	switch l.cfg.Coverage {
	case config.Full:
		plan := r.Monitor.plan(info, p.From, cp.Size)
		p.Plan = &plan
		if err := plan.refuse(); err != nil && !l.cfg.AcceptLag {
			p.Refused = err.Error()
		}
	case config.Index:
		if p.Index, err = r.askIndex(ctx, l.Log); err != nil {
			p.Error = err.Error()
		}
	}
	return p
}

// Look is a one-off look at the leaves [From, To) of one log. It neither reads
// nor writes live state.
type Look struct {
	// Log names it by ID, origin or URL; empty if only one log is configured.
	Log  string
	From uint64
	To   uint64 // 0: the log's end
}

// within is the end of the look in a log of that size, or why it has none.
func (l Look) within(size uint64) (to uint64, err error) {
	if to = l.To; to == 0 {
		to = size
	}
	if l.From > to || to > size {
		return 0, l.beyond(fmt.Sprintf("the log's %d entries", size))
	}
	return to, nil
}

func (l Look) beyond(what string) error {
	if l.To == 0 {
		return fmt.Errorf("range [%d, end) is not within %s", l.From, what)
	}
	return fmt.Errorf("range [%d, %d) is not within %s", l.From, l.To, what)
}

// Scan reads the leaves of a look, each proven against the log's newest signed
// checkpoint, and returns what the rules find there.
func (m *Monitor) Scan(ctx context.Context, look Look) (*Result, error) {
	own, a, err := m.looking(ctx)
	if err != nil {
		return nil, err
	}
	l, err := own.find(ctx, look.Log, a)
	if err != nil {
		return nil, err
	}
	return own.scanOne(ctx, l, look, a), nil
}

// looking is the monitor under the trusted root of now.
func (m *Monitor) looking(ctx context.Context) (*Monitor, *anchor, error) {
	m.defaults()
	a := m.anchored(ctx)
	if a.blind {
		return nil, nil, fmt.Errorf("trust: %w", a.err)
	}
	own := *m
	own.Config = a.cfg
	if m.State == nil {
		return &own, a, nil
	}
	// What earlier runs and operators know of keys holds for a look, too.
	doc, err := m.State.LoadRun(ctx)
	if errors.Is(err, state.ErrNotExist) {
		return &own, a, nil
	} else if err != nil {
		return nil, nil, fmt.Errorf("state: %w", err)
	}
	decisions, err := m.State.Decisions(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("decisions: %w", err)
	}
	r := &run{Monitor: &own, work: ctx, started: m.Now().UTC(), doc: &runState{doc: doc}, health: newHealth(m.Now().UTC(), m.Config.Patience)}
	r.sortDecisions(decisions, nil)
	r.list()
	a.held = r.resume() // which may add to the keys
	a.keys = r.keys
	return &own, a, nil
}

func (m *Monitor) scanOne(ctx context.Context, l watched, look Look, a *anchor) *Result {
	own, started, before := m, m.Now().UTC(), m.Client.Stats()
	r := &run{Monitor: own, started: started, before: before, work: ctx, last: context.WithoutCancel(ctx), workers: newWorkers(), health: newHealth(started, m.Config.Patience)}
	r.result = Result{Version: m.Version, Started: started, Logs: []LogResult{}, Findings: []watch.Finding{}, Incidents: []IncidentResult{}, Health: []ConditionResult{}, Warnings: a.cfg.Warnings, Trust: a.status}
	w := &logRun{run: r, log: l.Log, cfg: l.cfg, info: l.Info(), seen: make(map[string]bool)}
	w.result = LogResult{ID: w.info.ID, Origin: w.info.Origin, Type: w.info.Type, URL: w.info.URL, TreeID: w.info.TreeID, Coverage: config.Full, Status: StatusOK}
	w.audit = tlog.Audit{Log: l.Log, Archive: noArchive{}, Again: m.Again}
	if err := w.look(look); err != nil {
		w.result.Error = err.Error()
		if w.result.Status == StatusOK {
			w.result.Status = StatusError
		}
	}
	r.report(w.result, w.findings, w.strays)
	r.spent()
	r.result.Finished = m.Now().UTC()
	r.result.Exit = r.result.exit()
	return &r.result
}

// noArchive is for a look, which keeps nothing.
type noArchive struct{}

// Keep implements tlog.Archive.
func (noArchive) Keep(_ context.Context, cp tlog.Checkpoint) ([]byte, error) { return cp.Note, nil }

func (w *logRun) look(look Look) error {
	verdict, err := w.audit.Advance(w.work, nil)
	if err != nil {
		return err
	}
	if verdict.Incident != nil {
		return w.stray(verdict.Incident)
	}
	cp := verdict.Trusted
	w.result.Size, w.result.Origin = cp.Size, cp.Origin
	to, err := look.within(cp.Size)
	if err != nil {
		return err
	}
	frontier, incident, err := w.audit.Frontier(w.work, look.From, cp)
	if incident != nil {
		return w.stray(incident)
	}
	if err != nil {
		return err
	}
	reader := w.audit.Reader(w.work, cp, frontier, to)
	defer func() { reader.Close() }()
	m := w.matcher()
	m.end = func(leaves, findings, unparsed int) bool {
		return leaves >= w.SliceEntries || findings >= sliceFindings
	}
	w.result.Scanned = look.From
	for !reader.Done() {
		from := w.result.Scanned
		m.saw = func(leaves int) { w.Progress(w.info, from+uint64(leaves), to) }
		slice, err := reader.Next(m)
		if err != nil {
			return err
		}
		findings, bad := m.take()
		w.count(slice.To-slice.From, findings, bad)
		w.result.Scanned = slice.To
		switch {
		case slice.Incident != nil:
			return w.stray(slice.Incident)
		case slice.Stuck != nil:
			return slice.Stuck
		case slice.Err != nil:
			return fmt.Errorf("reading on at index %d: %w", slice.To, slice.Err)
		}
	}
	return nil
}

// find opens the one configured log that name means: its ID, origin or URL.
func (m *Monitor) find(ctx context.Context, name string, a *anchor) (watched, error) {
	found, failed := m.discover(ctx, a.known, a.keys)
	failed = append(failed, a.held...)
	var match, all []string
	var hit watched
	for _, l := range found {
		info := l.Info()
		all = append(all, fmt.Sprintf("%s (%s)", info.ID, info.Origin))
		if name == string(info.ID) || name == info.Origin || strings.TrimRight(name, "/") == info.URL || name == info.TreeID && name != "" || name == "" {
			match = append(match, string(info.ID))
			hit = l
		}
	}
	switch {
	case len(match) == 1:
		return hit, nil
	case len(match) > 1:
		return hit, &NoLogError{fmt.Sprintf("--log %q means several logs: %s; give one ID", name, strings.Join(match, ", "))}
	}
	for _, f := range failed {
		if strings.TrimRight(name, "/") == f.url || name == string(f.id) || len(found) == 0 {
			return hit, fmt.Errorf("%s: %w", f.url, f.err)
		}
	}
	return hit, &NoLogError{fmt.Sprintf("--log %q is none of the configured logs: %s", name, strings.Join(all, ", "))}
}

// NoLogError says that a name means no configured log, or several: bad usage.
type NoLogError struct{ text string }

func (e *NoLogError) Error() string { return e.text }

// Accept checks a decision against the state and writes it. It is applied by the
// next run.
func (m *Monitor) Accept(ctx context.Context, d state.Decision) (id string, err error) {
	m.defaults()
	d.At = m.Now().UTC()
	if d.Kind == state.TestAlert {
		return m.State.PutDecision(ctx, d)
	}
	doc, err := m.State.LoadRun(ctx)
	var corrupt *state.CorruptError
	gone := isLost(err) || errors.As(err, &corrupt)
	if err != nil && !(gone && d.Kind == state.TakeBaseline) {
		return "", fmt.Errorf("state: %w; a decision is about a log that a run has seen", err)
	}
	if gone {
		doc = &state.Run{Logs: map[tlog.ID]string{d.Log: ""}}
	}
	if _, ok := doc.Logs[d.Log]; !ok {
		var known []string
		for id := range doc.Logs {
			known = append(known, string(id))
		}
		slices.Sort(known)
		return "", &NoLogError{fmt.Sprintf("no run has seen log %s; known are: %s", d.Log, strings.Join(known, ", "))}
	}
	l, err := m.State.LoadLog(ctx, d.Log)
	if err != nil && d.Kind != state.TakeBaseline && d.Kind != state.AcceptKey {
		return "", err
	}
	switch d.Kind {
	case state.SkipTo:
		if l.Scanned == nil || d.SkipTo <= l.Scanned.Size {
			return "", &NoLogError{fmt.Sprintf("--skip-to %d: entries of log %s are read up to index %d already", d.SkipTo, d.Log, scannedOf(l))}
		}
		// Nothing could apply it, and every run until the log has grown would fail.
		if size := provenSize(l); d.SkipTo > size {
			return "", &NoLogError{fmt.Sprintf("--skip-to %d: log %s is proven to have %d entries; if it has grown, run first", d.SkipTo, d.Log, size)}
		}
	case state.CloseIncident:
		if err := hasIncident(l, d.Incident); err != nil {
			return "", err
		}
	}
	return m.State.PutDecision(ctx, d)
}

func scannedOf(l *state.Log) uint64 {
	if l.Scanned == nil {
		return 0
	}
	return l.Scanned.Size
}

// provenSize is the size of the checkpoint in state: the second line of a note.
func provenSize(l *state.Log) uint64 {
	lines := strings.SplitN(l.Checkpoint, "\n", 3)
	if len(lines) < 3 {
		return 0
	}
	size, err := strconv.ParseUint(lines[1], 10, 64)
	if err != nil {
		return 0 // written by us and verified: not reachable
	}
	return size
}

func hasIncident(l *state.Log, id string) error {
	var open []string
	for _, i := range l.Incidents {
		if i.ID == id && i.Closed == "" {
			return nil
		}
		if i.ID == id {
			return &NoLogError{fmt.Sprintf("incident %q of log %s is closed already, by decision %s", id, l.ID, i.Closed)}
		}
		if i.Closed == "" {
			open = append(open, i.ID)
		}
	}
	return &NoLogError{fmt.Sprintf("log %s has no incident %q; open are: %s", l.ID, id, cmp.Or(strings.Join(open, ", "), "none"))}
}
