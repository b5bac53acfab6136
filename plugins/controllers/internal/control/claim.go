package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Claimer makes the objects that match an owner's selector the owner's, and
// releases those that no longer do. It is made for one sync.
type Claimer struct {
	Owner    metav1.Object
	Kind     schema.GroupVersionKind
	Selector labels.Selector
	// Finalizer, if not empty, is put on what is adopted and taken off what is released.
	Finalizer string
	// Fresh reads the owner from the API server, so that nothing is adopted on
	// behalf of an owner deleted meanwhile. It is called before the first
	// adoption only.
	Fresh func(ctx context.Context) (metav1.Object, error)
	// Patch sends a strategic merge patch for the object with the given name.
	Patch func(ctx context.Context, name string, data []byte) error

	checked  bool
	checkErr error
}

// Claim returns those of objs that belong to the owner after adoptions and
// releases. adoptable tells which orphans may be adopted.
func Claim[T metav1.Object](ctx context.Context, c *Claimer, objs []T, adoptable func(T) bool) ([]T, error) {
	var claimed []T
	var errs []error
	for _, o := range objs {
		ok, err := c.claim(ctx, o, func() bool { return adoptable(o) })
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if ok {
			claimed = append(claimed, o)
		}
	}
	return claimed, errors.Join(errs...)
}

func (c *Claimer) claim(ctx context.Context, o metav1.Object, adoptable func() bool) (bool, error) {
	match := c.Selector.Matches(labels.Set(o.GetLabels()))
	if ref := metav1.GetControllerOfNoCopy(o); ref != nil {
		switch {
		case ref.UID != c.Owner.GetUID():
			return false, nil
		case match:
			return true, nil
		case c.Owner.GetDeletionTimestamp() != nil:
			return false, nil
		}
		return false, c.release(ctx, o)
	}
	if !match || c.Owner.GetDeletionTimestamp() != nil || o.GetDeletionTimestamp() != nil || !adoptable() {
		return false, nil
	}
	if o.GetNamespace() != c.Owner.GetNamespace() {
		return false, nil
	}
	err := c.adopt(ctx, o)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

func (c *Claimer) adopt(ctx context.Context, o metav1.Object) error {
	if err := c.mayAdopt(ctx); err != nil {
		return fmt.Errorf("adopt %s: %w", Key(o), err)
	}
	ref := metav1.NewControllerRef(c.Owner, c.Kind)
	meta := map[string]any{"uid": o.GetUID(), "ownerReferences": []any{ref}}
	if c.Finalizer != "" {
		meta["finalizers"] = []string{c.Finalizer}
	}
	data, err := json.Marshal(map[string]any{"metadata": meta})
	if err != nil {
		return fmt.Errorf("adopt %s: %w", Key(o), err)
	}
	if err := c.Patch(ctx, o.GetName(), data); err != nil {
		return fmt.Errorf("adopt %s: %w", Key(o), err)
	}
	return nil
}

func (c *Claimer) mayAdopt(ctx context.Context) error {
	if c.checked {
		return c.checkErr
	}
	c.checked = true
	fresh, err := c.Fresh(ctx)
	switch {
	case err != nil:
		c.checkErr = err
	case fresh.GetUID() != c.Owner.GetUID():
		c.checkErr = fmt.Errorf("original %s %s is gone: got uid %s, wanted %s", c.Kind.Kind, Key(c.Owner), fresh.GetUID(), c.Owner.GetUID())
	case fresh.GetDeletionTimestamp() != nil:
		c.checkErr = fmt.Errorf("%s %s has just been deleted at %s", c.Kind.Kind, Key(c.Owner), fresh.GetDeletionTimestamp())
	}
	return c.checkErr
}

func (c *Claimer) release(ctx context.Context, o metav1.Object) error {
	data, err := releasePatch(o.GetUID(), c.Finalizer, c.Owner.GetUID())
	if err != nil {
		return err
	}
	err = c.Patch(ctx, o.GetName(), data)
	// Invalid: the uid in the patch is another's, so the object is a new one
	// or has lost this owner already.
	if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("release %s: %w", Key(o), err)
	}
	return nil
}

// ReleasePatch is a strategic merge patch that removes owners from the object
// with the given uid.
func ReleasePatch(uid types.UID, owners ...types.UID) ([]byte, error) {
	return releasePatch(uid, "", owners...)
}

func releasePatch(uid types.UID, finalizer string, owners ...types.UID) ([]byte, error) {
	refs := make([]any, 0, len(owners))
	for _, o := range owners {
		refs = append(refs, map[string]any{"$patch": "delete", "uid": o})
	}
	meta := map[string]any{"uid": uid, "ownerReferences": refs}
	if finalizer != "" {
		meta["$deleteFromPrimitiveList/finalizers"] = []string{finalizer}
	}
	data, err := json.Marshal(map[string]any{"metadata": meta})
	if err != nil {
		return nil, fmt.Errorf("encode release of %s: %w", uid, err)
	}
	return data, nil
}
