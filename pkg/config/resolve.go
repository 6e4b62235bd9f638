package config

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/trust"
)

// listed is an item of logs as written. Which log it means, and under which key, may
// be for the trusted root to say.
type listed struct {
	log       Log
	id        tlog.ID // names a log of the trusted root
	exclude   bool
	given     map[string]bool // the keys that it has
	at, keyAt Problem         // where it and its key stand
}

func (p Problem) saying(format string, args ...any) Problem {
	p.Text = fmt.Sprintf(format, args...)
	return p
}

func (d *document) problemAt(n node) Problem { return Problem{File: d.file, Line: n.line, Key: n.key} }

// means says whether the item is about a log of the trusted root.
func (l *listed) means(known *Log) bool {
	if l.id != "" {
		return l.id == known.ID || slices.ContainsFunc(known.Keys, func(k tlog.Key) bool { return tlog.ID(k.Hex()) == l.id })
	}
	_, host, _ := strings.Cut(known.URL, "://")
	return l.given["url"] && strings.EqualFold(l.log.URL, known.URL) ||
		l.given["origin"] && (l.log.Origin == known.Origin || l.log.Origin == host)
}

// change makes of a discovered log what the item wants of it.
func (l *listed) change(known *Log) {
	known.Where, known.at = l.log.Where, l.at
	for name, set := range map[string]func(){
		"url":         func() { known.URL = l.log.URL },
		"coverage":    func() { known.Coverage = l.log.Coverage },
		"start":       func() { known.Start = l.log.Start },
		"accept_lag":  func() { known.AcceptLag = l.log.AcceptLag },
		"insecure":    func() { known.Insecure = l.log.Insecure },
		"quiet_after": func() { known.QuietAfter, known.QuietGiven = l.log.QuietAfter, true },
		"key":         func() { known.Keys, known.FromRoot = l.log.Keys, false },
	} {
		if l.given[name] {
			set()
		}
	}
	if l.given["type"] {
		if l.log.Type == tlog.RekorV2 && known.Type == tlog.RekorV1 {
			*known = known.AsShard()
		}
		known.Type = l.log.Type
	}
	if l.given["origin"] && (l.given["url"] || l.id != "") { // else it is what names the log
		known.Origin = l.log.Origin
	}
}

// AsShard makes a Rekor v2 shard of what looks like a Rekor v1 service in the trusted
// root: with an ECDSA key, both have the hash of the key alone for their ID.
func (l Log) AsShard() Log {
	l.Type, l.ID, l.Keys = tlog.RekorV2, tlog.ID(l.Keys[0].Hex()), l.Keys[:1]
	_, l.Origin, _ = strings.Cut(l.URL, "://")
	if l.Coverage == Index {
		l.Coverage = Full
	}
	return l
}

// Resolve returns the configuration as it is under a trusted root that a TUF
// repository gave out: with the logs that are to be watched and with its CA
// certificates. What the configuration asks for and the root does not have is a
// problem of that log only. Earlier roots are asked for the key of a log by hand that
// this one has none for: it is Gone then, and goes on under that key.
func (c *Config) Resolve(root *trust.Root, earlier ...*trust.Root) (*Config, []Problem) {
	resolved := *c
	resolved.Warnings = slices.Clone(c.Warnings)
	problems := resolved.resolve(root, time.Now(), earlier...)
	if !c.ownCAs {
		resolved.Chains = root.Chains
	}
	for _, w := range root.Warnings {
		resolved.Warnings = append(resolved.Warnings, "trusted root: "+w)
	}
	return &resolved, problems
}

// WithoutRoot is the configuration as it is while there is no trusted root: with the
// logs whose keys it names itself.
func (c *Config) WithoutRoot() *Config {
	alone := *c
	alone.Warnings = slices.Clone(c.Warnings)
	alone.resolve(nil, time.Now())
	return &alone
}

// Change makes of a log what the configuration's items about it want, and reports
// whether they exclude it.
func (c *Config) Change(l *Log) (excluded bool) {
	for i := range c.listed {
		if item := &c.listed[i]; item.means(l) {
			item.change(l)
			excluded = excluded || item.exclude
		}
	}
	return excluded
}

// resolve is Resolve for a configuration whose trusted root is at hand.
func (d *document) resolve(cfg *Config, n node) {
	if len(d.problems) > 0 || cfg.Trust != nil {
		return
	}
	problems := cfg.resolve(cfg.root, time.Now())
	for _, p := range problems {
		d.fail(p.Line, p.Key, "%s", p.Text)
	}
	if len(cfg.Logs) == 0 && len(d.problems) == 0 {
		n.fail("no log is left to watch")
	}
}

// resolve sets Logs and Found.
func (c *Config) resolve(root *trust.Root, now time.Time, earlier ...*trust.Root) (problems []Problem) {
	var logs []Log
	if root != nil {
		c.Unusable = root.Warnings
	}
	if c.Discover && root != nil {
		c.Found = c.discovered(root, now)
		logs = slices.Clone(c.Found)
	}
	changed := map[int]*listed{} // by index in logs
	var excluded []int
	for i := range c.listed {
		item := &c.listed[i]
		var hits []int
		for j := range logs {
			if logs[j].Discovered && item.means(&logs[j]) {
				hits = append(hits, j)
			}
		}
		switch {
		case len(hits) == 0 && (item.exclude || item.id != "" || item.log.Type == ""):
			none := item.at.saying("the trusted root has no such log; it lists %s", names(logs))
			if c.Trust == nil {
				problems = append(problems, none)
			} else if root != nil { // it may have listed it, and it may come to
				c.Warnings = append(c.Warnings, none.String())
			}
		case len(hits) == 0:
			l, problem := item.alone(root, now, earlier...)
			if problem != nil {
				problems = append(problems, *problem)
				continue
			}
			logs = append(logs, l)
		default:
			for _, j := range hits {
				if other := changed[j]; other != nil {
					problems = append(problems, item.at.saying("two items for one log: %s is changed at line %d too; remove one", logs[j].URL, other.at.Line))
				}
				changed[j] = item
				if item.exclude {
					excluded = append(excluded, j)
				}
				problems = append(problems, item.fits(&logs[j])...)
				item.change(&logs[j])
			}
		}
	}
	slices.Sort(excluded)
	for _, j := range slices.Backward(excluded) {
		logs = slices.Delete(logs, j, j+1)
	}
	c.Logs = logs
	problems = append(problems, c.indexed()...)
	return append(problems, twice(logs)...)
}

// fits says what is wrong with changing a discovered log that way.
func (l *listed) fits(known *Log) []Problem {
	switch {
	case l.given["type"] && l.log.Kind != known.Kind:
		return []Problem{l.at.saying("the trusted root's log at %s is not of type %s", known.URL, l.log.Type)}
	case l.given["coverage"] && l.log.Coverage == Index && known.Type != tlog.RekorV1:
		return []Problem{l.at.saying("only Rekor v1 has a search index; use coverage: full or consistency")}
	}
	return nil
}

// twice finds logs that are listed twice.
func twice(logs []Log) (problems []Problem) {
	for i, l := range logs {
		for _, other := range logs[:i] {
			if l.ID != "" && l.ID == other.ID || l.URL == other.URL && (l.Type == other.Type && l.ID == "" || !l.Discovered) {
				problems = append(problems, l.at.saying("two entries for one log: %s is listed at %s too; remove one", l.URL, other.Where))
			}
		}
	}
	return problems
}

// discovered are the logs of the trusted root: every Rekor v1 service, Rekor v2 shard
// and CT log.
func (c *Config) discovered(root *trust.Root, now time.Time) (logs []Log) {
	add := func(known trust.Log, kind Kind) {
		l := Log{
			Type: known.Type, Kind: kind, URL: known.URL, ID: tlog.ID(known.Key.Hex()), Keys: []tlog.Key{known.Key}, Origin: known.Origin,
			Start: Start{Head: true}, Coverage: c.DefaultCoverage(known.Type, known.URL), QuietAfter: c.QuietAfter, Since: known.Start, Retired: known.Retired(now), Discovered: true, FromRoot: true, Where: "the trusted root",
		}
		if l.QuietAfter == 0 && public(l.URL) {
			l.QuietAfter = 24 * time.Hour
		}
		if l.Type != tlog.RekorV1 {
			i := slices.IndexFunc(logs, func(other Log) bool { return other.ID == l.ID })
			if i < 0 {
				logs = append(logs, l)
				return
			}
			if logs[i].Retired && !l.Retired {
				l, logs[i] = logs[i], l
			}
			c.Warnings = append(c.Warnings, fmt.Sprintf("the trusted root lists log %s twice, at %s and at %s: it is watched at the first", l.ID, logs[i].URL, l.URL))
			return
		}
		// A service is listed once for each of its keys.
		l.ID, l.Origin = "", ""
		for i := range logs {
			if logs[i].Type == tlog.RekorV1 && strings.EqualFold(logs[i].URL, l.URL) {
				if !slices.ContainsFunc(logs[i].Keys, func(k tlog.Key) bool { return k.LogID == known.Key.LogID }) {
					logs[i].Keys = append(logs[i].Keys, known.Key)
				}
				logs[i].Retired = logs[i].Retired && l.Retired
				return
			}
		}
		logs = append(logs, l)
	}
	for _, known := range root.Rekor {
		add(known, Rekor)
	}
	for _, known := range root.CT {
		add(known, CT)
	}
	return logs
}

// withoutReading is how a log is watched that is too large to be read: by its search
// index, if there is anything that it can be asked for.
func (c *Config) withoutReading() Coverage {
	if queries, _ := c.Rules.Queries(); len(queries) > 0 {
		return Index
	}
	return Consistency
}

// indexed says of logs that are watched by their search index what it cannot be asked
// for.
func (c *Config) indexed() (problems []Problem) {
	said := false
	for _, l := range c.Logs {
		if l.Coverage != Index {
			continue
		}
		uncovered, refused := c.Rules.CheckQueries()
		if refused != nil {
			problems = append(problems, l.at.saying("%v", refused))
			continue
		}
		for _, text := range uncovered {
			if !said {
				c.Warnings = append(c.Warnings, fmt.Sprintf("%s: %s", l.Where, text))
			}
		}
		said = true
	}
	return problems
}

// alone is the log of an item that is not about a discovered one: with its own key,
// or with those that the trusted root, else an earlier one, has for its URL.
func (l *listed) alone(root *trust.Root, now time.Time, earlier ...*trust.Root) (Log, *Problem) {
	out := l.log
	wrong := func(format string, args ...any) (Log, *Problem) {
		p := l.keyAt.saying(format, args...)
		return out, &p
	}
	if len(out.Keys) > 0 {
		if out.Type != tlog.RekorV1 {
			out.ID = tlog.ID(hex.EncodeToString(out.Keys[0].LogID[:]))
		}
		return out, nil
	}
	if root == nil {
		return wrong("missing; give the log's public key (a file, or PEM inline), or name a trusted root that has it: trust or trustedRoot")
	}
	found := at(root, out)
	for i := 0; len(found) == 0 && i < len(earlier); i++ {
		found = at(earlier[i], out)
		out.Gone = len(found) > 0
	}
	if len(found) == 0 {
		return wrong("missing, and the trusted root has no log at %s, only %s", out.URL, urls(root, out.Kind))
	}
	out.Retired, out.FromRoot, out.Since = true, true, found[0].Start
	for _, known := range found {
		if known.Type != "" && known.Type != out.Type {
			return wrong("the trusted root's log at %s is of type %s, not %s", out.URL, known.Type, out.Type)
		}
		if len(out.Keys) > 0 && out.Type != tlog.RekorV1 {
			if out.Keys[0].LogID != known.Key.LogID {
				return wrong("missing, and the trusted root has several logs at %s, with IDs %s and %s; give the key of the log you mean", out.URL, out.Keys[0].Hex(), known.Key.Hex())
			}
			continue
		}
		out.Keys = append(out.Keys, known.Key)
		out.Retired = out.Retired && (out.Gone || known.Retired(now))
	}
	if out.Type != tlog.RekorV1 {
		out.ID = tlog.ID(out.Keys[0].Hex())
	}
	return out, nil
}

// at are the keys that a trusted root has for a log's URL.
func at(root *trust.Root, l Log) []trust.Log {
	if l.Kind == CT {
		return root.CTAt(l.URL)
	}
	return root.At(l.URL)
}

// DefaultCoverage is how a log of the trusted root is watched that no item is about.
func (c *Config) DefaultCoverage(t tlog.Type, url string) Coverage {
	if t == tlog.RekorV1 && public(url) { // more than a run can read
		return c.withoutReading()
	}
	return Full
}

func urls(root *trust.Root, kind Kind) string {
	logs := root.Rekor
	if kind == CT {
		logs = root.CT
	}
	var all []string
	for _, l := range logs {
		if !slices.Contains(all, l.URL) {
			all = append(all, l.URL)
		}
	}
	return cmp.Or(strings.Join(all, ", "), "none at all")
}

func names(logs []Log) string {
	var all []string
	for _, l := range logs {
		if l.Discovered {
			all = append(all, l.URL)
		}
	}
	return cmp.Or(strings.Join(all, ", "), "none at all")
}

// InsecureHosts are those that may be asked over http:// although they are not
// loopback.
func (c *Config) InsecureHosts() []string {
	var hosts []string
	for _, l := range c.listed {
		if u, err := url.Parse(l.log.URL); err == nil && l.log.Insecure {
			hosts = append(hosts, u.Host)
		}
	}
	return hosts
}
