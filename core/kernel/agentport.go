package kernel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/core/pluginhost"
)

const (
	// agentPort is where an agent answers the servers of its cluster, at the node's first
	// address.
	agentPort = 10251
	// serverName is whom an agent obeys: the common name of a server's client certificate,
	// which no signer gives out by itself.
	serverName = "system:keelson:server"
	// listenAgain is the pause before the port is tried once more.
	listenAgain = 5 * time.Second
)

// agentHandler does what a server asks of a node's plugin host:
//
//	GET  /plugins/NAME/log?tailLines=N&follow=true
//	POST /plugins/NAME/restart
//	POST /plugins/NAME/swap
//
// Answers that are no log are Kubernetes' Status.
func agentHandler(host *pluginhost.Host) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /plugins/{name}/log", func(w http.ResponseWriter, r *http.Request) { sendLog(w, r, host) })
	act := func(path string, do func(ctx context.Context, name string) error) {
		mux.HandleFunc("POST /plugins/{name}/"+path, func(w http.ResponseWriter, r *http.Request) {
			name := r.PathValue("name")
			answer(w, operated(name, do(r.Context(), name)))
		})
	}
	act("restart", host.Restart)
	act("swap", func(_ context.Context, name string) error { return host.SwapAgain(name) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || r.TLS.VerifiedChains[0][0].Subject.CommonName != serverName {
			answer(w, apierrors.NewUnauthorized("only the servers of this cluster may ask an agent"))
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// answer writes an error as a Status, or success.
func answer(w http.ResponseWriter, err error) {
	status := metav1.Status{Status: metav1.StatusSuccess, Code: http.StatusOK}
	if err != nil {
		api, ok := errors.AsType[*apierrors.StatusError](err)
		if !ok {
			api = apierrors.NewInternalError(err)
		}
		status = api.Status()
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(status.Code))
	_ = json.NewEncoder(w).Encode(status)
}

func sendLog(w http.ResponseWriter, r *http.Request, host *pluginhost.Host) {
	tail, follow := int64(-1), r.URL.Query().Get("follow") == "true"
	if text := r.URL.Query().Get("tailLines"); text != "" {
		var err error
		if tail, err = strconv.ParseInt(text, 10, 64); err != nil {
			answer(w, apierrors.NewBadRequest(fmt.Sprintf("tailLines: %q is no number of lines", text)))
			return
		}
	}
	name := r.PathValue("name")
	log, err := host.Logs(r.Context(), name, tail, follow)
	if err != nil {
		answer(w, operated(name, err))
		return
	}
	defer func() { _ = log.Close() }()
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(w)
	_ = out.Flush()
	buf := make([]byte, 32<<10)
	for {
		n, err := log.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return
			}
			_ = out.Flush()
		}
		if err != nil {
			return // the end, or the one who asked has gone
		}
	}
}

// serveAgent answers servers until ctx ends. A port that is taken is tried again: plugins
// run meanwhile.
func serveAgent(ctx context.Context, log *slog.Logger, own *identity, at netip.Addr, host *pluginhost.Host) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(own.has.CA)
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own.servingCertificate() },
	}
	var listener net.Listener
	for listener == nil {
		var err error
		if listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", netip.AddrPortFrom(at, agentPort).String()); err == nil {
			break
		}
		if ctx.Err() != nil {
			return
		}
		log.Warn("Servers cannot reach the plugins of this node yet", "err", err, "again", listenAgain)
		select {
		case <-ctx.Done():
			return
		case <-time.After(listenAgain):
		}
	}
	server := &http.Server{
		Handler: agentHandler(host), ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(tls.NewListener(listener, config)); err != nil && !errors.Is(err, http.ErrServerClosed) {
		log.Error("Servers cannot reach the plugins of this node any more", "err", err)
	}
}

// servingCertificate is the node's own, as last renewed: any of those for its address.
func (i *identity) servingCertificate() (*tls.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, pair := range i.has.Serving {
		if cert, err := tls.X509KeyPair(pair.Certificate, pair.PrivateKey); err == nil {
			return &cert, nil
		}
	}
	return nil, errors.New("the node has no certificate to serve with")
}

// readStatus is the error that an agent answered with; nil for success.
func readStatus(r *http.Response) error {
	if r.StatusCode < http.StatusBadRequest {
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	var status metav1.Status
	if err != nil || json.Unmarshal(data, &status) != nil || status.Status != metav1.StatusFailure {
		return fmt.Errorf("the agent answered %s", r.Status)
	}
	return &apierrors.StatusError{ErrStatus: status}
}
