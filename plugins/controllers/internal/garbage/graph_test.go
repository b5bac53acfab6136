package garbage

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

var maps = resource{gvr: schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, kind: "ConfigMap", namespaced: true}

func object(uid string, owners ...string) *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: uid, UID: types.UID(uid)}}
	for _, owner := range owners {
		o.OwnerReferences = append(o.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: owner, UID: types.UID(owner)})
	}
	return o
}

func has(t todo, uid types.UID) bool { return slices.Contains(t.check, uid) }

// TestGraph tells which objects each change puts under suspicion.
func TestGraph(t *testing.T) {
	g := newGraph()
	if td := g.upsert(maps, object("child", "parent")); !has(td, "child") {
		t.Error("an object whose owner is not there is not checked")
	}
	g.upsert(maps, object("parent"))
	if !g.allSolid(g.get("child")) {
		t.Error("the owner is there, but not taken for solid")
	}
	if td := g.upsert(maps, object("other", "parent")); has(td, "other") {
		t.Error("an object whose owner is there is checked")
	}
	elsewhere := object("stranger", "parent")
	elsewhere.Namespace = "elsewhere"
	if td := g.upsert(maps, elsewhere); !has(td, "stranger") {
		t.Error("an owner in another namespace is taken for one")
	}
	waiting := object("parent")
	now := metav1.Now()
	waiting.DeletionTimestamp, waiting.Finalizers = &now, []string{metav1.FinalizerDeleteDependents}
	if td := g.upsert(maps, waiting); !has(td, "child") || !has(td, "other") || !has(td, "parent") {
		t.Errorf("foreground deletion checks %v, want the owner and its dependents", td.check)
	}
	if td := g.remove("child"); !has(td, "parent") {
		t.Error("the end of a dependent does not wake the owner that waits for it")
	}
	if td := g.remove("parent"); !has(td, "other") {
		t.Error("the end of an owner does not put its dependents under suspicion")
	}
	g.remove("other")
	g.remove("stranger")
	if len(g.nodes)+len(g.dependents) != 0 {
		t.Errorf("something is left: %v, %v", g.nodes, g.dependents)
	}
}
