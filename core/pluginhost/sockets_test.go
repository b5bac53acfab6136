package pluginhost

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// asker is a plugin's end of the handover socket.
type asker struct{ *net.UnixConn }

func newAsker(t *testing.T, s *sockets, instance string) *asker {
	t.Helper()
	theirs, ours, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.FileConn(theirs)
	if err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	done := make(chan struct{})
	go func() { defer close(done); s.serve(ours, instance, nil) }()
	t.Cleanup(func() { _ = conn.Close(); <-done; _ = ours.Close() })
	return &asker{conn.(*net.UnixConn)}
}

// ask sends a line and reads the answer with its descriptor, if there is one.
func (a *asker) ask(t *testing.T, line string) (pluginv1.SocketAnswer, *os.File) {
	t.Helper()
	if _, err := fmt.Fprintln(a, line); err != nil {
		t.Fatal(err)
	}
	buf, oob := make([]byte, 8192), make([]byte, 64)
	n, oobn, _, _, err := a.ReadMsgUnix(buf, oob)
	if err != nil {
		t.Fatal(err)
	}
	var got pluginv1.SocketAnswer
	if err := json.NewDecoder(bufio.NewReader(bytes.NewReader(buf[:n]))).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if oobn == 0 {
		return got, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		t.Fatalf("control messages: %v, %v", messages, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("descriptors: %v, %v", fds, err)
	}
	return got, os.NewFile(uintptr(fds[0]), "given")
}

func (a *asker) want(t *testing.T, network, address string) *os.File {
	t.Helper()
	got, file := a.ask(t, fmt.Sprintf(`{"id":7,"network":%q,"address":%q}`, network, address))
	if got.ID != 7 || got.Error != "" || file == nil {
		t.Fatalf("socket %s %s: got %+v, %v", network, address, got, file)
	}
	return file
}

// TestSocketOutlivesItsProcess: what connects while nobody accepts is accepted by the
// process that comes next.
func TestSocketOutlivesItsProcess(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			s := newSockets(slog.New(slog.DiscardHandler))
			defer s.keepFor()
			address := "127.0.0.1:0"
			if network == "unix" {
				address = filepath.Join(t.TempDir(), "s")
			}
			first := newAsker(t, s, "first").want(t, network, address)
			l, err := net.FileListener(first)
			if err != nil {
				t.Fatal(err)
			}
			at := address // a Unix listener knows the name before its move only
			if network == "tcp" {
				at = l.Addr().String()
			}
			_, _ = l.Close(), first.Close()
			conn, err := net.Dial(network, at)
			if err != nil {
				t.Fatalf("nobody accepts, and the socket is closed: %v", err)
			}
			defer func() { _ = conn.Close() }()
			second := newAsker(t, s, "second").want(t, network, address)
			defer func() { _ = second.Close() }()
			l, err = net.FileListener(second)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			accepted, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			_ = accepted.Close()
			if network == "unix" {
				if info, err := os.Stat(address); err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("the path: got %v, %v, want mode 0600", info, err)
				}
				s.keepFor()
				if _, err := os.Stat(address); err == nil {
					t.Error("the path of a closed socket is still there")
				}
			}
		})
	}
}

func TestSocketsAreClosed(t *testing.T) {
	s := newSockets(slog.New(slog.DiscardHandler))
	a, b := newAsker(t, s, "a"), newAsker(t, s, "b")
	for _, who := range []*asker{a, b} {
		_ = who.want(t, "udp", "127.0.0.1:0").Close()
	}
	_ = a.want(t, "unixgram", filepath.Join(t.TempDir(), "g")).Close()
	const done = `{"id":8,"network":"udp","address":"127.0.0.1:0","close":true}`
	for i, who := range []*asker{a, b} {
		if got, file := who.ask(t, done); got.ID != 8 || got.Error != "" || file != nil {
			t.Errorf("close: got %+v, %v", got, file)
		}
		s.mu.Lock()
		got := len(s.kept)
		s.mu.Unlock()
		if want := 2 - i; got != want {
			t.Errorf("%d sockets are kept, want %d", got, want)
		}
	}
	s.keepFor("b")
	if len(s.kept) != 0 {
		t.Errorf("kept for nobody: %v", s.kept)
	}
}

func TestSocketErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	s := newSockets(slog.New(slog.DiscardHandler))
	defer s.keepFor()
	a := newAsker(t, s, "a")
	for _, c := range []struct{ name, network, address, want string }{
		{"taken", "tcp", taken.Addr().String(), "address already in use"},
		{"network", "ip", "127.0.0.1", "the network is none of tcp"},
		{"a name", "tcp", "localhost:80", "is no IP address"},
		{"no port", "udp", "127.0.0.1", "missing port"},
		{"no folder", "unix", "/no/such/folder/x", "no such file"},
		{"relative", "unix", "x", "is not absolute"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, file := a.ask(t, fmt.Sprintf(`{"id":3,"network":%q,"address":%q}`, c.network, c.address))
			if got.ID != 3 || !strings.Contains(got.Error, c.want) || file != nil {
				t.Errorf("got %+v, %v, want an error with %q", got, file, c.want)
			}
		})
	}
	_ = a.want(t, "udp", "192.0.2.77:0").Close() // an address that the machine has not
	if got, _ := a.ask(t, `{`); !strings.Contains(got.Error, "decode the request") {
		t.Errorf("no JSON: got %+v", got)
	}
	if got, _ := newAsker(t, s, "b").ask(t, strings.Repeat("x", 2*pluginv1.MaxSocketLine)); !strings.Contains(got.Error, "longer than") {
		t.Errorf("a long line: got %+v", got)
	}
}
