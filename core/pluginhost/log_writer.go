package pluginhost

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"
)

const (
	// logLine bounds a line; the rest of a longer one is dropped.
	logLine = 64 << 10
	// ringLines are kept in memory for error messages.
	ringLines = 32
	// logRate is how many bytes a second of a plugin's output are kept, logBurst how many at
	// once; logLineCost is what a line costs besides its bytes. Beyond that lines are
	// dropped, and a line says how many.
	logRate, logBurst, logLineCost = 1 << 20, 8 << 20, 256
	// logDrain is how many bytes a second are read while lines are dropped: a plugin that
	// writes more waits for it, and costs the host no more than that.
	logDrain = 16 << 20
	// dropTold is the least time between two lines about dropped ones.
	dropTold = time.Second
)

// logWriter is the output of one process: its lines go to the plugin's log, the last of
// them are remembered.
type logWriter struct {
	file *logFile

	mu      sync.Mutex // guards all below
	partial []byte
	ring    [ringLines]string
	lines   int64 // ever written
}

// writer is for the output of one process.
func (l *logFile) writer() *logWriter { return &logWriter{file: l} }

// Write implements io.Writer. It never fails: a full disk must not end a plugin. It takes
// its time while the log is flooded.
func (w *logWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	dropped := false
	for rest := p; len(rest) > 0; {
		piece, after, whole := bytes.Cut(rest, []byte{'\n'})
		if room := logLine - len(w.partial); len(piece) > room {
			piece = piece[:room]
		}
		w.partial = append(w.partial, piece...)
		if whole {
			line := string(w.partial)
			w.partial = w.partial[:0]
			w.ring[w.lines%ringLines] = line
			w.lines++
			dropped = !w.file.take(line) || dropped
		}
		rest = after
	}
	w.mu.Unlock()
	if dropped {
		time.Sleep(time.Duration(len(p)) * time.Second / logDrain)
	}
	return len(p), nil
}

// flush says what has not been said about dropped lines; the process has ended.
func (w *logWriter) flush() { w.file.flush() }

// lastWords sums up what was written for an error message: the error lines of the kit's
// logger, or a panic's first line, or else, with plainToo, the last three lines.
func (w *logWriter) lastWords(plainToo bool) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var plain, faults []string
	for i := max(0, w.lines-ringLines); i < w.lines; i++ {
		s := w.ring[i%ringLines]
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
	const most, longest = 3, 512
	pick := faults
	if len(pick) == 0 && plainToo {
		pick = plain
	}
	if len(pick) > most {
		pick = pick[len(pick)-most:]
	}
	for i, s := range pick {
		if len(s) > longest {
			pick[i] = strings.ToValidUTF8(s[:longest], "") + "..."
		}
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

// budget is what may be written to a log; a token is a byte.
type budget struct {
	tokens  int64
	at      time.Time // when tokens was counted; zero: never
	dropped int64
	toldAt  time.Time
}

// take says whether a line of that many bytes may be written now.
func (b *budget) take(n int, now time.Time) bool {
	if b.at.IsZero() {
		b.tokens = logBurst
	} else {
		b.tokens = min(logBurst, b.tokens+int64(now.Sub(b.at).Seconds()*logRate))
	}
	b.at = now
	cost := int64(n + logLineCost)
	if b.tokens < cost {
		b.dropped++
		return false
	}
	b.tokens -= cost
	return true
}

// tell is the line about what was dropped, if there is something to tell.
func (b *budget) tell(now time.Time) string {
	if b.dropped == 0 {
		return ""
	}
	n := b.dropped
	b.dropped, b.toldAt = 0, now
	return fmt.Sprintf(`{"time":%q,"level":"WARN","msg":"Log lines were dropped: the plugin writes more than is kept","dropped":%d,"bytesPerSecond":%d}`,
		now.UTC().Format(time.RFC3339Nano), n, logRate)
}
