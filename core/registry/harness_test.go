package registry_test

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"keelson.dev/keelson/core/apiserver"
	"keelson.dev/keelson/core/pki"
)

// server is a real API server with a store of its own.
type server struct {
	*apiserver.Server
	pki   *pki.Authority
	admin kubernetes.Interface
}

func start(t *testing.T) *server {
	t.Helper()
	return startWith(t)
}

// startWith is start with ranges of cluster IPs.
func startWith(t *testing.T, ranges ...netip.Prefix) *server {
	t.Helper()
	dir := t.TempDir()
	authority, err := pki.Open(filepath.Join(dir, "pki"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	db, err := openDatastore(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	s, err := apiserver.New(apiserver.Config{Listen: "127.0.0.1:0", AdvertiseAddress: netip.MustParseAddr("192.0.2.10"), PKI: authority, DB: db, ServiceCIDRs: ranges,
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Start(ctx) }() // ended and waited for by the cleanup
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("server: %v", err)
		}
		_ = db.Close()
	})
	select {
	case <-s.Ready():
	case <-time.After(30 * time.Second):
		t.Fatal("not ready after 30 s")
	}
	srv := &server{Server: s, pki: authority}
	srv.admin = srv.as(t, "admin", "system:masters")
	for _, name := range []string{"default"} { // as the controllers do
		_, err := srv.admin.CoreV1().ServiceAccounts(name).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	return srv
}

func (s *server) config(t *testing.T, name string, groups ...string) *rest.Config {
	t.Helper()
	pair, err := s.pki.ClientPair(name, groups, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return &rest.Config{Host: "https://127.0.0.1:" + strconv.Itoa(s.Address().(*net.TCPAddr).Port), QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAData: s.pki.CAPEM(), CertData: pair.Certificate, KeyData: pair.PrivateKey}}
}

func (s *server) as(t *testing.T, name string, groups ...string) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfig(s.config(t, name, groups...))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func service(name string, typ corev1.ServiceType) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: typ, Selector: map[string]string{"app": name},
		Ports: []corev1.ServicePort{{Port: 80}}}}
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "nginx:1.27"}}}}
}

func deployment(name string) *appsv1.Deployment {
	l := map[string]string{"app": name}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: l},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l}, Spec: pod("x").Spec}}}
}
