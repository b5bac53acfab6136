package kernel

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"

	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/core/review"
	"keelson.dev/keelson/proto/api/v1alpha1"
	"keelson.dev/keelson/proto/api/v1alpha1/client"
)

// pluginSync makes the plugin host run what Plugin objects say, and writes what
// became of it to their status. Status updates are merged: of several changes of
// one plugin only the last is written.
type pluginSync struct {
	// before, if there is one, is asked before Plugin objects are read; false: they must not be.
	before func(context.Context) bool

	// reviews, on a server, are the plugins that its API server asks; runDir has their sockets.
	reviews *review.Set
	runDir  string

	log    *slog.Logger
	api    *client.Client
	host   *pluginhost.Host
	node   string
	server bool // the server runs all scopes and owns the status's top level
	// scopes of the built-in plugins, by name; a stranger's plugin says its own.
	scopes map[string]v1alpha1.PluginScope

	mu      sync.Mutex // guards changed
	changed map[string]pluginhost.Status
	wake    chan struct{} // holds one token while changed is not empty
}

func newPluginSync(log *slog.Logger, node string, server bool, builtins []Builtin) *pluginSync {
	s := &pluginSync{
		log: log, node: node, server: server, scopes: map[string]v1alpha1.PluginScope{},
		changed: map[string]pluginhost.Status{}, wake: make(chan struct{}, 1),
	}
	for _, b := range builtins {
		s.scopes[b.Name] = b.Scope
	}
	return s
}

// onStatus is the plugin host's OnStatus.
func (s *pluginSync) onStatus(name string, status pluginhost.Status) {
	s.tell(name, status)
	s.mu.Lock()
	s.changed[name] = status
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// createMissing makes the objects of built-in plugins that the cluster has none of.
func (s *pluginSync) createMissing(ctx context.Context, builtins []Builtin) error {
	list, err := s.api.List(ctx)
	if err != nil {
		return fmt.Errorf("list plugins: %w", err)
	}
	have := map[string]bool{}
	for _, p := range list.Items {
		have[p.Name] = true
	}
	for _, b := range builtins {
		if have[b.Name] || b.Generic {
			continue
		}
		_, err := s.api.Create(ctx, &v1alpha1.Plugin{
			ObjectMeta: metav1.ObjectMeta{Name: b.Name},
			Spec: v1alpha1.PluginSpec{
				Kind: b.Kind, Scope: b.Scope, Source: v1alpha1.PluginSource{BuiltIn: true},
			},
		})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create plugin %s: %w", b.Name, err)
		}
	}
	return nil
}

// follow runs what the Plugin objects say until ctx ends.
func (s *pluginSync) follow(ctx context.Context) {
	if s.before != nil && !s.before(ctx) {
		return
	}
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: s.api.ListWatch(),
		ObjectType:    &v1alpha1.Plugin{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { s.ensure(obj.(*v1alpha1.Plugin)) },
			UpdateFunc: func(_, obj any) { s.ensure(obj.(*v1alpha1.Plugin)) },
			DeleteFunc: func(obj any) {
				if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err == nil {
					s.unwanted(key)
					s.host.Remove(key)
				}
			},
		},
	})
	informer.RunWithContext(ctx)
}

func (s *pluginSync) ensure(p *v1alpha1.Plugin) {
	s.wanted(p, s.runsHere(p))
	if !s.runsHere(p) {
		s.host.Remove(p.Name)
		return
	}
	spec := pluginhost.Spec{
		Name: p.Name, Kind: p.Spec.Kind, BuiltIn: p.Spec.Source.BuiltIn, Program: p.Spec.Source.Program, Path: p.Spec.Source.Path,
		SHA256: p.Spec.Source.SHA256, Args: p.Spec.Args, Enabled: p.Spec.Enabled == nil || *p.Spec.Enabled,
	}
	if spec.Program != "" {
		spec.Scope, spec.Rules = string(p.Spec.Scope), p.Spec.Rules
	}
	if p.Spec.Config != nil {
		spec.Config = p.Spec.Config.Raw
	}
	if err := s.host.Ensure(spec); err != nil {
		s.onStatus(p.Name, pluginhost.Status{Phase: pluginhost.PhaseFailed, LastError: err.Error()})
	}
}

// runsHere says whether a plugin is this kernel's to run: a server runs all, an
// agent those of node scope.
func (s *pluginSync) runsHere(p *v1alpha1.Plugin) bool {
	if s.server {
		return true
	}
	if p.Spec.Scope != "" {
		return p.Spec.Scope == v1alpha1.PluginScopeNode
	}
	return s.scopes[p.Name] == v1alpha1.PluginScopeNode
}

// report writes statuses as they change, until ctx ends and none is left to write.
// Its writes use a context of their own: the last ones tell of the end.
func (s *pluginSync) report(ctx context.Context, write context.Context) {
	for {
		s.mu.Lock()
		changed := s.changed
		s.changed = map[string]pluginhost.Status{}
		s.mu.Unlock()
		for _, name := range slices.Sorted(maps.Keys(changed)) {
			s.settle(ctx, name)
			if err := s.write(write, name, changed[name]); err != nil && !apierrors.IsNotFound(err) {
				s.log.Warn("Status of plugin not written", "plugin", name, "err", err)
				s.again(ctx, name, changed[name])
			}
		}
		if len(changed) > 0 {
			continue
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			s.mu.Lock()
			left := len(s.changed)
			s.mu.Unlock()
			if left == 0 {
				return
			}
		}
	}
}

// again puts a status back that could not be written, unless a newer one came
// meanwhile, and waits a moment; an ending kernel drops it.
func (s *pluginSync) again(ctx context.Context, name string, status pluginhost.Status) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(500 * time.Millisecond):
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, newer := s.changed[name]; !newer {
		s.changed[name] = status
	}
}

func (s *pluginSync) write(ctx context.Context, name string, status pluginhost.Status) error {
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		p, err := s.api.Get(ctx, name)
		if err != nil {
			return err
		}
		before := p.DeepCopy()
		s.apply(p, status)
		if equality.Semantic.DeepEqual(&before.Status, &p.Status) {
			return nil
		}
		_, err = s.api.UpdateStatus(ctx, p)
		return err
	})
}

// apply puts a status into a Plugin object: at the top level if this is the
// server, and in the entry of this node if the plugin runs on each.
func (s *pluginSync) apply(p *v1alpha1.Plugin, status pluginhost.Status) {
	here := v1alpha1.PluginNodeStatus{
		Name: s.node, Phase: phaseOf(status.Phase), PID: int64(status.PID), Restarts: int32(status.Restarts),
		Version: status.Version, LastError: status.LastError,
	}
	if !status.StartedAt.IsZero() {
		here.StartedAt = &metav1.Time{Time: status.StartedAt.Truncate(time.Second)}
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
	st.Phase, st.PID, st.Restarts, st.Version = here.Phase, here.PID, here.Restarts, here.Version
	st.LastError, st.StartedAt = here.LastError, here.StartedAt
	setReady(p, status)
}

// setReady keeps the condition Ready, with the time since when it is so.
func setReady(p *v1alpha1.Plugin, status pluginhost.Status) {
	c := metav1.Condition{
		Type: "Ready", Status: metav1.ConditionFalse, Reason: string(status.Phase), Message: status.Message,
		ObservedGeneration: p.Generation, LastTransitionTime: metav1.Now().Rfc3339Copy(),
	}
	if status.Phase == pluginhost.PhaseRunning {
		c.Status = metav1.ConditionTrue
	}
	if c.Message == "" && c.Status == metav1.ConditionFalse {
		c.Message = status.LastError
	}
	for i, old := range p.Status.Conditions {
		if old.Type == c.Type {
			if old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
			}
			p.Status.Conditions[i] = c
			return
		}
	}
	p.Status.Conditions = append(p.Status.Conditions, c)
}

// phaseOf names a phase of the plugin host as the API does: with the same words.
func phaseOf(phase pluginhost.Phase) v1alpha1.PluginPhase { return v1alpha1.PluginPhase(phase) }
