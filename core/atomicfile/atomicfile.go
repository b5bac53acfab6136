// Package atomicfile replaces files in one step: a reader, and a crash, see the
// old or the new content, never a part of it.
package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Write replaces the file at path, or makes it, with the mode given. When it returns
// nil the content is on disk. A crash can leave a file .NAME-NUMBER beside it.
func Write(path string, data []byte, mode os.FileMode) error {
	return replace(path, mode, func(f *os.File) error {
		_, err := f.Write(data)
		return err
	})
}

// piece is how much Copy writes at once.
const piece = 16 << 10

// Copy replaces the file at path as Write does, by what it reads. It writes small
// pieces: Linux keeps in memory as it was written what is written in one go, and maps
// 2 MiB of such a program wherever a byte is used.
func Copy(path string, from io.Reader, mode os.FileMode) error {
	return replace(path, mode, func(f *os.File) error {
		// Neither end may choose another way of copying.
		_, err := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{from}, make([]byte, piece))
		return err
	})
}

// replace replaces the file at path by one that write has written.
func replace(path string, mode os.FileMode, write func(*os.File) error) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already when all went well
	err = write(f)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
