package apiserver

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// joinedPair is a connection of the server and its client's end.
func joinedPair(t *testing.T) (server *joinedConn, client net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if client, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	c, err := joinListener{ln}.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*joinedConn), client
}

// waitUntil repeats f until it returns true, however busy the machine is.
func waitUntil(t testing.TB, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); !f(); <-tick.C {
		if time.Since(begin) > 2*time.Minute {
			t.Fatalf("still not so after two minutes: %s", what)
		}
	}
}

// TestJoinedConnOrder checks that all that is written arrives, in order, when the
// connection is closed right after.
func TestJoinedConnOrder(t *testing.T) {
	server, client := joinedPair(t)
	var want bytes.Buffer
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 3000 {
			p := bytes.Repeat([]byte{byte(i)}, i%700+1)
			want.Write(p)
			if n, err := server.Write(p); n != len(p) || err != nil {
				t.Errorf("write %d: %d, %v", i, n, err)
				return
			}
			clear(p) // a writer may use its bytes again
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	got, err := io.ReadAll(client)
	wg.Wait()
	if err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("got %d bytes, %v, want %d, the same", len(got), err, want.Len())
	}
}

// TestJoinedConnGoodbye checks that what was written is sent before a deadline that
// has passed is set, as TLS does after its last words.
func TestJoinedConnGoodbye(t *testing.T) {
	server, client := joinedPair(t)
	if _, err := server.Write([]byte("bye")); err != nil {
		t.Fatal(err)
	}
	if err := server.SetDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 3)
	if _, err := io.ReadFull(client, got); err != nil || string(got) != "bye" {
		t.Errorf("got %q, %v", got, err)
	}
	waitUntil(t, "writes after the deadline fail", func() bool { // the sender learns of it some time after
		_, err := server.Write([]byte("more"))
		return errors.Is(err, os.ErrDeadlineExceeded)
	})
}

// TestJoinedConnStalled checks that who writes to a client that reads nothing waits
// at some point, and that Close ends it.
func TestJoinedConnStalled(t *testing.T) {
	server, _ := joinedPair(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		p := make([]byte, 64<<10)
		for range 10000 { // 640 MB
			if _, err := server.Write(p); err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("write ended with %v, want that the connection is closed", err)
				}
				return
			}
		}
		t.Error("all was taken although the client reads nothing")
	})
	full := func() bool {
		server.mu.Lock()
		defer server.mu.Unlock()
		return server.pending != nil && len(server.pending.b) >= joinLimit
	}
	waitUntil(t, "the connection is full", full)
	_ = server.Close() // its drain may say that time was up
	wg.Wait()
	if _, err := server.Write([]byte("late")); err == nil {
		t.Error("a closed connection can be written to")
	}
}

// TestRefusalArrives checks that a client whose handshake is refused reads why.
func TestRefusalArrives(t *testing.T) {
	h := start(t)
	for range 20 {
		c, err := tls.Dial("tcp", h.Address().String(), &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10, InsecureSkipVerify: true})
		if err == nil {
			c.Close()
			t.Fatal("TLS 1.1 was accepted")
		}
		if !strings.Contains(err.Error(), "protocol version") {
			t.Fatalf("refused with %v, want the alert", err)
		}
	}
}
