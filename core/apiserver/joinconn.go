package apiserver

import (
	"errors"
	"net"
	"runtime"
	"sync"
	"time"
)

const (
	// joinLimit is how many bytes wait for a connection's next write before who
	// writes has to wait as well.
	joinLimit = 128 << 10
	// joinKept is the largest buffer that is kept for other connections.
	joinKept = 128 << 10
	// keepAlive is how often a silent connection is probed: as often as the generic
	// server does, which does not know a joinedConn.
	keepAlive = 3 * time.Minute
	// lastWords is how long what was written before a connection is closed may take:
	// some time where the client does not read.
	lastWords = time.Second
)

// joinListener makes joinedConns of the connections it accepts.
type joinListener struct{ net.Listener }

// Accept implements net.Listener.
func (l joinListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if tc, ok := c.(*net.TCPConn); ok {
		_ = tc.SetKeepAlive(true) // a connection that ended meanwhile is noticed when it is read
		_ = tc.SetKeepAlivePeriod(keepAlive)
	}
	j := &joinedConn{Conn: c}
	j.changed.L = &j.mu
	return j, nil
}

// joinedConn is a connection below TLS. TLS writes each record, of at most 16 KiB,
// by itself, and HTTP/2 makes two of many answers; each is a system call that wakes
// the reader, and costs more than the bytes. So a write here only hands its bytes
// over: a goroutine sends all that came until it gets its turn. Where little runs
// that is at once; where much does, many records go together. Order is kept; an
// error is told to the next write.
type joinedConn struct {
	net.Conn

	mu      sync.Mutex // guards all below
	changed sync.Cond  // there is room, or nothing is sent any more, or it is closed
	pending *joinBuffer
	sending bool
	err     error // of an earlier write: all later ones get it
	closed  bool
}

type joinBuffer struct{ b []byte }

var joinBuffers = sync.Pool{New: func() any { return &joinBuffer{} }}

// Write implements net.Conn.
func (c *joinedConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.err == nil && !c.closed && c.pending != nil && len(c.pending.b) >= joinLimit {
		c.changed.Wait()
	}
	switch {
	case c.err != nil:
		return 0, c.err
	case c.closed:
		return 0, net.ErrClosed
	}
	if c.pending == nil {
		c.pending = joinBuffers.Get().(*joinBuffer)
	}
	c.pending.b = append(c.pending.b, p...)
	if !c.sending {
		c.sending = true
		go c.send() // Close waits for it
	}
	return len(p), nil
}

// send writes until nothing is pending.
func (c *joinedConn) send() {
	for {
		runtime.Gosched() // who has more to write on its way comes first
		c.mu.Lock()
		out := c.pending
		c.pending, c.sending = nil, out != nil
		c.changed.Broadcast() // there is room
		c.mu.Unlock()
		if out == nil {
			return
		}
		if _, err := c.Conn.Write(out.b); err != nil {
			c.mu.Lock()
			c.err, c.pending = err, nil
			c.mu.Unlock()
		}
		if cap(out.b) <= joinKept {
			out.b = out.b[:0]
			joinBuffers.Put(out)
		}
	}
}

// drain waits until all is sent, or was refused: for lastWords at most.
func (c *joinedConn) drain() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.sending {
		return nil
	}
	if err := c.Conn.SetWriteDeadline(time.Now().Add(lastWords)); err != nil {
		return err
	}
	for c.sending {
		c.changed.Wait()
	}
	return nil
}

// SetWriteDeadline implements net.Conn. TLS sets one that has passed when it has
// said goodbye: what was written before goes first.
func (c *joinedConn) SetWriteDeadline(t time.Time) error {
	if !t.IsZero() && time.Until(t) <= 0 {
		if err := c.drain(); err != nil {
			return err
		}
	}
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline implements net.Conn.
func (c *joinedConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// Close implements net.Conn. A write that waits for room ends.
func (c *joinedConn) Close() error {
	c.mu.Lock()
	c.closed = true
	c.changed.Broadcast()
	c.mu.Unlock()
	drainErr := c.drain()
	return errors.Join(drainErr, c.Conn.Close())
}
