package review

import (
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/generic"

	admissionv1 "keelson.dev/keelson/proto/admission/v1"
)

var operationNumbers = map[admission.Operation]admissionv1.Operation{
	admission.Create:  admissionv1.Operation_OPERATION_CREATE,
	admission.Update:  admissionv1.Operation_OPERATION_UPDATE,
	admission.Delete:  admissionv1.Operation_OPERATION_DELETE,
	admission.Connect: admissionv1.Operation_OPERATION_CONNECT,
}

// newRequest is a request to the API as a hook gets it.
func newRequest(h *hook, v *admission.VersionedAttributes, at *generic.WebhookInvocation) (*admissionv1.ReviewRequest, error) {
	a := v.Attributes
	r := &admissionv1.ReviewRequest{
		Hook: h.name, Uid: string(uuid.NewUUID()),
		Kind: kind(at.Kind), Resource: resource(at.Resource), SubResource: at.Subresource,
		RequestKind: kind(a.GetKind()), RequestResource: resource(a.GetResource()), RequestSubResource: a.GetSubresource(),
		Name: a.GetName(), Namespace: a.GetNamespace(), Operation: operationNumbers[a.GetOperation()], DryRun: a.IsDryRun(),
	}
	if u := a.GetUserInfo(); u != nil {
		r.User = &admissionv1.UserInfo{Username: u.GetName(), Uid: u.GetUID(), Groups: u.GetGroups(), Extra: map[string]*admissionv1.ExtraValue{}}
		for key, values := range u.GetExtra() {
			r.User.Extra[key] = &admissionv1.ExtraValue{Values: values}
		}
	}
	for _, part := range []struct {
		from runtime.Object
		to   *[]byte
	}{{v.VersionedObject.Object(), &r.Object}, {v.VersionedOldObject.Object(), &r.OldObject}, {a.GetOperationOptions(), &r.Options}} {
		if part.from == nil {
			continue
		}
		var err error
		if *part.to, err = json.Marshal(part.from); err != nil {
			return nil, fmt.Errorf("encode %s: %w", a.GetKind().Kind, err)
		}
	}
	return r, nil
}

func kind(k schema.GroupVersionKind) *admissionv1.GroupVersionKind {
	return &admissionv1.GroupVersionKind{Group: k.Group, Version: k.Version, Kind: k.Kind}
}

func resource(r schema.GroupVersionResource) *admissionv1.GroupVersionResource {
	return &admissionv1.GroupVersionResource{Group: r.Group, Version: r.Version, Resource: r.Resource}
}

// extraOf is a user's extra information in the form of the API.
func extraOf[T interface{ GetValues() []string }](in map[string]T) map[string][]string {
	if len(in) == 0 {
		return nil
	}
	out := map[string][]string{}
	for key, values := range in {
		out[key] = values.GetValues()
	}
	return out
}
