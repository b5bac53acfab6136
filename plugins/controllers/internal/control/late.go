package control

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"k8s.io/client-go/tools/cache"
)

// Late runs informers of kinds that few clusters have from the moment when
// something needs them, so that a cluster without pays nothing.
type Late struct {
	informers []cache.SharedIndexInformer
	filled    func() // called once, when the informers have their first contents

	once   sync.Once
	wanted chan struct{} // closed by Need
	ready  atomic.Bool
}

// NewLate makes a Late of informers that are nobody else's and have not started.
// filled is called when their caches are full; what had to wait is enqueued there.
func NewLate(filled func(), informers ...cache.SharedIndexInformer) (*Late, error) {
	for _, inf := range informers {
		if err := inf.SetTransform(TrimManagedFields); err != nil {
			return nil, fmt.Errorf("prepare late informer: %w", err)
		}
	}
	return &Late{informers: informers, filled: filled, wanted: make(chan struct{})}, nil
}

// Need asks for the informers. It may be called at any time, also before Run.
func (l *Late) Need() { l.once.Do(func() { close(l.wanted) }) }

// Ready asks for the informers, and tells whether their caches are full.
func (l *Late) Ready() bool {
	if l.ready.Load() {
		return true
	}
	l.Need()
	return false
}

// Filled tells whether the caches are full, and asks for nothing.
func (l *Late) Filled() bool { return l.ready.Load() }

// Run works until ctx ends, and returns when the informers have ended.
func (l *Late) Run(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-l.wanted:
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	synced := make([]cache.InformerSynced, 0, len(l.informers))
	for _, inf := range l.informers {
		wg.Go(func() { inf.RunWithContext(ctx) })
		synced = append(synced, inf.HasSynced)
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return
	}
	l.ready.Store(true)
	if l.filled != nil {
		l.filled()
	}
}
