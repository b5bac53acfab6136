// Package autoscaling is the horizontalpodautoscaling controller: it measures what
// the pods of a target do, and sets the number of them by the target's scale
// subresource, whatever kind that is of.
//
// In: HorizontalPodAutoscalers, pods, the scale of targets, and the three metrics
// APIs (metrics.k8s.io, custom.metrics.k8s.io, external.metrics.k8s.io), which others
// serve. Out: scales, and the autoscalers' status. The way from measurements to a
// number is pure and in count.go (what one metric asks for) and behavior.go (how fast
// the number may change); an autoscaler is looked at once in a period, and without
// autoscalers nothing is done and no client made.
//
// https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/
package autoscaling
