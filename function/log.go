package function

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/whosigned/whosigned/pkg/monitor"
)

// Keys that Cloud Logging takes out of a line's JSON:
// https://cloud.google.com/logging/docs/structured-logging
const (
	severityKey = "severity"
	messageKey  = "message"
	traceKey    = "logging.googleapis.com/trace"
	labelsKey   = "logging.googleapis.com/labels"
)

// Limits on lines. An entry of more than 256 KiB is refused by Cloud Logging.
const (
	maxLine    = 64 << 10
	maxRunLine = 16 << 10
)

// newLogger writes records as Cloud Logging reads them on stdout: one JSON object a
// line, of at most 64 KiB, whatever a log or a finding holds.
func newLogger(w io.Writer, level slog.Leveler) *slog.Logger {
	return slog.New(slog.NewJSONHandler(lines{w}, &slog.HandlerOptions{Level: level, ReplaceAttr: cloudLogging}))
}

// cloudLogging gives the built-in attributes the names that Cloud Logging knows, and
// logs those that metrics are made of.
func cloudLogging(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.LevelKey:
		if level, ok := a.Value.Any().(slog.Level); ok {
			return slog.String(severityKey, severity(level))
		}
	case slog.MessageKey:
		a.Key = messageKey
	case "log":
		if l, ok := a.Value.Any().(monitor.LogResult); ok {
			a.Value = slog.AnyValue(lineOf(l))
		}
	}
	return a
}

func severity(l slog.Level) string {
	switch {
	case l >= monitor.LevelCritical:
		return "CRITICAL"
	case l >= slog.LevelError:
		return "ERROR"
	case l >= slog.LevelWarn:
		return "WARNING"
	case l >= slog.LevelInfo:
		return "INFO"
	}
	return "DEBUG"
}

// lines is what a JSONHandler writes to, one record a call.
type lines struct{ w io.Writer }

// Write writes a record as a line. The value that an event is about, an attribute
// named as the event, is taken apart: its fields become the line's own, as filters
// and metrics want them. What is too long is cut.
func (l lines) Write(record []byte) (int, error) {
	d := json.NewDecoder(bytes.NewReader(record))
	d.UseNumber() // sizes beyond 2^53 stay exact
	var line map[string]any
	if err := d.Decode(&line); err != nil {
		line = map[string]any{severityKey: "ERROR", messageKey: "a record cannot be logged: " + err.Error()}
	}
	unfold(line)
	label(line)
	if _, err := l.w.Write(fit(line, maxLine)); err != nil {
		return 0, err
	}
	return len(record), nil
}

// unfold makes the fields of an event's value the line's own, but for those that the
// line has already.
func unfold(line map[string]any) {
	event, _ := line["event"].(string)
	value, ok := line[event].(map[string]any)
	if !ok {
		return
	}
	delete(line, event)
	for key, v := range value {
		if _, taken := line[key]; !taken {
			line[key] = v
		}
	}
}

// label marks a line with the run that wrote it.
func label(line map[string]any) {
	if run, ok := line["run"].(string); ok {
		line[labelsKey] = map[string]string{"whosigned_run": run}
	}
}

// fit encodes a line in at most limit bytes: if need be its texts and lists are cut,
// ever shorter, each marked where it was, and the line with "cut".
func fit(line map[string]any, limit int) []byte {
	encoded := encode(line)
	for text := limit / 4; len(encoded) > limit; text /= 4 {
		if text < 64 {
			return encode(bare(line))
		}
		short := make(map[string]any, len(line)+1)
		for key, v := range line {
			short[key] = cut(v, text, maxDepth)
		}
		short["cut"] = true
		encoded = encode(short)
	}
	return encoded
}

// bare is what is left of a line that has too many fields to be cut one by one.
func bare(line map[string]any) map[string]any {
	left := map[string]any{"cut": true}
	for _, key := range []string{severityKey, messageKey, "time", "event", traceKey, labelsKey} {
		if v, ok := line[key]; ok {
			left[key] = cut(v, 64, 1)
		}
	}
	return left
}

// maxDepth is how deeply nested a line may be that is too long as it is.
const maxDepth = 8

// cut shortens texts to a number of bytes, and lists and objects accordingly.
func cut(v any, text, depth int) any {
	items := max(1, text/64)
	switch v := v.(type) {
	case string:
		return clip(v, text)
	case json.Number:
		if len(v) > 64 {
			return clip(string(v), text)
		}
	case []any:
		if depth == 0 {
			return fmt.Sprintf("… (cut: a list of %d)", len(v))
		}
		short := make([]any, 0, min(len(v), items+1))
		for _, item := range v[:min(len(v), items)] {
			short = append(short, cut(item, text, depth-1))
		}
		if len(v) > items {
			short = append(short, fmt.Sprintf("… (cut: %d more)", len(v)-items))
		}
		return short
	case map[string]any:
		if depth == 0 {
			return fmt.Sprintf("… (cut: an object of %d fields)", len(v))
		}
		short := make(map[string]any, min(len(v), items+1))
		for i, key := range slices.Sorted(maps.Keys(v)) {
			if i == items {
				short["…"] = fmt.Sprintf("(cut: %d more)", len(v)-items)
				break
			}
			short[clip(key, text)] = cut(v[key], text, depth-1)
		}
		return short
	}
	return v
}

// clip cuts a text to at most n bytes, and says there how much there was.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	mark := fmt.Sprintf("… (cut: %d bytes)", len(s))
	end := max(0, n-len(mark))
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + mark
}

// encode is a JSON object on a line.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		// Nothing that was decoded from JSON cannot be encoded.
		return fmt.Appendf(nil, "{%q:%q,%q:%q}\n", severityKey, "ERROR", messageKey, "log line: "+err.Error())
	}
	return b.Bytes()
}

var (
	traceParent = regexp.MustCompile(`\A00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}\z`)
	cloudTrace  = regexp.MustCompile(`\A([0-9a-f]{32})(?:/[0-9]{1,20})?(?:;o=[01])?\z`)
)

// traced is the attribute that links a line to its request, if the project is known
// and the request carries a trace: in W3C's traceparent, or in Google's own header.
func traced(h http.Header, project string) []any {
	id := traceID(h)
	if project == "" || id == "" {
		return nil
	}
	return []any{slog.String(traceKey, "projects/"+project+"/traces/"+id)}
}

// traceID reads a trace ID; "" if there is none, or none in the form it must have.
func traceID(h http.Header) string {
	for _, header := range []struct {
		name string
		form *regexp.Regexp
	}{{"Traceparent", traceParent}, {"X-Cloud-Trace-Context", cloudTrace}} {
		values := h.Values(header.name)
		if len(values) != 1 {
			continue // of two nobody can say which is meant
		}
		m := header.form.FindStringSubmatch(values[0])
		if m == nil || strings.Trim(m[1], "0") == "" || len(m) > 2 && strings.Trim(m[2], "0") == "" {
			continue
		}
		return m[1]
	}
	return ""
}
