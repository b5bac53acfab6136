package layering

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// module is the path of ours.
const module = "keelson.dev/keelson/"

// pkg is a package as `go list` tells it.
type pkg struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

// edge is a forbidden import: from any package below one path to any below another.
type edge struct{ from, to, why string }

// forbidden is held for direct imports, of tests as well.
var forbidden = []edge{
	{"core", "plugins", "the kernel knows plugins by contract only"},
	{"core", "cli", "the CLI imports the kernel, not the other way round"},
	{"core", "test", "test code stays out of the product"},
	{"plugins", "core", "plugins speak to the kernel through contracts only"},
	{"plugins", "cli", "the CLI imports plugins, not the other way round"},
	{"plugins", "test", "test code stays out of the product"},
	{"proto", "core", "contracts belong to neither side"},
	{"proto", "plugins", "contracts belong to neither side"},
	{"proto", "cli", "contracts belong to neither side"},
	{"cli", "test", "test code stays out of the product"},
}

// barred is held for all dependencies, direct or not.
var barred = map[string]string{
	"k8s.io/kubernetes": "it is no library (DESIGN.md 2)",
}

func TestImportsGoOneWay(t *testing.T) {
	packages := list(t)
	for _, p := range packages {
		from := strings.TrimPrefix(p.ImportPath, module)
		for i, imports := range [][]string{p.Imports, p.TestImports, p.XTestImports} {
			for _, path := range imports {
				if to, ours := strings.CutPrefix(path, module); ours && (i == 0 || to != "test/need") {
					if why := refuse(from, to); why != "" {
						t.Errorf("%s imports %s: %s", from, to, why)
					}
				}
			}
		}
	}
}

// refuse says why an import is forbidden; empty: it is not.
func refuse(from, to string) string {
	for _, e := range forbidden {
		if below(from, e.from) && below(to, e.to) {
			return e.why
		}
	}
	if a, b := plugin(from), plugin(to); a != "" && b != "" && a != b && b != "kit" {
		return "what two plugins share is in plugins/kit"
	}
	return ""
}

// below says whether path is dir or in it.
func below(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// plugin is the plugin that a package belongs to; empty: none.
func plugin(path string) string {
	rest, ok := strings.CutPrefix(path, "plugins/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return name
}

func TestRefuse(t *testing.T) {
	for _, c := range []struct {
		from, to string
		refused  bool
	}{
		{"core/kernel", "proto/plugin/v1", false},
		{"core/pluginhost", "plugins/kit", true},
		{"core/pluginhost", "core/pki", false},
		{"plugins/dns", "plugins/kit", false},
		{"plugins/dns", "plugins/kit/kittest", false},
		{"plugins/dns", "plugins/dns/internal/cache", false},
		{"plugins/dns", "plugins/proxy", true},
		{"plugins/kit", "plugins/dns", true},
		{"plugins/dns", "core/version", true},
		{"proto/plugin/v1", "core/pki", true},
		{"cli", "plugins/dns", false},
		{"test/plugins", "core/pluginhost", false},
		{"corex", "plugins/kit", false},
	} {
		if got := refuse(c.from, c.to) != ""; got != c.refused {
			t.Errorf("%s imports %s: refused is %t, want %t", c.from, c.to, got, c.refused)
		}
	}
}

func TestBarredModules(t *testing.T) {
	out := golist(t, "-deps", "-test", "-f", "{{.ImportPath}}", module+"...")
	for path := range strings.Lines(string(out)) {
		path = strings.TrimSpace(path)
		for dir, why := range barred {
			if below(path, dir) {
				t.Errorf("%s is a dependency: %s", path, why)
			}
		}
	}
}

// list is every package of the module. A package that does not build has its imports
// all the same.
func list(t *testing.T) []pkg {
	t.Helper()
	var packages []pkg
	dec := json.NewDecoder(bytes.NewReader(golist(t, "-json=ImportPath,Imports,TestImports,XTestImports", module+"...")))
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	if len(packages) < 5 {
		t.Fatalf("go list found %d packages: the test looks in the wrong place", len(packages))
	}
	return packages
}

func golist(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-e"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, stderr.String())
	}
	return out
}
