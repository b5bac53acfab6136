package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"keelson.dev/keelson/plugins/runtime/internal/conmon"
	"keelson.dev/keelson/plugins/runtime/internal/netns"
)

// streams is what the streaming server calls.
type streams struct{ *Server }

var _ streaming.Runtime = (*streams)(nil)

// Exec answers the URL of an exec stream.
func (s *Server) Exec(_ context.Context, req *cri.ExecRequest) (*cri.ExecResponse, error) {
	c, err := s.running(req.GetContainerId())
	if err != nil {
		return nil, rpcError(err)
	}
	req.ContainerId = c.rec.ID
	return s.stream.GetExec(req)
}

// Attach answers the URL of an attach stream.
func (s *Server) Attach(_ context.Context, req *cri.AttachRequest) (*cri.AttachResponse, error) {
	c, err := s.running(req.GetContainerId())
	if err != nil {
		return nil, rpcError(err)
	}
	req.ContainerId = c.rec.ID
	return s.stream.GetAttach(req)
}

// PortForward answers the URL of port forwarding streams.
func (s *Server) PortForward(_ context.Context, req *cri.PortForwardRequest) (*cri.PortForwardResponse, error) {
	sb, err := s.sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, rpcError(err)
	}
	if sb.snapshot().Phase != phaseReady {
		return nil, rpcError(fmt.Errorf("forward ports of sandbox %s: it is not ready: %w", sb.rec.ID, errState))
	}
	req.PodSandboxId = sb.rec.ID
	return s.stream.GetPortForward(req)
}

func (s *Server) running(id string) (*container, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, err
	}
	if c.snapshot().Phase != phaseRunning {
		return nil, fmt.Errorf("container %s is not running: %w", id, errState)
	}
	return c, nil
}

// Exec runs a command with the caller's streams. A resize channel comes with tty.
func (s *streams) Exec(ctx context.Context, id string, command []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	c, err := s.container(id)
	if err != nil {
		return err
	}
	e, err := s.newExec(c, command, tty)
	if err != nil {
		return err
	}
	defer e.cleanup()
	var code int
	if tty {
		code, err = execTerminal(ctx, e, in, out, resize)
	} else {
		code, err = execPipes(ctx, e, in, out, errOut)
	}
	if err != nil {
		return fmt.Errorf("exec in container %s: %w", id, err)
	}
	if code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
	}
	return nil
}

func execPipes(ctx context.Context, e *execSession, in io.Reader, out, errOut io.WriteCloser) (int, error) {
	if out != nil {
		e.cmd.Stdout = out
	}
	if errOut != nil {
		e.cmd.Stderr = errOut
	}
	var stdin io.WriteCloser
	if in != nil {
		var err error
		if stdin, err = e.cmd.StdinPipe(); err != nil {
			return 0, err
		}
	}
	if err := e.cmd.Start(); err != nil {
		return 0, err
	}
	if in != nil {
		go func() { // ends with the caller's stream, which is closed after we return
			_, _ = io.Copy(stdin, in)
			_ = stdin.Close()
		}()
	}
	return e.wait(ctx)
}

// execTerminal gives the OCI runtime a terminal of its own, which it relays: so its
// exit code and both runtimes' ways are the same as without one.
func execTerminal(ctx context.Context, e *execSession, in io.Reader, out io.WriteCloser, resize <-chan remotecommand.TerminalSize) (int, error) {
	master, slave, err := openTerminal()
	if err != nil {
		return 0, err
	}
	defer master.Close()
	e.cmd.Stdin, e.cmd.Stdout, e.cmd.Stderr = slave, slave, slave
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	// The first size has to be there before the command asks for it.
	select {
	case size, ok := <-resize:
		if ok {
			setSize(master, size)
		}
	case <-time.After(50 * time.Millisecond):
	}
	if err := errors.Join(e.cmd.Start(), slave.Close()); err != nil {
		return 0, err
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { relaySizes(resize, done, func(size remotecommand.TerminalSize) { setSize(master, size) }) })
	if in != nil {
		go func() { _, _ = io.Copy(master, in) }() // ends with the caller's stream, closed after we return
	}
	wg.Go(func() {
		if out != nil {
			_, _ = io.Copy(out, master) // EIO at the end
		}
	})
	code, err := e.wait(ctx)
	// What the command wrote last is still in the terminal; nobody else has it open.
	_ = master.SetReadDeadline(time.Now().Add(time.Second))
	close(done)
	wg.Wait()
	return code, err
}

func relaySizes(resize <-chan remotecommand.TerminalSize, done <-chan struct{}, set func(remotecommand.TerminalSize)) {
	for {
		select {
		case <-done:
			return
		case size, ok := <-resize:
			if !ok {
				return
			}
			set(size)
		}
	}
}

func openTerminal() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	var n int
	if err == nil {
		n, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
	}
	if err == nil {
		slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open a terminal: %w", err), master.Close())
	}
	return master, slave, nil
}

func setSize(master *os.File, size remotecommand.TerminalSize) {
	conn, err := master.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) { // a size is a courtesy
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
	})
}

// Attach joins the caller's streams to those of the container's process.
func (s *streams) Attach(ctx context.Context, id string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	if _, err := s.running(id); err != nil {
		return err
	}
	bundle := s.bundleDir(id)
	conn, err := conmon.Dial(bundle)
	if err != nil {
		return fmt.Errorf("attach to container %s: %w", id, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	done := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(done)
	wg.Go(func() {
		relaySizes(resize, done, func(size remotecommand.TerminalSize) { _ = conmon.Resize(bundle, size.Width, size.Height) })
	})
	if in != nil {
		go func() { // ends with the caller's stream, closed after we return
			_, _ = io.CopyBuffer(struct{ io.Writer }{conn}, struct{ io.Reader }{in}, make([]byte, 4096))
			_ = conn.CloseWrite()
		}()
	}
	return relayPackets(conn, out, errOut, tty)
}

// relayPackets copies what conmon sends until it hangs up.
func relayPackets(conn net.Conn, out, errOut io.Writer, tty bool) error {
	buf := make([]byte, conmon.PacketSize)
	for {
		n, err := conn.Read(buf)
		if n == 0 || err != nil {
			return nil //nolint:nilerr // the container or the caller ended
		}
		var to io.Writer
		switch {
		case buf[0] == conmon.StreamStderr && !tty:
			to = errOut
		default:
			to = out
		}
		if to == nil {
			continue
		}
		if _, err := to.Write(buf[1:n]); err != nil {
			return nil //nolint:nilerr // the caller has gone
		}
	}
}

// PortForward joins a stream to a port on the sandbox's loopback.
func (s *streams) PortForward(ctx context.Context, id string, port int32, stream io.ReadWriteCloser) error {
	sb, err := s.sandbox(id)
	if err != nil {
		return err
	}
	if port < 1 || port > 65535 {
		return fmt.Errorf("port %d is none", port)
	}
	conn, err := s.dialPod(ctx, sb, port)
	if err != nil {
		return fmt.Errorf("forward to port %d of sandbox %s: %w", port, id, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	go func() { // ends with the caller's stream, closed below or by the caller
		_, _ = io.Copy(conn, stream)
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
	}()
	_, err = io.Copy(stream, conn)
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return errors.Join(err, stream.Close())
}

// dialPod tries 127.0.0.1, then ::1.
func (s *streams) dialPod(ctx context.Context, sb *sandbox, port int32) (net.Conn, error) {
	var errs []error
	for _, host := range []string{"127.0.0.1", "::1"} {
		address := net.JoinHostPort(host, strconv.Itoa(int(port)))
		var conn net.Conn
		var err error
		if nsOptions(sb.config).GetNetwork() == cri.NamespaceMode_NODE {
			conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", address)
		} else {
			conn, err = netns.Dial(ctx, filepath.Join(s.netnsDir(sb.rec.ID), "net"), "tcp", address)
		}
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}
