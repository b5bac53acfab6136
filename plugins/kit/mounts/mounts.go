// Package mounts is how plugins take mounts away again. It starts no goroutine.
package mounts

import (
	"errors"
	"fmt"
	"slices"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Detach detaches what is mounted on target, also several times; nothing mounted is no
// error. Links are not followed.
func Detach(target string) error {
	for range 16 {
		err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		case err != nil:
			return fmt.Errorf("unmount %s: %w", target, err)
		}
	}
	return nil
}

// DetachBelow detaches all mounts at and below dir, the innermost first.
func DetachBelow(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("read the mounts below %s: %w", dir, err)
	}
	for _, mount := range slices.Backward(mounts) {
		if err := Detach(mount.Mountpoint); err != nil {
			return err
		}
	}
	return nil
}
