package runtimetest

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/keelson/proto/contracttest"
)

// IdleOptions say what RunIdle cannot know.
type IdleOptions struct {
	// New is a connection with a runtime that is active; both end with the test.
	New func(t *testing.T) *grpc.ClientConn
}

// RunIdle runs the tests of the contract that need no container, no image, no network and no
// rights: what any machine can hold a runtime to, one with pods too. Run has the others.
func RunIdle(t *testing.T, o IdleOptions) {
	contracttest.Run(t, func(ctx context.Context, t *testing.T) *idle {
		conn := o.New(t)
		return &idle{ctx, cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)}
	}, contracttest.Cases[*idle]{
		{"Version", idleVersion},
		{"Status", idleStatus},
		{"Lists", idleLists},
		{"UnknownIsNotFound", idleUnknown},
		{"RemovesWhatIsGone", idleRemoves},
		{"UnknownImage", idleImage},
		{"ImageFilesystem", idleFilesystem},
	})
}

type idle struct {
	ctx context.Context
	cri.RuntimeServiceClient
	cri.ImageServiceClient
}

// nobody is an identity that nothing has.
const nobody = "0000000000000000000000000000000000000000000000000000000000000000"

func idleVersion(t *testing.T, r *idle) {
	got, err := r.Version(r.ctx, &cri.VersionRequest{})
	if err != nil || got.GetRuntimeName() == "" || got.GetRuntimeVersion() == "" || got.GetRuntimeApiVersion() != "v1" {
		t.Errorf("Version: got %v, %v, want a name, a version and API v1", got, err)
	}
}

func idleStatus(t *testing.T, r *idle) {
	got, err := r.RuntimeServiceClient.Status(r.ctx, &cri.StatusRequest{})
	if err != nil {
		t.Fatalf("Status: %v", err)
	}
	has := map[string]bool{}
	for _, c := range got.GetStatus().GetConditions() {
		has[c.GetType()] = true
		if !c.GetStatus() && c.GetMessage() == "" && c.GetReason() == "" {
			t.Errorf("condition %s is false and says no reason", c.GetType())
		}
	}
	for _, name := range []string{cri.RuntimeReady, cri.NetworkReady} {
		if !has[name] {
			t.Errorf("Status has no condition %s", name)
		}
	}
}

func idleLists(t *testing.T, r *idle) {
	pods, err := r.ListPodSandbox(r.ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{LabelSelector: map[string]string{"no-such-label": nobody}}})
	if err != nil || len(pods.GetItems()) > 0 {
		t.Errorf("ListPodSandbox with a label that none has: got %v, %v", pods, err)
	}
	containers, err := r.ListContainers(r.ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{LabelSelector: map[string]string{"no-such-label": nobody}}})
	if err != nil || len(containers.GetContainers()) > 0 {
		t.Errorf("ListContainers with a label that none has: got %v, %v", containers, err)
	}
	if _, err := r.ListImages(r.ctx, &cri.ListImagesRequest{}); err != nil {
		t.Errorf("ListImages: %v", err)
	}
}

func idleUnknown(t *testing.T, r *idle) {
	_, err := r.PodSandboxStatus(r.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: nobody})
	wantCode(t, "PodSandboxStatus of an unknown sandbox", err, codes.NotFound)
	_, err = r.ContainerStatus(r.ctx, &cri.ContainerStatusRequest{ContainerId: nobody})
	wantCode(t, "ContainerStatus of an unknown container", err, codes.NotFound)
}

func idleRemoves(t *testing.T, r *idle) {
	for range 2 {
		if _, err := r.RemoveContainer(r.ctx, &cri.RemoveContainerRequest{ContainerId: nobody}); err != nil {
			t.Errorf("RemoveContainer of what is not there: %v", err)
		}
		if _, err := r.RemovePodSandbox(r.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: nobody}); err != nil {
			t.Errorf("RemovePodSandbox of what is not there: %v", err)
		}
	}
}

func idleImage(t *testing.T, r *idle) {
	got, err := r.ImageStatus(r.ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: "registry.invalid/no/such:image"}})
	if err != nil || got.GetImage() != nil {
		t.Errorf("ImageStatus of an unknown image: got %v, %v, want none and no error", got, err)
	}
}

func idleFilesystem(t *testing.T, r *idle) {
	got, err := r.ImageFsInfo(r.ctx, &cri.ImageFsInfoRequest{})
	if err != nil || len(got.GetImageFilesystems()) == 0 {
		t.Errorf("ImageFsInfo: got %v, %v, want a filesystem", got, err)
	}
}
