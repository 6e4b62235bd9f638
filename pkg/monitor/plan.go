package monitor

import (
	"fmt"
	"net/url"
	"time"

	"github.com/whosigned/whosigned/pkg/tlog"
)

// Plan is what reading a log needs against what schedule and budget give.
type Plan struct {
	Backlog   uint64 `json:"backlog"`           // entries to read first
	PerHour   uint64 `json:"perHour,omitempty"` // entries that the log grows by, where it is known
	Requests  uint64 `json:"requests"`          // for the backlog
	Available uint64 `json:"requestsPerRun"`    // that one run can make
	Runs      uint64 `json:"runs"`              // until the backlog is read; 0 if never
	Entries   uint64 `json:"entriesPerRequest"`
	Every     string `json:"every"`
	Budget    string `json:"budget"`
}

// Figures of the public instances, and what is assumed of others.
const (
	rekorV1Entries    = 10
	tilesEntries      = 256
	ctEntries         = 1000
	publicV1PerMinute = 500  // reported limit per IP address, 2023
	otherV1PerMinute  = 3600 // 60 a second, what rekor-server gives on a small machine
	tilesPerMinute    = 3000 // static files behind a CDN
	ctPerMinute       = 600
	publicV1PerHour   = 110 * 3600
	publicV2PerHour   = 15 * 3600
)

// catchUp is within how long a backlog must be readable.
const catchUp = 24 * time.Hour

// plan computes what reading [from, size) of this log takes.
func (w *logRun) plan(from, size uint64) Plan { return w.Monitor.plan(w.info, from, size) }

func (m *Monitor) plan(info tlog.Info, from, size uint64) Plan {
	p := Plan{Backlog: size - min(from, size), Every: m.Every.String(), Budget: m.Budget.String()}
	host := ""
	if u, err := url.Parse(info.URL); err == nil {
		host = u.Hostname()
	}
	perMinute := uint64(tilesPerMinute)
	p.Entries = tilesEntries
	if info.Type == tlog.RekorV1 {
		p.Entries, perMinute = rekorV1Entries, otherV1PerMinute
	}
	if info.Type == tlog.RFC6962 {
		p.Entries, perMinute = ctEntries, ctPerMinute
	}
	switch {
	case host == "rekor.sigstore.dev" && info.Active:
		perMinute, p.PerHour = publicV1PerMinute, publicV1PerHour
	case host == "rekor.sigstore.dev":
		perMinute = publicV1PerMinute
	case info.Type == tlog.RekorV2 && info.Active && isPublicV2(host):
		p.PerHour = publicV2PerHour
	}
	p.Requests = (p.Backlog + p.Entries - 1) / p.Entries
	p.Available = uint64(min(m.Budget, m.Every).Minutes() * float64(perMinute))
	grows := uint64(float64(p.PerHour) * m.Every.Hours() / float64(p.Entries))
	if p.Available > grows {
		p.Runs = (p.Requests + p.Available - grows - 1) / (p.Available - grows)
	}
	return p
}

func isPublicV2(host string) bool {
	const suffix = ".rekor.sigstore.dev"
	return len(host) > len(suffix) && host[len(host)-len(suffix):] == suffix
}

// Fits says whether the log can be kept up with.
func (p Plan) Fits() bool {
	every, err := time.ParseDuration(p.Every)
	if err != nil || p.Runs == 0 && (p.Backlog > 0 || p.PerHour > 0) {
		return false
	}
	return time.Duration(p.Runs)*every <= catchUp || p.Runs <= 1
}

func (p Plan) String() string {
	s := fmt.Sprintf("%d entries to read need %d requests of %d entries; a run of %s every %s can make about %d", p.Backlog, p.Requests, p.Entries, p.Budget, p.Every, p.Available)
	if p.PerHour > 0 {
		s += fmt.Sprintf("; the log grows by about %d entries an hour", p.PerHour)
	}
	switch {
	case p.Runs == 0 && !p.Fits():
		s += ": it would never catch up"
	case p.Runs > 1:
		s += fmt.Sprintf(": %d runs until it has caught up", p.Runs)
	}
	return s
}

// refuse is the error for more than can be read.
func (p Plan) refuse() error {
	if p.Fits() {
		return nil
	}
	return fmt.Errorf("refused: %s. Set coverage: consistency, a later start, a larger --budget, or accept_lag: true to read on behind", p)
}
