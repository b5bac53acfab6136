package pluginhost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	// logSize is when a log is rotated; one older file is kept, so a plugin's log takes
	// at most twice as many bytes.
	logSize = 10 << 20
	// followBuffer is how many lines a follower may be behind before it is cut off: a
	// slow reader must not hold up the plugin.
	followBuffer = 1024
)

// logFile keeps what the processes of a plugin write: in a file with rotation, and to
// whoever follows. Its writers take the output in pieces.
type logFile struct {
	path string

	mu        sync.Mutex // guards all below; file writes happen under it, by design: order
	file      *os.File   // nil until the first line and after close
	size      int64
	budget    budget
	followers map[chan string]struct{}
}

func newLogFile(dir, name string) *logFile {
	return &logFile{path: filepath.Join(dir, name+".log"), followers: map[chan string]struct{}{}}
}

// take keeps a line, unless the log is flooded: then it is false.
func (l *logFile) take(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if !l.budget.take(len(s), now) {
		return false
	}
	if now.Sub(l.budget.toldAt) >= dropTold {
		l.tell(now)
	}
	l.line(s)
	return true
}

// flush writes the line about dropped ones that is due.
func (l *logFile) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tell(time.Now())
}

// tell writes it, if there is something to tell; l.mu is held.
func (l *logFile) tell(now time.Time) {
	if s := l.budget.tell(now); s != "" {
		l.line(s)
	}
}

// line keeps one line; l.mu is held.
func (l *logFile) line(s string) {
	for f := range l.followers {
		select {
		case f <- s:
		default:
			delete(l.followers, f)
			close(f)
		}
	}
	if l.file == nil || l.size >= logSize {
		if err := l.rotate(); err != nil {
			return
		}
	}
	n, _ := l.file.WriteString(s + "\n")
	l.size += int64(n)
}

// rotate opens the file, after moving a full one away.
func (l *logFile) rotate() error {
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
	if info, err := os.Stat(l.path); err == nil && info.Size() >= logSize {
		if err := os.Rename(l.path, l.path+".1"); err != nil {
			return err
		}
	}
	file, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	l.file, l.size = file, info.Size()
	return nil
}

// close ends the followers and closes the file; Write opens it again.
func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for f := range l.followers {
		delete(l.followers, f)
		close(f)
	}
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
}

// reader gives the last tail lines (all, if negative), and with follow those to come.
func (l *logFile) reader(ctx context.Context, tail int64, follow bool) (io.ReadCloser, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	past, err := l.past(tail)
	if err != nil {
		return nil, fmt.Errorf("read the log: %w", err)
	}
	if !follow {
		return io.NopCloser(bytes.NewReader(past)), nil
	}
	lines := make(chan string, followBuffer)
	l.followers[lines] = struct{}{}
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(ctx)
	go func() { // ends with ctx, the reader's Close, or the log's
		defer cancel()
		defer l.unfollow(lines)
		_, err := w.Write(past)
		for err == nil {
			select {
			case s, ok := <-lines:
				if !ok {
					err = io.EOF
					break
				}
				_, err = io.WriteString(w, s+"\n")
			case <-ctx.Done():
				err = io.EOF
			}
		}
		_ = w.Close()
	}()
	// This ends a write that nobody reads as well.
	stop := context.AfterFunc(ctx, func() { _ = w.Close() })
	return &follower{PipeReader: r, end: func() { stop(); cancel() }}, nil
}

type follower struct {
	*io.PipeReader
	end func()
}

// Close ends the following.
func (f *follower) Close() error {
	f.end()
	return f.PipeReader.Close()
}

func (l *logFile) unfollow(lines chan string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.followers, lines)
}

// past reads the last lines from the files; l.mu is held, so nothing is missed or seen
// twice by a follower.
func (l *logFile) past(tail int64) ([]byte, error) {
	if tail == 0 {
		return nil, nil
	}
	var out []byte
	for _, path := range []string{l.path, l.path + ".1"} { // newest first
		data, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		out = append(data, out...)
		if tail > 0 && int64(bytes.Count(out, []byte{'\n'})) >= tail {
			break
		}
	}
	if tail < 0 {
		return out, nil
	}
	return lastLines(out, tail), nil
}

// lastLines is the end of data with at most n lines.
func lastLines(data []byte, n int64) []byte {
	at := len(bytes.TrimSuffix(data, []byte{'\n'}))
	for ; n > 0; n-- {
		if at = bytes.LastIndexByte(data[:at], '\n'); at < 0 {
			return data
		}
	}
	return data[at+1:]
}
