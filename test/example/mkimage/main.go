// Command mkimage makes an OCI image of a root file system, with no registry
// and no daemon: one layer, written as an OCI layout in a tar file, as
// `keelson image import` takes it. The same input gives the same bytes.
package main

import (
	"archive/tar"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// epoch is the time of every file, so that images do not differ by build time.
var epoch = time.Unix(0, 0)

func main() {
	var o options
	flag.StringVar(&o.root, "root", "", "folder with the root file system")
	flag.StringVar(&o.name, "name", "", "image name, such as example/counter:v1")
	flag.StringVar(&o.out, "o", "", "tar file to write")
	flag.StringVar(&o.arch, "arch", "amd64", "architecture")
	flag.StringVar(&o.entrypoint, "entrypoint", "", "entry point, words separated by spaces")
	flag.StringVar(&o.cmd, "cmd", "", "default arguments, words separated by spaces")
	flag.StringVar(&o.env, "env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "environment, entries separated by commas")
	flag.StringVar(&o.user, "user", "", "user")
	flag.StringVar(&o.stop, "stop-signal", "", "signal that asks it to end")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

type options struct {
	root, name, out, arch, entrypoint, cmd, env, user, stop string
}

func run(o options) error {
	if o.root == "" || o.name == "" || o.out == "" {
		return errors.New("-root, -name and -o are needed")
	}
	work, err := os.MkdirTemp("", "mkimage-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	blob := filepath.Join(work, "layer.tar")
	if err := toFile(blob, func(w *tar.Writer) error { return addTree(w, o.root) }); err != nil {
		return fmt.Errorf("layer of %s: %w", o.root, err)
	}
	img, err := image(o, blob)
	if err != nil {
		return err
	}
	oci := filepath.Join(work, "oci")
	path, err := layout.Write(oci, empty.Index)
	if err != nil {
		return err
	}
	named := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": o.name})
	if err := path.AppendImage(img, named); err != nil {
		return err
	}
	return toFile(o.out, func(w *tar.Writer) error { return addTree(w, oci) })
}

func image(o options, blob string) (v1.Image, error) {
	layer, err := tarball.LayerFromFile(blob, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layer)
	if err != nil {
		return nil, err
	}
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created = "linux", o.arch, v1.Time{Time: epoch}
	file.Config = v1.Config{
		Entrypoint: strings.Fields(o.entrypoint),
		Cmd:        strings.Fields(o.cmd),
		Env:        strings.Split(o.env, ","),
		User:       o.user,
		StopSignal: o.stop,
	}
	return mutate.ConfigFile(img, file)
}

func toFile(path string, fill func(*tar.Writer) error) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	if err := fill(w); err != nil {
		return err
	}
	return w.Close()
}

// addTree adds what is below root, in lexical order, owned by root unless the
// file's own owner is another.
func addTree(w *tar.Writer, root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		return addFile(w, path, rel, d)
	})
}

func addFile(w *tar.Writer, path, rel string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	var link string
	if info.Mode()&fs.ModeSymlink != 0 {
		if link, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	h.Name, h.ModTime, h.AccessTime, h.ChangeTime = rel, epoch, time.Time{}, time.Time{}
	h.Uname, h.Gname, h.Format = "", "", tar.FormatPAX
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		h.Uid, h.Gid = int(st.Uid), int(st.Gid)
	}
	if info.IsDir() {
		h.Name += "/"
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}
