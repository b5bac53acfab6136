package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// builtins are the plugins that a cluster starts with.
var builtins = []string{"controllers", "dns", "kubelet", "network", "proxy", "runtime", "scheduler"}

// TestCluster leads one cluster through its life, in the order in which a user
// would; each step builds on those before.
func TestCluster(t *testing.T) {
	m := newMachine(t, "a", "192.0.2.10")
	plug(t, m, nil)
	before := takeInventory(t)
	c := &cluster{machine: m, url: "http://192.0.2.10:30080/"}

	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"Up", c.testUp},
		{"Example", c.testExample},
		{"Kubectl", c.testKubectl},
		{"Scale", c.testScale},
		{"RollingUpdateAndUndo", c.testRollout},
		{"DeletePod", c.testDeletePod},
		{"KillContainer", c.testKillContainer},
		{"SwapPlugins", c.testSwapPlugins},
		{"Upgrade", c.testUpgrade},
		{"KillPlugins", c.testKillPlugins},
		{"KillKernel", c.testKillKernel},
		{"WrongInput", c.testWrongInput},
		{"DownUp", c.testDownUp},
		{"InProcess", c.testInProcess},
		{"Uninstall", func(t *testing.T) { c.testUninstall(t, before) }},
	} {
		if !t.Run(step.name, step.run) {
			c.diagnose(t)
			t.Fatalf("%s failed; the steps after it build on it", step.name)
		}
	}
}

type cluster struct {
	*machine
	url string
}

func (c *cluster) testUp(t *testing.T) {
	begin := time.Now()
	out := c.keelson(t, "up")
	t.Logf("keelson up took %.1f s:\n%s", time.Since(begin).Seconds(), out)
	for _, want := range append([]string{"Ready in"}, builtins...) {
		if !strings.Contains(out, want) {
			t.Errorf("keelson up does not tell of %q", want)
		}
	}
	nodes := c.kubectl(t, "get", "nodes", "--no-headers")
	if !strings.Contains(nodes, " Ready ") {
		t.Errorf("kubectl get nodes: %s", nodes)
	}
	if again := c.keelson(t, "up"); !strings.Contains(again, "runs already") {
		t.Errorf("a second keelson up does not say that the server runs: %s", again)
	}
}

// importImages puts those of the example into the runtime.
func importImages(t *testing.T, c *cluster) {
	t.Helper()
	tars, err := filepath.Glob(filepath.Join(repository, ".cache/images/*.tar"))
	if err != nil || len(tars) == 0 {
		t.Fatalf("no images in .cache/images (test/example/images makes them): %v", err)
	}
	for _, tar := range tars {
		abs, err := filepath.Abs(tar)
		if err != nil {
			t.Fatal(err)
		}
		c.keelson(t, "image", "import", abs)
	}
}

func (c *cluster) testExample(t *testing.T) {
	importImages(t, c)
	if list := c.keelson(t, "image", "list"); !strings.Contains(list, "example/counter:v2") {
		t.Errorf("keelson image list lacks example/counter:v2:\n%s", list)
	}
	c.kubectl(t, "apply", "-f", "test/example/manifests")
	c.rolledOut(t)
	client := c.client()
	eventually(t, time.Minute, "the first answer", func() error {
		body, err := c.get(client, c.url)
		if err == nil && !strings.HasPrefix(body, "Ahoy from Keelson: visit 1, counter v1, pod counter-") {
			t.Fatalf("first answer: %s", body)
		}
		return err
	})
}

// rolledOut waits until all of the example is up to date and available.
func (c *cluster) rolledOut(t *testing.T) {
	t.Helper()
	for _, name := range []string{"redis", "counter", "front"} {
		c.kubectl(t, "--namespace=example", "rollout", "status", "--timeout=90s", "deployment/"+name)
	}
}

func (c *cluster) testScale(t *testing.T) {
	l := startLoad(c.machine, c.url)
	for _, replicas := range []int{4, 1, 2} {
		c.kubectl(t, "--namespace=example", "scale", "deployment/counter", fmt.Sprintf("--replicas=%d", replicas))
		c.rolledOut(t)
		eventually(t, 60*time.Second, fmt.Sprintf("%d pods of counter", replicas), func() error {
			if pods := c.pods(t, "app=counter"); len(pods) != replicas {
				return fmt.Errorf("there are %d", len(pods))
			}
			return nil
		})
	}
	l.endWithoutFailure(t)
}

func (c *cluster) testRollout(t *testing.T) {
	l := startLoad(c.machine, c.url)
	c.kubectl(t, "--namespace=example", "set", "image", "deployment/counter", "counter=example/counter:v2")
	c.rolledOut(t)
	c.answersOnly(t, "v2")
	c.kubectl(t, "--namespace=example", "rollout", "undo", "deployment/counter")
	c.rolledOut(t)
	c.answersOnly(t, "v1")
	if seen := l.endWithoutFailure(t); seen["v1"] == 0 || seen["v2"] == 0 {
		t.Errorf("both versions should have answered: %v", seen)
	}
	history := c.kubectl(t, "--namespace=example", "rollout", "history", "deployment/counter")
	if !strings.Contains(history, "2") || !strings.Contains(history, "3") {
		t.Errorf("rollout history: %s", history)
	}
}

// answersOnly waits until 20 answers in a row are of one version.
func (c *cluster) answersOnly(t *testing.T, version string) {
	t.Helper()
	client := c.client()
	eventually(t, time.Minute, "answers of "+version, func() error {
		for range 20 {
			body, err := c.get(client, c.url)
			if err != nil {
				return err
			}
			if versionOf(body) != version {
				return fmt.Errorf("got %q", body)
			}
		}
		return nil
	})
}

func (c *cluster) testDeletePod(t *testing.T) {
	l := startLoad(c.machine, c.url)
	victim := c.pods(t, "app=counter")[0]
	c.kubectl(t, "--namespace=example", "delete", "pod", victim.Name)
	c.rolledOut(t)
	for _, pod := range c.pods(t, "app=counter") {
		if pod.UID == victim.UID {
			t.Errorf("pod %s is still there", pod.Name)
		}
	}
	l.endWithoutFailure(t)
}

// testKillContainer kills the process of a container: the kubelet starts it again
// in the same pod, and requests reach the other replica meanwhile.
func (c *cluster) testKillContainer(t *testing.T) {
	l := startLoad(c.machine, c.url)
	victim := c.pods(t, "app=counter")[0]
	pid := containerPID(t, &victim)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 60*time.Second, "restart of the container", func() error {
		for _, pod := range c.pods(t, "app=counter") {
			if pod.UID != victim.UID {
				continue
			}
			s := pod.Status.ContainerStatuses[0]
			if s.RestartCount != 1 || !s.Ready {
				return fmt.Errorf("restarts %d, ready %t", s.RestartCount, s.Ready)
			}
			if s.LastTerminationState.Terminated == nil || s.LastTerminationState.Terminated.ExitCode != 137 {
				t.Errorf("last state should be exit code 137: %+v", s.LastTerminationState)
			}
			return nil
		}
		return fmt.Errorf("pod %s is gone", victim.Name)
	})
	c.answersOnly(t, "v1")
	answers, failures, _ := l.end()
	// Until the kubelet knows, the dead container's address is still in service: at most
	// half of the requests of that moment can fail.
	if answers == 0 || len(failures) > answers/2 {
		t.Errorf("%d requests answered and %d failed, the first: %v", answers, len(failures), first(failures))
	}
	t.Logf("%d requests answered, %d failed", answers, len(failures))
}

func (c *cluster) testKillPlugins(t *testing.T) {
	restarts := c.restarts(t)
	for _, name := range builtins {
		t.Run(name, func(t *testing.T) {
			l := startLoad(c.machine, c.url)
			pid := c.pluginPID(t, name)
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if name == "dns" {
				c.waitInTheSocket(t, pid)
			}
			took := eventually(t, time.Minute, "plugin back", func() error {
				if now := c.pluginPID(t, name); now == pid || now == 0 {
					return fmt.Errorf("pid is %d", now)
				}
				return nil
			})
			t.Logf("back after %.2f s", took.Seconds())
			if name == "dns" {
				// What the process had taken when it was killed is lost, and waits for its resolver's timeout.
				answers, failures, _ := l.end()
				t.Logf("%d requests answered, %d failed", answers, len(failures))
				c.answersOnly(t, "v1")
			} else {
				l.endWithoutFailure(t)
			}
			if now := c.restarts(t); !slices.Equal(now, restarts) {
				t.Errorf("containers changed:\nbefore %v\nafter  %v", restarts, now)
			}
		})
	}
	// Each works still: a new pod has to pass through all of them.
	c.kubectl(t, "--namespace=example", "run", "probe", "--image=example/busybox:1.35", "--restart=Never", "--",
		"wget", "-q", "-O", "-", "http://front")
	eventually(t, 60*time.Second, "a pod that calls front by name", func() error {
		if phase := c.kubectl(t, "--namespace=example", "get", "pod", "probe", "-o", "jsonpath={.status.phase}"); phase != "Succeeded" {
			return fmt.Errorf("phase %s", phase)
		}
		return nil
	})
	if out := c.kubectl(t, "--namespace=example", "logs", "probe"); !strings.HasPrefix(out, "Ahoy from Keelson") {
		t.Errorf("log of the probe: %s", out)
	}
	c.kubectl(t, "--namespace=example", "delete", "pod", "probe")
}

// waitInTheSocket asks a DNS that is gone: the kernel keeps its sockets, and the next process
// answers.
func (c *cluster) waitInTheSocket(t *testing.T, pid int) {
	t.Helper()
	eventually(t, time.Minute, "the end of the killed process", func() error {
		if err := syscall.Kill(pid, 0); err == nil {
			return errors.New("it is there")
		}
		return nil
	})
	for _, network := range []string{"udp", "tcp"} {
		if err := c.lookUp(t, network)(); err != nil {
			t.Errorf("a look-up by %s after the end of the process: %v", network, err)
		}
	}
}

// testKillKernel kills the kernel while it acknowledges writes: containers and
// requests go on, its plugins end, and each acknowledged object is there again.
func (c *cluster) testKillKernel(t *testing.T) {
	restarts := c.restarts(t)
	kernel := serverPID(t, c.run)
	var plugins []int
	for _, name := range builtins {
		plugins = append(plugins, c.pluginPID(t, name))
	}
	l := startLoad(c.machine, c.url)
	var written []string
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() { // ends when a write fails, or by stop
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			name := "written-" + strconv.Itoa(i)
			if _, code := c.try("kubectl", "--namespace=example", "create", "configmap", name); code != 0 {
				return
			}
			written = append(written, name)
		}
	}()
	time.Sleep(time.Second) // writes go on for that long
	if err := syscall.Kill(kernel, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	close(stop)
	<-done
	eventually(t, time.Minute, "end of the plugins", func() error {
		for _, pid := range plugins {
			if alive(pid) {
				return fmt.Errorf("process %d lives", pid)
			}
		}
		return nil
	})
	// Without its plugins the node answers no look-up of names; all else goes on.
	answers, failures, _ := l.end()
	t.Logf("%d requests answered, %d failed", answers, len(failures))
	c.keelson(t, "up")
	if len(written) == 0 {
		t.Error("nothing was written before the kill")
	}
	for _, name := range written {
		c.kubectl(t, "--namespace=example", "get", "configmap", name)
	}
	t.Logf("%d acknowledged writes found again", len(written))
	if now := c.restarts(t); !slices.Equal(now, restarts) {
		t.Errorf("containers changed:\nbefore %v\nafter  %v", restarts, now)
	}
	c.answersOnly(t, "v1")
}

func (c *cluster) testDownUp(t *testing.T) {
	uid := c.kubectl(t, "get", "namespace", "example", "-o", "jsonpath={.metadata.uid}")
	c.keelson(t, "down")
	if out, code := c.try("kubectl", "get", "nodes"); code == 0 {
		t.Errorf("the API answers after keelson down: %s", out)
	}
	if left := processesWith(t, c.data); len(left) > 0 {
		t.Errorf("processes after keelson down: %v", left)
	}
	c.keelson(t, "up")
	if now := c.kubectl(t, "get", "namespace", "example", "-o", "jsonpath={.metadata.uid}"); now != uid {
		t.Errorf("namespace example had uid %s, has %s", uid, now)
	}
	c.rolledOut(t)
	c.answersOnly(t, "v1")
}

func (c *cluster) testUninstall(t *testing.T, before inventory) {
	c.keelson(t, "uninstall", "--yes")
	after := takeInventory(t)
	for _, left := range after.beyond(before) {
		t.Errorf("left behind: %s", left)
	}
	for _, show := range [][]string{{"ip", "-o", "link"}, {"nft", "list", "ruleset"}} {
		if out := must(t, c.command(show[0], show[1:]...)); strings.Contains(out, "keelson") {
			t.Errorf("%s: %s", strings.Join(show, " "), out)
		}
	}
	for _, path := range []string{c.data, c.run, c.kubeconfig} {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is left behind (%v)", path, err)
		}
	}
}

// pods are the example's pods with that label that are not on their way out.
func (c *cluster) pods(t *testing.T, selector string) []corev1.Pod {
	t.Helper()
	out := c.kubectl(t, "--namespace=example", "get", "pods", "--selector="+selector, "-o", "json")
	var list corev1.PodList
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

// restarts lists every container of the example with its start and restart count.
func (c *cluster) restarts(t *testing.T) []string {
	t.Helper()
	var list []string
	for _, pod := range c.pods(t, "app") {
		for _, s := range pod.Status.ContainerStatuses {
			if s.State.Running == nil {
				t.Fatalf("pod %s: container %s does not run: %+v", pod.Name, s.Name, s.State)
			}
			list = append(list, fmt.Sprintf("%s/%s %s restarts=%d since %s", pod.Name, s.Name, s.ContainerID, s.RestartCount, s.State.Running.StartedAt))
		}
	}
	slices.Sort(list)
	return list
}

// pluginPID is the process of a running plugin, 0 while it does not run.
func (c *cluster) pluginPID(t *testing.T, name string) int {
	t.Helper()
	out := c.kubectl(t, "get", "plugins.keelson.dev", name, "-o", "jsonpath={.status.phase} {.status.pid}")
	phase, pid, _ := strings.Cut(out, " ")
	n, err := strconv.Atoi(pid)
	if phase != "Running" || err != nil {
		return 0
	}
	return n
}

func (c *cluster) diagnose(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{
		{"kubectl", "get", "nodes,plugins", "-o", "wide"},
		{"kubectl", "get", "all", "--all-namespaces", "-o", "wide"},
		{"kubectl", "get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"},
		{"kubectl", "describe", "pods", "--namespace=example"},
	} {
		out, _ := c.try(args[0], args[1:]...)
		t.Logf("%s:\n%s", strings.Join(args, " "), out)
	}
	for _, name := range builtins {
		out, _ := c.try("keelson", "plugins", "logs", name, "--tail=25")
		t.Logf("log of %s:\n%s", name, out)
	}
	if log, err := os.ReadFile(filepath.Join(c.data, "server.log")); err == nil {
		t.Logf("log of the server:\n%s", log[max(0, len(log)-8<<10):])
	}
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}
