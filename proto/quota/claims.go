package quota

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/quota/v1/generic"
)

// Suffixes of resources that a quota limits for one class.
const (
	storageSuffix = ".storageclass.storage.k8s.io/requests.storage"
	claimsSuffix  = ".storageclass.storage.k8s.io/persistentvolumeclaims"
	devicesSuffix = ".deviceclass.resource.k8s.io/devices"
)

func withSuffix(out, input []corev1.ResourceName, suffixes ...string) []corev1.ResourceName {
	for _, name := range input {
		for _, suffix := range suffixes {
			if strings.HasSuffix(string(name), suffix) && !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}

// claims count by number and storage, in all and for each storage class.
type claims struct{ unscoped }

func (claims) handles(a admission.Attributes) bool { return changes(a) }

func (claims) names(input []corev1.ResourceName) []corev1.ResourceName {
	out := among(input, []corev1.ResourceName{
		generic.ObjectCountQuotaResourceNameFor(Claims), corev1.ResourcePersistentVolumeClaims, corev1.ResourceRequestsStorage,
	})
	return withSuffix(out, input, storageSuffix, claimsSuffix)
}

func (claims) usage(obj runtime.Object) (corev1.ResourceList, error) {
	c, ok := obj.(*corev1.PersistentVolumeClaim)
	if !ok {
		return nil, fmt.Errorf("not a persistent volume claim: %T", obj)
	}
	out := corev1.ResourceList{generic.ObjectCountQuotaResourceNameFor(Claims): one(), corev1.ResourcePersistentVolumeClaims: one()}
	class := c.Annotations[corev1.BetaStorageClassAnnotation]
	if _, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; !ok && c.Spec.StorageClassName != nil {
		class = *c.Spec.StorageClassName
	}
	if class != "" {
		out[corev1.ResourceName(class+claimsSuffix)] = one()
	}
	storage, ok := c.Spec.Resources.Requests[corev1.ResourceStorage]
	// A claim that failed to grow still holds what was allocated for it.
	if had, was := c.Status.AllocatedResources[corev1.ResourceStorage]; was && had.Cmp(storage) > 0 {
		storage, ok = had, true
	}
	if ok {
		// Quotas are in whole bytes.
		rounded := *resource.NewQuantity(storage.Value(), storage.Format)
		out[corev1.ResourceRequestsStorage] = rounded
		if class != "" {
			out[corev1.ResourceName(class+storageSuffix)] = rounded
		}
	}
	return out, nil
}

// inScope knows one scope: the class of attributes that the claim has, is to
// have, or is getting.
func (claims) inScope(scope corev1.ScopedResourceSelectorRequirement, obj runtime.Object) (bool, error) {
	c, ok := obj.(*corev1.PersistentVolumeClaim)
	if !ok {
		return false, fmt.Errorf("not a persistent volume claim: %T", obj)
	}
	if scope.ScopeName != corev1.ResourceQuotaScopeVolumeAttributesClass {
		return false, nil
	}
	var names []string
	add := func(name *string) {
		if name != nil && *name != "" {
			names = append(names, *name)
		}
	}
	add(c.Spec.VolumeAttributesClassName)
	add(c.Status.CurrentVolumeAttributesClassName)
	if m := c.Status.ModifyVolumeStatus; m != nil {
		add(&m.TargetVolumeAttributesClassName)
	}
	if len(names) == 0 {
		return selects(scope, "")
	}
	for _, name := range names {
		if ok, err := selects(scope, name); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// devices are resource claims: they count by number and by the devices of each
// class that they may get.
type devices struct{ unscoped }

func (devices) handles(a admission.Attributes) bool { return changes(a) }

func (devices) names(input []corev1.ResourceName) []corev1.ResourceName {
	return withSuffix(among(input, []corev1.ResourceName{generic.ObjectCountQuotaResourceNameFor(Devices)}), input, devicesSuffix)
}

func (devices) usage(obj runtime.Object) (corev1.ResourceList, error) {
	c, ok := obj.(*resourcev1.ResourceClaim)
	if !ok {
		return nil, fmt.Errorf("not a resource claim: %T", obj)
	}
	out := corev1.ResourceList{generic.ObjectCountQuotaResourceNameFor(Devices): one()}
	for i := range c.Spec.Devices.Requests {
		r := &c.Spec.Devices.Requests[i]
		most := map[string]int64{} // of each class, the most that an alternative may take
		if e := r.Exactly; e != nil {
			most[e.DeviceClassName] = number(e.AllocationMode, e.Count)
		}
		for j := range r.FirstAvailable {
			alt := &r.FirstAvailable[j]
			most[alt.DeviceClassName] = max(most[alt.DeviceClassName], number(alt.AllocationMode, alt.Count))
		}
		for class, n := range most {
			name := corev1.ResourceName(class + devicesSuffix)
			sum := out[name]
			sum.Add(*resource.NewQuantity(n, resource.DecimalSI))
			out[name] = sum
		}
	}
	return out, nil
}

// number is how many devices a request may get: for all that there are, as many
// as a claim can hold.
func number(mode resourcev1.DeviceAllocationMode, count int64) int64 {
	if mode == resourcev1.DeviceAllocationModeAll {
		return resourcev1.AllocationResultsMaxSize
	}
	return count
}
