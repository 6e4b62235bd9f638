package monitor

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/whosigned/whosigned/pkg/config"
	"github.com/whosigned/whosigned/pkg/state"
	"github.com/whosigned/whosigned/pkg/tlog"
)

// apart makes shards, one a key, of what looks like a Rekor v1 service and stands where
// a shard was watched: each is then held against that shard, see sameKeys.
func (r *run) apart(known map[tlog.ID]string) {
	var beside []config.Log
	for _, l := range r.Config.Logs {
		if r.mayBeShard(known, l) && r.stillListed(known, l) {
			beside = append(beside, l)
		}
	}
	service := r.signing(beside)
	var logs []config.Log
	for _, l := range r.Config.Logs {
		if !r.mayBeShard(known, l) || service[voiceOf(l)] {
			logs = append(logs, l)
			continue
		}
		for _, key := range l.Keys {
			one := l
			one.Keys = []tlog.Key{key}
			logs = append(logs, one.AsShard())
		}
	}
	r.Config.Logs = logs
}

func (r *run) mayBeShard(known map[tlog.ID]string, l config.Log) bool {
	if !l.Discovered || l.Type != tlog.RekorV1 || hasTrees(known, l) {
		return false
	}
	was := slices.ContainsFunc(l.Keys, func(k tlog.Key) bool { return r.listed[tlog.ID(k.Hex())].Type == tlog.RekorV2 })
	return was || l.FromRoot && r.formerly(known, l) != ""
}

// stillListed says whether the shard that was watched in a log's place is listed beside
// it, under a key that tells it for a shard.
func (r *run) stillListed(known map[tlog.ID]string, l config.Log) bool {
	was := r.formerly(known, l)
	return slices.ContainsFunc(r.Config.Logs, func(other config.Log) bool { return was != "" && other.ID == was })
}

// sameIDs sees to it that a watched tree of Rekor v1 goes on under its key when the
// trusted root has another under the same ID: that one is for new trees only.
func (r *run) sameIDs(known map[tlog.ID]string) {
	for i := range r.Config.Logs {
		l := &r.Config.Logs[i]
		if l.Type != tlog.RekorV1 || !l.FromRoot {
			continue
		}
		l.Keys = slices.Clone(l.Keys)
		for j, key := range l.Keys {
			id := tlog.ID(key.Hex())
			was, err := keyOf(id, r.listed[id])
			own, ownErr := tlog.ParseKeyPEM([]byte(key.PEM()))
			trees := treesUnder(known, id)
			if err != nil || ownErr != nil || was.Same(key) || len(trees) == 0 {
				continue
			}
			l.Keys[j] = own
			r.pin(trees, was)
			r.health.atOnce("trust:key:"+string(id), fmt.Sprintf("the trusted root now has another key under the ID %s, for %s: trees known under it are read on under the key of before", id, l.URL),
				"ask the log's operator why: an ID stands for one key")
		}
	}
}

// sameKeys sees to it that a log goes on under the key that it was watched with, when
// the trusted root has another for its ID, or for its place, in the old one's place or
// beside it: which is the log's is for people to say. What it takes out of the
// configuration is not a log of its own. A Rekor v1 service may have many keys, each of
// its trees keeps its own.
func (r *run) sameKeys(known map[tlog.ID]string) (held []notFound) {
	signs := r.signing(r.contenders(known))
	drop := make(map[int]bool)
	for i := range r.Config.Logs {
		l := &r.Config.Logs[i]
		if l.ID == "" || !l.FromRoot || !r.isOther(known, *l) {
			continue
		}
		was := r.formerly(known, *l)
		if was == "" {
			drop[i] = r.rival(i, drop, signs)
			continue
		}
		old := slices.IndexFunc(r.Config.Logs, func(other config.Log) bool { return other.ID == was })
		if old == i {
			old = -1 // it is the ID's key that is another
		}
		switch accepted := r.acceptedKey(was, l.Keys[0]); {
		case accepted && old >= 0:
			drop[i] = true // the decision is one of the old one's keys already
			r.Config.Logs[old].Retired = r.Config.Logs[old].Retired && l.Retired
		case accepted:
			l.ID = was
			if l.Type == "" {
				l.Type = r.listed[was].Type
			}
			if key, err := keyOf(was, r.listed[was]); err == nil && !key.Same(l.Keys[0]) {
				l.Keys = append(slices.Clone(l.Keys), key)
			}
		case old >= 0 && (signs[voiceOf(r.Config.Logs[old])] || !signs[voiceOf(*l)]):
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

// isOther says whether a log was not watched under its ID, or under another key.
func (r *run) isOther(known map[tlog.ID]string, l config.Log) bool {
	if _, watched := known[l.ID]; !watched {
		return true
	}
	key, err := keyOf(l.ID, r.listed[l.ID])
	return err == nil && !key.Same(l.Keys[0])
}

func (r *run) otherKey(was tlog.ID, l config.Log) notFound {
	err := fmt.Errorf("the trusted root now has another key for %s (log ID %s): it is not read until that is accepted", l.URL, l.ID)
	// A mail shows the line breaks of what it quotes as such: a command makes the file. It
	// has no %, which mail services might take for a variable's.
	block, _ := pem.Decode([]byte(l.Keys[0].PEM()))
	text := fmt.Sprintf("%v. This saves the new key: (echo '-----BEGIN PUBLIC KEY-----'; echo '%s'; echo '-----END PUBLIC KEY-----') > new.pub", err, base64.StdEncoding.EncodeToString(block.Bytes))
	r.health.atOnce("trust:key:"+string(was), text, fmt.Sprintf("if the log's operator announced it, save the key, and accept it: %s --key new.pub --reason '…'",
		(&logRun{run: r, info: tlog.Info{ID: was}}).accept()))
	return notFound{id: was, url: l.URL, typ: cmp.Or(l.Type, r.listed[was].Type), cfg: l, err: err}
}

// contenders are logs of which several are listed for one place, one of them new.
func (r *run) contenders(known map[tlog.ID]string) (all []config.Log) {
	for i, l := range r.Config.Logs {
		if _, watched := known[l.ID]; watched || l.ID == "" || !l.FromRoot || r.acceptedKey(r.formerly(known, l), l.Keys[0]) {
			continue
		}
		for j, other := range r.Config.Logs {
			if j != i && inOnePlace(l, other) {
				all = append(all, l, other)
			}
		}
	}
	return all
}

func inOnePlace(l, other config.Log) bool {
	return other.FromRoot && other.ID != "" && other.URL == l.URL && other.Kind == l.Kind
}

// rival says whether a log that is seen for the first time is one of several keys for
// one place, and not the one in use.
func (r *run) rival(i int, dropped map[int]bool, signs map[voice]bool) bool {
	l := r.Config.Logs[i]
	for j, other := range r.Config.Logs {
		if j != i && !dropped[j] && inOnePlace(l, other) && signs[voiceOf(other)] && !signs[voiceOf(l)] {
			return true
		}
	}
	return false
}

// voice is what can be asked whether it signs: a place and a key.
type voice struct {
	url, key string
	typ      tlog.Type
}

func voiceOf(l config.Log) voice { return voice{l.URL, l.Keys[0].PEM(), l.Type} }

// signing says of which logs what they serve now verifies under their key. They are
// asked all at once, in probeTime: every log waits for the answers.
func (r *run) signing(logs []config.Log) map[voice]bool {
	ctx, cancel := context.WithTimeout(r.work, probeTime)
	defer cancel()
	var (
		mu    sync.Mutex
		wg    sync.WaitGroup
		signs = make(map[voice]bool)
		asked = make(map[voice]bool)
	)
	for _, l := range logs {
		if asked[voiceOf(l)] {
			continue
		}
		asked[voiceOf(l)] = true
		wg.Go(func() {
			ok := r.signs(ctx, l)
			mu.Lock()
			defer mu.Unlock()
			signs[voiceOf(l)] = ok
		})
	}
	wg.Wait()
	return signs
}

func (r *run) signs(ctx context.Context, l config.Log) bool {
	if l.Type == "" {
		_, err := r.probe(ctx, l, r.keys)
		return err == nil
	}
	return r.answers(ctx, l, r.keys) == nil
}

// formerly is the log that was watched in the place of l, or l itself.
func (r *run) formerly(known map[tlog.ID]string, l config.Log) tlog.ID {
	if _, watched := known[l.ID]; watched {
		return l.ID
	}
	for _, id := range slices.Sorted(maps.Keys(known)) {
		if li, listed := r.listed[id]; listed && li.Kind != string(l.Kind) {
			continue
		}
		moved := slices.ContainsFunc(r.Config.Logs, func(other config.Log) bool { return other.ID == id && other.URL != l.URL })
		if known[id] == l.URL && !moved && !strings.Contains(string(id), "-") {
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
