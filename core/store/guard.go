package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// guardGrace is how long a Badger whose disk fails may take to open or close before it is left to itself.
const guardGrace = 10 * time.Second

// guard sees to it that opening and closing end. Badger's flusher, which makes a table of a full write-ahead log, tries
// again each second for ever when the disk refuses, and both Open and Close of Badger wait for it. All is in the logs
// then, so while the store opens or closes the guard ends the flusher at its first failure; the next start reads the logs.
type guard struct {
	mu      sync.Mutex
	leaving bool // the flusher ends instead of trying again
	fault   error
	faulted chan struct{} // closed with the first fault while leaving
}

// newGuard returns the guard of a Badger that is about to open.
func newGuard() *guard { return &guard{leaving: true, faulted: make(chan struct{})} }

// flushFailed is called by the flusher. It does not return if the flusher has to end.
func (g *guard) flushFailed(message string) {
	g.mu.Lock()
	if !g.leaving {
		g.mu.Unlock()
		return
	}
	if g.fault == nil {
		g.fault = errors.New(message)
		close(g.faulted)
	}
	g.mu.Unlock()
	runtime.Goexit()
}

// serve tells that opening is over: from now on the flusher tries again. The error is what it met before.
func (g *guard) serve() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fault == nil {
		g.leaving = false
	}
	return g.fault
}

// leave tells that closing begins.
func (g *guard) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leaving = true
}

// stuck notes that a goroutine of Badger waits for something that may never come, and cannot be ended.
func (g *guard) stuck(message string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.leaving && g.fault == nil {
		g.fault = errors.New(message)
		close(g.faulted)
	}
}

func (g *guard) err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.fault
}

// errAbandoned says that Badger did not end though its disk failed, so that goroutines of it may still write.
var errAbandoned = errors.New("the database does not end")

// run runs f, which opens or closes Badger. When the flusher fails, f gets grace more time.
func (g *guard) run(grace time.Duration, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return errors.Join(err, g.err())
	case <-g.faulted:
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case err := <-done:
		return errors.Join(err, g.err())
	case <-timer.C:
		return errors.Join(errAbandoned, g.err())
	}
}

// abandoned are the locks of directories that a Badger may still write to. They end with the process.
var abandoned struct {
	mu    sync.Mutex
	locks []*os.File
}

func abandon(lock *os.File) {
	abandoned.mu.Lock()
	defer abandoned.mu.Unlock()
	abandoned.locks = append(abandoned.locks, lock)
}

// openBadger opens the database; what Badger panics with on damaged files becomes an error. The database is not nil, and
// has to be closed, if it opened although its flusher failed.
func openBadger(opts badger.Options, g *guard) (*badger.DB, error) {
	var db *badger.DB // not ours if Badger is abandoned
	err := g.run(guardGrace, func() (err error) {
		defer func() {
			if r := recover(); r != nil {
				err = damaged(opts.Dir, nil, "Badger stopped: %v", firstLine(r))
			}
		}()
		opened, err := badger.Open(opts)
		if err == nil {
			db = opened
		}
		return err
	})
	switch {
	case errors.Is(err, errAbandoned):
		return nil, fmt.Errorf("open store %s: %w", opts.Dir, err)
	case err == nil, errors.Is(err, ErrDamaged):
		return db, err
	case errors.Is(err, fs.ErrPermission), g.err() != nil:
		return db, fmt.Errorf("open store %s: %w", opts.Dir, err)
	}
	return nil, damaged(opts.Dir, err, "Badger does not open it")
}

// badgerLog passes Badger's lines on. Its Info is about tables and levels, Debug for us.
type badgerLog struct {
	log   *slog.Logger
	dir   string // its disk is looked at
	need  int64  // space to have before tables are made
	guard *guard // nil: none
}

func (l badgerLog) line(level slog.Level, format string, args []any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, "Badger", "message", strings.TrimSpace(fmt.Sprintf(format, args...)))
	}
}

// Errorf implements badger.Logger.
func (l badgerLog) Errorf(f string, a ...any) {
	l.line(slog.LevelError, f, a)
	if l.guard != nil && strings.HasPrefix(f, "error flushing memtable to disk") {
		l.guard.flushFailed(firstLine(fmt.Sprintf(strings.TrimSuffix(f, ", retrying"), a...)))
	}
}

// Warningf implements badger.Logger.
func (l badgerLog) Warningf(f string, a ...any) { l.line(slog.LevelWarn, f, a) }

// Infof implements badger.Logger.
func (l badgerLog) Infof(f string, a ...any) { l.line(slog.LevelDebug, f, a) }

// Debugf implements badger.Logger.
func (l badgerLog) Debugf(f string, a ...any) {
	l.line(slog.LevelDebug-4, f, a)
	if strings.Contains(f, "LOG Compact. Added") {
		l.compacting()
	}
}
