package pluginhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-plugin/runner"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// lastWords is how long output is still read after a process has ended. Its children
// may hold the pipes open for as long as they live, so their end is not waited for.
const lastWords = 100 * time.Millisecond

// endSeen is how much later than a broken connection the end of a process is seen.
const endSeen = 200 * time.Millisecond

// process is one plugin process in the form that go-plugin wants (runner.Runner).
type process struct {
	cmd      *exec.Cmd
	forker   *forker
	cgroup   *cgroup
	limits   Limits
	unset    error     // limits that are not in force; valid after the start
	output   io.Writer // takes standard error
	pumping  sync.WaitGroup
	record   string // path of the orphan record
	instance string
	handover pluginv1.Handover
	// transport is both ends of the connection; adopted: another program started it here.
	transport Transport
	adopted   bool
	asked     []byte // of a request for a socket, while nobody reads them

	stdout, stderr *os.File      // reading ends; closed by release
	lifeline       *net.UnixConn // host's end of the handover socket; its close says that the host is gone
	sockets        *sockets      // that the process may ask for; nil: none
	asking         sync.WaitGroup
	pid            int           // 0 until started
	done           chan struct{} // closed when the process has ended
	exit           error         // valid after done
	released       sync.Once
	socketDir      string // made by go-plugin, which forgets it if the start fails

	mu     sync.Mutex // guards cmd.Process between Start and Kill, and killed
	killed bool       // Kill came before the process ended by itself, or before its start
}

// Start implements runner.Runner.
func (p *process) Start(context.Context) (err error) {
	var theirs []*os.File
	pipe := func() (r, w *os.File) {
		if err == nil {
			r, w, err = os.Pipe()
		}
		return r, w
	}
	var outW, errW, given *os.File
	p.stdout, outW = pipe()
	p.stderr, errW = pipe()
	if err == nil {
		given, p.lifeline, err = socketPair()
	}
	theirs = []*os.File{outW, errW, given}
	defer func() {
		for _, f := range theirs {
			_ = f.Close() // nil files give an error, which says nothing
		}
		if err != nil {
			p.release()
		}
	}()
	if err != nil {
		return fmt.Errorf("start %s: %w", p.cmd.Path, err)
	}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = nil, outW, errW
	p.cmd.ExtraFiles = []*os.File{given}
	p.cmd.Env = append(p.cmd.Env, pluginv1.HandoverEnv+"=3", pluginv1.InstanceEnv+"="+p.instance)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err = p.fork(); err != nil {
		return fmt.Errorf("start %s: %w", p.cmd.Path, err)
	}
	err = p.introduce()
	p.pumping.Go(p.pump) // ends with the process
	go p.wait()          // ends with the process; not before introduce, so its /proc entry is there
	return err
}

func (p *process) fork() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killed {
		return context.Canceled
	}
	if err := p.forker.do(p.cmd.Start); err != nil {
		return err
	}
	p.pid = p.cmd.Process.Pid
	return nil
}

// introduce puts the process where it belongs and then gives it its identity: until
// then it waits, so nothing it starts escapes the cgroup or the record.
func (p *process) introduce() error {
	if err := p.cgroup.make(); err == nil {
		p.unset = p.cgroup.limit(p.limits)
	}
	err := errors.Join(p.cgroup.join(p.pid), writeRecord(p.record, p.pid, p.instance))
	if err == nil {
		var line []byte
		if line, err = json.Marshal(p.handover); err == nil {
			_, err = p.lifeline.Write(append(line, '\n')) // far less than a socket holds
		}
		if errors.Is(err, syscall.EPIPE) {
			err = nil // it has ended; why is told by its output
		}
	}
	if err != nil {
		_ = p.cmd.Process.Kill()
		return fmt.Errorf("hand over to %s: %w", p.cmd.Path, err)
	}
	if p.sockets != nil {
		p.asking.Go(p.answer) // ends by release, or with the process
	}
	return nil
}

func (p *process) wait() {
	if p.adopted {
		p.exit = p.collect()
	} else {
		p.exit = p.cmd.Wait()
	}
	deadline := time.Now().Add(lastWords)
	_ = p.stdout.SetReadDeadline(deadline)
	_ = p.stderr.SetReadDeadline(deadline)
	close(p.done)
}

// release closes the host's ends of the pipes; the process has ended or will.
func (p *process) release() {
	p.released.Do(func() {
		for _, f := range []*os.File{p.stdout, p.stderr} {
			if f != nil {
				_ = f.Close()
			}
		}
		if p.lifeline != nil {
			_ = p.lifeline.Close()
		}
		p.asking.Wait()
	})
}

// ending says how the process ended by itself: "exit status 1", "signal: killed". It is
// empty if the host ended it, or it never ran. The process has ended.
func (p *process) ending() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.killed || p.pid == 0:
		return ""
	case p.exit == nil:
		return "exit status 0"
	default:
		return p.exit.Error()
	}
}

// endsSoon says whether the process has ended, or does so in a moment: its connection
// breaks a little before its end is seen.
func (p *process) endsSoon() bool {
	select {
	case <-p.done:
		return true
	case <-time.After(endSeen):
		return false
	}
}

// Wait implements runner.AttachedRunner.
func (p *process) Wait(context.Context) error { <-p.done; return p.exit }

// Kill implements runner.AttachedRunner. It lets a process that is ending do so: how it
// ended by itself says more than that it was killed.
func (p *process) Kill(context.Context) error {
	if p.endsSoon() {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
		return nil
	default:
		p.killed = true
	}
	if p.pid == 0 {
		return nil
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// Diagnose implements runner.Runner.
func (p *process) Diagnose(context.Context) string {
	return "" // launch says it in its own words
}

// Stdout implements runner.Runner.
func (p *process) Stdout() io.ReadCloser { return untilDeadline{p.stdout} }

// Stderr implements runner.Runner. go-plugin would look for JSON in each line, which a
// flood makes dear: pump reads it instead.
func (p *process) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

// pump copies standard error to the log, as fast as a log may be read.
func (p *process) pump() {
	buf := make([]byte, 32<<10)
	for {
		n, err := untilDeadline{p.stderr}.Read(buf)
		if n > 0 {
			_, _ = p.output.Write(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// Name implements runner.Runner.
func (p *process) Name() string { return p.cmd.Path }

// ID implements runner.AttachedRunner.
func (p *process) ID() string {
	if p.pid == 0 {
		return ""
	}
	return strconv.Itoa(p.pid)
}

// PluginToHost implements runner.AddrTranslator: both see the same files.
func (p *process) PluginToHost(network, addr string) (string, string, error) {
	return network, addr, nil
}

// HostToPlugin implements runner.AddrTranslator.
func (p *process) HostToPlugin(network, addr string) (string, string, error) {
	return network, addr, nil
}

// untilDeadline makes the deadline set at the process's end an end of file.
type untilDeadline struct{ *os.File }

func (u untilDeadline) Read(b []byte) (int, error) {
	n, err := u.File.Read(b)
	if err != nil && (errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrClosed)) {
		err = io.EOF
	}
	return n, err
}

var _ runner.Runner = (*process)(nil)
