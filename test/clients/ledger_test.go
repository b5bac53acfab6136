package clients

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

// churned are the kinds that the writers write, each a minimal object.
var churned = []struct {
	gvr  schema.GroupVersionResource
	kind string
	body map[string]any
}{
	{schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, "ConfigMap", nil},
	{schema.GroupVersionResource{Version: "v1", Resource: "secrets"}, "Secret", nil},
	{schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}, "Lease", map[string]any{"spec": map[string]any{"leaseDurationSeconds": int64(10)}}},
	{schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "roles"}, "Role", map[string]any{"rules": []any{}}},
	{schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies"}, "NetworkPolicy", map[string]any{"spec": map[string]any{"podSelector": map[string]any{}}}},
	{schema.GroupVersionResource{Version: "v1", Resource: "pods"}, "Pod", map[string]any{"spec": map[string]any{
		"automountServiceAccountToken": false, "containers": []any{map[string]any{"name": "m", "image": "i"}}}}},
}

// ledger has all writes that the server acknowledged, of one kind.
type ledger struct {
	mu      sync.Mutex
	written map[string]types.UID // by resource version; guarded by mu
	deleted map[types.UID]bool   // guarded by mu
}

func (l *ledger) wrote(o metav1.Object) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.written[o.GetResourceVersion()] = o.GetUID()
}

func (l *ledger) removed(uid types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deleted[uid] = true
}

// len is the number of writes so far.
func (l *ledger) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.written) + len(l.deleted)
}

// missing says what of the ledger the others have not seen.
func (l *ledger) missing(s *seen) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for rv, uid := range l.written {
		if _, ok := s.versions[rv]; !ok {
			return fmt.Sprintf("%s: version %s of object %s was not seen; %d of %d were", s.name, rv, uid, len(s.versions), len(l.written))
		}
	}
	for uid := range l.deleted {
		if s.deleted[uid] == 0 {
			return fmt.Sprintf("%s: the deletion of object %s was not seen", s.name, uid)
		}
	}
	return ""
}

// seen is what one watcher has been told. It complains at once of what is told
// twice, or in a wrong order.
type seen struct {
	t    *testing.T
	name string

	mu       sync.Mutex
	versions map[string]bool      // guarded by mu
	last     map[types.UID]uint64 // newest version of each object; guarded by mu
	added    map[types.UID]int    // guarded by mu
	deleted  map[types.UID]int    // guarded by mu
}

func newSeen(t *testing.T, name string) *seen {
	return &seen{t: t, name: name, versions: map[string]bool{}, last: map[types.UID]uint64{}, added: map[types.UID]int{}, deleted: map[types.UID]int{}}
}

func (s *seen) event(what string, obj any) {
	o, err := meta.Accessor(obj)
	if err != nil {
		s.t.Errorf("%s: %s of a %T: %v", s.name, what, obj, err)
		return
	}
	rv, err := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	if err != nil {
		s.t.Errorf("%s: resource version %q", s.name, o.GetResourceVersion())
	}
	uid := o.GetUID()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch what {
	case "add":
		if s.added[uid]++; s.added[uid] > 1 {
			s.t.Errorf("%s: %s was added %d times", s.name, o.GetName(), s.added[uid])
		}
	case "delete":
		if s.deleted[uid]++; s.deleted[uid] > 1 {
			s.t.Errorf("%s: %s was deleted %d times", s.name, o.GetName(), s.deleted[uid])
		}
		return // its version may be that of the deletion, or after a relist the last known one
	}
	if s.deleted[uid] > 0 {
		s.t.Errorf("%s: %s of %s after its deletion", s.name, what, o.GetName())
	}
	if rv <= s.last[uid] {
		s.t.Errorf("%s: %s of %s to version %d, which had %d before", s.name, what, o.GetName(), rv, s.last[uid])
	}
	s.last[uid] = rv
	s.versions[o.GetResourceVersion()] = true
}

// writers write all kinds of churned until stop.
type writers struct {
	ledgers []*ledger
	client  dynamic.Interface
}

func newWriters(client dynamic.Interface) *writers {
	w := &writers{client: client}
	for range churned {
		w.ledgers = append(w.ledgers, &ledger{written: map[string]types.UID{}, deleted: map[types.UID]bool{}})
	}
	return w
}

// run makes n writes of each kind, one after the other, the kinds beside each
// other. When the server is away it goes on once that is back: a write without an
// answer is not in the ledger, but may have been done.
func (w *writers) run(t *testing.T, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range churned {
		wg.Go(func() {
			for done := 0; done < n; {
				if err := w.write(t.Context(), i); err == nil {
					done++
				} else if t.Context().Err() != nil {
					return
				} else if apierrors.ReasonForError(err) != metav1.StatusReasonUnknown && !apierrors.IsNotFound(err) && !apierrors.IsAlreadyExists(err) &&
					!apierrors.IsConflict(err) && !apierrors.IsServiceUnavailable(err) && !apierrors.IsTooManyRequests(err) && !apierrors.IsInternalError(err) && !apierrors.IsTimeout(err) {
					t.Errorf("write %s: %v", churned[i].kind, err)
					return
				} else {
					select {
					case <-time.After(20 * time.Millisecond):
					case <-t.Context().Done():
					}
				}
			}
		})
	}
	wg.Wait()
}

const churnedNames = 12 // objects of a kind

func (w *writers) write(ctx context.Context, i int) error {
	kind, book := churned[i], w.ledgers[i]
	ri := w.client.Resource(kind.gvr).Namespace("default")
	name := fmt.Sprintf("churn-%d", rand.IntN(churnedNames))
	got, err := ri.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		u := &unstructured.Unstructured{Object: map[string]any{}}
		maps.Copy(u.Object, kind.body)
		u.SetAPIVersion(kind.gvr.GroupVersion().String())
		u.SetKind(kind.kind)
		u.SetName(name)
		made, err := ri.Create(ctx, u, metav1.CreateOptions{})
		if err == nil {
			book.wrote(made)
		}
		return err
	case err != nil:
		return err
	case rand.IntN(5) == 0:
		uid, none := got.GetUID(), int64(0)
		err := ri.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &none, Preconditions: &metav1.Preconditions{UID: &uid}})
		if err == nil {
			book.removed(uid)
		}
		return err
	}
	got.SetAnnotations(map[string]string{"n": strconv.Itoa(rand.Int())})
	updated, err := ri.Update(ctx, got, metav1.UpdateOptions{})
	if err == nil {
		book.wrote(updated)
	}
	return err
}
