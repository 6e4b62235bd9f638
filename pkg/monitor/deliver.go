package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/whosigned/whosigned/pkg/notify"
	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/watch"
)

// outbox holds alerts until every one of their sinks has acknowledged them (P3).
// settle commits a change of it.
type outbox interface {
	outbox() []state.Pending
	settle(ctx context.Context, change func([]state.Pending) []state.Pending) error
}

const (
	// maxDelivery bounds the payloads loaded for one delivery, in bytes.
	maxDelivery = 8 << 20
	// deliveryTime bounds one delivery to a sink.
	deliveryTime = time.Minute
	// holdTime is for how long findings wait for those of other logs that are still
	// being read: a certificate that stands in several is to be told of once.
	holdTime = 20 * time.Second
)

// delivery takes alerts from outboxes to sinks while the logs are read. Each sink
// has its own goroutine: one that fails or is slow holds up neither the others
// nor the scan.
type delivery struct {
	r    *run
	wake []chan struct{}
	ask  []chan chan struct{} // closed by the sink's goroutine once it has nothing to do
	wg   sync.WaitGroup

	mu     sync.Mutex
	open   bool // what is pending from before is known
	closed bool
	alone  bool                 // no other log is being read any more
	came   map[string]time.Time // when alerts with findings of this run were first seen here
	boxes  []outbox
	result AlertsResult
	down   map[string]bool            // sinks that are not tried again in this run
	passed map[string]map[string]bool // alerts that a sink refused in this run, by sink
}

func (r *run) startDelivery(first outbox) *delivery {
	d := &delivery{r: r, result: AlertsResult{Failed: map[string]string{}}, came: map[string]time.Time{}, down: map[string]bool{}, passed: map[string]map[string]bool{}}
	for _, s := range r.Sinks {
		d.passed[s.Name()] = make(map[string]bool) // from here on that sink's goroutine alone
		wake, ask := make(chan struct{}, 1), make(chan chan struct{})
		d.wake, d.ask = append(d.wake, wake), append(d.ask, ask)
		d.wg.Go(func() { d.serve(s, wake, ask) })
	}
	d.add(first)
	return d
}

// add begins to deliver from a box.
func (d *delivery) add(b outbox) {
	d.dropUnknown(b)
	d.mu.Lock()
	d.boxes = append(d.boxes, b)
	d.mu.Unlock()
	d.poke()
}

// begin lets deliveries start. Before, not every box may be known, and what is
// pending for a sink could not be told from what deserves a digest.
func (d *delivery) begin() {
	d.mu.Lock()
	d.open = true
	d.mu.Unlock()
	d.poke()
}

// release lets go of the findings that wait for those of other logs: all are read.
func (d *delivery) release() {
	d.mu.Lock()
	d.alone = true
	d.mu.Unlock()
	d.poke()
}

// waits says whether an alert is held back for now; it is looked at again in time.
func (d *delivery) waits(p state.Pending) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.alone || report.Class(p.Class) != report.ClassIdentity || p.Since.Before(d.r.started) {
		return false
	}
	came, seen := d.came[p.Alert]
	if !seen {
		came = time.Now()
		d.came[p.Alert] = came
		time.AfterFunc(d.r.hold, d.poke)
	}
	return time.Since(came) < d.r.hold
}

// all are the boxes of this run.
func (d *delivery) all() []outbox {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.boxes)
}

// stuckSinks are the sinks that refused in this run, with their words.
func (d *delivery) stuckSinks() map[string]string {
	d.mu.Lock()
	stuck := maps.Clone(d.result.Failed)
	boxes := slices.Clone(d.boxes)
	d.mu.Unlock()
	for _, b := range boxes {
		for _, p := range b.outbox() {
			for sink, text := range p.Errors {
				// Of an earlier run: this one's delivery may not have come to its end.
				if stuck[sink] == "" && slices.Contains(p.Sinks, sink) {
					stuck[sink] = text
				}
			}
		}
	}
	return stuck
}

// poke says that a box has new alerts.
func (d *delivery) poke() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.open || d.closed {
		return
	}
	for _, wake := range d.wake {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}

// finish delivers what there still is, and returns the outcome.
func (d *delivery) finish() AlertsResult {
	d.release()
	d.mu.Lock()
	d.closed = true
	for _, wake := range d.wake {
		close(wake)
	}
	d.mu.Unlock()
	d.wg.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	pending := map[string]bool{}
	for _, b := range d.boxes {
		for _, p := range b.outbox() {
			pending[p.Alert] = true
			if d.result.Oldest == nil || p.Since.Before(*d.result.Oldest) {
				d.result.Oldest = &p.Since
			}
			if !p.Taken {
				d.result.untaken++
			}
		}
	}
	d.result.Pending = len(pending)
	return d.result
}

func (d *delivery) serve(sink notify.Sink, wake chan struct{}, ask chan chan struct{}) {
	for more := true; more; {
		var idle chan struct{}
		select {
		case _, more = <-wake:
		case idle = <-ask:
		}
		// What was committed is delivered even when the run is being ended.
		for more && d.r.last.Err() == nil && d.flush(d.r.last, sink) {
		}
		if idle != nil {
			close(idle)
		}
	}
}

// settle waits until what is pending now was tried: how the sinks fare is known then.
func (d *delivery) settle() {
	for _, ask := range d.ask {
		idle := make(chan struct{})
		ask <- idle
		<-idle
	}
}

// flush makes one delivery to a sink: as many pending alerts as fit. It returns
// whether there are more. An alert that is refused is passed over for the rest of
// the run, and a sink that is down is left alone; both are tried again in the next.
func (d *delivery) flush(ctx context.Context, sink notify.Sink) (more bool) {
	alerts, more := d.gather(ctx, sink)
	if len(alerts) == 0 {
		return false
	}
	sending, cancel := context.WithTimeout(ctx, d.r.delivery)
	acked, err := notify.Deliver(sending, sink, alerts)
	cancel()
	refused := d.refusals(sink.Name(), alerts, acked, err)
	d.mu.Lock()
	d.result.Delivered += len(acked)
	boxes := slices.Clone(d.boxes)
	d.mu.Unlock()
	for _, b := range boxes {
		keep, cancel := d.r.closing() // what was taken must not be sent again
		if err := d.record(keep, b, sink.Name(), acked, refused); err != nil {
			d.fail(sink.Name(), fmt.Errorf("recording what it acknowledged: %w", err), true)
		}
		cancel()
	}
	return more
}

// gather loads pending alerts of a sink, with all of their findings if it lists those.
func (d *delivery) gather(ctx context.Context, to notify.Sink) (alerts []report.Alert, more bool) {
	ctx, cancel := context.WithTimeout(ctx, commitTime)
	defer cancel()
	sink, whole := to.Name(), notify.ListsAll(to)
	d.mu.Lock()
	boxes, down, passed := slices.Clone(d.boxes), d.down[sink], d.passed[sink]
	d.mu.Unlock()
	if down {
		return nil, false
	}
	size, seen := 0, map[string]bool{}
	for _, b := range boxes {
		for _, p := range b.outbox() {
			if !slices.Contains(p.Sinks, sink) || passed[p.Alert] || seen[p.Alert] || d.waits(p) {
				continue
			}
			if size >= maxDelivery {
				return alerts, true
			}
			seen[p.Alert] = true
			a, n, err := d.load(ctx, p)
			if err == nil && whole && a.Cut > 0 {
				n, err = d.complete(ctx, &a)
			}
			if err != nil {
				d.fail(sink, err, false)
				passed[p.Alert] = true
				continue
			}
			alerts, size = append(alerts, a), size+n
		}
	}
	return alerts, false
}

// refusals sorts out what a delivery said about the alerts that were not
// acknowledged.
func (d *delivery) refusals(sink string, alerts []report.Alert, acked []string, err error) map[string]string {
	if err == nil {
		return nil
	}
	refused := map[string]string{}
	down := false
	for _, e := range causes(err) {
		var send *notify.SendError
		if !errors.As(e, &send) {
			down = true // the time for it was over, or it is not known what happened
			continue
		}
		down = down || send.Down
		refused[send.Alert] = fmt.Sprintf("%.500s", send.Err)
	}
	d.fail(sink, err, down)
	for _, a := range alerts {
		if slices.Contains(acked, a.ID) {
			continue
		}
		d.passed[sink][a.ID] = true
		if refused[a.ID] == "" {
			refused[a.ID] = fmt.Sprintf("%.500s", err)
		}
	}
	return refused
}

// causes are the errors that were joined.
func causes(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

func (d *delivery) fail(sink string, err error, down bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.result.Failed[sink] = fmt.Sprintf("%.2000s", err)
	d.down[sink] = d.down[sink] || down
}

func (d *delivery) load(ctx context.Context, p state.Pending) (a report.Alert, size int, err error) {
	payload, err := d.r.State.Alert(ctx, p.Alert)
	if err != nil {
		return a, 0, fmt.Errorf("alert %s: %w", p.Alert, err)
	}
	if err := json.Unmarshal(payload, &a); err != nil {
		return a, 0, fmt.Errorf("alert %s: %w", p.Alert, err)
	}
	if a.ID != p.Alert {
		return a, 0, fmt.Errorf("alert %s: its payload says that it is %q", p.Alert, a.ID)
	}
	return a, len(payload), nil
}

// complete lists all findings of an alert that carries a part of them. They are in the
// object that it points at, whose slice had few enough of them to be held at once (see
// maxHeld). It returns their size in bytes, as they are kept.
func (d *delivery) complete(ctx context.Context, a *report.Alert) (size int, err error) {
	var all []watch.Finding
	want := len(a.Findings) + a.Cut
	for f, err := range d.r.State.Findings(ctx, a.Pointer) {
		if err != nil {
			return 0, fmt.Errorf("alert %s: its findings, all of which are to be listed: %w", a.ID, err)
		}
		if f.Index < a.From || f.Index >= a.To {
			break // of an object before
		}
		if !tellsOf(a, f) {
			continue
		}
		line, err := json.Marshal(f)
		if err != nil {
			return 0, fmt.Errorf("alert %s: its finding at index %d: %w", a.ID, f.Index, err)
		}
		all, size = append(all, f), size+len(line)
		if len(all) == want {
			break // what may follow is of an object before
		}
	}
	if len(all) < want {
		return 0, fmt.Errorf("alert %s: it is about %d findings, and %s has %d of them", a.ID, want, a.Pointer, len(all))
	}
	a.Findings, a.Cut = all, 0
	return size, nil
}

// tellsOf says whether a finding of the slice that an identity alert is about is one of
// the alert's own: see keepFindings.
func tellsOf(a *report.Alert, f watch.Finding) bool {
	untrusted := len(a.Findings) > 0 && a.Findings[0].Trusted == watch.Untrusted
	return !f.Expected && (f.Trusted == watch.Untrusted) == untrusted
}

// record commits what a sink acknowledged and what it said of the rest.
func (d *delivery) record(ctx context.Context, b outbox, sink string, acked []string, refused map[string]string) error {
	mine := func(p state.Pending) bool {
		return slices.Contains(p.Sinks, sink) && (slices.Contains(acked, p.Alert) || refused[p.Alert] != "")
	}
	if !slices.ContainsFunc(b.outbox(), mine) {
		return nil
	}
	return b.settle(ctx, func(box []state.Pending) []state.Pending {
		var left []state.Pending
		for _, p := range box {
			if mine(p) {
				p.Errors = maps.Clone(p.Errors)
				if slices.Contains(acked, p.Alert) {
					p.Taken = p.Taken || d.tells(sink)
					p.Sinks = without(p.Sinks, sink)
					delete(p.Errors, sink)
				} else {
					if p.Errors == nil {
						p.Errors = make(map[string]string)
					}
					p.Errors[sink] = refused[p.Alert]
				}
			}
			if len(p.Sinks) > 0 {
				left = append(left, p)
			}
		}
		return left
	})
}

// tells says whether people hear of what a sink took. A file of identities tells nobody:
// as long as another sink has the alert pending, it is not taken.
func (d *delivery) tells(sink string) bool {
	return !slices.ContainsFunc(d.r.Sinks, func(s notify.Sink) bool { return s.Name() == sink && !notify.Tells(s) })
}

// dropUnknown takes sinks that are no longer configured out of a box, and says so.
func (d *delivery) dropUnknown(b outbox) {
	if d.r.refused {
		return // which sinks are configured may not be known
	}
	dropped := map[string]int{}
	change := func(box []state.Pending) []state.Pending {
		clear(dropped)
		var left []state.Pending
		for _, p := range box {
			for _, name := range p.Sinks {
				if !slices.ContainsFunc(d.r.Sinks, func(s notify.Sink) bool { return s.Name() == name }) {
					dropped[name]++
					p.Sinks = without(p.Sinks, name)
				}
			}
			if len(p.Sinks) == 0 && !p.Taken {
				// Nobody has been told: it goes to those that are configured now. A file of
				// identities may so get its lines again.
				p.Sinks = d.r.sinksFor(report.Class(p.Class))
			}
			if len(p.Sinks) > 0 {
				left = append(left, p)
			}
		}
		return left
	}
	if change(b.outbox()); len(dropped) == 0 {
		return
	}
	ctx, cancel := d.r.keep()
	defer cancel()
	if err := b.settle(ctx, change); err != nil {
		d.r.failf("dropping sinks that are not configured any more: %v", err)
		return
	}
	for name, n := range dropped {
		text := fmt.Sprintf("sink %q is not configured any more: %d alerts that it had not taken are dropped for it; those that no other sink took go to the sinks configured now, and the payloads stay in alerts/", name, n)
		d.r.warnf("%s", text)
		d.r.health.notice("sink-dropped:"+name, text)
	}
}

func without(names []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })
}
