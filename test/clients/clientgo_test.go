package clients

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"keelson.dev/keelson/test/harness"
)

// makeServiceAccount does what the controllers do, which these tests go without.
func makeServiceAccount(t *testing.T, config *rest.Config) {
	t.Helper()
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := kubernetes.NewForConfigOrDie(config).CoreV1().ServiceAccounts("default").Create(t.Context(), sa, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestSlowWatcher lets a client read nothing while there are more events than
// buffers hold. Nobody else waits for it, and it gets all of them in the end, in one
// watch or, when it is cut off, by resuming.
func TestSlowWatcher(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, func(o *harness.Options) { o.Store.WatchQueue = 64 })
	maps := s.Admin.CoreV1().ConfigMaps("default")
	made, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "big"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	own, err := kubernetes.NewForConfig(s.Config) // a connection of its own
	if err != nil {
		t.Fatal(err)
	}
	open := func(from string) watch.Interface {
		w, err := own.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{ResourceVersion: from, FieldSelector: "metadata.name=big"})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	w := open(made.ResourceVersion)
	n := 2500 // with their 5 kB more than connections and the queue of 64 events hold
	want := make([]string, 0, n)
	pad := strings.Repeat("x", 5000)
	for i := range n {
		made.Data = map[string]string{"n": fmt.Sprint(i), "pad": pad}
		if made, err = maps.Update(t.Context(), made, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		want = append(want, made.ResourceVersion)
	}
	resumed, last := 0, ""
	for got := 0; got < n; {
		e, open1 := <-w.ResultChan()
		if !open1 || e.Type == watch.Error {
			if resumed++; resumed > 10 {
				t.Fatalf("cut off %d times, after %d of %d events: %v", resumed, got, n, e.Object)
			}
			w.Stop()
			w = open(last)
			continue
		}
		if rv := e.Object.(*corev1.ConfigMap).ResourceVersion; rv != want[got] {
			t.Fatalf("event %d is of version %s, want %s", got, rv, want[got])
		}
		last = want[got]
		got++
	}
	w.Stop()
	if resumed == 0 {
		t.Error("the watch was not cut off: the server has kept all events for it")
	}
}

// TestLeaderElection has two candidates, of whom one always leads: when it lets go,
// and when the server is killed in between.
func TestLeaderElection(t *testing.T) {
	t.Parallel()
	server := startChild(t, time.Minute)
	config := server.config(server.addr)
	type candidate struct {
		leads  chan struct{}
		cancel context.CancelFunc
	}
	var mu sync.Mutex
	leading := map[string]bool{}
	var wg sync.WaitGroup
	start := func(id string) candidate {
		ctx, cancel := context.WithCancel(t.Context())
		c := candidate{leads: make(chan struct{}), cancel: cancel}
		lock, err := resourcelock.NewFromKubeconfig(resourcelock.LeasesResourceLock, "default", "lead", resourcelock.ResourceLockConfig{Identity: id}, config, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: lock, LeaseDuration: 10 * time.Second, RenewDeadline: 8 * time.Second, RetryPeriod: 100 * time.Millisecond, ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(ctx context.Context) {
					mu.Lock()
					leading[id] = true
					if len(leading) > 1 {
						t.Errorf("two lead: %v", leading)
					}
					mu.Unlock()
					close(c.leads)
				},
				OnStoppedLeading: func() {
					mu.Lock()
					defer mu.Unlock()
					delete(leading, id)
				},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { elector.Run(ctx) })
		return c
	}
	a := start("a")
	<-a.leads
	b := start("b")
	server.end(syscall.SIGKILL)
	server.start(server.addr)
	lease, err := kubernetes.NewForConfigOrDie(config).CoordinationV1().Leases("default").Get(t.Context(), "lead", metav1.GetOptions{})
	if err != nil || *lease.Spec.HolderIdentity != "a" {
		t.Errorf("after a kill the lease is %v, %v; want a's", lease, err)
	}
	a.cancel()
	select {
	case <-b.leads:
	case <-time.After(30 * time.Second):
		t.Error("b does not lead after a let go")
	}
	b.cancel()
	wg.Wait()
}

func TestApplyConfigurations(t *testing.T) {
	s := harness.Start(t)
	for _, form := range []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf} {
		t.Run(form, func(t *testing.T) {
			config := rest.CopyConfig(s.Config)
			config.ContentType = form
			client := kubernetes.NewForConfigOrDie(config)
			ctx, maps := t.Context(), client.CoreV1().ConfigMaps("default")
			name := "m" + fmt.Sprint(len(form))
			apply := func(manager string, force bool, data map[string]string) (*corev1.ConfigMap, error) {
				return maps.Apply(ctx, coreac.ConfigMap(name, "default").WithData(data), metav1.ApplyOptions{FieldManager: manager, Force: force})
			}
			if _, err := apply("one", false, map[string]string{"a": "1", "b": "1"}); err != nil {
				t.Fatal(err)
			}
			if _, err := apply("two", false, map[string]string{"c": "2"}); err != nil {
				t.Fatal(err)
			}
			_, err := apply("two", false, map[string]string{"a": "2"})
			if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "one"`) {
				t.Errorf("apply of another's field: %v, want a conflict with one", err)
			}
			got, err := apply("two", true, map[string]string{"a": "2"})
			if err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(got.Data) != "map[a:2 b:1]" {
				t.Errorf("data %v, want a of two, b of one, and no c", got.Data)
			}
			mine, err := coreac.ExtractConfigMap(got, "one")
			if err != nil || fmt.Sprint(mine.Data) != "map[b:1]" {
				t.Errorf("extracted for one: %v, %v; want b only", mine.Data, err)
			}
			d := appsac.Deployment("d"+name, "default").WithSpec(appsac.DeploymentSpec().WithSelector(metaac.LabelSelector().WithMatchLabels(map[string]string{"a": "b"})).
				WithTemplate(coreac.PodTemplateSpec().WithLabels(map[string]string{"a": "b"}).WithSpec(coreac.PodSpec().WithContainers(
					coreac.Container().WithName("m").WithImage("i").WithPorts(coreac.ContainerPort().WithContainerPort(80))))))
			first, err := client.AppsV1().Deployments("default").Apply(ctx, d, metav1.ApplyOptions{FieldManager: "x"})
			if err != nil {
				t.Fatal(err)
			}
			again, err := client.AppsV1().Deployments("default").Apply(ctx, d, metav1.ApplyOptions{FieldManager: "x"})
			if err != nil || again.ResourceVersion != first.ResourceVersion {
				t.Errorf("the same apply again: version %s after %s, %v; want no write", again.ResourceVersion, first.ResourceVersion, err)
			}
		})
	}
}

// TestDiscoveryCache finds a kind that came after the cache was filled.
func TestDiscoveryCache(t *testing.T) {
	s := harness.Start(t)
	cached := memory.NewMemCacheClient(s.Admin.Discovery())
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(cached)
	gk := schema.GroupKind{Group: "late.example.org", Kind: "Late"}
	if _, err := mapper.RESTMapping(gk); err == nil {
		t.Fatal("the kind is there already")
	}
	keep := true
	crd := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "lates.late.example.org"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: gk.Group, Scope: apiextensionsv1.ClusterScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "lates", Singular: "late", Kind: "Late", ListKind: "LateList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{
				OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &keep},
			}}},
		},
	}
	if _, err := apiextensions.NewForConfigOrDie(s.Config).ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), crd, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "the mapper finds the new kind", func() string {
		cached.Invalidate()
		mapping, err := mapper.RESTMapping(gk)
		if err != nil {
			return err.Error()
		}
		if mapping.Resource.Resource != "lates" {
			return mapping.Resource.String()
		}
		return ""
	})
}
