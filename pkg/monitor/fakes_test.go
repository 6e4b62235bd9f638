package monitor_test

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/whosigned/whosigned/pkg/notify"
	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/state"
)

// memStore is a state.Store in memory. hook is asked before and after every
// operation; its error is that of the operation, which before keeps it from
// happening and after does not. Like a real store it does nothing for a context
// that has ended.
type memStore struct {
	mu      sync.Mutex
	objects map[string]object
	serial  int
	hook    func(op, name string, after bool) error
}

type object struct {
	data []byte
	gen  state.Generation
}

func newMemStore() *memStore { return &memStore{objects: map[string]object{}} }

func (s *memStore) do(ctx context.Context, op, name string, f func() error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s %s: %w", op, name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hook != nil {
		if err := s.hook(op, name, false); err != nil {
			return err
		}
	}
	err := f()
	if s.hook != nil {
		if hookErr := s.hook(op, name, true); hookErr != nil {
			return hookErr
		}
	}
	return err
}

func (s *memStore) Read(ctx context.Context, name string) (data []byte, g state.Generation, err error) {
	err = s.do(ctx, "read", name, func() error {
		o, ok := s.objects[name]
		if !ok {
			return fmt.Errorf("%s: %w", name, state.ErrNotExist)
		}
		data, g = bytes.Clone(o.data), o.gen
		return nil
	})
	return data, g, err
}

func (s *memStore) Create(ctx context.Context, name string, data []byte) error {
	return s.do(ctx, "create", name, func() error {
		if len(data) > state.MaxObject {
			return fmt.Errorf("%s: too large", name)
		}
		if o, ok := s.objects[name]; ok {
			if bytes.Equal(o.data, data) {
				return nil
			}
			return &state.ExistsError{Name: name, Stored: bytes.Clone(o.data)}
		}
		s.put(name, data)
		return nil
	})
}

func (s *memStore) put(name string, data []byte) state.Generation {
	s.serial++
	g := state.Generation(fmt.Sprint(s.serial))
	s.objects[name] = object{bytes.Clone(data), g}
	return g
}

func (s *memStore) Replace(ctx context.Context, name string, data []byte, old state.Generation) (g state.Generation, err error) {
	err = s.do(ctx, "replace", name, func() error {
		if s.objects[name].gen != old {
			return fmt.Errorf("%s: %w", name, state.ErrConflict)
		}
		g = s.put(name, data)
		return nil
	})
	return g, err
}

func (s *memStore) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	var names []string
	err := s.do(ctx, "list", prefix, func() error {
		for _, name := range slices.Sorted(maps.Keys(s.objects)) {
			if strings.HasPrefix(name, prefix) {
				names = append(names, name)
			}
		}
		return nil
	})
	return func(yield func(string, error) bool) {
		if err != nil {
			yield("", err)
			return
		}
		for _, n := range names {
			if !yield(n, nil) {
				return
			}
		}
	}
}

func (s *memStore) names(prefix string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for name := range s.objects {
		if strings.HasPrefix(name, prefix) {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

// memSink acknowledges in memory.
type memSink struct {
	name    string
	classes []report.Class
	mu      sync.Mutex
	taken   []report.Message
	hook    func(m report.Message, after bool) error
}

func (s *memSink) Name() string { return s.name }
func (s *memSink) Takes(c report.Class) bool {
	return len(s.classes) == 0 || slices.Contains(s.classes, c)
}

func (s *memSink) Send(_ context.Context, m report.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hook != nil {
		if err := s.hook(m, false); err != nil {
			return &notify.SendError{Sink: s.name, Down: true, Err: err}
		}
	}
	s.taken = append(s.taken, m)
	if s.hook != nil {
		if err := s.hook(m, true); err != nil {
			return &notify.SendError{Sink: s.name, Down: true, Err: err}
		}
	}
	return nil
}

func (s *memSink) got() []report.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.taken)
}
