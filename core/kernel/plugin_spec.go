package kernel

import (
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/proto/api/v1alpha1"
)

// hostSpec is a Plugin's spec in the words of the plugin host.
func hostSpec(p *v1alpha1.Plugin) pluginhost.Spec {
	spec := revisionSpec(p.Name, p.Spec.Scope, &v1alpha1.PluginRevisionSpec{
		Kind: p.Spec.Kind, Source: p.Spec.Source, Args: p.Spec.Args, Config: p.Spec.Config, Rules: p.Spec.Rules, Resources: p.Spec.Resources,
	})
	spec.Enabled = p.Spec.Enabled == nil || *p.Spec.Enabled
	spec.Generation = p.Generation
	spec.Shadow = hostShadow(p.Spec.Shadow)
	if s := p.Spec.Swap; s != nil {
		spec.Restart = s.Restart
		if s.WatchSeconds != nil {
			spec.Watch = time.Duration(*s.WatchSeconds) * time.Second
		}
	}
	return spec
}

// revisionSpec is what decides what runs.
func revisionSpec(name string, scope v1alpha1.PluginScope, r *v1alpha1.PluginRevisionSpec) pluginhost.Spec {
	spec := pluginhost.Spec{
		Name: name, Kind: r.Kind, BuiltIn: r.Source.BuiltIn, Program: r.Source.Program, Path: r.Source.Path, SHA256: r.Source.SHA256,
		Args: r.Args, Rules: r.Rules, Enabled: true,
	}
	if spec.Program != "" {
		spec.Scope = string(scope)
	}
	if r.Config != nil {
		spec.Config = r.Config.Raw
	}
	if r.Resources != nil && r.Resources.Limits != nil {
		l := r.Resources.Limits
		if l.Memory != nil {
			spec.Limits.Memory = l.Memory.Value()
		}
		if l.CPU != nil {
			spec.Limits.MilliCPU = l.CPU.MilliValue()
		}
		if l.Pids != nil {
			spec.Limits.Pids = *l.Pids
		}
	}
	return spec
}

// restore is what a Plugin's status tells of the time before this kernel: what ran, and
// what is not to be tried again.
func (s *pluginSync) restore(p *v1alpha1.Plugin) *pluginhost.Restore {
	revision := p.Status.Revision
	if !s.server {
		i := slices.IndexFunc(p.Status.Nodes, func(n v1alpha1.PluginNodeStatus) bool { return n.Name == s.node })
		if i < 0 {
			return nil
		}
		revision = p.Status.Nodes[i].Revision
	}
	out := &pluginhost.Restore{Revision: revision}
	for i := range p.Status.History {
		h := &p.Status.History[i]
		entry := pluginhost.Revision{
			Revision: h.Revision, Generation: h.Generation, Version: h.Version, Outcome: pluginhost.Outcome(h.Outcome), Message: h.Message, Gap: -1,
			Start: timeOf(h.StartTime), End: timeOf(h.EndTime),
		}
		if h.GapMilliseconds != nil {
			entry.Gap = time.Duration(*h.GapMilliseconds) * time.Millisecond
		}
		if h.Spec != nil {
			entry.Spec = revisionSpec(p.Name, p.Spec.Scope, h.Spec)
			entry.Spec.Generation = h.Generation
			entry.Spec.Watch = hostSpec(p).Watch
			if h.Revision == revision {
				out.Active = &entry.Spec
			}
		}
		if i == 0 && (entry.Outcome == pluginhost.OutcomeRolledBack || entry.Outcome == pluginhost.OutcomeRefused) {
			out.Failed, out.FailedOutcome, out.FailedMessage = h.Revision, entry.Outcome, h.Message
		}
		out.History = append(out.History, entry)
	}
	return out
}

func timeOf(t *metav1.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.Time
}

// apiTime is a time as the API has it; nil if there is none.
func apiTime(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	return &metav1.Time{Time: t.Truncate(time.Second)}
}

// apiHistory is the host's history as the status has it.
func apiHistory(h *pluginhost.History) []v1alpha1.PluginRevision {
	if h == nil {
		return nil
	}
	out := make([]v1alpha1.PluginRevision, len(h.Revisions))
	for i, r := range h.Revisions {
		out[i] = v1alpha1.PluginRevision{
			Revision: r.Revision, Generation: r.Generation, Version: r.Version, Outcome: v1alpha1.PluginOutcome(r.Outcome),
			Message: shortened(r.Message), StartTime: apiTime(r.Start), EndTime: apiTime(r.End), Spec: apiSpec(&r.Spec),
		}
		if r.Gap >= 0 {
			ms := int64((r.Gap + time.Millisecond - 1) / time.Millisecond)
			out[i].GapMilliseconds = &ms
		}
	}
	return out
}

// apiSpec is what a revision is made of, as the status has it.
func apiSpec(s *pluginhost.Spec) *v1alpha1.PluginRevisionSpec {
	out := &v1alpha1.PluginRevisionSpec{
		Kind: s.Kind, Source: v1alpha1.PluginSource{BuiltIn: s.BuiltIn, Program: s.Program, Path: s.Path, SHA256: s.SHA256},
		Args: s.Args, Rules: s.Rules,
	}
	if len(s.Config) > 0 {
		out.Config = &runtime.RawExtension{Raw: s.Config}
	}
	out.Resources = apiLimits(s.Limits)
	return out
}

// shortened bounds a message in the history.
func shortened(s string) string {
	const most = 1024
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

// apiLimits are limits as the API has them; nil if there are none.
func apiLimits(l pluginhost.Limits) *v1alpha1.PluginResources {
	if l == (pluginhost.Limits{}) {
		return nil
	}
	out := &v1alpha1.PluginLimits{}
	if l.Memory > 0 {
		out.Memory = resource.NewQuantity(l.Memory, resource.BinarySI)
	}
	if l.MilliCPU > 0 {
		out.CPU = resource.NewMilliQuantity(l.MilliCPU, resource.DecimalSI)
	}
	if l.Pids > 0 {
		out.Pids = &l.Pids
	}
	return &v1alpha1.PluginResources{Limits: out}
}
