package kernel

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"keelson.dev/keelson/core/pki"
	"keelson.dev/keelson/proto/api/v1alpha1"
)

// PluginClientSigner signs the client certificates of plugins on further nodes.
const PluginClientSigner = "keelson.dev/plugin-client"

const (
	nodePrefix   = "system:node:"
	nodesGroup   = "system:nodes"
	pluginPrefix = "system:plugin:"
)

// signer signs certificates for the cluster's CA, as kube-controller-manager does: for
// kubernetes.io/kube-apiserver-client, kube-apiserver-client-kubelet and kubelet-serving
// what is approved, and for PluginClientSigner. What a node asks for itself it approves.
// https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/
type signer struct {
	log      *slog.Logger
	client   kubernetes.Interface
	pki      *pki.Authority
	now      func() time.Time
	plugins  map[string]bool // built-in ones that run on every node
	objects  pluginGetter    // for the others
	services []netip.Prefix
}

// pluginGetter reads Plugin objects.
type pluginGetter interface {
	Get(ctx context.Context, name string) (*v1alpha1.Plugin, error)
}

// nodePlugins are the names of plugins that act for themselves on every node.
func nodePlugins(builtins []Builtin) map[string]bool {
	out := map[string]bool{}
	for _, b := range builtins {
		out[b.Name] = b.Scope == v1alpha1.PluginScopeNode && b.Kind != kubeletKind && !b.Generic
	}
	return out
}

// handle approves and signs one request, as far as that is for it to do.
func (s *signer) handle(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) error {
	approved, ended := verdict(csr)
	if ended || len(csr.Status.Certificate) > 0 {
		return nil
	}
	want, err := s.read(ctx, csr)
	if want == nil && err == nil {
		return nil // for another signer
	}
	if err != nil {
		if !approved {
			return nil // who approves it is told
		}
		return s.fail(ctx, csr, err)
	}
	if !approved {
		if !s.ownNode(ctx, csr, want) {
			return nil // for people to decide
		}
		csr = csr.DeepCopy()
		csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved",
			Message: "A node asks for its own certificate.",
		})
		if csr, err = s.client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("approve certificate signing request %s: %w", csr.Name, err)
		}
	}
	certificate, err := s.pki.Sign(want.public, want.Request)
	if err != nil {
		return err
	}
	csr = csr.DeepCopy()
	csr.Status.Certificate = certificate
	if _, err := s.client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, csr, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("sign certificate signing request %s: %w", csr.Name, err)
	}
	return nil
}

func (s *signer) fail(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, why error) error {
	csr = csr.DeepCopy()
	csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure", Message: why.Error(),
	})
	_, err := s.client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, csr, metav1.UpdateOptions{})
	return err
}

// verdict says what has been decided: ended, if it will not be signed any more.
func verdict(csr *certificatesv1.CertificateSigningRequest) (approved, ended bool) {
	for _, c := range csr.Status.Conditions {
		switch c.Type {
		case certificatesv1.CertificateApproved:
			approved = true
		case certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			ended = true
		}
	}
	return approved, ended
}

// wanted is what a request asks for.
type wanted struct {
	pki.Request
	public any
}

// read checks a request against the rules of its signer. Nil: of another signer.
func (s *signer) read(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) (*wanted, error) {
	check, ok := map[string]func(*x509.CertificateRequest, []certificatesv1.KeyUsage) error{
		certificatesv1.KubeAPIServerClientSignerName:        userRules,
		certificatesv1.KubeAPIServerClientKubeletSignerName: kubeletRules,
		certificatesv1.KubeletServingSignerName:             servingRules,
		PluginClientSigner: func(r *x509.CertificateRequest, have []certificatesv1.KeyUsage) error {
			return s.pluginRules(ctx, r, have)
		},
	}[csr.Spec.SignerName]
	if !ok {
		return nil, nil
	}
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil {
		return nil, errors.New("spec.request holds no PEM block")
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = r.CheckSignature()
	}
	if err == nil && r.Subject.CommonName == "" {
		err = errors.New("the subject has no common name")
	}
	if err == nil {
		err = check(r, csr.Spec.Usages)
	}
	if err != nil {
		return nil, err
	}
	w := &wanted{public: r.PublicKey, Request: pki.Request{
		CommonName: r.Subject.CommonName, Organizations: r.Subject.Organization,
		Server: csr.Spec.SignerName == certificatesv1.KubeletServingSignerName, Validity: pki.LeafValidity,
	}}
	if w.Server {
		w.DNSNames = r.DNSNames
		for _, ip := range r.IPAddresses {
			if a, ok := netip.AddrFromSlice(ip); ok {
				w.Addresses = append(w.Addresses, a.Unmap())
			}
		}
	}
	if seconds := csr.Spec.ExpirationSeconds; seconds != nil {
		w.Validity = min(w.Validity, time.Duration(*seconds)*time.Second)
	}
	return w, nil
}

// usages wants the needed ones, and no others but those that come with a key.
func usages(have []certificatesv1.KeyUsage, needed certificatesv1.KeyUsage) error {
	if !slices.Contains(have, needed) {
		return fmt.Errorf("usages %q lack %q", have, needed)
	}
	for _, u := range have {
		if u != needed && u != certificatesv1.UsageDigitalSignature && u != certificatesv1.UsageKeyEncipherment {
			return fmt.Errorf("usage %q is not for this signer", u)
		}
	}
	return nil
}

func userRules(r *x509.CertificateRequest, have []certificatesv1.KeyUsage) error {
	if slices.Contains(r.Subject.Organization, "system:masters") {
		return errors.New("the group system:masters is not given out")
	}
	return usages(have, certificatesv1.UsageClientAuth)
}

// nobodyElse wants no names in the request but its subject's.
func nobodyElse(r *x509.CertificateRequest) error {
	if len(r.DNSNames)+len(r.IPAddresses)+len(r.EmailAddresses)+len(r.URIs) > 0 {
		return errors.New("subject alternative names are not for a client")
	}
	return nil
}

func nodeSubject(r *x509.CertificateRequest) error {
	if !slices.Equal(r.Subject.Organization, []string{nodesGroup}) {
		return fmt.Errorf("the subject's organization is %q, want %q alone", r.Subject.Organization, nodesGroup)
	}
	if name, ok := strings.CutPrefix(r.Subject.CommonName, nodePrefix); !ok || name == "" {
		return fmt.Errorf("the subject's common name is %q, want %sNAME", r.Subject.CommonName, nodePrefix)
	}
	return nil
}

func kubeletRules(r *x509.CertificateRequest, have []certificatesv1.KeyUsage) error {
	return errors.Join(nodeSubject(r), nobodyElse(r), usages(have, certificatesv1.UsageClientAuth))
}

func servingRules(r *x509.CertificateRequest, have []certificatesv1.KeyUsage) error {
	var names error
	switch {
	case len(r.DNSNames)+len(r.IPAddresses) == 0:
		names = errors.New("there is no name or address to serve at")
	case len(r.EmailAddresses)+len(r.URIs) > 0:
		names = errors.New("only names and addresses are for a kubelet")
	}
	return errors.Join(nodeSubject(r), names, usages(have, certificatesv1.UsageServerAuth))
}

func (s *signer) pluginRules(ctx context.Context, r *x509.CertificateRequest, have []certificatesv1.KeyUsage) error {
	var subject error
	if name, ok := strings.CutPrefix(r.Subject.CommonName, pluginPrefix); !ok || !s.onNodes(ctx, name) || !slices.Equal(r.Subject.Organization, []string{pluginsGroup}) {
		subject = fmt.Errorf("%q in %q is no plugin that runs on every node", r.Subject.CommonName, r.Subject.Organization)
	}
	return errors.Join(subject, nobodyElse(r), usages(have, certificatesv1.UsageClientAuth))
}

// onNodes says whether a plugin acts for itself on every node. A kubelet acts for its node.
func (s *signer) onNodes(ctx context.Context, name string) bool {
	if s.plugins[name] {
		return true
	}
	p, err := s.objects.Get(ctx, name)
	if err != nil {
		return false
	}
	enabled := p.Spec.Enabled == nil || *p.Spec.Enabled
	return enabled && p.Spec.Scope == v1alpha1.PluginScopeNode && p.Spec.Kind != kubeletKind && p.DeletionTimestamp == nil
}

// ownNode says whether a node asks for what is its own.
func (s *signer) ownNode(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, w *wanted) bool {
	name, ok := strings.CutPrefix(csr.Spec.Username, nodePrefix)
	if !ok || name == "" || !slices.Contains(csr.Spec.Groups, nodesGroup) {
		return false
	}
	switch csr.Spec.SignerName {
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		return w.CommonName == csr.Spec.Username
	case PluginClientSigner:
		return true
	case certificatesv1.KubeletServingSignerName:
		return w.CommonName == csr.Spec.Username && s.servesAt(ctx, name, w)
	}
	return false
}

// servesAt says whether the names and addresses are those of the node, as its object
// tells, and nobody else's: a node writes its own addresses.
func (s *signer) servesAt(ctx context.Context, node string, w *wanted) bool {
	for _, n := range w.DNSNames {
		if n != node {
			return false
		}
	}
	list, err := s.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		s.log.Warn("Nodes could not be listed for a certificate signing request", "err", err)
		return false
	}
	for _, ip := range w.Addresses {
		if ip.IsLoopback() || ip.IsUnspecified() || ip.IsMulticast() || slices.ContainsFunc(s.services, func(p netip.Prefix) bool { return p.Contains(ip) }) {
			return false
		}
		own := false
		for i := range list.Items {
			at := slices.ContainsFunc(list.Items[i].Status.Addresses, func(a corev1.NodeAddress) bool { return a.Address == ip.String() })
			switch mine := list.Items[i].Name == node; {
			case at && !mine:
				return false
			case at:
				own = true
			}
		}
		if !own {
			return false
		}
	}
	return true
}
