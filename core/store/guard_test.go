package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestCloseWithoutDirectory takes the directory away under a serving store: Badger can make no table any more, and
// would try for ever.
func TestCloseWithoutDirectory(t *testing.T) {
	for _, memtables := range []int{1, 5} {
		t.Run(fmt.Sprint("memtables ", memtables), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			o := Options{Dir: dir, memTable: 1 << 20, MinFreeBytes: -1}
			db, err := Open(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			for i := range memtables {
				put(t, db, fmt.Sprint("/registry/things/", i), strings.Repeat("x", 100_000))
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err == nil || !strings.Contains(err.Error(), "error while creating table") {
				t.Errorf("got %v, want what Badger could not do", err)
			}
		})
	}
}

// TestOpenFlusherFails opens a store whose write-ahead logs cannot become tables: that must be told, and nothing of the
// logs be lost.
func TestOpenFlusherFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	o := Options{Dir: dir, memTable: 1 << 20, MinFreeBytes: -1}
	template, _ := makeTemplate(t, fmt.Sprint(o.memTable))
	copyDir(t, template, dir)
	// Folders in the place of the next tables, made before the flusher begins.
	var obstacles []string
	o.Log = slog.New(onMessage{"tables opened", func() {
		for i := range 100 {
			path := filepath.Join(dir, "badger", fmt.Sprintf("%06d.sst", i))
			if err := os.Mkdir(path, 0o700); err == nil {
				obstacles = append(obstacles, path)
			}
		}
	}})
	db, err := Open(t.Context(), o)
	if err == nil { // it opened before the flusher tried, who is asked again at the end
		err = db.Close()
	}
	if err == nil || errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "error while creating table") {
		t.Errorf("got %v, want that the table cannot be made", err)
	}
	o.Log = nil
	for _, path := range obstacles {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	db, err = Open(t.Context(), o)
	if err != nil {
		t.Fatalf("opened again: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

// onMessage calls a function when a line with some words is logged.
type onMessage struct {
	words string
	call  func()
}

func (h onMessage) Enabled(context.Context, slog.Level) bool { return true }
func (h onMessage) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h onMessage) WithGroup(string) slog.Handler            { return h }

func (h onMessage) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if strings.Contains(a.Value.String(), h.words) {
			h.call()
		}
		return true
	})
	return nil
}

// TestGuardAbandons has a Badger that does not end after its flusher failed.
func TestGuardAbandons(t *testing.T) {
	g := newGuard()
	release, ended := make(chan struct{}), make(chan struct{})
	log := badgerLog{log: slog.New(slog.DiscardHandler), guard: g}
	err := g.run(time.Millisecond, func() error {
		defer close(ended)
		flusher := make(chan struct{})
		go func() {
			defer close(flusher)
			log.Errorf("error flushing memtable to disk: %v, retrying", context.DeadlineExceeded)
			t.Error("the flusher goes on")
		}()
		<-flusher
		<-release
		return nil
	})
	if !errors.Is(err, errAbandoned) || !strings.Contains(err.Error(), "deadline exceeded") {
		t.Errorf("got %v, want that Badger was abandoned, and why", err)
	}
	close(release)
	<-ended
}

// TestGuardServes lets the flusher of a serving store try again.
func TestGuardServes(t *testing.T) {
	g := newGuard()
	if err := g.serve(); err != nil {
		t.Fatal(err)
	}
	log := badgerLog{log: slog.New(slog.DiscardHandler), guard: g}
	returned := false
	flusher := make(chan struct{})
	go func() {
		defer close(flusher)
		log.Errorf("error flushing memtable to disk: %v, retrying", "no space")
		returned = true
	}()
	<-flusher
	if !returned || g.err() != nil {
		t.Errorf("returned %t with %v, want another try", returned, g.err())
	}
}
