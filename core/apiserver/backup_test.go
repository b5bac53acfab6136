package apiserver

import (
	"context"
	"io"
	"log/slog"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/restmapper"

	"keelson.dev/keelson/core/backup"
	"keelson.dev/keelson/core/registry"
)

// takeBackup gets a backup through the API.
func takeBackup(t testing.TB, c kubernetes.Interface, path string) *backup.Archive {
	t.Helper()
	a, err := backup.CreateFrom(t.Context(), filepath.Join(t.TempDir(), "backup"), func(w io.Writer) error {
		body, err := c.CoreV1().RESTClient().Get().RequestURI(path).Stream(t.Context())
		if err != nil {
			return err
		}
		defer body.Close()
		_, err = io.Copy(w, body)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

// withFiles has the server put its certificates into backups.
func withFiles(c *Config) {
	dir := filepath.Dir(c.PKI.Dir())
	c.BackupFiles = func() ([]*backup.File, error) { return backup.Files(dir) }
}

// TestBackupUnderLoad restores a backup that was taken while writers ran: its content is
// what the API served at the backup's revision.
func TestBackupUnderLoad(t *testing.T) {
	h := start(t, withFiles)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	maps := h.admin.CoreV1().ConfigMaps("default")
	const writers = 4
	for w := range writers {
		cm, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "w" + strconv.Itoa(w)}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				cm.Data = map[string]string{"n": strconv.Itoa(i)}
				if cm, err = maps.Update(t.Context(), cm, metav1.UpdateOptions{}); err != nil {
					t.Errorf("update: %v", err)
					return
				}
			}
		})
	}
	a := takeBackup(t, h.admin, BackupPKIPath)
	stop()
	wg.Wait()
	at, err := maps.List(t.Context(), metav1.ListOptions{
		ResourceVersion: strconv.FormatUint(a.Header.Revision, 10), ResourceVersionMatch: metav1.ResourceVersionMatchExact,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, cm := range at.Items {
		want[cm.Name] = cm.Data["n"] + "@" + cm.ResourceVersion + string(cm.UID)
	}
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := backup.Restore(t.Context(), a, backup.RestoreOptions{DataDir: dir, Margin: 1000}); err != nil {
		t.Fatal(err)
	}
	if testEtcd != nil {
		return // what follows is about Badger
	}
	restored, end := startIn(t, dir, "127.0.0.1:0")
	defer end()
	got, err := restored.admin.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if rev, _ := strconv.ParseUint(got.ResourceVersion, 10, 64); rev < a.Header.Revision+1000 {
		t.Errorf("restored store is at revision %d, the backup was of %d", rev, a.Header.Revision)
	}
	for _, cm := range got.Items {
		if n, ok := want[cm.Name]; ok && n != cm.Data["n"]+"@"+cm.ResourceVersion+string(cm.UID) {
			t.Errorf("%s restored as %s@%s, at revision %d it was %s", cm.Name, cm.Data["n"], cm.ResourceVersion, a.Header.Revision, n)
		}
		delete(want, cm.Name)
	}
	if len(want) > 0 {
		t.Errorf("not restored: %v", want)
	}
	w, err := restored.admin.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{ResourceVersion: strconv.FormatUint(a.Header.Revision, 10)})
	if err == nil {
		e := <-w.ResultChan()
		err = apierrors.FromObject(e.Object)
		w.Stop()
	}
	if !apierrors.IsResourceExpired(err) {
		t.Errorf("watch from before the restore: %v, want 410", err)
	}
	if string(restored.pki.CAPEM()) != string(h.pki.CAPEM()) {
		t.Error("the restored authority is another one")
	}
}

func TestBackupAccess(t *testing.T) {
	h := start(t, withFiles)
	get := func(c kubernetes.Interface, path string) error {
		return c.CoreV1().RESTClient().Get().RequestURI(path).Do(t.Context()).Error()
	}
	user := client(t, h.as(t, "operator"))
	if err := get(user, BackupPath); !apierrors.IsForbidden(err) {
		t.Errorf("anybody's backup: %v, want 403", err)
	}
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "backup"}, Rules: []rbacv1.PolicyRule{{NonResourceURLs: []string{BackupPath}, Verbs: []string{"get"}}}}
	if _, err := h.admin.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "backup"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "backup"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "operator"}},
	}
	if _, err := h.admin.RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "operator may take a backup", func() bool { return get(user, BackupPath) == nil })
	if err := get(user, BackupPKIPath); !apierrors.IsForbidden(err) {
		t.Errorf("backup with keys: %v, want 403", err)
	}
	for path, check := range map[string]func(error) bool{
		BackupPath + "?namespace=A_b":        apierrors.IsBadRequest,
		BackupPKIPath + "?namespace=default": apierrors.IsBadRequest,
		BackupPath + "?namespace=default":    func(err error) bool { return err == nil },
		BackupPath + "/further":              apierrors.IsNotFound,
		BackupPKIPath:                        func(err error) bool { return err == nil },
	} {
		if err := get(h.admin, path); !check(err) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := h.admin.CoreV1().RESTClient().Post().RequestURI(BackupPath).Do(t.Context()).Error(); !apierrors.IsMethodNotSupported(err) {
		t.Errorf("POST: %v, want 405", err)
	}
}

// TestRestorePartly brings back what was deleted and changed in a namespace.
func TestRestorePartly(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	core := h.admin.CoreV1()
	if _, err := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"changed", "deleted", "same"} {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"is": "right"}}
		if _, err := core.ConfigMaps("shop").Create(ctx, cm, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	if _, err := core.Services("shop").Create(ctx, service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	a := takeBackup(t, h.admin, BackupPath+"?namespace=shop")
	if a.Objects != 5 {
		t.Errorf("backup has %d objects, want 5", a.Objects)
	}
	changed, err := core.ConfigMaps("shop").Get(ctx, "changed", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	changed.Data["is"] = "wrong"
	if _, err := core.ConfigMaps("shop").Update(ctx, changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := core.ConfigMaps("shop").Delete(ctx, "deleted", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	resources, err := restmapper.GetAPIGroupResources(h.admin.Discovery())
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	run := func(p backup.Partial) error {
		lines = nil
		p.Client, p.Mapper = dynamicClient(t, h.as(t, "admin", "system:masters")), restmapper.NewDiscoveryRESTMapper(resources)
		p.Decoder = registry.Codecs.UniversalDeserializer()
		p.Report = func(line string) { lines = append(lines, line) }
		return p.Run(ctx, a)
	}
	is := func(name string) string {
		cm, err := core.ConfigMaps("shop").Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "gone"
		}
		if err != nil {
			t.Fatal(err)
		}
		return cm.Data["is"]
	}
	for _, step := range []struct {
		name             string
		partial          backup.Partial
		changed, deleted string
		wrong            bool
	}{
		{"dry run", backup.Partial{Namespace: "shop", DryRun: true}, "wrong", "gone", false},
		{"an object that is not in it", backup.Partial{Object: "configmap/shop/other"}, "wrong", "gone", true},
		{"no object", backup.Partial{Object: "configmap"}, "wrong", "gone", true},
		{"one object", backup.Partial{Object: "configmaps/shop/deleted"}, "wrong", "right", false},
		{"keeping", backup.Partial{Namespace: "shop", KeepExisting: true}, "wrong", "right", false},
		{"all", backup.Partial{Namespace: "shop"}, "right", "right", false},
	} {
		err := run(step.partial)
		if (err != nil) != step.wrong || is("changed") != step.changed || is("deleted") != step.deleted || is("same") != "right" {
			t.Errorf("%s: %v; changed is %s, deleted is %s; %q", step.name, err, is("changed"), is("deleted"), lines)
		}
	}
}

// TestRestoreEtcdSnapshot has objects go out as a snapshot of etcd and come back.
func TestRestoreEtcdSnapshot(t *testing.T) {
	if testEtcd != nil {
		t.Skip("restores into Badger")
	}
	h := start(t)
	a := takeBackup(t, h.admin, BackupPath)
	snapshot := filepath.Join(t.TempDir(), "snapshot.db")
	if err := backup.ConvertToEtcd(t.Context(), a.Path, snapshot, false); err != nil {
		t.Fatal(err)
	}
	out, err := backup.Open(t.Context(), snapshot)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	dir := t.TempDir()
	if _, err := backup.Restore(t.Context(), out, backup.RestoreOptions{DataDir: dir, Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	again, stop := startIn(t, dir, "127.0.0.1:0")
	defer stop()
	for _, name := range []string{"default", "kube-system"} {
		was, err := h.admin.CoreV1().Namespaces().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		is, err := again.admin.CoreV1().Namespaces().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || is.UID != was.UID || is.ResourceVersion != was.ResourceVersion {
			t.Errorf("%s came back as %v, %v", name, is, err)
		}
	}
}
