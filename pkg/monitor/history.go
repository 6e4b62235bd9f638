package monitor

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/transparency-dev/merkle/compact"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
)

// History is what this monitor saw of each log: its state, and the logs themselves
// under the keys of now. It belongs to one goroutine.
type History struct {
	// Trust and TrustError say how the TUF repository fared, as in [Result.Trust].
	Trust      string
	TrustError string

	run  *run // that is not made: its configuration, run.json and decisions
	held map[tlog.ID]error
	logs map[tlog.ID]*past
}

// past is the history of one log.
type past struct {
	log     tlog.Log
	info    tlog.Info
	doc     *state.Log
	trusted tlog.Checkpoint // the newest one proven
	keys    []tlog.Key
	err     error // why there is none of it
}

// History opens the histories that the state has. It writes nothing, and asks no log
// yet.
func (m *Monitor) History(ctx context.Context) (*History, error) {
	m.defaults()
	doc, err := m.State.LoadRun(ctx)
	if errors.Is(err, state.ErrNotExist) {
		return nil, fmt.Errorf("no run has been made yet, so there is no history: %s is empty", m.Config.State)
	} else if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	decisions, err := m.State.Decisions(ctx)
	if err != nil {
		return nil, fmt.Errorf("decisions: %w", err)
	}
	a := m.anchored(ctx)
	if a.blind {
		return nil, fmt.Errorf("trust: %w", a.err)
	}
	own, cfg := *m, *a.cfg
	cfg.Logs = slices.Clone(cfg.Logs)
	own.Config = &cfg
	now := m.Now().UTC()
	r := &run{Monitor: &own, started: now, work: ctx, doc: &runState{doc: doc}, listed: doc.Listed, health: newHealth(now, cfg.Patience)}
	r.sortDecisions(decisions, nil)
	h := &History{Trust: a.status, run: r, held: make(map[tlog.ID]error), logs: make(map[tlog.ID]*past)}
	if a.err != nil {
		h.TrustError = a.err.Error()
	}
	for _, f := range r.resume() {
		h.held[f.id] = f.err
	}
	return h, nil
}

// signedBy are the watched logs that a bundle's log ID and checkpoint name: one, or
// without a checkpoint for Rekor v1 every tree of the service.
func (h *History) signedBy(keyID, note string) []tlog.ID {
	origin, _, _ := strings.Cut(note, "\n")
	var ids []tlog.ID
	for _, id := range slices.Sorted(maps.Keys(h.run.doc.known())) {
		key, tree, isTree := strings.Cut(string(id), "-")
		if isTree && note != "" && !strings.HasSuffix(origin, " - "+tree) {
			continue
		}
		if key == keyID || slices.ContainsFunc(h.accepted(id), func(k tlog.Key) bool { return k.Hex() == keyID }) {
			ids = append(ids, id)
		}
	}
	return ids
}

// accepted are the keys that operators accepted for a log, with their log IDs.
func (h *History) accepted(id tlog.ID) (keys []tlog.Key) {
	origin := ""
	for _, c := range h.run.Config.Logs {
		if c.ID == id && c.Type == tlog.RekorV2 {
			origin = c.Origin
		}
	}
	for _, d := range h.run.keys {
		k, err := tlog.ParseKeyPEM([]byte(d.Key))
		if d.Log != id || err != nil {
			continue
		}
		if origin != "" {
			k.LogID = k.OriginID(origin)
		}
		keys = append(keys, k)
	}
	return keys
}

// configured says whether a log with such a key is to be watched.
func (h *History) configured(keyID string) bool {
	return slices.ContainsFunc(h.run.Config.Logs, func(c config.Log) bool {
		return slices.ContainsFunc(c.Keys, func(k tlog.Key) bool { return k.Hex() == keyID })
	})
}

// open loads a log's history, once.
func (h *History) open(ctx context.Context, id tlog.ID) (*past, error) {
	k := h.logs[id]
	if k == nil {
		k = &past{}
		k.err = h.load(ctx, id, k)
		h.logs[id] = k
	}
	return k, k.err
}

func (h *History) load(ctx context.Context, id tlog.ID, k *past) (err error) {
	if err := h.held[id]; err != nil {
		return err
	}
	if k.doc, err = h.run.State.LoadLog(ctx, id); errors.Is(err, state.ErrNotExist) {
		return state.Lost(id)
	} else if err != nil {
		return err
	}
	if err := h.find(ctx, id, k); err != nil {
		return err
	}
	k.info = k.log.Info()
	if k.trusted, err = k.log.Open([]byte(k.doc.Checkpoint)); err != nil {
		return fmt.Errorf("the checkpoint in state/%s.json: %w", id, err)
	}
	return nil
}

// find opens the log itself. A Rekor v1 service is asked for its trees; one that does
// not answer leaves what needs no answer.
func (h *History) find(ctx context.Context, id tlog.ID, k *past) (err error) {
	url := h.run.doc.known()[id]
	for _, c := range h.run.Config.Logs {
		if c.Type == "" && (c.ID == id || c.URL == url) {
			c.Type = k.doc.Type
		}
		switch {
		case c.Type == tlog.RekorV1 && c.URL == url:
			k.keys = append(slices.Clone(c.Keys), h.accepted(id)...)
			found, failed := h.run.openTrees(ctx, c, map[tlog.ID]string{id: url}, h.run.keys)
			for _, l := range found {
				if l.Info().ID == id {
					k.log = l.Log
					return nil
				}
			}
			err := errors.New("the service does not list this tree")
			for _, f := range failed {
				if f.id == id {
					err = f.err
				}
			}
			k.log = h.away(c, id, k.doc.Origin, err)
			return nil
		case c.Type != tlog.RekorV1 && c.ID == id:
			k.keys = append(slices.Clone(c.Keys), h.accepted(id)...)
			k.log, err = h.run.openOne(c, h.run.keys)
			return err
		}
	}
	return fmt.Errorf("it was watched, and is not configured any more, so which key signs it is not known")
}

// at finds the log that has the entry with a bundle's log index, and the entry's index
// in its own tree: for Rekor v1 that of the service's trees that begins last before it.
func (h *History) at(ctx context.Context, ids []tlog.ID, index uint64) (last *past, own uint64, err error) {
	first := uint64(0)
	for _, id := range ids {
		k, err := h.open(ctx, id)
		if err != nil {
			return nil, 0, fmt.Errorf("log %s: %w", id, err)
		}
		begins, err := k.begins(ctx)
		if err != nil {
			return nil, 0, fmt.Errorf("log %s: %w", id, err)
		}
		if k.trusted.Size > 0 && begins <= index && (last == nil || begins > first) {
			last, first = k, begins
		}
	}
	if last == nil {
		return nil, 0, fmt.Errorf("no log under its key has an entry %d in its history", index)
	}
	return last, index - first, nil
}

// begins is the log index of the tree's own entry 0.
func (k *past) begins(ctx context.Context) (uint64, error) {
	if k.doc.Type != tlog.RekorV1 || k.trusted.Size == 0 {
		return 0, nil
	}
	for leaf, err := range k.log.Leaves(ctx, 0, 1) {
		if err != nil {
			return 0, err
		}
		return leaf.Claims.GlobalIndex, nil
	}
	return 0, errors.New("it serves no entry")
}

// seenNotes is the archive as a bundle's checkpoint is held against it: nothing is put.
type seenNotes struct {
	*past
	state *state.State
	ours  bool // the last one asked for is there, and of the trusted history
}

// Keep implements tlog.Archive.
func (a *seenNotes) Keep(ctx context.Context, cp tlog.Checkpoint) ([]byte, error) {
	if cp.Size == a.trusted.Size {
		a.ours = true
		return a.trusted.Note, nil
	}
	if cp.Size <= a.doc.ArchiveFloor {
		return cp.Note, nil // a decision gave up the history that was archived
	}
	note, err := a.state.Checkpoint(ctx, a.info.ID, cp.Size)
	if errors.Is(err, state.ErrNotExist) {
		return cp.Note, nil
	}
	a.ours = err == nil && cp.Size < a.trusted.Size && len(a.doc.Strays) < maxStrays && !slices.Contains(a.doc.Strays, cp.Size)
	return note, err
}

// shown is a log as if it served cp now: a bundle's checkpoint is judged as one that
// was fetched.
type shown struct {
	tlog.Log
	cp tlog.Checkpoint
	// due: cp is so old that every replica should have its tree.
	due bool
}

// Checkpoint implements tlog.Log.
func (s shown) Checkpoint(context.Context) (tlog.Checkpoint, error) { return s.cp, nil }

// ConsistencyProof makes of a refusal something that counts against the log, since it
// signed both trees: unless it does not have the larger one yet.
func (s shown) ConsistencyProof(ctx context.Context, from, to uint64) ([][]byte, error) {
	hashes, err := s.Log.ConsistencyProof(ctx, from, to)
	var status *tlog.StatusError
	if !errors.As(err, &status) || status.Code < 400 || status.Code >= 500 || status.Code == http.StatusTooManyRequests {
		return hashes, err
	}
	now, failed := s.Log.Checkpoint(tlog.Fresh(ctx))
	var unverified *tlog.Unverified
	if failed != nil && !errors.As(failed, &unverified) {
		return nil, fmt.Errorf("%w; it does not serve a checkpoint either: %w", err, failed)
	}
	if failed == nil && now.Size < to && !s.due {
		return nil, fmt.Errorf("%w; the log serves size %d now: a replica may lag behind size %d, which it signed; check again in %s", err, now.Size, to, rollbackAfter)
	}
	if failed == nil {
		err = fmt.Errorf("%w; the log serves size %d now", err, now.Size)
	}
	return nil, &tlog.Unverified{What: fmt.Sprintf("the answer for the consistency proof from size %d to %d", from, to), Served: status.Body, Err: err}
}

// away is a Rekor v1 tree whose service cannot be asked for it: notes can be verified.
type away struct {
	info tlog.Info
	keys []tlog.Key
	err  error
}

func (h *History) away(c config.Log, id tlog.ID, origin string, err error) *away {
	key, tree, _ := strings.Cut(string(id), "-")
	keys := slices.DeleteFunc(slices.Clone(c.Keys), func(k tlog.Key) bool { return k.Hex() != key })
	return &away{
		info: tlog.Info{ID: id, Type: tlog.RekorV1, Origin: origin, URL: c.URL, TreeID: tree},
		keys: append(keys, h.accepted(id)...),
		// Not wrapped: what is served in place of the tree is for runs to judge.
		err: &tlog.Unavailable{What: c.URL, Err: fmt.Errorf("%v", err)},
	}
}

// Info implements tlog.Log, as do the methods below.
func (a *away) Info() tlog.Info { return a.info }

// Open implements tlog.Log as package rekorv1 does.
func (a *away) Open(note []byte) (tlog.Checkpoint, error) {
	cp, _, err := tlog.OpenCheckpoint(note, a.keys)
	if err == nil && !strings.HasSuffix(cp.Origin, " - "+a.info.TreeID) {
		err = fmt.Errorf("its origin is %q: it is another tree's", cp.Origin)
	}
	return cp, err
}

func (a *away) Checkpoint(context.Context) (tlog.Checkpoint, error) { return tlog.Checkpoint{}, a.err }
func (a *away) ConsistencyProof(context.Context, uint64, uint64) ([][]byte, error) {
	return nil, a.err
}
func (a *away) Leaves(context.Context, uint64, uint64) iter.Seq2[tlog.Leaf, error] {
	return func(yield func(tlog.Leaf, error) bool) { yield(tlog.Leaf{}, a.err) }
}
func (a *away) Frontier(context.Context, uint64, tlog.Checkpoint) (*compact.Range, error) {
	return nil, a.err
}
