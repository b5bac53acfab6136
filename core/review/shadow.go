package review

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	admissionv1 "keelson.dev/keelson/proto/admission/v1"
)

const (
	// shadowQueue bounds the requests that wait for a shadow; beyond it they are not
	// compared, and counted.
	shadowQueue = 256
	// shadowCallers is how many requests a shadow is asked about at a time.
	shadowCallers = 4
)

// Sides takes what a plugin and its shadow answered, by the key of the request. Its methods
// return at once.
type Sides interface {
	Active(key, subject, decision string)
	Shadow(key, subject, decision string)
	// Lost counts a request that was not compared.
	Lost()
}

// shadow is a second process of an admission plugin that is asked what the first is asked,
// beside it. Nothing waits for it, and its answers have no effect.
type shadow struct {
	plugin   *plugin
	instance string
	conn     *grpc.ClientConn
	sides    Sides
	life     context.Context
	end      context.CancelFunc
	wg       sync.WaitGroup // its goroutines
	queue    chan *admissionv1.ReviewRequest
	learnt   chan struct{}          // closed when its hooks are known
	failed   atomic.Pointer[string] // why its hooks are not known

	// Set before learnt is closed.
	hooks map[string]*admissionv1.Hook
}

// ShadowRunning says that a shadow of an admission plugin serves at a socket. It does not
// wait; see Settle. The same instance again changes nothing.
func (s *Set) ShadowRunning(name, instance, socket string, sides Sides) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.plugins[name]
	if p == nil || p.kind != Admission || s.life.Err() != nil {
		return
	}
	if old := p.shadow.Load(); old != nil {
		if old.instance == instance {
			return
		}
		old.close()
	}
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		s.log.Error("Shadow is not asked: no client for its socket", "plugin", name, "socket", socket, "err", err)
		return
	}
	sh := &shadow{plugin: p, instance: instance, conn: conn, sides: sides, queue: make(chan *admissionv1.ReviewRequest, shadowQueue), learnt: make(chan struct{})}
	sh.life, sh.end = context.WithCancel(p.life)
	p.shadow.Store(sh)
	s.wg.Go(func() { sh.run() }) // ends with the shadow, the plugin or the set
}

// ShadowDown says that a plugin has no shadow that could be asked.
func (s *Set) ShadowDown(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.plugins[name]; p != nil {
		if sh := p.shadow.Swap(nil); sh != nil {
			sh.close()
		}
	}
}

// ShadowMessage says where a shadow is not asked, though it would want to be, and what keeps
// it from being asked at all; empty: nothing.
func (s *Set) ShadowMessage(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.plugins[name]
	if p == nil {
		return ""
	}
	sh := p.shadow.Load()
	if sh == nil {
		return ""
	}
	select {
	case <-sh.learnt:
		return sh.hooksBeside(p.hooks)
	default:
		if why := sh.failed.Load(); why != nil {
			return *why
		}
		return "the shadow is not asked yet"
	}
}

func (s *shadow) close() { s.end() }

// run asks the shadow until its end.
func (s *shadow) run() {
	defer func() { _ = s.conn.Close() }() // closed twice is all that it could say
	defer s.wg.Wait()
	if !s.learn() {
		return
	}
	for range shadowCallers {
		s.wg.Go(s.work)
	}
	<-s.life.Done()
}

// learn asks for the shadow's hooks, until it has an answer.
func (s *shadow) learn() bool {
	for {
		ctx, cancel := context.WithTimeout(s.life, probeTimeout)
		got, err := admissionv1.NewAdmissionServiceClient(s.conn).Hooks(ctx, &admissionv1.HooksRequest{}, grpc.WaitForReady(true))
		cancel()
		if err == nil {
			s.hooks = map[string]*admissionv1.Hook{}
			for _, h := range got.GetHooks() {
				s.hooks[h.GetName()] = h
			}
			close(s.learnt)
			return true
		}
		why := "the shadow is not asked: ask for its hooks: " + status.Convert(err).Message()
		s.failed.Store(&why)
		select {
		case <-s.life.Done():
			return false
		case <-time.After(learnPause):
		}
	}
}

// hooksBeside says where the hooks of both differ: a shadow is asked when the active one is,
// and only then.
func (s *shadow) hooksBeside(list []*hook) string {
	active := map[string]*hook{}
	var notes []string
	for _, h := range list {
		active[h.name] = h
		if s.hooks[h.name] == nil {
			notes = append(notes, fmt.Sprintf("the shadow has no hook %q", h.name))
		}
	}
	for name, h := range s.hooks {
		switch a := active[name]; {
		case a == nil:
			notes = append(notes, fmt.Sprintf("only the shadow has hook %q: it is not asked there", name))
		case h.GetSideEffects() == admissionv1.SideEffects_SIDE_EFFECTS_SOME:
			notes = append(notes, fmt.Sprintf("hook %q of the shadow has side effects: it is not asked there", name))
		case !proto.Equal(a.wish, h):
			notes = append(notes, fmt.Sprintf("the wishes of hook %q differ: the shadow is asked when those of the active one match", name))
		}
	}
	slices.Sort(notes)
	return strings.Join(notes, "; ")
}

// offer hands a request to the shadow, if there is one. The function returned takes the
// answer of the active one. Neither waits.
func (h *hook) offer(r *admissionv1.ReviewRequest) func(*admissionv1.ReviewResponse, error) {
	s := h.plugin.shadow.Load()
	if s == nil {
		return func(*admissionv1.ReviewResponse, error) {}
	}
	select {
	case <-s.learnt:
	default:
		s.sides.Lost()
		return func(*admissionv1.ReviewResponse, error) {}
	}
	own := s.hooks[h.name]
	if own.GetSideEffects() == admissionv1.SideEffects_SIDE_EFFECTS_SOME {
		return func(*admissionv1.ReviewResponse, error) {}
	}
	asked := r
	if own.GetSideEffects() == admissionv1.SideEffects_SIDE_EFFECTS_NONE_ON_DRY_RUN && !r.GetDryRun() {
		asked = proto.CloneOf(r)
		asked.DryRun = true
	}
	select {
	case s.queue <- asked:
	default:
		s.sides.Lost()
		return func(*admissionv1.ReviewResponse, error) {}
	}
	return func(answer *admissionv1.ReviewResponse, err error) {
		s.sides.Active(r.GetUid(), subjectOf(r), decisionOf(answer, err))
	}
}

// work asks the shadow about one request after the other.
func (s *shadow) work() {
	for {
		select {
		case <-s.life.Done():
			return
		case r := <-s.queue:
			s.ask(r)
		}
	}
}

func (s *shadow) ask(r *admissionv1.ReviewRequest) {
	own := s.hooks[r.GetHook()]
	if own == nil {
		s.sides.Shadow(r.GetUid(), subjectOf(r), "not asked: it has no such hook")
		return
	}
	timeout := defaultTimeout
	if t := own.GetTimeout(); t != nil {
		timeout = min(max(t.AsDuration(), leastTimeout), mostTimeout)
	}
	ctx, cancel := context.WithTimeout(s.life, timeout)
	defer cancel()
	answer, err := admissionv1.NewAdmissionServiceClient(s.conn).Review(ctx, r)
	if s.life.Err() != nil {
		s.sides.Lost()
		return
	}
	if err == nil && own.GetPhase() == admissionv1.Phase_PHASE_VALIDATING && len(answer.GetPatch()) > 0 {
		err = fmt.Errorf("a validating hook answered with a patch")
	}
	s.sides.Shadow(r.GetUid(), subjectOf(r), decisionOf(answer, err))
}

// subjectOf is a request for people: "keys: create configmaps default/web".
func subjectOf(r *admissionv1.ReviewRequest) string {
	what := r.GetResource().GetResource()
	if sub := r.GetSubResource(); sub != "" {
		what += "/" + sub
	}
	name := r.GetName()
	if r.GetNamespace() != "" {
		name = r.GetNamespace() + "/" + name
	}
	verb := strings.ToLower(strings.TrimPrefix(r.GetOperation().String(), "OPERATION_"))
	return strings.TrimSpace(fmt.Sprintf("%s: %s %s %s", r.GetHook(), verb, what, name))
}

// decisionOf is an answer in a form that can be compared: whether it allows, the message of
// a refusal, the patch.
func decisionOf(answer *admissionv1.ReviewResponse, err error) string {
	switch {
	case err != nil:
		return "no answer"
	case !answer.GetAllowed():
		text := "denied"
		if m := answer.GetStatus().GetMessage(); m != "" {
			text += ": " + m
		}
		return text
	case len(answer.GetPatch()) > 0:
		return "allowed, patch " + canonical(answer.GetPatch())
	default:
		return "allowed"
	}
}

// canonical is a patch without what does not matter in JSON.
func canonical(patch []byte) string {
	d := json.NewDecoder(bytes.NewReader(patch))
	d.UseNumber()
	var value any
	if d.Decode(&value) != nil {
		return string(patch)
	}
	out, err := json.Marshal(value)
	if err != nil {
		return string(patch)
	}
	return string(out)
}
