// Package flowcontrol describes the kinds of flowcontrol.apiserver.k8s.io/v1:
// which requests belong together (FlowSchema) and how many of them are served
// at a time (PriorityLevelConfiguration). It only keeps them; who acts on them
// is the server's filter for priority and fairness.
package flowcontrol

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"keelson.dev/keelson/core/registry/resource"
)

// Kinds are the kinds of the group.
var Kinds = []resource.Kind{flowSchemas, priorityLevels}

var version = flowcontrolv1.SchemeGroupVersion
