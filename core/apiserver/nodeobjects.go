package apiserver

import (
	"context"
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/core/auth"
)

// nodeObjects is what the Node authorizer looks at, straight in the registry:
// the objects are those that the store has decoded. Its fields are set before
// anything is served.
type nodeObjects struct {
	pods, claims, volumes, attachments, slices, drivers, podCertificates rest.Getter
}

var _ auth.NodeObjects = (*nodeObjects)(nil)

// use finds the registries. A kind that is not served has no objects.
func (o *nodeObjects) use(groups []*genericapiserver.APIGroupInfo) {
	for _, g := range groups {
		for version, resources := range g.VersionedResourcesStorageMap {
			for plural, field := range map[string]*rest.Getter{
				"/v1/pods": &o.pods, "/v1/persistentvolumeclaims": &o.claims, "/v1/persistentvolumes": &o.volumes,
				"storage.k8s.io/v1/volumeattachments": &o.attachments, "resource.k8s.io/v1/resourceslices": &o.slices,
				"storage.k8s.io/v1/csidrivers": &o.drivers, "certificates.k8s.io/v1/podcertificaterequests": &o.podCertificates,
			} {
				prefix := g.PrioritizedVersions[0].Group + "/" + version + "/"
				if len(plural) > len(prefix) && plural[:len(prefix)] == prefix {
					if got, ok := resources[plural[len(prefix):]].(rest.Getter); ok {
						*field = got
					}
				}
			}
		}
	}
}

func lookUp[T runtime.Object](ctx context.Context, from rest.Getter, resource, namespace, name string) (T, error) {
	var none T
	if from == nil {
		return none, apierrors.NewNotFound(corev1.Resource(resource), name)
	}
	return get[T](ctx, from, namespace, name)
}

// Pod implements auth.NodeObjects.
func (o *nodeObjects) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return lookUp[*corev1.Pod](ctx, o.pods, "pods", namespace, name)
}

// Claim implements auth.NodeObjects.
func (o *nodeObjects) Claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	return lookUp[*corev1.PersistentVolumeClaim](ctx, o.claims, "persistentvolumeclaims", namespace, name)
}

// Volume implements auth.NodeObjects.
func (o *nodeObjects) Volume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	return lookUp[*corev1.PersistentVolume](ctx, o.volumes, "persistentvolumes", "", name)
}

// Attachment implements auth.NodeObjects.
func (o *nodeObjects) Attachment(ctx context.Context, name string) (*storagev1.VolumeAttachment, error) {
	return lookUp[*storagev1.VolumeAttachment](ctx, o.attachments, "volumeattachments", "", name)
}

// Slice implements auth.NodeObjects.
func (o *nodeObjects) Slice(ctx context.Context, name string) (*resourcev1.ResourceSlice, error) {
	return lookUp[*resourcev1.ResourceSlice](ctx, o.slices, "resourceslices", "", name)
}

// Driver implements auth.NodeObjects.
func (o *nodeObjects) Driver(ctx context.Context, name string) (*storagev1.CSIDriver, error) {
	return lookUp[*storagev1.CSIDriver](ctx, o.drivers, "csidrivers", "", name)
}

// PodCertificateRequest implements auth.NodeObjects.
func (o *nodeObjects) PodCertificateRequest(ctx context.Context, namespace, name string) (*certificatesv1.PodCertificateRequest, error) {
	return lookUp[*certificatesv1.PodCertificateRequest](ctx, o.podCertificates, "podcertificaterequests", namespace, name)
}

// Pods implements auth.NodeObjects.
func (o *nodeObjects) Pods(ctx context.Context, namespace string) ([]corev1.Pod, error) {
	list, err := o.listPods(request.WithNamespace(ctx, namespace), &internalversion.ListOptions{})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

func (o *nodeObjects) listPods(ctx context.Context, options *internalversion.ListOptions) (*corev1.PodList, error) {
	lister, ok := o.pods.(rest.Lister)
	if !ok {
		return nil, fmt.Errorf("pods of %T cannot be listed", o.pods)
	}
	obj, err := lister.List(ctx, options)
	if err != nil {
		return nil, err
	}
	list, ok := obj.(*corev1.PodList)
	if !ok {
		return nil, fmt.Errorf("pods are listed as %T", obj)
	}
	return list, nil
}

// FollowPods implements auth.NodeObjects. It keeps no pods.
func (o *nodeObjects) FollowPods(ctx context.Context, graph auth.PodGraph, synced func()) error {
	watcher, ok := o.pods.(rest.Watcher)
	if !ok {
		return fmt.Errorf("pods of %T cannot be watched", o.pods)
	}
	all := request.WithNamespace(ctx, metav1.NamespaceAll)
	internal := func(in metav1.ListOptions) (*internalversion.ListOptions, error) {
		out := &internalversion.ListOptions{}
		return out, internalversion.Convert_v1_ListOptions_To_internalversion_ListOptions(&in, out, nil)
	}
	source := &cache.ListWatch{
		ListWithContextFunc: func(_ context.Context, options metav1.ListOptions) (runtime.Object, error) {
			in, err := internal(options)
			if err != nil {
				return nil, err
			}
			return o.listPods(all, in)
		},
		WatchFuncWithContext: func(_ context.Context, options metav1.ListOptions) (watch.Interface, error) {
			in, err := internal(options)
			if err != nil {
				return nil, err
			}
			return watcher.Watch(all, in)
		},
	}
	// No type is expected: the store's watch gives objects that watchers share, in a
	// wrapper, which podOf opens.
	cache.NewReflectorWithOptions(withoutStreaming{source}, nil, &podSink{graph, synced},
		cache.ReflectorOptions{Name: "node-authorizer", TypeDescription: "*v1.Pod"}).
		RunWithContext(ctx)
	return nil
}

// withoutStreaming tells the reflector to list: a list costs nothing here.
type withoutStreaming struct{ *cache.ListWatch }

// IsWatchListSemanticsUnSupported is what the reflector asks.
func (withoutStreaming) IsWatchListSemanticsUnSupported() bool { return true }

// podSink hands what the reflector sees to a graph.
type podSink struct {
	graph  auth.PodGraph
	synced func()
}

var _ cache.ReflectorStore = (*podSink)(nil)

// podOf returns the pod that a list or a watch of the registry gave.
func podOf(obj any) (*corev1.Pod, error) {
	if shared, ok := obj.(runtime.CacheableObject); ok {
		obj = shared.GetObject()
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, fmt.Errorf("pods are watched as %T", obj)
	}
	return pod, nil
}

// Add implements cache.ReflectorStore.
func (s *podSink) Add(obj any) error { return s.Update(obj) }

// Update implements cache.ReflectorStore.
func (s *podSink) Update(obj any) error {
	pod, err := podOf(obj)
	if err != nil {
		return err
	}
	s.graph.Set(pod)
	return nil
}

// Delete implements cache.ReflectorStore.
func (s *podSink) Delete(obj any) error {
	pod, err := meta.Accessor(obj)
	if err != nil {
		return fmt.Errorf("a pod went, watched as %T: %w", obj, err)
	}
	s.graph.Remove(types.NamespacedName{Namespace: pod.GetNamespace(), Name: pod.GetName()})
	return nil
}

// Replace implements cache.ReflectorStore.
func (s *podSink) Replace(list []any, _ string) error {
	have := make(map[types.NamespacedName]bool, len(list))
	for _, obj := range list {
		pod, err := podOf(obj)
		if err != nil {
			return err
		}
		s.graph.Set(pod)
		have[types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}] = true
	}
	s.graph.Keep(have)
	s.synced()
	return nil
}

// Resync implements cache.ReflectorStore.
func (s *podSink) Resync() error { return nil }
