package watch

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/mail"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode/utf8"
)

// Query is one value that Rekor v1's search index can be asked for.
type Query struct {
	Field  string // "email", "subject", "hash" or "publicKey", as the index names them
	Value  string // of publicKey the key, PEM
	Format string // of publicKey: "x509"
}

// String names the query in messages and in state.
func (q Query) String() string {
	if q.Format != "" {
		return fmt.Sprintf("%s %s", q.Field, textHash(q.Value))
	}
	return fmt.Sprintf("%s %q", q.Field, q.Value)
}

func textHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// maxQuery is the most characters of a subject that the index takes.
const maxQuery = 512

// Queries are the values that Rekor v1's search index has to be asked for under
// these rules, each once, in the order of the rules. Whatever the index lists for
// them has still to be held against the rules: a rule is asked for by its digests, its
// subjects or its keys, the first that can be asked for in full, and the index
// compares without regard to case.
//
// Uncovered says in words, a rule or part of a rule each, what cannot be asked for:
// subjects that no single text stands for, certificates for a key, and rules without
// digest, key or subject. The index knows no issuers and no extensions. It knows a
// certificate by the hash of its own text and a key by that of the key's PEM or armor,
// and neither follows from a fingerprint: a rule has to name the key, and then fits
// bare keys only. Of a regular expression that is a plain text, as rekor-monitor's often
// are, that text is asked for.
//
// The queries find every entry that the covered part of a rule fits, as far as the
// index goes: rekor-server v1.5.4 writes it after the log and without waiting, and
// lists hashedrekord, dsse, intoto, rekord, cose, alpine, rpm and helm entries by the
// subjects of their first certificate or key ring, but no jar, tuf and rfc3161. A
// hashedrekord entry it lists under the hash of the key's bytes as they were uploaded: a
// PEM file with CRLF line ends or a further empty line is not found by its key.
//
// Attestations (dsse, intoto) are found by the digest of their payload only. The index
// lists them under the digests of their in-toto subjects as well, but the leaf has the
// hashes of payload and envelope alone: nothing proves what the subjects were and no
// rule fits, so such a hit is read, settled and not told of.
func (r *Rules) Queries() (queries []Query, uncovered []string) {
	for i := range r.Len() {
		asked, left := r.specs[i].queries()
		for _, q := range asked {
			if !slices.Contains(queries, q) {
				queries = append(queries, q)
			}
		}
		for _, text := range left {
			uncovered = append(uncovered, fmt.Sprintf("rule %q: %s", r.specs[i].Name, text))
		}
	}
	return queries, uncovered
}

// queries are those of one rule.
func (r *Rule) queries() (queries []Query, uncovered []string) {
	digests, unasked := r.digests()
	switch {
	case len(digests) > 0 && len(unasked) == 0:
		return digests, nil
	case r.named() && r.Signer == Keys:
		return r.keys(), nil
	case len(r.Subject) > 0:
		return r.subjects()
	case len(r.Digest) > 0:
		return digests, unasked
	case r.named() && r.Signer == AnySigner:
		return r.keys(), []string{"certificates for its keys, which the search index lists by their own text and not by the key; give the rule a subject, or signer: key if certificates are not meant"}
	}
	return nil, []string{r.unaskable()}
}

// askable are the digests that the index takes.
var askable = regexp.MustCompile(`\A(sha512:[0-9a-f]{128}|sha256:[0-9a-f]{64}|sha1:[0-9a-f]{40})\z`)

// digests are queries for a rule's digests, and what is not one of the index's.
func (r *Rule) digests() (queries []Query, unasked []string) {
	for _, p := range r.Digest {
		text, whole := p.literal()
		if whole && askable.MatchString(text) {
			queries = append(queries, Query{Field: "hash", Value: text})
			continue
		}
		unasked = append(unasked, fmt.Sprintf("digest %s: the search index is asked for whole digests only, sha256:, sha512: or sha1: and lower-case hex", p))
	}
	return queries, unasked
}

// named: the rule has the text of every key that it watches.
func (r *Rule) named() bool { return len(r.Keys) > 0 && len(r.Keys) == len(r.Fingerprint) }

// keys are queries for a rule's keys: rekor-server lists hashedrekord under the hash of
// a key's text, dsse and intoto under that hash as a digest.
func (r *Rule) keys() (queries []Query) {
	for _, text := range r.Keys {
		queries = append(queries, Query{Field: "publicKey", Value: text, Format: "x509"}, Query{Field: "hash", Value: textHash(text)})
	}
	return queries
}

func (r *Rule) subjects() (queries []Query, uncovered []string) {
	for _, p := range r.Subject {
		q, err := p.query()
		if err != nil {
			uncovered = append(uncovered, fmt.Sprintf("subject %s: %v", p, err))
		}
		if q.Value != "" {
			queries = append(queries, q)
		}
	}
	return queries, uncovered
}

// CheckQueries says whether coverage: index can do anything for the rules: warnings
// are what it leaves uncovered, and the error is for rules of which it covers none.
func (r *Rules) CheckQueries() (warnings []string, refused error) {
	queries, uncovered := r.Queries()
	for _, text := range uncovered {
		warnings = append(warnings, "coverage: index does not cover "+text)
	}
	switch {
	case len(queries) > 0:
		return warnings, nil
	case r.Len() == 0:
		return nil, errors.New("coverage: index asks for what the rules watch for, and there are no rules; add watch, or set coverage: consistency")
	}
	return warnings, fmt.Errorf("coverage: index can ask for none of the %d rules, only for exact subjects, digests and keys; give a rule one, or set coverage: full or consistency", r.Len())
}

// unaskable says why a rule without digest and subject cannot be asked for.
func (r *Rule) unaskable() string {
	switch {
	case r.named(): // of certificates
		return "it has no subject, and the search index lists certificates by their own text and not by their key"
	case len(r.Fingerprint) > 0:
		return "it has no subject, and the search index knows keys by the hash of their text, which does not follow from a fingerprint; name the key under key"
	}
	return "it has no subject, and the search index knows neither issuers nor extensions"
}

// query is what to ask the index for; with an error it stands for a part of what the
// pattern fits, or for nothing if it is empty.
func (p Pattern) query() (Query, error) {
	text, whole := p.literal()
	if text == "" {
		return Query{}, errors.New("the search index is asked for exact texts only")
	}
	if n := utf8.RuneCountInString(text); n > maxQuery {
		return Query{}, fmt.Errorf("it has %d characters, and the search index takes %d", n, maxQuery)
	}
	q := Query{Field: "subject", Value: text}
	// Every server takes an address; a subject only rekor-server from v1.5.4 on.
	if a, err := mail.ParseAddress(text); err == nil && a.Address == text {
		q.Field = "email"
	}
	if !whole {
		return q, fmt.Errorf("%q is asked for; other texts that it fits are not", text)
	}
	return q, nil
}

// literal is the text that a pattern fits, and whether that is all that it fits; ""
// if it has no such text. A dot in a regular expression is taken for one that was
// meant as such: what it fits besides is said not to be asked for.
func (p Pattern) literal() (text string, whole bool) {
	switch p.How {
	case Exact:
		return p.Text, true
	case Glob:
		if !strings.ContainsAny(p.Text, "*?") {
			return p.Text, true
		}
	case Regex, Search:
		parsed, err := syntax.Parse(p.Text, syntax.Perl)
		if err != nil {
			return "", false
		}
		return plain(parsed, p.How == Regex)
	}
	return "", false
}

// plain is the text of an expression of letters, dots and anchors; anchored says
// that it has to fit a text whole anyway.
func plain(re *syntax.Regexp, anchored bool) (text string, whole bool) {
	parts := []*syntax.Regexp{re}
	if re.Op == syntax.OpConcat {
		parts = re.Sub
	}
	begin, end := anchored, anchored
	if parts[0].Op == syntax.OpBeginText {
		parts, begin = parts[1:], true
	}
	if n := len(parts); n > 0 && parts[n-1].Op == syntax.OpEndText {
		parts, end = parts[:n-1], true
	}
	var b strings.Builder
	whole = begin && end
	for _, part := range parts {
		switch part.Op {
		case syntax.OpLiteral:
			if part.Flags&syntax.FoldCase != 0 || slices.Contains(part.Rune, utf8.RuneError) {
				return "", false
			}
			b.WriteString(string(part.Rune))
		case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
			b.WriteByte('.')
			whole = false
		default:
			return "", false
		}
	}
	return b.String(), whole
}
