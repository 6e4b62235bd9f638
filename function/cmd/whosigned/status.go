package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/whosigned/whosigned/pkg/bucket"
	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/monitor"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
)

func newStatus() *cobra.Command {
	f, p := &flags{}, &place{}
	var every time.Duration
	c := &cobra.Command{
		Use:   "status (--project ID --region REGION | --config FILE | --state URL)",
		Short: "What is deployed, is it healthy, how far behind is it, what is undelivered",
		Long: `Say what is installed and how it fares, from its state, and for an installation on Google
Cloud from Cloud Functions and Cloud Scheduler, too. Nothing is written, no log is asked.

With --project and --region the state is where the function keeps it; --config or --state
work for an installation anywhere.

Needs, on Google Cloud: roles/cloudfunctions.viewer and roles/cloudscheduler.viewer in
the project, roles/storage.objectViewer on the state bucket.

` + endpointHelp + `

Exit status: 0 healthy; 4 an incident is open; 1 not healthy, for another reason that is
said, or it could not be found out; 2 the command line is wrong.`,
		Example: `  whosigned status --project acme-security --region europe-west1
  whosigned status --config whosigned.yaml --every 24h
  whosigned status --config whosigned.yaml --json | jq .problems`,
		Args: flagsOnly,
		RunE: func(c *cobra.Command, _ []string) error {
			if every < 0 {
				return usage(errors.New("--every must not be negative"))
			}
			s, err := p.look(c, every)
			if err != nil {
				return err
			}
			if f.json {
				err = printJSON(c.OutOrStdout(), s)
			} else {
				err = printStatus(c.OutOrStdout(), s)
			}
			if err == nil && s.Exit != monitor.ExitClean {
				err = &exitError{status: s.Exit}
			}
			return err
		},
	}
	p.anyFlags(c)
	p.jobFlags(c)
	f.result(c)
	c.Flags().DurationVar(&every, "every", 0, "the longest `INTERVAL` between two scheduled runs (default what the function is told, else 1h)")
	return c
}

// status is what `whosigned status` finds out. Its JSON is a stable interface.
type status struct {
	Healthy bool      `json:"healthy"`
	Exit    int       `json:"exit"`
	At      time.Time `json:"at"` // by Google's clock, if it was asked
	// Problems are why it is not healthy; none else.
	Problems   []problem   `json:"problems"`
	Notes      []string    `json:"notes,omitempty"`
	Deployment *deployment `json:"deployment,omitempty"`
	Job        *job        `json:"job,omitempty"`
	Config     string      `json:"config,omitempty"`
	State      string      `json:"state"`
	// Version is that of the last run; its result is in LastRun.
	Version      string     `json:"version,omitempty"`
	FirstRun     *time.Time `json:"firstRun,omitempty"`
	LastRun      *lastRun   `json:"lastRun,omitempty"`
	LastGoodRun  *time.Time `json:"lastGoodRun,omitempty"`
	FailingSince *time.Time `json:"failingSince,omitempty"`
	Running      *running   `json:"running,omitempty"`
	// Logs are as their own state is now, also in the middle of a run.
	Logs        []logStatus               `json:"logs"`
	Incidents   []monitor.IncidentResult  `json:"incidents"`
	Health      []monitor.ConditionResult `json:"health"`
	Undelivered []undelivered             `json:"undelivered"`
}

// problem is why an installation is not healthy, and what to do about it.
type problem struct {
	What string `json:"what"`
	Next string `json:"next"`
}

// lastRun is the last run that ended.
type lastRun struct {
	Run      string    `json:"run"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
	Exit     int       `json:"exit"`
	Errors   []string  `json:"errors,omitempty"`
}

// running is a run that holds the lease, until it releases it or then.
type running struct {
	Run     string    `json:"run"`
	Expires time.Time `json:"expires"`
}

// logStatus is how one log stands.
type logStatus struct {
	ID       tlog.ID        `json:"id"`
	Origin   string         `json:"origin"`
	Type     tlog.Type      `json:"type,omitempty"`
	URL      string         `json:"url"`
	Coverage string         `json:"coverage,omitempty"`
	Status   monitor.Status `json:"status,omitempty"` // in the last run
	Error    string         `json:"error,omitempty"`  // of the last run, or of reading its state
	Size     uint64         `json:"size"`             // proven
	Scanned  uint64         `json:"scanned"`
	Unread   uint64         `json:"unread"`     // entries still to be read; 0 unless coverage is full
	Entries  uint64         `json:"entries"`    // read in all its life
	Lag      int64          `json:"lagSeconds"` // how long ago the oldest of those unread came in
	// FallingBehind is what the last run said.
	FallingBehind bool       `json:"fallingBehind,omitempty"`
	Grew          *time.Time `json:"grew,omitempty"` // when its proven size last changed
}

// undelivered is an alert that waits for sinks.
type undelivered struct {
	Alert string    `json:"alert"`
	Class string    `json:"class"`
	Log   tlog.ID   `json:"log,omitempty"` // in whose outbox it is; else run.json's
	Since time.Time `json:"since"`
	Sinks []string  `json:"sinks"`
	Taken bool      `json:"taken"` // another sink took it
	// Refused is each sink's last refusal.
	Refused map[string]string `json:"refused,omitempty"`
}

// look finds out how an installation fares. The error is for one that cannot be
// found; what is wrong with it otherwise is in the status.
func (p *place) look(c *cobra.Command, every time.Duration) (*status, error) {
	ctx := c.Context()
	s := &status{
		At: time.Now().UTC(), Problems: []problem{}, Logs: []logStatus{}, Incidents: []monitor.IncidentResult{},
		Health: []monitor.ConditionResult{}, Undelivered: []undelivered{},
	}
	if err := p.locate(c, s); err != nil {
		return nil, err
	}
	st, err := openAt(ctx, s.State)
	if err != nil {
		return nil, err
	}
	doc, err := st.LoadRun(ctx)
	switch {
	case errors.Is(err, state.ErrNotExist):
		s.problem("no run has been made yet: "+s.State+" is empty", "make one: "+p.runCommand())
	case err != nil:
		s.problem("the state cannot be used: "+err.Error(), "see the message; without its state nothing more can be said")
	default:
		s.read(ctx, st, doc)
		s.judge(p, doc, schedule(every, s.Deployment))
	}
	s.Healthy = len(s.Problems) == 0
	switch {
	case len(s.Incidents) > 0:
		s.Exit = monitor.ExitTamper
	case !s.Healthy:
		s.Exit = monitor.ExitFailed
	}
	return s, nil
}

// locate finds the state of an installation, and what Google Cloud says of it.
func (p *place) locate(c *cobra.Command, s *status) error {
	s.Config, s.State = p.config, p.state
	if p.inCloud() {
		d, err := p.deployed(c.Context())
		if err != nil {
			return err
		}
		s.Deployment, s.Config = d, location(d.env["WHOSIGNED_CONFIG"])
		if s.State, err = p.stateOf(d); err != nil {
			return err
		}
		if err := s.scheduled(c.Context(), p); err != nil {
			return err
		}
		s.function(p)
	}
	if s.State == "" {
		cfg, err := p.load(c)
		if err != nil {
			return err
		}
		s.State = cfg.State
	}
	return nil
}

// stateOf is where a deployed function keeps its state.
func (p *place) stateOf(d *deployment) (string, error) {
	location := cmp.Or(p.state, d.env["WHOSIGNED_STATE"])
	if location == "" {
		return "", fmt.Errorf("function %s has no WHOSIGNED_STATE in its environment, which the Terraform module sets; say where its state is: --state gs://BUCKET", p.name)
	}
	return location, nil
}

// load reads the configuration, which must say where state is unless --state does.
func (p *place) load(c *cobra.Command) (*config.Config, error) {
	m, err := (&flags{config: p.config}).openSilent(c)
	if err != nil {
		return nil, err
	}
	if m.Config.State == "" && p.state == "" {
		return nil, usage(fmt.Errorf("%s: no state: is configured; say where it is: --state URL", p.config))
	}
	return m.Config, nil
}

// openAt opens state. A location that is none is bad usage; that credentials are
// missing is not.
func openAt(ctx context.Context, location string) (*state.State, error) {
	st, err := state.Open(ctx, location)
	if err == nil {
		return st, nil
	}
	if _, _, wrong := bucket.Split(location); wrong != nil {
		return nil, usage(err)
	}
	return nil, err
}

// inline is what the name of a configuration begins with that is YAML itself.
const inline = "inline, "

// location names a configuration.
func location(config string) string {
	if strings.ContainsRune(config, '\n') || strings.HasPrefix(config, "{") {
		return fmt.Sprintf("%s%d bytes in WHOSIGNED_CONFIG", inline, len(config))
	}
	return config
}

func (s *status) problem(what, next string) {
	s.Problems = append(s.Problems, problem{what, next})
}

func (s *status) ago(t time.Time) string { return age(s.At.Sub(t)) }

// function says what is wrong with the deployment.
func (s *status) function(p *place) {
	d := s.Deployment
	switch d.State {
	case "ACTIVE":
	case "DEPLOYING":
		s.Notes = append(s.Notes, "a new revision is being deployed")
	default:
		s.problem(strings.Join(append([]string{"the function is " + d.State}, d.Messages...), ": "),
			fmt.Sprintf("terraform apply again; see: gcloud functions describe %s --region %s --project %s", p.name, p.region, p.project))
	}
}

// scheduled says whether anything starts the runs. An error is for a wrong command
// line.
func (s *status) scheduled(ctx context.Context, p *place) error {
	client, err := p.scheduler(ctx)
	var j *job
	if err == nil {
		j, err = client.get(ctx)
	}
	if usage := (*exitError)(nil); errors.As(err, &usage) {
		return err
	}
	if err != nil {
		s.problem("whether runs are started is unknown: "+err.Error(), "see the message")
		return nil
	}
	s.Job, s.At = j, j.asked.UTC()
	switch {
	case j.State == jobPaused:
		s.problem("job "+p.jobName()+" is paused: nothing starts the runs", p.jobCommand("resume"))
	case j.State != "ENABLED":
		s.problem("job "+p.jobName()+" is "+j.State+": nothing starts the runs", "terraform apply; see: "+p.jobCommand("describe"))
	case j.failed():
		what := " did not get through to the function: "
		if j.Code == codeInternal || j.Code == codeUnknown {
			what = " was answered with a failure: " // the function's own word
		}
		s.problem("job "+p.jobName()+what+j.outcome(), p.remedy(j.Code))
	}
	return nil
}

func (p *place) jobCommand(verb string) string {
	return fmt.Sprintf("gcloud scheduler jobs %s %s --location %s --project %s", verb, p.jobName(), cmp.Or(p.jobRegion, p.region), p.project)
}

// read takes over what the state says.
func (s *status) read(ctx context.Context, st *state.State, doc *state.Run) {
	last, err := result(doc)
	if err != nil {
		s.Notes = append(s.Notes, err.Error())
	}
	s.FirstRun, s.LastGoodRun, s.FailingSince = moment(doc.FirstRun), moment(doc.LastGood), doc.FailingSince
	if last != nil {
		s.Version = last.Version
		s.LastRun = &lastRun{last.Run, last.Started, last.Finished, last.Exit, last.Errors}
	}
	if doc.Lease != nil {
		s.Running = &running{doc.Lease.Run, doc.Lease.Expires}
	}
	for _, key := range slices.Sorted(maps.Keys(doc.Conditions)) {
		c := doc.Conditions[key]
		s.Health = append(s.Health, monitor.ConditionResult{Key: key, Text: c.Text, Since: c.Since, Said: !c.Said.IsZero()})
	}
	s.pending("", doc.Outbox)
	s.logs(ctx, st, doc, last)
}

// result is the last run's, nil if none has ended yet.
func result(doc *state.Run) (*monitor.Result, error) {
	raw, ok := doc.Last.(json.RawMessage)
	if !ok || len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	last := new(monitor.Result)
	if err := json.Unmarshal(raw, last); err != nil {
		return nil, fmt.Errorf("the last run's result in run.json cannot be read, it may be another release's: %w", err)
	}
	return last, nil
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (s *status) pending(log tlog.ID, outbox []state.Pending) {
	for _, o := range outbox {
		s.Undelivered = append(s.Undelivered, undelivered{o.Alert, o.Class, log, o.Since, o.Sinks, o.Taken, o.Errors})
	}
}

// logs reads each log's state, and adds what only the last run knows: how it fared,
// and services that could not be asked for their logs.
func (s *status) logs(ctx context.Context, st *state.State, doc *state.Run, last *monitor.Result) {
	said := make(map[tlog.ID]monitor.LogResult)
	if last != nil {
		for _, l := range last.Logs {
			if _, known := doc.Logs[l.ID]; known {
				said[l.ID] = l
			} else {
				s.Logs = append(s.Logs, logStatus{ID: l.ID, Origin: l.Origin, Type: l.Type, URL: l.URL, Coverage: string(l.Coverage), Status: l.Status, Error: l.Error})
			}
		}
	}
	for id, url := range doc.Logs {
		l := said[id]
		row := logStatus{ID: id, Origin: l.Origin, Type: l.Type, URL: url, Status: l.Status, Error: l.Error, FallingBehind: l.FallingBehind}
		d, err := st.LoadLog(ctx, id)
		if errors.Is(err, state.ErrNotExist) {
			err = state.Lost(id)
		}
		if err != nil {
			row.Error = err.Error()
			s.problem("the state of log "+string(id)+" cannot be used: "+err.Error(), "see the message")
		} else {
			s.log(&row, d)
		}
		s.Logs = append(s.Logs, row)
	}
	slices.SortFunc(s.Logs, func(a, b logStatus) int { return cmp.Or(cmp.Compare(a.URL, b.URL), cmp.Compare(a.ID, b.ID)) })
}

func (s *status) log(row *logStatus, d *state.Log) {
	row.Origin, row.Type, row.Coverage, row.Size, row.Entries = d.Origin, d.Type, d.Coverage, d.Size, d.Entries
	row.Grew, row.Lag = moment(d.CheckpointGrew), int64(d.Lag(s.At)/time.Second)
	if d.Scanned != nil {
		row.Scanned = d.Scanned.Size
		if d.Coverage != string(config.Consistency) && d.Coverage != string(config.Index) {
			row.Unread = d.Size - min(d.Scanned.Size, d.Size)
		}
	}
	for _, i := range d.Incidents {
		if i.Closed == "" {
			s.Incidents = append(s.Incidents, monitor.IncidentResult{
				ID: i.ID, Log: d.ID, Kind: i.Kind, Proof: i.Proof, Text: i.Text, Opened: i.Opened, Ended: i.Ended,
				Evidence: cmp.Or(i.Evidence...), // the oldest
			})
		}
	}
	s.pending(d.ID, d.Outbox)
}
