package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"

	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/plugins/kit/nft"
)

// healthChecks answers load balancers that ask whether the node has endpoints of a
// service with external traffic policy Local, at the service's healthCheckNodePort.
type healthChecks struct {
	env    *kit.Env
	log    *slog.Logger
	open   map[string]*healthCheck // by service; used by the sync loop alone
	served sync.WaitGroup
	// connections that are open; none is added when all of served have ended.
	connections sync.WaitGroup
}

type healthCheck struct {
	port     int32
	local    atomic.Int64
	server   *http.Server
	listener net.Listener
}

func newHealthChecks(env *kit.Env) *healthChecks {
	return &healthChecks{env: env, log: env.Log, open: map[string]*healthCheck{}}
}

// syncChecks opens, closes and updates the ports of the services.
func (s *Server) syncChecks(objects map[string]object, full bool) {
	for key, o := range objects {
		port, local := checkOf(o, s.env.Node.Name)
		s.checks.set(key, port, local)
	}
	if full {
		for key := range s.checks.open {
			if _, still := objects[key]; !still {
				s.checks.set(key, 0, 0)
			}
		}
	}
}

func checkOf(o object, node string) (port int32, local int) {
	if o.service == nil || !handled(o.service) || o.service.Spec.HealthCheckNodePort == 0 ||
		o.service.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return 0, 0
	}
	for _, fam := range []nft.Family{nft.IPv4, nft.IPv6} {
		for _, p := range servicePorts(o.service, o.slices, fam, node) {
			local = max(local, len(p.local))
		}
	}
	return o.service.Spec.HealthCheckNodePort, local
}

func (h *healthChecks) set(key string, port int32, local int) {
	c := h.open[key]
	if c != nil && c.port != port {
		_ = c.server.Close()
		h.env.Release("tcp", c.address())
		delete(h.open, key)
		c = nil
	}
	if port == 0 {
		return
	}
	if c != nil {
		c.local.Store(int64(local))
		return
	}
	c = &healthCheck{port: port}
	c.local.Store(int64(local)) // before the first request, which may wait since the process before
	c.server = &http.Server{Handler: c.handler(key), ReadHeaderTimeout: 5 * time.Second, ConnState: h.follow, ErrorLog: slog.NewLogLogger(h.log.Handler(), slog.LevelDebug)}
	listener, err := h.env.Listener(context.Background(), "tcp", c.address())
	if err != nil {
		h.log.Error("Health check port of a service cannot be opened", "service", key, "port", port, "err", err)
		return
	}
	c.listener = listener
	h.served.Go(func() { // ends with Close, in set or close
		if err := c.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			h.log.Error("Health check port of a service failed", "service", key, "err", err)
		}
	})
	h.open[key] = c
}

func (c *healthCheck) address() string { return fmt.Sprintf(":%d", c.port) }

func (c *healthCheck) handler(key string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		n := c.local.Load()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", fmt.Sprint(n))
		if n == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"service": key, "localEndpoints": n, "serviceProxyHealthy": true})
	}
}

// lastAnswers is how long the end of an activation waits for requests under way. They are
// answered in any case: this process lives on.
const lastAnswers = 200 * time.Millisecond

// close takes on nothing new and waits for the goroutines. The kernel keeps the ports: who
// asks meanwhile waits for the next process.
func (h *healthChecks) close() {
	for key, c := range h.open {
		// Not Shutdown: it drops requests that it reads meanwhile.
		_ = c.listener.Close()
		c.server.SetKeepAlivesEnabled(false)
		context.AfterFunc(h.env.Life(), func() { _ = c.server.Close() })
		delete(h.open, key)
	}
	h.served.Wait()
	answered := make(chan struct{})
	go func() { // ends with the last connection
		h.connections.Wait()
		close(answered)
	}()
	select {
	case <-answered:
	case <-time.After(lastAnswers):
	}
}

// follow counts the connections of a server.
func (h *healthChecks) follow(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		h.connections.Add(1)
	case http.StateClosed, http.StateHijacked:
		h.connections.Done()
	}
}
