package core

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metainternal "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"

	"keelson.dev/keelson/core/registry/resource"
	keelsonv1alpha1 "keelson.dev/keelson/proto/api/v1alpha1"
)

// componentStatuses serves, under the names that old scripts look for, what is
// known of the store and of the plugins that do upstream's components' work.
var componentStatuses resource.Kind = componentKind{}

// components are the names and the plugins behind them; the store has none.
var components = []struct{ name, plugin string }{{"scheduler", "scheduler"}, {"controller-manager", "controllers"}, {"etcd-0", ""}}

type componentKind struct{}

func (componentKind) AddToScheme(*runtime.Scheme) error { return nil }

func (componentKind) Version() schema.GroupVersion { return version }

func (componentKind) Storage(env *resource.Env) (map[string]rest.Storage, error) {
	return map[string]rest.Storage{"componentstatuses": &componentREST{env}}, nil
}

type componentREST struct{ env *resource.Env }

var (
	_ rest.Lister               = (*componentREST)(nil)
	_ rest.Getter               = (*componentREST)(nil)
	_ rest.Scoper               = (*componentREST)(nil)
	_ rest.ShortNamesProvider   = (*componentREST)(nil)
	_ rest.SingularNameProvider = (*componentREST)(nil)
)

func (*componentREST) New() runtime.Object     { return &corev1.ComponentStatus{} }
func (*componentREST) NewList() runtime.Object { return &corev1.ComponentStatusList{} }
func (*componentREST) Destroy()                {}
func (*componentREST) NamespaceScoped() bool   { return false }
func (*componentREST) GetSingularName() string { return "componentstatus" }
func (*componentREST) ShortNames() []string    { return []string{"cs"} }

// List implements rest.Lister.
func (r *componentREST) List(ctx context.Context, options *metainternal.ListOptions) (runtime.Object, error) {
	label, selected := labels.Everything(), fields.Everything()
	if options != nil && options.LabelSelector != nil {
		label = options.LabelSelector
	}
	if options != nil && options.FieldSelector != nil {
		selected = options.FieldSelector
	}
	list := &corev1.ComponentStatusList{Items: []corev1.ComponentStatus{}}
	for _, c := range components {
		if label.Matches(labels.Set{}) && selected.Matches(fields.Set{"metadata.name": c.name}) {
			list.Items = append(list.Items, *r.status(ctx, c.name, c.plugin))
		}
	}
	return list, nil
}

// Get implements rest.Getter.
func (r *componentREST) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	for _, c := range components {
		if c.name == name {
			return r.status(ctx, c.name, c.plugin), nil
		}
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "componentstatus"}, name)
}

func (r *componentREST) status(ctx context.Context, name, plugin string) *corev1.ComponentStatus {
	c := corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}
	if err := r.check(ctx, plugin); err != nil {
		c.Status, c.Message = corev1.ConditionFalse, err.Error()
	}
	return &corev1.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: name}, Conditions: []corev1.ComponentCondition{c}}
}

// check says what is wrong with the store, or with a plugin.
func (r *componentREST) check(ctx context.Context, plugin string) error {
	if plugin == "" {
		return r.env.Store("", "namespaces").Storage.Storage.ReadinessCheck()
	}
	obj, err := r.env.Store(keelsonv1alpha1.GroupName, "plugins").Get(clusterWide(ctx), plugin, &metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("plugin %s: %w", plugin, err)
	}
	p, ok := obj.(*keelsonv1alpha1.Plugin)
	if !ok {
		return fmt.Errorf("plugin %s: stored as %T", plugin, obj)
	}
	if ready := meta.FindStatusCondition(p.Status.Conditions, "Ready"); ready == nil || ready.Status != metav1.ConditionTrue {
		return fmt.Errorf("plugin %s is not ready: %s %s", plugin, p.Status.Phase, p.Status.LastError)
	}
	return nil
}

// ConvertToTable implements rest.TableConvertor.
func (r *componentREST) ConvertToTable(_ context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	table := &metav1.Table{ColumnDefinitions: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Status", "string", "Whether the component is healthy."),
		resource.Column("Message", "string", "What it says."),
		resource.Column("Error", "string", "What went wrong when it was asked."),
	}}
	if o, ok := options.(*metav1.TableOptions); ok && o.NoHeaders {
		table.ColumnDefinitions = nil
	}
	add := func(c *corev1.ComponentStatus) {
		text := "Unhealthy"
		if c.Conditions[0].Status == corev1.ConditionTrue {
			text = "Healthy"
		}
		table.Rows = append(table.Rows, metav1.TableRow{Cells: []any{c.Name, text, c.Conditions[0].Message, c.Conditions[0].Error},
			Object: runtime.RawExtension{Object: c}})
	}
	switch o := obj.(type) {
	case *corev1.ComponentStatus:
		add(o)
	case *corev1.ComponentStatusList:
		for i := range o.Items {
			add(&o.Items[i])
		}
	default:
		return nil, fmt.Errorf("print table of component statuses: %T is another kind", obj)
	}
	return table, nil
}
