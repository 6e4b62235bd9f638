// Package terraform_test holds the Terraform module to the Go sources that it deploys.
package terraform_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A bucket lets the function write where identity.tf says and nowhere else: a folder
// that is missing there fails each run, and only on Google Cloud.
func TestTheFunctionMayWriteEachFolderOfTheStateAndNoDecision(t *testing.T) {
	text, err := os.ReadFile("identity.tf")
	if err != nil {
		t.Fatal(err)
	}
	granted := map[string]bool{}
	for _, list := range regexp.MustCompile(`for folder in \[([^\]]*)\] : "resource\.name\.startsWith\(\\"\$\{local\.state_objects\}/\$\{folder\}/`).FindAllSubmatch(text, -1) {
		for name := range strings.SplitSeq(string(list[1]), ",") {
			granted[strings.Trim(name, ` "`)] = true
		}
	}
	if want := []string{"checkpoints", "state"}; !granted[want[0]] || !granted[want[1]] {
		t.Fatalf("folders granted in identity.tf: got %q, want %q among them", slices.Sorted(maps.Keys(granted)), want)
	}
	used := stateFolders(t)
	if !used["decisions"] || !used["run.json"] {
		t.Fatalf("names in pkg/state: got %q, want decisions and run.json among them", slices.Sorted(maps.Keys(used)))
	}
	if !strings.Contains(string(text), `"resource.name == \"${local.state_objects}/run.json\""`) {
		t.Error("run.json: got no grant in identity.tf, want one")
	}
	for _, name := range slices.Sorted(maps.Keys(used)) {
		if want := name != "decisions"; name != "run.json" && granted[name] != want {
			t.Errorf("%s/ of the state: got granted=%v in identity.tf, want %v", name, granted[name], want)
		}
	}
}

// stateFolders are the first elements of objects' names in pkg/state.
func stateFolders(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob("../pkg/state/*.go")
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`\A([a-z]+)/|\A(run\.json)\z`)
	used := map[string]bool{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if _, isImport := n.(*ast.ImportSpec); isImport {
				return false
			}
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if text, err := strconv.Unquote(lit.Value); err == nil {
					if m := name.FindStringSubmatch(text); m != nil {
						used[m[1]+m[2]] = true
					}
				}
			}
			return true
		})
	}
	return used
}
