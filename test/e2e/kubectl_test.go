package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// testKubectl goes through what people do all day, with the real kubectl and
// with the one that is built in.
func (c *cluster) testKubectl(t *testing.T) {
	pod := c.pods(t, "app=counter")[0].Name
	front := c.pods(t, "app=front")[0].Name
	link := filepath.Join(t.TempDir(), "kubectl")
	if err := os.Symlink(c.bin, link); err != nil {
		t.Fatal(err)
	}
	for _, kubectl := range [][]string{{"kubectl"}, {"keelson"}, {"keelson", "kubectl"}, {link}} {
		t.Run(filepath.Base(kubectl[0])+strings.Join(kubectl[1:], "-"), func(t *testing.T) {
			run := func(args ...string) string {
				return must(t, c.command(kubectl[0], append(kubectl[1:], args...)...))
			}
			for _, test := range []struct {
				args []string
				want []string
			}{
				{[]string{"get", "pods", "-n", "example", "-o", "wide"}, []string{"READY", "Running", "10.244."}},
				{[]string{"get", "deploy,svc,cm,secret,sa", "-n", "example"}, []string{"deployment.apps/counter", "service/front", "NodePort", "configmap/kube-root-ca.crt", "serviceaccount/default"}},
				{[]string{"get", "endpointslices", "-n", "example"}, []string{"counter", "IPv4"}},
				{[]string{"describe", "deployment", "counter", "-n", "example"}, []string{"RollingUpdateStrategy", "NewReplicaSet", "ScalingReplicaSet"}},
				{[]string{"describe", "pod", pod, "-n", "example"}, []string{"Scheduled", "Started"}},
				{[]string{"describe", "node"}, []string{"Allocated resources", "10.244.0.0/24"}},
				{[]string{"logs", pod, "-n", "example"}, []string{"Counter serves"}},
				{[]string{"exec", front, "-n", "example", "-c", "nginx", "--", "cat", "/etc/front/site.conf"}, []string{"proxy_pass"}},
				{[]string{"exec", front, "-n", "example", "-c", "nginx", "--", "sh", "-c", "id -u; hostname"}, []string{"0", front}},
				{[]string{"auth", "can-i", "create", "pods"}, []string{"yes"}},
				{[]string{"api-resources"}, []string{"deployments", "apps/v1", "keelson.dev/v1alpha1"}},
				{[]string{"explain", "pod.spec.containers.image"}, []string{"FIELD: image"}},
				{[]string{"get", "--raw", "/readyz"}, []string{"ok"}},
				{[]string{"version"}, []string{"v1.37"}},
			} {
				if err := contains(run(test.args...), test.want...); err != nil {
					t.Errorf("%s: %v", strings.Join(test.args, " "), err)
				}
			}
		})
	}
	t.Run("PortForward", func(t *testing.T) { c.testPortForward(t, front) })
	t.Run("Copy", func(t *testing.T) { c.testCopy(t, front) })
	t.Run("Apply", c.testApply)
	t.Run("Attach", c.testAttach)
	t.Run("Plugins", c.testPluginsCommand)
}

func (c *cluster) testPortForward(t *testing.T, pod string) {
	cmd := c.command("kubectl", "-n", "example", "port-forward", "pod/"+pod, "18080:80")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	client := c.client()
	eventually(t, time.Minute, "an answer through the forwarded port", func() error {
		body, err := c.get(client, "http://127.0.0.1:18080/")
		if err == nil {
			err = contains(body, "Ahoy")
		}
		return err
	})
}

func (c *cluster) testCopy(t *testing.T, pod string) {
	from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
	if err := os.WriteFile(from, []byte("cargo"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.kubectl(t, "-n", "example", "cp", "-c", "nginx", from, pod+":/tmp/cargo")
	c.kubectl(t, "-n", "example", "cp", "-c", "nginx", pod+":/tmp/cargo", to)
	if data, err := os.ReadFile(to); err != nil || string(data) != "cargo" {
		t.Errorf("came back as %q, %v", data, err)
	}
}

// testApply changes one object in each way that kubectl can.
func (c *cluster) testApply(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cm.yaml")
	write := func(data string) {
		text := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cargo, namespace: example, labels: {hold: one}}\ndata: " + data + "\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("{a: '1', b: '2'}")
	c.kubectl(t, "apply", "-f", path)
	write("{a: '3'}")
	c.kubectl(t, "apply", "-f", path)
	for _, patch := range [][]string{
		{"--type=json", `-p=[{"op":"add","path":"/data/c","value":"4"}]`},
		{"--type=merge", `-p={"data":{"d":"5"}}`},
		{"--type=strategic", `-p={"data":{"e":"6"}}`},
	} {
		c.kubectl(t, append([]string{"-n", "example", "patch", "configmap", "cargo"}, patch...)...)
	}
	if got := c.kubectl(t, "-n", "example", "get", "cm", "cargo", "-o", "jsonpath={.data}"); got != `{"a":"3","c":"4","d":"5","e":"6"}` {
		t.Errorf("data is %s", got)
	}
	write("{a: '7'}")
	if out, code := c.try("kubectl", "apply", "--server-side", "--field-manager=other", "-f", path); code == 0 || !strings.Contains(out, "conflict") {
		t.Errorf("a conflict was not refused: %s", out)
	}
	c.kubectl(t, "apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", path)
	if got := c.kubectl(t, "-n", "example", "get", "cm", "-l", "hold=one", "-o", "name"); got != "configmap/cargo" {
		t.Errorf("by label: %s", got)
	}
	c.kubectl(t, "-n", "example", "delete", "configmap", "cargo")
}

func (c *cluster) testAttach(t *testing.T) {
	out := must(t, c.command("kubectl", "-n", "example", "run", "attached", "--image=example/busybox:1.35", "--restart=Never",
		"--attach", "--quiet", "--rm", "--", "sh", "-c", "sleep 1; echo on board"))
	if err := contains(out, "on board"); err != nil {
		t.Error(err)
	}
}

func (c *cluster) testPluginsCommand(t *testing.T) {
	out := c.keelson(t, "plugins", "list")
	if err := contains(out, append([]string{"NAME", "Running"}, builtins...)...); err != nil {
		t.Error(err)
	}
	pid := c.pluginPID(t, "scheduler")
	c.keelson(t, "plugins", "restart", "scheduler")
	eventually(t, time.Minute, "another process", func() error {
		if now := c.pluginPID(t, "scheduler"); now == 0 || now == pid {
			return fmt.Errorf("pid %d", now)
		}
		return nil
	})
	if out := c.keelson(t, "plugins", "logs", "scheduler", "--tail=5"); out == "" {
		t.Error("no log")
	}
}
