package apiserver

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// gate is a listener that can stop to accept without being closed: what connects then waits
// in the system's queue for whoever has the socket next.
type gate struct {
	net.Listener
	shut   atomic.Bool
	closed chan struct{}
	once   sync.Once
}

func newGate(l net.Listener) *gate { return &gate{Listener: l, closed: make(chan struct{})} }

// Accept implements net.Listener. When the gate is shut it returns when it is closed.
func (g *gate) Accept() (net.Conn, error) {
	if !g.shut.Load() {
		conn, err := g.Listener.Accept()
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return conn, err
		}
	}
	<-g.closed
	return nil, net.ErrClosed
}

// Close implements net.Listener.
func (g *gate) Close() error {
	g.once.Do(func() { close(g.closed) })
	return g.Listener.Close()
}

// close has nothing more accepted.
func (g *gate) stop() {
	g.shut.Store(true)
	if l, ok := g.Listener.(interface{ SetDeadline(time.Time) error }); ok {
		_ = l.SetDeadline(time.Unix(1, 0))
	}
}

// ListenerFile is a descriptor of the port that the server listens on. It keeps the port
// open when the server has ended; what connects meanwhile waits for the next server that is
// given it as Config.Listener.
func (s *Server) ListenerFile() (*os.File, error) {
	l, ok := s.listener.Listener.(interface{ File() (*os.File, error) })
	if !ok {
		return nil, errors.New("the API server's listener has no descriptor")
	}
	file, err := l.File()
	if err != nil {
		return nil, fmt.Errorf("keep the API server's port: %w", err)
	}
	return file, nil
}

// Replace says that another server goes on with the port when this one has ended: no
// connection is accepted any more, and a request that still comes over an open one is asked
// to come again at once, on a new connection.
func (s *Server) Replace() { s.listener.stop() }

// withComeAgain answers requests that come when the server is being replaced.
func (s *Server) withComeAgain(next http.Handler, stopping <-chan struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.listener.shut.Load() {
			select {
			case <-stopping:
				w.Header().Set("Connection", "close") // over HTTP/2 this is a GOAWAY
				w.Header().Set("Retry-After", "0")
				http.Error(w, "The server is being replaced: please try again.", http.StatusTooManyRequests)
				return
			default:
			}
		}
		next.ServeHTTP(w, r)
	})
}
