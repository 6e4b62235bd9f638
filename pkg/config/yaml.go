package config

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// node is a value and where it stands.
type node struct {
	doc  *document
	raw  ast.Node
	key  string // the path to it
	line int
}

func (n node) fail(format string, args ...any) { n.doc.fail(n.line, n.key, format, args...) }
func (n node) warn(format string, args ...any) { n.doc.warn(n.line, n.key, format, args...) }

func named(n ast.Node) bool {
	return n != nil && n.GetToken() != nil && n.GetToken().Position != nil
}

// maxIndirect bounds aliases of aliases, which may be circular.
const maxIndirect = 8

// value is the node behind anchors, aliases and tags; nil for null.
func (n node) value() ast.Node {
	v := n.raw
	for range maxIndirect {
		switch t := v.(type) {
		case *ast.AnchorNode:
			v = t.Value
		case *ast.TagNode:
			v = t.Value
		case *ast.AliasNode:
			if t.Value == nil || t.Value.GetToken() == nil {
				return nil
			}
			v = n.doc.anchors[t.Value.GetToken().Value]
		case nil, *ast.NullNode:
			return nil
		default:
			return v
		}
	}
	return nil
}

// none reports whether there is no value: the key is missing or says nothing.
func (n node) none() bool { return n.value() == nil }

// field is one key of a mapping.
type field struct {
	name string
	node
}

// pairs are a mapping's keys and values in order, and whether it is one.
func pairs(v ast.Node) (all []*ast.MappingValueNode, ok bool) {
	switch t := v.(type) {
	case *ast.MappingNode:
		return t.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{t}, true
	}
	return nil, false
}

// keyToken is a key as it is written, nil if there is none.
func keyToken(kv *ast.MappingValueNode) *token.Token {
	if kv == nil || kv.Key == nil {
		return nil
	}
	if long, ok := kv.Key.(*ast.MappingKeyNode); ok && named(long.Value) { // ? key
		return long.Value.GetToken()
	}
	return kv.Key.GetToken()
}

// entries are a mapping's keys in order, each once; anything but a mapping is a
// problem.
func (n node) entries() []field {
	v := n.value()
	if v == nil {
		return nil
	}
	values, ok := pairs(v)
	if !ok {
		n.fail("want keys with values (key: value), not %s", kind(v))
		return nil
	}
	var all, merged []field // a key's own value goes before a merged one
	at := map[string]int{}  // where in all a key is
	for _, kv := range values {
		tok := keyToken(kv)
		if tok == nil {
			continue
		}
		if kv.Key.IsMergeKey() {
			if len(merged) > 0 { // which goes before which differs between parsers
				n.fail("<< is given twice; give it once, with a list: <<: [*a, *b]")
			}
			merged = append(merged, n.merge(kv)...)
			continue
		}
		child := node{doc: n.doc, raw: kv.Value, key: tok.Value, line: n.line}
		if n.key != "" {
			child.key = n.key + "." + tok.Value
		}
		if tok.Position != nil {
			child.line = tok.Position.Line
		}
		if i, twice := at[tok.Value]; twice {
			all[i].node = child.again(all[i].node)
			continue
		}
		at[tok.Value] = len(all)
		all = append(all, field{tok.Value, child})
	}
	return append(all, merged...)
}

// again is what a key means that was given before. In a native file that is a problem;
// rekor-monitor takes the last, and of mappings the keys of both.
func (n node) again(before node) node {
	if n.doc.native {
		n.fail("this key is given at line %d too; keep one of them", before.line)
		return before
	}
	if n.doc.merged++; n.doc.merged > maxMerged {
		n.fail("more than %d keys are given again; give each once", maxMerged)
		return before
	}
	these, ok := pairs(n.value())
	those, both := pairs(before.value())
	if !ok || !both {
		n.warn("this key is given at line %d too; as by rekor-monitor, that one is passed over", before.line)
		return n
	}
	n.warn("this key is given at line %d too; as by rekor-monitor, they are taken together", before.line)
	n.raw = &ast.MappingNode{BaseNode: &ast.BaseNode{}, Values: slices.Concat(those, these)}
	return n
}

// maxMerged bounds what << may take over, for merges of merges grow exponentially, and
// how often keys are given again.
const maxMerged = 1000

func (n node) merge(kv *ast.MappingValueNode) []field {
	from := node{doc: n.doc, raw: kv.Value, key: n.key, line: n.line}
	sources := []node{from}
	if _, list := from.value().(*ast.SequenceNode); list {
		sources = from.list()
	}
	var all []field
	for _, source := range sources {
		if n.doc.merged++; n.doc.merged > maxMerged {
			n.fail("more than %d merged keys; write them out", maxMerged)
			return nil
		}
		source.key = n.key
		for _, e := range source.entries() {
			n.doc.merged++
			all = append(all, e)
		}
	}
	return all
}

// fields are a mapping's values by key. A key that is not among known is an error
// in a native file, a warning otherwise.
func (n node) fields(known ...string) map[string]node {
	return n.fieldsOr(n.doc.unknown, known...)
}

// fieldsOr is fields that says of each unknown key what unknown says.
func (n node) fieldsOr(unknown func(e field, known []string), known ...string) map[string]node {
	found := map[string]node{}
	for _, e := range n.entries() {
		if !slices.Contains(known, e.name) {
			unknown(e, known)
			continue
		}
		if _, own := found[e.name]; !own {
			found[e.name] = e.node
		}
	}
	for _, name := range known {
		if _, ok := found[name]; !ok {
			key := name
			if n.key != "" {
				key = n.key + "." + name
			}
			found[name] = node{doc: n.doc, key: key, line: n.line}
		}
	}
	return found
}

func (d *document) unknown(e field, known []string) {
	if d.more {
		return // to look for what was meant takes long
	}
	if d.refuseSecrets(e) {
		return
	}
	if looksSecret(e.name) {
		e.fail("secrets do not belong in the configuration; %s", secretRemedy)
		return
	}
	if d.native {
		e.fail("unknown key; %s", hint(e.name, known))
	} else {
		d.ignored(e, known)
	}
}

// ignored warns of an unknown key, which rekor-monitor passes over.
func (d *document) ignored(e field, known []string) {
	if d.refuseSecrets(e) {
		return
	}
	if looksSecret(e.name) {
		e.warn("unknown key; it is ignored. Secrets do not belong in the configuration: remove it, %s", secretRemedy)
		return
	}
	e.warn("unknown key; it is ignored; %s", hint(e.name, known))
}

// hint says what an unknown key may have been meant to be.
func hint(key string, known []string) string {
	if near := nearest(key, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "known here: " + strings.Join(known, ", ")
}

// list is a sequence's items; anything else is a problem.
func (n node) list() []node {
	v := n.value()
	if v == nil {
		return nil
	}
	seq, ok := v.(*ast.SequenceNode)
	if !ok {
		n.fail("want a list, not %s", kind(v))
		return nil
	}
	var items []node
	for i, raw := range seq.Values {
		item := node{doc: n.doc, raw: raw, key: fmt.Sprintf("%s[%d]", n.key, i), line: n.line}
		if raw != nil && raw.GetToken() != nil && raw.GetToken().Position != nil {
			item.line = raw.GetToken().Position.Line
		}
		items = append(items, item)
	}
	return items
}

func (n node) isList() bool {
	_, ok := n.value().(*ast.SequenceNode)
	return ok
}

// scalar is the text of a scalar, and no problem if it is none.
func (n node) scalar() (string, bool) {
	switch n.value().(type) {
	case *ast.LiteralNode, ast.ScalarNode:
		return n.text(), true
	}
	return "", false
}

// listOrOne is list for keys that may also hold a single item.
func (n node) listOrOne() []node {
	switch {
	case n.none():
		return nil
	case n.isList():
		return n.list()
	}
	return []node{n}
}

// text is a scalar as it is written, "" if there is none; YAML's idea of its type
// does not matter.
func (n node) text() string {
	switch v := n.value().(type) {
	case nil:
		return ""
	case *ast.LiteralNode:
		if v.Value == nil {
			return ""
		}
		return v.Value.Value
	case *ast.StringNode:
		return v.Value
	case ast.ScalarNode:
		if v.GetToken() != nil {
			return v.GetToken().Value
		}
		return ""
	default:
		n.fail("want a text, not %s", kind(v))
		return ""
	}
}

// required is text that must not be empty.
func (n node) required(remedy string) string {
	before := len(n.doc.problems)
	text := n.text()
	if text == "" && len(n.doc.problems) == before {
		n.fail("missing; %s", remedy)
	}
	return text
}

func (n node) boolean() bool {
	switch v := n.value().(type) {
	case nil:
		return false
	case *ast.BoolNode:
		return v.Value
	default:
		n.fail("want true or false, not %s", kind(v))
		return false
	}
}

// index is a leaf index; want says what else may stand there.
func (n node) index(want string) (i uint64, ok bool) {
	text := n.text()
	i, err := strconv.ParseUint(strings.ReplaceAll(text, "_", ""), 10, 64)
	if err != nil || i >= math.MaxInt64 {
		n.fail("%q is not an index; write %s", text, want)
		return 0, false
	}
	return i, true
}

// duration is a length of time, or def if there is none.
func (n node) duration(def time.Duration) time.Duration {
	if n.none() {
		return def
	}
	text := n.text()
	t, err := time.ParseDuration(text)
	if err != nil || t < 0 {
		n.fail("%q is not a length of time; write it like 90m or 24h", text)
		return def
	}
	return t
}

// choice is one of a few words, the first if there is none.
func (n node) choice(words ...string) string {
	if n.none() {
		return words[0]
	}
	text := n.text()
	if !slices.Contains(words, text) {
		n.fail("%q is not one of %s", text, strings.Join(words, ", "))
		return words[0]
	}
	return text
}

func kind(v ast.Node) string {
	switch v.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "keys with values"
	case *ast.SequenceNode:
		return "a list"
	case *ast.BoolNode:
		return "true or false"
	case *ast.IntegerNode, *ast.FloatNode:
		return "a number"
	case *ast.StringNode, *ast.LiteralNode:
		return "a text"
	}
	return "this"
}

// nearest is the known key that a mistyped one is likely to mean, or "".
func nearest(key string, known []string) string {
	plain := func(s string) string {
		return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s))
	}
	best, least := "", 1+len(key)/3
	for _, k := range known {
		if d := distance(plain(key), plain(k)); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is the number of letters to insert, delete or replace to make b of a.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return math.MaxInt
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
