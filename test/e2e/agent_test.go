package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestAgent joins a second machine: pods run there, and reach services and pods
// of the first.
func TestAgent(t *testing.T) {
	a, b := newMachine(t, "s", "192.0.2.40"), newMachine(t, "w", "192.0.2.41")
	plug(t, a, b)
	b.kubeconfig = a.kubeconfig
	a.keelson(t, "up", "--node-name=server")
	join := filepath.Join(t.TempDir(), "worker.join")
	a.keelson(t, "agent", "create-join-file", "worker", "--address=192.0.2.41", "--output="+join, "--data-dir="+a.data)
	log, err := os.Create(filepath.Join(t.TempDir(), "agent.log"))
	if err != nil {
		t.Fatal(err)
	}
	agent := b.command("keelson", "agent", "--join="+join)
	agent.Stdout, agent.Stderr = log, log
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = agent.Process.Signal(os.Interrupt)
		_ = agent.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("log of the agent:\n%s", text)
			for _, args := range [][]string{{"get", "nodes,pods,plugins", "-A", "-o", "wide"}, {"get", "events", "-A"}} {
				out, _ := a.try("kubectl", args...)
				t.Log(out)
			}
		}
	})
	eventually(t, 60*time.Second, "node worker is Ready", func() error {
		out, _ := a.try("kubectl", "get", "node", "worker", "--no-headers")
		return contains(out, " Ready ")
	})
	image, err := filepath.Abs(filepath.Join(repository, ".cache/images/busybox.tar"))
	if err != nil {
		t.Fatal(err)
	}
	a.keelson(t, "image", "import", image)
	b.keelson(t, "image", "import", image)
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
}
