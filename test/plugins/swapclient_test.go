package plugins

import (
	"bufio"
	"net"
	"sync"
	"testing"
	"time"
)

// freePort is an address that nobody listens at.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// askAll connects to address over and over, until stop; each answer counts, and each
// connection that is refused or not answered is an error of the test.
func askAll(t *testing.T, address string) (seen func(mark string) bool, stop func()) {
	t.Helper()
	var mu sync.Mutex
	marks := map[string]int{}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() { // ends by stop
		defer close(ended)
		for {
			select {
			case <-end:
				return
			case <-time.After(time.Millisecond):
			}
			mark, err := ask(address)
			if err != nil {
				t.Errorf("a request failed: %v", err)
				return
			}
			mu.Lock()
			marks[mark]++
			mu.Unlock()
		}
	}()
	stop = sync.OnceFunc(func() { close(end); <-ended })
	t.Cleanup(stop)
	return func(mark string) bool {
		mu.Lock()
		defer mu.Unlock()
		return marks[mark] > 0
	}, stop
}

func ask(address string) (string, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", err
	}
	return line[:len(line)-1], nil
}
