// Package openapi holds the OpenAPI definitions of all kinds that the API
// server serves, generated from the Go types by scripts/generate-openapi.
// The API server publishes them and reads from them how lists merge.
package openapi

import "k8s.io/kube-openapi/pkg/common"

// Definitions gives the definitions, with references made by ref.
func Definitions(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
	return GetOpenAPIDefinitions(ref)
}
