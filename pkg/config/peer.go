package config

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/whosigned/whosigned/pkg/entry"
	"github.com/whosigned/whosigned/pkg/watch"
)

// peerKeys are rekor-monitor's keys that mean the same here; peerIdle are those that
// its released versions pass over too.
var (
	peerKeys = []string{
		"monitoredValues", "startIndex", "endIndex", "caRootsFile", "caIntermediatesFile", "ctShards", "logInfoFile",
		"outputIdentities", "outputIdentitiesFormat", "identityMetadataFile",
		"githubIssue", "gitHubIssue", "emailNotificationSMTP", "emailNotificationMailgun", "emailNotificationSendGrid",
	}
	peerIdle = []string{"serverURL", "interval", "trustedCAs"}
)

// idle warns of keys that rekor-monitor once had, and passes over since v1.4.
func (d *document) idle(top map[string]node) {
	instead := map[string]string{
		"serverURL":  "list the log under logs",
		"interval":   "give it to whosigned run as --every",
		"trustedCAs": "use caRootsFile",
	}
	for _, name := range peerIdle {
		if n := top[name]; !n.none() && !d.refuseSecrets(field{name, n}) {
			n.warn("rekor-monitor passes over this key since v1.4, and so does whosigned; %s", instead[name])
		}
	}
}

// scan reads startIndex and endIndex; nil if there is neither.
func (d *document) scan(from, to node) *Scan {
	if from.none() && to.none() {
		return nil
	}
	const want = "a whole number, 0 or more"
	var s Scan
	if !from.none() {
		s.Start, _ = from.index(want)
	}
	if !to.none() {
		last, ok := to.index(want)
		if ok && last < s.Start {
			to.fail("endIndex %d is before startIndex %d", last, s.Start)
		}
		s.End = min(last, math.MaxInt64-1) + 1
	}
	at, remove := from, "it"
	switch {
	case from.none():
		at = to
	case !to.none():
		remove = "startIndex and endIndex"
	}
	at.warn("the run is a one-off scan of entries %s: no state is kept and, unlike with rekor-monitor, nobody is alerted; outputIdentities and identityMetadataFile are written; remove %s to monitor", s, remove)
	return &s
}

// extensionKeys hold extensions to watch for: an OID as integers, by Fulcio's name,
// or dotted. They stand in oidMatchers or, as in rekor-monitor's older README,
// beside it.
var extensionKeys = []string{"oidExtensions", "fulcioExtensions", "customExtensions"}

// monitoredValues turns rekor-monitor's values into rules, one each, that mean
// what they mean there: regular expressions are unanchored; subjects are those of
// any signer, although documented as those of keys; fingerprints and extension
// values are compared. One value will do where a list is wanted. Unknown keys are
// warnings in native files too: rekor-monitor passes over them, and its rules are
// to be moved here as they are.
func (d *document) monitoredValues(s *specs, n node) {
	f := n.fieldsOr(d.ignored, append([]string{"certIdentities", "subjects", "fingerprints", "oidMatchers"}, extensionKeys...)...)
	for _, item := range f["certIdentities"].listOrOne() {
		d.certIdentity(s, item)
	}
	for _, item := range f["subjects"].listOrOne() {
		if text := item.required("the subject is empty"); text != "" {
			s.add(item, "subject "+text, watch.Rule{Clause: watch.Clause{Subject: search(text)}}, map[string]node{"subject[0]": item})
		}
	}
	for _, item := range f["fingerprints"].listOrOne() {
		if text := item.required("the fingerprint is empty"); text != "" {
			s.add(item, "fingerprint "+text, watch.Rule{Clause: watch.Clause{Fingerprint: exact(text)}}, map[string]node{"fingerprint[0]": item})
		}
	}
	d.oidMatchers(s, f["oidMatchers"])
	d.extensions(s, f["oidExtensions"], f["fulcioExtensions"], f["customExtensions"])
}

func search(text string) watch.AnyOf { return watch.AnyOf{{How: watch.Search, Text: text}} }
func exact(text string) watch.AnyOf  { return watch.AnyOf{{How: watch.Exact, Text: text}} }

// add appends a rule unless there is the same one already; a value listed twice
// would only be found twice.
func (s *specs) add(n node, name string, r watch.Rule, at map[string]node) {
	if slices.ContainsFunc(s.rules, func(other watch.Rule) bool { return other.Compat && other.Name == name }) {
		return
	}
	r.Name, r.Compat = name, true
	i := len(s.rules)
	s.place(i, "", n)
	for field, where := range at {
		s.place(i, field, where)
	}
	s.rules = append(s.rules, r)
}

func (d *document) certIdentity(s *specs, n node) {
	f := n.fieldsOr(d.ignored, "certSubject", "issuers")
	subject := f["certSubject"].required("the subject is empty")
	r := watch.Rule{Signer: watch.Certificates}
	at := map[string]node{"subject[0]": f["certSubject"]}
	var issuers []string
	for i, item := range f["issuers"].listOrOne() {
		text := item.required("the issuer is empty; without issuers any will do")
		issuers = append(issuers, text)
		r.Issuer = append(r.Issuer, watch.Pattern{How: watch.Search, Text: text})
		at[fmt.Sprintf("issuer[%d]", i)] = item
	}
	if subject == "" || slices.Contains(issuers, "") {
		return
	}
	r.Subject = search(subject)
	name := "certSubject " + subject
	if len(issuers) > 0 {
		name += " of " + strings.Join(issuers, " or ")
	}
	s.add(n, name, r, at)
}

// oidMatchers is a mapping; before it was one, it was what oidExtensions is now,
// and for some releases its keys were written in lower case.
func (d *document) oidMatchers(s *specs, n node) {
	if n.isList() {
		d.extensions(s, n, node{}, node{})
		return
	}
	f := n.fieldsOr(d.ignored, append(slices.Clone(extensionKeys), "oidextensions", "fulcioextensions", "customextensions")...)
	d.extensions(s, f["oidExtensions"], f["fulcioExtensions"], f["customExtensions"])
	d.extensions(s, f["oidextensions"], f["fulcioextensions"], f["customextensions"])
}

func (d *document) extensions(s *specs, oids, fulcio, custom node) {
	for _, item := range slices.Concat(oids.listOrOne(), custom.listOrOne()) {
		e := item.fieldsOr(d.ignored, "objectIdentifier", "extensionValues")
		oid := e["objectIdentifier"].oid()
		if oid == "" {
			continue
		}
		d.extension(s, e["objectIdentifier"], oid, e["extensionValues"])
	}
	for _, e := range fulcio.entries() {
		// The names are keys here, so an unknown one is passed over too. What looks like
		// an OID is left to the rules' compiler.
		if _, ok := entry.ExtensionOID(e.name); !ok && !strings.Contains(e.name, ".") {
			e.warn("unknown extension; it is ignored; use one of Fulcio's names, such as build-signer-uri, or customExtensions for an OID")
			continue
		}
		d.extension(s, e.node, e.name, e.node)
	}
}

// oid is dotted, or a list of integers.
func (n node) oid() string {
	if !n.isList() {
		return n.required("give an OID, such as 1.3.6.1.4.1.57264.1.9 or [1, 3, 6, 1, 4, 1, 57264, 1, 9]")
	}
	var arcs []string
	for _, item := range n.list() {
		arcs = append(arcs, item.text())
	}
	if len(arcs) == 0 {
		n.fail("the OID is empty")
	}
	return strings.Join(arcs, ".")
}

func (d *document) extension(s *specs, at node, name string, values node) {
	r := watch.Rule{Signer: watch.Certificates}
	e := watch.ExtensionPattern{Name: name}
	var texts []string
	for _, item := range values.listOrOne() {
		text := item.required("the value is empty")
		if text == "" {
			return
		}
		texts = append(texts, text)
		e.Value = append(e.Value, watch.Pattern{How: watch.Exact, Text: text})
	}
	if len(texts) == 0 {
		values.fail("no values to match; list them")
		return
	}
	r.Extensions = []watch.ExtensionPattern{e}
	s.add(at, fmt.Sprintf("extension %s %s", name, strings.Join(texts, " or ")), r, map[string]node{"extensions[0]": at})
}
