package monitor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	formats "github.com/transparency-dev/formats/log"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/rekorv1"
)

// ImportedCheckpoint is a checkpoint that another monitor saved: a signed note, a CT
// log's tree head, or the text of a note of Rekor v2 or static CT without signature,
// for which the log itself has to prove that it extends it.
type ImportedCheckpoint struct {
	File string // where it was read, for messages
	Note []byte
	STH  *tlog.TreeHead
}

// Imported says what became of one.
type Imported struct {
	File   string  `json:"file"`
	Log    tlog.ID `json:"log"`
	Origin string  `json:"origin"`
	Size   uint64  `json:"size"` // of the checkpoint: the index that reading starts from
}

// Import makes checkpoints that another monitor saved the points that watching starts
// from: the configured log that signed one is held to it, and is read from its size
// on. Each log must be new to the state; nothing is written unless all can be
// imported. The error is a *state.LeaseError if a run is at work.
func (m *Monitor) Import(ctx context.Context, checkpoints []ImportedCheckpoint) (imported []Imported, err error) {
	m.defaults()
	began := time.Now()
	r, err := m.begin(ctx, false)
	if err != nil {
		return nil, err
	}
	defer r.clock(ctx, began)()
	defer func() {
		keep, cancel := r.closing()
		defer cancel()
		err = errors.Join(err, r.doc.commit(keep, func(d *state.Run) { d.Lease = nil }))
	}()
	a := m.anchored(ctx)
	if a.blind {
		return nil, fmt.Errorf("trust: %w", a.err)
	}
	own := *r.Monitor
	own.Config = a.cfg
	r.Monitor = &own
	found, failed := r.discover(r.work, r.doc.known(), r.keys)
	logs, err := r.importers(checkpoints, found, failed)
	if err != nil {
		return nil, err
	}
	for _, w := range logs {
		if err := w.affords(); err != nil {
			return nil, err
		}
	}
	keep, cancel := r.keep()
	defer cancel()
	for _, w := range logs {
		if err := w.save(keep); err != nil {
			return imported, err
		}
		doc := w.st.read()
		imported = append(imported, Imported{File: w.source, Log: w.info.ID, Origin: doc.Origin, Size: doc.Start})
	}
	return imported, nil
}

// importers prepare the states of the logs that signed checkpoints.
func (r *run) importers(checkpoints []ImportedCheckpoint, found []watched, failed []notFound) ([]*logRun, error) {
	var logs []*logRun
	for _, c := range checkpoints {
		w, err := r.importer(c, found, failed)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(logs, func(other *logRun) bool { return other.info.ID == w.info.ID }) {
			return nil, fmt.Errorf("%s: a second checkpoint of log %s: give the newest one", c.File, w.info.ID)
		}
		logs = append(logs, w)
	}
	return logs, nil
}

// affords is the error for more than can be read since the checkpoint, as for any
// other start.
func (w *logRun) affords() error {
	if w.cfg.Coverage != config.Full || w.cfg.AcceptLag {
		return nil
	}
	head, err := w.log.Checkpoint(w.work)
	if err != nil {
		return fmt.Errorf("%s: how much log %s has grown since: %w", w.source, w.info.ID, err)
	}
	if err := w.plan(w.st.read().Start, head.Size).refuse(); err != nil {
		return fmt.Errorf("%s: log %s, since this checkpoint: %w", w.source, w.info.ID, err)
	}
	return nil
}

// importer prepares the state of the log that signed a checkpoint.
func (r *run) importer(c ImportedCheckpoint, found []watched, failed []notFound) (*logRun, error) {
	l, cp, err := opens(c, found)
	from := cp.Size
	unsigned, isUnsigned := unsignedNote(c.Note)
	if isUnsigned {
		l, cp, err = r.shows(c, unsigned, found)
		from = unsigned.Size
	}
	if err != nil {
		for _, f := range failed {
			err = fmt.Errorf("%w; %s cannot be opened: %w", err, f.url, f.err)
		}
		return nil, err
	}
	w := &logRun{run: r, log: l.Log, cfg: l.cfg, info: l.Info(), seen: make(map[string]bool), source: c.File}
	there, err := r.State.LoadLog(r.work, w.info.ID)
	if _, known := r.doc.known()[w.info.ID]; err == nil && there.Start == from && there.Checkpoint == string(cp.Note) && untouched(there) {
		w.st = w.newState(there)
		return w, nil
	} else if known || err == nil {
		return nil, fmt.Errorf("%s: log %s (%s) has state already, and goes on from there: import into new state", c.File, w.info.ID, cp.Origin)
	} else if !errors.Is(err, state.ErrNotExist) {
		return nil, err
	}
	doc := w.newDoc()
	now := w.Now().UTC()
	doc.Checkpoint, doc.CheckpointGrew, doc.Watched = string(cp.Note), now, now
	doc.Origin, doc.Size, doc.Start = cp.Origin, cp.Size, from
	doc.Notices = []state.Notice{w.notice("reading starts at index %d, the size of the checkpoint imported from %s; entries before are not read", from, c.File)}
	if from > 0 {
		doc.Gaps = []state.Gap{{From: 0, To: from, Reason: "imported from " + c.File, At: now}}
	}
	if w.cfg.Coverage == config.Full || isUnsigned {
		w.audit = tlog.Audit{Log: w.log, Archive: noArchive{}, Again: w.Again}
		f, incident, err := w.audit.Frontier(r.work, from, cp)
		if err != nil {
			if head, failed := w.log.Checkpoint(r.work); failed == nil && head.Size < from {
				return nil, shrunk(c, from, w.info.ID, head.Size, "keep the file, it is evidence")
			}
			return nil, fmt.Errorf("%s: the left edge of log %s at size %d: %w", c.File, w.info.ID, from, err)
		}
		// What to do comes first: a terminal shows only so much of a line.
		another := fmt.Sprintf("%s: log %s now serves another history than this checkpoint is of; ", c.File, w.info.ID)
		if incident != nil {
			return nil, fmt.Errorf("%skeep the file, it is evidence: %s", another, incident.Text)
		}
		if isUnsigned {
			edge, err := f.Range()
			if err != nil {
				return nil, err
			}
			if root, err := tlog.Root(edge); err != nil || root != unsigned.Root {
				return nil, fmt.Errorf("%sthe file has no signature, so that proves nothing: to begin without it, leave it out; the root at size %d is %s, the file says %s", another, from, root, unsigned.Root)
			}
		}
		if w.cfg.Coverage == config.Full {
			doc.Scanned = &f
			doc.Grown(now)
		}
		doc.Rules = []state.RulesFrom{{Hash: w.Config.Rules.Hash(), From: from, At: now}}
	}
	w.st = w.newState(doc)
	return w, nil
}

// untouched says whether an imported log is as the import left it, so that one that was
// cut short can be repeated. Its checkpoint alone does not say so: that of an unsigned
// import is what the log signs now, as is that of a run.
func untouched(l *state.Log) bool {
	return l.CheckpointGrew.Equal(l.Watched) && (l.Scanned == nil || l.Scanned.Size == l.Start)
}

// unsignedNote reads a checkpoint as rekor-monitor keeps those of Rekor v2 and of
// static CT logs: without its signature.
func unsignedNote(note []byte) (cp tlog.Checkpoint, ok bool) {
	var f formats.Checkpoint
	if rest, err := f.Unmarshal(note); err != nil || len(rest) > 0 || len(f.Hash) != len(tlog.Hash{}) || f.Size == 0 {
		return cp, false
	}
	return tlog.Checkpoint{Origin: f.Origin, Size: f.Size, Root: tlog.Hash(f.Hash)}, true
}

// shows finds the log that now signs a checkpoint with the origin of an unsigned one,
// and is at least as large. That it is of the same history is yet to be proven.
func (r *run) shows(c ImportedCheckpoint, unsigned tlog.Checkpoint, found []watched) (watched, tlog.Checkpoint, error) {
	var tried []string
	for _, l := range found {
		if l.Info().Type != tlog.RekorV2 && l.Info().Type != tlog.StaticCT {
			continue
		}
		cp, err := l.Checkpoint(r.work)
		switch {
		case err != nil:
			tried = append(tried, fmt.Sprintf("%s (%v)", l.Info().URL, err))
		case cp.Origin != unsigned.Origin:
			tried = append(tried, cp.Origin)
		case cp.Size < unsigned.Size:
			return l, cp, shrunk(c, unsigned.Size, l.Info().ID, cp.Size, "begin without the file: it has no signature, so it proves nothing")
		default:
			return l, cp, nil
		}
	}
	return watched{}, tlog.Checkpoint{}, fmt.Errorf("%s: the checkpoint is unsigned, and of the configured Rekor v2 and static CT logs none has its origin %q; tried: %s", c.File, unsigned.Origin, strings.Join(tried, ", "))
}

// shrunk is the error for a checkpoint that is larger than what its log shows.
func shrunk(c ImportedCheckpoint, size uint64, log tlog.ID, shows uint64, do string) error {
	return fmt.Errorf("%s: the checkpoint is of size %d, and log %s now shows only %d entries: a replica lags, or the log was set back; import again later, and if it stays so %s", c.File, size, log, shows, do)
}

// opens finds the log whose key signed a checkpoint.
func opens(c ImportedCheckpoint, found []watched) (watched, tlog.Checkpoint, error) {
	var names []string
	for _, l := range found {
		note, isCT := c.Note, l.cfg.Kind == config.CT
		if (c.STH != nil) != isCT && len(c.Note) == 0 {
			continue
		}
		if c.STH != nil {
			note = c.STH.Note(l.Info().Origin, l.cfg.Keys[0])
		}
		if cp, err := l.Open(note); err == nil {
			return l, cp, nil
		}
		names = append(names, l.Info().URL)
	}
	slices.Sort(names)
	return watched{}, tlog.Checkpoint{}, fmt.Errorf("%s: no configured log has signed this checkpoint; tried: %s", c.File, strings.Join(slices.Compact(names), ", "))
}

// save makes an imported starting point count, as a baseline does. Of an import that
// was cut short here the log's document is there already.
func (w *logRun) save(ctx context.Context) error {
	if w.st.read().Writer != "" {
		return w.name(ctx)
	}
	cp, err := w.log.Open([]byte(w.st.read().Checkpoint))
	if err != nil {
		return err
	}
	if err := w.State.PutCheckpoint(ctx, w.info.ID, cp); err != nil {
		return err
	}
	if err := w.st.commit(ctx, func(d *state.Log) { d.Coverage = string(w.cfg.Coverage) }); err != nil {
		return err
	}
	return w.name(ctx)
}

// name makes run.json name an imported log.
func (w *logRun) name(ctx context.Context) error {
	return w.doc.commit(ctx, func(d *state.Run) {
		logs := maps.Clone(d.Logs)
		if logs == nil {
			logs = make(map[tlog.ID]string)
		}
		logs[w.info.ID] = w.info.URL
		d.Logs = logs
		w.mark(d)
	})
}

// mark says in d up to where the service of an imported log was watched, for the logs
// that came since.
func (w *logRun) mark(d *state.Run) {
	after := w.st.read().Start
	switch tree, ok := w.log.(*rekorv1.Tree); {
	case ok:
		base, err := tree.Offset()
		if err != nil {
			return
		}
		after += base
	case w.info.Type != tlog.RekorV2:
		return
	}
	imported := maps.Clone(d.Imported)
	if imported == nil {
		imported = make(map[string]uint64)
	}
	imported[w.info.URL] = after
	d.Imported = imported
}
