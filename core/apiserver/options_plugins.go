package apiserver

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/pflag"
)

// PluginOptions are about programs that run as plugins.
type PluginOptions struct {
	// Dirs are the folders in which a Plugin's spec.source.path has to lie, with symbolic
	// links resolved; none: plugins.d in the data folder.
	Dirs []string
}

func (o *PluginOptions) addFlags(fs *pflag.FlagSet) {
	const dir = "plugin-dir"
	fs.StringSliceVar(&o.Dirs, dir, o.Dirs, "Folders in which the programs of plugins by path have to lie (default: plugins.d in --data-dir)")
	if err := fs.SetAnnotation(dir, PathFlag, []string{"true"}); err != nil {
		panic(err) // the flag was made above
	}
}

// AddFlags adds the flags to those of a node without an API server.
func (o *PluginOptions) AddFlags(fs *pflag.FlagSet) { o.addFlags(fs) }

// Validate names every fault.
func (o *PluginOptions) Validate() error { return errors.Join(o.validate()...) }

func (o *PluginOptions) validate() []error {
	var errs []error
	for _, dir := range o.Dirs {
		if clean := filepath.Clean(dir); dir == "" || clean == "/" {
			errs = append(errs, fmt.Errorf("--plugin-dir %q: must be a folder of its own, as %s: whatever lies in it may be run as root", dir, "/var/lib/keelson/plugins.d"))
		}
	}
	return errs
}
