package e2e

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// testSwapStreams swaps kubelet and runtime while kubectl has streams open through them:
// each goes on beyond the watch period (a second here) to its own end.
func (c *cluster) testSwapStreams(t *testing.T) {
	client := c.clientset(t)
	c.kubectl(t, "--namespace=example", "run", "talker", "--image=example/busybox:1.35", "--restart=Never", "--",
		"sh", "-c", "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.1; done")
	c.kubectl(t, "--namespace=example", "wait", "--for=condition=Ready", "pod/talker", "--timeout=90s")
	defer c.kubectl(t, "--namespace=example", "delete", "pod", "talker", "--grace-period=1")

	dir := t.TempDir()
	big := make([]byte, 48<<20)
	_, _ = rand.Read(big) // never fails
	file, back := filepath.Join(dir, "big"), filepath.Join(dir, "back")
	if err := os.WriteFile(file, big, 0o600); err != nil {
		t.Fatal(err)
	}
	shell := c.open(t, "exec", "-i", "talker", "--", "cat")
	upload := c.open(t, "exec", "-i", "talker", "--", "sh", "-c", "cat >/tmp/upload; wc -c </tmp/upload")
	streams := []*session{c.open(t, "logs", "-f", "talker"), c.open(t, "attach", "talker")}
	forward := c.open(t, "port-forward", "service/front", "18081:80")
	forward.line(t, "Forwarding from")
	web := c.client()
	web.Timeout = answerTime
	half := len(big) / 2
	upload.write(t, big[:half])

	for i, name := range []string{"kubelet", "runtime", "kubelet"} {
		copied := make(chan string, 1)
		go func() { // ends with the copy, which is waited for below
			out, code := c.try("kubectl", "--namespace=example", "cp", file, fmt.Sprintf("talker:/tmp/big%d", i))
			copied <- strings.TrimSpace(fmt.Sprintf("%s exit status %d", out, code))
		}()
		c.swap(t, client, name)
		shell.write(t, fmt.Appendf(nil, "ahoy %d\n", i))
		shell.line(t, fmt.Sprintf("ahoy %d", i))
		for _, s := range streams {
			s.more(t)
		}
		if body, err := c.get(web, "http://127.0.0.1:18081/"); err != nil || !strings.Contains(body, "Ahoy") {
			t.Errorf("through the forwarded port after a swap of %s: %q, %v", name, body, err)
		}
		if got := <-copied; got != "exit status 0" {
			t.Errorf("copy over a swap of %s: %s", name, got)
		}
	}
	upload.write(t, big[half:])
	upload.close(t)
	upload.line(t, fmt.Sprint(len(big)))
	upload.ended(t)
	c.kubectl(t, "--namespace=example", "cp", "talker:/tmp/big0", back)
	if data, err := os.ReadFile(back); err != nil || !bytes.Equal(data, big) {
		t.Errorf("the copied file: %d bytes, %v, want the %d that were sent", len(data), err, len(big))
	}
	shell.close(t)
	shell.ended(t)
	for _, s := range append(streams, forward) {
		s.kill()
	}
	for _, name := range []string{"kubelet", "runtime"} {
		eventually(t, time.Minute, "the end of the processes that were kept for streams of "+name, func() error {
			if records, err := filepath.Glob(filepath.Join(c.run, "host", name+".*.json")); err != nil || len(records) != 1 {
				return fmt.Errorf("processes: %v, %w", records, err)
			}
			return nil
		})
	}
}

// session is a kubectl that runs until it is ended.
type session struct {
	what  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan string
	errs  bytes.Buffer // its standard error; after wait
	wait  func() error // returns when it has ended
}

func (c *cluster) open(t *testing.T, args ...string) *session {
	t.Helper()
	s := &session{what: strings.Join(args, " "), cmd: c.command("kubectl", append([]string{"--namespace=example"}, args...)...), lines: make(chan string)}
	s.cmd.Stderr = &s.errs
	var err error
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := s.cmd.StdoutPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	stop, read := make(chan struct{}), make(chan struct{})
	go func() { // ends with the command's output
		defer close(read)
		defer close(s.lines)
		for in := bufio.NewScanner(out); in.Scan(); {
			select {
			case s.lines <- in.Text():
			case <-stop:
			}
		}
	}()
	s.wait = sync.OnceValue(func() error { close(stop); <-read; return s.cmd.Wait() })
	t.Cleanup(s.kill)
	return s
}

func (s *session) write(t *testing.T, data []byte) {
	t.Helper()
	if _, err := s.stdin.Write(data); err != nil {
		t.Fatalf("%s: %v: %v: %s", s.what, err, s.wait(), s.errs.String())
	}
}

func (s *session) close(t *testing.T) {
	t.Helper()
	if err := s.stdin.Close(); err != nil {
		t.Fatal(err)
	}
}

// line waits for one that begins with text.
func (s *session) line(t *testing.T, text string) {
	t.Helper()
	late := time.After(2 * time.Minute)
	for {
		select {
		case line, ok := <-s.lines:
			if !ok {
				t.Fatalf("%s: ended before %q: %v: %s", s.what, text, s.wait(), s.errs.String())
			}
			if strings.HasPrefix(line, text) {
				return
			}
		case <-late:
			t.Fatalf("%s: no %q", s.what, text)
		}
	}
}

// more waits until lines follow one another that were not there yet: the reader is behind by
// what pipes hold.
func (s *session) more(t *testing.T) {
	t.Helper()
	late, last := time.After(2*time.Minute), -1
	for begin := time.Now(); time.Since(begin) < time.Second; {
		select {
		case line, ok := <-s.lines:
			if !ok {
				t.Fatalf("%s: ended: %v: %s", s.what, s.wait(), s.errs.String())
			}
			var n int
			if _, err := fmt.Sscanf(line, "line %d", &n); err != nil {
				continue
			}
			if last >= 0 && n != last+1 {
				t.Errorf("%s: line %d follows %d", s.what, n, last)
			}
			last = n
		case <-late:
			t.Fatalf("%s: says nothing more", s.what)
		}
	}
}

// ended waits for its end, which has to be a good one.
func (s *session) ended(t *testing.T) {
	t.Helper()
	if err := s.wait(); err != nil {
		t.Errorf("%s: %v: %s", s.what, err, s.errs.String())
	}
}

func (s *session) kill() {
	_ = s.cmd.Process.Signal(syscall.SIGKILL)
	_ = s.wait()
}
