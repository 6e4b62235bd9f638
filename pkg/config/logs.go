package config

import (
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/whosigned/whosigned/pkg/tlog"
)

// logItem are the keys of an item of logs.
var logItem = []string{"type", "url", "key", "origin", "start", "coverage", "accept_lag", "insecure", "quiet_after", "id", "exclude", "discover"}

func (d *document) logs(cfg *Config, n node, quiet node) {
	items := n.list()
	if n.none() || n.isList() && len(items) == 0 {
		n.fail("no logs to watch; list them, such as logs: [{type: rekor-v1, url: \"https://rekor.example.com\", key: rekor.pub}], " +
			"or watch all of a trusted root: trust: {tuf: public-good} and logs: [{discover: all}]")
		return
	}
	for _, item := range items {
		f := item.fields(logItem...)
		if !f["discover"].none() {
			d.discover(cfg, item, f)
		}
	}
	for _, item := range items {
		if f := item.fields(logItem...); f["discover"].none() {
			d.log(cfg, item, f, quiet)
		}
	}
}

// discover is the item that stands for every log of the trusted root.
func (d *document) discover(cfg *Config, item node, f map[string]node) {
	if text := f["discover"].text(); text != "all" {
		f["discover"].fail("unknown value %q; use all, and change or exclude single logs by items of their own", text)
	}
	for name, other := range f {
		if name != "discover" && !other.none() {
			other.fail("not beside discover; write an item of its own, such as {url: \"https://…\", %s: …}, for each log that shall differ", name)
		}
	}
	if cfg.Trust == nil && cfg.root == nil && len(d.problems) == 0 {
		item.fail("there is no trusted root to find logs in; add trust: {tuf: public-good}, or trustedRoot: FILE")
	}
	cfg.Discover = true
}

// log reads one item. It stands for a log of its own or, if it has no type or names
// one that the trusted root lists, changes that one.
func (d *document) log(cfg *Config, n node, f map[string]node, quiet node) {
	before := len(d.problems)
	l := listed{at: d.problemAt(n), keyAt: d.problemAt(f["key"]), given: map[string]bool{}}
	for name, value := range f {
		l.given[name] = !value.none()
	}
	l.log = Log{
		AcceptLag: f["accept_lag"].boolean(),
		Insecure:  f["insecure"].boolean(),
		Where:     d.where(n.line),
		at:        d.problemAt(n),
	}
	l.exclude = f["exclude"].boolean()
	if l.exclude && !cfg.Discover {
		f["exclude"].fail("only beside {discover: all}; a log that is not listed is not watched")
	}
	l.id = logID(f["id"])
	if l.given["id"] && !cfg.Discover {
		f["id"].fail("only beside {discover: all}, to change a log of the trusted root")
	}
	named := l.given["id"] || cfg.Discover && (l.given["url"] || l.given["origin"])
	l.log.Type = logType(f["type"], named)
	l.log.Kind = kindOf(l.log.Type)
	if l.given["insecure"] && !l.given["url"] {
		f["insecure"].fail("only beside url: it is said of a host, and the trusted root may list another later")
	}
	if l.given["url"] || !named {
		l.log.URL = logURL(f["url"], l.log.Insecure)
	}
	l.log.Coverage = coverage(f["coverage"], l.log.Type)
	l.log.Start = start(f["start"])
	l.log.Origin = f["origin"].text()
	if l.log.Type == tlog.RekorV1 && l.log.Origin != "" {
		f["origin"].fail("a rekor-v1 service has an origin per tree, and it may change; remove the key")
	}
	if l.log.Type == tlog.RekorV2 && l.log.Origin == "" {
		_, l.log.Origin, _ = strings.Cut(l.log.URL, "://")
	}
	l.log.QuietAfter = quietAfter(l.log.URL, f["quiet_after"], quiet)
	if len(d.problems) > before {
		return
	}
	l.log.Keys = d.keys(f["key"], l)
	if len(d.problems) == before {
		cfg.listed = append(cfg.listed, l)
	}
}

func kindOf(t tlog.Type) Kind {
	switch t {
	case tlog.RekorV1, tlog.RekorV2:
		return Rekor
	case tlog.RFC6962, tlog.StaticCT:
		return CT
	}
	return ""
}

func logID(n node) tlog.ID {
	text := n.text()
	if text == "" {
		return ""
	}
	id, err := tlog.ParseID(text)
	if err == nil && strings.Contains(text, "-") {
		n.fail("%q names one tree of a service; give the ID of the service's key, its first 64 digits", text)
		return ""
	}
	if err != nil {
		n.fail("%v, as whosigned check shows them", err)
	}
	return id
}

const types = "rekor-v1, rekor-v2, rfc6962 or static-ct"

// logType is what an item says, or "" if it may be left to the trusted root.
func logType(n node, optional bool) tlog.Type {
	text := n.text()
	if text == "" && !optional {
		n.required("use " + types)
	}
	switch t := tlog.Type(text); t {
	case "", tlog.RekorV1, tlog.RekorV2, tlog.RFC6962, tlog.StaticCT:
		return t
	}
	n.fail("unknown type %q; use %s", text, types)
	return ""
}

func logURL(n node, insecure bool) string {
	text := n.required("give the log's base URL, such as https://rekor.example.com")
	if text == "" {
		return ""
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		n.fail("%q is not a URL; write it like https://rekor.example.com", text)
		return ""
	case u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		n.fail("%q is not an http:// or https:// URL", text)
		return ""
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		n.fail("%q has a user, query or fragment; give the base URL alone", u.Redacted())
		return ""
	case u.Scheme == "http" && !loopback(u.Hostname()) && !insecure:
		n.fail("http:// to %s can be altered on the way; use https://, or say insecure: true", u.Hostname())
		return ""
	}
	u.Host = strings.ToLower(u.Host)
	return strings.TrimRight(u.String(), "/")
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

func coverage(n node, t tlog.Type) Coverage {
	switch c := Coverage(n.text()); c {
	case "", Full:
		return Full
	case Consistency:
		return c
	case Index:
		if t != tlog.RekorV1 && t != "" {
			n.fail("only Rekor v1 has a search index, and this log is of type %s; use full or consistency", t)
		}
		return c
	default:
		n.fail("unknown coverage %q; use full, consistency or, for Rekor v1, index", c)
	}
	return Full
}

func start(n node) Start {
	if n.none() || n.text() == "head" {
		return Start{Head: true, Given: !n.none()}
	}
	i, _ := n.index("head, or the index to start from, 0 or more")
	return Start{Index: i, Given: true}
}

// quietAfter: the log's own, else the configuration's, else a day for public logs.
func quietAfter(base string, own, common node) time.Duration {
	def := time.Duration(0)
	if public(base) {
		def = 24 * time.Hour
	}
	if own.none() && !common.none() {
		t, err := time.ParseDuration(common.text()) // what is wrong with it was said once, for all logs
		if err != nil {
			return def
		}
		return t
	}
	return own.duration(def)
}

// public says whether a log is one of Sigstore's own.
func public(base string) bool {
	u, err := url.Parse(base)
	if err != nil {
		return false
	}
	host := u.Hostname()
	return slices.ContainsFunc([]string{"sigstore.dev", "sigstage.dev"}, func(domain string) bool {
		return host == domain || strings.HasSuffix(host, "."+domain)
	})
}

// keys are those that an item lists; none if the trusted root shall have them.
func (d *document) keys(n node, l listed) (keys []tlog.Key) {
	before := len(d.problems)
	for _, item := range n.listOrOne() {
		key, ok := d.key(item)
		if !ok {
			continue
		}
		if l.log.Type == tlog.RekorV2 {
			key.LogID = key.OriginID(l.log.Origin)
		}
		if slices.ContainsFunc(keys, func(k tlog.Key) bool { return k.LogID == key.LogID }) {
			item.fail("this key is listed twice; remove one")
		}
		keys = append(keys, key)
	}
	if n.none() || len(d.problems) > before {
		return keys
	}
	if len(keys) == 0 {
		n.fail("the list is empty; name the log's public key, or remove the key to look it up in the trusted root")
	}
	if l.log.Type != tlog.RekorV1 && len(keys) > 1 {
		n.fail("%d keys; a log has one, which its ID is made of (only a rekor-v1 service has several): keep that one, list other shards as logs of their own, "+
			"and take a new key of this one with whosigned accept --key", len(keys))
	}
	return keys
}

func (d *document) key(n node) (tlog.Key, bool) {
	text := n.text()
	if text == "" {
		n.fail("missing; give a file with the log's public key, or PEM inline")
		return tlog.Key{}, false
	}
	pem := []byte(text)
	if !strings.Contains(text, "-----BEGIN") {
		at := d.locate(n, text)
		if at == "" {
			return tlog.Key{}, false
		}
		var err error
		if pem, err = d.read(at); err != nil {
			n.fail("cannot read the key: %v", err)
			return tlog.Key{}, false
		}
	}
	key, err := tlog.ParseKeyPEM(pem)
	if err != nil {
		n.fail("%v; want a PEM block of type PUBLIC KEY", err)
		return tlog.Key{}, false
	}
	return key, true
}
