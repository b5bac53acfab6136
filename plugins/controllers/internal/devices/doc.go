// Package devices keeps ResourceClaims: it makes those of pods that name a
// ResourceClaimTemplate, and takes pods that are over off the claims that were
// reserved for them.
//
// In: Pods from the shared informer, and ResourceClaims from one that starts with the
// first pod that has claims, or if there are claims when the controller starts. Out:
// claims, status.resourceClaimStatuses of pods, status.reservedFor and status.allocation
// of claims, and their finalizer.
//
// A claim that is made is found again by its owner and its annotation, so that a process
// that dies before it has written the name into the pod's status makes no second one.
// Who reserves and allocates is the scheduler; for pods that were bound past it, claims
// that are allocated already are reserved here. Reservations for others than pods stay.
package devices
