package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// authenticationConfigMap is the ConfigMap in kube-system from which aggregated API servers
// learn whom this server believes.
const authenticationConfigMap = "extension-apiserver-authentication"

// trust is what aggregated API servers read.
func (s *Server) trust() (map[string]string, error) {
	o := &s.config.Options.Authentication.RequestHeader
	data := map[string]string{
		"client-ca-file":               string(s.identity.clientCA.CurrentCABundleContent()),
		"requestheader-client-ca-file": string(s.identity.proxyCA.CurrentCABundleContent()),
	}
	for key, list := range map[string][]string{
		"requestheader-allowed-names": o.AllowedNames, "requestheader-username-headers": o.UsernameHeaders,
		"requestheader-uid-headers": o.UIDHeaders, "requestheader-group-headers": o.GroupHeaders,
		"requestheader-extra-headers-prefix": o.ExtraPrefixes,
	} {
		if list == nil {
			list = []string{}
		}
		text, err := json.Marshal(list)
		if err != nil {
			return nil, err
		}
		data[key] = string(text)
	}
	return data, nil
}

// ensureAuthentication writes the ConfigMap, and leaves other keys in it alone.
func (s *Server) ensureAuthentication(ctx context.Context) error {
	data, err := s.trust()
	if err != nil {
		return err
	}
	configMaps := s.client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	have, err := configMaps.Get(ctx, authenticationConfigMap, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = configMaps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: authenticationConfigMap}, Data: data}, metav1.CreateOptions{})
		if err == nil || apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	if err != nil {
		return fmt.Errorf("ensure config map %s: %w", authenticationConfigMap, err)
	}
	merged := maps.Clone(have.Data)
	if merged == nil {
		merged = map[string]string{}
	}
	maps.Copy(merged, data)
	if maps.Equal(merged, have.Data) {
		return nil
	}
	have = have.DeepCopy()
	have.Data = merged
	if _, err := configMaps.Update(ctx, have, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("ensure config map %s: %w", authenticationConfigMap, err)
	}
	return nil
}
