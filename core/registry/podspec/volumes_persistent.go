package podspec

import (
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidatePersistentSource checks that a PersistentVolume has one source, and
// that source. Most are those of pods with references that name a namespace.
func ValidatePersistentSource(s *corev1.PersistentVolumeSource, spec *field.Path) field.ErrorList {
	given := setFields(s)
	if len(given) == 0 {
		return field.ErrorList{field.Required(spec, "must specify a volume type")}
	}
	if len(given) > 1 {
		var errs field.ErrorList
		for _, name := range given[1:] {
			errs = append(errs, field.Forbidden(spec.Child(name), "may not specify more than 1 volume type"))
		}
		return errs
	}
	switch {
	case s.Local != nil:
		at := spec.Child("local", "path")
		return append(requiredName(s.Local.Path, at), validateNoBacksteps(s.Local.Path, at)...)
	case s.CSI != nil:
		return validatePersistentCSI(s.CSI, spec.Child("csi"))
	case s.ISCSI != nil:
		return validatePersistentISCSI(s.ISCSI, spec.Child("iscsi"))
	case s.Glusterfs != nil:
		at, errs := spec.Child("glusterfs"), validateRemote(&corev1.VolumeSource{Glusterfs: &corev1.GlusterfsVolumeSource{EndpointsName: s.Glusterfs.EndpointsName, Path: s.Glusterfs.Path}}, spec)
		if ns := s.Glusterfs.EndpointsNamespace; ns != nil && len(validation.IsDNS1123Label(*ns)) > 0 {
			errs = append(errs, field.Invalid(at.Child("endpointsNamespace"), *ns, "if the endpointnamespace is set, it must be a valid namespace name"))
		}
		return errs
	case s.AzureFile != nil:
		errs := validateRemote(&corev1.VolumeSource{AzureFile: &corev1.AzureFileVolumeSource{SecretName: s.AzureFile.SecretName, ShareName: s.AzureFile.ShareName}}, spec)
		if ns := s.AzureFile.SecretNamespace; ns != nil {
			errs = append(errs, requiredName(*ns, spec.Child("azureFile", "secretNamespace"))...)
		}
		return errs
	case s.Cinder != nil:
		at := spec.Child("cinder")
		return append(requiredName(s.Cinder.VolumeID, at.Child("volumeID")), validateReference(s.Cinder.SecretRef, at.Child("secretRef"))...)
	case s.StorageOS != nil:
		at, errs := spec.Child("storageos"), validateRemote(&corev1.VolumeSource{StorageOS: &corev1.StorageOSVolumeSource{
			VolumeName: s.StorageOS.VolumeName, VolumeNamespace: s.StorageOS.VolumeNamespace}}, spec)
		if name := s.StorageOS.VolumeName; name != "" {
			errs = append(errs, invalid(name, at.Child("volumeName"), validation.IsDNS1123Label(name))...)
		}
		if r := s.StorageOS.SecretRef; r != nil {
			errs = append(errs, requiredName(r.Name, at.Child("secretRef", "name"))...)
			errs = append(errs, requiredName(r.Namespace, at.Child("secretRef", "namespace"))...)
		}
		return errs
	}
	return validateVolume(asPodVolume(s), spec)
}

// asPodVolume gives the source of a pod's volume with the same checks.
func asPodVolume(s *corev1.PersistentVolumeSource) *corev1.VolumeSource {
	v := &corev1.VolumeSource{HostPath: s.HostPath, NFS: s.NFS, FC: s.FC, Flocker: s.Flocker, GCEPersistentDisk: s.GCEPersistentDisk,
		AWSElasticBlockStore: s.AWSElasticBlockStore, Quobyte: s.Quobyte, AzureDisk: s.AzureDisk, VsphereVolume: s.VsphereVolume,
		PhotonPersistentDisk: s.PhotonPersistentDisk, PortworxVolume: s.PortworxVolume}
	switch {
	case s.RBD != nil:
		v.RBD = &corev1.RBDVolumeSource{CephMonitors: s.RBD.CephMonitors, RBDImage: s.RBD.RBDImage}
	case s.CephFS != nil:
		v.CephFS = &corev1.CephFSVolumeSource{Monitors: s.CephFS.Monitors}
	case s.FlexVolume != nil:
		v.FlexVolume = &corev1.FlexVolumeSource{Driver: s.FlexVolume.Driver, Options: s.FlexVolume.Options}
	case s.ScaleIO != nil:
		v.ScaleIO = &corev1.ScaleIOVolumeSource{Gateway: s.ScaleIO.Gateway, System: s.ScaleIO.System, VolumeName: s.ScaleIO.VolumeName}
	}
	return v
}

// validateReference checks a reference to a secret of any namespace.
func validateReference(r *corev1.SecretReference, at *field.Path) field.ErrorList {
	if r == nil {
		return nil
	}
	return append(requiredName(r.Name, at.Child("name")), requiredName(r.Namespace, at.Child("namespace"))...)
}

func validatePersistentCSI(c *corev1.CSIPersistentVolumeSource, at *field.Path) field.ErrorList {
	errs := ValidateCSIDriver(c.Driver, at.Child("driver"))
	errs = append(errs, requiredName(c.VolumeHandle, at.Child("volumeHandle"))...)
	// Upstream does not look at nodeStageSecretRef.
	errs = append(errs, validateReference(c.ControllerPublishSecretRef, at.Child("controllerPublishSecretRef"))...)
	errs = append(errs, validateReference(c.ControllerExpandSecretRef, at.Child("controllerExpandSecretRef"))...)
	errs = append(errs, validateReference(c.NodePublishSecretRef, at.Child("nodePublishSecretRef"))...)
	return append(errs, validateReference(c.NodeExpandSecretRef, at.Child("nodeExpandSecretRef"))...)
}

func validatePersistentISCSI(c *corev1.ISCSIPersistentVolumeSource, at *field.Path) field.ErrorList {
	const unknown = "must be valid format"
	errs := requiredName(c.TargetPortal, at.Child("targetPortal"))
	if c.IQN == "" {
		errs = append(errs, field.Required(at.Child("iqn"), ""))
	} else {
		errs = append(errs, validateInitiator(c.IQN, at.Child("iqn"), unknown)...)
	}
	errs = append(errs, validateLUN(c.Lun, at.Child("lun"))...)
	if (c.DiscoveryCHAPAuth || c.SessionCHAPAuth) && c.SecretRef == nil {
		errs = append(errs, field.Required(at.Child("secretRef"), ""))
	}
	if c.InitiatorName != nil {
		errs = append(errs, validateInitiator(*c.InitiatorName, at.Child("initiatorname"), unknown)...)
	}
	return errs
}

// DefaultPersistentSource fills in the defaults of a PersistentVolume's source.
func DefaultPersistentSource(s *corev1.PersistentVolumeSource) {
	switch {
	case s.HostPath != nil && s.HostPath.Type == nil:
		s.HostPath.Type = new(corev1.HostPathUnset)
	case s.ISCSI != nil:
		setDefault(&s.ISCSI.ISCSIInterface, "default")
	case s.RBD != nil:
		setDefault(&s.RBD.RBDPool, "rbd")
		setDefault(&s.RBD.RadosUser, "admin")
		setDefault(&s.RBD.Keyring, "/etc/ceph/keyring")
	case s.ScaleIO != nil:
		setDefault(&s.ScaleIO.StorageMode, "ThinProvisioned")
		setDefault(&s.ScaleIO.FSType, "xfs")
	case s.AzureDisk != nil:
		defaultRemote(&corev1.VolumeSource{AzureDisk: s.AzureDisk})
	}
}

// PersistentWarnings tells of sources that nothing serves any more, and of old labels of nodes.
func PersistentWarnings(s *corev1.PersistentVolumeSpec, spec *field.Path) []string {
	var list []string
	for name, text := range map[string]string{
		"CephFS":    "spec.cephfs: deprecated in v1.28, non-functional in v1.31+",
		"Glusterfs": "spec.glusterfs: deprecated in v1.25, non-functional in v1.26+",
		"RBD":       "spec.rbd: deprecated in v1.28, non-functional in v1.31+",
		"ScaleIO":   "spec.scaleIO: deprecated in v1.16, non-functional in v1.22+",
		"StorageOS": "spec.storageOS: deprecated in v1.22, non-functional in v1.25+",
	} {
		if !reflect.ValueOf(&s.PersistentVolumeSource).Elem().FieldByName(name).IsNil() {
			list = append(list, text)
		}
	}
	if s.NodeAffinity == nil || s.NodeAffinity.Required == nil {
		return list
	}
	for i, term := range s.NodeAffinity.Required.NodeSelectorTerms {
		at := spec.Child("nodeAffinity", "required", "nodeSelectorTerms").Index(i).Child("matchExpressions")
		for j, e := range term.MatchExpressions {
			if w := nodeLabels[e.Key]; w != "" {
				list = append(list, at.Index(j).Child("key").String()+": "+e.Key+" is "+w)
			}
		}
	}
	return list
}

// StableLabels gives a copy of a volume's node affinity in which labels of
// nodes have the stable names, where now has those at the same place.
func StableLabels(old, now *corev1.VolumeNodeAffinity) *corev1.VolumeNodeAffinity {
	renamed := old.DeepCopy()
	if renamed == nil || renamed.Required == nil || now == nil || now.Required == nil {
		return renamed
	}
	for i := range min(len(renamed.Required.NodeSelectorTerms), len(now.Required.NodeSelectorTerms)) {
		was, is := renamed.Required.NodeSelectorTerms[i].MatchExpressions, now.Required.NodeSelectorTerms[i].MatchExpressions
		for j := range min(len(was), len(is)) {
			if strings.HasSuffix(nodeLabels[was[j].Key], `"`+is[j].Key+`" instead`) && is[j].Key != "" {
				was[j].Key = is[j].Key
			}
		}
	}
	return renamed
}
