package review

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	serializer "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/webhook"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/generic"
	"k8s.io/apiserver/pkg/authentication/user"
	webhookutil "k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/client-go/informers"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"

	admissionv1 "keelson.dev/keelson/proto/admission/v1"
	"keelson.dev/keelson/proto/api/v1alpha1"
)

// The names of the two admission plugins that ask.
const (
	MutatingPluginName   = "MutatingAdmissionPlugin"
	ValidatingPluginName = "ValidatingAdmissionPlugin"
)

// dispatcher is an admission plugin that asks hooks of one phase. What matches them is
// decided by the library's webhooks.
type dispatcher struct {
	*generic.Webhook
	set      *Set
	mutating bool
}

// mutator and validator are the two phases.
type (
	mutator   struct{ *dispatcher }
	validator struct{ *dispatcher }
)

var (
	_ admission.MutationInterface   = mutator{}
	_ admission.ValidationInterface = validator{}
	_ generic.Dispatcher            = (*dispatcher)(nil)
)

// NewAdmission makes the admission plugin of a phase. It wants a client, informers and an
// authorizer by an initializer, as the one that calls webhooks does.
func (s *Set) NewAdmission(mutating bool) (admission.Interface, error) {
	d := &dispatcher{set: s, mutating: mutating}
	handler := admission.NewHandler(admission.Connect, admission.Create, admission.Delete, admission.Update)
	var err error
	d.Webhook, err = generic.NewWebhook(handler, nil,
		func(informers.SharedInformerFactory, sets.Set[schema.GroupResource]) generic.Source {
			return d.source()
		},
		func(*webhookutil.ClientManager) generic.Dispatcher { return d })
	if err != nil {
		return nil, err
	}
	if mutating {
		return mutator{d}, nil
	}
	return validator{d}, nil
}

// source is the hooks in force.
func (d *dispatcher) source() generic.Source { return source{d} }

type source struct{ d *dispatcher }

// Webhooks implements generic.Source.
func (s source) Webhooks() []webhook.WebhookAccessor {
	list := s.d.set.validating.Load()
	if s.d.mutating {
		list = s.d.set.mutating.Load()
	}
	if list == nil {
		return nil
	}
	return *list
}

// HasSynced implements generic.Source.
func (source) HasSynced() bool { return true }

// Admit implements admission.MutationInterface.
func (m mutator) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if exempt(a) || a.GetReinvocationContext().IsReinvoke() || m.set.mutating.Load() == nil {
		return nil
	}
	return m.Webhook.Dispatch(ctx, a, o)
}

// Validate implements admission.ValidationInterface.
func (v validator) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if exempt(a) || v.set.validating.Load() == nil {
		return nil
	}
	return v.Webhook.Dispatch(ctx, a, o)
}

// exempt says what no plugin is asked about: the kernel's own requests, and the objects by
// which plugins are disabled.
func exempt(a admission.Attributes) bool {
	return a.GetResource().Group == v1alpha1.SchemeGroupVersion.Group || a.GetUserInfo() != nil && a.GetUserInfo().GetName() == user.APIServerUser
}

// Dispatch implements generic.Dispatcher.
func (d *dispatcher) Dispatch(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces, list []webhook.WebhookAccessor) error {
	hooks := *d.set.hooks.Load()
	if d.mutating {
		return d.mutate(ctx, a, o, list, hooks)
	}
	return d.validate(ctx, a, o, list, hooks)
}

// own says whether a request is made by the plugin that would be asked.
func (h *hook) own(a admission.Attributes) bool {
	return a.GetUserInfo() != nil && a.GetUserInfo().GetName() == "system:plugin:"+h.plugin.name
}

// converted has the objects of a request in the versions asked for.
type converted struct {
	a    admission.Attributes
	o    admission.ObjectInterfaces
	made map[schema.GroupVersionKind]*admission.VersionedAttributes
}

// VersionedAttribute implements generic.VersionedAttributeAccessor.
func (c *converted) VersionedAttribute(gvk schema.GroupVersionKind) (*admission.VersionedAttributes, error) {
	if v := c.made[gvk]; v != nil {
		return v, nil
	}
	v, err := admission.NewVersionedAttributes(c.a, gvk, c.o)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	c.made[gvk] = v
	return v, nil
}

func newConverted(a admission.Attributes, o admission.ObjectInterfaces) *converted {
	return &converted{a: a, o: o, made: map[schema.GroupVersionKind]*admission.VersionedAttributes{}}
}

// mutate asks one hook after the other; each gets what those before it made.
func (d *dispatcher) mutate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces, list []webhook.WebhookAccessor, hooks map[string]*hook) error {
	for _, accessor := range list {
		h := hooks[accessor.GetUID()]
		if h == nil || h.own(a) {
			continue
		}
		versions := newConverted(a, o) // anew: the object may have changed
		at, refused := d.ShouldCallHook(ctx, accessor, a, o, versions)
		if refused != nil {
			return refused
		}
		if at == nil {
			continue
		}
		v, err := versions.VersionedAttribute(at.Kind)
		if err != nil {
			return err
		}
		patch, err := h.ask(ctx, v, at)
		if err != nil {
			return err
		}
		changed, err := h.change(v, o, patch)
		if err != nil {
			if err = h.failed(v, err); err != nil {
				return err
			}
			continue
		}
		h.annotate(a, "mutation.admission.keelson.dev/"+h.plugin.name+"."+h.name, fmt.Sprintf(`{"plugin":%q,"hook":%q,"mutated":%t}`, h.plugin.name, h.name, changed))
		if changed {
			if err := o.GetObjectConvertor().Convert(v.VersionedObject.Object(), a.GetObject(), nil); err != nil {
				return apierrors.NewInternalError(err)
			}
			a.GetReinvocationContext().SetShouldReinvoke()
		}
	}
	return nil
}

// validate asks all hooks at once. The first refusal, in their order, is the answer.
func (d *dispatcher) validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces, list []webhook.WebhookAccessor, hooks map[string]*hook) error {
	versions := newConverted(a, o)
	var wg sync.WaitGroup
	var results []*error
	for _, accessor := range list {
		h := hooks[accessor.GetUID()]
		if h == nil || h.own(a) {
			continue
		}
		at, refused := d.ShouldCallHook(ctx, accessor, a, o, versions)
		if refused != nil {
			wg.Wait()
			return refused
		}
		if at == nil {
			continue
		}
		v, err := versions.VersionedAttribute(at.Kind)
		if err != nil {
			wg.Wait()
			return err
		}
		result := new(error)
		results = append(results, result)
		wg.Go(func() { _, *result = h.ask(ctx, v, at) })
	}
	wg.Wait()
	for _, result := range results {
		if *result != nil {
			return *result
		}
	}
	return nil
}

// ask asks a hook. An error is the answer to the client; nil lets the request go on, with
// the patch, if there is one.
func (h *hook) ask(ctx context.Context, v *admission.VersionedAttributes, at *generic.WebhookInvocation) ([]byte, error) {
	if v.IsDryRun() && h.effects == admissionv1.SideEffects_SIDE_EFFECTS_SOME {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("admission plugin %q does not support dry run: its hook %q has side effects", h.plugin.name, h.name))
	}
	request, err := newRequest(h, v, at)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("ask admission plugin %q: %w", h.plugin.name, err))
	}
	begin := time.Now()
	decided := h.offer(request)
	var answer *admissionv1.ReviewResponse
	err = h.plugin.call(ctx, h.timeout, func(ctx context.Context) (err error) {
		answer, err = admissionv1.NewAdmissionServiceClient(h.plugin.conn).Review(ctx, request)
		return err
	})
	if err == nil && !h.mutating && len(answer.GetPatch()) > 0 {
		err = fmt.Errorf("a validating hook answered with a patch")
	}
	decided(answer, err)
	if err != nil {
		h.plugin.observe(begin, outcomeFailed)
		return nil, h.failed(v, err)
	}
	for _, w := range answer.GetWarnings() {
		warning.AddWarning(ctx, "", w)
	}
	for key, value := range answer.GetAuditAnnotations() {
		h.annotate(v.Attributes, h.plugin.name+".plugins.keelson.dev/"+key, value)
	}
	if !answer.GetAllowed() {
		h.plugin.observe(begin, outcomeDenied)
		return nil, h.refusal(answer.GetStatus())
	}
	h.plugin.observe(begin, outcomeAllowed)
	return answer.GetPatch(), nil
}

// failed is what becomes of a request that the hook has not decided on.
func (h *hook) failed(v *admission.VersionedAttributes, err error) error {
	if h.ignore {
		h.plugin.set.log.Warn("Admission plugin has not decided: the request passes, as its hook wants", "plugin", h.plugin.name, "hook", h.name, "err", err)
		h.annotate(v.Attributes, "failed-open.admission.keelson.dev/"+h.plugin.name+"."+h.name, err.Error())
		return nil
	}
	return apierrors.NewInternalError(fmt.Errorf("failed calling hook %q of admission plugin %q: %w", h.name, h.plugin.name, err))
}

func (h *hook) annotate(a admission.Attributes, key, value string) {
	if err := a.AddAnnotation(key, value); err != nil {
		h.plugin.set.log.Warn("Audit annotation of an admission plugin left out", "plugin", h.plugin.name, "hook", h.name, "key", key, "err", err)
	}
}

// refusal is the answer to the client of a plugin that said no.
func (h *hook) refusal(st *admissionv1.Status) error {
	code := st.GetCode()
	if code < http.StatusBadRequest || code > 599 {
		code = http.StatusForbidden
	}
	reason := metav1.StatusReason(st.GetReason())
	if reason == "" {
		reason = reasons[code]
	}
	message := fmt.Sprintf("admission plugin %q denied the request", h.plugin.name)
	if st.GetMessage() != "" {
		message += ": " + st.GetMessage()
	} else {
		message += " without explanation"
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message}}
}

// reasons are those that follow from a status code.
var reasons = map[int32]metav1.StatusReason{
	http.StatusBadRequest: metav1.StatusReasonBadRequest, http.StatusUnauthorized: metav1.StatusReasonUnauthorized,
	http.StatusForbidden: metav1.StatusReasonForbidden, http.StatusNotFound: metav1.StatusReasonNotFound,
	http.StatusConflict: metav1.StatusReasonConflict, http.StatusUnprocessableEntity: metav1.StatusReasonInvalid,
	http.StatusTooManyRequests: metav1.StatusReasonTooManyRequests, http.StatusInternalServerError: metav1.StatusReasonInternalError,
	http.StatusServiceUnavailable: metav1.StatusReasonServiceUnavailable,
}

// change applies a patch to the object.
func (h *hook) change(v *admission.VersionedAttributes, o admission.ObjectInterfaces, raw []byte) (changed bool, err error) {
	if len(raw) == 0 {
		return false, nil
	}
	patch, err := jsonpatch.DecodePatch(raw)
	if err != nil {
		return false, fmt.Errorf("its patch is no JSON patch: %w", err)
	}
	before := v.VersionedObject.Object()
	if len(patch) == 0 {
		return false, nil
	}
	if before == nil {
		return false, fmt.Errorf("it patches an object where there is none (%s)", v.GetOperation())
	}
	data, err := json.Marshal(before)
	if err == nil {
		data, err = patch.Apply(data)
	}
	if err != nil {
		return false, fmt.Errorf("its patch cannot be applied: %w", err)
	}
	var after runtime.Object = &unstructured.Unstructured{}
	if _, custom := before.(*unstructured.Unstructured); !custom {
		if after, err = o.GetObjectCreater().New(v.VersionedKind); err != nil {
			return false, err
		}
	}
	decoder := serializer.NewSerializerWithOptions(serializer.DefaultMetaFactory, o.GetObjectCreater(), o.GetObjectTyper(), serializer.SerializerOptions{})
	if after, _, err = decoder.Decode(data, nil, after); err != nil {
		return false, fmt.Errorf("what its patch makes is no %s: %w", v.VersionedKind.Kind, err)
	}
	o.GetObjectDefaulter().Default(after)
	if apiequality.Semantic.DeepEqual(before, after) {
		return false, nil
	}
	v.UpdateObject(after)
	return true, nil
}
