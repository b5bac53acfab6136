package kernel

import (
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/proto/api/v1alpha1"
)

// The conditions of a Plugin.
const (
	conditionReady       = "Ready"
	conditionProgressing = "Progressing"
	conditionAccepted    = "Accepted"
	conditionRolledBack  = "RolledBack"
)

// apply puts a status into a Plugin object: at the top level if this is the
// server, and in the entry of this node if the plugin runs on each.
func (s *pluginSync) apply(p *v1alpha1.Plugin, status pluginhost.Status) {
	here := v1alpha1.PluginNodeStatus{
		Name: s.node, Phase: phaseOf(status.Phase), PID: int64(status.PID), InProcess: status.InProcess, Restarts: int32(status.Restarts),
		Version: status.Version, LastError: status.LastError, Revision: status.Revision, Candidate: apiCandidate(status.Candidate),
		StartedAt: apiTime(status.StartedAt), Message: status.Message,
	}
	if here.Message == "" && notSwapped(status) {
		here.Message = status.ProgressMessage
	}
	onNodes := p.Spec.Scope == v1alpha1.PluginScopeNode || s.scopes[p.Name] == v1alpha1.PluginScopeNode ||
		status.Description != nil && status.Description.Scope == string(v1alpha1.PluginScopeNode)
	if onNodes {
		at := slices.IndexFunc(p.Status.Nodes, func(n v1alpha1.PluginNodeStatus) bool { return n.Name == s.node })
		if at < 0 {
			p.Status.Nodes = append(p.Status.Nodes, here)
		} else {
			p.Status.Nodes[at] = here
		}
	}
	if !s.server {
		return
	}
	st := &p.Status
	st.ObservedGeneration = p.Generation
	if status.Generation != 0 {
		st.ObservedGeneration = status.Generation
	}
	st.Phase, st.PID, st.InProcess, st.Restarts, st.Version = here.Phase, here.PID, here.InProcess, here.Restarts, here.Version
	st.LastError, st.StartedAt, st.Candidate = here.LastError, here.StartedAt, here.Candidate
	if status.Revision != "" {
		st.Revision = status.Revision
	}
	st.Shadow = apiShadow(status.Shadow)
	if status.History != nil {
		st.History = apiHistory(status.History)
	}
	setConditions(p, status)
}

// notSwapped says that what the spec says is not what runs, for good.
func notSwapped(status pluginhost.Status) bool {
	return status.Progress == pluginhost.ProgressRefused || status.Progress == pluginhost.ProgressRolledBack
}

func apiCandidate(c pluginhost.Candidate) *v1alpha1.PluginCandidateStatus {
	if c.Revision == "" {
		return nil
	}
	return &v1alpha1.PluginCandidateStatus{
		Revision: c.Revision, Phase: v1alpha1.PluginCandidatePhase(c.Phase), PID: int64(c.PID), Since: apiTime(c.Since), Message: c.Message,
	}
}

// setConditions keeps the conditions, with the times since when they are so.
func setConditions(p *v1alpha1.Plugin, status pluginhost.Status) {
	set := func(kind string, is bool, reason, message string) {
		c := metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: message, ObservedGeneration: p.Status.ObservedGeneration}
		if is {
			c.Status = metav1.ConditionTrue
		}
		meta.SetStatusCondition(&p.Status.Conditions, c)
	}
	ready := status.Phase == pluginhost.PhaseRunning
	message := status.Message
	if message == "" && !ready {
		message = status.LastError
	}
	set(conditionReady, ready, string(status.Phase), message)
	switch status.Progress {
	case "":
	case pluginhost.ProgressComplete, pluginhost.ProgressRefused, pluginhost.ProgressRolledBack:
		set(conditionProgressing, false, status.Progress, status.ProgressMessage)
	default:
		set(conditionProgressing, true, status.Progress, status.ProgressMessage)
	}
	switch {
	case status.NotAccepted != "":
		set(conditionAccepted, false, "RulesNotAccepted", "the program declares more than spec.rules accepts: "+status.NotAccepted)
	case status.Description != nil:
		set(conditionAccepted, true, "Accepted", "")
	}
	setShadowCondition(p, status.Shadow)
	if status.Progress != "" {
		reason := "Current"
		if notSwapped(status) {
			reason = status.Progress
		}
		set(conditionRolledBack, notSwapped(status), reason, status.ProgressMessage)
	}
}

// phaseOf names a phase of the plugin host as the API does: with the same words.
func phaseOf(phase pluginhost.Phase) v1alpha1.PluginPhase { return v1alpha1.PluginPhase(phase) }
