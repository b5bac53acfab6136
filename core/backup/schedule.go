package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

const (
	// scheduledPrefix, a time and scheduledSuffix are the name of a backup taken by a schedule.
	scheduledPrefix, scheduledSuffix = "keelson-", ".keelson"
	// scheduledTime is that time's layout, in UTC.
	scheduledTime = "20060102T150405Z"
	// shortest is how far apart the times of a schedule have to be.
	shortest = time.Minute
	// nap is how long a Scheduler sleeps at most, as the clock may be set and the machine may sleep.
	nap = 10 * time.Minute
	// stale is when what an interrupted backup left is removed.
	stale = 24 * time.Hour
)

// ParseSchedule reads a cron expression: five fields (minute, hour, day of the month, month, day of the week), or @hourly, @daily,
// @weekly, @monthly, @yearly, "@every 6h"; with CRON_TZ=ZONE and a space before it, in that time zone, else in the machine's.
func ParseSchedule(expression string) (next func(time.Time) time.Time, err error) {
	if strings.Contains(expression, "TZ=") && !strings.Contains(strings.TrimSpace(expression), " ") {
		return nil, errors.New("there is a time zone and no time") // the library would panic
	}
	s, err := cron.ParseStandard(strings.TrimSpace(expression))
	if err != nil {
		return nil, err
	}
	first := s.Next(time.Now())
	if first.IsZero() {
		return nil, errors.New("it has no time within the next five years")
	}
	if second := s.Next(first); !second.IsZero() && second.Sub(first) < shortest {
		return nil, fmt.Errorf("it is more often than each %s", shortest)
	}
	return s.Next, nil
}

// Scheduler takes backups at the times of a schedule and removes old ones. Its fields are set before Run.
type Scheduler struct {
	// Next gives the time after another at which a backup is due.
	Next func(time.Time) time.Time
	// Dir gets the backups. It is made if need be.
	Dir string
	// Keep is how many whole backups stay, at least 1.
	Keep int
	// Write writes a backup.
	Write func(context.Context, io.Writer) error
	// Report is told what came of each.
	Report func(Outcome)
	Log    *slog.Logger
}

// Outcome tells what came of a scheduled backup.
type Outcome struct {
	Path  string
	Begun time.Time
	Took  time.Duration
	// Bytes is its size, Objects how many it has, Revision what of; 0 with an error.
	Bytes             int64
	Objects, Revision uint64
	// Err is why there is none.
	Err error
	// Removed are the paths of old backups that were removed.
	Removed []string
	// RemoveErr is why old backups are still there. The new one is whole all the same.
	RemoveErr error
}

// Run takes backups until ctx ends. One that was due since the newest in Dir, while no server ran, is taken at once.
func (s *Scheduler) Run(ctx context.Context) {
	last := time.Now()
	if at := LastScheduled(s.Dir); !at.IsZero() && at.Before(last) {
		last = at
	}
	for {
		if !sleepUntil(ctx, s.Next(last)) {
			return
		}
		o := s.take(ctx)
		if ctx.Err() != nil {
			return // the server ends; what was begun is gone
		}
		s.Report(o)
		last = time.Now()
	}
}

// sleepUntil tells whether the time came before the end of ctx.
func sleepUntil(ctx context.Context, at time.Time) bool {
	for {
		wait := time.Until(at.Round(0)) // by the clock on the wall, which may be set
		if wait <= 0 {
			return ctx.Err() == nil
		}
		timer := time.NewTimer(min(wait, nap))
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-timer.C:
		}
	}
}

// take takes one backup, and removes those that it makes one too many.
func (s *Scheduler) take(ctx context.Context) Outcome {
	o := Outcome{Begun: time.Now()}
	o.Path = filepath.Join(s.Dir, scheduledPrefix+o.Begun.UTC().Format(scheduledTime)+scheduledSuffix)
	if o.Err = os.MkdirAll(s.Dir, 0o700); o.Err != nil {
		return o
	}
	s.sweep(o.Begun)
	archive, err := CreateFrom(ctx, o.Path, func(w io.Writer) error { return s.Write(ctx, w) })
	if o.Took = time.Since(o.Begun); err != nil {
		o.Err = err
		return o
	}
	o.Objects, o.Revision = archive.Objects, archive.Header.Revision
	if o.Err = archive.Close(); o.Err != nil {
		return o
	}
	info, err := os.Stat(o.Path)
	if err != nil {
		o.Err = err
		return o
	}
	o.Bytes = info.Size()
	o.Removed, o.RemoveErr = s.retain(ctx, o.Path)
	return o
}

// retain removes backups that are older than Keep whole ones, of which fresh is known to be one. What is
// not whole does not count.
func (s *Scheduler) retain(ctx context.Context, fresh string) (removed []string, err error) {
	names, err := scheduled(s.Dir)
	if err != nil || len(names) <= s.Keep {
		return nil, err
	}
	slices.Reverse(names)
	whole := 0
	for _, name := range names {
		path := filepath.Join(s.Dir, name)
		if whole >= s.Keep {
			if err := os.Remove(path); err != nil {
				return removed, fmt.Errorf("remove old backup: %w", err)
			}
			removed = append(removed, path)
			continue
		}
		if path != fresh {
			archive, err := Open(ctx, path)
			if err == nil {
				err = archive.Close()
			}
			if ctx.Err() != nil {
				return removed, ctx.Err()
			}
			if err != nil {
				s.Log.Warn("A backup is not whole any more; an older one is kept in its place", "path", path, "err", err)
				continue
			}
		}
		whole++
	}
	return removed, syncFile(s.Dir)
}

// sweep removes what backups left that a kill interrupted; one that is under way is younger.
func (s *Scheduler) sweep(now time.Time) {
	left, err := filepath.Glob(filepath.Join(s.Dir, temporaryPrefix+"*"))
	for i := 0; err == nil && i < len(left); i++ {
		if info, err := os.Lstat(left[i]); err != nil || !info.IsDir() || now.Sub(info.ModTime()) < stale {
			continue
		}
		if err := os.RemoveAll(left[i]); err != nil {
			s.Log.Warn("What an interrupted backup left cannot be removed", "path", left[i], "err", err)
		}
	}
}

// scheduled are the names of the backups that schedules took, the oldest first.
func scheduled(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read backups: %w", err)
	}
	var names []string
	for _, e := range entries { // sorted, as their times are
		if _, ok := scheduledAt(e.Name()); ok && e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// LastScheduled is when the newest backup that a schedule took in dir was begun; zero if there is none.
func LastScheduled(dir string) time.Time {
	names, err := scheduled(dir)
	if err != nil || len(names) == 0 {
		return time.Time{}
	}
	at, _ := scheduledAt(names[len(names)-1])
	return at
}

// scheduledAt is the time in the name of such a backup.
func scheduledAt(name string) (time.Time, bool) {
	middle, ok := strings.CutPrefix(name, scheduledPrefix)
	if !ok {
		return time.Time{}, false
	}
	if middle, ok = strings.CutSuffix(middle, scheduledSuffix); !ok {
		return time.Time{}, false
	}
	at, err := time.Parse(scheduledTime, middle)
	return at, err == nil
}

// Listed is a file that List found.
type Listed struct {
	Path   string
	Header Header
	Bytes  int64
	// Err says why it cannot be read; with verify, why it is not whole.
	Err error
}

// List finds the backups of Keelson in a folder, whoever took them, the oldest first. Without verify only their beginnings are read.
func List(ctx context.Context, dir string, verify bool) ([]Listed, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read backups: %w", err)
	}
	var all []Listed
	for _, e := range entries {
		if !e.Type().IsRegular() || !strings.HasSuffix(e.Name(), scheduledSuffix) {
			continue
		}
		l := Listed{Path: filepath.Join(dir, e.Name())}
		if info, err := e.Info(); err == nil {
			l.Bytes = info.Size()
		}
		if l.Header, l.Err = readHeader(l.Path); l.Err == nil && verify {
			var archive *Archive
			if archive, l.Err = Open(ctx, l.Path); l.Err == nil {
				l.Err = archive.Close()
			}
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		all = append(all, l)
	}
	slices.SortStableFunc(all, func(a, b Listed) int { return a.Header.Created.Compare(b.Header.Created) })
	return all, nil
}

func readHeader(path string) (Header, error) {
	f, err := os.Open(path)
	if err != nil {
		return Header{}, err
	}
	defer f.Close()
	r, err := NewReader(f)
	if err != nil {
		return Header{}, err
	}
	defer r.Close()
	return r.Header(), nil
}
