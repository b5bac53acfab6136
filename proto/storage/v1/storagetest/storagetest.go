// Package storagetest is the suite that every storage plugin passes, in memory and as a
// process: what Keelson relies on of CSI v1. csi-sanity has all of it.
package storagetest

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/util/validation"

	"keelson.dev/keelson/proto/contracttest"
)

// Options say what the suite cannot know.
type Options struct {
	// New is a connection with a plugin that is active; both end with the test.
	New func(t *testing.T) *grpc.ClientConn
	// Parameters of the volumes that are made (a StorageClass's).
	Parameters map[string]string
	// Capability of the volumes; nil is a mounted one, ReadWriteOnce.
	Capability *csi.VolumeCapability
	// Size of the volumes in bytes; 0 is 1 MiB.
	Size int64
	// Dir is a folder in which volumes may be staged and published.
	Dir func(t *testing.T) string
}

// Run runs the suite.
func Run(t *testing.T, o Options) {
	if o.Capability == nil {
		o.Capability = &csi.VolumeCapability{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		}
	}
	if o.Size == 0 {
		o.Size = 1 << 20
	}
	contracttest.Run(t, func(ctx context.Context, t *testing.T) *run {
		conn := o.New(t)
		r := &run{Options: o, ctx: ctx, IdentityClient: csi.NewIdentityClient(conn), ControllerClient: csi.NewControllerClient(conn), NodeClient: csi.NewNodeClient(conn)}
		r.learn(t)
		return r
	}, contracttest.Cases[*run]{
		{"Identity", identity},
		{"NodeInfo", nodeInfo},
		{"CreateRefusesBadRequests", createBad},
		{"CreateTwice", createTwice},
		{"DeleteTwice", deleteTwice},
		{"ValidateUnknownVolume", validateUnknown},
		{"PublishRefusesBadRequests", publishBad},
		{"PublishUnknownVolume", publishUnknown},
		{"DataOutlivesItsPublication", dataStays},
		{"PublishTwice", publishTwice},
		{"UnpublishTwice", unpublishTwice},
		{"VolumesDiffer", volumesDiffer},
	})
}

type run struct {
	Options
	csi.IdentityClient
	csi.ControllerClient
	csi.NodeClient
	ctx    context.Context
	makes  bool // it has a controller that makes volumes
	stages bool
}

func (r *run) learn(t *testing.T) {
	t.Helper()
	got, err := r.IdentityClient.GetPluginCapabilities(r.ctx, &csi.GetPluginCapabilitiesRequest{})
	if err != nil {
		t.Fatalf("GetPluginCapabilities: %v", err)
	}
	if slices.ContainsFunc(got.GetCapabilities(), func(c *csi.PluginCapability) bool {
		return c.GetService().GetType() == csi.PluginCapability_Service_CONTROLLER_SERVICE
	}) {
		caps, err := r.ControllerGetCapabilities(r.ctx, &csi.ControllerGetCapabilitiesRequest{})
		if err != nil {
			t.Fatalf("ControllerGetCapabilities: %v", err)
		}
		r.makes = slices.ContainsFunc(caps.GetCapabilities(), func(c *csi.ControllerServiceCapability) bool {
			return c.GetRpc().GetType() == csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME
		})
	}
	node, err := r.NodeGetCapabilities(r.ctx, &csi.NodeGetCapabilitiesRequest{})
	if err != nil {
		t.Fatalf("NodeGetCapabilities: %v", err)
	}
	r.stages = slices.ContainsFunc(node.GetCapabilities(), func(c *csi.NodeServiceCapability) bool {
		return c.GetRpc().GetType() == csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME
	})
}

func (r *run) needsController(t *testing.T) {
	t.Helper()
	if !r.makes {
		t.Log("the plugin makes no volumes: nothing to see here")
		t.SkipNow()
	}
}

func identity(t *testing.T, r *run) {
	info, err := r.GetPluginInfo(r.ctx, &csi.GetPluginInfoRequest{})
	if err != nil {
		t.Fatalf("GetPluginInfo: %v", err)
	}
	if faults := validation.IsDNS1123Subdomain(info.GetName()); len(faults) > 0 || len(info.GetName()) > 63 {
		t.Errorf("name %q: %v, want a domain name of at most 63 bytes", info.GetName(), faults)
	}
	if info.GetVendorVersion() == "" {
		t.Error("the version is empty")
	}
	for {
		probe, err := r.Probe(r.ctx, &csi.ProbeRequest{})
		if err != nil {
			t.Fatalf("Probe: %v", err)
		}
		if probe.GetReady() == nil || probe.GetReady().GetValue() {
			return
		}
		select {
		case <-r.ctx.Done():
			t.Fatal("Probe does not come to ready")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func nodeInfo(t *testing.T, r *run) {
	first, err := r.NodeGetInfo(r.ctx, &csi.NodeGetInfoRequest{})
	if err != nil || first.GetNodeId() == "" || len(first.GetNodeId()) > 256 || first.GetMaxVolumesPerNode() < 0 {
		t.Fatalf("NodeGetInfo: got %v, %v, want an identity of at most 256 bytes", first, err)
	}
	if second, err := r.NodeGetInfo(r.ctx, &csi.NodeGetInfoRequest{}); err != nil || !proto.Equal(first, second) {
		t.Errorf("NodeGetInfo differs the second time: %v, %v, %v", first, second, err)
	}
}

func (r *run) createRequest(name string) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: r.Size},
		VolumeCapabilities: []*csi.VolumeCapability{r.Capability}, Parameters: r.Parameters,
	}
}

// create makes a volume that goes with the test.
func (r *run) create(t *testing.T, name string) *csi.Volume {
	t.Helper()
	got, err := r.CreateVolume(r.ctx, r.createRequest(name))
	if err != nil || got.GetVolume().GetVolumeId() == "" {
		t.Fatalf("CreateVolume %s: got %v, %v, want a volume with an identity", name, got, err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), 10*time.Second)
		defer cancel()
		if _, err := r.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: got.GetVolume().GetVolumeId()}); err != nil {
			t.Errorf("DeleteVolume %s: %v", name, err)
		}
	})
	return got.GetVolume()
}

func createBad(t *testing.T, r *run) {
	r.needsController(t)
	_, err := r.CreateVolume(r.ctx, r.createRequest(""))
	wantCode(t, "CreateVolume without a name", err, codes.InvalidArgument)
	request := r.createRequest("no-capabilities")
	request.VolumeCapabilities = nil
	_, err = r.CreateVolume(r.ctx, request)
	wantCode(t, "CreateVolume without capabilities", err, codes.InvalidArgument)
	_, err = r.DeleteVolume(r.ctx, &csi.DeleteVolumeRequest{})
	wantCode(t, "DeleteVolume without an identity", err, codes.InvalidArgument)
}

func createTwice(t *testing.T, r *run) {
	r.needsController(t)
	first, second := r.create(t, "twice"), r.create(t, "twice")
	if first.GetVolumeId() != second.GetVolumeId() {
		t.Errorf("CreateVolume of one name made %q and %q", first.GetVolumeId(), second.GetVolumeId())
	}
	if c := first.GetCapacityBytes(); c != 0 && c < r.Size {
		t.Errorf("capacity: got %d bytes, want %d at least", c, r.Size)
	}
	other := r.createRequest("twice")
	other.CapacityRange = &csi.CapacityRange{RequiredBytes: 64 * r.Size}
	_, err := r.CreateVolume(r.ctx, other)
	wantCode(t, "CreateVolume of the same name and another size", err, codes.AlreadyExists)
}

func deleteTwice(t *testing.T, r *run) {
	r.needsController(t)
	id := r.create(t, "gone").GetVolumeId()
	for _, id := range []string{id, id, "never-heard-of"} {
		if _, err := r.DeleteVolume(r.ctx, &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
			t.Errorf("DeleteVolume %s: %v", id, err)
		}
	}
}

func validateUnknown(t *testing.T, r *run) {
	r.needsController(t)
	_, err := r.ValidateVolumeCapabilities(r.ctx, &csi.ValidateVolumeCapabilitiesRequest{VolumeId: "never-heard-of", VolumeCapabilities: []*csi.VolumeCapability{r.Capability}})
	wantCode(t, "ValidateVolumeCapabilities of an unknown volume", err, codes.NotFound)
	id := r.create(t, "valid").GetVolumeId()
	got, err := r.ValidateVolumeCapabilities(r.ctx, &csi.ValidateVolumeCapabilitiesRequest{VolumeId: id, VolumeCapabilities: []*csi.VolumeCapability{r.Capability}})
	if err != nil || got.GetConfirmed() == nil {
		t.Errorf("ValidateVolumeCapabilities: got %v, %v, want them confirmed", got, err)
	}
}

func publishBad(t *testing.T, r *run) {
	target := filepath.Join(r.Dir(t), "target")
	for name, request := range map[string]*csi.NodePublishVolumeRequest{
		"an identity":  {TargetPath: target, VolumeCapability: r.Capability},
		"a target":     {VolumeId: "x", VolumeCapability: r.Capability},
		"a capability": {VolumeId: "x", TargetPath: target},
	} {
		_, err := r.NodePublishVolume(r.ctx, request)
		wantCode(t, "NodePublishVolume without "+name, err, codes.InvalidArgument)
	}
	_, err := r.NodeUnpublishVolume(r.ctx, &csi.NodeUnpublishVolumeRequest{TargetPath: target})
	wantCode(t, "NodeUnpublishVolume without an identity", err, codes.InvalidArgument)
	_, err = r.NodeUnpublishVolume(r.ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: "x"})
	wantCode(t, "NodeUnpublishVolume without a target", err, codes.InvalidArgument)
}

func publishUnknown(t *testing.T, r *run) {
	r.needsController(t)
	dir := r.Dir(t)
	_, err := r.NodePublishVolume(r.ctx, &csi.NodePublishVolumeRequest{
		VolumeId: "never-heard-of", TargetPath: filepath.Join(dir, "target"), StagingTargetPath: dir, VolumeCapability: r.Capability,
	})
	wantCode(t, "NodePublishVolume of an unknown volume", err, codes.NotFound)
}

// publication is a volume at a path.
type publication struct {
	*run
	volume          *csi.Volume
	staging, target string
}

// publish stages and publishes a volume.
func (r *run) publish(t *testing.T, v *csi.Volume) *publication {
	t.Helper()
	dir := r.Dir(t)
	p := &publication{run: r, volume: v, staging: filepath.Join(dir, "staging"), target: filepath.Join(dir, "target")}
	if err := os.MkdirAll(p.staging, 0o700); err != nil {
		t.Fatal(err)
	}
	p.again(t)
	return p
}

func (p *publication) again(t *testing.T) {
	t.Helper()
	if p.stages {
		if _, err := p.NodeStageVolume(p.ctx, &csi.NodeStageVolumeRequest{
			VolumeId: p.volume.GetVolumeId(), StagingTargetPath: p.staging, VolumeCapability: p.Capability, VolumeContext: p.volume.GetVolumeContext(),
		}); err != nil {
			t.Fatalf("NodeStageVolume: %v", err)
		}
	}
	request := &csi.NodePublishVolumeRequest{
		VolumeId: p.volume.GetVolumeId(), TargetPath: p.target, VolumeCapability: p.Capability, VolumeContext: p.volume.GetVolumeContext(),
	}
	if p.stages {
		request.StagingTargetPath = p.staging
	}
	if _, err := p.NodePublishVolume(p.ctx, request); err != nil {
		t.Fatalf("NodePublishVolume: %v", err)
	}
}

func (p *publication) end(t *testing.T) {
	t.Helper()
	if _, err := p.NodeUnpublishVolume(p.ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: p.volume.GetVolumeId(), TargetPath: p.target}); err != nil {
		t.Fatalf("NodeUnpublishVolume: %v", err)
	}
	if p.stages {
		if _, err := p.NodeUnstageVolume(p.ctx, &csi.NodeUnstageVolumeRequest{VolumeId: p.volume.GetVolumeId(), StagingTargetPath: p.staging}); err != nil {
			t.Fatalf("NodeUnstageVolume: %v", err)
		}
	}
	if _, err := os.Lstat(p.target); err == nil {
		t.Errorf("%s is left behind", p.target)
	}
}

func (p *publication) file() string { return filepath.Join(p.target, "file") }

func dataStays(t *testing.T, r *run) {
	r.needsController(t)
	p := r.publish(t, r.create(t, "data"))
	want := []byte("kept")
	if err := os.WriteFile(p.file(), want, 0o600); err != nil {
		t.Fatal(err)
	}
	p.end(t)
	if _, err := os.Stat(p.file()); err == nil {
		t.Error("what was written can still be seen where the volume was published")
	}
	p.again(t)
	if got, err := os.ReadFile(p.file()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("after it was published again: got %q, %v, want %q", got, err, want)
	}
	p.end(t)
}

func publishTwice(t *testing.T, r *run) {
	r.needsController(t)
	p := r.publish(t, r.create(t, "published"))
	if err := os.WriteFile(p.file(), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.again(t)
	if _, err := os.Stat(p.file()); err != nil {
		t.Errorf("published twice: %v", err)
	}
	p.end(t)
}

func unpublishTwice(t *testing.T, r *run) {
	r.needsController(t)
	p := r.publish(t, r.create(t, "ended"))
	p.end(t)
	p.end(t)
}

func volumesDiffer(t *testing.T, r *run) {
	r.needsController(t)
	a, b := r.publish(t, r.create(t, "a")), r.publish(t, r.create(t, "b"))
	if err := os.WriteFile(a.file(), []byte("a"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(b.file()); err == nil {
		t.Error("what is written to one volume is in another")
	}
	a.end(t)
	b.end(t)
}

func wantCode(t *testing.T, what string, err error, code codes.Code) {
	t.Helper()
	if got := status.Code(err); got != code {
		t.Errorf("%s: got code %s (%v), want %s", what, got, err, code)
	}
}
