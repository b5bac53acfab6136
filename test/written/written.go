// Package written builds the plugins that `keelson plugins new` writes, for tests of them
// and with them. It needs Go, and nothing from the network.
package written

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"keelson.dev/keelson/cli/scaffold"
)

// Plugins are what `keelson plugins new` wrote, built.
type Plugins struct {
	// Dir has a folder for each, by its name. They are one module, so that a go command
	// there is for all of them.
	Dir string
	bin string
}

// New writes the plugins below dir and builds them, with one go command.
func New(dir string, plugins ...scaffold.Options) (*Plugins, error) {
	w := &Plugins{Dir: filepath.Join(dir, "src"), bin: filepath.Join(dir, "bin")}
	for i, o := range plugins {
		o.Dir, o.Lang = filepath.Join(w.Dir, o.Name), "go"
		if _, err := scaffold.Write(o); err != nil {
			return nil, err
		}
		for _, file := range []string{"go.mod", "go.sum"} {
			from := filepath.Join(o.Dir, file)
			if i > 0 {
				if err := os.Remove(from); err != nil {
					return nil, err
				}
			} else if err := os.Rename(from, filepath.Join(w.Dir, file)); err != nil {
				return nil, err
			}
		}
	}
	return w, w.Go("build", "-o", w.bin+"/", "./...")
}

// Go runs a go command for all of them.
func (w *Plugins) Go(args ...string) error { return Go(w.Dir, args...) }

// Go runs a go command in a folder. Nothing may have to be looked up (GOPROXY), and what the
// test was started with is not for the plugin (GOFLAGS).
func Go(dir string, args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-buildvcs=false", "GOPROXY=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %v: %w\n%s", args, err, out)
	}
	return nil
}

// Program is the path of a plugin's program.
func (w *Plugins) Program(name string) string { return filepath.Join(w.bin, name) }

// File is the path of a file of a plugin's source.
func (w *Plugins) File(plugin, file string) string { return filepath.Join(w.Dir, plugin, file) }
