package apiserver

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	admissionv1 "keelson.dev/keelson/proto/admission/v1"
)

// sidesFake notes what both sides of a comparison decide.
type sidesFake struct {
	mu             sync.Mutex // guards all
	active, shadow map[string]string
	subjects       map[string]string
	lost           int
}

func (f *sidesFake) Active(key, subject, decision string) { f.note(&f.active, key, subject, decision) }
func (f *sidesFake) Shadow(key, subject, decision string) { f.note(&f.shadow, key, subject, decision) }

func (f *sidesFake) note(side *map[string]string, key, subject, decision string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if *side == nil {
		*side = map[string]string{}
	}
	if f.subjects == nil {
		f.subjects = map[string]string{}
	}
	(*side)[key], f.subjects[key] = decision, subject
}

// Lost implements review.Sides.
func (f *sidesFake) Lost() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lost++
}

// pairs are the decisions of both that came for one key, by subject, once there are n.
func (f *sidesFake) pairs(t *testing.T, n int) map[string]string {
	t.Helper()
	out := map[string]string{}
	eventually(t, fmt.Sprintf("%d pairs of decisions", n), func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		clear(out)
		for key, active := range f.active {
			if shadow, both := f.shadow[key]; both {
				out[f.subjects[key]] = active + " | " + shadow
			}
		}
		return len(out) == n
	})
	return out
}

// shadowPlugin serves the shadow of a plugin and tells the server of it.
func (a *asked) shadowPlugin(t *testing.T, instance string, fake *admissionFake, sides *sidesFake) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "ka") //nolint:usetesting // sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	fake.register(server)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Stop(); <-done })
	a.h.Reviews().ShadowRunning(a.name, instance, socket, sides)
	a.h.Reviews().Settle(t.Context(), a.name)
}

// TestAdmissionShadow: a shadow is asked what the active plugin is asked; its answers are
// compared, and neither they nor its silence have an effect.
func TestAdmissionShadow(t *testing.T) {
	h := start(t)
	decide := func(forbidden string, patch string) func(context.Context, *admissionv1.ReviewRequest) (*admissionv1.ReviewResponse, error) {
		return func(_ context.Context, r *admissionv1.ReviewRequest) (*admissionv1.ReviewResponse, error) {
			switch {
			case r.GetHook() == "change":
				return &admissionv1.ReviewResponse{Allowed: true, Patch: []byte(patch)}, nil
			case strings.HasPrefix(r.GetName(), forbidden):
				return &admissionv1.ReviewResponse{Status: &admissionv1.Status{Message: "not " + forbidden}}, nil
			default:
				return &admissionv1.ReviewResponse{Allowed: true}, nil
			}
		}
	}
	hooks := []*admissionv1.Hook{mapsHook("change", admissionv1.Phase_PHASE_MUTATING), mapsHook("check", admissionv1.Phase_PHASE_VALIDATING)}
	active := &admissionFake{hooks: hooks, decide: decide("old", `[{"op":"add","path":"/data/by","value":"active"}]`)}
	a := h.askedPlugin(t, "admission", "shaded", nil, active.register)
	other := mapsHook("check", admissionv1.Phase_PHASE_VALIDATING)
	other.ObjectSelector = "x"
	shadow := &admissionFake{hooks: []*admissionv1.Hook{hooks[0], other, mapsHook("more", admissionv1.Phase_PHASE_VALIDATING)},
		decide: decide("new", `[ {"value":"shadow", "op":"add","path":"/data/by"} ]`)}
	sides := &sidesFake{}
	a.shadowPlugin(t, "one", shadow, sides)
	if got, want := h.Reviews().ShadowMessage("shaded"), `only the shadow has hook "more": it is not asked there; the wishes of hook "check" differ: the shadow is asked when those of the active one match`; got != want {
		t.Errorf("message: got %q, want %q", got, want)
	}

	admin := client(t, h.as(t, "jane", "system:masters")).CoreV1().ConfigMaps("default")
	made, err := admin.Create(t.Context(), askedMap("new-1", nil), metav1.CreateOptions{})
	if err != nil || made.Data["by"] != "active" {
		t.Fatalf("what only the shadow forbids: got %v, %v", made, err)
	}
	if _, err := admin.Create(t.Context(), askedMap("old-1", nil), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Fatalf("what only the active one forbids: got %v", err)
	}
	if _, err := admin.Create(t.Context(), askedMap("fine", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const patches = `allowed, patch [{"op":"add","path":"/data/by","value":"active"}] | allowed, patch [{"op":"add","path":"/data/by","value":"shadow"}]`
	got := sides.pairs(t, 6)
	for subject, want := range map[string]string{
		"change: create configmaps default/new-1": patches,
		"change: create configmaps default/old-1": patches,
		"change: create configmaps default/fine":  patches,
		"check: create configmaps default/new-1":  "allowed | denied: not new",
		"check: create configmaps default/old-1":  "denied: not old | allowed",
		"check: create configmaps default/fine":   "allowed | allowed",
	} {
		if got[subject] != want {
			t.Errorf("%s: got %q, want %q", subject, got[subject], want)
		}
	}

	// One that never answers: nobody waits, what does not fit in its queue is counted.
	hanging := make(chan struct{})
	t.Cleanup(func() { close(hanging) })
	mute := &sidesFake{}
	a.shadowPlugin(t, "two", &admissionFake{hooks: hooks, decide: func(ctx context.Context, _ *admissionv1.ReviewRequest) (*admissionv1.ReviewResponse, error) {
		select {
		case <-ctx.Done():
		case <-hanging:
		}
		return nil, status.Error(codes.Unavailable, "never")
	}}, mute)
	for i := range 150 { // two hooks each: more than the queue has
		if _, err := admin.Update(t.Context(), askedMap("fine", map[string]string{"n": fmt.Sprint(i)}), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	mute.mu.Lock()
	if mute.lost == 0 || len(mute.active) == 0 {
		t.Errorf("%d lost, %d of the active one", mute.lost, len(mute.active))
	}
	mute.mu.Unlock()

	h.Reviews().ShadowDown("shaded")
	calls := shadow.calls.Load()
	if _, err := admin.Create(t.Context(), askedMap("last", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if shadow.calls.Load() != calls {
		t.Error("it was asked after its end")
	}
}
