package kernel

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"k8s.io/klog/v2"

	"keelson.dev/keelson/proto/liblog"
)

// libraryLog counts the servers and agents of this process that run. The
// Kubernetes libraries have one log for all of it, which may not change while
// any of their code runs: it is set once, and leads to that of the first of those that run.
var libraryLog struct {
	mu      sync.Mutex // guards running
	running int
	set     sync.Once
	to      atomic.Pointer[slog.Logger]
}

// toLibraryLog is the handler of what libraryLog leads to.
type toLibraryLog struct{}

func (toLibraryLog) Enabled(ctx context.Context, level slog.Level) bool {
	return libraryLog.to.Load().Enabled(ctx, level)
}

func (toLibraryLog) Handle(ctx context.Context, r slog.Record) error {
	return libraryLog.to.Load().Handler().Handle(ctx, r)
}

func (toLibraryLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return libraryLog.to.Load().Handler().WithAttrs(attrs)
}

func (toLibraryLog) WithGroup(name string) slog.Handler {
	return libraryLog.to.Load().Handler().WithGroup(name)
}

// logLibraries sends what the Kubernetes libraries have to say to log, until done
// is called.
func logLibraries(log *slog.Logger) (done func()) {
	libraryLog.mu.Lock()
	defer libraryLog.mu.Unlock()
	if libraryLog.running == 0 {
		libraryLog.to.Store(liblog.New(log))
		libraryLog.set.Do(func() { klog.SetSlogLogger(slog.New(toLibraryLog{})) })
	}
	libraryLog.running++
	return func() {
		libraryLog.mu.Lock()
		defer libraryLog.mu.Unlock()
		libraryLog.running--
	}
}
