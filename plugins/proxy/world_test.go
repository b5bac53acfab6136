package proxy

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"keelson.dev/keelson/plugins/kit/kittest"
	"keelson.dev/keelson/plugins/kit/nstest"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// world is a node with pods, and a client outside.
type world struct {
	t       testing.TB
	client  *fake.Clientset
	bridge  netlink.Link
	outside string
	pods    map[string]string // path of the namespace, by address
	stop    func()
	server  *Server
}

func newWorld(t testing.TB, pods ...string) *world {
	t.Helper()
	nstest.Require(t)
	w := &world{t: t, client: kittest.Clientset(), pods: map[string]string{}}
	w.outside = nstest.Uplink(t, "up0", nodeIP+"/24", "192.0.2.1")
	w.bridge = nstest.Bridge(t, "keelson0", gateway+"/24", "fd00:3::1/64")
	for _, cidr := range []string{"10.96.0.0/12", "fd96::/108"} { // as the network plugin does
		dst, err := netlink.ParseIPNet(cidr)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: w.bridge.Attrs().Index, Dst: dst}); err != nil {
			t.Fatal(err)
		}
	}
	for _, addr := range pods {
		w.pods[addr] = nstest.New(t)
		gw := gateway
		if strings.Contains(addr, ":") {
			gw = "fd00:3::1"
		}
		nstest.Join(t, w.bridge, w.pods[addr], addr, gw)
		nstest.Echo(t, w.pods[addr], addr, 8080)
	}
	t.Cleanup(func() {
		if err := Purge(context.Background(), "", "", kittest.Logger(t)); err != nil {
			t.Errorf("Purge: %v", err)
		}
	})
	return w
}

// start runs the plugin; start again restarts it.
func (w *world) start() {
	w.t.Helper()
	if w.stop != nil {
		w.stop()
	}
	env := kittest.NewEnv(w.t, Plugin)
	env.Node.Addresses = []netip.Addr{netip.MustParseAddr(nodeIP)}
	env.Cluster.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00::/16")}
	env.Cluster.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd96::/108")}
	var cfg Config
	cfg.SetDefaults()
	var err error
	if w.server, err = newServer(env, cfg, w.client); err != nil {
		w.t.Fatal(err)
	}
	w.stop = kittest.Run(w.t, w.server)
	w.eventually("the proxy is ready", func() error {
		if state, msg := env.Health.Get(); state != pluginv1.State_STATE_READY {
			return fmt.Errorf("%v %s", state, msg)
		}
		return nil
	})
}

func (w *world) eventually(what string, check func() error) {
	w.t.Helper()
	kittest.Eventually(w.t, what, check)
}

func (w *world) put(svc *corev1.Service, s *discoveryv1.EndpointSlice) {
	w.t.Helper()
	ctx := context.Background()
	services, slices := w.client.CoreV1().Services("default"), w.client.DiscoveryV1().EndpointSlices("default")
	if svc != nil {
		if _, err := services.Update(ctx, svc, metav1.UpdateOptions{}); err != nil {
			if _, err := services.Create(ctx, svc, metav1.CreateOptions{}); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	if s != nil {
		if _, err := slices.Update(ctx, s, metav1.UpdateOptions{}); err != nil {
			if _, err := slices.Create(ctx, s, metav1.CreateOptions{}); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// answers asks until the answer is the one wanted.
func (w *world) answers(from, network, target, want string) {
	w.t.Helper()
	var got string
	deadline := time.Now().Add(time.Minute)
	for {
		var err error
		if got, err = nstest.Ask(w.t, w.pods[from], network, target); err != nil {
			got = err.Error()
		}
		if strings.HasPrefix(got, want) {
			return
		}
		if time.Now().After(deadline) {
			w.t.Errorf("%s to %s %s: got %q, want %q", from, network, target, got, want)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// from returns the answer to a client outside the cluster.
func (w *world) fromOutside(network, target string) string {
	w.t.Helper()
	got, err := nstest.Ask(w.t, w.outside, network, target)
	if err != nil {
		return "error: " + err.Error()
	}
	return got
}

func (w *world) wantHealth(port, status int) {
	w.t.Helper()
	w.eventually("health check port", func() error {
		resp, err := http.Get(fmt.Sprintf("http://%s:%d/", nodeIP, port))
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		if resp.StatusCode != status {
			return fmt.Errorf("got status %d, want %d", resp.StatusCode, status)
		}
		return nil
	})
}

// service makes a service with ports 80 for TCP and UDP, and its slice.
func service(name, ip string, change func(*corev1.Service)) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip}, Ports: []corev1.ServicePort{
			{Name: "tcp", Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromInt32(8080)},
			{Name: "udp", Protocol: corev1.ProtocolUDP, Port: 80, TargetPort: intstr.FromInt32(8080)},
		}},
	}
	if change != nil {
		change(svc)
	}
	return svc
}

func slice(service string, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	kind := discoveryv1.AddressTypeIPv4
	if len(endpoints) > 0 && strings.Contains(endpoints[0].Addresses[0], ":") {
		kind = discoveryv1.AddressTypeIPv6
	}
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: service + "-abc", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: kind, Endpoints: endpoints,
		Ports: []discoveryv1.EndpointPort{
			{Name: new("tcp"), Protocol: ptr.To(corev1.ProtocolTCP), Port: new(int32(8080))},
			{Name: new("udp"), Protocol: ptr.To(corev1.ProtocolUDP), Port: new(int32(8080))},
		},
	}
}

func ready(addr string) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{Addresses: []string{addr}, NodeName: new("test-node"), Conditions: discoveryv1.EndpointConditions{Ready: new(true)}}
}

func elsewhere(addr string) discoveryv1.Endpoint {
	e := ready(addr)
	e.NodeName = new("other-node")
	return e
}

func ending(addr string) discoveryv1.Endpoint {
	e := ready(addr)
	e.Conditions = discoveryv1.EndpointConditions{Ready: new(false), Serving: new(true), Terminating: new(true)}
	return e
}
