package kit

import (
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/util/validation/field"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
	"keelson.dev/keelson/proto/rotate"
)

// credentials are the certificates that a plugin shows; the kernel replaces them
// before they end. Each is nil if the plugin was given none.
type credentials struct {
	transport *rotate.Transport
	serving   atomic.Pointer[tls.Certificate]
}

// newCredentials are those of a configuration.
func newCredentials(api API, serving *KeyPair) (*credentials, error) {
	c := &credentials{}
	if serving != nil {
		if err := c.serve(serving.Certificate, serving.PrivateKey); err != nil {
			return nil, FieldErrors(field.ErrorList{err})
		}
	}
	if api.Server == "" {
		return c, nil
	}
	var err error
	if c.transport, err = rotate.New(api.CA, api.Cert, api.Key); err != nil {
		return nil, FieldErrors(field.ErrorList{field.Invalid(field.NewPath("api"), api.Server, err.Error())})
	}
	return c, nil
}

func (c *credentials) serve(certificate, key []byte) *field.Error {
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return field.Invalid(field.NewPath("serving"), "", err.Error())
	}
	c.serving.Store(&pair)
	return nil
}

// renew takes what the kernel hands over. All of it is looked at before any is used.
func (c *credentials) renew(req *pluginv1.RenewRequest) error {
	client, serving := req.GetClient(), req.GetServing()
	if client == nil {
		return FieldErrors(field.ErrorList{field.Required(field.NewPath("client"), "a renewal has a client identity")})
	}
	if _, err := tls.X509KeyPair(client.GetCertificate(), client.GetPrivateKey()); err != nil {
		return FieldErrors(field.ErrorList{field.Invalid(field.NewPath("client"), "", err.Error())})
	}
	if serving != nil {
		if err := c.serve(serving.GetCertificate(), serving.GetPrivateKey()); err != nil {
			return FieldErrors(field.ErrorList{err})
		}
	}
	if c.transport == nil { // no API
		return nil
	}
	return c.transport.Use(client.GetCertificate(), client.GetPrivateKey())
}

// renewed is a configuration with the credentials of a renewal: what a later
// activation begins with.
func renewed(config *pluginv1.ConfigureRequest, req *pluginv1.RenewRequest) *pluginv1.ConfigureRequest {
	out := proto.CloneOf(config)
	if out.GetApi() != nil {
		out.Api.Client = req.GetClient()
	}
	if req.GetServing() != nil {
		out.Serving = req.GetServing()
	}
	return out
}

// GetCertificate is for the tls.Config of ports that the plugin serves: the certificate
// of Serving, or the one that has replaced it.
func (e *Env) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if e.credentials != nil {
		if cert := e.credentials.serving.Load(); cert != nil {
			return cert, nil
		}
	}
	if e.Serving == nil {
		return nil, errors.New("the plugin was given no serving certificate")
	}
	pair, err := tls.X509KeyPair(e.Serving.Certificate, e.Serving.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("load the serving certificate: %w", err)
	}
	return &pair, nil
}
