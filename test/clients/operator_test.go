package clients

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"keelson.dev/keelson/plugins/controllers"
	"keelson.dev/keelson/plugins/scheduler"
	"keelson.dev/keelson/test/harness"
)

const fleetFinalizer = "op.example.org/dock"

// fleetReconciler keeps a Deployment and a ConfigMap for each Fleet.
type fleetReconciler struct {
	client.Client
	events events.EventRecorder
	mu     sync.Mutex
	docked []string // fleets whose finalizer has run; guarded by mu
}

func (r *fleetReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var f Fleet
	if err := r.Get(ctx, req.NamespacedName, &f); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !f.DeletionTimestamp.IsZero() {
		r.mu.Lock()
		r.docked = append(r.docked, f.Name)
		r.mu.Unlock()
		controllerutil.RemoveFinalizer(&f, fleetFinalizer)
		return ctrl.Result{}, r.Update(ctx, &f)
	}
	if controllerutil.AddFinalizer(&f, fleetFinalizer) {
		return ctrl.Result{}, r.Update(ctx, &f)
	}
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: f.Namespace, Name: f.Name}}
	if _, err := controllerutil.CreateOrUpdate(ctx, r.Client, m, func() error {
		m.Data = map[string]string{"motto": f.Spec.Motto}
		return controllerutil.SetControllerReference(&f, m, r.Scheme())
	}); err != nil {
		return ctrl.Result{}, err
	}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: f.Namespace, Name: f.Name}}
	done, err := controllerutil.CreateOrPatch(ctx, r.Client, d, func() error {
		labels := map[string]string{"fleet": f.Name}
		d.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
		d.Spec.Replicas = f.Spec.Boats
		d.Spec.Template.Labels = labels
		if len(d.Spec.Template.Spec.Containers) == 0 {
			d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "boat"}}
		}
		d.Spec.Template.Spec.TerminationGracePeriodSeconds = ptr.To[int64](1)
		d.Spec.Template.Spec.Containers[0].Image = f.Spec.Image
		return controllerutil.SetControllerReference(&f, d, r.Scheme())
	})
	if err != nil {
		return ctrl.Result{}, err
	}
	if done == controllerutil.OperationResultCreated {
		r.events.Eventf(&f, d, corev1.EventTypeNormal, "Launched", "Launch", "launched %d boats", *f.Spec.Boats)
	}
	ready := metav1.Condition{Type: "Ready", Status: metav1.ConditionFalse, Reason: "Afloat", Message: fmt.Sprintf("%d boats", d.Status.ReadyReplicas), ObservedGeneration: f.Generation}
	if d.Status.ReadyReplicas == *f.Spec.Boats {
		ready.Status = metav1.ConditionTrue
	}
	if !meta.SetStatusCondition(&f.Status.Conditions, ready) {
		return ctrl.Result{}, nil
	}
	return ctrl.Result{}, r.Status().Update(ctx, &f)
}

// newManager is the operator's main: cache, webhooks, controller, leader election.
func newManager(t *testing.T, env *envtest.Environment, cfg *rest.Config, id string) (ctrl.Manager, *fleetReconciler) {
	t.Helper()
	wo := env.WebhookInstallOptions
	options := ctrl.Options{
		Scheme: env.Scheme, Metrics: metricsserver.Options{BindAddress: "0"}, Logger: logr.Discard(),
		LeaderElection: true, LeaderElectionID: "fleet-operator", LeaderElectionNamespace: "default", LeaderElectionReleaseOnCancel: true,
		LeaseDuration: ptr.To(10 * time.Second), RenewDeadline: ptr.To(8 * time.Second), RetryPeriod: ptr.To(200 * time.Millisecond),
		Controller: config.Controller{SkipNameValidation: new(true)},
	}
	serves := id == "first"
	if serves {
		options.WebhookServer = webhook.NewServer(webhook.Options{Host: wo.LocalServingHost, Port: wo.LocalServingPort, CertDir: wo.LocalServingCertDir})
	}
	m, err := ctrl.NewManager(cfg, options)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.GetFieldIndexer().IndexField(t.Context(), &Fleet{}, "spec.image", func(o client.Object) []string {
		return []string{o.(*Fleet).Spec.Image}
	}); err != nil {
		t.Fatal(err)
	}
	r := &fleetReconciler{Client: m.GetClient(), events: m.GetEventRecorder("fleet-operator")}
	if err := ctrl.NewControllerManagedBy(m).For(&Fleet{}).Owns(&appsv1.Deployment{}).Owns(&corev1.ConfigMap{}).Complete(r); err != nil {
		t.Fatal(err)
	}
	if serves {
		if err := ctrl.NewWebhookManagedBy(m, &Fleet{}).WithDefaulter(fleetWebhooks{}).WithValidator(fleetWebhooks{}).Complete(); err != nil {
			t.Fatal(err)
		}
	}
	return m, r
}

// runManager starts m until the test ends, or stop.
func runManager(t *testing.T, m ctrl.Manager) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- m.Start(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("manager: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// TestOperator runs an operator made with controller-runtime, as kubebuilder lays it
// out, in envtest's form for a cluster that is there.
func TestOperator(t *testing.T) {
	t.Parallel()
	log.SetLogger(logr.Discard())
	s := harness.Start(t)
	s.Nodes(t, "node")
	s.Run(t, controllers.Plugin, `{}`)
	s.Run(t, scheduler.Plugin, `{"initialBackoff":"100ms"}`)
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	fleetScheme(scheme)
	env := &envtest.Environment{
		UseExistingCluster: new(true), Config: s.Config, Scheme: scheme, ErrorIfCRDPathMissing: true,
		CRDDirectoryPaths:     []string{"testdata/operator/crds"},
		WebhookInstallOptions: envtest.WebhookInstallOptions{Paths: []string{"testdata/operator/webhooks"}},
	}
	cfg, err := env.Start()
	if err != nil {
		t.Fatal(err)
	}
	first, reconciler := newManager(t, env, cfg, "first")
	runManager(t, first)
	<-first.Elected()
	second, other := newManager(t, env, cfg, "second")
	runManager(t, second)
	if !first.GetCache().WaitForCacheSync(t.Context()) {
		t.Fatal("the cache did not fill")
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "the webhooks answer", func() string {
		err := first.GetWebhookServer().StartedChecker()(nil)
		if err != nil {
			return err.Error()
		}
		return ""
	})
	fleetIsValidated(t, c)
	fleetIsKept(t, c, first, reconciler)
	fleetIsConverted(t, c)
	select {
	case <-second.Elected():
		t.Error("two managers lead")
	default:
	}
	if len(other.docked) > 0 {
		t.Error("the manager that does not lead has reconciled")
	}
	if err := env.Stop(); err != nil {
		t.Errorf("envtest does not clean up: %v", err)
	}
	wantNoPanics(t)
}

func newFleet(name, image string) *Fleet {
	return &Fleet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: fleetSpec{Image: image}}
}

func fleetIsValidated(t *testing.T, c client.Client) {
	t.Helper()
	for _, bad := range []struct {
		name   string
		change func(*Fleet)
		want   string
	}{
		{"webhook", func(f *Fleet) { f.Spec.Image = "bad" }, `image "bad" is bad`},
		{"schema", func(f *Fleet) { f.Spec.Boats = ptr.To[int32](12) }, "spec.boats: Invalid value: 12"},
		{"CEL", func(f *Fleet) { f.Spec.Boats = ptr.To[int32](3) }, "boats come in pairs"},
		{"required", func(f *Fleet) { f.Spec.Image = "" }, "spec.image"},
	} {
		f := newFleet("wrong", "i")
		bad.change(f)
		if err := c.Create(t.Context(), f); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: create: %v, want %q", bad.name, err, bad.want)
		}
	}
}

func fleetIsKept(t *testing.T, c client.Client, m ctrl.Manager, r *fleetReconciler) {
	t.Helper()
	ctx := t.Context()
	f := newFleet("armada", "registry.example/boat")
	if err := c.Create(ctx, f); err != nil {
		t.Fatal(err)
	}
	if *f.Spec.Boats != 2 || f.Spec.Motto != "ahoy" {
		t.Errorf("defaults: %d boats, motto %q; want 2 of the schema and ahoy of the webhook", *f.Spec.Boats, f.Spec.Motto)
	}
	key := client.ObjectKeyFromObject(f)
	wantReady := func(boats int32) {
		t.Helper()
		harness.Eventually(t, fmt.Sprintf("%d boats are ready", boats), func() string {
			var d appsv1.Deployment
			if err := c.Get(ctx, key, &d); err != nil {
				return err.Error()
			}
			if err := c.Get(ctx, key, f); err != nil {
				return err.Error()
			}
			if d.Status.ReadyReplicas != boats || !meta.IsStatusConditionTrue(f.Status.Conditions, "Ready") {
				return fmt.Sprintf("%d ready, %v", d.Status.ReadyReplicas, f.Status.Conditions)
			}
			return ""
		})
	}
	wantReady(2)
	harness.Eventually(t, "somebody's change is undone", func() string {
		if err := c.Delete(ctx, &corev1.ConfigMap{ObjectMeta: f.ObjectMeta}); client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
			return err.Error()
		}
		return ""
	})
	if err := c.Get(ctx, key, f); err != nil {
		t.Fatal(err)
	}
	before := f.DeepCopyObject().(*Fleet)
	f.Spec.Boats = ptr.To[int32](4)
	if err := c.Patch(ctx, f, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	wantReady(4)
	harness.Eventually(t, "the config map is back, and an event tells of the launch", func() string {
		var cm corev1.ConfigMap
		if err := c.Get(ctx, key, &cm); err != nil {
			return err.Error()
		}
		if cm.Data["motto"] != "ahoy" || !metav1.IsControlledBy(&cm, f) {
			return fmt.Sprint(cm)
		}
		var list corev1.EventList
		if err := c.List(ctx, &list, client.InNamespace("default"), client.MatchingFields{"reason": "Launched"}); err != nil {
			return err.Error()
		}
		if len(list.Items) == 0 {
			return "no event"
		}
		return ""
	})
	harness.Eventually(t, "the index finds it", func() string {
		var found FleetList
		if err := m.GetClient().List(ctx, &found, client.MatchingFields{"spec.image": "registry.example/boat"}); err != nil {
			return err.Error()
		}
		if len(found.Items) != 1 {
			return fmt.Sprint(len(found.Items))
		}
		return ""
	})
	if err := c.Delete(ctx, f); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "all that it owned is gone", func() string {
		for _, o := range []client.Object{&Fleet{}, &appsv1.Deployment{}, &corev1.ConfigMap{}} {
			if err := c.Get(ctx, key, o); !apierrors.IsNotFound(err) {
				return fmt.Sprintf("%T: %v", o, err)
			}
		}
		return ""
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(r.docked, f.Name) {
		t.Error("it went before its finalizer had run")
	}
}

func fleetIsConverted(t *testing.T, c client.Client) {
	t.Helper()
	ctx := t.Context()
	old := &oldFleet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "old", Annotations: map[string]string{"keep": "yes"}}}
	old.Spec.Pairs, old.Spec.Image = 2, "registry.example/old"
	if err := c.Create(ctx, old); err != nil {
		t.Fatal(err)
	}
	var f Fleet
	key := client.ObjectKeyFromObject(old)
	if err := c.Get(ctx, key, &f); err != nil || f.Spec.Boats == nil || *f.Spec.Boats != 4 {
		t.Errorf("as v1: %v, %v; want 4 boats", f.Spec, err)
	}
	if err := c.Delete(ctx, &f); err == nil || !strings.Contains(err.Error(), "old is to be kept") {
		t.Errorf("delete: %v, want the webhook's refusal", err)
	}
	harness.Eventually(t, "it may be deleted", func() string {
		var f Fleet
		if err := c.Get(ctx, key, &f); err != nil {
			return err.Error()
		}
		f.Annotations, f.Spec.Boats = nil, ptr.To[int32](6)
		if err := c.Update(ctx, &f); err != nil {
			return err.Error()
		}
		return ""
	})
	if err := c.Get(ctx, key, old); err != nil || old.Spec.Pairs != 3 {
		t.Errorf("as v1beta1: %v, %v; want 3 pairs", old.Spec, err)
	}
	if err := c.Delete(ctx, old); err != nil {
		t.Error(err)
	}
	harness.Eventually(t, "it goes", func() string {
		if err := c.Get(ctx, key, old); !apierrors.IsNotFound(err) {
			return fmt.Sprint(err)
		}
		return ""
	})
}
