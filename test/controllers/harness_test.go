package controllers

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"keelson.dev/keelson/core/apiserver"
	"keelson.dev/keelson/core/pki"
	"keelson.dev/keelson/core/store"
	"keelson.dev/keelson/plugins/controllers"
	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/plugins/kit/kittest"
	"keelson.dev/keelson/plugins/scheduler"
)

// cluster is an API server with the two plugins, nodes and a stand-in kubelet.
type cluster struct {
	t      testing.TB
	ctx    context.Context
	pki    *pki.Authority
	server *apiserver.Server
	admin  kubernetes.Interface
	config *rest.Config

	mu     sync.Mutex
	silent map[string]bool        // nodes whose kubelet does nothing; guarded by mu
	unwell func(*corev1.Pod) bool // pods that do not become ready; guarded by mu
}

func logger(t testing.TB) *slog.Logger {
	w := io.Discard
	if os.Getenv("KEELSON_TEST_LOG") != "" {
		w = t.Output()
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// start runs all of it until the test ends. config is that of the controllers.
func start(t testing.TB, config string, nodes ...string) *cluster {
	t.Helper()
	dir := t.TempDir()
	authority, err := pki.Open(filepath.Join(dir, "pki"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	db, err := store.Open(ctx, store.Options{Dir: filepath.Join(dir, "store")})
	if err != nil {
		t.Fatal(err)
	}
	server, err := apiserver.New(apiserver.Config{
		Listen: "127.0.0.1:0", AdvertiseAddress: netip.MustParseAddr("192.0.2.1"), PKI: authority, DB: db, Log: logger(t),
	})
	if err != nil {
		cancel()
		t.Fatal(errors.Join(err, db.Close()))
	}
	done := make(chan error, 1)
	go func() { done <- server.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("API server: %v", err)
		}
		if err := db.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	select {
	case <-server.Ready():
	case err := <-done:
		t.Fatalf("API server: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("API server not ready after 30 s")
	}
	c := &cluster{t: t, ctx: ctx, pki: authority, server: server, silent: map[string]bool{}}
	c.config = c.as("admin", "system:masters")
	if c.admin, err = kubernetes.NewForConfig(c.config); err != nil {
		t.Fatal(err)
	}
	for _, name := range nodes {
		c.addNode(name)
	}
	var wg sync.WaitGroup
	kubeletCtx, stopKubelet := context.WithCancel(ctx)
	wg.Go(func() { c.kubelet(kubeletCtx) })
	t.Cleanup(func() { stopKubelet(); wg.Wait() })
	c.run(controllers.Plugin, config)
	c.run(scheduler.Plugin, `{"initialBackoff":"100ms"}`)
	return c
}

// as is a configuration of user name in groups.
func (c *cluster) as(name string, groups ...string) *rest.Config {
	c.t.Helper()
	pair, err := c.pki.ClientPair(name, groups, time.Hour)
	if err != nil {
		c.t.Fatal(err)
	}
	return &rest.Config{
		Host: "https://127.0.0.1:" + strconv.Itoa(c.server.Address().(*net.TCPAddr).Port), QPS: -1, UserAgent: "keelson-" + name,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.pki.CAPEM(), CertData: pair.Certificate, KeyData: pair.PrivateKey},
	}
}

// run starts a plugin with its own identity and the rights it asks for, so the
// tests show that those suffice.
func (c *cluster) run(p kit.Plugin, config string) (stop func()) {
	c.t.Helper()
	user := "system:plugin:" + p.Name
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: p.Rules}
	if _, err := c.admin.RbacV1().ClusterRoles().Create(c.ctx, role, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}},
	}
	if _, err := c.admin.RbacV1().ClusterRoleBindings().Create(c.ctx, binding, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	env := kittest.NewEnv(c.t, p)
	env.Log = logger(c.t).With("plugin", p.Name)
	env.RESTConfig = c.as(user, "system:plugins")
	env.RESTConfig.ContentType = "application/vnd.kubernetes.protobuf"
	env.RESTConfig.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	env.API.CA = c.pki.CAPEM()
	env.Config = []byte(config)
	runner, err := p.New(env)
	if err != nil {
		c.t.Fatal(err)
	}
	return kittest.Run(c.t, runner)
}

func (c *cluster) addNode(name string) {
	c.t.Helper()
	n, err := c.admin.CoreV1().Nodes().Create(c.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	n.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110")}
	n.Status.Capacity = n.Status.Allocatable
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}}
	if _, err := c.admin.CoreV1().Nodes().UpdateStatus(c.ctx, n, metav1.UpdateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) setSilent(node string, silent bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.silent[node] = silent
}

func (c *cluster) isSilent(node string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.silent[node]
}

func (c *cluster) setUnwell(f func(*corev1.Pod) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unwell = f
}

func (c *cluster) isUnwell(pod *corev1.Pod) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unwell != nil && c.unwell(pod)
}

// kubelet plays the kubelets of all nodes: leases, pods that run and end.
func (c *cluster) kubelet(ctx context.Context) {
	factory := informers.NewSharedInformerFactory(c.admin, 0)
	defer factory.Shutdown()
	pods := factory.Core().V1().Pods().Informer()
	kick := func(obj any) {
		if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName != "" && !c.isSilent(pod.Spec.NodeName) {
			c.syncPod(ctx, pod)
		}
	}
	if _, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: kick, UpdateFunc: func(_, cur any) { kick(cur) }}); err != nil {
		c.t.Error(err)
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		nodes, err := c.admin.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err == nil {
			for i := range nodes.Items {
				if name := nodes.Items[i].Name; !c.isSilent(name) {
					c.renew(ctx, name)
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (c *cluster) renew(ctx context.Context, node string) {
	leases := c.admin.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	now := metav1.NowMicro()
	lease, err := leases.Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		_, _ = leases.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: node, Namespace: corev1.NamespaceNodeLease},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &node, RenewTime: &now},
		}, metav1.CreateOptions{})
		return
	}
	lease.Spec.RenewTime = &now
	_, _ = leases.Update(ctx, lease, metav1.UpdateOptions{})
}

func (c *cluster) syncPod(ctx context.Context, pod *corev1.Pod) {
	pods := c.admin.CoreV1().Pods(pod.Namespace)
	if pod.DeletionTimestamp != nil {
		_ = pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0), Preconditions: &metav1.Preconditions{UID: &pod.UID}})
		return
	}
	if pod.Status.Phase == corev1.PodRunning || c.isUnwell(pod) {
		return
	}
	next := pod.DeepCopy()
	next.Status.Phase = corev1.PodRunning
	next.Status.PodIP = "10.244.0." + strconv.Itoa(2+int(pod.UID[0])%200)
	next.Status.PodIPs = []corev1.PodIP{{IP: next.Status.PodIP}}
	next.Status.Conditions = append(next.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
	_, _ = pods.UpdateStatus(ctx, next, metav1.UpdateOptions{})
}

// eventually repeats f until it returns an empty string, which else says what
// is not so yet.
func (c *cluster) eventually(what string, f func() string) {
	c.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		got := f()
		if got == "" {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: still not so after 20 s: %s", what, got)
		}
		<-tick.C
	}
}
