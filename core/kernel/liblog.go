package kernel

import (
	"log/slog"
	"sync"

	"k8s.io/klog/v2"

	"keelson.dev/keelson/proto/liblog"
)

// libraryLog counts the servers and agents of this process that run. The
// Kubernetes libraries have one log for all of it, which may not change while
// any of their code runs: the first one's is taken.
var libraryLog struct {
	mu      sync.Mutex // guards running
	running int
}

// logLibraries sends what the Kubernetes libraries have to say to log, until done
// is called.
func logLibraries(log *slog.Logger) (done func()) {
	libraryLog.mu.Lock()
	defer libraryLog.mu.Unlock()
	if libraryLog.running == 0 {
		klog.SetSlogLogger(liblog.New(log))
	}
	libraryLog.running++
	return func() {
		libraryLog.mu.Lock()
		defer libraryLog.mu.Unlock()
		libraryLog.running--
	}
}
