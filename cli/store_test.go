package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keelson.dev/keelson/core/store"
)

func TestStoreCheck(t *testing.T) {
	dir := dataFolder(t, 3)
	flag := "--data-dir=" + dir
	stdout, stderr, err := run(t, "store", "check", flag)
	if err != nil || !strings.Contains(stdout, "Objects: 3; earlier versions: 0, deletions: 0\nRevision: 100,") || !strings.HasSuffix(stdout, "The store is whole\n") {
		t.Errorf("got %v\n%s%s, want a whole store of 3 objects", err, stdout, stderr)
	}

	db, err := store.Open(t.Context(), store.Options{Dir: filepath.Join(dir, "store")})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := run(t, "store", "check", flag); err == nil || !strings.Contains(err.Error(), "stop that server first") {
		t.Errorf("got %v, want that the store is in use", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	tables, err := filepath.Glob(filepath.Join(dir, "store", "badger", "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatal("no table", err)
	}
	if err := os.Truncate(tables[0], 100); err != nil {
		t.Fatal(err)
	}
	stdout, _, err = run(t, "store", "check", flag)
	if err == nil || !strings.Contains(err.Error(), "damaged: 1 problems") || !strings.Contains(stdout, tables[0]+": ") {
		t.Errorf("got %v\n%s, want the table named", err, stdout)
	}
}

// TestStoreCheckValues has objects in the store that nothing can decode.
func TestStoreCheckValues(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	values := map[string]string{
		"good":    `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"good","namespace":"shop"}}`,
		"custom":  `{"kind":"Boat","apiVersion":"example.com/v1","metadata":{"name":"custom"}}`,
		"foreign": "k8s:enc:aescbc:v1:mine:xxxx",
		"cut":     `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"na`,
		"field":   `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"field"},"data":7}`,
		"unnamed": `{"kind":"Boat","apiVersion":"example.com/v1"}`,
	}
	err := store.Import(t.Context(), store.Options{Dir: filepath.Join(dir, "store")}, 99, 100, func(add func(*store.Object) error) error {
		for i, name := range []string{"custom", "cut", "field", "foreign", "good", "unnamed"} {
			if err := add(&store.Object{Key: "/registry/configmaps/shop/" + name, Value: []byte(values[name]), Create: uint64(i + 2), Mod: uint64(i + 2)}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	stdout, _, err := run(t, "store", "check", "--data-dir="+dir)
	if err == nil || !strings.Contains(err.Error(), "3 problems") {
		t.Errorf("got %v, want 3 problems\n%s", err, stdout)
	}
	for name := range values {
		bad := name == "cut" || name == "field" || name == "unnamed"
		if strings.Contains(stdout, "/registry/configmaps/shop/"+name+" at revision") != bad {
			t.Errorf("%s: bad should be %t:\n%s", name, bad, stdout)
		}
	}
}
