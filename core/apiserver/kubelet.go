package apiserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"keelson.dev/keelson/core/pki"
	"keelson.dev/keelson/core/registry"
	"keelson.dev/keelson/proto/api/v1alpha1"
)

// defaultKubeletPort is used until a node's status names its own.
const defaultKubeletPort = 10250

// kubelets connects to the kubelets of nodes, all with one client certificate.
type kubelets struct {
	tls       *tls.Config
	transport *http.Transport
}

var _ registry.KubeletConnector = (*kubelets)(nil)

func newKubelets(authority *pki.Authority) (*kubelets, error) {
	leaf, err := authority.Keep("apiserver-kubelet-client", pki.Request{
		CommonName: "kube-apiserver-kubelet-client", Organizations: []string{"system:masters"},
	})
	if err != nil {
		return nil, fmt.Errorf("certificate for kubelets: %w", err)
	}
	config := &tls.Config{
		MinVersion:           tls.VersionTLS12,
		RootCAs:              authority.CACertPool(),
		GetClientCertificate: leaf.GetClientCertificate,
	}
	transport := utilnet.SetTransportDefaults(&http.Transport{
		TLSClientConfig:     config.Clone(),
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     90 * time.Second,
	})
	return &kubelets{tls: config, transport: transport}, nil
}

// ConnectionInfo implements registry.KubeletConnector.
func (k *kubelets) ConnectionInfo(_ context.Context, node *corev1.Node) (*url.URL, http.RoundTripper, *tls.Config, error) {
	if _, simulated := node.Labels[v1alpha1.SimLabel]; simulated {
		return nil, nil, nil, apierrors.NewBadRequest(fmt.Sprintf("node %s is simulated (label %s): nothing runs there that has logs or could be reached", node.Name, v1alpha1.SimLabel))
	}
	host := ""
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP && a.Address != "" {
			host = a.Address
			break
		}
	}
	if host == "" {
		return nil, nil, nil, fmt.Errorf("node %s has no address of type InternalIP in its status yet", node.Name)
	}
	port := int(node.Status.DaemonEndpoints.KubeletEndpoint.Port)
	if port == 0 {
		port = defaultKubeletPort
	}
	u := &url.URL{Scheme: "https", Host: net.JoinHostPort(host, strconv.Itoa(port))}
	return u, k.transport, k.tls.Clone(), nil
}
