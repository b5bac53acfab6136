package core

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"

	"keelson.dev/keelson/core/registry/resource"
)

// eventTTL is how many seconds an event is kept after it was last written.
const eventTTL = 60 * 60

var events = &resource.Definition[*corev1.Event]{
	GroupVersion: version, Kind: "Event", Plural: "events", Singular: "event", ShortNames: []string{"ev"},
	New:            func() *corev1.Event { return &corev1.Event{} },
	NewList:        func() runtime.Object { return &corev1.EventList{} },
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
		s.CreateStrategy, s.UpdateStrategy = eventCreate{s.CreateStrategy}, eventUpdate{s.UpdateStrategy}
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
