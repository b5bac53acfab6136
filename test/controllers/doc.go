// Package controllers tests the plugins controllers and scheduler against the
// real API server on a real store. Of a cluster only the kubelet is missing; a
// stand-in here marks pods as running and ready, and lets them go when they are
// deleted.
package controllers
