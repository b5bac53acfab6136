package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"keelson.dev/keelson/test/need"
)

// TestStandIns puts programs that know nothing of Keelson in the place of its own parts,
// with the manifests of docs/plugins/stand-ins.md.
func TestStandIns(t *testing.T) {
	m := newMachine(t, "s", "192.0.2.40")
	for _, name := range []string{"containerd", "ctr", "runc"} {
		need.Program(t, name)
	}
	plug(t, m, nil)
	before := takeInventory(t)
	c := &cluster{machine: m}
	c.keelson(t, "up")
	steps := []standInStep{{"Controller", c.testController}, {"Containerd", c.testContainerd}}
	if dir := os.Getenv("KEELSON_STANDINS"); dir != "" {
		steps = append(steps, standInStep{"CoreDNS", func(t *testing.T) { c.testCoreDNS(t, dir) }}, standInStep{"Kubernetes", func(t *testing.T) { c.testKubernetes(t, dir) }})
	}
	steps = append(steps, standInStep{"Uninstall", func(t *testing.T) { c.testUninstallContainerd(t, before) }})
	for _, step := range steps {
		if !t.Run(step.name, step.run) {
			c.diagnose(t)
			for _, name := range []string{"containerd", "coredns", "leader-1", "kube-scheduler", "kube-controller-manager"} {
				out, _ := c.try("keelson", "plugins", "logs", name, "--tail=25")
				t.Logf("log of %s:\n%s", name, out)
			}
			t.FailNow()
		}
	}
}

type standInStep struct {
	name string
	run  func(*testing.T)
}

// apply applies a manifest of the documentation after some replacements.
func (c *cluster) apply(t *testing.T, name string, replace ...string) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(repository, "docs/plugins/stand-ins.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("(?s)\n```yaml " + name + "\n(.*?)\n```").FindSubmatch(page)
	if found == nil {
		t.Fatalf("docs/plugins/stand-ins.md has no manifest %s", name)
	}
	cmd := c.command("kubectl", "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(strings.NewReplacer(replace...).Replace(string(found[1])))
	must(t, cmd)
}

// running waits until a plugin does its work, in another process than not.
func (c *cluster) running(t *testing.T, name string, not int) (pid int) {
	t.Helper()
	eventually(t, 2*time.Minute, "plugin "+name, func() error {
		if pid = c.pluginPID(t, name); pid == 0 || pid == not {
			return errors.New(c.kubectl(t, "get", "plugins.keelson.dev", name, "-o", "wide"))
		}
		return nil
	})
	return pid
}

// enable switches a plugin of ours on or off, and waits until it is so.
func (c *cluster) enable(t *testing.T, name string, on bool) {
	t.Helper()
	c.kubectl(t, "patch", "plugins.keelson.dev", name, "--type=merge", fmt.Sprintf(`--patch={"spec":{"enabled":%t}}`, on))
	if on {
		c.running(t, name, 0)
		return
	}
	eventually(t, time.Minute, "end of plugin "+name, func() error {
		if out := c.kubectl(t, "get", "plugins.keelson.dev", name, "-o", "jsonpath={.status.phase}"); out != "Stopped" {
			return errors.New(out)
		}
		return nil
	})
}

// testController: two of a controller that elects its leader; the rules are all that
// they may do.
func (c *cluster) testController(t *testing.T) {
	program := filepath.Join(t.TempDir(), "leader-election")
	build := exec.Command("go", "build", "-o", program, "k8s.io/client-go/examples/leader-election")
	build.Dir = repository
	must(t, build)
	c.apply(t, "controller", "/usr/local/bin/leader-election", program)
	c.running(t, "leader-1", 0)
	holder := func() string {
		out, _ := c.try("kubectl", "get", "lease", "example", "-o", "jsonpath={.spec.holderIdentity}")
		return out
	}
	eventually(t, time.Minute, "the first leader", func() error {
		if h := holder(); h != "leader-1" {
			return fmt.Errorf("the holder is %q", h)
		}
		return nil
	})
	c.apply(t, "controller", "/usr/local/bin/leader-election", program, "leader-1", "leader-2")
	c.running(t, "leader-2", 0)
	if h := holder(); h != "leader-1" {
		t.Errorf("the holder is %q although the first one runs", h)
	}
	c.kubectl(t, "delete", "plugins.keelson.dev", "leader-1")
	eventually(t, 2*time.Minute, "the second leader", func() error {
		if h := holder(); h != "leader-2" {
			return fmt.Errorf("the holder is %q", h)
		}
		return nil
	})
	if out, _ := c.try("kubectl", "auth", "can-i", "list", "pods", "--as=system:plugin:leader-2", "--as-group=system:plugins"); strings.TrimSpace(out) != "no" {
		t.Errorf("may the controller list pods: %s", out)
	}
	c.kubectl(t, "delete", "plugins.keelson.dev", "leader-2")
}

// standInPod serves a page under the name web.
const standInPod = `
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: docker.io/example/busybox:1.35
    imagePullPolicy: Never
    command: [sh, -c, "mkdir /www; echo it works > /www/index.html; echo started; httpd -f -p 80 -h /www"]
    readinessProbe: {httpGet: {port: 80}, periodSeconds: 1, timeoutSeconds: 5}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
`

// podWorks makes the pod, and looks at all that a runtime is used for.
func (c *cluster) podWorks(t *testing.T) (id string) {
	t.Helper()
	apply := c.command("kubectl", "apply", "-f", "-")
	apply.Stdin = strings.NewReader(standInPod)
	must(t, apply)
	c.kubectl(t, "wait", "--for=condition=Ready", "pod/web", "--timeout=120s")
	if ip := c.kubectl(t, "get", "pod", "web", "-o", "jsonpath={.status.podIP}"); !strings.HasPrefix(ip, "10.244.") {
		t.Errorf("address of the pod: %s", ip)
	}
	if out := c.kubectl(t, "logs", "web"); out != "started" {
		t.Errorf("log: %s", out)
	}
	eventually(t, time.Minute, "an answer by way of name, service and network", func() error {
		if out, _ := c.try("kubectl", "exec", "web", "--", "wget", "-q", "-O", "-", "http://web"); strings.TrimSpace(out) != "it works" {
			return errors.New(out)
		}
		return nil
	})
	return c.kubectl(t, "get", "pod", "web", "-o", "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}")
}

// takeContainerd puts containerd in the place of our runtime, with the images of podWorks.
func (c *cluster) takeContainerd(t *testing.T) (pid int) {
	t.Helper()
	c.enable(t, "runtime", false)
	c.apply(t, "containerd", "registry.k8s.io/pause:3.10", "docker.io/example/counter:v1", "/usr/bin/containerd", need.Program(t, "containerd"),
		"/usr/bin/ctr", need.Program(t, "ctr"))
	pid = c.running(t, "containerd", 0)
	ctr := func(args ...string) {
		must(t, c.command("ctr", append([]string{"--address=" + filepath.Join(c.run, "runtime.sock"), "--namespace=k8s.io", "image"}, args...)...))
	}
	for file, name := range map[string]string{"busybox.tar": "example/busybox:1.35", "counter-v1.tar": "example/counter:v1"} {
		ctr("import", filepath.Join(".cache/images", file))
		ctr("tag", "--force", name, "docker.io/"+name)
	}
	eventually(t, 2*time.Minute, "the node with containerd", func() error {
		out := c.kubectl(t, "get", "nodes", "--no-headers", "-o", "wide")
		if !strings.Contains(out, " Ready ") || !strings.Contains(out, "containerd://") {
			return errors.New(out)
		}
		return nil
	})
	return pid
}

// testUninstallContainerd: what containerd runs goes with the cluster.
func (c *cluster) testUninstallContainerd(t *testing.T, before inventory) {
	c.takeContainerd(t)
	c.podWorks(t)
	if shims := processesWith(t, "containerd-shim"); len(shims) == 0 {
		t.Error("no shim runs: nothing is tested")
	}
	c.keelson(t, "uninstall", "--yes")
	if left := takeInventory(t).beyond(before); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
	if shims := processesWith(t, filepath.Dir(c.run)); len(shims) > 0 {
		t.Errorf("processes left: %v", shims)
	}
}

func (c *cluster) testContainerd(t *testing.T) {
	pid := c.takeContainerd(t)
	before := c.podWorks(t)
	if !strings.HasPrefix(before, "containerd://") {
		t.Errorf("container: %s", before)
	}
	// The plugin, and containerd with it, end: the pod goes on, and is known afterwards.
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c.running(t, "containerd", pid)
	if after := c.podWorks(t); after != before {
		t.Errorf("container: got %s, want %s", after, before)
	}
	c.kubectl(t, "delete", "pod", "web", "--timeout=120s")
	c.kubectl(t, "delete", "plugins.keelson.dev", "containerd")
	eventually(t, time.Minute, "end of the plugin", func() error {
		if alive(pid) || len(processesWith(t, filepath.Join(c.data, "plugins/containerd"))) > 0 {
			return errors.New("it runs")
		}
		return nil
	})
	c.enable(t, "runtime", true)
	for _, file := range []string{"busybox.tar", "counter-v1.tar"} {
		c.keelson(t, "image", "import", mustAbs(t, filepath.Join(repository, ".cache/images", file)))
	}
	eventually(t, 2*time.Minute, "the node with our runtime", func() error {
		out := c.kubectl(t, "get", "nodes", "--no-headers", "-o", "wide")
		if !strings.Contains(out, " Ready ") || !strings.Contains(out, "keelson://") {
			return errors.New(out)
		}
		return nil
	})
	if back := c.podWorks(t); !strings.HasPrefix(back, "keelson://") {
		t.Errorf("container: %s", back)
	}
	c.kubectl(t, "delete", "pod", "web", "--timeout=120s")
}

func mustAbs(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

func (c *cluster) testCoreDNS(t *testing.T, dir string) {
	c.enable(t, "dns", false)
	c.apply(t, "coredns", "/usr/local/bin", dir)
	c.running(t, "coredns", 0)
	c.podWorks(t)
	for name, want := range map[string]string{"kubernetes.default.svc.cluster.local": "10.96.0.1", "10.96.0.1": "kubernetes.default.svc.cluster.local"} {
		if out := c.kubectl(t, "exec", "web", "--", "nslookup", name); !strings.Contains(out, want) {
			t.Errorf("look-up of %s: %s", name, out)
		}
	}
	c.kubectl(t, "delete", "pod", "web", "--timeout=120s")
	c.kubectl(t, "delete", "plugins.keelson.dev", "coredns")
	c.enable(t, "dns", true)
}

func (c *cluster) testKubernetes(t *testing.T, dir string) {
	c.enable(t, "scheduler", false)
	c.enable(t, "controllers", false)
	c.apply(t, "kubernetes", "/usr/local/bin", dir)
	c.running(t, "kube-scheduler", 0)
	c.running(t, "kube-controller-manager", 0)
	c.kubectl(t, "create", "namespace", "upstream")
	k := func(args ...string) string { return c.kubectl(t, append([]string{"--namespace=upstream"}, args...)...) }
	k("apply", "-f", "test/e2e/testdata/workloads.yaml")
	for _, name := range []string{"deployment/web", "statefulset/db", "daemonset/agent"} {
		k("rollout", "status", "--timeout=120s", name)
	}
	k("wait", "--for=condition=Complete", "job/once", "--timeout=120s")
	k("set", "env", "deployment/web", "A=b")
	k("rollout", "status", "--timeout=120s", "deployment/web")
	k("rollout", "undo", "deployment/web")
	k("rollout", "status", "--timeout=120s", "deployment/web")
	eventually(t, 3*time.Minute, "a job of the cron job", func() error {
		if out := k("get", "jobs", "-o", `jsonpath={range .items[*]}{.metadata.name}={.status.succeeded} {end}`); !regexp.MustCompile(`often-\d+=1`).MatchString(out) {
			return errors.New(out)
		}
		return nil
	})
	for what, want := range map[string]string{
		"jsonpath={.items[?(@.metadata.name=='kube-root-ca.crt')].metadata.name}": "kube-root-ca.crt",
	} {
		if out := k("get", "configmaps", "-o", what); out != want {
			t.Errorf("get configmaps -o %s: got %q, want %q", what, out, want)
		}
	}
	if out := k("get", "poddisruptionbudget", "web", "-o", "jsonpath={.status.disruptionsAllowed}"); out != "1" {
		t.Errorf("disruptions allowed: got %s, want 1", out)
	}
	c.kubectl(t, "delete", "namespace", "upstream", "--timeout=120s")
	c.kubectl(t, "delete", "plugins.keelson.dev", "kube-scheduler", "kube-controller-manager")
	c.enable(t, "scheduler", true)
	c.enable(t, "controllers", true)
}
