package apiserver

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	x509request "k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"

	"keelson.dev/keelson/core/pki"
)

// authenticationConfigMap is where aggregated API servers read, in kube-system,
// whom this server trusts and by which headers it hands identities on.
const authenticationConfigMap = "extension-apiserver-authentication"

// remoteHeaders are the headers of a front proxy, as Kubernetes names them.
var remoteHeaders = struct{ user, uid, group, extra headerrequest.StaticStringSlice }{
	user:  headerrequest.StaticStringSlice{"X-Remote-User"},
	uid:   headerrequest.StaticStringSlice{"X-Remote-Uid"},
	group: headerrequest.StaticStringSlice{"X-Remote-Group"},
	extra: headerrequest.StaticStringSlice{"X-Remote-Extra-"},
}

// frontProxyConfig says whose headers count, and which.
func frontProxyConfig(authority *pki.Authority) (*authenticatorfactory.RequestHeaderConfig, error) {
	ca, err := dynamiccertificates.NewStaticCAContent("keelson-front-proxy-ca", authority.FrontProxyCAPEM())
	if err != nil {
		return nil, fmt.Errorf("front proxy CA: %w", err)
	}
	return &authenticatorfactory.RequestHeaderConfig{
		UsernameHeaders: remoteHeaders.user, UIDHeaders: remoteHeaders.uid,
		GroupHeaders: remoteHeaders.group, ExtraHeaderPrefixes: remoteHeaders.extra,
		CAContentProvider: ca, AllowedClientNames: headerrequest.StaticStringSlice{frontProxyClient},
	}, nil
}

// proxied takes the identity that a front proxy says. Without its header the
// certificate is not even looked at: verifying one is dear.
type proxied struct{ verify authenticator.Request }

var _ authenticator.Request = proxied{}

func newProxied(authority *pki.Authority) proxied {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.FrontProxyCAPEM())
	options := x509request.DefaultVerifyOptions()
	options.Roots = roots
	return proxied{headerrequest.NewDynamicVerifyOptionsSecure(
		func() (x509.VerifyOptions, bool) { return options, true }, headerrequest.StaticStringSlice{frontProxyClient},
		remoteHeaders.user, remoteHeaders.uid, remoteHeaders.group, remoteHeaders.extra)}
}

// AuthenticateRequest implements authenticator.Request.
func (p proxied) AuthenticateRequest(req *http.Request) (*authenticator.Response, bool, error) {
	if req.Header.Get(remoteHeaders.user[0]) == "" {
		return nil, false, nil
	}
	return p.verify.AuthenticateRequest(req)
}

// ensureAuthentication writes that ConfigMap, or puts it right. What others
// added to it stays.
func (s *Server) ensureAuthentication(ctx context.Context) error {
	want := map[string]string{
		"client-ca-file":               string(s.config.PKI.CAPEM()),
		"requestheader-client-ca-file": string(s.config.PKI.FrontProxyCAPEM()),
	}
	for key, names := range map[string][]string{
		"requestheader-allowed-names":        {frontProxyClient},
		"requestheader-username-headers":     remoteHeaders.user,
		"requestheader-uid-headers":          remoteHeaders.uid,
		"requestheader-group-headers":        remoteHeaders.group,
		"requestheader-extra-headers-prefix": remoteHeaders.extra,
	} {
		list, err := json.Marshal(names)
		if err != nil {
			return fmt.Errorf("encode %s: %w", key, err)
		}
		want[key] = string(list)
	}
	configMaps := s.client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	got, err := configMaps.Get(ctx, authenticationConfigMap, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = configMaps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: authenticationConfigMap}, Data: want}, metav1.CreateOptions{})
	case err == nil:
		merged := maps.Clone(got.Data)
		if merged == nil {
			merged = map[string]string{}
		}
		maps.Copy(merged, want)
		if !maps.Equal(merged, got.Data) {
			got = got.DeepCopy()
			got.Data = merged
			_, err = configMaps.Update(ctx, got, metav1.UpdateOptions{})
		}
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("ensure config map %s: %w", authenticationConfigMap, err)
	}
	return nil
}
