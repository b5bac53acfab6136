package apiserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	mutatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	mutatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	validatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"keelson.dev/keelson/core/registry/resource"
)

// The plugins that call webhooks and run policies have informers, loops that
// look once a second, and compilers; all that costs megabytes, dozens of
// goroutines and a part of the start. Most clusters need none of it, so a late
// plugin is made when the first object appears that configures it, and stays.
//
// It is in force when the write of that object is answered: requests after it
// wait until its informers are filled.

// latePlugin is an admission plugin that may not be there yet.
type latePlugin struct {
	name string
	// configured is the resource whose first object brings the plugin.
	configured string
	make       func() (admission.Interface, error)
	// static is set if files configure the plugin too: it is made with the server.
	static bool

	mu     sync.Mutex // guards making
	made   bool
	plugin atomic.Pointer[admission.Interface] // nil until made
}

// Handles implements admission.Interface. Nothing to do costs nothing more.
func (l *latePlugin) Handles(op admission.Operation) bool {
	p := l.plugin.Load()
	return p != nil && (*p).Handles(op)
}

// start makes the plugin, once. If it cannot be made, nothing passes but what
// could mend that.
func (l *latePlugin) start(init func(admission.Interface) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.made {
		return nil
	}
	p, err := l.make()
	if err == nil {
		err = init(p)
	}
	l.made = err == nil
	if err != nil {
		err = fmt.Errorf("admission plugin %s: %w", l.name, err)
		p = broken{err}
	}
	l.plugin.Store(&p)
	return err
}

// broken stands in for a plugin that could not be made.
type broken struct{ err error }

var (
	_ admission.MutationInterface   = broken{}
	_ admission.ValidationInterface = broken{}
)

// Handles implements admission.Interface.
func (broken) Handles(admission.Operation) bool { return true }

// Admit implements admission.MutationInterface.
func (b broken) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	return b.Validate(ctx, a, o)
}

// Validate implements admission.ValidationInterface.
func (b broken) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().Group == admissionregistrationv1.GroupName {
		return nil
	}
	return apierrors.NewInternalError(b.err)
}

// lateMutation and lateValidation are late plugins for one phase.
type (
	lateMutation   struct{ *latePlugin }
	lateValidation struct{ *latePlugin }
)

var (
	_ admission.MutationInterface   = lateMutation{}
	_ admission.ValidationInterface = lateValidation{}
)

// Admit implements admission.MutationInterface.
func (l lateMutation) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if m, ok := (*l.plugin.Load()).(admission.MutationInterface); ok {
		return m.Admit(ctx, a, o)
	}
	return nil
}

// Validate implements admission.ValidationInterface.
func (l lateValidation) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if v, ok := (*l.plugin.Load()).(admission.ValidationInterface); ok {
		return v.Validate(ctx, a, o)
	}
	return nil
}

// lateAdmission are a server's late plugins.
type lateAdmission struct {
	server  *Server
	plugins []*latePlugin // written while the chain is built
	init    admission.PluginInitializer
	stores  map[string]*resource.Store // of what configures plugins, by resource
	checker policyChecker

	mu      sync.Mutex // guards ctx and the start of what wg counts
	running context.Context
	wg      sync.WaitGroup
}

// register makes the late plugins known to a chain.
func (l *lateAdmission) register(plugins *admission.Plugins) {
	add := func(name, configured string, mutating bool, make func(io.Reader) (admission.Interface, error)) {
		plugins.Register(name, func(config io.Reader) (admission.Interface, error) {
			var data []byte
			if config != nil {
				var err error
				if data, err = io.ReadAll(config); err != nil {
					return nil, err
				}
				if _, err := make(bytes.NewReader(data)); err != nil { // told at the start, not at the first webhook
					return nil, err
				}
			}
			late := &latePlugin{name: name, configured: configured, static: bytes.Contains(data, []byte("staticManifestsDir")), make: func() (admission.Interface, error) {
				if data == nil {
					return make(nil)
				}
				return make(bytes.NewReader(data))
			}}
			l.plugins = append(l.plugins, late)
			if mutating {
				return lateMutation{late}, nil
			}
			return lateValidation{late}, nil
		})
	}
	add(mutatingpolicy.PluginName, "mutatingadmissionpolicybindings", true, func(c io.Reader) (admission.Interface, error) { return mutatingpolicy.NewPlugin(c) })
	add(mutatingwebhook.PluginName, "mutatingwebhookconfigurations", true, func(c io.Reader) (admission.Interface, error) { return mutatingwebhook.NewMutatingWebhook(c) })
	add(validatingpolicy.PluginName, "validatingadmissionpolicybindings", false, func(c io.Reader) (admission.Interface, error) { return validatingpolicy.NewPlugin(c) })
	add(validatingwebhook.PluginName, "validatingwebhookconfigurations", false, func(c io.Reader) (admission.Interface, error) {
		return validatingwebhook.NewValidatingAdmissionWebhook(c)
	})
}

// watch has the plugins started by writes of what configures them.
func (l *lateAdmission) watch(s *Server, groups []*genericapiserver.APIGroupInfo) error {
	l.server, l.stores = s, map[string]*resource.Store{}
	for _, g := range groups {
		if g.PrioritizedVersions[0].Group != admissionregistrationv1.GroupName {
			continue
		}
		for name, s := range g.VersionedResourcesStorageMap["v1"] {
			store, ok := s.(*resource.Store)
			if !ok {
				continue // a subresource
			}
			l.stores[name] = store
			store.AfterCreate = func(_ runtime.Object, options *metav1.CreateOptions) {
				if options != nil && len(options.DryRun) > 0 {
					return
				}
				l.warm(name)
				if err := l.start(name); err != nil {
					l.server.config.Log.Error("Admission plugin does not start", "err", err)
				}
			}
		}
	}
	for _, p := range l.plugins {
		if l.stores[p.configured] == nil {
			return fmt.Errorf("the registry has no %s to configure %s with", p.configured, p.name)
		}
	}
	return nil
}

// start makes the plugins that a resource configures.
func (l *lateAdmission) start(configured string) error {
	l.mu.Lock()
	running := l.running
	l.mu.Unlock()
	if running == nil || running.Err() != nil {
		return nil // before the start nothing is written; after the end nothing is admitted
	}
	var errs []error
	for _, p := range l.plugins {
		if p.configured == configured {
			errs = append(errs, p.start(l.initialize))
		}
	}
	if configured == "validatingadmissionpolicies" {
		l.checker.once.Do(func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if running.Err() == nil {
				l.wg.Go(func() { l.checker.run(running, l.server) })
			}
		})
	}
	l.server.factory.Start(running.Done())
	return errors.Join(errs...)
}

func (l *lateAdmission) initialize(p admission.Interface) error {
	l.init.Initialize(p)
	return admission.ValidateInitialization(p)
}

// warm has the OpenAPI documents made before the first mutating policy, which
// takes its schemas from them. It asks this server, so it must not be called
// before that serves.
func (l *lateAdmission) warm(configured string) {
	if configured != "mutatingadmissionpolicybindings" || slices.Contains(l.started(), mutatingpolicy.PluginName) {
		return
	}
	if _, err := l.server.client.Discovery().OpenAPIV3().Paths(); err != nil {
		l.server.config.Log.Warn("OpenAPI documents are not ready for mutating policies", "err", err)
	}
}

// begin starts the plugins for what is stored already. It has to be called
// before requests are served; wait returns when all is ended that began.
func (l *lateAdmission) begin(ctx context.Context) error {
	l.mu.Lock()
	l.running = ctx
	l.mu.Unlock()
	static := map[string]bool{}
	for _, p := range l.plugins {
		static[p.configured] = static[p.configured] || p.static
	}
	for name, store := range l.stores {
		if static[name] {
			if err := l.start(name); err != nil {
				return fmt.Errorf("--%s: %w", admissionConfigFlag, err)
			}
			continue
		}
		list, err := store.List(ctx, &internalversion.ListOptions{Limit: 1})
		if err == nil && meta.LenList(list) == 0 {
			continue
		}
		// What cannot be read may be there: better to be asked than to let all pass.
		if err := l.start(name); err != nil {
			return err
		}
	}
	return nil
}

// wait waits for what runs beside the plugins.
func (l *lateAdmission) wait() { l.wg.Wait() }

// started are the plugins that have been made.
func (l *lateAdmission) started() []string {
	var names []string
	for _, p := range l.plugins {
		if p.plugin.Load() != nil {
			names = append(names, p.name)
		}
	}
	slices.Sort(names)
	return names
}
