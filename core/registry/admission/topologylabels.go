package admission

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	genericinitializer "k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// noded is the part of a plugin that looks at nodes.
type noded struct {
	asker
	nodes   corelisters.NodeLister
	stored  NodeSource // nil: the client is asked
	missing missingNames
}

// NodeSource reads nodes as the last write left them. What does not exist is a
// NotFound error.
type NodeSource interface {
	Node(ctx context.Context, name string) (*corev1.Node, error)
}

// WantsNodes is a plugin that looks at nodes which its cache does not show yet.
type WantsNodes interface{ SetNodes(NodeSource) }

var _ WantsNodes = (*noded)(nil)

// SetNodes takes what reads nodes without a request.
func (n *noded) SetNodes(s NodeSource) { n.stored = s }

// missingTime is how long a node that does not exist is not asked for again; the
// cache shows one that is made meanwhile.
const missingTime = 30 * time.Second

// missingNames are nodes that were asked for and do not exist.
type missingNames struct {
	mu    sync.Mutex // guards all below
	since time.Time
	names map[string]struct{}
}

func (m *missingNames) has(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.since) > missingTime {
		m.names = nil
	}
	_, ok := m.names[name]
	return ok
}

func (m *missingNames) add(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names == nil {
		m.names, m.since = map[string]struct{}{}, time.Now()
	}
	m.names[name] = struct{}{}
}

var _ genericinitializer.WantsExternalKubeInformerFactory = (*noded)(nil)

// SetExternalKubeInformerFactory takes the informers.
func (n *noded) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	n.nodes = f.Core().V1().Nodes().Lister()
	n.SetReadyFunc(f.Core().V1().Nodes().Informer().HasSynced)
}

// node is that of the name, from the cache or else as it is stored; nil if there is none.
func (n *noded) node(ctx context.Context, a admission.Attributes, name string) (*corev1.Node, error) {
	if !n.WaitForReady() {
		return nil, admission.NewForbidden(a, fmt.Errorf("not yet ready to handle request"))
	}
	if node, err := n.nodes.Get(name); err == nil {
		return node, nil
	}
	if n.missing.has(name) {
		return nil, nil
	}
	node, err := n.read(ctx, name)
	if apierrors.IsNotFound(err) {
		n.missing.add(name)
		return nil, nil
	}
	return node, err
}

func (n *noded) read(ctx context.Context, name string) (*corev1.Node, error) {
	if n.stored != nil {
		return n.stored.Node(ctx, name)
	}
	return n.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
}

// topologyLabels tells a pod, by labels, in which zone and region its node is.
type topologyLabels struct{ noded }

var _ admission.MutationInterface = (*topologyLabels)(nil)

func newTopologyLabels(io.Reader) (admission.Interface, error) {
	return &topologyLabels{noded{asker: newAsker(PodTopologyLabelsName, admission.Create)}}, nil
}

// Admit implements admission.MutationInterface.
func (t *topologyLabels) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != corev1.Resource("pods") {
		return nil
	}
	switch o := a.GetObject().(type) {
	case *corev1.Binding:
		if a.GetSubresource() != "binding" || o.Target.Kind != "" && o.Target.Kind != "Node" || o.Target.Name == "" {
			return nil
		}
		return t.label(ctx, a, o.Target.Name, &o.ObjectMeta)
	case *corev1.Pod:
		if a.GetSubresource() == "" && o.Spec.NodeName != "" {
			return t.label(ctx, a, o.Spec.NodeName, &o.ObjectMeta)
		}
	}
	return nil
}

func (t *topologyLabels) label(ctx context.Context, a admission.Attributes, name string, o *metav1.ObjectMeta) error {
	node, err := t.node(ctx, a, name)
	if err != nil || node == nil {
		return err
	}
	for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
		if v, ok := node.Labels[key]; ok {
			if o.Labels == nil {
				o.Labels = map[string]string{}
			}
			o.Labels[key] = v
		}
	}
	return nil
}
