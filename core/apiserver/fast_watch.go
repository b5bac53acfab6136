package apiserver

import "net/http"

// joinBytes is the largest write that waits for the next one: the length before a
// frame.
const joinBytes = 16

// joinSmallWrites sends the length of each frame of a watch together with the
// frame: HTTP/2 would make two DATA frames of them, with a TLS record and a
// system call each. HTTP/1 is left alone: it may be hijacked for a WebSocket.
func joinSmallWrites(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if flusher, ok := w.(http.Flusher); ok && r.ProtoMajor == 2 {
			w = &joiner{ResponseWriter: w, flusher: flusher}
		}
		h(w, r)
	}
}

// joiner is a ResponseWriter of one request, used by one goroutine.
type joiner struct {
	http.ResponseWriter
	flusher http.Flusher
	buf     []byte
	held    bool // buf holds a short write
}

var _ http.Flusher = (*joiner)(nil)

// Write implements http.ResponseWriter.
func (j *joiner) Write(p []byte) (int, error) {
	if !j.held && len(p) <= joinBytes {
		j.buf, j.held = append(j.buf[:0], p...), true
		return len(p), nil
	}
	if !j.held {
		return j.ResponseWriter.Write(p)
	}
	held := len(j.buf)
	j.held, j.buf = false, append(j.buf, p...)
	n, err := j.ResponseWriter.Write(j.buf)
	if cap(j.buf) > 64<<10 { // of one large object
		j.buf = nil
	}
	return max(0, n-held), err
}

// Flush implements http.Flusher.
func (j *joiner) Flush() {
	if j.held {
		j.held = false
		_, _ = j.ResponseWriter.Write(j.buf) // who writes next learns of it
	}
	j.flusher.Flush()
}
