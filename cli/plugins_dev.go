package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"keelson.dev/keelson/proto/api/v1alpha1"
	"keelson.dev/keelson/proto/api/v1alpha1/client"
)

// settle is how long nothing may change before a change counts as whole: compilers and
// editors write in several steps.
const settle = 300 * time.Millisecond

func (p *pluginsCommand) dev() *cobra.Command {
	d := &development{pluginsCommand: p}
	cmd := &cobra.Command{
		Use:   "dev PATH|DIR",
		Short: "Swap a plugin in each time that its program, or its Go source, changes",
		Long: `Watch a program, or a folder with the Go source of one, which is built on each change.
Swap it in, accept the rights that it asks for, print what it logs, and how to attach a
debugger. Ctrl-C gives back what ran before.

A swap that fails leaves the program before it at work, and the next change is waited for.
This is for the server's machine.`,
		Example: `  # In the folder of a plugin that keelson plugins new has written
  keelson plugins dev . --name scheduler

  # A program that something else builds
  keelson plugins dev ./bin/my-scheduler --name scheduler`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			d.target = args[0]
			return d.run(ctx)
		},
	}
	f := cmd.Flags()
	f.StringVar(&d.name, "name", "", "The plugin's name")
	f.StringVar(&d.options.config, "config", "", "File with the plugin's configuration, in YAML or JSON")
	f.StringVar(&d.options.dir, "plugin-dir", defaultPluginDir, "The server's plugin folder")
	f.DurationVar(&d.options.timeout, "timeout", time.Minute, "How long to wait for the outcome of a swap")
	if err := errors.Join(cmd.MarkFlagRequired("name"), cmd.RegisterFlagCompletionFunc("name", p.complete)); err != nil {
		panic(err) // no such flag: a mistake in this file
	}
	return cmd
}

// development is one run of dev.
type development struct {
	*pluginsCommand
	name, target string
	options      swapOptions

	plugins *client.Client
	source  string           // folder of Go source; empty: target is a program
	binary  string           // what is swapped in
	before  *v1alpha1.Plugin // nil: there was none
	copies  map[string]bool  // files that were copied into the plugin folder

	mu       sync.Mutex // guards terminal, which the log and the swaps share
	terminal io.Writer
}

// Write writes to the terminal, from several goroutines.
func (d *development) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.terminal.Write(b)
}

func (d *development) run(ctx context.Context) (err error) {
	if d.plugins, err = d.client(); err != nil {
		return err
	}
	if d.before, err = d.plugins.Get(ctx, d.name); apierrors.IsNotFound(err) {
		d.before = nil
	} else if err != nil {
		return err
	}
	cleanup, watcher, err := d.prepare()
	if err != nil {
		return err
	}
	defer cleanup()
	shared := *d.pluginsCommand
	d.terminal, shared.Out = shared.Out, d
	d.pluginsCommand = &shared
	defer func() { err = errors.Join(err, d.giveBack(context.WithoutCancel(ctx))) }()

	var wg sync.WaitGroup
	defer wg.Wait()
	logCtx, endLog := context.WithCancel(ctx)
	defer endLog()
	var logs sync.Once
	for {
		d.try(ctx)
		logs.Do(func() { wg.Go(func() { d.follow(logCtx) }) })
		if err := d.changed(ctx, watcher); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// prepare finds what to watch and watches it.
func (d *development) prepare() (cleanup func(), watcher *fsnotify.Watcher, err error) {
	target, err := filepath.Abs(d.target)
	if err != nil {
		return nil, nil, err
	}
	info, err := os.Stat(target)
	if err != nil {
		return nil, nil, err
	}
	if watcher, err = fsnotify.NewWatcher(); err != nil {
		return nil, nil, fmt.Errorf("watch %s: %w", d.target, err)
	}
	temp := ""
	cleanup = func() { _ = watcher.Close(); _ = os.RemoveAll(temp) }
	d.copies = map[string]bool{}
	if !info.IsDir() {
		d.binary = target
		err = watcher.Add(filepath.Dir(target)) // the file itself is replaced by what builds it
	} else if temp, err = os.MkdirTemp("", "keelson-dev-"); err == nil {
		d.source, d.binary = target, filepath.Join(temp, d.name)
		err = watchTree(watcher, target)
	}
	if err != nil {
		cleanup()
		return nil, nil, fmt.Errorf("watch %s: %w", d.target, err)
	}
	return cleanup, watcher, nil
}

// watchTree watches a folder and those in it, but for hidden ones.
func watchTree(watcher *fsnotify.Watcher, root string) error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		if path != root && strings.HasPrefix(entry.Name(), ".") {
			return filepath.SkipDir
		}
		return watcher.Add(path)
	})
}

// changed returns when something has changed and then was still for a while, or ctx ended.
func (d *development) changed(ctx context.Context, watcher *fsnotify.Watcher) error {
	var still <-chan time.Time
	for {
		select {
		case event := <-watcher.Events:
			if d.matters(event.Name) && event.Op&^fsnotify.Chmod != 0 {
				still = time.After(settle)
			}
		case err := <-watcher.Errors:
			return fmt.Errorf("watch %s: %w", d.target, err)
		case <-still:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

func (d *development) matters(path string) bool {
	if d.source == "" {
		return path == d.binary
	}
	name := filepath.Base(path)
	return !strings.HasPrefix(name, ".") && (strings.HasSuffix(name, ".go") || name == "go.mod")
}

// try builds and swaps; what goes wrong is printed, and the next change waited for.
func (d *development) try(ctx context.Context) {
	if d.source != "" {
		build := exec.CommandContext(ctx, "go", "build", "-o", d.binary, ".")
		build.Dir, build.Env = d.source, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			if ctx.Err() == nil {
				fmt.Fprintf(d, "dev: does not build, the one before goes on:\n%s", out)
			}
			return
		}
	}
	o := d.options
	o.path, o.accept = d.binary, true
	begin := time.Now()
	if err := d.doSwap(ctx, d.name, o); err != nil {
		if ctx.Err() == nil {
			fmt.Fprintf(d, "dev: %v\n", err)
		}
		return
	}
	p, err := d.plugins.Get(ctx, d.name)
	if err != nil {
		return
	}
	if path := p.Spec.Source.Path; path != "" && (d.before == nil || d.before.Spec.Source.Path != path) {
		d.copies[path] = true
	}
	fmt.Fprintf(d, "dev: swapped in %s; process %d; to debug it: dlv attach %d\n", time.Since(begin).Round(time.Millisecond), p.Status.PID, p.Status.PID)
}

// follow prints what the plugin logs from now on.
func (d *development) follow(ctx context.Context) {
	for ctx.Err() == nil {
		stream, err := d.plugins.Logs(ctx, d.name, "", 0, true)
		if err == nil {
			_, _ = io.Copy(d, stream)
			_ = stream.Close()
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second): // the server was away, or there is no such plugin yet
		}
	}
}

// giveBack writes the spec of before, or removes the plugin that there was not, and
// removes what was copied.
func (d *development) giveBack(ctx context.Context) error {
	if d.before == nil {
		err := d.plugins.Delete(ctx, d.name)
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("remove plugin %s: %w", d.name, err)
		}
		fmt.Fprintf(d, "dev: plugin %s removed\n", d.name)
	} else {
		now, changed, err := change(ctx, d.plugins, d.name, func(p *v1alpha1.Plugin) error {
			p.Spec = d.before.Spec
			return nil
		})
		if err != nil {
			return fmt.Errorf("give back what ran before: %w", err)
		}
		fmt.Fprintf(d, "dev: %s is given back\n", source(d.before.Spec.Source))
		if err := d.outcome(ctx, d.plugins, now, changed, waitOptions{timeout: d.options.timeout}); err != nil {
			return err
		}
	}
	for path := range d.copies {
		if filepath.Dir(path) == filepath.Clean(d.options.dir) {
			_ = os.Remove(path)
		}
	}
	return nil
}
