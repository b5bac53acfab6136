// Package resource turns the description of a kind into REST storage.
//
// A Definition is data (names, columns, selectable fields) plus small functions
// (defaults, validation, preparation). AddToScheme hands its defaults and field
// labels to the scheme, Storage makes a genericregistry.Store with strategies
// of it, with /status when the kind has one. Groups of kinds live in the
// folders beside this one, one file per kind.
//
// The versioned types of k8s.io/api are also registered as the internal
// version, so that no second set of types and no conversion is needed.
//
// No goroutines run here. Definitions are read-only once the program has
// started; stores are safe for concurrent use.
package resource
