package apiserver

import (
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/restmapper"
)

const (
	// mapperAge is how old what kindMapper knows may be: definitions come and go.
	mapperAge = 30 * time.Second
	// mapperPause is the least time between two looks for kinds that are not there.
	mapperPause = time.Second
)

// kindMapper finds resources of kinds, and kinds of resources, by discovery:
// the API's own, custom and aggregated ones. It asks when it is asked.
type kindMapper struct {
	meta.ResettableRESTMapper

	mu     sync.Mutex // guards asked
	asked  time.Time  // when discovery was last forgotten
	client discovery.CachedDiscoveryInterface
}

var _ meta.ResettableRESTMapper = (*kindMapper)(nil)

func newKindMapper(client discovery.DiscoveryInterface) *kindMapper {
	cached := memory.NewMemCacheClient(client)
	return &kindMapper{ResettableRESTMapper: restmapper.NewDeferredDiscoveryRESTMapper(cached), client: cached}
}

// refresh forgets what is known when it is older than age, and says whether it did.
func (m *kindMapper) refresh(age time.Duration) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.asked) < age {
		return false
	}
	m.asked = time.Now()
	m.Reset()
	return true
}

// RESTMapping implements meta.RESTMapper.
func (m *kindMapper) RESTMapping(gk schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	m.refresh(mapperAge)
	found, err := m.ResettableRESTMapper.RESTMapping(gk, versions...)
	if meta.IsNoMatchError(err) && m.refresh(mapperPause) {
		found, err = m.ResettableRESTMapper.RESTMapping(gk, versions...)
	}
	return found, err
}

// KindsFor implements meta.RESTMapper.
func (m *kindMapper) KindsFor(r schema.GroupVersionResource) ([]schema.GroupVersionKind, error) {
	m.refresh(mapperAge)
	found, err := m.ResettableRESTMapper.KindsFor(r)
	if meta.IsNoMatchError(err) && m.refresh(mapperPause) {
		found, err = m.ResettableRESTMapper.KindsFor(r)
	}
	return found, err
}

// resolve finds the resource of a kind.
func (m *kindMapper) resolve(gvk schema.GroupVersionKind) (schema.GroupVersionResource, error) {
	found, err := m.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return schema.GroupVersionResource{}, fmt.Errorf("find resource of %s: %w", gvk, err)
	}
	return found.Resource, nil
}
