package scheduler

import (
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
	sigsjson "sigs.k8s.io/json"
)

// kubeConfiguration is what a KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1)
// means here.
type kubeConfiguration struct {
	profiles        []*profile // at least one; the first is the default of events' source
	initial, max    time.Duration
	extenders       []schedulerv1.Extender
	withoutMeaning  []string // fields that are set and that the plugin host sees to
	percentageOfAll int
}

// readKubeConfiguration reads a configuration as kube-scheduler's --config has it, as JSON.
// It returns all faults, with their paths below path.
func readKubeConfiguration(raw json.RawMessage, path *field.Path) (*kubeConfiguration, field.ErrorList) {
	in := &schedulerv1.KubeSchedulerConfiguration{}
	if errs := decodeStrictly(raw, in, path); len(errs) > 0 {
		return nil, errs
	}
	var errs field.ErrorList
	if want := schedulerv1.SchemeGroupVersion.String(); in.APIVersion != want {
		errs = append(errs, field.NotSupported(path.Child("apiVersion"), in.APIVersion, []string{want}))
	}
	if in.Kind != "KubeSchedulerConfiguration" {
		errs = append(errs, field.NotSupported(path.Child("kind"), in.Kind, []string{"KubeSchedulerConfiguration"}))
	}
	k := &kubeConfiguration{initial: time.Second, max: 10 * time.Second, extenders: in.Extenders}
	if in.Parallelism != nil {
		if *in.Parallelism <= 0 {
			errs = append(errs, field.Invalid(path.Child("parallelism"), *in.Parallelism, "should be an integer value greater than zero"))
		}
		k.withoutMeaning = append(k.withoutMeaning, "parallelism")
	}
	if in.LeaderElection.LeaderElect != nil {
		k.withoutMeaning = append(k.withoutMeaning, "leaderElection")
	}
	if in.ClientConnection.Kubeconfig != "" || in.ClientConnection.QPS != 0 {
		k.withoutMeaning = append(k.withoutMeaning, "clientConnection")
	}
	errs = append(errs, k.readBackoff(in, path)...)
	k.percentageOfAll, errs = percentage(in.PercentageOfNodesToScore, 0, path.Child("percentageOfNodesToScore"), errs)
	errs = append(errs, k.readProfiles(in.Profiles, path.Child("profiles"))...)
	errs = append(errs, checkExtenders(k.extenders, path.Child("extenders"))...)
	for i := range k.extenders {
		k.leaveToExtender(&k.extenders[i])
	}
	return k, errs
}

// leaveToExtender makes NodeResourcesFit look away from what an extender sees to.
func (k *kubeConfiguration) leaveToExtender(e *schedulerv1.Extender) {
	for _, r := range e.ManagedResources {
		if !r.IgnoredByScheduler {
			continue
		}
		for _, pr := range k.profiles {
			if pr.fit.ignored == nil {
				pr.fit.ignored = map[corev1.ResourceName]bool{}
			}
			pr.fit.ignored[corev1.ResourceName(r.Name)] = true
		}
	}
}

// decodeStrictly refuses unknown, repeated and wrongly cased fields.
func decodeStrictly(raw []byte, into any, path *field.Path) field.ErrorList {
	strict, err := sigsjson.UnmarshalStrict(raw, into)
	if err != nil {
		return field.ErrorList{field.Invalid(path, field.OmitValueType{}, err.Error())}
	}
	var errs field.ErrorList
	for _, e := range strict {
		errs = append(errs, field.Invalid(path, field.OmitValueType{}, e.Error()))
	}
	return errs
}

func (k *kubeConfiguration) readBackoff(in *schedulerv1.KubeSchedulerConfiguration, path *field.Path) (errs field.ErrorList) {
	if n := in.PodInitialBackoffSeconds; n != nil {
		k.initial = time.Duration(*n) * time.Second
		if *n <= 0 {
			errs = append(errs, field.Invalid(path.Child("podInitialBackoffSeconds"), *n, "must be greater than 0"))
		}
	}
	if n := in.PodMaxBackoffSeconds; n != nil {
		k.max = time.Duration(*n) * time.Second
	}
	if k.max < k.initial {
		errs = append(errs, field.Invalid(path.Child("podMaxBackoffSeconds"), int64(k.max/time.Second), "must be greater than or equal to PodInitialBackoffSeconds"))
	}
	return errs
}

func percentage(n *int32, otherwise int, path *field.Path, errs field.ErrorList) (int, field.ErrorList) {
	if n == nil {
		return otherwise, errs
	}
	if *n < 0 || *n > 100 {
		errs = append(errs, field.Invalid(path, *n, "not in valid range [0-100]"))
	}
	return int(*n), errs
}

func (k *kubeConfiguration) readProfiles(in []schedulerv1.KubeSchedulerProfile, path *field.Path) (errs field.ErrorList) {
	if len(in) == 0 {
		k.profiles = []*profile{defaultProfile(defaultSchedulerName, k.percentageOfAll)}
		return nil
	}
	seen := map[string]bool{}
	for i := range in {
		p := path.Index(i)
		name := defaultSchedulerName
		switch {
		case in[i].SchedulerName != nil && *in[i].SchedulerName != "":
			name = *in[i].SchedulerName
		case len(in) > 1:
			errs = append(errs, field.Required(p.Child("schedulerName"), "several profiles need names"))
		}
		if seen[name] {
			errs = append(errs, field.Duplicate(p.Child("schedulerName"), name))
		}
		seen[name] = true
		pr := defaultProfile(name, 0)
		pr.percentage, errs = percentage(in[i].PercentageOfNodesToScore, k.percentageOfAll, p.Child("percentageOfNodesToScore"), errs)
		if in[i].Plugins != nil {
			errs = append(errs, choosePlugins(pr, in[i].Plugins, p.Child("plugins"))...)
		}
		args := map[string]bool{}
		for j := range in[i].PluginConfig {
			one, at := &in[i].PluginConfig[j], p.Child("pluginConfig").Index(j)
			if args[one.Name] {
				errs = append(errs, field.Duplicate(at.Child("name"), one.Name))
			}
			args[one.Name] = true
			errs = append(errs, readArgs(pr, one, at)...)
		}
		k.profiles = append(k.profiles, pr)
	}
	return errs
}

// defaultSchedulerName is the spec.schedulerName of pods that name none.
const defaultSchedulerName = "default-scheduler"

// byName gives the profiles by the names that they serve.
func (k *kubeConfiguration) byName() map[string]*profile {
	out := map[string]*profile{}
	for _, pr := range k.profiles {
		out[pr.schedulerName] = pr
	}
	return out
}

// chosen are the parts that the profile has on.
func (pr *profile) chosen(all []part) (out []part) {
	for _, one := range all {
		if one.filter()&pr.filters != 0 {
			out = append(out, one)
		}
	}
	return out
}

// applyKube takes over what the KubeSchedulerConfiguration says; faults are for Validate.
func (c *Config) applyKube() {
	if len(c.KubeSchedulerConfiguration) == 0 {
		return
	}
	path := field.NewPath("kubeSchedulerConfiguration")
	for name, set := range map[string]bool{
		"schedulerName": c.SchedulerName != "", "initialBackoff": c.InitialBackoff.Duration != 0, "maxBackoff": c.MaxBackoff.Duration != 0,
		"percentageOfNodesToScore": c.PercentageOfNodesToScore != 0,
	} {
		if set {
			c.kubeFaults = append(c.kubeFaults, field.Forbidden(field.NewPath(name), fmt.Sprintf("may not be set beside %s, which says it", path)))
		}
	}
	kube, errs := readKubeConfiguration(c.KubeSchedulerConfiguration, path)
	c.kubeFaults = append(c.kubeFaults, errs...)
	if len(errs) > 0 {
		return
	}
	c.kube = kube
	c.SchedulerName = kube.profiles[0].schedulerName
	c.InitialBackoff.Duration, c.MaxBackoff.Duration = kube.initial, kube.max
}
