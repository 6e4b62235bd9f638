package function

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/watch"
)

func TestSeveritiesAreCloudLoggings(t *testing.T) {
	for level, want := range map[slog.Level]string{
		slog.LevelDebug: "DEBUG", slog.LevelInfo: "INFO", slog.LevelInfo + 1: "INFO", slog.LevelWarn: "WARNING",
		slog.LevelError: "ERROR", monitor.LevelCritical: "CRITICAL", monitor.LevelCritical + 9: "CRITICAL",
	} {
		var b bytes.Buffer
		newLogger(&b, slog.LevelDebug).Log(t.Context(), level, "a message")
		m := parse(t, b.String())[0]
		if m[severityKey] != want || m[messageKey] != "a message" || m["level"] != nil || m["msg"] != nil {
			t.Errorf("level %v: %s, want severity %s and the message", level, b.String(), want)
		}
		if _, err := time.Parse(time.RFC3339Nano, fmt.Sprint(m["time"])); err != nil {
			t.Errorf("time: %v", err)
		}
	}
	var b bytes.Buffer
	newLogger(&b, slog.LevelInfo).Debug("retrying")
	if b.Len() > 0 {
		t.Errorf("debug lines are written: %s", b.String())
	}
}

func TestAnEventsFieldsAreTheLinesOwn(t *testing.T) {
	var b bytes.Buffer
	l := newLogger(&b, slog.LevelInfo).With(traceKey, "projects/p/traces/t")
	l.Info("log", "event", "log", "run", "R1", "log", monitor.LogResult{
		ID: "ab", URL: "https://log.example", Type: "rekor-v2", Size: 1<<63 + 1, Scanned: 7, Lag: 90000, FallingBehind: true, Status: monitor.StatusBehind, Entries: 5,
	})
	l.Warn("finding", "event", "finding", "finding", watch.Finding{Rule: "ours", Subject: "a", Origin: "o", Index: 3})
	l.Warn("health", "event", "health", "health", report.Health{Key: "k", State: report.Opened, Text: "severity"})
	l.Log(t.Context(), monitor.LevelCritical, "incident", "event", "incident", "incident", monitor.IncidentResult{ID: "i", Text: "two roots"})
	l.Info("an event without a value", "event", "nothing")
	l.Info("a value that is a text", "event", "finding", "finding", "text")
	// A value's field never replaces one of the line.
	l.Info("kept", "event", "finding", "finding", map[string]any{severityKey: "DEBUG", messageKey: "forged", "event": "run", traceKey: "x", "rule": "r"})
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	for i, want := range []map[string]any{
		{"event": "log", "id": "ab", "origin": "https://log.example", "type": "rekor-v2", "lag_seconds": 90000.0, "falling_behind": true, "entries": 5.0, "status": "behind", "lagSeconds": nil, "log": nil},
		{"event": "finding", "rule": "ours", "subject": "a", "origin": "o", "index": 3.0, severityKey: "WARNING", "finding": nil},
		{"event": "health", "key": "k", "state": "opened", "text": "severity", "health": nil},
		{"event": "incident", "id": "i", "text": "two roots", severityKey: "CRITICAL", "incident": nil},
		{"event": "nothing"},
		{"event": "finding", "finding": "text"},
		{"event": "finding", severityKey: "INFO", messageKey: "kept", traceKey: "projects/p/traces/t", "rule": "r"},
	} {
		m := parse(t, lines[i])[0]
		for key, v := range want {
			if m[key] != v {
				t.Errorf("line %d: %s is %v, want %v: %s", i, key, m[key], v, lines[i])
			}
		}
	}
	if !strings.Contains(lines[0], "9223372036854775809") {
		t.Errorf("a size beyond 2^53 is not exact: %s", lines[0])
	}
	if labels, _ := parse(t, lines[0])[0][labelsKey].(map[string]any); labels["whosigned_run"] != "R1" {
		t.Errorf("labels %v, want the run", labels)
	}
}

// hostile is what somebody may have written into a log.
var hostile = []string{
	"", "plain", "a\nb\r\nc", "\x00\x01\x1f\x7f", "\xff\xfe\xfd", "\u2028\u2029", "\u202e", `","severity":"DEBUG","x":"`, "</script><script>", "\\u0000", "\xed\xa0\x80", "🦊", "…",
}

func TestEveryLineIsOneJSONObjectOfBoundedSize(t *testing.T) {
	for _, text := range hostile {
		for _, size := range []int{0, 100, 20_000, maxLine} {
			s := text
			if len(s) > 0 && len(s) < size {
				s = strings.Repeat(text, size/len(text)+1)
			}
			checkLine(t, s, 1)
		}
	}
	for _, n := range []int{100, 5000, 20_000} {
		checkLine(t, "a", n) // many fields and items
	}
	for _, text := range []string{"\x01", "\xff"} {
		var b bytes.Buffer
		newLogger(&b, slog.LevelInfo).Warn("big", "event", "finding", "finding", watch.Finding{Rule: "ours", Subject: strings.Repeat(text, 10<<20)})
		if m := parse(t, b.String())[0]; b.Len() > maxLine || m["cut"] != true || m["rule"] != "ours" {
			t.Errorf("a subject of 10 MiB of %q: a line of %d bytes, cut %v, rule %v", text, b.Len(), m["cut"], m["rule"])
		}
	}
}

func FuzzEveryLineIsOneJSONObject(f *testing.F) {
	for _, text := range hostile {
		f.Add(text, uint16(1), uint16(1))
		f.Add(text, uint16(5000), uint16(3))
		f.Add(text, uint16(2), uint16(1000))
	}
	f.Fuzz(func(t *testing.T, text string, repeat, items uint16) {
		checkLine(t, strings.Repeat(text, min(int(repeat), 1<<17/max(1, len(text)))), int(items)%1024)
	})
}

// checkLine logs a text in every place that a log could have it in.
func checkLine(t *testing.T, text string, items int) {
	t.Helper()
	finding := watch.Finding{Rule: "ours", Origin: text, Subject: text, TrustErr: text, Certificate: text}
	many := map[string]any{}
	for i := range items {
		finding.Subjects = append(finding.Subjects, text[:min(len(text), 64)])
		many[fmt.Sprint(text[:min(len(text), 64)], i)] = i
	}
	nested := any(text)
	for range 20 {
		nested = []any{map[string]any{text[:min(len(text), 64)]: nested}}
	}
	var b bytes.Buffer
	l := newLogger(&b, slog.LevelInfo)
	l.Warn("finding", "event", "finding", "finding", finding)
	l.Error(text, "error", errors.New(text))
	l.Info("many", "event", "many", "many", many)
	l.Info("list", "list", slices.Repeat([]string{text[:min(len(text), 8)]}, items), "nested", nested)
	l.With("a", text).WithGroup("g").Info("group", "b", text, text[:min(len(text), 64)], 1)
	for i, line := range strings.SplitAfter(strings.TrimSuffix(b.String(), "\n"), "\n") {
		line = strings.TrimSuffix(line, "\n")
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil || !utf8.ValidString(line) {
			t.Fatalf("line %d of %.50q is no JSON object: %v: %.200q", i, text, err, line)
		}
		if len(line) >= maxLine {
			t.Errorf("line %d of %.50q (%d bytes, %d items) has %d bytes", i, text, len(text), items, len(line))
		}
		if want := []string{"WARNING", "ERROR", "INFO", "INFO", "INFO"}; i >= len(want) || m[severityKey] != want[i] || m[messageKey] == nil {
			t.Fatalf("line %d of %.50q: severity %v, message %.50v", i, text, m[severityKey], m[messageKey])
		}
		if i == 0 && (m["event"] != "finding" || m["rule"] != "ours") {
			t.Errorf("the finding lost its event or rule: %.300s", line)
		}
		if i == 0 && len(text) > maxLine && (m["cut"] != true || !strings.Contains(fmt.Sprint(m["subject"]), "(cut: ")) {
			t.Errorf("a cut field of the finding is not marked: %.300s", line)
		}
		if len(text) < 100 && items < 10 && m["cut"] != nil {
			t.Errorf("line %d of %q is cut without need: %s", i, text, line)
		}
	}
}

func TestACutTextSaysHowMuchThereWas(t *testing.T) {
	for _, c := range []struct {
		text string
		n    int
		want string
	}{
		{"short", 10, "short"},
		{strings.Repeat("a", 100), 64, strings.Repeat("a", 44) + "… (cut: 100 bytes)"},
		{strings.Repeat("é", 50), 64, strings.Repeat("é", 22) + "… (cut: 100 bytes)"},
	} {
		if got := clip(c.text, c.n); got != c.want || len(got) > c.n {
			t.Errorf("clip(%q, %d) is %q (%d bytes), want %q", c.text, c.n, got, len(got), c.want)
		}
	}
}

func TestTheRunLineIsBoundedWhateverTheLogsSay(t *testing.T) {
	for name, c := range map[string]struct {
		logs, errors, length int
		text                 string
		cut                  bool
	}{
		"a few logs":               {5, 1, 100, "x", false},
		"500 logs":                 {500, 0, 10, "x", true},
		"500 logs, long errors":    {500, 100, 10_000, "x", true},
		"500 logs, control bytes":  {500, 100, 10_000, "\x01", true},
		"500 logs, invalid UTF-8":  {500, 500, 300, "\xff", true},
		"one log, an error of 1MB": {1, 1, 1 << 20, "\n", true},
	} {
		res := &monitor.Result{Run: "20261122T080000Z-01020304", Exit: monitor.ExitFailed, Failed: true}
		text := strings.Repeat(c.text, c.length)
		for i := range c.logs {
			l := monitor.LogResult{ID: tlog.ID(fmt.Sprintf("%064x", i)), Origin: text, Status: monitor.StatusOK, Size: 1 << 40, Scanned: 1 << 40, Entries: 2, Findings: 2, Expected: 1, Error: text}
			if i == c.logs-1 {
				l.Status = monitor.StatusTamper
			}
			res.Logs = append(res.Logs, l)
		}
		for i := range c.errors {
			res.Errors = append(res.Errors, fmt.Sprint(i, text))
		}
		var b bytes.Buffer
		in := &invocation{started: time.Now(), trigger: strings.Repeat("j", 500), version: strings.Repeat("v", 64),
			logger: newLogger(&b, slog.LevelInfo).With(traced(http.Header{"Traceparent": {"00-" + strings.Repeat("4b", 16) + "-" + strings.Repeat("4b", 8) + "-01"}}, strings.Repeat("p", 30))...)}
		in.say(finished(res))
		m := parse(t, b.String())[0]
		logs, _ := m["logs"].([]any)
		errs, _ := m["errors"].([]any)
		if b.Len() > maxRunLine || (m["cut"] == true) != c.cut || len(errs) < min(c.errors, 1) {
			t.Errorf("%s: %d bytes, cut %v, %d logs, %d errors; want at most %d, cut %v", name, b.Len(), m["cut"], len(logs), len(errs), maxRunLine, c.cut)
		}
		if m["entries"] != float64(2*c.logs) || m["findings"] != float64(2*c.logs) || m["expected"] != float64(c.logs) || m["outcome"] != "failed" {
			t.Errorf("%s: the counts are not those of all logs: %.300s", name, b.String())
		}
		if len(logs) == 0 {
			t.Errorf("%s: no log is left", name)
		} else if first := logs[0].(map[string]any); c.logs > 100 && first["status"] != "tamper" {
			t.Errorf("%s: the first log left is %v, want the one in trouble", name, first["status"])
		}
	}
}
