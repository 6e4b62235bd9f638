package monitor_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/notify"
	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
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

// indexesIn counts the indexes that the lines of a file name, before the log's origin.
func (w *world) indexesIn(path string) map[string]int {
	w.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	indexes := map[string]int{}
	for line := range strings.Lines(string(data)) {
		words := strings.Fields(line)
		if len(words) < 2 {
			w.t.Fatalf("got the line %q, want index and origin at its end", line)
		}
		indexes[words[len(words)-2]]++
	}
	return indexes
}

func TestEveryFindingOfASliceIsWrittenHoweverManyAnAlertCarries(t *testing.T) {
	const routine = "https://github.com/acme/app/.github/workflows/ci.yml@refs/heads/main"
	w := shardWorld(t, "start: 0")
	w.extra = fmt.Sprintf("watch: [{name: acme, subject: {glob: \"https://github.com/acme/*\"}, expect: [{subject: {exact: %q}}]}]\n", routine)
	mail := &memSink{name: "mail"}
	path := w.identitiesBeside(mail)
	w.mine() // of a slice before, whose findings stand behind those of the next
	w.want(monitor.ExitFindings)
	rogue, err := tlogtest.NewCA("sigstore.example")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"0": 1}
	for i := range 130 {
		want[strconv.FormatUint(w.v2.Tree().Size(), 10)] = 1
		trusted := w.ca
		if i%2 == 0 {
			w.ca = rogue // its findings are an alert of their own
		}
		_, leaf := w.entry(github(mine))
		w.ca = trusted
		w.v2.Append(leaf)
		if i%50 == 0 {
			_, leaf := w.entry(github(routine))
			w.v2.Append(leaf)
		}
	}
	w.publish()
	res := w.want(monitor.ExitFindings)
	if got := w.indexesIn(path); !maps.Equal(got, want) || res.Alerts.Pending != 0 {
		t.Errorf("got the indexes %v, alerts %+v; want each of %v once, and nothing pending", got, res.Alerts, want)
	}
	told := 0
	for _, m := range mail.got() {
		for _, a := range m.Alerts() {
			if told++; a.Class == report.ClassIdentity && len(a.Findings) > 50 {
				t.Errorf("a mail was made of %d findings, want at most 50", len(a.Findings))
			}
		}
	}
	if told < 3 {
		t.Errorf("mails about %d alerts, want 3 and the first run's", told)
	}
}

func TestAnAlertWhoseFindingsCannotBeReadStaysPendingForTheFileOnly(t *testing.T) {
	w := shardWorld(t, "start: 0")
	mail := &memSink{name: "mail", classes: []report.Class{report.ClassIdentity}}
	path := w.identitiesBeside(mail)
	w.mine() // of a slice before
	w.want(monitor.ExitFindings)
	w.store.hook = func(op, name string, after bool) error {
		if op == "read" && strings.HasPrefix(name, "findings/") && !after {
			return errors.New("503 Service Unavailable")
		}
		return nil
	}
	for range 60 {
		w.mine()
	}
	// stuck wants one alert to be pending for the file, and to hear why.
	stuck := func(exit int, why string) {
		t.Helper()
		res := w.want(exit)
		if said := res.Alerts.Failed["identities"]; res.Alerts.Pending != 1 || !strings.Contains(said, why) || w.lines(path) != 1 || len(mail.got()) != 2 {
			t.Errorf("alerts %+v, %d lines, %d mails; want the alert pending for the file for %q, and the mail sent once", res.Alerts, w.lines(path), len(mail.got()), why)
		}
	}
	stuck(monitor.ExitFindings, "503 Service Unavailable")
	stuck(monitor.ExitClean, "503 Service Unavailable")
	w.store.hook = nil

	// An alert of more findings than its object has is not made up from another object.
	var changed string
	for _, name := range w.store.names("alerts/") {
		if payload := w.store.objects[name].data; bytes.Contains(payload, []byte(`"cut": 10,`)) {
			changed = name
			w.store.put(name, bytes.Replace(payload, []byte(`"cut": 10,`), []byte(`"cut": 11,`), 1))
		}
	}
	stuck(monitor.ExitClean, "it is about 61 findings")
	w.store.put(changed, bytes.Replace(w.store.objects[changed].data, []byte(`"cut": 11,`), []byte(`"cut": 10,`), 1))

	if res := w.want(monitor.ExitClean); res.Alerts.Pending != 0 || w.lines(path) != 61 || len(mail.got()) != 2 {
		t.Errorf("alerts %+v, %d lines, %d mails; want all written, and nobody told again", res.Alerts, w.lines(path), len(mail.got()))
	}
}

// Findings that were loaded for one delivery are in memory at once (P5).
func TestFindingsOfManySlicesAreNotLoadedAtOnce(t *testing.T) {
	const atOnce = 8 << 20
	w := shardWorld(t, "start: 0")
	path := w.identitiesBeside()
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	large := github(mine)
	large.Extensions[12] = strings.Repeat("x", 30<<10)
	signer, err := w.ca.Issue(large)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := tlogtest.Synthetic(tlogtest.HashedRekordV002, signer)
	if err != nil {
		t.Fatal(err)
	}
	const entries = 300
	for i := range uint64(entries) {
		w.v2.Append(leaf(i))
	}
	w.publish()
	if res := w.want(monitor.ExitFailed); res.Alerts.Pending < 2 {
		t.Fatalf("alerts %+v; want those of two slices at least pending", res.Alerts)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	loaded, last, written := 0, 0, int64(0)
	w.store.hook = func(op, name string, after bool) error {
		if op != "read" || !strings.HasPrefix(name, "findings/") || !after {
			return nil
		}
		loaded += last
		if file, err := os.Stat(path); err == nil && file.Size() > written { // what was loaded is delivered
			loaded, written = 0, file.Size()
		}
		if loaded >= atOnce {
			t.Errorf("%s is loaded on top of %d bytes", name, loaded)
		}
		last = len(w.store.objects[name].data)
		return nil
	}
	if res := w.want(monitor.ExitClean); res.Alerts.Pending != 0 || w.lines(path) != entries {
		t.Errorf("alerts %+v, %d lines; want all %d written", res.Alerts, w.lines(path), entries)
	}
}
