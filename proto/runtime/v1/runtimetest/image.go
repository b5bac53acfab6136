package runtimetest

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Workload builds the program that the suite's containers run, and answers its path.
func Workload(t testing.TB) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "workload")
	cmd := exec.Command("go", "build", "-o", out, "keelson.dev/keelson/proto/runtime/v1/runtimetest/workload")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the workload: %v\n%s", err, msg)
	}
	return out
}

// Entry is a member of a layer.
type Entry struct {
	Name, Link, Body string
	Type             byte
	Mode             int64
}

// Layer makes an uncompressed layer's tar stream.
func Layer(t testing.TB, entries ...Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.Type == 0 {
			e.Type = tar.TypeReg
		}
		if e.Mode == 0 {
			e.Mode = 0o755
		}
		hdr := &tar.Header{Name: e.Name, Linkname: e.Link, Typeflag: e.Type, Mode: e.Mode, Size: int64(len(e.Body))}
		if err := w.WriteHeader(hdr); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.Body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// BaseLayer is a root file system with the workload as /bin/workload.
func BaseLayer(t testing.TB, workload string) []byte {
	t.Helper()
	data, err := os.ReadFile(workload)
	if err != nil {
		t.Fatal(err)
	}
	return Layer(t,
		Entry{Name: "bin/", Type: tar.TypeDir}, Entry{Name: "tmp/", Type: tar.TypeDir, Mode: 0o1777}, Entry{Name: "etc/", Type: tar.TypeDir},
		Entry{Name: "data/", Type: tar.TypeDir}, Entry{Name: "data/old", Body: "old"}, Entry{Name: "data/keep", Body: "keep"},
		Entry{Name: "opaque/", Type: tar.TypeDir}, Entry{Name: "opaque/lower", Body: "x"},
		Entry{Name: "etc/passwd", Body: "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001::/home/alice:/bin/sh\n"},
		Entry{Name: "etc/group", Body: "root:x:0:\nalice:x:1001:\nextra:x:2000:alice\n"},
		Entry{Name: "bin/workload", Body: string(data)},
	)
}

// Image puts layers together; config may change the configuration.
func Image(t testing.TB, config func(*v1.ConfigFile), layers ...[]byte) v1.Image {
	t.Helper()
	img := empty.Image
	for _, data := range layers {
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	if config != nil {
		config(file)
	}
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	return img
}

// OCIArchive writes images as one OCI layout in a tar file; an empty name is none.
func OCIArchive(t testing.TB, images map[string]v1.Image) []byte {
	t.Helper()
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for name, img := range images {
		var opts []layout.Option
		if name != "" {
			opts = append(opts, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": name}))
		}
		if err := path.AppendImage(img, opts...); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
