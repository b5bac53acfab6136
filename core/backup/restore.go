package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"keelson.dev/keelson/core/encryption"
	"keelson.dev/keelson/core/store"
)

// DefaultMargin is how far above the backup's revision a restored store begins. Revisions that were given after the backup
// was taken are lost with the store; none of them may be given again, or a client that remembers one would take other
// data for what it knows. It is what one writes in half a day at 20,000 a second.
const DefaultMargin = 1_000_000_000

const (
	stagePrefix = ".restore-"       // a restore that is being prepared; removed by the next one
	pendingName = "restore-pending" // one that is decided on; Finish completes it
	asidePrefix = "before-restore-" // what was there before
	newName     = "new"
)

var (
	// ErrExists says that the data folder holds a cluster.
	ErrExists = errors.New("there is a cluster already")
	// ErrPartial says that a backup is of one namespace and cannot be a whole cluster.
	ErrPartial = errors.New("backup is of one namespace only")
)

// RestoreOptions say how a whole cluster is restored.
type RestoreOptions struct {
	// DataDir is the data folder; nothing may run on it.
	DataDir string
	// Force moves a cluster that is there aside.
	Force bool
	// NoPKI leaves certificates, keys and settings as they are.
	NoPKI bool
	// Margin is added to the backup's revision. Default DefaultMargin.
	Margin uint64
	// Log takes what the store has to say.
	Log *slog.Logger
}

// Restored is what a restore did.
type Restored struct {
	// Revision is where the restored store begins.
	Revision uint64
	// Aside is the folder with what was there before, empty if there was nothing.
	Aside string
}

// Restore makes a data folder of an archive. Until all of it is on disk and verified,
// nothing of the folder is touched; then it takes its place even if the process is
// killed (see Finish).
func Restore(ctx context.Context, a *Archive, o RestoreOptions) (*Restored, error) {
	if a.Header.Namespace != "" {
		return nil, fmt.Errorf("restore %s: %w (%s)", a.Path, ErrPartial, a.Header.Namespace)
	}
	if o.Margin == 0 {
		o.Margin = DefaultMargin
	}
	if err := os.MkdirAll(o.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	if _, err := Finish(o.DataDir); err != nil {
		return nil, err
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	stage, err := makeStage(o.DataDir)
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	last := a.Header.Revision + o.Margin
	err = o.fill(ctx, a, filepath.Join(stage, newName), last)
	if err == nil {
		err = o.check() // a server may have been started meanwhile
	}
	if err == nil {
		err = syncAll(stage)
	}
	if err == nil {
		err = os.Rename(stage, filepath.Join(o.DataDir, pendingName))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("restore: %w", err), os.RemoveAll(stage))
	}
	aside, err := Finish(o.DataDir)
	return &Restored{Revision: last, Aside: aside}, err
}

func (o *RestoreOptions) check() error {
	dir := filepath.Join(o.DataDir, storeDir)
	if err := store.InUse(dir); err != nil {
		return err
	}
	look := []string{dir}
	if !o.NoPKI {
		look = append(look, filepath.Join(o.DataDir, pkiDir))
	}
	for _, dir := range look {
		files, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if len(files) > 0 && !o.Force {
			return fmt.Errorf("%s is not empty: %w; use --force to move it aside", dir, ErrExists)
		}
	}
	return nil
}

// makeStage makes the folder to prepare in, and removes those of killed restores.
func makeStage(dataDir string) (string, error) {
	old, err := filepath.Glob(filepath.Join(dataDir, stagePrefix+"*"))
	if err != nil {
		return "", err
	}
	for _, dir := range old {
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
	}
	stage, err := os.MkdirTemp(dataDir, stagePrefix)
	if err != nil {
		return "", err
	}
	return stage, os.Mkdir(filepath.Join(stage, newName), 0o700)
}

func (o *RestoreOptions) fill(ctx context.Context, a *Archive, dir string, last uint64) error {
	return store.Import(ctx, store.Options{Dir: filepath.Join(dir, storeDir), Log: o.Log}, a.Header.Revision, last, func(add func(*store.Object) error) error {
		return a.Each(ctx, func(f *File) error {
			if o.NoPKI {
				return nil
			}
			return writeRestored(dir, f)
		}, add)
	})
}

// writeRestored writes a file, if it is one that this release knows.
func writeRestored(dir string, f *File) error {
	if parent := path.Dir(f.Path); parent != pkiDir && f.Path != keysFile && !slices.Contains(settingsFiles, f.Path) {
		return fmt.Errorf("%w: unknown file %s", ErrBackup, f.Path)
	}
	target := filepath.Join(dir, filepath.FromSlash(f.Path))
	if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
		return err
	}
	out, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.Mode)
	if err != nil {
		return err
	}
	_, err = out.Write(f.Data)
	return errors.Join(err, out.Close())
}

// syncAll puts all of the folder's file system on disk.
func syncAll(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}

// Finish completes a restore that was decided on but not completed, and returns where it put
// what had been there. Each of its steps can be repeated, so it may be killed at any time.
// A server calls it before it opens anything.
func Finish(dataDir string) (aside string, err error) {
	pending := filepath.Join(dataDir, pendingName)
	info, err := os.Stat(pending)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("complete restore: %w", err)
	}
	// Named after the pending folder's time, so that a second attempt takes the same.
	old := filepath.Join(dataDir, asidePrefix+info.ModTime().UTC().Format("20060102T150405.000000000"))
	fresh := filepath.Join(pending, newName)
	entries, err := os.ReadDir(fresh)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("complete restore: %w", err)
	}
	for _, e := range entries {
		target := filepath.Join(dataDir, e.Name())
		if _, err := os.Lstat(target); err == nil {
			if err := os.MkdirAll(old, 0o700); err != nil {
				return "", fmt.Errorf("complete restore: %w", err)
			}
			if err := os.Rename(target, filepath.Join(old, e.Name())); err != nil {
				return "", fmt.Errorf("complete restore: %w", err)
			}
		}
		if err := os.Rename(filepath.Join(fresh, e.Name()), target); err != nil {
			return "", fmt.Errorf("complete restore: %w", err)
		}
	}
	// The keys that are there now, be they the backup's or those of before, have written nobody knows what.
	err = errors.Join(encryption.Forget(filepath.Join(dataDir, encryptionDir)), syncFile(dataDir), os.RemoveAll(pending), syncFile(dataDir))
	if err != nil {
		return "", fmt.Errorf("complete restore: %w", err)
	}
	if _, err := os.Stat(old); err == nil {
		aside = old
	}
	return aside, nil
}
