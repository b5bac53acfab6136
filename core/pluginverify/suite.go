package pluginverify

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
	"keelson.dev/keelson/proto/plugin/v1/plugintest"
)

// SuiteCommand is the first argument of a process that runs the suite.
const SuiteCommand = "plugin-suite"

// suite is what that process is told.
type suite struct {
	Program
	Name string
	// Kind whose suite is run too; empty: none.
	Kind string
	// mute is why no connection with the plugin could be had; empty: one can.
	mute string
}

// The groups of tests.
const (
	groupContract = "Contract" // the base contract's
	groupKind     = "Kind"     // the kind's
)

// SuiteMain runs the suite as args say, those after SuiteCommand, and ends the process.
func SuiteMain(args []string) {
	var s suite
	if len(args) != 1 || json.Unmarshal([]byte(args[0]), &s) != nil {
		fmt.Fprintln(os.Stderr, "this is how keelson plugins verify runs the contract's suite; people use that")
		os.Exit(2)
	}
	os.Args = []string{os.Args[0], "-test.v", "-test.timeout=10m"}
	tests := []testing.InternalTest{{Name: groupContract, F: s.run}}
	if s.Kind != "" {
		tests = append(tests, testing.InternalTest{Name: groupKind, F: s.runKind})
	}
	testing.Main(func(string, string) (bool, error) { return true, nil }, tests, nil, nil)
}

func (s *suite) run(t *testing.T) {
	b, err := newBench()
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	plugintest.Run(t, plugintest.Options{
		New: func(t *testing.T) plugintest.Subject { return s.subject(t, b) },
		Configure: func(t *testing.T) *pluginv1.ConfigureRequest {
			request, err := b.request(t.TempDir(), s.Name, s.Config)
			if err != nil {
				t.Fatal(err)
			}
			return request
		},
		Passive: !s.Activate,
	})
}

func (s *suite) subject(t *testing.T, b *bench) plugintest.Subject {
	t.Helper()
	p, err := b.start(s.Program, s.Name)
	if err != nil {
		t.Fatal(err)
	}
	exited := make(chan int, 1)
	told := make(chan struct{})
	go func() { // ends with the process, which the clean-up ends at the latest
		defer close(told)
		<-p.proc.done
		exited <- p.proc.cmd.ProcessState.ExitCode()
	}()
	t.Cleanup(func() {
		p.kill()
		<-told
		if words := p.proc.words.String(); t.Failed() && words != "" {
			t.Logf("the plugin said:\n%s", words)
		}
	})
	return plugintest.Subject{Client: p.rpc, Exited: exited}
}

// request has all that the kernel tells a plugin, of an API server that is not there.
func (b *bench) request(dir, name string, config []byte) (*pluginv1.ConfigureRequest, error) {
	client, err := b.authority.ClientPair("system:plugin:"+name, []string{"system:plugins"}, 0)
	if err != nil {
		return nil, err
	}
	run, err := os.MkdirTemp(b.dir, "r")
	if err != nil {
		return nil, err
	}
	pair := &pluginv1.KeyPair{Certificate: client.Certificate, PrivateKey: client.PrivateKey}
	return &pluginv1.ConfigureRequest{
		Config:  config,
		Api:     &pluginv1.API{Server: "https://127.0.0.1:1", Ca: b.authority.CAPEM(), Client: pair},
		Cluster: &pluginv1.Cluster{PodCidrs: []string{"10.244.0.0/16"}, ServiceCidrs: []string{"10.96.0.0/12"}, Domain: "cluster.local", DnsAddress: "10.96.0.10"},
		Node:    &pluginv1.Node{Name: "node-1", Addresses: []string{"192.0.2.1"}, KubeletPort: 10250},
		DataDir: dir, RunDir: run, Listen: filepath.Join(run, "listen.sock"), Serving: pair,
		Endpoints: map[string]string{
			"network": filepath.Join(run, "n.sock"), "runtime": filepath.Join(run, "r.sock"), "storage": filepath.Join(run, "s.sock"),
		},
	}, nil
}

// result is how one test of a suite went.
type result struct {
	group, test string
	fault       string // empty: none
	skipped     string // why it was not run; empty: it was
}

// runSuite runs the suites in a process of its own and tells each of their tests. That of
// a kind that changes links or mounts has namespaces of its own for them.
func runSuite(ctx context.Context, s suite, tell func(result)) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	arg, err := json.Marshal(s)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, SuiteCommand, string(arg))
	if kinds[s.Kind].root {
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	tests, faults := read(out, tell)
	err = cmd.Wait()
	switch {
	case tests == 0:
		return fmt.Errorf("the suite did not run: %w\n%s", err, stderr.String())
	case err != nil && faults == 0:
		return fmt.Errorf("the suite ended early: %w\n%s", err, stderr.String())
	}
	return nil
}

var (
	running = regexp.MustCompile(`^=== RUN   ((?:` + groupContract + `|` + groupKind + `)/\S+)`)
	verdict = regexp.MustCompile(`^    --- (PASS|FAIL|SKIP): ((` + groupContract + `|` + groupKind + `)/(\S+)) `)
)

// read reads what go test prints, and tells each of the suites' tests, with what it said if
// it failed or was not run.
func read(out io.Reader, tell func(result)) (tests, faults int) {
	said := map[string][]string{}
	now := ""
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if found := running.FindStringSubmatch(line); found != nil {
			now = found[1]
			continue
		}
		found := verdict.FindStringSubmatch(line)
		if found == nil {
			if strings.HasPrefix(line, "--- ") { // the verdict on a whole group
				continue
			}
			said[now] = append(said[now], strings.TrimSpace(where.ReplaceAllString(line, "")))
			continue
		}
		tests++
		r := result{group: found[3], test: found[4]}
		switch words := strings.Join(said[found[2]], "\n"); found[1] {
		case "FAIL":
			faults++
			r.fault = words
		case "SKIP":
			r.skipped = words
		}
		tell(r)
	}
	return tests, faults
}

// where is the place in the suite's source that a message comes from.
var where = regexp.MustCompile(`^\s+\w+\.go:\d+: `)
