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
	// IdentityFile is below an agent's data folder: the certificates that have taken the
	// place of those in the join file, and those that it lacked.
	IdentityFile = "identity.json"
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
	joined    map[string]bool   // the plugins that the join file knows
	// ask has a certificate made that the join file has none of. Nil: it cannot be asked for.
	ask func(request) (pluginhost.KeyPair, error)

	mu  sync.Mutex // guards has
	has certificates
}

// certificates are what a join file and IdentityFile have alike.
type certificates struct {
	CA      []byte                        `json:"ca"`
	Agent   pluginhost.KeyPair            `json:"agent"`
	Clients map[string]pluginhost.KeyPair `json:"clients"`
	Serving map[string]pluginhost.KeyPair `json:"serving"`
}

var _ pluginhost.Credentials = (*identity)(nil)

// openIdentity takes what was kept before, unless the join file is newer or of
// another cluster or node.
func openIdentity(join *joinFile, local *pki.Authority, path string, now func() time.Time, log *slog.Logger) (*identity, error) {
	i := &identity{node: join.Node, local: local, path: path, now: now, log: log,
		has: certificates{CA: join.CA, Agent: join.Agent, Clients: join.Clients, Serving: join.Serving}}
	i.joined = map[string]bool{}
	for _, pairs := range []map[string]pluginhost.KeyPair{join.Clients, join.Serving} {
		for name := range pairs {
			i.joined[name] = true
		}
	}
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
	return a != nil && b != nil && !a.NotAfter.Before(b.NotAfter) && a.Subject.CommonName == b.Subject.CommonName && bytes.Equal(kept.CA, join.CA)
}

// leafOf is a pair's certificate, nil if the pair is damaged.
func leafOf(pair pluginhost.KeyPair) *x509.Certificate {
	cert, err := tls.X509KeyPair(pair.Certificate, pair.PrivateKey)
	if err != nil {
		return nil
	}
	return cert.Leaf
}

// Client is the identity of a plugin of this node; a kubelet is the node itself. One that
// the join file does not know is asked for at the server, which takes a moment.
func (i *identity) Client(name, kind string) (pluginhost.KeyPair, error) {
	i.mu.Lock()
	pair, ok := i.has.Clients[name]
	if kind == kubeletKind {
		pair, ok = i.has.Agent, true
	}
	i.mu.Unlock()
	if ok {
		return pair, nil
	}
	return i.more(name, clientRequest(name), func(c *certificates) map[string]pluginhost.KeyPair { return c.Clients })
}

// Serving is the certificate for this node's addresses.
func (i *identity) Serving(name string, _ []netip.Addr, _ []string) (pluginhost.KeyPair, error) {
	i.mu.Lock()
	pair, ok := i.has.Serving[name]
	i.mu.Unlock()
	if ok {
		return pair, nil
	}
	return i.more(name, i.servingRequest(), func(c *certificates) map[string]pluginhost.KeyPair { return c.Serving })
}

// more asks for one certificate more, and keeps it where of says.
func (i *identity) more(name string, r request, of func(*certificates) map[string]pluginhost.KeyPair) (pluginhost.KeyPair, error) {
	if i.ask == nil {
		return pluginhost.KeyPair{}, fmt.Errorf("this node has no identity for plugin %q", name)
	}
	pair, err := i.ask(r)
	if err != nil {
		return pair, err
	}
	i.mu.Lock()
	next := i.has.clone()
	i.mu.Unlock()
	of(&next)[name] = pair
	return pair, i.keep(next)
}

// Transport is issued here.
func (i *identity) Transport(name string) (pluginhost.Transport, error) {
	return transport(i.local, name)
}

// renew asks for new certificates in the place of those that get old, and forgets those of
// plugins that needed one more and do not run here any longer. What it got is kept before
// it is used, also if the rest is refused.
func (i *identity) renew(ctx context.Context, client kubernetes.Interface, runs func(plugin string) bool) error {
	i.mu.Lock()
	next := i.has.clone()
	i.mu.Unlock()
	var errs []error
	got, dropped := false, false
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
	next.Agent = one(next.Agent, request{certificatesv1.KubeAPIServerClientKubeletSignerName, i.self(), false})
	all := func(pairs map[string]pluginhost.KeyPair, ask func(name string) request) {
		for _, name := range slices.Sorted(maps.Keys(pairs)) {
			if !i.joined[name] && !runs(name) {
				delete(pairs, name)
				dropped = true
				continue
			}
			pairs[name] = one(pairs[name], ask(name))
		}
	}
	all(next.Clients, clientRequest)
	all(next.Serving, func(string) request { return i.servingRequest() })
	if !got && !dropped {
		return errors.Join(errs...)
	}
	err := i.keep(next)
	if !got {
		return errors.Join(append(errs, err)...)
	}
	if err == nil {
		err = i.transport.Use(next.Agent.Certificate, next.Agent.PrivateKey)
	}
	i.log.Info("Certificates of this node are renewed", "until", leafOf(next.Agent).NotAfter.Format(time.RFC3339))
	return errors.Join(append(errs, err)...)
}

// keep writes what the node has, and uses it also if that fails.
func (i *identity) keep(next certificates) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.has = next
	data, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(i.path, data)
}

func (c *certificates) clone() certificates {
	out := certificates{CA: c.CA, Agent: c.Agent, Clients: map[string]pluginhost.KeyPair{}, Serving: map[string]pluginhost.KeyPair{}}
	maps.Copy(out.Clients, c.Clients)
	maps.Copy(out.Serving, c.Serving)
	return out
}

// self is the subject of the node's own certificates.
func (i *identity) self() pkix.Name {
	return pkix.Name{CommonName: nodePrefix + i.node.Name, Organization: []string{nodesGroup}}
}

func clientRequest(plugin string) request {
	return request{PluginClientSigner, pkix.Name{CommonName: pluginPrefix + plugin, Organization: []string{pluginsGroup}}, false}
}

func (i *identity) servingRequest() request {
	return request{certificatesv1.KubeletServingSignerName, i.self(), true}
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
