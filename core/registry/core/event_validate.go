package core

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"keelson.dev/keelson/core/registry/podspec"
)

// eventCreate judges events by the group that they are written through:
// events.k8s.io asks for all that is new in it, the core group for little.
type eventCreate struct{ rest.RESTCreateStrategy }

func (s eventCreate) Validate(ctx context.Context, obj runtime.Object) field.ErrorList {
	e, errs := obj.(*corev1.Event), s.RESTCreateStrategy.Validate(ctx, obj)
	if throughEventsGroup(ctx) {
		return append(errs, validateNewEvent(e)...)
	}
	return append(errs, validateOldEvent(e)...)
}

// eventUpdate is eventCreate for updates.
type eventUpdate struct{ rest.RESTUpdateStrategy }

func (s eventUpdate) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	e, errs := obj.(*corev1.Event), s.RESTUpdateStrategy.ValidateUpdate(ctx, obj, old)
	if throughEventsGroup(ctx) {
		return append(errs, validateNewEventUpdate(e, old.(*corev1.Event))...)
	}
	return append(errs, validateOldEvent(e)...)
}

func throughEventsGroup(ctx context.Context) bool {
	info, ok := genericapirequest.RequestInfoFrom(ctx)
	return ok && info.APIGroup == eventsv1.GroupName
}

// validateOldEvent checks an event of the core group. One without a time of its own may be almost anything.
func validateOldEvent(e *corev1.Event) field.ErrorList {
	var errs field.ErrorList
	involved := field.NewPath("involvedObject", "namespace")
	switch {
	case e.InvolvedObject.Namespace == "" && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem && e.Namespace != metav1.NamespaceNone:
		errs = append(errs, field.Invalid(involved, e.InvolvedObject.Namespace, "does not match event.namespace"))
	case e.InvolvedObject.Namespace != "" && e.Namespace != e.InvolvedObject.Namespace:
		errs = append(errs, field.Invalid(involved, e.InvolvedObject.Namespace, "does not match event.namespace"))
	}
	if e.EventTime.IsZero() {
		return errs
	}
	return append(errs, validateReport(e, field.NewPath("reportingComponent"))...)
}

// validateReport checks who has reported the event, and what.
func validateReport(e *corev1.Event, controller *field.Path) field.ErrorList {
	var errs field.ErrorList
	if e.ReportingController == "" {
		errs = append(errs, field.Required(controller, ""))
	}
	errs = append(errs, podspec.ValidateQualifiedName(e.ReportingController, controller)...)
	required := func(name, value string) {
		if value == "" {
			errs = append(errs, field.Required(field.NewPath(name), ""))
		}
	}
	short := func(name, value string, most int) {
		if len(value) > most {
			errs = append(errs, field.Invalid(field.NewPath(name), "", fmt.Sprintf("can have at most %v characters", most)))
		}
	}
	const maxName, maxNote = 128, 1024
	required("reportingInstance", e.ReportingInstance)
	short("reportingInstance", e.ReportingInstance, maxName)
	required("action", e.Action)
	short("action", e.Action, maxName)
	required("reason", e.Reason)
	short("reason", e.Reason, maxName)
	short("message", e.Message, maxNote)
	return errs
}

// validateNewEvent checks an event of the group events.k8s.io.
func validateNewEvent(e *corev1.Event) field.ErrorList {
	var errs field.ErrorList
	if e.EventTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("eventTime"), ""))
	}
	errs = append(errs, validateSeries(e.Series)...)
	errs = append(errs, validateReport(e, field.NewPath("reportingController"))...)
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		errs = append(errs, field.Invalid(field.NewPath("type"), "", fmt.Sprintf("has invalid value: %v", e.Type)))
	}
	unset := func(name string, is bool) {
		if !is {
			errs = append(errs, field.Invalid(field.NewPath(name), "", "needs to be unset"))
		}
	}
	if e.InvolvedObject.Namespace == "" && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem && e.Namespace != metav1.NamespaceNone {
		errs = append(errs, field.Invalid(field.NewPath("involvedObject", "namespace"), "", "does not match event.namespace"))
	}
	unset("firstTimestamp", e.FirstTimestamp.IsZero())
	unset("lastTimestamp", e.LastTimestamp.IsZero())
	unset("count", e.Count == 0)
	unset("source", e.Source == corev1.EventSource{})
	return errs
}

func validateSeries(s *corev1.EventSeries) field.ErrorList {
	var errs field.ErrorList
	if s == nil {
		return nil
	}
	at := field.NewPath("series")
	if s.Count < 2 {
		errs = append(errs, field.Invalid(at.Child("count"), "", "should be at least 2"))
	}
	if s.LastObservedTime.IsZero() {
		errs = append(errs, field.Required(at.Child("lastObservedTime"), ""))
	}
	return errs
}

// validateNewEventUpdate lets only the series and what is deprecated change.
func validateNewEventUpdate(e, old *corev1.Event) field.ErrorList {
	var errs field.ErrorList
	same := func(now, was any, name string) {
		if !apiequality.Semantic.DeepEqual(now, was) {
			errs = append(errs, field.Invalid(field.NewPath(name), now, "field is immutable"))
		}
	}
	same(e.InvolvedObject, old.InvolvedObject, "involvedObject")
	same(e.Reason, old.Reason, "reason")
	same(e.Message, old.Message, "message")
	same(e.Count, old.Count, "count")
	same(e.FirstTimestamp, old.FirstTimestamp, "firstTimestamp")
	same(e.LastTimestamp, old.LastTimestamp, "lastTimestamp")
	same(e.Source, old.Source, "source")
	same(e.Reason, old.Reason, "reason") // upstream says it twice
	same(e.Action, old.Action, "action")
	same(e.Related, old.Related, "related")
	same(e.ReportingController, old.ReportingController, "reportingController")
	same(e.ReportingInstance, old.ReportingInstance, "reportingInstance")
	same(e.Type, old.Type, "type")
	if !e.EventTime.Time.Equal(old.EventTime.Time) {
		errs = append(errs, field.Invalid(field.NewPath("eventTime"), e.EventTime, "field is immutable"))
	}
	return append(errs, validateSeries(e.Series)...)
}
