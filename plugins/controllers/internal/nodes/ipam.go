package nodes

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// IPAM gives each node one network out of each pod network of the cluster.
type IPAM struct {
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	events record.EventRecorder
	pools  []*pool
	loop   *control.Loop
}

// NewIPAM registers the controller's handlers; Run does the work. v4 and v6 are
// the prefix lengths of a node's networks.
func NewIPAM(c *control.Context, v4, v6 int) (*IPAM, error) {
	p := &IPAM{client: c.Client, nodes: c.Informers.Core().V1().Nodes().Lister(), events: c.Recorder("cidrAllocator")}
	for _, cidr := range c.PodCIDRs {
		bits := v4
		if cidr.Addr().Is6() {
			bits = v6
		}
		pl, err := newPool(cidr, bits)
		if err != nil {
			return nil, err
		}
		p.pools = append(p.pools, pl)
	}
	// One worker: an allocation is seen by the next before it is written.
	p.loop = control.NewLoop(c, "nodeipam", 1, p.sync)
	enqueue := func(n *corev1.Node) { p.loop.Enqueue(n) }
	_, err := control.Handle(c.Informers.Core().V1().Nodes().Informer(), enqueue, func(_, n *corev1.Node) {
		if len(n.Spec.PodCIDRs) == 0 {
			enqueue(n)
		}
	}, enqueue)
	if err != nil {
		return nil, fmt.Errorf("watch nodes: %w", err)
	}
	return p, nil
}

// Run works until ctx ends. What nodes have already is taken first, whole,
// before anything is given out.
func (p *IPAM) Run(ctx context.Context) error {
	all, err := p.nodes.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	for _, n := range all {
		p.occupy(n)
	}
	return p.loop.Run(ctx)
}

func (p *IPAM) occupy(n *corev1.Node) {
	for _, s := range n.Spec.PodCIDRs {
		if cidr, err := netip.ParsePrefix(s); err == nil {
			for _, pl := range p.pools {
				pl.occupy(cidr, n.Name)
			}
		}
	}
}

func (p *IPAM) sync(ctx context.Context, name string) error {
	n, err := p.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		for _, pl := range p.pools {
			pl.release(name)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("get node %s: %w", name, err)
	}
	if len(n.Spec.PodCIDRs) > 0 || len(p.pools) == 0 {
		p.occupy(n)
		return nil
	}
	var cidrs []string
	for _, pl := range p.pools {
		cidr, ok := pl.take(name)
		if !ok {
			p.events.Eventf(&corev1.ObjectReference{Kind: "Node", Name: name, UID: n.UID, APIVersion: "v1"},
				corev1.EventTypeWarning, "CIDRNotAvailable", "Node %s status is now: CIDRNotAvailable", name)
			return fmt.Errorf("give node %s a pod network: %s has none left", name, pl.cidr)
		}
		cidrs = append(cidrs, cidr.String())
	}
	data, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": n.UID},
		"spec":     map[string]any{"podCIDR": cidrs[0], "podCIDRs": cidrs},
	})
	if err != nil {
		return fmt.Errorf("encode pod networks: %w", err)
	}
	// Should the patch fail, the node keeps what it was given here, and gets
	// the same in the next try.
	if _, err := p.client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, data, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("give node %s pod networks %v: %w", name, cidrs, err)
	}
	return nil
}

// pool hands out equal parts of a network, the lowest free one first.
type pool struct {
	cidr netip.Prefix
	bits int
	size uint64

	mu    sync.Mutex
	owner map[uint64]string // by index of the part; guarded by mu
}

func newPool(cidr netip.Prefix, bits int) (*pool, error) {
	if bits < cidr.Bits() || bits > cidr.Addr().BitLen() {
		return nil, fmt.Errorf("pod network %s cannot be divided into parts of /%d", cidr, bits)
	}
	return &pool{cidr: cidr.Masked(), bits: bits, size: 1 << min(16, bits-cidr.Bits()), owner: map[uint64]string{}}, nil
}

func (p *pool) occupy(cidr netip.Prefix, node string) {
	if !p.cidr.Contains(cidr.Addr()) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	i := p.index(cidr.Addr())
	// A part larger than ours covers several.
	n := uint64(1)
	if cidr.Bits() < p.bits {
		n = 1 << min(16, p.bits-cidr.Bits())
	}
	for k := range n {
		if _, taken := p.owner[i+k]; !taken && i+k < p.size {
			p.owner[i+k] = node
		}
	}
}

func (p *pool) take(node string) (netip.Prefix, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.size {
		if p.owner[i] == node {
			return p.part(i), true
		}
	}
	for i := range p.size {
		if _, taken := p.owner[i]; !taken {
			p.owner[i] = node
			return p.part(i), true
		}
	}
	return netip.Prefix{}, false
}

func (p *pool) release(node string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, o := range p.owner {
		if o == node {
			delete(p.owner, i)
		}
	}
}

// part is the i-th network of the pool.
func (p *pool) part(i uint64) netip.Prefix {
	b := slices.Clone(p.cidr.Addr().AsSlice())
	for bit := p.bits - 1; bit >= p.cidr.Bits() && i > 0; bit-- {
		if i&1 == 1 {
			b[bit/8] |= 1 << (7 - bit%8)
		}
		i >>= 1
	}
	addr, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(addr, p.bits)
}

// index undoes part.
func (p *pool) index(addr netip.Addr) uint64 {
	b := addr.AsSlice()
	var i uint64
	for bit := p.cidr.Bits(); bit < p.bits; bit++ {
		i = i<<1 | uint64(b[bit/8]>>(7-bit%8)&1)
	}
	return i
}
