package storage

import (
	"context"
	"fmt"
	"strings"

	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/podspec"
	"keelson.dev/keelson/core/registry/resource"
)

// Bounds of what drivers ask for, in seconds.
const (
	minTokenSeconds  = 10 * 60
	maxTokenSeconds  = int64(1) << 32
	minUpdateSeconds = 10
)

var csiDrivers = &resource.Definition[*storagev1.CSIDriver]{
	GroupVersion: version, Kind: "CSIDriver", Plural: "csidrivers", Singular: "csidriver", ClusterScoped: true,
	New:     func() *storagev1.CSIDriver { return &storagev1.CSIDriver{} },
	NewList: func() runtime.Object { return &storagev1.CSIDriverList{} },
	Gates:   []resource.Gate{{Feature: "VolumeLimitScaling", Fields: []string{"spec.preventPodSchedulingIfMissing"}}},
	Default: func(d *storagev1.CSIDriver) {
		setDefault(&d.Spec.AttachRequired, true)
		setDefault(&d.Spec.PodInfoOnMount, false)
		setDefault(&d.Spec.StorageCapacity, false)
		setDefault(&d.Spec.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
		setDefault(&d.Spec.RequiresRepublish, false)
		setDefault(&d.Spec.SELinuxMount, false)
		if len(d.Spec.VolumeLifecycleModes) == 0 {
			d.Spec.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
		}
	},
	PrepareUpdate: func(_ context.Context, d, old *storagev1.CSIDriver) {
		d.Generation = old.Generation // counts changes, beginning at none
		if !apiequality.Semantic.DeepEqual(d.Spec, old.Spec) {
			d.Generation++
		}
	},
	Validate: validateDriver,
	ValidateUpdate: func(d, old *storagev1.CSIDriver) field.ErrorList {
		return append(apivalidation.ValidateImmutableField(d.Spec.AttachRequired, old.Spec.AttachRequired, field.NewPath("spec", "attachedRequired")),
			apivalidation.ValidateImmutableField(d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes, field.NewPath("spec", "volumeLifecycleModes"))...)
	},
	Warnings: tokenWarnings,
	WarningsOnUpdate: func(d, old *storagev1.CSIDriver) []string {
		if len(tokenWarnings(old)) > 0 {
			return nil // has been told
		}
		return tokenWarnings(d)
	},
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("AttachRequired", "boolean", "Whether volumes have to be attached."),
		resource.Column("PodInfoOnMount", "boolean", "Whether the driver is told of the pod."),
		resource.Column("StorageCapacity", "boolean", "Whether free capacity counts when pods are scheduled."),
		resource.Column("TokenRequests", "string", "For whom it gets service account tokens."),
		resource.Column("RequiresRepublish", "boolean", "Whether it is called again and again."),
		resource.Column("Modes", "string", "The kinds of volumes."),
		resource.AgeColumn,
	},
	Row: func(d *storagev1.CSIDriver) []any {
		is := func(b *bool) bool { return b != nil && *b }
		tokens, modes := "<unset>", []string{}
		if len(d.Spec.TokenRequests) > 0 {
			var audiences []string
			for _, r := range d.Spec.TokenRequests {
				audiences = append(audiences, r.Audience)
			}
			tokens = strings.Join(audiences, ",")
		}
		for _, m := range d.Spec.VolumeLifecycleModes {
			modes = append(modes, string(m))
		}
		return []any{d.Name, is(d.Spec.AttachRequired), is(d.Spec.PodInfoOnMount), is(d.Spec.StorageCapacity), tokens,
			is(d.Spec.RequiresRepublish), strings.Join(modes, ","), resource.Age(d)}
	},
}

func tokenWarnings(d *storagev1.CSIDriver) []string {
	if len(d.Spec.TokenRequests) == 0 || d.Spec.ServiceAccountTokenInSecrets != nil {
		return nil
	}
	return []string{"spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes"}
}

func validateDriver(d *storagev1.CSIDriver) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	for _, m := range d.Spec.VolumeLifecycleModes {
		if m != storagev1.VolumeLifecyclePersistent && m != storagev1.VolumeLifecycleEphemeral {
			errs = append(errs, field.NotSupported(spec.Child("volumeLifecycleModes"), m,
				[]storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral}))
		}
	}
	switch p := d.Spec.FSGroupPolicy; *p {
	case storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy:
	default:
		errs = append(errs, field.NotSupported(spec.Child("fsGroupPolicy"), *p,
			[]storagev1.FSGroupPolicy{storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy}))
	}
	if s := d.Spec.ServiceAccountTokenInSecrets; s != nil && len(d.Spec.TokenRequests) == 0 {
		errs = append(errs, field.Invalid(spec.Child("serviceAccountTokenInSecrets"), *s, "serviceAccountTokenInSecrets is set but no tokenRequests are specified"))
	}
	audiences := map[string]bool{}
	for i, r := range d.Spec.TokenRequests {
		at := spec.Child("tokenRequests").Index(i)
		if audiences[r.Audience] {
			errs = append(errs, field.Duplicate(at.Child("audience"), r.Audience))
			continue
		}
		audiences[r.Audience] = true
		switch s := r.ExpirationSeconds; {
		case s == nil:
		case *s < minTokenSeconds:
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *s, "may not specify a duration less than 10 minutes"))
		case *s > maxTokenSeconds:
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *s, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	if p := d.Spec.NodeAllocatableUpdatePeriodSeconds; p != nil && *p < minUpdateSeconds {
		errs = append(errs, field.Invalid(spec.Child("nodeAllocatableUpdatePeriodSeconds"), *p, "must be greater than or equal to 10 seconds"))
	}
	return errs
}

var csiNodes = &resource.Definition[*storagev1.CSINode]{
	GroupVersion: version, Kind: "CSINode", Plural: "csinodes", Singular: "csinode", ClusterScoped: true,
	New:     func() *storagev1.CSINode { return &storagev1.CSINode{} },
	NewList: func() runtime.Object { return &storagev1.CSINodeList{} },
	// The status belongs to a feature that is off by default (CSIVolumeHealth).
	PrepareCreate:  func(_ context.Context, n *storagev1.CSINode) { n.Status = storagev1.CSINodeStatus{} },
	PrepareUpdate:  func(_ context.Context, n, _ *storagev1.CSINode) { n.Status = storagev1.CSINodeStatus{} },
	Validate:       validateCSINode,
	ValidateUpdate: validateCSINodeUpdate,
	Columns:        []metav1.TableColumnDefinition{resource.NameColumn, resource.Column("Drivers", "integer", "How many drivers the node has."), resource.AgeColumn},
	Row:            func(n *storagev1.CSINode) []any { return []any{n.Name, int64(len(n.Spec.Drivers)), resource.Age(n)} },
}

func validateCSINode(n *storagev1.CSINode) field.ErrorList {
	const maxNodeID = 256
	var errs field.ErrorList
	names := map[string]bool{}
	for i, d := range n.Spec.Drivers {
		at := field.NewPath("spec", "drivers").Index(i)
		errs = append(errs, podspec.ValidateCSIDriver(d.Name, at.Child("name"))...)
		switch {
		case d.NodeID == "":
			errs = append(errs, field.Required(at.Child("nodeID"), ""))
		case len(d.NodeID) > maxNodeID:
			errs = append(errs, field.Invalid(at.Child("nodeID"), d.NodeID, fmt.Sprintf("must be %d characters or less", maxNodeID)))
		}
		if d.Allocatable != nil && d.Allocatable.Count != nil && *d.Allocatable.Count < 0 {
			errs = append(errs, field.Invalid(at.Child("allocatable", "count"), int64(*d.Allocatable.Count), "must be greater than or equal to 0"))
		}
		if names[d.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), d.Name))
		}
		names[d.Name] = true
		keys := map[string]bool{}
		for _, key := range d.TopologyKeys {
			if key == "" {
				errs = append(errs, field.Required(at, ""))
			}
			if keys[key] {
				errs = append(errs, field.Duplicate(at, key))
			}
			keys[key] = true
			for _, msg := range validation.IsQualifiedName(key) {
				errs = append(errs, field.Invalid(at, key, msg))
			}
		}
	}
	return errs
}

// validateCSINodeUpdate lets drivers come, go, and change how many volumes they can attach, nothing else.
func validateCSINodeUpdate(n, old *storagev1.CSINode) field.ErrorList {
	var errs field.ErrorList
	for _, was := range old.Spec.Drivers {
		for _, now := range n.Spec.Drivers {
			if now.Name != was.Name {
				continue
			}
			now.Allocatable, was.Allocatable = nil, nil
			if !apiequality.Semantic.DeepEqual(now, was) {
				errs = append(errs, field.Invalid(field.NewPath("spec", "drivers"), now, "field is immutable"))
			}
		}
	}
	return errs
}

var csiCapacities = &resource.Definition[*storagev1.CSIStorageCapacity]{
	GroupVersion: version, Kind: "CSIStorageCapacity", Plural: "csistoragecapacities", Singular: "csistoragecapacity",
	New:     func() *storagev1.CSIStorageCapacity { return &storagev1.CSIStorageCapacity{} },
	NewList: func() runtime.Object { return &storagev1.CSIStorageCapacityList{} },
	Validate: func(c *storagev1.CSIStorageCapacity) field.ErrorList {
		errs := metav1validation.ValidateLabelSelector(c.NodeTopology, metav1validation.LabelSelectorValidationOptions{}, field.NewPath("nodeTopology"))
		for _, msg := range apivalidation.NameIsDNSSubdomain(c.StorageClassName, false) {
			errs = append(errs, field.Invalid(field.NewPath("storageClassName"), c.StorageClassName, msg))
		}
		if c.Capacity != nil && c.Capacity.Sign() < 0 {
			errs = append(errs, field.Invalid(field.NewPath("capacity"), c.Capacity.String(), "must be greater than or equal to 0"))
		}
		return errs
	},
	ValidateUpdate: func(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
		return append(apivalidation.ValidateImmutableField(c.NodeTopology, old.NodeTopology, field.NewPath("nodeTopology")),
			apivalidation.ValidateImmutableField(c.StorageClassName, old.StorageClassName, field.NewPath("storageClassName"))...)
	},
	Columns: []metav1.TableColumnDefinition{resource.NameColumn, resource.CreatedColumn},
	Row:     func(c *storagev1.CSIStorageCapacity) []any { return []any{c.Name, resource.Created(c)} },
}
