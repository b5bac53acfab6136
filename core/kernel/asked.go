package kernel

import (
	"context"
	"fmt"
	"time"

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

// settle waits until what a plugin wants is in force, so that its status does not say Ready
// before.
func (s *pluginSync) settle(ctx context.Context, name string) {
	if s.reviews == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	s.reviews.Settle(ctx, name)
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
