// Command counter is the program of the example application: it counts visits
// in Redis and answers each with the count.
//
// Environment: REDIS_ADDR (host:port, "redis:6379" by default), REDIS_PASSWORD,
// GREETING. It serves port 8080: / counts, /healthz says that the process
// lives, /readyz that Redis answers.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// version is set by the image build (-ldflags -X main.version=v2).
var version = "v1"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		slog.Error("Counter ended", "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	app := &app{
		redis:    redis{addr: env("REDIS_ADDR", "redis:6379"), password: os.Getenv("REDIS_PASSWORD")},
		greeting: env("GREETING", "hello"),
		pod:      env("POD_NAME", "unknown"),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", app.ready)
	mux.HandleFunc("GET /{$}", app.visit)
	server := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }() // ends with Shutdown below
	slog.Info("Counter serves", "version", version, "address", server.Addr)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		return err
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

type app struct {
	redis         redis
	greeting, pod string
}

func (a *app) ready(w http.ResponseWriter, r *http.Request) {
	if _, err := a.redis.do(r.Context(), "PING"); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

func (a *app) visit(w http.ResponseWriter, r *http.Request) {
	n, err := a.redis.do(r.Context(), "INCR", "visits")
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	fmt.Fprintf(w, "%s: visit %s, counter %s, pod %s\n", a.greeting, n, version, a.pod)
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// dialer bounds how long Redis may take to accept.
var dialer = net.Dialer{Timeout: 2 * time.Second}
