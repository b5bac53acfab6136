package exec

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/plugins/kit/kittest"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// TestMain makes this binary a program of these tests when it is executed as such.
func TestMain(m *testing.M) {
	if what := os.Getenv("EXEC_TEST"); what != "" {
		os.Exit(programMain(what))
	}
	os.Exit(m.Run())
}

// programMain writes what it was given to the file in its first argument, and behaves
// as told.
func programMain(what string) int {
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	fmt.Fprintln(os.Stdout, "hello on standard output")
	fmt.Fprintln(os.Stderr, "hello on standard error")
	switch what {
	case "end":
		fmt.Fprintln(os.Stdout, "the last line")
		return 3
	case "check":
		if _, err := os.Stat(os.Args[1]); err != nil {
			fmt.Fprintln(os.Stdout, "there is no such file")
			return 1
		}
		return 0
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
	}
	here, _ := os.Getwd()
	told, _ := json.Marshal(map[string]any{"env": os.Environ(), "args": os.Args[1:], "dir": here, "pid": os.Getpid()})
	if err := errors.Join(os.WriteFile(os.Args[1]+".new", told, 0o600), os.Rename(os.Args[1]+".new", os.Args[1])); err != nil {
		fmt.Fprintln(os.Stdout, err)
		return 1
	}
	<-terminated
	_ = os.WriteFile(os.Args[1]+".ended", nil, 0o600)
	return 0
}

// told is what a program was given.
type told struct {
	Env, Args []string
	Dir       string
	PID       int
}

// program is the configuration of a test program that behaves as what says.
func configOf(what string, change ...func(*Config)) *Config {
	c := &Config{Command: os.Args[0], Args: []string{"${DATA_DIR}/told"}, Env: map[string]string{"EXEC_TEST": what}}
	for _, f := range change {
		f(c)
	}
	return c
}

// newEnv is an environment with a configuration and an identity.
func newEnv(t *testing.T, c *Config) *kit.Env {
	t.Helper()
	env := kittest.NewEnv(t, kit.Plugin{Name: "wrapped", Kind: "example"})
	env.API = kit.API{Server: "https://127.0.0.1:1", CA: []byte("a CA\n"), Cert: []byte("certificate\n"), Key: []byte("key\n")}
	var err error
	if env.Config, err = json.Marshal(c); err != nil {
		t.Fatal(err)
	}
	return env
}

func newRunner(t *testing.T, env *kit.Env) kit.Runner {
	t.Helper()
	r, err := New(env)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// ready waits until the plugin says that it is.
func ready(t *testing.T, env *kit.Env) {
	t.Helper()
	state(t, env, pluginv1.State_STATE_READY)
}

func state(t *testing.T, env *kit.Env, want pluginv1.State) (message string) {
	t.Helper()
	kittest.Eventually(t, want.String(), func() error {
		got, msg := env.Health.Get()
		if message = msg; got != want {
			return fmt.Errorf("is %s: %s", got, msg)
		}
		return nil
	})
	return message
}

// given waits for what the program wrote, in a process other than not.
func given(t *testing.T, env *kit.Env, not int) told {
	t.Helper()
	var got told
	kittest.Eventually(t, "the program's file", func() error {
		data, err := os.ReadFile(filepath.Join(env.DataDir, "told"))
		if err == nil {
			err = json.Unmarshal(data, &got)
		}
		if err == nil && got.PID == not {
			err = fmt.Errorf("process %d has not ended", not)
		}
		return err
	})
	return got
}

// TestProgram: a program gets what its configuration says, and ends in good order.
func TestProgram(t *testing.T) {
	t.Setenv("SECRET", "of the plugin")
	env := newEnv(t, configOf("run", func(c *Config) {
		c.Args = append(c.Args, "--kubeconfig=${KUBECONFIG}", "--node=${NODE_NAME}", "$${NODE_NAME} $HOME", "--file=${FILES_DIR}/etc/Corefile")
		c.Env["DOMAIN"] = "${CLUSTER_DOMAIN}"
		c.Files = []File{{Path: "etc/Corefile", Content: "bind ${CLUSTER_DNS}\n", Mode: "0640"}, {Path: "${DATA_DIR}/x", Content: "$${X}"}}
	}))
	stop := kittest.Run(t, newRunner(t, env))
	got := given(t, env, 0)
	ready(t, env)
	files := filepath.Join(env.RunDir, fmt.Sprint("files-", os.Getpid()))
	want := []string{env.DataDir + "/told", "--kubeconfig=" + files + "/kubeconfig", "--node=test-node", "${NODE_NAME} $HOME", "--file=" + files + "/etc/Corefile"}
	if fmt.Sprint(got.Args) != fmt.Sprint(want) {
		t.Errorf("arguments: got %q, want %q", got.Args, want)
	}
	if got.Dir != files {
		t.Errorf("working folder: got %s, want %s", got.Dir, files)
	}
	all := strings.Join(got.Env, "\n") + "\n"
	for _, want := range []string{"DOMAIN=cluster.local\n", "KUBECONFIG=" + files + "/kubeconfig\n"} {
		if !strings.Contains(all, want) {
			t.Errorf("environment has no %q:\n%s", want, all)
		}
	}
	if strings.Contains(all, "SECRET") {
		t.Errorf("the plugin's own environment was passed on:\n%s", all)
	}
	for path, want := range map[string]string{
		files + "/etc/Corefile": "bind 10.96.0.10\n", env.DataDir + "/x": "${X}", files + "/ca.crt": "a CA\n", files + "/client.pem": "certificate\nkey\n",
	} {
		if data, err := os.ReadFile(path); err != nil || string(data) != want {
			t.Errorf("%s: got %q, %v, want %q", path, data, err, want)
		}
	}
	if info, err := os.Stat(files + "/etc/Corefile"); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode of the Corefile: %v, %v", info, err)
	}
	stop()
	if _, err := os.Stat(env.DataDir + "/told.ended"); err != nil {
		t.Errorf("the program had no time to end: %v", err)
	}
}

// TestEnd: the end of the program is the end of the plugin, with its last lines, which
// are in the log, too.
func TestEnd(t *testing.T) {
	env := newEnv(t, configOf("end"))
	s := newRunner(t, env).(*Server)
	var log lockedBuffer
	s.out = &log
	err := s.Start(t.Context())
	for _, want := range []string{"exit status 3", "hello on standard error", "the last line"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error: got %v, want %q in it", err, want)
		}
	}
	if !strings.Contains(log.String(), "hello on standard output\n") {
		t.Errorf("log: %q", log.String())
	}
}

// TestStubborn: what does not end is killed.
func TestStubborn(t *testing.T) {
	env := newEnv(t, configOf("stubborn", func(c *Config) { c.StopGraceSeconds = new(int32(0)) }))
	stop := kittest.Run(t, newRunner(t, env))
	got := given(t, env, 0)
	stop()
	if err := syscall.Kill(got.PID, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d: %v", got.PID, err)
	}
}

// TestRenew: new certificates are written, and a program that does not look again is
// started again.
func TestRenew(t *testing.T) {
	for name, restart := range map[string]bool{"restarted": true, "left alone": false} {
		t.Run(name, func(t *testing.T) {
			env := newEnv(t, configOf("run", func(c *Config) { c.RestartOnRenew = restart }))
			r := newRunner(t, env)
			kittest.Run(t, r)
			before := given(t, env, 0)
			if err := r.(kit.Renewer).Renewed(kit.KeyPair{Certificate: []byte("second\n"), PrivateKey: []byte("key\n")}); err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(filepath.Join(before.Dir, "client.pem"))
			if err != nil || string(data) != "second\nkey\n" {
				t.Errorf("client.pem: %q, %v", data, err)
			}
			if restart {
				given(t, env, before.PID)
			} else if err := syscall.Kill(before.PID, 0); err != nil {
				t.Errorf("the program has ended: %v", err)
			}
		})
	}
}

// TestWarm: the program runs before it is activated, and until the standby ends.
func TestWarm(t *testing.T) {
	env := newEnv(t, configOf("run", func(c *Config) { c.Standby = warm }))
	w := newRunner(t, env).(*Warm)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	isWarm, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- w.Warm(ctx, func() { close(isWarm) }) }()
	<-isWarm
	before := given(t, env, 0)
	stop := kittest.Run(t, w)
	ready(t, env)
	stop()
	if err := syscall.Kill(before.PID, 0); err != nil {
		t.Errorf("the program ended with the activation, and not with the standby: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestHealth: each way to look finds out what works and what does not.
func TestHealth(t *testing.T) {
	dir := t.TempDir()
	up, bad := filepath.Join(dir, "up"), http.NewServeMux()
	if err := os.WriteFile(up, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	bad.HandleFunc("/bad", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	bad.HandleFunc("/good", func(http.ResponseWriter, *http.Request) {})
	web := listen(t, "tcp", "127.0.0.1:0")
	server := &http.Server{Handler: bad}
	go func() { _ = server.Serve(web) }() // ends with the test
	t.Cleanup(func() { _ = server.Close() })
	socket := listen(t, "unix", filepath.Join(dir, "s"))
	calls, states := grpc.NewServer(), health.NewServer()
	states.SetServingStatus("off", healthv1.HealthCheckResponse_NOT_SERVING)
	healthv1.RegisterHealthServer(calls, states)
	go func() { _ = calls.Serve(socket) }() // ends with the test
	t.Cleanup(calls.Stop)
	address, path := web.Addr().String(), socket.Addr().String()

	for name, test := range map[string]struct {
		health Health
		want   string // in the error; empty: it works
	}{
		"http":                 {Health{HTTP: "http://" + address + "/good"}, ""},
		"http, a bad answer":   {Health{HTTP: "http://" + address + "/bad"}, "418"},
		"http, no server":      {Health{HTTP: "http://127.0.0.1:1/"}, "refused"},
		"tcp":                  {Health{TCP: address}, ""},
		"tcp, no server":       {Health{TCP: "127.0.0.1:1"}, "refused"},
		"Unix socket":          {Health{TCP: path}, ""},
		"Unix socket, none":    {Health{TCP: path + "x"}, "no such file"},
		"grpc":                 {Health{GRPC: "unix://" + path}, ""},
		"grpc, not serving":    {Health{GRPC: "unix://" + path, Service: "off"}, "NOT_SERVING"},
		"exec":                 {Health{Exec: []string{os.Args[0], up}}, ""},
		"exec, another status": {Health{Exec: []string{os.Args[0], up + "x"}}, "there is no such file"},
		"exec, no program":     {Health{Exec: []string{dir + "/none"}}, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			test.health.TimeoutSeconds = 60
			s := newRunner(t, newEnv(t, configOf("check", func(c *Config) { c.Health = test.health }))).(*Server)
			if err := os.MkdirAll(s.cfg.WorkingDir, 0o700); err != nil {
				t.Fatal(err)
			}
			err := s.look(t.Context())
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestUnhealthy: a program that ceases to work makes the plugin degraded, and ends if
// that is wanted.
func TestUnhealthy(t *testing.T) {
	for name, restart := range map[string]bool{"degraded": false, "restarted": true} {
		t.Run(name, func(t *testing.T) {
			web := listen(t, "tcp", "127.0.0.1:0")
			env := newEnv(t, configOf("run", func(c *Config) {
				c.Health = Health{TCP: web.Addr().String(), PeriodSeconds: 1, FailureThreshold: 1, Restart: restart}
			}))
			r := newRunner(t, env)
			ended := make(chan error, 1)
			ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
			defer cancel()
			go func() { ended <- r.Start(ctx) }()
			ready(t, env)
			_ = web.Close()
			if msg := state(t, env, pluginv1.State_STATE_DEGRADED); !strings.Contains(msg, "refused") {
				t.Errorf("message: %s", msg)
			}
			if !restart {
				cancel()
			}
			if err := <-ended; restart != (err != nil) {
				t.Errorf("Start: %v", err)
			}
		})
	}
}

// TestRefused: each fault is told with its field.
func TestRefused(t *testing.T) {
	loose := filepath.Join(t.TempDir(), "loose")
	if err := os.WriteFile(loose, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(loose, 0o777); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no command":        {func(c *Config) { c.Command = "" }, "command: Required"},
		"relative command":  {func(c *Config) { c.Command = "containerd" }, `command: Invalid value: "containerd"`},
		"missing command":   {func(c *Config) { c.Command = "/nowhere" }, "no such file"},
		"a folder":          {func(c *Config) { c.Command = "/tmp" }, "command: Invalid value: \"/tmp\": is not a file"},
		"not executable":    {func(c *Config) { c.Command = "/etc/passwd" }, "is not executable"},
		"loose":             {func(c *Config) { c.Command = loose }, "chmod go-w"},
		"checksum":          {func(c *Config) { c.SHA256 = strings.Repeat("0", 64) }, "sha256: " + os.Args[0] + " has checksum"},
		"bad checksum":      {func(c *Config) { c.SHA256 = "x" }, "sha256: Invalid value"},
		"variable in args":  {func(c *Config) { c.Args = []string{"a", "${NODENAME}"} }, `args[1]: Unsupported value: "NODENAME"`},
		"variable in file":  {func(c *Config) { c.Files = []File{{Path: "a", Content: "${X}"}} }, `files[0].content: Unsupported value: "X"`},
		"environment":       {func(c *Config) { c.Env["a b"] = "" }, `env[a b]: Invalid value`},
		"file without path": {func(c *Config) { c.Files = []File{{}} }, "files[0].path: Required"},
		"file elsewhere":    {func(c *Config) { c.Files = []File{{Path: "/etc/passwd"}} }, "files[0].path: Invalid value"},
		"file above":        {func(c *Config) { c.Files = []File{{Path: "../../../x"}} }, "files[0].path: Invalid value"},
		"mode":              {func(c *Config) { c.Files = []File{{Path: "a", Mode: "rw"}} }, "files[0].mode: Invalid value"},
		"cgroup":            {func(c *Config) { c.Cgroups = []string{"/a/../b"} }, "cgroups[0]: Invalid value"},
		"standby":           {func(c *Config) { c.Standby = "hot" }, `standby: Unsupported value: "hot"`},
		"signal":            {func(c *Config) { c.StopSignal = "TERM" }, "stopSignal: Invalid value"},
		"grace":             {func(c *Config) { c.StopGraceSeconds = new(int32(30)) }, "stopGraceSeconds: Invalid value"},
		"user":              {func(c *Config) { c.User = "no such user" }, "user: Invalid value"},
		"group":             {func(c *Config) { c.Group = "no such group" }, "group: Invalid value"},
		"two ways to look":  {func(c *Config) { c.Health = Health{HTTP: "http://a/", TCP: "a:1"} }, "health: Forbidden: has http and tcp"},
		"url":               {func(c *Config) { c.Health.HTTP = "localhost:80" }, "health.http: Invalid value"},
		"tcp":               {func(c *Config) { c.Health.TCP = "localhost" }, "health.tcp: Invalid value"},
		"exec":              {func(c *Config) { c.Health.Exec = []string{"true"} }, "health.exec[0]: Invalid value"},
		"period":            {func(c *Config) { c.Health.PeriodSeconds = -1 }, "health.periodSeconds: Invalid value"},
	} {
		t.Run(name, func(t *testing.T) {
			c := configOf("run")
			test.change(c)
			_, err := New(newEnv(t, c))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q in it", err, test.want)
			}
		})
	}
}

// TestFolder: what a killed process left is removed, and what another one uses is not.
func TestFolder(t *testing.T) {
	env := newEnv(t, configOf("run"))
	for _, pid := range []string{"1", "99999999"} {
		if err := os.Mkdir(filepath.Join(env.RunDir, "files-"+pid), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	newRunner(t, env)
	if _, err := os.Stat(filepath.Join(env.RunDir, "files-1")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(env.RunDir, "files-99999999")); err == nil {
		t.Error("the folder of a process that is gone is still there")
	}
}

// TestLongLines: no line is lost, and none is longer than the log takes.
func TestLongLines(t *testing.T) {
	var out bytes.Buffer
	lines := &tail{}
	lines.pass(strings.NewReader(strings.Repeat("x", maxLine+5)+"\r\n\nshort\nunended"), &out)
	if want := strings.Repeat("x", maxLine) + "\nxxxxx\nshort\nunended\n"; out.String() != want {
		t.Errorf("passed on: got %d bytes, want %d", out.Len(), len(want))
	}
	if got := lines.get(); !strings.HasSuffix(got, "xxxxx; short; unended") || len(got) > 300 {
		t.Errorf("last lines: %q", got)
	}
}

// lockedBuffer is a buffer that two goroutines may use.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
