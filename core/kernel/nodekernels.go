package kernel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"

	"keelson.dev/keelson/core/pki"
)

// agentTimeout bounds what is no log.
const agentTimeout = 30 * time.Second

// nodeKernels reaches the agents of further nodes.
type nodeKernels struct {
	client kubernetes.Interface
	leaf   *pki.Leaf
	roots  *tls.Config // without a server name
}

func newNodeKernels(authority *pki.Authority, client kubernetes.Interface) (*nodeKernels, error) {
	leaf, err := authority.Keep("keelson-server", pki.Request{CommonName: serverName})
	if err != nil {
		return nil, fmt.Errorf("certificate for agents: %w", err)
	}
	return &nodeKernels{client: client, leaf: leaf, roots: &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: authority.CACertPool(), GetClientCertificate: leaf.GetClientCertificate,
	}}, nil
}

// do sends a request to a node's agent. The caller closes the body.
func (n *nodeKernels) do(ctx context.Context, node, method, path string, query url.Values) (*http.Response, error) {
	address, err := n.address(ctx, node)
	if err != nil {
		return nil, err
	}
	u := url.URL{Scheme: "https", Host: net.JoinHostPort(address, strconv.Itoa(agentPort)), Path: path, RawQuery: query.Encode()}
	request, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	config := n.roots.Clone()
	config.ServerName = node // and nobody else's, whatever the address says
	// Such requests are rare: a connection for each leaves nothing open.
	transport := utilnet.SetOldTransportDefaults(&http.Transport{
		TLSClientConfig: config, DisableKeepAlives: true, TLSHandshakeTimeout: 10 * time.Second,
		DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
	})
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("the agent of node %s cannot be reached: %v", node, err))
	}
	if err := readStatus(response); err != nil {
		return nil, errors.Join(err, response.Body.Close())
	}
	return response, nil
}

func (n *nodeKernels) address(ctx context.Context, name string) (string, error) {
	node, err := n.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP && a.Address != "" {
			return a.Address, nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("node %s has no address of type InternalIP in its status yet", name))
}

// logs opens the log of a plugin there.
func (n *nodeKernels) logs(ctx context.Context, node, plugin string, tail int64, follow bool) (io.ReadCloser, error) {
	query := url.Values{}
	if tail >= 0 {
		query.Set("tailLines", strconv.FormatInt(tail, 10))
	}
	if follow {
		query.Set("follow", "true")
	}
	response, err := n.do(ctx, node, http.MethodGet, "/plugins/"+plugin+"/log", query)
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}

func (n *nodeKernels) restart(ctx context.Context, node, plugin string) error {
	return n.act(ctx, node, "/plugins/"+plugin+"/restart")
}

// swapAgain tries a revision there once more. Conflict: there is none to try.
func (n *nodeKernels) swapAgain(ctx context.Context, node, plugin string) error {
	return n.act(ctx, node, "/plugins/"+plugin+"/swap")
}

func (n *nodeKernels) act(ctx context.Context, node, path string) error {
	ctx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	response, err := n.do(ctx, node, http.MethodPost, path, nil)
	if err != nil {
		return err
	}
	return response.Body.Close()
}
