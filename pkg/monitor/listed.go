package monitor

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
)

// list remembers the keys that the trusted root has for what is watched, and says
// what is new in it if all of it is watched.
func (r *run) list() {
	r.listed, r.listedBy = r.doc.listed(), r.doc.listedBy()
	if r.listed == nil {
		r.listed = make(map[tlog.ID]state.Listed)
	}
	for _, l := range r.Config.Logs {
		if l.FromRoot && !l.Discovered {
			for _, key := range l.Keys {
				r.keepKey(l, key, r.listed[tlog.ID(key.Hex())])
			}
		}
	}
	if r.Config.Discover {
		r.news()
	}
}

func (r *run) keepKey(l config.Log, key tlog.Key, li state.Listed) {
	li.URL, li.Origin, li.Kind, li.Key, li.Retired = l.URL, l.Origin, string(l.Kind), key.PEM(), l.Retired
	if li.Type == "" {
		li.Type = l.Type
	}
	if li.Since.IsZero() {
		li.Since = r.started
	}
	r.listed[tlog.ID(key.Hex())] = li
}

// news holds the logs of the trusted root against those of the last run: one that
// appears or retires is news.
func (r *run) news() {
	before, was := maps.Clone(r.listed), r.listedBy
	r.listedBy = "trustedRoot"
	if r.Config.Trust != nil {
		r.listedBy = r.Config.Trust.ID()
	}
	now := make(map[tlog.ID]bool)
	common := false
	for _, l := range r.Config.Found {
		for _, key := range l.Keys {
			_, known := before[tlog.ID(key.Hex())]
			common = common || known
		}
	}
	// A trusted root of somebody else's has no news to tell, one that comes another way has.
	first := was == "" || was != r.listedBy && !common
	say := func(id tlog.ID, format string, args ...any) {
		if !first {
			r.health.notice("trust:"+string(id), fmt.Sprintf(format, args...))
		}
	}
	for _, l := range r.Config.Found {
		for _, key := range l.Keys {
			id := tlog.ID(key.Hex())
			now[id] = true
			li, known := before[id]
			switch {
			case !known:
				li.Later = !first
				say(id, "the trusted root now lists a log at %s (%s); %s", l.URL, id, r.watchedNow(id))
			case li.Gone != nil:
				li.Gone = nil
				say(id, "the trusted root lists the log at %s (%s) again", l.URL, id)
			case l.Retired && !li.Retired:
				say(id, "the trusted root says that the log at %s (%s) takes no more entries; it is read to its last one, and any that it still takes", l.URL, id)
			}
			r.keepKey(l, key, li)
		}
	}
	for id, li := range before {
		if now[id] || li.Gone != nil || first {
			continue
		}
		li.Gone = &r.started
		r.listed[id] = li
		say(id, "the trusted root no longer lists the log at %s (%s); if it was watched, it is read to its last entry under the key known from before", li.URL, id)
	}
}

func (r *run) watchedNow(id tlog.ID) string {
	for _, l := range r.Config.Logs {
		if l.ID == id {
			return "unless its place is another log's, it is watched from its first entry on"
		}
		if slices.ContainsFunc(l.Keys, func(k tlog.Key) bool { return tlog.ID(k.Hex()) == id }) {
			return "trees under this key are watched from their first entry on"
		}
	}
	return "it is excluded, and not watched"
}

// resume makes the configuration's logs those that are to be opened, given what is
// remembered of earlier runs. It returns those that cannot be watched because their
// key is another than before.
func (r *run) resume() (held []notFound) {
	for i := range r.Config.Logs {
		l := &r.Config.Logs[i]
		if li, ok := r.listed[l.ID]; ok && l.Type == "" {
			l.Type = li.Type
		}
		if l.Discovered && l.Type == tlog.RekorV1 && r.listed[tlog.ID(l.Keys[0].Hex())].Type == tlog.RekorV2 {
			*l = asShard(*l)
		}
	}
	r.goOn()
	return r.sameKeys()
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

// goOn watches logs that were watched and that the trusted root no longer lists,
// unless the configuration excludes them.
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
		l := config.Log{
			Type: li.Type, Kind: config.Kind(li.Kind), URL: li.URL, ID: id, Keys: []tlog.Key{key}, Origin: li.Origin,
			Start: config.Start{Head: true}, Coverage: config.Full, Retired: true, Discovered: true, Gone: true, Where: "an earlier trusted root",
		}
		_, watched := known[id]
		taken := slices.ContainsFunc(r.Config.Logs, func(other config.Log) bool { return other.URL == li.URL || other.ID == id })
		if watched && !taken && !r.Config.Change(&l) {
			r.Config.Logs = append(r.Config.Logs, l)
		}
	}
}

func logID(id tlog.ID) (raw [32]byte) {
	b, _ := hex.DecodeString(string(id)) // an ID's form was checked when it was made
	copy(raw[:], b)
	return raw
}

// sameKeys sees to it that a log goes on under the key that it was watched with, when
// the trusted root has another for its place, in the old one's place or beside it:
// which is the log's is for people to say. What it takes out of the configuration is
// not a log of its own. A Rekor v1 service may have many keys, each of its trees keeps
// its own.
func (r *run) sameKeys() (held []notFound) {
	known := r.doc.known()
	drop := make(map[int]bool)
	for i := range r.Config.Logs {
		l := &r.Config.Logs[i]
		if _, watched := known[l.ID]; watched || l.ID == "" || !l.FromRoot {
			continue
		}
		was := r.formerly(known, *l)
		if was == "" {
			drop[i] = r.rival(i, drop)
			continue
		}
		old := slices.IndexFunc(r.Config.Logs, func(other config.Log) bool { return other.ID == was })
		switch accepted := r.acceptedKey(was, l.Keys[0]); {
		case accepted && old >= 0:
			drop[i] = true // the decision is one of the old one's keys already
			r.Config.Logs[old].Retired = r.Config.Logs[old].Retired && l.Retired
		case accepted:
			id := l.ID
			l.ID = was
			if l.Type == "" {
				l.Type = r.listed[was].Type
			}
			if key, err := tlog.ParseKeyPEM([]byte(r.listed[was].Key)); err == nil && was != id {
				l.Keys = append(slices.Clone(l.Keys), key)
			}
		case old >= 0 && (r.signs(r.Config.Logs[old]) || !r.signs(*l)):
			drop[i] = true // listed, and not in use
		default:
			drop[i] = true
			if old >= 0 {
				drop[old] = true
			}
			held = append(held, r.otherKey(was, *l))
		}
	}
	var logs []config.Log
	for i, l := range r.Config.Logs {
		if !drop[i] {
			logs = append(logs, l)
		}
	}
	r.Config.Logs = logs
	return held
}

func (r *run) otherKey(was tlog.ID, l config.Log) notFound {
	err := fmt.Errorf("the trusted root now has another key for %s (log ID %s): it is not read until that is accepted", l.URL, l.ID)
	r.health.atOnce("trust:key:"+string(was), err.Error(), fmt.Sprintf(
		"if the log's operator announced it, save this key to a file and accept it: whosigned accept --config %s --log %s --key FILE --reason '…'\n%s", r.Config.Path, was, l.Keys[0].PEM()))
	return notFound{id: was, url: l.URL, typ: cmp.Or(l.Type, r.listed[was].Type), cfg: l, err: err}
}

// rival says whether a log that is seen for the first time is one of several keys for
// one place, and not the one in use.
func (r *run) rival(i int, dropped map[int]bool) bool {
	l := r.Config.Logs[i]
	for j, other := range r.Config.Logs {
		if j != i && !dropped[j] && other.FromRoot && other.ID != "" && other.URL == l.URL && other.Kind == l.Kind && r.signs(other) && !r.signs(l) {
			return true
		}
	}
	return false
}

// signs says whether what a log serves now verifies under its key.
func (r *run) signs(l config.Log) bool {
	if l.Type == "" {
		_, err := r.probe(r.work, l, r.keys)
		return err == nil
	}
	return r.answers(r.work, l, r.keys) == nil
}

// formerly is the log that was watched in the place of one that is new.
func (r *run) formerly(known map[tlog.ID]string, l config.Log) tlog.ID {
	for _, id := range slices.Sorted(maps.Keys(known)) {
		if li, listed := r.listed[id]; listed && li.Kind != string(l.Kind) {
			continue
		}
		if known[id] == l.URL && !strings.Contains(string(id), "-") {
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

// standStill is for logs that a run without a trusted root does not know how to open:
// what waits in their outboxes is delivered, their incidents are still open, and
// conditions are kept as they are.
func (r *run) standStill(found []watched) {
	if !r.blind {
		return
	}
	open := make(map[tlog.ID]bool)
	for _, l := range found {
		open[l.Info().ID] = true
	}
	for id := range r.doc.known() {
		if open[id] {
			continue
		}
		ctx, cancel := r.keep()
		doc, err := r.State.LoadLog(ctx, id)
		cancel()
		if err != nil {
			r.failf("log %s: what waits in its outbox is not delivered: %v", id, err)
			continue
		}
		r.deliver.add(&logState{doc: doc, state: r.State, pace: pace{every: r.CommitEvery, hurry: r.work.Done()}})
		r.mu.Lock()
		r.result.Incidents = append(r.result.Incidents, openIncidents(doc)...)
		r.mu.Unlock()
	}
	for key := range r.doc.conditions() {
		mine := strings.HasPrefix(key, "trust:") || strings.HasPrefix(key, "sink:")
		for id := range open {
			mine = mine || strings.HasPrefix(key, "log:"+string(id))
		}
		if !mine {
			r.health.hold(key)
		}
	}
}

// darkListed says of a log of the trusted root that takes no more entries, and that
// either we never saw or the root no longer lists, that it does not answer: there is
// nothing more to do about it.
func (w *logRun) darkListed(err error) error {
	var gone *tlog.Unavailable
	if !errors.As(err, &gone) || !(w.cfg.Gone || w.fresh && w.cfg.Discovered && w.cfg.Retired) || w.result.Status == StatusTamper {
		return err
	}
	text := w.say("it takes no more entries, as the trusted root says, and does not answer: %v", err)
	w.result.Status = StatusRetired
	w.result.Notes = append(w.result.Notes, text)
	w.health.lasting("log:"+string(w.info.ID)+":dark", text, "nothing, or leave it out: logs: [{id: "+string(w.info.ID)+", exclude: true}]")
	return nil
}
