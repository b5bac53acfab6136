package apiserver

import (
	"io"

	"k8s.io/apiserver/pkg/admission"

	"keelson.dev/keelson/core/review"
)

// askedAdmission are the admission plugins that ask plugin processes, one for each phase.
// As those that call webhooks they are made when the first hook appears, and stay.
type askedAdmission struct {
	server               *Server
	mutating, validating *latePlugin // nil if flags turn them off
}

// register makes the two known to a chain.
func (a *askedAdmission) register(plugins *admission.Plugins) {
	late := func(name string, mutating bool) *latePlugin {
		return &latePlugin{name: name, make: func() (admission.Interface, error) {
			return a.server.config.reviews.NewAdmission(mutating)
		}}
	}
	plugins.Register(review.MutatingPluginName, func(io.Reader) (admission.Interface, error) {
		a.mutating = late(review.MutatingPluginName, true)
		return lateMutation{a.mutating}, nil
	})
	plugins.Register(review.ValidatingPluginName, func(io.Reader) (admission.Interface, error) {
		a.validating = late(review.ValidatingPluginName, false)
		return lateValidation{a.validating}, nil
	})
}

// enable makes the plugin of a phase, once.
func (a *askedAdmission) enable(mutating bool) error {
	p := a.validating
	if mutating {
		p = a.mutating
	}
	if p == nil {
		a.server.config.Log.Warn("Admission plugins are not asked: flags turn it off", "mutating", mutating)
		return nil
	}
	late := &a.server.late
	late.mu.Lock()
	running := late.running
	late.mu.Unlock()
	if running == nil || running.Err() != nil {
		return nil // after the end nothing is admitted
	}
	err := p.start(late.initialize)
	a.server.factory.Start(running.Done())
	return err
}
