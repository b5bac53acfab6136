package v1alpha1

import (
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
		out.Args = append([]string{}, in.Args...)
	}
	out.Config = in.Config.DeepCopy()
	if in.Enabled != nil {
		enabled := *in.Enabled
		out.Enabled = &enabled
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
