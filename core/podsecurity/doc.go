// Package podsecurity is the admission plugin PodSecurity: it holds pods to the
// Pod Security Standards (privileged, baseline, restricted) that the labels of
// their namespace name, by refusing, warning and audit annotations.
//
// The standards are k8s.io/pod-security-admission's, which is all but the
// connection to the admission chain. Namespaces come from an informer that the
// server has anyway; pods are listed only when the label of a namespace is
// tightened. No goroutines run here.
package podsecurity
