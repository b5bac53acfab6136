package harness

import (
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/plugins/kit/kittest"
)

// Grant gives a plugin's identity the rights of rules, and no others.
func (s *Server) Grant(t testing.TB, plugin string, rules []rbacv1.PolicyRule) {
	t.Helper()
	user := user(plugin)
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: rules}
	if _, err := s.Admin.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		if apierrors.IsAlreadyExists(err) { // the plugin is started again
			return
		}
		t.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}},
	}
	if _, err := s.Admin.RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// user is the name of a plugin's identity.
func user(plugin string) string { return "system:plugin:" + plugin }

// Run starts a plugin in this process, with its own identity and the rights it asks
// for, so that tests show that those suffice. It ends with the test, or by stop.
func (s *Server) Run(t testing.TB, p kit.Plugin, config string) (stop func()) {
	t.Helper()
	s.Grant(t, p.Name, p.Rules)
	return s.Launch(t, p, config, nil)
}

// Launch is Run for a plugin that has its rights. change, if not nil, may change how it
// reaches the API server.
func (s *Server) Launch(t testing.TB, p kit.Plugin, config string, change func(*rest.Config)) (stop func()) {
	t.Helper()
	env := kittest.NewEnv(t, p)
	env.Log = Logger(t).With("plugin", p.Name)
	var err error
	if env.RESTConfig, err = s.As(user(p.Name), "system:plugins"); err != nil {
		t.Fatal(err)
	}
	env.RESTConfig.ContentType = "application/vnd.kubernetes.protobuf"
	env.RESTConfig.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	if change != nil {
		change(env.RESTConfig)
	}
	env.API.CA = s.PKI.CAPEM()
	env.Config = []byte(config)
	runner, err := p.New(env)
	if err != nil {
		t.Fatal(err)
	}
	return kittest.Run(t, runner)
}
