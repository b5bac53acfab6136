package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"github.com/hashicorp/go-plugin"
	"golang.org/x/sys/unix"
	rbacv1 "k8s.io/api/rbac/v1"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// ErrHandOver is the cause of the end of Run's context that has Run return with the plugins
// running on. State is then what the next host needs to take them over.
var ErrHandOver = errors.New("plugins are handed over")

// errDetach ends a session whose process runs on.
var errDetach = errors.New("the process runs on")

// leaveTime is what processes that are ending already have to do so before a hand-over.
const leaveTime = 10 * time.Second

// State is what one host hands over to the next, in this process or, by Exec, in the
// program that takes its place. It holds secrets: keys of the plugins' connections.
type State struct {
	Plugins []*PluginState `json:"plugins"`

	// Files are the descriptors that go along; plugins name them by their place in it.
	// Descriptors are their numbers, which Number writes down and Open takes.
	Files       []*os.File `json:"-"`
	Descriptors []int      `json:"descriptors"`

	forker *forker
}

// PluginState is one plugin of a State.
type PluginState struct {
	Spec    Spec          `json:"spec"`
	Status  Status        `json:"status"`
	Current TargetState   `json:"current"`
	Active  *SessionState `json:"active,omitempty"`
	Standby *SessionState `json:"standby,omitempty"`
	// Lingering were replaced, and serve the streams that they have open.
	Lingering []*SessionState `json:"lingering,omitempty"`
	Trial     *TrialState     `json:"trial,omitempty"`

	Failed        string              `json:"failed,omitempty"`
	FailedOutcome Outcome             `json:"failedOutcome,omitempty"`
	FailedWhy     string              `json:"failedWhy,omitempty"`
	Starts        int                 `json:"starts"`
	Stuck         bool                `json:"stuck,omitempty"`
	RetryAt       time.Time           `json:"retryAt,omitzero"`
	EndedAt       time.Time           `json:"endedAt,omitzero"`
	Granted       []rbacv1.PolicyRule `json:"granted,omitempty"`
	Sockets       []SocketState       `json:"sockets,omitempty"`
}

// TargetState is a revision: see target.
type TargetState struct {
	Spec     Spec   `json:"spec"`
	Revision string `json:"revision"`
	Good     bool   `json:"good"`
	Binary   string `json:"binary,omitempty"`
}

// TrialState is the time after a change over: see trial.
type TrialState struct {
	Before     TargetState   `json:"before"`
	Strict     bool          `json:"strict"`
	Ready      bool          `json:"ready"`
	Since      time.Time     `json:"since"`
	Until      time.Time     `json:"until,omitzero"`
	ReadyUntil time.Time     `json:"readyUntil,omitzero"`
	GapFrom    time.Time     `json:"gapFrom,omitzero"`
	Gap        time.Duration `json:"gap"`
}

// SocketState is a socket that is kept for a plugin.
type SocketState struct {
	Network string   `json:"network"`
	Address string   `json:"address"`
	File    int      `json:"file"`
	Users   []string `json:"users,omitempty"`
	Path    string   `json:"path,omitempty"`
	Device  uint64   `json:"device,omitempty"`
	Inode   uint64   `json:"inode,omitempty"`
}

// SessionState is one process and the connection to it.
type SessionState struct {
	PID       int       `json:"pid"`
	StartTime uint64    `json:"startTime"`
	Instance  string    `json:"instance"`
	Path      string    `json:"path"`
	SocketDir string    `json:"socketDir,omitempty"`
	Network   string    `json:"network"`
	Address   string    `json:"address"`
	Protocol  int       `json:"protocol"`
	Transport Transport `json:"transport"`
	Stdout    int       `json:"stdout"`
	Stderr    int       `json:"stderr"`
	Lifeline  int       `json:"lifeline"`
	Asked     []byte    `json:"asked,omitempty"` // what was read of a request for a socket
	LastLines []string  `json:"lastLines,omitempty"`
	Partial   []byte    `json:"partial,omitempty"` // what was read of a line of its log

	Target      TargetState    `json:"target"`
	Begun       time.Time      `json:"begun"`
	Started     time.Time      `json:"started"`
	Since       time.Time      `json:"since"`
	WatchFor    time.Duration  `json:"watchFor"`
	Active      bool           `json:"active"`
	Worked      bool           `json:"worked"`
	SeenReady   bool           `json:"seenReady"`
	State       pluginv1.State `json:"state"`
	Message     string         `json:"message,omitempty"`
	Streams     int32          `json:"streams,omitempty"`
	Until       time.Time      `json:"until,omitzero"`
	Description Description    `json:"description"`
	Client      *KeyPair       `json:"client,omitempty"`
	Serving     *KeyPair       `json:"serving,omitempty"`

	process *process // of this process; nil: it came from another
	files   [3]*os.File
}

// State is what Run, ended by ErrHandOver, has left running. It is taken once: its owner
// closes its files, or gives it to Exec or to the next host.
func (h *Host) State() *State {
	h.mu.Lock()
	defer h.mu.Unlock()
	st := &State{forker: h.forker}
	for _, u := range h.units {
		if u.left == nil {
			continue
		}
		p := u.left
		u.left = nil
		for _, s := range p.sessions() {
			s.Stdout, s.Stderr, s.Lifeline = st.add(s.files[0]), st.add(s.files[1]), st.add(s.files[2])
		}
		p.Sockets = u.sockets.leave(st.add)
		st.Plugins = append(st.Plugins, p)
	}
	return st
}

// sessions are all of a plugin.
func (p *PluginState) sessions() []*SessionState {
	return slices.DeleteFunc(append([]*SessionState{p.Active, p.Standby}, p.Lingering...), func(s *SessionState) bool { return s == nil })
}

// add is the place of a file.
func (st *State) add(f *os.File) int {
	st.Files = append(st.Files, f)
	return len(st.Files) - 1
}

// file is the file at a place.
func (st *State) file(at int) (*os.File, error) {
	if at < 0 || at >= len(st.Files) || st.Files[at] == nil {
		return nil, fmt.Errorf("descriptor %d was not handed over", at)
	}
	return st.Files[at], nil
}

// Number writes down the files' descriptors, for a program that inherits them by Exec.
func (st *State) Number() error {
	st.Descriptors = make([]int, len(st.Files))
	for i, f := range st.Files {
		var err error
		if st.Descriptors[i], err = Descriptor(f); err != nil {
			return fmt.Errorf("hand over %s: %w", f.Name(), err)
		}
	}
	return nil
}

// Descriptor is the number of an open file, for a program that inherits it. Unlike Fd it
// leaves the file as it is: Fd makes it block.
func Descriptor(f *os.File) (n int, err error) {
	raw, err := f.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { n = int(fd) })
	}
	return n, err
}

// Open takes the files that this program inherited. From then on its children do not.
func (st *State) Open() {
	st.Files = make([]*os.File, len(st.Descriptors))
	for i, fd := range st.Descriptors {
		unix.CloseOnExec(fd)
		st.Files[i] = os.NewFile(uintptr(fd), "inherited")
	}
}

// Close closes the files of a state that nobody takes: the plugins end.
func (st *State) Close() {
	for _, f := range st.Files {
		_ = f.Close()
	}
}

// Exec puts a program in the place of this one, with the same process number, from the
// thread that started the plugins: they stay its children, and get no parent-death signal.
// The files are inherited under the numbers that they have here. It returns only if that
// cannot be.
func (st *State) Exec(path string, args, env []string, files ...*os.File) error {
	if st.forker == nil { // no host has taken it yet
		st.forker = newForker()
		st.forker.start()
	}
	return st.forker.do(func() error {
		syscall.ForkLock.Lock() // what another thread starts must not inherit them
		defer syscall.ForkLock.Unlock()
		all := append(append([]*os.File(nil), st.Files...), files...)
		err := inherit(all, true)
		if err == nil {
			err = syscall.Exec(path, args, env)
		}
		return errors.Join(err, inherit(all, false))
	})
}

// inherit says whether files live on in a program that takes this one's place.
func inherit(files []*os.File, on bool) error {
	flags := unix.FD_CLOEXEC
	if on {
		flags = 0
	}
	var errs []error
	for _, f := range files {
		fd, err := Descriptor(f)
		if err == nil {
			_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFD, flags)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// handingOver says whether the host ends with its plugins running on.
func (v *supervisor) handingOver() bool {
	return errors.Is(context.Cause(v.ctx), ErrHandOver)
}

// handOver lets go of all processes that can be taken over, and ends the others. True: the
// unit's work is over.
func (v *supervisor) handOver() bool {
	if v.leaveBy.IsZero() {
		v.leaveBy = time.Now().Add(leaveTime)
		v.drop()
	}
	for s := range v.alive {
		switch {
		case s.leaving, s.adopting:
		case s.prepared && s.detachable() && (s == v.active || s == v.standby || slices.Contains(v.lingering, s)):
			s.cancel(errDetach) // a second time it does nothing
		case s.prepared: // what does not run on has the time to finish
			s.end()
		default:
			s.leaving = true
			s.cancel(errKill)
		}
	}
	if !time.Now().Before(v.leaveBy) {
		for s := range v.alive {
			if s.leaving && s.body != nil {
				s.body.kill()
			}
		}
	}
	gone := v.dismissShadow() // it is started anew by the next host
	if len(v.alive) > 0 || !gone {
		return false
	}
	if v.current == nil {
		v.sockets.keepFor()
		return true
	}
	v.leave()
	return true
}

// leave notes what the next host has to know.
func (v *supervisor) leave() {
	p := &PluginState{
		Spec: v.wanted().spec, Status: v.getStatus(), Current: v.current.state(), Failed: v.failed, FailedOutcome: v.failedOutcome,
		FailedWhy: v.failedWhy, Starts: v.starts, Stuck: v.stuck, RetryAt: v.retryAt, EndedAt: v.endedAt,
	}
	p.Spec.Restore = nil
	if v.active != nil {
		p.Active = v.active.left
	}
	if v.standby != nil {
		p.Standby = v.standby.left
	}
	for _, s := range v.lingering {
		if s.left != nil {
			p.Lingering = append(p.Lingering, s.left)
		}
	}
	if t := v.trial; t != nil {
		p.Trial = &TrialState{
			Before: t.before.state(), Strict: t.strict, Ready: t.ready, Since: t.since, Until: t.until, ReadyUntil: t.readyUntil,
			GapFrom: t.gapFrom, Gap: t.gap,
		}
	}
	v.granting.Lock()
	p.Granted = v.granted
	v.granting.Unlock()
	v.host.mu.Lock()
	v.unit.left = p
	v.host.mu.Unlock()
}

func (t target) state() TargetState {
	t.spec.Restore = nil
	return TargetState{Spec: t.spec, Revision: t.revision, Good: t.good, Binary: t.binary}
}

// detachable says whether the plugin has a process of its own.
func (s *session) detachable() bool {
	_, ok := s.body.(*launched)
	return ok
}

// detached notes a session whose process runs on; the unit's goroutine calls it.
func (s *session) detached() {
	l := s.left
	l.Target, l.Begun, l.Since, l.WatchFor = s.target.state(), s.begun, s.since, s.watchFor
	l.Streams, l.Until = s.streams, s.until
	l.Active, l.SeenReady, l.State, l.Message = s.active, s.seenReady, s.state, s.message
}

// detach lets go of the process: nothing is read from it any more, and nothing is said.
func (s *session) detach() error {
	l, ok := s.body.(*launched)
	if !ok {
		return errors.New("it has no process of its own")
	}
	p, client := l.process, l.client
	attached := client.ReattachConfig()
	protocol, err := client.Client()
	if err != nil || attached == nil {
		return fmt.Errorf("let go of the process: %w", errors.Join(err, errors.New("it has no connection")))
	}
	start, err := startTime(p.pid)
	if err != nil {
		return fmt.Errorf("let go of process %d: %w", p.pid, err)
	}
	if c, ok := protocol.(*plugin.GRPCClient); ok {
		_ = c.Conn.Close() // not client.Kill, which ends the plugin
	}
	asked := p.pause()
	lifeline, err := p.lifeline.File()
	if err != nil {
		return fmt.Errorf("let go of process %d: %w", p.pid, err)
	}
	_ = p.lifeline.Close()
	p.lifeline = nil
	s.left = &SessionState{
		PID: p.pid, StartTime: start, Instance: p.instance, Path: p.cmd.Path, SocketDir: p.socketDir,
		Network: attached.Addr.Network(), Address: attached.Addr.String(), Protocol: s.version, Transport: p.transport, Asked: asked,
		Started: s.started, Worked: s.worked.Load(), Description: s.description, process: p, files: [3]*os.File{p.stdout, p.stderr, lifeline},
	}
	s.left.LastLines, s.left.Partial = s.log.leave()
	if k := s.issued.client; k != nil {
		s.left.Client = &KeyPair{Certificate: k.GetCertificate(), PrivateKey: k.GetPrivateKey()}
	}
	if k := s.issued.serving; k != nil {
		s.left.Serving = &KeyPair{Certificate: k.GetCertificate(), PrivateKey: k.GetPrivateKey()}
	}
	return nil
}

// pause stops reading what the process writes; asked is the begin of a request for a socket.
func (p *process) pause() (asked []byte) {
	past := time.Unix(1, 0)
	_ = p.stdout.SetReadDeadline(past)
	_ = p.stderr.SetReadDeadline(past)
	_ = p.lifeline.SetReadDeadline(past)
	p.pumping.Wait()
	p.asking.Wait()
	return p.asked
}

// leave is what the log's writer remembers; it takes nothing more.
func (w *logWriter) leave() (lines []string, partial []byte) {
	w.file.flush()
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := max(0, w.lines-ringLines); i < w.lines; i++ {
		lines = append(lines, w.ring[i%ringLines])
	}
	return lines, w.partial
}

// leave gives up the sockets; what they accept waits for the next host.
func (s *sockets) leave(add func(*os.File) int) []SocketState {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []SocketState
	for key, k := range s.kept {
		state := SocketState{Network: key.network, Address: key.address, File: add(k.file), Users: k.users, Path: k.path}
		if stat, ok := sysOf(k.made); ok {
			state.Device, state.Inode = stat.Dev, stat.Ino
		}
		out = append(out, state)
	}
	s.kept = map[socketKey]*keptSocket{}
	return out
}

func sysOf(info os.FileInfo) (*syscall.Stat_t, bool) {
	if info == nil {
		return nil, false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return stat, ok
}

// resume takes the process over: reading goes on where the host before stopped.
func (st *State) resume(u *unit, left *SessionState, log *logWriter) (*process, error) {
	stdout, err1 := st.file(left.Stdout)
	stderr, err2 := st.file(left.Stderr)
	lifeline, err3 := st.file(left.Lifeline)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	conn, err := net.FileConn(lifeline)
	if err != nil {
		return nil, fmt.Errorf("the handover socket: %w", err)
	}
	_ = lifeline.Close()
	p := left.process
	if p == nil {
		if p, err = u.adopted(left); err != nil {
			_, _ = stdout.Close(), stderr.Close()
			return nil, errors.Join(err, conn.Close())
		}
		p.stdout, p.stderr = stdout, stderr
	}
	p.lifeline, p.sockets, p.output, p.asked = conn.(*net.UnixConn), u.sockets, log, left.Asked
	_ = p.stdout.SetReadDeadline(time.Time{})
	_ = p.stderr.SetReadDeadline(time.Time{})
	if left.process == nil {
		go p.wait() // ends with the process
	} else {
		select {
		case <-p.done: // it set a deadline, which is gone now
			_ = p.stdout.SetReadDeadline(time.Now())
			_ = p.stderr.SetReadDeadline(time.Now())
		default:
		}
	}
	p.pumping.Go(p.pump)  // end with the process
	p.pumping.Go(p.drain) //
	p.asking.Go(p.answer)
	return p, nil
}

// adopted is a process that an earlier program started in this process's place. It is a
// child of this one and was not waited for, so that its number cannot be another's.
func (u *unit) adopted(left *SessionState) (*process, error) {
	full := u.name + "." + left.Instance[:min(instanceDigits, len(left.Instance))]
	start, parent, err := startOf(left.PID)
	switch {
	case err != nil:
		return nil, fmt.Errorf("process %d ended while the kernel was replaced", left.PID)
	case start != left.StartTime || parent != os.Getpid():
		return nil, fmt.Errorf("process %d ended while the kernel was replaced, and its number is another's", left.PID)
	}
	cmd := &exec.Cmd{Path: left.Path}
	if cmd.Process, err = os.FindProcess(left.PID); err != nil {
		return nil, fmt.Errorf("process %d: %w", left.PID, err)
	}
	return &process{
		cmd: cmd, pid: left.PID, forker: u.host.forker, cgroup: u.host.cgroups.of(full), record: u.host.recordOf(full), instance: left.Instance,
		transport: left.Transport, socketDir: left.SocketDir, done: make(chan struct{}), adopted: true,
	}, nil
}
