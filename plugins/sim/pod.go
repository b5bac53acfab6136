package sim

import (
	"math/rand/v2"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// stage is how far a pod's life is.
type stage uint8

const (
	bound    stage = iota // has a node; nothing is written yet
	creating              // its sandbox is made, then its init containers run
	running               // its containers run and are not ready
	ready                 // they are ready, as far as they are concerned
	backoff               // they have ended and wait for their next start
	ended                 // they have ended for good
)

// The pauses before a restart: none for the first, then ten seconds that double, as a
// kubelet's. After calm they begin anew.
const (
	firstBackoff = 10 * time.Second
	lastBackoff  = 5 * time.Minute
	calm         = 10 * time.Minute
)

// failureExit is the exit code of containers that fail by Config.FailuresPerHour.
const failureExit = 1

// pod is what is kept of a pod. All but the entry is guarded by Server.mu.
type pod struct {
	entry
	shape *shape
	node  *node
	name  string
	uid   types.UID
	ip    netip.Addr

	due   time.Time // of the next stage, or of the end; zero: this stage lasts
	soon  time.Time // when it was wanted while a writer had it; zero: it was not
	endAt time.Time // when the containers end by themselves; zero: never
	// Times of the status: when the kubelet began, the containers' last start, the last
	// change of readiness, and the start and end of the containers before these.
	began, started, turned, lastStart, lastEnd time.Time

	generation int64
	grace      time.Duration // of the deletion
	restarts   int32
	exit       int32 // of endAt, or of the containers before these
	stage      stage
	inits      uint8 // init containers that have begun
	crashes    uint8
	failures   uint8 // writes in a row that came to nothing

	deleting bool
	finished bool // the last write of the deletion was made
	gated    bool // readiness gates are not met
	rewrite  bool // the status is to be written although the stage is the same
	busy     bool // a writer has it
	gone     bool
}

// adopt is a pod as this process sees it first: new, or already played by another.
func (s *Server) adopt(obj *corev1.Pod, n *node) *pod {
	p := &pod{shape: s.shapeOf(obj), node: n, name: obj.Name, uid: obj.UID}
	st := &obj.Status
	if ip, err := netip.ParseAddr(st.PodIP); err == nil && !p.shape.hostNetwork {
		p.ip = ip
		n.pods.reserve(ip)
	}
	if st.StartTime == nil {
		return p
	}
	p.began = st.StartTime.Time
	p.turned, p.started = p.began, p.began
	if c := conditionOf(st, corev1.PodReady); c != nil {
		p.turned = c.LastTransitionTime.Time
	}
	if len(st.ContainerStatuses) > 0 {
		p.adoptContainer(&st.ContainerStatuses[0])
	}
	switch st.Phase {
	case corev1.PodSucceeded, corev1.PodFailed:
		p.stage = ended
	case corev1.PodRunning:
		if p.stage != bound {
			break
		}
		p.stage = running
		if c := conditionOf(st, corev1.ContainersReady); c != nil && c.Status == corev1.ConditionTrue {
			p.stage = ready
		}
		p.life(&s.config, time.Now())
	}
	return p
}

// adoptContainer takes from a container's status what the pod's next one needs.
func (p *pod) adoptContainer(c *corev1.ContainerStatus) {
	p.restarts = c.RestartCount
	p.crashes = uint8(min(c.RestartCount, 10))
	if t := c.LastTerminationState.Terminated; t != nil {
		p.lastStart, p.lastEnd, p.exit = t.StartedAt.Time, t.FinishedAt.Time, t.ExitCode
	}
	switch {
	case c.State.Running != nil:
		p.started = c.State.Running.StartedAt.Time
	case c.State.Terminated != nil:
		t := c.State.Terminated
		p.lastStart, p.lastEnd, p.exit = t.StartedAt.Time, t.FinishedAt.Time, t.ExitCode
	case c.State.Waiting != nil && c.State.Waiting.Reason == crashLoop:
		p.stage, p.due = backoff, time.Now()
	}
}

func conditionOf(st *corev1.PodStatus, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range st.Conditions {
		if st.Conditions[i].Type == kind {
			return &st.Conditions[i]
		}
	}
	return nil
}

// step takes the pod to its next stage if that is due. It tells whether the status has
// to be written, and whether the pod is to be removed after that.
func (p *pod) step(c *Config, now time.Time) (write, remove bool) {
	if p.deleting {
		if now.Before(p.due) {
			write, p.rewrite = p.rewrite, false
			return write, false
		}
		if p.stage == bound || p.stage == creating || p.stage == ended {
			remove, write = true, p.rewrite
			p.rewrite = false
			return write, remove
		}
		p.end(now, 0)
		return true, true
	}
	write, p.rewrite = p.rewrite, false
	for !p.due.IsZero() && !now.Before(p.due) || p.stage == bound {
		p.due = time.Time{}
		write = true
		if !p.next(c, now) {
			break
		}
	}
	return write, false
}

// next goes to the next stage. It tells whether the one after may be due at once.
func (p *pod) next(c *Config, now time.Time) bool {
	switch p.stage {
	case bound:
		if p.began.IsZero() {
			p.began, p.turned = now, now
		}
		p.stage = creating
		if p.shape.fault != "" {
			return false // it stays so
		}
		p.due = now.Add(p.shape.start.Draw())
	case creating:
		if int(p.inits) < len(p.shape.inits) {
			p.inits++
			p.due = now.Add(c.InitLatency.Draw())
			return true
		}
		p.run(c, now)
	case running:
		if !p.endAt.IsZero() && !now.Before(p.endAt) {
			p.crash(c, now)
			return true
		}
		p.stage, p.turned = ready, now
		p.due = p.endAt
	case ready:
		p.crash(c, now)
	case backoff:
		p.restarts++
		p.run(c, now)
	case ended:
		return false
	}
	return true
}

// run starts the containers.
func (p *pod) run(c *Config, now time.Time) {
	p.stage, p.started, p.turned = running, now, now
	p.life(c, now)
}

// life draws when the containers get ready and when they end.
func (p *pod) life(c *Config, now time.Time) {
	p.endAt = time.Time{}
	if !p.shape.run.IsZero() {
		p.endAt, p.exit = p.started.Add(p.shape.run.Draw()), p.shape.exit
	}
	if c.FailuresPerHour > 0 {
		failure := now.Add(time.Duration(rand.ExpFloat64() / c.FailuresPerHour * float64(time.Hour)))
		if p.endAt.IsZero() || failure.Before(p.endAt) {
			p.endAt, p.exit = failure, failureExit
		}
	}
	p.due = p.endAt
	if getsReady := now.Add(p.shape.ready.Draw()); p.stage == running && (p.endAt.IsZero() || getsReady.Before(p.endAt)) {
		p.due = getsReady
	}
}

// crash ends the containers by themselves, and starts them again as the restart policy
// wants it.
func (p *pod) crash(c *Config, now time.Time) {
	if p.shape.restart == corev1.RestartPolicyNever || p.shape.restart == corev1.RestartPolicyOnFailure && p.exit == 0 {
		p.end(now, p.exit)
		return
	}
	if now.Sub(p.started) >= calm {
		p.crashes = 0
	}
	p.lastStart, p.lastEnd, p.turned = p.started, now, now
	if p.crashes == 0 {
		p.crashes = 1
		p.restarts++
		p.run(c, now)
		return
	}
	p.stage = backoff
	p.due = now.Add(p.pause())
	if p.crashes < 10 {
		p.crashes++
	}
}

// pause is how long the next restart waits.
func (p *pod) pause() time.Duration {
	return min(firstBackoff<<(max(p.crashes, 1)-1), lastBackoff)
}

// end ends the containers for good.
func (p *pod) end(now time.Time, exit int32) {
	if p.stage != backoff { // else they have ended before
		p.lastStart, p.lastEnd, p.exit = p.started, now, exit
	}
	p.stage, p.turned = ended, now
	p.due, p.endAt = time.Time{}, time.Time{}
}

// deleted notes that the pod is to go, and draws how long its containers take.
func (p *pod) deleted(grace time.Duration, now time.Time) {
	p.deleting, p.grace = true, grace
	p.due = now.Add(min(p.shape.stop.Draw(), grace))
}

// gatesClosed tells whether a readiness gate of the pod is not met.
func (p *pod) gatesClosed(st *corev1.PodStatus) bool {
	for _, g := range p.shape.gates {
		if c := conditionOf(st, g); c == nil || c.Status != corev1.ConditionTrue {
			return true
		}
	}
	return false
}

// time is a time as the API has it.
func apiTime(t time.Time) metav1.Time { return metav1.NewTime(t.Truncate(time.Second)) }
