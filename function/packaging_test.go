package function

import (
	"archive/zip"
	"bytes"
	"cmp"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"go/parser"
	"go/token"
	goversion "go/version"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
)

// TestPackaging takes the zip that `terraform apply` wrote through what Google's Go
// buildpack does with it (GoogleCloudPlatform/buildpacks, cmd/go/functions_framework
// and cmd/go/build), starts the binary as Cloud Run does, and wakes it as Cloud
// Scheduler does.
func TestPackaging(t *testing.T) {
	d := applied(t)
	t.Run("the zip holds the sources as they are, without tests", d.holdsSources)
	t.Run("go.mod asks for no newer Go than the runtime's first release", d.fitsRuntime)
	// The suite against real servers goes on with it.
	binary := cmp.Or(os.Getenv("WHOSIGNED_FUNCTION"), filepath.Join(t.TempDir(), "main"))
	if !t.Run("the buildpack builds it with the versions of go.mod", func(t *testing.T) { d.build(t, binary) }) {
		t.FailNow()
	}
	t.Run("the binary answers Cloud Scheduler", func(t *testing.T) { d.answersScheduler(t, binary) })
	t.Run("the binary starts", func(t *testing.T) { d.starts(t, binary) })
}

// deployment is what an apply of the module made.
type deployment struct {
	zip     string
	runtime string // "go126"
	entry   string
	builder map[string]string // environment of the build
	env     map[string]string // and of the function
}

// applied finds the deployment that .ci/terraform made.
func applied(tb testing.TB) *deployment {
	tb.Helper()
	d := &deployment{zip: os.Getenv("WHOSIGNED_ZIP")}
	if d.zip == "" {
		tb.Skip("WHOSIGNED_ZIP is not set: .ci/terraform applies the module and runs this on the zip that it wrote")
	}
	name := os.Getenv("WHOSIGNED_DEPLOYED")
	data, err := os.ReadFile(name)
	if err != nil {
		tb.Fatalf("WHOSIGNED_DEPLOYED must name what `terraform show -json` printed after the apply: %v", err)
	}
	type module struct {
		Resources []struct {
			Type   string
			Values struct {
				Build []struct {
					Runtime string
					Entry   string            `json:"entry_point"`
					Env     map[string]string `json:"environment_variables"`
				} `json:"build_config"`
				Service []struct {
					Env map[string]string `json:"environment_variables"`
				} `json:"service_config"`
			}
		}
		Children []module `json:"child_modules"`
	}
	var shown struct {
		Values struct {
			Root module `json:"root_module"`
		}
	}
	if err := json.Unmarshal(data, &shown); err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
	for modules := []module{shown.Values.Root}; len(modules) > 0; modules = modules[1:] {
		modules = append(modules, modules[0].Children...)
		for _, r := range modules[0].Resources {
			if r.Type == "google_cloudfunctions2_function" && len(r.Values.Build) == 1 && len(r.Values.Service) == 1 {
				b := r.Values.Build[0]
				d.runtime, d.entry, d.builder, d.env = b.Runtime, b.Entry, b.Env, r.Values.Service[0].Env
				return d
			}
		}
	}
	tb.Fatalf("%s: no google_cloudfunctions2_function with its build_config and service_config", name)
	return nil
}

// holdsSources compares the zip with the sources that the test itself is built from.
func (d *deployment) holdsSources(t *testing.T) {
	want := map[string]string{"go.mod": "../go.mod", "go.sum": "../go.sum"}
	for folder, pattern := range map[string]string{"": "*.go", "cmd/whosigned": "cmd/whosigned/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			want[path.Join(folder, filepath.Base(f))] = f
		}
	}
	err := filepath.WalkDir("../pkg", func(p string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && slices.Contains([]string{"testdata", "notifytest", "buckettest", "trusttest"}, e.Name()):
			return fs.SkipDir
		case !e.IsDir():
			want[strings.TrimPrefix(filepath.ToSlash(p), "../")] = p
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(want, func(name, _ string) bool { return strings.HasSuffix(name, "_test.go") })

	r, err := zip.OpenReader(d.zip)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, f := range r.File {
		source, ok := want[f.Name]
		if !ok {
			t.Errorf("%s is in the zip: got an entry, want none", f.Name)
			continue
		}
		delete(want, f.Name)
		data, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(content(t, f), data) {
			t.Errorf("%s in the zip: got other bytes than %s has", f.Name, source)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		t.Errorf("%s is not in the zip: got no entry, want %s", name, want[name])
	}
}

func content(tb testing.TB, f *zip.File) []byte {
	tb.Helper()
	r, err := f.Open()
	if err != nil {
		tb.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		tb.Fatalf("%s: %v", f.Name, err)
	}
	return data
}

func (d *deployment) fitsRuntime(t *testing.T) {
	minor, ok := strings.CutPrefix(d.runtime, "go1")
	if !ok {
		t.Fatalf("the function's runtime: got %q, want one such as go126", d.runtime)
	}
	mod := goMod(t, d.unpack(t))
	if first := "go1." + minor + ".0"; goversion.Compare("go"+mod.Go.Version, first) > 0 {
		t.Errorf("go.mod's go line with the runtime %s: got %s, want %s at most: the builder would have to download a toolchain", d.runtime, mod.Go.Version, first)
	}
	if mod.Toolchain != nil {
		t.Errorf("go.mod's toolchain line: got %s, want none: the builder would have to download it", mod.Toolchain.Name)
	}
}

// goMod reads the go.mod of a module.
func goMod(tb testing.TB, dir string) *modfile.File {
	tb.Helper()
	name := filepath.Join(dir, "go.mod")
	data, err := os.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	f, err := modfile.Parse(name, data, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

// required maps a module's requirements to their versions.
func required(f *modfile.File) map[string]string {
	versions := map[string]string{}
	for _, r := range f.Require {
		versions[r.Mod.Path] = r.Mod.Version
	}
	return versions
}

// unpack unpacks the zip to where the buildpack moves it.
func (d *deployment) unpack(tb testing.TB) string {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "serverless_function_source_code")
	r, err := zip.OpenReader(d.zip)
	if err != nil {
		tb.Fatal(err)
	}
	defer r.Close()
	for _, f := range r.File {
		if !filepath.IsLocal(f.Name) {
			tb.Fatalf("the zip holds %q, which is outside of it", f.Name)
		}
		name := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(name, content(tb, f), f.Mode().Perm()); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

const framework = "github.com/GoogleCloudPlatform/functions-framework-go"

// build makes the binary as the buildpack does, and checks after each step what must
// hold.
func (d *deployment) build(tb testing.TB, binary string) {
	tb.Helper()
	source := d.unpack(tb)
	onePackage(tb, source)
	info, err := os.Stat(filepath.Join(source, "go.mod"))
	if err != nil {
		tb.Fatal(err)
	}
	if info.Mode()&0o200 == 0 {
		tb.Fatalf("go.mod in the zip: got mode %v, want it writable, or the buildpack refuses it", info.Mode())
	}
	before := goMod(tb, source)
	module := before.Module.Mod.Path
	if first, _, _ := strings.Cut(module, "/"); !strings.Contains(first, ".") {
		tb.Fatalf("go.mod's module: got %q, want a dot in its first element, or the buildpack refuses it", module)
	}
	if required(before)[framework] == "" {
		tb.Fatalf("go.mod requires no %s: the buildpack would put in a version of its own", framework)
	}
	sums := goSum(tb, filepath.Join(source, "go.sum"))

	// The main package is generated inside of the function's module.
	main := filepath.Join(source, "functions.local", "app")
	if err := os.MkdirAll(main, 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(main, "main.go"), fmt.Appendf(nil, mainSource, module, framework), 0o644); err != nil {
		tb.Fatal(err)
	}
	d.goRun(tb, source, "mod", "tidy")
	tidied := required(goMod(tb, source))
	for _, name := range slices.Sorted(maps.Keys(tidied)) {
		if got, want := tidied[name], required(before)[name]; got != want {
			tb.Errorf("version of %s after the builder's go mod tidy: got %s, want %s", name, got, cmp.Or(want, "it not required"))
		}
	}
	for _, line := range slices.Sorted(maps.Keys(goSum(tb, filepath.Join(source, "go.sum")))) {
		if !sums[line] {
			tb.Errorf("go.sum after the builder's go mod tidy: got a new line %q, want none: without tests the module graph is another", line)
		}
	}

	// The public buildpack sets neither GOFLAGS nor CGO_ENABLED and passes no flags.
	d.goRun(tb, source, "build", "-o", binary, main)
	built, err := buildinfo.ReadFile(binary)
	if err != nil {
		tb.Fatal(err)
	}
	for _, dep := range built.Deps {
		if want := required(before)[dep.Path]; dep.Version != want || dep.Replace != nil {
			tb.Errorf("module in the binary: got %s %s (replaced by %v), want %s", dep.Path, dep.Version, dep.Replace, cmp.Or(want, "it not there"))
		}
	}
	if len(built.Deps) == 0 {
		tb.Error("modules in the binary: got none")
	}
}

// mainSource is, in short, the buildpack's template for functions that register
// themselves. The verbs are the function's package and the framework's module.
const mainSource = `package main

import (
	"log"
	"net/http"
	"os"

	_ %q

	"%s/funcframework"
)

func main() {
	for _, reserved := range []string{"/robots.txt", "/favicon.ico"} {
		http.HandleFunc(reserved, http.NotFound)
	}
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	log.Fatal(funcframework.Start(port))
}
`

// onePackage checks that the root holds one package and that it imports the
// framework, as only then does the buildpack choose the template above.
func onePackage(tb testing.TB, dir string) {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		tb.Fatal(err)
	}
	packages, imports := map[string]bool{}, map[string]bool{}
	for _, f := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.ImportsOnly)
		if err != nil {
			tb.Fatal(err)
		}
		packages[parsed.Name.Name] = true
		for _, i := range parsed.Imports {
			imports[i.Path.Value] = true
		}
	}
	if len(packages) != 1 {
		tb.Fatalf("packages at the zip's root: got %v, want one, or the buildpack refuses it", slices.Sorted(maps.Keys(packages)))
	}
	if want := strconv.Quote(framework + "/functions"); !imports[want] {
		tb.Fatalf("imports of the package at the zip's root: got %v, want %s among them", slices.Sorted(maps.Keys(imports)), want)
	}
}

func goSum(tb testing.TB, name string) map[string]bool {
	tb.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	set := map[string]bool{}
	for line := range strings.Lines(string(data)) {
		set[strings.TrimSuffix(line, "\n")] = true
	}
	return set
}

// goRun runs go in a folder as the builder does, but with the proxy and the caches of
// this machine.
func (d *deployment) goRun(tb testing.TB, dir string, args ...string) {
	tb.Helper()
	c := exec.CommandContext(tb.Context(), "go", args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "GOTOOLCHAIN=local")
	for name, value := range d.builder {
		c.Env = append(c.Env, name+"="+value)
	}
	if out, err := c.CombinedOutput(); err != nil {
		tb.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
