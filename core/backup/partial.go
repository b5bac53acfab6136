package backup

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"keelson.dev/keelson/core/store"
)

// Partial writes some objects of an archive through the API of a running server.
type Partial struct {
	Client dynamic.Interface
	Mapper meta.RESTMapper
	// Decoder reads Kubernetes' own kinds.
	Decoder runtime.Decoder
	// Namespace, or Object as KIND/NAMESPACE/NAME or KIND/NAME, says which.
	Namespace, Object string
	// DryRun has the server check all and write nothing.
	DryRun bool
	// KeepExisting leaves objects that exist as they are.
	KeepExisting bool
	// Report gets a line for each object.
	Report func(line string)

	failed int
	done   int
}

// Run writes the objects. One that is refused does not keep the others from being
// written; the error then tells how many were.
func (p *Partial) Run(ctx context.Context, a *Archive) error {
	want, err := p.selector()
	if err != nil {
		return err
	}
	var later []*unstructured.Unstructured // those that are in the namespace, once it is there
	err = a.Each(ctx, func(*File) error { return nil }, func(o *store.Object) error {
		plain, err := a.Keys.Plain(ctx, o.Value)
		if err != nil {
			if p.Namespace != "" && InNamespace(o, p.Namespace) {
				p.fail(o.Key, err)
			}
			return nil
		}
		o.Value = plain
		m, ok := Metadata(o)
		if !ok {
			return nil
		}
		if !want(&m, o) {
			return nil
		}
		u, err := p.decode(o)
		if err != nil {
			p.fail(o.Key, err)
			return nil
		}
		if u.GetKind() == "Namespace" {
			p.restore(ctx, u)
			return ctx.Err()
		}
		later = append(later, u)
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(later, func(a, b *unstructured.Unstructured) int { return order(a) - order(b) })
	for _, u := range later {
		if p.restore(ctx, u); ctx.Err() != nil {
			return ctx.Err()
		}
	}
	switch {
	case p.failed > 0:
		return fmt.Errorf("%d objects were not restored, %d were", p.failed, p.done)
	case p.done == 0 && p.Object != "":
		return fmt.Errorf("--object %s: %s has no such object, or it needs no restoring", p.Object, a.Path)
	}
	return nil
}

// order has what others refer to first, and what begins to work last.
func order(u *unstructured.Unstructured) int {
	switch u.GetKind() {
	case "ServiceAccount", "Secret", "ConfigMap", "Role", "LimitRange", "ResourceQuota", "PersistentVolumeClaim":
		return 0
	case "Pod", "Job":
		return 2
	}
	return 1
}

// selector tells which objects are meant.
func (p *Partial) selector() (func(*metav1.PartialObjectMetadata, *store.Object) bool, error) {
	if p.Object == "" {
		return func(m *metav1.PartialObjectMetadata, o *store.Object) bool {
			return InNamespace(o, p.Namespace) && !remade(m)
		}, nil
	}
	parts := strings.Split(p.Object, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return nil, fmt.Errorf("--object %q: must be KIND/NAMESPACE/NAME, or KIND/NAME for what has no namespace", p.Object)
	}
	namespace, name := "", parts[len(parts)-1]
	if len(parts) == 3 {
		namespace = parts[1]
	}
	if p.Namespace != "" && len(parts) == 2 {
		namespace = p.Namespace
	}
	kind := parts[0]
	if full, err := p.Mapper.KindFor(schema.ParseGroupResource(strings.ToLower(kind)).WithVersion("")); err == nil { // also short and plural names
		kind = full.Kind
	}
	return func(m *metav1.PartialObjectMetadata, _ *store.Object) bool {
		return strings.EqualFold(m.Kind, kind) && m.Namespace == namespace && m.Name == name
	}, nil
}

// remade tells what the cluster makes by itself: the restore of a namespace leaves it out.
func remade(m *metav1.PartialObjectMetadata) bool {
	if metav1.GetControllerOf(m) != nil {
		return true // by its controller, which is restored
	}
	switch m.Kind {
	case "Event", "Endpoints", "EndpointSlice", "Lease", "IPAddress":
		return true
	case "ConfigMap":
		return m.Name == "kube-root-ca.crt"
	case "Secret":
		return m.Annotations["kubernetes.io/service-account.uid"] != ""
	}
	return false
}

func (p *Partial) decode(o *store.Object) (*unstructured.Unstructured, error) {
	obj, kind, err := p.Decoder.Decode(o.Value, nil, nil)
	if runtime.IsNotRegisteredError(err) {
		u := &unstructured.Unstructured{}
		return u, u.UnmarshalJSON(o.Value)
	}
	if err != nil {
		return nil, err
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return nil, err
	}
	u := &unstructured.Unstructured{Object: content}
	u.SetGroupVersionKind(*kind)
	return u, nil
}

// restore writes one object.
func (p *Partial) restore(ctx context.Context, u *unstructured.Unstructured) {
	name := strings.ToLower(u.GetKind()) + "/" + u.GetName()
	if u.GetNamespace() != "" {
		name = strings.ToLower(u.GetKind()) + "/" + u.GetNamespace() + "/" + u.GetName()
	}
	what, err := p.write(ctx, u)
	if err != nil {
		p.fail(name, err)
		return
	}
	p.done++
	if p.DryRun {
		what += " (dry run)"
	}
	p.Report(name + " " + what)
}

func (p *Partial) fail(name string, err error) {
	p.failed++
	p.Report(name + ": not restored: " + err.Error())
}

func (p *Partial) write(ctx context.Context, u *unstructured.Unstructured) (string, error) {
	mapping, err := p.Mapper.RESTMapping(u.GroupVersionKind().GroupKind(), u.GroupVersionKind().Version)
	if err != nil {
		return "", err
	}
	var client dynamic.ResourceInterface = p.Client.Resource(mapping.Resource)
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		client = p.Client.Resource(mapping.Resource).Namespace(u.GetNamespace())
	}
	var dry []string
	if p.DryRun {
		dry = []string{metav1.DryRunAll}
	}
	scrub(u)
	live, err := client.Get(ctx, u.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = client.Create(ctx, u, metav1.CreateOptions{DryRun: dry})
		if p.DryRun && apierrors.IsNotFound(err) { // its namespace would be made before it
			err = nil
		}
		return "created", err
	}
	if err != nil {
		return "", err
	}
	if p.KeepExisting {
		return "kept as it is", nil
	}
	adopt(u, live)
	_, err = client.Update(ctx, u, metav1.UpdateOptions{DryRun: dry})
	return "replaced", err
}

// scrub takes out what belongs to the object that is gone.
func scrub(u *unstructured.Unstructured) {
	for _, field := range []string{"uid", "resourceVersion", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "ownerReferences"} {
		unstructured.RemoveNestedField(u.Object, "metadata", field)
	}
	switch u.GetKind() {
	case "Pod":
		unstructured.RemoveNestedField(u.Object, "spec", "nodeName") // it is scheduled anew
	case "Job":
		// The API gives a job labels with its uid; a new one gets new ones.
		if manual, _, _ := unstructured.NestedBool(u.Object, "spec", "manualSelector"); !manual {
			unstructured.RemoveNestedField(u.Object, "spec", "selector")
			for _, label := range []string{"controller-uid", "batch.kubernetes.io/controller-uid"} {
				unstructured.RemoveNestedField(u.Object, "metadata", "labels", label)
				unstructured.RemoveNestedField(u.Object, "spec", "template", "metadata", "labels", label)
			}
		}
	}
}

// adopt makes u an update of the object that is there.
func adopt(u, live *unstructured.Unstructured) {
	u.SetResourceVersion(live.GetResourceVersion())
	u.SetUID(live.GetUID())
	u.SetOwnerReferences(live.GetOwnerReferences())
	if u.GetKind() == "Service" { // addresses and ports that it has got are its own
		for _, field := range []string{"clusterIP", "clusterIPs"} {
			if v, ok, _ := unstructured.NestedFieldCopy(live.Object, "spec", field); ok {
				_ = unstructured.SetNestedField(u.Object, v, "spec", field)
			}
		}
	}
}
