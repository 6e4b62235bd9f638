package monitor

import (
	"time"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/watch"
)

// Status says how one log fared in a run.
type Status string

// The statuses. The worst that applies is given.
const (
	StatusOK       Status = "ok"
	StatusBaseline Status = "baseline" // first seen in this run
	StatusBehind   Status = "behind"   // there is more to read than this run could
	StatusStale    Status = "stale"    // serves an older checkpoint
	StatusError    Status = "error"    // could not be checked; Error says why
	StatusTamper   Status = "tamper"   // an incident is going on
	StatusFrozen   Status = "frozen"   // signed that it takes no more entries; not yet read to its end
	StatusRetired  Status = "retired"  // takes no more entries, and was read to its end
)

// What became of the TUF repository. Unless it is TrustOK, the last verified keys
// are used.
const (
	TrustOK          = "ok"
	TrustExpired     = "expired"     // its metadata is verified, and no longer valid
	TrustUnreachable = "unreachable" // it does not answer
	TrustRejected    = "rejected"    // what it serves does not verify, or is older than before
	TrustDamaged     = "damaged"     // what was saved of it does not verify, and nothing is asked
)

// Exit statuses of `whosigned run`; the first that applies.
const (
	ExitClean    = 0
	ExitFailed   = 1 // could not do its job
	ExitUsage    = 2 // usage or configuration
	ExitFindings = 3 // unexpected findings
	ExitTamper   = 4 // tampering that has not been accepted
)

// maxFindings is how many findings a result lists. All of them are in findings/.
const maxFindings = 5000

// Result is what a run did. Its JSON is a stable interface.
type Result struct {
	Run      string    `json:"run,omitempty"`
	Version  string    `json:"version,omitempty"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
	Exit     int       `json:"exit"`
	// Failed: the run could not do its job, or not all of it. FailingSince is the
	// first run of those in a row that could not, and Overdue says that it is longer
	// ago than the configuration's patience.
	Failed bool `json:"failed"`
	// Trust says how the TUF repository fared that gives out the trusted root; "" if
	// none is configured.
	Trust        string          `json:"trust,omitempty"`
	FailingSince *time.Time      `json:"failingSince,omitempty"`
	Overdue      bool            `json:"overdue,omitempty"`
	Logs         []LogResult     `json:"logs"`
	Findings     []watch.Finding `json:"findings"`
	// FindingsCut is how many findings are not listed, but only counted and kept.
	FindingsCut int               `json:"findingsCut,omitempty"`
	Incidents   []IncidentResult  `json:"incidents"`
	Health      []ConditionResult `json:"health"`
	Notices     []string          `json:"notices,omitempty"` // said once: baselines, gaps, decisions
	Alerts      AlertsResult      `json:"alerts"`
	Warnings    []string          `json:"warnings,omitempty"`
	Errors      []string          `json:"errors,omitempty"` // of the run as a whole
	Requests    uint64            `json:"requests"`
	Bytes       uint64            `json:"bytes"`
}

// LogResult is what a run did about one log.
type LogResult struct {
	ID       tlog.ID         `json:"id"`
	Origin   string          `json:"origin"`
	Type     tlog.Type       `json:"type"`
	URL      string          `json:"url"`
	TreeID   string          `json:"treeId,omitempty"`
	Coverage config.Coverage `json:"coverage"`
	Size     uint64          `json:"size"`    // proven
	Scanned  uint64          `json:"scanned"` // leaves read and proven
	Entries  uint64          `json:"entries"` // read in this run
	Findings int             `json:"findings"`
	Expected int             `json:"expected"` // of the findings
	Unparsed int             `json:"unparsed,omitempty"`
	Holes    int             `json:"holes,omitempty"`    // in all
	Unproven uint64          `json:"unproven,omitempty"` // entries read outside the proven history in this run
	// Lag is for how long, in seconds, the oldest entry that is still to be read has
	// been in the proven history; 0 if all is read.
	Lag int64 `json:"lagSeconds"`
	// FallingBehind: the lag is more than a day, and grew in each of the last six runs.
	FallingBehind bool     `json:"fallingBehind,omitempty"`
	Status        Status   `json:"status"`
	Error         string   `json:"error,omitempty"`
	Notes         []string `json:"notes,omitempty"`
}

// IncidentResult is an incident that no decision has closed.
type IncidentResult struct {
	ID       string     `json:"id"`
	Log      tlog.ID    `json:"log"`
	Kind     string     `json:"kind"`
	Proof    bool       `json:"proof"`
	Text     string     `json:"text"`
	Opened   time.Time  `json:"opened"`
	Ended    *time.Time `json:"ended,omitempty"`
	Evidence string     `json:"evidence"` // object in the state
}

// ConditionResult is a health condition that is open.
type ConditionResult struct {
	Key   string    `json:"key"`
	Text  string    `json:"text"`
	Since time.Time `json:"since"`
	Said  bool      `json:"alerted"` // false while it has not lasted long enough
}

// AlertsResult counts alerts on their way to people.
type AlertsResult struct {
	Delivered int `json:"delivered"` // taken by a sink in this run, counted per sink
	Pending   int `json:"pending"`   // alerts that a sink has not taken yet
	// Oldest is since when the oldest of them waits.
	Oldest *time.Time `json:"oldest,omitempty"`
	// Failed is each sink's last refusal in this run.
	Failed map[string]string `json:"failed,omitempty"`

	untaken int // pending alerts that no sink took, but for a file that tells nobody
}

// Add makes r the result of what other did, too.
func (r *Result) Add(other *Result) {
	r.Logs = append(r.Logs, other.Logs...)
	room := min(len(other.Findings), maxFindings-len(r.Findings))
	r.Findings = append(r.Findings, other.Findings[:room]...)
	r.FindingsCut += other.FindingsCut + len(other.Findings) - room
	r.Incidents = append(r.Incidents, other.Incidents...)
	r.Health = append(r.Health, other.Health...)
	r.Errors = append(r.Errors, other.Errors...)
	r.Requests += other.Requests
	r.Bytes += other.Bytes
	r.Finished = other.Finished
	r.settle()
}

// settle says how the run went as a whole.
func (r *Result) settle() { r.Exit, r.Failed = r.exit(), r.failed() }

// exit picks the exit status: the first that applies of tamper, failure, findings.
func (r *Result) exit() int {
	switch {
	case len(r.Incidents) > 0:
		return ExitTamper
	case r.failed():
		return ExitFailed
	}
	for _, l := range r.Logs {
		if l.Findings > l.Expected {
			return ExitFindings
		}
	}
	return ExitClean
}

func (r *Result) failed() bool {
	if len(r.Errors) > 0 || r.Alerts.untaken > 0 {
		return true
	}
	for _, l := range r.Logs {
		if l.Status == StatusError || l.Error != "" {
			return true
		}
	}
	return false
}
