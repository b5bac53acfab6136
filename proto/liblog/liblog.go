// Package liblog lets the Kubernetes libraries and gRPC speak into Keelson's
// logs in Keelson's terms, in the kernel and in plugins alike. What a library
// tells for information is for those who debug it; and that a client has hung up
// is no error of ours, though the libraries call it one.
//
// A logger starts no goroutine and keeps no state.
package liblog

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"syscall"
)

// hungUp are the ends of a connection that the other side may choose at any time.
var hungUp = []error{net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE, io.ErrUnexpectedEOF}

// websocketHungUp is how a websocket's end without a farewell reads; its error wraps none of hungUp.
const websocketHungUp = "websocket: close 1006"

// New gives the libraries a logger that writes to log: information as
// debugging, errors of a connection that the other side has ended as debugging,
// the rest as it is.
func New(log *slog.Logger) *slog.Logger { return slog.New(handler{log.Handler()}) }

type handler struct{ to slog.Handler }

// Enabled implements slog.Handler.
func (h handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.to.Enabled(ctx, lower(level))
}

// Handle implements slog.Handler.
func (h handler) Handle(ctx context.Context, r slog.Record) error {
	r.Level = lower(r.Level)
	if tellsHangUp(r) {
		r.Level = slog.LevelDebug
	}
	if !h.to.Enabled(ctx, r.Level) {
		return nil
	}
	return h.to.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler { return handler{h.to.WithAttrs(attrs)} }

// WithGroup implements slog.Handler.
func (h handler) WithGroup(name string) slog.Handler { return handler{h.to.WithGroup(name)} }

func lower(level slog.Level) slog.Level {
	if level >= slog.LevelInfo && level < slog.LevelWarn {
		return slog.LevelDebug
	}
	return level
}

func tellsHangUp(r slog.Record) bool {
	found := false
	r.Attrs(func(a slog.Attr) bool {
		err, ok := a.Value.Any().(error)
		found = ok && isHangUp(err)
		return !found
	})
	return found
}

func isHangUp(err error) bool {
	for _, end := range hungUp {
		if errors.Is(err, end) {
			return true
		}
	}
	return strings.Contains(err.Error(), websocketHungUp)
}
