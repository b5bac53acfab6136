// Package keelson describes the kind of Keelson's own group keelson.dev/v1alpha1,
// plugins. What runs behind a Plugin is the plugin host's business; it is
// reached through resource.PluginOperator.
package keelson

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"

	"keelson.dev/keelson/core/registry/resource"
	keelsonv1alpha1 "keelson.dev/keelson/proto/api/v1alpha1"
)

// Kinds are the kinds of the group.
var Kinds = []resource.Kind{plugins}

var version = keelsonv1alpha1.SchemeGroupVersion

var plugins = &resource.Definition[*keelsonv1alpha1.Plugin]{
	GroupVersion: version, Kind: "Plugin", Plural: "plugins", Singular: "plugin", ClusterScoped: true,
	New:           func() *keelsonv1alpha1.Plugin { return &keelsonv1alpha1.Plugin{} },
	NewList:       func() runtime.Object { return &keelsonv1alpha1.PluginList{} },
	Name:          apivalidation.NameIsDNSLabel,
	Default:       setDefaults,
	PrepareCreate: func(_ context.Context, p *keelsonv1alpha1.Plugin) { p.Status.Phase = keelsonv1alpha1.PluginPending },
	Spec:          func(p *keelsonv1alpha1.Plugin) any { return &p.Spec },
	Status:        func(p *keelsonv1alpha1.Plugin) any { return &p.Status },
	Validate:      validate,
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Kind", "string", "The contract that it fulfils."),
		resource.Column("Status", "string", "Where it is in its life."),
		resource.Column("Version", "string", "What it says of itself."),
		resource.Column("Revision", "string", "What is active."),
		resource.Column("Restarts", "integer", "How often it was started again."),
		resource.AgeColumn,
		resource.Wide("Source", "string", "Where its executable comes from."),
		resource.Wide("Swap", "string", "How far a swap is, or that the last one was taken back."),
		resource.Wide("PID", "string", "Its process."),
		resource.Wide("Last Error", "string", "Why it ended the last time."),
	},
	Row: func(p *keelsonv1alpha1.Plugin) []any {
		source, pid, swap := "built-in", "<none>", "<none>"
		switch {
		case !p.Spec.Source.BuiltIn:
			source = p.Spec.Source.Path
		case p.Spec.Source.Program != "":
			source = "built-in " + p.Spec.Source.Program
		}
		if p.Status.PID != 0 {
			pid = fmt.Sprint(p.Status.PID)
		}
		if c := p.Status.Candidate; c != nil {
			swap = string(c.Phase) + " " + c.Revision
		} else if meta.IsStatusConditionTrue(p.Status.Conditions, "RolledBack") {
			swap = "RolledBack"
		}
		return []any{
			p.Name, p.Spec.Kind, string(p.Status.Phase), p.Status.Version, p.Status.Revision, int64(p.Status.Restarts), resource.Age(p),
			source, swap, pid, p.Status.LastError,
		}
	},
	Subresources: func(env *resource.Env, s *resource.Store) map[string]rest.Storage {
		return map[string]rest.Storage{
			"log": &logREST{env, s}, "restart": newRestart(env, s), "swap": newSwap(env, s), "comparison": &comparisonREST{env, s},
		}
	},
}
