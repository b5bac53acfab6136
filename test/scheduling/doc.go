// Package scheduling tests the scheduler against the real API server where pods need more
// than room: volumes that are bound as late as the pod has a node.
package scheduling
