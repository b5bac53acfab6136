package main

import (
	"context"
	"errors"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"keelson.dev/keelson/plugins/kit"
)

// NodePublishVolume implements CSI: it mounts the volume's folder at the target.
func (d *driver) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case r.GetVolumeId() == "" || r.GetTargetPath() == "" || r.GetVolumeCapability() == nil:
		return nil, status.Error(codes.InvalidArgument, "volume_id, target_path and volume_capability are required")
	case r.GetVolumeCapability().GetBlock() != nil:
		return nil, status.Error(codes.InvalidArgument, "volume_capability: a folder is no block device")
	}
	if _, err := d.read(r.GetVolumeId()); err != nil {
		return nil, status.Errorf(codes.NotFound, "volume %q", r.GetVolumeId())
	}
	if err := bind(d.data(r.GetVolumeId()), r.GetTargetPath(), r.GetReadonly()); err != nil {
		return nil, status.Errorf(codes.Internal, "publish volume %s at %s: %v", r.GetVolumeId(), r.GetTargetPath(), err)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// NodeUnpublishVolume implements CSI.
func (d *driver) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.GetVolumeId() == "" || r.GetTargetPath() == "" {
		return nil, status.Error(codes.InvalidArgument, "volume_id and target_path are required")
	}
	if err := unbind(r.GetTargetPath()); err != nil {
		return nil, status.Errorf(codes.Internal, "unpublish volume %s: %v", r.GetVolumeId(), err)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// bind mounts a folder at a target, which it makes. What is mounted already stays.
func bind(folder, target string, readOnly bool) error {
	if err := os.MkdirAll(target, 0o750); err != nil {
		return err
	}
	from, err := os.Stat(folder)
	if err != nil {
		return err
	}
	if at, err := os.Stat(target); err == nil && os.SameFile(from, at) {
		return nil
	}
	if err := unix.Mount(folder, target, "", unix.MS_BIND, ""); err != nil {
		return errors.Join(err, os.Remove(target))
	}
	if !readOnly {
		return nil
	}
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return errors.Join(err, unbind(target))
	}
	return nil
}

// unbind undoes bind; what is not there is no error.
func unbind(target string) error {
	// EINVAL: nothing is mounted there.
	if err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return err
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

var (
	_ kit.Runner           = (*driver)(nil)
	_ csi.IdentityServer   = (*driver)(nil)
	_ csi.ControllerServer = (*driver)(nil)
	_ csi.NodeServer       = (*driver)(nil)
)
