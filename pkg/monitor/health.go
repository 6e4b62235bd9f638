package monitor

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/state"
)

// remindAfter is how often an open condition is said again.
const remindAfter = 24 * time.Hour

// health collects what a run sees of health conditions. A condition is opened,
// reminded daily and closed; it is not a stream of events (P8).
type health struct {
	now      time.Time
	patience time.Duration

	mu       sync.Mutex
	observed map[string]observation
	held     []string // prefixes of keys that this run could not judge
	notices  []report.Health
}

type observation struct {
	text, next string
	after      time.Duration // how long it must have lasted before it is alerted
	linger     time.Duration // how long it must be gone before it is closed
}

func newHealth(now time.Time, patience time.Duration) *health {
	return &health{now: now, patience: patience, observed: make(map[string]observation)}
}

func (h *health) observe(key string, o observation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.observed[key] = o
}

// lasting is trouble that passes by itself most times: alerted once it has
// lasted as long as the configuration's patience.
func (h *health) lasting(key, text, next string) {
	h.observe(key, observation{text: text, next: next, after: h.patience})
}

// atOnce is trouble that does not pass by itself.
func (h *health) atOnce(key, text, next string) { h.observe(key, observation{text: text, next: next}) }

// daily is what anybody can cause at will, such as entries that do not parse:
// said once, and not again before a quiet day has closed it.
func (h *health) daily(key, text, next string) {
	h.observe(key, observation{text: text, next: next, linger: remindAfter})
}

// hold keeps conditions whose key has a prefix as they are: this run could not judge.
func (h *health) hold(prefix string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = append(h.held, prefix)
}

// notice is said once.
func (h *health) notice(key, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.notices = append(h.notices, report.Health{Key: key, State: report.Notice, Text: text, Since: h.now})
}

// reconcile holds what was observed against the conditions of before, and
// returns those that are open now and what is to be said.
func (h *health) reconcile(before map[string]state.Condition) (map[string]state.Condition, []report.Health) {
	h.mu.Lock()
	defer h.mu.Unlock()
	open := make(map[string]state.Condition)
	say := slices.Clone(h.notices)
	for _, key := range slices.Sorted(maps.Keys(h.observed)) {
		o := h.observed[key]
		c, known := before[key]
		if !known {
			c.Since = h.now
		}
		c.Text, c.Last, c.Count = o.text, h.now, c.Count+1
		switch {
		case h.now.Sub(c.Since) < o.after:
		case c.Said.IsZero():
			say = append(say, report.Health{Key: key, State: report.Opened, Text: o.text, Since: c.Since, Next: o.next})
			c.Said = h.now
		case h.now.Sub(c.Said) >= remindAfter:
			say = append(say, report.Health{Key: key, State: report.Reminder, Text: o.text, Since: c.Since, Next: o.next})
			c.Said = h.now
		}
		if o.linger > 0 {
			c.CloseAfter = h.now.Add(o.linger)
		}
		open[key] = c
	}
	for _, key := range slices.Sorted(maps.Keys(before)) {
		c := before[key]
		if _, seen := h.observed[key]; seen {
			continue
		}
		if h.isHeld(key) || h.now.Before(c.CloseAfter) {
			open[key] = c
			continue
		}
		if !c.Said.IsZero() {
			say = append(say, report.Health{Key: key, State: report.Closed, Text: c.Text, Since: c.Since})
		}
	}
	return open, say
}

func (h *health) isHeld(key string) bool {
	for _, prefix := range h.held {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

func conditionResults(open map[string]state.Condition) []ConditionResult {
	out := []ConditionResult{}
	for key, c := range open {
		out = append(out, ConditionResult{Key: key, Text: c.Text, Since: c.Since, Said: !c.Said.IsZero()})
	}
	slices.SortFunc(out, func(a, b ConditionResult) int { return cmp.Compare(a.Key, b.Key) })
	return out
}
