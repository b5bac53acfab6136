package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/endpoints/handlers/fieldmanager"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/utils/lru"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"keelson.dev/keelson/core/apiserver/internal/ownedfields"
)

// fastWrites wraps a resource's storage so that managed fields of new objects
// and mutating admission are done between the handler and the storage, in the
// handler's order. What that saves is decoding the managed fields again after
// admission that did not touch them.
type fastWrites struct {
	scope        *handlers.RequestScope // of admission and managed fields: whole
	handlerScope *handlers.RequestScope // of the handler
	admit        admission.Interface
	fields       *ownedfields.Converter
	reset        []string // top-level fields that a creation resets; nil if that cannot be said so

	// Of patches alone.
	typer  *ownedfields.Converter
	parts  *objectParts // nil if the handler has to do them
	resets map[fieldpath.APIVersion]fieldpath.Filter
	same   *lru.Cache // of sameApply: applies that changed nothing
	counts *patchCounts
}

// fastWrite is one request.
type fastWrite struct {
	*fastWrites
	admit     admission.Interface
	userAgent string
}

func (f *fastWrites) begin(r *http.Request) *fastWrite {
	return &fastWrite{fastWrites: f, admit: admission.WithAudit(f.admit), userAgent: r.UserAgent()}
}

func (f *fastWrites) create(to rest.Creater) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		handlers.CreateResource(&fastCreater{Creater: to, w: f.begin(r)}, f.handlerScope, skipAdmission{})(w, r)
	}
}

func (f *fastWrites) update(to rest.Updater) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		one := f.begin(r)
		handlers.UpdateResource(&fastUpdater{Updater: to, w: one, put: &fastPut{one}}, f.handlerScope, skipAdmission{})(w, r)
	}
}

func (f *fastWrites) patch(to rest.Patcher, types []string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		u := &fastUpdater{Updater: to, w: f.begin(r)}
		u.patch = u.w.takePatch(r)
		handlers.PatchResource(&fastPatcher{fastUpdater: u, Getter: to}, f.handlerScope, skipAdmission{}, types)(w, r)
	}
}

// fastCreater creates with managed fields and admission.
type fastCreater struct {
	rest.Creater
	w     *fastWrite
	attrs admission.Attributes // made by the first try
}

// Create implements rest.Creater.
func (c *fastCreater) Create(ctx context.Context, obj runtime.Object, _ rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	growStack(false) // the handler calls from a goroutine of its own
	w := c.w
	if c.attrs == nil { // the handler may try again, with managed fields taken out
		name := ""
		if m, err := meta.Accessor(obj); err == nil {
			name = m.GetName()
		}
		user, _ := request.UserFrom(ctx)
		c.attrs = admission.NewAttributesRecord(obj, nil, w.scope.Kind, request.NamespaceValue(ctx), name, w.scope.Resource, w.scope.Subresource,
			admission.Create, options, dryrun.IsDryRun(options.DryRun), user)
		if err := w.own(obj, options.FieldManager); err != nil {
			return nil, err
		}
		if err := w.mutate(ctx, c.attrs); err != nil {
			return nil, err
		}
	}
	return c.Creater.Create(ctx, obj, rest.AdmissionToValidateObjectFunc(w.admit, c.attrs, w.scope), options)
}

// own notes who set the fields of a new object: directly if that is certain to be
// what the field manager would write, else by it.
func (w *fastWrite) own(obj runtime.Object, manager string) error {
	if manager == "" {
		manager = managerOf(w.userAgent)
	}
	if w.ownDirectly(obj, manager) {
		return nil
	}
	live, err := w.scope.Creater.New(w.scope.Kind)
	if err != nil {
		return fmt.Errorf("make an empty %s: %w", w.scope.Kind, err)
	}
	w.scope.FieldManager.UpdateNoErrors(live, obj, manager) // it changes the object it is given
	return nil
}

func (w *fastWrite) ownDirectly(obj runtime.Object, manager string) bool {
	m, ok := obj.(metav1.Object)
	if !ok || w.reset == nil || manager == "" || !utf8.ValidString(manager) || len(m.GetManagedFields()) > 0 {
		return false
	}
	// The object's own kind may be the internal one, and clients may have set any.
	kind := obj.GetObjectKind()
	was := kind.GroupVersionKind()
	kind.SetGroupVersionKind(w.scope.Kind)
	fields, ok := w.fields.Created(obj, w.reset)
	kind.SetGroupVersionKind(was)
	if !ok {
		return false
	}
	if string(fields) == "{}" {
		m.SetManagedFields(nil)
		return true
	}
	w.setOwner(m, manager, metav1.ManagedFieldsOperationUpdate, fields)
	return true
}

// fastUpdater updates with admission.
type fastUpdater struct {
	rest.Updater
	w     *fastWrite
	patch *fastPatch // nil if the handler has to make the new object
	put   *fastPut   // not nil if the client sends the new object
}

// fastPatcher is a fastUpdater that reads as well.
type fastPatcher struct {
	*fastUpdater
	rest.Getter
}

// Update implements rest.Updater.
func (u *fastUpdater) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc,
	_ rest.ValidateObjectUpdateFunc, forceCreate bool, options *metav1.UpdateOptions,
) (runtime.Object, bool, error) {
	growStack(false) // the handler calls from a goroutine of its own
	w, patch, put := u.w, u.patch, u.put
	u.patch, u.put = nil, nil // the handler tries a second time with managed fields taken out, if the object is too large
	user, _ := request.UserFrom(ctx)
	namespace, dry := request.NamespaceValue(ctx), dryrun.IsDryRun(options.DryRun)
	attrs := func(obj, old runtime.Object, op admission.Operation) admission.Attributes {
		var o runtime.Object = options
		if op == admission.Create {
			o = createOptions(options)
		}
		return admission.NewAttributesRecord(obj, old, w.scope.Kind, namespace, name, w.scope.Resource, w.scope.Subresource, op, o, dry, user)
	}
	validateCreate := rest.AdmissionToValidateObjectFunc(w.admit, attrs(nil, nil, admission.Create), w.scope)
	return u.Updater.Update(ctx, name, &fastUpdated{UpdatedObjectInfo: info, w: w, patch: patch, put: put, name: name, options: options, attrs: attrs},
		func(ctx context.Context, obj runtime.Object) error {
			if createValidation != nil { // the handler's asks whether the user may create
				if err := createValidation(ctx, obj); err != nil {
					return err
				}
			}
			return validateCreate(ctx, obj)
		},
		rest.AdmissionToValidateObjectUpdateFunc(w.admit, attrs(nil, nil, admission.Update), w.scope), forceCreate, options)
}

// fastUpdated is the handler's new object, admitted.
type fastUpdated struct {
	rest.UpdatedObjectInfo
	w       *fastWrite
	patch   *fastPatch
	put     *fastPut
	name    string
	options *metav1.UpdateOptions
	attrs   func(obj, old runtime.Object, op admission.Operation) admission.Attributes
}

// UpdatedObject implements rest.UpdatedObjectInfo.
func (u *fastUpdated) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	obj, err := u.make(ctx, old)
	if err != nil {
		return nil, err
	}
	m, err := meta.Accessor(old)
	if err != nil {
		return nil, fmt.Errorf("read the metadata of the object to update: %w", err)
	}
	attrs := u.attrs(obj, old, admission.Update)
	if m.GetUID() == "" {
		attrs = u.attrs(obj, nil, admission.Create)
	}
	return obj, u.w.mutate(ctx, attrs)
}

// make makes the new object, before admission.
func (u *fastUpdated) make(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	if u.patch != nil {
		if obj, ok := u.patch.patched(ctx, u.name, old, u.options); ok {
			return obj, nil
		}
	}
	if u.put != nil {
		return u.put.replaced(ctx, old, u.UpdatedObjectInfo, u.options.FieldManager)
	}
	return u.UpdatedObjectInfo.UpdatedObject(ctx, old)
}

// mutate calls mutating admission, and takes back what it did to managed fields
// if they are not readable after it.
func (w *fastWrite) mutate(ctx context.Context, attrs admission.Attributes) error {
	mutating, ok := w.admit.(admission.MutationInterface)
	if !ok || !mutating.Handles(attrs.GetOperation()) {
		return nil
	}
	m, err := meta.Accessor(attrs.GetObject())
	if err != nil {
		return mutating.Admit(ctx, attrs, w.scope)
	}
	before, owners := m.GetManagedFields(), len(m.GetOwnerReferences())
	fields := slices.Clone(before)
	if err := mutating.Admit(ctx, attrs, w.scope); err != nil {
		return err
	}
	if after := m.GetManagedFields(); !sameEntries(fields, after) {
		if err := managedfields.ValidateManagedFields(after); err != nil {
			m.SetManagedFields(before)
			warning.AddWarning(ctx, "", fmt.Sprintf(fieldmanager.InvalidManagedFieldsAfterMutatingAdmissionWarningFormat, err.Error()))
		}
	}
	if owners > 0 || len(m.GetOwnerReferences()) > 0 {
		dropDoubleOwners(ctx, m)
	}
	return nil
}

// sameEntries tells whether managed fields are the same ones, not only equal.
func sameEntries(a, b []metav1.ManagedFieldsEntry) bool {
	return slices.EqualFunc(a, b, func(x, y metav1.ManagedFieldsEntry) bool {
		return x.Manager == y.Manager && x.Operation == y.Operation && x.APIVersion == y.APIVersion && x.FieldsType == y.FieldsType &&
			x.Subresource == y.Subresource && x.FieldsV1 == y.FieldsV1
	})
}

// dropDoubleOwners removes owner references that admission has doubled.
func dropDoubleOwners(ctx context.Context, m metav1.Object) {
	var kept []metav1.OwnerReference
	var double []string
	seen := map[types.UID]bool{} // those of different owners need no comparison: thousands of them would take seconds
	for _, ref := range m.GetOwnerReferences() {
		if seen[ref.UID] && slices.ContainsFunc(kept, func(o metav1.OwnerReference) bool { return apiequality.Semantic.DeepEqual(o, ref) }) {
			double = append(double, string(ref.UID))
			continue
		}
		seen[ref.UID] = true
		kept = append(kept, ref)
	}
	if len(double) > 0 {
		warning.AddWarning(ctx, "", fmt.Sprintf(handlers.DuplicateOwnerReferencesAfterMutatingAdmissionWarningFormat, strings.Join(double, ", ")))
		m.SetOwnerReferences(kept)
	}
}

// managerOf is the field manager of a client that names none: the product of its
// user agent, printable and as long as names of managers may be.
func managerOf(userAgent string) string {
	product, _, _ := strings.Cut(userAgent, "/")
	var b strings.Builder
	for _, r := range product {
		if !unicode.IsPrint(r) {
			continue
		}
		if b.Len()+utf8.RuneLen(r) > validation.FieldManagerMaxLength {
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}

// createOptions are the options of an update that creates.
func createOptions(o *metav1.UpdateOptions) *metav1.CreateOptions {
	c := &metav1.CreateOptions{DryRun: o.DryRun, FieldManager: o.FieldManager, FieldValidation: o.FieldValidation}
	c.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("CreateOptions"))
	return c
}
