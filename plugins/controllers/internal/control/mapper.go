package control

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/restmapper"
)

// forgetAfter is how long a mapper believes that a kind is not there.
const forgetAfter = 10 * time.Second

// Mapper finds the resources of kinds by discovery, which it asks when it is first used,
// and again for a kind that it does not know, every ten seconds at most.
type Mapper struct {
	*restmapper.DeferredDiscoveryRESTMapper

	mu    sync.Mutex
	asked time.Time // when it last forgot all; guarded by mu
}

var _ meta.RESTMapper = (*Mapper)(nil)

// NewMapper makes one that knows nothing yet.
func NewMapper(d discovery.DiscoveryInterface) *Mapper {
	return &Mapper{DeferredDiscoveryRESTMapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(d))}
}

// RESTMapping implements meta.RESTMapper.
func (m *Mapper) RESTMapping(kind schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	out, err := m.DeferredDiscoveryRESTMapper.RESTMapping(kind, versions...)
	if meta.IsNoMatchError(err) && m.forget() {
		return m.DeferredDiscoveryRESTMapper.RESTMapping(kind, versions...)
	}
	return out, err
}

// RESTMappings implements meta.RESTMapper.
func (m *Mapper) RESTMappings(kind schema.GroupKind, versions ...string) ([]*meta.RESTMapping, error) {
	out, err := m.DeferredDiscoveryRESTMapper.RESTMappings(kind, versions...)
	if meta.IsNoMatchError(err) && m.forget() {
		return m.DeferredDiscoveryRESTMapper.RESTMappings(kind, versions...)
	}
	return out, err
}

// forget says whether it has.
func (m *Mapper) forget() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.asked) < forgetAfter {
		return false
	}
	m.asked = time.Now()
	m.Reset()
	return true
}
