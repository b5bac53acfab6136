package main

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

// driver is one activation of the plugin: CSI over folders.
type driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer
	env    *kit.Env
	config Config

	mu sync.Mutex // one call at a time: what changes folders and mounts
}

// newDriver checks the configuration and allocates. It starts nothing.
func newDriver(env *kit.Env) (*driver, error) {
	d := &driver{env: env}
	err := env.LoadConfig(&d.config)
	if d.config.Dir == "" {
		d.config.Dir = filepath.Join(env.DataDir, "volumes")
	}
	return d, err
}

// Start serves until ctx ends. Volumes stay mounted.
func (d *driver) Start(ctx context.Context) error {
	d.env.Health.SetReady()
	return d.env.ServeGRPC(ctx, func(s *grpc.Server) {
		csi.RegisterIdentityServer(s, d)
		csi.RegisterControllerServer(s, d)
		csi.RegisterNodeServer(s, d)
	})
}

// GetPluginInfo implements CSI.
func (d *driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: name + ".example.keelson.dev", VendorVersion: d.env.Version}, nil
}

// Probe implements CSI.
func (*driver) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

// GetPluginCapabilities implements CSI.
func (*driver) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{{Type: &csi.PluginCapability_Service_{
		Service: &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE},
	}}}}, nil
}

// ControllerGetCapabilities implements CSI.
func (*driver) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	return &csi.ControllerGetCapabilitiesResponse{Capabilities: []*csi.ControllerServiceCapability{{Type: &csi.ControllerServiceCapability_Rpc{
		Rpc: &csi.ControllerServiceCapability_RPC{Type: csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME},
	}}}}, nil
}

// NodeGetCapabilities implements CSI: volumes need no staging.
func (*driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

// NodeGetInfo implements CSI.
func (d *driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: d.env.Node.Name}, nil
}

// validID keeps names of volumes from leaving the folder.
var validID = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

func (d *driver) folder(id string) string { return filepath.Join(d.config.Dir, id) }

// volume is what is kept of one beside its data.
type volume struct {
	Size int64 `json:"size"` // as asked for, in bytes; a folder has no limit
}

func (d *driver) read(id string) (v volume, err error) {
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
func (d *driver) CreateVolume(_ context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
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
		err = d.make(r.GetName(), want)
	}
	if err != nil {
		return nil, status.Errorf(codes.Internal, "make volume %s: %v", r.GetName(), err)
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{VolumeId: r.GetName(), CapacityBytes: want.Size}}, nil
}

// make makes a volume's folders. The record comes last: without it there is no volume.
func (d *driver) make(id string, v volume) error {
	record, err := json.Marshal(v)
	if err == nil {
		err = os.MkdirAll(d.data(id), 0o700)
	}
	if err == nil {
		err = os.Chmod(d.data(id), 0o777) // pods have users of their own
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(d.folder(id), "volume.json"), record, 0o600)
	}
	return err
}

// data is what of a volume is mounted.
func (d *driver) data(id string) string { return filepath.Join(d.folder(id), "data") }

// DeleteVolume implements CSI.
func (d *driver) DeleteVolume(_ context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.GetVolumeId() == "" {
		return nil, status.Error(codes.InvalidArgument, "volume_id: Required value")
	}
	if validID.MatchString(r.GetVolumeId()) { // else there is no such volume
		if err := os.RemoveAll(d.folder(r.GetVolumeId())); err != nil {
			return nil, status.Errorf(codes.Internal, "delete volume %s: %v", r.GetVolumeId(), err)
		}
	}
	return &csi.DeleteVolumeResponse{}, nil
}

// ValidateVolumeCapabilities implements CSI.
func (d *driver) ValidateVolumeCapabilities(_ context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if _, err := d.read(r.GetVolumeId()); err != nil {
		return nil, status.Errorf(codes.NotFound, "volume %q", r.GetVolumeId())
	}
	return &csi.ValidateVolumeCapabilitiesResponse{
		Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{VolumeCapabilities: r.GetVolumeCapabilities()},
	}, nil
}
