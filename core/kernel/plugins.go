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
	events *pluginEvents
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

// onEvent is the plugin host's OnEvent.
func (s *pluginSync) onEvent(name string, e pluginhost.Event) { s.events.record(name, e) }

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
		if have[b.Name] || b.Generic || b.OnDemand {
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
	store, informer := cache.NewInformerWithOptions(cache.InformerOptions{
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
	var retaining sync.WaitGroup
	defer retaining.Wait()
	if len(s.host.Inherited()) > 0 {
		retaining.Go(func() { // what was deleted while the kernel was replaced
			if cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
				s.host.Retain(store.ListKeys())
			}
		})
	}
	informer.RunWithContext(ctx)
}

func (s *pluginSync) ensure(p *v1alpha1.Plugin) {
	s.wanted(p, s.runsHere(p))
	if !s.runsHere(p) {
		s.host.Remove(p.Name)
		return
	}
	s.events.know(p)
	spec := hostSpec(p)
	if _, known := s.host.Status(p.Name); !known {
		spec.Restore = s.restore(p)
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
			fault := s.settle(ctx, name)
			if err := s.write(write, name, changed[name], fault); err != nil && !apierrors.IsNotFound(err) {
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

// write writes a status; fault is what settle said.
func (s *pluginSync) write(ctx context.Context, name string, status pluginhost.Status, fault string) error {
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		p, err := s.api.Get(ctx, name)
		if err != nil {
			return err
		}
		before := p.DeepCopy()
		s.apply(p, status)
		notAsked(p, fault)
		if equality.Semantic.DeepEqual(&before.Status, &p.Status) {
			return nil
		}
		_, err = s.api.UpdateStatus(ctx, p)
		return err
	})
}
