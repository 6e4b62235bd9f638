package monitor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/transparency-dev/tessera/api/layout"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/tlog/rekorv1"
	"github.com/whosigned/whosigned/pkg/tlog/rfc6962"
	"github.com/whosigned/whosigned/pkg/tlog/tiles"
)

// bundlePath is where the full bundle of a Rekor v2 leaf is, below the log's URL.
func bundlePath(index uint64) string {
	return layout.EntriesPath(index/layout.EntryBundleWidth, 0)
}

// watched is a log that this run watches, with the configuration it came from.
type watched struct {
	tlog.Log
	cfg config.Log
}

// notFound is a log that is known and cannot be opened now.
type notFound struct {
	id   tlog.ID // "" if it was never seen
	url  string
	tree string // Rekor v1: the tree's ID as served
	typ  tlog.Type
	cfg  config.Log
	err  error
	// missing: the service answered, and no longer lists the log.
	missing bool
}

// discover opens every configured log: for a Rekor v1 service all of its trees.
// known are the logs watched before, by ID, with their service's URL.
func (m *Monitor) discover(ctx context.Context, known map[tlog.ID]string, keys []state.Decision) ([]watched, []notFound) {
	var (
		mu     sync.Mutex
		found  []watched
		failed []notFound
		wg     sync.WaitGroup
	)
	for _, c := range m.Config.Logs {
		wg.Go(func() {
			f, n := m.open(ctx, c, known, keys)
			mu.Lock()
			defer mu.Unlock()
			found, failed = append(found, f...), append(failed, n...)
		})
	}
	wg.Wait()
	slices.SortFunc(found, func(a, b watched) int { return compareInfo(a.Info(), b.Info()) })
	return onceEach(found, failed, known)
}

// onceEach leaves of a log that is served at several URLs one, that of the last run:
// its document has room for one.
func onceEach(found []watched, failed []notFound, known map[tlog.ID]string) ([]watched, []notFound) {
	at := make(map[tlog.ID]string)
	for _, l := range found {
		info := l.Info()
		if _, ok := at[info.ID]; !ok || info.URL == known[info.ID] {
			at[info.ID] = info.URL
		}
	}
	// What one URL cannot give and another does is watched there. What it hides, or serves
	// wrongly, counts against it all the same.
	failed = slices.DeleteFunc(failed, func(f notFound) bool {
		_, watched := at[f.id]
		return watched && !f.missing && !errors.As(f.err, new(*tlog.Unverified))
	})
	var one []watched
	for _, l := range found {
		info := l.Info()
		if at[info.ID] == info.URL {
			one = append(one, l)
			continue
		}
		failed = append(failed, notFound{url: info.URL, tree: info.TreeID, typ: info.Type, cfg: l.cfg,
			err: fmt.Errorf("log %s is watched at %s already, and one log has one URL; leave one of them out", info.ID, at[info.ID])})
	}
	return one, failed
}

func (m *Monitor) open(ctx context.Context, c config.Log, known map[tlog.ID]string, keys []state.Decision) ([]watched, []notFound) {
	if c.Type == "" {
		var err error
		if c.Type, err = m.probe(ctx, c, keys); err != nil {
			id := c.ID
			if _, seen := known[id]; !seen {
				id = ""
			}
			return nil, []notFound{{id: id, url: c.URL, cfg: c, err: err}}
		}
	}
	if c.Type == tlog.RekorV1 {
		found, failed := m.openTrees(ctx, c, known, keys)
		if shard := c.AsShard(); c.Discovered && len(found) == 0 && len(failed) == 1 && failed[0].id == "" && m.answers(ctx, shard, keys) == nil {
			return m.open(ctx, shard, known, keys)
		}
		return found, failed
	}
	l, err := m.openOne(c, keys)
	if err != nil {
		return nil, []notFound{{id: c.ID, url: c.URL, typ: c.Type, cfg: c, err: fmt.Errorf("%s: %w", c.Where, err)}}
	}
	return []watched{{l, c}}, nil
}

// openOne opens a log of any type but Rekor v1; it makes no request.
func (m *Monitor) openOne(c config.Log, decisions []state.Decision) (tlog.Log, error) {
	keys := slices.Clone(c.Keys)
	for _, d := range decisions {
		if d.Log == c.ID {
			if k, err := tlog.ParseKeyPEM([]byte(d.Key)); err == nil {
				keys = append(keys, k)
			}
		}
	}
	if c.Type == tlog.RFC6962 {
		return rfc6962.New(m.Client, rfc6962.Config{URL: c.URL, ID: c.ID, Key: keys[0], Accepted: keys[1:], Retired: c.Retired})
	}
	return tiles.New(m.Client, tiles.Config{Type: c.Type, URL: c.URL, Origin: c.Origin, ID: c.ID, Key: keys[0], Accepted: keys[1:], Retired: c.Retired})
}

// probeTime bounds the question which protocol a log speaks, and which trees a service
// has: the other logs wait for the answer.
const probeTime = 30 * time.Second

// probe finds out which protocol a log speaks that the trusted root lists without
// saying so: the one in which it serves a checkpoint that its key signed.
func (m *Monitor) probe(ctx context.Context, c config.Log, decisions []state.Decision) (tlog.Type, error) {
	candidates := []tlog.Type{tlog.StaticCT, tlog.RFC6962}
	if c.Kind == config.Rekor {
		candidates = []tlog.Type{tlog.RekorV2, tlog.RekorV1}
	}
	failures := make([]error, len(candidates))
	var wg sync.WaitGroup
	for i, t := range candidates {
		wg.Go(func() {
			asked := c
			asked.Type = t
			failures[i] = m.answers(ctx, asked, decisions)
		})
	}
	wg.Wait()
	for i, t := range candidates {
		if failures[i] == nil {
			return t, nil
		}
		failures[i] = fmt.Errorf("as %s: %w", t, failures[i])
	}
	return "", fmt.Errorf("nothing says which protocol the log at %s speaks, and it was asked in vain: %w; %w", c.URL, failures[0], failures[1])
}

// answers says whether a log serves what its key signed, in the protocol c.Type.
func (m *Monitor) answers(ctx context.Context, c config.Log, decisions []state.Decision) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	if c.Type != tlog.RekorV1 {
		l, err := m.openOne(c, decisions)
		if err == nil {
			_, err = l.Checkpoint(ctx)
		}
		return err
	}
	trees, err := rekorv1.New(m.Client, rekorv1.Config{URL: c.URL, Keys: c.Keys}).Trees(ctx, nil)
	if err == nil && len(trees.Trees) == 0 {
		err = errors.New("none of its trees is signed by the key")
	}
	return err
}

// openTrees asks a Rekor v1 service for its trees. The list is unsigned, so a
// known tree that is not in it counts against the service at once.
func (m *Monitor) openTrees(ctx context.Context, c config.Log, known map[tlog.ID]string, decisions []state.Decision) ([]watched, []notFound) {
	var mine []tlog.ID
	for id, url := range known {
		// Other logs may be served beside it.
		if _, _, tree := strings.Cut(string(id), "-"); tree && url == c.URL {
			mine = append(mine, id)
		}
	}
	slices.Sort(mine)
	accepted := make(map[tlog.ID][]tlog.Key)
	for _, d := range decisions {
		if k, err := tlog.ParseKeyPEM([]byte(d.Key)); err == nil {
			accepted[d.Log] = append(accepted[d.Log], k)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	service := rekorv1.New(m.Client, rekorv1.Config{URL: c.URL, Keys: c.Keys, Accepted: accepted})
	trees, once, err := listTrees(ctx, service, mine, m.Again)
	if err != nil {
		return nil, unreachable(c, mine, err)
	}
	var found []watched
	for _, t := range trees.Trees {
		found = append(found, watched{t, c})
	}
	var failed []notFound
	for _, id := range trees.Missing {
		failed = append(failed, notFound{id: id, url: c.URL, typ: c.Type, cfg: c, missing: once == nil,
			err: errors.New("the service no longer lists this tree")})
	}
	for _, t := range trees.Failed {
		failed = append(failed, notFound{id: t.ID, url: c.URL, tree: t.TreeID, typ: c.Type, cfg: c, err: fmt.Errorf("tree %s: %w", t.TreeID, t.Err)})
	}
	if once != nil {
		for i := range failed {
			// Not wrapped: what was seen once only is no evidence.
			failed[i].err = fmt.Errorf("%v, and the service could not be asked again: %w", failed[i].err, once)
		}
	}
	return found, failed
}

// listTrees asks a service for its trees, and again if something counts against
// it: replicas skew while a tree rotates. once says why it could not be asked again.
func listTrees(ctx context.Context, service *rekorv1.Service, known []tlog.ID, again []time.Duration) (trees rekorv1.Discovery, once, err error) {
	if trees, err = service.Trees(ctx, known); err != nil {
		return trees, nil, err
	}
	looked := false
	for _, wait := range again {
		if len(trees.Failed) == 0 && len(trees.Missing) == 0 {
			return trees, nil, nil
		}
		if err := sleep(ctx, wait); err != nil {
			once = err
			break
		}
		next, err := service.Trees(tlog.Fresh(ctx), known)
		if err != nil {
			once = err
			continue
		}
		trees, looked = next, true
	}
	if looked {
		once = nil
	}
	return trees, once, nil
}

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

// unreachable is every known log of a service that does not answer, or the
// service itself.
func unreachable(c config.Log, known []tlog.ID, err error) []notFound {
	if len(known) == 0 {
		return []notFound{{url: c.URL, typ: c.Type, cfg: c, err: err}}
	}
	var all []notFound
	for _, id := range known {
		all = append(all, notFound{id: id, url: c.URL, typ: c.Type, cfg: c, err: err})
	}
	return all
}

func compareInfo(a, b tlog.Info) int {
	if a.URL != b.URL {
		return strings.Compare(a.URL, b.URL)
	}
	return strings.Compare(string(a.ID), string(b.ID))
}
