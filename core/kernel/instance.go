package kernel

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// PIDFile is the file of a run folder that names the process running on it, which holds a lock on it.
const PIDFile = "server.pid"

// instance is the one server or agent of a run folder.
type instance struct{ file *os.File }

// acquire makes this process the instance of a run folder. The lock ends with
// the process, however it ends.
func acquire(runDir string) (*instance, error) {
	path := filepath.Join(runDir, PIDFile)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		_ = file.Close()
		pid, _ := ServerPID(runDir)
		return nil, fmt.Errorf("another server or agent, process %d, runs on %s: stop it (keelson down), or choose another --run-dir and --data-dir", pid, runDir)
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := file.Truncate(0); err != nil {
		_ = file.Close()
		return nil, err
	}
	if _, err := file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		_ = file.Close()
		return nil, err
	}
	return &instance{file}, nil
}

// release lets another process in.
func (i *instance) release() {
	_ = os.Remove(i.file.Name())
	_ = i.file.Close()
}

// ServerPID is the process that runs as server or agent on a run folder, 0 if
// none does. A file left by a process that was killed does not count.
func ServerPID(runDir string) (int, error) {
	path := filepath.Join(runDir, PIDFile)
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = file.Close() }()
	err = unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if err == nil {
		return 0, nil // nobody holds it; closing the file gives the lock back
	}
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return 0, fmt.Errorf("lock %s: %w", path, err)
	}
	data, err := io.ReadAll(io.LimitReader(file, 32))
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("%s: holds %q where a process number should be", path, data)
	}
	return pid, nil
}
