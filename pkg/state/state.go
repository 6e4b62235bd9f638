// Package state keeps what outlives a run: what is proven about each log, what
// was found, what has yet to be delivered, and what operators decided.
//
// It keeps its share of these promises:
//
//   - P1: the archive of checkpoints keeps the first verified note of every size,
//     and returns another root at that size as proof of tampering.
//   - P2 and P3: findings, alerts and incidents are written first and never
//     changed; the one write of a log's document that names them is the commit,
//     and what no document names does not exist. A failed write is read back before
//     anyone says won or lost.
//   - P4: every write of a document is a compare-and-swap against what was
//     loaded. The lease only keeps a second run from starting work.
//   - P9: only the absence of everything reads as a first run. State that is lost,
//     cut short or from a newer release is an error that names the object and what
//     resolves it; fields that a newer release added are kept.
//
// [State] is the typed layer, over a [Store] of named objects.
package state

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/whosigned/whosigned/pkg/tlog"
)

const runName = "run.json"

func logName(id tlog.ID) string { return "state/" + string(id) + ".json" }

// State is what outlives a run. Its methods may be called at once; a document
// that they are given, a Run or a Log, belongs to one goroutine.
type State struct {
	store   Store
	pace    time.Duration
	writer  atomic.Pointer[string] // run ID, the first part of Header.Writer
	commits atomic.Uint64          // the second
}

// New is the State over a store.
func New(store Store) *State {
	s := &State{store: store}
	s.signAs("unleased-" + strings.ToLower(rand.Text()))
	return s
}

func (s *State) signAs(run string) { s.writer.Store(&run) }

// Open opens the state at a URL: file:///path is a folder, which is made by the
// first write and not before; gs://bucket or gs://bucket/prefix is in a bucket,
// which must exist. Nothing is read yet.
func Open(ctx context.Context, location string) (*State, error) {
	u, err := url.Parse(location)
	if err != nil {
		return nil, fmt.Errorf("state %q: %w", location, err)
	}
	switch u.Scheme {
	case "file":
		if u.Host != "" && u.Host != "localhost" || !filepath.IsAbs(u.Path) || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return nil, fmt.Errorf("state %q: want file:///absolute/path, with three slashes", location)
		}
		root := filepath.Clean(u.Path)
		if info, err := os.Stat(root); err == nil && !info.IsDir() {
			return nil, fmt.Errorf("state %q: %s is not a folder", location, root)
		} else if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("state %q: %w", location, err)
		}
		return New(&folder{root: root}), nil
	case "gs":
		store, err := openObjects(ctx, location)
		if err != nil {
			return nil, fmt.Errorf("state %q: %w", location, err)
		}
		s := New(store)
		s.pace = 2 * time.Second
		return s, nil
	}
	return nil, fmt.Errorf("state %q: want gs://bucket/prefix or file:///absolute/path", location)
}

// Pace is the shortest time to leave between two writes of one document: 2 s in a
// bucket, which takes about one write a second of an object; none in a folder.
func (s *State) Pace() time.Duration { return s.pace }

// LoadRun loads run.json. An error that wraps ErrNotExist says that this is the
// first run: there is no run.json, and a listing that succeeded found nothing else
// that a run writes. If it found something, the error is a *LostError; otherwise it
// may be a *CorruptError or a *FormatError.
//
// So run.json must be the first object that a run writes, as [State.AcquireLease] does.
func (s *State) LoadRun(ctx context.Context) (*Run, error) {
	run := new(Run)
	err := s.load(ctx, runName, "", run, &run.Header)
	if errors.Is(err, ErrNotExist) {
		if err = s.firstRun(ctx, err); errors.As(err, new(*LostError)) {
			// A first run may have begun between the two looks; then it is there now.
			if again := s.load(ctx, runName, "", run, &run.Header); !errors.Is(again, ErrNotExist) {
				err = again
			}
		}
	}
	if err != nil {
		return nil, err
	}
	for id := range run.Logs {
		if _, err := tlog.ParseID(string(id)); err != nil {
			return nil, &CorruptError{Name: runName, Remedy: remedy(""), Err: err, generation: run.generation}
		}
	}
	return run, nil
}

// firstRun returns absent, which wraps ErrNotExist, if there is nothing that a
// run wrote. Decisions, trust metadata and the report do not count: they can be
// written before run.json is, and by others than a run.
func (s *State) firstRun(ctx context.Context, absent error) error {
	for _, prefix := range []string{"state/", "checkpoints/", "findings/", "alerts/", "incidents/"} {
		for name, err := range s.store.List(ctx, prefix) {
			if err != nil {
				// Not %w: no error of the listing may read as "this is the first run".
				return fmt.Errorf("there is no %s, and whether this is the first run is unknown: %v", runName, err)
			}
			return &LostError{Name: runName, Found: name}
		}
	}
	return absent
}

// SaveRun writes run.json if it is still what run was loaded from, or if run is
// new and there is none. Its error wraps ErrConflict if another writer won; after
// any other error load again to learn what is stored.
func (s *State) SaveRun(ctx context.Context, run *Run) error {
	return s.save(ctx, runName, run, &run.Header)
}

// LoadLog loads a log's document. Its error wraps ErrNotExist if there is none,
// which is a *LostError to the caller if run.json names the log: so save a new log's
// document before run.json names it.
func (s *State) LoadLog(ctx context.Context, id tlog.ID) (*Log, error) {
	if _, err := tlog.ParseID(string(id)); err != nil {
		return nil, err
	}
	l := new(Log)
	if err := s.load(ctx, logName(id), id, l, &l.Header); err != nil {
		return nil, err
	}
	if l.ID != id {
		return nil, &CorruptError{Name: logName(id), Remedy: remedy(id), generation: l.generation,
			Err: fmt.Errorf("it is the state of log %q", l.ID)}
	}
	return l, nil
}

// Lost is the error for a log that run.json names and LoadLog does not find.
func Lost(id tlog.ID) *LostError {
	return &LostError{Name: logName(id), Log: id, Found: "its mention in " + runName}
}

// SaveLog is the commit: it writes a log's document as SaveRun writes run.json.
// Everything that the document names must have been put before.
func (s *State) SaveLog(ctx context.Context, l *Log) error {
	if _, err := tlog.ParseID(string(l.ID)); err != nil {
		return err
	}
	return s.save(ctx, logName(l.ID), l, &l.Header)
}

// Supersede makes the next save of a new document replace the corrupt one that e
// reports. Only an operator's decision may be the reason to call it.
func (h *Header) Supersede(e *CorruptError) { h.generation = e.generation }

// AcquireLease saves run with a lease for runID until then, if none of another
// run's is live; otherwise its error is a *LeaseError. From then on s signs its
// writes with runID, which must never have been used before. A lease is released
// by a SaveRun with a nil Lease.
func (s *State) AcquireLease(ctx context.Context, run *Run, runID string, until, now time.Time) error {
	if err := leased(run, runID, now); err != nil {
		return err
	}
	before := run.Lease
	run.Lease = &Lease{Run: runID, Expires: until.UTC()}
	s.signAs(runID)
	err := s.SaveRun(ctx, run)
	if err == nil {
		return nil
	}
	run.Lease = before
	if errors.Is(err, ErrConflict) {
		// Who won has most likely taken the lease: say so.
		if winner, loadErr := s.LoadRun(ctx); loadErr == nil {
			if taken := leased(winner, runID, now); taken != nil {
				return taken
			}
		}
	}
	return fmt.Errorf("taking the lease: %w", err)
}

func leased(run *Run, runID string, now time.Time) error {
	if l := run.Lease; l != nil && l.Run != runID && now.Before(l.Expires) {
		return &LeaseError{Holder: l.Run, Expires: l.Expires}
	}
	return nil
}

// load reads a document and its generation.
func (s *State) load(ctx context.Context, name string, id tlog.ID, doc any, h *Header) error {
	data, generation, err := s.store.Read(ctx, name)
	if err != nil {
		return err
	}
	if err := decode(name, data, doc); err != nil {
		if newer := (*FormatError)(nil); errors.As(err, &newer) {
			return err
		}
		return &CorruptError{Name: name, Remedy: remedy(id), Err: err, generation: generation}
	}
	h.generation = generation
	return nil
}

// save writes a document over the generation that it was loaded or saved as.
func (s *State) save(ctx context.Context, name string, doc any, h *Header) error {
	before := *h
	h.Format = Format
	// A field that is kept unknown may need the newer reader that wrote it.
	h.MinReader = max(h.MinReader, MinReader)
	h.Writer = fmt.Sprintf("%s/%d", *s.writer.Load(), s.commits.Add(1))
	h.Saved = time.Now().UTC().Round(0)
	generation, err := s.replace(ctx, name, doc, before.generation)
	if err != nil {
		*h = before
		return err
	}
	h.generation = generation
	return nil
}

func (s *State) replace(ctx context.Context, name string, doc any, old Generation) (Generation, error) {
	data, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return "", fmt.Errorf("writing %s: %w", name, err)
	}
	data = append(data, '\n')
	generation, err := s.store.Replace(ctx, name, data, old)
	if err == nil {
		return generation, nil
	}
	return s.settle(ctx, name, data, old, err)
}

// settle finds out by reading back whether a failed write happened. That goes
// for a conflict too: a store that retries may have lost against itself.
func (s *State) settle(ctx context.Context, name string, data []byte, old Generation, failed error) (Generation, error) {
	stored, current, err := s.readBack(ctx, name)
	switch {
	case err != nil && !errors.Is(err, ErrNotExist):
		return "", fmt.Errorf("whether %s was written is unknown: %w", name, errors.Join(failed, err))
	// The content holds the writer, so the same content is our write.
	case err == nil && bytes.Equal(stored, data):
		return current, nil
	case current == old:
		return "", failed // not written, and nobody else did
	case errors.Is(failed, ErrConflict):
		return "", fmt.Errorf("%w (%s)", failed, writtenBy(stored))
	}
	return "", fmt.Errorf("writing %s: %w (%s), after: %w", name, ErrConflict, writtenBy(stored), failed)
}

// readBack reads even if ctx is done: that is when writes fail without an answer.
func (s *State) readBack(ctx context.Context, name string) ([]byte, Generation, error) {
	limit := 10 * time.Second
	if ctx.Err() != nil {
		limit = 3 * time.Second // the writer's time is over
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	return s.store.Read(ctx, name)
}

func writtenBy(stored []byte) string {
	var h Header
	if json.Unmarshal(stored, &h) != nil || h.Writer == "" {
		return "its writer is unknown"
	}
	return fmt.Sprintf("its writer is %.100q", h.Writer)
}

// decode reads a document, its format first: what a newer one is like is unknown.
func decode(name string, data []byte, doc any) error {
	var h struct {
		Format    int `json:"format"`
		MinReader int `json:"min_reader"`
	}
	if err := json.Unmarshal(data, &h); err != nil {
		return err
	}
	if h.Format < 1 || h.MinReader < 1 {
		return errors.New("it has no format and min_reader")
	}
	if h.MinReader > Format {
		return &FormatError{Name: name, MinReader: h.MinReader, Format: Format}
	}
	return json.Unmarshal(data, doc)
}
