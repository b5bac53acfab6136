package plugins

import (
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"keelson.dev/keelson/core/pluginhost"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
	"keelson.dev/keelson/proto/plugin/v1/plugintest"
)

func waitABit() { <-time.After(2 * time.Millisecond) }

// hello is the third-party plugin, built once.
func hello(t *testing.T) string {
	t.Helper()
	path, err := buildHello()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var buildHello = sync.OnceValues(func() (string, error) { return build("hello", "./testdata/hello") })

// build builds a program into a folder that TestMain removes.
func build(name, pkg string) (string, error) {
	dir, err := os.MkdirTemp("", name)
	if err != nil {
		return "", err
	}
	built = append(built, dir)
	path := filepath.Join(dir, name)
	cmd := exec.Command("go", "build", "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return path, nil
}

// built are folders that TestMain removes.
var built []string

// TestStranger: a plugin that imports the kit alone is built, checked by its checksum,
// run, misconfigured, mended and stopped.
func TestStranger(t *testing.T) {
	path := hello(t)
	h := start(t)
	spec := pluginhost.Spec{Name: "hello", Kind: "example", Path: path, SHA256: strings.ToUpper(sum(t, path)), Enabled: true}
	h.ensure(t, spec)
	if s := h.wait(t, "hello", pluginhost.PhaseRunning); s.Version != "1.2.3" {
		t.Errorf("version: got %q, want 1.2.3", s.Version)
	}
	greeting := filepath.Join(h.dir, "d/plugins/hello/greeting")
	if got, err := os.ReadFile(greeting); err != nil || string(got) != "Hello, node-1\n" {
		t.Errorf("greeting: got %q, %v", got, err)
	}
	spec.Config = json.RawMessage(`{"greeting":""}`)
	h.ensure(t, spec)
	if s := h.waitFor(t, "hello", "refused", func(s pluginhost.Status) bool { return s.Progress == pluginhost.ProgressRefused }); s.Phase != pluginhost.PhaseRunning ||
		!strings.Contains(s.LastError, "spec.config: greeting: Required value: say something") {
		t.Errorf("got %+v, want the one before to run, and an error that names greeting", s)
	}
	spec.Config = json.RawMessage(`{"greeting":"Moin"}`)
	h.ensure(t, spec)
	h.waitFor(t, "hello", "swapped", func(s pluginhost.Status) bool {
		return s.Progress == pluginhost.ProgressComplete && s.Phase == pluginhost.PhaseRunning && s.Revision == h.Revision(spec)
	})
	if got, err := os.ReadFile(greeting); err != nil || string(got) != "Moin, node-1\n" {
		t.Errorf("greeting: got %q, %v", got, err)
	}
}

// TestContractOfTheStranger passes the built plugin through the contract's suite.
func TestContractOfTheStranger(t *testing.T) {
	path := hello(t)
	creds, err := newCredentials(shortDir(t))
	if err != nil {
		t.Fatal(err)
	}
	plugintest.Run(t, plugintest.Options{
		New: func(t *testing.T) plugintest.Subject { return launch(t, creds, "hello", exec.Command(path)) },
		Configure: func(t *testing.T) *pluginv1.ConfigureRequest {
			return &pluginv1.ConfigureRequest{DataDir: t.TempDir(), RunDir: shortDir(t)}
		},
		Ready: true,
	})
}

// TestStartedByHand: a plugin's program says what it is.
func TestStartedByHand(t *testing.T) {
	out, err := exec.Command(hello(t)).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "hello is a Keelson plugin") {
		t.Errorf("got %q, %v, want a hint and a status that is not 0", out, err)
	}
}

// TestOnlyTheKernelMayCall: the plugin's socket answers nobody without the kernel's
// certificate.
func TestOnlyTheKernelMayCall(t *testing.T) {
	h := start(t)
	h.ensure(t, worker1(""))
	h.wait(t, "worker", pluginhost.PhaseRunning)
	sockets, err := filepath.Glob(filepath.Join(h.dir, "r/host/plugin-dir*/plugin*"))
	if err != nil || len(sockets) != 1 {
		t.Fatalf("sockets: got %v, %v, want one", sockets, err)
	}
	if info, err := os.Stat(filepath.Dir(sockets[0])); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the socket's folder: got %v, %v, want mode 0700", info, err)
	}
	transport, err := h.creds.Transport("worker")
	if err != nil {
		t.Fatal(err)
	}
	other, err := h.creds.Client("other", "")
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := newCredentials(shortDir(t))
	if err != nil {
		t.Fatal(err)
	}
	forged, err := foreign.Transport("worker")
	if err != nil {
		t.Fatal(err)
	}
	with := func(own pluginhost.KeyPair) credentials.TransportCredentials {
		return credentials.NewTLS(clientTLS(t, own, transport.CA, "worker"))
	}
	for name, c := range map[string]struct {
		creds credentials.TransportCredentials
		want  codes.Code
	}{
		"the kernel":              {with(transport.Host), codes.OK},
		"no TLS":                  {insecure.NewCredentials(), codes.Unavailable},
		"no certificate":          {with(pluginhost.KeyPair{}), codes.Unavailable},
		"another plugin":          {with(other), codes.Unavailable},
		"a kernel of another CA":  {with(forged.Host), codes.Unavailable},
		"the plugin's own server": {with(transport.Plugin), codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := grpc.NewClient("passthrough:plugin", grpc.WithTransportCredentials(c.creds),
				grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
					return (&net.Dialer{}).DialContext(ctx, "unix", sockets[0])
				}))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			_, err = pluginv1.NewPluginServiceClient(conn).Describe(t.Context(), &pluginv1.DescribeRequest{})
			if status.Code(err) != c.want {
				t.Errorf("Describe: got %v, want %s", err, c.want)
			}
		})
	}
}

// TestWrongCertificate: a plugin that does not hold the certificate it was given is not
// talked to.
func TestWrongCertificate(t *testing.T) {
	foreign, err := newCredentials(shortDir(t))
	if err != nil {
		t.Fatal(err)
	}
	h := start(t, func(c *pluginhost.Config) { c.Credentials = mixed{c.Credentials, foreign} })
	h.ensure(t, worker1(""))
	s := h.wait(t, "worker", pluginhost.PhaseBackOff)
	if !strings.Contains(s.LastError, "certificate") {
		t.Errorf("last error: got %q, want one about a certificate", s.LastError)
	}
}

// mixed gives the plugin another CA's certificate.
type mixed struct {
	pluginhost.Credentials
	foreign issuer
}

func (m mixed) Transport(name string) (pluginhost.Transport, error) {
	t, err := m.Credentials.Transport(name)
	if err != nil {
		return t, err
	}
	f, err := m.foreign.Transport(name)
	t.Plugin = f.Plugin
	return t, err
}

// TestNoBackDoor: a built-in plugin's process has the same environment, descriptors,
// parent, groups and signals as a stranger's, and no key in sight.
func TestNoBackDoor(t *testing.T) {
	h := start(t)
	h.ensure(t, worker1(""))
	path := hello(t)
	h.ensure(t, pluginhost.Spec{Name: "hello", Path: path, Enabled: true})
	builtIn := look(t, h.wait(t, "worker", pluginhost.PhaseRunning).PID, "worker")
	stranger := look(t, h.wait(t, "hello", pluginhost.PhaseRunning).PID, "hello")
	if !slices.Equal(builtIn, stranger) {
		t.Errorf("a built-in plugin's process differs from a stranger's:\n%s\n%s", strings.Join(builtIn, "\n"), strings.Join(stranger, "\n"))
	}
}

// instanceOf is the end of the path of a plugin's cgroup.
var instanceOf = regexp.MustCompile(`/[a-z]+\.[a-z0-9]{10}$`)

// look describes a process as the kernel (Linux) sees it, with the plugin's name taken out.
func look(t *testing.T, pid int, name string) []string {
	t.Helper()
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	read := func(file string) string {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	var out []string
	for v := range strings.SplitSeq(read("environ"), "\x00") {
		key, value, _ := strings.Cut(v, "=")
		out = append(out, "env "+key)
		if strings.Contains(value, "PRIVATE KEY") || strings.Contains(value, "CERTIFICATE") {
			t.Errorf("%s: variable %s holds a credential", name, key)
		}
	}
	if strings.Contains(read("cmdline"), "PRIVATE KEY") {
		t.Errorf("%s: the arguments hold a key", name)
	}
	for line := range strings.Lines(read("cgroup")) {
		out = append(out, "cgroup "+instanceOf.ReplaceAllString(strings.TrimSpace(line), "/NAME"))
	}
	for line := range strings.Lines(read("status")) {
		for _, key := range []string{"PPid", "Uid", "Gid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp"} {
			if strings.HasPrefix(line, key+":") {
				out = append(out, strings.TrimSpace(line))
			}
		}
	}
	for _, fd := range []string{"0", "1", "2"} {
		to, err := os.Readlink(filepath.Join(dir, "fd", fd))
		if err != nil {
			t.Fatal(err)
		}
		kind, _, _ := strings.Cut(to, ":")
		out = append(out, "fd "+fd+" "+kind)
	}
	slices.Sort(out)
	return out
}

// TestBuiltInIsReadOnce: in the host's source, being built in decides which program runs
// (its path, also that of the binary before an upgrade, or none but the kernel's own), and that
// nobody has to accept its rules, and about nothing else.
func TestBuiltInIsReadOnce(t *testing.T) {
	files, err := filepath.Glob("../../core/pluginhost/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("sources: %v, %v", files, err)
	}
	allowed := map[string]bool{
		"command": true, "notAccepted": true, "New": true,
		"embeds": true,                // in the kernel's process
		"target": true, "older": true, // of an earlier host's binary
		"shadowTarget": true, // copies where the shadow's program is from
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range parsed.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || allowed[f.Name.Name] {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "BuiltIn" {
					t.Errorf("%s: %s asks whether a plugin is built in", file, f.Name.Name)
				}
				return true
			})
		}
	}
}
