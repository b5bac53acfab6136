// Package rootfs works on file systems that are not to be trusted: it unpacks
// image layers, resolves paths inside a root without ever leaving it, and mounts
// overlays. It starts no goroutine but one locked thread per mount, which it
// waits for.
package rootfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxOptions is what the kernel takes as mount options: one page.
const MaxOptions = 4095

// OpenIn opens name as a process with root as its root directory would: symbolic
// links, absolute ones too, never lead out of root.
func OpenIn(root, name string, flags int) (*os.File, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(dir)
	fd, err := openat2(dir, name, flags)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: filepath.Join(root, name), Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// ReadIn reads a file inside root, at most limit bytes of it.
func ReadIn(root, name string, limit int64) ([]byte, error) {
	f, err := OpenIn(root, name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s of the image: not a regular file", name)
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

func openat2(dir int, name string, flags int) (int, error) {
	if name == "" || name == "/" {
		name = "."
	}
	how := unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for {
		fd, err := unix.Openat2(dir, name, &how)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		return fd, err
	}
}

// Overlay describes an overlay mount.
type Overlay struct {
	LayersDir string   // directory that Lower is relative to
	Lower     []string // bottom first
	Upper     string   // empty: read-only
	Work      string
	Volatile  bool // no sync of the upper directory at unmount: it is thrown away
}

// Mount mounts the overlay on target. With a single lower directory and no upper
// one it is a read-only bind mount.
func (o Overlay) Mount(target string) error {
	if o.Upper == "" && len(o.Lower) == 1 {
		src := filepath.Join(o.LayersDir, o.Lower[0])
		if err := unix.Mount(src, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s to %s: %w", src, target, err)
		}
		return unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	}
	lower := make([]string, 0, len(o.Lower))
	for _, dir := range slices.Backward(o.Lower) {
		lower = append(lower, dir)
	}
	opts := "lowerdir=" + strings.Join(lower, ":")
	var flags uintptr = unix.MS_RDONLY
	if o.Upper != "" {
		opts += ",upperdir=" + o.Upper + ",workdir=" + o.Work
		flags = 0
		if o.Volatile {
			opts += ",volatile"
		}
	}
	if len(opts) > MaxOptions {
		return fmt.Errorf("mount an overlay of %d layers: the kernel takes no more than %d bytes of options", len(o.Lower), MaxOptions)
	}
	return inDirectory(o.LayersDir, func() error {
		if err := unix.Mount("overlay", target, "overlay", flags, opts); err != nil {
			return fmt.Errorf("mount overlay on %s (%d layers): %w", target, len(o.Lower), err)
		}
		return nil
	})
}

// inDirectory calls f on a thread of its own whose working directory is dir:
// short relative names of layers keep the mount options within one page.
func inDirectory(dir string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- fmt.Errorf("unshare the working directory: %w", err)
			return
		}
		if err := unix.Chdir(dir); err != nil {
			done <- &os.PathError{Op: "chdir", Path: dir, Err: err}
			return
		}
		done <- f()
	}()
	return <-done
}
