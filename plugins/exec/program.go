package exec

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// lastLines are told when the program ends.
	lastLines = 10
	// maxLine bounds a line of output in bytes; a longer one is passed on in pieces.
	maxLine = 16 << 10
	// lastWords is how long output is read after the program's end: its children may
	// hold the pipe for as long as they live.
	lastWords = 100 * time.Millisecond
)

// program is one process.
type program struct {
	cmd   *exec.Cmd
	lines *tail
	done  chan struct{} // closed when it has ended and its output is passed on
	err   error         // why it could not start, or how it ended; valid after done
}

// inherited are the variables of the plugin's environment that programs get.
var inherited = []string{
	"PATH", "HOME", "TZ", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
	"SSL_CERT_FILE", "SSL_CERT_DIR",
}

// command is the process to start; nothing is started.
func (s *Server) command(path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Dir = s.cfg.WorkingDir
	cmd.Env = []string{} // not nil: that would be the plugin's own
	for _, name := range inherited {
		if v, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	cmd.Env = append(cmd.Env, "KUBECONFIG="+s.vars["KUBECONFIG"])
	for name, value := range s.cfg.Env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if s.owner != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(s.owner.uid), Gid: uint32(s.owner.gid), Groups: []uint32{}}
	}
	return cmd
}

// start starts the program. It returns when the program runs, or could not be started.
func (s *Server) start() (*program, error) {
	if err := errors.Join(s.cfg.checkCommand(), s.prepare()); err != nil {
		return nil, err
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.cfg.Command, err)
	}
	p := &program{cmd: s.command(s.cfg.Command, s.cfg.Args...), lines: &tail{}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = writer, writer
	passed, started := make(chan struct{}), make(chan error, 1)
	go func() { // ends soon after the program
		defer close(passed)
		p.lines.pass(reader, s.out)
		_ = reader.Close()
	}()
	go func() { // ends with the program
		runtime.LockOSThread() // never unlocked: the parent-death signal comes when the thread ends
		err := p.cmd.Start()
		_ = writer.Close()
		started <- err
		if p.err = err; err == nil {
			p.err = p.cmd.Wait()
		}
		_ = reader.SetReadDeadline(time.Now().Add(lastWords))
		<-passed
		close(p.done)
	}()
	if err := <-started; err != nil {
		<-p.done
		return nil, fmt.Errorf("start %s: %w", s.cfg.Command, err)
	}
	s.env.Log.Info("Program started", "command", s.cfg.Command, "pid", p.cmd.Process.Pid)
	return p, nil
}

// ended says how the program ended, with its last lines.
func (p *program) ended() error {
	how := "exit status 0"
	if p.err != nil {
		how = p.err.Error()
	}
	if lines := p.lines.get(); lines != "" {
		how += ": " + lines
	}
	return fmt.Errorf("program %s ended: %s", p.cmd.Path, how)
}

// stop ends the program in good order, and after the grace by force with its group.
func (p *program) stop(sig syscall.Signal, grace time.Duration) {
	_ = p.cmd.Process.Signal(sig) // one that has ended is what is wanted
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return
	case <-timer.C:
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	_ = p.cmd.Process.Kill()
	<-p.done
}

// tail keeps the last lines of what it passes on.
type tail struct {
	mu    sync.Mutex // guards lines
	lines []string
}

// pass copies line by line until the end of r, or its deadline.
func (t *tail) pass(r io.Reader, w io.Writer) {
	in := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := in.ReadSlice('\n')
		if text := strings.TrimRight(string(line), "\r\n"); text != "" {
			_, _ = w.Write([]byte(text + "\n")) // a log that is not taken must not end the program
			t.keep(text)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

func (t *tail) keep(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	const most = 200 // of a line, in an error message
	if len(line) > most {
		line = strings.ToValidUTF8(line[:most], "") + "…"
	}
	t.lines = append(t.lines, line)
	if len(t.lines) > lastLines {
		t.lines = t.lines[1:]
	}
}

// get is the last lines in one.
func (t *tail) get() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "; ")
}

// checksumOf a file in hexadecimal digits.
func checksumOf(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
