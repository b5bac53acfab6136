package proxy

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
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
	"keelson.dev/keelson/plugins/kit/nft"
	"keelson.dev/keelson/plugins/kit/nstest"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

func TestMain(m *testing.M) { nstest.Main(m) }

const (
	nodeIP  = "192.0.2.10"
	gateway = "10.244.3.1"
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
	w := &world{t: t, client: fake.NewClientset(), pods: map[string]string{}}
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
	w.server = newServer(env, cfg, w.client)
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
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
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
	deadline := time.Now().Add(10 * time.Second)
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

const (
	podA = "10.244.3.2"
	podB = "10.244.3.3"
	podC = "10.244.3.4"
)

func bridgeNF(t *testing.T, f func(t *testing.T)) {
	for _, on := range []string{"0", "1"} {
		t.Run("bridge-nf="+on, func(t *testing.T) {
			nstest.Require(t)
			setSysctl(t, "bridge/bridge-nf-call-iptables", on)
			f(t)
		})
	}
}

func TestRootClusterIP(t *testing.T) {
	bridgeNF(t, func(t *testing.T) {
		w := newWorld(t, podA, podB, podC)
		w.put(service("web", "10.96.0.20", nil), slice("web", ready(podB)))
		w.put(service("empty", "10.96.0.30", nil), slice("empty"))
		w.put(service("local-dns", "10.96.0.10", func(s *corev1.Service) { s.Labels = map[string]string{nodeLocal: "true"} }), nil)
		w.start()
		for _, network := range []string{"tcp", "udp"} {
			w.answers(podA, network, "10.96.0.20:80", podB+" "+podA) // the client's address is kept
			w.answers("", network, "10.96.0.20:80", podB)
			w.answers(podB, network, "10.96.0.20:80", podB+" "+gateway) // hairpin
			for _, target := range []string{"10.96.0.30:80", "10.96.0.20:81", "10.111.0.1:80"} {
				start := time.Now()
				if got, err := nstest.Ask(t, w.pods[podA], network, target); err == nil || !strings.Contains(err.Error(), "refused") || time.Since(start) > time.Second {
					t.Errorf("%s %s: got %q, %v after %s, want refused at once", network, target, got, err, time.Since(start))
				}
			}
		}
		if got, err := nstest.Ask(t, "", "tcp", "10.96.0.30:80"); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("node to a service without endpoints: got %q, %v, want refused", got, err)
		}
		w.put(nil, slice("empty", ready(podC)))
		w.answers(podA, "tcp", "10.96.0.30:80", podC)
		w.answers(podA, "udp", "10.96.0.30:80", podC)
		w.put(nil, slice("empty", ending(podC)))
		w.answers(podA, "tcp", "10.96.0.30:80", podC) // nothing better
		w.put(nil, slice("empty", ending(podC), ready(podB)))
		w.answers(podA, "tcp", "10.96.0.30:80", podB)
		if err := w.client.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		w.eventually("a deleted service is refused", func() error {
			if got, err := nstest.Ask(t, w.pods[podA], "tcp", "10.96.0.20:80"); err == nil {
				return fmt.Errorf("got %q", got)
			}
			return nil
		})
	})
}

func TestRootAllEndpointsGetConnections(t *testing.T) {
	w := newWorld(t, podA, podB, podC)
	w.put(service("web", "10.96.0.20", nil), slice("web", ready(podA), ready(podB), ready(podC)))
	w.start()
	seen := map[string]int{}
	for range 60 {
		got, err := nstest.Ask(t, w.pods[podA], "tcp", "10.96.0.20:80")
		if err != nil {
			t.Fatal(err)
		}
		seen[strings.Fields(got)[0]]++
	}
	for _, pod := range []string{podA, podB, podC} {
		if seen[pod] < 5 { // of 20 expected
			t.Errorf("connections by endpoint: got %v, want some 20 each", seen)
		}
	}
}

func TestRootDualStack(t *testing.T) {
	w := newWorld(t, "fd00:3::2", "fd00:3::3")
	w.put(service("web", "fd96::20", nil), slice("web", ready("fd00:3::3")))
	w.start()
	w.answers("fd00:3::2", "tcp", "[fd96::20]:80", "fd00:3::3 fd00:3::2")
	w.answers("fd00:3::2", "udp", "[fd96::20]:80", "fd00:3::3")
	w.answers("fd00:3::3", "tcp", "[fd96::20]:80", "fd00:3::3 fd00:3::1")
	if _, err := nstest.Ask(t, w.pods["fd00:3::2"], "tcp", "[fd96::21]:80"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("unassigned address: got %v, want refused", err)
	}
}

func TestRootExternal(t *testing.T) {
	bridgeNF(t, func(t *testing.T) {
		w := newWorld(t, podA, podB)
		external := func(policy corev1.ServiceExternalTrafficPolicy, base int32) func(*corev1.Service) {
			return func(s *corev1.Service) {
				s.Spec.Type, s.Spec.ExternalTrafficPolicy = corev1.ServiceTypeLoadBalancer, policy
				s.Spec.Ports[0].NodePort, s.Spec.Ports[1].NodePort = base, base
				s.Spec.ExternalIPs = []string{fmt.Sprintf("203.0.113.%d", base-30000)}
				s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: fmt.Sprintf("203.0.113.%d", base-29900)}}
				if policy == corev1.ServiceExternalTrafficPolicyLocal {
					s.Spec.HealthCheckNodePort = base + 1000
				}
			}
		}
		w.put(service("cluster", "10.96.0.20", external(corev1.ServiceExternalTrafficPolicyCluster, 30001)), slice("cluster", ready(podB)))
		w.put(service("local", "10.96.0.21", external(corev1.ServiceExternalTrafficPolicyLocal, 30002)), slice("local", ready(podB)))
		w.start()
		for _, network := range []string{"tcp", "udp"} {
			for _, target := range []string{nodeIP + ":30001", "203.0.113.1:80", "203.0.113.101:80"} {
				if got := w.fromOutside(network, target); got != podB+" "+gateway {
					t.Errorf("outside to %s %s: got %q, want %s masqueraded", network, target, got, podB)
				}
				w.answers(podA, network, target, podB)
				w.answers(podB, network, target, podB)
				w.answers("", network, target, podB)
			}
			for _, target := range []string{nodeIP + ":30002", "203.0.113.2:80", "203.0.113.102:80"} {
				if got := w.fromOutside(network, target); got != podB+" 192.0.2.1" {
					t.Errorf("outside to %s %s: got %q, want %s with the client's address", network, target, got, podB)
				}
				w.answers(podA, network, target, podB)
				w.answers("", network, target, podB)
			}
		}
		w.wantHealth(31002, http.StatusOK)
		w.put(nil, slice("local", elsewhere(podB)))
		w.wantHealth(31002, http.StatusServiceUnavailable)
		w.answers(podA, "tcp", nodeIP+":30002", podB) // inside, an endpoint elsewhere will do
		if got := w.fromOutside("tcp", nodeIP+":30002"); !strings.Contains(got, "timeout") {
			t.Errorf("outside, no endpoint on the node: got %q, want no answer", got)
		}
		w.put(nil, slice("cluster"))
		w.eventually("a node port without endpoints is refused", func() error {
			if got := w.fromOutside("tcp", nodeIP+":30001"); !strings.Contains(got, "refused") {
				return fmt.Errorf("got %q", got)
			}
			return nil
		})
		w.put(service("cluster", "10.96.0.20", func(s *corev1.Service) {
			external(corev1.ServiceExternalTrafficPolicyCluster, 30001)(s)
			s.Spec.LoadBalancerSourceRanges = []string{"198.51.100.0/24"}
		}), slice("cluster", ready(podB)))
		w.eventually("source ranges hold", func() error {
			if got := w.fromOutside("tcp", nodeIP+":30001"); !strings.HasPrefix(got, podB) {
				return fmt.Errorf("node port: got %q", got)
			}
			if got := w.fromOutside("tcp", "203.0.113.101:80"); !strings.Contains(got, "timeout") {
				return fmt.Errorf("load balancer: got %q", got)
			}
			return nil
		})
	})
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

func TestRootInternalTrafficPolicyLocal(t *testing.T) {
	w := newWorld(t, podA, podB, podC)
	w.put(service("web", "10.96.0.20", func(s *corev1.Service) {
		s.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
	}), slice("web", elsewhere(podB), ready(podC)))
	w.start()
	for range 10 {
		w.answers(podA, "tcp", "10.96.0.20:80", podC)
	}
}

// Affinity holds while the endpoint lives, over a restart of the plugin too, and moves
// when the endpoint goes.
func TestRootAffinity(t *testing.T) {
	w := newWorld(t, podA, podB, podC)
	w.put(service("web", "10.96.0.20", func(s *corev1.Service) {
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: new(int32(600))}}
	}), slice("web", ready(podA), ready(podB), ready(podC)))
	w.start()
	ask := func() string {
		got, err := nstest.Ask(t, w.pods[podA], "tcp", "10.96.0.20:80")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(got)[0]
	}
	first := ask()
	same := func(when string) {
		for range 15 {
			if got := ask(); got != first {
				t.Fatalf("%s: got %s, want %s again", when, got, first)
			}
		}
	}
	same("affinity")
	w.start()
	same("affinity after a restart")
	var rest []discoveryv1.Endpoint
	for _, pod := range []string{podA, podB, podC} {
		if pod != first {
			rest = append(rest, ready(pod))
		}
	}
	w.put(nil, slice("web", rest...))
	w.eventually("client moves on", func() error {
		if got := ask(); got == first {
			return fmt.Errorf("still %s", got)
		}
		return nil
	})
	first = ask()
	same("affinity to the next endpoint")
}

// A client that sends from one port for ever follows the endpoints.
func TestRootUDPFollowsEndpoints(t *testing.T) {
	w := newWorld(t, podA, podB, podC)
	w.put(service("dns", "10.96.0.20", func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports[1].NodePort = 30001
	}), slice("dns", ready(podB)))
	w.start()
	for target, path := range map[string]string{"10.96.0.20:80": w.pods[podA], nodeIP + ":30001": w.outside} {
		var conn net.Conn
		err := nstest.In(t, path, func() (err error) { conn, err = net.Dial("udp", target); return err })
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		answer := func() string {
			_ = conn.SetDeadline(time.Now().Add(200 * time.Millisecond))
			buf := make([]byte, 100)
			if _, err := conn.Write([]byte("?")); err != nil {
				return err.Error()
			}
			n, err := conn.Read(buf)
			if err != nil {
				return err.Error()
			}
			return string(buf[:n])
		}
		for _, pod := range []string{podB, podC, podB} {
			w.put(nil, slice("dns", ready(pod)))
			w.eventually("UDP client of "+target+" reaches "+pod, func() error {
				if got := answer(); !strings.HasPrefix(got, pod) {
					return fmt.Errorf("got %q", got)
				}
				return nil
			})
		}
	}
}

// Endpoints come and go, other services change, the plugin restarts: no connection to an
// endpoint that stays may fail.
func TestRootNoConnectionFailsUnderChange(t *testing.T) {
	w := newWorld(t, podA, podB, podC)
	w.put(service("web", "10.96.0.20", nil), slice("web", ready(podB), ready(podC)))
	w.put(service("other", "10.96.0.21", nil), slice("other", ready(podB)))
	w.start()
	ctx, cancel := context.WithCancel(t.Context())
	var asked atomic.Int64
	var clients sync.WaitGroup
	for i := range 3 {
		target := []string{"10.96.0.20:80", "10.96.0.21:80"}[i%2]
		clients.Go(func() {
			for ctx.Err() == nil {
				if _, err := nstest.Ask(t, w.pods[podA], "tcp", target); err != nil {
					t.Errorf("connection %d to %s: %v", asked.Load(), target, err)
					return
				}
				asked.Add(1)
			}
		})
	}
	for i := range 60 {
		if i%2 == 0 {
			w.put(nil, slice("web", ready(podB)))
		} else {
			w.put(nil, slice("web", ready(podB), ready(podC)))
		}
		w.put(service(fmt.Sprint("more", i), fmt.Sprintf("10.96.1.%d", i+1), nil), nil)
		if i%20 == 10 {
			w.start()
		}
		time.Sleep(10 * time.Millisecond) // the pace of the changes
	}
	cancel()
	clients.Wait()
	if asked.Load() < 50 {
		t.Errorf("only %d connections were made", asked.Load())
	}
	t.Logf("%d connections, none failed", asked.Load())
}

func TestRootRepairsFlushedRules(t *testing.T) {
	w := newWorld(t, podA, podB)
	w.put(service("web", "10.96.0.20", nil), slice("web", ready(podB)))
	w.start()
	if err := deleteTables(); err != nil {
		t.Fatal(err)
	}
	if ok, err := w.server.tables[0].intact(); ok || err != nil {
		t.Errorf("intact after the table was deleted: got %v, %v, want false", ok, err)
	}
	w.put(nil, slice("web", ready(podB), ready(podA))) // fails, and is followed by a replacement
	w.answers(podA, "tcp", "10.96.0.20:80", "10.244.3.")
}

func TestRootPurge(t *testing.T) {
	w := newWorld(t, podA)
	w.put(service("web", "10.96.0.20", nil), slice("web", ready(podA)))
	w.start()
	w.stop()
	for range 2 {
		if err := Purge(t.Context(), t.TempDir(), t.TempDir(), kittest.Logger(t)); err != nil {
			t.Fatalf("Purge: %v", err)
		}
	}
	conn, err := nft.NewConn()
	if err != nil {
		t.Fatal(err)
	}
	if tables, err := conn.ListTables(); err != nil || len(tables) != 0 {
		t.Errorf("tables after Purge: got %v, %v, want none", tables, err)
	}
}
