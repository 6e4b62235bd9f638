package monitor

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/trust"
)

// anchor is what a run goes by: the configuration under the trusted root of now.
type anchor struct {
	cfg      *config.Config
	status   string           // of the TUF repository, see Result.Trust; "" without one
	err      error            // why it is not "ok"
	blind    bool             // there is no trusted root at all: which logs there are is not known
	problems []config.Problem // what the configuration asks for and the trusted root does not have
	held     []notFound       // logs that a look cannot open, because their key is another than before
	keys     []state.Decision // keys that operators accepted, for a look
	saved    *state.Trust
	metadata *trust.Metadata
}

// anchored asks the TUF repository, if the configuration names one, for the trusted
// root. What does not verify is never adopted: whatever goes wrong, the last
// verified keys are gone on with.
func (m *Monitor) anchored(ctx context.Context) *anchor {
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
			a.err, a.blind, a.status = err, true, TrustUnreachable
			if corrupt := (*state.CorruptError)(nil); errors.As(err, &corrupt) {
				a.status = TrustDamaged
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
	a.cfg, a.problems = m.Config.Resolve(root)
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
	a := r.anchored(ctx)
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
		r.health.atOnce(fmt.Sprintf("trust:unusable:%x", sum[:6]), "of the trusted root, "+text+"; what is logged there is not seen",
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

// excluded names the logs of the trusted root that the configuration leaves out (P9).
func excluded(cfg *config.Config) (said []string) {
	for _, l := range cfg.Found {
		watched := slices.ContainsFunc(cfg.Logs, func(other config.Log) bool {
			return other.ID == l.ID && other.Kind == l.Kind && (l.ID != "" || other.URL == l.URL)
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
	name := r.Config.Trust.Name
	if a.metadata != nil && a.saved.ID == "" && r.doc.listedBy() == r.Config.Trust.ID() {
		r.health.notice("trust:lost", fmt.Sprintf("the metadata kept of TUF repository %s is gone, and was begun anew at its initial root: which versions were seen before is forgotten, "+
			"so older metadata than that would be taken. The keys of logs are held against those of before", name))
	}
	if a.metadata != nil {
		keep, cancel := r.keep()
		a.saved.Metadata = *a.metadata
		err := r.State.SaveTrust(keep, r.Config.Trust.ID(), a.saved)
		cancel()
		if err != nil {
			r.failf("trust metadata of %s is not saved: %v", name, err)
		}
	}
	key, goesOn := "trust:"+name, "; the last verified keys are used"
	if a.blind {
		goesOn = "; there are no verified keys from before, so it is not known which logs to watch"
		r.failf("trust: %v%s", a.err, goesOn)
	}
	text := fmt.Sprintf("%v%s", a.err, goesOn)
	switch a.status {
	case TrustUnreachable:
		r.health.lasting(key+":unreachable", text, "check the network and the repository's status page")
	case TrustExpired:
		r.health.atOnce(key+":expired", text, "its operator has to sign anew: see the repository's status page; a mirror may be held back")
	case TrustDamaged:
		r.health.atOnce(key+":damaged", text, "restore the object from a backup: to begin anew would forget which versions were seen")
	case TrustRejected:
		r.health.atOnce(key+":rejected", text, "somebody may serve old or forged metadata: compare with the repository from another network, and tell its operator")
	}
}
