// Package images keeps a node's images: pulled from registries or imported from
// files, each layer unpacked once into a directory that overlay mounts share.
//
// Layout below the store's directory:
//
//	images/<hex of the image id>.json   one record per image: names, layers, configuration
//	layers/<16 hex of the chain id>/fs  a layer as overlayfs wants it
//	layers/tmp-*                        a layer being unpacked; removed at start
//	tmp/                                downloads; emptied at start
//
// A record is written (synced, renamed) after all its layers are complete, a
// layer appears by one rename: a crash or a full disk leaves nothing half done.
// A layer lives as long as an image, a container or an operation under way needs
// it. The compressed layers are not kept. All methods may be called at once;
// the store starts goroutines only within a call.
package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Errors that callers tell apart.
var (
	ErrNotFound = errors.New("image not found")
	ErrInvalid  = errors.New("not a valid image")
)

// Image is one record of the store. It is never changed after it was handed out.
type Image struct {
	ID         string         // digest of the configuration
	References []string       // docker.io/library/nginx:1.25
	Digests    []string       // docker.io/library/nginx@sha256:...
	Size       uint64         // bytes of file content in the layers
	Layers     []string       // directories, bottom first
	Created    time.Time      // when it came into this store
	Config     *v1.ConfigFile // as the image has it
}

// Store keeps the images of one directory. One process at a time may use it.
type Store struct {
	dir string
	log *slog.Logger

	mu     sync.Mutex // guards all below; no I/O but of small records under it
	images map[string]*Image
	held   map[string]int      // layer -> operations and containers that need it
	holds  map[string][]string // container -> layers
	locks  map[string]*layerLock
}

type layerLock struct {
	mu    sync.Mutex
	users int
}

// Open reads the store in dir, and removes what an earlier process left half done.
func Open(dir string, log *slog.Logger) (*Store, error) {
	s := &Store{dir: dir, log: log, images: map[string]*Image{}, held: map[string]int{}, holds: map[string][]string{}, locks: map[string]*layerLock{}}
	for _, sub := range []string{"images", "layers", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("open the image store: %w", err)
		}
	}
	if err := s.sweep(); err != nil {
		return nil, fmt.Errorf("open the image store: %w", err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "images"))
	if err != nil {
		return nil, fmt.Errorf("open the image store: %w", err)
	}
	for _, entry := range entries {
		file := filepath.Join(dir, "images", entry.Name())
		img, err := s.load(file)
		if err != nil {
			log.Warn("Image record is damaged and was dropped", "file", file, "err", err)
			if err := os.Remove(file); err != nil {
				return nil, err
			}
			continue
		}
		s.images[img.ID] = img
	}
	return s, nil
}

func (s *Store) load(file string) (*Image, error) {
	if !strings.HasSuffix(file, ".json") {
		return nil, errors.New("an unfinished write")
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	img := &Image{}
	if err := json.Unmarshal(data, img); err != nil {
		return nil, err
	}
	if img.ID == "" || img.Config == nil {
		return nil, errors.New("it has no identity or no configuration")
	}
	for _, layer := range img.Layers {
		if _, err := os.Stat(filepath.Join(s.layerDir(layer), "meta.json")); err != nil {
			return nil, fmt.Errorf("layer %s: %w", layer, err)
		}
	}
	return img, nil
}

// LayersDir is the directory that Image.Layers are relative to, with "fs" below
// each; see Lower.
func (s *Store) LayersDir() string { return filepath.Join(s.dir, "layers") }

func (s *Store) layerDir(layer string) string { return filepath.Join(s.dir, "layers", layer) }

// Lower answers the layers' directories for an overlay mount.
func Lower(layers []string) []string {
	out := make([]string, len(layers))
	for i, layer := range layers {
		out[i] = layer + "/fs"
	}
	return out
}

// List answers all images, sorted by identity.
func (s *Store) List() []*Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*Image, 0, len(s.images))
	for _, img := range s.images {
		out = append(out, img)
	}
	slices.SortFunc(out, func(a, b *Image) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// Get finds an image by any form of its name, by repository digest, by identity,
// or by an unambiguous beginning (at least 7 digits) of the identity.
func (s *Store) Get(ref string) (*Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.get(ref)
}

func (s *Store) get(ref string) (*Image, error) {
	if img, ok := s.images[ref]; ok {
		return img, nil
	}
	if img, ok := s.images["sha256:"+ref]; ok {
		return img, nil
	}
	if full, err := Normalize(ref); err == nil {
		for _, img := range s.images {
			if slices.Contains(img.References, full) || slices.Contains(img.Digests, full) {
				return img, nil
			}
		}
	}
	var found *Image
	if short := strings.TrimPrefix(ref, "sha256:"); len(short) >= 7 && strings.Trim(short, "0123456789abcdef") == "" {
		for id, img := range s.images {
			if strings.HasPrefix(id, "sha256:"+short) {
				if found != nil {
					return nil, fmt.Errorf("image %q: several identities begin so: %w", ref, ErrNotFound)
				}
				found = img
			}
		}
	}
	if found == nil {
		return nil, fmt.Errorf("image %q: %w", ref, ErrNotFound)
	}
	return found, nil
}

// put stores an image under its names, which other images lose. The caller holds
// the layers.
func (s *Store) put(img *Image) (*Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.images[img.ID]; ok {
		img.References = union(old.References, img.References)
		img.Digests = union(old.Digests, img.Digests)
		img.Created = old.Created
	}
	if err := s.write(img); err != nil {
		return nil, err
	}
	s.images[img.ID] = img
	for _, other := range s.images {
		if other.ID == img.ID || !slices.ContainsFunc(other.References, func(r string) bool { return slices.Contains(img.References, r) }) {
			continue
		}
		changed := *other
		changed.References = slices.DeleteFunc(slices.Clone(other.References), func(r string) bool { return slices.Contains(img.References, r) })
		if err := s.write(&changed); err != nil {
			return nil, err
		}
		s.images[other.ID] = &changed
	}
	return img, nil
}

func union(a, b []string) []string {
	out := append(slices.Clone(a), b...)
	slices.Sort(out)
	return slices.Compact(out)
}

func (s *Store) recordFile(id string) string {
	return filepath.Join(s.dir, "images", strings.TrimPrefix(id, "sha256:")+".json")
}

func (s *Store) write(img *Image) error {
	data, err := json.Marshal(img)
	if err != nil {
		return fmt.Errorf("store image %s: %w", img.ID, err)
	}
	if err := writeFile(s.recordFile(img.ID), data); err != nil {
		return fmt.Errorf("store image %s: %w", img.ID, err)
	}
	return nil
}

// writeFile replaces a file: written aside, synced, renamed.
func writeFile(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), "tmp-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// Remove removes an image. By a name: this name only, and the image with its
// last name. By identity or digest: the image with all its names. A missing image is
// no error.
func (s *Store) Remove(ref string) error {
	s.mu.Lock()
	img, err := s.get(ref)
	if err != nil {
		s.mu.Unlock()
		return nil
	}
	full, err := Normalize(ref)
	if err == nil && slices.Contains(img.References, full) && len(img.References) > 1 {
		changed := *img
		changed.References = slices.DeleteFunc(slices.Clone(img.References), func(r string) bool { return r == full })
		err := s.write(&changed)
		if err == nil {
			s.images[img.ID] = &changed
		}
		s.mu.Unlock()
		return err
	}
	if err := os.Remove(s.recordFile(img.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.mu.Unlock()
		return fmt.Errorf("remove image %s: %w", img.ID, err)
	}
	delete(s.images, img.ID)
	s.mu.Unlock()
	return s.Collect(img.Layers)
}

// Hold keeps the layers for a container until Release.
func (s *Store) Hold(container string, layers []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.holds[container]; ok {
		return
	}
	s.holds[container] = layers
	for _, layer := range layers {
		s.held[layer]++
	}
}

// Release ends Hold, and removes the layers that nothing needs any more.
func (s *Store) Release(container string) error {
	s.mu.Lock()
	layers := s.holds[container]
	delete(s.holds, container)
	s.unhold(layers)
	s.mu.Unlock()
	return s.Collect(layers)
}

func (s *Store) unhold(layers []string) {
	for _, layer := range layers {
		if s.held[layer]--; s.held[layer] <= 0 {
			delete(s.held, layer)
		}
	}
}

// Collect removes those of the layers that nothing needs. With nil: of all.
func (s *Store) Collect(layers []string) error {
	if layers == nil {
		entries, err := os.ReadDir(s.LayersDir())
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if !strings.HasPrefix(entry.Name(), "tmp-") {
				layers = append(layers, entry.Name())
			}
		}
	}
	var doomed []string
	s.mu.Lock()
	for _, layer := range layers {
		if s.held[layer] > 0 || s.used(layer) {
			continue
		}
		aside := filepath.Join(s.dir, "layers", fmt.Sprintf("tmp-gone-%s-%d", layer, time.Now().UnixNano()))
		if err := os.Rename(s.layerDir(layer), aside); err == nil {
			doomed = append(doomed, aside)
		}
	}
	s.mu.Unlock()
	var errs []error
	for _, dir := range doomed {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

func (s *Store) used(layer string) bool {
	for _, img := range s.images {
		if slices.Contains(img.Layers, layer) {
			return true
		}
	}
	return false
}

// Usage walks the store and answers its bytes and inodes on disk.
func (s *Store) Usage(ctx context.Context) (bytes, inodes uint64, err error) {
	s.mu.Lock()
	seen := map[string]bool{}
	for _, img := range s.images {
		for _, layer := range img.Layers {
			seen[layer] = true
		}
	}
	s.mu.Unlock()
	for layer := range seen {
		if err := ctx.Err(); err != nil {
			return 0, 0, err
		}
		meta, err := s.layerMeta(layer)
		if err != nil {
			continue // removed meanwhile
		}
		bytes += meta.Disk
		inodes += meta.Inodes
	}
	return bytes, inodes, nil
}
