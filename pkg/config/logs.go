package config

import (
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/whosigned/whosigned/pkg/bucket"
	"github.com/whosigned/whosigned/pkg/tlog"
	"github.com/whosigned/whosigned/pkg/trust"
)

func (d *document) state(n node, optional bool) string {
	if n.none() {
		if !optional && !inBucket(d.base) {
			n.warn("missing; say where to keep what was proven, such as state: file:///var/lib/whosigned or state: gs://bucket/prefix, unless WHOSIGNED_STATE in the environment does")
		}
		return ""
	}
	text := n.text()
	if text == "" {
		return ""
	}
	folder := func(path string) string { return (&url.URL{Scheme: "file", Path: path}).String() }
	scheme, _, hasScheme := strings.Cut(text, "://")
	if !hasScheme && !filepath.IsAbs(text) {
		at := d.locate(n, text)
		if inBucket(at) || at == "" {
			return at
		}
		return folder(at)
	}
	if scheme == "gs" {
		if _, _, err := bucket.Split(text); err != nil {
			n.fail("%v", err)
			return ""
		}
		return strings.TrimSuffix(text, "/")
	}
	if inBucket(d.base) {
		n.warn("a folder is lost with the instance that a function runs in; use gs://bucket/prefix")
	}
	if !hasScheme {
		return folder(filepath.Clean(text))
	}
	u, err := url.Parse(text)
	switch {
	case scheme != "file" || err != nil:
		n.fail("%q is not a place for state; use file:///absolute/path or gs://bucket/prefix", text)
	case u.Host != "" || !filepath.IsAbs(u.Path) || u.RawQuery != "" || u.Fragment != "":
		n.fail("%q is not absolute; write file:///absolute/path, or a path relative to this file without file://", text)
	default:
		return folder(filepath.Clean(u.Path))
	}
	return ""
}

// trustedRoot reads the trusted root; nil if there is none.
func (d *document) trustedRoot(n node) *trust.Root {
	text := n.text()
	if text == "" {
		return nil
	}
	at := d.locate(n, text)
	if at == "" {
		return nil
	}
	root, err := trust.ReadTrustedRoot(at, d.read)
	if err != nil {
		n.fail("%v", err)
		return nil
	}
	for _, w := range root.Warnings {
		n.warn("%s", w)
	}
	return root
}

// chains are the CA certificates of caRootsFile, else the trusted root's.
func (d *document) chains(root *trust.Root, roots, intermediates node) *trust.Chains {
	if roots.none() {
		if !intermediates.none() {
			intermediates.fail("needs caRootsFile beside it; intermediates alone anchor nothing")
		}
		if root != nil {
			return root.Chains
		}
		return &trust.Chains{}
	}
	before := len(d.problems)
	first := d.locate(roots, roots.text())
	second := intermediates.text()
	if second != "" {
		second = d.locate(intermediates, second)
	}
	if len(d.problems) > before {
		return &trust.Chains{}
	}
	chains, err := trust.ReadChains(first, second, d.read)
	if err != nil {
		roots.fail("%v", err)
		return &trust.Chains{}
	}
	return chains
}

func (d *document) logs(n node, root *trust.Root, quiet node) []Log {
	items := n.list()
	if n.none() || n.isList() && len(items) == 0 {
		text := "no logs to watch"
		if !d.native {
			text += " (rekor-monitor's default, the public logs, comes in a later release)"
		}
		n.fail("%s; list them, such as logs: [{type: rekor-v1, url: \"https://rekor.example.com\", key: rekor.pub}]", text)
		return nil
	}
	var logs []Log
	for _, item := range items {
		l, ok := d.log(item, root, quiet)
		if !ok {
			continue
		}
		for _, other := range logs {
			if l.URL == other.URL || l.Type == tlog.RekorV2 && other.Type == tlog.RekorV2 && l.Keys[0].LogID == other.Keys[0].LogID {
				item.fail("two entries for one log: %s is listed at %s too; remove one", l.URL, other.Where)
			}
		}
		logs = append(logs, l)
	}
	return logs
}

func (d *document) log(n node, root *trust.Root, quiet node) (Log, bool) {
	before := len(d.problems)
	f := n.fields("type", "url", "key", "origin", "start", "coverage", "accept_lag", "insecure", "quiet_after")
	l := Log{
		AcceptLag: f["accept_lag"].boolean(),
		Insecure:  f["insecure"].boolean(),
		Where:     d.where(n.line),
	}
	l.Type = logType(f["type"])
	l.URL = logURL(f["url"], l.Insecure)
	l.Coverage = coverage(f["coverage"])
	l.Start = start(f["start"])
	origin := f["origin"].text()
	if l.Type == tlog.RekorV2 {
		_, l.Origin, _ = strings.Cut(l.URL, "://")
		if origin != "" {
			l.Origin = origin
		}
	} else if l.Type == tlog.RekorV1 && origin != "" {
		f["origin"].fail("a rekor-v1 service has an origin per tree, and it may change; remove the key")
	}
	l.QuietAfter = quietAfter(l.URL, f["quiet_after"], quiet)
	if len(d.problems) > before { // keys are looked up by what was wrong
		return l, false
	}
	l.Keys, l.Retired = d.keys(f["key"], l, root)
	return l, len(d.problems) == before
}

func logType(n node) tlog.Type {
	text := n.required("use rekor-v1 or rekor-v2")
	switch t := tlog.Type(text); t {
	case "", tlog.RekorV1, tlog.RekorV2:
		return t
	case tlog.RFC6962, tlog.StaticCT:
		n.fail("certificate transparency logs (%s) are read by a later release; use rekor-v1 or rekor-v2", t)
	default:
		n.fail("unknown type %q; use rekor-v1 or rekor-v2", text)
	}
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

func coverage(n node) Coverage {
	switch c := Coverage(n.text()); c {
	case "", Full:
		return Full
	case Consistency:
		return c
	case "index":
		n.fail("coverage: index comes in a later release; use full or consistency")
	default:
		n.fail("unknown coverage %q; use full or consistency", c)
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
	if u, err := url.Parse(base); err == nil && (u.Hostname() == "sigstore.dev" || strings.HasSuffix(u.Hostname(), ".sigstore.dev")) {
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

// keys are those listed, or those that the trusted root has for the URL.
func (d *document) keys(n node, l Log, root *trust.Root) (keys []tlog.Key, retired bool) {
	before := len(d.problems)
	for _, item := range n.listOrOne() {
		key, ok := d.key(item)
		if !ok {
			continue
		}
		if l.Type == tlog.RekorV2 {
			key.LogID = key.OriginID(l.Origin)
		}
		if slices.ContainsFunc(keys, func(k tlog.Key) bool { return k.LogID == key.LogID }) {
			item.fail("this key is listed twice; remove one")
		}
		keys = append(keys, key)
	}
	if !n.none() {
		if len(keys) == 0 && len(d.problems) == before {
			n.fail("the list is empty; name the log's public key, or remove the key to look it up in trustedRoot")
		}
		if l.Type == tlog.RekorV2 && len(keys) > 1 {
			n.fail("%d keys; a rekor-v2 log has one, which its ID is made of: keep that one, list other shards as logs of their own, "+
				"and take a new key of this one with whosigned accept --key", len(keys))
		}
		return keys, false
	}
	if root == nil {
		n.fail("missing; give the log's public key (a file, or PEM inline), or name a trustedRoot that has it")
		return nil, false
	}
	found := root.At(l.URL)
	if len(found) == 0 {
		n.fail("missing, and the trusted root has no log at %s, only %s", l.URL, strings.Join(urls(root), ", "))
		return nil, false
	}
	retired = true
	for _, known := range found {
		if known.Type != "" && known.Type != l.Type {
			n.fail("the trusted root's log at %s is of type %s, not %s", l.URL, known.Type, l.Type)
			return nil, false
		}
		if l.Type == tlog.RekorV2 && len(keys) > 0 {
			if keys[0].LogID != known.Key.LogID {
				n.fail("missing, and the trusted root has several logs at %s, with IDs %s and %s; a rekor-v2 log has one key: give that of the log you mean", l.URL, keys[0].Hex(), known.Key.Hex())
				return nil, false
			}
		} else {
			keys = append(keys, known.Key)
		}
		retired = retired && known.Retired(time.Now())
	}
	return keys, retired
}

func urls(root *trust.Root) []string {
	var all []string
	for _, l := range root.Rekor {
		if !slices.Contains(all, l.URL) {
			all = append(all, l.URL)
		}
	}
	if len(all) == 0 {
		return []string{"none at all"}
	}
	return all
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
