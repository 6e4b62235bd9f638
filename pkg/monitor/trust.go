package monitor

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/trust"
)

// anchor is what a run goes by: the configuration under the trusted root of now.
type anchor struct {
	cfg      *config.Config
	status   string             // of the TUF repository, see Result.Trust; "" without one
	err      error              // why it is not "ok"
	blind    bool               // there is no trusted root at all: which logs there are is not known
	unread   bool               // because what the state has of it could not be read
	problems []config.Problem   // what the configuration asks for and the trusted root does not have
	held     []notFound         // logs that a look cannot open, because their key is another than before
	keys     []state.Decision   // keys that operators accepted, for a look
	known    map[tlog.ID]string // logs watched before, with their service's URL, for a look
	saved    *state.Trust
	metadata *trust.Metadata
}

// anchored is anchoredAfter what the state says of earlier runs.
func (m *Monitor) anchored(ctx context.Context) *anchor {
	before := &state.Run{}
	if m.State != nil {
		// Why it cannot be read is for those to say who cannot do without it.
		if doc, err := m.State.LoadRun(ctx); err == nil {
			before = doc
		}
	}
	a := m.anchoredAfter(ctx, before.Listed, before.Logs)
	a.known = before.Logs
	return a
}

// anchoredAfter asks the TUF repository, if the configuration names one, for the
// trusted root. What does not verify is never adopted: whatever goes wrong, the last
// verified keys are gone on with. Listed are the keys that earlier runs saw in it, and
// known the logs that they watched.
func (m *Monitor) anchoredAfter(ctx context.Context, listed map[tlog.ID]state.Listed, known map[tlog.ID]string) *anchor {
	// A copy: the run finds out which logs there are, and their protocols.
	cfg := *m.Config
	cfg.Logs = slices.Clone(cfg.Logs)
	a := &anchor{cfg: &cfg}
	repo := m.Config.Trust
	if repo == nil {
		return a
	}
	a.saved = &state.Trust{}
	var before *trust.Metadata
	if m.State != nil {
		saved, err := m.State.LoadTrust(ctx, repo.ID())
		switch {
		case err == nil:
			a.saved, before = saved, &saved.Metadata
		case !errors.Is(err, state.ErrNotExist):
			// Not begun anew: a fresh client could be rolled back.
			a.err, a.blind, a.unread, a.status = err, true, true, TrustUnreachable
			if corrupt := (*state.CorruptError)(nil); errors.As(err, &corrupt) {
				a.unread, a.status = false, TrustDamaged
			}
			a.cfg = m.Config.WithoutRoot()
			return a
		}
	}
	metadata, root, err := repo.Refresh(ctx, m.Client.HTTP(), before, m.Now())
	a.metadata, a.err, a.status = metadata, err, trustStatus(err)
	if root == nil {
		a.blind = true
		a.cfg = m.Config.WithoutRoot()
		return a
	}
	a.cfg, a.problems = m.Config.Resolve(root, earlier(listed, known, listedBy(m.Config)))
	return a
}

// trustStatus is Result.Trust for what became of a refresh.
func trustStatus(err error) string {
	var expired *trust.ExpiredError
	var rejected *trust.RejectedError
	var damaged *trust.DamagedError
	switch {
	case err == nil:
		return TrustOK
	case errors.As(err, &damaged):
		return TrustDamaged
	case errors.As(err, &rejected):
		return TrustRejected
	case errors.As(err, &expired):
		return TrustExpired
	}
	return TrustUnreachable
}

// anchor makes this run go by the trusted root of now, keeps the TUF client's
// metadata, and says what changed. It returns the logs that cannot be watched
// because their key is another than before.
func (r *run) anchor(ctx context.Context) (held []notFound) {
	a := r.anchoredAfter(ctx, r.doc.listed(), r.doc.known())
	own := *r.Monitor
	own.Config = a.cfg
	r.Monitor = &own
	r.blind, r.result.Trust = a.blind, a.status
	r.sayTrust(a)
	for _, w := range a.cfg.Warnings {
		if !slices.Contains(r.result.Warnings, w) {
			r.result.Warnings = append(r.result.Warnings, w)
		}
	}
	for _, p := range a.problems {
		r.failf("%s", p)
		r.health.atOnce(fmt.Sprintf("trust:%s:%d", p.Key, p.Line), p.String(), "correct the configuration, or wait until the trusted root lists the log")
	}
	for _, text := range a.cfg.Unusable {
		sum := sha256.Sum256([]byte(text))
		lost := "what is logged there is not seen"
		if strings.HasPrefix(text, "certificateAuthorities") {
			lost = "certificates that lead to it count as untrusted"
		}
		r.health.atOnce(fmt.Sprintf("trust:unusable:%x", sum[:6]), "of the trusted root, "+text+"; "+lost,
			"a newer release of whosigned may know it; if it is a private trusted root, correct it")
	}
	for _, text := range excluded(a.cfg) {
		r.warnf("%s", text)
	}
	if r.relisted {
		for _, l := range r.Config.Logs {
			r.services[l.URL] = true
		}
	}
	if a.blind {
		return nil
	}
	r.list()
	held = r.resume()
	if len(r.Config.Logs)+len(held) == 0 {
		r.failf("the trusted root lists no log that can be watched")
	}
	return held
}

// earlier is what run.json remembers of earlier trusted roots from the same place, as a
// trusted root: another repository's keys are not to be gone on with. Of several keys that a place had, those that were watched count.
func earlier(listed map[tlog.ID]state.Listed, known map[tlog.ID]string, by string) *trust.Root {
	type place struct{ url, kind string }
	was := make(map[place]bool)
	for id, li := range listed {
		was[place{li.URL, li.Kind}] = was[place{li.URL, li.Kind}] || wasWatched(known, id)
	}
	root := &trust.Root{}
	for _, id := range slices.Sorted(maps.Keys(listed)) {
		li := listed[id]
		key, err := keyOf(id, li)
		if err != nil || li.By != "" && li.By != by || was[place{li.URL, li.Kind}] && !wasWatched(known, id) {
			continue
		}
		l := trust.Log{URL: li.URL, Origin: li.Origin, Key: key}
		if li.Kind == string(config.CT) {
			root.CT = append(root.CT, l)
			continue
		}
		l.Type = li.Type
		root.Rekor = append(root.Rekor, l)
	}
	return root
}

// wasWatched says whether a log was watched under the key with that ID: it itself, or
// a tree of a Rekor v1 service.
func wasWatched(known map[tlog.ID]string, id tlog.ID) bool {
	_, ok := known[id]
	for other := range known {
		ok = ok || strings.HasPrefix(string(other), string(id)+"-")
	}
	return ok
}

// excluded names the logs of the trusted root that the configuration leaves out (P9).
// An item may have given a log another URL, or keys of its own.
func excluded(cfg *config.Config) (said []string) {
	moved := func(l, found config.Log) bool {
		return !slices.ContainsFunc(cfg.Found, func(f config.Log) bool { return f.URL == l.URL }) &&
			slices.ContainsFunc(l.Keys, func(k tlog.Key) bool { return slices.ContainsFunc(found.Keys, k.Same) })
	}
	for _, l := range cfg.Found {
		watched := slices.ContainsFunc(cfg.Logs, func(other config.Log) bool {
			return other.ID == l.ID && other.Kind == l.Kind && (l.ID != "" || other.URL == l.URL || moved(other, l))
		})
		if !watched {
			said = append(said, fmt.Sprintf("the log at %s is excluded by the configuration, and not watched", l.URL))
		}
	}
	return said
}

// sayTrust keeps what was verified, and makes a condition of what is wrong.
func (r *run) sayTrust(a *anchor) {
	if a.status == "" {
		return
	}
	name, id := r.Config.Trust.Name, r.Config.Trust.ID()
	if a.metadata != nil && a.saved.ID == "" && cmp.Or(r.doc.repository(), r.doc.listedBy()) == id {
		r.health.notice("trust:lost", fmt.Sprintf("the metadata kept of TUF repository %s is gone, and was begun anew at its initial root: which versions were seen before is forgotten, "+
			"so older metadata than that would be taken. The keys of logs are held against those of before", name))
	}
	if a.metadata != nil {
		keep, cancel := r.keep()
		a.saved.Metadata = *a.metadata
		err := r.State.SaveTrust(keep, id, a.saved)
		if err == nil {
			err = r.doc.keepRepository(keep, id)
		}
		cancel()
		if err != nil {
			r.failf("trust metadata of %s is not saved: %v", name, err)
		}
	}
	key, text := "trust:"+name, fmt.Sprintf("%v; the last verified keys are used", a.err)
	switch {
	case a.unread:
		text = fmt.Sprintf("what the state keeps of TUF repository %s cannot be read: %v; %s", name, a.err, notBegunAnew)
	case a.status == TrustDamaged:
		text = fmt.Sprintf("%v; %s", a.err, notBegunAnew)
	case a.blind:
		text = fmt.Sprintf("%v; there are no verified keys from before, so it is not known which logs to watch", a.err)
	}
	if a.blind {
		r.failf("trust: %s", text)
	}
	switch {
	case a.unread:
		r.health.lasting(key+":unread", text, "see that the store answers and lets this be read")
	case a.status == TrustUnreachable:
		r.health.lasting(key+":unreachable", text, "check the network and the repository's status page")
	case a.status == TrustExpired:
		r.health.atOnce(key+":expired", text, "its operator has to sign anew: see the repository's status page; a mirror may be held back")
	case a.status == TrustDamaged:
		r.health.atOnce(key+":damaged", text, "restore the object from a backup: to begin anew would forget which versions were seen")
	case a.status == TrustRejected:
		r.health.atOnce(key+":rejected", text, "somebody may serve old or forged metadata: compare with the repository from another network, and tell its operator")
	}
}

// notBegunAnew is what follows from metadata that was kept and cannot be had.
const notBegunAnew = "the keys of before are in it, so it is not known which logs to watch; it is not begun anew, as a fresh client could be rolled back"

// repository is the TUF repository whose metadata was kept by the runs before.
func (s *runState) repository() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.doc.Repository
}

// keepRepository remembers in run.json that trust/ has a repository's metadata: that it
// is gone is noticed by it.
func (s *runState) keepRepository(ctx context.Context, id string) error {
	return s.commitUnless(ctx, func(d *state.Run) bool { return d.Repository == id }, func(d *state.Run) { d.Repository = id })
}
