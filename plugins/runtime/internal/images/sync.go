package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// maxFsync is how many files are made durable one by one. Of more, the whole file system is: that waits for what others wrote as well, but
	// costs no flush of the disk for each.
	maxFsync = 2000
	// fsyncs run side by side, so that the file system can join their commits.
	fsyncs = 16
)

// syncTree makes all below dir durable, and waits, if it can, for nothing else that is to be written to that disk.
func syncTree(ctx context.Context, dir string, limit int) error {
	var names []string
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !entry.IsDir() && !entry.Type().IsRegular() {
			return nil // it is whole with its folder
		}
		if names = append(names, name); len(names) > limit {
			return filepath.SkipAll
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(names) > limit {
		return syncFilesystem(dir)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fsyncs)
	for _, name := range names {
		g.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return syncOne(name)
		})
	}
	return g.Wait()
}

func syncOne(name string) error {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func syncFilesystem(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = unix.Syncfs(int(f.Fd()))
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("sync the file system: %w", err)
	}
	return nil
}
