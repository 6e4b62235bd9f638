package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	functions "cloud.google.com/go/functions/apiv2"
	"cloud.google.com/go/functions/apiv2/functionspb"
	"github.com/spf13/cobra"
	"google.golang.org/api/cloudscheduler/v1"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"

	"github.com/whosigned/whosigned/pkg/report"
)

// endpointHelp is said by every command that asks Google Cloud.
const endpointHelp = `Google Cloud is asked with Application Default Credentials. The environment can name other
endpoints: WHOSIGNED_FUNCTIONS_ENDPOINT, WHOSIGNED_SCHEDULER_ENDPOINT, STORAGE_EMULATOR_HOST;
http:// is for loopback only, and gets no credentials.`

// place says which installation a command is about: one on Google Cloud, or any by
// its configuration or its state.
type place struct {
	project, region, name string
	job, jobRegion        string
	config, state         string
}

// defaultName is that of the Terraform module.
const defaultName = "whosigned"

// cloudFlags are those that name an installation on Google Cloud.
func (p *place) cloudFlags(c *cobra.Command) {
	c.Flags().StringVar(&p.project, "project", "", "Google Cloud `PROJECT` ID of the installation")
	c.Flags().StringVar(&p.region, "region", "", "`REGION` of the function")
	c.Flags().StringVar(&p.name, "name", defaultName, "`NAME` of the function")
}

func (p *place) jobFlags(c *cobra.Command) {
	c.Flags().StringVar(&p.job, "job", "", "`NAME` of the Cloud Scheduler job (default that of the function)")
	c.Flags().StringVar(&p.jobRegion, "scheduler-region", "", "`REGION` of the Cloud Scheduler job (default that of the function)")
}

// anyFlags are those that name any installation.
func (p *place) anyFlags(c *cobra.Command) {
	p.cloudFlags(c)
	c.Flags().StringVar(&p.config, "config", "", "configuration `FILE` of the installation")
	c.Flags().StringVar(&p.state, "state", "", "`URL` of its state, such as gs://BUCKET or file:///path")
	c.MarkFlagsRequiredTogether("project", "region")
	c.MarkFlagsMutuallyExclusive("project", "config")
	c.MarkFlagsOneRequired("project", "config", "state")
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		if err := checkFlags(c); err != nil || !p.inCloud() {
			return err
		}
		return p.check()
	}
}

// inCloud says whether the installation is named by its project.
func (p *place) inCloud() bool { return p.project != "" }

// jobName is the job's, or the function's.
func (p *place) jobName() string { return cmp.Or(p.job, p.name) }

func (p *place) functionPath() string {
	return fmt.Sprintf("projects/%s/locations/%s/functions/%s", p.project, p.region, p.name)
}

func (p *place) jobPath() string {
	return fmt.Sprintf("projects/%s/locations/%s/jobs/%s", p.project, cmp.Or(p.jobRegion, p.region), p.jobName())
}

// The forms of what becomes part of a URL and of commands to paste.
var (
	projectForm = regexp.MustCompile(`\A([a-z0-9.-]+:)?[a-z0-9-]{1,63}\z`)
	nameForm    = regexp.MustCompile(`\A[A-Za-z0-9_-]{1,500}\z`)
)

func (p *place) check() error {
	for _, f := range []struct {
		flag, value string
		form        *regexp.Regexp
		optional    bool
	}{
		{"--project", p.project, projectForm, false},
		{"--region", p.region, nameForm, false},
		{"--name", p.name, nameForm, false},
		{"--job", p.job, nameForm, true},
		{"--scheduler-region", p.jobRegion, nameForm, true},
	} {
		if !f.form.MatchString(f.value) && !(f.optional && f.value == "") {
			return usage(fmt.Errorf("%s %q is not one", f.flag, f.value))
		}
	}
	return nil
}

// deployment is what Google Cloud says is deployed. Its JSON is a stable interface.
type deployment struct {
	Project  string     `json:"project"`
	Region   string     `json:"region"`
	Name     string     `json:"name"`
	State    string     `json:"state"` // ACTIVE, FAILED, DEPLOYING, DELETING, UNKNOWN
	Messages []string   `json:"messages,omitempty"`
	Runtime  string     `json:"runtime,omitempty"`
	Revision string     `json:"revision,omitempty"`
	Updated  *time.Time `json:"updated,omitempty"`
	Source   string     `json:"source,omitempty"` // the object that it was built from
	URL      string     `json:"url,omitempty"`
	// Env is what the installation was told; it is in the fields of status, too.
	env map[string]string
}

// job is what Cloud Scheduler says of the job that starts the runs. Its JSON is a
// stable interface.
type job struct {
	Name     string `json:"name"`
	State    string `json:"state"` // ENABLED, PAUSED, DISABLED, UPDATE_FAILED
	Schedule string `json:"schedule"`
	TimeZone string `json:"timeZone,omitempty"`
	Next     string `json:"next,omitempty"`
	// LastAttempt is when it was started last, Code and Message how that ended: a
	// google.rpc.Code, 0 is fine.
	LastAttempt string `json:"lastAttempt,omitempty"`
	Code        int64  `json:"code"`
	Message     string `json:"message,omitempty"`

	// asked is Google's clock when it answered.
	asked time.Time
}

const jobPaused = "PAUSED"

// Codes of google.rpc.Code that Scheduler gives for an answer of 500.
const (
	codeUnknown  = 2
	codeInternal = 13
)

// overlap says that the last attempt met a run at work: 409 or 429, which is normal.
func (j *job) overlap() bool { return j.Code == 6 || j.Code == 8 || j.Code == 10 }

// failed says whether the last attempt did.
func (j *job) failed() bool { return j.Code != 0 && !j.overlap() }

// outcome is how the last attempt ended, in words.
func (j *job) outcome() string {
	name := map[int64]string{
		0: "answered", 2: "UNKNOWN", 4: "DEADLINE_EXCEEDED", 5: "NOT_FOUND", 6: "ALREADY_EXISTS", 7: "PERMISSION_DENIED",
		8: "RESOURCE_EXHAUSTED", 10: "ABORTED", 13: "INTERNAL", 14: "UNAVAILABLE", 16: "UNAUTHENTICATED",
	}[j.Code]
	if j.overlap() {
		return "refused, for a run was at work"
	}
	text := cmp.Or(name, fmt.Sprintf("status %d", j.Code))
	if j.Message != "" {
		text += ": " + report.Safe(j.Message)
	}
	return text
}

// remedy is what to do about a failed attempt.
func (p *place) remedy(code int64) string {
	switch code {
	case 7, 16:
		return "the account in the job's oidcToken needs roles/run.invoker on the Cloud Run service " + p.name + ", and the audience must be the service's URL: terraform apply"
	case 5:
		return "the job calls a URL that is not there any more: terraform apply"
	case 4:
		return "the run was cut off; its proven progress is saved, see: " + p.logsCommand()
	}
	return "see what the function said: " + p.logsCommand()
}

// logsCommand shows the log of the function.
func (p *place) logsCommand() string {
	return fmt.Sprintf(`gcloud logging read 'resource.type="cloud_run_revision" resource.labels.service_name="%s"' --project %s --freshness 6h --limit 50`, p.name, p.project)
}

// runCommand makes a run now.
func (p *place) runCommand() string {
	if !p.inCloud() && p.config != "" && !strings.HasPrefix(p.config, "gs://") {
		return "whosigned run --config " + shellWord(p.config)
	}
	if !p.inCloud() && strings.HasPrefix(p.state, "file://") {
		return "whosigned run --config FILE"
	}
	return p.command("run --remote")
}

// command is one about the installation on Google Cloud.
func (p *place) command(name string) string {
	words := "whosigned " + name + " --project " + cmp.Or(p.project, "PROJECT") + " --region " + cmp.Or(p.region, "REGION")
	if p.name != defaultName {
		words += " --name " + p.name
	}
	if p.job != "" {
		words += " --job " + p.job
	}
	if p.jobRegion != "" {
		words += " --scheduler-region " + p.jobRegion
	}
	return words
}

// callTime bounds one call of an API.
const callTime = 30 * time.Second

// deployed asks Cloud Functions for the function.
func (p *place) deployed(ctx context.Context) (*deployment, error) {
	opts, err := endpoint("WHOSIGNED_FUNCTIONS_ENDPOINT")
	if err != nil {
		return nil, err
	}
	client, err := functions.NewFunctionRESTClient(ctx, opts...)
	if err != nil {
		return nil, unusable("asking Cloud Functions", err)
	}
	defer client.Close()
	var f *functionspb.Function
	err = again(ctx, func(ctx context.Context) (err error) {
		f, err = client.GetFunction(ctx, &functionspb.GetFunctionRequest{Name: p.functionPath()})
		return err
	})
	if err != nil {
		return nil, p.explain("asking for function "+p.functionPath(), err, call{
			api: "cloudfunctions.googleapis.com", role: "roles/cloudfunctions.viewer",
			missing: fmt.Sprintf("there is no function %s in region %s of project %s: deploy it with terraform apply, or correct --project, --region or --name (gcloud functions list --project %s)", p.name, p.region, p.project, p.project),
		})
	}
	d := &deployment{
		Project: p.project, Region: p.region, Name: p.name, State: f.GetState().String(),
		Runtime: f.GetBuildConfig().GetRuntime(), Revision: f.GetServiceConfig().GetRevision(),
		URL: cmp.Or(f.GetServiceConfig().GetUri(), f.GetUrl()), env: f.GetServiceConfig().GetEnvironmentVariables(),
	}
	for _, m := range f.GetStateMessages() {
		d.Messages = append(d.Messages, m.GetSeverity().String()+" "+m.GetType()+": "+m.GetMessage())
	}
	if t := f.GetUpdateTime(); t.IsValid() {
		at := t.AsTime()
		d.Updated = &at
	}
	if s := f.GetBuildConfig().GetSource().GetStorageSource(); s.GetObject() != "" {
		d.Source = "gs://" + s.GetBucket() + "/" + s.GetObject()
	}
	return d, nil
}

// scheduler asks Cloud Scheduler.
type scheduler struct {
	place *place
	jobs  *cloudscheduler.ProjectsLocationsJobsService
}

func (p *place) scheduler(ctx context.Context) (*scheduler, error) {
	opts, err := endpoint("WHOSIGNED_SCHEDULER_ENDPOINT")
	if err != nil {
		return nil, err
	}
	service, err := cloudscheduler.NewService(ctx, opts...)
	if err != nil {
		return nil, unusable("asking Cloud Scheduler", err)
	}
	return &scheduler{place: p, jobs: service.Projects.Locations.Jobs}, nil
}

// get reads the job.
func (s *scheduler) get(ctx context.Context) (*job, error) {
	var found *cloudscheduler.Job
	err := again(ctx, func(ctx context.Context) (err error) {
		found, err = s.jobs.Get(s.place.jobPath()).Context(ctx).Do()
		return err
	})
	if err != nil {
		return nil, s.explain("asking for job "+s.place.jobPath(), "roles/cloudscheduler.viewer", err)
	}
	return newJob(found), nil
}

// run forces the job to run now.
func (s *scheduler) run(ctx context.Context) error {
	err := again(ctx, func(ctx context.Context) error {
		_, err := s.jobs.Run(s.place.jobPath(), &cloudscheduler.RunJobRequest{}).Context(ctx).Do()
		return err
	})
	if err != nil {
		return s.explain("forcing job "+s.place.jobPath(), "roles/cloudscheduler.jobRunner", err)
	}
	return nil
}

func (s *scheduler) explain(doing, role string, err error) error {
	p := s.place
	return p.explain(doing, err, call{
		api: "cloudscheduler.googleapis.com", role: role,
		missing: fmt.Sprintf("there is no Cloud Scheduler job %s in region %s, so nothing starts the runs: terraform apply, or correct --job or --scheduler-region (gcloud scheduler jobs list --project %s --location %s)",
			p.jobName(), cmp.Or(p.jobRegion, p.region), p.project, cmp.Or(p.jobRegion, p.region)),
	})
}

func newJob(j *cloudscheduler.Job) *job {
	found := &job{Name: j.Name, State: j.State, Schedule: j.Schedule, TimeZone: j.TimeZone, Next: j.ScheduleTime, LastAttempt: j.LastAttemptTime, asked: time.Now()}
	if j.Status != nil {
		found.Code, found.Message = j.Status.Code, j.Status.Message
	}
	if t, err := http.ParseTime(j.Header.Get("Date")); err == nil {
		found.asked = t
	}
	return found
}

// endpoint are the options of a client: a variable may name another server.
func endpoint(variable string) ([]option.ClientOption, error) {
	opts := []option.ClientOption{option.WithUserAgent("whosigned/" + version())}
	text := os.Getenv(variable)
	if text == "" {
		return opts, nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, usage(fmt.Errorf("%s=%q is not a base URL", variable, text))
	}
	opts = append(opts, option.WithEndpoint(strings.TrimSuffix(text, "/")))
	if u.Scheme == "https" {
		return opts, nil
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, usage(fmt.Errorf("%s=%q: http:// is for loopback only; use https://", variable, text))
	}
	return append(opts, option.WithoutAuthentication()), nil
}

// maxWait is the longest wait before another try.
const maxWait = time.Second

// again makes a call up to three times, with growing waits, while it fails in a way
// that may pass.
func again(ctx context.Context, do func(context.Context) error) error {
	for wait := 200 * time.Millisecond; ; wait *= 4 {
		err := once(ctx, do)
		if err == nil || !passing(err) || wait > maxWait {
			return err
		}
		if sleep(ctx, wait) != nil {
			return err
		}
	}
}

func once(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	return do(ctx)
}

// passing says whether an answer is one that a later try may not get.
func passing(err error) bool {
	var answer *googleapi.Error
	return errors.As(err, &answer) && (answer.Code == http.StatusConflict || answer.Code == http.StatusTooManyRequests || answer.Code >= 500)
}

// sleep waits, or returns the context's error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// call says what an API needs, for when it refuses.
type call struct{ api, role, missing string }

// explain says what became of a call, and what to do.
func (p *place) explain(doing string, err error, c call) error {
	var answer *googleapi.Error
	if !errors.As(err, &answer) {
		text := err.Error()
		switch {
		case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("%s: %w", doing, err)
		case strings.Contains(text, "credentials"), strings.Contains(text, "oauth2"), strings.Contains(text, "invalid_grant"):
			return unusable(doing, err)
		}
		return fmt.Errorf("%s: %s", doing, report.Safe(text))
	}
	said := report.Safe(cmp.Or(answer.Message, http.StatusText(answer.Code)))
	switch {
	case strings.Contains(answer.Body, "quota project") || strings.Contains(answer.Body, sdkProject):
		return fmt.Errorf("%s: the credentials name no project to count requests against: gcloud auth application-default set-quota-project %s (the answer: %s)", doing, p.project, said)
	case strings.Contains(answer.Body, "SERVICE_DISABLED"):
		return fmt.Errorf("%s: the API is not enabled: gcloud services enable %s --project %s (the answer: %s)", doing, c.api, p.project, said)
	case answer.Code == http.StatusUnauthorized:
		return fmt.Errorf("%s: the credentials were not accepted; renew them: %s (the answer: %s)", doing, login, said)
	case answer.Code == http.StatusForbidden:
		return fmt.Errorf("%s: you lack the permission, or it does not exist: ask for %s in project %s (the answer: %s)", doing, c.role, p.project, said)
	case answer.Code == http.StatusNotFound:
		return fmt.Errorf("%s: %s", doing, c.missing)
	}
	return fmt.Errorf("%s: HTTP status %d: %s", doing, answer.Code, said)
}

const login = "gcloud auth application-default login"

// unusable is the error of credentials that are not there, or expired.
func unusable(doing string, err error) error {
	return fmt.Errorf("%s: no usable credentials (%s); to use your own: %s", doing, report.Safe(err.Error()), login)
}

// sdkProject is the project of gcloud itself, which requests without a quota project
// are counted against and refused in the name of.
const sdkProject = "764086051850"

// shellWord is s as one word of a command to paste.
func shellWord(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(report.Safe(s), "'", `'\''`) + "'"
}

var plainWord = regexp.MustCompile(`\A[A-Za-z0-9_./:@%+=,-]+\z`)
