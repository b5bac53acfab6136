package images

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"log" //nolint:depguard // the test registry takes no other logger
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"keelson.dev/keelson/plugins/kit/mounts"
	"keelson.dev/keelson/plugins/runtime/internal/rootfs"
	"keelson.dev/keelson/proto/runtime/v1/runtimetest"
	"keelson.dev/keelson/test/need"
)

func TestNormalize(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	for _, test := range []struct{ name, want string }{
		{"nginx", "docker.io/library/nginx:latest"},
		{"example/counter:v1", "docker.io/example/counter:v1"},
		{"docker.io/example/counter:v1", "docker.io/example/counter:v1"},
		{"index.docker.io/nginx:1", "docker.io/library/nginx:1"},
		{"localhost:5000/x", "localhost:5000/x:latest"},
		{"example.com/a/b:c", "example.com/a/b:c"},
		{"nginx@" + digest, "docker.io/library/nginx@" + digest},
		{"nginx:1@" + digest, "docker.io/library/nginx@" + digest},
		{"", ""}, {"Nginx", ""}, {"a b", ""}, {"x:", ""}, {"../x", ""},
	} {
		got, err := Normalize(test.name)
		if got != test.want || (err == nil) != (test.want != "") || (err != nil && !errors.Is(err, ErrInvalid)) {
			t.Errorf("%q: got %q, %v, want %q", test.name, got, err, test.want)
		}
	}
}

func FuzzNormalize(f *testing.F) {
	f.Add("docker.io/library/nginx:1@sha256:0")
	f.Fuzz(func(t *testing.T, in string) {
		full, err := Normalize(in)
		if err != nil {
			return
		}
		if again, err := Normalize(full); err != nil || again != full {
			t.Errorf("%q gives %q, which gives %q, %v", in, full, again, err)
		}
	})
}

func open(t *testing.T) *Store {
	t.Helper()
	need.Root(t)
	s, err := Open(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func image(t *testing.T, bodies ...string) v1.Image {
	t.Helper()
	var layers [][]byte
	for _, body := range bodies {
		layers = append(layers, runtimetest.Layer(t, runtimetest.Entry{Name: "d/", Type: tar.TypeDir}, runtimetest.Entry{Name: "d/" + body, Body: body}))
	}
	return runtimetest.Image(t, nil, layers...)
}

func TestRootStoreLayers(t *testing.T) {
	s := open(t)
	archive := runtimetest.OCIArchive(t, map[string]v1.Image{"a:1": image(t, "base", "one"), "b:1": image(t, "base", "two")})
	if _, err := s.Import(t.Context(), bytes.NewReader(archive), ""); err != nil {
		t.Fatal(err)
	}
	count := func() int {
		entries, err := os.ReadDir(s.LayersDir())
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	if got := count(); got != 3 {
		t.Errorf("layers of two images with a common base: got %d, want 3", got)
	}
	a, err := s.Get("a:1")
	if err != nil {
		t.Fatal(err)
	}
	s.Hold("container", a.Layers)
	if err := s.Remove("a:1"); err != nil {
		t.Fatal(err)
	}
	if got := count(); got != 3 {
		t.Errorf("layers while a container holds them: got %d, want 3", got)
	}
	again, err := Open(s.dir, s.log)
	if err != nil {
		t.Fatal(err)
	}
	if list := again.List(); len(list) != 1 || list[0].References[0] != "docker.io/library/b:1" {
		t.Errorf("after a restart: got %v", list)
	}
	if err := s.Release("container"); err != nil {
		t.Fatal(err)
	}
	if got := count(); got != 2 {
		t.Errorf("layers after the release: got %d, want 2", got)
	}
	if err := s.Remove("b"); err != nil || count() != 2 {
		t.Errorf("a name that is not there: %v, %d layers", err, count())
	}
	if err := s.Remove("b:1"); err != nil || count() != 0 {
		t.Errorf("the last image: %v, %d layers", err, count())
	}
}

func TestRootStoreMovedTag(t *testing.T) {
	s := open(t)
	for _, body := range []string{"one", "two"} {
		if _, err := s.Import(t.Context(), bytes.NewReader(runtimetest.OCIArchive(t, map[string]v1.Image{"": image(t, body)})), "a:1"); err != nil {
			t.Fatal(err)
		}
	}
	named := 0
	for _, img := range s.List() {
		named += len(img.References)
	}
	if len(s.List()) != 2 || named != 1 {
		t.Errorf("got %d images with %d names, want 2 with 1", len(s.List()), named)
	}
}

func TestRootImportIsConcurrent(t *testing.T) {
	s := open(t)
	archive := runtimetest.OCIArchive(t, map[string]v1.Image{"a:1": image(t, "base", "one")})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := s.Import(t.Context(), bytes.NewReader(archive), ""); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(s.List()) != 1 {
		t.Errorf("got %v", s.List())
	}
}

func TestRootImportCancelled(t *testing.T) {
	s := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	go func() {
		_, _ = w.Write(make([]byte, 512))
		cancel()
		_ = w.Close()
	}()
	if _, err := s.Import(ctx, r, ""); err == nil {
		t.Error("a cancelled import succeeded")
	}
	for _, dir := range []string{"tmp", "layers", "images"} {
		if left, _ := os.ReadDir(filepath.Join(s.dir, dir)); len(left) != 0 {
			t.Errorf("left in %s: %v", dir, left)
		}
	}
}

func TestRootPull(t *testing.T) {
	s := open(t)
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	ref, err := name.ParseReference(host + "/team/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image(t, "base", "app")); err != nil {
		t.Fatal(err)
	}
	img, err := s.Pull(t.Context(), host+"/team/app:v1", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(img.Layers) != 2 || len(img.Digests) != 1 {
		t.Errorf("got %+v", img)
	}
	byDigest, err := s.Pull(t.Context(), img.Digests[0], PullOptions{Auth: authn.FromConfig(authn.AuthConfig{Username: "u", Password: "p"})})
	if err != nil || byDigest.ID != img.ID {
		t.Errorf("by digest: got %+v, %v", byDigest, err)
	}
	// A mirror answers for a registry that is not there.
	opts := PullOptions{Mirrors: func(string) []string { return []string{host} }}
	if got, err := s.Pull(t.Context(), "registry.invalid/team/app:v1", opts); err != nil || got.ID != img.ID {
		t.Errorf("by a mirror: got %+v, %v", got, err)
	}
	if _, err := s.Pull(t.Context(), host+"/team/none:v1", PullOptions{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("an image that is not there: got %v", err)
	}
	root := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := (rootfs.Overlay{LayersDir: s.LayersDir(), Lower: Lower(img.Layers)}).Mount(root); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := mounts.Detach(root); err != nil {
			t.Error(err)
		}
	}()
	for _, file := range []string{"base", "app"} {
		if data, err := rootfs.ReadIn(root, "/d/"+file, 100); err != nil || string(data) != file {
			t.Errorf("%s: got %q, %v", file, data, err)
		}
	}
}
