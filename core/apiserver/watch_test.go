package apiserver

import (
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

func TestWatch(t *testing.T) {
	h := start(t)
	ctx, maps := t.Context(), h.admin.CoreV1().ConfigMaps("default")
	first, err := maps.Create(ctx, configMap("before", nil), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := maps.Watch(ctx, metav1.ListOptions{ResourceVersion: first.ResourceVersion, LabelSelector: "!hidden"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	obj, err := maps.Create(ctx, configMap("seen", nil), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	obj.Data = map[string]string{"a": "1"}
	if obj, err = maps.Update(ctx, obj, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	obj.Labels = map[string]string{"hidden": "yes"} // leaves the selection: a deletion to this watcher
	if _, err = maps.Update(ctx, obj, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := maps.Delete(ctx, "before", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		typ  watch.EventType
		name string
	}{{watch.Added, "seen"}, {watch.Modified, "seen"}, {watch.Deleted, "seen"}, {watch.Deleted, "before"}} {
		select {
		case e := <-w.ResultChan():
			cm, ok := e.Object.(*corev1.ConfigMap)
			if !ok || e.Type != want.typ || cm.Name != want.name {
				t.Fatalf("event %d is %s %v, want %s %s", i, e.Type, e.Object, want.typ, want.name)
			}
		case <-time.After(time.Minute):
			t.Fatalf("event %d (%s %s) did not come", i, want.typ, want.name)
		}
	}
}

func TestHistoryThatIsGone(t *testing.T) {
	h := start(t)
	ctx, maps := t.Context(), h.admin.CoreV1().ConfigMaps("default")
	var first *corev1.ConfigMap
	for i := range 5 {
		cm, err := maps.Create(ctx, configMap(fmt.Sprintf("m%d", i), nil), metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = cm
		}
	}
	page, err := maps.List(ctx, metav1.ListOptions{Limit: 2})
	if err != nil || page.Continue == "" {
		t.Fatalf("first page: %v, %v", page, err)
	}
	if _, err := maps.Create(ctx, configMap("later", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := compactNow(ctx, h.db); err != nil {
		t.Fatal(err)
	}
	if testEtcd == nil { // with one, watch caches know some history that the etcd has dropped
		_, err = maps.List(ctx, metav1.ListOptions{Limit: 2, Continue: page.Continue})
		if !apierrors.IsResourceExpired(err) {
			t.Errorf("continue token of a compacted revision: %v, want Expired", err)
		}
		var again apierrors.APIStatus
		if errors.As(err, &again) && again.Status().Continue == "" {
			t.Error("the refusal has no token to go on with")
		}
		w, err := maps.Watch(ctx, metav1.ListOptions{ResourceVersion: first.ResourceVersion})
		if err == nil {
			e := <-w.ResultChan()
			err = apierrors.FromObject(e.Object)
			w.Stop()
		}
		if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
			t.Errorf("watch from a compacted revision: %v, want Expired", err)
		}
	}
	err = h.admin.CoreV1().RESTClient().Get().Namespace("default").Resource("configmaps").Param("resourceVersion", "999999999").
		Param("timeoutSeconds", "1").MaxRetries(0).Do(ctx).Error() // a watch cache waits three seconds for it to come
	if err == nil || !apierrors.IsTimeout(err) && !apierrors.IsResourceExpired(err) {
		t.Errorf("revision of the future: got %v, want a refusal", err)
	}
	_, err = h.admin.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{Continue: "garbage"})
	if !apierrors.IsBadRequest(err) {
		t.Errorf("bad continue token: %v, want BadRequest", err)
	}
}

func TestPaging(t *testing.T) {
	h := start(t)
	ctx, maps := t.Context(), h.admin.CoreV1().ConfigMaps("kube-public")
	for i := range 25 {
		cm := configMap(fmt.Sprintf("m%02d", i), nil)
		cm.Namespace = "kube-public"
		if _, err := maps.Create(ctx, cm, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	opts := metav1.ListOptions{Limit: 10}
	for page := 0; ; page++ {
		l, err := maps.List(ctx, opts)
		if err != nil {
			t.Fatal(err)
		}
		for _, cm := range l.Items {
			names = append(names, cm.Name)
		}
		if page == 0 {
			if l.RemainingItemCount == nil || *l.RemainingItemCount != 15 {
				t.Errorf("remaining item count is %v, want 15", l.RemainingItemCount)
			}
			late := configMap("m99", nil)
			late.Namespace = "kube-public"
			if _, err := maps.Create(ctx, late, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if opts.Continue = l.Continue; opts.Continue == "" {
			break
		}
	}
	if len(names) != 25 {
		t.Errorf("got %d names, want the 25 of the first page's revision: %v", len(names), names)
	}
}
