// Package conmon starts and talks to conmon, the small program that holds a
// container's standard streams, writes its log and notes its exit. conmon and its
// container outlive the process that started them. The package starts goroutines
// only within a call.
package conmon

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"keelson.dev/keelson/plugins/runtime/internal/cgroup"
)

// Options describe one container to create.
type Options struct {
	Conmon, Runtime string // executables
	RuntimeRoot     string // the OCI runtime's state directory
	ID              string
	Bundle          string // with config.json; conmon puts its files there
	ExitDir         string // gets a file named ID with the exit status
	LogPath         string // empty: no log
	Terminal        bool
	Stdin           bool
	StdinOnce       bool
}

// Files that a bundle gets.
const (
	pidFile       = "pidfile"
	conmonPidFile = "conmon.pid"
	attachSocket  = "attach"
	controlPipe   = "ctl"
)

// Process is a created container.
type Process struct {
	Pid       int // of the container's first process
	ConmonPid int
}

// Create starts conmon, which has the OCI runtime create the container, and waits
// for that. The container waits for the runtime's start command. On an error
// conmon has ended; the OCI runtime's state may be there.
func Create(ctx context.Context, spawner *cgroup.Spawner, o Options) (Process, error) {
	syncRead, syncWrite, err := os.Pipe()
	if err != nil {
		return Process{}, fmt.Errorf("make conmon's pipe: %w", err)
	}
	defer syncRead.Close()
	cmd := exec.Command(o.Conmon, o.args()...) //nolint:noctx // outlives every context of ours
	cmd.Dir = o.Bundle
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "_OCI_SYNCPIPE=3", "LANG=C"}
	cmd.ExtraFiles = []*os.File{syncWrite}
	if err := spawner.Start(ctx, cmd); err != nil {
		return Process{}, errors.Join(fmt.Errorf("start conmon: %w", err), syncWrite.Close())
	}
	closeErr := syncWrite.Close()
	if err := errors.Join(cmd.Wait(), closeErr); err != nil { // it daemonizes at once
		return Process{}, fmt.Errorf("start conmon: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = syncRead.Close() })
	defer stop()
	pid, err := readSync(syncRead)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return Process{}, fmt.Errorf("create container: %w", err)
	}
	conmonPid, err := readPid(filepath.Join(o.Bundle, conmonPidFile))
	if err != nil {
		return Process{}, err
	}
	return Process{Pid: pid, ConmonPid: conmonPid}, nil
}

func (o Options) args() []string {
	log := "none"
	if o.LogPath != "" {
		log = "k8s-file:" + o.LogPath
	}
	args := []string{
		"--api-version", "1", "--cid", o.ID, "--cuuid", o.ID, "--name", o.ID,
		"--bundle", o.Bundle, "--persist-dir", o.Bundle, "--full-attach",
		"--container-pidfile", filepath.Join(o.Bundle, pidFile),
		"--conmon-pidfile", filepath.Join(o.Bundle, conmonPidFile),
		"--exit-dir", o.ExitDir, "--log-path", log, "--no-sync-log", "--log-level", "error",
		"--runtime", o.Runtime, "--runtime-arg", "--root=" + o.RuntimeRoot,
	}
	if o.Terminal {
		args = append(args, "--terminal")
	}
	if o.Stdin {
		args = append(args, "--stdin")
		if !o.StdinOnce {
			args = append(args, "--leave-stdin-open")
		}
	}
	return args
}

// readSync reads what conmon says of the creation: a process id, or -1 and why.
func readSync(r io.Reader) (int, error) {
	line, err := bufio.NewReader(r).ReadBytes('\n')
	if len(line) == 0 {
		return 0, fmt.Errorf("conmon ended without a word: %w", err)
	}
	var answer struct {
		Data    int    `json:"data"`
		Pid     int    `json:"pid"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal(line, &answer); err != nil {
		return 0, fmt.Errorf("conmon's answer %q: %w", line, err)
	}
	pid := max(answer.Data, answer.Pid)
	if pid <= 0 {
		message := strings.TrimSpace(answer.Message)
		if message == "" {
			message = fmt.Sprintf("the OCI runtime ended with status %d", -answer.Data)
		}
		return 0, errors.New(message)
	}
	return pid, nil
}

func readPid(file string) (int, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("read conmon's process id: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("conmon's process id %q in %s is none", data, file)
	}
	return pid, nil
}

// Leftover answers the process ids that a bundle names, 0 for those it does not:
// for bundles whose creation was interrupted.
func Leftover(bundle string) Process {
	var p Process
	p.ConmonPid, _ = readPid(filepath.Join(bundle, conmonPidFile))
	p.Pid, _ = readPid(filepath.Join(bundle, pidFile))
	return p
}

// ReopenLog makes conmon open the log file anew.
func ReopenLog(bundle string) error { return control(bundle, "2 0 0\n") }

// Resize sets the size of the container's terminal.
func Resize(bundle string, width, height uint16) error {
	return control(bundle, fmt.Sprintf("1 %d %d\n", height, width))
}

func control(bundle, message string) error {
	f, err := os.OpenFile(filepath.Join(bundle, controlPipe), os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("tell conmon: %w", err)
	}
	_, err = f.WriteString(message)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("tell conmon: %w", err)
	}
	return nil
}

// Dial connects to the container's streams. Each packet that is read begins with a
// byte: 2 for standard output, 3 for standard error; what is written goes to
// standard input.
func Dial(bundle string) (*net.UnixConn, error) {
	dir, err := os.Open(bundle) // the path may be too long for a socket address
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	path := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), attachSocket)
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	return conn, nil
}

// Stream numbers of packets read from Dial's connection.
const (
	StreamStdout = 2
	StreamStderr = 3
)

// PacketSize is the largest packet that conmon sends, with its first byte.
const PacketSize = 8193
