package kernel

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"keelson.dev/keelson/core/pluginhost"
)

// ControlSocket is the socket of a run folder by which its kernel is told what the API is
// not there for.
const ControlSocket = "control.sock"

// controlRequest is the one line that is written to the control socket.
type controlRequest struct {
	// Upgrade is the binary that is to take the kernel's place.
	Upgrade *upgradeRequest `json:"upgrade,omitempty"`
}

type upgradeRequest struct {
	// To is an absolute path; empty: what lies at the running binary's path.
	To string `json:"to,omitempty"`
}

// controlAnswer is one of the lines that come back. The last has Done or Error.
type controlAnswer struct {
	Text  string `json:"text,omitempty"`
	Done  bool   `json:"done,omitempty"`
	Error string `json:"error,omitempty"`
}

// callerWait bounds a write to who asked: nothing waits for one that does not read.
const callerWait = 5 * time.Second

// caller is the connection of who asked. Its methods do nothing without one.
type caller struct {
	conn *net.UnixConn
	gone chan struct{} // closed when it has hung up
}

func newCaller(conn *net.UnixConn) *caller {
	c := &caller{conn: conn, gone: make(chan struct{})}
	go func() { // ends with the connection, which end closes
		defer close(c.gone)
		_, _ = io.Copy(io.Discard, conn)
	}()
	return c
}

// inheritCaller is the caller of the kernel before; nil: it is not there any more.
func inheritCaller(fd int) *caller {
	file := os.NewFile(uintptr(fd), "caller")
	defer func() { _ = file.Close() }()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil
	}
	c, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close()
		return nil
	}
	return newCaller(c)
}

func (c *caller) answer(a controlAnswer) {
	if c == nil {
		return
	}
	line, err := json.Marshal(a)
	if err != nil { // plain fields
		panic(err)
	}
	_ = c.conn.SetWriteDeadline(time.Now().Add(callerWait))
	_, _ = c.conn.Write(append(line, '\n'))
}

func (c *caller) say(format string, args ...any) {
	c.answer(controlAnswer{Text: fmt.Sprintf(format, args...)})
}

// end says how it went, and hangs up.
func (c *caller) end(err error) {
	if c == nil {
		return
	}
	if err != nil {
		c.answer(controlAnswer{Error: err.Error()})
	} else {
		c.answer(controlAnswer{Done: true})
	}
	_ = c.conn.Close()
	<-c.gone
}

// file is a copy of the connection for the program that takes this one's place; nil: there
// is none.
func (c *caller) file() *os.File {
	if c == nil {
		return nil
	}
	file, err := c.conn.File()
	if err != nil {
		return nil
	}
	return file
}

// control is the control socket.
type control struct {
	listener *net.UnixListener
	end      context.CancelFunc
	serving  sync.WaitGroup
}

// serveControl opens the control socket, for root (or who runs the kernel) alone.
func (r *replacer) serveControl() (*control, error) {
	path := filepath.Join(r.runDir, ControlSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &control{listener: l, end: cancel}
	c.serving.Go(func() { // ends by close
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			c.serving.Go(func() { r.serve(ctx, conn) })
		}
	})
	return c, nil
}

func (c *control) close() {
	if c == nil {
		return
	}
	c.end()
	_ = c.listener.Close() // and removes the socket
	c.serving.Wait()
}

// readRequest reads the one request of a connection, if its peer may ask.
func readRequest(conn *net.UnixConn) (*controlRequest, error) {
	if err := allowed(conn); err != nil {
		return nil, err
	}
	const longest = 64 << 10
	_ = conn.SetReadDeadline(time.Now().Add(callerWait))
	line, err := bufio.NewReaderSize(io.LimitReader(conn, longest), 1024).ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("read the request: %w", err)
	}
	_ = conn.SetReadDeadline(time.Time{})
	request := &controlRequest{}
	if err := json.Unmarshal(line, request); err != nil {
		return nil, fmt.Errorf("decode the request: %w", err)
	}
	if request.Upgrade == nil {
		return nil, errors.New("the request asks for nothing that this kernel does")
	}
	return request, nil
}

// allowed refuses peers that are neither root nor the kernel's own user. The socket's mode
// does too; this holds also for a descriptor that was handed on.
func allowed(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var fault error
	if err := raw.Control(func(fd uintptr) { peer, fault = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if fault != nil {
		return fmt.Errorf("who asks: %w", fault)
	}
	if peer.Uid != 0 && int(peer.Uid) != os.Geteuid() {
		return fmt.Errorf("user %d may not control this kernel: only root may", peer.Uid)
	}
	return nil
}

// serve answers one request. An upgrade's connection goes along to the new kernel.
func (r *replacer) serve(ctx context.Context, conn *net.UnixConn) {
	request, err := readRequest(conn)
	c := newCaller(conn)
	if err != nil {
		c.end(err)
		return
	}
	r.mu.Lock()
	phase := r.phase
	if phase == replaceReady {
		r.phase = replaceBusy
	}
	r.mu.Unlock()
	switch phase {
	case replaceStarting:
		c.end(errors.New("the kernel is starting: try again when it is ready"))
		return
	case replaceBusy:
		c.end(errors.New("an upgrade is under way already"))
		return
	}
	p, err := r.prepare(ctx, request.Upgrade.To, c)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.phase = replaceReady
		r.log.Warn("An upgrade is refused", "to", request.Upgrade.To, "err", err)
		c.end(err)
		return
	}
	r.plan, r.caller = p, c
	r.cancel(pluginhost.ErrHandOver)
}

// AskUpgrade has the kernel of a run folder replaced by the binary at to (empty: by what lies
// at its own path) and tells say of each step. It returns when all plugins have come to rest.
func AskUpgrade(ctx context.Context, runDir, to string, say func(string)) error {
	path := filepath.Join(runDir, ControlSocket)
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("ask the kernel on %s: %w", runDir, err)
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	line, err := json.Marshal(controlRequest{Upgrade: &upgradeRequest{To: to}})
	if err != nil {
		return err
	}
	if _, err := conn.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("ask the kernel on %s: %w", runDir, err)
	}
	for answers := json.NewDecoder(conn); ; {
		var a controlAnswer
		err := answers.Decode(&a)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return fmt.Errorf("the kernel ended in the middle of the upgrade (%w): its log tells why; keelson up starts it again", err)
		case a.Error != "":
			return errors.New(a.Error)
		case a.Done:
			return nil
		}
		say(a.Text)
	}
}
