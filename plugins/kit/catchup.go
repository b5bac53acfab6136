package kit

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
)

const (
	// catchUpPoll is how often a cache is looked at that has not caught up.
	catchUpPoll = 2 * time.Millisecond
	// catchUpAgain is after how long the API is asked anew, doubled up to catchUpSlow: an
	// object that was deleted just after the list never comes to a cache that has seen its
	// end already.
	catchUpAgain = 10 * time.Millisecond
	catchUpSlow  = 2 * time.Second
)

// CatchUp returns when an informer's cache has all that the API has at the time of the
// call, by a consistent list of the objects' metadata; or with ctx's error. A plugin whose
// decisions a stale cache could make wrong (place a pod twice, create one more) calls it
// for each activation: another process may have acted a moment ago. opts are the
// selectors of the informer.
func (e *Env) CatchUp(ctx context.Context, resource schema.GroupVersionResource, store cache.Store, opts metav1.ListOptions) error {
	if e.RESTConfig == nil {
		return nil
	}
	client, err := metadata.NewForConfig(metadata.ConfigFor(e.RESTConfig))
	if err != nil {
		return fmt.Errorf("catch up with %s: %w", resource.Resource, err)
	}
	begin := time.Now()
	lists, err := catchUp(ctx, client.Resource(resource), store, opts)
	e.Log.Debug("Cache has caught up", "resource", resource.Resource, "after", time.Since(begin), "lists", lists, "err", err)
	return err
}

// lister lists the metadata of one resource.
type lister interface {
	List(ctx context.Context, opts metav1.ListOptions) (*metav1.PartialObjectMetadataList, error)
}

// catchUp says how often it has asked.
func catchUp(ctx context.Context, client lister, store cache.Store, opts metav1.ListOptions) (lists int, err error) {
	opts.ResourceVersion = "" // the newest, whatever caches there are on the way
	var want *metav1.PartialObjectMetadataList
	var last error
	for pause := catchUpAgain; ctx.Err() == nil; pause = min(2*pause, catchUpSlow) {
		begin := time.Now()
		lists++
		list, err := client.List(ctx, opts)
		if err != nil {
			last = err
			sleep(ctx, 50*time.Millisecond)
			continue
		}
		want = stillThere(want, list)
		pause = max(pause, min(time.Since(begin), catchUpSlow)) // long lists are not asked for all the time
		for until := time.Now().Add(pause); ; {
			if caughtUp(want, store) {
				return lists, nil
			}
			if !time.Now().Before(until) || !sleep(ctx, catchUpPoll) {
				break
			}
		}
	}
	if last != nil {
		return lists, fmt.Errorf("%w (last: %w)", ctx.Err(), last)
	}
	return lists, ctx.Err()
}

// stillThere is what of the first list a later one still has: nothing else is waited for,
// so that it ends however much comes and goes. Without a first list it is the later one.
func stillThere(first, now *metav1.PartialObjectMetadataList) *metav1.PartialObjectMetadataList {
	if first == nil {
		return now
	}
	there := make(map[string]bool, len(now.Items))
	for i := range now.Items {
		there[keyOf(&now.Items[i])] = true
	}
	out := *first
	out.Items = slices.DeleteFunc(slices.Clone(first.Items), func(item metav1.PartialObjectMetadata) bool { return !there[keyOf(&item)] })
	return &out
}

// keyOf is the key under which a cache has an object.
func keyOf(item *metav1.PartialObjectMetadata) string {
	if item.Namespace == "" {
		return item.Name
	}
	return item.Namespace + "/" + item.Name
}

// caughtUp tells whether the store has each object of the list, as new or newer, and none
// that was gone by then.
func caughtUp(list *metav1.PartialObjectMetadataList, store cache.Store) bool {
	known := make(map[string]bool, len(list.Items))
	for i := range list.Items {
		item := &list.Items[i]
		key := keyOf(item)
		known[key] = true
		if got, ok, err := store.GetByKey(key); err != nil || !ok || versionOf(got) < version(item.ResourceVersion) {
			return false
		}
	}
	if keys := store.ListKeys(); len(keys) > len(known) {
		at := version(list.ResourceVersion)
		for _, key := range keys {
			if known[key] {
				continue
			}
			if got, ok, _ := store.GetByKey(key); ok && versionOf(got) <= at {
				return false
			}
		}
	}
	return true
}

func versionOf(obj any) uint64 {
	if o, ok := obj.(metav1.Object); ok {
		return version(o.GetResourceVersion())
	}
	return 0
}

func version(text string) uint64 {
	n, _ := strconv.ParseUint(text, 10, 64) // 0 is older than all
	return n
}

// sleep waits for d or the end of ctx, and says whether ctx still lives.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
