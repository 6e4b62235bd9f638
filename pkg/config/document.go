package config

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/whosigned/whosigned/pkg/trust"
)

// maxProblems is how many problems are told of one configuration.
const maxProblems = 50

// maxFile is the size limit of a configuration.
const maxFile = 1 << 20

// document is a configuration on its way from YAML; it collects what is wrong
// with it instead of stopping at the first.
type document struct {
	file     string // as shown in messages
	base     string // the folder that relative paths are relative to, or gs://bucket[/prefix]
	read     trust.Read
	anchors  map[string]ast.Node
	aliases  []*ast.AliasNode
	native   bool // unknown keys are errors
	problems []Problem
	more     bool // there are more
	warnings []string
	merged   int // mapping entries taken over by <<, and those given again
}

func (d *document) where(line int) string { return fmt.Sprintf("%s:%d", d.file, line) }

func (d *document) fail(line int, key, format string, args ...any) {
	if len(d.problems) == maxProblems {
		d.more = true
		return
	}
	p := Problem{d.file, line, key, fmt.Sprintf(format, args...)}
	if !slices.Contains(d.problems, p) { // a value may be looked at twice
		d.problems = append(d.problems, p)
	}
}

func (d *document) warn(line int, key, format string, args ...any) {
	w := Problem{d.file, line, key, fmt.Sprintf(format, args...)}.String()
	if !slices.Contains(d.warnings, w) {
		d.warnings = append(d.warnings, w)
	}
}

// parse reads the one document of a file and returns its root. Of a rekor-monitor
// file with several it is the first, as there.
func (d *document) parse(data []byte) (root node, ok bool) {
	switch {
	case len(data) > maxFile:
		d.fail(0, "", "the configuration is larger than %d bytes", maxFile)
		return node{}, false
	case bytes.HasPrefix(data, []byte("\xff\xfe")), bytes.HasPrefix(data, []byte("\xfe\xff")):
		d.fail(0, "", "the configuration is in UTF-16; save it as UTF-8")
		return node{}, false
	}
	// A byte order mark would count as part of the first key.
	file, err := parseYAML(bytes.TrimPrefix(data, []byte("\ufeff")))
	if err != nil {
		var at yaml.Error
		if errors.As(err, &at) && at.GetToken() != nil && at.GetToken().Position != nil {
			d.fail(at.GetToken().Position.Line, "", "not valid YAML: %s", at.GetMessage())
		} else {
			d.fail(0, "", "not valid YAML: %v", err)
		}
		return node{}, false
	}
	var bodies []ast.Node
	for _, doc := range file.Docs {
		if doc == nil || doc.Body == nil || doc.Body.Type() == ast.NullType || doc.Body.Type() == ast.DirectiveType {
			continue // %YAML 1.1 stands in a document of its own
		}
		bodies = append(bodies, doc.Body)
	}
	switch {
	case len(bodies) == 0:
		d.fail(0, "", "the configuration is empty")
		return node{}, false
	case len(bodies) > 1 && slices.ContainsFunc(bodies, hasNativeMark):
		d.fail(0, "", "%d YAML documents; a configuration is one", len(bodies))
		return node{}, false
	case len(bodies) > 1:
		d.warn(0, "", "%d YAML documents; as by rekor-monitor, only the first is read", len(bodies))
	}
	ast.Walk(d, bodies[0])
	for _, a := range d.aliases {
		if name := a.Value.GetToken().Value; d.anchors[name] == nil {
			d.fail(a.Value.GetToken().Position.Line, "", "*%s has no anchor &%s before it", name, name)
		}
	}
	return node{doc: d, raw: bodies[0], line: 1}, len(d.problems) == 0
}

// parseYAML turns a panic of the parser into an error: what it is given may be
// anything.
func parseYAML(data []byte) (file *ast.File, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the parser gave up: %v", p)
		}
	}()
	return parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey()) // see again
}

func hasNativeMark(body ast.Node) bool {
	all, _ := pairs(body)
	return slices.ContainsFunc(all, func(kv *ast.MappingValueNode) bool {
		key := keyToken(kv)
		return key != nil && slices.Contains(nativeMarks, key.Value)
	})
}

// Visit collects anchors, so that aliases may be used, and the aliases.
func (d *document) Visit(n ast.Node) ast.Visitor {
	switch a := n.(type) {
	case *ast.AnchorNode:
		if named(a.Name) {
			d.anchors[a.Name.GetToken().Value] = a.Value
		}
	case *ast.AliasNode:
		if named(a.Value) {
			d.aliases = append(d.aliases, a)
		}
	}
	return d
}
