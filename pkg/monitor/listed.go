package monitor

import (
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
			r.listByHand(l)
		}
	}
	if r.Config.Discover {
		r.news()
	}
}

// listByHand remembers the keys of a log by hand, and says which of those that it had
// the trusted root no longer has.
func (r *run) listByHand(l config.Log) {
	for _, key := range l.Keys {
		id := tlog.ID(key.Hex())
		if li := r.listed[id]; !l.Gone && li.Gone != nil {
			li.Gone = nil
			r.listed[id] = li
			r.sayListed(id, "the trusted root lists the log at %s (%s) again", l.URL, id)
		}
		r.keepKey(l, key)
	}
	for _, id := range slices.Sorted(maps.Keys(r.listed)) {
		li := r.listed[id]
		if li.Gone == nil && li.URL == l.URL && li.Kind == string(l.Kind) && (l.Gone || !hasKey(l, id)) {
			r.gone(id)
		}
	}
}

func hasKey(l config.Log, id tlog.ID) bool {
	return slices.ContainsFunc(l.Keys, func(k tlog.Key) bool { return tlog.ID(k.Hex()) == id })
}

func (r *run) sayListed(id tlog.ID, format string, args ...any) {
	r.health.notice("trust:"+string(id), fmt.Sprintf(format, args...))
}

// keepKey remembers a key of a log. The key that a log was watched with stays: another
// one under its ID is for people to judge, see sameKeys.
func (r *run) keepKey(l config.Log, key tlog.Key) {
	id := tlog.ID(key.Hex())
	li := r.listed[id]
	if li.Key == "" || !wasWatched(r.doc.known(), id) {
		li.Key = key.PEM()
	}
	li.URL, li.Origin, li.Kind, li.Retired, li.By = l.URL, l.Origin, string(l.Kind), l.Retired, listedBy(r.Config)
	if li.Type == "" {
		li.Type = l.Type
	}
	if li.Since.IsZero() {
		li.Since = r.started
	}
	r.listed[id] = li
}

// listedBy names the trusted root of a configuration.
func listedBy(cfg *config.Config) string {
	if cfg.Trust != nil {
		return cfg.Trust.ID()
	}
	return "trustedRoot"
}

// keyOf is a remembered key under the log ID that the trusted root gave it.
func keyOf(id tlog.ID, li state.Listed) (tlog.Key, error) {
	key, err := tlog.ParseKeyPEM([]byte(li.Key))
	if err == nil {
		raw, _ := hex.DecodeString(string(id)) // an ID's form was checked when it was made
		copy(key.LogID[:], raw)
	}
	return key, err
}

// news holds the logs of the trusted root against those of the last run: one that
// appears or retires is news.
func (r *run) news() {
	before, was := maps.Clone(r.listed), r.listedBy
	r.listedBy = listedBy(r.Config)
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
			r.sayListed(id, format, args...)
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
			r.listed[id] = li
			r.keepKey(l, key)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(before)) {
		if li := r.listed[id]; !now[id] && li.Gone == nil && !first {
			r.gone(id)
		}
	}
}

// gone remembers that the trusted root no longer has a key, and says what follows.
func (r *run) gone(id tlog.ID) {
	li := r.listed[id]
	li.Gone = &r.started
	r.listed[id] = li
	others := slices.ContainsFunc(slices.Concat(r.Config.Found, r.Config.Logs), func(l config.Log) bool {
		return l.FromRoot && !l.Gone && l.URL == li.URL && string(l.Kind) == li.Kind
	})
	switch {
	case !wasWatched(r.doc.known(), id):
		r.sayListed(id, "the trusted root no longer lists the log at %s (%s), which was not watched", li.URL, id)
	case others && li.Type == tlog.RekorV1:
		r.sayListed(id, "the trusted root no longer lists this key of %s (%s), only others: trees known under it are read to their last entry, new ones under it are not taken", li.URL, id)
	case others:
		r.sayListed(id, "the trusted root no longer lists this key of %s (%s), only another", li.URL, id)
	default:
		r.sayListed(id, "the trusted root no longer lists the log at %s (%s); it is read to its last entry under the key known from before", li.URL, id)
	}
}

func (r *run) watchedNow(id tlog.ID) string {
	for _, l := range r.Config.Logs {
		if l.ID == id {
			return "unless its place is another log's, it is watched from its first entry on"
		}
		if slices.ContainsFunc(l.Keys, func(k tlog.Key) bool { return tlog.ID(k.Hex()) == id }) {
			return "unless its place is another log's, trees under this key are watched from their first entry on"
		}
	}
	return "it is excluded, and not watched"
}

// resume makes the configuration's logs those that are to be opened, given what is
// remembered of earlier runs. It returns those that cannot be watched because their
// key is another than before.
func (r *run) resume() (held []notFound) {
	known := r.doc.known()
	r.recall()
	r.apart(known)
	r.goOn(known)
	r.sameIDs(known)
	return r.sameKeys(known)
}

// recall gives the logs that the trusted root does not say the protocol of the one that
// they were found to speak. What is one more key of a Rekor v1 service becomes that.
func (r *run) recall() {
	var logs []config.Log
	for _, l := range r.Config.Logs {
		if l.Type == "" {
			l.Type = r.listed[l.ID].Type
		}
		service := -1
		if l.Type == tlog.RekorV1 && l.FromRoot {
			l.ID, l.Origin = "", ""
			service = slices.IndexFunc(logs, func(other config.Log) bool {
				return other.Type == tlog.RekorV1 && other.URL == l.URL && other.FromRoot
			})
		}
		if service < 0 {
			logs = append(logs, l)
			continue
		}
		logs[service].Keys = append(slices.Clone(logs[service].Keys), l.Keys...)
		logs[service].Retired = logs[service].Retired && l.Retired
	}
	r.Config.Logs = logs
}

// goOn watches what was watched and the trusted root no longer lists, unless the
// configuration excludes it. Logs by hand come with their keys of before.
func (r *run) goOn(known map[tlog.ID]string) {
	services := make(map[string]config.Log) // by the URL that the trusted root had for them
	for _, id := range slices.Sorted(maps.Keys(r.listed)) {
		li := r.listed[id]
		key, err := keyOf(id, li)
		if li.Gone == nil || err != nil || !wasWatched(known, id) {
			continue
		}
		l := config.Log{
			Type: li.Type, Kind: config.Kind(li.Kind), URL: li.URL, ID: id, Keys: []tlog.Key{key}, Origin: li.Origin, Start: config.Start{Head: true},
			Coverage: r.Config.DefaultCoverage(li.Type, li.URL), Retired: true, Discovered: true, Gone: true, Where: "an earlier trusted root",
		}
		if li.Type == tlog.RekorV1 {
			l.ID, l.Origin, l.Keys = "", "", append(slices.Clone(services[li.URL].Keys), key)
			services[li.URL] = l
		} else if excluded := r.Config.Change(&l); r.Config.Discover && !excluded && !r.taken(known, l) {
			r.Config.Logs = append(r.Config.Logs, l)
		}
	}
	for _, url := range slices.Sorted(maps.Keys(services)) {
		r.goOnTrees(known, services[url])
	}
}

// goOnTrees lets the trees of a Rekor v1 service that are known under dropped keys go on
// under them. If the service has other keys these open no tree that is new.
func (r *run) goOnTrees(known map[tlog.ID]string, l config.Log) {
	dropped := l.Keys
	excluded := r.Config.Change(&l)
	for _, key := range dropped {
		trees := treesUnder(known, tlog.ID(key.Hex()))
		i := slices.IndexFunc(r.Config.Logs, func(other config.Log) bool {
			return other.Type == tlog.RekorV1 && (other.URL == l.URL || slices.ContainsFunc(trees, func(t tlog.ID) bool { return known[t] == other.URL }))
		})
		switch {
		case i < 0 && (excluded || !r.Config.Discover):
			return
		case i < 0:
			r.Config.Logs = append(r.Config.Logs, l)
			return
		case !r.Config.Logs[i].Gone:
			r.pin(trees, key)
		case !hasKey(r.Config.Logs[i], tlog.ID(key.Hex())):
			r.Config.Logs[i].Keys = append(slices.Clone(r.Config.Logs[i].Keys), key)
		}
	}
}

// treesUnder are the watched trees of a Rekor v1 service that a key signs.
func treesUnder(known map[tlog.ID]string, id tlog.ID) (trees []tlog.ID) {
	for tree := range known {
		if strings.HasPrefix(string(tree), string(id)+"-") {
			trees = append(trees, tree)
		}
	}
	slices.Sort(trees)
	return trees
}

// pin gives single trees a key that is not their service's any more, as if an operator
// had accepted it for them.
func (r *run) pin(trees []tlog.ID, key tlog.Key) {
	for _, tree := range trees {
		r.keys = append(r.keys, state.Decision{Log: tree, Kind: state.AcceptKey, Key: key.PEM(), Reason: "an earlier trusted root lists it"})
	}
}

// taken says whether another log stands in the place of one.
func (r *run) taken(known map[tlog.ID]string, l config.Log) bool {
	return slices.ContainsFunc(r.Config.Logs, func(other config.Log) bool {
		return other.ID == l.ID || other.URL == l.URL && other.Kind == l.Kind && !hasTrees(known, other)
	})
}

// hasTrees says whether a log of the trusted root is a Rekor v1 service for certain:
// trees of it were watched.
func hasTrees(known map[tlog.ID]string, l config.Log) bool {
	for id, url := range known {
		if l.Type == tlog.RekorV1 && url == l.URL && strings.Contains(string(id), "-") {
			return true
		}
	}
	return false
}

// remembered are the listed logs as this run leaves them: with the protocol that each
// was found to speak.
func (r *run) remembered() (map[tlog.ID]state.Listed, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.result.Logs {
		key, _, _ := strings.Cut(string(l.ID), "-") // of a tree
		if li, ok := r.listed[tlog.ID(key)]; ok && li.Type != l.Type && l.Type != "" {
			li.Type = l.Type
			r.listed[tlog.ID(key)] = li
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
		// Of the trusted root it knows how the repository fared, and no more.
		mine := strings.HasPrefix(key, "trust:"+r.Config.Trust.Name+":") || strings.HasPrefix(key, "sink:")
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
// nothing more to do about it. That one which was read to its end does not is said once,
// see dark.
func (w *logRun) darkListed(err error) error {
	var gone *tlog.Unavailable
	if !errors.As(err, &gone) || !(w.cfg.Gone || w.fresh && w.cfg.Discovered && w.cfg.Retired) || w.result.Status == StatusTamper {
		return err
	}
	if w.st != nil && w.st.read().Retired != nil {
		return err
	}
	text := w.say("it takes no more entries, as the trusted root says, and does not answer: %v", err)
	if w.cfg.Gone {
		text = w.say("the trusted root no longer lists it, and it does not answer: %v", err)
	}
	w.result.Status = StatusRetired
	w.result.Notes = append(w.result.Notes, text)
	key, _, _ := strings.Cut(string(w.info.ID), "-") // an item names a service by its key
	next := "nothing, or leave it out: logs: [{id: " + key + ", exclude: true}]"
	if !w.cfg.Discovered {
		next = "nothing, or take it out of logs"
	}
	w.health.lasting("log:"+string(w.info.ID)+":dark", text, next)
	return nil
}
