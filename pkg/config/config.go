// Package config turns YAML, in a file or in a bucket, into a validated Config.
// Errors point at file, line and key, and say what to do; every rule is compiled
// here, once.
//
// It keeps its share of P9 (no silent gap): in a native file an unknown key is an
// error; a rekor-monitor file is accepted as it is, and what has no effect in it
// is a warning.
package config

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/whosigned/whosigned/pkg/bucket"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/trust"
	"github.com/whosigned/whosigned/pkg/watch"
)

// Coverage says how much of a log is read.
type Coverage string

// The coverages.
const (
	Full        Coverage = "full"        // every leaf
	Consistency Coverage = "consistency" // proofs only
	Index       Coverage = "index"       // proofs, and what Rekor v1's search index gives for the rules' exact values
)

// Config is a validated configuration. Paths in it are absolute.
type Config struct {
	Path string // of the file it came from, or gs://bucket/object
	// Generation names the version of what was read, the files that it names
	// included: what changes any of them changes it. "" for Parse.
	Generation string
	// State is "file:///…" or "gs://bucket/prefix", or "" if that is left to the
	// environment or, for a scan, not needed.
	State string
	// Trust is the TUF repository that gives out the trusted root; nil if a file does,
	// or nothing. With it, Logs and Chains are complete only after [Config.Resolve].
	Trust *trust.Repository
	// Discover: every log of the trusted root is watched, those it comes to list too.
	Discover bool
	Logs     []Log
	Rules    *watch.Rules
	Chains   *trust.Chains // CA certificates to check findings against; never nil, may be empty
	Alerts   Alerts
	Peer     Peer          // what a rekor-monitor configuration asks for besides
	Scan     *Scan         // rekor-monitor's startIndex and endIndex: the run is a scan of this range
	Patience time.Duration // how long trouble lasts before it is a health alert; default 3h
	// QuietAfter is the configuration's own quiet_after; Log.QuietAfter is what holds.
	QuietAfter time.Duration
	Warnings   []string // "file:line: key: …": accepted, but to be said aloud

	// Found are all logs of the trusted root, the excluded ones too, if Discover is set.
	Found []Log

	// Unusable are the logs and authorities of the trusted root that cannot be used, in
	// words: they are not watched.
	Unusable []string

	listed []listed    // the items of logs, as written
	root   *trust.Root // of a file
	ownCAs bool        // Chains are the configuration's own
}

// Scan is a range of leaves [Start, End) to look at once. End 0 means to the log's
// end. Rekor-monitor's endIndex is the last leaf it reads, so End is one more; its
// startIndex it leaves out of most scans, which here is read too.
type Scan struct {
	Start uint64 `json:"from"`
	End   uint64 `json:"to"`
}

func (s Scan) String() string {
	if s.End == 0 {
		return fmt.Sprintf("[%d, the log's end)", s.Start)
	}
	return fmt.Sprintf("[%d, %d)", s.Start, s.End)
}

// Log is one log to watch, or a Rekor v1 service with all its trees.
type Log struct {
	// Type is "" if nothing says which protocol a log of the trusted root speaks: it is
	// asked, in the ways that fit its Kind.
	Type tlog.Type
	Kind Kind
	URL  string // without a trailing slash
	// ID is the log's, as the trusted root gives it; "" for a Rekor v1 service, each of
	// whose trees is a log.
	ID       tlog.ID
	Keys     []tlog.Key
	Origin   string // Rekor v2: the origin line its checkpoints must have
	Start    Start
	Coverage Coverage
	// AcceptLag lets a run take on more than schedule and budget can read.
	AcceptLag bool
	// Insecure allows http:// to a host that is not loopback.
	Insecure bool
	// QuietAfter is how long the log may not grow before that is a health condition;
	// 0 is never. It is the log's own, else the configuration's, else 24h for the
	// public logs and never for others.
	QuietAfter time.Duration
	QuietGiven bool      // the configuration says so of this log
	Since      time.Time // its trusted root's validFor.start; zero if that is not known
	Retired    bool      // past its trusted root's validFor.end
	Discovered bool      // it is watched because the trusted root lists it
	FromRoot   bool      // its keys are the trusted root's
	Gone       bool      // the trusted root no longer lists it
	Where      string    // "file:line", for messages

	at Problem // where it stands
}

// Kind says what a log is for, where its protocol is not known.
type Kind string

// The kinds of log.
const (
	Rekor Kind = "rekor" // signatures
	CT    Kind = "ct"    // certificates
)

// Start is where reading a service begins when it is first seen.
type Start struct {
	Head  bool // at the newest checkpoint; the default
	Index uint64
	Given bool // the configuration says so itself
}

// Alerts is where alerts go. Each sink has a name that stays the same while its
// meaning does: outboxes refer to it.
type Alerts struct {
	Emails  []Email
	GitHubs []GitHub
	Folders []Folder
	// Identities is rekor-monitor's outputIdentities.
	Identities []Identities
}

// Email is a sink that mails. Secrets are never in it: SENDGRID_API_KEY,
// MAILGUN_API_KEY, or SMTP_USERNAME and SMTP_PASSWORD, from the environment or from
// the file that the same name with _FILE points at.
type Email struct {
	Name    string   // default "email"
	Via     string   // "sendgrid", "mailgun" or "smtp"
	From    string   // RFC 5322 address
	To      []string // RFC 5322 addresses
	Host    string   // SMTP: host:port
	TLS     string   // SMTP: "starttls" (default), "implicit", or "none" (loopback only)
	Domain  string   // Mailgun: the sending domain
	BaseURL string   // Mailgun: of the API, such as https://api.eu.mailgun.net/v3; default the US one
	Classes []string // of alerts it takes; empty: all
	Where   string
	Secrets Secrets // of a rekor-monitor file; the environment's go before them
}

// Folder is a sink that writes one .eml file an alert.
type Folder struct {
	Name    string // default "folder"
	Path    string
	Classes []string
	Where   string
}

// Load reads and validates the configuration at a path or at gs://bucket/object.
// Its error is an *[Error], also if there is nothing to read.
func Load(ctx context.Context, location string) (*Config, error) {
	f := &files{buckets: map[string]*bucket.Bucket{}}
	defer f.close()
	data, err := f.read(ctx, location)
	if err != nil {
		return nil, &Error{Problems: []Problem{{File: location, Text: "cannot be read: " + err.Error()}}}
	}
	cfg, err := parse(location, data, func(location string) ([]byte, error) { return f.read(ctx, location) })
	if cfg != nil {
		cfg.Generation = f.generation()
	}
	var invalid *Error
	if errors.As(err, &invalid) {
		invalid.Generation = f.generation()
	}
	return cfg, err
}

// Parse validates a configuration. Path names it in messages, and relative paths
// in it are relative to its folder; files that it names are read, but not from
// buckets. Its error is an *[Error] that lists everything that is wrong.
func Parse(path string, data []byte) (*Config, error) {
	return parse(path, data, func(location string) ([]byte, error) {
		if inBucket(location) {
			return nil, fmt.Errorf("%s: an inline configuration names no objects of buckets; write what it holds inline, or put both into the bucket", location)
		}
		return trust.ReadFile(location)
	})
}

func parse(location string, data []byte, read trust.Read) (*Config, error) {
	d, path, err := newDocument(location)
	if err != nil {
		return nil, &Error{Problems: []Problem{{File: location, Text: err.Error()}}}
	}
	d.read = read
	var cfg *Config
	if root, ok := d.parse(data); ok {
		cfg = d.config(root)
		cfg.Path, cfg.Warnings = path, append(d.warnings, cfg.Warnings...)
	}
	if len(d.problems) > 0 {
		slices.SortStableFunc(d.problems, func(a, b Problem) int { return a.Line - b.Line })
		if d.more {
			d.problems = append(d.problems, Problem{File: d.file, Text: fmt.Sprintf("there is more; these %d are to be mended first", maxProblems)})
		}
		invalid := &Error{Problems: d.problems}
		if alerts, err := ParseAlerts(location, data); err == nil {
			invalid.Alerts = alerts
		}
		return nil, invalid
	}
	return cfg, nil
}

// ParseAlerts reads the alerts of a configuration, whatever else is wrong with
// it: whom to tell that it is wrong. There may be none. Its error is an *[Error].
func ParseAlerts(location string, data []byte) (Alerts, error) {
	d, _, err := newDocument(location)
	if err != nil {
		return Alerts{}, &Error{Problems: []Problem{{File: location, Text: err.Error()}}}
	}
	var alerts Alerts
	if root, ok := d.parse(data); ok {
		top := map[string]node{}
		for _, e := range root.entries() {
			if _, own := top[e.name]; !own { // merged ones count less
				top[e.name] = e.node
			}
		}
		d.native = true // only native files have alerts
		if n, ok := top["alerts"]; ok {
			alerts = d.alerts(n)
		}
		delete(top, "outputIdentities") // it takes findings, and there are none to take
		alerts.join(d, d.peerSinks(top))
	}
	if len(d.problems) > 0 {
		return Alerts{}, &Error{Problems: d.problems}
	}
	return alerts, nil
}

// nativeKeys are whosigned's own. A file with one of nativeMarks is native: its unknown
// keys are errors. What it watches by default does not hang on that: see peerDefaults.
var (
	nativeMarks = []string{"state", "logs", "watch", "alerts"}
	nativeKeys  = append(slices.Clone(nativeMarks), "trust", "trustedRoot", "patience", "quiet_after")
)

func (d *document) config(root node) *Config {
	for _, e := range root.entries() {
		d.native = d.native || slices.Contains(nativeMarks, e.name)
	}
	top := root.fields(slices.Concat(nativeKeys, peerKeys, peerIdle)...)
	d.idle(top)
	peer := d.peerDefaults(top)

	cfg := &Config{
		Peer:       peer,
		Patience:   top["patience"].duration(3 * time.Hour),
		QuietAfter: top["quiet_after"].duration(0),
		Scan:       d.scan(top["startIndex"], top["endIndex"]),
	}
	cfg.State = d.state(top["state"], cfg.Scan != nil)
	cfg.Trust, cfg.root = d.trust(top["trust"], top["trustedRoot"])
	cfg.ownCAs = !top["caRootsFile"].none()
	cfg.Chains = d.chains(cfg.root, top["caRootsFile"], top["caIntermediatesFile"])
	d.logs(cfg, top["logs"], top["quiet_after"])
	cfg.Rules = d.rules(top["watch"], top["monitoredValues"], cfg.Trust != nil || cfg.Chains.Len() > 0)
	cfg.Alerts = d.alerts(top["alerts"])
	cfg.Alerts.join(d, d.peerSinks(top))
	d.untold(top["alerts"], cfg.Alerts)
	d.resolve(cfg, top["logs"])
	return cfg
}
