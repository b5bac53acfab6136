package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"keelson.dev/keelson/core/encryption"
	"keelson.dev/keelson/core/store"
	"keelson.dev/keelson/core/version"
)

// Source is what a backup is taken of: a datastore. Dump calls begin with a revision,
// then each for all objects of that revision in order of their keys.
type Source interface {
	Dump(ctx context.Context, begin func(rev uint64) error, each func(*store.Object) error) error
}

// Write takes a backup of what source holds and writes it to w. With a namespace only
// its objects, and no files. The files are read when the objects' revision is settled,
// so that keys that were added before are among them; nil means none.
func Write(ctx context.Context, w io.Writer, source Source, read func() ([]*File, error), namespace string) error {
	var b *Writer
	err := source.Dump(ctx, func(rev uint64) (err error) {
		var files []*File
		if read != nil && namespace == "" {
			if files, err = read(); err != nil {
				return err
			}
		}
		b, err = NewWriter(w, Header{Revision: rev, Created: time.Now().UTC().Truncate(time.Second), Version: version.Git(), Namespace: namespace})
		for i := 0; err == nil && i < len(files); i++ {
			err = b.File(files[i])
		}
		return err
	}, func(o *store.Object) error {
		if namespace != "" && !InNamespace(o, namespace) {
			return nil
		}
		return b.Object(o)
	})
	if b != nil && err == nil {
		return b.Close()
	}
	if b != nil {
		b.Abort()
	}
	return err
}

// Abort frees what an unfinished backup holds; the file stays one that is refused.
func (b *Writer) Abort() {
	b.z.Reset(io.Discard)
	_ = b.z.Close()
}

// temporaryPrefix begins the names of folders in which backups are written.
const temporaryPrefix = ".keelson-backup-"

// Create makes a file at path of what write writes: whole and verified, or not at all.
// Others must not read it. A file that was there is replaced.
func Create(ctx context.Context, path string, write func(tmp string) error) (_ *Archive, err error) {
	dir := filepath.Dir(path)
	tmpDir, err := os.MkdirTemp(dir, temporaryPrefix+"*") // mode 0700
	if err != nil {
		return nil, fmt.Errorf("write backup %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmpDir)) }()
	tmp := filepath.Join(tmpDir, filepath.Base(path))
	if err := write(tmp); err != nil {
		return nil, fmt.Errorf("write backup %s: %w", path, err)
	}
	if err := syncFile(tmp); err != nil {
		return nil, fmt.Errorf("write backup %s: %w", path, err)
	}
	archive, err := Open(ctx, tmp)
	if err != nil {
		return nil, fmt.Errorf("verify the backup just written: %w", err)
	}
	if err := errors.Join(os.Rename(tmp, path), syncFile(dir)); err != nil {
		return nil, errors.Join(fmt.Errorf("write backup %s: %w", path, err), archive.Close())
	}
	archive.Path = path
	return archive, nil
}

// CreateFrom is Create with what copy writes to the new file.
func CreateFrom(ctx context.Context, path string, write func(io.Writer) error) (*Archive, error) {
	return Create(ctx, path, func(tmp string) error {
		f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	})
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Files of a data folder that are part of a backup: without the authority's keys a restored
// cluster knows none of its clients, tokens and nodes, and without those of encryption none of its Secrets.
var (
	settingsFiles = []string{"up.json", "cluster.json"}
	pkiDir        = "pki"
	encryptionDir = "encryption"
	keysFile      = encryption.File(encryptionDir)
)

// storeDir is where a data folder has the store.
const storeDir = "store"

// Files reads what of a data folder belongs into a backup besides the store.
func Files(dataDir string) ([]*File, error) {
	// How far the Secrets are written with the first key is of the store that goes on: not in it.
	names := append(slices.Clone(settingsFiles), filepath.ToSlash(keysFile))
	entries, err := os.ReadDir(filepath.Join(dataDir, pkiDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read certificates for the backup: %w", err)
	}
	for _, e := range entries {
		if e.Type().IsRegular() && !strings.HasPrefix(e.Name(), ".") { // a name with a dot is of a write under way
			names = append(names, pkiDir+"/"+e.Name())
		}
	}
	var files []*File
	for _, name := range names {
		path := filepath.Join(dataDir, filepath.FromSlash(name))
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read settings for the backup: %w", err)
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("read settings for the backup: %w", err)
		}
		files = append(files, &File{Path: name, Mode: info.Mode().Perm(), Data: data})
	}
	return files, nil
}
