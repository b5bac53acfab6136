package clients

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"keelson.dev/keelson/test/harness"
)

func corev1Client(c *rest.Config) (*corev1client.CoreV1Client, error) {
	return corev1client.NewForConfig(c)
}

// panicLog is a logger that keeps what tells of a panic.
func panicLog() *slog.Logger {
	return slog.New(slog.NewTextHandler(panicFinder{}, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// dial opens a TLS connection that speaks proto, as the administrator.
func dial(t *testing.T, config *rest.Config, proto string) *tls.Conn {
	t.Helper()
	c, err := rest.TLSConfigFor(config)
	if err != nil {
		t.Fatal(err)
	}
	c = c.Clone()
	c.NextProtos = []string{proto}
	c.ServerName = "localhost"
	conn, err := tls.Dial("tcp", strings.TrimPrefix(config.Host, "https://"), c)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// TestBadConnections holds a server by connections that break every rule. Others are
// served meanwhile; when the connections end, nothing of them stays.
func TestBadConnections(t *testing.T) {
	s, client := abused(t)
	for i := range 3 {
		big := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("big-%d", i)}, Data: map[string]string{"a": strings.Repeat("x", 1<<20-100)}}
		if _, err := s.Admin.CoreV1().ConfigMaps("default").Create(t.Context(), big, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	client.CloseIdleConnections()
	goroutines, heap := settled()
	n := 20
	if testing.Short() {
		n = 5
	}
	line := func(method, path, rest string) string {
		return method + " " + path + " HTTP/1.1\r\nHost: localhost\r\n" + rest
	}
	say := func(text string) func(net.Conn) { return func(c net.Conn) { _, _ = io.WriteString(c, text) } }
	for _, abuse := range []struct {
		name string
		do   func(c net.Conn)
	}{
		{"no request", say("")},
		{"header byte by byte", func(c net.Conn) {
			for _, b := range []byte(line("GET", "/api", "X-Slow: ")) {
				_, _ = c.Write([]byte{b})
			}
		}},
		{"body never sent", say(line("POST", mapsPath, "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"))},
		{"chunk never sent", say(line("POST", mapsPath, "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n{"))},
		{"bad chunk", say(line("POST", mapsPath, "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"))},
		{"two lengths", say(line("POST", mapsPath, "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"))},
		{"list that nobody reads", say(line("GET", mapsPath, "\r\n"))},
		{"watch that nobody reads", say(line("GET", mapsPath+"?watch=1", "\r\n"))},
		{"half closed", func(c net.Conn) {
			_, _ = io.WriteString(c, line("GET", mapsPath+"?watch=1", "\r\n"))
			_ = c.(*tls.Conn).CloseWrite()
		}},
		{"unknown Upgrade", say(line("GET", mapsPath+"?watch=1", "Connection: Upgrade\r\nUpgrade: nonsense/7\r\n\r\n"))},
		{"websocket without key", say(line("GET", mapsPath+"?watch=1", "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"))},
		{"SPDY to a list", say(line("POST", mapsPath, "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\r\n"))},
		{"websocket exec of nobody", say(line("GET", "/api/v1/namespaces/default/pods/x/exec?command=y", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"))},
		{"no HTTP", say("\x00\x01\x02\r\n\r\n")},
		{"header of 2 MB", say(line("GET", "/api", "X-Long: "+strings.Repeat("x", 2<<20)+"\r\n\r\n"))},
		{"path of 2 MB", say("GET /" + strings.Repeat("x", 2<<20) + " HTTP/1.1\r\n\r\n")},
		{"10,000 headers", say(line("GET", "/api", strings.Repeat("X-A: b\r\n", 10_000)+"\r\n"))},
	} {
		t.Run(abuse.name, func(t *testing.T) {
			conns := make([]net.Conn, n)
			var wg sync.WaitGroup
			for i := range conns {
				conns[i] = dial(t, s.Config, "http/1.1")
				_ = conns[i].SetDeadline(time.Now().Add(20 * time.Second))
				wg.Go(func() { abuse.do(conns[i]) })
			}
			wg.Wait()
			wantAnswer(t, s)
			for _, c := range conns {
				_ = c.Close()
			}
		})
	}
	t.Run("TLS garbage", func(t *testing.T) {
		for _, text := range []string{"GET / HTTP/1.0\r\n\r\n", "\x16\x03\x01\xff\xff" + strings.Repeat("\x00", 1000), strings.Repeat("\xff", 70_000), ""} {
			for range n {
				c, err := net.Dial("tcp", s.Addr())
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.WriteString(c, text)
				_ = c.(*net.TCPConn).SetLinger(0)
				_ = c.Close()
			}
		}
		wantAnswer(t, s)
	})
	t.Run("HTTP/2 rapid reset", func(t *testing.T) { rapidReset(t, s) })
	t.Run("HTTP/2 garbage", func(t *testing.T) {
		for range n {
			c := dial(t, s.Config, "h2")
			_, _ = io.WriteString(c, http2.ClientPreface+strings.Repeat("\xff", 5000))
			_ = c.Close()
		}
		wantAnswer(t, s)
	})
	wantSettled(t, goroutines, heap)
	wantNoPanics(t)
}

// rapidReset opens streams and resets them at once, until the server has enough.
func rapidReset(t *testing.T, s *harness.Server) {
	for range 4 {
		c := dial(t, s.Config, "h2")
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.Copy(io.Discard, c) }) // ends when c is closed
		_, _ = io.WriteString(c, http2.ClientPreface)
		w := bufio.NewWriter(c)
		f := http2.NewFramer(w, nil)
		_ = f.WriteSettings()
		// HPACK: indexed GET, https; literals for path and authority.
		block := append([]byte{0x82, 0x87, 0x04, byte(len(mapsPath))}, mapsPath...)
		block = append(append(block, 0x01, 9), "localhost"...)
		for id := uint32(1); id < 20_000; id += 2 {
			if f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true, EndStream: true}) != nil {
				break
			}
			if f.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
				break
			}
		}
		_ = w.Flush()
		wantAnswer(t, s)
		_ = c.Close()
		wg.Wait()
	}
}

// wantAnswer demands that others are served, with a connection of their own.
func wantAnswer(t *testing.T, s *harness.Server) {
	t.Helper()
	config := rest.CopyConfig(s.Config)
	config.Timeout = 20 * time.Second
	// A dialer of its own keeps client-go from sharing a connection.
	config.Dial = (&net.Dialer{}).DialContext
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().ConfigMaps("default").Get(t.Context(), "victim", metav1.GetOptions{}); err != nil {
		t.Errorf("the server does not answer others: %v", err)
	}
	if h, ok := client.CoreV1().RESTClient().(*rest.RESTClient); ok {
		utilnet.CloseIdleConnectionsFor(h.Client.Transport)
	}
}

// settled is the number of goroutines and the heap in use, after a collection.
func settled() (goroutines int, heap uint64) {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return runtime.NumGoroutine(), m.HeapInuse
}

// wantSettled waits until goroutines and memory are about what they were.
func wantSettled(t *testing.T, goroutines int, heap uint64) {
	t.Helper()
	harness.Eventually(t, "goroutines and memory come back", func() string {
		g, h := settled()
		if g > goroutines+60 || h > heap+64<<20 {
			return fmt.Sprintf("%d goroutines and %d MB, before %d and %d MB", g, h>>20, goroutines, heap>>20)
		}
		return ""
	})
}

// TestConflictingWriters lets 100 writers count in one object.
func TestConflictingWriters(t *testing.T) {
	s := harness.Start(t)
	maps := s.Admin.CoreV1().ConfigMaps("default")
	if _, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "count"}, Data: map[string]string{"n": "0"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const writers = 100
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for { // until it has counted once
				m, err := maps.Get(t.Context(), "count", metav1.GetOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				n, _ := strconv.Atoi(m.Data["n"])
				m.Data["n"] = strconv.Itoa(n + 1)
				m.Data[fmt.Sprintf("w%d", i)] = "was here"
				if _, err = maps.Update(t.Context(), m, metav1.UpdateOptions{}); err == nil {
					return
				}
				if !apierrors.IsConflict(err) {
					t.Error(err)
					return
				}
				select { // as clients do after a conflict: the fewer try again at once, the more succeed
				case <-time.After(rand.N(500 * time.Millisecond)):
				case <-t.Context().Done():
					return
				}
			}
		})
		wg.Go(func() { // patches conflict with nobody
			if _, err := maps.Patch(t.Context(), "count", "application/merge-patch+json", fmt.Appendf(nil, `{"data":{"p%d":"x"}}`, i), metav1.PatchOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	m, err := maps.Get(t.Context(), "count", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if m.Data["n"] != strconv.Itoa(writers) || len(m.Data) != 2*writers+1 {
		t.Errorf("counted %s in %d fields, want %d in %d", m.Data["n"], len(m.Data), writers, 2*writers+1)
	}
}

// rss is the resident memory of a process, in bytes.
func rss(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(data))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// TestIdle holds thousands of watches and connections that do nothing. What one
// costs is in docs/clients.md; far more than that is an error.
func TestIdle(t *testing.T) {
	watches, connections := 5000, 2000
	if testing.Short() {
		watches, connections = 500, 100
	}
	server := startChild(t, time.Minute)
	config := server.config(server.addr)
	admin := kubernetes.NewForConfigOrDie(config)
	if _, err := admin.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "victim"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	idleConnections(t, server, config, connections)
	base := rss(t, server.cmd.Process.Pid)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const perConnection = 200 // streams; the server allows 250
	var events sync.WaitGroup
	gate := make(chan struct{}, 16) // watches that are being opened
	for i := range watches/perConnection + 1 {
		tlsConfig, err := rest.TLSConfigFor(config)
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true, MaxConnsPerHost: 1}}
		for range min(perConnection, watches-i*perConnection) {
			gate <- struct{}{}
			events.Go(func() {
				watchVictim(ctx, t, client, config.Host, sync.OnceFunc(func() { <-gate }))
			})
		}
	}
	for range cap(gate) {
		gate <- struct{}{} // all are open
	}
	held := rss(t, server.cmd.Process.Pid)
	t.Logf("%d idle watches: %d bytes each", watches, (held-base)/watches)
	if per := (held - base) / watches; per > 100_000 {
		t.Errorf("an idle watch takes %d bytes, want less than 100,000", per)
	}
	if _, err := admin.CoreV1().ConfigMaps("default").Patch(t.Context(), "victim", "application/merge-patch+json", []byte(`{"data":{"a":"b"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	events.Wait() // each has the event
	if _, err := admin.CoreV1().ConfigMaps("default").Get(t.Context(), "victim", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	server.end(syscall.SIGTERM)
}

// idleConnections holds TLS connections without a request, and lets them go.
func idleConnections(t *testing.T, server *childProcess, config *rest.Config, connections int) {
	t.Helper()
	base := rss(t, server.cmd.Process.Pid)
	conns := make([]net.Conn, connections)
	for i := range conns {
		conns[i] = dial(t, config, "h2")
	}
	held := rss(t, server.cmd.Process.Pid)
	t.Logf("%d idle connections: %d bytes each", connections, (held-base)/connections)
	if per := (held - base) / connections; per > 150_000 {
		t.Errorf("an idle connection takes %d bytes, want less than 150,000", per)
	}
	for _, c := range conns {
		_ = c.Close()
	}
}

// watchVictim watches until there is an event of the victim. opened is called when
// the watch is there.
func watchVictim(ctx context.Context, t *testing.T, client *http.Client, host string, opened func()) {
	defer opened()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, host+mapsPath+"?watch=1&fieldSelector=metadata.name%3Dvictim&sendInitialEvents=false&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", nil)
	if err != nil {
		t.Error(err)
		return
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Error(err)
		return
	}
	defer resp.Body.Close()
	opened()
	line, err := bufio.NewReader(resp.Body).ReadBytes('\n')
	if err != nil || !bytes.Contains(line, []byte(`"a":"b"`)) {
		t.Errorf("%s: first event %.200s, %v", resp.Status, line, err)
	}
}
