package clients

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/conversion"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

// The kind of the operator, as kubebuilder would have it: v1 is stored, v1beta1 counts
// boats in pairs.

type fleetSpec struct {
	Boats *int32 `json:"boats,omitempty"`
	Image string `json:"image"`
	Motto string `json:"motto,omitempty"`
}

type fleetStatus struct {
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Fleet is the kind in v1.
type Fleet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitzero"`
	Spec              fleetSpec   `json:"spec"`
	Status            fleetStatus `json:"status,omitzero"`
}

// FleetList is a list of them.
type FleetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []Fleet `json:"items"`
}

var _ conversion.Hub = (*Fleet)(nil)

// Hub implements conversion.Hub.
func (*Fleet) Hub() {}

// DeepCopyObject implements runtime.Object.
func (f *Fleet) DeepCopyObject() runtime.Object {
	out := &Fleet{TypeMeta: f.TypeMeta, ObjectMeta: *f.ObjectMeta.DeepCopy(), Spec: f.Spec}
	if f.Spec.Boats != nil {
		n := *f.Spec.Boats
		out.Spec.Boats = &n
	}
	for i := range f.Status.Conditions {
		out.Status.Conditions = append(out.Status.Conditions, *f.Status.Conditions[i].DeepCopy())
	}
	return out
}

// DeepCopyObject implements runtime.Object.
func (l *FleetList) DeepCopyObject() runtime.Object {
	out := &FleetList{TypeMeta: l.TypeMeta, ListMeta: *l.ListMeta.DeepCopy()}
	for i := range l.Items {
		out.Items = append(out.Items, *l.Items[i].DeepCopyObject().(*Fleet))
	}
	return out
}

// oldFleet is the kind in v1beta1.
type oldFleet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitzero"`
	Spec              struct {
		Pairs int32  `json:"pairs,omitempty"`
		Image string `json:"image,omitempty"`
		Motto string `json:"motto,omitempty"`
	} `json:"spec"`
	Status fleetStatus `json:"status,omitzero"`
}

var _ conversion.Convertible = (*oldFleet)(nil)

// DeepCopyObject implements runtime.Object.
func (f *oldFleet) DeepCopyObject() runtime.Object {
	out := *f
	out.ObjectMeta = *f.ObjectMeta.DeepCopy()
	return &out
}

// ConvertTo implements conversion.Convertible.
func (f *oldFleet) ConvertTo(hub conversion.Hub) error {
	out := hub.(*Fleet)
	out.ObjectMeta, out.Status = *f.ObjectMeta.DeepCopy(), f.Status
	boats := 2 * f.Spec.Pairs
	out.Spec = fleetSpec{Boats: &boats, Image: f.Spec.Image, Motto: f.Spec.Motto}
	return nil
}

// ConvertFrom implements conversion.Convertible.
func (f *oldFleet) ConvertFrom(hub conversion.Hub) error {
	in := hub.(*Fleet)
	f.ObjectMeta, f.Status = *in.ObjectMeta.DeepCopy(), in.Status
	if in.Spec.Boats != nil {
		f.Spec.Pairs = *in.Spec.Boats / 2
	}
	f.Spec.Image, f.Spec.Motto = in.Spec.Image, in.Spec.Motto
	return nil
}

func fleetScheme(s *runtime.Scheme) {
	v1 := schema.GroupVersion{Group: "op.example.org", Version: "v1"}
	s.AddKnownTypes(v1, &Fleet{}, &FleetList{})
	metav1.AddToGroupVersion(s, v1)
	old := schema.GroupVersion{Group: "op.example.org", Version: "v1beta1"}
	s.AddKnownTypeWithName(old.WithKind("Fleet"), &oldFleet{})
	metav1.AddToGroupVersion(s, old)
}

// fleetWebhooks defaults and validates fleets.
type fleetWebhooks struct{}

var (
	_ admission.Defaulter[*Fleet] = fleetWebhooks{}
	_ admission.Validator[*Fleet] = fleetWebhooks{}
)

func (fleetWebhooks) Default(_ context.Context, f *Fleet) error {
	if f.Spec.Motto == "" {
		f.Spec.Motto = "ahoy"
	}
	return nil
}

func (fleetWebhooks) ValidateCreate(_ context.Context, f *Fleet) (admission.Warnings, error) {
	if f.Spec.Image == "bad" {
		return nil, fmt.Errorf("image %q is bad", f.Spec.Image)
	}
	return admission.Warnings{"mind the tide"}, nil
}

func (w fleetWebhooks) ValidateUpdate(ctx context.Context, _, f *Fleet) (admission.Warnings, error) {
	return w.ValidateCreate(ctx, f)
}

func (fleetWebhooks) ValidateDelete(_ context.Context, f *Fleet) (admission.Warnings, error) {
	if f.Annotations["keep"] != "" {
		return nil, fmt.Errorf("%s is to be kept", f.Name)
	}
	return nil, nil
}
