package pluginhost

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

const (
	// logSize is when a log is rotated; one older file is kept, so a plugin's log takes
	// at most twice as many bytes.
	logSize = 10 << 20
	// logLine bounds a line; the rest of a longer one is dropped.
	logLine = 64 << 10
	// ringLines are kept in memory for error messages.
	ringLines = 32
	// followBuffer is how many lines a follower may be behind before it is cut off: a
	// slow reader must not hold up the plugin.
	followBuffer = 1024
)

// logFile keeps what a plugin writes: in a file with rotation, the last lines in memory,
// and to whoever follows. Write is the plugin's output in pieces.
type logFile struct {
	path string

	mu        sync.Mutex // guards all below; file writes happen under it, by design: order
	file      *os.File   // nil until the first line and after close
	size      int64
	partial   []byte
	ring      [ringLines]string
	lines     int64 // ever written
	followers map[chan string]struct{}
}

func newLogFile(dir, name string) *logFile {
	return &logFile{path: filepath.Join(dir, name+".log"), followers: map[chan string]struct{}{}}
}

// Write implements io.Writer. It never fails: a full disk must not end a plugin.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := p; len(rest) > 0; {
		piece, after, whole := bytes.Cut(rest, []byte{'\n'})
		if room := logLine - len(l.partial); len(piece) > room {
			piece = piece[:room]
		}
		l.partial = append(l.partial, piece...)
		if whole {
			l.line(string(l.partial))
			l.partial = l.partial[:0]
		}
		rest = after
	}
	return len(p), nil
}

// line keeps one line; l.mu is held.
func (l *logFile) line(s string) {
	l.ring[l.lines%ringLines] = s
	l.lines++
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

// mark is the place that the log has come to, for lastWords.
func (l *logFile) mark() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines
}

// lastWords sums up what was written since mark for an error message: the error lines of
// the kit's logger, or a panic's first line, or else, with plainToo, the last three lines.
func (l *logFile) lastWords(mark int64, plainToo bool) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var plain, faults []string
	for i := max(mark, l.lines-ringLines); i < l.lines; i++ {
		s := l.ring[i%ringLines]
		if fault, ok := errorOf(s); ok {
			if fault != "" {
				faults = append(faults, fault)
			}
			continue
		}
		if strings.HasPrefix(s, "panic:") || strings.HasPrefix(s, "fatal error:") {
			faults = append(faults, s)
		}
		if strings.TrimSpace(s) != "" {
			plain = append(plain, s)
		}
	}
	const most = 3
	pick := faults
	if len(pick) == 0 && plainToo {
		pick = plain
	}
	if len(pick) > most {
		pick = pick[len(pick)-most:]
	}
	return strings.Join(pick, "; ")
}

// errorOf reads a line of the kit's logger: its message if it is an error. False: the
// line is none of the logger's.
func errorOf(s string) (string, bool) {
	var line struct{ Level, Msg, Err string }
	if !strings.HasPrefix(s, "{") || json.Unmarshal([]byte(s), &line) != nil || line.Level == "" {
		return "", false
	}
	if line.Level != "ERROR" {
		return "", true
	}
	if line.Err != "" {
		line.Msg += ": " + line.Err
	}
	first, _, _ := strings.Cut(line.Msg, "\ngoroutine ") // a panic's stack is in the log
	return first, true
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

var _ io.Writer = (*logFile)(nil)
