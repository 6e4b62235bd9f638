package tlog

import (
	"container/list"
	"context"
	"errors"
	"net/http"
	"sync"
	"time"
)

const (
	initialInFlight = 4
	maxInFlight     = 64
)

// host decides how many requests to one host run at once: additive increase
// while latency holds, multiplicative decrease when the host says it has too many.
// Until the first sign of strain it doubles every round trip, so that a short
// scan is fast too.
type host struct {
	mu       sync.Mutex
	limit    float64
	inFlight int
	queue    list.List // of chan struct{}, first come first served
	until    time.Time // no request starts before
	cut      time.Time // when limit was last halved
	strained bool
	smooth   time.Duration // moving average of latency under load
	best     time.Duration // the lowest that was
}

func newHost() *host { return &host{limit: initialInFlight} }

// allowed is the number of requests that may run at once now.
func (h *host) allowed() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return int(h.limit)
}

// acquire waits for a slot and for the end of a pause.
func (h *host) acquire(ctx context.Context) error {
	if err := h.slot(ctx); err != nil {
		return err
	}
	for {
		h.mu.Lock()
		wait := time.Until(h.until)
		h.mu.Unlock()
		if wait <= 0 {
			return nil
		}
		if err := pauseFor(ctx, wait); err != nil {
			h.free()
			return err
		}
	}
}

func (h *host) slot(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	h.mu.Lock()
	if h.inFlight < int(h.limit) && h.queue.Len() == 0 {
		h.inFlight++
		h.mu.Unlock()
		return nil
	}
	ready := make(chan struct{})
	place := h.queue.PushBack(ready)
	h.mu.Unlock()
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-ready: // granted at the same moment: pass it on
		h.inFlight--
		h.wake()
	default:
		h.queue.Remove(place)
	}
	return context.Cause(ctx)
}

// free gives a slot back and says nothing about the host.
func (h *host) free() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.inFlight--
	h.wake()
}

// release gives a slot back with what the request, started at start, showed of
// the host. A request that we abandoned shows nothing.
func (h *host) release(start time.Time, err error, abandoned bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	busy := h.inFlight >= int(h.limit) // else the limit was not what held us back
	h.inFlight--
	switch {
	case abandoned:
	case overload(err):
		// All requests in flight at a cut fail alike; together they are one sign.
		if start.After(h.cut) {
			h.limit = max(1, h.limit/2)
			h.cut = time.Now()
		}
		h.strained = true
	case err == nil && busy:
		h.grow(time.Since(start))
	}
	h.wake()
}

// grow raises the limit while the average latency is within twice the lowest.
func (h *host) grow(latency time.Duration) {
	if h.smooth == 0 {
		h.smooth, h.best = latency, latency
	}
	h.smooth += (latency - h.smooth) / 8
	// Forget slowly: the network between us may have changed for good.
	h.best = min(h.smooth, h.best+(h.smooth-h.best)/512)
	switch {
	case h.smooth > 2*h.best:
		h.strained = true
	case h.strained:
		h.limit += 1 / h.limit
	default:
		h.limit++
	}
	h.limit = min(h.limit, maxInFlight)
}

// wake hands free slots to those who wait.
func (h *host) wake() {
	for h.queue.Len() > 0 && h.inFlight < int(h.limit) {
		h.inFlight++
		close(h.queue.Remove(h.queue.Front()).(chan struct{}))
	}
}

// pause keeps every request from starting for d.
func (h *host) pause(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if until := time.Now().Add(d); until.After(h.until) {
		h.until = until
	}
}

// overload reports whether err says that the host has too much to do.
func overload(err error) bool {
	var status *StatusError
	return errors.As(err, &status) &&
		(status.Code == http.StatusTooManyRequests || status.Code == http.StatusServiceUnavailable)
}
