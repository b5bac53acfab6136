package apiserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// listen opens the port, and says who holds it if that is known.
func listen(ctx context.Context, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		holder := "another process"
		if _, port, perr := net.SplitHostPort(addr); perr == nil {
			if who := portHolder(port); who != "" {
				holder = who
			}
		}
		return nil, fmt.Errorf("listen on %s: the port is in use by %s; end that, or choose another port with --listen ADDRESS:PORT", addr, holder)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("listen on %s: this machine does not have that address; choose one with --listen ADDRESS:PORT", addr)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("listen on %s: not permitted; run as root or choose a port above 1023 with --listen ADDRESS:PORT", addr)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w; choose another address with --listen ADDRESS:PORT", addr, err)
	}
	return ln, nil
}

// portHolder names the process that listens on a TCP port, "" if /proc does not
// tell.
func portHolder(port string) string {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return ""
	}
	suffix := fmt.Sprintf(":%04X", n)
	inodes := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		listeners(table, suffix, inodes)
	}
	if len(inodes) == 0 {
		return ""
	}
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil || !inodes[target] {
			continue
		}
		pid := strings.Split(fd, "/")[2]
		name, err := os.ReadFile(filepath.Join("/proc", pid, "comm"))
		if err != nil {
			continue
		}
		return fmt.Sprintf("process %s (%s)", pid, strings.TrimSpace(string(name)))
	}
	return ""
}

// listeners adds the sockets of table that listen on the port.
func listeners(table, suffix string, inodes map[string]bool) {
	f, err := os.Open(table)
	if err != nil {
		return
	}
	defer f.Close()
	const listening = "0A"
	for s := bufio.NewScanner(f); s.Scan(); {
		// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
		if col := strings.Fields(s.Text()); len(col) > 9 && col[3] == listening && strings.HasSuffix(col[1], suffix) {
			inodes["socket:["+col[9]+"]"] = true
		}
	}
}
