package history

import (
	"context"
	"fmt"
	"maps"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// maxTries bounds how many hashes one sync tries.
const maxTries = 10

// Set is an owner of revisions.
type Set struct {
	metav1.Object

	Kind     schema.GroupVersionKind
	Selector labels.Selector
	Template *corev1.PodTemplateSpec
	// HashLabel is the label of a revision that holds its hash; it differs by kind.
	HashLabel string
	// Collisions is the collisionCount of the set's status.
	Collisions int32
	// Fresh reads the owner from the API server.
	Fresh func(ctx context.Context) (metav1.Object, error)
}

// Keeper keeps the revisions of the sets of one kind.
type Keeper struct {
	client kubernetes.Interface
	index  cache.Indexer

	mu      sync.Mutex
	highest map[types.UID]int64 // number last written for a set, which the cache may not have; guarded by mu
}

// AddIndex puts the index on the informer of revisions by which keepers find a set's. It
// may be called again.
func AddIndex(revisions cache.SharedIndexInformer) error {
	if _, ok := revisions.GetIndexer().GetIndexers()[control.IndexController]; ok {
		return nil
	}
	if err := control.AddControllerIndex(revisions); err != nil {
		return fmt.Errorf("index revisions: %w", err)
	}
	return nil
}

// NewKeeper returns a keeper that reads revisions from the informer, which has had
// AddIndex.
func NewKeeper(client kubernetes.Interface, revisions cache.SharedIndexInformer) *Keeper {
	return &Keeper{client: client, index: revisions.GetIndexer(), highest: map[types.UID]int64{}}
}

// Forget drops what is known of a set that is gone.
func (k *Keeper) Forget(uid types.UID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.highest, uid)
}

// Revisions lists the set's revisions, the oldest first, after adoptions and releases.
func (k *Keeper) Revisions(ctx context.Context, s *Set) ([]*appsv1.ControllerRevision, error) {
	all, err := control.OwnedOrOrphaned[*appsv1.ControllerRevision](k.index, s.GetNamespace(), s.GetUID())
	if err != nil {
		return nil, err
	}
	revs, err := control.Claim(ctx, &control.Claimer{
		Owner: s.Object, Kind: s.Kind, Selector: s.Selector, Fresh: s.Fresh,
		Patch: func(ctx context.Context, name string, data []byte) error {
			_, err := k.client.AppsV1().ControllerRevisions(s.GetNamespace()).Patch(ctx, name, types.StrategicMergePatchType, data, metav1.PatchOptions{})
			return err
		},
	}, all, func(*appsv1.ControllerRevision) bool { return true })
	if err != nil {
		return nil, fmt.Errorf("claim revisions: %w", err)
	}
	Sort(revs)
	return revs, nil
}

// Current returns the revision of the set's template, which becomes the newest of revs
// if it was not (an undo), and is made if there is none. The second result is the set's
// collision count from now on.
func (k *Keeper) Current(ctx context.Context, s *Set, revs []*appsv1.ControllerRevision) (*appsv1.ControllerRevision, int32, error) {
	data, err := Data(s.Template)
	if err != nil {
		return nil, s.Collisions, err
	}
	last := int64(0)
	if len(revs) > 0 {
		last = revs[len(revs)-1].Revision
	}
	rev := find(revs, data)
	switch {
	case rev == nil:
		return k.create(ctx, s, data, k.next(s.GetUID(), last))
	case rev.Revision == last:
		return rev, s.Collisions, nil
	}
	rev, err = k.renumber(ctx, s, rev, k.next(s.GetUID(), last))
	return rev, s.Collisions, err
}

func (k *Keeper) next(uid types.UID, last int64) int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return max(last, k.highest[uid]) + 1
}

func (k *Keeper) written(s *Set, rev *appsv1.ControllerRevision) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.highest[s.GetUID()] = max(k.highest[s.GetUID()], rev.Revision)
}

func (k *Keeper) renumber(ctx context.Context, s *Set, rev *appsv1.ControllerRevision, number int64) (*appsv1.ControllerRevision, error) {
	next := rev.DeepCopy()
	next.Revision = number
	updated, err := k.client.AppsV1().ControllerRevisions(rev.Namespace).Update(ctx, next, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("renumber revision %s: %w", rev.Name, err)
	}
	k.written(s, updated)
	return updated, nil
}

// create makes a revision. One of that name may be there: the same, which the cache did
// not have, or another with the same hash, so that a collision is counted.
func (k *Keeper) create(ctx context.Context, s *Set, data []byte, number int64) (*appsv1.ControllerRevision, int32, error) {
	revisions := k.client.AppsV1().ControllerRevisions(s.GetNamespace())
	collisions := s.Collisions
	for range maxTries {
		hash := Hash(data, collisions)
		rev := &appsv1.ControllerRevision{
			ObjectMeta: metav1.ObjectMeta{
				Name: Name(s.GetName(), hash), Namespace: s.GetNamespace(),
				Labels: maps.Clone(s.Template.Labels), Annotations: maps.Clone(s.GetAnnotations()),
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(s.Object, s.Kind)},
			},
			Data: runtime.RawExtension{Raw: data}, Revision: number,
		}
		if rev.Labels == nil {
			rev.Labels = map[string]string{}
		}
		rev.Labels[s.HashLabel] = hash
		made, err := revisions.Create(ctx, rev, metav1.CreateOptions{})
		if err == nil {
			k.written(s, made)
			return made, collisions, nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return nil, collisions, fmt.Errorf("create revision %s: %w", rev.Name, err)
		}
		there, err := revisions.Get(ctx, rev.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, collisions, fmt.Errorf("get revision %s: %w", rev.Name, err)
		}
		if metav1.IsControlledBy(there, s.Object) && find([]*appsv1.ControllerRevision{there}, data) != nil {
			k.written(s, there)
			return there, collisions, nil
		}
		collisions++
	}
	return nil, collisions, fmt.Errorf("create revision of %s: %d hashes are taken", control.Key(s), maxTries)
}

// Truncate deletes the oldest of the sorted revisions that are not live, beyond limit.
func (k *Keeper) Truncate(ctx context.Context, revs []*appsv1.ControllerRevision, live func(*appsv1.ControllerRevision) bool, limit int32) error {
	for _, rev := range surplus(revs, live, limit) {
		if rev.DeletionTimestamp != nil {
			continue
		}
		err := k.client.AppsV1().ControllerRevisions(rev.Namespace).Delete(ctx, rev.Name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &rev.UID, ResourceVersion: &rev.ResourceVersion},
		})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("delete revision %s: %w", rev.Name, err)
		}
	}
	return nil
}

// Count tells how many revisions a set has.
func (k *Keeper) Count(uid types.UID) int {
	keys, err := k.index.IndexKeys(control.IndexController, string(uid))
	if err != nil {
		return 0
	}
	return len(keys)
}
