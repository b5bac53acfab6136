package podspec

import (
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	maxCSIDriverName = 63
	maxPartition     = 255
	maxLUN           = 255
	vhdPattern       = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"
	managedPattern   = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"
	notBoth          = "can not be specified simultaneously"
)

var (
	cachingModes = sets.New(corev1.AzureDataDiskCachingNone, corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)
	diskKinds    = sets.New(corev1.AzureSharedBlobDisk, corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk)
	initiators   = map[string]*regexp.Regexp{
		"iqn": regexp.MustCompile(`^iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)$`),
		"eui": regexp.MustCompile(`^eui\.[[:xdigit:]]{16}$`),
		"naa": regexp.MustCompile(`^naa\.[[:xdigit:]]{32}$`),
	}
)

// validateRemote checks the volumes that come from elsewhere, by the name of
// their field. Most only need some fields to be there.
func validateRemote(v *corev1.VolumeSource, at *field.Path) field.ErrorList {
	need := func(child string, pairs ...string) field.ErrorList {
		var errs field.ErrorList
		for i := 0; i < len(pairs); i += 2 {
			errs = append(errs, requiredName(pairs[i+1], at.Child(child, pairs[i]))...)
		}
		return errs
	}
	switch {
	case v.NFS != nil:
		errs := need("nfs", "server", v.NFS.Server, "path", v.NFS.Path)
		if !strings.HasPrefix(v.NFS.Path, "/") {
			errs = append(errs, field.Invalid(at.Child("nfs", "path"), v.NFS.Path, "must be an absolute path"))
		}
		return errs
	case v.CSI != nil:
		return validateCSI(v.CSI, at.Child("csi"))
	case v.ISCSI != nil:
		return validateISCSI(v.ISCSI, at.Child("iscsi"))
	case v.FC != nil:
		return validateFC(v.FC, at.Child("fc"))
	case v.AzureDisk != nil:
		return validateAzureDisk(v.AzureDisk, at.Child("azureDisk"))
	case v.AzureFile != nil:
		return need("azureFile", "secretName", v.AzureFile.SecretName, "shareName", v.AzureFile.ShareName)
	case v.AWSElasticBlockStore != nil:
		return append(need("awsElasticBlockStore", "volumeID", v.AWSElasticBlockStore.VolumeID),
			validatePartition(v.AWSElasticBlockStore.Partition, at.Child("awsElasticBlockStore", "partition"))...)
	case v.GCEPersistentDisk != nil: // the path is upstream's
		return append(need("persistentDisk", "pdName", v.GCEPersistentDisk.PDName),
			validatePartition(v.GCEPersistentDisk.Partition, at.Child("persistentDisk", "partition"))...)
	case v.Cinder != nil:
		return append(need("cinder", "volumeID", v.Cinder.VolumeID), validateSecretRef(v.Cinder.SecretRef, at.Child("cinder"))...)
	case v.CephFS != nil:
		return validateMonitors(v.CephFS.Monitors, at.Child("cephfs"))
	case v.RBD != nil:
		return append(validateMonitors(v.RBD.CephMonitors, at.Child("rbd")), need("rbd", "image", v.RBD.RBDImage)...)
	case v.Glusterfs != nil:
		return need("glusterfs", "endpoints", v.Glusterfs.EndpointsName, "path", v.Glusterfs.Path)
	case v.Flocker != nil:
		return validateFlocker(v.Flocker, at.Child("flocker"))
	case v.Quobyte != nil:
		return validateQuobyte(v.Quobyte, at.Child("quobyte"))
	case v.FlexVolume != nil:
		return validateFlex(v.FlexVolume, at.Child("flexVolume"))
	case v.GitRepo != nil:
		return append(need("gitRepo", "repository", v.GitRepo.Repository), validateDescending(v.GitRepo.Directory, at.Child("gitRepo", "directory"))...)
	case v.VsphereVolume != nil:
		return need("vsphereVolume", "volumePath", v.VsphereVolume.VolumePath)
	case v.PortworxVolume != nil:
		return need("portworxVolume", "volumeID", v.PortworxVolume.VolumeID)
	case v.PhotonPersistentDisk != nil:
		return need("photonPersistentDisk", "pdID", v.PhotonPersistentDisk.PdID)
	case v.ScaleIO != nil:
		return need("scaleIO", "gateway", v.ScaleIO.Gateway, "system", v.ScaleIO.System, "volumeName", v.ScaleIO.VolumeName)
	case v.StorageOS != nil:
		errs := need("storageos", "volumeName", v.StorageOS.VolumeName)
		if ns := v.StorageOS.VolumeNamespace; ns != "" {
			errs = append(errs, invalid(ns, at.Child("storageos", "volumeNamespace"), validation.IsDNS1123Label(ns))...)
		}
		return append(errs, validateSecretRef(v.StorageOS.SecretRef, at.Child("storageos"))...)
	}
	return nil
}

func validateSecretRef(r *corev1.LocalObjectReference, at *field.Path) field.ErrorList {
	if r == nil {
		return nil
	}
	return requiredName(r.Name, at.Child("secretRef", "name"))
}

func validateMonitors(monitors []string, at *field.Path) field.ErrorList {
	if len(monitors) == 0 {
		return field.ErrorList{field.Required(at.Child("monitors"), "")}
	}
	return nil
}

func validatePartition(p int32, at *field.Path) field.ErrorList {
	if p < 0 || p > maxPartition {
		return field.ErrorList{field.Invalid(at, p, validation.InclusiveRangeError(1, maxPartition))}
	}
	return nil
}

func validateLUN(lun int32, at *field.Path) field.ErrorList {
	if lun < 0 || lun > maxLUN {
		return field.ErrorList{field.Invalid(at, lun, validation.InclusiveRangeError(0, maxLUN))}
	}
	return nil
}

func validateCSI(c *corev1.CSIVolumeSource, at *field.Path) field.ErrorList {
	errs := ValidateCSIDriver(c.Driver, at.Child("driver"))
	if r := c.NodePublishSecretRef; r != nil {
		errs = append(errs, requiredName(r.Name, at.Child("nodePublishSecretRef", "name"))...)
	}
	return errs
}

// ValidateCSIDriver checks the name of a CSI driver.
func ValidateCSIDriver(driver string, at *field.Path) field.ErrorList {
	if driver == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	if len(driver) > maxCSIDriverName {
		errs = append(errs, field.TooLong(at, driver, maxCSIDriverName))
	}
	return append(errs, invalid(driver, at, validation.IsDNS1123Subdomain(strings.ToLower(driver)))...)
}

func validateISCSI(s *corev1.ISCSIVolumeSource, at *field.Path) field.ErrorList {
	errs := requiredName(s.TargetPortal, at.Child("targetPortal"))
	if s.IQN == "" {
		errs = append(errs, field.Required(at.Child("iqn"), ""))
	} else {
		errs = append(errs, validateInitiator(s.IQN, at.Child("iqn"), "must be valid format starting with iqn, eui, or naa")...)
	}
	errs = append(errs, validateLUN(s.Lun, at.Child("lun"))...)
	if (s.DiscoveryCHAPAuth || s.SessionCHAPAuth) && s.SecretRef == nil {
		errs = append(errs, field.Required(at.Child("secretRef"), ""))
	}
	if s.InitiatorName != nil {
		errs = append(errs, validateInitiator(*s.InitiatorName, at.Child("initiatorname"), "must be valid format starting with iqn, eui, or naa")...)
	}
	return errs
}

func validateInitiator(name string, at *field.Path, unknown string) field.ErrorList {
	form, known := initiators[name[:min(len(name), len("iqn"))]]
	switch {
	case !known:
		return field.ErrorList{field.Invalid(at, name, unknown)}
	case !form.MatchString(name):
		return field.ErrorList{field.Invalid(at, name, "must be valid format")}
	}
	return nil
}

func validateFC(fc *corev1.FCVolumeSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case len(fc.TargetWWNs) == 0 && len(fc.WWIDs) == 0:
		errs = append(errs, field.Required(at.Child("targetWWNs"), "must specify either targetWWNs or wwids, but not both"))
	case len(fc.TargetWWNs) > 0 && len(fc.WWIDs) > 0:
		errs = append(errs, field.Invalid(at.Child("targetWWNs"), fc.TargetWWNs, "targetWWNs and wwids "+notBoth))
	}
	if len(fc.TargetWWNs) == 0 {
		return errs
	}
	if fc.Lun == nil {
		return append(errs, field.Required(at.Child("lun"), "lun is required if targetWWNs is specified"))
	}
	return append(errs, validateLUN(*fc.Lun, at.Child("lun"))...)
}

func validateAzureDisk(d *corev1.AzureDiskVolumeSource, at *field.Path) field.ErrorList {
	errs := requiredName(d.DiskName, at.Child("diskName"))
	errs = append(errs, requiredName(d.DataDiskURI, at.Child("diskURI"))...)
	if d.CachingMode != nil && !cachingModes.Has(*d.CachingMode) {
		errs = append(errs, field.NotSupported(at.Child("cachingMode"), *d.CachingMode, sets.List(cachingModes)))
	}
	if d.Kind == nil {
		return errs
	}
	if !diskKinds.Has(*d.Kind) {
		errs = append(errs, field.NotSupported(at.Child("kind"), *d.Kind, sets.List(diskKinds)))
	}
	managed := *d.Kind == corev1.AzureManagedDisk
	if managed && !strings.HasPrefix(d.DataDiskURI, "/subscriptions/") {
		errs = append(errs, field.NotSupported(at.Child("diskURI"), d.DataDiskURI, []string{managedPattern}))
	}
	if !managed && !strings.HasPrefix(d.DataDiskURI, "https://") {
		errs = append(errs, field.NotSupported(at.Child("diskURI"), d.DataDiskURI, []string{vhdPattern}))
	}
	return errs
}

func validateFlocker(f *corev1.FlockerVolumeSource, at *field.Path) field.ErrorList {
	switch {
	case f.DatasetName == "" && f.DatasetUUID == "":
		return field.ErrorList{field.Required(at, "one of datasetName and datasetUUID is required")}
	case f.DatasetName != "" && f.DatasetUUID != "":
		errs := field.ErrorList{field.Invalid(at, "resource", "datasetName and datasetUUID "+notBoth)}
		if strings.Contains(f.DatasetName, "/") {
			errs = append(errs, field.Invalid(at.Child("datasetName"), f.DatasetName, "must not contain '/'"))
		}
		return errs
	case strings.Contains(f.DatasetName, "/"):
		return field.ErrorList{field.Invalid(at.Child("datasetName"), f.DatasetName, "must not contain '/'")}
	}
	return nil
}

func validateQuobyte(q *corev1.QuobyteVolumeSource, at *field.Path) field.ErrorList {
	const pairs = "must be a host:port pair or multiple pairs separated by commas"
	var errs field.ErrorList
	if q.Registry == "" {
		errs = append(errs, field.Required(at.Child("registry"), pairs))
	} else {
		for pair := range strings.SplitSeq(q.Registry, ",") {
			if host, port, ok := strings.Cut(pair, ":"); !ok || host == "" || port == "" {
				errs = append(errs, field.Invalid(at.Child("registry"), q.Registry, pairs))
			}
		}
	}
	const maxTenant = 64
	if len(q.Tenant) >= maxTenant+1 {
		errs = append(errs, field.Required(at.Child("tenant"), "must be a UUID and may not exceed a length of 64 characters"))
	}
	return append(errs, requiredName(q.Volume, at.Child("volume"))...)
}

func validateFlex(f *corev1.FlexVolumeSource, at *field.Path) field.ErrorList {
	errs := requiredName(f.Driver, at.Child("driver"))
	for key := range f.Options {
		namespace, _, _ := strings.Cut(key, "/")
		namespace = "." + namespace
		if strings.HasSuffix(namespace, ".kubernetes.io") || strings.HasSuffix(namespace, ".k8s.io") {
			errs = append(errs, field.Invalid(at.Child("options").Key(key), key, "kubernetes.io and k8s.io namespaces are reserved"))
		}
	}
	return errs
}

// defaultRemote fills in the defaults of volumes that come from elsewhere.
func defaultRemote(v *corev1.VolumeSource) {
	switch {
	case v.ISCSI != nil:
		setDefault(&v.ISCSI.ISCSIInterface, "default")
	case v.RBD != nil:
		setDefault(&v.RBD.RBDPool, "rbd")
		setDefault(&v.RBD.RadosUser, "admin")
		setDefault(&v.RBD.Keyring, "/etc/ceph/keyring")
	case v.AzureDisk != nil:
		setPointer(&v.AzureDisk.CachingMode, corev1.AzureDataDiskCachingReadWrite)
		setPointer(&v.AzureDisk.Kind, corev1.AzureSharedBlobDisk)
		setPointer(&v.AzureDisk.FSType, "ext4")
		setPointer(&v.AzureDisk.ReadOnly, false)
	case v.ScaleIO != nil:
		setDefault(&v.ScaleIO.StorageMode, "ThinProvisioned")
		setDefault(&v.ScaleIO.FSType, "xfs")
	}
}
