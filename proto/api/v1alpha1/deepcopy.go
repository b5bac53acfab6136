package v1alpha1

import (
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// DeepCopyInto copies the plugin into out.
func (in *Plugin) DeepCopyInto(out *Plugin) {
	*out = *in
	in.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	in.Spec.DeepCopyInto(&out.Spec)
	in.Status.DeepCopyInto(&out.Status)
}

// DeepCopy returns a copy that shares nothing with the plugin.
func (in *Plugin) DeepCopy() *Plugin {
	if in == nil {
		return nil
	}
	out := new(Plugin)
	in.DeepCopyInto(out)
	return out
}

// DeepCopyObject implements runtime.Object.
func (in *Plugin) DeepCopyObject() runtime.Object {
	if in == nil {
		return nil
	}
	return in.DeepCopy()
}

// DeepCopyInto copies the spec into out.
func (in *PluginSpec) DeepCopyInto(out *PluginSpec) {
	*out = *in
	if in.Args != nil {
		out.Args = slices.Clone(in.Args)
	}
	out.Config = in.Config.DeepCopy()
	out.Enabled = copyOf(in.Enabled)
	out.Rules = copyRules(in.Rules)
	out.Resources = in.Resources.DeepCopy()
	if in.Swap != nil {
		out.Swap = copyOf(in.Swap)
		out.Swap.WatchSeconds = copyOf(in.Swap.WatchSeconds)
	}
	if in.Shadow != nil {
		out.Shadow = copyOf(in.Shadow)
		out.Shadow.Args = slices.Clone(in.Shadow.Args)
		out.Shadow.Config = in.Shadow.Config.DeepCopy()
	}
}

// copyOf copies what is no pointer itself.
func copyOf[T any](in *T) *T {
	if in == nil {
		return nil
	}
	out := *in
	return &out
}

func copyRules(in []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	if in == nil {
		return nil
	}
	out := make([]rbacv1.PolicyRule, len(in))
	for i := range in {
		in[i].DeepCopyInto(&out[i])
	}
	return out
}

// DeepCopy returns a copy that shares nothing with the resources.
func (in *PluginResources) DeepCopy() *PluginResources {
	if in == nil {
		return nil
	}
	out := copyOf(in)
	if l := in.Limits; l != nil {
		out.Limits = &PluginLimits{Pids: copyOf(l.Pids)}
		if l.Memory != nil {
			out.Limits.Memory = copyOf(l.Memory)
			*out.Limits.Memory = l.Memory.DeepCopy()
		}
		if l.CPU != nil {
			out.Limits.CPU = copyOf(l.CPU)
			*out.Limits.CPU = l.CPU.DeepCopy()
		}
	}
	return out
}

// DeepCopy returns a copy that shares nothing with the candidate.
func (in *PluginCandidateStatus) DeepCopy() *PluginCandidateStatus {
	out := copyOf(in)
	if in != nil {
		out.Since = in.Since.DeepCopy()
	}
	return out
}

// DeepCopyInto copies the revision into out.
func (in *PluginRevision) DeepCopyInto(out *PluginRevision) {
	*out = *in
	out.StartTime, out.EndTime = in.StartTime.DeepCopy(), in.EndTime.DeepCopy()
	out.GapMilliseconds = copyOf(in.GapMilliseconds)
	if s := in.Spec; s != nil {
		out.Spec = copyOf(s)
		out.Spec.Args = slices.Clone(s.Args)
		out.Spec.Config = s.Config.DeepCopy()
		out.Spec.Rules = copyRules(s.Rules)
		out.Spec.Resources = s.Resources.DeepCopy()
	}
}

// DeepCopyInto copies the status into out.
func (in *PluginStatus) DeepCopyInto(out *PluginStatus) {
	*out = *in
	out.StartedAt = in.StartedAt.DeepCopy()
	if in.Conditions != nil {
		out.Conditions = make([]metav1.Condition, len(in.Conditions))
		for i := range in.Conditions {
			in.Conditions[i].DeepCopyInto(&out.Conditions[i])
		}
	}
	if in.Nodes != nil {
		out.Nodes = make([]PluginNodeStatus, len(in.Nodes))
		for i := range in.Nodes {
			out.Nodes[i] = in.Nodes[i]
			out.Nodes[i].StartedAt = in.Nodes[i].StartedAt.DeepCopy()
			out.Nodes[i].Candidate = in.Nodes[i].Candidate.DeepCopy()
		}
	}
	out.Candidate = in.Candidate.DeepCopy()
	out.Shadow = copyOf(in.Shadow)
	if in.History != nil {
		out.History = make([]PluginRevision, len(in.History))
		for i := range in.History {
			in.History[i].DeepCopyInto(&out.History[i])
		}
	}
}

// DeepCopyObject implements runtime.Object.
func (in *PluginList) DeepCopyObject() runtime.Object {
	if in == nil {
		return nil
	}
	out := new(PluginList)
	*out = *in
	in.ListMeta.DeepCopyInto(&out.ListMeta)
	if in.Items != nil {
		out.Items = make([]Plugin, len(in.Items))
		for i := range in.Items {
			in.Items[i].DeepCopyInto(&out.Items[i])
		}
	}
	return out
}

// DeepCopyObject implements runtime.Object.
func (in *PluginLogOptions) DeepCopyObject() runtime.Object {
	if in == nil {
		return nil
	}
	out := new(PluginLogOptions)
	*out = *in
	if in.TailLines != nil {
		lines := *in.TailLines
		out.TailLines = &lines
	}
	return out
}

// DeepCopyObject implements runtime.Object.
func (in *PluginRestart) DeepCopyObject() runtime.Object {
	if in == nil {
		return nil
	}
	out := new(PluginRestart)
	*out = *in
	in.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	return out
}

// DeepCopyObject implements runtime.Object.
func (in *PluginSwap) DeepCopyObject() runtime.Object {
	if in == nil {
		return nil
	}
	out := new(PluginSwap)
	*out = *in
	in.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	return out
}

// DeepCopyObject implements runtime.Object.
func (in *PluginComparison) DeepCopyObject() runtime.Object {
	if in == nil {
		return nil
	}
	out := new(PluginComparison)
	*out = *in
	in.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	out.Since = in.Since.DeepCopy()
	out.Differences = slices.Clone(in.Differences)
	for i := range out.Differences {
		out.Differences[i].Time = in.Differences[i].Time.DeepCopy()
	}
	return out
}
