package kernel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"keelson.dev/keelson/core/apiserver"
	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/core/version"
)

// UpgradeFormat is the form of what a kernel hands over to the program that takes its place;
// UpgradeFormatOldest is the oldest that this one can take.
const (
	UpgradeFormat       = 1
	UpgradeFormatOldest = 1
)

// successionEnv names the descriptor of the succession.
const successionEnv = "KEELSON_SUCCESSION"

// beforePrefix begins the names of kept binaries in the data folder's bin.
const beforePrefix = "before-"

// Upgrade lets a running kernel be replaced by another binary (keelson upgrade).
type Upgrade struct {
	// Program is the path of the running binary, Args its arguments without the name.
	Program string
	Args    []string
}

// succession is what a kernel leaves to the program that takes its place, in a sealed memory
// file. It holds secrets.
type succession struct {
	Format  int    `json:"format"`
	Build   string `json:"build"`
	Release string `json:"release"`
	// Program is where the binary lies for good, Staged the new one until it works; empty: it
	// lies at Program already. Before is the old one, to go back to.
	Program string `json:"program"`
	Staged  string `json:"staged,omitempty"`
	Before  string `json:"before"`
	// Back says why the new one went back to the old one.
	Back string `json:"back,omitempty"`
	// Since is when the old one stopped to serve, by the system's monotonic clock.
	Since        time.Duration     `json:"since"`
	NotifySocket string            `json:"notifySocket,omitempty"`
	Plugins      *pluginhost.State `json:"plugins"`

	// Descriptors; -1: there is none.
	Lock     int `json:"lock"`
	Listener int `json:"listener"`
	Caller   int `json:"caller"`
}

// replacer has a kernel replaced by another binary, and is the place of what outlives that.
type replacer struct {
	log          *slog.Logger
	dataDir      string
	runDir       string
	offered      *Upgrade // nil: it is not offered
	lock         *instance
	notifySocket string
	control      *control

	// of the kernel's goroutine
	came     *succession       // until this program works; nil: it took nobody's place
	left     *pluginhost.State // what is to be taken over
	before   string            // the binary that was replaced
	listener *os.File
	since    time.Duration // when the API stopped; 0: it did not
	failed   error         // why the program was not replaced

	mu     sync.Mutex // guards all below
	cancel context.CancelCauseFunc
	phase  replacePhase
	plan   *plan
	caller *caller
}

// replacePhase is what a replacer can be asked for.
type replacePhase int

const (
	replaceStarting replacePhase = iota
	replaceReady
	replaceBusy
)

// newReplacer makes this process the instance of a run folder, or goes on as it.
func newReplacer(log *slog.Logger, dataDir, runDir string, offered *Upgrade) (*replacer, error) {
	r := &replacer{log: log, dataDir: dataDir, runDir: runDir, offered: offered, notifySocket: os.Getenv(notifySocketEnv)}
	var err error
	if r.came, err = receiveSuccession(); err != nil {
		return nil, err
	}
	if r.came == nil {
		r.lock, err = acquire(runDir)
	} else {
		err = r.takeUp()
	}
	if err != nil {
		return nil, err
	}
	// The generic API server would tell systemd that it is ready before the cluster is.
	if err := os.Unsetenv(notifySocketEnv); err != nil {
		r.lock.release()
		return nil, err
	}
	if offered != nil {
		if r.control, err = r.serveControl(); err != nil {
			r.lock.release()
			return nil, err
		}
	}
	return r, nil
}

// takeUp takes what the program before left.
func (r *replacer) takeUp() error {
	s := r.came
	r.lock = &instance{os.NewFile(uintptr(s.Lock), filepath.Join(r.runDir, PIDFile))}
	r.notifySocket, r.since, r.before = s.NotifySocket, s.Since, s.Before
	if s.Listener >= 0 {
		r.listener = os.NewFile(uintptr(s.Listener), "listener")
	}
	if s.Caller >= 0 {
		r.caller = inheritCaller(s.Caller)
	}
	if s.Format < UpgradeFormatOldest || s.Format > UpgradeFormat || s.Plugins == nil {
		return r.goBack(fmt.Errorf("the kernel before left a state of format %d, this one takes %d to %d", s.Format, UpgradeFormatOldest, UpgradeFormat))
	}
	s.Plugins.Open()
	r.left = s.Plugins
	return nil
}

// close gives the run folder back.
func (r *replacer) close() {
	r.control.close()
	if r.caller != nil {
		r.caller.end(errors.New("the kernel ends"))
	}
	if r.listener != nil {
		_ = r.listener.Close()
	}
	r.lock.release()
}

// run has once run, which is the kernel, until it ends otherwise than to be replaced.
func (r *replacer) run(ctx context.Context, once func(context.Context) error) error {
	defer r.close()
	for {
		running, cancel := context.WithCancelCause(ctx)
		r.mu.Lock()
		r.cancel, r.phase = cancel, replaceStarting
		r.mu.Unlock()
		err := once(running)
		cancel(nil)
		switch {
		case errors.Is(err, pluginhost.ErrHandOver) && ctx.Err() != nil: // asked to end as well
			r.left.Close()
			return nil
		case errors.Is(err, pluginhost.ErrHandOver):
			r.failed = r.exec()
			r.log.Error("The kernel is not replaced: it goes on", "err", r.failed)
		case err != nil && r.came != nil && ctx.Err() == nil:
			return r.goBack(err)
		default:
			return err
		}
	}
}

// ready is called when the kernel works: what was replaced is replaced now.
func (r *replacer) ready() {
	if r.offered == nil {
		return
	}
	gap := time.Duration(0)
	if r.since != 0 {
		gap = monotonic() - r.since
	}
	switch s := r.came; {
	case s == nil && r.failed == nil:
		r.clean("")
	case s == nil:
		r.caller.end(fmt.Errorf("%w; the old kernel serves again, after %s", r.failed, milliseconds(gap)))
		r.removeStaged()
		r.caller, r.failed = nil, nil
	case s.Back != "":
		r.log.Error("The new kernel did not start: this is the one before", "reason", s.Back, "gap", gap)
		r.caller.end(fmt.Errorf("the new kernel did not start: %s; the old one serves again, after %s", s.Back, milliseconds(gap)))
		if s.Staged != "" {
			_ = os.Remove(s.Staged)
		}
		r.caller = nil
	default:
		if s.Staged != "" {
			if err := os.Rename(s.Staged, s.Program); err != nil {
				r.log.Error("The new binary is not in its place", "err", err)
			}
		}
		r.clean(s.Before)
		r.log.Info("Kernel is replaced", "before", s.Build, "build", version.Build(), "gap", gap)
		r.caller.say("Kernel %s works in the place of %s, after a gap of %s", version.Build(), s.Build, milliseconds(gap))
	}
	r.came, r.since = nil, 0
	r.mu.Lock()
	r.phase, r.plan = replaceReady, nil
	r.mu.Unlock()
}

// finish tells who asked for the upgrade what becomes of the plugins, until they have all
// come to rest.
func (r *replacer) finish(ctx context.Context, host *pluginhost.Host) {
	c := r.caller
	if c == nil {
		return
	}
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	names, told := host.Inherited(), map[string]bool{}
	c.say("Plugins run on: %s", strings.Join(names, ", "))
	for pending := host.Pending(); ; pending = host.Pending() {
		for _, name := range names {
			if _, waits := pending[name]; !waits && !told[name] {
				told[name] = true
				c.say("%s", pluginWords(host, name))
			}
		}
		if len(pending) == 0 {
			c.end(nil)
			return
		}
		select {
		case <-ctx.Done():
			c.end(errors.New("the kernel ends"))
			return
		case <-c.gone:
			return
		case <-ticker.C:
		}
	}
}

// pluginWords says how a plugin came through.
func pluginWords(host *pluginhost.Host, name string) string {
	s, ok := host.Status(name)
	if !ok {
		return name + ": removed"
	}
	text := fmt.Sprintf("%s: %s, version %s, process %d", name, s.Phase, s.Version, s.PID)
	switch {
	case s.Progress == pluginhost.ProgressRefused || s.Progress == pluginhost.ProgressRolledBack:
		text += "; the new version was not taken: " + s.ProgressMessage
	case s.History != nil && len(s.History.Revisions) > 0 && s.Progress == pluginhost.ProgressWatching:
		text += fmt.Sprintf(", swapped after a gap of %s", milliseconds(s.History.Revisions[0].Gap))
	}
	return text
}

func milliseconds(d time.Duration) string {
	return strconv.FormatFloat(float64(d.Microseconds())/1000, 'f', 1, 64) + " ms"
}

// command starts built-in plugins from where the binary lies for good.
func (r *replacer) command(command func(string) (string, []string)) func(string) (string, []string) {
	if r.offered == nil || r.came == nil {
		return command
	}
	from, to := r.offered.Program, r.came.Program
	if r.came.Back != "" && r.came.Staged == "" {
		to = r.came.Before // at its place lies what did not start
	}
	r.offered.Program = to
	return func(name string) (string, []string) {
		path, args := command(name)
		if path == from {
			path = to
		}
		return path, args
	}
}

// exec puts the new binary in this one's place; it returns only if that cannot be.
func (r *replacer) exec() error {
	r.mu.Lock()
	p := r.plan
	r.mu.Unlock()
	return r.execute(p.path, &succession{
		Format: UpgradeFormat, Build: version.Build(), Release: version.Git(), Program: r.offered.Program, Staged: p.staged, Before: p.before,
		Since: r.since, NotifySocket: r.notifySocket, Plugins: r.left,
	})
}

// goBack puts the binary before in this one's place, once; else it returns why this one does
// not work.
func (r *replacer) goBack(why error) error {
	s := r.came
	if s.Back != "" {
		return fmt.Errorf("%w (and the kernel that was to take its place did not start either: %s)", why, s.Back)
	}
	r.log.Error("This kernel does not start: the one before comes back", "before", s.Build, "err", why)
	s.Back = why.Error()
	if err := r.execute(s.Before, s); err != nil {
		return errors.Join(why, fmt.Errorf("go back to %s: %w", s.Before, err))
	}
	return why
}

// execute executes a kernel with a succession.
func (r *replacer) execute(path string, s *succession) error {
	files := []*os.File{r.lock.file}
	s.Lock, s.Listener, s.Caller = 0, -1, -1
	var err error
	if s.Lock, err = pluginhost.Descriptor(r.lock.file); err != nil {
		return err
	}
	if r.listener != nil {
		files = append(files, r.listener)
		if s.Listener, err = pluginhost.Descriptor(r.listener); err != nil {
			return err
		}
	}
	if file := r.caller.file(); file != nil {
		defer func() { _ = file.Close() }()
		files = append(files, file)
		if s.Caller, err = pluginhost.Descriptor(file); err != nil {
			return err
		}
	}
	if err := s.Plugins.Number(); err != nil {
		return err
	}
	memory, err := s.seal()
	if err != nil {
		return err
	}
	defer func() { _ = memory.Close() }()
	at, err := pluginhost.Descriptor(memory)
	if err != nil {
		return err
	}
	env := append(os.Environ(), successionEnv+"="+strconv.Itoa(at))
	if r.notifySocket != "" {
		env = append(env, notifySocketEnv+"="+r.notifySocket)
	}
	args := append([]string{r.offered.Program}, r.offered.Args...)
	if err := s.Plugins.Exec(path, args, env, append(files, memory)...); err != nil {
		return fmt.Errorf("execute %s: %w", path, err)
	}
	return nil
}

// seal writes a succession to a file in memory that nobody can change.
func (s *succession) seal() (*os.File, error) {
	data, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("keelson-succession", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	file := os.NewFile(uintptr(fd), "succession")
	_, err = file.Write(data)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE|unix.F_SEAL_SEAL)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write a file in memory: %w", err), file.Close())
	}
	return file, nil
}

// receiveSuccession reads what the program before left in this process; nil: there was none.
func receiveSuccession() (*succession, error) {
	text := os.Getenv(successionEnv)
	if text == "" {
		return nil, nil
	}
	if err := os.Unsetenv(successionEnv); err != nil {
		return nil, err
	}
	fd, err := strconv.Atoi(text)
	if err != nil || fd < 3 {
		return nil, fmt.Errorf("%s: %q is no descriptor", successionEnv, text)
	}
	file := os.NewFile(uintptr(fd), "succession")
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("read what the kernel before left: %w", err)
	}
	data := make([]byte, info.Size())
	if _, err := file.ReadAt(data, 0); err != nil {
		return nil, fmt.Errorf("read what the kernel before left: %w", err)
	}
	s := &succession{}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("read what the kernel before left: %w", err)
	}
	for _, fd := range []int{s.Lock, s.Listener, s.Caller} {
		if fd >= 0 {
			unix.CloseOnExec(fd)
		}
	}
	return s, nil
}

// monotonic is the system's clock that no setting changes.
func monotonic() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0
	}
	return time.Duration(now.Nano())
}

// hand notes what a host leaves that ended to be taken over; false: it ended otherwise.
func (r *replacer) hand(host *pluginhost.Host, err error) bool {
	if !errors.Is(err, pluginhost.ErrHandOver) {
		return false
	}
	r.left, r.since = host.State(), monotonic()
	return true
}

// keep keeps the API's port open for the next run.
func (r *replacer) keep(api *apiserver.Server) (err error) {
	if r.offered == nil || r.listener != nil {
		return nil
	}
	r.listener, err = api.ListenerFile()
	return err
}

// listen is the API's port as the run before left it; nil: it is to be opened.
func (r *replacer) listen() (net.Listener, error) {
	if r.listener == nil {
		return nil, nil
	}
	l, err := net.FileListener(r.listener)
	if err != nil {
		return nil, fmt.Errorf("take over the API's port: %w", err)
	}
	return l, nil
}
