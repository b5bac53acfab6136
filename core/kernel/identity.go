package kernel

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"keelson.dev/keelson/core/pki"
	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/proto/rotate"
)

const (
	// identityFile is below an agent's data folder: what has taken the place of the
	// certificates in the join file.
	identityFile = "identity.json"
	// signPatience bounds the wait for one certificate, signPause is between two looks.
	signPatience, signPause = time.Minute, 200 * time.Millisecond
)

// identity has the certificates of a node, first those of the join file. It renews
// them by certificate signing requests under the node's own name. It may be used
// concurrently.
type identity struct {
	node      Node
	local     *pki.Authority
	path      string
	now       func() time.Time
	log       *slog.Logger
	transport *rotate.Transport // of the agent's own requests

	mu  sync.Mutex // guards has
	has certificates
}

// certificates are what a join file and identityFile have alike.
type certificates struct {
	CA      []byte                        `json:"ca"`
	Agent   pluginhost.KeyPair            `json:"agent"`
	Clients map[string]pluginhost.KeyPair `json:"clients"`
	Serving map[string]pluginhost.KeyPair `json:"serving"`
}

var _ pluginhost.Credentials = (*identity)(nil)

// openIdentity takes what was renewed before, unless the join file is newer or of
// another cluster or node.
func openIdentity(join *joinFile, local *pki.Authority, path string, now func() time.Time, log *slog.Logger) (*identity, error) {
	i := &identity{node: join.Node, local: local, path: path, now: now, log: log,
		has: certificates{CA: join.CA, Agent: join.Agent, Clients: join.Clients, Serving: join.Serving}}
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var kept certificates
	if err == nil && json.Unmarshal(data, &kept) == nil && newer(&kept, &i.has) {
		i.has = kept
	}
	if i.transport, err = rotate.New(i.has.CA, i.has.Agent.Certificate, i.has.Agent.PrivateKey); err != nil {
		return nil, fmt.Errorf("--join: %w: make the file anew on the server", err)
	}
	return i, nil
}

func newer(kept, join *certificates) bool {
	a, b := leafOf(kept.Agent), leafOf(join.Agent)
	return a != nil && b != nil && a.NotAfter.After(b.NotAfter) && a.Subject.CommonName == b.Subject.CommonName && bytes.Equal(kept.CA, join.CA)
}

// leafOf is a pair's certificate, nil if the pair is damaged.
func leafOf(pair pluginhost.KeyPair) *x509.Certificate {
	cert, err := tls.X509KeyPair(pair.Certificate, pair.PrivateKey)
	if err != nil {
		return nil
	}
	return cert.Leaf
}

// Client is the identity of a plugin of this node; a kubelet is the node itself.
func (i *identity) Client(name, kind string) (pluginhost.KeyPair, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if kind == kubeletKind {
		return i.has.Agent, nil
	}
	return take(i.has.Clients, name)
}

// Serving is the certificate for this node's addresses.
func (i *identity) Serving(name string, _ []netip.Addr, _ []string) (pluginhost.KeyPair, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return take(i.has.Serving, name)
}

// Transport is issued here.
func (i *identity) Transport(name string) (pluginhost.Transport, error) {
	return transport(i.local, name)
}

func take(from map[string]pluginhost.KeyPair, name string) (pluginhost.KeyPair, error) {
	pair, ok := from[name]
	if !ok {
		return pair, fmt.Errorf("the join file has no identity for plugin %q: make a new one on the server", name)
	}
	return pair, nil
}

// renew asks for new certificates in the place of those that get old. What it got is
// kept before it is used, also if the rest is refused.
func (i *identity) renew(ctx context.Context, client kubernetes.Interface) error {
	i.mu.Lock()
	next := certificates{CA: i.has.CA, Agent: i.has.Agent, Clients: maps.Clone(i.has.Clients), Serving: maps.Clone(i.has.Serving)}
	i.mu.Unlock()
	var errs []error
	got := false
	one := func(pair pluginhost.KeyPair, ask request) pluginhost.KeyPair {
		leaf := leafOf(pair)
		if leaf != nil && !pki.Old(leaf, i.now()) {
			return pair
		}
		fresh, err := i.request(ctx, client, ask)
		if err != nil {
			errs = append(errs, err)
			return pair
		}
		got = true
		return fresh
	}
	self := pkix.Name{CommonName: nodePrefix + i.node.Name, Organization: []string{nodesGroup}}
	next.Agent = one(next.Agent, request{certificatesv1.KubeAPIServerClientKubeletSignerName, self, false})
	for _, name := range slices.Sorted(maps.Keys(next.Clients)) {
		plugin := pkix.Name{CommonName: pluginPrefix + name, Organization: []string{pluginsGroup}}
		next.Clients[name] = one(next.Clients[name], request{PluginClientSigner, plugin, false})
	}
	for _, name := range slices.Sorted(maps.Keys(next.Serving)) {
		next.Serving[name] = one(next.Serving[name], request{certificatesv1.KubeletServingSignerName, self, true})
	}
	if !got {
		return errors.Join(errs...)
	}
	data, err := json.MarshalIndent(next, "", "  ")
	if err == nil {
		err = writeFile(i.path, data)
	}
	if err == nil {
		err = i.transport.Use(next.Agent.Certificate, next.Agent.PrivateKey)
	}
	i.mu.Lock()
	i.has = next
	i.mu.Unlock()
	i.log.Info("Certificates of this node are renewed", "until", leafOf(next.Agent).NotAfter.Format(time.RFC3339))
	return errors.Join(append(errs, err)...)
}

// request says what certificate is asked for, and whom.
type request struct {
	signer  string
	subject pkix.Name
	serving bool
}

// request makes a key and has it signed.
func (i *identity) request(ctx context.Context, client kubernetes.Interface, r request) (pluginhost.KeyPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pluginhost.KeyPair{}, err
	}
	template := &x509.CertificateRequest{Subject: r.subject}
	usage := certificatesv1.UsageClientAuth
	if r.serving {
		usage = certificatesv1.UsageServerAuth
		template.DNSNames = []string{i.node.Name}
		for _, a := range i.node.Addresses {
			template.IPAddresses = append(template.IPAddresses, a.AsSlice())
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return pluginhost.KeyPair{}, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return pluginhost.KeyPair{}, err
	}
	requests := client.CertificatesV1().CertificateSigningRequests()
	csr, err := requests.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "node-" + i.node.Name + "-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: r.signer,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, usage},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return pluginhost.KeyPair{}, fmt.Errorf("ask for the certificate of %s: %w", r.subject.CommonName, err)
	}
	certificate, err := signed(ctx, client, csr.Name)
	if err != nil {
		return pluginhost.KeyPair{}, fmt.Errorf("ask for the certificate of %s: %w", r.subject.CommonName, err)
	}
	pair := pluginhost.KeyPair{Certificate: certificate, PrivateKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})}
	if leafOf(pair) == nil {
		return pair, fmt.Errorf("the certificate of %s is not for its key", r.subject.CommonName)
	}
	return pair, nil
}

// signed waits for the certificate of a request.
func signed(ctx context.Context, client kubernetes.Interface, name string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, signPatience, fmt.Errorf("request %s is not signed within %s: see kubectl get csr on the server", name, signPatience))
	defer cancel()
	for {
		csr, err := client.CertificatesV1().CertificateSigningRequests().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, errors.Join(err, context.Cause(ctx))
		}
		if len(csr.Status.Certificate) > 0 {
			return csr.Status.Certificate, nil
		}
		if _, ended := verdict(csr); ended {
			return nil, fmt.Errorf("request %s is refused: %s", name, csr.Status.Conditions[len(csr.Status.Conditions)-1].Message)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(signPause):
		}
	}
}
