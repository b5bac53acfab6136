package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// redis speaks as much RESP as counting needs, with a connection for each
// command: the example wants to show the network, not to be fast.
type redis struct {
	addr, password string
}

// do sends one command and returns its reply as text.
func (r redis) do(ctx context.Context, args ...string) (string, error) {
	conn, err := dialer.DialContext(ctx, "tcp", r.addr)
	if err != nil {
		return "", fmt.Errorf("redis at %s: %w", r.addr, err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return "", err
	}
	in := bufio.NewReader(conn)
	if r.password != "" {
		if _, err := command(conn, in, "AUTH", r.password); err != nil {
			return "", fmt.Errorf("redis AUTH: %w", err)
		}
	}
	reply, err := command(conn, in, args...)
	if err != nil {
		return "", fmt.Errorf("redis %s: %w", args[0], err)
	}
	return reply, nil
}

func command(out io.Writer, in *bufio.Reader, args ...string) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := io.WriteString(out, b.String()); err != nil {
		return "", err
	}
	return readReply(in)
}

// readReply reads a RESP simple string, error, integer or bulk string.
func readReply(in *bufio.Reader) (string, error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", fmt.Errorf("empty reply")
	}
	switch kind, rest := line[0], line[1:]; kind {
	case '+', ':':
		return rest, nil
	case '-':
		return "", fmt.Errorf("server says %q", rest)
	case '$':
		n, err := strconv.Atoi(rest)
		if err != nil || n < 0 || n > 1<<20 {
			return "", fmt.Errorf("bulk length %q out of range", rest)
		}
		body := make([]byte, n+2)
		if _, err := io.ReadFull(in, body); err != nil {
			return "", err
		}
		return string(body[:n]), nil
	default:
		return "", fmt.Errorf("reply of unknown kind %q", line)
	}
}
