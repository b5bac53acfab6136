package core_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"keelson.dev/keelson/core/apiserver"
	"keelson.dev/keelson/core/pki"
	"keelson.dev/keelson/core/registry/core"
	"keelson.dev/keelson/core/store"
)

// crashDir tells the child process of TestCrash where its store is.
const crashDir = "KEELSON_TEST_CRASH_DIR"

// nodePorts is a range so small that a test can use it up.
var nodePorts = apiserver.PortRange{Min: 30000, Max: 30199}

// serve starts a server on a store.
func serve(t *testing.T, dir string, db *store.DB) kubernetes.Interface {
	t.Helper()
	authority, err := pki.Open(filepath.Join(dir, "pki"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := apiserver.New(apiserver.Config{Listen: "127.0.0.1:0", AdvertiseAddress: netip.MustParseAddr("192.0.2.10"), PKI: authority, DB: db,
		NodePorts: nodePorts, Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Start(ctx) }() // ended and waited for by the cleanup
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("server: %v", err)
		}
	})
	select {
	case <-s.Ready():
	case <-time.After(time.Minute):
		t.Fatal("not ready after a minute")
	}
	pair, err := authority.ClientPair("admin", []string{"system:masters"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(&rest.Config{Host: "https://127.0.0.1:" + strconv.Itoa(s.Address().(*net.TCPAddr).Port), QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAData: authority.CAPEM(), CertData: pair.Certificate, KeyData: pair.PrivateKey}})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func openStore(t *testing.T, dir string) *store.DB {
	t.Helper()
	db, err := store.Open(context.Background(), store.Options{Dir: filepath.Join(dir, "store")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func nodePortService(name string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}}}
}

// churn creates services, and deletes some, until ctx ends; said is told of what was
// created, and whether it is to stay.
func churn(ctx context.Context, client kubernetes.Interface, said func(name string, stays bool)) {
	services := client.CoreV1().Services("default")
	stamp := time.Now().UnixNano()
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				name := fmt.Sprintf("s-%d-%d-%d", stamp, worker, i)
				if _, err := services.Create(ctx, nodePortService(name), metav1.CreateOptions{}); err != nil {
					continue
				}
				stays := i%10 == 0
				said(name, stays)
				if !stays {
					_ = services.Delete(ctx, name, metav1.DeleteOptions{}) // the kill may come between
				}
			}
		})
	}
	wg.Wait()
}

// TestCrashChild is not a test of its own: it is what TestCrash kills.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		t.Skip("only run by TestCrash")
	}
	client := serve(t, dir, openStore(t, dir))
	var mu sync.Mutex
	churn(t.Context(), client, func(name string, stays bool) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(os.Stdout, "said %s %v\n", name, stays)
	})
}

// TestCrash kills a server while it creates and deletes services. Afterwards
// no service that was answered is gone, no address or node port is given twice,
// and none is lost.
func TestCrash(t *testing.T) {
	t.Cleanup(core.SetRepair(0, 0))
	rounds := 4
	if testing.Short() {
		rounds = 1
	}
	dir := t.TempDir()
	known := map[string]bool{}
	for range rounds {
		crash(t, dir, known)
		t.Run("after", func(t *testing.T) {
			client := serve(t, dir, openStore(t, dir))
			checkAllocations(t, client, known)
		})
	}
}

// crash runs the child until it has answered some requests, and kills it.
func crash(t *testing.T, dir string, known map[string]bool) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
	child.Env = append(os.Environ(), crashDir+"="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	stop := 20 + rand.IntN(100)
	lines := bufio.NewScanner(out)
	for n := 0; lines.Scan(); {
		rest, ok := strings.CutPrefix(lines.Text(), "said ")
		if !ok {
			continue
		}
		name, stays, _ := strings.Cut(rest, " ")
		known[name] = stays == "true"
		if n++; n == stop {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := child.Wait(); err == nil || child.ProcessState.Exited() {
		t.Fatalf("the child ended by itself: %v", err)
	}
}

// checkAllocations repairs, and compares services with claims of addresses and node ports.
func checkAllocations(t *testing.T, client kubernetes.Interface, known map[string]bool) {
	t.Helper()
	ctx, services := t.Context(), client.CoreV1().Services("default")
	for i := range 3 { // claims, which repair: once for what is sure, once more for node ports
		name := fmt.Sprintf("repair-%d", i)
		if _, err := services.Create(ctx, nodePortService(name), metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
		if err := services.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := services.List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	byIP, byPort := map[string]string{}, map[int32]string{}
	for _, s := range list.Items {
		if other := byIP[s.Spec.ClusterIP]; other != "" {
			t.Errorf("%s and %s both have address %s", other, s.Name, s.Spec.ClusterIP)
		}
		byIP[s.Spec.ClusterIP] = s.Name
		for _, p := range nodePortsOf(&s) {
			if other := byPort[p]; other != "" {
				t.Errorf("%s and %s both have node port %d", other, s.Name, p)
			}
			byPort[p] = s.Name
		}
		delete(known, s.Name)
	}
	for name, there := range known {
		if there {
			t.Errorf("service %s was answered, and is gone", name)
		}
	}
	claims, err := client.NetworkingV1().IPAddresses().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range claims.Items {
		if owner := byIP[c.Name]; owner != c.Spec.ParentRef.Name {
			t.Errorf("address %s is claimed for %q, and belongs to %q", c.Name, c.Spec.ParentRef.Name, owner)
		}
		delete(byIP, c.Name)
	}
	if len(byIP) > 0 {
		t.Errorf("addresses without a claim: %v", byIP)
	}
	fillNodePorts(t, client, nodePorts.Max-nodePorts.Min+1-len(byPort))
	for _, s := range list.Items { // the next round has room
		if s.Name != "kubernetes" {
			if err := services.Delete(ctx, s.Name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	clear(known)
}

func nodePortsOf(s *corev1.Service) (list []int32) {
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			list = append(list, p.NodePort)
		}
	}
	return list
}

// fillNodePorts takes all ports that are free, which are to be so many, and gives them back.
func fillNodePorts(t *testing.T, client kubernetes.Interface, want int) {
	t.Helper()
	ctx, services := t.Context(), client.CoreV1().Services("default")
	all := nodePortService("all")
	for i := range want {
		all.Spec.Ports = append(all.Spec.Ports, corev1.ServicePort{Name: fmt.Sprintf("p%d", i), Port: int32(1000 + i)})
	}
	all.Spec.Ports = all.Spec.Ports[1:]
	if _, err := services.Create(ctx, all, metav1.CreateOptions{}); err != nil {
		t.Fatalf("take %d node ports: %v", want, err)
	}
	if _, err := services.Create(ctx, nodePortService("one-more"), metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "is full") {
		t.Errorf("one node port more than there are: got %v", err)
	}
	if err := services.Delete(ctx, "all", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestRepairWhileRunning makes what a crash of another server leaves behind, and
// looks that the next claims put it right.
func TestRepairWhileRunning(t *testing.T) {
	t.Cleanup(core.SetRepair(0, 0))
	dir := t.TempDir()
	client := serve(t, dir, openStore(t, dir))
	ctx, services, ips := t.Context(), client.CoreV1().Services("default"), client.NetworkingV1().IPAddresses()
	claim := func(ip, owner, manager string) {
		t.Helper()
		_, err := ips.Create(ctx, &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: ip, Labels: map[string]string{networkingv1.LabelManagedBy: manager}},
			Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: owner}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	wrong := nodePortService("wrong")
	wrong.Spec.ClusterIP = "10.96.0.200"
	if _, err := services.Create(ctx, wrong, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	a, err := ips.Get(ctx, "10.96.0.200", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	a.Labels["changed"] = "yes"
	if _, err := ips.Update(ctx, a, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	claim("10.96.0.201", "gone", "ipallocator.k8s.io")
	claim("10.96.0.202", "gone", "somebody.example.com")
	checkEvent := func(reason string, want int) {
		t.Helper()
		events, err := client.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "reason=" + reason})
		if err != nil || len(events.Items) != want {
			t.Errorf("events of reason %s: got %d, %v; want %d", reason, len(events.Items), err, want)
		}
	}
	if _, err := services.Create(ctx, nodePortService("next"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := ips.Get(ctx, "10.96.0.201", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("leaked address: got %v, want not found", err)
	}
	if _, err := ips.Get(ctx, "10.96.0.202", metav1.GetOptions{}); err != nil {
		t.Errorf("another manager's address: %v", err)
	}
	if a, err := ips.Get(ctx, "10.96.0.200", metav1.GetOptions{}); err != nil || a.Labels["changed"] != "yes" {
		t.Errorf("an address in order was touched: got %+v, %v", a, err)
	}
	checkEvent("IPAddressNotAllocated", 1)
	checkEvent("ClusterIPNotAllocated", 0)
}

// TestServersShareAStore lets two servers give out addresses and node ports of
// one store, while a range that both use comes and goes.
func TestServersShareAStore(t *testing.T) {
	dir := t.TempDir()
	db := openStore(t, dir)
	clients := []kubernetes.Interface{serve(t, dir, db), serve(t, dir, db)}
	var wg sync.WaitGroup
	ctx := t.Context()
	known := map[string]bool{}
	var mu sync.Mutex
	var stop atomic.Bool
	for n, client := range clients {
		wg.Go(func() {
			for i := range 40 {
				name := fmt.Sprintf("s-%d-%d", n, i)
				if _, err := client.CoreV1().Services("default").Create(ctx, nodePortService(name), metav1.CreateOptions{}); err != nil {
					t.Errorf("create %s: %v", name, err)
				}
				mu.Lock()
				known[name] = true
				mu.Unlock()
			}
		})
	}
	more := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"192.168.7.0/24"}}}
	ranges := clients[0].NetworkingV1().ServiceCIDRs()
	var churning sync.WaitGroup
	churning.Go(func() { // wants addresses of the range by the other server
		for i := 2; !stop.Load(); i = i%200 + 1 {
			s := nodePortService(fmt.Sprintf("in-more-%d", i))
			s.Spec.Type, s.Spec.ClusterIP = corev1.ServiceTypeClusterIP, fmt.Sprintf("192.168.7.%d", i+1)
			if _, err := clients[1].CoreV1().Services("default").Create(ctx, s, metav1.CreateOptions{}); err == nil {
				_ = clients[1].CoreV1().Services("default").Delete(ctx, s.Name, metav1.DeleteOptions{})
			}
		}
	})
	for range 20 {
		if _, err := ranges.Create(ctx, more, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Error(err)
		}
		if err := ranges.Delete(ctx, "more", metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
		list, err := clients[0].NetworkingV1().IPAddresses().List(ctx, metav1.ListOptions{})
		if _, gone := ranges.Get(ctx, "more", metav1.GetOptions{}); err != nil || !apierrors.IsNotFound(gone) {
			continue // still in use
		}
		for _, c := range list.Items {
			if s, err := clients[0].CoreV1().Services("default").Get(ctx, c.Spec.ParentRef.Name, metav1.GetOptions{}); err == nil &&
				strings.HasPrefix(c.Name, "192.168.7.") && slices.Contains(s.Spec.ClusterIPs, c.Name) {
				t.Errorf("service %s has %s of a range that is gone", s.Name, c.Name)
			}
		}
	}
	wg.Wait()
	stop.Store(true)
	churning.Wait()
	checkAllocations(t, clients[1], known)
}
