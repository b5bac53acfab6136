package control

import (
	"fmt"
	"log/slog"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
)

// Names of the indexes that Context puts on informers.
const (
	// IndexController finds objects by the UID of their controller, and those
	// without one by OrphanKey of their namespace.
	IndexController = "controller"
	// IndexNode finds pods by the name of their node.
	IndexNode = "node"
)

// Context is what each controller is made from. All fields are shared and safe
// for concurrent use; informers are started by the owner of the Context after
// the controllers have registered their handlers.
type Context struct {
	Client    kubernetes.Interface
	Metadata  metadata.Interface
	Discovery discovery.DiscoveryInterface
	// REST is what clients of further APIs are made from.
	REST      *rest.Config
	Informers informers.SharedInformerFactory
	Log       *slog.Logger
	Metrics   *Metrics

	// PodCIDRs are the cluster's pod networks, of which nodes get their parts.
	PodCIDRs []netip.Prefix
	// CA is the PEM of the authority that signed the API server's certificate.
	CA []byte

	// Broadcaster takes the events of all recorders.
	Broadcaster record.EventBroadcaster

	queues []func() // end the loops' queues
}

// Close ends what the controllers were made with: the queues, and the broadcaster. They
// have ended, or were never run.
func (c *Context) Close() {
	for _, end := range c.queues {
		end()
	}
	c.Broadcaster.Shutdown()
}

// Recorder returns a recorder whose events name component as their source.
func (c *Context) Recorder(component string) record.EventRecorder {
	return c.Broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component})
}

// AddIndexes puts the indexes on the informers of pods and replica sets. It is
// called once per informer factory, before its start.
func AddIndexes(f informers.SharedInformerFactory) error {
	pods := f.Core().V1().Pods().Informer()
	if err := pods.AddIndexers(cache.Indexers{IndexController: indexController, IndexNode: indexNode}); err != nil {
		return fmt.Errorf("index pods: %w", err)
	}
	if err := AddControllerIndex(f.Apps().V1().ReplicaSets().Informer()); err != nil {
		return fmt.Errorf("index replica sets: %w", err)
	}
	return nil
}

// AddControllerIndex puts IndexController on an informer that has not started.
func AddControllerIndex(inf cache.SharedIndexInformer) error {
	return inf.AddIndexers(cache.Indexers{IndexController: indexController})
}

// TrimManagedFields is an informer transform that drops what no controller
// reads. Managed fields are often a third of an object.
func TrimManagedFields(obj any) (any, error) {
	if o, ok := obj.(metav1.Object); ok {
		o.SetManagedFields(nil)
	}
	return obj, nil
}

// OrphanKey is the IndexController key of objects in namespace that have no
// controller.
func OrphanKey(namespace string) string { return "orphan/" + namespace }

func indexController(obj any) ([]string, error) {
	o, ok := obj.(metav1.Object)
	if !ok {
		return nil, nil
	}
	if ref := metav1.GetControllerOfNoCopy(o); ref != nil {
		return []string{string(ref.UID)}, nil
	}
	return []string{OrphanKey(o.GetNamespace())}, nil
}

func indexNode(obj any) ([]string, error) {
	if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
		return []string{pod.Spec.NodeName}, nil
	}
	return nil, nil
}

// OwnedOrOrphaned lists the objects that the owner with uid controls, and those
// of its namespace that nobody does.
func OwnedOrOrphaned[T any](idx cache.Indexer, namespace string, uid types.UID) ([]T, error) {
	var out []T
	for _, key := range []string{string(uid), OrphanKey(namespace)} {
		objs, err := idx.ByIndex(IndexController, key)
		if err != nil {
			return nil, fmt.Errorf("look up objects of controller %s: %w", key, err)
		}
		for _, o := range objs {
			if t, ok := o.(T); ok {
				out = append(out, t)
			}
		}
	}
	return out, nil
}

// Deleted unwraps what a delete handler got, which may be a tombstone. It
// returns false for anything that is not a T.
func Deleted[T any](obj any) (T, bool) {
	if tomb, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = tomb.Obj
	}
	t, ok := obj.(T)
	return t, ok
}

// Handle registers typed event handlers, any of which may be nil. Updates that
// changed nothing (informer resyncs) are left out.
func Handle[T metav1.Object](inf cache.SharedIndexInformer, add func(T), update func(old, cur T), del func(T)) (cache.ResourceEventHandlerRegistration, error) {
	return inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if t, ok := obj.(T); ok && add != nil {
				add(t)
			}
		},
		UpdateFunc: func(old, cur any) {
			o, ok1 := old.(T)
			n, ok2 := cur.(T)
			if ok1 && ok2 && update != nil && (o.GetResourceVersion() != n.GetResourceVersion() || n.GetResourceVersion() == "") {
				update(o, n)
			}
		},
		DeleteFunc: func(obj any) {
			if t, ok := Deleted[T](obj); ok && del != nil {
				del(t)
			}
		},
	})
}
