package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// worker is a second machine whose agent runs, and the server that it belongs to.
type worker struct {
	server, machine *machine
	plugins         string // the plugin folder of both
	pid             int
}

// TestAgent joins a second machine: pods run there, and reach services and pods of the
// first; plugins run there, a stranger's too, and are operated from the server; and the
// agent's binary is replaced while they run.
func TestAgent(t *testing.T) {
	w := joined(t)
	image, err := filepath.Abs(filepath.Join(repository, ".cache/images/busybox.tar"))
	if err != nil {
		t.Fatal(err)
	}
	w.server.keelson(t, "image", "import", image)
	w.machine.keelson(t, "image", "import", image)
	t.Run("Pods", w.testPods)
	t.Run("Plugins", w.testPlugins)
	t.Run("Upgrade", w.testUpgrade)
}

// joined starts a server, and an agent whose binary is a copy: an upgrade replaces it.
func joined(t *testing.T) *worker {
	t.Helper()
	a, b := newMachine(t, "s", "192.0.2.40"), newMachine(t, "w", "192.0.2.41")
	plug(t, a, b)
	b.kubeconfig = a.kubeconfig
	dir, bin := t.TempDir(), filepath.Join(filepath.Dir(b.data), "keelson") // which goes after the uninstall
	w := &worker{server: a, machine: b, plugins: filepath.Join(dir, "plugins")}
	if err := errors.Join(os.Mkdir(w.plugins, 0o700), os.WriteFile(bin, read(t, b.bin), 0o700)); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	b.bin = bin
	a.keelson(t, "up", "--node-name=server", "--plugin-dir="+w.plugins)
	join := filepath.Join(dir, "worker.join")
	a.keelson(t, "agent", "create-join-file", "worker", "--address=192.0.2.41", "--output="+join, "--data-dir="+a.data)
	log, err := os.Create(filepath.Join(dir, "agent.log"))
	if err != nil {
		t.Fatal(err)
	}
	agent := b.command("keelson", "agent", "--join="+join, "--plugin-dir="+w.plugins)
	agent.Stdout, agent.Stderr = log, log
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	w.pid = agent.Process.Pid
	t.Cleanup(func() {
		_ = agent.Process.Signal(os.Interrupt)
		_ = agent.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("log of the agent:\n%s", text)
			for _, args := range [][]string{{"get", "nodes,pods,plugins", "-A", "-o", "wide"}, {"get", "events", "-A"}, {"get", "csr"}} {
				out, _ := a.try("kubectl", args...)
				t.Log(out)
			}
		}
	})
	eventually(t, 60*time.Second, "node worker is Ready", func() error {
		out, _ := a.try("kubectl", "get", "node", "worker", "--no-headers")
		return contains(out, " Ready ")
	})
	return w
}

func (w *worker) testPods(t *testing.T) {
	a := w.server
	on := func(node string) string {
		return fmt.Sprintf(`--overrides={"spec":{"nodeName":%q,"terminationGracePeriodSeconds":1}}`, node)
	}
	a.kubectl(t, "run", "web", "--image=example/busybox:1.35", on("server"), "--port=80", "--",
		"sh", "-c", "echo hull >/tmp/index.html; exec httpd -f -p 80 -h /tmp")
	a.kubectl(t, "expose", "pod", "web", "--port=80")
	a.kubectl(t, "wait", "--for=condition=Ready", "pod/web", "--timeout=60s")
	a.kubectl(t, "run", "client", "--image=example/busybox:1.35", on("worker"), "--restart=Never", "--",
		"sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do wget -q -O - http://web.default.svc.cluster.local && exit; sleep 0.5; done; exit 1")
	eventually(t, 60*time.Second, "the client on the worker is done", func() error {
		if phase := a.kubectl(t, "get", "pod", "client", "-o", "jsonpath={.status.phase}"); phase != "Succeeded" {
			return fmt.Errorf("phase %s", phase)
		}
		return nil
	})
	if out := a.kubectl(t, "logs", "client"); strings.TrimSpace(out) != "hull" {
		t.Errorf("answer from the other node: %s", out)
	}
	if out := a.kubectl(t, "get", "plugin", "kubelet", "-o", "jsonpath={.status.nodes[*].name}"); !strings.Contains(out, "worker") {
		t.Errorf("plugin kubelet tells of nodes %q", out)
	}
	a.kubectl(t, "run", "stays", "--image=example/busybox:1.35", on("worker"), "--", "sleep", "1000000")
	a.kubectl(t, "wait", "--for=condition=Ready", "pod/stays", "--timeout=60s")
}

// pids are the processes of a plugin on the server and on the worker.
func (w *worker) pids(t *testing.T, plugin string) [2]string {
	t.Helper()
	get := func(node string) string {
		return w.server.kubectl(t, "get", "plugins.keelson.dev", plugin, "--output=jsonpath={.status.nodes[?(@.name==\""+node+"\")].pid}")
	}
	return [2]string{get("server"), get("worker")}
}

// lit waits until a beacon's process on each node has written itself there, other ones than
// before where they are to be others.
func (w *worker) lit(t *testing.T, before [2]string, other [2]bool) (now [2]string) {
	t.Helper()
	eventually(t, 90*time.Second, "beacons are lit on both nodes", func() error {
		now = w.pids(t, "beacon")
		for i, node := range []string{"server", "worker"} {
			wrote := w.server.kubectl(t, "get", "node", node, `--output=jsonpath={.metadata.annotations.beacon\.example\.keelson\.dev/pid}`)
			if now[i] == "" || now[i] == "0" || wrote != now[i] || (now[i] != before[i]) != other[i] {
				return fmt.Errorf("on %s: process %q, it wrote %q, before %q", node, now[i], wrote, before[i])
			}
		}
		return nil
	})
	return now
}

// testPlugins: a program of node scope from elsewhere gets an identity and a serving
// certificate on the worker too, and is operated there from the server.
func (w *worker) testPlugins(t *testing.T) {
	a := w.server
	run := func(args ...string) string { t.Helper(); return a.keelson(t, append([]string{"plugins"}, args...)...) }
	fails := func(want string, args ...string) {
		t.Helper()
		if out, code := a.try("keelson", append([]string{"plugins"}, args...)...); code == 0 || !strings.Contains(out, want) {
			t.Errorf("plugins %v: exit code %d, %s; want %q", args, code, out, want)
		}
	}
	object := filepath.Join(t.TempDir(), "beacon.yaml")
	file := filepath.Join(w.plugins, "beacon")
	if err := os.WriteFile(file, read(t, program(t, "./test/plugins/beacon")), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	sum, _, _ := strings.Cut(must(t, a.command("sha256sum", file)), " ")
	text := `{"apiVersion": "keelson.dev/v1alpha1", "kind": "Plugin", "metadata": {"name": "beacon"}, "spec": {
		"kind": "beacon", "scope": "Node", "source": {"path": "` + file + `", "sha256": "` + sum + `"},
		"rules": [{"verbs": ["get", "patch"], "apiGroups": [""], "resources": ["nodes"]}], "swap": {"watchSeconds": 0}}}`
	if err := os.WriteFile(object, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	a.kubectl(t, "apply", "--filename="+object)
	pids := w.lit(t, [2]string{}, [2]bool{true, true})

	for _, node := range []string{"server", "worker"} {
		if out := run("logs", "beacon", "--node="+node); !strings.Contains(out, "The beacon is lit") || !strings.Contains(out, node) {
			t.Errorf("log on %s: %s", node, out)
		}
	}
	if out := run("logs", "beacon", "--node=worker", "--tail=1"); strings.Count(strings.TrimSpace(out), "\n") != 0 || out == "" {
		t.Errorf("the last line on the worker: %q", out)
	}
	follow := a.command("keelson", "plugins", "logs", "beacon", "--node=worker", "--tail=0", "-f")
	var followed bytes.Buffer
	follow.Stdout = &followed
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	run("restart", "beacon", "--node=worker")
	pids = w.lit(t, pids, [2]bool{false, true})
	run("restart", "beacon")
	pids = w.lit(t, pids, [2]bool{true, true})
	eventually(t, time.Minute, "both starts on the worker are in its log", func() error {
		if got := strings.Count(run("logs", "beacon", "--node=worker"), "The beacon is lit"); got != 3 {
			return fmt.Errorf("%d starts, want 3", got)
		}
		return nil
	})
	if err := follow.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = follow.Wait()
	if got := strings.Count(followed.String(), "The beacon is lit"); got == 0 {
		t.Errorf("followed from afar: %q, want the starts", followed.String())
	}

	// A revision that only the worker refuses, tried there once more.
	marker := filepath.Join(t.TempDir(), "no")
	if err := os.WriteFile(marker+".worker", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a.kubectl(t, "patch", "plugins.keelson.dev", "beacon", "--type=merge", "--patch", `{"spec":{"config":{"unlessFile":"`+marker+`"}}}`)
	eventually(t, 90*time.Second, "the worker refuses it", func() error {
		return contains(a.kubectl(t, "get", "plugins.keelson.dev", "beacon", "--output=jsonpath={.status.nodes[?(@.name==\"worker\")].message}"), "the file of its configuration is there")
	})
	pids = w.lit(t, pids, [2]bool{true, false})
	if err := os.Remove(marker + ".worker"); err != nil {
		t.Fatal(err)
	}
	fails("neither refused nor rolled back", "swap", "beacon", "--again", "--node=server")
	run("swap", "beacon", "--again", "--node=worker")
	w.lit(t, pids, [2]bool{false, true})

	fails(`does not run on node "moon"`, "restart", "beacon", "--node=moon")
	fails(`does not run on node "worker"`, "logs", "scheduler", "--node=worker")
	fails("goes with --again", "swap", "beacon", "--node=worker", "--built-in")
	a.kubectl(t, "delete", "plugins.keelson.dev", "beacon")
	eventually(t, time.Minute, "the worker knows no beacon", func() error {
		if out, code := a.try("pgrep", "-f", file); code == 0 {
			return fmt.Errorf("processes %s", out)
		}
		return nil
	})
}

// testUpgrade puts another binary in the place of the agent's: its process goes on, plugins
// and containers with it.
func (w *worker) testUpgrade(t *testing.T) {
	b := w.machine
	container := func() string {
		return w.server.kubectl(t, "get", "pod", "stays", "--output=jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}")
	}
	before, kubelet := container(), w.pids(t, "kubelet")
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, read(t, b.bin), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	t.Logf("upgrade:\n%s", b.keelson(t, "upgrade", "--to="+other))
	status := string(read(t, filepath.Join("/proc", strconv.Itoa(w.pid), "status")))
	if !slices.Contains(strings.Fields(status), strconv.Itoa(w.pid)) || strings.Contains(status, "zombie") {
		t.Errorf("the agent's process %d has ended:\n%s", w.pid, status)
	}
	eventually(t, time.Minute, "node worker is Ready", func() error {
		out, _ := w.server.try("kubectl", "get", "node", "worker", "--no-headers")
		return contains(out, " Ready ")
	})
	if now := w.pids(t, "kubelet"); now != kubelet {
		t.Errorf("kubelets: %v, before %v: the same binary is no reason for other ones", now, kubelet)
	}
	if now := container(); now != before {
		t.Errorf("container: %s, before %s", now, before)
	}
	if out := w.server.keelson(t, "plugins", "logs", "kubelet", "--node=worker", "--tail=1"); out == "" {
		t.Error("the agent does not answer the server any more")
	}
}
