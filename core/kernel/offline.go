package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"keelson.dev/keelson/core/backup"
	"keelson.dev/keelson/core/store"
)

// Offline keeps servers and agents off a run folder until release is called, for work on what they would have open.
func Offline(runDir string) (release func(), err error) {
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		return nil, err
	}
	lock, err := acquire(runDir)
	if err != nil {
		return nil, err
	}
	return lock.release, nil
}

// BackupOffline writes a backup of a data folder on which no server runs.
func BackupOffline(ctx context.Context, dataDir string, w io.Writer, namespace string, pki bool) error {
	dir := filepath.Join(dataDir, "store")
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("--data-dir %s holds no store: %w", dataDir, err)
	}
	var files func() ([]*backup.File, error)
	if pki {
		files = func() ([]*backup.File, error) { return backup.Files(dataDir) }
	}
	db, err := store.Open(ctx, store.Options{Dir: dir})
	if err != nil {
		return err
	}
	return errors.Join(backup.Write(ctx, w, db, files, namespace), db.Close())
}
