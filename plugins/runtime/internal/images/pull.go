package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"
)

// Errors of Pull beside ErrInvalid and ErrNotFound.
var (
	ErrUnreachable = errors.New("registry not reachable")
	ErrDenied      = errors.New("access denied by the registry")
)

// PullOptions say where and as whom to pull.
type PullOptions struct {
	Auth     authn.Authenticator            // nil: Keychain, else anonymous
	Keychain authn.Keychain                 // nil: none
	Mirrors  func(registry string) []string // host[:port] to try first, in order
	Insecure func(registry string) bool     // plain HTTP, or a certificate nobody signed
}

// Pull fetches an image, stores it under its name, and answers its record. Blobs
// are checked against their digests; layers that are there are not fetched.
func (s *Store) Pull(ctx context.Context, ref string, opts PullOptions) (*Image, error) {
	named, err := parse(ref)
	if err != nil {
		return nil, err
	}
	hosts := []string{reference.Domain(named)}
	if opts.Mirrors != nil {
		hosts = append(opts.Mirrors(hosts[0]), hosts...)
	}
	var errs []error
	for _, host := range hosts {
		img, err := s.pullFrom(ctx, host, named, opts)
		if err == nil {
			return img, nil
		}
		errs = append(errs, pullError(named.String(), host, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// pullError says in one line what a user can do about it.
func pullError(ref, host string, err error) error {
	hint := fmt.Sprintf("; if the image is in a file, `keelson image import FILE` brings it to this node (name it %s)", ref)
	if terr, ok := errors.AsType[*transport.Error](err); ok {
		switch terr.StatusCode {
		case http.StatusNotFound:
			return fmt.Errorf("pull %s: registry %s does not have it: %w%s", ref, host, ErrNotFound, hint)
		case http.StatusUnauthorized, http.StatusForbidden:
			return fmt.Errorf("pull %s: %w %s (%s): the image does not exist there, or the pod needs imagePullSecrets", ref, ErrDenied, host, terr.Error())
		}
	}
	var nerr net.Error
	var uerr *url.Error
	if errors.As(err, &nerr) || errors.As(err, &uerr) {
		return fmt.Errorf("pull %s: the image is not on this node, and %w: %s: %w%s", ref, ErrUnreachable, host, err, hint)
	}
	return fmt.Errorf("pull %s from %s: %w", ref, host, err)
}

func (s *Store) pullFrom(ctx context.Context, host string, named reference.Named, opts PullOptions) (*Image, error) {
	nameOpts := []name.Option{name.StrictValidation}
	transportFor := remote.DefaultTransport
	if opts.Insecure != nil && opts.Insecure(host) {
		nameOpts = append(nameOpts, name.Insecure)
		transportFor = insecureTransport()
	}
	registry := host
	if registry == "docker.io" {
		registry = name.DefaultRegistry
	}
	_, tag := Split(named.String())
	sep := ":"
	if strings.Contains(tag, ":") {
		sep = "@"
	}
	target, err := name.ParseReference(registry+"/"+reference.Path(named)+sep+tag, nameOpts...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrInvalid)
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithPlatform(Platform()), remote.WithTransport(transportFor), remote.WithJobs(3)}
	switch {
	case opts.Auth != nil:
		options = append(options, remote.WithAuth(opts.Auth))
	case opts.Keychain != nil:
		options = append(options, remote.WithAuthFromKeychain(opts.Keychain))
	}
	desc, err := remote.Get(target, options...)
	if err != nil {
		return nil, err
	}
	img, err := desc.Image()
	if err != nil {
		return nil, err
	}
	return s.storeRemote(ctx, img, desc.Digest, named)
}

func (s *Store) storeRemote(ctx context.Context, img v1.Image, digest v1.Hash, named reference.Named) (*Image, error) {
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("fetch the configuration: %w", err)
	}
	if err := checkPlatform(config); err != nil {
		return nil, err
	}
	id, err := img.ConfigName()
	if err != nil {
		return nil, err
	}
	remoteLayers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	if len(remoteLayers) != len(config.RootFS.DiffIDs) {
		return nil, fmt.Errorf("the configuration names %d layers, the manifest %d: %w", len(config.RootFS.DiffIDs), len(remoteLayers), ErrInvalid)
	}
	files, cleanup, err := s.download(ctx, config.RootFS.DiffIDs, remoteLayers)
	if err != nil {
		return nil, err
	}
	defer cleanup()
	layers, size, done, err := s.unpack(ctx, config.RootFS.DiffIDs, func(ctx context.Context, i int) (io.ReadCloser, error) {
		if files[i] == nil { // was there when the download was planned, and is gone
			return remoteLayers[i].Uncompressed()
		}
		if _, err := files[i].Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		return decompress(&contextReader{ctx, files[i]})
	})
	if err != nil {
		return nil, err
	}
	defer done()
	record := &Image{ID: id.String(), Size: size, Layers: layers, Created: time.Now().UTC(), Config: config,
		Digests: []string{named.Name() + "@" + digest.String()}}
	if _, tagged := named.(reference.Tagged); tagged {
		record.References = []string{named.String()}
	}
	stored, err := s.put(record)
	if err == nil {
		s.log.Info("Pulled an image", "image", named.String(), "id", record.ID, "bytes", size)
	}
	return stored, err
}

// download fetches the missing layers, three at a time, into files without names.
func (s *Store) download(ctx context.Context, diffIDs []v1.Hash, layers []v1.Layer) (files []*os.File, cleanup func(), err error) {
	names, _ := chain(diffIDs)
	files = make([]*os.File, len(layers))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(3)
	for i := range layers {
		if _, err := s.layerMeta(names[i]); err == nil {
			continue
		}
		f, err := os.CreateTemp(filepath.Join(s.dir, "tmp"), "pull-*")
		if err == nil {
			err = os.Remove(f.Name())
		}
		files[i] = f
		if err != nil {
			group.Go(func() error { return err })
			break
		}
		group.Go(func() error {
			blob, err := layers[i].Compressed()
			if err != nil {
				return fmt.Errorf("fetch layer %s: %w", diffIDs[i], err)
			}
			_, err = io.Copy(f, &contextReader{ctx, blob})
			if err = errors.Join(err, blob.Close()); err != nil {
				return fmt.Errorf("fetch layer %s: %w", diffIDs[i], err)
			}
			return nil
		})
	}
	cleanup = func() {
		for _, f := range files {
			if f != nil {
				_ = f.Close() // no name: closing removes it
			}
		}
	}
	if err := group.Wait(); err != nil {
		cleanup()
		return nil, nil, err
	}
	return files, cleanup, nil
}
