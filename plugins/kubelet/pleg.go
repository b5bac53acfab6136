package kubelet

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pleg turns what happens in the runtime into wake-ups of pod workers: by the runtime's event stream, and by listing all now and then in case
// an event was lost. It also ends what belongs to no pod.
type pleg struct {
	k *Kubelet

	mu      sync.Mutex // guards all below
	events  bool       // the stream is open
	seen    map[types.UID]uint64
	orphans map[types.UID]bool // under way
	wg      sync.WaitGroup
}

func newPleg(k *Kubelet) *pleg {
	return &pleg{k: k, seen: map[types.UID]uint64{}, orphans: map[types.UID]bool{}}
}

func (p *pleg) run(ctx context.Context) error {
	defer p.wg.Wait()
	p.wg.Go(func() { p.stream(ctx) })
	for !p.k.knowsAll() { // before that, nothing can be called an orphan
		if !sleep(ctx, 20*time.Millisecond) {
			return nil
		}
	}
	p.relist(ctx)
	for {
		p.mu.Lock()
		period := time.Second
		if p.events {
			period = p.k.cfg.RelistPeriod.Duration
		}
		p.mu.Unlock()
		for waited := time.Duration(0); waited < period; waited += time.Second { // the stream may break meanwhile
			if !sleep(ctx, time.Second) {
				return nil
			}
			p.mu.Lock()
			broken := !p.events
			p.mu.Unlock()
			if broken {
				break
			}
		}
		p.relist(ctx)
	}
}

// noEvents is how long a runtime is believed that says it has no event stream
// (containerd 1.6): another one may have taken its place.
const noEvents = 30 * time.Second

// stream follows the runtime's events until ctx ends, and opens the stream anew whenever it breaks.
func (p *pleg) stream(ctx context.Context) {
	try := retry{first: 50 * time.Millisecond, last: time.Second}
	for ctx.Err() == nil {
		stream, err := p.k.cri.rt.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
		if err == nil {
			err = p.follow(ctx, stream, &try)
		}
		p.setEvents(false)
		if ctx.Err() == nil {
			p.k.log.Debug("Container events broke off", "err", err)
		}
		try.failed(time.Now())
		wait := try.delay
		if status.Code(err) == codes.Unimplemented {
			p.k.log.Info("The runtime has no container events: it is listed each second", "runtime", p.k.runtimeInfo.Load().GetRuntimeName())
			wait = noEvents
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

func (p *pleg) follow(ctx context.Context, stream runtimeapi.RuntimeService_GetContainerEventsClient, try *retry) error {
	// The header tells that the runtime has the stream; one that does not know the call answers with an error.
	header, err := stream.Header()
	if err == nil && header == nil { // it has ended without one
		_, err = stream.Recv()
	}
	if err != nil {
		return err
	}
	try.reset()
	p.setEvents(true)
	p.k.log.Info("Container events flow")
	p.k.wakeAll() // whatever happened before
	p.relist(ctx)
	for {
		ev, err := stream.Recv()
		if err != nil {
			return err
		}
		uid := types.UID(ev.GetPodSandboxStatus().GetMetadata().GetUid())
		if l := ev.GetPodSandboxStatus().GetLabels()[labelPodUID]; l != "" {
			uid = types.UID(l)
		}
		if uid == "" {
			p.k.wakeAll() // the runtime did not say whose it is
			continue
		}
		p.k.wake(uid, true)
	}
}

func (p *pleg) setEvents(on bool) {
	p.mu.Lock()
	p.events = on
	p.mu.Unlock()
}

// relist compares all that the runtime has with the last time, wakes pods that differ, and ends orphans.
func (p *pleg) relist(ctx context.Context) {
	begun := time.Now()
	lctx, cancel := context.WithTimeout(ctx, criTimeout)
	defer cancel()
	sandboxes, err := p.k.cri.rt.ListPodSandbox(lctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return // the node's status tells that the runtime is down
	}
	containers, err := p.k.cri.rt.ListContainers(lctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return
	}
	lines := map[types.UID][]string{}
	for _, s := range sandboxes.Items {
		if uid := types.UID(s.Labels[labelPodUID]); uid != "" {
			lines[uid] = append(lines[uid], s.Id+s.State.String())
		}
	}
	for _, c := range containers.Containers {
		if uid := types.UID(c.Labels[labelPodUID]); uid != "" {
			lines[uid] = append(lines[uid], c.Id+c.State.String())
		}
	}
	p.k.metrics.relistSeconds.Observe(time.Since(begun).Seconds())
	now := map[types.UID]uint64{}
	for uid, l := range lines {
		slices.Sort(l)
		h := fnv.New64a()
		fmt.Fprint(h, l)
		now[uid] = h.Sum64()
	}
	p.mu.Lock()
	old := p.seen
	p.seen = now
	p.mu.Unlock()
	for uid := range old {
		if _, still := now[uid]; !still {
			p.k.wake(uid, true)
		}
	}
	for uid, sum := range now {
		if old[uid] != sum && p.k.wake(uid, true) {
			continue
		}
		if p.k.knowsAll() && p.k.worker(uid) == nil && !p.known(uid) {
			p.orphan(ctx, uid)
		}
	}
	if p.k.knowsAll() {
		p.sweep(now)
	}
}

// known says whether the API has a pod of that UID for this node, though its worker may not have begun yet.
func (p *pleg) known(uid types.UID) bool {
	for _, obj := range p.k.pods.GetStore().List() {
		if o, ok := obj.(interface{ GetUID() types.UID }); ok && o.GetUID() == uid {
			return true
		}
	}
	return false
}

// orphan ends and removes what the runtime has of a pod that the API does not have.
func (p *pleg) orphan(ctx context.Context, uid types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.orphans[uid] {
		return
	}
	p.orphans[uid] = true
	p.wg.Go(func() {
		defer func() {
			p.mu.Lock()
			delete(p.orphans, uid)
			p.mu.Unlock()
		}()
		if err := p.k.endOrphan(ctx, uid); err != nil && ctx.Err() == nil {
			p.k.log.Warn("Orphaned pod is not removed yet", "podUid", string(uid), "err", err)
		}
	})
}

func (k *Kubelet) endOrphan(ctx context.Context, uid types.UID) error {
	state, err := k.cri.readPodState(ctx, uid, nil)
	if err != nil {
		return err
	}
	k.log.Info("Ending a pod that the API does not have", "podUid", string(uid))
	var wg sync.WaitGroup
	for _, c := range state.running() {
		wg.Go(func() {
			grace := int64(30)
			if _, err := fmt.Sscan(c.Annotations[annGrace], &grace); err != nil {
				grace = 30
			}
			sctx, cancel := context.WithTimeout(ctx, time.Duration(grace)*time.Second+criTimeout)
			defer cancel()
			_, _ = k.cri.rt.StopContainer(sctx, &runtimeapi.StopContainerRequest{ContainerId: c.Id, Timeout: grace})
		})
	}
	wg.Wait()
	if state, err = k.cri.readPodState(ctx, uid, nil); err != nil {
		return err
	}
	if err := k.removeState(ctx, state); err != nil {
		return err
	}
	return k.removeFiles(uid)
}
