package backup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"keelson.dev/keelson/core/encryption"
	"keelson.dev/keelson/core/store"
)

// Formats of archives.
const (
	FormatKeelson = "keelson"
	FormatEtcd    = "etcd"
)

// Archive is a file with a cluster's objects that was found whole and right.
type Archive struct {
	// Path of the file.
	Path string
	// Format is FormatKeelson or FormatEtcd.
	Format string
	// Header says what is in it. A snapshot of etcd has revision and time only.
	Header Header
	// Objects and Files are their numbers.
	Objects, Files uint64
	// Encrypted is the number of objects that are encrypted, and Sealed of those whose keys
	// are not in the archive.
	Encrypted, Sealed uint64
	// Keys are those of encryption at rest that the archive has, or that the caller puts
	// there. Never nil.
	Keys *encryption.Reader
	// Skipped is the number of keys of an etcd that are no objects of Kubernetes.
	Skipped int

	etcd *etcdSnapshot
}

// Open reads all of the file, whichever its format, and verifies it. Errors about its
// content are ErrBackup.
func Open(ctx context.Context, path string) (*Archive, error) {
	a := &Archive{Path: path, Keys: &encryption.Reader{}}
	ours, err := isOurs(path)
	if err != nil {
		return nil, fmt.Errorf("open backup: %w", err)
	}
	if ours {
		a.Format = FormatKeelson
	} else {
		a.Format = FormatEtcd
		if a.etcd, err = openEtcd(path); err != nil {
			return nil, fmt.Errorf("open backup %s: %w", path, err)
		}
		a.Header = Header{Revision: a.etcd.rev, Created: a.etcd.created.UTC().Truncate(time.Second)}
		a.Skipped = a.etcd.skipped
	}
	err = a.Each(ctx, func(f *File) error { a.Files++; return a.takeKeys(f) }, func(o *store.Object) error {
		a.Objects++
		if !encryption.Encrypted(o.Value) {
			return nil
		}
		a.Encrypted++
		_, err := a.Keys.Plain(ctx, o.Value)
		if errors.Is(err, encryption.ErrNoKey) {
			a.Sealed++
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrBackup, o.Key, err)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

func isOurs(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	begin := make([]byte, len(magic))
	n, err := io.ReadFull(f, begin)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return false, err
	}
	// A file shorter than that is a cut backup of one kind or the other.
	return n < len(magic) || string(begin) == magic, nil
}

// takeKeys keeps the keys of encryption at rest; they come before all objects.
func (a *Archive) takeKeys(f *File) (err error) {
	if f.Path != keysFile {
		return nil
	}
	if a.Keys, err = encryption.NewReader(f.Path, f.Data); err != nil {
		return fmt.Errorf("%w: %w", ErrBackup, err)
	}
	return nil
}

// Close gives the file back.
func (a *Archive) Close() error {
	if a.etcd == nil {
		return nil
	}
	db := a.etcd.db
	a.etcd = nil
	return db.Close()
}

// Each reads the archive once more: all files, then all objects in order of their keys.
func (a *Archive) Each(ctx context.Context, onFile func(*File) error, onObject func(*store.Object) error) error {
	var err error
	if a.etcd != nil {
		err = a.etcd.each(ctx, onObject)
	} else {
		err = a.read(ctx, onFile, onObject)
	}
	if err != nil {
		return fmt.Errorf("read backup %s: %w", a.Path, err)
	}
	return nil
}

func (a *Archive) read(ctx context.Context, onFile func(*File) error, onObject func(*store.Object) error) error {
	f, err := os.Open(a.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := NewReader(bufio.NewReaderSize(f, 256<<10))
	if err != nil {
		return err
	}
	defer r.Close()
	a.Header = r.Header()
	for {
		file, object, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case file != nil:
			err = onFile(file)
		default:
			err = onObject(object)
		}
		if err != nil {
			return err
		}
	}
}
