package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// ErrUnsafe is what a layer gets that names paths outside the image.
var ErrUnsafe = errors.New("unsafe path in the layer")

type unpacker struct {
	root      int // directory descriptor
	parent    int // cached descriptor of parentDir, -1 without
	parentDir string
	made      map[string]struct{} // paths of this layer, for opaque directories
	dirs      []*tar.Header       // times are set last
	size      int64
}

// Unpack writes a layer (an uncompressed tar stream) over what root shows, and
// answers how many bytes of file content it had. Whiteouts remove. Paths with
// ".." are refused; symbolic links are followed within root only. When root is an
// overlay mount, its upper directory becomes the layer in overlayfs' own form.
func Unpack(ctx context.Context, root string, r io.Reader) (int64, error) {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: root, Err: err}
	}
	u := &unpacker{root: fd, parent: -1, made: map[string]struct{}{}}
	defer func() {
		u.forget()
		unix.Close(fd)
	}()
	tr := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, fmt.Errorf("read the layer: %w", err)
		}
		if err := u.entry(hdr, tr); err != nil {
			return 0, fmt.Errorf("unpack %q: %w", hdr.Name, err)
		}
	}
	// What follows the end mark belongs to the digest.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return 0, fmt.Errorf("read the layer: %w", err)
	}
	return u.size, u.directoryTimes()
}

// clean answers the path without leading slashes; "" is the root.
func clean(name string) (string, error) {
	if strings.ContainsRune(name, 0) {
		return "", ErrUnsafe
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", ErrUnsafe
		}
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}

func (u *unpacker) entry(hdr *tar.Header, content io.Reader) error {
	name, err := clean(hdr.Name)
	if err != nil {
		return err
	}
	switch hdr.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	default:
		return fmt.Errorf("unknown kind of entry %q", hdr.Typeflag)
	}
	if name == "" {
		if hdr.Typeflag != tar.TypeDir {
			return fmt.Errorf("the root has to be a directory: %w", ErrUnsafe)
		}
		return u.metadata(u.root, ".", hdr)
	}
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	parent, err := u.open(dir)
	if err != nil {
		return err
	}
	if base == opaque {
		defer u.forget() // what is removed may be cached
		return u.clear(dir)
	}
	if rest, ok := strings.CutPrefix(base, whiteout); ok {
		if rest == "" || rest == "." || rest == ".." {
			return ErrUnsafe
		}
		if strings.HasPrefix(rest, whiteout) {
			return nil // aufs' own files
		}
		defer u.forget()
		return removeAll(parent, rest)
	}
	if err := u.create(parent, base, hdr, content); err != nil {
		return err
	}
	u.made[name] = struct{}{}
	if hdr.Typeflag == tar.TypeLink {
		return nil // shares the inode, and its metadata
	}
	return u.metadata(parent, base, hdr)
}

func (u *unpacker) forget() {
	if u.parent >= 0 {
		unix.Close(u.parent)
	}
	u.parent = -1
}

// open answers a descriptor of the directory, which it makes when missing. It
// stays open until another directory is asked for.
func (u *unpacker) open(dir string) (int, error) {
	if u.parent >= 0 && u.parentDir == dir {
		return u.parent, nil
	}
	fd, err := openat2(u.root, dir, unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) && dir != "" {
		above, base := path.Split(dir)
		parent, perr := u.open(strings.TrimSuffix(above, "/"))
		if perr != nil {
			return -1, perr
		}
		if err := unix.Mkdirat(parent, base, 0o755); err != nil {
			return -1, fmt.Errorf("make directory %s: %w", dir, err)
		}
		fd, err = openat2(u.root, dir, unix.O_PATH|unix.O_DIRECTORY)
	}
	if err != nil {
		return -1, fmt.Errorf("open directory %s: %w", dir, err)
	}
	u.forget()
	u.parent, u.parentDir = fd, dir
	return fd, nil
}

// create makes the entry, in place of what is there.
func (u *unpacker) create(parent int, base string, hdr *tar.Header, content io.Reader) error {
	var st unix.Stat_t
	err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	exists := err == nil
	if exists && hdr.Typeflag == tar.TypeDir && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	if exists {
		if err := removeAll(parent, base); err != nil {
			return err
		}
	}
	dev := int(unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor)))
	switch hdr.Typeflag {
	case tar.TypeDir:
		return unix.Mkdirat(parent, base, 0o700)
	case tar.TypeSymlink:
		return unix.Symlinkat(hdr.Linkname, parent, base)
	case tar.TypeLink:
		return u.link(parent, base, hdr.Linkname)
	case tar.TypeChar:
		return unix.Mknodat(parent, base, unix.S_IFCHR|0o600, dev)
	case tar.TypeBlock:
		return unix.Mknodat(parent, base, unix.S_IFBLK|0o600, dev)
	case tar.TypeFifo:
		return unix.Mknodat(parent, base, unix.S_IFIFO|0o600, 0)
	}
	fd, err := unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	n, err := io.Copy(f, content)
	u.size += n
	return errors.Join(err, f.Close())
}

func (u *unpacker) link(parent int, base, target string) error {
	name, err := clean(target)
	if err != nil || name == "" {
		return fmt.Errorf("link to %q: %w", target, ErrUnsafe)
	}
	dir, file := path.Split(name)
	from, err := openat2(u.root, dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("link to %q: %w", target, err)
	}
	defer unix.Close(from)
	if err := unix.Linkat(from, file, parent, base, 0); err != nil {
		return fmt.Errorf("link to %q: %w", target, err)
	}
	return nil
}

// metadata sets owner, extended attributes, mode and time, in this order: a change
// of owner clears the set-uid bits and the capabilities.
func (u *unpacker) metadata(parent int, base string, hdr *tar.Header) error {
	if err := unix.Fchownat(parent, base, hdr.Uid, hdr.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set the owner: %w", err)
	}
	if hdr.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(parent, base, uint32(hdr.Mode&0o7777), 0); err != nil {
			return fmt.Errorf("set the mode: %w", err)
		}
	}
	for key, value := range hdr.PAXRecords {
		attr, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok || strings.HasPrefix(attr, "trusted.") {
			continue
		}
		file := fmt.Sprintf("/proc/self/fd/%d/%s", parent, base)
		if err := unix.Lsetxattr(file, attr, []byte(value), 0); err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("set attribute %s: %w", attr, err)
		}
	}
	if hdr.Typeflag == tar.TypeDir {
		u.dirs = append(u.dirs, hdr)
		return nil
	}
	return setTime(parent, base, hdr.ModTime)
}

func setTime(parent int, base string, t time.Time) error {
	if t.IsZero() || t.Unix() < 0 {
		t = time.Unix(0, 0)
	}
	ts := unix.NsecToTimespec(t.UnixNano())
	if err := unix.UtimesNanoAt(parent, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set the time: %w", err)
	}
	return nil
}

func (u *unpacker) directoryTimes() error {
	for _, hdr := range u.dirs {
		name, err := clean(hdr.Name)
		if err != nil {
			return err
		}
		fd, err := openat2(u.root, name, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			continue // replaced later in the layer
		}
		err = setTime(fd, ".", hdr.ModTime)
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}

// clear removes from dir what older layers put there.
func (u *unpacker) clear(dir string) error {
	fd, err := openat2(u.root, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		full := path.Join(dir, name)
		if _, ok := u.made[full]; !ok {
			if err := removeAll(fd, name); err != nil {
				return err
			}
			continue
		}
		var st unix.Stat_t
		if unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			if err := u.clear(full); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeAll removes a name and all below it without following symbolic links; a
// missing name is no error.
func removeAll(parent int, name string) error {
	err := unix.Unlinkat(parent, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	for _, child := range names {
		if err := removeAll(fd, child); err != nil {
			return err
		}
	}
	if err := unix.Unlinkat(parent, name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}
