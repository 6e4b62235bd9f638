package config

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
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
	var s Scan
	if !from.none() {
		s.Start, _ = from.peerIndex()
	}
	if !to.none() {
		last, ok := to.peerIndex()
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
	if from.none() {
		to.warn("startIndex is missing, so the scan begins at entry 0; rekor-monitor begins at its last checkpoint, and reads nothing if there is none; give startIndex to begin elsewhere")
	}
	at.warn("the run is a one-off scan of entries %s: no state is kept and, unlike with rekor-monitor, nobody is alerted; outputIdentities and identityMetadataFile are written; remove %s to monitor", s, remove)
	return &s
}

// peerIndex is startIndex or endIndex as rekor-monitor's parser (gopkg.in/yaml.v2 v2.4.0)
// reads it: 010 is octal, 0x10, 0o10 and 0b10 are what they are in Go, 08, 5.0 and 1e3
// are decimal. A fraction, which is cut off there, is a problem.
func (n node) peerIndex() (i uint64, ok bool) {
	text := strings.ReplaceAll(n.text(), "_", "")
	i, err := strconv.ParseUint(strings.TrimPrefix(text, "+"), 0, 64)
	const exact = 1 << 53 // beyond it a float has gaps
	if f, none := strconv.ParseFloat(text, 64); err != nil && none == nil && 0 <= f && f <= exact && f == math.Trunc(f) {
		i, err = uint64(f), nil
	}
	if err != nil || i >= math.MaxInt64 {
		n.fail("%q is not an index; write a whole number, 0 or more", n.text())
		return 0, false
	}
	if strconv.FormatUint(i, 10) != text {
		n.warn("%q is read as %d, as by rekor-monitor; write %d", n.text(), i, i)
	}
	return i, true
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
// would only be found twice. Names are made of values, so different rules may come to
// the same one: a name that is taken gets a number.
func (s *specs) add(n node, name string, r watch.Rule, at map[string]node) {
	r.Name, r.Compat = name, true
	for number := 2; ; number++ {
		taken := slices.IndexFunc(s.rules, func(other watch.Rule) bool { return other.Compat && other.Name == r.Name })
		if taken < 0 {
			break
		}
		if reflect.DeepEqual(s.rules[taken], r) {
			return
		}
		r.Name = fmt.Sprintf("%s (%d)", name, number)
	}
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
		// As templates make them; rekor-monitor passes over these, but not over the same in
		// the other two.
		if len(e.listOrOne()) == 0 {
			e.warn("no values to match, so nothing is watched for; list them, or remove the key")
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
