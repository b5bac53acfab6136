package plugintest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// renewal has new credentials as the kernel hands them over.
func (r *run) renewal(t *testing.T) *pluginv1.RenewRequest {
	t.Helper()
	request := &pluginv1.RenewRequest{Client: selfSigned(t)}
	if r.describe(t).GetServingCertificate() {
		request.Serving = selfSigned(t)
	}
	return request
}

// renew renews, or wants to hear that the plugin is to be restarted instead.
func (r *run) renew(t *testing.T) {
	t.Helper()
	if _, err := r.Client.Renew(r.ctx, r.renewal(t)); err != nil && status.Code(err) != codes.Unimplemented {
		t.Errorf("Renew: %v", err)
	}
}

func renewUnconfigured(t *testing.T, r *run) {
	_, err := r.Client.Renew(r.ctx, r.renewal(t))
	if status.Code(err) != codes.Unimplemented {
		wantCode(t, "Renew", err, codes.FailedPrecondition)
	}
}

func renewBad(t *testing.T, r *run) {
	r.configure(t)
	for name, spoil := range map[string]func(*pluginv1.RenewRequest){
		"no client":                 func(q *pluginv1.RenewRequest) { q.Client = nil },
		"a client without key":      func(q *pluginv1.RenewRequest) { q.Client.PrivateKey = nil },
		"the key of another client": func(q *pluginv1.RenewRequest) { q.Client.PrivateKey = selfSigned(t).PrivateKey },
		"a bad serving certificate": func(q *pluginv1.RenewRequest) { q.Serving = &pluginv1.KeyPair{Certificate: []byte("x")} },
	} {
		request := r.renewal(t)
		spoil(request)
		if _, err := r.Client.Renew(r.ctx, request); status.Code(err) != codes.Unimplemented {
			wantCode(t, "Renew with "+name, err, codes.InvalidArgument)
		}
	}
}

func renewStandby(t *testing.T, r *run) {
	r.configure(t)
	r.renew(t)
	r.activate(t)
	r.running(t)
}

func renewActive(t *testing.T, r *run) {
	r.configure(t)
	r.activate(t)
	r.renew(t)
	r.renew(t)
	r.running(t)
	r.deactivate(t)
	r.activate(t)
	r.running(t)
}

// selfSigned is some certificate with its key.
func selfSigned(t *testing.T) *pluginv1.KeyPair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "renewed"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &pluginv1.KeyPair{
		Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		PrivateKey:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}),
	}
}
