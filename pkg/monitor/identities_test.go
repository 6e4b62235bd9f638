package monitor_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/notify"
	"github.com/whosigned/whosigned/pkg/report"
)

// identitiesBeside adds a file of identities to the sinks, before them, and returns its
// path.
func (w *world) identitiesBeside(others ...notify.Sink) string {
	w.t.Helper()
	path := filepath.Join(w.dir, "ids.txt")
	sinks, err := notify.Open(config.Alerts{Identities: []config.Identities{{Path: path}}}, func(string) string { return "" })
	if err != nil {
		w.t.Fatal(err)
	}
	w.tune = func(m *monitor.Monitor) { m.Sinks = append(sinks, others...) }
	return path
}

func (w *world) lines(path string) int {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Fatal(err)
	}
	return strings.Count(string(data), "\n")
}

func TestP3AFileOfIdentitiesDoesNotHideThatNobodyWasTold(t *testing.T) {
	w := shardWorld(t, "start: 0")
	dead := &memSink{name: "mail", classes: []report.Class{report.ClassIdentity}, hook: func(_ report.Message, after bool) error {
		return errors.New("connection refused")
	}}
	path := w.identitiesBeside(dead)
	w.mine()
	for run := range 3 {
		res := w.want(monitor.ExitFailed)
		if n := w.lines(path); n != 1 || res.Alerts.Pending != 1 || !res.Failed {
			t.Errorf("run %d: %d lines, alerts %+v; want one line, and the alert still pending", run, n, res.Alerts)
		}
	}
	dead.hook = nil
	if res := w.want(monitor.ExitClean); res.Alerts.Pending != 0 || len(dead.got()) != 1 || w.lines(path) != 1 {
		t.Errorf("alerts %+v, %d mails, %d lines; want that it was told once, and nothing written again", res.Alerts, len(dead.got()), w.lines(path))
	}
}

func TestAnAlertThatSomebodyWasToldOfStaysTakenWhenTheFileTakesItLater(t *testing.T) {
	w := shardWorld(t, "start: 0")
	classes := []report.Class{report.ClassIdentity}
	good := &memSink{name: "mail", classes: classes}
	dead := &memSink{name: "issues", classes: classes, hook: func(report.Message, bool) error { return errors.New("connection refused") }}
	path := w.identitiesBeside(good, dead)
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	w.mine()
	if res := w.want(monitor.ExitFindings); res.Alerts.Failed["identities"] == "" || len(good.got()) != 1 {
		t.Errorf("alerts %+v, %d mails; want the file to fail, and the mail not", res.Alerts, len(good.got()))
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if res := w.want(monitor.ExitClean); w.lines(path) != 1 || res.Alerts.Pending != 1 {
		t.Errorf("%d lines, alerts %+v; want it written, and pending for the issues only", w.lines(path), res.Alerts)
	}
}

func TestAFileOfIdentitiesAloneTakesFindings(t *testing.T) {
	other := &memSink{name: "mail", classes: []report.Class{report.ClassTamper}}
	for name, others := range map[string][]notify.Sink{"alone": nil, "beside one that takes no findings": {other}} {
		w := shardWorld(t, "start: 0")
		path := w.identitiesBeside(others...)
		w.mine()
		res := w.want(monitor.ExitFindings)
		if res.Alerts.Pending != 0 || w.lines(path) != 1 {
			t.Errorf("%s: alerts %+v, %d lines; want it taken", name, res.Alerts, w.lines(path))
		}
		said := strings.Contains(strings.Join(res.Warnings, "\n"), "no sink takes alerts of class tamper")
		if said == (others != nil) {
			t.Errorf("%s: warnings %q; that no sink takes alerts of class tamper is said %v", name, res.Warnings, said)
		}
	}
}

func TestUnprovenFindingsAreWrittenAsSuchAndTheForkIsNotTakenForToldOf(t *testing.T) {
	w := shardWorld(t, "start: 0")
	w.others(40)
	dead := &memSink{name: "mail", hook: func(report.Message, bool) error { return errors.New("connection refused") }}
	path := w.identitiesBeside(dead)
	w.run()
	w.show(w.fork(20, 60, 1, 55))
	for range 2 {
		res := w.want(monitor.ExitTamper)
		if res.Alerts.Pending < 2 || !res.Failed {
			t.Errorf("alerts %+v; want the incident and the finding pending for the mail", res.Alerts)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil || strings.Count(string(data), "\n") != 1 || !strings.HasSuffix(string(data), " (unproven)\n") {
		t.Errorf("got %q, %v; want one line that says it is unproven", data, err)
	}
}
