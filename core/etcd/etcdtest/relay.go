package etcdtest

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// Relay is a network between an API server and an etcd that can be spoilt.
type Relay struct {
	// Endpoint is the URL of the etcd behind it.
	Endpoint string

	target string
	ln     net.Listener
	wg     sync.WaitGroup

	mu    sync.Mutex // guards the rest
	conns map[net.Conn]bool
	cut   bool
	delay time.Duration
	gate  chan struct{} // closed: bytes pass
}

// StartRelay puts one before an etcd that serves without TLS, until the test ends.
func StartRelay(t testing.TB, server *Server) *Relay {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // binding does not wait
	if err != nil {
		t.Fatal(err)
	}
	r := &Relay{Endpoint: "http://" + ln.Addr().String(), target: strings.TrimPrefix(server.Endpoint, "http://"), ln: ln,
		conns: map[net.Conn]bool{}, gate: make(chan struct{})}
	close(r.gate)
	r.wg.Go(r.serve)
	t.Cleanup(func() {
		_ = ln.Close()
		r.Pass()
		r.Drop()
		r.wg.Wait()
	})
	return r
}

func (r *Relay) serve() {
	for {
		in, err := r.ln.Accept()
		if err != nil {
			return // closed
		}
		out, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", r.target)
		if err != nil {
			_ = in.Close()
			continue
		}
		if !r.keep(in, out) {
			continue
		}
		r.wg.Go(func() { r.copy(in, out) })
		r.wg.Go(func() { r.copy(out, in) })
	}
}

// keep notes a connection, or ends it while the network is cut.
func (r *Relay) keep(conns ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range conns {
		if r.cut {
			_ = c.Close()
		} else {
			r.conns[c] = true
		}
	}
	return !r.cut
}

func (r *Relay) copy(from, to net.Conn) {
	defer func() {
		_, _ = from.Close(), to.Close()
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.conns, from)
		delete(r.conns, to)
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		r.mu.Lock()
		gate, delay := r.gate, r.delay
		r.mu.Unlock()
		<-gate
		time.Sleep(delay) // what the relay is for
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// Stall keeps connections open and passes nothing on, as a network does that loses all packets.
func (r *Relay) Stall() {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.gate:
		r.gate = make(chan struct{})
	default: // stalled already
	}
}

// Drop ends all connections, and new ones as they come, until Pass.
func (r *Relay) Drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = true
	for c := range r.conns {
		_ = c.Close()
	}
}

// Slow passes on each piece after a pause.
func (r *Relay) Slow(pause time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.delay = pause
}

// Pass makes the network whole again, with what was held back.
func (r *Relay) Pass() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = false
	select {
	case <-r.gate:
	default:
		close(r.gate)
	}
}
