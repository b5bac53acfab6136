package author

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/cli/scaffold"
	"keelson.dev/keelson/core/pluginverify"
	"keelson.dev/keelson/proto/runtime/v1/runtimetest"
	"keelson.dev/keelson/test/need"
	"keelson.dev/keelson/test/written"
)

const repository = "../.."

// write writes a plugin into a folder of its own.
func write(t *testing.T, o scaffold.Options) (dir string) {
	t.Helper()
	o.Dir, o.Keelson = filepath.Join(t.TempDir(), "plugin"), repository
	if _, err := scaffold.Write(o); err != nil {
		t.Fatal(err)
	}
	return o.Dir
}

// verify holds a program to all that keelson plugins verify looks at, at work too.
func verify(t *testing.T, p pluginverify.Program) (seen string) {
	t.Helper()
	var all strings.Builder
	p.Activate = true
	err := pluginverify.Verify(t.Context(), p, func(c pluginverify.Check) {
		all.WriteString(c.Name + " " + c.Detail + " " + c.Fault + "\n")
	})
	if err != nil {
		t.Errorf("verify %s: %v\n%s", p.Path, err, all.String())
	}
	return all.String()
}

// TestNewInGo: what is written for Go, of each kind, is a module that builds from what
// Keelson itself is built of, and a plugin.
func TestNewInGo(t *testing.T) {
	plugins := []scaffold.Options{{Name: "night-watch", Kind: "watch", Keelson: repository}} // a kind of one's own
	for _, kind := range scaffold.Kinds() {
		if kind != "controller" {
			plugins = append(plugins, scaffold.Options{Name: "my-" + kind, Kind: kind, Keelson: repository})
		}
	}
	programs, err := written.New(t.TempDir(), plugins...)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range plugins {
		t.Run(o.Kind, func(t *testing.T) {
			program := pluginverify.Program{Path: programs.Program(o.Name), Config: configOf(t, programs, o), Examples: read(t, programs.File(o.Name, "examples.yaml"))}
			d, err := pluginverify.Describe(t.Context(), program)
			if err != nil || d.GetName() != o.Name || d.GetKind() != o.Kind {
				t.Errorf("got %s of kind %s, %v, want %s of kind %s", d.GetName(), d.GetKind(), err, o.Name, o.Kind)
			}
			seen := verify(t, program)
			if o.Kind == "network" || o.Kind == "storage" {
				need.Root(t)
			}
			if kindTests := " tests of kind " + o.Kind + " passed"; strings.Contains(seen, kindTests) != (o.Kind != "watch" && o.Kind != "scheduler") {
				t.Errorf("%q: not as it should be in\n%s", kindTests, seen)
			}
			tidy(t, filepath.Join(programs.Dir, o.Name), o)
		})
	}
	if err := programs.Go("vet", "./..."); err != nil { // its tests are those of cli/scaffold, which run there
		t.Error(err)
	}
}

// read is the content of a file; nil: there is none.
func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return text
}

// configOf is the configuration to try a plugin with: that of its folder. The runtime has a
// runtime in memory behind it.
func configOf(t *testing.T, programs *written.Plugins, o scaffold.Options) json.RawMessage {
	t.Helper()
	if o.Kind == "runtime" {
		socket := filepath.Join(t.TempDir(), "r.sock")
		listener, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		server, served := grpc.NewServer(), make(chan struct{})
		runtimetest.Empty{}.Register(server)
		go func() { defer close(served); _ = server.Serve(listener) }()
		t.Cleanup(func() { server.Stop(); <-served })
		return json.RawMessage(fmt.Sprintf(`{"socket":%q}`, socket))
	}
	text := read(t, programs.File(o.Name, "config.yaml"))
	if text == nil {
		return nil
	}
	text, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestNewInNode: the same for JavaScript.
func TestNewInNode(t *testing.T) {
	dir := nodePlugin(t, scaffold.Options{Name: "night-watch", Kind: "watch", Lang: "node"})
	verify(t, pluginverify.Program{Path: filepath.Join(dir, "index.js")})
	cmd := exec.Command("node", "--test")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("node --test: %v\n%s", err, out)
	}
	tidy(t, dir, scaffold.Options{Name: "night-watch", Kind: "watch"})
}

// nodePlugin writes one in JavaScript, with the modules that scripts/setup got.
func nodePlugin(t *testing.T, o scaffold.Options) (dir string) {
	t.Helper()
	need.Program(t, "node")
	modules, err := filepath.Abs(repository + "/.cache/node/node_modules")
	if err == nil {
		_, err = os.Stat(modules)
	}
	if err != nil {
		need.Missing(t, "the modules that scripts/setup test gets: %v", err)
	}
	dir = write(t, o)
	if err := os.Symlink(modules, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// tidy: no name of an example is left, and make knows what to do.
func tidy(t *testing.T, dir string, o scaffold.Options) {
	t.Helper()
	files, err := filepath.Glob(dir + "/*.*")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // node_modules
		}
		for _, word := range []string{"namespace-labels", "namespace_labels", "NAME:", "KIND\n", " VERIFY"} {
			if strings.Contains(string(text), word) {
				t.Errorf("%s has %q", filepath.Base(file), word)
			}
		}
	}
	out, err := exec.Command("make", "-C", dir, "--no-print-directory").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "swap") {
		t.Errorf("make of %s: %v\n%s", o.Name, err, out)
	}
}

// TestNewWrong: what cannot be written says why, and nothing is overwritten.
func TestNewWrong(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "x")
	for _, c := range []struct {
		o    scaffold.Options
		want string
	}{
		{scaffold.Options{Name: "No", Kind: "controller", Lang: "go", Dir: empty}, `name "No"`},
		{scaffold.Options{Name: "x", Kind: "", Lang: "go", Dir: empty}, `--kind ""`},
		{scaffold.Options{Name: "x", Kind: "network", Lang: "node", Dir: empty}, "of kind network there is one in Go"},
		{scaffold.Options{Name: "x", Kind: "controller", Lang: "cobol", Dir: empty}, `--lang "cobol"`},
		{scaffold.Options{Name: "x", Kind: "scheduler", Lang: "node", Dir: empty}, "--lang node"},
		{scaffold.Options{Name: "x", Kind: "controller", Lang: "go", Dir: full}, "is not empty"},
		{scaffold.Options{Name: "x", Kind: "controller", Lang: "go", Dir: empty, Keelson: full}, "--keelson"},
	} {
		if _, err := scaffold.Write(c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v, want %q", c.o, err, c.want)
		}
	}
}
