package kubelet

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// logOptions says what of a log is wanted.
type logOptions struct {
	Follow     bool
	Timestamps bool
	Tail       int64 // lines from the end; negative: all
	Limit      int64 // bytes; negative: no limit
	Since      time.Time
	Stdout     bool
	Stderr     bool
}

// logLine is one line (or part of one) of a CRI log.
type logLine struct {
	Time    string
	Stream  string
	Partial bool
	Text    []byte // with its newline, unless partial
}

// parseLogLine reads "2026-01-02T03:04:05.678Z stdout F text".
func parseLogLine(raw []byte) (logLine, error) {
	parts := bytes.SplitN(bytes.TrimSuffix(raw, []byte("\n")), []byte(" "), 4)
	if len(parts) < 3 {
		return logLine{}, fmt.Errorf("log line %q is not in CRI's format", truncated(raw))
	}
	l := logLine{Time: string(parts[0]), Stream: string(parts[1]), Partial: strings.Split(string(parts[2]), ":")[0] == "P"}
	if len(parts) == 4 {
		l.Text = parts[3]
	}
	if !l.Partial {
		l.Text = append(slices.Clip(l.Text), '\n')
	}
	return l, nil
}

func truncated(b []byte) []byte { return b[:min(len(b), 60)] }

var errLimit = errors.New("limit reached")

// logWriter writes wanted lines in the wanted form.
type logWriter struct {
	out    io.Writer
	opts   *logOptions
	middle bool // within a line of several parts
}

func (w *logWriter) write(l logLine) error {
	if l.Stream == "stdout" && !w.opts.Stdout || l.Stream == "stderr" && !w.opts.Stderr {
		return nil
	}
	if !w.opts.Since.IsZero() {
		if t, err := time.Parse(time.RFC3339Nano, l.Time); err == nil && t.Before(w.opts.Since) {
			return nil
		}
	}
	data := l.Text
	if w.opts.Timestamps && !w.middle {
		data = append([]byte(l.Time+" "), data...)
	}
	w.middle = l.Partial
	if w.opts.Limit >= 0 {
		if int64(len(data)) > w.opts.Limit {
			data = data[:w.opts.Limit]
		}
		w.opts.Limit -= int64(len(data))
	}
	if _, err := w.out.Write(data); err != nil {
		return err
	}
	if w.opts.Limit == 0 {
		return errLimit
	}
	return nil
}

// readLog copies a log to out; with Follow until the container has ended (alive says no) and all is read, or ctx ends.
func readLog(ctx context.Context, path string, opts logOptions, out io.Writer, alive func() bool) error {
	w := &logWriter{out: out, opts: &opts}
	if opts.Limit == 0 {
		return nil
	}
	err := copyLog(ctx, path, &opts, w, alive)
	if errors.Is(err, errLimit) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func copyLog(ctx context.Context, path string, opts *logOptions, w *logWriter, alive func() bool) error {
	var watcher *fsnotify.Watcher
	if opts.Follow {
		var err error
		if watcher, err = fsnotify.NewWatcher(); err != nil {
			return fmt.Errorf("watch log: %w", err)
		}
		defer watcher.Close()
		if err := watcher.Add(filepath.Dir(path)); err != nil {
			return fmt.Errorf("watch log: %w", err)
		}
	}
	f, err := openLog(ctx, path)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	missing, err := seekTail(f, opts.Tail)
	if err == nil {
		err = copyRotated(path, f, missing, w)
	}
	if err != nil {
		f.Close()
		return err
	}
	return copyLive(ctx, path, f, watcher, w, alive)
}

// seekTail puts the file at its last lines, and says how many are wanted from older parts; negative means all, of both.
func seekTail(f *os.File, lines int64) (missing int64, err error) {
	if lines < 0 {
		return -1, nil
	}
	start, found, err := tailOffset(f, lines)
	if err != nil {
		return 0, fmt.Errorf("find the last lines: %w", err)
	}
	if _, err := f.Seek(start, io.SeekStart); err != nil {
		return 0, err
	}
	return lines - found, nil
}

// copyLive copies the rest of the live part, which it closes. With a watcher it follows what is written after, over rotations.
func copyLive(ctx context.Context, path string, f *os.File, watcher *fsnotify.Watcher, w *logWriter, alive func() bool) error {
	r := bufio.NewReader(f)
	var next *os.File // what the log's name means now, once that is not f
	defer func() {
		f.Close()
		if next != nil {
			next.Close()
		}
	}()
	var rest []byte
	for {
		line, err := r.ReadBytes('\n')
		rest = append(rest, line...)
		if err == nil {
			if l, perr := parseLogLine(rest); perr == nil {
				if err := w.write(l); err != nil {
					return err
				}
			}
			rest = rest[:0]
			continue
		}
		if !errors.Is(err, io.EOF) {
			return fmt.Errorf("read log: %w", err)
		}
		if watcher == nil {
			return nil
		}
		if next != nil {
			f.Close()
			f, r, rest, next = next, bufio.NewReader(next), nil, nil
			continue
		}
		if next = reopened(f, path); next != nil {
			continue // nothing is written to f any more: read what came to it after its end was seen
		}
		running := alive()
		if !running {
			// What it wrote last may have come after the end of file was seen.
			if more, _ := io.ReadAll(r); len(more) > 0 {
				r = bufio.NewReader(io.MultiReader(bytes.NewReader(more), f))
				continue
			}
			return nil
		}
		if err := waitWrite(ctx, watcher); err != nil {
			return err
		}
	}
}

// waitWrite waits for something to happen in the log's folder, or two seconds (a container may end without a word).
func waitWrite(ctx context.Context, watcher *fsnotify.Watcher) error {
	t := time.NewTimer(500 * time.Millisecond)
	defer t.Stop()
	select {
	case <-watcher.Events:
	case err := <-watcher.Errors:
		if err != nil {
			return fmt.Errorf("watch log: %w", err)
		}
	case <-t.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// openLog opens a log. In the middle of a rotation there is none for a moment.
func openLog(ctx context.Context, path string) (*os.File, error) {
	for range 50 {
		f, err := os.Open(path)
		if err == nil || !errors.Is(err, os.ErrNotExist) {
			return f, err
		}
		if old, _ := rotated(path); len(old) == 0 || !sleep(ctx, 20*time.Millisecond) {
			return nil, err
		}
	}
	return os.Open(path)
}

// reopened returns the file that now has the log's name, if it is another one than f.
func reopened(f *os.File, path string) *os.File {
	a, err := f.Stat()
	if err != nil {
		return nil
	}
	b, err := os.Stat(path)
	if err != nil || os.SameFile(a, b) {
		return nil
	}
	next, err := os.Open(path)
	if err != nil {
		return nil
	}
	return next
}

// copyRotated copies the last lines of a log's older parts; all if lines is negative. The part that became one since it was opened as live
// is left to who opened it.
func copyRotated(path string, live *os.File, lines int64, w *logWriter) error {
	if lines == 0 {
		return nil
	}
	old, err := rotated(path)
	if err != nil {
		return err
	}
	info, err := live.Stat()
	if err != nil {
		return err
	}
	old = slices.DeleteFunc(old, func(name string) bool {
		i, err := os.Stat(name)
		return err == nil && os.SameFile(i, info)
	})
	skip := int64(0) // lines of the first part that is copied
	if lines > 0 {
		for i, name := range slices.Backward(old) {
			has := countLines(name)
			if has >= lines {
				old, skip = old[i:], has-lines
				break
			}
			lines -= has
		}
	}
	for _, name := range old {
		if err := copyFile(name, skip, w); err != nil {
			return err
		}
		skip = 0
	}
	return nil
}

// countLines counts the lines of an older part; one that was removed meanwhile has none.
func countLines(name string) int64 {
	in, err := openRotated(name)
	if err != nil {
		return 0
	}
	defer in.Close()
	count, buf := int64(0), make([]byte, 64<<10)
	for {
		n, err := in.Read(buf)
		count += int64(bytes.Count(buf[:n], []byte{'\n'}))
		if err != nil {
			return count
		}
	}
}

// openRotated opens an older part, compressed or not.
func openRotated(name string) (io.ReadCloser, error) {
	f, err := os.Open(name)
	if err != nil || !strings.HasSuffix(name, ".gz") {
		return f, err
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{z, f}, nil
}

func copyFile(name string, skip int64, w *logWriter) error {
	in, err := openRotated(name)
	if err != nil {
		return nil // rotated away meanwhile
	}
	defer in.Close()
	r := bufio.NewReader(in)
	for {
		line, err := r.ReadBytes('\n')
		if skip > 0 {
			skip--
		} else if len(line) > 0 {
			if l, perr := parseLogLine(line); perr == nil {
				if err := w.write(l); err != nil {
					return err
				}
			}
		}
		if err != nil {
			return nil
		}
	}
}

// tailOffset finds where the last n lines of a file begin, and how many there are. Lines in several parts count by their parts' last.
func tailOffset(f *os.File, n int64) (offset, found int64, err error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 || end == 0 {
		return end, 0, err
	}
	const block = 64 << 10
	buf := make([]byte, block)
	count := int64(0)
	for right := end; right > 0; {
		left := max(right-block, 0)
		part := buf[:right-left]
		if _, err := f.ReadAt(part, left); err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, err
		}
		for i, p := range slices.Backward(part) {
			if p != '\n' || left+int64(i) == end-1 {
				continue
			}
			if count++; count == n {
				return left + int64(i) + 1, n, nil
			}
		}
		right = left
	}
	return 0, count + 1, nil
}

// lastLogLines returns the end of a log, for a container's last words.
func lastLogLines(path string, lines int64, limit int) (string, error) {
	var b bytes.Buffer
	if err := readLog(context.Background(), path, logOptions{Tail: lines, Limit: -1, Stdout: true, Stderr: true}, &b, nil); err != nil {
		return "", err
	}
	data := b.Bytes()
	if len(data) > limit {
		data = data[len(data)-limit:]
	}
	return string(data), nil
}
