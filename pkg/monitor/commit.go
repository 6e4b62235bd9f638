package monitor

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
)

// pace keeps the writes of one document apart, until hurry is closed.
type pace struct {
	every time.Duration
	last  time.Time
	hurry <-chan struct{}
}

func (p *pace) wait() {
	if wait := p.every - time.Since(p.last); wait > 0 {
		select {
		case <-time.After(wait):
		case <-p.hurry:
		}
	}
}

// written says that a write has just ended.
func (p *pace) written() { p.last = time.Now() }

// logState is a log's document while a run works on it. The scan and the delivery
// of its alerts both commit to it.
type logState struct {
	mu    sync.Mutex
	doc   *state.Log
	state *state.State
	pace  pace
	// lost is the error of a commit that another run won: nothing of this log may be
	// written any more.
	lost error
}

// commit applies change to the document and saves it, or changes nothing. The
// save is a compare-and-swap (P4): a run that lost one stops working on the log.
func (s *logState) commit(ctx context.Context, change func(*state.Log)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost != nil {
		return s.lost
	}
	s.pace.wait()
	defer s.pace.written()
	before := clone(s.doc)
	change(s.doc)
	if err := s.state.SaveLog(ctx, s.doc); err != nil {
		s.doc = before
		if errors.Is(err, state.ErrConflict) {
			s.lost = err
		}
		// Otherwise the next commit may try: if this one happened after all, it loses.
		return err
	}
	return nil
}

// clone copies what a change may touch. Slices are copied, their elements are
// only ever replaced.
func clone(d *state.Log) *state.Log {
	c := *d
	c.Gaps, c.Holes, c.Rules = slices.Clone(d.Gaps), slices.Clone(d.Holes), slices.Clone(d.Rules)
	c.Notices, c.Strays = slices.Clone(d.Notices), slices.Clone(d.Strays)
	c.Seen, c.Lags = slices.Clone(d.Seen), slices.Clone(d.Lags)
	c.Outbox, c.Incidents, c.Applied = slices.Clone(d.Outbox), slices.Clone(d.Incidents), slices.Clone(d.Applied)
	return &c
}

// read is a copy of the document as last committed.
func (s *logState) read() *state.Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	return clone(s.doc)
}

func (s *logState) outbox() []state.Pending {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.doc.Outbox)
}

func (s *logState) settle(ctx context.Context, change func([]state.Pending) []state.Pending) error {
	return s.commit(ctx, func(d *state.Log) { d.Outbox = change(d.Outbox) })
}

// runState is run.json while a run works.
type runState struct {
	mu    sync.Mutex
	doc   *state.Run
	state *state.State
	pace  pace
	first bool // no log is known yet: this run takes the baselines
	lost  error

	naming sync.Mutex
	named  map[tlog.ID]string // logs whose documents are there and that run.json is to name
}

func (s *runState) commit(ctx context.Context, change func(*state.Run)) error {
	return s.commitUnless(ctx, func(*state.Run) bool { return false }, change)
}

func (s *runState) commitUnless(ctx context.Context, done func(*state.Run) bool, change func(*state.Run)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if done(s.doc) {
		return nil
	}
	if s.lost != nil {
		return s.lost
	}
	s.pace.wait()
	defer s.pace.written()
	before := *s.doc
	before.Logs, before.Conditions = maps.Clone(s.doc.Logs), maps.Clone(s.doc.Conditions)
	before.Outbox, before.Services = slices.Clone(s.doc.Outbox), slices.Clone(s.doc.Services)
	change(s.doc)
	if err := s.state.SaveRun(ctx, s.doc); err != nil {
		*s.doc = before
		if errors.Is(err, state.ErrConflict) {
			s.lost = err
		}
		return err
	}
	return nil
}

func (s *runState) outbox() []state.Pending {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.doc.Outbox)
}

func (s *runState) settle(ctx context.Context, change func([]state.Pending) []state.Pending) error {
	return s.commit(ctx, func(d *state.Run) { d.Outbox = change(d.Outbox) })
}

// known are the logs watched so far, with their service's URL.
func (s *runState) known() map[tlog.ID]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.doc.Logs)
}

// remember names a log in run.json. Its own document is written before, its
// service is named when the run is finished: see run.finish.
func (s *runState) remember(ctx context.Context, id tlog.ID, url string) error {
	s.naming.Lock()
	if s.named == nil {
		s.named = make(map[tlog.ID]string)
	}
	s.named[id] = url
	s.naming.Unlock()
	// Many logs may come at once, and their commits are kept apart: one names all.
	there := func(d *state.Run) bool { return d.Logs[id] == url }
	return s.commitUnless(ctx, there, func(d *state.Run) {
		if d.Logs == nil {
			d.Logs = make(map[tlog.ID]string)
		}
		s.naming.Lock()
		defer s.naming.Unlock()
		maps.Copy(d.Logs, s.named)
	})
}

// listed are the keys of the trusted root as of the last run, and listedBy names it.
func (s *runState) listed() map[tlog.ID]state.Listed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.doc.Listed)
}

func (s *runState) imported() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.doc.Imported
}

func (s *runState) listedBy() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.doc.ListedBy
}

func (s *runState) failingSince() *time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.doc.FailingSince
}

// conditions are those of the last run, as committed.
func (s *runState) conditions() map[string]state.Condition {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.doc.Conditions)
}
