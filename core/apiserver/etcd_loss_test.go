package apiserver

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"

	"keelson.dev/keelson/core/etcd"
	"keelson.dev/keelson/core/etcd/etcdtest"
)

// startOnEtcd runs a server on an etcd of its own.
func startOnEtcd(t *testing.T) (*harness, *etcdtest.Server) {
	t.Helper()
	server := etcdtest.Start(t)
	db, err := etcd.Open(t.Context(), etcd.Options{Servers: []string{server.Endpoint}, CompactionInterval: 5 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return start(t, func(c *Config) { c.DB = db }), server
}

// health gives the answer of a health path.
func health(t *testing.T, h *harness, path string) (well bool, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	body, err := h.admin.CoreV1().RESTClient().Get().AbsPath(path).Param("verbose", "").Do(ctx).Raw()
	if err != nil {
		return false, err.Error()
	}
	return true, string(body)
}

// TestEtcdLost kills the etcd under a running server, and starts it again on its data.
func TestEtcdLost(t *testing.T) {
	h, server := startOnEtcd(t)
	ctx := t.Context()
	maps := h.admin.CoreV1().ConfigMaps("default")
	put := func(name string) error {
		_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		return err
	}
	if err := put("before"); err != nil {
		t.Fatal(err)
	}
	factory := informers.NewSharedInformerFactoryWithOptions(h.admin, 0, informers.WithNamespace("default"))
	seen := factory.Core().V1().ConfigMaps().Lister().ConfigMaps("default")
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())

	server.Stop() // SIGKILL
	eventually(t, "/readyz names etcd", func() bool {
		well, text := health(t, h, "/readyz")
		return !well && strings.Contains(text, "[-]etcd failed")
	})
	if well, text := health(t, h, "/livez"); !well {
		t.Errorf("/livez: %s", text)
	}
	for name, request := range map[string]func() error{
		"get":    func() error { _, err := maps.Get(ctx, "before", metav1.GetOptions{}); return err },
		"list":   func() error { _, err := maps.List(ctx, metav1.ListOptions{}); return err },
		"create": func() error { return put("meanwhile") },
		"delete": func() error { return maps.Delete(ctx, "before", metav1.DeleteOptions{}) },
		"patch": func() error {
			_, err := maps.Patch(ctx, "before", "application/merge-patch+json", []byte(`{"data":{"a":"b"}}`), metav1.PatchOptions{})
			return err
		},
	} {
		begun := time.Now()
		err := request()
		t.Logf("%s: %v after %s", name, err, time.Since(begun).Round(time.Millisecond))
		if !apierrors.IsServiceUnavailable(err) && !apierrors.IsTooManyRequests(err) && !apierrors.IsTimeout(err) && !apierrors.IsServerTimeout(err) {
			t.Errorf("%s without etcd: %v", name, err)
		}
	}
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "objects can be made again", func() bool { return put("after") == nil })
	eventually(t, "watches go on", func() bool { _, err := seen.Get("after"); return err == nil })
	if _, err := seen.Get("before"); err != nil {
		t.Errorf("what was there before: %v", err)
	}
	eventually(t, "/readyz is well", func() bool { well, _ := health(t, h, "/readyz"); return well })
}
