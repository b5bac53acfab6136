package apiserver

import (
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/restmapper"

	"keelson.dev/keelson/core/backup"
	"keelson.dev/keelson/core/registry"
)

// encrypting has a server keep its keys in its data folder, and back them up, as keelson server does.
func encrypting(c *Config) {
	withFiles(c)
	c.EncryptionDir = filepath.Join(filepath.Dir(c.PKI.Dir()), "encryption")
}

// TestSecretsInBackups restores encrypted Secrets on another machine, and alone into a running server whose
// keys are others.
func TestSecretsInBackups(t *testing.T) {
	h := start(t, encrypting)
	ctx := t.Context()
	putSecret(ctx, t, h, "token", "swordfish")
	whole, open := takeBackup(t, h.admin, BackupPKIPath), takeBackup(t, h.admin, BackupPath)
	if whole.Encrypted == 0 || whole.Sealed != 0 || open.Sealed != open.Encrypted || open.Encrypted != whole.Encrypted {
		t.Errorf("encrypted and sealed: %d, %d with keys; %d, %d without", whole.Encrypted, whole.Sealed, open.Encrypted, open.Sealed)
	}
	other := start(t, encrypting)
	resources, err := restmapper.GetAPIGroupResources(other.admin.Discovery())
	if err != nil {
		t.Fatal(err)
	}
	part := func(a *backup.Archive, p backup.Partial) error {
		p.Client, p.Mapper = dynamicClient(t, other.as(t, "admin", "system:masters")), restmapper.NewDiscoveryRESTMapper(resources)
		p.Decoder = registry.Codecs.UniversalDeserializer()
		p.Report = func(line string) { t.Log(line) }
		return p.Run(ctx, a)
	}
	for _, p := range []backup.Partial{{Object: "secret/default/token"}, {Namespace: "default"}} {
		if err := part(open, p); err == nil {
			t.Errorf("%+v: restored without keys", p)
		}
		if err := part(whole, p); err != nil {
			t.Errorf("%+v: %v", p, err)
		}
		secretIs(ctx, t, other, "token", "swordfish")
		if err := other.admin.CoreV1().Secrets("default").Delete(ctx, "token", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}
	if testEtcd != nil {
		return // a whole cluster is restored into Badger
	}
	dir := t.TempDir()
	if _, err := backup.Restore(ctx, whole, backup.RestoreOptions{DataDir: dir}); err != nil {
		t.Fatal(err)
	}
	restored, stop := startIn(t, dir, "127.0.0.1:0", encrypting)
	defer stop()
	secretIs(ctx, t, restored, "token", "swordfish")
	eventually(t, "the new server looks at all Secrets", func() bool { return written(t, filepath.Join(dir, "encryption")) })
	if onDisk(t, filepath.Join(dir, "store"), "swordfish") {
		t.Error("the restored Secret is on disk in plain")
	}
	if _, err := restored.admin.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "new"}}, metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
}
