package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"keelson.dev/keelson/core/atomicfile"
	"keelson.dev/keelson/core/kernel"
)

// service is the background server of a data folder: a systemd unit where systemd
// runs and the folders are the usual ones, else a detached process.
type service struct {
	dirs
	systemd bool
	process *os.Process
	ended   chan struct{} // closed when process has ended
}

// Where a usual installation has its parts outside its own folders.
const (
	unitName = "keelson.service"
	unitPath = "/etc/systemd/system/" + unitName
	linkPath = "/usr/local/bin/keelson"
)

func newService(d dirs) *service {
	_, err := os.Stat("/run/systemd/system")
	return &service{dirs: d, systemd: err == nil && d.isDefault()}
}

func (s *service) how() string {
	if s.systemd {
		return " as systemd unit " + unitName
	}
	return fmt.Sprintf(", process %d", s.process.Pid)
}

func (s *service) logPath() string { return filepath.Join(s.Data, "server.log") }

func (s *service) logHint() string {
	if s.systemd {
		return "journalctl -u keelson"
	}
	return s.logPath()
}

func (s *service) binary() string { return filepath.Join(s.Data, "bin", "keelson") }

// start starts the server with args and does not wait for it.
func (s *service) start(args []string) error {
	if s.systemd {
		return s.startUnit(args)
	}
	log, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(s.binary(), args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + searchPath()}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	s.process, s.ended = cmd.Process, make(chan struct{})
	go func() { // ends with the server, or with this process
		_ = cmd.Wait()
		close(s.ended)
	}()
	return nil
}

// starting says whether the server that start began has not ended.
func (s *service) starting() bool {
	if s.systemd {
		return exec.Command("systemctl", "is-failed", "--quiet", unitName).Run() != nil
	}
	if s.ended == nil {
		return false
	}
	select {
	case <-s.ended:
		return false
	default:
		return true
	}
}

func (s *service) startUnit(args []string) error {
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "$", "$$").Replace(a) + `"`
	}
	// KillMode=process and Delegate: containers outlive the server, and their
	// cgroups are ours to arrange.
	unit := `[Unit]
Description=Keelson, a Kubernetes-compatible cluster
Documentation=https://keelson.dev
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
ExecStart=` + s.binary() + " " + strings.Join(quoted, " ") + `
Environment=PATH=` + searchPath() + `
KillMode=process
Delegate=yes
Restart=always
RestartSec=1
LimitNOFILE=1048576
LimitNPROC=infinity
TasksMax=infinity
OOMScoreAdjust=-999

[Install]
WantedBy=multi-user.target
`
	if err := atomicfile.Write(unitPath, []byte(unit), 0o644); err != nil {
		return err
	}
	for _, args := range [][]string{{"daemon-reload"}, {"enable", "--quiet", unitName}, {"start", "--no-block", unitName}} {
		if out, err := exec.Command("systemctl", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
		}
	}
	return nil
}

// stop ends the server in good order, by force after the grace, and says
// whether one ran.
func (s *service) stop(grace time.Duration) (bool, error) {
	if _, err := os.Stat(unitPath); err == nil && s.systemd {
		if out, err := exec.Command("systemctl", "disable", "--quiet", "--now", unitName).CombinedOutput(); err != nil {
			return false, fmt.Errorf("systemctl disable --now %s: %w: %s", unitName, err, bytes.TrimSpace(out))
		}
	}
	pid, err := kernel.ServerPID(s.Run)
	if err != nil || pid == 0 {
		return false, err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return true, nil
	}
	if err != nil {
		return true, fmt.Errorf("open process %d: %w", pid, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if now, err := kernel.ServerPID(s.Run); err != nil || now != pid {
		return true, err // it ended in between, and its number may be another's
	}
	for _, step := range []struct {
		signal unix.Signal
		wait   time.Duration
	}{{unix.SIGTERM, grace}, {unix.SIGKILL, 5 * time.Second}} {
		if err := unix.PidfdSendSignal(fd, step.signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return true, fmt.Errorf("signal process %d: %w", pid, err)
		}
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, int(step.wait.Milliseconds())); err == nil && n > 0 {
			return true, nil
		}
	}
	return true, fmt.Errorf("the server, process %d, does not end", pid)
}

// tail gives the last lines that the server logged.
func (s *service) tail() string {
	if s.systemd {
		out, _ := exec.Command("journalctl", "--unit", unitName, "--lines", "20", "--no-pager", "--output", "cat").Output()
		return string(out)
	}
	file, err := os.Open(s.logPath())
	if err != nil {
		return err.Error()
	}
	defer func() { _ = file.Close() }()
	if end, err := file.Seek(0, io.SeekEnd); err == nil && end > 8<<10 {
		_, _ = file.Seek(end-8<<10, io.SeekStart)
	} else {
		_, _ = file.Seek(0, io.SeekStart)
	}
	data, _ := io.ReadAll(file)
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-12):], "\n  ")
}

// installBinary copies the running binary below the data folder and links it
// into PATH, unless something that is not ours stands there.
func installBinary(d dirs) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("own path: %w", err)
	}
	target := (&service{dirs: d}).binary()
	if self != target {
		binary, err := os.Open(self)
		if err != nil {
			return err
		}
		defer func() { _ = binary.Close() }()
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := atomicfile.Copy(target, binary, 0o755); err != nil {
			return err
		}
	}
	if !d.isDefault() {
		return nil
	}
	if _, err := os.Lstat(linkPath); err == nil {
		return nil // ours already, or somebody else's to keep
	}
	if err := os.MkdirAll(filepath.Dir(linkPath), 0o755); err != nil {
		return err
	}
	return os.Symlink(target, linkPath)
}

// searchPath is PATH with the folders that a sudo or cron environment may lack.
func searchPath() string {
	path := os.Getenv("PATH")
	for _, dir := range []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		if !strings.Contains(":"+path+":", ":"+dir+":") {
			path += ":" + dir
		}
	}
	return strings.TrimPrefix(path, ":")
}

func joinAddrs(addrs []netip.Addr) string {
	list := make([]string, len(addrs))
	for i, a := range addrs {
		list[i] = a.String()
	}
	return strings.Join(list, ",")
}
