package openapi

import (
	"testing"

	"k8s.io/kube-openapi/pkg/validation/spec"
)

// TestNoDanglingReferences checks that each definition that another refers to is there.
func TestNoDanglingReferences(t *testing.T) {
	defs := Definitions(func(path string) spec.Ref { return spec.MustCreateRef("#/definitions/" + path) })
	if len(defs) < 500 {
		t.Fatalf("got %d definitions, want those of all groups", len(defs))
	}
	for name, def := range defs {
		for _, dep := range def.Dependencies {
			if _, ok := defs[dep]; !ok {
				t.Errorf("%s refers to %s, which is not defined", name, dep)
			}
		}
	}
}

// TestListMaps checks that lists which server-side apply merges by key say so.
func TestListMaps(t *testing.T) {
	defs := Definitions(func(path string) spec.Ref { return spec.MustCreateRef("#/definitions/" + path) })
	for _, tt := range []struct{ model, field, key string }{
		{"io.k8s.api.core.v1.PodSpec", "containers", "name"},
		{"io.k8s.api.core.v1.PodSpec", "volumes", "name"},
		{"io.k8s.api.core.v1.ServiceSpec", "ports", "port"},
		{"io.k8s.api.core.v1.PodStatus", "conditions", "type"},
		{"dev.keelson.v1alpha1.PluginStatus", "conditions", "type"},
	} {
		schema, ok := defs[tt.model]
		if !ok {
			t.Errorf("%s is not defined", tt.model)
			continue
		}
		ext := schema.Schema.Properties[tt.field].Extensions
		if got := ext["x-kubernetes-list-type"]; got != "map" {
			t.Errorf("%s.%s has list type %v, want map", tt.model, tt.field, got)
		}
		keys, _ := ext["x-kubernetes-list-map-keys"].([]any)
		found := false
		for _, k := range keys {
			found = found || k == tt.key
		}
		if !found {
			t.Errorf("%s.%s has list keys %v, want %s among them", tt.model, tt.field, keys, tt.key)
		}
	}
}
