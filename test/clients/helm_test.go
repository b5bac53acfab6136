package clients

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v4/pkg/action"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/kube"
	"helm.sh/helm/v4/pkg/release"
	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/kubernetes"

	"keelson.dev/keelson/plugins/controllers"
	"keelson.dev/keelson/plugins/scheduler"
	"keelson.dev/keelson/test/harness"
)

const helmTimeout = 60 * time.Second

// helm is the client of one namespace.
type helm struct {
	t      *testing.T
	cfg    *action.Configuration
	admin  kubernetes.Interface
	ns     string
	config string
	chart  *chart.Chart
}

// TestHelm takes a chart with a CRD, hooks, a subchart, lookups and a test through
// its life, with Helm's two ways to apply.
func TestHelm(t *testing.T) {
	t.Parallel()
	s := harness.Start(t)
	s.Nodes(t, "node")
	s.Run(t, controllers.Plugin, `{}`)
	s.Run(t, scheduler.Plugin, `{"initialBackoff":"100ms"}`)
	config := filepath.Join(t.TempDir(), "config")
	if err := s.Kubeconfig(config); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []struct {
		name       string
		serverSide bool
	}{{"server-side", true}, {"client-side", false}} {
		t.Run(mode.name, func(t *testing.T) {
			h := newHelm(t, s, config, mode.name)
			h.life(mode.serverSide)
		})
	}
	t.Cleanup(func() { wantNoPanics(t) })
}

func newHelm(t *testing.T, s *harness.Server, config, ns string) *helm {
	t.Helper()
	h := &helm{t: t, ns: ns, admin: s.Admin, config: config}
	h.begin()
	var err error
	if h.chart, err = loader.Load("testdata/chart"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	seed := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "seed"}, StringData: map[string]string{"seed": "barley"}}
	if _, err := s.Admin.CoreV1().Secrets(ns).Create(t.Context(), seed, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return h
}

// begin forgets what Helm knows of the cluster, as each call of its command does.
func (h *helm) begin() {
	h.t.Helper()
	flags := genericclioptions.NewConfigFlags(true)
	flags.KubeConfig, flags.Namespace, flags.CacheDir = &h.config, &h.ns, new(h.t.TempDir())
	h.cfg = action.NewConfiguration(action.ConfigurationSetLogger(slog.DiscardHandler))
	if err := h.cfg.Init(flags, h.ns, "secret"); err != nil {
		h.t.Fatal(err)
	}
}

// life is install, upgrade, a failed upgrade, rollback, test and uninstall.
func (h *helm) life(serverSide bool) {
	t := h.t
	t.Helper()
	dry := h.install(serverSide)
	dry.DryRunStrategy = action.DryRunServer
	rel := h.release(dry.Run(h.chart, map[string]any{"crate": false})) // a dry run makes no CRDs
	if !strings.Contains(rel.Manifest, `seed: "barley"`) || !strings.Contains(rel.Manifest, `apps: "true"`) || !strings.Contains(rel.Manifest, `kube: "1.37"`) {
		t.Errorf("dry run: lookup or capabilities are missing in\n%s", rel.Manifest)
	}
	h.gone("shop", "shop-facts")

	h.begin()
	rel = h.release(h.install(serverSide).Run(h.chart, map[string]any{"replicas": 2}))
	if want := "Thanks for shop, revision 1."; !strings.Contains(rel.Info.Notes, want) || rel.Info.Status != "deployed" {
		t.Errorf("status %s, notes %q; want deployed and %q", rel.Info.Status, rel.Info.Notes, want)
	}
	h.data("shop-facts", map[string]string{"revision": "1", "crates": "true", "seed": "barley"})
	h.data("shop-sub", map[string]string{"word": "from-parent"})
	h.data("shop-pre-install", map[string]string{"revision": "1"})
	h.data("shop-post-install", map[string]string{"revision": "1"})
	h.replicas(2)

	h.release(h.upgrade(serverSide).Run("shop", h.chart, map[string]any{"replicas": 3, "sub": map[string]any{"enabled": false}}))
	h.data("shop-facts", map[string]string{"revision": "2"})
	h.data("shop-pre-upgrade", map[string]string{"revision": "2"})
	h.gone("shop-sub")
	h.replicas(3)

	broken := h.upgrade(serverSide)
	broken.RollbackOnFailure = true
	if _, err := broken.Run("shop", h.chart, map[string]any{"replicas": 5, "broken": true}); err == nil || !strings.Contains(err.Error(), "99999") {
		t.Errorf("upgrade with a bad service: %v, want what is wrong with its port", err)
	}
	h.data("shop-facts", map[string]string{"revision": "2"}) // rolled back to it
	h.replicas(3)

	back := action.NewRollback(h.cfg)
	back.Version, back.WaitStrategy, back.Timeout = 1, kube.StatusWatcherStrategy, helmTimeout
	back.ServerSideApply = fmt.Sprint(serverSide)
	if err := back.Run("shop"); err != nil {
		t.Errorf("roll back: %v", err)
	}
	h.data("shop-facts", map[string]string{"revision": "1"})
	h.data("shop-sub", map[string]string{"word": "from-parent"})
	h.replicas(2)

	test := action.NewReleaseTesting(h.cfg)
	test.Namespace, test.Timeout = h.ns, helmTimeout
	if _, _, err := test.Run("shop"); err != nil {
		t.Errorf("test: %v", err)
	}
	h.data("shop-test", map[string]string{"tested": "yes"})
	if history, err := action.NewHistory(h.cfg).Run("shop"); err != nil || len(history) < 4 {
		t.Errorf("%d releases in the history, %v; want 4 at least", len(history), err)
	}

	remove := action.NewUninstall(h.cfg)
	// In the background: with "foreground" Helm may stop to wait before it has seen a deployment that is there.
	remove.WaitStrategy, remove.Timeout, remove.DeletionPropagation = kube.StatusWatcherStrategy, helmTimeout, "background"
	if _, err := remove.Run("shop"); err != nil {
		t.Errorf("uninstall: %v", err)
	}
	h.gone("shop", "shop-facts", "shop-sub")
}

func (h *helm) install(serverSide bool) *action.Install {
	i := action.NewInstall(h.cfg)
	i.ReleaseName, i.Namespace, i.WaitStrategy, i.Timeout, i.ServerSideApply = "shop", h.ns, kube.StatusWatcherStrategy, helmTimeout, serverSide
	return i
}

func (h *helm) upgrade(serverSide bool) *action.Upgrade {
	u := action.NewUpgrade(h.cfg)
	u.Namespace, u.WaitStrategy, u.Timeout, u.ServerSideApply = h.ns, kube.StatusWatcherStrategy, helmTimeout, fmt.Sprint(serverSide)
	return u
}

func (h *helm) release(r release.Releaser, err error) *releasev1.Release {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
	return r.(*releasev1.Release)
}

// data demands that a config map has what is in want.
func (h *helm) data(name string, want map[string]string) {
	h.t.Helper()
	m, err := h.admin.CoreV1().ConfigMaps(h.ns).Get(h.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		h.t.Error(err)
		return
	}
	for k, v := range want {
		if m.Data[k] != v {
			h.t.Errorf("%s: %s is %q, want %q", name, k, m.Data[k], v)
		}
	}
}

// replicas demands that the deployment is ready, since Helm has waited for it.
func (h *helm) replicas(want int32) {
	h.t.Helper()
	d, err := h.admin.AppsV1().Deployments(h.ns).Get(h.t.Context(), "shop", metav1.GetOptions{})
	if err != nil {
		h.t.Error(err)
	} else if d.Status.ReadyReplicas != want {
		h.t.Errorf("%d replicas are ready, want %d", d.Status.ReadyReplicas, want)
	}
}

// gone demands that neither a config map nor a deployment has one of the names.
func (h *helm) gone(names ...string) {
	h.t.Helper()
	for _, name := range names {
		if _, err := h.admin.CoreV1().ConfigMaps(h.ns).Get(h.t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			h.t.Errorf("config map %s: %v, want not found", name, err)
		}
		if _, err := h.admin.AppsV1().Deployments(h.ns).Get(h.t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			h.t.Errorf("deployment %s: %v, want not found", name, err)
		}
	}
}
