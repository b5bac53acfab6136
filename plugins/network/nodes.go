package network

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

// remote is what we know of another node.
type remote struct {
	name     string
	podCIDRs []netip.Prefix
	address  map[bool]netip.Addr // internal IP, by Is4
}

// slim keeps what followNodes reads of a Node: thousands of nodes cost little memory.
func slim(obj any) (any, error) {
	node, ok := obj.(*corev1.Node)
	if !ok {
		return obj, nil
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion},
		Spec:       corev1.NodeSpec{PodCIDR: node.Spec.PodCIDR, PodCIDRs: node.Spec.PodCIDRs},
		Status:     corev1.NodeStatus{Addresses: node.Status.Addresses},
	}, nil
}

// followNodes keeps the node's ranges and the routes to other nodes as the Node objects
// say, until ctx ends.
func (s *Server) followNodes(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	signal := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	_, err := s.nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { signal() }, UpdateFunc: func(any, any) { signal() }, DeleteFunc: func(any) { signal() },
	})
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	if !cache.WaitForCacheSync(ctx.Done(), s.nodes.HasSynced) {
		return nil
	}
	signal()
	again := time.NewTicker(reconcileEvery)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-again.C: // repairs routes that someone removed, and retries
		}
		own, others := readNodes(s.nodes.GetStore().List(), s.env.Node.Name)
		s.applyNodes(own, others)
	}
}

// readNodes gives the ranges of the node and what there is to know of the others.
func readNodes(objects []any, self string) (own []netip.Prefix, others []remote) {
	for _, obj := range objects {
		node, ok := obj.(*corev1.Node)
		if !ok {
			continue
		}
		cidrs := podCIDRs(node)
		if node.Name == self {
			own = cidrs
			continue
		}
		r := remote{name: node.Name, podCIDRs: cidrs, address: map[bool]netip.Addr{}}
		for _, a := range node.Status.Addresses {
			addr, err := netip.ParseAddr(a.Address)
			if err != nil || a.Type != corev1.NodeInternalIP {
				continue
			}
			if _, known := r.address[addr.Is4()]; !known {
				r.address[addr.Is4()] = addr
			}
		}
		if len(cidrs) > 0 && len(r.address) > 0 {
			others = append(others, r)
		}
	}
	slices.SortFunc(others, func(a, b remote) int {
		if a.name < b.name {
			return -1
		}
		return 1
	})
	return own, others
}

// podCIDRs are the node's ranges, at most one for each family.
func podCIDRs(node *corev1.Node) []netip.Prefix {
	texts := node.Spec.PodCIDRs
	if len(texts) == 0 && node.Spec.PodCIDR != "" {
		texts = []string{node.Spec.PodCIDR}
	}
	var cidrs []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil || slices.ContainsFunc(cidrs, func(q netip.Prefix) bool { return q.Addr().Is4() == p.Addr().Is4() }) {
			continue
		}
		cidrs = append(cidrs, p.Masked())
	}
	return cidrs
}
