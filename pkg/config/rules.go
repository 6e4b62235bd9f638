package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/whosigned/whosigned/pkg/watch"
)

// specs are rules on their way to being compiled, with where each field of each
// stands, so that what the compiler finds can be pointed at.
type specs struct {
	rules []watch.Rule
	at    map[string]node
}

func (s *specs) place(rule int, field string, n node) { s.at[fmt.Sprintf("%d %s", rule, field)] = n }

// find is where a field stands, or else the nearest thing around it.
func (s *specs) find(rule int, field string) node {
	for {
		if n, ok := s.at[fmt.Sprintf("%d %s", rule, field)]; ok {
			return n
		}
		if field == "" {
			return node{}
		}
		field = field[:max(0, strings.LastIndexAny(field, ".["))]
	}
}

func (d *document) rules(native, peer node, anchored bool) *watch.Rules {
	s := &specs{at: map[string]node{}}
	for _, item := range native.list() {
		d.rule(s, item)
	}
	d.monitoredValues(s, peer)

	rules, err := watch.Compile(s.rules)
	if err != nil {
		for _, e := range joined(err) {
			var at *watch.RuleError
			if !errors.As(e, &at) {
				native.fail("%v", e)
			} else if n := s.find(at.Rule, at.Field); n.doc != nil {
				n.fail("%v", at.Err)
			} else {
				native.fail("%v", at)
			}
		}
		return nil
	}
	for _, w := range rules.Warnings() {
		if n := s.find(w.Rule, w.Field); n.doc != nil {
			n.warn("%s", w.Text)
		}
	}
	if rules.Len() == 0 && len(d.problems) == 0 {
		native.warn("nothing is watched for: logs are proven, but no signature makes a finding; add watch or monitoredValues")
	}
	for i, r := range s.rules {
		if len(r.Expect) > 0 && r.Signer != watch.Keys && !anchored {
			s.find(i, "expect[0]").warn("a certificate is only expected if its chain is proven, and there are no CA certificates; name trust, a trustedRoot or caRootsFile")
			break
		}
	}
	return rules
}

func joined(err error) []error {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		return many.Unwrap()
	}
	return []error{err}
}

// rule reads one item of watch.
func (d *document) rule(s *specs, n node) {
	i := len(s.rules)
	f := n.fields("name", "subject", "issuer", "fingerprint", "key", "digest", "extensions", "signer", "expect")
	s.place(i, "", n)
	s.place(i, "name", f["name"])
	r := watch.Rule{
		Name:   f["name"].required("a rule needs a name; findings carry it"),
		Clause: d.clause(s, i, "", f),
	}
	r.Digest = d.anyOf(s, i, "digest", f["digest"])
	for _, item := range f["key"].listOrOne() {
		if key, ok := d.key(item); ok {
			s.place(i, fmt.Sprintf("fingerprint[%d]", len(r.Fingerprint)), item)
			r.Fingerprint = append(r.Fingerprint, exact(key.Hex())...)
			r.Keys = append(r.Keys, key.PEM())
		}
	}
	if r.Name == "" { // said above; a stand-in keeps the compiler from saying it again
		r.Name = n.key
	}
	if !f["signer"].none() {
		r.Signer = watch.SignerClass(f["signer"].choice(string(watch.Certificates), string(watch.Keys)))
	}
	for j, item := range f["expect"].list() {
		field := fmt.Sprintf("expect[%d]", j)
		s.place(i, field, item)
		r.Expect = append(r.Expect, d.clause(s, i, field+".", item.fields("subject", "issuer", "fingerprint", "extensions")))
	}
	s.rules = append(s.rules, r)
}

func (d *document) clause(s *specs, rule int, prefix string, f map[string]node) watch.Clause {
	c := watch.Clause{
		Subject:     d.anyOf(s, rule, prefix+"subject", f["subject"]),
		Issuer:      d.anyOf(s, rule, prefix+"issuer", f["issuer"]),
		Fingerprint: d.anyOf(s, rule, prefix+"fingerprint", f["fingerprint"]),
	}
	for j, e := range f["extensions"].entries() {
		field := fmt.Sprintf("%sextensions[%d]", prefix, j)
		s.place(rule, field, e.node)
		c.Extensions = append(c.Extensions, watch.ExtensionPattern{Name: e.name, Value: d.anyOf(s, rule, field+".value", e.node)})
	}
	return c
}

// anyOf reads a pattern or a list of patterns.
func (d *document) anyOf(s *specs, rule int, field string, n node) watch.AnyOf {
	var patterns watch.AnyOf
	for i, item := range n.listOrOne() {
		before := len(d.problems)
		p, at := item.pattern()
		if len(d.problems) > before { // a stand-in, so that nothing is said to be missing
			p = watch.Pattern{How: watch.Exact, Text: "-"}
		}
		s.place(rule, fmt.Sprintf("%s[%d]", field, i), at)
		patterns = append(patterns, p)
	}
	return patterns
}

// pattern reads {exact: …}, {glob: …} or {regex: …}.
func (n node) pattern() (p watch.Pattern, at node) {
	at = n
	if text, ok := n.scalar(); ok {
		n.fail("say how %q is meant: {exact: %q}, {glob: %q} or {regex: %q}", text, text, text, text)
		return p, at
	}
	ways := n.entries()
	for _, e := range ways {
		how := watch.How(e.name)
		switch {
		case how != watch.Exact && how != watch.Glob && how != watch.Regex:
			e.fail("unknown way to match; use exact, glob or regex")
		case p.How != "":
			e.fail("a pattern is one of exact, glob and regex; for any of several, write a list")
		default:
			p, at = watch.Pattern{How: how, Text: e.text()}, e.node
		}
	}
	if len(ways) == 0 {
		n.fail("empty pattern; write {exact: …}, {glob: …} or {regex: …}")
	}
	return p, at
}
