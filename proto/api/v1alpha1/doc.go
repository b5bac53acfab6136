// Package v1alpha1 holds the kinds of Keelson's own API group, keelson.dev.
//
// The one kind so far is Plugin: a process behind a gRPC contract that the
// kernel launches, configures and watches. Users write its spec with kubectl,
// the plugin host writes its status.
//
// The types are plain data; this package runs no goroutines. Its AddToScheme
// is called by servers and clients alike.
//
// +k8s:openapi-gen=true
// +k8s:openapi-model-package=dev.keelson.v1alpha1
// +groupName=keelson.dev
package v1alpha1
