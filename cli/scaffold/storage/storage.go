package examples

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"keelson.dev/keelson/plugins/kit"
)

// storage makes volumes that are folders, and publishes them as symbolic links: enough for
// the contract, not for pods.
var storage = kit.Plugin{
	Kind: "storage", Description: "Volumes that are folders.", Scope: kit.ScopeNode,
	New: func(env *kit.Env) (kit.Runner, error) {
		d := &Storage{Dir: filepath.Join(env.DataDir, "volumes"), Node: env.Node.Name}
		return serve(env, func(s *grpc.Server) {
			csi.RegisterIdentityServer(s, d)
			csi.RegisterControllerServer(s, d)
			csi.RegisterNodeServer(s, d)
		})
	},
}

// Storage is CSI over folders below Dir.
type Storage struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer
	// Dir has a folder for each volume, Node is the node's name.
	Dir, Node string

	mu sync.Mutex // one call at a time
}

// GetPluginInfo implements CSI.
func (*Storage) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: "folders.example.keelson.dev", VendorVersion: "1.0.0"}, nil
}

// Probe implements CSI.
func (*Storage) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

// GetPluginCapabilities implements CSI.
func (*Storage) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{{Type: &csi.PluginCapability_Service_{
		Service: &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE},
	}}}}, nil
}

// ControllerGetCapabilities implements CSI.
func (*Storage) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	return &csi.ControllerGetCapabilitiesResponse{Capabilities: []*csi.ControllerServiceCapability{{Type: &csi.ControllerServiceCapability_Rpc{
		Rpc: &csi.ControllerServiceCapability_RPC{Type: csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME},
	}}}}, nil
}

// NodeGetCapabilities implements CSI: volumes need no staging.
func (*Storage) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

// NodeGetInfo implements CSI.
func (d *Storage) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: d.Node}, nil
}

var validID = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

func (d *Storage) folder(id string) string { return filepath.Join(d.Dir, id) }

// volume is what is kept of one beside its data.
type volume struct {
	Size int64 `json:"size"`
}

func (d *Storage) read(id string) (v volume, err error) {
	if !validID.MatchString(id) {
		return v, os.ErrNotExist
	}
	data, err := os.ReadFile(filepath.Join(d.folder(id), "volume.json"))
	if err == nil {
		err = json.Unmarshal(data, &v)
	}
	return v, err
}

// CreateVolume implements CSI.
func (d *Storage) CreateVolume(_ context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !validID.MatchString(r.GetName()) {
		return nil, status.Errorf(codes.InvalidArgument, "name: %q is no DNS label", r.GetName())
	}
	if len(r.GetVolumeCapabilities()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "volume_capabilities: Required value")
	}
	want := volume{Size: r.GetCapacityRange().GetRequiredBytes()}
	have, err := d.read(r.GetName())
	switch {
	case err == nil && have != want:
		return nil, status.Errorf(codes.AlreadyExists, "volume %s has %d bytes", r.GetName(), have.Size)
	case errors.Is(err, os.ErrNotExist):
		data, marshalled := json.Marshal(want)
		if err = errors.Join(marshalled, os.MkdirAll(filepath.Join(d.folder(r.GetName()), "data"), 0o700)); err == nil {
			err = os.WriteFile(filepath.Join(d.folder(r.GetName()), "volume.json"), data, 0o600)
		}
	}
	if err != nil {
		return nil, status.Errorf(codes.Internal, "make volume %s: %v", r.GetName(), err)
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{VolumeId: r.GetName(), CapacityBytes: want.Size}}, nil
}

// DeleteVolume implements CSI.
func (d *Storage) DeleteVolume(_ context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.GetVolumeId() == "" {
		return nil, status.Error(codes.InvalidArgument, "volume_id: Required value")
	}
	if validID.MatchString(r.GetVolumeId()) {
		if err := os.RemoveAll(d.folder(r.GetVolumeId())); err != nil {
			return nil, status.Errorf(codes.Internal, "delete volume %s: %v", r.GetVolumeId(), err)
		}
	}
	return &csi.DeleteVolumeResponse{}, nil
}

// ValidateVolumeCapabilities implements CSI.
func (d *Storage) ValidateVolumeCapabilities(_ context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if _, err := d.read(r.GetVolumeId()); err != nil {
		return nil, status.Errorf(codes.NotFound, "volume %q", r.GetVolumeId())
	}
	return &csi.ValidateVolumeCapabilitiesResponse{
		Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{VolumeCapabilities: r.GetVolumeCapabilities()},
	}, nil
}

// NodePublishVolume implements CSI.
func (d *Storage) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.GetVolumeId() == "" || r.GetTargetPath() == "" || r.GetVolumeCapability() == nil {
		return nil, status.Error(codes.InvalidArgument, "volume_id, target_path and volume_capability are required")
	}
	if _, err := d.read(r.GetVolumeId()); err != nil {
		return nil, status.Errorf(codes.NotFound, "volume %q", r.GetVolumeId())
	}
	data := filepath.Join(d.folder(r.GetVolumeId()), "data")
	if at, err := os.Readlink(r.GetTargetPath()); err == nil {
		if at != data {
			return nil, status.Errorf(codes.AlreadyExists, "%s is taken", r.GetTargetPath())
		}
		return &csi.NodePublishVolumeResponse{}, nil
	}
	if err := os.Symlink(data, r.GetTargetPath()); err != nil {
		return nil, status.Errorf(codes.Internal, "publish volume %s: %v", r.GetVolumeId(), err)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// NodeUnpublishVolume implements CSI.
func (d *Storage) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.GetVolumeId() == "" || r.GetTargetPath() == "" {
		return nil, status.Error(codes.InvalidArgument, "volume_id and target_path are required")
	}
	if err := os.Remove(r.GetTargetPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, status.Errorf(codes.Internal, "unpublish volume %s: %v", r.GetVolumeId(), err)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}
