package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	goruntime "runtime"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Platform is what images are chosen for.
func Platform() v1.Platform { return v1.Platform{OS: "linux", Architecture: goruntime.GOARCH} }

// Imported is one name that Import stored; Reference is empty for an image
// without a name.
type Imported struct {
	Reference, Digest, ID string
	Size                  uint64
}

// Import stores the images of an archive: an OCI layout as a tar file, or of
// docker save. A name that is not empty stands in for the archive's own. Nothing
// becomes visible before the whole archive is read and checked.
func (s *Store) Import(ctx context.Context, r io.Reader, name string) ([]Imported, error) {
	spool, err := s.spool(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	defer func() {
		if err := errors.Join(spool.Close(), os.Remove(spool.Name())); err != nil {
			s.log.Warn("Spooled archive stays", "file", spool.Name(), "err", err)
		}
	}()
	out, err := s.importArchive(ctx, spool, name)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	return out, nil
}

func (s *Store) importArchive(ctx context.Context, spool *os.File, name string) ([]Imported, error) {
	a, err := openArchive(spool)
	if err != nil {
		return nil, err
	}
	found, err := a.images(Platform())
	if err != nil {
		return nil, err
	}
	if name != "" {
		full, err := Normalize(name)
		if err != nil {
			return nil, err
		}
		if len(found) != 1 {
			return nil, fmt.Errorf("the archive has %d images, one name cannot stand for them: %w", len(found), ErrInvalid)
		}
		found[0].names = []string{full}
	}
	var ready []*Image
	for _, img := range found {
		record, done, err := s.unpackArchived(ctx, a, img)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", img.id, err)
		}
		defer done()
		ready = append(ready, record)
	}
	var out []Imported
	for i, record := range ready {
		if _, err := s.put(record); err != nil {
			return nil, err
		}
		names := found[i].names
		if len(names) == 0 {
			names = []string{""}
		}
		for _, ref := range names {
			out = append(out, Imported{Reference: ref, Digest: found[i].digest, ID: record.ID, Size: record.Size})
		}
		s.log.Info("Imported an image", "image", record.ID, "references", found[i].names, "bytes", record.Size)
	}
	return out, nil
}

func (s *Store) unpackArchived(ctx context.Context, a *archive, img archived) (*Image, func(), error) {
	if err := checkPlatform(img.config); err != nil {
		return nil, nil, err
	}
	layers, size, done, err := s.unpack(ctx, img.config.RootFS.DiffIDs, func(ctx context.Context, i int) (io.ReadCloser, error) {
		blob, err := a.open(img.layerFile[i])
		if err != nil {
			return nil, err
		}
		return decompress(&contextReader{ctx, blob})
	})
	if err != nil {
		return nil, nil, err
	}
	record := &Image{ID: img.id, References: img.names, Size: size, Layers: layers, Created: time.Now().UTC(), Config: img.config}
	for _, full := range img.names {
		if repo, _ := Split(full); img.digest != "" {
			record.Digests = union(record.Digests, []string{repo + "@" + img.digest})
		}
	}
	return record, done, nil
}

func checkPlatform(config *v1.ConfigFile) error {
	want := Platform()
	if (config.OS != "" && config.OS != want.OS) || (config.Architecture != "" && config.Architecture != want.Architecture) {
		return fmt.Errorf("the image is for %s/%s, this machine is %s: %w", config.OS, config.Architecture, want.String(), ErrInvalid)
	}
	return nil
}

// spool writes the stream, decompressed, to a file that the caller removes.
func (s *Store) spool(ctx context.Context, r io.Reader) (*os.File, error) {
	f, err := os.CreateTemp(filepath.Join(s.dir, "tmp"), "import-*")
	if err != nil {
		return nil, err
	}
	plain, err := decompress(&contextReader{ctx, r})
	if err == nil {
		_, err = io.Copy(f, plain)
		err = errors.Join(err, plain.Close())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return f, nil
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context //nolint:containedctx // the reader lives within one call
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
