package plugins

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"keelson.dev/keelson/core/pluginhost"
)

// upgradeCommand makes this binary a host that is told what to do over its standard input
// and can take its own place.
const upgradeCommand = "host-upgrade"

// deciderName is its plugin that has a shadow; the others are those of the swap tests.
const deciderName = "decider"

// stateEnv names the file with the state that the program before left.
const stateEnv = "KEELSON_TEST_STATE"

func init() {
	if len(os.Args) > 1 && os.Args[1] == upgradeCommand {
		runtime.LockOSThread() // the processes are to be children of the main thread
	}
}

// upgradeHost is that host.
type upgradeHost struct {
	dir   string
	creds issuer
	state *pluginhost.State
	lines *bufio.Reader
}

func upgradeMain(dir string) int {
	err := pluginhost.OnMainThread(func() error {
		u := &upgradeHost{dir: dir, lines: bufio.NewReader(os.Stdin)}
		var err error
		if u.creds, err = newCredentials(dir); err != nil {
			return err
		}
		if path := os.Getenv(stateEnv); path != "" {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			u.state = &pluginhost.State{}
			if err := json.Unmarshal(data, u.state); err != nil {
				return err
			}
			u.state.Open()
		}
		for err == nil {
			err = u.serve()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// serve runs one host.
func (u *upgradeHost) serve() error {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	cfg := config(u.dir, slog.New(slog.NewTextHandler(os.Stderr, nil)), u.creds)
	cfg.BuiltIn = func(name string) (pluginhost.Command, bool) {
		if name == deciderName {
			return pluginhost.Command{Path: os.Args[0], Args: []string{"plugin-decide", name}}, true
		}
		return pluginhost.Command{Path: os.Args[0], Args: []string{"plugin-swap", name}}, true
	}
	cfg.Shadows = &pluginhost.Shadows{
		Client: func(name string) (pluginhost.KeyPair, error) {
			p, err := u.creds.Authority.ClientPair("system:plugin-shadow:"+name, nil, 0)
			return pluginhost.KeyPair(p), err
		},
		Accept: func(context.Context, pluginhost.Description) error { return nil },
		Revoke: func(context.Context, string) error { return nil },
	}
	cfg.Inherit = u.state
	if len(os.Args) > 3 {
		cfg.Version = os.Args[3]
	}
	h := pluginhost.New(cfg)
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	fmt.Println("ready")
	for {
		line, err := u.lines.ReadString('\n')
		if err != nil {
			cancel(nil)
			return errors.Join(err, <-done)
		}
		command, argument, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch command {
		case "ensure":
			var c swapConfig
			if err := json.Unmarshal([]byte(argument), &c); err != nil {
				return err
			}
			if err := h.Ensure(swapSpec(c)); err != nil {
				return err
			}
			fmt.Println("ok")
		case "shadow":
			err := h.Ensure(pluginhost.Spec{
				Name: deciderName, Kind: "scheduler", BuiltIn: true, Enabled: true, Config: []byte(`{"mark":"active"}`), Shadow: mark("shadow"),
			})
			if err != nil {
				return err
			}
			fmt.Println("ok")
		case "status":
			s, _ := h.Status(argument)
			text, err := json.Marshal(s)
			if err != nil {
				return err
			}
			fmt.Println(string(text))
		case "exec":
			cancel(pluginhost.ErrHandOver)
			if err := <-done; err != nil {
				return err
			}
			return u.exec(h, argument)
		}
	}
}

// exec puts this program, or another, in the place of this one.
func (u *upgradeHost) exec(h *pluginhost.Host, argument string) error {
	u.state = h.State()
	if err := u.state.Number(); err != nil {
		return err
	}
	data, err := json.Marshal(u.state)
	if err != nil {
		return err
	}
	path := filepath.Join(u.dir, "state")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return err
	}
	program, version, _ := strings.Cut(argument, " ")
	env := append(os.Environ(), stateEnv+"="+path)
	err = u.state.Exec(program, []string{os.Args[0], upgradeCommand, u.dir, version}, env)
	fmt.Println("not executed:", err)
	return nil
}

// upgradable is such a host as a process.
type upgradable struct {
	t     *testing.T
	name  string // of the plugin that is looked at
	dir   string
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
}

func startUpgradable(t *testing.T) *upgradable {
	t.Helper()
	u := &upgradable{t: t, name: "worker", dir: shortDir(t)}
	u.cmd = exec.Command(os.Args[0], upgradeCommand, u.dir, "v1")
	u.cmd.Stderr = os.Stderr
	out, err := u.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if u.in, err = u.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := u.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	u.lines = bufio.NewScanner(out)
	u.lines.Buffer(nil, 1<<20)
	t.Cleanup(func() {
		_ = u.in.Close()
		if err := u.cmd.Wait(); err != nil {
			t.Errorf("the host: %v", err)
		}
	})
	u.expect("ready")
	return u
}

func (u *upgradable) next() string {
	u.t.Helper()
	if !u.lines.Scan() {
		u.t.Fatalf("the host says nothing more: %v", u.lines.Err())
	}
	return u.lines.Text()
}

func (u *upgradable) expect(want string) {
	u.t.Helper()
	if got := u.next(); !strings.HasPrefix(got, want) {
		u.t.Fatalf("the host says %q, want %q", got, want)
	}
}

func (u *upgradable) tell(line string) {
	u.t.Helper()
	if _, err := io.WriteString(u.in, line+"\n"); err != nil {
		u.t.Fatal(err)
	}
}

func (u *upgradable) ensure(c swapConfig) {
	u.t.Helper()
	u.tell("ensure " + string(swapJSON(c)))
	u.expect("ok")
}

func (u *upgradable) status() (s pluginhost.Status) {
	u.t.Helper()
	u.tell("status " + u.name)
	if err := json.Unmarshal([]byte(u.next()), &s); err != nil {
		u.t.Fatal(err)
	}
	return s
}

func (u *upgradable) waitFor(what string, ok func(pluginhost.Status) bool) (s pluginhost.Status) {
	u.t.Helper()
	defer func() {
		if u.t.Failed() {
			u.t.Logf("status: %+v", s)
		}
	}()
	poll(u.t, what, func() bool { s = u.status(); return ok(s) })
	return s
}

func running(s pluginhost.Status) bool { return s.Phase == pluginhost.PhaseRunning }

// descriptors are how many files a process has open.
func descriptors(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// children are a process's children with their states.
func children(t *testing.T, pid int) (all []string) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		rest := string(data[strings.LastIndexByte(string(data), ')')+1:])
		if f := strings.Fields(rest); len(f) > 1 && f[1] == strconv.Itoa(pid) {
			all = append(all, strings.Split(path, "/")[2]+" "+f[0])
		}
	}
	return all
}

// TestHandOver: a host replaces itself ten times; the plugin stays the same process, its socket
// answers throughout, and afterwards its end is seen, its log goes on and it can be swapped.
func TestHandOver(t *testing.T) {
	u := startUpgradable(t)
	address := freePort(t)
	u.ensure(swapConfig{Mark: "one", Listen: address})
	before := u.waitFor("the plugin runs", running)
	ask := func() string {
		t.Helper()
		conn, err := net.DialTimeout("tcp", address, time.Minute)
		if err != nil {
			t.Fatalf("connect to the plugin: %v", err)
		}
		defer func() { _ = conn.Close() }()
		data, err := io.ReadAll(conn)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(data))
	}
	first := 0
	for i := range 10 {
		u.tell("exec /proc/self/exe v1")
		u.expect("ready")
		if got := ask(); got != "one" {
			t.Fatalf("the plugin answers %q, want one", got)
		}
		u.ensure(swapConfig{Mark: "one", Listen: address})
		s := u.waitFor("the plugin runs on", func(s pluginhost.Status) bool { return running(s) && s.Progress == pluginhost.ProgressComplete })
		if s.PID != before.PID || s.Restarts != 0 || s.LastError != "" || !s.StartedAt.Equal(before.StartedAt) {
			t.Fatalf("round %d: got %+v, want process %d as it was", i, s, before.PID)
		}
		if got := children(t, u.cmd.Process.Pid); len(got) != 1 || strings.HasSuffix(got[0], "Z") {
			t.Errorf("round %d: children %v, want one that lives", i, got)
		}
		if n := descriptors(t, u.cmd.Process.Pid); i == 1 {
			first = n
		} else if i > 1 && n > first+1 { // one for what is just being read
			t.Errorf("round %d: %d descriptors, %d after the second", i, n, first)
		}
	}
	// Its end is seen, with how it ended, and it is started again by the same thread.
	if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	again := u.waitFor("the plugin is back", func(s pluginhost.Status) bool { return running(s) && s.PID != before.PID })
	if again.Restarts != 1 || !strings.Contains(again.LastError, "signal: killed") {
		t.Errorf("after its end: got %+v, want one restart and why", again)
	}
	if got := ask(); got != "one" {
		t.Errorf("the new process answers %q, want one", got)
	}
	u.tell("exec /proc/self/exe v1")
	u.expect("ready")
	u.ensure(swapConfig{Mark: "two", Listen: address})
	swapped := u.waitFor("the plugin is swapped", func(s pluginhost.Status) bool { return running(s) && s.PID != again.PID })
	if got := ask(); got != "two" {
		t.Errorf("after the swap: got %q, want two", got)
	}
	if swapped.Progress != pluginhost.ProgressWatching {
		t.Errorf("after the swap: got %+v, want it watched", swapped)
	}
}

// TestHandOverFails: where there is nothing to execute, the host goes on with what it has; then
// it is replaced all the same, in the middle of a watch period that ends in a rollback.
func TestHandOverFails(t *testing.T) {
	u := startUpgradable(t)
	u.ensure(swapConfig{Mark: "old"})
	old := u.waitFor("the plugin runs", running)
	u.ensure(swapConfig{Mark: "new"})
	u.waitFor("it is watched", func(s pluginhost.Status) bool {
		return running(s) && s.Progress == pluginhost.ProgressWatching && s.PID != old.PID
	})
	u.tell("exec /nonexistent v1")
	u.expect("not executed: no such file or directory")
	u.expect("ready")
	u.ensure(swapConfig{Mark: "new"})
	s := u.waitFor("it runs on", running)
	if s.PID == old.PID || s.Progress != pluginhost.ProgressWatching || s.Restarts != 0 {
		t.Errorf("after an exec that failed: got %+v, want it watched still", s)
	}
	u.tell("exec /proc/self/exe v1")
	u.expect("ready")
	u.ensure(swapConfig{Mark: "new"})
	if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	back := u.waitFor("the one before is back", func(s pluginhost.Status) bool { return running(s) && s.PID == old.PID })
	if back.Progress != pluginhost.ProgressRolledBack || !strings.Contains(back.LastError, "signal: killed") {
		t.Errorf("after the rollback: got %+v, want why", back)
	}
}

// TestHandOverVersion: a built-in plugin whose binary is another now runs on until somebody says
// what is wanted, and is swapped then; what ended meanwhile is started again.
func TestHandOverVersion(t *testing.T) {
	u := startUpgradable(t)
	u.ensure(swapConfig{Mark: "one"})
	before := u.waitFor("the plugin runs", running)
	u.tell("exec /proc/self/exe v2")
	u.expect("ready")
	s := u.waitFor("it runs on", running)
	if s.PID != before.PID || s.Revision != before.Revision {
		t.Errorf("before it is wanted: got %+v, want process %d", s, before.PID)
	}
	u.ensure(swapConfig{Mark: "one"})
	swapped := u.waitFor("it is swapped", func(s pluginhost.Status) bool { return running(s) && s.PID != before.PID })
	if swapped.Revision == before.Revision || swapped.Restarts != 0 {
		t.Errorf("swapped: got %+v, want another revision and no restart", swapped)
	}
	u.tell("exec /proc/self/exe v2")
	if err := syscall.Kill(swapped.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	u.expect("ready")
	u.ensure(swapConfig{Mark: "one"})
	u.waitFor("it is started again", func(s pluginhost.Status) bool { return running(s) && s.PID != swapped.PID })
}

// TestHandOverShadow: a shadow ends with the host that it works for, and its plugin, whose
// decisions were listened to, is taken over; the next host starts the shadow anew.
func TestHandOverShadow(t *testing.T) {
	u := startUpgradable(t)
	u.name = deciderName
	shadow := func() {
		t.Helper()
		u.tell("shadow")
		u.expect("ok")
	}
	both := func(s pluginhost.Status) bool { return running(s) && s.Shadow.Phase == pluginhost.PhaseRunning }
	shadow()
	before := u.waitFor("both run", both)
	u.tell("exec /proc/self/exe v1")
	u.expect("ready")
	shadow()
	after := u.waitFor("both run again", both)
	if after.PID != before.PID || after.Shadow.PID == before.Shadow.PID {
		t.Errorf("got processes %d and %d, want %d and a new one in the place of %d", after.PID, after.Shadow.PID, before.PID, before.Shadow.PID)
	}
	if got := children(t, u.cmd.Process.Pid); len(got) != 2 {
		t.Errorf("children %v, want two", got)
	}
}
