package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"keelson.dev/keelson/plugins/kit/mounts"
	"keelson.dev/keelson/plugins/runtime/internal/rootfs"
)

// layerMeta is what a complete layer has beside it.
type layerMeta struct {
	DiffID  string
	ChainID string
	Size    uint64 // bytes of file content
	Disk    uint64 // bytes on disk
	Inodes  uint64
}

func (s *Store) layerMeta(layer string) (layerMeta, error) {
	var meta layerMeta
	data, err := os.ReadFile(filepath.Join(s.layerDir(layer), "meta.json"))
	if err != nil {
		return meta, err
	}
	return meta, json.Unmarshal(data, &meta)
}

// chain answers the names of the layers' directories: a layer's content depends
// on those below it, so its identity is the chain's.
func chain(diffIDs []v1.Hash) (names, chainIDs []string) {
	last := ""
	for _, diff := range diffIDs {
		if last == "" {
			last = diff.String()
		} else {
			sum := sha256.Sum256([]byte(last + " " + diff.String()))
			last = "sha256:" + hex.EncodeToString(sum[:])
		}
		chainIDs = append(chainIDs, last)
		names = append(names, strings.TrimPrefix(last, "sha256:")[:16])
	}
	return names, chainIDs
}

// source opens the uncompressed tar stream of layer number i.
type source func(ctx context.Context, i int) (io.ReadCloser, error)

// unpack makes sure of all layers of an image, bottom first, and holds them: the
// caller calls the function it gets. Layers that are there are not opened.
func (s *Store) unpack(ctx context.Context, diffIDs []v1.Hash, open source) (layers []string, size uint64, done func(), err error) {
	names, chainIDs := chain(diffIDs)
	s.mu.Lock()
	for _, name := range names {
		s.held[name]++
	}
	s.mu.Unlock()
	done = func() {
		s.mu.Lock()
		s.unhold(names)
		s.mu.Unlock()
		if err := s.Collect(names); err != nil {
			s.log.Warn("Unused layers stay", "err", err)
		}
	}
	for i := range names {
		meta, err := s.layer(ctx, names[:i+1], chainIDs[i], diffIDs[i], func(ctx context.Context) (io.ReadCloser, error) { return open(ctx, i) })
		if err != nil {
			done()
			return nil, 0, nil, fmt.Errorf("layer %s: %w", diffIDs[i], err)
		}
		size += meta.Size
	}
	return names, size, done, nil
}

// layer unpacks the last of the layers unless it is there.
func (s *Store) layer(ctx context.Context, names []string, chainID string, diffID v1.Hash, open func(context.Context) (io.ReadCloser, error)) (layerMeta, error) {
	name := names[len(names)-1]
	defer s.lockLayer(name)()
	if meta, err := s.layerMeta(name); err == nil {
		if meta.ChainID != chainID {
			return meta, fmt.Errorf("the store has another layer under the name %s", name)
		}
		return meta, nil
	}
	tmp, err := os.MkdirTemp(s.LayersDir(), "tmp-"+name+"-")
	if err != nil {
		return layerMeta{}, err
	}
	meta, err := s.unpackInto(ctx, tmp, names[:len(names)-1], diffID, open)
	if err == nil {
		meta.ChainID = chainID
		err = s.finish(ctx, tmp, name, meta)
	}
	if err != nil {
		return meta, errors.Join(err, os.RemoveAll(tmp))
	}
	return meta, nil
}

func (s *Store) unpackInto(ctx context.Context, tmp string, lower []string, diffID v1.Hash, open func(context.Context) (io.ReadCloser, error)) (meta layerMeta, err error) {
	root := filepath.Join(tmp, "fs")
	if err := os.Mkdir(root, 0o755); err != nil {
		return meta, err
	}
	if len(lower) > 0 {
		merged := filepath.Join(tmp, "merged")
		for _, dir := range []string{"work", "merged"} {
			if err := os.Mkdir(filepath.Join(tmp, dir), 0o755); err != nil {
				return meta, err
			}
		}
		overlay := rootfs.Overlay{LayersDir: s.LayersDir(), Lower: Lower(lower), Upper: root, Work: filepath.Join(tmp, "work"), Volatile: true}
		if err := overlay.Mount(merged); err != nil {
			return meta, err
		}
		defer func() { err = errors.Join(err, unmount(merged)) }()
		root = merged
	}
	content, err := open(ctx)
	if err != nil {
		return meta, err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	hash := sha256.New()
	size, err := rootfs.Unpack(ctx, root, io.TeeReader(content, hash))
	if err != nil {
		return meta, err
	}
	if got := hex.EncodeToString(hash.Sum(nil)); diffID.Algorithm != "sha256" || got != diffID.Hex {
		return meta, fmt.Errorf("its content has the digest sha256:%s, but the configuration says %s: %w", got, diffID, ErrInvalid)
	}
	return layerMeta{DiffID: diffID.String(), Size: uint64(size)}, nil
}

// unmount is not lazy: what is unpacked has to be whole in the upper directory.
func unmount(dir string) error {
	if err := unix.Unmount(dir, 0); err != nil {
		return errors.Join(fmt.Errorf("unmount %s: %w", dir, err), mounts.Detach(dir))
	}
	return nil
}

// finish makes the unpacked layer durable and visible.
func (s *Store) finish(ctx context.Context, tmp, name string, meta layerMeta) error {
	for _, dir := range []string{"work", "merged"} {
		if err := os.RemoveAll(filepath.Join(tmp, dir)); err != nil {
			return err
		}
	}
	meta.Disk, meta.Inodes = DiskUsage(filepath.Join(tmp, "fs"))
	data, err := json.Marshal(meta)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, "meta.json"), data, 0o600); err != nil {
		return err
	}
	if err := syncTree(ctx, tmp, maxFsync); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return os.Rename(tmp, s.layerDir(name))
}

// DiskUsage walks a directory; what vanishes meanwhile is not counted.
func DiskUsage(dir string) (bytes, inodes uint64) {
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return nil
		}
		inodes++
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			if st.Nlink > 1 && !entry.IsDir() {
				bytes += uint64(st.Blocks) * 512 / uint64(st.Nlink) //nolint:unconvert // narrower on arm64
			} else {
				bytes += uint64(st.Blocks) * 512
			}
		}
		return nil
	})
	return bytes, inodes
}

func (s *Store) lockLayer(name string) (unlock func()) {
	s.mu.Lock()
	lock := s.locks[name]
	if lock == nil {
		lock = &layerLock{}
		s.locks[name] = lock
	}
	lock.users++
	s.mu.Unlock()
	lock.mu.Lock()
	return func() {
		lock.mu.Unlock()
		s.mu.Lock()
		if lock.users--; lock.users == 0 {
			delete(s.locks, name)
		}
		s.mu.Unlock()
	}
}

// sweep removes what an earlier process left half done.
func (s *Store) sweep() error {
	for _, pattern := range []string{"layers/tmp-*", "tmp/*", "images/tmp-*"} {
		left, err := filepath.Glob(filepath.Join(s.dir, pattern))
		if err != nil {
			return err
		}
		for _, name := range left {
			if err := mounts.Detach(filepath.Join(name, "merged")); err != nil && !errors.Is(err, unix.ENOTDIR) {
				return err
			}
			if err := os.RemoveAll(name); err != nil {
				return err
			}
		}
	}
	return nil
}
