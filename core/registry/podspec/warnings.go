package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// nodeLabels are labels of nodes that got another name.
var nodeLabels = map[string]string{
	"beta.kubernetes.io/arch":                  `deprecated since v1.14; use "kubernetes.io/arch" instead`,
	"beta.kubernetes.io/os":                    `deprecated since v1.14; use "kubernetes.io/os" instead`,
	"failure-domain.beta.kubernetes.io/region": `deprecated since v1.17; use "topology.kubernetes.io/region" instead`,
	"failure-domain.beta.kubernetes.io/zone":   `deprecated since v1.17; use "topology.kubernetes.io/zone" instead`,
	"beta.kubernetes.io/instance-type":         `deprecated since v1.17; use "node.kubernetes.io/instance-type" instead`,
}

// NodeLabelWarning says what to use instead of a label of nodes, if anything.
func NodeLabelWarning(label string) string { return nodeLabels[label] }

// PodWarnings are shown to who creates a pod.
func PodWarnings(p *corev1.Pod) []string {
	var list []string
	if msgs := validation.IsDNS1123Label(p.Name); p.GenerateName == "" && len(msgs) > 0 {
		list = append(list, nameWarning("this is used in the Pod's hostname", p.Name)...)
	}
	return append(list, templateWarnings(&corev1.PodTemplateSpec{ObjectMeta: p.ObjectMeta, Spec: p.Spec}, nil)...)
}

// NameWarnings are shown to who creates an object whose name becomes a part of its pods'.
func NameWarnings(name string) []string {
	return nameWarning("this is used in Pod names and hostnames", name)
}

func nameWarning(use, name string) []string {
	var msgs []string
	if strings.Contains(name, ".") {
		msgs = append(msgs, "must not contain dots")
	}
	if len(name) > validation.DNS1123LabelMaxLength {
		msgs = append(msgs, "must be no more than 63 characters")
	}
	if len(msgs) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("metadata.name: %s, which can result in surprising behavior; a DNS label is recommended: [%s]", use, strings.Join(msgs, " "))}
}

// TemplateWarnings are shown to who creates an object with a pod template.
func TemplateWarnings(t *corev1.PodTemplateSpec, at *field.Path) []string {
	return templateWarnings(t, at)
}

func templateWarnings(t *corev1.PodTemplateSpec, at *field.Path) []string {
	spec := &t.Spec
	path := at.Child("spec")
	list := annotationWarnings(t, at.Child("metadata", "annotations"))
	for key := range spec.NodeSelector {
		if w := nodeLabels[key]; w != "" {
			list = append(list, fmt.Sprintf("%s: %s", path.Child("nodeSelector").Key(key), w))
		}
	}
	list = append(list, affinityWarnings(spec.Affinity, path)...)
	seen := sets.New[string]()
	for i, s := range spec.ImagePullSecrets {
		p := path.Child("imagePullSecrets").Index(i).Child("name")
		if s.Name == "" {
			list = append(list, fmt.Sprintf("%s: invalid empty name %q", p, s.Name))
		}
		if seen.Has(s.Name) {
			list = append(list, fmt.Sprintf("%s: duplicate name %q", p, s.Name))
		}
		seen.Insert(s.Name)
	}
	if g := spec.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		list = append(list, fmt.Sprintf("%s: must be >= 0; negative values are invalid and will be treated as 1", path.Child("terminationGracePeriodSeconds")))
	}
	for i := range spec.Volumes {
		list = append(list, volumeWarnings(&spec.Volumes[i], path.Child("volumes").Index(i))...)
	}
	for i, c := range spec.TopologySpreadConstraints {
		if c.LabelSelector == nil {
			list = append(list, fmt.Sprintf("%s: a null labelSelector results in matching no pod", path.Child("topologySpreadConstraints").Index(i).Child("labelSelector")))
		}
	}
	list = append(list, portWarnings(spec, path)...)
	eachContainer(spec, path, func(c *corev1.Container, p *field.Path) {
		list = append(list, containerWarnings(c, p)...)
	})
	return append(list, quantityWarnings(spec.Overhead, path.Child("overhead"))...)
}

func annotationWarnings(t *corev1.PodTemplateSpec, at *field.Path) []string {
	var list []string
	add := func(key, message string) {
		if _, ok := t.Annotations[key]; ok {
			list = append(list, fmt.Sprintf("%s: %s", at.Key(key), message))
		}
	}
	add("seccomp.security.alpha.kubernetes.io/pod", `non-functional in v1.27+; use the "seccompProfile" field instead`)
	add("scheduler.alpha.kubernetes.io/critical-pod", `non-functional in v1.16+; use the "priorityClassName" field instead`)
	eachContainer(&t.Spec, nil, func(c *corev1.Container, _ *field.Path) {
		add("container.seccomp.security.alpha.kubernetes.io/"+c.Name, `non-functional in v1.27+; use the "seccompProfile" field instead`)
		add(appArmorAnnotation+c.Name, appArmorWarning)
	})
	return list
}

func affinityWarnings(a *corev1.Affinity, path *field.Path) []string {
	var list []string
	if a == nil {
		return nil
	}
	term := func(t *corev1.NodeSelectorTerm, p *field.Path) {
		for i, e := range t.MatchExpressions {
			if w := nodeLabels[e.Key]; w != "" {
				list = append(list, fmt.Sprintf("%s: %s is %s", p.Child("matchExpressions").Index(i).Child("key"), e.Key, w))
			}
		}
	}
	if n := a.NodeAffinity; n != nil {
		p := path.Child("affinity", "nodeAffinity")
		if r := n.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
			for i := range r.NodeSelectorTerms {
				term(&r.NodeSelectorTerms[i], p.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms").Index(i))
			}
		}
		for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			term(&n.PreferredDuringSchedulingIgnoredDuringExecution[i].Preference,
				p.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("preference"))
		}
	}
	eachTerm(a, func(t *corev1.PodAffinityTerm, p *field.Path) {
		if t.LabelSelector == nil {
			list = append(list, fmt.Sprintf("%s.%s: a null labelSelector results in matching no pod", path, p.Child("labelSelector")))
		}
	})
	return list
}

// goneVolumes are the kinds of volumes that work no more.
var goneVolumes = []struct {
	given   func(*corev1.VolumeSource) bool
	child   string
	message string
}{
	{func(v *corev1.VolumeSource) bool { return v.PhotonPersistentDisk != nil }, "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"},
	{func(v *corev1.VolumeSource) bool { return v.GitRepo != nil }, "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"},
	{func(v *corev1.VolumeSource) bool { return v.ScaleIO != nil }, "scaleIO", "deprecated in v1.16, non-functional in v1.22+"},
	{func(v *corev1.VolumeSource) bool { return v.Flocker != nil }, "flocker", "deprecated in v1.22, non-functional in v1.25+"},
	{func(v *corev1.VolumeSource) bool { return v.StorageOS != nil }, "storageOS", "deprecated in v1.22, non-functional in v1.25+"},
	{func(v *corev1.VolumeSource) bool { return v.Quobyte != nil }, "quobyte", "deprecated in v1.22, non-functional in v1.25+"},
	{func(v *corev1.VolumeSource) bool { return v.Glusterfs != nil }, "glusterfs", "deprecated in v1.25, non-functional in v1.26+"},
	{func(v *corev1.VolumeSource) bool { return v.CephFS != nil }, "cephfs", "deprecated in v1.28, non-functional in v1.31+"},
	{func(v *corev1.VolumeSource) bool { return v.RBD != nil }, "rbd", "deprecated in v1.28, non-functional in v1.31+"},
}

func volumeWarnings(v *corev1.Volume, at *field.Path) []string {
	var list []string
	for _, gone := range goneVolumes {
		if gone.given(&v.VolumeSource) {
			list = append(list, fmt.Sprintf("%s: %s", at.Child(gone.child), gone.message))
		}
	}
	list = append(list, overlapWarnings(v)...)
	if v.Projected != nil {
		for i := range v.Projected.Sources {
			if len(setFields(&v.Projected.Sources[i])) == 0 {
				list = append(list, fmt.Sprintf("volume %q (Projected) has no sources provided", v.Name))
			}
		}
	}
	if e := v.Ephemeral; e != nil && e.VolumeClaimTemplate != nil {
		list = append(list, quantityWarnings(e.VolumeClaimTemplate.Spec.Resources.Requests, at.Child("ephemeral", "volumeClaimTemplate", "spec", "resources", "requests"))...)
	}
	return list
}

// containerWarnings names variables that hide others, and fractions of bytes.
func containerWarnings(c *corev1.Container, at *field.Path) []string {
	var list []string
	names := map[string]int{}
	for i, env := range c.Env {
		// A variable may be made of what it hides.
		if _, hides := names[env.Name]; hides && !strings.Contains(env.Value, "$("+env.Name+")") {
			list = append(list, fmt.Sprintf("%s: hides previous definition of %q, which may be dropped when using apply", at.Child("env").Index(i), env.Name))
		}
		names[env.Name] = i
	}
	list = append(list, quantityWarnings(c.Resources.Limits, at.Child("resources", "limits"))...)
	return append(list, quantityWarnings(c.Resources.Requests, at.Child("resources", "requests"))...)
}

func quantityWarnings(r corev1.ResourceList, at *field.Path) []string {
	var list []string
	for _, name := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourceStorage} {
		if q, ok := r[name]; ok && fraction(q) {
			list = append(list, fmt.Sprintf("%s: fractional byte value %q is invalid, must be an integer", at.Key(string(name)), q.String()))
		}
	}
	return list
}

func fraction(q resource.Quantity) bool { return q.MilliValue()%1000 != 0 }

// QuantityWarnings names fractions of bytes.
func QuantityWarnings(r corev1.ResourceList, at *field.Path) []string { return quantityWarnings(r, at) }

type placedPort struct {
	port corev1.ContainerPort
	at   *field.Path
}

// portWarnings names ports that are given twice in a pod, by number or by name.
func portWarnings(spec *corev1.PodSpec, path *field.Path) []string {
	var all []placedPort
	var list []string
	restarting := func(c *corev1.Container) bool {
		return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	}
	add := func(c *corev1.Container, at *field.Path, named bool) {
		for i, port := range c.Ports {
			p := at.Child("ports").Index(i)
			same := func(o placedPort) bool { return samePort(o.port, port) }
			if j := slices.IndexFunc(all, same); j >= 0 {
				list = append(list, fmt.Sprintf("%s: duplicate port definition with %s", p, all[j].at))
			}
			if j := slices.IndexFunc(all, func(o placedPort) bool { return port.Name != "" && o.port.Name == port.Name }); j >= 0 && named {
				list = append(list, fmt.Sprintf("%s: duplicate port name %q with %s, services and probes that select ports by name will use %s", p, port.Name, all[j].at, all[j].at))
			}
			all = append(all, placedPort{port, p})
		}
	}
	for i := range spec.InitContainers {
		add(&spec.InitContainers[i], path.Child("initContainers").Index(i), restarting(&spec.InitContainers[i]))
	}
	for i := range spec.Containers {
		add(&spec.Containers[i], path.Child("containers").Index(i), true)
	}
	return list
}

// samePort says whether two ports are the same in number, protocol and the host's port.
func samePort(a, b corev1.ContainerPort) bool {
	return a.ContainerPort == b.ContainerPort && a.Protocol == b.Protocol && a.HostPort == b.HostPort && a.HostIP == b.HostIP
}
