// Package admissionregistration serves the kinds that extend admission:
// webhook configurations, and policies written in CEL with their bindings.
//
// The rules and their wording are those of the API's documentation and of what
// an upstream server answers (testdata of core/apiserver holds what it said).
// Expressions are compiled with the compilers that will run them. What the
// configurations do is not here: the plugins of k8s.io/apiserver do it.
//
// No goroutines run here.
package admissionregistration
