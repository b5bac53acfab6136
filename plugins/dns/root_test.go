package dns

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"keelson.dev/keelson/plugins/kit/kittest"
	"keelson.dev/keelson/plugins/kit/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// start runs the plugin on the node.
func start(t *testing.T, client *fake.Clientset) (stop func()) {
	t.Helper()
	env := kittest.NewEnv(t, Plugin)
	cfg := Config{ResolvConf: "/dev/null"}
	cfg.SetDefaults()
	s, err := newServer(env, cfg, client)
	if err != nil {
		t.Fatal(err)
	}
	return kittest.Run(t, s)
}

// asks sends a query from the namespace ("" is the node) over the network.
func asks(t *testing.T, path, network, server, name string) error {
	t.Helper()
	f := func() error {
		c := dns.Client{Net: network, Timeout: time.Second}
		got, _, err := c.Exchange(query(name, dns.TypeA), server+":53")
		if err != nil {
			return err
		}
		if len(got.Answer) != 1 {
			return fmt.Errorf("got %s with %d answers, want one", dns.RcodeToString[got.Rcode], len(got.Answer))
		}
		return nil
	}
	if path == "" {
		return f()
	}
	return nstest.In(t, path, f)
}

// Pods and the node are answered on both addresses, strict reverse path filter or not,
// while changes come in, and after a restart; Purge leaves nothing.
func TestRootServes(t *testing.T) {
	nstest.Require(t)
	for _, name := range []string{"all", "default"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+name+"/rp_filter", []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range map[string]string{"arp_ignore": "2", "arp_announce": "2"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/"+name, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	nstest.Uplink(t, "up0", "192.0.2.10/24", "192.0.2.1")
	bridge := nstest.Bridge(t, "keelson0", "10.244.3.1/24")
	pod := nstest.New(t)
	nstest.Join(t, bridge, pod, "10.244.3.2", "10.244.3.1")
	client := kittest.Clientset(cluster()...)
	stop := start(t, client)
	ask := func(t *testing.T) {
		t.Helper()
		for _, path := range []string{"", pod} {
			for _, network := range []string{"udp", "tcp"} {
				for _, server := range []string{"10.96.0.10", "169.254.20.10"} {
					kittest.Eventually(t, path+" asks "+network+" "+server, func() error {
						return asks(t, path, network, server, "web.default.svc.cluster.local.")
					})
				}
			}
		}
	}
	ask(t)
	svc, err := client.CoreV1().Services(serviceNamespace).Get(t.Context(), serviceName, metav1.GetOptions{})
	if err != nil || svc.Spec.ClusterIP != "10.96.0.10" || svc.Labels[nodeLocal] != "true" {
		t.Errorf("service of cluster DNS: got %v, %v, want 10.96.0.10 with label %s", svc, err, nodeLocal)
	}
	kittest.Eventually(t, "name of the DNS service itself", func() error {
		return asks(t, pod, "udp", "10.96.0.10", "kube-dns.kube-system.svc.cluster.local.")
	})
	added := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "new"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.99"}}
	if _, err := client.CoreV1().Services("default").Create(t.Context(), added, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	kittest.Eventually(t, "a new service", func() error { return asks(t, pod, "udp", "10.96.0.10", "new.default.svc.cluster.local.") })

	stop()
	stop = start(t, client)
	ask(t)
	stop()
	for range 2 {
		if err := Purge(context.Background(), t.TempDir(), t.TempDir(), kittest.Logger(t)); err != nil {
			t.Fatalf("Purge: %v", err)
		}
	}
	if link, err := netlink.LinkByName(linkName); err == nil {
		t.Errorf("link after Purge: got %v, want none", link)
	}
}
