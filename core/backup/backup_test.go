package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage/value"

	"keelson.dev/keelson/core/encryption"
	"keelson.dev/keelson/core/store"
)

// memory is a Source.
type memory struct {
	rev     uint64
	objects []store.Object
}

func (m memory) Dump(_ context.Context, begin func(uint64) error, each func(*store.Object) error) error {
	if err := begin(m.rev); err != nil {
		return err
	}
	for i := range m.objects {
		if err := each(&m.objects[i]); err != nil {
			return err
		}
	}
	return nil
}

// cluster is a source with n objects and files that go with it.
func cluster(n int) (memory, []*File) {
	m := memory{rev: uint64(2*n + 10)}
	for i := range n {
		value := fmt.Sprintf(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"c%03d","namespace":"ns%d"},"data":{"n":"%d"}}`, i, i%2, i)
		o := store.Object{Key: fmt.Sprintf("/registry/configmaps/ns/c%03d", i), Value: []byte(value), Create: uint64(i + 2), Mod: uint64(2*n + 3 - i)}
		if i == 1 {
			o.Expires = time.Now().Unix() + 1000
		}
		m.objects = append(m.objects, o)
	}
	return m, []*File{{Path: "pki/ca.key", Mode: 0o600, Data: []byte("secret")}, {Path: "up.json", Mode: 0o644, Data: []byte("{}")}}
}

// file writes a backup of n objects and returns its path.
func file(t testing.TB, n int) string {
	t.Helper()
	m, files := cluster(n)
	path := filepath.Join(t.TempDir(), "backup")
	a, err := CreateFrom(t.Context(), path, func(w io.Writer) error {
		return Write(t.Context(), w, m, func() ([]*File, error) { return files, nil }, "")
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func readAll(t testing.TB, path string) (*Archive, []store.Object, []*File) {
	t.Helper()
	a, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	var objects []store.Object
	var files []*File
	err = a.Each(t.Context(), func(f *File) error { files = append(files, f); return nil },
		func(o *store.Object) error { objects = append(objects, *o); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return a, objects, files
}

func TestRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, 300} {
		path := file(t, n)
		m, files := cluster(n)
		a, objects, gotFiles := readAll(t, path)
		if n > 1 {
			m.objects[1].Expires = objects[1].Expires // the clock went on
		}
		if a.Header.Revision != m.rev || a.Format != FormatKeelson || !reflect.DeepEqual(objects, m.objects) || !reflect.DeepEqual(gotFiles, files) {
			t.Errorf("%d objects: read %+v, %d objects, %d files", n, a.Header, len(objects), len(gotFiles))
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
		}
	}
}

func TestNamespace(t *testing.T) {
	m, files := cluster(10)
	m.objects = append(m.objects, store.Object{Key: "/registry/namespaces/ns1", Value: []byte(`{"kind":"Namespace","metadata":{"name":"ns1"}}`), Create: 2, Mod: 2},
		store.Object{Key: "/registry/secrets/ns1/s", Value: []byte("k8s:enc:aescbc:v1:x:..."), Create: 2, Mod: 2},
		store.Object{Key: "/registry/secrets/ns2/s", Value: []byte("k8s:enc:aescbc:v1:x:..."), Create: 2, Mod: 2})
	path := filepath.Join(t.TempDir(), "backup")
	a, err := CreateFrom(t.Context(), path, func(w io.Writer) error {
		return Write(t.Context(), w, m, func() ([]*File, error) { return files, nil }, "ns1")
	})
	if err != nil {
		t.Fatal(err)
	}
	if a.Objects != 7 || a.Files != 0 || a.Encrypted != 1 || a.Header.Namespace != "ns1" {
		t.Errorf("%+v", a)
	}
	if _, err := Restore(t.Context(), a, RestoreOptions{DataDir: t.TempDir()}); !errors.Is(err, ErrPartial) {
		t.Errorf("restore of a namespace as a cluster: %v", err)
	}
}

// TestDamage cuts a backup at, and flips each bit pattern of, every byte: all of it is refused.
func TestDamage(t *testing.T) {
	data, err := os.ReadFile(file(t, 8))
	if err != nil {
		t.Fatal(err)
	}
	read := func(data []byte) error {
		r, err := NewReader(bytes.NewReader(data))
		for err == nil {
			_, _, err = r.Next()
		}
		if r != nil {
			r.Close()
		}
		return err
	}
	if err := read(data); !errors.Is(err, io.EOF) {
		t.Fatalf("the whole file: %v", err)
	}
	for i := range data {
		if err := read(data[:i]); !errors.Is(err, ErrBackup) {
			t.Errorf("cut at %d: %v", i, err)
		}
		flipped := bytes.Clone(data)
		flipped[i] ^= 1 << (i % 8)
		if err := read(flipped); !errors.Is(err, ErrBackup) {
			t.Errorf("flipped at %d: %v", i, err)
		}
	}
	if err := read(append(bytes.Clone(data), data...)); !errors.Is(err, ErrBackup) {
		t.Errorf("written twice: %v", err)
	}
}

func TestCreateLeavesNothingHalf(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "backup")
	full := errors.New("no space left on device")
	if err := os.WriteFile(path, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, write := range map[string]func(io.Writer) error{
		"failed":  func(w io.Writer) error { _, _ = w.Write([]byte(magic)); return full },
		"cut":     func(w io.Writer) error { _, err := w.Write([]byte(magic)); return err },
		"nothing": func(io.Writer) error { return nil },
	} {
		a, err := CreateFrom(t.Context(), path, write)
		if err == nil || name == "failed" && !errors.Is(err, full) {
			t.Errorf("%s: %v, %v", name, a, err)
		}
		files, _ := os.ReadDir(dir)
		data, _ := os.ReadFile(path)
		if len(files) != 1 || string(data) != "before" {
			t.Errorf("%s: %d files, content %q", name, len(files), data)
		}
	}
}

func TestRestore(t *testing.T) {
	path := file(t, 20)
	a, want, _ := readAll(t, path)
	dir := filepath.Join(t.TempDir(), "data")
	done, err := Restore(t.Context(), a, RestoreOptions{DataDir: dir, Margin: 1000})
	if err != nil || done.Aside != "" || done.Revision != a.Header.Revision+1000 {
		t.Fatalf("%+v, %v", done, err)
	}
	check := func() {
		t.Helper()
		db, err := store.Open(t.Context(), store.Options{Dir: filepath.Join(dir, storeDir)})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		var got []store.Object
		if err := db.Dump(t.Context(), func(uint64) error { return nil }, func(o *store.Object) error { got = append(got, *o); return nil }); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) || db.Revision() != a.Header.Revision+1000 {
			t.Errorf("restored %d objects at revision %d, want %d at %d", len(got), db.Revision(), len(want), a.Header.Revision+1000)
		}
		if key, err := os.ReadFile(filepath.Join(dir, "pki", "ca.key")); err != nil || string(key) != "secret" {
			t.Errorf("key %q, %v", key, err)
		}
	}
	check()
	if _, err := Restore(t.Context(), a, RestoreOptions{DataDir: dir, Margin: 1000}); !errors.Is(err, ErrExists) {
		t.Errorf("restore over a cluster: %v, want ErrExists", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pki", "ca.key"), []byte("newer"), 0o600); err != nil {
		t.Fatal(err)
	}
	done, err = Restore(t.Context(), a, RestoreOptions{DataDir: dir, Margin: 1000, Force: true})
	if err != nil {
		t.Fatal(err)
	}
	if old, err := os.ReadFile(filepath.Join(done.Aside, "pki", "ca.key")); err != nil || string(old) != "newer" {
		t.Errorf("moved aside %q, %v", old, err)
	}
	check()
	db, err := store.Open(t.Context(), store.Options{Dir: filepath.Join(dir, storeDir)})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := Restore(t.Context(), a, RestoreOptions{DataDir: dir, Force: true}); !errors.Is(err, store.ErrLocked) {
		t.Errorf("restore under a server: %v, want ErrLocked", err)
	}
}

// TestFinish stops a restore after each of its steps, as a kill would, and completes it.
func TestFinish(t *testing.T) {
	for steps := range 8 {
		dir := t.TempDir()
		write := func(path, content string) {
			path = filepath.Join(dir, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("store/x", "old")
		write("pki/x", "old")
		write("plugins/x", "stays")
		write(pendingName+"/new/store/x", "new")
		write(pendingName+"/new/pki/x", "new")
		info, err := os.Stat(filepath.Join(dir, pendingName))
		if err != nil {
			t.Fatal(err)
		}
		aside := filepath.Join(dir, asidePrefix+info.ModTime().UTC().Format("20060102T150405.000000000"))
		rename := func(from, to string) func() error { return func() error { return os.Rename(from, to) } }
		killed := []func() error{
			func() error { return os.MkdirAll(aside, 0o700) },
			rename(filepath.Join(dir, "pki"), filepath.Join(aside, "pki")),
			rename(filepath.Join(dir, pendingName, "new", "pki"), filepath.Join(dir, "pki")),
			rename(filepath.Join(dir, "store"), filepath.Join(aside, "store")),
			rename(filepath.Join(dir, pendingName, "new", "store"), filepath.Join(dir, "store")),
			func() error { return os.Remove(filepath.Join(dir, pendingName, "new")) },
			func() error { return os.Remove(filepath.Join(dir, pendingName)) },
		}
		for _, step := range killed[:steps] {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Finish(dir); err != nil {
			t.Fatalf("after %d steps: %v", steps, err)
		}
		for path, want := range map[string]string{
			"store/x": "new", "pki/x": "new", "plugins/x": "stays",
			filepath.Base(aside) + "/store/x": "old", filepath.Base(aside) + "/pki/x": "old",
		} {
			if got, err := os.ReadFile(filepath.Join(dir, path)); err != nil || string(got) != want {
				t.Errorf("after %d steps: %s holds %q, %v", steps, path, got, err)
			}
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "restore-*")); len(left) > 0 {
			t.Errorf("after %d steps: left %s", steps, strings.Join(left, ", "))
		}
	}
}

func TestEtcdRoundTrip(t *testing.T) {
	path := file(t, 300)
	snapshot := filepath.Join(t.TempDir(), "snapshot.db")
	if err := ConvertToEtcd(t.Context(), path, snapshot, false); err != nil {
		t.Fatal(err)
	}
	ours, want, _ := readAll(t, path)
	a, got, _ := readAll(t, snapshot)
	for i := range want {
		want[i].Version = 2
		if want[i].Create == want[i].Mod {
			want[i].Version = 1
		}
		if d := got[i].Expires - want[i].Expires; d < 0 || d > 5 { // a lease begins anew
			t.Errorf("%s ends %d s later", want[i].Key, d)
		}
		got[i].Expires = want[i].Expires
	}
	if a.Format != FormatEtcd || a.Header.Revision != ours.Header.Revision || !reflect.DeepEqual(got, want) {
		t.Errorf("read back %+v with %d objects", a.Header, len(got))
	}
	data, err := os.ReadFile(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string][]byte{
		"cut": data[:len(data)-4096], "no checksum": data[:len(data)-32], "empty": {}, "short": data[:100],
		"flipped": append(append(bytes.Clone(data[:9000]), data[9000]^1), data[9001:]...),
	} {
		bad := filepath.Join(t.TempDir(), "bad.db")
		if err := os.WriteFile(bad, damage, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), bad); !errors.Is(err, ErrBackup) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzReader(f *testing.F) {
	data, err := os.ReadFile(file(f, 3))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:12])
	f.Add([]byte("KEELSONB\x00\x00\x00\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := NewReader(bytes.NewReader(data))
		for err == nil {
			var file *File
			var o *store.Object
			if file, o, err = r.Next(); err == nil && (file == nil) == (o == nil) {
				t.Fatal("neither a file nor an object")
			}
			if o != nil {
				Metadata(o)
			}
		}
		if r != nil {
			r.Close()
		}
	})
}

func FuzzEtcdRecord(f *testing.F) {
	f.Add((&keyValue{key: []byte("/registry/a"), create: 2, mod: 3, version: 2, value: []byte("x"), lease: 7}).encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		kv, err := decodeKeyValue(data)
		if err != nil {
			return
		}
		again, err := decodeKeyValue(kv.encode())
		if err != nil || again.mod != kv.mod || !bytes.Equal(again.key, kv.key) || !bytes.Equal(again.value, kv.value) {
			t.Errorf("%+v became %+v, %v", kv, again, err)
		}
		_, _ = decodeLease(data)
	})
}

// TestKeys has encrypted values and their keys in a backup, in one without them, in a snapshot of etcd, and in
// what is made of them.
func TestKeys(t *testing.T) {
	data := t.TempDir()
	config := encryption.File(filepath.Join(data, encryptionDir))
	if err := encryption.Ensure(config, true); err != nil {
		t.Fatal(err)
	}
	if err := encryption.WriteProgress(filepath.Dir(config), encryption.Progress{Key: "x"}); err != nil {
		t.Fatal(err)
	}
	transformers, err := encryption.Open(t.Context(), config, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	secret := `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"s","namespace":"ns1"}}`
	sealed, err := transformers.TransformerForResource(schema.GroupResource{Resource: "secrets"}).TransformToStorage(t.Context(), []byte(secret), value.DefaultContext(nil))
	if err != nil {
		t.Fatal(err)
	}
	m, _ := cluster(3)
	m.objects = append(m.objects, store.Object{Key: "/registry/secrets/ns1/s", Value: sealed, Create: 2, Mod: 15})
	take := func(name string, files func() ([]*File, error)) *Archive {
		a, err := CreateFrom(t.Context(), filepath.Join(data, name), func(w io.Writer) error { return Write(t.Context(), w, m, files, "") })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = a.Close() })
		return a
	}
	with, without := take("with", func() ([]*File, error) { return Files(data) }), take("without", nil)
	if with.Encrypted != 1 || with.Sealed != 0 || with.Files != 1 || without.Encrypted != 1 || without.Sealed != 1 {
		t.Errorf("with the keys %+v, without %+v", with, without)
	}
	for _, decrypt := range []bool{false, true} {
		snapshot := filepath.Join(t.TempDir(), "snapshot.db")
		if err := ConvertToEtcd(t.Context(), with.Path, snapshot, decrypt); err != nil {
			t.Fatal(err)
		}
		out, objects, _ := readAll(t, snapshot)
		if (out.Sealed == 0) != decrypt || (string(objects[len(objects)-1].Value) == secret) != decrypt {
			t.Errorf("decrypt=%t: %+v", decrypt, out)
		}
	}
	if err := ConvertToEtcd(t.Context(), without.Path, filepath.Join(data, "plain.db"), true); !errors.Is(err, encryption.ErrNoKey) {
		t.Errorf("decrypted without keys: %v", err)
	}
	// What the keys that are there had written is of the store that goes.
	for _, a := range []*Archive{with, without} {
		dir := t.TempDir()
		own := filepath.Join(dir, encryptionDir)
		if err := encryption.Ensure(encryption.File(own), true); err != nil {
			t.Fatal(err)
		}
		if err := encryption.WriteProgress(own, encryption.Progress{Key: "x"}); err != nil {
			t.Fatal(err)
		}
		done, err := Restore(t.Context(), a, RestoreOptions{DataDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		was, _ := os.ReadFile(config)
		is, err := os.ReadFile(encryption.File(own))
		if err != nil || (string(is) == string(was)) != (a == with) || (done.Aside != "") != (a == with) {
			t.Errorf("%s: keys are %q, %v; aside %q", a.Path, is, err, done.Aside)
		}
		if p, err := encryption.ReadProgress(own); err != nil || p.Key != "" {
			t.Errorf("%s: %+v is still noted, %v", a.Path, p, err)
		}
	}
}
