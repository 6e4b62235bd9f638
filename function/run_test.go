package function

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/bucket/buckettest"
	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/notify/notifytest"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// bucketState keeps the world's state, and its configuration, in buckets.
func (w *world) inBuckets() *buckettest.Server {
	w.t.Helper()
	gcs := buckettest.New(w.t, "acme-state", "acme-source")
	gcs.Put("acme-source", "config/whosigned/whosigned.yaml", w.config())
	w.env["WHOSIGNED_CONFIG"] = "gs://acme-source/config/whosigned/whosigned.yaml"
	w.env["WHOSIGNED_STATE"] = "gs://acme-state"
	return gcs
}

func TestOfTwoInvocationsAtOnceOneRunsAndTheOtherDoesNoHarm(t *testing.T) {
	for _, kept := range []string{"folder", "bucket"} {
		t.Run(kept, func(t *testing.T) {
			w := newWorld(t)
			if kept == "bucket" {
				w.inBuckets()
			}
			w.add("https://example.com/stranger", 600)
			w.sign()
			i := w.start()
			release := w.stall(1)
			first := make(chan response, 1)
			go func() { first <- i.send(t.Context()) }()
			i.read.wait(t, 256)
			r := i.send(t.Context())
			if f := r.failure(t); r.status != 409 || f.Outcome != busy || !strings.Contains(f.Error, "holds the lease") {
				t.Errorf("the second got %d %+v, want 409, busy, and who holds the lease", r.status, f)
			}
			release()
			r = <-first
			if res := r.result(t); r.status != 200 || res.Failed || res.Logs[0].Scanned != 601 || len(res.Findings) != 1 {
				t.Errorf("the first got %d %s, want 200, all entries read and one finding", r.status, r.body)
			}
			run := i.runLines(2)
			if len(run) != 2 || run[0]["outcome"] != "busy" || run[0]["failed"] != false || run[0]["severity"] != "INFO" || run[1]["outcome"] != "findings" {
				t.Errorf("run lines %v, want busy, which is no failure, then findings", run)
			}
			if got := strings.Count(strings.Join(w.subjects(), "\n"), "acme"); got == 0 || len(w.subjects()) != 2 {
				t.Errorf("mails %q, want the finding and the first run, once each", w.subjects())
			}
		})
	}
}

func TestAClientThatLeavesLosesNothingThatIsProven(t *testing.T) {
	w := newWorld(t)
	w.add("https://example.com/stranger", 1500)
	e := w.here(nil)
	release := w.stall(3)
	ctx, leave := context.WithCancel(t.Context())
	answered := make(chan response, 1)
	go func() { answered <- e.send(ctx) }()
	e.read.wait(t, 768)
	leave()
	if r := <-answered; r.err == nil {
		t.Fatalf("got %d %s, want the client to have left", r.status, r.body)
	}
	e.server.Close() // waits for the invocation to end
	release()
	run, scanned := w.left()
	if run.Lease != nil || scanned != 768 {
		t.Errorf("lease %v, %d entries read, want none, and the 768 that were proven", run.Lease, scanned)
	}
	lines := runLines(t, e.log.String())
	if len(lines) != 1 || lines[0]["outcome"] != "failed" {
		t.Errorf("run lines %v, want one, failed", lines)
	}
	r := w.here(nil).send(t.Context())
	if res := r.result(t); r.status != 200 || res.Failed || res.Logs[0].Entries != 1500-768 || res.Logs[0].Scanned != 1500 {
		t.Errorf("the next run got %d %s, want the other %d entries read", r.status, r.body, 1500-768)
	}
}

func TestWorkEndsCommittedBeforeTheDeadline(t *testing.T) {
	w := newWorld(t)
	w.add("https://example.com/stranger", 1500)
	w.stall(3)
	const limit, margin = 4 * time.Second, 3 * time.Second
	e := w.here(func(e *endpoint) { e.clock = clock{margin: margin} }, limit)
	began := time.Now()
	r := e.send(t.Context())
	took := time.Since(began)
	if res := r.result(t); r.status != 200 || res.Failed || res.Logs[0].Status != monitor.StatusBehind || res.Logs[0].Scanned != 768 {
		t.Errorf("got %d %s, want 200 and 768 entries read, behind", r.status, r.body)
	}
	if took < limit-margin-time.Second/2 || took > limit {
		t.Errorf("it took %v, want work to end %v before the end at %v", took, margin, limit)
	}
}

func TestAPanicIsToldAndTheProcessGoesOn(t *testing.T) {
	w := newWorld(t)
	bug := true
	e := w.here(func(e *endpoint) {
		e.tune = func(m *monitor.Monitor) {
			m.Now = func() time.Time {
				if bug {
					panic(strings.Repeat("a bug ", 1000))
				}
				return time.Now()
			}
		}
	})
	r := e.send(t.Context())
	if f := r.failure(t); r.status != 500 || f.Outcome != failed || !strings.Contains(f.Error, "panic: a bug") || !strings.Contains(f.Error, "report it") || len(f.Error) > 2000 {
		t.Errorf("got %d %+v, want 500, failed, and the panic in short", r.status, f)
	}
	var stack string
	for _, m := range parse(t, e.log.String()) {
		if s, ok := m["stack"].(string); ok {
			stack = s
		}
	}
	if run := runLines(t, e.log.String()); len(run) != 1 || run[0]["outcome"] != "failed" || run[0]["failed"] != true || !strings.Contains(stack, "run_test.go") {
		t.Errorf("run lines %v, stack %q; want one that failed, and where", run, stack)
	}
	bug = false
	if r := e.send(t.Context()); r.status != 200 {
		t.Errorf("the next run got %d %s, want 200", r.status, r.body)
	}
}

func TestAnInvalidConfigurationIsToldOnceAndTouchesNoLog(t *testing.T) {
	w := newWorld(t)
	w.sign()
	e := w.here(nil)
	if r := e.send(t.Context()); r.status != 200 {
		t.Fatalf("got %d %s", r.status, r.body)
	}
	before := w.logState()
	mails := len(w.subjects())
	for _, c := range []struct {
		what, config string
		status       int
		outcome      kind
		mails        int
		say          string
	}{
		{"a typing error", strings.Replace(w.config(), "origin:", "orign:", 1), 500, invalid, 1, "orign"},
		{"the same again", strings.Replace(w.config(), "origin:", "orign:", 1), 500, invalid, 0, ""},
		{"another one", strings.Replace(w.config(), "subject:", "subjekt:", 1), 500, invalid, 1, "subjekt"},
		{"a broken alerts section", strings.Replace(w.config(), "email:", "emial:", 1), 500, invalid, 0, ""},
		{"a scan", w.config() + "startIndex: 3\n", 500, invalid, -1, ""},
		{"repaired", w.config(), 200, "", 1, "configuration"},
		{"as before", w.config(), 200, "", 0, ""},
	} {
		w.write("whosigned.yaml", c.config)
		r := e.send(t.Context())
		if r.status != c.status || c.outcome != "" && (r.failure(t).Outcome != c.outcome || r.failure(t).Error == "") {
			t.Errorf("%s: got %d %s, want %d, outcome %q and the reason", c.what, r.status, r.body, c.status, c.outcome)
		}
		all := w.sendgrid.Mails()[mails:]
		mails += len(all)
		if c.mails < 0 {
			continue
		}
		if len(all) != c.mails {
			t.Errorf("%s: %d mails, want %d", c.what, len(all), c.mails)
		} else if c.mails == 1 && !strings.Contains(all[0].Text, c.say) {
			t.Errorf("%s: the mail does not say %q:\n%s", c.what, c.say, all[0].Text)
		}
		if c.status == 500 && w.logState() != before {
			t.Errorf("%s: the log's state was changed", c.what)
		}
	}
	for _, line := range runLines(t, e.log.String())[1:6] {
		if line["outcome"] != "config" || line["failed"] != true || len(line["errors"].([]any)) == 0 {
			t.Errorf("run line %v, want outcome config with its reason", line)
		}
	}
}

// logState is the log's document as it is stored.
func (w *world) logState() string {
	w.t.Helper()
	names, err := filepath.Glob(filepath.Join(w.dir, "state", "state", "*.json"))
	if err != nil || len(names) != 1 {
		w.t.Fatalf("documents of logs: %v, %v", names, err)
	}
	text, err := os.ReadFile(names[0])
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text)
}

func TestAMissingSecretStopsTheAlertsAndNotTheWatching(t *testing.T) {
	w := newWorld(t)
	w.sign()
	e := w.here(nil)
	for _, c := range []struct{ what, key, say string }{
		{"no file", "", "no such file"},
		{"empty", "\n", "is empty"},
		{"two lines", apiKey + "\n" + apiKey, "second line"},
	} {
		w.write("api-key", c.key)
		if c.key == "" {
			os.Remove(filepath.Join(w.dir, "api-key"))
		}
		w.sign()
		r := e.send(t.Context())
		res := r.result(t)
		if r.status != 200 || !res.Failed || res.Logs[0].Status == monitor.StatusError || res.Logs[0].Entries == 0 {
			t.Errorf("%s: got %d %s, want 200, failed, and entries read", c.what, r.status, r.body)
		}
		if text := strings.Join(res.Errors, "\n"); !strings.Contains(text, c.say) || !strings.Contains(text, "secret") {
			t.Errorf("%s: errors %q, want %q and what to do", c.what, text, c.say)
		}
		if strings.Contains(e.log.String(), apiKey) || strings.Contains(string(r.body), apiKey) {
			t.Errorf("%s: the key was told", c.what)
		}
	}
	if got := len(w.subjects()); got != 0 {
		t.Fatalf("%d mails without a key", got)
	}
	w.write("api-key", apiKey)
	r := e.send(t.Context())
	if res := r.result(t); r.status != 200 || res.Failed || res.Alerts.Pending != 0 {
		t.Errorf("with the key: got %d %s, want 200, nothing failed or pending", r.status, r.body)
	}
	found := 0
	for _, m := range w.sendgrid.Mails() {
		found += strings.Count(m.Text, "rule \"ours\"")
		if strings.Contains(m.Subject, "dropped") || strings.Contains(m.Text, "not configured any more") {
			t.Errorf("a sink whose key was missing was dropped: %s\n%s", m.Subject, m.Text)
		}
	}
	if len(w.subjects()) < 4 {
		t.Errorf("mails %q, want the four findings that waited", w.subjects())
	}
}

func TestASinkThatIsDownForLongIsA500(t *testing.T) {
	w := newWorld(t)
	w.sign()
	w.sendgrid.Always(&notifytest.Answer{Status: 401})
	now := time.Now()
	e := w.here(func(e *endpoint) {
		e.tune = func(m *monitor.Monitor) { m.Now = func() time.Time { return now } }
	})
	for _, c := range []struct {
		after       time.Duration
		status      int
		undelivered bool
	}{{0, 200, false}, {time.Hour, 200, false}, {4 * time.Hour, 500, true}} {
		now = now.Add(c.after)
		r := e.send(t.Context())
		lines := runLines(t, e.log.String())
		last := lines[len(lines)-1]
		if res := r.result(t); r.status != c.status || !res.Failed || last["undelivered"] != c.undelivered || last["overdue"] != (c.status == 500) {
			t.Errorf("%v later: got %d, undelivered %v, overdue %v; want %d, %v", c.after, r.status, last["undelivered"], last["overdue"], c.status, c.undelivered)
		}
	}
}

func TestStateThatCannotBeUsedIsA500ThatNamesItAndTheRemedy(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world)
		want   []string
	}{
		"corrupt": {func(w *world) {
			if err := os.MkdirAll(filepath.Join(w.dir, "state"), 0o700); err != nil {
				w.t.Fatal(err)
			}
			w.write("state/run.json", "{")
		}, []string{"run.json is corrupt", "whosigned accept"}},
		"lost": {func(w *world) {
			if err := os.MkdirAll(filepath.Join(w.dir, "state", "alerts"), 0o700); err != nil {
				w.t.Fatal(err)
			}
			w.write("state/alerts/a.json", "{}")
		}, []string{"state is lost", "restore it"}},
		"no such scheme": {func(w *world) { w.env["WHOSIGNED_STATE"] = "s3://acme" }, []string{"s3://acme"}},
		"missing bucket": {func(w *world) { w.inBuckets(); w.env["WHOSIGNED_STATE"] = "gs://acme-gone" }, []string{"acme-gone", "create the bucket"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.change(w)
			e := w.here(nil)
			r := e.send(t.Context())
			f := r.failure(t)
			if r.status != 500 || f.Outcome != unusable {
				t.Errorf("got %d %s, want 500, unusable", r.status, r.body)
			}
			lines := runLines(t, e.log.String())
			if len(lines) != 1 || lines[0]["outcome"] != "unusable" || lines[0]["failed"] != true {
				t.Fatalf("run lines %v, want one, unusable", lines)
			}
			for _, want := range c.want {
				if logged := lines[0]["errors"].([]any)[0].(string); !strings.Contains(f.Error, want) || !strings.Contains(logged, want) {
					t.Errorf("the answer says %q and the log %q, want %q", f.Error, logged, want)
				}
			}
		})
	}
}

func TestTamperingIsToldAndItsEvidenceCopied(t *testing.T) {
	w := newWorld(t)
	w.env["WHOSIGNED_EVIDENCE"] = "file://" + filepath.Join(w.dir, "evidence")
	w.sign()
	e := w.here(nil)
	if r := e.send(t.Context()); r.status != 200 {
		t.Fatalf("got %d %s", r.status, r.body)
	}
	w.sign()
	w.log.EditNote(tlogtest.Garbled)
	r := e.send(t.Context())
	if res := r.result(t); r.status != 200 || len(res.Incidents) != 1 {
		t.Fatalf("got %d %s, want 200 and an incident", r.status, r.body)
	}
	last := runLines(t, e.log.String())[1]
	if last["outcome"] != "tamper" || last["tamper"] != true || last["severity"] != "CRITICAL" {
		t.Errorf("run line %v, want tamper, critical", last)
	}
	var told bool
	for _, m := range parse(t, e.log.String()) {
		told = told || m["event"] == "incident" && m["severity"] == "CRITICAL" && m["kind"] != nil
	}
	if !told {
		t.Errorf("no line of the incident:\n%s", e.log)
	}
	kept, _ := filepath.Glob(filepath.Join(w.dir, "state", "incidents", "*", "*"))
	copied, _ := filepath.Glob(filepath.Join(w.dir, "evidence", "incidents", "*", "*"))
	if len(kept) == 0 || len(copied) != len(kept) {
		t.Errorf("%d objects of incidents, %d of them copied; want all", len(kept), len(copied))
	}
	w.env["WHOSIGNED_EVIDENCE"] = "acme-evidence"
	if res := e.send(t.Context()).result(t); !res.Failed || !strings.Contains(strings.Join(res.Errors, "\n"), "WHOSIGNED_EVIDENCE") {
		t.Errorf("errors %q, want that there is no such place for evidence", res.Errors)
	}
}

func TestTheDeploymentsStateWinsOverTheConfigurations(t *testing.T) {
	w := newWorld(t)
	w.env["WHOSIGNED_STATE"] = "file://" + filepath.Join(w.dir, "elsewhere")
	res := w.here(nil).send(t.Context()).result(t)
	if text := strings.Join(res.Warnings, "\n"); !strings.Contains(text, "WHOSIGNED_STATE says") {
		t.Errorf("warnings %q, want that the configuration's state is not used", text)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "elsewhere", "run.json")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "state")); !os.IsNotExist(err) {
		t.Errorf("the configuration's state was touched: %v", err)
	}
}

func TestTheConfigurationMayStandInTheEnvironment(t *testing.T) {
	w := newWorld(t)
	w.env["WHOSIGNED_CONFIG"] = w.config()
	w.sign()
	e := w.here(nil)
	if r := e.send(t.Context()); r.status != 200 || len(r.result(t).Findings) != 1 {
		t.Errorf("got %d %s, want 200 and a finding", r.status, r.body)
	}
	w.env["WHOSIGNED_CONFIG"] = "{logs: 7}"
	if r := e.send(t.Context()); r.status != 500 || !strings.Contains(r.failure(t).Error, "WHOSIGNED_CONFIG:") {
		t.Errorf("got %d %s, want 500 that points into WHOSIGNED_CONFIG", r.status, r.body)
	}
}

func TestATimeoutOf180SecondsIsEnoughForTheFrameworksDeadline(t *testing.T) {
	w := newWorld(t)
	w.env["WHOSIGNED_TIMEOUT"] = "180s"
	if r := w.here(nil, 180*time.Second).send(t.Context()); r.status != http.StatusOK {
		t.Errorf("got %d: %s", r.status, r.body)
	}
}

func TestPassingTroubleWithAKeyInTheBucketIsMailedToNobody(t *testing.T) {
	w := newWorld(t)
	gcs := w.inBuckets()
	pem, err := w.log.PublicKeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	gcs.Put("acme-source", "config/whosigned/rekor.pem", string(pem))
	before, rest, _ := strings.Cut(w.config(), "key: ")
	_, after, _ := strings.Cut(rest, ", origin")
	gcs.Put("acme-source", "config/whosigned/whosigned.yaml", before+"key: rekor.pem, origin"+after)
	e := w.here(nil)
	if r := e.send(t.Context()); r.status != http.StatusOK {
		t.Fatalf("first: %d %s", r.status, r.body)
	}
	mails := len(w.subjects())
	gcs.Fail(func(r *http.Request) buckettest.Fault {
		if strings.Contains(r.URL.Path, "rekor.pem") {
			return buckettest.Status(http.StatusForbidden, "denied for a moment")
		}
		return nil
	})
	if r := e.send(t.Context()); r.status != http.StatusInternalServerError {
		t.Errorf("in trouble: %d %s", r.status, r.body)
	}
	gcs.Fail(nil)
	if r := e.send(t.Context()); r.status != http.StatusOK {
		t.Errorf("after it: %d %s", r.status, r.body)
	}
	if got := w.subjects()[mails:]; len(got) != 0 {
		t.Errorf("mails %q", got)
	}
}

func TestARunThatSIGTERMInterruptsWhileTheConfigurationIsReadHasFailed(t *testing.T) {
	w := newWorld(t)
	asked := make(chan struct{})
	gcs := w.inBuckets()
	gcs.Fail(func(*http.Request) buckettest.Fault {
		select {
		case <-asked:
		default:
			close(asked)
		}
		return buckettest.Silent
	})
	log := &buffer{}
	s := newStopper(func(int) {})
	e := &endpoint{getenv: w.getenv, log: log, stop: s, clock: production}
	e.first.Do(func() {})
	go func() { <-asked; s.stop() }()
	e.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", nil))
	if l := runLines(t, log.String()); len(l) != 1 || l[0]["outcome"] != "failed" {
		t.Errorf("run lines %v, want one that has failed", l)
	}
}

func TestTheRunLineIsWrittenByTheDeadlineWhateverTheBucketDoes(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a deadline of 20 s")
	}
	w := newWorld(t)
	gcs := w.inBuckets()
	w.add("https://example.com/stranger", 1500)
	w.stall(3)
	const limit, margin = 20 * time.Second, 12 * time.Second
	e := w.here(func(e *endpoint) { e.clock = clock{margin: margin} }, limit)
	until := time.After(limit)
	done := make(chan response, 1)
	go func() { done <- e.send(context.Background()) }()
	e.read.wait(t, 768)
	gcs.Fail(func(*http.Request) buckettest.Fault {
		return buckettest.Status(http.StatusServiceUnavailable, "backend error")
	})
	<-until
	if l := runLines(t, e.log.String()); len(l) != 1 || l[0]["failed"] != true || l[0]["overdue"] != true {
		t.Errorf("at the deadline there are run lines %v, want one that has failed", l)
	}
	gcs.Fail(nil)
	<-done
	if l := runLines(t, e.log.String()); len(l) != 1 {
		t.Errorf("%d run lines in all, want one", len(l))
	}
}
