package kubelet

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// payloadFile is one file of a volume that this process writes.
type payloadFile struct {
	Data []byte
	Mode fs.FileMode
	UID  *int64 // owner, where it is not root
}

const (
	dataLink = "..data"
	dataTemp = "..data_tmp"
)

// writePayload makes dir show exactly the given files (slash separated relative paths) and swaps old content for new in one step: the files are
// in a folder with the time as its name, the link ..data points to it, and the visible names are links through ..data. Readers see all old
// files or all new ones. It reports whether something changed. An unchanged payload is not written again.
func writePayload(dir string, files map[string]payloadFile, fsGroup *int64) (bool, error) {
	for path := range files {
		if err := checkPayloadPath(path); err != nil {
			return false, err
		}
	}
	oldDir, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read link of volume data: %w", err)
	}
	if oldDir != "" && samePayload(filepath.Join(dir, oldDir), files) {
		return false, linkNames(dir, files)
	}
	fresh, err := os.MkdirTemp(dir, ".."+time.Now().UTC().Format("2006_01_02_15_04_05."))
	if err != nil {
		return false, fmt.Errorf("create folder of volume data: %w", err)
	}
	if err := os.Chmod(fresh, 0o755); err != nil {
		return false, fmt.Errorf("create folder of volume data: %w", err)
	}
	if err := writeFiles(fresh, files); err != nil {
		return false, errors.Join(err, os.RemoveAll(fresh))
	}
	if fsGroup != nil {
		if err := setGroup(fresh, *fsGroup, true); err != nil {
			return false, errors.Join(err, os.RemoveAll(fresh))
		}
	}
	temp := filepath.Join(dir, dataTemp)
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("swap volume data: %w", err)
	}
	if err := os.Symlink(filepath.Base(fresh), temp); err != nil {
		return false, fmt.Errorf("swap volume data: %w", err)
	}
	if err := os.Rename(temp, filepath.Join(dir, dataLink)); err != nil {
		return false, fmt.Errorf("swap volume data: %w", err)
	}
	if err := linkNames(dir, files); err != nil {
		return true, err
	}
	return true, removeOld(dir, filepath.Base(fresh), files)
}

func checkPayloadPath(path string) error {
	if path == "" || filepath.IsAbs(path) || len(path) > 4096 {
		return fmt.Errorf("invalid path %q: must be relative and not empty", path)
	}
	parts := strings.Split(path, "/")
	if slices.Contains(parts, "..") || strings.HasPrefix(parts[0], "..") {
		return fmt.Errorf("invalid path %q: must not contain or begin with '..'", path)
	}
	return nil
}

func writeFiles(root string, files map[string]payloadFile) error {
	for _, path := range sortedKeys(files) {
		f := files[path]
		full := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			return fmt.Errorf("write volume file %s: %w", path, err)
		}
		if err := os.WriteFile(full, f.Data, f.Mode); err != nil {
			return fmt.Errorf("write volume file %s: %w", path, err)
		}
		if err := os.Chmod(full, f.Mode); err != nil { // the umask does not count
			return fmt.Errorf("write volume file %s: %w", path, err)
		}
		if f.UID != nil {
			if err := os.Chown(full, int(*f.UID), -1); err != nil {
				return fmt.Errorf("write volume file %s: %w", path, err)
			}
		}
	}
	return nil
}

func samePayload(dir string, files map[string]payloadFile) bool {
	seen := 0
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		f, ok := files[rel]
		if !ok {
			return fs.ErrExist
		}
		data, err := os.ReadFile(p)
		if err != nil || !bytes.Equal(data, f.Data) {
			return fs.ErrInvalid
		}
		seen++
		return nil
	})
	return err == nil && seen == len(files)
}

func linkNames(dir string, files map[string]payloadFile) error {
	for path := range files {
		name, _, _ := strings.Cut(path, "/")
		link := filepath.Join(dir, name)
		if _, err := os.Readlink(link); err == nil {
			continue
		}
		if err := os.Symlink(filepath.Join(dataLink, name), link); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("link volume file %s: %w", name, err)
		}
	}
	return nil
}

func removeOld(dir, keep string, files map[string]payloadFile) error {
	wanted := map[string]bool{dataLink: true, keep: true}
	for path := range files {
		name, _, _ := strings.Cut(path, "/")
		wanted[name] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list volume: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if !wanted[e.Name()] {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// setGroup gives a volume to a group: members may read (and, unless readOnly, write), and new files in it belong to the group too.
func setGroup(root string, gid int64, readOnly bool) error {
	return filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if err := os.Lchown(p, -1, int(gid)); err != nil {
			return fmt.Errorf("give volume to group %d: %w", gid, err)
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			return nil
		}
		mode := uint32(info.Mode().Perm()) | 0o660
		if readOnly {
			mode = uint32(info.Mode().Perm()) | 0o440
		}
		if d.IsDir() {
			mode |= 0o110 | unix.S_ISGID
		}
		if err := unix.Chmod(p, mode); err != nil {
			return fmt.Errorf("give volume to group %d: %w", gid, err)
		}
		return nil
	})
}
