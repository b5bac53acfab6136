package podspec

import (
	"cmp"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// placed is a file that a volume is told to have.
type placed struct {
	path string
	from string // the source, in a projected volume
}

// overlapWarnings names files of a volume that are in the place of another, or below it:
// which of them pods see is not said.
func overlapWarnings(v *corev1.Volume) []string {
	var files []placed
	source := "Projected"
	switch {
	case v.ConfigMap != nil:
		source, files = fmt.Sprintf("ConfigMap %q", v.ConfigMap.Name), placedItems(nil, v.ConfigMap.Items, "")
	case v.Secret != nil:
		source, files = fmt.Sprintf("Secret %q", v.Secret.SecretName), placedItems(nil, v.Secret.Items, "")
	case v.DownwardAPI != nil:
		source, files = "DownwardAPI", placedDownward(nil, v.DownwardAPI.Items, "")
	case v.Projected != nil:
		for i := range v.Projected.Sources {
			files = placedSource(files, &v.Projected.Sources[i])
		}
	}
	var list []string
	for i, file := range files {
		for _, before := range files[:i] {
			if file.path == before.path || strings.HasPrefix(file.path, before.path+"/") || strings.HasPrefix(before.path, file.path+"/") {
				list = append(list, fmt.Sprintf("volume %q (%s): overlapping paths: %s with %s", v.Name, source, file, before))
			}
		}
	}
	return list
}

// String is the file as warnings name it.
func (p placed) String() string {
	if p.from == "" {
		return fmt.Sprintf("%q", p.path)
	}
	return fmt.Sprintf("%q (%s)", p.path, p.from)
}

func placedItems(files []placed, items []corev1.KeyToPath, from string) []placed {
	for _, item := range items {
		files = append(files, placed{item.Path, from})
	}
	return files
}

func placedDownward(files []placed, items []corev1.DownwardAPIVolumeFile, from string) []placed {
	for _, item := range items {
		files = append(files, placed{item.Path, from})
	}
	return files
}

func placedSource(files []placed, s *corev1.VolumeProjection) []placed {
	switch {
	case s.ConfigMap != nil:
		return placedItems(files, s.ConfigMap.Items, fmt.Sprintf("ConfigMap %q", s.ConfigMap.Name))
	case s.Secret != nil:
		return placedItems(files, s.Secret.Items, fmt.Sprintf("Secret %q", s.Secret.Name))
	case s.DownwardAPI != nil:
		return placedDownward(files, s.DownwardAPI.Items, "DownwardAPI")
	case s.ServiceAccountToken != nil:
		return append(files, placed{s.ServiceAccountToken.Path, "ServiceAccountToken"})
	case s.ClusterTrustBundle != nil:
		b := s.ClusterTrustBundle
		return append(files, placed{b.Path, fmt.Sprintf("ClusterTrustBundle %q", cmp.Or(ptr.Deref(b.Name, ""), ptr.Deref(b.SignerName, "")))})
	case s.PodCertificate != nil:
		for _, file := range []placed{
			{s.PodCertificate.CertificateChainPath, "PodCertificate chain"},
			{s.PodCertificate.KeyPath, "PodCertificate key"},
			{s.PodCertificate.CredentialBundlePath, "PodCertificate credential bundle"},
		} {
			if file.path != "" {
				files = append(files, file)
			}
		}
	}
	return files
}
