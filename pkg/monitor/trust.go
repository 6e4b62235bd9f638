package monitor

import (
	"context"
	"encoding/hex"
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
	status   string           // of the TUF repository, see Result.Trust; "" without one
	err      error            // why it is not "ok"
	blind    bool             // there is no trusted root at all: which logs there are is not known
	problems []config.Problem // what the configuration asks for and the trusted root does not have
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
			return a
		}
	}
	metadata, root, err := repo.Refresh(ctx, m.Client.HTTP(), before, m.Now())
	a.metadata, a.err, a.status = metadata, err, trustStatus(err)
	if root == nil {
		a.blind = true
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
	if a.blind {
		return nil
	}
	if r.relisted {
		for _, l := range r.Config.Logs {
			r.services[l.URL] = true
		}
	}
	r.list()
	return r.sameKeys()
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
		r.failf("trust: TUF repository %s: %v%s", name, a.err, goesOn)
	}
	text := fmt.Sprintf("TUF repository %s: %v%s", name, a.err, goesOn)
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

// list holds the logs of the trusted root against those of the last run: one that
// appears or retires is news.
func (r *run) list() {
	before := r.doc.listed()
	by := "trustedRoot"
	if r.Config.Trust != nil {
		by = r.Config.Trust.ID()
	}
	first := r.doc.listedBy() != by
	if first {
		before = nil
	}
	now := make(map[tlog.ID]state.Listed)
	for _, l := range r.Config.Found {
		for _, key := range l.Keys {
			id := tlog.ID(key.Hex())
			li, known := before[id]
			if !known {
				li.Since, li.Later = r.started, !first
			}
			if !known && !first {
				r.health.notice("trust:"+string(id), fmt.Sprintf("the trusted root now lists a log at %s (%s); %s", l.URL, id, r.watchedNow(id)))
			}
			if known && l.Retired && !li.Retired {
				r.health.notice("trust:"+string(id), fmt.Sprintf("the trusted root says that the log at %s (%s) takes no more entries; it is read to its last one, and any that it still takes", l.URL, id))
			}
			if known && li.Gone != nil {
				li.Gone = nil
				r.health.notice("trust:"+string(id), fmt.Sprintf("the trusted root lists the log at %s (%s) again", l.URL, id))
			}
			li.URL, li.Origin, li.Kind, li.Key, li.Retired = l.URL, l.Origin, string(l.Kind), key.PEM(), l.Retired
			if li.Type == "" {
				li.Type = l.Type
			}
			now[id] = li
		}
	}
	for id, li := range before {
		if _, still := now[id]; still {
			continue
		}
		if li.Gone == nil {
			li.Gone = &r.started
			r.health.notice("trust:"+string(id), fmt.Sprintf("the trusted root no longer lists the log at %s (%s); if it was watched, it is read to its last entry under the key known from before", li.URL, id))
		}
		now[id] = li
	}
	r.listed, r.listedBy = now, by
	for i := range r.Config.Logs {
		l := &r.Config.Logs[i]
		if li, ok := now[l.ID]; ok && l.Type == "" {
			l.Type = li.Type
		}
		if l.Discovered && l.Type == tlog.RekorV1 && now[tlog.ID(l.Keys[0].Hex())].Type == tlog.RekorV2 {
			*l = asShard(*l)
		}
	}
	r.goOn()
}

// asShard makes a Rekor v2 shard of what looks like a Rekor v1 service in the trusted
// root: with an ECDSA key, both have the hash of the key alone for their ID.
func asShard(l config.Log) config.Log {
	l.Type, l.ID, l.Keys = tlog.RekorV2, tlog.ID(l.Keys[0].Hex()), l.Keys[:1]
	_, l.Origin, _ = strings.Cut(l.URL, "://")
	if l.Coverage == config.Index {
		l.Coverage = config.Full
	}
	return l
}

func (r *run) watchedNow(id tlog.ID) string {
	for _, l := range r.Config.Logs {
		if l.ID == id {
			return "it is watched from its first entry on"
		}
		if slices.ContainsFunc(l.Keys, func(k tlog.Key) bool { return tlog.ID(k.Hex()) == id }) {
			return "trees under this key are watched from their first entry on"
		}
	}
	return "it is excluded, and not watched"
}

// goOn watches logs that were watched and that the trusted root no longer lists.
func (r *run) goOn() {
	known := r.doc.known()
	for _, id := range slices.Sorted(maps.Keys(r.listed)) {
		li := r.listed[id]
		key, err := tlog.ParseKeyPEM([]byte(li.Key))
		if li.Gone == nil || err != nil {
			continue
		}
		key.LogID = logID(id)
		if li.Type == tlog.RekorV1 {
			for i := range r.Config.Logs {
				if l := &r.Config.Logs[i]; l.Type == tlog.RekorV1 && l.URL == li.URL {
					l.Keys = append(slices.Clone(l.Keys), key)
				}
			}
			continue
		}
		if _, watched := known[id]; !watched || slices.ContainsFunc(r.Config.Logs, func(l config.Log) bool { return l.URL == li.URL }) {
			continue
		}
		r.Config.Logs = append(slices.Clone(r.Config.Logs), config.Log{
			Type: li.Type, Kind: config.Kind(li.Kind), URL: li.URL, ID: id, Keys: []tlog.Key{key}, Origin: li.Origin,
			Start: config.Start{Head: true}, Coverage: config.Full, Retired: true, Discovered: true, Where: "an earlier trusted root",
		})
	}
}

func logID(id tlog.ID) (raw [32]byte) {
	b, _ := hex.DecodeString(string(id)) // an ID's form was checked when it was made
	copy(raw[:], b)
	return raw
}

// sameKeys takes logs out of the configuration that the trusted root has under
// another key than they were watched with: which is the log's is for people to say.
// A Rekor v1 service may have many keys, each of its trees keeps its own.
func (r *run) sameKeys() (held []notFound) {
	known := r.doc.known()
	now := make(map[tlog.ID]bool)
	for _, l := range r.Config.Logs {
		now[l.ID] = true
	}
	var logs []config.Log
	for _, l := range r.Config.Logs {
		_, watched := known[l.ID]
		was := formerly(known, now, l.URL)
		if l.ID == "" || watched || !l.FromRoot || was == "" {
			logs = append(logs, l)
			continue
		}
		id := l.ID
		l.ID = was
		if r.acceptedKey(was, l.Keys[0]) {
			if old, err := tlog.ParseKeyPEM([]byte(r.doc.listed()[was].Key)); err == nil {
				l.Keys = append(slices.Clone(l.Keys), old)
			}
			logs = append(logs, l)
			continue
		}
		err := fmt.Errorf("the trusted root now has another key for %s (log ID %s): it is not read until that is accepted", l.URL, id)
		r.health.atOnce("trust:key:"+string(was), err.Error(), fmt.Sprintf(
			"if the log's operator announced it, save this key to a file and accept it: whosigned accept --config %s --log %s --key FILE --reason '…'\n%s", r.Config.Path, was, l.Keys[0].PEM()))
		held = append(held, notFound{id: was, url: l.URL, typ: l.Type, cfg: l, err: err})
	}
	r.Config.Logs = logs
	return held
}

// formerly is the one log that was watched at a URL and is not listed any more.
func formerly(known map[tlog.ID]string, now map[tlog.ID]bool, url string) tlog.ID {
	for _, id := range slices.Sorted(maps.Keys(known)) {
		if known[id] == url && !now[id] && !strings.Contains(string(id), "-") {
			return id
		}
	}
	return ""
}

func (r *run) acceptedKey(id tlog.ID, key tlog.Key) bool {
	return slices.ContainsFunc(r.keys, func(d state.Decision) bool {
		k, err := tlog.ParseKeyPEM([]byte(d.Key))
		return d.Log == id && err == nil && k.Same(key)
	})
}

// remembered are the listed logs as this run leaves them: with the protocol that each
// was found to speak.
func (r *run) remembered() (map[tlog.ID]state.Listed, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.result.Logs {
		if li, ok := r.listed[l.ID]; ok && li.Type != l.Type && l.Type != "" {
			li.Type = l.Type
			r.listed[l.ID] = li
		}
	}
	return r.listed, r.listedBy
}
