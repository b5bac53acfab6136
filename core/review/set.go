package review

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apiserver/pkg/admission/plugin/webhook"
)

// The kinds of plugins that are asked.
const (
	Admission      = "admission"
	Authentication = "authentication"
	Authorization  = "authorization"
)

// Asked says whether plugins of a kind are asked by the API server.
func Asked(kind string) bool {
	return kind == Admission || kind == Authentication || kind == Authorization
}

// Set is the plugins that are asked.
type Set struct {
	log *slog.Logger
	dir string // of the records; empty: none are kept
	// unused is true until the authorizer is in a chain.
	unused atomic.Bool
	// admission is called before the first hook of a phase is in force.
	admission func(mutating bool) error

	life context.Context
	end  context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex // guards plugins and onFault, and writes to what follows
	plugins map[string]*plugin
	onFault func(name, fault string)
	// What is asked, in the order of names; nil: nothing.
	authentication, authorization atomic.Pointer[[]*plugin]
	mutating, validating          atomic.Pointer[[]webhook.WebhookAccessor]
	hooks                         atomic.Pointer[map[string]*hook] // by accessor's UID
}

// New makes a set. dir is where it keeps what plugins asked for; it is read now. Empty: it
// keeps nothing.
func New(log *slog.Logger, dir string) (*Set, error) {
	s := &Set{log: log, dir: dir, plugins: map[string]*plugin{}}
	s.unused.Store(true)
	s.life, s.end = context.WithCancel(context.Background())
	records, err := readRecords(dir)
	if err != nil {
		s.end()
		return nil, err
	}
	for name, r := range records {
		p := s.newPlugin(name, r.Kind, r.Socket)
		if p.conn == nil {
			continue
		}
		if err := p.adopt(r); err != nil {
			p.close()
			s.Close()
			return nil, fmt.Errorf("read what plugin %s asked for: %s is not valid: remove it, and the plugin is asked when it runs: %w", name, recordPath(dir, name), err)
		}
		s.plugins[name] = p
	}
	return s, nil
}

// Begin puts in force what was kept. enable is called, now or later, before the first hook
// of a phase is in force; it makes the admission plugin that dispatches to it.
func (s *Set) Begin(enable func(mutating bool) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.admission = enable
	return s.publish()
}

// Close ends everything.
func (s *Set) Close() {
	s.end()
	s.mu.Lock()
	for _, p := range s.plugins {
		p.close()
	}
	s.plugins = map[string]*plugin{}
	s.mu.Unlock()
	s.wg.Wait()
}

// Want says that a plugin is wanted, with the kind of its Plugin object and the socket at
// which it will serve. A kind that is not asked is as Remove.
func (s *Set) Want(name, kind, socket string) {
	if !Asked(kind) {
		s.Remove(name)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life.Err() != nil {
		return
	}
	if p := s.plugins[name]; p != nil {
		if p.kind == kind && p.socket == socket {
			return
		}
		s.drop(p)
	}
	if p := s.newPlugin(name, kind, socket); p.conn != nil {
		s.plugins[name] = p
	}
}

// Running says that a process of the plugin does its work: one whose instance is new is
// asked what it wants. It does not wait; see Settle.
func (s *Set) Running(name, instance string, capabilities []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.plugins[name]
	if p == nil {
		return
	}
	p.down.Store(nil)
	if p.instance == instance || s.life.Err() != nil {
		return
	}
	p.renew(instance)
	s.wg.Go(func() { s.learn(p, instance, capabilities) }) // ends with the process or the set
}

// Starting says that a process is being started: calls wait for it, within their time.
func (s *Set) Starting(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.plugins[name]; p != nil {
		p.down.Store(nil)
	}
}

// Down says that no process of the plugin runs, nor is about to, and why.
func (s *Set) Down(name, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.plugins[name]; p != nil {
		p.down.Store(&why)
	}
}

// Settle waits until it is known whether what the plugin's process wants is in force, and
// its shadow is asked, or ctx ends. It says why what is wanted is not in force: which field
// of which hook is wrong. Empty: nothing is known against it.
func (s *Set) Settle(ctx context.Context, name string) (fault string) {
	heard, shadow := s.pending(name)
	if heard != nil {
		select {
		case <-heard:
		case <-ctx.Done():
		}
	}
	if shadow != nil {
		select {
		case <-shadow.learnt:
		case <-shadow.life.Done():
		case <-ctx.Done():
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.plugins[name]; p != nil {
		fault = p.fault
	}
	return fault
}

// pending is what Settle has to wait for; nil: for nothing.
func (s *Set) pending(name string) (heard <-chan struct{}, sh *shadow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.plugins[name]; p != nil {
		return p.heard, p.shadow.Load()
	}
	return nil, nil
}

// OnFault has f called when what Settle says of a plugin has changed, from goroutines that
// Close waits for. It takes the place of the f before.
func (s *Set) OnFault(f func(name, fault string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onFault = f
}

// blame notes what Settle is to say of a process.
func (s *Set) blame(p *plugin, instance, fault string) {
	s.mu.Lock()
	if p.instance != instance || s.plugins[p.name] != p || p.fault == fault {
		s.mu.Unlock()
		return
	}
	p.fault = fault
	p.tell()
	told := s.onFault
	s.mu.Unlock()
	if told != nil {
		told(p.name, fault)
	}
}

// Empty says that there is no plugin to ask.
func (s *Set) Empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.plugins) == 0
}

// Remove forgets a plugin: it is asked no more. An unknown name is no error.
func (s *Set) Remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.plugins[name]; p != nil {
		s.drop(p)
	}
}

// Retain removes the plugins that are not among names.
func (s *Set) Retain(names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, p := range s.plugins {
		if !slices.Contains(names, name) {
			s.drop(p)
		}
	}
}

// drop forgets a plugin; s.mu is held.
func (s *Set) drop(p *plugin) {
	p.close()
	delete(s.plugins, p.name)
	if err := s.removeRecord(p.name); err != nil {
		s.log.Error("Record of a plugin not removed", "plugin", p.name, "err", err)
	}
	if err := s.publish(); err != nil {
		s.log.Error("Plugins that are asked not published", "err", err)
	}
}

// learnPause is the time between two questions to a plugin that just came up.
const learnPause = 200 * time.Millisecond

// learn asks a new process what it wants, and puts it in force.
func (s *Set) learn(p *plugin, instance string, capabilities []string) {
	var said string
	for {
		r, err := p.wishes(s.life, capabilities)
		if err == nil {
			err = s.take(p, instance, r)
			if err == nil {
				s.blame(p, instance, "")
				return
			}
		}
		if err.Error() != said && s.life.Err() == nil {
			said = err.Error()
			s.log.Error("Plugin is not asked: what it wants is not known or not valid", "plugin", p.name, "kind", p.kind, "err", err)
			s.blame(p, instance, said)
		}
		select {
		case <-p.life.Done():
			return
		case <-time.After(learnPause):
		}
		s.mu.Lock()
		outdated := p.instance != instance
		s.mu.Unlock()
		if outdated {
			return
		}
	}
}

// take puts in force what a process wants, unless it is outdated.
func (s *Set) take(p *plugin, instance string, r *record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.instance != instance || s.plugins[p.name] != p {
		return nil
	}
	if err := p.adopt(r); err != nil {
		return err
	}
	if err := s.publish(); err != nil {
		return err
	}
	if err := s.writeRecord(p.name, r); err != nil {
		return err
	}
	close(p.learnt)
	p.learnt = nil
	p.tell()
	if p.kind == Authorization && s.unused.Load() {
		s.log.Warn("Authorization plugin is not asked: --authorization-mode does not name Plugin", "plugin", p.name)
	}
	return nil
}

// publish makes the lists that are asked; s.mu is held.
func (s *Set) publish() error {
	byName := make([]*plugin, 0, len(s.plugins))
	for _, p := range s.plugins {
		if p.known {
			byName = append(byName, p)
		}
	}
	slices.SortFunc(byName, func(a, b *plugin) int { return strings.Compare(a.name, b.name) })
	var authentication, authorization []*plugin
	var mutating, validating []webhook.WebhookAccessor
	hooks := map[string]*hook{}
	for _, p := range byName {
		switch p.kind {
		case Authentication:
			authentication = append(authentication, p)
		case Authorization:
			authorization = append(authorization, p)
		}
		for _, h := range p.hooks {
			hooks[h.accessor.GetUID()] = h
			if h.mutating {
				mutating = append(mutating, h.accessor)
			} else {
				validating = append(validating, h.accessor)
			}
		}
	}
	store(&s.authentication, authentication)
	store(&s.authorization, authorization)
	if s.admission == nil && len(hooks) > 0 {
		return nil // Begin comes later
	}
	s.hooks.Store(&hooks)
	store(&s.mutating, mutating)
	store(&s.validating, validating)
	for phase, n := range map[bool]int{true: len(mutating), false: len(validating)} {
		if n > 0 {
			if err := s.admission(phase); err != nil {
				return fmt.Errorf("start the admission plugin: %w", err)
			}
		}
	}
	return nil
}

func store[T any](to *atomic.Pointer[[]T], list []T) {
	if len(list) == 0 {
		to.Store(nil)
		return
	}
	to.Store(&list)
}
