package batch

import (
	"keelson.dev/keelson/core/registry/podspec"
	"keelson.dev/keelson/core/registry/resource"
)

// jobGates are the alpha features of jobs in Kubernetes 1.37.
var jobGates = append([]resource.Gate{{Feature: "WorkloadWithJob", Fields: []string{"spec.scheduling"}}}, podspec.TemplateGates...)
