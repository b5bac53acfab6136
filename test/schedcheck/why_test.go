package schedcheck

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/keelson/plugins/scheduler/why"
)

// TestWhyAgrees holds `keelson why pending` to the same rules, written a second time, on
// random clusters.
func TestWhyAgrees(t *testing.T) {
	for seed := range uint64(60) {
		g := NewGenerator(seed)
		s := &State{Nodes: map[string]*corev1.Node{}, Pods: map[types.UID]*corev1.Pod{}, Namespaces: g.Namespaces()}
		c := &why.Cluster{Namespaces: map[string]labels.Set{}}
		for name, l := range s.Namespaces {
			c.Namespaces[name] = l
		}
		for i := range 8 {
			n := g.Node(fmt.Sprint("node-", i))
			s.Nodes[n.Name] = n
			c.Nodes = append(c.Nodes, *n)
		}
		for i := range 12 {
			p := g.Pod(fmt.Sprint("there-", i))
			p.UID, p.Spec.NodeName = types.UID(p.Name), fmt.Sprint("node-", g.IntN(8))
			s.Pods[p.UID] = p
			c.Pods = append(c.Pods, *p)
		}
		for i := range 10 {
			p := g.Pod(fmt.Sprint("new-", i))
			p.UID = types.UID(p.Name)
			for _, n := range why.Explain(c, p).Nodes {
				got := map[string]bool{}
				for _, f := range n.Failures {
					got[f.Filter] = true
				}
				want := s.Refusals(p, n.Name)
				if fmt.Sprint(slices.Sorted(maps.Keys(got))) != fmt.Sprint(slices.Sorted(maps.Keys(want))) {
					t.Fatalf("seed %d, pod %s, node %s: got %v, want %v", seed, p.Name, n.Name, n.Failures, want)
				}
			}
		}
	}
}
