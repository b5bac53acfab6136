package binder

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/volume"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// world is an API server's part of the story: objects with versions, and binders
// that see them late, write to them, and die between two writes.
type world struct {
	t       *testing.T
	random  *rand.Rand
	version int
	claims  map[string]*corev1.PersistentVolumeClaim
	volumes map[string]*corev1.PersistentVolume
	binders []*Controller
	stores  [][2]cache.Indexer // claims and volumes of each binder
	crash   int                // writes until a crash; negative is none
	writes  int
	classes cache.Indexer
}

var errCrash = errors.New("the process died")

func newWorld(t *testing.T, seed uint64, binders int) *world {
	w := &world{
		t: t, random: rand.New(rand.NewPCG(seed, 1)), crash: -1,
		claims: map[string]*corev1.PersistentVolumeClaim{}, volumes: map[string]*corev1.PersistentVolume{},
		classes: cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{}),
	}
	for name, mode := range map[string]storagev1.VolumeBindingMode{"now": storagev1.VolumeBindingImmediate, "later": storagev1.VolumeBindingWaitForFirstConsumer} {
		w.must(w.classes.Add(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: "disks.example.com", VolumeBindingMode: &mode}))
	}
	for range binders {
		w.stores = append(w.stores, [2]cache.Indexer{
			cache.NewIndexer(cache.MetaNamespaceKeyFunc, claimIndexers()), cache.NewIndexer(cache.MetaNamespaceKeyFunc, volumeIndexers())})
		w.binders = append(w.binders, nil)
		w.restart(len(w.binders) - 1)
	}
	return w
}

// restart makes binder i anew: what it remembered is gone, what it had cached too.
func (w *world) restart(i int) {
	for _, s := range w.stores[i] {
		w.must(s.Replace(nil, ""))
	}
	pods := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{control.IndexClaim: func(any) ([]string, error) { return nil, nil }})
	w.binders[i] = newBinder(w, &record.FakeRecorder{}, w.stores[i][0], w.stores[i][1], pods, w.classes)
	for key := range w.claims {
		w.deliver(i, claimKey+key)
	}
	for name := range w.volumes {
		w.deliver(i, volumeKey+name)
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) stamp(o metav1.Object) {
	w.version++
	o.SetResourceVersion(strconv.Itoa(w.version))
}

func (w *world) claim(_ context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	if c := w.claims[namespace+"/"+name]; c != nil {
		return c.DeepCopy(), nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("persistentvolumeclaims"), name)
}

func (w *world) volume(_ context.Context, name string) (*corev1.PersistentVolume, error) {
	if v := w.volumes[name]; v != nil {
		return v.DeepCopy(), nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("persistentvolumes"), name)
}

// write replaces old by next, if next was made from it, and may kill the writer then.
func write[T metav1.Object](w *world, all map[string]T, key string, next T, change func(old T) error) (T, error) {
	var zero T
	old, ok := all[key]
	switch {
	case !ok:
		return zero, apierrors.NewNotFound(corev1.Resource("things"), key)
	case old.GetResourceVersion() != next.GetResourceVersion() || old.GetUID() != next.GetUID():
		return zero, apierrors.NewConflict(corev1.Resource("things"), key, errors.New("it was changed"))
	}
	if err := change(old); err != nil {
		return zero, err
	}
	w.stamp(next)
	all[key] = next
	w.writes++
	w.check()
	if w.crash--; w.crash == 0 {
		return zero, errCrash
	}
	return next, nil
}

func (w *world) updateClaim(_ context.Context, c *corev1.PersistentVolumeClaim) (*corev1.PersistentVolumeClaim, error) {
	return write(w, w.claims, control.Key(c), c.DeepCopy(), func(old *corev1.PersistentVolumeClaim) error {
		if old.Spec.VolumeName != "" && old.Spec.VolumeName != c.Spec.VolumeName {
			w.t.Errorf("claim %s moves from volume %s to %q", c.Name, old.Spec.VolumeName, c.Spec.VolumeName)
			return errors.New("immutable")
		}
		return nil
	})
}

func (w *world) updateClaimStatus(_ context.Context, c *corev1.PersistentVolumeClaim) (*corev1.PersistentVolumeClaim, error) {
	return write(w, w.claims, control.Key(c), c.DeepCopy(), func(*corev1.PersistentVolumeClaim) error { return nil })
}

func (w *world) updateVolume(_ context.Context, v *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	return write(w, w.volumes, v.Name, v.DeepCopy(), func(old *corev1.PersistentVolume) error {
		ref := old.Spec.ClaimRef
		if ref == nil || ref.UID == "" {
			return nil
		}
		if c := w.claims[refKey(old)]; c != nil && c.UID == ref.UID && c.Spec.VolumeName == v.Name && !volume.IsVolumeBoundToClaim(v, c) {
			w.t.Errorf("volume %s is taken from claim %s, which is bound to it", v.Name, c.Name)
		}
		return nil
	})
}

func (w *world) updateVolumeStatus(_ context.Context, v *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	return write(w, w.volumes, v.Name, v.DeepCopy(), func(old *corev1.PersistentVolume) error {
		if ref := old.Spec.ClaimRef; ref != nil && ref.UID != "" && v.Status.Phase == corev1.VolumeReleased {
			if c := w.claims[refKey(old)]; c != nil && c.UID == ref.UID && (c.Spec.VolumeName == v.Name || c.Spec.VolumeName == "") {
				w.t.Errorf("volume %s is released, and may be deleted, while its claim %s is there", v.Name, c.Name)
			}
		}
		return nil
	})
}

// check: no two claims have one volume, at any time.
func (w *world) check() {
	w.t.Helper()
	has := map[string]string{}
	for key, c := range w.claims {
		if c.Status.Phase != corev1.ClaimBound {
			continue
		}
		if other := has[c.Spec.VolumeName]; other != "" {
			w.t.Fatalf("claims %s and %s both have volume %s", key, other, c.Spec.VolumeName)
		}
		has[c.Spec.VolumeName] = key
		if v := w.volumes[c.Spec.VolumeName]; v != nil && (v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != c.UID) {
			w.t.Fatalf("claim %s has volume %s, whose claimRef is %v", key, v.Name, v.Spec.ClaimRef)
		}
	}
}

// deliver shows an object, or that it is gone, to binder i.
func (w *world) deliver(i int, key string) {
	if name, ok := cutVolume(key); ok {
		show(w, w.stores[i][1], w.volumes, name)
		return
	}
	show(w, w.stores[i][0], w.claims, key[len(claimKey):])
}

func cutVolume(key string) (string, bool) {
	if len(key) > len(volumeKey) && key[:len(volumeKey)] == volumeKey {
		return key[len(volumeKey):], true
	}
	return "", false
}

func show[T any](w *world, s cache.Indexer, all map[string]T, key string) {
	if o, ok := all[key]; ok {
		w.must(s.Update(o)) // writes replace objects, so that it does not change
		return
	}
	if o, ok, _ := s.GetByKey(key); ok {
		w.must(s.Delete(o))
	}
}

// keys are those of all objects there are, and those that binder i still believes in.
func (w *world) keys(i int) []string {
	set := map[string]bool{}
	for key := range w.claims {
		set[claimKey+key] = true
	}
	for name := range w.volumes {
		set[volumeKey+name] = true
	}
	for n, prefix := range []string{claimKey, volumeKey} {
		for _, key := range w.stores[i][n].ListKeys() {
			set[prefix+key] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

func (w *world) sync(i int, key string) error {
	err := w.binders[i].sync(w.t.Context(), key)
	if errors.Is(err, errCrash) {
		w.crash = -1
		w.restart(i)
	}
	return err
}

func (w *world) pick(options ...string) string { return options[w.random.IntN(len(options))] }

func (w *world) newClaim(name string) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(fmt.Sprint("c", w.version))}}
	c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	c.Spec.StorageClassName = new(w.pick("", "", "now", "later"))
	c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(w.pick("1Gi", "2Gi", "3Gi"))}
	c.Status.Phase = corev1.ClaimPending
	return c
}

func (w *world) newVolume(name string) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(fmt.Sprint("v", w.version))}}
	v.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	v.Spec.StorageClassName = w.pick("", "", "now", "later")
	v.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(w.pick("1Gi", "2Gi", "4Gi"))}
	v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimPolicy(w.pick("Retain", "Delete", "Recycle"))
	return v
}

// change does what users, schedulers and provisioners do.
func (w *world) change(step int) {
	w.version++
	claims, volumes := slices.Sorted(maps.Keys(w.claims)), slices.Sorted(maps.Keys(w.volumes))
	switch n := w.random.IntN(12); {
	case n < 4:
		c := w.newClaim(fmt.Sprint("c", w.random.IntN(8)))
		if w.claims[control.Key(c)] != nil {
			return
		}
		if len(volumes) > 0 && w.random.IntN(4) == 0 {
			c.Spec.VolumeName = w.pick(volumes...)
		}
		w.stamp(c)
		w.claims[control.Key(c)] = c
	case n < 8:
		v := w.newVolume(fmt.Sprint("v", step))
		if len(claims) > 0 {
			c := w.claims[w.pick(claims...)]
			switch w.random.IntN(6) {
			case 0: // its author means it for a claim
				v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: c.Namespace, Name: c.Name}
			case 1: // a provisioner made it
				v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: c.Namespace, Name: c.Name, UID: c.UID}
				v.Annotations = map[string]string{volume.AnnDynamicallyProvisioned: "disks.example.com"}
				v.Spec.StorageClassName, v.Spec.PersistentVolumeReclaimPolicy = *c.Spec.StorageClassName, corev1.PersistentVolumeReclaimDelete
			case 2: // the scheduler picked it
				v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: c.Namespace, Name: c.Name, UID: c.UID}
				v.Annotations = map[string]string{volume.AnnBoundByController: "yes"}
			}
		}
		w.stamp(v)
		w.volumes[v.Name] = v
	case n < 10 && len(claims) > 0:
		delete(w.claims, w.pick(claims...))
	case n == 10 && len(volumes) > 0:
		delete(w.volumes, w.pick(volumes...))
	}
	w.check()
}
