package state

import (
	"slices"
	"time"

	"github.com/whosigned/whosigned/pkg/tlog"
)

// Format is the format this release writes; MinReader the oldest release's
// format that can still read what it writes. A document whose stored min_reader
// is above Format is refused; fields it does not know are kept.
const (
	Format    = 1
	MinReader = 1
)

// Header begins every mutable document.
type Header struct {
	Format    int `json:"format"`
	MinReader int `json:"min_reader"`
	// Writer is the run ID and commit number of the last write. After a failed
	// write it is read back to learn whether the write took effect.
	Writer string    `json:"writer"`
	Saved  time.Time `json:"saved"`

	// generation is the version that was loaded or saved last; "" if none was.
	generation Generation
}

// Run is run.json: what is known about the monitor as a whole.
type Run struct {
	Header
	FirstRun time.Time `json:"first_run"`
	// Services and Logs are what has been watched so far. A log listed here whose
	// own state is gone is lost state, an error until a decision.
	Services []string           `json:"services"`
	Logs     map[tlog.ID]string `json:"logs"` // ID to URL of its service
	Lease    *Lease             `json:"lease,omitempty"`
	// Last is the result of the last run, as --json prints it. Any value can be
	// saved; loaded it is a json.RawMessage.
	Last     any       `json:"last_result,omitempty"`
	LastRun  time.Time `json:"last_run"`
	LastGood time.Time `json:"last_good_run"`
	// FailingSince is the first run of those in a row that could not do their job.
	FailingSince *time.Time           `json:"failing_since,omitempty"`
	Conditions   map[string]Condition `json:"conditions,omitempty"`
	// Listed are the keys that the trusted root has listed so far, by log ID, and
	// ListedBy is which trusted root: a TUF repository's ID, or "trustedRoot".
	Listed   map[tlog.ID]Listed `json:"listed,omitempty"`
	ListedBy string             `json:"listed_by,omitempty"`
	// Repository is the ID of the TUF repository whose metadata trust/ has: if it is not
	// there any more, it was lost.
	Repository string `json:"repository,omitempty"`
	// Imported is, by URL of a Rekor service, the index after the checkpoint that another
	// monitor had, of Rekor v1 the global one: trees that begin there or later, and shards
	// that the trusted root has from later on, are read from their first entry.
	Imported map[string]uint64 `json:"imported,omitempty"`
	Outbox   []Pending         `json:"outbox,omitempty"`

	kept
}

// Listed is one key of the trusted root.
type Listed struct {
	URL    string    `json:"url"`
	Origin string    `json:"origin,omitempty"`
	Kind   string    `json:"kind"`           // "rekor" or "ct"
	Type   tlog.Type `json:"type,omitempty"` // what the log was found to speak
	Key    string    `json:"key"`            // PEM
	Since  time.Time `json:"since"`
	// Later: the trusted root came to list it after our first run, so that it is read
	// from its first entry.
	Later   bool       `json:"later,omitempty"`
	Retired bool       `json:"retired,omitempty"` // past its validFor.end
	Gone    *time.Time `json:"gone,omitempty"`    // since when the trusted root does not list it
	By      string     `json:"by,omitempty"`      // the trusted root: a TUF repository's ID, or "trustedRoot"

	kept
}

// Lease keeps a second run from starting work. Safety does not depend on it.
type Lease struct {
	Run     string    `json:"run"`
	Expires time.Time `json:"expires"`

	kept
}

// Condition is a health condition: opened, reminded daily, closed.
type Condition struct {
	Text  string    `json:"text"`
	Since time.Time `json:"since"`
	Last  time.Time `json:"last"`
	Count int       `json:"count"` // runs that saw it
	Said  time.Time `json:"said"`  // when it was last alerted; zero while it has not lasted long enough
	// CloseAfter keeps it open until then, seen or not.
	CloseAfter time.Time `json:"close_after,omitzero"`

	kept
}

// Pending is an alert in an outbox: until every one of its sinks has acknowledged
// it, it stays.
type Pending struct {
	Alert string    `json:"alert"` // its ID; the payload is alerts/<id>.json
	Class string    `json:"class"`
	Since time.Time `json:"since"`
	Sinks []string  `json:"sinks"`           // names of those that have not acknowledged yet
	Taken bool      `json:"taken,omitempty"` // a sink has acknowledged it
	// Errors is each sink's last refusal.
	Errors map[string]string `json:"errors,omitempty"`

	kept
}

// Log is state/<log>.json: what is proven about one log. The write of this
// document is the commit of a slice.
type Log struct {
	Header
	ID      tlog.ID   `json:"id"`
	Type    tlog.Type `json:"type"`
	Origin  string    `json:"origin"`
	Service string    `json:"service"` // URL
	// Coverage is that of the last run.
	Coverage string `json:"coverage,omitempty"`
	// Checkpoint is the newest checkpoint that the history is proven up to, as the
	// raw signed note.
	Checkpoint string `json:"checkpoint"`
	Size       uint64 `json:"size"` // of Checkpoint
	// CheckpointGrew is when the proven size last changed.
	CheckpointGrew time.Time `json:"checkpoint_grew"`
	// Watched is when its baseline was taken; zero if an older release did.
	Watched time.Time `json:"watched,omitzero"`
	// Scanned is the compact range of the leaves read, recomputed and proven
	// against Checkpoint; nil under consistency coverage.
	Scanned *tlog.Frontier `json:"scanned,omitempty"`
	// Seen are the sizes that the proven history grew to since the oldest entry that
	// is still to be read came in, and when; oldest first. It says how old that entry is.
	Seen []Mark `json:"seen,omitempty"`
	// Lags are how old, in seconds, that entry was in the last runs, newest last.
	Lags []int64 `json:"lags,omitempty"`
	// Start is the index that reading began at.
	Start uint64 `json:"start"`
	Gaps  []Gap  `json:"gaps,omitempty"`
	Holes []Hole `json:"holes,omitempty"`
	// Stuck is the leaf that scanning cannot pass now.
	Stuck *Stuck `json:"stuck,omitempty"`
	// Rollback is the first run's moment at which an older checkpoint could no
	// longer be proven a prefix.
	Rollback *time.Time `json:"rollback_since,omitempty"`
	// Unproven is how far leaves were scanned, marked unproven, while an incident
	// keeps Scanned where it is.
	Unproven *Unproven `json:"unproven,omitempty"`
	// Index is how far index coverage is; nil before it.
	Index *Index `json:"index,omitempty"`
	// Findings is the newest findings object; its header names the one before.
	Findings string `json:"findings,omitempty"`
	// Counts over the log's life.
	Entries  uint64 `json:"entries"`
	Found    uint64 `json:"found"`
	Unparsed uint64 `json:"unparsed"`
	// Rules says from which index which rules hold, newest last.
	Rules     []RulesFrom `json:"rules,omitempty"`
	Outbox    []Pending   `json:"outbox,omitempty"`
	Incidents []Incident  `json:"incidents,omitempty"`
	// Notices are to be said once: they go into the next health alert.
	Notices []Notice   `json:"notices,omitempty"`
	Retired *time.Time `json:"retired,omitempty"` // read to its end and said so
	// RetiredByDate: only the trusted root says that it takes no more entries, by
	// validFor.end or by not listing it. RetiredSaid: that was told, and it may yet grow.
	RetiredByDate bool `json:"retired_by_date,omitempty"`
	RetiredSaid   bool `json:"retired_said,omitempty"`
	// Dark is since when a retired log does not answer; DarkSaid that it was said.
	Dark     *time.Time `json:"dark,omitempty"`
	DarkSaid bool       `json:"dark_said,omitempty"`
	// Strays are the sizes of archived checkpoints that are not of the trusted history.
	Strays []uint64 `json:"strays,omitempty"`
	// ArchiveFloor is the largest size archived of a history that a decision gave
	// up: archived checkpoints up to it contradict nothing.
	ArchiveFloor uint64   `json:"archive_floor,omitempty"`
	Applied      []string `json:"applied_decisions,omitempty"`

	kept
}

// Mark says when the proven history had first grown to a size.
type Mark struct {
	Size uint64    `json:"size"`
	At   time.Time `json:"at"`
}

// maxSeen bounds Seen. Beyond it the two closest in time become one: the lag may be
// overstated by the time between two marks, never understated.
const maxSeen = 128

// Grown records that Size is the proven size at a time.
func (l *Log) Grown(now time.Time) {
	if n := len(l.Seen); l.Scanned != nil && l.Scanned.Size < l.Size && (n == 0 || l.Seen[n-1].Size < l.Size) {
		l.Seen = append(l.Seen, Mark{l.Size, now})
	}
	for len(l.Seen) > maxSeen {
		close := 0
		for i := range len(l.Seen) - 1 {
			if apart(l.Seen, i) < apart(l.Seen, close) {
				close = i
			}
		}
		l.Seen[close+1].At = l.Seen[close].At
		l.Seen = slices.Delete(l.Seen, close, close+1)
	}
}

func apart(seen []Mark, i int) time.Duration { return seen[i+1].At.Sub(seen[i].At) }

// Read forgets the marks below what is read now.
func (l *Log) Read() {
	for len(l.Seen) > 0 && l.Scanned != nil && l.Seen[0].Size <= l.Scanned.Size {
		l.Seen = l.Seen[1:]
	}
}

// Lag is for how long the oldest entry that is still to be read has been in the
// proven history; 0 if all is read.
func (l *Log) Lag(now time.Time) time.Duration {
	if len(l.Seen) == 0 || l.Scanned == nil || l.Scanned.Size >= l.Size {
		return 0
	}
	return max(0, now.Sub(l.Seen[0].At))
}

// Notice is a sentence that is to be said once.
type Notice struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// Gap is a range that was never read, and why.
type Gap struct {
	From     uint64    `json:"from"`
	To       uint64    `json:"to"`
	Reason   string    `json:"reason"`
	Decision string    `json:"decision,omitempty"`
	At       time.Time `json:"at"`

	kept
}

// Hole is a leaf that cannot be had; its hash is proven, its bytes are not here.
type Hole struct {
	Index  uint64    `json:"index"`
	Hash   tlog.Hash `json:"hash"`
	Since  time.Time `json:"since"`
	Reason string    `json:"reason"`
	// Incident is the ID of the suspicion that it is withheld.
	Incident string `json:"incident"`

	kept
}

// Stuck is a range of leaves that cannot be had yet.
type Stuck struct {
	Index uint64    `json:"index"`
	End   uint64    `json:"end"`
	Since time.Time `json:"since"`
	Error string    `json:"error"`

	kept
}

// Unproven is a scan outside the trusted history.
type Unproven struct {
	Note    string `json:"checkpoint"` // the signed note it reads under
	Scanned uint64 `json:"scanned"`
	// Missed are ranges below Scanned that could not be had, to be asked for again.
	Missed []Range `json:"missed,omitempty"`

	kept
}

// Range is the leaves [From, To).
type Range struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// maxMissed bounds what is remembered; beyond it the oldest range is lengthened to
// the next, so that nothing is dropped.
const maxMissed = 100

// Read is u after [from, to) was read under note, but for the missed ranges. u may
// be nil; if not, note is known to extend u's.
func (u *Unproven) Read(note string, from, to uint64, missed []Range) *Unproven {
	n := &Unproven{Note: note, Scanned: to}
	if u != nil {
		n.Scanned, n.kept = max(u.Scanned, to), u.kept
		for _, r := range u.Missed {
			if r.From >= from && r.To <= to {
				continue // asked for again just now
			}
			if r.From < to && r.To > from {
				r.From = to // read in part
			}
			n.Missed = append(n.Missed, r)
		}
	}
	n.Missed = append(n.Missed, missed...)
	for len(n.Missed) > maxMissed {
		n.Missed[1].From = min(n.Missed[0].From, n.Missed[1].From)
		n.Missed = n.Missed[1:]
	}
	return n
}

// RulesFrom says that rules with this hash hold from From on.
type RulesFrom struct {
	Hash string    `json:"hash"`
	From uint64    `json:"from"`
	At   time.Time `json:"at"`

	kept
}

// Incident is tampering as the state lists it; the evidence is in
// incidents/<log>/<id>.json.
type Incident struct {
	ID     string     `json:"id"`
	Kind   string     `json:"kind"`
	Proof  bool       `json:"proof"` // else suspicion
	Text   string     `json:"text"`
	Opened time.Time  `json:"opened"`
	Last   time.Time  `json:"last"`
	Ended  *time.Time `json:"ended,omitempty"`  // a suspicion that is no longer seen
	Closed string     `json:"closed,omitempty"` // by which decision
	// Evidence names what was put by PutIncident, oldest first.
	Evidence []string `json:"evidence,omitempty"`

	kept
}

// DecisionKind is what an operator decided.
type DecisionKind string

// The decisions that `whosigned accept` writes.
const (
	TakeBaseline  DecisionKind = "baseline"
	SkipTo        DecisionKind = "skip-to"
	AcceptKey     DecisionKind = "key"
	CloseIncident DecisionKind = "incident"
	TestAlert     DecisionKind = "test" // about no log: an alert through every sink
)

// Decision is decisions/<id>.json: what an operator told us, applied once.
type Decision struct {
	ID       string       `json:"id"`
	Log      tlog.ID      `json:"log"`
	Kind     DecisionKind `json:"kind"`
	SkipTo   uint64       `json:"skip_to,omitempty"`
	Key      string       `json:"key,omitempty"` // PEM
	Incident string       `json:"incident,omitempty"`
	Reason   string       `json:"reason"`
	By       string       `json:"by"`
	At       time.Time    `json:"at"`
}
