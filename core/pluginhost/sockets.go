package pluginhost

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// mostSockets bounds what one plugin may have kept.
const mostSockets = 4096

// sockets are the listening sockets that the host keeps for one plugin, so that they
// outlive its processes: what arrives while none of them accepts waits in the queue.
type sockets struct {
	log *slog.Logger

	mu   sync.Mutex // guards all below
	kept map[socketKey]*keptSocket
}

// socketKey is a socket as a plugin names it.
type socketKey struct{ network, address string }

// keptSocket is one of them.
type keptSocket struct {
	file *os.File
	// path and made are a Unix socket's, to remove it if it is still ours.
	path string
	made os.FileInfo
	// users are the instances of the processes that asked for it and did not say Close.
	users []string
}

func newSockets(log *slog.Logger) *sockets {
	return &sockets{log: log, kept: map[socketKey]*keptSocket{}}
}

// socketPair makes the handover socket: the plugin's end and the host's.
func socketPair() (theirs *os.File, ours *net.UnixConn, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make the handover socket: %w", err)
	}
	theirs = os.NewFile(uintptr(pair[0]), "handover")
	file := os.NewFile(uintptr(pair[1]), "handover")
	defer func() { _ = file.Close() }()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make the handover socket: %w", err), theirs.Close())
	}
	return theirs, conn.(*net.UnixConn), nil
}

// serve answers the requests of one process until its connection ends. It begins with what
// was read of one before, and returns what was read of the last.
func (s *sockets) serve(conn *net.UnixConn, instance string, begun []byte) (rest []byte) {
	lines := bufio.NewReaderSize(io.MultiReader(bytes.NewReader(begun), conn), pluginv1.MaxSocketLine)
	for {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			answer(conn, pluginv1.SocketAnswer{Error: fmt.Sprintf("the request is longer than %d bytes", pluginv1.MaxSocketLine)}, nil)
			return nil
		}
		if err != nil {
			return bytes.Clone(line)
		}
		var request pluginv1.SocketRequest
		if err := json.Unmarshal(line, &request); err != nil {
			answer(conn, pluginv1.SocketAnswer{Error: "decode the request: " + err.Error()}, nil)
			return nil
		}
		key := socketKey{request.Network, request.Address}
		if request.Close {
			s.release(key, instance)
			answer(conn, pluginv1.SocketAnswer{ID: request.ID}, nil)
			continue
		}
		file, err := s.get(key, instance)
		if err != nil {
			s.log.Warn("Plugin gets no socket", "network", request.Network, "address", request.Address, "err", err)
			answer(conn, pluginv1.SocketAnswer{ID: request.ID, Error: err.Error()}, nil)
			continue
		}
		answer(conn, pluginv1.SocketAnswer{ID: request.ID}, file)
	}
}

// answer writes one line, and with it a descriptor. A process that is gone gets none.
func answer(conn *net.UnixConn, a pluginv1.SocketAnswer, file *os.File) {
	line, err := json.Marshal(a)
	if err != nil { // it is two plain fields
		panic(err)
	}
	line = append(line, '\n')
	if file == nil {
		_, _ = conn.Write(line)
		return
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return
	}
	// Fd would make the socket a blocking one, for the plugin too.
	_ = raw.Control(func(fd uintptr) { _, _, _ = conn.WriteMsgUnix(line, unix.UnixRights(int(fd)), nil) })
}

// get gives the socket of a name, and opens it if it is not there yet.
func (s *sockets) get(key socketKey, instance string) (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kept[key]
	if k == nil {
		if len(s.kept) >= mostSockets {
			return nil, fmt.Errorf("listen %s %s: the plugin has %d sockets already", key.network, key.address, mostSockets)
		}
		var err error
		if k, err = openSocket(key); err != nil {
			return nil, err
		}
		s.kept[key] = k
	}
	if !slices.Contains(k.users, instance) {
		k.users = append(k.users, instance)
	}
	return k.file, nil
}

// release takes a process off a socket's users, and closes the socket when it has none.
func (s *sockets) release(key socketKey, instance string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kept[key]
	if k == nil {
		return
	}
	k.users = slices.DeleteFunc(k.users, func(u string) bool { return u == instance })
	if len(k.users) == 0 {
		k.close()
		delete(s.kept, key)
	}
}

// keepFor closes what none of these processes asked for.
func (s *sockets) keepFor(instances ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, k := range s.kept {
		k.users = slices.DeleteFunc(k.users, func(u string) bool { return !slices.Contains(instances, u) })
		if len(k.users) == 0 {
			k.close()
			delete(s.kept, key)
		}
	}
}

func (k *keptSocket) close() {
	if k.path != "" {
		if now, err := os.Lstat(k.path); err == nil && os.SameFile(now, k.made) {
			_ = os.Remove(k.path)
		}
	}
	_ = k.file.Close()
}

// openSocket opens a listening socket.
func openSocket(key socketKey) (*keptSocket, error) {
	switch key.network {
	case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6":
		return openPort(key)
	case "unix", "unixgram":
		return openPath(key)
	default:
		return nil, fmt.Errorf("listen %s %s: the network is none of tcp, tcp4, tcp6, udp, udp4, udp6, unix, unixgram", key.network, key.address)
	}
}

// filer is what Go's listeners have in common here.
type filer interface {
	File() (*os.File, error)
	Close() error
}

// openPort opens a TCP or UDP socket, if need be of an address that comes later.
func openPort(key socketKey) (*keptSocket, error) {
	host, _, err := net.SplitHostPort(key.address)
	if err != nil {
		return nil, fmt.Errorf("listen %s: %w", key.network, err)
	}
	if host != "" && net.ParseIP(strings.SplitN(host, "%", 2)[0]) == nil {
		return nil, fmt.Errorf("listen %s %s: the host is no IP address", key.network, key.address)
	}
	l, err := listenPort(key, false)
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		l, err = listenPort(key, true)
	}
	if err != nil {
		return nil, err
	}
	file, err := l.File()
	if err := errors.Join(err, l.Close()); err != nil {
		return nil, fmt.Errorf("listen %s %s: %w", key.network, key.address, err)
	}
	return &keptSocket{file: file}, nil
}

func listenPort(key socketKey, free bool) (filer, error) {
	var lc net.ListenConfig
	if free {
		lc.Control = func(_, _ string, c syscall.RawConn) error {
			var fault error
			err := c.Control(func(fd uintptr) { fault = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) })
			return errors.Join(err, fault)
		}
	}
	ctx := context.Background() // nothing is looked up
	if strings.HasPrefix(key.network, "udp") {
		l, err := lc.ListenPacket(ctx, key.network, key.address)
		if err != nil {
			return nil, err
		}
		return l.(*net.UDPConn), nil
	}
	l, err := lc.Listen(ctx, key.network, key.address)
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// openPath opens a Unix socket of mode 0600 over whatever stands at its path: under
// another name that is then moved, so that at no moment it is open to others or missing.
func openPath(key socketKey) (*keptSocket, error) {
	path := key.address
	if !strings.HasPrefix(path, "/") {
		return nil, fmt.Errorf("listen %s %s: the path is not absolute", key.network, path)
	}
	temp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	var l filer
	var err error
	at := &net.UnixAddr{Name: temp, Net: key.network}
	if key.network == "unix" {
		var listener *net.UnixListener
		if listener, err = net.ListenUnix("unix", at); err == nil {
			listener.SetUnlinkOnClose(false)
			l = listener
		}
	} else {
		l, err = net.ListenUnixgram("unixgram", at)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	file, err := l.File()
	err = errors.Join(err, l.Close())
	if err == nil {
		err = errors.Join(os.Chmod(temp, 0o600), os.Rename(temp, path))
	}
	k := &keptSocket{file: file, path: path}
	if err == nil {
		k.made, err = os.Lstat(path)
	}
	if err != nil {
		if file != nil {
			_ = file.Close()
		}
		_ = os.Remove(temp)
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return k, nil
}
