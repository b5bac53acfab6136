package plugins

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	authenticationapi "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/core/apiserver"
	"keelson.dev/keelson/core/kernel"
	"keelson.dev/keelson/proto/api/v1alpha1"
	"keelson.dev/keelson/proto/api/v1alpha1/client"
)

// kernelPort is a port below those that the system gives to others meanwhile.
func kernelPort(t *testing.T) netip.AddrPort {
	t.Helper()
	for i := range 10000 {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(20000+(os.Getpid()+i)%10000))
		if l, err := net.Listen("tcp", at.String()); err == nil {
			_ = l.Close()
			return at
		}
	}
	t.Fatal("no port from 20000 to 29999 is free")
	return netip.AddrPort{}
}

// kernelWith runs a kernel without built-in plugins, and gives the administrator's access.
// stop ends it.
func kernelWith(t *testing.T, dir string) (admin *rest.Config, stop func()) {
	t.Helper()
	listen := kernelPort(t)
	cfg := kernel.Config{
		DataDir: filepath.Join(dir, "d"), RunDir: filepath.Join(dir, "r"), Listen: listen, Domain: "cluster.local",
		Node:     kernel.Node{Name: "server", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}},
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}, ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")},
		NodePorts: kernel.PortRange{Min: 30000, Max: 32767}, DNSAddress: netip.MustParseAddr("10.96.0.10"),
		Command: func(string) (string, []string) { return "/nope", nil }, API: apiserver.NewOptions(),
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	admin = nil
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- kernel.RunServer(ctx, cfg) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("kernel: %v", err)
		}
	}
	poll(t, "the kernel is there", func() bool {
		select {
		case err := <-done:
			done <- err
			t.Fatalf("kernel: %v", err)
		default:
		}
		if _, err := os.Stat(filepath.Join(cfg.DataDir, kernel.ClusterFile)); err != nil {
			return false
		}
		var err error
		admin, err = clientcmd.BuildConfigFromFlags("", filepath.Join(cfg.DataDir, kernel.AdminKubeconfig))
		if err != nil || admin.Host != "https://"+listen.String() {
			return false
		}
		_, err = clientset(t, admin).CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{})
		return err == nil // files may be those of the kernel before
	})
	return admin, stop
}

// documented are the Plugin objects in a page, with the programs in a folder.
func documented(t *testing.T, page, dir string) map[string]*v1alpha1.Plugin {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]*v1alpha1.Plugin{}
	for _, block := range regexp.MustCompile("(?s)```yaml plugin\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		p := &v1alpha1.Plugin{}
		if err := yaml.UnmarshalStrict([]byte(block[1]), p); err != nil {
			t.Fatalf("%s: %v\n%s", page, err, block[1])
		}
		path := filepath.Join(dir, filepath.Base(p.Spec.Source.Path))
		p.Spec.Source.Path, p.Spec.Source.SHA256 = path, sum(t, path)
		found[p.Spec.Kind] = p
	}
	return found
}

// TestDeciding runs the examples of docs/deciding.md on a kernel, and restarts it.
func TestDeciding(t *testing.T) {
	built, err := buildDeciding()
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	programs := filepath.Join(dir, "d/plugins.d")
	err = os.MkdirAll(programs, 0o700)
	for _, name := range deciding {
		var content []byte
		if err == nil {
			content, err = os.ReadFile(built.Program(name))
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(programs, name), content, 0o700)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	admin, stop := kernelWith(t, dir)
	defer func() { stop() }()
	plugins := documented(t, "../../docs/deciding.md", programs)
	if len(plugins) != 4 {
		t.Fatalf("docs/deciding.md has examples of %d kinds, want 4", len(plugins))
	}
	api, err := client.New(admin)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range plugins {
		if _, err := api.Create(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range plugins {
		ready(t, api, p.Name)
	}
	decided(t, admin, dir)

	// What plugins want is in force from the first request after a restart.
	stop()
	admin, stop = kernelWith(t, dir)
	if api, err = client.New(admin); err != nil {
		t.Fatal(err)
	}
	if _, err := mapsOf(t, admin).Create(t.Context(), settings("password"), metav1.CreateOptions{}); err == nil {
		t.Error("a forbidden key passed after a restart of the kernel")
	}
	for _, p := range plugins {
		ready(t, api, p.Name)
	}
	decided(t, admin, dir)

	// A plugin that is disabled is not asked.
	off, err := api.Get(t.Context(), "guard")
	if err != nil {
		t.Fatal(err)
	}
	no := false
	off.Spec.Enabled = &no
	if _, err := api.Update(t.Context(), off); err != nil {
		t.Fatal(err)
	}
	poll(t, "the disabled plugin is not asked", func() bool {
		_, err := mapsOf(t, admin).Create(t.Context(), settings("password"), metav1.CreateOptions{})
		return err == nil
	})
}

func ready(t *testing.T, api *client.Client, name string) {
	t.Helper()
	var p *v1alpha1.Plugin
	defer func() {
		if t.Failed() && p != nil {
			t.Logf("plugin %s: %+v", name, p.Status)
		}
	}()
	begin := time.Now()
	poll(t, name+" is ready", func() bool {
		var err error
		if p, err = api.Get(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		for _, c := range p.Status.Conditions {
			// After a restart of the kernel the condition is an old one until it is written anew.
			if c.Type == "Ready" && c.Status == metav1.ConditionTrue && p.Status.StartedAt != nil && alive(int(p.Status.PID)) {
				return true
			}
		}
		return false
	})
	t.Logf("%s is ready after %s", name, time.Since(begin).Round(time.Millisecond))
}

func alive(pid int) bool { return pid != 0 && !gone(pid) }

func settings(key string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "settings-", Namespace: "default"}, Data: map[string]string{key: "x"}}
}

type configMaps interface {
	Create(context.Context, *corev1.ConfigMap, metav1.CreateOptions) (*corev1.ConfigMap, error)
}

func mapsOf(t *testing.T, c *rest.Config) configMaps {
	t.Helper()
	return clientset(t, c).CoreV1().ConfigMaps("default")
}

func clientset(t *testing.T, c *rest.Config) kubernetes.Interface {
	t.Helper()
	cs, err := kubernetes.NewForConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	return cs
}

// decided checks what the page says that the plugins do.
func decided(t *testing.T, admin *rest.Config, dir string) {
	t.Helper()
	_, err := mapsOf(t, admin).Create(t.Context(), settings("password"), metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `admission plugin "guard" denied the request: data.password: this key is forbidden`) {
		t.Errorf("a forbidden key: got %v", err)
	}
	if got, err := mapsOf(t, admin).Create(t.Context(), settings("colour"), metav1.CreateOptions{}); err != nil || got.Labels["example.keelson.dev/seen"] != "true" {
		t.Errorf("another key: got %v, %v, want the label", got, err)
	}
	bearer := rest.AnonymousClientConfig(admin)
	bearer.BearerToken = "jane-s-token"
	jane := clientset(t, bearer)
	who, err := jane.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationapi.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || who.Status.UserInfo.Username != "jane" || strings.Join(who.Status.UserInfo.Groups, " ") != "sailors system:authenticated" {
		t.Errorf("who jane is: got %+v, %v", who, err)
	}
	if _, err := jane.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("jane lists nodes: %v", err)
	}
	if err := jane.CoreV1().Nodes().Delete(t.Context(), "x", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("jane deletes a node: got %v, want 403", err)
	}
	info, err := csi.NewIdentityClient(dial(t, filepath.Join(dir, "r/storage.sock"))).GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{})
	if err != nil || info.GetName() != "folders.example.keelson.dev" {
		t.Errorf("storage: got %v, %v", info, err)
	}
}
