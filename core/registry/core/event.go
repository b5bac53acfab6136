package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/resource"
)

// eventTTL is how many seconds an event is kept after it was last written.
const eventTTL = 60 * 60

var events = &resource.Definition[*corev1.Event]{
	GroupVersion: version, Kind: "Event", Plural: "events", Singular: "event", ShortNames: []string{"ev"},
	New:            func() *corev1.Event { return &corev1.Event{} },
	NewList:        func() runtime.Object { return &corev1.EventList{} },
	Validate:       validateEvent,
	ValidateUpdate: validateEventUpdate,
	CreateOnUpdate: true,
	Labels: []string{"involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
		"involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason", "reportingComponent", "source", "type"},
	Fields: eventFields,
	Columns: []metav1.TableColumnDefinition{
		resource.Column("Last Seen", "string", "Time since the event was last seen."),
		resource.Column("Type", "string", "Type of this event (Normal, Warning)."),
		resource.Column("Reason", "string", "Why the event was made."),
		resource.Column("Object", "string", "What the event is about."),
		resource.Wide("Subobject", "string", "The part of the object."),
		resource.Wide("Source", "string", "Who made the event."),
		resource.Column("Message", "string", "What happened."),
		resource.Wide("First Seen", "string", "Time since the event was first seen."),
		resource.Wide("Count", "string", "How often it happened."),
		withName(resource.Wide("Name", "string", "The name of the event.")),
	},
	Row: eventRow,
	Setup: func(_ *resource.Env, s *resource.Store) error {
		s.TTLFunc = func(runtime.Object, uint64, bool) (uint64, error) { return eventTTL, nil }
		return nil
	},
}

func withName(c metav1.TableColumnDefinition) metav1.TableColumnDefinition {
	c.Format = "name"
	return c
}

func eventFields(e *corev1.Event) fields.Set {
	source := e.Source.Component
	if source == "" {
		source = e.ReportingController
	}
	return fields.Set{
		"involvedObject.kind":            e.InvolvedObject.Kind,
		"involvedObject.namespace":       e.InvolvedObject.Namespace,
		"involvedObject.name":            e.InvolvedObject.Name,
		"involvedObject.uid":             string(e.InvolvedObject.UID),
		"involvedObject.apiVersion":      e.InvolvedObject.APIVersion,
		"involvedObject.resourceVersion": e.InvolvedObject.ResourceVersion,
		"involvedObject.fieldPath":       e.InvolvedObject.FieldPath,
		"reason":                         e.Reason,
		"reportingComponent":             e.ReportingController,
		"source":                         source,
		"type":                           e.Type,
	}
}

func validateEvent(e *corev1.Event) field.ErrorList {
	var errs field.ErrorList
	involved := field.NewPath("involvedObject", "namespace")
	switch {
	case e.InvolvedObject.Namespace == "" && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem && e.Namespace != metav1.NamespaceNone:
		errs = append(errs, field.Invalid(involved, e.InvolvedObject.Namespace, "does not match event.namespace"))
	case e.InvolvedObject.Namespace != "" && e.Namespace != e.InvolvedObject.Namespace:
		errs = append(errs, field.Invalid(involved, e.InvolvedObject.Namespace, "does not match event.namespace"))
	}
	if e.EventTime.IsZero() { // an old style event
		return errs
	}
	if e.ReportingController == "" {
		errs = append(errs, field.Required(field.NewPath("reportingController"), ""))
	}
	if e.ReportingInstance == "" {
		errs = append(errs, field.Required(field.NewPath("reportingInstance"), ""))
	}
	const maxInstance, maxAction, maxReason, maxNote = 128, 128, 128, 1024
	if len(e.ReportingInstance) > maxInstance {
		errs = append(errs, field.Invalid(field.NewPath("reportingInstance"), "", fmt.Sprintf("can have at most %v characters", maxInstance)))
	}
	if e.Action == "" {
		errs = append(errs, field.Required(field.NewPath("action"), ""))
	}
	if len(e.Action) > maxAction {
		errs = append(errs, field.Invalid(field.NewPath("action"), "", fmt.Sprintf("can have at most %v characters", maxAction)))
	}
	if e.Reason == "" {
		errs = append(errs, field.Required(field.NewPath("reason"), ""))
	}
	if len(e.Reason) > maxReason {
		errs = append(errs, field.Invalid(field.NewPath("reason"), "", fmt.Sprintf("can have at most %v characters", maxReason)))
	}
	if len(e.Message) > maxNote {
		errs = append(errs, field.Invalid(field.NewPath("message"), "", fmt.Sprintf("can have at most %v characters", maxNote)))
	}
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		errs = append(errs, field.Invalid(field.NewPath("type"), "", fmt.Sprintf("has invalid value: %v", e.Type)))
	}
	return errs
}

func validateEventUpdate(e, old *corev1.Event) field.ErrorList {
	if e.EventTime.IsZero() && old.EventTime.IsZero() {
		return nil
	}
	var errs field.ErrorList
	same := func(now, was any, name string) {
		if !apiequality.Semantic.DeepEqual(now, was) {
			errs = append(errs, field.Invalid(field.NewPath(name), now, "field is immutable"))
		}
	}
	same(e.InvolvedObject, old.InvolvedObject, "involvedObject")
	same(e.Reason, old.Reason, "reason")
	same(e.Message, old.Message, "message")
	same(e.Action, old.Action, "action")
	same(e.Related, old.Related, "related")
	same(e.ReportingController, old.ReportingController, "reportingController")
	same(e.ReportingInstance, old.ReportingInstance, "reportingInstance")
	same(e.Type, old.Type, "type")
	return errs
}

func eventRow(e *corev1.Event) []any {
	first := resource.Since(e.FirstTimestamp)
	if e.FirstTimestamp.IsZero() {
		first = micro(e.EventTime)
	}
	last := resource.Since(e.LastTimestamp)
	if e.LastTimestamp.IsZero() {
		last = first
	}
	count := e.Count
	switch {
	case e.Series != nil:
		last, count = micro(e.Series.LastObservedTime), e.Series.Count
	case count == 0:
		count = 1
	}
	target := strings.ToLower(e.InvolvedObject.Kind)
	if e.InvolvedObject.Name != "" {
		target += "/" + e.InvolvedObject.Name
	}
	component, host := e.Source.Component, e.Source.Host
	if component == "" {
		component = e.ReportingController
	}
	if host == "" {
		host = e.ReportingInstance
	}
	source := component
	if host != "" {
		source += ", " + host
	}
	return []any{last, e.Type, e.Reason, target, e.InvolvedObject.FieldPath, source, strings.TrimSpace(e.Message), first, int64(count), e.Name}
}

func micro(t metav1.MicroTime) string { return resource.Since(metav1.NewTime(t.Time)) }
