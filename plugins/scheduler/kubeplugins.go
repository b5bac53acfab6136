package scheduler

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
)

// knownPlugin is one of upstream's plugins: which filter and which score it is here.
type knownPlugin struct {
	filter filterSet // 0: none
	scores bool
	score  scoreKind
	weight int32 // upstream's default
}

// knownPlugins are all that upstream's default profile has.
var knownPlugins = map[string]knownPlugin{
	"PrioritySort":                    {},
	"SchedulingGates":                 {},
	"DefaultBinder":                   {},
	"DefaultPreemption":               {},
	"NodeUnschedulable":               {filter: filterNodeUnschedulable},
	"NodeName":                        {filter: filterNodeName},
	"TaintToleration":                 {filter: filterTaintToleration, scores: true, score: scoreTaintToleration, weight: 3},
	"NodeAffinity":                    {filter: filterNodeAffinity, scores: true, score: scoreNodeAffinity, weight: 2},
	"NodePorts":                       {filter: filterNodePorts},
	"NodeResourcesFit":                {filter: filterNodeResourcesFit, scores: true, score: scoreNodeResourcesFit, weight: 1},
	"VolumeRestrictions":              {filter: filterVolumeRestrictions},
	"NodeVolumeLimits":                {filter: filterNodeVolumeLimits},
	"VolumeBinding":                   {filter: filterVolumeBinding},
	"VolumeZone":                      {filter: filterVolumeZone},
	"PodTopologySpread":               {filter: filterPodTopologySpread, scores: true, score: scorePodTopologySpread, weight: 2},
	"InterPodAffinity":                {filter: filterInterPodAffinity, scores: true, score: scoreInterPodAffinity, weight: 2},
	"DynamicResources":                {filter: filterDynamicResources},
	"NodeResourcesBalancedAllocation": {scores: true, score: scoreNodeResourcesBalancedAllocation, weight: 1},
	"ImageLocality":                   {scores: true, score: scoreImageLocality, weight: 1},
	"NodeDeclaredFeatures":            {filter: filterNodeDeclaredFeatures},
	"GangScheduling":                  {filter: filterGangScheduling},
}

// choice is which plugins are on at one point, with their weights.
type choice map[string]int32

// take applies a set of a configuration: first what it turns off, then what it turns on.
func (c choice) take(set schedulerv1.PluginSet, path *field.Path) (errs field.ErrorList) {
	for i, p := range set.Disabled {
		if p.Name == "*" {
			clear(c)
			continue
		}
		errs = append(errs, checkName(p.Name, path.Child("disabled").Index(i).Child("name"))...)
		delete(c, p.Name)
	}
	for i, p := range set.Enabled {
		at := path.Child("enabled").Index(i)
		errs = append(errs, checkName(p.Name, at.Child("name"))...)
		weight := int32(1)
		if p.Weight != nil && *p.Weight != 0 {
			weight = *p.Weight
		}
		if weight < 0 {
			errs = append(errs, field.Invalid(at.Child("weight"), weight, "must not be negative"))
		}
		c[p.Name] = weight
	}
	return errs
}

func checkName(name string, path *field.Path) field.ErrorList {
	if _, ok := knownPlugins[name]; ok {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, name, slices.Sorted(maps.Keys(knownPlugins)))}
}

// choosePlugins turns a profile's plugins on and off. Each runs as a whole at the points
// where it prepares and follows up: those cannot be chosen apart from its filter or score.
func choosePlugins(pr *profile, in *schedulerv1.Plugins, path *field.Path) (errs field.ErrorList) {
	all := choice{}
	for name, p := range knownPlugins {
		all[name] = max(p.weight, 1)
	}
	errs = append(errs, all.take(in.MultiPoint, path.Child("multiPoint"))...)
	at := func(set schedulerv1.PluginSet, point string) choice {
		c := maps.Clone(all)
		errs = append(errs, c.take(set, path.Child(point))...)
		return c
	}
	filters, scores, after := at(in.Filter, "filter"), at(in.Score, "score"), at(in.PostFilter, "postFilter")
	for name, p := range knownPlugins {
		if _, on := filters[name]; !on {
			pr.filters &^= p.filter
		}
		if p.scores {
			pr.weights[p.score] = int64(scores[name])
		}
	}
	_, preempts := after["DefaultPreemption"]
	pr.preemption.off = !preempts
	for _, must := range []struct {
		name, point, why string
		set              schedulerv1.PluginSet
	}{
		{"PrioritySort", "queueSort", "no queue sort plugin is enabled: PrioritySort is the one there is", in.QueueSort},
		{"DefaultBinder", "bind", "at least one bind plugin is needed: DefaultBinder is the one there is", in.Bind},
		{"SchedulingGates", "preEnqueue", "SchedulingGates cannot be turned off: the API server binds no pod that has gates", in.PreEnqueue},
	} {
		if _, on := at(must.set, must.point)[must.name]; !on {
			errs = append(errs, field.Required(path.Child(must.point), must.why))
		}
	}
	works := func(name string) bool {
		p := knownPlugins[name]
		return p.filter&pr.filters != 0 || p.scores && pr.weights[p.score] > 0 || name == "DefaultPreemption" && preempts
	}
	return append(errs, checkWhole(in, works, path)...)
}

// checkWhole refuses settings at points where plugins do not stand on their own.
func checkWhole(in *schedulerv1.Plugins, works func(string) bool, path *field.Path) (errs field.ErrorList) {
	for point, set := range map[string]schedulerv1.PluginSet{
		"preFilter": in.PreFilter, "preScore": in.PreScore, "reserve": in.Reserve, "permit": in.Permit, "preBind": in.PreBind, "postBind": in.PostBind,
		"placementGenerate": in.PlacementGenerate, "placementScore": in.PlacementScore, "podGroupPostFilter": in.PodGroupPostFilter,
	} {
		for i, p := range set.Enabled {
			at := path.Child(point, "enabled").Index(i).Child("name")
			if faults := checkName(p.Name, at); len(faults) > 0 {
				errs = append(errs, faults...)
			} else if !works(p.Name) {
				errs = append(errs, field.Invalid(at, p.Name, "runs as a whole: enable it under multiPoint, filter or score"))
			}
		}
		for i, p := range set.Disabled {
			at := path.Child(point, "disabled").Index(i).Child("name")
			if p.Name == "*" {
				for name := range knownPlugins {
					if works(name) && point != "permit" && point != "postBind" { // where none has anything to do
						errs = append(errs, field.Invalid(at, p.Name, "plugins run as a whole: disable them under multiPoint, filter or score"))
						break
					}
				}
			} else if faults := checkName(p.Name, at); len(faults) > 0 {
				errs = append(errs, faults...)
			} else if works(p.Name) {
				errs = append(errs, field.Invalid(at, p.Name, "runs as a whole: disable it under multiPoint, filter or score"))
			}
		}
	}
	return errs
}
