package apiserver

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// fileSettle is how long a changed file has to stay unchanged before it is read:
// editors write in several steps.
const fileSettle = 50 * time.Millisecond

// followedFile is a configuration that is put in force anew when its file
// changes. What cannot be used is logged, and the last one stays in force.
type followedFile struct {
	flag, path string
	log        *slog.Logger
	// use puts content in force.
	use  func(content []byte) error
	last []byte // what use was given last; run's alone after open
}

// open puts the file in force for the first time.
func (f *followedFile) open() error {
	content, err := os.ReadFile(f.path)
	if err == nil {
		f.last = content
		err = f.use(content)
	}
	if err != nil {
		return fmt.Errorf("--%s %s: %w", f.flag, f.path, err)
	}
	return nil
}

// run follows the file until ctx ends.
func (f *followedFile) run(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("--%s: watch %s: %w", f.flag, f.path, err)
	}
	defer watcher.Close() //nolint:errcheck // nothing is lost
	// The folder: a file that is replaced is another one afterwards, and mounted
	// configuration changes by its folder's link.
	if err := watcher.Add(filepath.Dir(f.path)); err != nil {
		return fmt.Errorf("--%s: watch %s: %w", f.flag, f.path, err)
	}
	f.reload() // it may have changed since open
	timer := time.NewTimer(fileSettle)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.Events:
			timer.Reset(fileSettle)
		case err := <-watcher.Errors:
			f.log.Warn("Changes of a file may have been missed", "file", f.path, "err", err)
			timer.Reset(fileSettle)
		case <-timer.C:
			f.reload()
		}
	}
}

func (f *followedFile) reload() {
	content, err := os.ReadFile(f.path)
	if err == nil && bytes.Equal(content, f.last) {
		return
	}
	if err == nil {
		f.last = content
		err = f.use(content)
	}
	if err != nil {
		f.log.Error("Changed file not used, the last one stays in force", "flag", "--"+f.flag, "file", f.path, "err", err)
		return
	}
	f.log.Info("Changed file is in force", "flag", "--"+f.flag, "file", f.path)
}
