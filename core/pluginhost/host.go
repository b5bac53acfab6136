package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Host launches and supervises plugins.
type Host struct {
	cfg     Config
	cgroups *cgroups
	forker  *forker
	turns   turns

	mu      sync.Mutex // guards all below
	units   map[string]*unit
	running context.Context // nil before Run and after its end
	wg      sync.WaitGroup  // the units' goroutines
}

// New makes a host and starts nothing. It may be given plugins before Run.
func New(cfg Config) *Host {
	if cfg.CgroupParent == "" {
		cfg.CgroupParent = "/keelson/plugins"
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Periods.setDefaults()
	if cfg.BuiltIn == nil {
		cfg.BuiltIn = func(string) (Command, bool) { return Command{}, false }
	}
	h := &Host{cfg: cfg, forker: newForker(), units: map[string]*unit{}}
	h.inherit(cfg.Inherit)
	return h
}

// Run ends what an earlier host left over, starts the plugins and keeps them running
// until ctx ends; then it drains and stops them all at once and returns when they and
// every goroutine have ended. It is called once. Only one host can run on a RunDir.
func (h *Host) Run(ctx context.Context) error {
	unlock, err := h.prepare()
	if err != nil {
		return err
	}
	defer unlock()
	h.cgroups = newCgroups(h.cfg.CgroupParent, h.cfg.Log)
	h.sweep(ctx)

	h.forker.start() // ends by stop, after the last plugin
	h.mu.Lock()
	h.running = ctx
	for _, u := range h.units {
		h.supervise(ctx, u)
	}
	h.mu.Unlock()

	<-ctx.Done()
	h.mu.Lock()
	h.running = nil
	h.mu.Unlock()
	h.wg.Wait()
	if errors.Is(context.Cause(ctx), ErrHandOver) {
		return nil
	}
	h.forker.stop()
	h.cgroups.removeParent()
	return nil
}

// supervise starts a unit's goroutine; h.mu is held.
func (h *Host) supervise(ctx context.Context, u *unit) {
	h.wg.Go(func() { newSupervisor(ctx, u).run() })
}

// prepare makes the folders and locks RunDir.
func (h *Host) prepare() (unlock func(), err error) {
	for _, dir := range []string{h.hostDir(), h.runDir(""), h.dataDir(""), h.logDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("prepare the plugin host: %w", err)
		}
	}
	lock, err := os.OpenFile(filepath.Join(h.hostDir(), "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("prepare the plugin host: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare the plugin host: another one runs on %s: %w", h.cfg.RunDir, err), lock.Close())
	}
	return func() { _ = lock.Close() }, nil
}

func (h *Host) hostDir() string             { return filepath.Join(h.cfg.RunDir, "host") }
func (h *Host) runDir(name string) string   { return filepath.Join(h.cfg.RunDir, "plugins", name) }
func (h *Host) dataDir(name string) string  { return filepath.Join(h.cfg.DataDir, "plugins", name) }
func (h *Host) logDir() string              { return filepath.Join(h.cfg.DataDir, "logs") }
func (h *Host) socket(kind string) string   { return filepath.Join(h.cfg.RunDir, kind+".sock") }
func (h *Host) recordOf(name string) string { return filepath.Join(h.hostDir(), name+".json") }

// Ensure makes a plugin run as spec says, or stop if it is not enabled. The same spec
// again changes nothing; of a changed one a candidate is started, which takes the place of
// the process that runs. It returns at once: Status tells what became of it.
func (h *Host) Ensure(spec Spec) error {
	if faults := validation.IsDNS1123Label(spec.Name); len(faults) > 0 {
		return fmt.Errorf("plugin name %q: %s", spec.Name, strings.Join(faults, "; "))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if u := h.units[spec.Name]; u != nil {
		u.want(spec)
		return nil
	}
	u := newUnit(h, spec)
	h.units[spec.Name] = u
	if h.running != nil {
		h.supervise(h.running, u)
	}
	return nil
}

// Remove stops a plugin in good order and forgets it; its data and log stay. It returns
// at once. An unknown name is no error. A plugin of the same name given to Ensure
// afterwards starts when the old process has ended.
func (h *Host) Remove(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if u := h.units[name]; u != nil {
		u.remove()
		if h.running == nil {
			delete(h.units, name)
		}
	}
}

// forget drops a removed unit, unless it was wanted again meanwhile.
func (h *Host) forget(u *unit) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !u.isRemoved() {
		return false
	}
	delete(h.units, u.name)
	return true
}

// Restart ends a plugin's process in good order and starts a new one, also if the plugin
// is in back-off or has failed. It returns at once.
func (h *Host) Restart(_ context.Context, name string) error {
	u, err := h.unit(name)
	if err != nil {
		return err
	}
	return u.restart()
}

// SwapAgain tries the revision of the spec once more that was refused or rolled back. It
// returns at once. ErrNothingToTry: there is none such.
func (h *Host) SwapAgain(name string) error {
	u, err := h.unit(name)
	if err != nil {
		return err
	}
	return u.again()
}

// Logs is what a plugin wrote, one JSON object or plain line for each line: the last
// tail lines (all that are kept, if tail is negative), and with follow also those to
// come, until ctx ends or the reader is closed.
func (h *Host) Logs(ctx context.Context, name string, tail int64, follow bool) (io.ReadCloser, error) {
	u, err := h.unit(name)
	if err != nil {
		return nil, err
	}
	return u.log.reader(ctx, tail, follow)
}

// Status is how a plugin is; false: there is no such plugin.
func (h *Host) Status(name string) (Status, bool) {
	u, err := h.unit(name)
	if err != nil {
		return Status{}, false
	}
	return u.getStatus(), true
}

// List is the names of all plugins, sorted.
func (h *Host) List() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	names := make([]string, 0, len(h.units))
	for name := range h.units {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (h *Host) unit(name string) (*unit, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	u := h.units[name]
	if u == nil || u.isRemoved() {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	return u, nil
}
