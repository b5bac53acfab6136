package kit

import (
	"context"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// decisionBuffer is how many decisions wait for one follower; what comes then is dropped,
// and counted.
const decisionBuffer = 1024

// Shadower is a Runner that can decide beside the active one, without effect: the plugin
// can be tried as spec.shadow. For a plugin of kind admission, which answers and does
// nothing else, Shadow is mostly Start.
type Shadower interface {
	Runner
	// Shadow takes the place of Start: it decides as Start would, tells what (Env.Decisions)
	// and changes nothing, neither in the API, where it may only read, nor elsewhere. It
	// follows what the active one does. All else is as with Start.
	Shadow(ctx context.Context) error
}

// Decision is what was decided about one thing.
type Decision struct {
	// Key says about what, in the same way for each program of the kind: of a scheduler
	// the pod's UID. One about the same key takes the place of the earlier one.
	Key string
	// Subject is the same for people: "default/web".
	Subject string
	// Value is what was decided, and what is compared: of a scheduler the node's name, or
	// Unschedulable.
	Value string
	// Reason is why, for people; it is not compared.
	Reason string
}

// Unschedulable is the Value of a scheduler that has found no node.
const Unschedulable = "unschedulable"

// Decisions is where a plugin of a kind that decides tells what it has decided. Nil, and
// the zero value, are ready for use. It may be used concurrently.
type Decisions struct {
	count atomic.Int32 // of followers

	mu        sync.Mutex // guards followers
	followers map[*follower]struct{}
}

// follower is one who listens.
type follower struct {
	told    chan Decision
	dropped atomic.Uint64
}

// Followed says whether anybody listens: a plugin may spare itself what it would tell.
func (d *Decisions) Followed() bool { return d != nil && d.count.Load() > 0 }

// Tell tells a decision to those who listen. It never waits; to one that is slow the
// decision is lost. With no listener it is one look at a number.
func (d *Decisions) Tell(what Decision) {
	if !d.Followed() {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for f := range d.followers {
		select {
		case f.told <- what:
		default:
			f.dropped.Add(1)
		}
	}
}

// follow begins to listen; the function returned ends it.
func (d *Decisions) follow() (*follower, func()) {
	f := &follower{told: make(chan Decision, decisionBuffer)}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.followers == nil {
		d.followers = map[*follower]struct{}{}
	}
	d.followers[f] = struct{}{}
	d.count.Add(1)
	return f, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.followers, f)
		d.count.Add(-1)
	}
}

// Follow calls take for each decision from its return on, in order, until stop is called
// or ctx ends. stop waits for the last call. It is for tests: the kernel follows by the
// base contract.
func (d *Decisions) Follow(ctx context.Context, take func(Decision)) (stop func()) {
	f, end := d.follow()
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { // ends by stop, or with ctx
		defer close(done)
		defer end()
		for {
			select {
			case what := <-f.told:
				take(what)
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}

// Decisions implements the contract. Its header is sent when it listens.
func (s *Service) Decisions(_ *pluginv1.DecisionsRequest, stream grpc.ServerStreamingServer[pluginv1.DecisionsResponse]) error {
	s.mu.Lock()
	runner, configured := s.runner, s.config != nil
	s.mu.Unlock()
	if !configured {
		return status.Error(codes.FailedPrecondition, "decisions: the plugin is not configured")
	}
	if _, ok := runner.(Shadower); !ok && runner != nil {
		return status.Error(codes.Unimplemented, "decisions: the plugin tells none")
	}
	f, end := s.decisions.follow()
	defer end()
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	for {
		select {
		case d := <-f.told:
			if err := stream.Send(&pluginv1.DecisionsResponse{
				Key: d.Key, Subject: d.Subject, Decision: d.Value, Reason: d.Reason, Dropped: f.dropped.Load(),
			}); err != nil {
				return err
			}
		case <-s.stopped:
			return nil
		case <-stream.Context().Done():
			return nil
		}
	}
}
