package author

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"keelson.dev/keelson/cli/scaffold"
	"keelson.dev/keelson/core/pluginverify"
	"keelson.dev/keelson/test/need"
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

func goCommand(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("go", args...)
	// GOPROXY: nothing may have to be looked up. GOFLAGS: what this test was started with
	// is not for the plugin.
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-buildvcs=false", "GOPROXY=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// verify holds a program to all that keelson plugins verify looks at, at work too.
func verify(t *testing.T, path string) {
	t.Helper()
	var seen strings.Builder
	err := pluginverify.Verify(t.Context(), pluginverify.Program{Path: path, Activate: true}, func(c pluginverify.Check) {
		seen.WriteString(c.Name + " " + c.Detail + " " + c.Fault + "\n")
	})
	if err != nil {
		t.Errorf("verify %s: %v\n%s", path, err, seen.String())
	}
}

// TestNewInGo: what is written for Go is a module that builds from what Keelson itself is
// built of, and a plugin.
func TestNewInGo(t *testing.T) {
	for _, o := range []scaffold.Options{
		{Name: "night-watch", Kind: "watch", Lang: "go"}, // a kind of one's own
		{Name: "tidy", Kind: "scheduler", Lang: "go"},
	} {
		t.Run(o.Kind, func(t *testing.T) {
			dir := write(t, o)
			goCommand(t, dir, "build", "-o", o.Name, ".")
			verify(t, filepath.Join(dir, o.Name))
			d, err := pluginverify.Describe(t.Context(), pluginverify.Program{Path: filepath.Join(dir, o.Name)})
			if err != nil || d.GetName() != o.Name || d.GetKind() != o.Kind {
				t.Errorf("got %s of kind %s, %v, want %s of kind %s", d.GetName(), d.GetKind(), err, o.Name, o.Kind)
			}
			if !testing.Short() {
				goCommand(t, dir, "test", "-vet=off", "./...")
			}
			tidy(t, dir, o)
		})
	}
}

// TestNewInNode: the same for JavaScript.
func TestNewInNode(t *testing.T) {
	dir := nodePlugin(t, scaffold.Options{Name: "night-watch", Kind: "watch", Lang: "node"})
	verify(t, filepath.Join(dir, "index.js"))
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
		for _, word := range []string{"namespace-labels", "namespace_labels", "NAME:", "KIND\n"} {
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
		{scaffold.Options{Name: "x", Kind: "network", Lang: "go", Dir: empty}, "proto/network/v1"},
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
