// Package config turns YAML into a validated Config. Errors point at file, line
// and key, and say what to do; every rule is compiled here, once.
//
// It keeps its share of P9 (no silent gap): in a native file an unknown key is an
// error; a rekor-monitor file is accepted as it is, and what has no effect in it
// is a warning.
package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/trust"
	"github.com/whosigned/whosigned/pkg/watch"
)

// Coverage says how much of a log is read.
type Coverage string

// The coverages. Index is for a later release.
const (
	Full        Coverage = "full"        // every leaf
	Consistency Coverage = "consistency" // proofs only
)

// Config is a validated configuration. Paths in it are absolute.
type Config struct {
	Path     string // of the file it came from
	State    string // "file:///…"
	Logs     []Log
	Rules    *watch.Rules
	Chains   *trust.Chains // CA certificates to check findings against; never nil, may be empty
	Alerts   Alerts
	Scan     *Scan         // rekor-monitor's startIndex and endIndex: the run is a scan of this range
	Patience time.Duration // how long trouble lasts before it is a health alert; default 3h
	// QuietAfter is the configuration's own quiet_after; Log.QuietAfter is what holds.
	QuietAfter time.Duration
	Warnings   []string // "file:line: key: …": accepted, but to be said aloud
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

// Log is one item of `logs`: a Rekor v1 service with all its trees, or one
// Rekor v2 shard.
type Log struct {
	Type     tlog.Type
	URL      string // without a trailing slash
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
	Retired    bool   // past its trusted root's validFor.end
	Where      string // "file:line", for messages
}

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
	Folders []Folder
}

// Email is a sink that mails. Secrets are never in it: SENDGRID_API_KEY, or
// SMTP_USERNAME and SMTP_PASSWORD, from the environment or from the file that
// the same name with _FILE points at.
type Email struct {
	Name    string   // default "email"
	Via     string   // "sendgrid" or "smtp"
	From    string   // RFC 5322 address
	To      []string // RFC 5322 addresses
	Host    string   // SMTP: host:port
	TLS     string   // SMTP: "starttls" (default), "implicit", or "none" (loopback only)
	Classes []string // of alerts it takes; empty: all
	Where   string
}

// Folder is a sink that writes one .eml file an alert.
type Folder struct {
	Name    string // default "folder"
	Path    string
	Classes []string
	Where   string
}

// Load reads and validates a configuration file. Its error is an *[Error] unless
// the file cannot be read.
func Load(path string) (*Config, error) {
	data, err := trust.ReadFile(path)
	if err != nil {
		return nil, &Error{[]Problem{{File: path, Text: "cannot be read: " + err.Error()}}}
	}
	return Parse(path, data)
}

// Parse validates a configuration. Path names it in messages, and relative paths
// in it are relative to its folder; files that it names are read. Its error is an
// *[Error] that lists everything that is wrong.
func Parse(path string, data []byte) (*Config, error) {
	d := &document{file: path, anchors: map[string]ast.Node{}}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, &Error{[]Problem{{File: path, Text: err.Error()}}}
	}
	d.dir = filepath.Dir(abs)
	root, ok := d.parse(data)
	if !ok {
		return nil, &Error{d.problems}
	}
	cfg := d.config(root)
	cfg.Path, cfg.Warnings = abs, d.warnings
	if len(d.problems) > 0 {
		slices.SortStableFunc(d.problems, func(a, b Problem) int { return a.Line - b.Line })
		return nil, &Error{d.problems}
	}
	return cfg, nil
}

// nativeKeys are whosigned's own; a file with one of nativeMarks is native.
var (
	nativeMarks = []string{"state", "logs", "watch", "alerts"}
	nativeKeys  = append(slices.Clone(nativeMarks), "trustedRoot", "patience", "quiet_after")
)

func (d *document) config(root node) *Config {
	for _, e := range root.entries() {
		d.native = d.native || slices.Contains(nativeMarks, e.name)
	}
	top := root.fields(slices.Concat(nativeKeys, peerKeys, peerIdle)...)
	d.idle(top)

	cfg := &Config{
		Patience:   top["patience"].duration(3 * time.Hour),
		QuietAfter: top["quiet_after"].duration(0),
		Scan:       d.scan(top["startIndex"], top["endIndex"]),
	}
	cfg.State = d.state(top["state"], cfg.Scan != nil)
	anchor := d.trustedRoot(top["trustedRoot"])
	cfg.Chains = d.chains(anchor, top["caRootsFile"], top["caIntermediatesFile"])
	cfg.Logs = d.logs(top["logs"], anchor, top["quiet_after"])
	cfg.Rules = d.rules(top["watch"], top["monitoredValues"], cfg.Chains)
	cfg.Alerts = d.alerts(top["alerts"])
	return cfg
}
