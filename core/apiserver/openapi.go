package apiserver

import (
	"reflect"

	"k8s.io/apimachinery/pkg/runtime"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"keelson.dev/keelson/core/registry"
	"keelson.dev/keelson/core/registry/openapi"
)

// describe sets what OpenAPI documents are made of.
func describe(c *genericapiserver.Config) {
	namer := apiopenapi.NewDefinitionNamer(published())
	c.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(openapi.Definitions, namer)
	c.OpenAPIConfig.Info.Title = "Kubernetes"
	c.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(openapi.Definitions, namer)
	c.OpenAPIV3Config.Info.Title = "Kubernetes"
}

// published is the registry's scheme without the internal versions: these are
// the same Go types here, and would be listed as kinds of their own.
func published() *runtime.Scheme {
	s := runtime.NewScheme()
	for gvk, t := range registry.Scheme.AllKnownTypes() {
		if gvk.Version == runtime.APIVersionInternal {
			continue
		}
		if obj, ok := reflect.New(t).Interface().(runtime.Object); ok {
			s.AddKnownTypeWithName(gvk, obj)
		}
	}
	return s
}
