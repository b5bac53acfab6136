package main

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/plugins/kit/kittest"
	"keelson.dev/keelson/plugins/kit/nstest"
	networkv1 "keelson.dev/keelson/proto/network/v1"
	"keelson.dev/keelson/proto/network/v1/networktest"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
	"keelson.dev/keelson/proto/plugin/v1/plugintest"
)

// TestMain runs the tests, as root, in a network namespace of their own, which plays the
// node.
func TestMain(m *testing.M) { nstest.Main(m) }

// TestContract passes the plugin through the suite that every plugin passes. Without an API
// the node has no range, so that nothing of the machine is touched.
func TestContract(t *testing.T) {
	plugintest.Run(t, plugintest.Options{
		New: func(t *testing.T) plugintest.Subject {
			client, exited := kittest.Client(t, plugin)
			return plugintest.Subject{Client: client, Exited: exited}
		},
		Configure: func(t *testing.T) *pluginv1.ConfigureRequest {
			dir := t.TempDir()
			return &pluginv1.ConfigureRequest{DataDir: t.TempDir(), RunDir: dir, Listen: dir + "/listen.sock"}
		},
	})
}

// TestRootKind passes it through the suite of its kind.
func TestRootKind(t *testing.T) {
	nstest.Require(t)
	networktest.Run(t, networktest.Options{
		New: func(t *testing.T) networkv1.NetworkServiceClient {
			return serve(t, func(n *network) { n.client = kittest.Clientset(node("10.249.7.0/24")) })
		},
		Netns: func(t *testing.T) (string, func()) {
			path := nstest.New(t)
			return path, func() { nstest.Remove(path) }
		},
	})
}

func node(cidrs ...string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "test-node"}, Spec: corev1.NodeSpec{PodCIDRs: cidrs}}
}

// serve runs the plugin until the test ends, and waits until it is ready.
func serve(t *testing.T, change func(*network)) networkv1.NetworkServiceClient {
	t.Helper()
	env := kittest.NewEnv(t, plugin)
	n, err := newNetwork(env)
	if err != nil {
		t.Fatal(err)
	}
	change(n)
	kittest.Run(t, n)
	client := networkv1.NewNetworkServiceClient(kittest.Dial(t, env.Listen))
	kittest.Eventually(t, "network is ready", func() error {
		got, err := client.Status(t.Context(), &networkv1.StatusRequest{})
		if err == nil && !got.GetReady() {
			err = errors.New(got.GetMessage())
		}
		return err
	})
	return client
}

// TestRootOthers: an address that a pod of the network before has is not given out again.
func TestRootOthers(t *testing.T) {
	nstest.Require(t)
	before := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "before"}, Spec: corev1.PodSpec{NodeName: "test-node"},
		Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.249.9.2"}}}}
	client := serve(t, func(n *network) { n.client = kittest.Clientset(node("10.249.9.0/24"), before) })
	got, err := client.Setup(t.Context(), &networkv1.SetupRequest{SandboxId: "new", Netns: nstest.New(t)})
	if err != nil || got.GetAddresses()[0] != "10.249.9.3" {
		t.Errorf("got %v, %v, want the address after the one that is taken", got, err)
	}
}

// TestRootTraffic: pods reach each other and the node.
func TestRootTraffic(t *testing.T) {
	nstest.Require(t)
	client := serve(t, func(n *network) { n.config.PodCIDR = "10.249.8.0/24" })
	pod := func(id string) (netns, address string) {
		netns = nstest.New(t)
		got, err := client.Setup(t.Context(), &networkv1.SetupRequest{SandboxId: id, Netns: netns})
		if err != nil {
			t.Fatal(err)
		}
		return netns, got.GetAddresses()[0]
	}
	a, addressA := pod("a")
	b, addressB := pod("b")
	nstest.Echo(t, b, "b", 80)
	nstest.Echo(t, "", "node", 81)
	for _, c := range []struct{ from, to, want string }{
		{a, addressB + ":80", "b " + addressA},
		{"", addressB + ":80", "b 10.249.8.1"},
		{a, "10.249.8.1:81", "node " + addressA},
	} {
		if got, err := nstest.Ask(t, c.from, "tcp", c.to); err != nil || got != c.want {
			t.Errorf("%s to %s: got %q, %v, want %q", c.from, c.to, got, err, c.want)
		}
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []struct{ config, want string }{
		{`{"podCIDR":"10.1.0.0/24"}`, ""},
		{`{"podCIDR":"10.1.0.0/31"}`, "podCIDR: Invalid value"},
		{`{"podCIDR":"fd00::/64"}`, "podCIDR: Invalid value"},
		{`{"cidr":""}`, "unknown field"},
	} {
		env := kittest.NewEnv(t, plugin)
		env.Config = []byte(c.config)
		_, err := newNetwork(env)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.config, err, c.want)
		}
	}
}
