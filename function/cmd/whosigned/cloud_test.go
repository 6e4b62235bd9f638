package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/whosigned/whosigned/pkg/bucket/buckettest"
	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/notify"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog/tlogtest"
)

// cloud is Cloud Functions and Cloud Scheduler with one installation, acme-security's
// whosigned in europe-west1. It answers as the APIs do, and refuses what they would:
// https://cloud.google.com/functions/docs/reference/rest/v2/projects.locations.functions
// https://cloud.google.com/scheduler/docs/reference/rest/v1/projects.locations.jobs
type cloud struct {
	mu       sync.Mutex
	env      map[string]string
	state    int // of the function: enums are numbers, as the client asks
	messages []map[string]any
	job      map[string]any
	skew     time.Duration // of Google's clock, against ours
	refuse   func(r *http.Request) []byte
	wrong    []string // requests that no client of the API makes
	asked    []string // what was called, in order
	forced   func()   // starts a run
}

const (
	functionPath = "/v2/projects/acme-security/locations/europe-west1/functions/whosigned"
	jobPath      = "/v1/projects/acme-security/locations/europe-west1/jobs/whosigned"
)

func newCloud(env map[string]string) *cloud {
	return &cloud{env: env, state: 1, forced: func() {}, job: map[string]any{
		"name": strings.TrimPrefix(jobPath, "/v1/"), "state": "ENABLED", "schedule": "7 * * * *", "timeZone": "Etc/UTC",
		"attemptDeadline": "1740s", "userUpdateTime": "2026-11-01T10:00:00Z", "scheduleTime": "2026-11-22T12:07:00Z",
		"lastAttemptTime": "2026-11-22T11:07:00.123456Z", "status": map[string]any{},
		"httpTarget": map[string]any{"uri": "https://whosigned-abcdefghij-ew.a.run.app/", "httpMethod": "POST",
			"oidcToken": map[string]any{"serviceAccountEmail": "whosigned-invoke@acme-security.iam.gserviceaccount.com", "audience": "https://whosigned-abcdefghij-ew.a.run.app"}},
		"retryConfig": map[string]any{"retryCount": 1, "minBackoffDuration": "300s"},
	}}
}

// change alters what is answered.
func (c *cloud) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	call := r.Method + " " + r.URL.Path
	c.asked = append(c.asked, call)
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.Header().Set("Date", time.Now().Add(c.skew).UTC().Format(http.TimeFormat))
	body, err := io.ReadAll(r.Body)
	if err != nil || r.Header.Get("Authorization") != "" || !strings.Contains(r.Header.Get("User-Agent"), "whosigned/") {
		c.wrong = append(c.wrong, fmt.Sprintf("%s: %v, headers %v", call, err, r.Header))
	}
	if c.refuse != nil {
		if answer := c.refuse(r); answer != nil {
			var code struct {
				Error struct{ Code int }
			}
			if err := json.Unmarshal(answer, &code); err != nil {
				c.wrong = append(c.wrong, err.Error())
			}
			w.WriteHeader(code.Error.Code)
			w.Write(answer)
			return
		}
	}
	switch {
	case call == "GET "+functionPath && r.URL.Query().Get("$alt") == "json;enum-encoding=int" && len(body) == 0:
		c.answer(w, c.function())
	case call == "GET "+jobPath && len(body) == 0:
		c.answer(w, c.job)
	case call == "POST "+jobPath+":run" && strings.TrimSpace(string(body)) == "{}" && r.Header.Get("Content-Type") == "application/json":
		c.job["lastAttemptTime"] = time.Now().Add(c.skew).UTC().Format(time.RFC3339Nano)
		go c.forced()
		c.answer(w, c.job)
	default:
		c.wrong = append(c.wrong, fmt.Sprintf("%s?%s %s %q", call, r.URL.RawQuery, r.Header.Get("Content-Type"), body))
		w.WriteHeader(http.StatusBadRequest)
	}
}

func (c *cloud) answer(w io.Writer, v any) {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		c.wrong = append(c.wrong, err.Error())
	}
}

func (c *cloud) function() map[string]any {
	return map[string]any{
		"name": strings.TrimPrefix(functionPath, "/v2/"), "state": c.state, "stateMessages": c.messages, "environment": 2,
		"updateTime": "2026-11-20T09:30:00.123456789Z", "createTime": "2026-11-01T10:00:00Z", "url": "https://europe-west1-acme-security.cloudfunctions.net/whosigned",
		"labels": map[string]any{"goog-terraform-provisioned": "true"},
		"buildConfig": map[string]any{
			"build": "projects/1054321098765/locations/europe-west1/builds/6e6a2b0e", "runtime": "go126", "entryPoint": "Monitor",
			"source":         map[string]any{"storageSource": map[string]any{"bucket": "acme-whosigned-source", "object": "source/whosigned-0123456789abcdef.zip", "generation": "1763632200123456"}},
			"serviceAccount": "projects/acme-security/serviceAccounts/whosigned-build@acme-security.iam.gserviceaccount.com", "automaticUpdatePolicy": map[string]any{},
		},
		"serviceConfig": map[string]any{
			"service": "projects/acme-security/locations/europe-west1/services/whosigned", "uri": "https://whosigned-abcdefghij-ew.a.run.app",
			"timeoutSeconds": 1740, "availableMemory": "512Mi", "availableCpu": "1", "maxInstanceCount": 1, "ingressSettings": 1,
			"environmentVariables": c.env, "revision": "whosigned-00003-zel", "allTrafficOnLatestRevision": true, "maxInstanceRequestConcurrency": 1,
		},
	}
}

// apiError is an error as Google's APIs answer it.
func apiError(code int, status, message string, details ...map[string]any) []byte {
	e := map[string]any{"code": code, "message": message, "status": status}
	if len(details) > 0 {
		e["details"] = details
	}
	data, err := json.MarshalIndent(map[string]any{"error": e}, "", "  ")
	if err != nil {
		panic(err)
	}
	return data
}

// refusal answers the calls that have a part so.
func refusal(part string, answer []byte) func(*http.Request) []byte {
	return func(r *http.Request) []byte {
		if strings.Contains(r.Method+" "+r.URL.Path, part) {
			return answer
		}
		return nil
	}
}

// installed is an installation: a log that it watches, its state in a bucket, its
// configuration, and the APIs that know of it.
type installed struct {
	*cloud
	t      *testing.T
	log    *tlogtest.Tiles
	ca     *tlogtest.CA
	dir    string
	config string
	state  *state.State
	bucket *buckettest.Server
	n      int
}

const stateURL = "gs://acme-whosigned-state"

func newInstalled(t *testing.T) *installed {
	t.Helper()
	in := &installed{t: t, dir: t.TempDir(), bucket: buckettest.New(t, "acme-whosigned-state")}
	in.config = filepath.Join(in.dir, "whosigned.yaml")
	in.cloud = newCloud(map[string]string{
		"WHOSIGNED_STATE": stateURL, "WHOSIGNED_CONFIG": "gs://acme-whosigned-source/config/whosigned/whosigned.yaml",
		"WHOSIGNED_EVERY": "60m", "WHOSIGNED_TIMEOUT": "1740s",
	})
	api := httptest.NewServer(in.cloud)
	t.Cleanup(api.Close)
	t.Setenv("WHOSIGNED_FUNCTIONS_ENDPOINT", api.URL)
	t.Setenv("WHOSIGNED_SCHEDULER_ENDPOINT", api.URL)
	t.Cleanup(func() {
		in.change(func() {
			for _, w := range in.wrong {
				t.Errorf("no client of the API asks %s", w)
			}
		})
	})
	_, key, err := ed25519.GenerateKey(rand.Reader)
	in.must(err)
	in.log, err = tlogtest.NewTiles("log.example", key)
	in.must(err)
	in.ca, err = tlogtest.NewCA("sigstore.example")
	in.must(err)
	url, stop, err := tlogtest.Serve(t.Context(), in.log)
	in.must(err)
	t.Cleanup(func() { stop() })
	pem, err := in.log.PublicKeyPEM()
	in.must(err)
	in.write("log.pub", string(pem))
	in.write("root.pem", string(in.ca.RootPEM()))
	in.write("intermediate.pem", string(in.ca.IntermediatePEM()))
	in.write("whosigned.yaml", fmt.Sprintf(`state: %s
caRootsFile: root.pem
caIntermediatesFile: intermediate.pem
logs: [{type: rekor-v2, url: %q, key: log.pub, origin: log.example, start: 0}]
watch: [{name: acme, subject: {glob: "*@acme.example"}}]
alerts: {folder: {path: ./mail}}
`, stateURL, url))
	in.state, err = state.Open(t.Context(), stateURL)
	in.must(err)
	in.sign("someone@else.example")
	return in
}

func (in *installed) must(err error) {
	in.t.Helper()
	if err != nil {
		in.t.Fatal(err)
	}
}

func (in *installed) write(name, text string) {
	in.t.Helper()
	in.must(os.WriteFile(filepath.Join(in.dir, name), []byte(text), 0o600))
}

// sign appends an entry signed by somebody.
func (in *installed) sign(subject string) {
	in.t.Helper()
	signer, err := in.ca.Issue(tlogtest.Identity{Email: subject, Issuer: "https://accounts.google.com"})
	in.must(err)
	in.n++
	leaf, err := tlogtest.HashedRekordV002(signer, fmt.Appendf(nil, "artifact %d", in.n))
	in.must(err)
	in.log.Append(leaf)
	in.must(in.log.Publish())
}

// monitor is what the function would make of the configuration.
func (in *installed) monitor(ctx context.Context) (*monitor.Monitor, error) {
	c := &cobra.Command{}
	c.SetContext(ctx)
	m, err := (&flags{config: in.config}).openSilent(c)
	if err != nil {
		return nil, err
	}
	m.Version = "v1.2.3"
	m.CommitEvery = time.Nanosecond // this bucket takes any number of writes a second
	m.Sinks, err = notify.Open(m.Config.Alerts, func(string) string { return "" })
	return m, err
}

// run makes a run.
func (in *installed) run() *monitor.Result {
	in.t.Helper()
	m, err := in.monitor(in.t.Context())
	in.must(err)
	res, err := m.Run(in.t.Context())
	in.must(err)
	return res
}

// edit changes run.json.
func (in *installed) edit(f func(*state.Run)) {
	in.t.Helper()
	doc, err := in.state.LoadRun(in.t.Context())
	in.must(err)
	f(doc)
	in.must(in.state.SaveRun(in.t.Context(), doc))
}

// whosigned runs the command line.
func (in *installed) whosigned(args ...string) (status int, out, errOut string) {
	var stdout, stderr bytes.Buffer
	status = execute(in.t.Context(), args, &stdout, &stderr)
	return status, stdout.String(), stderr.String()
}

// inCloud are the flags that name the installation.
func inCloud(args ...string) []string {
	return append(args, "--project", "acme-security", "--region", "europe-west1")
}

func TestWhatGoogleCloudRefusesIsSaidWithTheRemedy(t *testing.T) {
	const lacks = `The principal (user or service account) lacks IAM permission "cloudscheduler.jobs.%s" for the resource "projects/acme-security/locations/europe-west1/jobs/whosigned" (or the resource may not exist).`
	info := func(reason string) map[string]any {
		return map[string]any{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com",
			"metadata": map[string]any{"service": "cloudfunctions.googleapis.com", "consumer": "projects/1054321098765"}}
	}
	for _, tc := range []struct {
		name   string
		args   []string
		on     string // part of the call that is refused
		answer []byte
		want   []string
	}{
		{"no function", inCloud("status"), "/functions/",
			apiError(404, "NOT_FOUND", "Resource 'projects/acme-security/locations/europe-west1/functions/whosigned' was not found"),
			[]string{"there is no function whosigned in region europe-west1 of project acme-security", "terraform apply", "gcloud functions list --project acme-security"}},
		{"no right to see it", inCloud("status"), "/functions/",
			apiError(403, "PERMISSION_DENIED", "Permission 'cloudfunctions.functions.get' denied on resource 'projects/acme-security/locations/europe-west1/functions/whosigned' (or resource may not exist).", info("IAM_PERMISSION_DENIED")),
			[]string{"roles/cloudfunctions.viewer in project acme-security", "Permission 'cloudfunctions.functions.get' denied"}},
		{"the API is off", inCloud("status"), "/functions/",
			apiError(403, "PERMISSION_DENIED", "Cloud Functions API has not been used in project 1054321098765 before or it is disabled. Enable it by visiting https://console.developers.google.com/apis/api/cloudfunctions.googleapis.com/overview?project=1054321098765 then retry.", info("SERVICE_DISABLED")),
			[]string{"gcloud services enable cloudfunctions.googleapis.com --project acme-security"}},
		{"credentials without a project", inCloud("status"), "/functions/",
			apiError(403, "PERMISSION_DENIED", "Your application is authenticating by using local Application Default Credentials. The cloudfunctions.googleapis.com API requires a quota project, which is not set by default.", info("SERVICE_DISABLED")),
			[]string{"gcloud auth application-default set-quota-project acme-security"}},
		{"expired credentials", inCloud("test-alert"), "/functions/",
			apiError(401, "UNAUTHENTICATED", "Request had invalid authentication credentials."),
			[]string{"gcloud auth application-default login"}},
		{"no right to see the job", inCloud("run", "--remote"), "GET " + jobPath, apiError(403, "PERMISSION_DENIED", fmt.Sprintf(lacks, "get")), []string{"roles/cloudscheduler.viewer"}},
		{"no right to force it", inCloud("run", "--remote"), ":run", apiError(403, "PERMISSION_DENIED", fmt.Sprintf(lacks, "run")), []string{"roles/cloudscheduler.jobRunner", "forcing job"}},
		{"no job", inCloud("run", "--remote"), "GET " + jobPath, apiError(404, "NOT_FOUND", "Job not found."), []string{"there is no Cloud Scheduler job whosigned in region europe-west1", "--scheduler-region"}},
		{"trouble that lasts", inCloud("run", "--remote"), ":run", apiError(503, "UNAVAILABLE", "The service is \x1b[31mcurrently\nunavailable."), []string{`HTTP status 503: The service is \u{001b}[31mcurrently\nunavailable.`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := newInstalled(t)
			in.refuse = refusal(tc.on, tc.answer)
			status, out, errOut := in.whosigned(tc.args...)
			if status != monitor.ExitFailed || out != "" {
				t.Errorf("exit status %d, stdout %q; want 1 and nothing", status, out)
			}
			for _, want := range tc.want {
				if !strings.Contains(errOut, want) {
					t.Errorf("got %q, want %q in it", errOut, want)
				}
			}
		})
	}
}

func TestACallIsMadeAgainWhileItsTroubleMayPass(t *testing.T) {
	for code, times := range map[int]int{409: 1, 429: 1, 503: 2} {
		in := newInstalled(t)
		in.run()
		left := map[string]int{functionPath: times, jobPath: times}
		in.refuse = func(r *http.Request) []byte {
			if left[r.URL.Path]--; left[r.URL.Path] >= 0 {
				return apiError(code, "ABORTED", "try again")
			}
			return nil
		}
		if status, out, errOut := in.whosigned(inCloud("status")...); status != monitor.ExitClean {
			t.Errorf("%d: exit status %d, want 0: %s%s", code, status, out, errOut)
		}
	}
}

func TestWithoutCredentialsTheRemedyIsSaid(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", filepath.Join(t.TempDir(), "gone.json"))
	for _, args := range [][]string{inCloud("status"), inCloud("test-alert"), inCloud("run", "--remote"), {"status", "--state", stateURL}, {"test-alert", "--state", stateURL}} {
		var out, errOut bytes.Buffer
		status := execute(t.Context(), args, &out, &errOut)
		if want := "gcloud auth application-default login"; status != monitor.ExitFailed || !strings.Contains(errOut.String(), want) {
			t.Errorf("%v: exit status %d: %s; want 1 and %q", args, status, errOut.String(), want)
		}
	}
}

func TestAnEndpointWithoutTLSIsForLoopbackOnly(t *testing.T) {
	for _, tc := range []struct{ endpoint, want string }{
		{"http://functions.example", "http:// is for loopback only"},
		{"http://127.0.0.1.example", "http:// is for loopback only"},
		{"http://10.0.0.1:80", "http:// is for loopback only"},
		{"functions.example", "is not a base URL"},
		{"ftp://127.0.0.1", "is not a base URL"},
		{"http://me@127.0.0.1", "is not a base URL"},
		{"https://functions.example?key=1", "is not a base URL"},
	} {
		for _, variable := range []string{"WHOSIGNED_FUNCTIONS_ENDPOINT", "WHOSIGNED_SCHEDULER_ENDPOINT"} {
			t.Run(variable+" "+tc.endpoint, func(t *testing.T) {
				in := newInstalled(t)
				t.Setenv(variable, tc.endpoint)
				if status, _, errOut := in.whosigned(inCloud("status")...); status != monitor.ExitUsage || !strings.Contains(errOut, variable) || !strings.Contains(errOut, tc.want) {
					t.Errorf("exit status %d: %s; want 2 and %q", status, errOut, tc.want)
				}
			})
		}
	}
}

// cmdCloud serves the APIs to a script: cloud CONFIG STATE, for the installation
// acme-security/europe-west1/whosigned; its runs are those of the configuration.
func cmdCloud(ts *testscript.TestScript, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: cloud CONFIG STATE")
	}
	config := ts.MkAbs(args[0])
	c := newCloud(map[string]string{"WHOSIGNED_STATE": args[1], "WHOSIGNED_CONFIG": config})
	var runs sync.WaitGroup
	c.forced = func() {
		runs.Go(func() { execute(context.Background(), []string{"run", "--config", config}, io.Discard, io.Discard) })
	}
	url, stop, err := tlogtest.Serve(context.Background(), c)
	ts.Check(err)
	w := worldOf(ts)
	w.stops = append(w.stops, func() error { runs.Wait(); return stop() })
	for _, api := range []string{"FUNCTIONS", "SCHEDULER"} {
		ts.Setenv("WHOSIGNED_"+api+"_ENDPOINT", url)
	}
}
