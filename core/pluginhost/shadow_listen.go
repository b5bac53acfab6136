package pluginhost

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

const (
	// headerTime is after how long a stream without a header counts as listened to: only
	// the kit's says when that is so.
	headerTime = time.Second
	// listenAgain is the pause before a stream that broke is opened anew.
	listenAgain = 500 * time.Millisecond
)

// follow takes what a process decides until ctx ends or the stream breaks. listening is
// called once it is listened to.
func (k *shadow) follow(ctx context.Context, s *session, who side, listening func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.rpc.Decisions(ctx, &pluginv1.DecisionsRequest{})
	if err != nil {
		return err
	}
	header := make(chan error, 1)
	go func() { _, err := stream.Header(); header <- err }() // ends with ctx
	timer := time.NewTimer(headerTime)
	defer timer.Stop()
	select {
	case err = <-header:
	case <-timer.C:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	listening()
	lost := uint64(0)
	for {
		d, err := stream.Recv()
		if err != nil {
			return err
		}
		if n := d.GetDropped(); n > lost {
			k.comparison.lose(int64(min(n-lost, 1<<40)))
			lost = n
		}
		k.comparison.add(who, Decided{Key: d.GetKey(), Subject: d.GetSubject(), Decision: d.GetDecision(), Reason: d.GetReason()})
	}
}

// attend listens to the processes of the unit that may become active, and to no others.
// Nil: to none.
func (k *shadow) attend(v *supervisor) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for s, a := range k.attended {
		if v == nil || k.want == nil || !v.alive[s] {
			a.cancel()
			delete(k.attended, s)
		}
	}
	k.activeAt = nil
	if v == nil || k.want == nil {
		return
	}
	if v.active != nil && v.active.active {
		k.activeAt = v.active
		k.comparison.between(v.current.revision, k.want.revision)
	}
	for s := range v.alive {
		if s.prepared && k.attended[s] == nil && tells(s.description.Kind) {
			ctx, cancel := context.WithCancel(context.WithoutCancel(k.ctx))
			a := &attention{cancel: cancel, why: "it does not listen yet"}
			k.attended[s] = a
			k.listeners.Go(func() { k.listen(ctx, s, a) }) // ends with the session, or when nobody compares
		}
	}
	k.judge()
}

// listen follows a process of the unit until it is told to end.
func (k *shadow) listen(ctx context.Context, s *session, a *attention) {
	for ctx.Err() == nil {
		var err error
		if s.version < pluginv1.Version2 {
			err = status.Error(codes.Unimplemented, "")
		} else {
			err = k.follow(ctx, s, activeSide, func() {
				k.set(func() { a.listening, a.why = true, ""; k.judge() })
			})
		}
		if ctx.Err() != nil {
			return
		}
		none := status.Code(err) == codes.Unimplemented
		k.set(func() {
			a.listening, a.why = false, status.Convert(err).Message()
			if none {
				a.why = "it tells none"
			}
			k.judge()
		})
		if none {
			return
		}
		pause(ctx, listenAgain)
	}
}

// pause waits, and says whether ctx still lives.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// judge finds the phase of a shadow that runs; k.mu is held.
func (k *shadow) judge() {
	if k.want == nil || k.status.PID == 0 {
		return
	}
	phase, message := PhaseStarting, k.said
	switch k.state {
	case pluginv1.State_STATE_READY:
		phase = PhaseRunning
		if why := k.deaf(); why != "" {
			phase, message = PhaseDegraded, why
		}
	case pluginv1.State_STATE_DEGRADED:
		phase = PhaseDegraded
	}
	if phase == PhaseRunning && k.status.Phase != phase {
		k.own.slog.Info("Shadow decides", "pid", k.status.PID, "revision", k.status.Revision)
		k.events = append(k.events, Event{Reason: EventShadowStarted, Message: "revision " + k.status.Revision + " decides beside the active one, without effect"})
	}
	k.status.Phase, k.status.Message = phase, message
}

// deaf says why the active one's decisions are not heard; empty: they are. k.mu is held.
func (k *shadow) deaf() string {
	if !tells(k.kind) {
		return ""
	}
	if k.activeAt == nil {
		return "there is nothing to compare with: the plugin itself is not active"
	}
	if a := k.attended[k.activeAt]; a == nil || !a.listening {
		why := "it does not listen yet"
		if a != nil {
			why = a.why
		}
		return "there is nothing to compare with: the decisions of the active one are not heard: " + why
	}
	return ""
}

// Comparison is where a plugin and its shadow have decided otherwise. ErrNoShadow: it has
// none.
func (h *Host) Comparison(name string) (*Comparison, error) {
	k, err := h.shadowOf(name)
	if err != nil {
		return nil, err
	}
	return k.comparison.get(), nil
}

func (h *Host) shadowOf(name string) (*shadow, error) {
	u, err := h.unit(name)
	if err != nil {
		return nil, err
	}
	k := u.getShadow()
	if k == nil {
		return nil, ErrNoShadow
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.want == nil {
		return nil, ErrNoShadow
	}
	return k, nil
}

// Sides takes in what is decided by a plugin that is asked, and by its shadow.
type Sides struct {
	host *Host
	name string
}

// Sides is where the decisions of a plugin and its shadow go that do not tell them
// themselves. A plugin without a shadow takes none.
func (h *Host) Sides(name string) Sides { return Sides{h, name} }

// Active takes what the active one decided.
func (s Sides) Active(d Decided) { s.add(activeSide, d) }

// Shadow takes what the shadow decided.
func (s Sides) Shadow(d Decided) { s.add(shadowSide, d) }

func (s Sides) add(who side, d Decided) {
	if k, err := s.host.shadowOf(s.name); err == nil {
		k.comparison.add(who, d)
	}
}

// Lost counts decisions that were not compared.
func (s Sides) Lost(n int64) {
	if k, err := s.host.shadowOf(s.name); err == nil {
		k.comparison.lose(n)
	}
}
