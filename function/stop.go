package function

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// stopTime is how long after SIGTERM the process is gone, whatever happens: Cloud
// Run kills it after 10 s.
const stopTime = 8 * time.Second

// stopper ends the process on SIGTERM, but only after the runs at work have
// committed what they have proven and released their lease. Without it the signal
// ends the binary at once, since the Functions Framework does not watch for it.
type stopper struct {
	exit func(status int)
	// ending is done once the process is to end, end makes it so.
	ending context.Context
	end    context.CancelCauseFunc

	mu   sync.Mutex
	runs map[*running]bool
	idle chan struct{} // closed once the process is to end and no run is left
}

// running is a run at work; late is called if the process has to end before it does.
type running struct{ late func() }

var errStopped = errors.New("the instance is being stopped (SIGTERM)")

func newStopper(exit func(int)) *stopper {
	s := &stopper{exit: exit, runs: map[*running]bool{}, idle: make(chan struct{})}
	s.ending, s.end = context.WithCancelCause(context.Background())
	return s
}

// watch waits for SIGTERM from now on. It is called with the first request: a
// process that has none yet may end at once.
func (s *stopper) watch() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	go func() {
		<-signals
		s.stop()
	}()
}

// begin makes the context of a run, which also ends with the process; done must be
// called once the run's answer is written, and late is if that is not in time. It is
// not ok if the process is ending.
func (s *stopper) begin(parent context.Context, late func()) (ctx context.Context, done func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending.Err() != nil {
		return nil, nil, false
	}
	r := &running{late}
	s.runs[r] = true
	ctx, cancel := context.WithCancelCause(parent)
	unlink := context.AfterFunc(s.ending, func() { cancel(errStopped) })
	return ctx, func() {
		unlink()
		cancel(nil)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.runs, r)
		s.settle()
	}, true
}

// settle closes idle when there is nothing to wait for.
func (s *stopper) settle() {
	if s.ending.Err() != nil && len(s.runs) == 0 {
		close(s.idle)
	}
}

// stop ends all runs, waits for them, and exits. Log lines are written as they are
// made, so there is nothing to flush.
func (s *stopper) stop() {
	s.mu.Lock()
	s.end(errStopped)
	s.settle()
	s.mu.Unlock()
	// Also if somebody no longer reads our log, and writing to it does not return.
	hard := time.AfterFunc(stopTime-time.Second/4, func() { s.exit(0) })
	defer hard.Stop()
	late := time.NewTimer(stopTime - time.Second/2)
	defer late.Stop()
	select {
	case <-s.idle:
	case <-late.C:
		s.mu.Lock()
		for r := range s.runs {
			r.late()
		}
		s.mu.Unlock()
	}
	s.exit(0)
}
