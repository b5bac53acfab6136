package kit

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// keeper is the kernel's side of the handover sockets of one plugin: it opens what is
// asked for, once, and hands it to each process.
type keeper struct {
	t  *testing.T
	mu sync.Mutex // guards open

	open map[string]*os.File
}

// process is the environment of a new process of the plugin.
func (k *keeper) process() *Env {
	k.t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		k.t.Fatal(err)
	}
	own, err := net.FileConn(os.NewFile(uintptr(fds[1]), "kernel"))
	if err != nil {
		k.t.Fatal(err)
	}
	end, err := openHandover(fds[0])
	if err != nil {
		k.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(end.wait)
	wg.Go(func() { k.answer(own.(*net.UnixConn)) })
	k.t.Cleanup(func() {
		_ = own.Close()
		_ = end.sockets.conn.CloseRead()
		wg.Wait()
		_ = end.sockets.conn.Close()
	})
	return &Env{Name: "test", sockets: end.sockets}
}

func (k *keeper) answer(conn *net.UnixConn) {
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return
		}
		var q pluginv1.SocketRequest
		if err := json.Unmarshal(line, &q); err != nil {
			k.t.Errorf("request %q: %v", line, err)
			return
		}
		a, oob := pluginv1.SocketAnswer{ID: q.ID}, []byte(nil)
		if q.Close {
			k.close(q.Network + q.Address)
		} else if file, err := k.get(q.Network, q.Address); err != nil {
			a.Error = err.Error()
		} else {
			oob = unix.UnixRights(int(file.Fd()))
		}
		out, _ := json.Marshal(a)
		if _, _, err := conn.WriteMsgUnix(append(out, '\n'), oob, nil); err != nil {
			return
		}
	}
}

func (k *keeper) close(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	_ = k.open[name].Close()
	delete(k.open, name)
}

func (k *keeper) get(network, address string) (*os.File, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if f := k.open[network+address]; f != nil {
		return f, nil
	}
	var f *os.File
	var err error
	switch network {
	case "udp":
		var c net.PacketConn
		if c, err = net.ListenPacket(network, address); err == nil {
			f, err = c.(*net.UDPConn).File()
			_ = c.Close()
		}
	case "unix":
		var l *net.UnixListener
		if l, err = net.ListenUnix(network, &net.UnixAddr{Name: address, Net: network}); err == nil {
			l.SetUnlinkOnClose(false)
			f, err = l.File()
			_ = l.Close()
		}
	default:
		var l net.Listener
		if l, err = net.Listen(network, address); err == nil {
			f, err = l.(*net.TCPListener).File()
			_ = l.Close()
		}
	}
	if err != nil {
		return nil, err
	}
	k.open[network+address] = f
	return f, nil
}

// TestRelease: a socket that is given back is closed by the kernel, and the answer is not
// taken for that to the next request.
func TestRelease(t *testing.T) {
	k := newKeeper(t)
	env := k.process()
	dir := t.TempDir()
	listen := func(path string) {
		t.Helper()
		l, err := env.Listener(t.Context(), "unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if got := l.Addr().String(); got != path {
			t.Errorf("listener: got %s, want %s", got, path)
		}
		_ = l.Close()
	}
	for _, name := range []string{"a", "b", "c"} {
		path := filepath.Join(dir, name)
		listen(path)
		env.Release("unix", path)
		listen(path + "2") // its answer comes after that to Release
		k.mu.Lock()
		if k.open["unix"+path] != nil || k.open["unix"+path+"2"] == nil {
			t.Errorf("open: got %v", k.open)
		}
		k.mu.Unlock()
	}
	(&Env{}).Release("unix", dir) // where the kernel keeps none: nothing happens
}

func newKeeper(t *testing.T) *keeper {
	k := &keeper{t: t, open: map[string]*os.File{}}
	t.Cleanup(func() { // the last: no process asks any more
		for _, f := range k.open {
			_ = f.Close()
		}
	})
	return k
}

// TestListenerOutlivesProcesses: each process serves what connected while none did.
func TestListenerOutlivesProcesses(t *testing.T) {
	k := newKeeper(t)
	first, err := k.process().Listener(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := first.Addr().String()
	_ = first.Close()
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for range 3 {
		got := make(chan error, 1)
		go func() { // ends with the answer of the next process
			resp, err := web.Get("http://" + address)
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
			got <- err
		}()
		l, err := k.process().Listener(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.NotFoundHandler()}
		served := make(chan error, 1)
		go func() { served <- server.Serve(l) }()
		if err := <-got; err != nil {
			t.Errorf("request in the gap: %v", err)
		}
		if err := server.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		<-served
	}
}

// TestPacketConnOutlivesProcesses: a datagram that nobody has read is read by the next.
func TestPacketConnOutlivesProcesses(t *testing.T) {
	k := newKeeper(t)
	first, err := k.process().PacketConn(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("udp", first.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	_ = first.Close()
	for _, text := range []string{"one", "two"} {
		if _, err := client.Write([]byte(text)); err != nil {
			t.Fatalf("datagram in the gap: %v", err)
		}
		next, err := k.process().PacketConn(t.Context(), "udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 10)
		n, _, err := next.ReadFrom(buf)
		if err != nil || string(buf[:n]) != text {
			t.Errorf("datagram: got %q, %v, want %q", buf[:n], err, text)
		}
		_ = next.Close()
	}
}

// TestSocketErrors: the kernel's words reach the plugin, and its end ends waits.
func TestSocketErrors(t *testing.T) {
	env := newKeeper(t).process()
	if _, err := env.Listener(t.Context(), "tcp", "192.0.2.1:1"); err == nil || !strings.Contains(err.Error(), "192.0.2.1:1") {
		t.Errorf("an address that is not ours: got %v, want an error that names it", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if l, err := env.Listener(ctx, "tcp", "127.0.0.1:0"); err == nil {
		_ = l.Close() // the answer was as quick
	} else if !errors.Is(err, context.Canceled) {
		t.Errorf("a request given up: got %v, want %v", err, context.Canceled)
	}
	if l, err := env.Listener(t.Context(), "tcp", "127.0.0.1:0"); err != nil {
		t.Errorf("the request after it: %v", err)
	} else {
		_ = l.Close()
	}
}

// caller makes calls to a server behind a socket, over processes that come and go.
type caller struct {
	t      *testing.T
	keeper *keeper
	socket string
}

// serve runs one process' server until the function returned is called.
func (c *caller) serve(server grpc_health_v1.HealthServer, options ...ServeOption) (stop func()) {
	c.t.Helper()
	env := c.keeper.process()
	env.Listen = c.socket
	a := &activation{}
	ctx, cancel := context.WithCancel(context.WithValue(c.t.Context(), runKey{}, a))
	process, end := context.WithCancel(context.Background())
	env.Process = process
	c.t.Cleanup(end)
	done := make(chan error, 1)
	go func() {
		done <- env.ServeGRPC(ctx, func(s *grpc.Server) { grpc_health_v1.RegisterHealthServer(s, server) }, options...)
	}()
	return func() {
		c.t.Helper()
		by := time.Now().Add(time.Minute)
		a.endBy.Store(&by)
		cancel()
		if err := <-done; err != nil {
			c.t.Errorf("ServeGRPC: %v", err)
		}
	}
}

// slow answers when it is told to.
type slow struct {
	grpc_health_v1.UnimplementedHealthServer
	came chan struct{}
	gate chan struct{}
}

func newSlow() *slow { return &slow{came: make(chan struct{}, 10), gate: make(chan struct{})} }

func (s *slow) Check(ctx context.Context, _ *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	s.came <- struct{}{}
	select {
	case <-s.gate:
		return &grpc_health_v1.HealthCheckResponse{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

const checkMethod = "/grpc.health.v1.Health/Check"

// TestCallsOverASwap: what becomes of a call that is under way when its server's process
// is deactivated, and of those that come in the gap.
func TestCallsOverASwap(t *testing.T) {
	for _, c := range []struct {
		name    string
		options []ServeOption
		again   bool // the caller repeats
		release bool // the first server answers before it is stopped for good
		want    codes.Code
	}{
		{"finished", nil, false, true, codes.OK},
		{"interrupted", []ServeOption{Interrupt(checkMethod)}, false, false, codes.Unavailable},
		{"interrupted and repeated", []ServeOption{Interrupt(checkMethod)}, true, false, codes.OK},
		{"living on", []ServeOption{LiveOn(checkMethod)}, false, false, codes.OK},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &caller{t: t, keeper: newKeeper(t), socket: filepath.Join(t.TempDir(), "s")}
			options := []grpc.DialOption{}
			if c.again {
				options = append(options, CallAgain(nil))
			}
			first := newSlow()
			stop := w.serve(first, c.options...)
			conn, err := DialSocket(w.socket, options...)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			client := grpc_health_v1.NewHealthClient(conn)
			got := make(chan error, 1)
			call := func(to chan error) {
				_, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}, grpc.WaitForReady(true))
				to <- err
			}
			go call(got)
			<-first.came
			if c.release {
				close(first.gate)
			}
			stop()
			gap := make(chan error, 1)
			go call(gap)
			stop = w.serve(health.NewServer())
			if !c.release {
				close(first.gate) // of what lives on
			}
			if err := <-gap; err != nil {
				t.Errorf("call in the gap: %v", err)
			}
			if err := <-got; status.Code(err) != c.want {
				t.Errorf("call under way: got %v, want %s", err, c.want)
			}
			stop()
		})
	}
}

// lists answers one list after the other.
type lists struct {
	items [][]metav1.PartialObjectMetadata
}

func (l *lists) List(context.Context, metav1.ListOptions) (*metav1.PartialObjectMetadataList, error) {
	next := l.items[0]
	if len(l.items) > 1 {
		l.items = l.items[1:]
	}
	return &metav1.PartialObjectMetadataList{ListMeta: metav1.ListMeta{ResourceVersion: "20"}, Items: next}, nil
}

func TestCaughtUp(t *testing.T) {
	object := func(name, version string) metav1.PartialObjectMetadata {
		return metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, ResourceVersion: version}}
	}
	for _, c := range []struct {
		name        string
		api, cached []metav1.PartialObjectMetadata
		want        bool
	}{
		{"nothing", nil, nil, true},
		{"the same", []metav1.PartialObjectMetadata{object("a", "9")}, []metav1.PartialObjectMetadata{object("a", "9")}, true},
		{"newer in the cache", []metav1.PartialObjectMetadata{object("a", "9")}, []metav1.PartialObjectMetadata{object("a", "10")}, true},
		{"older in the cache", []metav1.PartialObjectMetadata{object("a", "10")}, []metav1.PartialObjectMetadata{object("a", "9")}, false},
		{"not in the cache", []metav1.PartialObjectMetadata{object("a", "9")}, nil, false},
		{"gone from the API", nil, []metav1.PartialObjectMetadata{object("a", "9")}, false},
		{"made after the list", nil, []metav1.PartialObjectMetadata{object("a", "21")}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := cache.NewStore(cache.MetaNamespaceKeyFunc)
			for i := range c.cached {
				if err := store.Add(&c.cached[i]); err != nil {
					t.Fatal(err)
				}
			}
			list, _ := (&lists{items: [][]metav1.PartialObjectMetadata{c.api}}).List(t.Context(), metav1.ListOptions{})
			if got := caughtUp(list, store); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// TestCatchUpWaits: for the event that the cache lacks, and not for one that never comes.
func TestCatchUpWaits(t *testing.T) {
	object := metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: "a", ResourceVersion: "9"}}
	store := cache.NewStore(cache.MetaNamespaceKeyFunc)
	done := make(chan error, 1)
	go func() {
		_, err := catchUp(t.Context(), &lists{items: [][]metav1.PartialObjectMetadata{{object}}}, store, metav1.ListOptions{})
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("got %v before the object was in the cache", err)
	default:
	}
	if err := store.Add(&object); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	// Deleted between the list and its event: the next list does not have it.
	if err := store.Delete(&object); err != nil {
		t.Fatal(err)
	}
	if _, err := catchUp(t.Context(), &lists{items: [][]metav1.PartialObjectMetadata{{object}, {}}}, store, metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
	// So it ends while others come and go: what is made after the first list is not waited for.
	b := metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: "b", ResourceVersion: "19"}}
	if _, err := catchUp(t.Context(), &lists{items: [][]metav1.PartialObjectMetadata{{object}, {b}}}, store, metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{}, store.ListKeys()); diff != "" {
		t.Errorf("the cache was changed: %s", diff)
	}
}
