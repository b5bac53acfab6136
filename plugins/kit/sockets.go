package kit

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// Listener is a listening socket for a network and address as of net.Listen ("tcp",
// "unix"). The kernel keeps it for the plugin: what connects while no process of the
// plugin is active waits in its queue for the next one, and closing the listener closes
// this process's copy alone. Ask for it in Start. Where the kernel keeps no sockets (in
// tests) the process binds it itself.
func (e *Env) Listener(ctx context.Context, network, address string) (net.Listener, error) {
	if e.sockets == nil {
		if network == "unix" {
			return ListenSocket(address)
		}
		return (&net.ListenConfig{}).Listen(ctx, network, address)
	}
	file, err := e.sockets.get(ctx, network, address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	listener, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("listen on %s %s: %w", network, address, err)
	}
	return listener, nil
}

// PacketConn is Listener for "udp" and "unixgram". What arrives while nobody reads waits
// in the socket's buffer. Read from it in Start, and no longer than Start.
func (e *Env) PacketConn(ctx context.Context, network, address string) (net.PacketConn, error) {
	if e.sockets == nil {
		return (&net.ListenConfig{}).ListenPacket(ctx, network, address)
	}
	file, err := e.sockets.get(ctx, network, address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	conn, err := net.FilePacketConn(file)
	if err != nil {
		return nil, fmt.Errorf("listen on %s %s: %w", network, address, err)
	}
	return conn, nil
}

// Release gives a socket of Listener or PacketConn back for good: the kernel closes it
// when no process of the plugin needs it any more. The listener is closed by the caller.
// Not for the end of an activation: the next process wants to find the socket.
func (e *Env) Release(network, address string) {
	if e.sockets != nil {
		e.sockets.release(network, address)
	}
}

// sockets asks the kernel for sockets, over the handover socket. run reads the answers.
type sockets struct {
	conn *net.UnixConn

	mu    sync.Mutex // guards all below, and the order of writes
	last  int64
	calls map[int64]chan answer
	gone  bool // the kernel is
}

// answer is a socket, or why there is none.
type answer struct {
	file *os.File
	err  error
}

func newSockets(conn *net.UnixConn) *sockets {
	return &sockets{conn: conn, calls: map[int64]chan answer{}}
}

// get asks for one socket. The file is the caller's.
func (s *sockets) get(ctx context.Context, network, address string) (*os.File, error) {
	id, ch, err := s.ask(network, address)
	if err != nil {
		return nil, fmt.Errorf("ask the kernel for %s %s: %w", network, address, err)
	}
	select {
	case a := <-ch:
		return a.file, a.err
	case <-ctx.Done():
	}
	s.mu.Lock()
	delete(s.calls, id)
	s.mu.Unlock()
	select {
	case a := <-ch: // it came meanwhile
		return a.file, a.err
	default:
		return nil, fmt.Errorf("ask the kernel for %s %s: %w", network, address, ctx.Err())
	}
}

func (s *sockets) ask(network, address string) (int64, chan answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return 0, nil, errKernelGone
	}
	s.last++
	line, err := json.Marshal(pluginv1.SocketRequest{ID: s.last, Network: network, Address: address})
	if err != nil {
		return 0, nil, err
	}
	ch := make(chan answer, 1)
	s.calls[s.last] = ch
	if _, err := s.conn.Write(append(line, '\n')); err != nil {
		delete(s.calls, s.last)
		return 0, nil, err
	}
	return s.last, ch, nil
}

// release is a request whose answer nobody waits for.
func (s *sockets) release(network, address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return
	}
	s.last++
	line, err := json.Marshal(pluginv1.SocketRequest{ID: -s.last, Network: network, Address: address, Close: true})
	if err == nil {
		_, _ = s.conn.Write(append(line, '\n')) // else the kernel is gone, and its sockets are
	}
}

var errKernelGone = errors.New("the kernel is gone")

// run takes the answers until the kernel is gone.
func (s *sockets) run(r *bufio.Reader, files *fileQueue) {
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			break
		}
		var a pluginv1.SocketAnswer
		if err := json.Unmarshal(line, &a); err != nil {
			continue
		}
		if a.ID < 0 {
			continue // of a release: nobody waits, and no descriptor comes along
		}
		out := answer{}
		if a.Error != "" {
			out.err = errors.New(a.Error)
		} else if out.file = files.next(); out.file == nil {
			out.err = errors.New("the kernel answered without a socket")
		}
		s.mu.Lock()
		ch := s.calls[a.ID]
		delete(s.calls, a.ID)
		s.mu.Unlock()
		switch {
		case ch != nil:
			ch <- out
		case out.file != nil: // nobody waits any more
			_ = out.file.Close()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	for id, ch := range s.calls {
		ch <- answer{err: errKernelGone}
		delete(s.calls, id)
	}
}

// fileQueue reads from the handover socket and keeps the descriptors that come along, in
// their order.
type fileQueue struct {
	conn  *net.UnixConn
	files []*os.File
}

// maxFiles is more descriptors than one read brings.
const maxFiles = 16

// Read implements io.Reader.
func (q *fileQueue) Read(p []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, _, _, err := q.conn.ReadMsgUnix(p, oob)
	if oobn > 0 {
		q.take(oob[:oobn])
	}
	if n == 0 && err == nil && len(p) > 0 {
		return 0, errKernelGone
	}
	return max(n, 0), err // -1 when it is closed here
}

func (q *fileQueue) take(oob []byte) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			q.files = append(q.files, os.NewFile(uintptr(fd), "socket")) // close-on-exec, by the net package
		}
	}
}

func (q *fileQueue) next() *os.File {
	if len(q.files) == 0 {
		return nil
	}
	file := q.files[0]
	q.files = q.files[1:]
	return file
}
