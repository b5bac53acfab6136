// Package networktest is the suite that every network plugin passes.
package networktest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"keelson.dev/keelson/proto/contracttest"
	networkv1 "keelson.dev/keelson/proto/network/v1"
)

// Options say what the suite cannot know.
type Options struct {
	// New is a client of a network plugin that is ready and has a pod range; both end
	// with the test.
	New func(t *testing.T) networkv1.NetworkServiceClient
	// Netns makes a network namespace and returns its path; remove deletes it and may be
	// called more than once.
	Netns func(t *testing.T) (path string, remove func())
}

// Run runs the suite.
func Run(t *testing.T, o Options) {
	contracttest.Run(t, func(ctx context.Context, t *testing.T) *run {
		return &run{Options: o, client: o.New(t), ctx: ctx}
	}, contracttest.Cases[*run]{
		{"StatusIsReady", statusReady},
		{"SetupGivesAnAddressOfTheRange", setup},
		{"SetupTwiceGivesTheSame", setupTwice},
		{"SandboxesDiffer", differ},
		{"Concurrent", concurrent},
		{"SetupRefusesNoSandboxID", noID},
		{"SetupRefusesNoNetns", noNetns},
		{"SetupRefusesBadRequests", badRequests},
		{"TeardownTwice", teardownTwice},
		{"TeardownUnknown", teardownUnknown},
		{"TeardownAfterTheNamespaceIsGone", teardownGone},
		{"SetupAfterTeardown", setupAgain},
	})
}

type run struct {
	Options
	client networkv1.NetworkServiceClient
	ctx    context.Context
}

func statusReady(t *testing.T, r *run) {
	got, err := r.client.Status(r.ctx, &networkv1.StatusRequest{})
	if err != nil || !got.GetReady() {
		t.Fatalf("Status: got %v, %v, want ready", got, err)
	}
	if len(got.GetPodCidrs()) == 0 {
		t.Error("Status names no pod range")
	}
}

func setup(t *testing.T, r *run) {
	state, err := r.client.Status(r.ctx, &networkv1.StatusRequest{})
	if err != nil {
		t.Fatalf("Status: %v", err)
	}
	got := r.setup(t, r.request(t, "one"))
	if got.GetInterface() == "" || got.GetMtu() < 576 || len(got.GetGateways()) != len(got.GetAddresses()) {
		t.Errorf("Setup: got %v, want an interface, an MTU and a gateway for each address", got)
	}
	for _, a := range got.GetAddresses() {
		addr, err := parse(a)
		if err != nil {
			t.Errorf("address %q: %v", a, err)
			continue
		}
		if !slices.ContainsFunc(state.GetPodCidrs(), func(c string) bool {
			p, err := netip.ParsePrefix(c)
			return err == nil && p.Contains(addr)
		}) {
			t.Errorf("address %s is in none of %v", a, state.GetPodCidrs())
		}
	}
}

func setupTwice(t *testing.T, r *run) {
	request := r.request(t, "twice")
	first, second := r.setup(t, request), r.setup(t, request)
	if !slices.Equal(first.GetAddresses(), second.GetAddresses()) {
		t.Errorf("addresses changed from %v to %v", first.GetAddresses(), second.GetAddresses())
	}
}

func differ(t *testing.T, r *run) {
	a, b := r.setup(t, r.request(t, "a")), r.setup(t, r.request(t, "b"))
	if a.GetAddresses()[0] == b.GetAddresses()[0] {
		t.Errorf("two sandboxes have the address %s", a.GetAddresses()[0])
	}
}

func concurrent(t *testing.T, r *run) {
	const n = 8
	var mu sync.Mutex // guards seen
	seen := map[string]string{}
	var wg sync.WaitGroup
	for i := range n {
		request := r.request(t, fmt.Sprintf("concurrent-%d", i))
		wg.Go(func() {
			got, err := r.client.Setup(r.ctx, request)
			if err != nil || len(got.GetAddresses()) == 0 {
				t.Errorf("Setup %s: got %v, %v, want an address", request.GetSandboxId(), got, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if other, ok := seen[got.GetAddresses()[0]]; ok {
				t.Errorf("%s and %s have the address %s", other, request.GetSandboxId(), got.GetAddresses()[0])
			}
			seen[got.GetAddresses()[0]] = request.GetSandboxId()
		})
	}
	wg.Wait()
}

func noID(t *testing.T, r *run) {
	request := r.request(t, "x")
	request.SandboxId = ""
	wantInvalid(t, r, request)
}

func noNetns(t *testing.T, r *run) {
	request := r.request(t, "x")
	request.Netns = ""
	wantInvalid(t, r, request)
}

func badRequests(t *testing.T, r *run) {
	for _, netns := range []string{"/no/such/netns", "/proc/self/status"} {
		request := r.request(t, "x")
		request.Netns = netns
		wantInvalid(t, r, request)
	}
	for _, m := range []*networkv1.PortMapping{
		{Protocol: "TCP", ContainerPort: 80, HostPort: 70000},
		{Protocol: "TCP", ContainerPort: 0, HostPort: 8080},
		{Protocol: "ICMP", ContainerPort: 80, HostPort: 8080},
		{Protocol: "TCP", ContainerPort: 80, HostPort: 8080, HostIp: "here"},
	} {
		request := r.request(t, "x")
		request.PortMappings = []*networkv1.PortMapping{m}
		wantInvalid(t, r, request)
	}
}

func wantInvalid(t *testing.T, r *run, request *networkv1.SetupRequest) {
	t.Helper()
	if _, err := r.client.Setup(r.ctx, request); status.Code(err) != codes.InvalidArgument {
		t.Errorf("Setup of %v: got %v, want INVALID_ARGUMENT", request, err)
	}
}

func teardownTwice(t *testing.T, r *run) {
	request := r.request(t, "gone")
	r.setup(t, request)
	for range 2 {
		r.teardown(t, request.GetSandboxId(), request.GetNetns())
	}
}

func teardownUnknown(t *testing.T, r *run) {
	r.teardown(t, "never-heard-of", "/run/netns/never-heard-of")
}

func teardownGone(t *testing.T, r *run) {
	path, remove := r.Netns(t)
	request := &networkv1.SetupRequest{SandboxId: "gone-netns", Netns: path, PodNamespace: "default", PodName: "gone", PodUid: "gone"}
	r.setup(t, request)
	remove()
	r.teardown(t, request.GetSandboxId(), path)
}

func setupAgain(t *testing.T, r *run) {
	request := r.request(t, "again")
	r.setup(t, request)
	r.teardown(t, request.GetSandboxId(), request.GetNetns())
	r.setup(t, request)
}

// request is for a sandbox with a namespace of its own; it is torn down with the test.
func (r *run) request(t *testing.T, id string) *networkv1.SetupRequest {
	t.Helper()
	path, remove := r.Netns(t)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if _, err := r.client.Teardown(ctx, &networkv1.TeardownRequest{SandboxId: id, Netns: path}); err != nil {
			t.Errorf("Teardown %s: %v", id, err)
		}
		remove()
	})
	return &networkv1.SetupRequest{SandboxId: id, Netns: path, PodNamespace: "default", PodName: id, PodUid: "uid-" + id}
}

func (r *run) setup(t *testing.T, request *networkv1.SetupRequest) *networkv1.SetupResponse {
	t.Helper()
	got, err := r.client.Setup(r.ctx, request)
	if err != nil {
		t.Fatalf("Setup %s: %v", request.GetSandboxId(), err)
	}
	if len(got.GetAddresses()) == 0 {
		t.Fatalf("Setup %s: no address", request.GetSandboxId())
	}
	return got
}

func (r *run) teardown(t *testing.T, id, netns string) {
	t.Helper()
	if _, err := r.client.Teardown(r.ctx, &networkv1.TeardownRequest{SandboxId: id, Netns: netns}); err != nil {
		t.Errorf("Teardown %s: %v", id, err)
	}
}

// parse takes an address with or without prefix length.
func parse(s string) (netip.Addr, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Addr(), nil
	}
	return netip.ParseAddr(s)
}
