package scheduler

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
)

// partArgs are the arguments of parts.
type partArgs struct {
	volumeTimeout time.Duration // until volumes are bound
	claimTimeout  time.Duration // until devices are
}

func defaultPartArgs() partArgs {
	return partArgs{volumeTimeout: 10 * time.Minute, claimTimeout: schedulerv1.DynamicResourcesBindingTimeoutDefault}
}

// readArgs reads the arguments of one plugin into the profile.
func readArgs(pr *profile, in *schedulerv1.PluginConfig, path *field.Path) field.ErrorList {
	args := path.Child("args")
	read := func(into any) field.ErrorList {
		if len(in.Args.Raw) == 0 {
			return field.ErrorList{field.Required(args, "")}
		}
		return decodeStrictly(in.Args.Raw, into, args)
	}
	var kind metav1.TypeMeta
	var errs field.ErrorList
	switch in.Name {
	case "NodeResourcesFit":
		var a schedulerv1.NodeResourcesFitArgs
		if errs = read(&a); len(errs) == 0 {
			errs, kind = readFit(&pr.fit, &a, args), a.TypeMeta
		}
	case "NodeResourcesBalancedAllocation":
		var a schedulerv1.NodeResourcesBalancedAllocationArgs
		if errs = read(&a); len(errs) == 0 {
			kind = a.TypeMeta
			if len(a.Resources) > 0 {
				pr.balanced, errs = readResources(a.Resources, 1, args.Child("resources"))
			}
		}
	case "PodTopologySpread":
		var a schedulerv1.PodTopologySpreadArgs
		if errs = read(&a); len(errs) == 0 {
			errs, kind = readSpread(&pr.spread, &a, args), a.TypeMeta
		}
	case "InterPodAffinity":
		var a schedulerv1.InterPodAffinityArgs
		if errs = read(&a); len(errs) == 0 {
			kind = a.TypeMeta
			if w := a.HardPodAffinityWeight; w != nil {
				pr.social.hardWeight = int64(*w)
				errs = append(errs, within(int64(*w), 0, 100, args.Child("hardPodAffinityWeight"))...)
			}
			pr.social.ignorePreferredOfThere = a.IgnorePreferredTermsOfExistingPods
		}
	case "NodeAffinity":
		var a schedulerv1.NodeAffinityArgs
		if errs = read(&a); len(errs) == 0 {
			errs, kind = readAddedAffinity(&pr.addedAffinity, a.AddedAffinity, args.Child("addedAffinity")), a.TypeMeta
		}
	case "DefaultPreemption":
		var a schedulerv1.DefaultPreemptionArgs
		if errs = read(&a); len(errs) == 0 {
			errs, kind = readPreemption(&pr.preemption, &a, args), a.TypeMeta
		}
	case "VolumeBinding":
		var a schedulerv1.VolumeBindingArgs
		if errs = read(&a); len(errs) == 0 {
			errs, kind = readVolumes(&pr.partArgs, &a, args), a.TypeMeta
		}
	case "DynamicResources":
		var a schedulerv1.DynamicResourcesArgs
		if errs = read(&a); len(errs) == 0 {
			kind = a.TypeMeta
			if a.FilterTimeout != nil {
				errs = append(errs, field.Forbidden(args.Child("filterTimeout"), "is not supported: the search is not cut short"))
			}
			if a.BindingTimeout != nil {
				pr.partArgs.claimTimeout = a.BindingTimeout.Duration
				if a.BindingTimeout.Duration < time.Second {
					errs = append(errs, field.Invalid(args.Child("bindingTimeout"), a.BindingTimeout.Duration.String(), "must be at least 1 second"))
				}
			}
		}
	default:
		return field.ErrorList{field.NotSupported(path.Child("name"), in.Name, []string{
			"DefaultPreemption", "DynamicResources", "InterPodAffinity", "NodeAffinity", "NodeResourcesBalancedAllocation", "NodeResourcesFit", "PodTopologySpread", "VolumeBinding",
		})}
	}
	if kind.Kind != "" && kind.Kind != in.Name+"Args" {
		errs = append(errs, field.NotSupported(args.Child("kind"), kind.Kind, []string{in.Name + "Args"}))
	}
	if want := schedulerv1.SchemeGroupVersion.String(); kind.APIVersion != "" && kind.APIVersion != want {
		errs = append(errs, field.NotSupported(args.Child("apiVersion"), kind.APIVersion, []string{want}))
	}
	return errs
}

func within(n, low, high int64, path *field.Path) field.ErrorList {
	if n < low || n > high {
		return field.ErrorList{field.Invalid(path, n, fmt.Sprintf("not in valid range [%d-%d]", low, high))}
	}
	return nil
}

// readResources reads resources with weights from 1 to heaviest.
func readResources(in []schedulerv1.ResourceSpec, heaviest int64, path *field.Path) (out []resourceWeight, errs field.ErrorList) {
	seen := map[string]bool{}
	for i, r := range in {
		at := path.Index(i)
		weight := r.Weight
		if weight == 0 {
			weight = 1
		}
		switch {
		case r.Name == "":
			errs = append(errs, field.Required(at.Child("name"), ""))
		case seen[r.Name]:
			errs = append(errs, field.Duplicate(at.Child("name"), r.Name))
		}
		seen[r.Name] = true
		if weight < 1 || weight > heaviest {
			errs = append(errs, field.Invalid(at.Child("weight"), r.Weight, fmt.Sprintf("resource weight of %s not in valid range [1-%d]", r.Name, heaviest)))
		}
		out = append(out, resourceWeight{corev1.ResourceName(r.Name), weight})
	}
	return out, errs
}

func readFit(f *fitArgs, in *schedulerv1.NodeResourcesFitArgs, path *field.Path) (errs field.ErrorList) {
	for i, name := range in.IgnoredResources {
		if !strings.Contains(name, "/") {
			errs = append(errs, field.Invalid(path.Child("ignoredResources").Index(i), name, "must be an extended resource, such as example.com/gpu"))
		}
		if f.ignored == nil {
			f.ignored = map[corev1.ResourceName]bool{}
		}
		f.ignored[corev1.ResourceName(name)] = true
	}
	for i, group := range in.IgnoredResourceGroups {
		if group == "" || strings.Contains(group, "/") {
			errs = append(errs, field.Invalid(path.Child("ignoredResourceGroups").Index(i), group, "resource group name can't contain '/' or be empty"))
		}
		if f.ignoredGroups == nil {
			f.ignoredGroups = map[string]bool{}
		}
		f.ignoredGroups[group] = true
	}
	s := in.ScoringStrategy
	if s == nil {
		return errs
	}
	path = path.Child("scoringStrategy")
	if len(s.Resources) > 0 {
		var faults field.ErrorList
		f.resources, faults = readResources(s.Resources, 100, path.Child("resources"))
		errs = append(errs, faults...)
	}
	switch s.Type {
	case schedulerv1.LeastAllocated, "":
		f.scoring = leastAllocatedScoring
	case schedulerv1.MostAllocated:
		f.scoring = mostAllocatedScoring
	case schedulerv1.RequestedToCapacityRatio:
		f.scoring = requestedToCapacityScoring
		if s.RequestedToCapacityRatio == nil {
			return append(errs, field.Required(path.Child("requestedToCapacityRatio"), ""))
		}
		var faults field.ErrorList
		f.shape, faults = readShape(s.RequestedToCapacityRatio.Shape, path.Child("requestedToCapacityRatio", "shape"))
		errs = append(errs, faults...)
	default:
		errs = append(errs, field.NotSupported(path.Child("type"), s.Type, []schedulerv1.ScoringStrategyType{
			schedulerv1.LeastAllocated, schedulerv1.MostAllocated, schedulerv1.RequestedToCapacityRatio,
		}))
	}
	return errs
}

func readShape(in []schedulerv1.UtilizationShapePoint, path *field.Path) (out []shapePoint, errs field.ErrorList) {
	if len(in) == 0 {
		return nil, field.ErrorList{field.Required(path, "at least one point must be specified")}
	}
	for i, p := range in {
		errs = append(errs, within(int64(p.Utilization), 0, 100, path.Index(i).Child("utilization"))...)
		errs = append(errs, within(int64(p.Score), 0, 10, path.Index(i).Child("score"))...)
		if i > 0 && p.Utilization <= in[i-1].Utilization {
			errs = append(errs, field.Invalid(path.Index(i).Child("utilization"), p.Utilization, "utilization values must be sorted in increasing order"))
		}
		out = append(out, shapePoint{int64(p.Utilization), int64(p.Score)})
	}
	return out, errs
}

func readSpread(s *spreadArgs, in *schedulerv1.PodTopologySpreadArgs, path *field.Path) (errs field.ErrorList) {
	switch in.DefaultingType {
	case "", schedulerv1.SystemDefaulting:
		if len(in.DefaultConstraints) > 0 {
			errs = append(errs, field.Invalid(path.Child("defaultingType"), in.DefaultingType, "when .defaultConstraints are specified, must be List"))
		}
		return errs
	case schedulerv1.ListDefaulting:
	default:
		return append(errs, field.NotSupported(path.Child("defaultingType"), in.DefaultingType, []schedulerv1.PodTopologySpreadConstraintsDefaulting{schedulerv1.SystemDefaulting, schedulerv1.ListDefaulting}))
	}
	s.system, s.listed = false, []corev1.TopologySpreadConstraint{}
	type pair struct{ key, when string }
	seen := map[pair]bool{}
	for i, c := range in.DefaultConstraints {
		at := path.Child("defaultConstraints").Index(i)
		if c.MaxSkew <= 0 {
			errs = append(errs, field.Invalid(at.Child("maxSkew"), c.MaxSkew, "not in valid range (0, inf)"))
		}
		if c.TopologyKey == "" {
			errs = append(errs, field.Required(at.Child("topologyKey"), "can not be empty"))
		}
		if c.WhenUnsatisfiable != corev1.DoNotSchedule && c.WhenUnsatisfiable != corev1.ScheduleAnyway {
			errs = append(errs, field.NotSupported(at.Child("whenUnsatisfiable"), c.WhenUnsatisfiable, []corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.ScheduleAnyway}))
		}
		if c.LabelSelector != nil {
			errs = append(errs, field.Forbidden(at.Child("labelSelector"), "constraint must not define a selector, as they deduced for each pod"))
		}
		p := pair{c.TopologyKey, string(c.WhenUnsatisfiable)}
		if seen[p] {
			errs = append(errs, field.Duplicate(at, fmt.Sprintf("{%s, %s}", p.key, p.when)))
		}
		seen[p] = true
		c.LabelSelector = &metav1.LabelSelector{}
		s.listed = append(s.listed, c)
	}
	return errs
}

func readAddedAffinity(to *addedAffinity, in *corev1.NodeAffinity, path *field.Path) (errs field.ErrorList) {
	if in == nil {
		return nil
	}
	var err error
	if r := in.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
		if to.required, err = nodeaffinity.NewNodeSelector(r, field.WithPath(path.Child("requiredDuringSchedulingIgnoredDuringExecution"))); err != nil {
			errs = append(errs, field.Invalid(path.Child("requiredDuringSchedulingIgnoredDuringExecution"), field.OmitValueType{}, err.Error()))
		}
	}
	if p := in.PreferredDuringSchedulingIgnoredDuringExecution; len(p) > 0 {
		if to.preferred, err = nodeaffinity.NewPreferredSchedulingTerms(p, field.WithPath(path.Child("preferredDuringSchedulingIgnoredDuringExecution"))); err != nil {
			errs = append(errs, field.Invalid(path.Child("preferredDuringSchedulingIgnoredDuringExecution"), field.OmitValueType{}, err.Error()))
		}
	}
	return errs
}

func readPreemption(p *preemptionArgs, in *schedulerv1.DefaultPreemptionArgs, path *field.Path) (errs field.ErrorList) {
	if n := in.MinCandidateNodesPercentage; n != nil {
		p.minCandidatesPercent = int(*n)
		errs = append(errs, within(int64(*n), 0, 100, path.Child("minCandidateNodesPercentage"))...)
	}
	if n := in.MinCandidateNodesAbsolute; n != nil {
		p.minCandidates = int(*n)
		if *n < 0 {
			errs = append(errs, field.Invalid(path.Child("minCandidateNodesAbsolute"), *n, "not in valid range [0, inf)"))
		}
	}
	if p.minCandidatesPercent == 0 && p.minCandidates == 0 {
		errs = append(errs, field.Invalid(path.Child("minCandidateNodesPercentage"), 0, "cannot be zero at the same time as minCandidateNodesAbsolute"))
	}
	return errs
}

func readVolumes(to *partArgs, in *schedulerv1.VolumeBindingArgs, path *field.Path) (errs field.ErrorList) {
	if n := in.BindTimeoutSeconds; n != nil {
		to.volumeTimeout = time.Duration(*n) * time.Second
		if *n < 0 {
			errs = append(errs, field.Invalid(path.Child("bindTimeoutSeconds"), *n, "invalid BindTimeoutSeconds, should not be a negative value"))
		}
	}
	if len(in.Shape) > 0 {
		errs = append(errs, field.Forbidden(path.Child("shape"), "is not supported: nodes are not scored by their volumes (upstream's gate StorageCapacityScoring is off too)"))
	}
	return errs
}
