package monitor_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/notify"
	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// refuse is a run of an invalid configuration, an hour after the last.
func (w *world) refuse(generation string, sinks ...notify.Sink) *monitor.Result {
	w.t.Helper()
	m := w.monitor()
	m.Config = &config.Config{Path: "gs://bucket/whosigned.yaml", Patience: 3 * time.Hour}
	m.Client, m.Sinks = nil, sinks
	res, err := m.Refuse(context.Background(), generation, errors.New("whosigned.yaml:3: logs: no logs to watch"))
	if err != nil {
		w.t.Fatalf("refuse: %v", err)
	}
	w.now = w.now.Add(time.Hour)
	return res
}

// logsStored is every object but run.json and what belongs to its alerts.
func (w *world) logsStored() map[string]string {
	stored := map[string]string{}
	for _, name := range w.store.names("") {
		if name != "run.json" && !strings.HasPrefix(name, "alerts/") {
			stored[name] = string(w.store.objects[name].data)
		}
	}
	return stored
}

func TestAnInvalidConfigurationIsSaidOncePerGenerationAndTouchesNoLog(t *testing.T) {
	w := newWorld(t)
	w.others(10)
	w.want(monitor.ExitClean)
	before := w.logsStored()
	const said = "the configuration is invalid"
	for i, generation := range []string{"7", "7", "7", "8", "8"} {
		res := w.refuse(generation, w.sinks[0])
		if !res.Failed || res.Exit != monitor.ExitFailed || len(res.Errors) != 1 {
			t.Errorf("run %d: failed %v, exit %d, errors %q; want a failed run with the reason", i, res.Failed, res.Exit, res.Errors)
		}
		if overdue := i >= 3; res.Overdue != overdue {
			t.Errorf("run %d: overdue %v, want %v", i, res.Overdue, overdue)
		}
	}
	if n := w.mails(said); n != 2 {
		t.Errorf("said %d times for two generations: %q", n, w.subjects())
	}
	if after := w.logsStored(); !maps.Equal(before, after) {
		t.Error("state of logs was changed")
	}
	w.mine()
	w.want(monitor.ExitFindings)
	if len(w.runDoc().Conditions) != 0 {
		t.Errorf("conditions after it was mended: %+v", w.runDoc().Conditions)
	}
	if w.signed() != 2 {
		t.Errorf("what was signed meanwhile: %q", w.subjects())
	}
}

func TestAnInvalidConfigurationDropsNoPendingAlert(t *testing.T) {
	w := newWorld(t)
	w.others(10)
	w.mine()
	w.sinks[0].hook = func(report.Message, bool) error { return errors.New("down") }
	w.run()
	w.sinks[0].hook = nil
	w.refuse("1") // its alerts section is broken too
	w.want(monitor.ExitClean)
	if n := w.signed(); n != 2 {
		t.Errorf("%d of 2 alerts delivered: %q", n, w.subjects())
	}
}

func TestAnInvalidConfigurationBeforeTheFirstRunTakesNoBaseline(t *testing.T) {
	w := newWorld(t)
	w.others(10)
	w.logs = w.both("start: head")
	w.refuse("1", w.sinks[0])
	if n := w.mails("first run"); n != 0 {
		t.Errorf("a first run is announced: %q", w.subjects())
	}
	res := w.want(monitor.ExitClean)
	if l := logOf(t, res, "v2.example"); l.Status != monitor.StatusBaseline || l.Scanned != 10 {
		t.Errorf("%+v, want a baseline at the head", l)
	}
	if n := w.mails("first run"); n != 1 {
		t.Errorf("the first run is announced %d times: %q", n, w.subjects())
	}
}

func TestRunsThatFailForLongerThanPatienceAreOverdue(t *testing.T) {
	w := newWorld(t)
	w.others(10)
	w.want(monitor.ExitClean)
	w.v1.Inject(nil, -1, tlogtest.Status(503))
	since := w.now
	for hour := range 5 {
		res := w.want(monitor.ExitFailed)
		if !res.Failed || res.FailingSince == nil || !res.FailingSince.Equal(since) || res.Overdue != (hour >= 3) {
			t.Errorf("hour %d: failed %v since %v, overdue %v; want since %v, overdue from hour 3 on", hour, res.Failed, res.FailingSince, res.Overdue, since)
		}
	}
	w.v1.ClearFaults()
	if res := w.want(monitor.ExitClean); res.Failed || res.FailingSince != nil || res.Overdue || w.runDoc().FailingSince != nil {
		t.Errorf("mended: %+v", res)
	}
}

func TestALogThatIsReadSlowerThanItGrowsFallsBehind(t *testing.T) {
	w := shardWorld(t, "start: 0")
	w.others(300)
	w.want(monitor.ExitClean)
	var end func()
	w.v2.Inject(tlogtest.Path("/tile/entries/"), -1, func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		end() // as if the run's time were over just now
		<-r.Context().Done()
	})
	for hour := range 28 {
		w.others(1)
		ctx, cancel := context.WithCancel(context.Background())
		end = cancel
		res, err := w.monitor().Run(ctx)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		w.now = w.now.Add(time.Hour)
		l := logOf(t, res, "v2.example")
		// The first entry that cannot be read is seen in the first of these runs.
		if want := int64(hour) * 3600; l.Lag != want {
			t.Fatalf("hour %d: lag %d s, want %d", hour, l.Lag, want)
		}
		if want := hour > 24; l.FallingBehind != want {
			t.Fatalf("hour %d: falling behind %v, want %v", hour, l.FallingBehind, want)
		}
	}
	w.v2.ClearFaults()
	if l := logOf(t, w.want(monitor.ExitClean), "v2.example"); l.Lag != 0 || l.FallingBehind {
		t.Errorf("read to the end: %+v", l)
	}
}

// records is a slog.Handler that keeps events.
type records struct {
	mu     sync.Mutex
	events []string
}

func (*records) Enabled(context.Context, slog.Level) bool { return true }
func (r *records) WithAttrs([]slog.Attr) slog.Handler     { return r }
func (r *records) WithGroup(string) slog.Handler          { return r }
func (r *records) Handle(_ context.Context, rec slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec.Attrs(func(a slog.Attr) bool {
		if a.Key == "event" {
			r.events = append(r.events, fmt.Sprintf("%s %s", rec.Level, a.Value))
		}
		return true
	})
	return nil
}

func (r *records) count(event string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, e := range r.events {
		if e == event {
			n++
		}
	}
	return n
}

func TestEachFindingIncidentAndChangeOfHealthIsAnEvent(t *testing.T) {
	w := newWorld(t)
	var seen *records
	w.tune = func(m *monitor.Monitor) { m.Logger = slog.New(seen) }
	step := func(what string, want map[string]int) {
		t.Helper()
		seen = &records{}
		w.run()
		for event, n := range want {
			if got := seen.count(event); got != n {
				t.Errorf("%s: %d × %q, want %d: %q", what, got, event, n, seen.events)
			}
		}
	}
	w.others(10)
	step("first run", map[string]int{"WARN finding": 0, "ERROR+4 incident": 0, "INFO health": 2, "INFO log": 2})
	w.mine()
	step("a finding in each log", map[string]int{"WARN finding": 2, "INFO log": 2})
	step("nothing new", map[string]int{"WARN finding": 0, "INFO health": 0})
	w.show(w.fork(5, 11, 1000))
	step("a fork", map[string]int{"ERROR+4 incident": 1})
	step("it goes on", map[string]int{"ERROR+4 incident": 0})
}

func TestIncidentsAreCopiedToTheEvidenceStoreAndAgainWhileThatFails(t *testing.T) {
	w := newWorld(t)
	evidence := newMemStore()
	evidence.hook = func(op, _ string, _ bool) error {
		if op == "create" {
			return errors.New("no permission")
		}
		return nil
	}
	w.tune = func(m *monitor.Monitor) { m.Evidence = state.New(evidence) }
	w.others(10)
	w.want(monitor.ExitClean)
	w.show(w.fork(5, 10, 1000))
	if res := w.want(monitor.ExitTamper); !res.Failed || !strings.Contains(strings.Join(res.Errors, "\n"), "no permission") {
		t.Errorf("the copy failed, and the run says %v %q", res.Failed, res.Errors)
	}
	evidence.hook = nil
	if res := w.want(monitor.ExitTamper); res.Failed {
		t.Errorf("the copy was made, and the run says %q", res.Errors)
	}
	names := w.store.names("incidents/")
	if len(names) == 0 {
		t.Fatal("there is no evidence at all")
	}
	for _, name := range names {
		if !bytes.Equal(evidence.objects[name].data, w.store.objects[name].data) {
			t.Errorf("%s was not copied", name)
		}
	}
}

func TestATestAlertGoesThroughEverySinkOnce(t *testing.T) {
	w := newWorld(t)
	w.sinks = append(w.sinks, &memSink{name: "tamper-only", classes: []report.Class{report.ClassTamper}})
	w.others(10)
	w.want(monitor.ExitClean)
	w.decide(state.Decision{Kind: state.TestAlert})
	w.want(monitor.ExitClean)
	w.want(monitor.ExitClean)
	for _, s := range w.sinks {
		n := 0
		for _, m := range s.got() {
			if strings.Contains(m.Subject, "test alert") {
				n++
			}
		}
		if n != 1 {
			t.Errorf("sink %s took %d test alerts, want 1", s.name, n)
		}
	}
}

func TestARunThatIsEndedIsOverInItsGraceAndReleasesTheLease(t *testing.T) {
	w := newWorld(t)
	w.others(10)
	w.mine()
	hanging := make(chan struct{})
	w.tune = func(m *monitor.Monitor) {
		m.Grace = 200 * time.Millisecond
		m.Sinks = append(m.Sinks, &signallingSink{memSink{name: "slow"}, sync.OnceFunc(func() { close(hanging) })})
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-hanging; cancel() }()
	began := time.Now()
	if _, err := w.monitor().Run(ctx); err != nil {
		t.Fatal(err)
	}
	// A minute is what the same delivery takes to time out without it.
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("the run ended after %v", took)
	}
	if l := w.runDoc().Lease; l != nil {
		t.Errorf("the lease is still held: %+v", l)
	}
}

// signallingSink says that a delivery began, and hangs until it is given up.
type signallingSink struct {
	memSink
	began func()
}

func (s *signallingSink) Send(ctx context.Context, _ report.Message) error {
	s.began()
	<-ctx.Done()
	return ctx.Err()
}

func TestWritesOfOneDocumentAreKeptApart(t *testing.T) {
	w := newWorld(t)
	const apart = 40 * time.Millisecond
	w.tune = func(m *monitor.Monitor) { m.CommitEvery, m.SliceEntries = apart, 20 }
	w.others(100)
	last, writes := map[string]time.Time{}, map[string]int{}
	w.store.hook = func(op, name string, after bool) error {
		if op != "replace" || after {
			return nil
		}
		if since := time.Since(last[name]); since < apart {
			t.Errorf("%s is written again after %v", name, since)
		}
		last[name] = time.Now()
		writes[name]++
		return nil
	}
	w.want(monitor.ExitClean)
	for name, n := range writes {
		if n < 3 {
			t.Errorf("%s was written %d times; the test needs more", name, n)
		}
	}
}

func TestLagIsKeptOverMoreGrowthThanIsRemembered(t *testing.T) {
	l := &state.Log{Size: 1, Scanned: &tlog.Frontier{Size: 1}}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for hour := range 1000 {
		l.Size++
		l.Grown(start.Add(time.Duration(hour) * time.Hour))
	}
	now := start.Add(1000 * time.Hour)
	for _, row := range []struct {
		scanned     uint64
		least, most time.Duration
	}{
		{1, 1000 * time.Hour, 1000 * time.Hour},
		{500, 501 * time.Hour, 540 * time.Hour},
		{1000, time.Hour, 40 * time.Hour},
		{1001, 0, 0},
	} {
		c := *l
		c.Scanned = &tlog.Frontier{Size: row.scanned}
		c.Read()
		if lag := c.Lag(now); lag < row.least || lag > row.most {
			t.Errorf("read up to %d: lag %v, want between %v and %v", row.scanned, lag, row.least, row.most)
		}
	}
	if len(l.Seen) > 200 {
		t.Errorf("%d marks are kept", len(l.Seen))
	}
}

func TestASinkThatRefusesSlowlyIsSeenInTheVeryRun(t *testing.T) {
	w := shardWorld(t, "start: 0")
	w.mine()
	w.sinks[0].hook = func(report.Message, bool) error {
		<-time.After(200 * time.Millisecond) // as long as a few tries take
		return errors.New("down")
	}
	w.run()
	if c, ok := w.runDoc().Conditions["sink:folder"]; !ok {
		t.Errorf("conditions %+v, want one of the sink", c)
	}
}

func TestARefusalDoesNotMakeLostStateAnew(t *testing.T) {
	w := newWorld(t)
	w.logs = w.both("start: head")
	w.others(10)
	one := logOf(t, w.want(monitor.ExitClean), v1Origin).ID
	w.mine()
	for _, name := range w.store.names("") {
		if name == "run.json" || strings.HasPrefix(name, "state/") {
			delete(w.store.objects, name)
		}
	}
	w.decide(state.Decision{Log: one, Kind: state.TakeBaseline})
	m := w.monitor()
	m.Config = &config.Config{Patience: time.Hour}
	lost := (*state.LostError)(nil)
	if _, err := m.Refuse(context.Background(), "7", errors.New("invalid")); !errors.As(err, &lost) {
		t.Errorf("Refuse: %v, want a *LostError", err)
	}
	// The decision is about the Rekor v1 log; the shard's entries are read from the first.
	if res := w.run(); len(res.Findings) == 0 {
		t.Errorf("what was signed meanwhile is not found; errors %q", res.Errors)
	}
}

func TestWhatWaitsIsDeliveredWhileTheConfigurationIsInvalid(t *testing.T) {
	w := newWorld(t)
	w.others(10)
	w.want(monitor.ExitClean)
	w.mine()
	down := true
	w.sinks[0].hook = func(m report.Message, _ bool) error {
		if down && strings.Contains(m.Subject, "Signed as") {
			return errors.New("down")
		}
		return nil
	}
	w.run()
	if res := w.refuse("7", w.sinks[0]); res.Alerts.Pending < 2 || res.Alerts.Oldest == nil {
		t.Errorf("the sink is down: %+v, want both pending", res.Alerts)
	}
	down = false
	if res := w.refuse("7", w.sinks[0]); res.Alerts.Pending != 0 || w.signed() != 2 {
		t.Errorf("the sink is well: %+v, and %q", res.Alerts, w.subjects())
	}
}

func TestNobodyIsToldThatARefusalIsOverWhoWasNotToldOfIt(t *testing.T) {
	w := newWorld(t)
	w.others(10)
	w.want(monitor.ExitClean)
	n := len(w.subjects())
	w.refuse("7") // its alerts section is broken
	w.want(monitor.ExitClean)
	if got := w.subjects()[n:]; len(got) != 0 {
		t.Errorf("mails %q", got)
	}
}

func TestARunThatCannotBeginLeavesNoLease(t *testing.T) {
	w := newWorld(t)
	w.others(10)
	w.want(monitor.ExitClean)
	w.store.hook = func(op, name string, _ bool) error {
		if op == "list" && strings.HasPrefix(name, "state/applied") {
			return errors.New("403")
		}
		return nil
	}
	if _, err := w.monitor().Run(context.Background()); err == nil {
		t.Error("the run began")
	}
	w.store.hook = nil
	if l := w.runDoc().Lease; l != nil {
		t.Errorf("a lease is left behind: %+v", l)
	}
}

func TestWhatASinkTookWhileTheRunIsEndedIsNotSentAgain(t *testing.T) {
	w := newWorld(t)
	w.others(10)
	w.want(monitor.ExitClean)
	w.mine()
	ctx, end := context.WithCancel(context.Background())
	w.tune = func(m *monitor.Monitor) {
		m.Grace = 300 * time.Millisecond
		m.Sinks[0] = &lastWords{memSink: w.sinks[0], end: end}
	}
	if _, err := w.monitor().Run(ctx); err != nil {
		t.Fatal(err)
	}
	w.tune = nil
	w.now = w.now.Add(time.Hour)
	w.run()
	if n := w.signed(); n != 2 {
		t.Errorf("%d mails of 2: %q", n, w.subjects())
	}
}

// lastWords takes a message only after the run's time is over.
type lastWords struct {
	*memSink
	end func()
}

func (s *lastWords) Send(ctx context.Context, m report.Message) error {
	if strings.Contains(m.Subject, "Signed as") {
		s.end()
		<-ctx.Done()
	}
	return s.memSink.Send(ctx, m)
}

func TestManyNewLogsAreNamedInFewCommits(t *testing.T) {
	w := newWorld(t)
	w.logs = ""
	for i := range 40 {
		origin := fmt.Sprintf("v2-%d.example", i)
		_, url := w.shard(origin)
		w.logs += w.v2Line(origin, url, "start: 0")
	}
	w.tune = func(m *monitor.Monitor) { m.CommitEvery = 100 * time.Millisecond }
	writes := 0
	w.store.hook = func(op, name string, after bool) error {
		if op == "replace" && name == "run.json" && after {
			writes++
		}
		return nil
	}
	if res := w.want(monitor.ExitClean); len(res.Logs) != 40 || len(w.runDoc().Logs) != 40 {
		t.Errorf("%d logs in the result and %d in run.json, want 40", len(res.Logs), len(w.runDoc().Logs))
	}
	if writes > 15 {
		t.Errorf("run.json was written %d times for 40 logs", writes)
	}
}

func TestABugThatOneLogMeetsDoesNotEndTheRunOfTheOthers(t *testing.T) {
	w := newWorld(t)
	w.others(10)
	w.want(monitor.ExitClean)
	w.mine()
	w.tune = func(m *monitor.Monitor) {
		m.Progress = func(l tlog.Info, _, _ uint64) {
			if l.Type == tlog.RekorV2 {
				panic("a bug")
			}
		}
	}
	res := w.want(monitor.ExitFailed)
	if l := logOf(t, res, v2Origin); !strings.Contains(l.Error, "panic: a bug") || l.Scanned != 10 {
		t.Errorf("the log that met it: %+v", l)
	}
	if l := logOf(t, res, v1Origin); l.Error != "" || l.Findings != 1 {
		t.Errorf("the other log: %+v", l)
	}
	if w.runDoc().Lease != nil {
		t.Error("the lease is still held")
	}
	w.tune = nil
	w.want(monitor.ExitFindings)
}
