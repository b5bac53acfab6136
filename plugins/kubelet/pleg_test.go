package kubelet

import (
	"slices"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestRuntimeWithoutEvents: a runtime without an event stream is listed, and not asked
// for the stream again and again.
func TestRuntimeWithoutEvents(t *testing.T) {
	n := newNode(t)
	n.cri.noEvents = true
	n.start()
	n.create(simplePod("web"))
	n.await("web", "ready", isReady)
	n.cri.mu.Lock()
	asked := n.cri.asked
	for _, c := range n.cri.containers { // ends, and nobody tells
		c.status.State, c.status.ExitCode = runtimeapi.ContainerState_CONTAINER_EXITED, 1
	}
	n.cri.mu.Unlock()
	if asked != 1 {
		t.Errorf("asked for the stream %d times, want once", asked)
	}
	poll(t, "the container is started again", func() bool { return slices.Contains(n.cri.takeCalls(), "create app/1") })
}
