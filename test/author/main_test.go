package author

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/core/pluginverify"
	"keelson.dev/keelson/test/harness"
)

// TestMain makes this binary run the contract's suite when pluginverify executes it so.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == pluginverify.SuiteCommand {
		pluginverify.SuiteMain(os.Args[2:])
	}
	os.Exit(m.Run())
}

// world is an API server and a plugin host beside it.
type world struct {
	*harness.Server
	host *pluginhost.Host
	run  string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s := harness.Start(t)
	dir, err := os.MkdirTemp("/tmp", "ka") //nolint:usetesting // sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{Server: s, run: filepath.Join(dir, "r")}
	w.host = pluginhost.New(pluginhost.Config{
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)), DataDir: filepath.Join(dir, "d"), RunDir: w.run, Credentials: harness.Issuer{Authority: s.PKI},
		APIServer: s.Config.Host, APICA: s.PKI.CAPEM(),
		Cluster: pluginhost.Cluster{PodCIDRs: []string{"10.244.0.0/16"}, ServiceCIDRs: []string{"10.96.0.0/12"}, Domain: "cluster.local", DNSAddress: "10.96.0.10"},
		Node:    pluginhost.Node{Name: "node-1", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}},
		Accept:  w.accept, CgroupParent: "/keelson-author-" + filepath.Base(dir),
	})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- w.host.Run(ctx) }() // ends with the test
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("plugin host: %v", err)
		}
	})
	return w
}

// accept grants a plugin the rules that it describes, as the kernel does.
func (w *world) accept(ctx context.Context, d pluginhost.Description) error {
	user := "system:plugin:" + d.Name
	roles, bindings := w.Admin.RbacV1().ClusterRoles(), w.Admin.RbacV1().ClusterRoleBindings()
	_, err := roles.Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: d.Rules}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	_, err = bindings.Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		err = nil
	}
	return err
}
