package encryption

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage/value"
)

// TestReader reads what a server wrote with the first key and the second.
func TestReader(t *testing.T) {
	path := File(t.TempDir())
	if err := Ensure(path, true); err != nil {
		t.Fatal(err)
	}
	secrets := schema.GroupResource{Resource: "secrets"}
	seal := func(text string) []byte {
		tr, err := Open(t.Context(), path, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := tr.TransformerForResource(secrets).TransformToStorage(t.Context(), []byte(text), value.DefaultContext("/registry/secrets/a/b"))
		if err != nil {
			t.Fatal(err)
		}
		return sealed
	}
	read := func() *Reader {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		r, err := NewReader(path, data)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first := seal("first")
	before := read()
	for Rotate(path) != nil { // keys are named after the second
		if t.Context().Err() != nil {
			t.Fatal(t.Context().Err())
		}
	}
	second := seal("second")
	damaged := append([]byte{}, first...)
	damaged[len(damaged)-1] ^= 1
	for _, tt := range []struct {
		name   string
		reader *Reader
		stored []byte
		want   string
		noKey  bool
	}{
		{"old key", read(), first, "first", false},
		{"new key", read(), second, "second", false},
		{"key that came later", before, second, "", true},
		{"no keys", &Reader{}, first, "", true},
		{"plain", &Reader{}, []byte("k8s\x00x"), "k8s\x00x", false},
		{"damaged", before, damaged, "", false},
		{"other provider", before, []byte("k8s:enc:aescbc:v1:" + read().name() + ":x"), "", true},
		{"cut", before, []byte("k8s:enc:secretbox:v1:"), "", true},
	} {
		got, err := tt.reader.Plain(t.Context(), tt.stored)
		if string(got) != tt.want || errors.Is(err, ErrNoKey) != tt.noKey || (err == nil) != (tt.want != "") {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
	}
	if _, err := NewReader("x", []byte("keys: []")); err == nil {
		t.Error("a file that is none is taken")
	}
	if err := Forget(filepath.Dir(path)); err != nil {
		t.Errorf("nothing to forget: %v", err)
	}
}

// name is one of its keys'.
func (r *Reader) name() string {
	for name := range r.keys {
		return name
	}
	return ""
}
