package backup

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"keelson.dev/keelson/test/need"
)

func TestParseSchedule(t *testing.T) {
	from := time.Date(2026, 11, 21, 14, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		expression string
		want       time.Time // zero: refused
		wrong      string    // in the error
	}{
		{"0 3 * * *", time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC), ""},
		{" 30 14 * * 6 ", time.Date(2026, 11, 21, 14, 30, 0, 0, time.UTC), ""},
		{"@hourly", time.Date(2026, 11, 21, 15, 0, 0, 0, time.UTC), ""},
		{"@every 6h", time.Date(2026, 11, 21, 20, 0, 0, 0, time.UTC), ""},
		{"CRON_TZ=Asia/Tokyo 0 3 * * *", time.Date(2026, 11, 21, 18, 0, 0, 0, time.UTC), ""},
		{"", time.Time{}, "empty"},
		{"0 3 * *", time.Time{}, "5 fields"},
		{"60 3 * * *", time.Time{}, "60"},
		{"@often", time.Time{}, "@often"},
		{"@every 5s", time.Time{}, "more often"},
		{"0 0 31 2 *", time.Time{}, "no time"},
		{"CRON_TZ=Mars 0 3 * * *", time.Time{}, "Mars"},
		{"CRON_TZ=UTC", time.Time{}, "no time"},
		{"TZ=", time.Time{}, "no time"},
	} {
		t.Run(tt.expression, func(t *testing.T) {
			next, err := ParseSchedule(tt.expression)
			if tt.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wrong) {
					t.Fatalf("got %v, want an error with %q", err, tt.wrong)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := next(from); !got.Equal(tt.want) {
				t.Errorf("after %s comes %s, want %s", from, got, tt.want)
			}
		})
	}
}

func FuzzParseSchedule(f *testing.F) {
	for _, s := range []string{"0 3 * * *", "@every 1h", "CRON_TZ=UTC @daily", "TZ=", "*/5 1-4,7 ? JAN MON-FRI"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if next, err := ParseSchedule(s); err == nil {
			now := time.Now()
			if at := next(now); !at.After(now) && !at.IsZero() {
				t.Errorf("%q: after %s comes %s", s, now, at)
			}
		}
	})
}

// scheduler has one that takes backups daily at three, and hands out what came of each.
func scheduler(t *testing.T, dir string, keep int) (s *Scheduler, outcomes func() []Outcome) {
	t.Helper()
	next, err := ParseSchedule("CRON_TZ=UTC 0 3 * * *")
	if err != nil {
		t.Fatal(err)
	}
	m, files := cluster(5)
	var mu sync.Mutex
	var got []Outcome
	s = &Scheduler{
		Next: next, Dir: dir, Keep: keep, Log: slog.New(slog.DiscardHandler),
		Write: func(ctx context.Context, w io.Writer) error {
			return Write(ctx, w, m, func() ([]*File, error) { return files, nil }, "")
		},
		Report: func(o Outcome) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, o)
		},
	}
	return s, func() []Outcome {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(got)
	}
}

// days runs s for that many days of a clock of its own.
func days(t *testing.T, s *Scheduler, n int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	time.Sleep(time.Duration(n)*24*time.Hour + time.Minute) // of the bubble's clock
	synctest.Wait()
	cancel()
	wg.Wait()
}

func TestSchedule(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "here")
	synctest.Test(t, func(t *testing.T) {
		s, outcomes := scheduler(t, dir, 3)
		days(t, s, 5)
		got := outcomes()
		if len(got) != 5 {
			t.Fatalf("%d backups in five days", len(got))
		}
		for i, o := range got {
			if o.Err != nil || o.RemoveErr != nil || o.Objects != 5 || o.Bytes == 0 || o.Begun.UTC().Format("15:04") != "03:00" {
				t.Errorf("backup %d: %+v", i, o)
			}
			if wrong := (i >= 3) != (len(o.Removed) == 1); wrong {
				t.Errorf("backup %d removed %v", i, o.Removed)
			}
		}
		all, err := List(t.Context(), dir, true)
		if err != nil || len(all) != 3 || all[2].Path != got[4].Path || all[0].Err != nil {
			t.Errorf("listed %+v, %v", all, err)
		}
		info, err := os.Stat(got[4].Path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	})
}

// TestScheduleKeepsWhole spoils a backup: it does not count, so an older one stays as long as it is needed.
func TestScheduleKeepsWhole(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, outcomes := scheduler(t, dir, 2)
		days(t, s, 2)
		got := outcomes()
		if err := os.WriteFile(got[1].Path, []byte("spoilt"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "other.keelson"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		days(t, s, 1)
		names, err := scheduled(dir)
		if err != nil || len(names) != 3 {
			t.Errorf("%v, %v: the first is needed, as the second is spoilt", names, err)
		}
		days(t, s, 1)
		if _, err := os.Stat(got[0].Path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the first is not needed any more: %v", err)
		}
		if _, err := os.Stat(got[1].Path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("nor is the spoilt one: %v", err)
		}
		if _, err := os.Stat(filepath.Join(dir, "other.keelson")); err != nil {
			t.Errorf("somebody else's: %v", err)
		}
	})
}

// TestScheduleFails has backups fail: nothing is removed and nothing half is left, and the next is taken.
func TestScheduleFails(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, outcomes := scheduler(t, dir, 1)
		right, day := s.Write, 0
		s.Write = func(ctx context.Context, w io.Writer) error {
			day++
			switch day {
			case 2:
				return errors.Join(right(ctx, w), &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC})
			case 3:
				_, err := w.Write([]byte("no backup"))
				return err
			default:
				return right(ctx, w)
			}
		}
		days(t, s, 3)
		got := outcomes()
		if len(got) != 3 || got[0].Err != nil || !errors.Is(got[1].Err, syscall.ENOSPC) || !errors.Is(got[2].Err, ErrBackup) {
			t.Fatalf("%+v", got)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 || filepath.Join(dir, entries[0].Name()) != got[0].Path {
			t.Errorf("left: %v, %v", entries, err)
		}
		days(t, s, 0) // one was due: a server that starts takes it at once
		if last := outcomes()[3]; last.Err != nil || len(last.Removed) != 1 {
			t.Errorf("%+v", last)
		}
	})
}

// TestScheduleMissed has a server start after the time of a backup, and one without any.
func TestScheduleMissed(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, outcomes := scheduler(t, dir, 5)
		days(t, s, 1)
		time.Sleep(40 * time.Hour) // down
		begun := time.Now()
		days(t, s, 0)
		got := outcomes()
		if len(got) != 2 || !got[1].Begun.Equal(begun) {
			t.Errorf("a server that comes back at %s: %+v", begun, got)
		}
	})
}

// TestScheduleSweeps leaves what a kill leaves.
func TestScheduleSweeps(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, _ := scheduler(t, dir, 5)
		for name, age := range map[string]time.Duration{"old": 0, "young": -36 * time.Hour} {
			path := filepath.Join(dir, temporaryPrefix+name)
			if err := errors.Join(os.Mkdir(path, 0o700), os.Chtimes(path, time.Time{}, time.Now().Add(-age))); err != nil {
				t.Fatal(err)
			}
		}
		days(t, s, 2)
		if _, err := os.Stat(filepath.Join(dir, temporaryPrefix+"old")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("what an interrupted backup left two days ago: %v", err)
		}
		if _, err := os.Stat(filepath.Join(dir, temporaryPrefix+"young")); err != nil {
			t.Errorf("a backup that may be under way: %v", err)
		}
	})
}

// TestRootScheduleFullDisk takes backups on a disk that is too small for them.
func TestRootScheduleFullDisk(t *testing.T) {
	need.Root(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		s, outcomes := scheduler(t, dir, 3)
		filler := filepath.Join(dir, "filler")
		if err := os.WriteFile(filler, make([]byte, 64<<10), 0o600); err == nil || !errors.Is(err, syscall.ENOSPC) {
			f, err := os.OpenFile(filler, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.Write(make([]byte, 64<<10))
			if closed := f.Close(); closed != nil || !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err, closed)
			}
		}
		days(t, s, 1)
		if got := outcomes(); len(got) != 1 || !errors.Is(got[0].Err, syscall.ENOSPC) {
			t.Errorf("on a full disk: %+v", got)
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		days(t, s, 1)
		if got := outcomes(); len(got) != 2 || got[1].Err != nil {
			t.Errorf("with space again: %+v", got)
		}
	})
}
