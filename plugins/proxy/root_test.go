package proxy

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"keelson.dev/keelson/plugins/kit/kittest"
	"keelson.dev/keelson/plugins/kit/nft"
	"keelson.dev/keelson/plugins/kit/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

const (
	nodeIP  = "192.0.2.10"
	gateway = "10.244.3.1"
)

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
				if got, err := nstest.Ask(t, w.pods[podA], network, target); err == nil || !strings.Contains(err.Error(), "refused") {
					t.Errorf("%s %s: got %q, %v, want refused", network, target, got, err)
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
