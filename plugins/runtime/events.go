package runtime

import (
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// eventBuffer is how far a subscriber may fall behind before its stream is closed.
const eventBuffer = 1024

// hub hands events to all subscribers.
type hub struct {
	mu   sync.Mutex // guards subs and the order of events
	subs map[chan *cri.ContainerEventResponse]struct{}
}

func newHub() *hub { return &hub{subs: map[chan *cri.ContainerEventResponse]struct{}{}} }

func (h *hub) subscribe() chan *cri.ContainerEventResponse {
	ch := make(chan *cri.ContainerEventResponse, eventBuffer)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.subs[ch] = struct{}{}
	return ch
}

func (h *hub) unsubscribe(ch chan *cri.ContainerEventResponse) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.subs[ch]; ok {
		delete(h.subs, ch)
		close(ch)
	}
}

func (h *hub) publish(event *cri.ContainerEventResponse) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for ch := range h.subs {
		select {
		case ch <- event:
		default: // too slow: it lists anew
			delete(h.subs, ch)
			close(ch)
		}
	}
}

func (h *hub) empty() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.subs) == 0
}

// emit reports a change of a sandbox or container to subscribers.
func (s *Server) emit(kind cri.ContainerEventType, id string, sb *sandbox) {
	if s.events.empty() {
		return
	}
	event := &cri.ContainerEventResponse{ContainerId: id, ContainerEventType: kind, CreatedAt: time.Now().UnixNano()}
	if sb != nil {
		event.PodSandboxStatus = s.sandboxStatus(sb)
		event.ContainersStatuses = s.statusesOf(event.PodSandboxStatus.GetId())
	}
	s.events.publish(event)
}

// GetContainerEvents streams events until the caller or the server ends, or the
// caller falls too far behind.
func (s *Server) GetContainerEvents(_ *cri.GetEventsRequest, stream grpc.ServerStreamingServer[cri.ContainerEventResponse]) error {
	ch := s.events.subscribe()
	defer s.events.unsubscribe(ch)
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case <-s.stopped:
			return status.Error(codes.Unavailable, "the runtime stops")
		case event, ok := <-ch:
			if !ok {
				return status.Error(codes.ResourceExhausted, "events were not taken in time; list anew")
			}
			if err := stream.Send(event); err != nil {
				return err
			}
		}
	}
}
