package function

import (
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/monitor"
)

func TestPostToTheRootMakesARunAndNothingElseDoes(t *testing.T) {
	w := newWorld(t)
	w.sign()
	i := w.start()
	for _, c := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/", 405, "POST"},
		{"HEAD", "/", 405, "POST"},
		{"PUT", "/", 405, "POST"},
		{"OPTIONS", "/", 405, "POST"},
		{"POST", "/run", 404, ""},
		{"GET", "/favicon.ico", 404, ""},
		{"POST", "//", 404, ""},
		{"POST", "/?force=1", 200, ""},
		{"POST", "/", 200, ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, i.url+c.path, strings.NewReader(strings.Repeat("x", maxBody/2)))
		if err != nil {
			t.Fatal(err)
		}
		client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatalf("%s %s: %v", c.method, c.path, err)
		}
		resp.Body.Close()
		// The server itself sends // to /, before the function sees it.
		if c.path == "//" && resp.StatusCode/100 == 3 {
			continue
		}
		if resp.StatusCode != c.status || resp.Header.Get("Allow") != c.allow || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: got %d, Allow %q, %s; want %d, Allow %q, application/json", c.method, c.path,
				resp.StatusCode, resp.Header.Get("Allow"), resp.Header.Get("Content-Type"), c.status, c.allow)
		}
	}
	if got := len(i.runLines(2)); got != 2 {
		t.Errorf("%d run lines, want one for each of 2 runs", got)
	}
}

func TestARunAnswersWithItsResultAndTellsTheLog(t *testing.T) {
	w := newWorld(t)
	w.sign()
	w.add("https://example.com/stranger", 20)
	i := w.start()
	r := i.send(t.Context())
	res := r.result(t)
	if r.status != 200 || res.Failed || len(res.Logs) != 1 || res.Logs[0].Scanned != 21 || len(res.Findings) != 1 {
		t.Fatalf("got %d %s, want 200, and one finding in 21 entries", r.status, r.body)
	}
	if got := w.subjects(); len(got) != 2 {
		t.Errorf("mails %q, want the finding and the first run", got)
	}
	run := i.runLines(1)
	if len(run) != 1 {
		t.Fatalf("%d run lines, want 1", len(run))
	}
	for key, want := range map[string]any{
		"outcome": "findings", "failed": false, "overdue": false, "tamper": false, "falling_behind": false, "undelivered": false,
		"run": res.Run, "trigger": "whosigned", "entries": 21.0, "findings": 1.0, "expected": 0.0, "severity": "WARNING", "pending": 0.0,
		traceKey: "projects/acme-security/traces/" + strings.Repeat("ab", 16),
	} {
		if got := run[0][key]; got != want {
			t.Errorf("run line: %s is %v, want %v", key, got, want)
		}
	}
	for _, key := range []string{"message", "time", "version", "duration_seconds", "memory_bytes", "logs", "errors", "requests", "bytes", labelsKey} {
		if run[0][key] == nil {
			t.Errorf("run line has no %s: %v", key, run[0])
		}
	}
	events := map[string]map[string]any{}
	for _, m := range parse(t, i.log.String()) {
		if name, ok := m["event"].(string); ok {
			events[name] = m
		}
	}
	for event, fields := range map[string][]string{
		"log":     {"id", "origin", "type", "status", "size", "scanned", "lag_seconds", "falling_behind", "entries", "findings"},
		"finding": {"rule", "subject", "index", "origin", "leafHash"},
		"health":  {"key", "state", "text"},
	} {
		for _, field := range append(fields, traceKey, "severity", "message") {
			if events[event][field] == nil {
				t.Errorf("event %s has no field %s: %v", event, field, events[event])
			}
		}
	}
}

func TestTheEnvironmentIsCheckedAndTheAnswerNamesTheVariable(t *testing.T) {
	for name, c := range map[string]struct {
		change map[string]string
		want   []string
	}{
		"no configuration":  {map[string]string{"WHOSIGNED_CONFIG": " "}, []string{"WHOSIGNED_CONFIG is not set", "Terraform"}},
		"no timeout":        {map[string]string{"WHOSIGNED_TIMEOUT": ""}, []string{"WHOSIGNED_TIMEOUT is not set", "1740s"}},
		"timeout no number": {map[string]string{"WHOSIGNED_TIMEOUT": "1740"}, []string{"WHOSIGNED_TIMEOUT", `"1740"`, "duration"}},
		"timeout too short": {map[string]string{"WHOSIGNED_TIMEOUT": "179s"}, []string{"WHOSIGNED_TIMEOUT is 2m59s", "180 s", "timeout_seconds"}},
		"timeout too long":  {map[string]string{"WHOSIGNED_TIMEOUT": "3600s"}, []string{"WHOSIGNED_TIMEOUT is 1h0m0s", "1800 s", "timeout_seconds"}},
		"no schedule":       {map[string]string{"WHOSIGNED_EVERY": ""}, []string{"WHOSIGNED_EVERY is not set", "60m"}},
		"schedule negative": {map[string]string{"WHOSIGNED_EVERY": "-1h"}, []string{"WHOSIGNED_EVERY", "above 0"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			for k, v := range c.change {
				w.env[k] = v
			}
			e := w.here(nil)
			r := e.send(t.Context())
			f := r.failure(t)
			if r.status != 500 || f.Outcome != invalid {
				t.Errorf("got %d, outcome %q, want 500, config", r.status, f.Outcome)
			}
			for _, want := range c.want {
				if !strings.Contains(f.Error, want) {
					t.Errorf("error %q lacks %q", f.Error, want)
				}
			}
			if run := runLines(t, e.log.String()); len(run) != 1 || run[0]["outcome"] != "config" || run[0]["failed"] != true || run[0]["severity"] != "ERROR" {
				t.Errorf("run lines %v, want one with outcome config", run)
			}
			if _, err := os.Stat(w.dir + "/state"); !os.IsNotExist(err) {
				t.Errorf("state was touched: %v", err)
			}
		})
	}
}

func TestARequestThatEndsTooSoonForARunIsRefusedInWords(t *testing.T) {
	w := newWorld(t)
	w.env["CLOUD_RUN_TIMEOUT_SECONDS"] = "60" // the framework then puts a deadline on requests
	r := w.start().send(t.Context())
	if f := r.failure(t); r.status != 500 || f.Outcome != invalid || !strings.Contains(f.Error, "after 1m0s") || !strings.Contains(f.Error, "timeout_seconds") {
		t.Errorf("got %d %+v, want 500 that names the deadline and the remedy", r.status, f)
	}
}

func TestTracesAreReadStrictly(t *testing.T) {
	id := strings.Repeat("4b", 16)
	parent := func(version, trace, span, flags string) http.Header {
		return http.Header{"Traceparent": {version + "-" + trace + "-" + span + "-" + flags}}
	}
	span := strings.Repeat("0", 15) + "7"
	cloud := func(values ...string) http.Header { return http.Header{"X-Cloud-Trace-Context": values} }
	for name, c := range map[string]struct {
		header http.Header
		want   string
	}{
		"none":                    {http.Header{}, ""},
		"traceparent":             {parent("00", id, span, "01"), id},
		"traceparent upper case":  {parent("00", strings.ToUpper(id), span, "01"), ""},
		"traceparent zero trace":  {parent("00", strings.Repeat("0", 32), span, "01"), ""},
		"traceparent zero span":   {parent("00", id, strings.Repeat("0", 16), "01"), ""},
		"traceparent short":       {parent("00", id[1:], span, "01"), ""},
		"traceparent version ff":  {parent("ff", id, span, "01"), ""},
		"traceparent and more":    {parent("00", id, span, "01-extra"), ""},
		"traceparent with quotes": {parent("00", id, span, `01","severity":"DEBUG`), ""},
		"traceparent twice":       {http.Header{"Traceparent": {"00-" + id + "-" + span + "-01", "00-" + id + "-" + span + "-01"}}, ""},
		"cloud":                   {cloud(id + "/123456789;o=1"), id},
		"cloud without options":   {cloud(id + "/123456789"), id},
		"cloud alone":             {cloud(id), id},
		"cloud with a line end":   {cloud(id + "\n"), ""},
		"cloud zero":              {cloud(strings.Repeat("0", 32) + "/1"), ""},
		"cloud span no number":    {cloud(id + "/xyz"), ""},
		"cloud option":            {cloud(id + "/1;o=9"), ""},
		"cloud path":              {cloud("../../" + id), ""},
		"both, one broken":        {http.Header{"Traceparent": {"garbage"}, "X-Cloud-Trace-Context": {id}}, id},
	} {
		if got := traceID(c.header); got != c.want {
			t.Errorf("%s: trace %q, want %q", name, got, c.want)
		}
	}
	if got := traced(parent("00", id, span, "01"), ""); got != nil {
		t.Errorf("without a project: %v, want no trace", got)
	}
}

func TestTheTriggerIsTheJobsNameOrNothing(t *testing.T) {
	for value, want := range map[string]string{
		"": "", "whosigned": "whosigned", "projects/p/locations/l/jobs/j": "projects/p/locations/l/jobs/j",
		"a\x00b": "", "a b": "", strings.Repeat("a", 501): "", `x","outcome":"clean`: "",
	} {
		h := http.Header{}
		h["X-Cloudscheduler-Jobname"] = []string{value}
		if got := trigger(h); got != want {
			t.Errorf("trigger of %.50q is %q, want %q", value, got, want)
		}
	}
}

func TestTheMemoryLimitIsThreeQuartersOfTheContainers(t *testing.T) {
	for text, want := range map[string]int64{"536870912\n": 402653184, "max\n": 0, "": 0, "-1": 0, "9223372036854771712\n": 0} {
		if got := memoryLimit([]byte(text)); got != want {
			t.Errorf("limit of %q is %d, want %d", text, got, want)
		}
	}
	for text, want := range map[string]uint64{"Name:\tx\nVmHWM:\t   51200 kB\nVmRSS:\t 1 kB\n": 51200 << 10, "VmRSS:\t1 kB\n": 0, "VmHWM:\t-1 kB\n": 0, "VmHWM:\t99999999999999999999 kB\n": 0} {
		if got := highWater([]byte(text)); got != want {
			t.Errorf("high water of %q is %d, want %d", text, got, want)
		}
	}
	if got := memoryUsed(); got < 1<<20 || got > 1<<40 {
		t.Errorf("this process uses %d bytes", got)
	}
}

// The aim is to listen within 100 ms and to be idle below 80 MiB. This binary holds
// the tests' servers too, so its figures are upper bounds.
func TestTimeToListeningAndIdleMemoryAreReported(t *testing.T) {
	w := newWorld(t)
	i := w.start()
	before, err := os.ReadFile("/proc/" + strconv.Itoa(i.cmd.Process.Pid) + "/status")
	if err != nil {
		t.Skip("no /proc here")
	}
	r := i.send(t.Context())
	if res := r.result(t); res.Failed {
		t.Fatalf("the run failed: %s", r.body)
	}
	after, err := os.ReadFile("/proc/" + strconv.Itoa(i.cmd.Process.Pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("listening after %v; peak memory %d MiB idle, %d MiB after a run", i.ready.Round(time.Millisecond), highWater(before)>>20, highWater(after)>>20)
	if i.ready > 5*time.Second || highWater(after) > 400<<20 {
		t.Errorf("that is far beyond the aim")
	}
}

func TestOutcomesHaveTheStatusOfTheDesign(t *testing.T) {
	for name, c := range map[string]struct {
		o      outcome
		status int
		kind   kind
	}{
		"clean":                    {finished(&monitor.Result{Exit: monitor.ExitClean}), 200, clean},
		"findings":                 {finished(&monitor.Result{Exit: monitor.ExitFindings}), 200, findings},
		"tamper":                   {finished(&monitor.Result{Exit: monitor.ExitTamper}), 200, tamper},
		"failed for a short time":  {finished(&monitor.Result{Exit: monitor.ExitFailed, Failed: true}), 200, failed},
		"failed for long":          {finished(&monitor.Result{Exit: monitor.ExitFailed, Failed: true, Overdue: true}), 500, failed},
		"tamper, failing for long": {finished(&monitor.Result{Exit: monitor.ExitTamper, Failed: true, Overdue: true}), 500, tamper},
	} {
		if got := c.o.status(); got != c.status || c.o.kind != c.kind {
			t.Errorf("%s: status %d, outcome %s, want %d, %s", name, got, c.o.kind, c.status, c.kind)
		}
	}
}
