package rootfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"keelson.dev/keelson/plugins/kit/mounts"
	"keelson.dev/keelson/test/need"
)

type entry struct {
	name, link, body string
	kind             byte
}

func layer(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		if err := w.WriteHeader(&tar.Header{Name: e.name, Linkname: e.link, Typeflag: e.kind, Mode: 0o4755, Size: int64(len(e.body)), Uid: 7, Gid: 8}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRootUnpackStaysInside(t *testing.T) {
	need.Root(t)
	for _, test := range []struct {
		name    string
		entries []entry
		unsafe  bool
	}{
		{"dot dot", []entry{{name: "../x", body: "x"}}, true},
		{"dot dot in the middle", []entry{{name: "a/../../x", body: "x"}}, true},
		{"hard link out", []entry{{name: "x", link: "../secret", kind: tar.TypeLink}}, true},
		{"whiteout of dot dot", []entry{{name: ".wh..."}, {name: "a/.wh..."}}, true},
		{"absolute name", []entry{{name: "/x", body: "x"}}, false},
		{"through a relative link", []entry{{name: "l", link: "../../..", kind: tar.TypeSymlink}, {name: "l/x", body: "x"}}, false},
		{"through an absolute link", []entry{{name: "d", kind: tar.TypeDir}, {name: "l", link: "/d", kind: tar.TypeSymlink}, {name: "l/x", body: "x"}}, false},
		{"link replaced by a file", []entry{{name: "l", link: "/secret", kind: tar.TypeSymlink}, {name: "l", body: "x"}}, false},
		{"whiteout through a link", []entry{{name: "l", link: "..", kind: tar.TypeSymlink}, {name: "l/.wh.secret"}}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			above := t.TempDir()
			root := filepath.Join(above, "root")
			if err := errors.Join(os.Mkdir(root, 0o755), os.WriteFile(filepath.Join(above, "secret"), []byte("s"), 0o600)); err != nil {
				t.Fatal(err)
			}
			_, err := Unpack(t.Context(), root, bytes.NewReader(layer(t, test.entries...)))
			if got := errors.Is(err, ErrUnsafe); got != test.unsafe || (!test.unsafe && err != nil) {
				t.Errorf("got %v, want unsafe %t", err, test.unsafe)
			}
			entries, _ := os.ReadDir(above)
			if data, err := os.ReadFile(filepath.Join(above, "secret")); err != nil || string(data) != "s" || len(entries) != 2 {
				t.Errorf("outside changed: %v, %q, %v", entries, data, err)
			}
		})
	}
}

func TestRootUnpackMetadata(t *testing.T) {
	need.Root(t)
	root := t.TempDir()
	if _, err := Unpack(t.Context(), root, bytes.NewReader(layer(t, entry{name: "a/b/file", body: "x"}, entry{name: "a/hard", link: "/a/b/file", kind: tar.TypeLink}, entry{name: "p", kind: tar.TypeFifo}))); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(root, "a/hard"), &st); err != nil {
		t.Fatal(err)
	}
	if st.Uid != 7 || st.Gid != 8 || st.Mode&0o7777 != 0o4755 || st.Nlink != 2 {
		t.Errorf("got uid %d, gid %d, mode %o, %d links", st.Uid, st.Gid, st.Mode, st.Nlink)
	}
}

func TestRootOverlayOfManyLayers(t *testing.T) {
	need.Root(t)
	dir := t.TempDir()
	var lower []string
	for i := range 127 {
		name := string([]byte{'a' + byte(i/26), 'a' + byte(i%26)}) + "0123456789abcd/fs"
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "file"), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
		lower = append(lower, name)
	}
	target := filepath.Join(dir, "merged")
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	for _, d := range []string{target, upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := (Overlay{LayersDir: dir, Lower: lower, Upper: upper, Work: work, Volatile: true}).Mount(target); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := mounts.Detach(target); err != nil {
			t.Error(err)
		}
		if err := mounts.Detach(target); err != nil {
			t.Errorf("repeated: %v", err)
		}
	}()
	if data, err := os.ReadFile(filepath.Join(target, "file")); err != nil || string(data) != lower[126] {
		t.Errorf("got %q, %v: the last layer is on top", data, err)
	}
	lower = slices.Repeat(lower, 3)
	if err := (Overlay{LayersDir: dir, Lower: lower, Upper: upper, Work: work}).Mount(target); err == nil {
		t.Error("more layers than the kernel takes were mounted")
	}
}

func FuzzUnpack(f *testing.F) {
	need.Root(f)
	f.Add(layer(f, entry{name: "a/../../b", body: "x"}))
	f.Add(layer(f, entry{name: "l", link: "/", kind: tar.TypeSymlink}, entry{name: "l/.wh.x"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		above := t.TempDir()
		root := filepath.Join(above, "root")
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		_, _ = Unpack(t.Context(), root, bytes.NewReader(data))
		if entries, err := os.ReadDir(above); err != nil || len(entries) != 1 {
			t.Errorf("outside changed: %v, %v", entries, err)
		}
	})
}
