package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Peer is what a rekor-monitor configuration asks of a run that no other key says.
// Paths are absolute; "" where the configuration names none.
type Peer struct {
	// LogInfo is logInfoFile: where rekor-monitor kept its last checkpoint, from which
	// the first run goes on. It is only read. LogInfoName is the path as written.
	LogInfo, LogInfoName string
	// Metadata is identityMetadataFile: where the index of the last entry that was
	// looked at is written after a run.
	Metadata string
}

// PeerRekor is the log that rekor-monitor watches unless told otherwise.
const PeerRekor = "https://rekor.sigstore.dev"

// peerDefaults fills in what a rekor-monitor file leaves to the flags, as the native
// keys that mean it: `whosigned help from-rekor-monitor` has them in full.
//
// rekor-monitor reads https://rekor.sigstore.dev, of which an hour is more than a run
// can read. So without logs all logs of the trusted root are watched: whoever signs
// with a certificate is in Fulcio's CT logs, which are read in full as Rekor v2 is,
// and what is in Rekor v1 alone (keys) its search index is asked for. A file that
// watches for nothing gets what it got, the consistency of that log; one with a
// range to scan, that range of it; and one with ctShards those CT logs.
//
// A file that says neither logs nor watch is still rekor-monitor's when state, alerts
// or trust are added to it, which is what our own warnings advise.
func (d *document) peerDefaults(top map[string]node) (p Peer) {
	if p.LogInfo = d.peerFile(top["logInfoFile"]); p.LogInfo != "" {
		p.LogInfoName = top["logInfoFile"].text()
	}
	p.Metadata = d.peerOutput(top["identityMetadataFile"])
	scan := !top["startIndex"].none() || !top["endIndex"].none()
	if !slices.ContainsFunc(peerKeys, func(key string) bool { return !top[key].none() }) {
		return p // nobody's
	}
	theirs := top["logs"].none() && top["watch"].none()
	if !theirs {
		if n := top["ctShards"]; !n.none() {
			n.warn("it has no effect beside logs; list each as {type: static-ct, url: \"https://…\"}")
		}
	} else {
		d.peerLogs(top, scan)
	}
	if theirs && top["state"].none() && !scan && !inBucket(d.base) {
		d.peerState(top)
	}
	return p
}

func (d *document) peerLogs(top map[string]node, scan bool) {
	logs := top["logs"]
	if top["trust"].none() && top["trustedRoot"].none() {
		top["trust"] = d.written(logs, "trust", "{tuf: public-good}")
	}
	one := "[{type: rekor-v1, url: " + strconv.Quote(PeerRekor)
	switch shards := top["ctShards"]; {
	case !shards.none():
		top["logs"] = d.ctShards(shards)
		shards.warn("these CT logs are watched, each in full and not only the first, and no others; list logs to choose otherwise")
	case scan:
		top["logs"] = d.written(logs, "logs", one+"}]")
		logs.warn("missing; the range is that of rekor-monitor's default, %s", PeerRekor)
	case top["monitoredValues"].none():
		top["logs"] = d.written(logs, "logs", one+", coverage: consistency}]")
		logs.warn("missing; rekor-monitor's default, %s, is proven to only grow; nothing is read of it, for there are no monitoredValues", PeerRekor)
	default:
		top["logs"] = d.written(logs, "logs", "[{discover: all}]")
		logs.warn("missing; rekor-monitor's default, %s, grows by more than a run can read. All logs of the trusted root are watched instead: "+
			"Fulcio's CT logs, where every certificate is, and Rekor v2 in full; Rekor v1 is proven to only grow, and its search index is asked for what it can be asked for. "+
			"whosigned check lists them; list logs to choose otherwise", PeerRekor)
	}
}

// ctShards are URLs, each with its origin after a comma or without. There they are
// the shards of one static CT log, the newest first.
func (d *document) ctShards(shards node) node {
	var items []string
	for _, item := range shards.listOrOne() {
		url, origin, given := strings.Cut(item.required("give the shard's URL, and its origin after a comma"), ",")
		if url = strings.TrimSpace(url); url == "" {
			continue
		}
		text := "{type: static-ct, url: " + strconv.Quote(url)
		if origin = strings.TrimSpace(origin); given && origin != "" {
			text += ", origin: " + strconv.Quote(origin)
		}
		items = append(items, text+"}")
	}
	return d.written(shards, "logs", "["+strings.Join(items, ", ")+"]")
}

// peerState keeps state beside logInfoFile, else beside the configuration.
func (d *document) peerState(top map[string]node) {
	beside := top["logInfoFile"]
	name := beside.text()
	if beside.none() || name == "" {
		beside, name = top["state"], filepath.Base(d.file)
	}
	name += ".whosigned"
	top["state"] = d.written(beside, "state", strconv.Quote(name))
	beside.warn("what was proven is kept in the folder %s beside it, unless WHOSIGNED_STATE in the environment says where; say state: %s", name, strconv.Quote(name))
}

// peerFile is the path of a file that rekor-monitor reads or writes. There it is
// relative to the working directory, here to the configuration.
func (d *document) peerFile(n node) string {
	text := n.text()
	switch {
	case text == "":
		return ""
	case inBucket(d.base):
		n.warn("it has no effect in a bucket, where there are no files to write")
		return ""
	case inBucket(text):
		n.fail("%q is an object of a bucket; name a file", text)
		return ""
	}
	return d.locate(n, text)
}

// peerOutput is the path of a file that is to be written. Its folder has to be there:
// what cannot be written would be noticed only once there is something to write.
func (d *document) peerOutput(n node) string {
	path := d.peerFile(n)
	if path == "" {
		return ""
	}
	folder, err := os.Stat(filepath.Dir(path))
	if err == nil && !folder.IsDir() {
		err = fmt.Errorf("%s is no folder", filepath.Dir(path))
	}
	if err != nil {
		n.fail("%q cannot be written: %v; make its folder, or name another file", n.text(), err)
		return ""
	}
	if there, err := os.Stat(path); err == nil && there.IsDir() {
		n.fail("%q is a folder; name a file", n.text())
		return ""
	}
	return path
}

// written is a value as if it had been written where n stands.
func (d *document) written(n node, key, text string) node {
	file, err := parser.ParseBytes([]byte(text), 0)
	if err != nil || len(file.Docs) != 1 {
		n.fail("cannot be written as %s: %s", key, fmt.Sprintf("%q: %v", text, err))
		return node{doc: d, key: key, line: n.line}
	}
	ast.Walk(standing(n.line), file.Docs[0].Body)
	return node{doc: d, raw: file.Docs[0].Body, key: key, line: n.line}
}

// standing moves nodes to a line.
type standing int

func (line standing) Visit(n ast.Node) ast.Visitor {
	if named(n) {
		n.GetToken().Position.Line = int(line)
	}
	return line
}
