package apiserver

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/core/encryption"
)

// onDisk says whether any file below dir has the text.
func onDisk(t *testing.T, dir, text string) bool {
	t.Helper()
	found := false
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		found = found || bytes.Contains(data, []byte(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func putSecret(ctx context.Context, t *testing.T, h *harness, name, value string) {
	t.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{"k": value}}
	_, err := h.admin.CoreV1().Secrets("default").Create(ctx, secret, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func secretIs(ctx context.Context, t *testing.T, h *harness, name, value string) {
	t.Helper()
	got, err := h.admin.CoreV1().Secrets("default").Get(ctx, name, metav1.GetOptions{})
	if err != nil || string(got.Data["k"]) != value {
		t.Errorf("secret %s: %q, %v; want %q", name, got.Data["k"], err, value)
	}
}

func TestSecretsAreEncryptedOnDisk(t *testing.T) {
	if testEtcd != nil {
		t.Skip("looks into the files of the server's own store")
	}
	dir := t.TempDir()
	keys := filepath.Join(dir, "encryption")
	with := func(c *Config) { c.EncryptionDir = keys }
	without := func(c *Config) { c.EncryptionDir = keys; c.Options.Encryption.Secrets = false }
	ctx := t.Context()

	h, stop := startIn(t, dir, "127.0.0.1:0", without)
	putSecret(ctx, t, h, "before", "old-plaintext-in-the-store")
	stop()
	if !onDisk(t, filepath.Join(dir, "store"), "old-plaintext-in-the-store") {
		t.Fatal("the text is not found on disk even unencrypted: this test would not see it")
	}

	h, stop = startIn(t, dir, "127.0.0.1:0", with)
	putSecret(ctx, t, h, "after", "new-plaintext-in-the-store")
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "open"}, Data: map[string]string{"k": "config-map-in-the-store"}}
	if _, err := h.admin.CoreV1().ConfigMaps("default").Create(ctx, cm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	secretIs(ctx, t, h, "before", "old-plaintext-in-the-store")
	eventually(t, "the old Secret is written anew", func() bool { return written(t, keys) })
	file := encryption.File(keys)
	eventually(t, "a new key is made", func() bool { return encryption.Rotate(file) == nil })
	eventually(t, "all Secrets are written with the new key", func() bool { return written(t, keys) })
	stop()
	if onDisk(t, filepath.Join(dir, "store"), "new-plaintext-in-the-store") {
		t.Error("a Secret is on disk in plain")
	}
	if !onDisk(t, filepath.Join(dir, "store"), "config-map-in-the-store") {
		t.Error("the config map is not on disk in plain")
	}

	// With the last key alone everything can be read.
	if err := encryption.Prune(file); err != nil {
		t.Fatal(err)
	}
	h, stop = startIn(t, dir, "127.0.0.1:0", with)
	secretIs(ctx, t, h, "before", "old-plaintext-in-the-store")
	secretIs(ctx, t, h, "after", "new-plaintext-in-the-store")
	stop()

	// Without the keys: a clear refusal, and no empty Secret.
	if err := os.RemoveAll(keys); err != nil {
		t.Fatal(err)
	}
	h, stop = startIn(t, dir, "127.0.0.1:0", with)
	defer stop()
	_, err := h.admin.CoreV1().Secrets("default").Get(ctx, "after", metav1.GetOptions{})
	if !apierrors.IsInternalError(err) && !apierrors.IsStoreReadError(err) {
		t.Errorf("without the key: %v", err)
	}
}

// written says whether all Secrets are as the file wants them.
func written(t *testing.T, dir string) bool {
	t.Helper()
	state, err := encryption.Read(encryption.File(dir))
	if err != nil {
		t.Fatal(err)
	}
	p, err := encryption.ReadProgress(dir)
	if err != nil {
		t.Fatal(err)
	}
	return p.Done(state)
}
