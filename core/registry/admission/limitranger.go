package admission

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/admission"
	genericinitializer "k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/resource"
)

// limitRangerAnnotation tells what defaults a pod was given.
const limitRangerAnnotation = "kubernetes.io/limit-ranger"

// freshFor is how long after a LimitRange was written in a namespace the API is
// asked instead of the cache, which is some milliseconds behind.
const freshFor = 2 * time.Second

// limitRanger fills in the defaults of LimitRanges, and refuses what they do
// not allow. Where there is none it costs a look into an index.
type limitRanger struct {
	*admission.Handler
	client kubernetes.Interface
	index  cache.Indexer

	mu      sync.Mutex
	written map[string]time.Time // when a LimitRange was last written in a namespace; guarded by mu
}

var (
	_ admission.MutationInterface                         = (*limitRanger)(nil)
	_ admission.ValidationInterface                       = (*limitRanger)(nil)
	_ genericinitializer.WantsExternalKubeClientSet       = (*limitRanger)(nil)
	_ genericinitializer.WantsExternalKubeInformerFactory = (*limitRanger)(nil)
)

func newLimitRanger(io.Reader) (admission.Interface, error) {
	return &limitRanger{Handler: admission.NewHandler(admission.Create, admission.Update, admission.Delete), written: map[string]time.Time{}}, nil
}

// SetExternalKubeClientSet takes the client.
func (l *limitRanger) SetExternalKubeClientSet(c kubernetes.Interface) { l.client = c }

// SetExternalKubeInformerFactory takes the informers.
func (l *limitRanger) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	inf := f.Core().V1().LimitRanges().Informer()
	l.index = inf.GetIndexer()
	l.SetReadyFunc(inf.HasSynced)
}

// ValidateInitialization checks that all has been handed in.
func (l *limitRanger) ValidateInitialization() error {
	if l.client == nil || l.index == nil {
		return fmt.Errorf("admission plugin %s needs a client and informers", LimitRangerName)
	}
	return nil
}

// Admit implements admission.MutationInterface.
func (l *limitRanger) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() == corev1.Resource("limitranges") {
		l.note(a.GetNamespace())
		return nil
	}
	pod, ok := podOf(a)
	if !ok || a.GetOperation() != admission.Create {
		return nil
	}
	ranges, err := l.ranges(ctx, a)
	if err != nil {
		return err
	}
	for _, r := range ranges {
		defaultPod(r, pod)
	}
	return nil
}

// Validate implements admission.ValidationInterface.
func (l *limitRanger) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !limited(a) {
		return nil
	}
	ranges, err := l.ranges(ctx, a)
	if err != nil {
		return err
	}
	for _, r := range ranges {
		var errs []error
		switch obj := a.GetObject().(type) {
		case *corev1.Pod:
			errs = limitPod(r, obj)
		case *corev1.PersistentVolumeClaim:
			errs = limitClaim(r, obj)
		}
		if len(errs) > 0 {
			return admission.NewForbidden(a, utilerrors.NewAggregate(errs))
		}
	}
	return nil
}

// limited says whether the request is on something that LimitRanges are about.
// An update of a pod cannot change its resources, a resize can.
func limited(a admission.Attributes) bool {
	op, sub := a.GetOperation(), a.GetSubresource()
	if op == admission.Delete {
		return false
	}
	switch a.GetResource().GroupResource() {
	case corev1.Resource("pods"):
		return sub == "" && op == admission.Create || sub == "resize" && op == admission.Update
	case corev1.Resource("persistentvolumeclaims"):
		if sub != "" {
			return false
		}
		old, ok := a.GetOldObject().(*corev1.PersistentVolumeClaim)
		return op == admission.Create || !ok || old.DeletionTimestamp == nil
	}
	return false
}

// note remembers that a LimitRange of the namespace is about to be written.
func (l *limitRanger) note(namespace string) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for ns, at := range l.written {
		if now.Sub(at) > freshFor {
			delete(l.written, ns)
		}
	}
	l.written[namespace] = now
}

func (l *limitRanger) fresh(namespace string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.written) == 0 {
		return true
	}
	at, ok := l.written[namespace]
	return !ok || time.Since(at) > freshFor
}

// ranges are the LimitRanges of the request's namespace, by name.
func (l *limitRanger) ranges(ctx context.Context, a admission.Attributes) ([]*corev1.LimitRange, error) {
	if !l.WaitForReady() {
		return nil, admission.NewForbidden(a, fmt.Errorf("not yet ready to handle request"))
	}
	var out []*corev1.LimitRange
	if !l.fresh(a.GetNamespace()) {
		list, err := l.client.CoreV1().LimitRanges(a.GetNamespace()).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, admission.NewForbidden(a, fmt.Errorf("unable to %v %v at this time because there was an error enforcing limit ranges", a.GetOperation(), a.GetResource()))
		}
		for i := range list.Items {
			out = append(out, &list.Items[i])
		}
		return out, nil
	}
	objs, err := l.index.ByIndex(cache.NamespaceIndex, a.GetNamespace())
	if err != nil || len(objs) == 0 {
		return nil, err
	}
	for _, o := range objs {
		if r, ok := o.(*corev1.LimitRange); ok {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(x, y *corev1.LimitRange) int { return strings.Compare(x.Name, y.Name) })
	return out, nil
}

// defaultPod gives the pod's containers the requests and limits that they lack.
func defaultPod(r *corev1.LimitRange, pod *corev1.Pod) {
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	for i := range r.Spec.Limits {
		if item := &r.Spec.Limits[i]; item.Type == corev1.LimitTypeContainer {
			maps.Copy(requests, item.DefaultRequest)
			maps.Copy(limits, item.Default)
		}
	}
	var said []string
	for _, group := range []struct {
		what string
		list []corev1.Container
	}{{"container", pod.Spec.Containers}, {"init container", pod.Spec.InitContainers}} {
		for i := range group.list {
			c := &group.list[i]
			if set := fillIn(&c.Resources.Requests, requests); len(set) > 0 {
				said = append(said, fmt.Sprintf("%s request for %s %s", strings.Join(set, ", "), group.what, c.Name))
			}
			if set := fillIn(&c.Resources.Limits, limits); len(set) > 0 {
				said = append(said, fmt.Sprintf("%s limit for %s %s", strings.Join(set, ", "), group.what, c.Name))
			}
		}
	}
	if len(said) > 0 {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[limitRangerAnnotation] = "LimitRanger plugin set: " + strings.Join(said, "; ")
	}
}

// fillIn adds what is missing, and returns its names in order.
func fillIn(list *corev1.ResourceList, from corev1.ResourceList) []string {
	var set []string
	for k, v := range from {
		if _, ok := (*list)[k]; ok {
			continue
		}
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		(*list)[k] = v.DeepCopy()
		set = append(set, string(k))
	}
	slices.Sort(set)
	return set
}

// limitPod checks each container and the pod as a whole.
func limitPod(r *corev1.LimitRange, pod *corev1.Pod) []error {
	var errs []error
	for i := range r.Spec.Limits {
		item := &r.Spec.Limits[i]
		switch item.Type {
		case corev1.LimitTypeContainer:
			for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
				for j := range list {
					errs = append(errs, constrain(item, list[j].Resources.Requests, list[j].Resources.Limits)...)
				}
			}
		case corev1.LimitTypePod:
			options := resource.PodResourcesOptions{ExcludeOverhead: true}
			errs = append(errs, constrain(item, resource.PodRequests(pod, options), resource.PodLimits(pod, options))...)
		}
	}
	return errs
}

func limitClaim(r *corev1.LimitRange, claim *corev1.PersistentVolumeClaim) []error {
	var errs []error
	for i := range r.Spec.Limits {
		item := &r.Spec.Limits[i]
		if item.Type != corev1.LimitTypePersistentVolumeClaim {
			continue
		}
		requests := claim.Spec.Resources.Requests
		for _, k := range sortedNames(item.Min) {
			errs = appendError(errs, atLeast(item.Type, k, item.Min[k], requests, nil))
		}
		for _, k := range sortedNames(item.Max) {
			// Claims have requests only.
			errs = appendError(errs, atMost(item.Type, k, item.Max[k], "request", requests, nil))
		}
	}
	return errs
}
