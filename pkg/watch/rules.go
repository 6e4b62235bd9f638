// Package watch turns rules into findings: [Compile] checks and compiles what the
// user watches for once, [Rules.Match] says which signers of an entry fit.
//
// It keeps its share of P2 (no finding is lost): a certificate that does not chain
// to a trusted CA still makes a finding, labelled so, and an expect clause never
// hides a finding. It only marks one as expected, and only if the chain is proven
// trusted or the signer is a key, and only if every subject fits.
package watch

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/whosigned/whosigned/pkg/entry"
)

// Rule is what the user watches for. A signer fits if all of the rule's clause
// does, and one of the entry's digests if the rule names any.
type Rule struct {
	Name string `json:"name"` // unique; findings carry it
	Clause
	// Digest is the artifact's, as entries have it: "sha256:<hex>".
	Digest AnyOf `json:"digest,omitempty"`
	// Keys are public keys, PEM, whose fingerprints the clause has: a search index
	// knows a key by its text.
	Keys   []string    `json:"keys,omitempty"`
	Signer SignerClass `json:"signer,omitempty"`
	// Expect are clauses of which one has to fit for a finding to be routine.
	Expect []Clause `json:"expect,omitempty"`
	// Compat keeps rekor-monitor's semantics where they are narrower: a certificate
	// has to name an OIDC issuer for its subject to fit, a fingerprint is the
	// signer's own and not that of a certificate's key, and an empty extension
	// never fits.
	Compat bool `json:"compat,omitempty"`
}

// SignerClass narrows a rule to one class of signers.
type SignerClass string

// The classes.
const (
	AnySigner    SignerClass = ""
	Certificates SignerClass = "certificate"
	Keys         SignerClass = "key"
)

// Clause is what must fit one signer: each field that is set, in one of its
// patterns. A rule fits if one subject does, an expect clause only if all do.
type Clause struct {
	Subject     AnyOf              `json:"subject,omitempty"`
	Issuer      AnyOf              `json:"issuer,omitempty"`      // a signer without an issuer never fits
	Fingerprint AnyOf              `json:"fingerprint,omitempty"` // the signer's, or a certificate's key's
	Extensions  []ExtensionPattern `json:"extensions,omitempty"`
}

// ExtensionPattern is a certificate extension and what its value must be. Name is
// Fulcio's ("build-signer-uri") or a dotted OID; "issuer" means both of Fulcio's
// issuer extensions, 1.1 and 1.8.
type ExtensionPattern struct {
	Name  string `json:"name"`
	Value AnyOf  `json:"value"`
}

func (c Clause) empty() bool {
	return len(c.Subject)+len(c.Issuer)+len(c.Fingerprint)+len(c.Extensions) == 0
}

func (c Clause) String() string {
	var parts []string
	for _, f := range []struct {
		name string
		any  AnyOf
	}{{"subject", c.Subject}, {"issuer", c.Issuer}, {"fingerprint", c.Fingerprint}} {
		if len(f.any) > 0 {
			parts = append(parts, f.name+" "+f.any.String())
		}
	}
	for _, e := range c.Extensions {
		parts = append(parts, "extension "+e.Name+" "+e.Value.String())
	}
	return strings.Join(parts, ", and ")
}

// RuleError is what is wrong with one field of one rule: "name", "subject[0]",
// "extensions[1]", "extensions[1].value[0]", "expect[0].issuer[0]", or "" for the
// rule as a whole.
type RuleError struct {
	Rule  int
	Field string
	Err   error
}

func (e *RuleError) Error() string { return fmt.Sprintf("rule %d: %s: %v", e.Rule, e.Field, e.Err) }
func (e *RuleError) Unwrap() error { return e.Err }

// Rules are compiled rules. They do not change, and may be used concurrently; nil
// is no rules.
type Rules struct {
	specs []Rule
	rules []rule
}

type rule struct {
	name   string
	digest []matcher
	signer SignerClass
	compat bool
	clause clause
	expect []clause
}

type clause struct {
	subject, issuer, fingerprint []matcher
	extensions                   []extension
}

type extension struct {
	oids  []string
	value []matcher
}

// Compile checks and compiles rules. Its error joins one *[RuleError] for each
// thing that is wrong.
func Compile(specs []Rule) (*Rules, error) {
	rules := &Rules{specs: slices.Clone(specs)}
	var errs []error
	names := map[string]int{}
	for i, spec := range specs {
		fail := func(field string, err error) {
			if err != nil {
				errs = append(errs, &RuleError{Rule: i, Field: field, Err: err})
			}
		}
		if first, taken := names[spec.Name]; taken {
			fail("name", fmt.Errorf("%q is the name of rule %d too; give each rule a name of its own", spec.Name, first))
		}
		names[spec.Name] = i
		if spec.Name == "" {
			fail("name", errors.New("a rule needs a name; findings carry it"))
		}
		if spec.Clause.empty() && len(spec.Digest) == 0 {
			fail("", errors.New("the rule would fit every signer; give it a subject, issuer, fingerprint, key, digest or extensions"))
		}
		if !slices.Contains([]SignerClass{AnySigner, Certificates, Keys}, spec.Signer) {
			fail("signer", fmt.Errorf("unknown class of signers %q; use certificate or key", spec.Signer))
		}
		r := rule{name: spec.Name, signer: spec.Signer, compat: spec.Compat, clause: compileClause(spec.Clause, "", fail)}
		r.digest = compilePatterns("digest", spec.Digest, fail)
		for j, c := range spec.Expect {
			field := fmt.Sprintf("expect[%d]", j)
			if c.empty() {
				fail(field, errors.New("the clause would fit every signer and silence the rule; give it a subject, issuer, fingerprint or extensions"))
			}
			r.expect = append(r.expect, compileClause(c, field+".", fail))
		}
		rules.rules = append(rules.rules, r)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return rules, nil
}

func compilePatterns(field string, any AnyOf, fail func(string, error)) []matcher {
	var compiled []matcher
	for i, p := range any {
		m, err := p.compile()
		fail(fmt.Sprintf("%s[%d]", field, i), err)
		compiled = append(compiled, m)
	}
	return compiled
}

func compileClause(c Clause, prefix string, fail func(string, error)) clause {
	patterns := func(field string, any AnyOf) []matcher { return compilePatterns(prefix+field, any, fail) }
	compiled := clause{
		subject:     patterns("subject", c.Subject),
		issuer:      patterns("issuer", c.Issuer),
		fingerprint: patterns("fingerprint", c.Fingerprint),
	}
	for i, e := range c.Extensions {
		field := fmt.Sprintf("extensions[%d]", i)
		oids, err := extensionOIDs(e.Name)
		fail(prefix+field, err)
		if len(e.Value) == 0 {
			fail(prefix+field, errors.New("no value to match"))
		}
		compiled.extensions = append(compiled.extensions, extension{oids: oids, value: patterns(field+".value", e.Value)})
	}
	return compiled
}

// The OIDs of the extensions that hold a Fulcio certificate's OIDC issuer.
const (
	issuerV1OID = "1.3.6.1.4.1.57264.1.1"
	issuerV2OID = "1.3.6.1.4.1.57264.1.8"
)

var dotted = regexp.MustCompile(`\A[0-2](\.(0|[1-9][0-9]{0,38}))+\z`)

func extensionOIDs(name string) ([]string, error) {
	if name == "issuer" {
		return []string{issuerV2OID, issuerV1OID}, nil
	}
	if dotted.MatchString(name) {
		return []string{name}, nil
	}
	if oid, ok := entry.ExtensionOID(name); ok {
		return []string{oid}, nil
	}
	return nil, fmt.Errorf("unknown extension %q; use one of Fulcio's names, such as build-signer-uri, or a dotted OID", name)
}

// Len is the number of rules.
func (r *Rules) Len() int {
	if r == nil {
		return 0
	}
	return len(r.rules)
}

// Hash names what is watched: it changes if and only if a rule does, whatever
// their order, so that the index from which the rules hold can be recorded.
func (r *Rules) Hash() string {
	lines := make([]string, r.Len())
	for i := range lines {
		line, err := json.Marshal(r.specs[i])
		if err != nil { // strings, bools and slices of them always marshal
			line = []byte(r.specs[i].Name)
		}
		lines[i] = string(line)
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return hex.EncodeToString(sum[:])
}

// Describe says each rule in one line.
func (r *Rules) Describe() []string {
	var lines []string
	for i := range r.Len() {
		spec := r.specs[i]
		line := fmt.Sprintf("%s: %s", spec.Name, spec.Clause)
		if len(spec.Digest) > 0 {
			line = strings.TrimSuffix(line, ": ") + map[bool]string{true: ": ", false: ", and "}[spec.Clause.empty()] + "digest " + spec.Digest.String()
		}
		if spec.Signer != AnySigner {
			line += fmt.Sprintf(", of a %s", spec.Signer)
		}
		for _, c := range spec.Expect {
			line += fmt.Sprintf("; expected if %s", c)
		}
		lines = append(lines, line)
	}
	return lines
}

// Warning is something about a field (as in [RuleError]) that is valid but
// probably not what was meant.
type Warning struct {
	Rule  int
	Field string
	Text  string
}

// Warnings finds expect clauses with a wildcard inside a path segment, which
// silence more than they seem to, and fingerprints that can never fit.
func (r *Rules) Warnings() []Warning {
	var all []Warning
	for i := range r.Len() {
		spec := r.specs[i]
		for j, p := range spec.Digest {
			if p.How == Exact && !digestForm.MatchString(p.Text) {
				all = append(all, Warning{i, fmt.Sprintf("digest[%d]", j), fmt.Sprintf(
					"%q never fits: entries have digests as sha256:<hex>, in lower case", p.Text)})
			}
		}
		for j, p := range spec.Fingerprint {
			if p.How == Exact && upperHex.MatchString(p.Text) {
				all = append(all, Warning{i, fmt.Sprintf("fingerprint[%d]", j), fmt.Sprintf(
					"%q never fits: matching is case-sensitive and logs show hex in lower case; write %q", p.Text, strings.ToLower(p.Text))})
			}
		}
		for j, c := range spec.Expect {
			loose := func(field string, any AnyOf) {
				for k, p := range any {
					if before, found := p.loose(); found {
						all = append(all, Warning{i, fmt.Sprintf("expect[%d].%s[%d]", j, field, k), fmt.Sprintf(
							"the wildcard after %q stands inside a path segment: %q would be silenced too; end the segment before it", before, before+"-evil")})
					}
				}
			}
			loose("subject", c.Subject)
			loose("issuer", c.Issuer)
			for k, e := range c.Extensions {
				loose(fmt.Sprintf("extensions[%d].value", k), e.Value)
			}
		}
	}
	return all
}

var digestForm = regexp.MustCompile(`\A[a-z0-9-]+:[0-9a-f]{8,}\z`)

var upperHex = regexp.MustCompile(`\A[0-9a-fA-F]*[A-F][0-9a-fA-F]*\z`)
