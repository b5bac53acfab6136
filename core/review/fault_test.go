package review

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	admissionv1 "keelson.dev/keelson/proto/admission/v1"
)

// wrongHooks is an admission plugin whose hook has no rules, until it is mended.
type wrongHooks struct {
	admissionv1.UnimplementedAdmissionServiceServer
	mended atomic.Bool
}

// Hooks implements the contract.
func (w *wrongHooks) Hooks(context.Context, *admissionv1.HooksRequest) (*admissionv1.HooksResponse, error) {
	h := &admissionv1.Hook{Name: "a", Phase: admissionv1.Phase_PHASE_VALIDATING, SideEffects: admissionv1.SideEffects_SIDE_EFFECTS_NONE}
	if w.mended.Load() {
		h.Rules = []*admissionv1.Rule{{
			Operations: []admissionv1.Operation{admissionv1.Operation_OPERATION_CREATE}, ApiGroups: []string{""}, ApiVersions: []string{"v1"}, Resources: []string{"pods"},
		}}
	}
	return &admissionv1.HooksResponse{Hooks: []*admissionv1.Hook{h}}, nil
}

// TestFaults: hooks that are not valid are told with field and value, and that they are valid
// again is told, too.
func TestFaults(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "a.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	w, server, served := &wrongHooks{}, grpc.NewServer(), make(chan struct{})
	admissionv1.RegisterAdmissionServiceServer(server, w)
	go func() { defer close(served); _ = server.Serve(listener) }()
	defer func() { server.Stop(); <-served }()
	s, err := New(slog.New(slog.DiscardHandler), "")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Begin(func(bool) error { return nil }); err != nil {
		t.Fatal(err)
	}
	told := make(chan string, 8)
	s.OnFault(func(name, fault string) { told <- name + ": " + fault })
	s.Want("guard", Admission, socket)
	s.Running("guard", "1", nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const want = "hooks[0].rules: Required value"
	if got := s.Settle(ctx, "guard"); !strings.Contains(got, want) {
		t.Errorf("Settle: got %q, want %q", got, want)
	}
	hear := func() string {
		select {
		case got := <-told:
			return got
		case <-ctx.Done():
			return "nothing was told"
		}
	}
	if got := hear(); !strings.HasPrefix(got, "guard: ") || !strings.Contains(got, want) {
		t.Errorf("told: got %q, want %q", got, want)
	}
	w.mended.Store(true)
	if got := hear(); got != "guard: " {
		t.Errorf("told after it was mended: got %q, want no fault", got)
	}
	if got := s.Settle(ctx, "guard"); got != "" {
		t.Errorf("Settle after it was mended: got %q", got)
	}
}
