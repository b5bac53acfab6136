package core

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const nonNegative = "must be a non-negative integer"

// validatePodStatusValues checks what a kubelet reports.
func validatePodStatusValues(p *corev1.Pod, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	s := &p.Status
	if s.ObservedGeneration < 0 {
		errs = append(errs, field.Invalid(at.Child("observedGeneration"), s.ObservedGeneration, nonNegative))
	}
	for i, c := range s.Conditions {
		cp := at.Child("conditions").Index(i)
		if c.ObservedGeneration < 0 {
			errs = append(errs, field.Invalid(cp.Child("observedGeneration"), c.ObservedGeneration, nonNegative))
		}
		for _, msg := range validation.IsQualifiedName(string(c.Type)) {
			if !strings.HasPrefix(string(c.Type), "kubernetes.io/") {
				errs = append(errs, field.Invalid(cp.Child("Type"), string(c.Type), msg))
			}
		}
	}
	podIPs, hostIPs := make([]string, 0, len(s.PodIPs)), make([]string, 0, len(s.HostIPs))
	for _, ip := range s.PodIPs {
		podIPs = append(podIPs, ip.IP)
	}
	for _, ip := range s.HostIPs {
		hostIPs = append(hostIPs, ip.IP)
	}
	errs = append(errs, validateIPs(podIPs, s.PodIPs, at.Child("podIPs"))...)
	if len(hostIPs) > 0 && hostIPs[0] != s.HostIP {
		errs = append(errs, field.Invalid(at.Child("hostIPs").Index(0).Child("ip"), hostIPs[0], "must be equal to `hostIP`"))
	}
	errs = append(errs, validateIPs(hostIPs, s.HostIPs, at.Child("hostIPs"))...)
	claims := map[string]bool{}
	for _, c := range p.Spec.ResourceClaims {
		claims[c.Name] = true
	}
	for i, c := range s.ResourceClaimStatuses {
		if !claims[c.Name] {
			errs = append(errs, field.Invalid(at.Child("resourceClaimStatuses").Index(i).Child("name"), c.Name, "must match the name of an entry in `spec.resourceClaims`"))
		}
	}
	errs = append(errs, validateAllocated(s.ContainerStatuses, p.Spec.Containers, at.Child("containerStatuses"))...)
	errs = append(errs, validateAllocated(s.InitContainerStatuses, p.Spec.InitContainers, at.Child("initContainerStatuses"))...)
	for i := range s.ContainerStatuses {
		errs = append(errs, validateContainerUser(s.ContainerStatuses[i].User, at.Child("containerStatuses").Index(i).Child("user", "linux"))...)
	}
	return errs
}

var healths = []corev1.ResourceHealthStatus{corev1.ResourceHealthStatusHealthy, corev1.ResourceHealthStatusUnhealthy, corev1.ResourceHealthStatusUnknown}

// validateAllocated checks what containers say about the devices that they got: each is one that they asked for.
func validateAllocated(statuses []corev1.ContainerStatus, containers []corev1.Container, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, s := range statuses {
		c := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == s.Name })
		for j, r := range s.AllocatedResourcesStatus {
			p := at.Index(i).Child("allocatedResourcesStatus").Index(j)
			errs = append(errs, asked(r.Name, c, containers, p.Child("name"))...)
			seen := map[corev1.ResourceID]bool{}
			for k, one := range r.Resources {
				if !slices.Contains(healths, one.Health) {
					errs = append(errs, field.NotSupported(p.Child("resources").Index(k).Child("health"), one.Health, healths))
				}
				if seen[one.ResourceID] {
					errs = append(errs, field.Duplicate(p.Child("resources").Index(k).Child("resourceID"), one.ResourceID))
				}
				seen[one.ResourceID] = true
			}
		}
	}
	return errs
}

// asked checks that the container c has the resource among its requests or, by its name, among its claims.
func asked(name corev1.ResourceName, c int, containers []corev1.Container, at *field.Path) field.ErrorList {
	if claim, is := strings.CutPrefix(string(name), "claim:"); is {
		if c >= 0 && slices.ContainsFunc(containers[c].Resources.Claims, func(r corev1.ResourceClaim) bool {
			return r.Request == "" && r.Name == claim || r.Name+"/"+r.Request == claim
		}) {
			return nil
		}
		return field.ErrorList{field.Invalid(at, name,
			"must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty")}
	}
	if c >= 0 {
		if _, ok := containers[c].Resources.Requests[name]; ok {
			return nil
		}
	}
	return field.ErrorList{field.Invalid(at, name, "must match one of the container's resource requests")}
}

// validateIPs checks a list of at most one address of each family.
func validateIPs(ips []string, list any, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	v4, v6 := 0, 0
	for i, ip := range ips {
		p := at.Index(i)
		msgs := validation.IsValidIPForLegacyField(p, ip, false, nil)
		errs = append(errs, msgs...)
		if a, err := netip.ParseAddr(ip); err == nil && a.Is4() {
			v4++
		} else if err == nil {
			v6++
		}
	}
	for i, ip := range ips {
		if _, err := netip.ParseAddr(ip); err != nil && len(ips) > 1 {
			errs = append(errs, field.InternalError(at, fmt.Errorf("failed to check for dual stack with error:invalid IP[%d]: %s", i, ip)))
			break
		}
	}
	if len(ips) > 1 && (v4 > 1 || v6 > 1) {
		errs = append(errs, field.Invalid(at, list, "may specify no more than one IP for each IP family"))
	}
	return errs
}

func validateContainerUser(u *corev1.ContainerUser, at *field.Path) field.ErrorList {
	if u == nil || u.Linux == nil {
		return nil
	}
	var errs field.ErrorList
	check := func(id int64, p *field.Path) {
		if id < 0 || id > math.MaxInt32 {
			errs = append(errs, field.Invalid(p, id, validation.InclusiveRangeError(0, math.MaxInt32)))
		}
	}
	check(u.Linux.UID, at.Child("uid"))
	check(u.Linux.GID, at.Child("gid"))
	for i, id := range u.Linux.SupplementalGroups {
		check(id, at.Child("supplementalGroups").Index(i))
	}
	return errs
}

// imagesStay refuses that an update takes a container's image away.
func imagesStay(containers []corev1.Container, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, c := range containers {
		switch {
		case c.Image == "":
			errs = append(errs, field.Required(at.Index(i).Child("image"), ""))
		case c.Image != strings.TrimSpace(c.Image):
			errs = append(errs, field.Invalid(at.Index(i).Child("image"), c.Image, "must not have leading or trailing whitespace"))
		}
	}
	return errs
}

// narrowed checks that a gated pod's node affinity got narrower at most, and
// then makes it what it was. Terms are alternatives: none may come or go;
// expressions of a term hold together: they may be added.
func narrowed(spec, old *corev1.PodSpec, at *field.Path) field.ErrorList {
	terms := func(s *corev1.PodSpec) []corev1.NodeSelectorTerm {
		if s.Affinity == nil || s.Affinity.NodeAffinity == nil || s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
			return nil
		}
		return s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	now, was := terms(spec), terms(old)
	var errs field.ErrorList
	at = at.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
	if len(was) > 0 && len(now) != len(was) {
		errs = append(errs, field.Invalid(at, now, "no additions/deletions to non-empty NodeSelectorTerms list are allowed"))
	} else {
		for i := range was {
			if !extends(now[i].MatchExpressions, was[i].MatchExpressions) || !extends(now[i].MatchFields, was[i].MatchFields) {
				errs = append(errs, field.Invalid(at.Index(i), now[i], "only additions are allowed (no mutations or deletions)"))
			}
		}
	}
	if old.Affinity == nil && (spec.Affinity == nil || spec.Affinity.PodAffinity == nil && spec.Affinity.PodAntiAffinity == nil) {
		spec.Affinity = nil
		return errs
	}
	if spec.Affinity == nil {
		spec.Affinity = &corev1.Affinity{}
	}
	spec.Affinity.NodeAffinity = nil
	if old.Affinity != nil {
		spec.Affinity.NodeAffinity = old.Affinity.NodeAffinity
	}
	return errs
}

func extends(now, was []corev1.NodeSelectorRequirement) bool {
	return len(now) >= len(was) && (len(was) == 0 || apiequality.Semantic.DeepEqual(now[:len(was)], was))
}
