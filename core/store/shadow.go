package store

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// shadowName is the folder in which a check has its copy. What a killed check left goes at the next one, or when the
// server starts.
const shadowName = "check"

// makeShadow makes a second store of the same contents within dir, to be opened without changing the first: copies of all
// files, which share their blocks where the file system can do that, else with holes left out. No links: Badger empties a
// table before it deletes it. room is what Badger needs besides.
func makeShadow(dir string, room int64) error {
	if err := removeShadow(dir); err != nil {
		return err
	}
	shadow := filepath.Join(dir, shadowName)
	if err := os.MkdirAll(filepath.Join(shadow, "badger"), 0o700); err != nil {
		return fmt.Errorf("check store: %w", err)
	}
	free, err := freeBytes(dir)
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(dir, "badger", "*"))
	if err != nil {
		return fmt.Errorf("check store: %w", err)
	}
	if head := filepath.Join(dir, headName); exists(head) {
		files = append(files, head)
	}
	for _, path := range files {
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return fmt.Errorf("check store: %w", err)
		}
		to := filepath.Join(shadow, rel)
		n, err := copyHoles(path, to, free-room)
		if err != nil {
			return fmt.Errorf("check store: copy %s: %w", path, err)
		}
		free -= n
	}
	if free < room {
		return fmt.Errorf("check store %s: the disk has %d bytes left, the check needs %d: free some space", dir, free, room)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func removeShadow(dir string) error {
	if err := os.RemoveAll(filepath.Join(dir, shadowName)); err != nil {
		return fmt.Errorf("remove the check's copy: %w", err)
	}
	return nil
}

// copyHoles copies a file and leaves its holes out. It returns the bytes it wrote, and refuses to write more than limit.
func copyHoles(from, to string, limit int64) (n int64, err error) {
	src, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return 0, err
	}
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer dst.Close()
	if unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil {
		return 0, nil
	}
	if err := dst.Truncate(info.Size()); err != nil {
		return 0, err
	}
	for at := int64(0); at < info.Size(); {
		start, err := unix.Seek(int(src.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO { // only a hole is left
			break
		}
		end := info.Size()
		if err == nil {
			end, err = unix.Seek(int(src.Fd()), start, unix.SEEK_HOLE)
		}
		if err != nil {
			start, end = at, info.Size() // the file system knows no holes
		}
		if n += end - start; n > limit {
			return n, fmt.Errorf("the disk is nearly full: free some space")
		}
		if _, err := io.Copy(io.NewOffsetWriter(dst, start), io.NewSectionReader(src, start, end-start)); err != nil {
			return n, err
		}
		at = end
	}
	return n, nil
}
