package encryption

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage/value"
)

var secrets = schema.GroupResource{Resource: "secrets"}

func open(t *testing.T, path string) *Transformers {
	t.Helper()
	tr, err := Open(t.Context(), path, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func encrypt(t *testing.T, tr *Transformers, text string) []byte {
	t.Helper()
	out, err := tr.TransformerForResource(secrets).TransformToStorage(t.Context(), []byte(text), value.DefaultContext("/registry/secrets/a/b"))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func decrypt(t *testing.T, tr *Transformers, data []byte) (text string, stale bool) {
	t.Helper()
	out, stale, err := tr.TransformerForResource(secrets).TransformFromStorage(t.Context(), data, value.DefaultContext("/registry/secrets/a/b"))
	if err != nil {
		t.Fatal(err)
	}
	return string(out), stale
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestOwnKey(t *testing.T) {
	path := File(t.TempDir())
	must(t, Ensure(path, true))
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v; want 0600", info.Mode(), err)
	}
	tr := open(t, path)
	stored := encrypt(t, tr, "sesame")
	if bytes.Contains(stored, []byte("sesame")) || !bytes.HasPrefix(stored, []byte("k8s:enc:secretbox:v1:")) {
		t.Fatalf("stored as %q", stored)
	}
	if text, stale := decrypt(t, tr, stored); text != "sesame" || stale {
		t.Errorf("read %q, stale %t", text, stale)
	}
	if text, stale := decrypt(t, tr, []byte("plain")); text != "plain" || !stale {
		t.Errorf("read %q, stale %t; want what was there before to be readable, and to be written anew", text, stale)
	}
	configMaps := tr.TransformerForResource(schema.GroupResource{Resource: "configmaps"})
	if out, err := configMaps.TransformToStorage(t.Context(), []byte("x"), value.DefaultContext("k")); err != nil || string(out) != "x" {
		t.Errorf("config maps are stored as %q, %v; want them as they are", out, err)
	}
	before, err := os.ReadFile(path)
	must(t, err)
	must(t, Ensure(path, true))
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("Ensure changed a file that was right: %v", err)
	}
}

func TestEnsureOffMakesNothing(t *testing.T) {
	path := File(t.TempDir())
	must(t, Ensure(path, false))
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("file: %v; want none", err)
	}
}

func TestOffAndOn(t *testing.T) {
	path := File(t.TempDir())
	must(t, Ensure(path, true))
	stored := encrypt(t, open(t, path), "a")
	must(t, Ensure(path, false))
	off := open(t, path)
	if got := encrypt(t, off, "b"); string(got) != "b" {
		t.Errorf("switched off, stored as %q", got)
	}
	if text, stale := decrypt(t, off, stored); text != "a" || !stale {
		t.Errorf("read %q, stale %t", text, stale)
	}
	must(t, Ensure(path, true))
	if text, stale := decrypt(t, open(t, path), stored); text != "a" || stale {
		t.Errorf("switched on again, read %q, stale %t", text, stale)
	}
}

func TestRotateWhileRunning(t *testing.T) {
	path := File(t.TempDir())
	must(t, Ensure(path, true))
	tr := open(t, path)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- tr.Run(ctx) }()
	old := encrypt(t, tr, "a")
	first, err := Read(path)
	must(t, err)
	rotate(t, path)
	wait(t, tr)
	if text, stale := decrypt(t, tr, old); text != "a" || !stale {
		t.Errorf("read %q, stale %t; want it to be written anew", text, stale)
	}
	fresh := encrypt(t, tr, "a")
	if text, stale := decrypt(t, tr, fresh); text != "a" || stale {
		t.Errorf("read %q, stale %t", text, stale)
	}
	// A file that cannot be used leaves what was in force.
	good, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, []byte("resources: nonsense"), 0o600))
	must(t, os.WriteFile(path, good, 0o600))
	must(t, Prune(path))
	wait(t, tr)
	if _, _, err := tr.TransformerForResource(secrets).TransformFromStorage(t.Context(), old, value.DefaultContext("k")); err == nil {
		t.Error("the pruned key still reads")
	}
	if text, _ := decrypt(t, tr, fresh); text != "a" {
		t.Errorf("read %q", text)
	}
	second, err := Read(path)
	must(t, err)
	if len(second.Keys) != 1 || second.Keys[0] == first.Keys[0] {
		t.Errorf("keys %v, before the rotation %v", second.Keys, first.Keys)
	}
	cancel()
	must(t, <-done)
}

// rotate waits out the second in which the key before was made.
func rotate(t *testing.T, path string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := Rotate(path)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-time.After(50 * time.Millisecond)
	}
}

func wait(t *testing.T, tr *Transformers) {
	t.Helper()
	select {
	case <-tr.Changed():
	case <-time.After(time.Minute):
		t.Fatal("the changed file was not taken over")
	}
}

func TestWrongFiles(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"no YAML":       "\t",
		"unknown field": "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nkeys: []",
		"no key":        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers: [{identity: {}}]",
		"short key": "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n" +
			"  providers: [{secretbox: {keys: [{name: a, secret: QUJD}]}}, {identity: {}}]",
		"more than secrets": "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets, configmaps]\n  providers: [{identity: {}}]",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
			must(t, os.WriteFile(path, []byte(content), 0o600))
			for what, err := range map[string]error{"Ensure": Ensure(path, true), "Rotate": Rotate(path), "Prune": Prune(path)} {
				if err == nil || !strings.Contains(err.Error(), path) {
					t.Errorf("%s: %v; want an error that names the file", what, err)
				}
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != content {
				t.Errorf("the file is now %q, %v; want it untouched", got, err)
			}
		})
	}
}

func TestProgress(t *testing.T) {
	dir := t.TempDir()
	none, err := ReadProgress(dir)
	must(t, err)
	state := State{Encrypts: true, Keys: []string{"b", "a"}}
	if none.Done(state) {
		t.Error("done before anything was written")
	}
	must(t, WriteProgress(dir, Progress{Key: "b", Secrets: 3, At: time.Now()}))
	p, err := ReadProgress(dir)
	must(t, err)
	if !p.Done(state) || p.Secrets != 3 {
		t.Errorf("%+v is not done for %+v", p, state)
	}
	if p.Done(State{Encrypts: false, Keys: state.Keys}) {
		t.Error("encrypted Secrets count as written in plain")
	}
	must(t, os.WriteFile(filepath.Join(dir, progressName), []byte("{"), 0o600))
	if _, err := ReadProgress(dir); err == nil {
		t.Error("a damaged file was accepted")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n" +
		"  providers: [{secretbox: {keys: [{name: a, secret: QUJD}]}}, {identity: {}}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := parse("file", data); err == nil && len(c.keys) == 0 {
			t.Error("accepted without a key")
		}
	})
}
