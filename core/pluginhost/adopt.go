package pluginhost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
)

// inherit makes units of what an earlier host left running. They go on as they are until
// Ensure says what is wanted of them.
func (h *Host) inherit(st *State) {
	if st == nil {
		return
	}
	if st.forker != nil {
		h.forker = st.forker
	}
	for _, p := range st.Plugins {
		u := newUnit(h, p.Spec)
		u.inherited, u.state = p, st
		u.granted = p.Granted
		u.sockets.adopt(st, p.Sockets)
		h.units[u.name] = u
	}
}

// Retain removes the plugins that are none of these: what was inherited, and is not wanted
// any more. Others it does not touch.
func (h *Host) Retain(names []string) {
	for _, name := range h.List() {
		if !slices.Contains(names, name) {
			h.Remove(name)
		}
	}
}

// Inherited are the plugins that the host before left, sorted.
func (h *Host) Inherited() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var names []string
	for name, u := range h.units {
		if u.inherited != nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Pending are those of them that are still being taken over, or swapped to the new version
// of the binary, or wait for their turn or for Ensure.
func (h *Host) Pending() map[string]bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[string]bool{}
	for name, u := range h.units {
		if u.inherited != nil && !u.rested.Load() {
			out[name] = true
		}
	}
	return out
}

// inheritedFiles are what the sweep must not touch: records and groups by name, and the
// folders of sockets.
func (h *Host) inheritedFiles() (names, dirs []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, u := range h.units {
		if u.inherited == nil {
			continue
		}
		for _, s := range u.inherited.sessions() {
			names = append(names, u.name+"."+s.Instance[:min(instanceDigits, len(s.Instance))])
			dirs = append(dirs, filepath.Clean(s.SocketDir))
		}
	}
	return names, dirs
}

// adopt takes kept sockets over.
func (s *sockets) adopt(st *State, left []SocketState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range left {
		file, err := st.file(l.File)
		if err != nil {
			s.log.Error("A socket of a plugin is lost", "network", l.Network, "address", l.Address, "err", err)
			continue
		}
		k := &keptSocket{file: file, path: l.Path, users: l.Users}
		if info, err := os.Lstat(l.Path); err == nil {
			if stat, ok := sysOf(info); ok && stat.Dev == l.Device && stat.Ino == l.Inode {
				k.made = info
			}
		}
		s.kept[socketKey{l.Network, l.Address}] = k
	}
}

// takeUp goes on where the host before stopped.
func (v *supervisor) takeUp(p *PluginState) {
	v.adopted = true
	v.mu.Lock()
	v.status = p.Status
	v.mu.Unlock()
	current := v.target(p.Current)
	if p.Active == nil && p.Standby == nil && current.binary != "" { // it ran in the kernel's process
		current = target{spec: p.Spec, revision: v.host.Revision(p.Spec)}
	}
	v.current = &current
	v.failed, v.failedOutcome, v.failedWhy = p.Failed, p.FailedOutcome, p.FailedWhy
	v.starts, v.stuck, v.retryAt, v.endedAt = p.Starts, p.Stuck, p.RetryAt, p.EndedAt
	if t := p.Trial; t != nil {
		v.trial = &trial{
			before: v.target(t.Before), strict: t.Strict, ready: t.Ready, since: t.Since, until: t.Until, readyUntil: t.ReadyUntil,
			gapFrom: t.GapFrom, gap: t.Gap,
		}
	}
	if p.Active != nil {
		v.active = v.resume(p.Active)
	}
	if p.Standby != nil {
		v.standby = v.resume(p.Standby)
	}
	for _, s := range p.Lingering {
		v.lingering = append(v.lingering, v.resume(s))
	}
	v.settleAt = time.Now().Add(max(v.current.spec.Watch, time.Second))
	if v.host.cfg.OnStatus != nil {
		v.host.cfg.OnStatus(v.name, p.Status)
	}
}

// target is a revision of an earlier host. A built-in plugin of another binary is started
// again from that, as long as it is there.
func (v *supervisor) target(t TargetState) target {
	out := target{spec: t.Spec, revision: t.Revision, good: t.Good}
	if out.spec.BuiltIn && v.host.Revision(out.spec) != out.revision {
		if out.binary = t.Binary; out.binary == "" {
			out.binary = v.host.cfg.BinaryBefore
		}
	}
	return out
}

// older is the command of a built-in plugin of an earlier binary.
func (t target) older(cmd Command) Command {
	if t.binary == "" || !t.spec.BuiltIn {
		return cmd
	}
	if _, err := os.Stat(t.binary); err == nil {
		cmd.Path = t.binary
	}
	return cmd
}

// resume begins a session with a process that runs.
func (v *supervisor) resume(left *SessionState) *session {
	s := v.session(v.target(left.Target), false)
	s.inherited, s.adopting = left, true
	s.begun, s.since, s.watchFor, s.started = left.Begun, left.Since, left.WatchFor, left.Started
	s.description, s.version, s.seenReady, s.state, s.message = left.Description, left.Protocol, left.SeenReady, left.State, left.Message
	s.worked.Store(left.Worked)
	s.streams, s.until = left.Streams, left.Until
	if k := left.Client; k != nil {
		s.issued.client = pair(*k)
	}
	if k := left.Serving; k != nil {
		s.issued.serving = pair(*k)
	}
	v.launch(s)
	return s
}

// adoptedNow is called when a session has its process.
func (v *supervisor) adoptedNow(s *session) {
	s.adopting, s.prepared, s.active = false, true, s.inherited.Active
	v.slog.Info("Plugin runs on", "pid", s.body.pid(), "revision", s.target.revision, "active", s.active)
	if s == v.active {
		v.describeActive()
	}
}

// take handles an event, unless it has to wait: nothing follows from one process's end or
// report while another is being taken over.
func (v *supervisor) take(e sessionEvent) {
	if e.kind == sessionEnded {
		e.session.adopting = false
	}
	if e.kind == sessionAdopted || !v.adopting() {
		v.handle(e)
	} else {
		v.later = append(v.later, e)
	}
	for len(v.later) > 0 && !v.adopting() {
		next := v.later[0]
		v.later = v.later[1:]
		v.handle(next)
	}
}

// adopting says whether processes are being taken over.
func (v *supervisor) adopting() bool {
	for s := range v.alive {
		if s.adopting {
			return true
		}
	}
	return false
}

// holding says whether nothing is to be decided yet: processes are being taken over, or
// nobody has said what is wanted.
func (v *supervisor) holding() bool {
	if v.adopting() {
		return true
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.adopted && !v.ensured
}

// reattach connects to a process that an earlier host started. On an error nothing is left
// of it.
func (s *session) reattach() error {
	u, left := s.unit, s.inherited
	s.log = u.log.writer()
	s.log.takeUp(left.LastLines, left.Partial)
	p, err := u.state.resume(u, left, s.log)
	if err != nil {
		s.body = &launched{process: &process{}, log: s.log}
		return fmt.Errorf("take over: %w", err)
	}
	l := &launched{process: p, client: plugin.NewClient(&plugin.ClientConfig{}), log: s.log}
	s.body, s.version = l, left.Protocol
	clientTLS, err := u.hostTransport(left.Transport).client(u.name)
	if err != nil {
		l.kill()
		return fmt.Errorf("take over: %w", err)
	}
	config := u.clientConfig(p, clientTLS, s.log)
	config.RunnerFunc, config.Plugins = nil, offered()[left.Protocol]
	config.Reattach = &plugin.ReattachConfig{
		Protocol: plugin.ProtocolGRPC, ProtocolVersion: left.Protocol, Pid: left.PID,
		Addr:         address{left.Network, left.Address}.resolve(),
		ReattachFunc: func() (runner.AttachedRunner, error) { return p, nil },
	}
	l.client = plugin.NewClient(config)
	hung := time.AfterFunc(startTimeout, func() { _ = p.Kill(context.Background()) })
	defer hung.Stop()
	if s.rpc, err = l.connect(); err == nil {
		return nil
	}
	if p.endsSoon() {
		err = errors.New("the process ended while the kernel was replaced")
	}
	l.kill()
	return s.explain(fmt.Errorf("take over: %w", err))
}

// address is where a plugin listens.
type address struct{ network, text string }

func (a address) resolve() net.Addr {
	if a.network == "tcp" {
		if addr, err := net.ResolveTCPAddr("tcp", a.text); err == nil {
			return addr
		}
	}
	return &net.UnixAddr{Net: "unix", Name: a.text}
}

// hostTransport is the host's end of a connection that was set up by the host before: a new
// certificate, if it is from the same CA.
func (u *unit) hostTransport(before Transport) Transport {
	if now, err := u.host.cfg.Credentials.Transport(u.name); err == nil && bytes.Equal(now.CA, before.CA) {
		return now
	}
	return before
}

// takeUp remembers what the writer before did.
func (w *logWriter) takeUp(lines []string, partial []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, line := range lines {
		w.ring[w.lines%ringLines] = line
		w.lines++
	}
	w.partial = append(w.partial, partial...)
}

// drain reads what is printed to standard output after the handshake.
func (p *process) drain() { _, _ = io.Copy(io.Discard, untilDeadline{p.stdout}) }

// answer serves the process's requests for sockets.
func (p *process) answer() { p.asked = p.sockets.serve(p.lifeline, p.instance, p.asked) }

// collect waits for the end of a process that an earlier program started.
func (p *process) collect() error {
	state, err := p.cmd.Process.Wait()
	switch {
	case err != nil:
		return fmt.Errorf("wait for process %d: %w", p.pid, err)
	case !state.Success():
		return &exec.ExitError{ProcessState: state}
	}
	return nil
}

// errIsDetached says whether a session's end is none of its process.
func errIsDetached(err error) bool { return errors.Is(err, errDetach) }

// detachedBy says whether a session is to let go of its process.
func detachedBy(ctx context.Context) bool { return errors.Is(context.Cause(ctx), errDetach) }
