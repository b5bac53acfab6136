package kubelet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/proxy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"
)

const (
	apiServerName = "kube-apiserver-kubelet-client"
	mastersGroup  = "system:masters"
)

// serve runs the HTTPS server until ctx ends.
func (k *Kubelet) serve(ctx context.Context) error {
	if k.env.Serving == nil {
		k.log.Warn("No serving certificate was given; logs, exec and stats are not served")
		<-ctx.Done()
		return nil
	}
	if _, err := k.env.GetCertificate(nil); err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(k.env.API.CA) {
		return errors.New("load the cluster's CA: no certificate in it")
	}
	l, err := k.env.Listener(ctx, "tcp", net.JoinHostPort("", strconv.Itoa(k.cfg.Port)))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	srv := &http.Server{Handler: k.handler(), ReadHeaderTimeout: 30 * time.Second, ErrorLog: slog.NewLogLogger(k.log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return k.env.Life() },
		// HTTP/1.1 only: exec, attach and port-forward are upgrades of it. Who has no certificate is told so by HTTP, not by a broken handshake.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
		TLSConfig:    &tls.Config{GetCertificate: k.env.GetCertificate, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}}
	done := make(chan error, 1)
	go func() { done <- srv.ServeTLS(l, "", "") }() // ended by Shutdown below, waited for through done
	k.log.Info("Serving", "address", l.Addr().String())
	select {
	case <-ctx.Done():
		// Not Shutdown: it drops requests that it reads meanwhile. Connections that are open
		// are served to their end, or that of the process.
		context.AfterFunc(k.env.Life(), func() { _ = srv.Close() })
		_ = l.Close()
		srv.SetKeepAlivesEnabled(false)
		<-done // takes on nothing new
		return nil
	case err := <-done:
		return fmt.Errorf("serve: %w", err)
	}
}

// handler routes requests of the API server.
func (k *Kubelet) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	mux.HandleFunc("GET /pods", k.servePods)
	mux.HandleFunc("GET /runningpods/", k.serveRunningPods)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", k.streaming(k.serveLogs))
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", k.streaming(k.serveExec))
	mux.HandleFunc("/exec/{namespace}/{pod}/{uid}/{container}", k.streaming(k.serveExec))
	mux.HandleFunc("/attach/{namespace}/{pod}/{container}", k.streaming(k.serveAttach))
	mux.HandleFunc("/attach/{namespace}/{pod}/{uid}/{container}", k.streaming(k.serveAttach))
	mux.HandleFunc("/portForward/{namespace}/{pod}", k.streaming(k.servePortForward))
	mux.HandleFunc("/portForward/{namespace}/{pod}/{uid}", k.streaming(k.servePortForward))
	mux.HandleFunc("GET /stats/summary", k.serveSummary)
	mux.HandleFunc("GET /metrics/resource", k.serveResourceMetrics)
	if k.env.Metrics != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(k.env.Metrics, promhttp.HandlerOpts{}))
	}
	return authenticate(mux)
}

// streaming counts requests that others keep open: this process stays for them when it is
// replaced.
func (k *Kubelet) streaming(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		defer k.env.Stream()()
		next(w, r)
	}
}

// authenticate lets in the API server and administrators only.
func authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		subject := r.TLS.PeerCertificates[0].Subject
		if subject.CommonName != apiServerName && !slices.Contains(subject.Organization, mastersGroup) {
			http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, path=%s)", subject.CommonName, r.Method, r.URL.Path), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// find returns the pod of a request's path.
func (k *Kubelet) find(r *http.Request) (*podView, error) {
	ns, name, uid := r.PathValue("namespace"), r.PathValue("pod"), types.UID(r.PathValue("uid"))
	var found *podView
	for _, v := range k.views() {
		if v.Pod.Namespace == ns && v.Pod.Name == name && (uid == "" || v.Pod.UID == uid) {
			// A pod of the same name may be on its way out: the newer one is meant.
			if found == nil || found.Pod.CreationTimestamp.Before(&v.Pod.CreationTimestamp) {
				found = v
			}
		}
	}
	if found == nil {
		return nil, fmt.Errorf("pod %q not found in namespace %q", name, ns)
	}
	return found, nil
}

func (k *Kubelet) findRunning(w http.ResponseWriter, r *http.Request) (*containerInfo, bool) {
	v, err := k.find(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return nil, false
	}
	name := r.PathValue("container")
	c := v.State.newest(name)
	if !c.running() {
		http.Error(w, fmt.Sprintf("container not found (%q)", name), http.StatusNotFound)
		return nil, false
	}
	return c, true
}

func flag(r *http.Request, names ...string) bool {
	for _, n := range names {
		if v := r.URL.Query().Get(n); v == "1" || v == "true" {
			return true
		}
	}
	return false
}

func (k *Kubelet) serveExec(w http.ResponseWriter, r *http.Request) {
	c, ok := k.findRunning(w, r)
	if !ok {
		return
	}
	resp, err := k.cri.rt.Exec(r.Context(), &runtimeapi.ExecRequest{ContainerId: c.Id, Cmd: r.URL.Query()["command"], Tty: flag(r, "tty"),
		Stdin: flag(r, "input", "stdin"), Stdout: flag(r, "output", "stdout"), Stderr: flag(r, "error", "stderr") && !flag(r, "tty")})
	k.stream(w, r, resp.GetUrl(), err)
}

func (k *Kubelet) serveAttach(w http.ResponseWriter, r *http.Request) {
	c, ok := k.findRunning(w, r)
	if !ok {
		return
	}
	resp, err := k.cri.rt.Attach(r.Context(), &runtimeapi.AttachRequest{ContainerId: c.Id, Tty: flag(r, "tty"),
		Stdin: flag(r, "input", "stdin"), Stdout: flag(r, "output", "stdout"), Stderr: flag(r, "error", "stderr") && !flag(r, "tty")})
	k.stream(w, r, resp.GetUrl(), err)
}

func (k *Kubelet) servePortForward(w http.ResponseWriter, r *http.Request) {
	v, err := k.find(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	sb := v.State.readySandbox()
	if sb == nil {
		http.Error(w, fmt.Sprintf("pod %q has no running sandbox", v.Pod.Name), http.StatusNotFound)
		return
	}
	var ports []int32
	for _, p := range append(r.URL.Query()["port"], r.URL.Query()["ports"]...) {
		if n, err := strconv.ParseInt(p, 10, 32); err == nil {
			ports = append(ports, int32(n))
		}
	}
	resp, err := k.cri.rt.PortForward(r.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: sb.ID, Port: ports})
	k.stream(w, r, resp.GetUrl(), err)
}

// stream passes an upgraded connection on to the runtime's streaming server, whatever protocol is spoken on it.
func (k *Kubelet) stream(w http.ResponseWriter, r *http.Request, target string, err error) {
	if err != nil {
		http.Error(w, criMessage(err), http.StatusInternalServerError)
		return
	}
	u, err := url.Parse(target)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h := proxy.NewUpgradeAwareHandler(u, nil, false, true, proxy.NewErrorResponder(&responder{w}))
	h.ServeHTTP(w, r)
}

type responder struct{ w http.ResponseWriter }

func (r *responder) Error(err error) { http.Error(r.w, err.Error(), http.StatusInternalServerError) }

func (k *Kubelet) serveLogs(w http.ResponseWriter, r *http.Request) {
	v, err := k.find(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	name := r.PathValue("container")
	if c, _ := findContainer(v.Pod, name); c == nil {
		http.Error(w, fmt.Sprintf("container %q not found in pod %q", name, v.Pod.Name), http.StatusNotFound)
		return
	}
	opts, err := logQuery(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	info := v.State.newest(name)
	if flag(r, "previous") {
		list := v.State.Containers[name]
		if len(list) < 2 {
			// A container that waits to be restarted: its last attempt is the previous one.
			if info == nil || info.running() || waitingIn(v.Status, name) == "" {
				http.Error(w, fmt.Sprintf("previous terminated container %q in pod %q not found", name, v.Pod.Name), http.StatusBadRequest)
				return
			}
		} else if info.running() || waitingIn(v.Status, name) == "" {
			info = list[1]
		}
	}
	if info == nil {
		reason := waitingIn(v.Status, name)
		if reason == "" {
			reason = "ContainerCreating"
		}
		http.Error(w, fmt.Sprintf("container %q in pod %q is waiting to start: %s", name, v.Pod.Name, reason), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Transfer-Encoding", "chunked")
	uid, id := v.Pod.UID, info.Id
	alive := func() bool {
		if k.ctx.Err() != nil {
			return k.runs(r.Context(), id)
		}
		wk := k.worker(uid)
		if wk == nil {
			return false
		}
		cur := wk.view.Load()
		if cur == nil {
			return false
		}
		for _, c := range cur.State.Containers[name] {
			if c.Id == id {
				return !c.exited()
			}
		}
		return false
	}
	out := &flushWriter{w: w}
	if err := readLog(r.Context(), info.LogPath, opts, out, alive); err != nil && !out.wrote {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// runs asks the runtime whether a container runs, for a log that is followed in a process
// that has no workers any more. Who does not answer has said nothing.
func (k *Kubelet) runs(ctx context.Context, id string) bool {
	ctx, cancel := context.WithTimeout(ctx, criTimeout)
	defer cancel()
	resp, err := k.cri.rt.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return !crierrors.IsNotFound(err)
	}
	return resp.GetStatus().GetState() != runtimeapi.ContainerState_CONTAINER_EXITED
}

func waitingIn(s *corev1.PodStatus, name string) string {
	if s == nil {
		return ""
	}
	if cs := oldStatusIn(s, name); cs != nil && cs.State.Waiting != nil {
		return cs.State.Waiting.Reason
	}
	return ""
}

// flushWriter sends each write on at once.
type flushWriter struct {
	w     http.ResponseWriter
	wrote bool
}

func (f *flushWriter) Write(p []byte) (int, error) {
	f.wrote = true
	n, err := f.w.Write(p)
	if fl, ok := f.w.(http.Flusher); ok {
		fl.Flush()
	}
	return n, err
}

func logQuery(q url.Values) (logOptions, error) {
	o := logOptions{Tail: -1, Limit: -1, Stdout: true, Stderr: true}
	o.Follow, o.Timestamps = q.Get("follow") == "true", q.Get("timestamps") == "true"
	for _, n := range []struct {
		name string
		to   *int64
		min  int64
	}{{"tailLines", &o.Tail, 0}, {"limitBytes", &o.Limit, 1}} {
		if text := q.Get(n.name); text != "" && text != "all" {
			v, err := strconv.ParseInt(text, 10, 64)
			if err != nil || v < n.min {
				return o, fmt.Errorf("%s=%q: must be a number of at least %d", n.name, text, n.min)
			}
			*n.to = v
		}
	}
	if text := q.Get("sinceSeconds"); text != "" {
		v, err := strconv.ParseInt(text, 10, 64)
		if err != nil || v < 1 {
			return o, fmt.Errorf("sinceSeconds=%q: must be a number of at least 1", text)
		}
		o.Since = time.Now().Add(-time.Duration(v) * time.Second)
	}
	if text := q.Get("sinceTime"); text != "" {
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return o, fmt.Errorf("sinceTime=%q: must be a time as of RFC 3339", text)
		}
		o.Since = t
	}
	switch q.Get("stream") {
	case "Stdout":
		o.Stderr = false
	case "Stderr":
		o.Stdout = false
	}
	return o, nil
}

func (k *Kubelet) servePods(w http.ResponseWriter, _ *http.Request) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{}}
	for _, v := range k.views() {
		pod := *v.Pod.DeepCopy()
		if v.Status != nil {
			pod.Status = *v.Status
		}
		list.Items = append(list.Items, pod)
	}
	writeJSON(w, list)
}

func (k *Kubelet) serveRunningPods(w http.ResponseWriter, _ *http.Request) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{}}
	for _, v := range k.views() {
		pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: v.Pod.Name, Namespace: v.Pod.Namespace, UID: v.Pod.UID}}
		for _, c := range v.State.running() {
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: c.Metadata.GetName(), Image: c.GetImage().GetImage()})
		}
		if len(pod.Spec.Containers) > 0 {
			list.Items = append(list.Items, pod)
		}
	}
	writeJSON(w, list)
}

func writeJSON(w http.ResponseWriter, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data)
}
