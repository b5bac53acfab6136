package core

import (
	"fmt"
	"path"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/podspec"
)

var (
	reclaimPolicies = sets.New(corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)
	volumeModes     = sets.New(corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
)

func validateVolume(pv *corev1.PersistentVolume) field.ErrorList {
	spec, s := field.NewPath("spec"), &pv.Spec
	var errs field.ErrorList
	if len(s.AccessModes) == 0 {
		errs = append(errs, field.Required(spec.Child("accessModes"), ""))
	}
	errs = append(errs, podspec.ValidateAccessModes(s.AccessModes, spec.Child("accessModes"))...)
	if len(s.Capacity) == 0 {
		errs = append(errs, field.Required(spec.Child("capacity"), ""))
	}
	q, ok := s.Capacity[corev1.ResourceStorage]
	if !ok || len(s.Capacity) > 1 {
		errs = append(errs, field.NotSupported(spec.Child("capacity"), s.Capacity, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	if ok && q.Sign() <= 0 {
		errs = append(errs, field.Invalid(spec.Child("capacity").Key("storage"), q.String(), "must be greater than zero"))
	}
	if p := s.PersistentVolumeReclaimPolicy; p != "" && !reclaimPolicies.Has(p) {
		errs = append(errs, field.NotSupported(spec.Child("persistentVolumeReclaimPolicy"), p, sets.List(reclaimPolicies)))
	}
	if s.HostPath != nil && path.Clean(s.HostPath.Path) == "/" && s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		errs = append(errs, field.Forbidden(spec.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'"))
	}
	if s.StorageClassName != "" {
		for _, msg := range validation.IsDNS1123Subdomain(s.StorageClassName) {
			errs = append(errs, field.Invalid(spec.Child("storageClassName"), s.StorageClassName, msg))
		}
	}
	if m := s.VolumeMode; m != nil && !volumeModes.Has(*m) {
		errs = append(errs, field.NotSupported(spec.Child("volumeMode"), *m, sets.List(volumeModes)))
	}
	switch a := s.NodeAffinity; {
	case a == nil:
	case a.Required == nil:
		errs = append(errs, field.Required(spec.Child("nodeAffinity", "required"), "must specify required node constraints"))
	default:
		errs = append(errs, podspec.ValidateNodeSelector(a.Required, spec.Child("nodeAffinity", "required"))...)
	}
	if c := s.VolumeAttributesClassName; c != nil {
		if *c == "" {
			errs = append(errs, field.Required(spec.Child("volumeAttributesClassName"), "an empty string is disallowed"))
		}
		if s.CSI == nil {
			errs = append(errs, field.Required(spec.Child("csi"), "has to be specified when using volumeAttributesClassName"))
		}
	}
	return append(errs, validateVolumeSource(s, spec)...)
}

// validateVolumeSource checks that there is one source, and what is particular
// to volumes; most sources are those of pods.
func validateVolumeSource(s *corev1.PersistentVolumeSpec, spec *field.Path) field.ErrorList {
	var errs field.ErrorList
	var given []string
	source := reflect.ValueOf(s.PersistentVolumeSource)
	for i := range source.NumField() {
		if !source.Field(i).IsNil() {
			name, _, _ := strings.Cut(source.Type().Field(i).Tag.Get("json"), ",")
			given = append(given, name)
		}
	}
	switch {
	case len(given) == 0:
		return field.ErrorList{field.Required(spec, "must specify a volume type")}
	case len(given) > 1:
		for _, name := range given[1:] {
			errs = append(errs, field.Forbidden(spec.Child(name), "may not specify more than 1 volume type"))
		}
		return errs
	}
	switch {
	case s.Local != nil:
		if s.Local.Path == "" {
			errs = append(errs, field.Required(spec.Child("local", "path"), ""))
		}
		if s.NodeAffinity == nil {
			errs = append(errs, field.Required(spec.Child("nodeAffinity"), "Local volume requires node affinity"))
		}
	case s.CSI != nil:
		errs = append(errs, validateCSIVolume(s.CSI, spec.Child("csi"))...)
	case s.ISCSI != nil:
		c := s.ISCSI
		source := &corev1.ISCSIVolumeSource{TargetPortal: c.TargetPortal, IQN: c.IQN, Lun: c.Lun, InitiatorName: c.InitiatorName}
		errs = append(errs, podspec.ValidateVolumeSource(&corev1.VolumeSource{ISCSI: source}, spec)...)
		if (c.DiscoveryCHAPAuth || c.SessionCHAPAuth) && c.SecretRef == nil {
			errs = append(errs, field.Required(spec.Child("iscsi", "secretRef"), ""))
		}
	case s.RBD != nil:
		source := &corev1.RBDVolumeSource{CephMonitors: s.RBD.CephMonitors, RBDImage: s.RBD.RBDImage}
		errs = append(errs, podspec.ValidateVolumeSource(&corev1.VolumeSource{RBD: source}, spec)...)
	case s.Glusterfs != nil, s.CephFS != nil, s.Cinder != nil, s.FlexVolume != nil, s.AzureFile != nil, s.ScaleIO != nil, s.StorageOS != nil:
		// None of them can be mounted any more, but for those that CSI drivers take over: these check them.
	default:
		errs = append(errs, podspec.ValidateVolumeSource(&corev1.VolumeSource{HostPath: s.HostPath, NFS: s.NFS, FC: s.FC, Flocker: s.Flocker,
			GCEPersistentDisk: s.GCEPersistentDisk, AWSElasticBlockStore: s.AWSElasticBlockStore, Quobyte: s.Quobyte, AzureDisk: s.AzureDisk,
			VsphereVolume: s.VsphereVolume, PhotonPersistentDisk: s.PhotonPersistentDisk, PortworxVolume: s.PortworxVolume}, spec)...)
	}
	return errs
}

func validateCSIVolume(c *corev1.CSIPersistentVolumeSource, at *field.Path) field.ErrorList {
	errs := podspec.ValidateCSIDriver(c.Driver, at.Child("driver"))
	if c.VolumeHandle == "" {
		errs = append(errs, field.Required(at.Child("volumeHandle"), ""))
	}
	for child, r := range map[string]*corev1.SecretReference{"controllerPublishSecretRef": c.ControllerPublishSecretRef,
		"controllerExpandSecretRef": c.ControllerExpandSecretRef, "nodePublishSecretRef": c.NodePublishSecretRef,
		"nodeExpandSecretRef": c.NodeExpandSecretRef, "nodeStageSecretRef": c.NodeStageSecretRef} {
		if r == nil {
			continue
		}
		if r.Name == "" && child != "nodeStageSecretRef" { // of which upstream wants the namespace only
			errs = append(errs, field.Required(at.Child(child, "name"), ""))
		}
		if r.Namespace == "" {
			errs = append(errs, field.Required(at.Child(child, "namespace"), ""))
		}
	}
	return errs
}

// defaultVolumeSource fills in the defaults of sources.
func defaultVolumeSource(s *corev1.PersistentVolumeSource) {
	def := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	switch {
	case s.HostPath != nil && s.HostPath.Type == nil:
		none := corev1.HostPathUnset
		s.HostPath.Type = &none
	case s.ISCSI != nil:
		def(&s.ISCSI.ISCSIInterface, "default")
	case s.RBD != nil:
		def(&s.RBD.RBDPool, "rbd")
		def(&s.RBD.RadosUser, "admin")
		def(&s.RBD.Keyring, "/etc/ceph/keyring")
	}
}

func classWarning(annotations map[string]string) []string {
	if _, ok := annotations[corev1.BetaStorageClassAnnotation]; !ok {
		return nil
	}
	return []string{fmt.Sprintf("metadata.annotations[%s]: deprecated since v1.8; use \"storageClassName\" attribute instead", corev1.BetaStorageClassAnnotation)}
}

func volumeWarnings(pv *corev1.PersistentVolume) []string {
	list := classWarning(pv.Annotations)
	if pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		list = append(list, "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.")
	}
	if pv.Spec.RBD != nil {
		list = append(list, "spec.rbd: deprecated in v1.28, non-functional in v1.31+")
	}
	return list
}

// sameSource makes both fields that say what to fill a volume from say it. The
// older one knows only claims and, with a group, anything.
func sameSource(s *corev1.PersistentVolumeClaimSpec) {
	if d := s.DataSource; d != nil {
		group := ""
		if d.APIGroup != nil {
			group = *d.APIGroup
		}
		claim := group == "" && d.Kind == "PersistentVolumeClaim"
		if !claim && (group != "snapshot.storage.k8s.io" || d.Kind != "VolumeSnapshot") {
			s.DataSource = nil // upstream ignores what it does not know
		}
	}
	switch {
	case s.DataSource != nil && s.DataSourceRef == nil:
		s.DataSourceRef = &corev1.TypedObjectReference{APIGroup: s.DataSource.APIGroup, Kind: s.DataSource.Kind, Name: s.DataSource.Name}
	case s.DataSource == nil && s.DataSourceRef != nil && (s.DataSourceRef.Namespace == nil || *s.DataSourceRef.Namespace == ""):
		s.DataSource = &corev1.TypedLocalObjectReference{APIGroup: s.DataSourceRef.APIGroup, Kind: s.DataSourceRef.Kind, Name: s.DataSourceRef.Name}
	}
}
