package monitor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/tlog/rekorv1"
	"github.com/whosigned/whosigned/pkg/watch"
)

// ScanConfigured is Scan of the range that the configuration asks for with startIndex
// and endIndex, in every log. In a Rekor v1 service these count over all of its trees,
// as they do for rekor-monitor.
func (m *Monitor) ScanConfigured(ctx context.Context) (*Result, error) {
	own, a, err := m.looking(ctx)
	if err != nil {
		return nil, err
	}
	var all *Result
	add := func(one *Result) {
		if all == nil {
			all = one
		} else {
			all.Add(one)
		}
	}
	found, failed := own.discover(ctx, a.known, a.keys)
	failed = append(failed, a.held...)
	for i, p := range own.parts(ctx, *m.Config.Scan, found, failed) {
		switch info := found[i].Info(); {
		case p.err != nil:
			failed = append(failed, notFound{id: info.ID, url: info.URL, typ: info.Type, cfg: found[i].cfg, err: p.err})
		case !p.none:
			add(own.scanOne(ctx, found[i], p.Look, a))
		}
	}
	for _, f := range failed {
		r := &run{Monitor: own, started: own.Now().UTC()}
		add(r.failedScan(f, a))
	}
	if all == nil {
		return nil, errors.New("there is no log to scan")
	}
	place := func(l LogResult) int {
		return slices.IndexFunc(own.Config.Logs, func(c config.Log) bool { return c.URL == l.URL })
	}
	slices.SortStableFunc(all.Logs, func(a, b LogResult) int { return cmp.Compare(place(a), place(b)) })
	return all, nil
}

// part is what of the configured range lies in one log, by the log's own indexes.
type part struct {
	Look
	none bool // nothing of it does
	err  error
}

// trees are those of one Rekor v1 service, as startIndex and endIndex count in them.
type trees struct {
	at   []int    // their places among the logs found
	base []uint64 // what the first entry of each counts as
	end  uint64   // of the tree that ends last, which is at[last]
	last int
	// partial: one of them cannot be had, so where the service ends is not known.
	partial bool
}

// parts says for each log found which of its entries the configured range means. The
// range is held against the end of a Rekor v1 service once: the tree that ends last has
// the error, and nothing is read of the others.
func (m *Monitor) parts(ctx context.Context, scan config.Scan, found []watched, failed []notFound) []part {
	parts, ends := make([]part, len(found)), make([]uint64, len(found))
	services := make(map[string]*trees)
	for _, f := range failed {
		services[f.url] = &trees{partial: true}
	}
	for i, l := range found {
		tree, ok := l.Log.(*rekorv1.Tree)
		if !ok {
			parts[i].Look = Look{From: scan.Start, To: scan.End}
			continue
		}
		s := services[l.Info().URL]
		if s == nil {
			s = &trees{}
			services[l.Info().URL] = s
		}
		base, end, err := span(ctx, tree)
		if err != nil {
			parts[i].err, s.partial = err, true
			continue
		}
		if ends[i] = end; len(s.at) == 0 || end >= s.end && base >= s.base[s.last] {
			s.end, s.last = end, len(s.at)
		}
		s.at, s.base = append(s.at, i), append(s.base, base)
	}
	for _, s := range services {
		s.divide(scan, parts, ends)
	}
	return parts
}

// span is the range of indexes, counted over all trees, that a tree has.
func span(ctx context.Context, tree *rekorv1.Tree) (from, to uint64, err error) {
	cp, err := tree.Checkpoint(ctx)
	if err != nil {
		return 0, 0, err
	}
	if from, err = tree.Offset(); err != nil {
		return 0, 0, err
	}
	return from, from + cp.Size, nil
}

// divide gives each tree its part of the range.
func (s *trees) divide(scan config.Scan, parts []part, ends []uint64) {
	look := Look{From: scan.Start, To: scan.End}
	to, err := look.within(s.end)
	if err != nil && len(s.at) > 1 {
		err = look.beyond(fmt.Sprintf("the %d entries of the service's %d trees, over which startIndex and endIndex count", s.end, len(s.at)))
	}
	for n, i := range s.at {
		lo, hi := max(scan.Start, s.base[n]), min(cmp.Or(to, s.end), ends[i])
		switch {
		case err != nil && !s.partial:
			parts[i].none = true
			if n == s.last {
				parts[i] = part{err: err}
			}
		case lo < hi:
			parts[i].Look = Look{From: lo - s.base[n], To: hi - s.base[n]}
		case n == s.last && scan.Start == s.end && !s.partial:
			// The range is empty, and the service is looked at all the same.
			parts[i].Look = Look{From: ends[i] - s.base[n]}
		default:
			parts[i].none = true
		}
	}
}

// scanAt is how `whosigned check` shows a log's part of the configured range.
func (m *Monitor) scanAt(ctx context.Context, l watched, of part) LogPlan {
	p, cp := planned(ctx, l)
	if of.err != nil {
		p.Error = of.err.Error()
	}
	if p.Error != "" || of.none {
		return p
	}
	to, err := of.within(cp.Size)
	if err != nil {
		p.Error = err.Error()
		return p
	}
	p.From, p.To = of.From, to
	plan := m.plan(l.Info(), p.From, p.To)
	p.Plan = &plan
	return p
}

func (r *run) failedScan(f notFound, a *anchor) *Result {
	r.result = Result{Version: r.Version, Started: r.started, Finished: r.Now().UTC(), Findings: []watch.Finding{}, Incidents: []IncidentResult{}, Health: []ConditionResult{}, Trust: a.status,
		Logs: []LogResult{{ID: f.id, Type: f.typ, URL: f.url, Coverage: config.Full, Status: StatusError, Error: f.err.Error()}}}
	r.result.settle()
	return &r.result
}
