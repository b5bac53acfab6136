package kubelet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
)

// bindSubPath makes a path inside a volume mountable by a container: the path is opened without ever leaving the volume, and what was opened is
// bound to a place of our own, so that nobody can put a link there between check and use.
func (v *volumes) bindSubPath(uid types.UID, volume, container string, index int, root, sub string) (string, error) {
	if filepath.IsAbs(sub) || strings.Contains("/"+sub+"/", "/../") {
		return "", fmt.Errorf("subPath %q must be relative and must not contain '..'", sub)
	}
	fd, err := openInside(root, sub)
	if errors.Is(err, unix.ENOENT) {
		if err := makeInside(root, sub); err != nil {
			return "", err
		}
		fd, err = openInside(root, sub)
	}
	if err != nil {
		return "", fmt.Errorf("open subPath %q of volume %q: %w", sub, volume, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", fmt.Errorf("open subPath %q of volume %q: %w", sub, volume, err)
	}
	target := filepath.Join(v.podDir(uid), "volume-subpaths", volume, container, strconv.Itoa(index))
	if err := mountPoint(target, st.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
		return "", err
	}
	if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(fd), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("bind subPath %q of volume %q: %w", sub, volume, err)
	}
	return target, nil
}

func openInside(root, sub string) (int, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	return unix.Openat2(dir, filepath.Clean(sub), &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS})
}

// makeInside creates missing folders of a subPath with the volume's own permissions.
func makeInside(root, sub string) error {
	info, err := os.Stat(root)
	if err != nil {
		return fmt.Errorf("create subPath: %w", err)
	}
	r, err := os.OpenRoot(root)
	if err != nil {
		return fmt.Errorf("create subPath: %w", err)
	}
	defer r.Close()
	path := ""
	for part := range strings.SplitSeq(filepath.Clean(sub), "/") {
		path = filepath.Join(path, part)
		err := r.Mkdir(path, 0o750)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("create subPath: %w", err)
		}
		if err := r.Chmod(path, info.Mode()&(fs.ModePerm|fs.ModeSetgid)); err != nil {
			return fmt.Errorf("create subPath: %w", err)
		}
		if st, ok := sysGroup(info); ok {
			_ = r.Chown(path, -1, st)
		}
	}
	return nil
}

// mountPoint leaves a fresh folder or file at target, whatever was mounted there before.
func mountPoint(target string, dir bool) error {
	if mounted, err := mountinfo.Mounted(target); err == nil && mounted {
		if err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount old subPath: %w", err)
		}
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove old subPath: %w", err)
	}
	if dir {
		if err := os.MkdirAll(target, 0o750); err != nil {
			return fmt.Errorf("create mount point: %w", err)
		}
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return fmt.Errorf("create mount point: %w", err)
	}
	if err := os.WriteFile(target, nil, 0o640); err != nil {
		return fmt.Errorf("create mount point: %w", err)
	}
	return nil
}

func sysGroup(info fs.FileInfo) (int, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Gid), true
}
