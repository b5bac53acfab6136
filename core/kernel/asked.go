package kernel

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/core/review"
	"keelson.dev/keelson/proto/api/v1alpha1"
)

// settleTime bounds how long the status of a plugin waits for what the plugin wants to be
// asked about to be in force.
const settleTime = 5 * time.Second

// wanted tells the API server, on a server, which plugins it is to ask.
func (s *pluginSync) wanted(p *v1alpha1.Plugin, here bool) {
	if s.reviews == nil {
		return
	}
	if !here || p.Spec.Enabled != nil && !*p.Spec.Enabled {
		s.reviews.Remove(p.Name)
		return
	}
	s.reviews.Want(p.Name, p.Spec.Kind, pluginhost.Socket(s.runDir, p.Spec.Kind, p.Name))
}

// unwanted tells it of one that is gone.
func (s *pluginSync) unwanted(name string) {
	if s.reviews != nil {
		s.reviews.Remove(name)
	}
}

// tell tells the API server what became of a plugin's process.
func (s *pluginSync) tell(name string, status pluginhost.Status) {
	s.tellShadow(name, status)
	if s.reviews == nil || status.Description != nil && !review.Asked(status.Description.Kind) {
		return
	}
	switch status.Phase {
	case pluginhost.PhaseRunning, pluginhost.PhaseDegraded:
		var capabilities []string
		if status.Description != nil {
			capabilities = status.Description.Capabilities
		}
		s.reviews.Running(name, fmt.Sprintf("%d at %d", status.PID, status.StartedAt.UnixNano()), capabilities)
	case pluginhost.PhaseStarting:
		s.reviews.Starting(name)
	default:
		why := "its process does not run"
		if status.LastError != "" {
			why += ": " + status.LastError
		}
		s.reviews.Down(name, why)
	}
}

// settle waits until it is known whether what a plugin wants is in force, so that its status
// does not say Ready before, and says why it is not.
func (s *pluginSync) settle(ctx context.Context, name string) (fault string) {
	if s.reviews == nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	return s.reviews.Settle(ctx, name)
}

// onFault is the set's OnFault: it tells the reader of events, and writes the status anew.
func (s *pluginSync) onFault(name, fault string) {
	if fault != "" {
		s.events.record(name, pluginhost.Event{Warning: true, Reason: reasonNotAsked, Message: fault})
	}
	if status, known := s.host.Status(name); known {
		s.onStatus(name, status)
	}
}

// reasonNotAsked is why a plugin that runs is not Ready: what it wants is not valid.
const reasonNotAsked = "NotAsked"

// notAsked says of a plugin whose process works that the API server does not ask it.
func notAsked(p *v1alpha1.Plugin, fault string) {
	if fault == "" || !meta.IsStatusConditionTrue(p.Status.Conditions, conditionReady) {
		return
	}
	p.Status.LastError = fault
	meta.SetStatusCondition(&p.Status.Conditions, metav1.Condition{
		Type: conditionReady, Status: metav1.ConditionFalse, Reason: reasonNotAsked, Message: fault, ObservedGeneration: p.Status.ObservedGeneration,
	})
}

// retain forgets plugins that were asked before the kernel's start and are not wanted now.
func (s *pluginSync) retain(ctx context.Context) error {
	if s.reviews == nil || s.reviews.Empty() {
		return nil
	}
	list, err := s.api.List(ctx)
	if err != nil {
		return fmt.Errorf("list plugins: %w", err)
	}
	var names []string
	for i := range list.Items {
		s.wanted(&list.Items[i], true)
		names = append(names, list.Items[i].Name)
	}
	s.reviews.Retain(names)
	return nil
}
