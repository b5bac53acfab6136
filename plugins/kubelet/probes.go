package kubelet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
)

// apiMinor is the Kubernetes minor that probes present themselves with.
const apiMinor = "1.37"

// probed is what the probes of one running container have found.
type probed struct {
	container                    *corev1.Container
	liveness, readiness, startup probeResult
	stop                         context.CancelFunc
}

func (w *podWorker) result(id string) *probed {
	if p := w.probes[id]; p != nil {
		return p
	}
	return &probed{}
}

func (w *podWorker) isStarted(name, id string) bool {
	c, _ := findContainer(w.pod, name)
	return c == nil || c.StartupProbe == nil || w.result(id).startup == probeSuccess
}

func (w *podWorker) isReady(name, id string) bool {
	c, _ := findContainer(w.pod, name)
	return c == nil || c.ReadinessProbe == nil || w.result(id).readiness == probeSuccess
}

func (w *podWorker) podIP() string {
	if w.pod.Spec.HostNetwork {
		if len(w.k.hostIPs) > 0 {
			return w.k.hostIPs[0]
		}
		return "127.0.0.1"
	}
	if sb := w.state.readySandbox(); sb != nil && len(sb.IPs) > 0 {
		return sb.IPs[0]
	}
	return ""
}

// watchContainers begins the probes of containers that run and ends those of containers that do not.
func (w *podWorker) watchContainers() {
	alive := map[string]bool{}
	for name, list := range w.state.Containers {
		c, kind := findContainer(w.pod, name)
		for _, info := range list {
			if !info.running() || c == nil || kind == kindInit || kind == kindEphemeral {
				continue
			}
			alive[info.Id] = true
			if w.probes[info.Id] == nil && !w.starting[name] {
				w.beginProbes(c, info)
			}
		}
	}
	for id, p := range w.probes {
		if !alive[id] {
			p.stop()
			delete(w.probes, id)
		}
	}
}

func (w *podWorker) dropProbes() {
	for id, p := range w.probes {
		p.stop()
		delete(w.probes, id)
	}
}

func (w *podWorker) beginProbes(c *corev1.Container, info *containerInfo) {
	ctx, stop := context.WithCancel(w.ctx)
	p := &probed{container: c, stop: stop}
	w.probes[info.Id] = p
	// What was true before this process began stays true until a probe says otherwise.
	if old := oldStatus(w.pod, c.Name); old != nil && strings.HasSuffix(old.ContainerID, "://"+info.Id) {
		if old.Ready {
			p.readiness = probeSuccess
		}
		if old.Started != nil && *old.Started {
			p.startup = probeSuccess
		}
	}
	started := make(chan struct{})
	if c.StartupProbe == nil || p.startup == probeSuccess {
		close(started)
	}
	run := func(kind string, probe *corev1.Probe, initial probeResult, wait <-chan struct{}, set func(probeResult)) {
		if probe == nil {
			return
		}
		job := &probeJob{k: w.k, pod: w.pod, container: c, id: info.Id, ip: w.podIP(), kind: kind, probe: probe, begun: time.Unix(0, info.StartedAt), result: initial,
			set: func(r probeResult) { w.post(func() { set(r) }) }}
		w.ops.Go(func() { job.run(ctx, wait) })
	}
	if c.StartupProbe != nil && p.startup != probeSuccess {
		run("Startup", c.StartupProbe, probeUnknown, nil, func(r probeResult) {
			if r == probeSuccess && p.startup != probeSuccess {
				close(started)
			}
			p.startup = r
		})
	}
	run("Liveness", c.LivenessProbe, probeSuccess, started, func(r probeResult) { p.liveness = r })
	run("Readiness", c.ReadinessProbe, p.readiness, started, func(r probeResult) { p.readiness = r })
}

// probeJob runs one probe of one container again and again.
type probeJob struct {
	k         *Kubelet
	pod       *corev1.Pod
	container *corev1.Container
	id, ip    string
	kind      string
	probe     *corev1.Probe
	begun     time.Time
	result    probeResult
	set       func(probeResult)
	row       int
	last      probeResult
}

func (j *probeJob) run(ctx context.Context, wait <-chan struct{}) {
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return
		}
	}
	delay := time.Duration(j.probe.InitialDelaySeconds)*time.Second - time.Since(j.begun)
	period := time.Duration(max(j.probe.PeriodSeconds, 1)) * time.Second
	if j.result == probeSuccess && j.kind == "Readiness" {
		delay = max(delay, rand.N(min(period, 5*time.Second))) // after a restart of this process: not all at once
	}
	if delay > 0 && !sleep(ctx, delay) {
		return
	}
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		ok, message, err := j.k.probeOnce(ctx, j.probe, j.container, j.id, j.ip)
		if ctx.Err() != nil {
			return
		}
		if j.note(ok && err == nil, message, err) {
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// note counts a result towards its threshold; it returns true when the probe has done its work.
func (j *probeJob) note(ok bool, message string, err error) bool {
	now := probeFailure
	if ok {
		now = probeSuccess
	}
	switch {
	case err != nil:
		j.k.event(j.pod, j.container.Name, corev1.EventTypeWarning, "Unhealthy", "%s probe errored and resulted in failure: %v", j.kind, err)
	case !ok:
		j.k.event(j.pod, j.container.Name, corev1.EventTypeWarning, "Unhealthy", "%s probe failed: %s", j.kind, message)
	}
	if now == j.last {
		j.row++
	} else {
		j.last, j.row = now, 1
	}
	if !j.threshold(now) {
		return false
	}
	if j.result != now {
		j.result = now
		j.set(now)
	}
	// A container that failed is restarted, and its successor is probed anew; a start-up probe ends with its success.
	return j.kind == "Startup" || j.kind == "Liveness" && now == probeFailure
}

func (j *probeJob) threshold(r probeResult) bool {
	if r == probeSuccess {
		return j.row >= int(max(j.probe.SuccessThreshold, 1))
	}
	need := int(j.probe.FailureThreshold)
	if need <= 0 {
		need = 3
	}
	return j.row >= need
}

// probeOnce runs a probe. An error is a probe that could not be made, which counts as a failure.
func (k *Kubelet) probeOnce(ctx context.Context, p *corev1.Probe, c *corev1.Container, id, ip string) (bool, string, error) {
	timeout := time.Duration(max(p.TimeoutSeconds, 1)) * time.Second
	switch {
	case p.Exec != nil:
		ectx, cancel := context.WithTimeout(ctx, timeout+5*time.Second) // the runtime ends the command itself
		defer cancel()
		code, out, err := k.execSync(ectx, id, p.Exec.Command, timeout)
		if code, ok := status.FromError(err); err != nil && ok && (code.Code() == codes.DeadlineExceeded || strings.Contains(code.Message(), "timed out")) {
			return false, fmt.Sprintf("command timed out: %q timed out after %s", strings.Join(p.Exec.Command, " "), timeout), nil
		}
		if err != nil {
			return false, "", errors.New(criMessage(err))
		}
		return code == 0, out, nil
	case p.HTTPGet != nil:
		pctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		req, err := httpRequest(pctx, p.HTTPGet, c, ip, "kube-probe/")
		if err != nil {
			return false, "", err
		}
		return probeHTTP(req, timeout)
	case p.TCPSocket != nil:
		port, err := resolvePort(p.TCPSocket.Port, c)
		if err != nil {
			return false, "", err
		}
		host := p.TCPSocket.Host
		if host == "" {
			host = ip
		}
		return probeTCP(ctx, net.JoinHostPort(host, strconv.Itoa(port)), timeout)
	case p.GRPC != nil:
		service := ""
		if p.GRPC.Service != nil {
			service = *p.GRPC.Service
		}
		return probeGRPC(ctx, net.JoinHostPort(ip, strconv.Itoa(int(p.GRPC.Port))), service, timeout)
	}
	return false, "", errors.New("missing probe handler")
}

// httpClient follows redirects to the same host only, checks no certificate, and keeps no connection.
func httpClient(timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // probes check life, not identity
			DisableKeepAlives: true, DisableCompression: true, Proxy: nil},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if req.URL.Hostname() != via[0].URL.Hostname() {
				return http.ErrUseLastResponse
			}
			if len(via) >= 10 {
				return errors.New("stopped after 10 redirects")
			}
			return nil
		},
	}
}

func probeHTTP(req *http.Request, timeout time.Duration) (bool, string, error) {
	resp, err := httpClient(timeout).Do(req)
	if err != nil {
		return false, err.Error(), nil
	}
	defer resp.Body.Close()
	body := readLimited(resp.Body, 10<<10)
	if resp.StatusCode >= http.StatusOK && resp.StatusCode < http.StatusBadRequest {
		return true, body, nil
	}
	return false, fmt.Sprintf("HTTP probe failed with statuscode: %d", resp.StatusCode), nil
}

func probeTCP(ctx context.Context, address string, timeout time.Duration) (bool, string, error) {
	dialer := net.Dialer{Timeout: timeout}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return false, err.Error(), nil
	}
	_ = conn.Close()
	return true, "", nil
}

func probeGRPC(ctx context.Context, address, service string, timeout time.Duration) (bool, string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent("kube-probe/"+apiMinor))
	if err != nil {
		return false, "", err
	}
	defer conn.Close()
	resp, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
	if err != nil {
		switch status.Code(err) {
		case codes.Unimplemented:
			return false, fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", err), nil
		case codes.DeadlineExceeded:
			return false, fmt.Sprintf("timeout: failed to connect service %q within %s: %v", address, timeout, err), nil
		}
		return false, fmt.Sprintf("error: health rpc probe failed: %v", err), nil
	}
	if resp.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		return false, fmt.Sprintf("service unhealthy (responded with %q)", resp.Status), nil
	}
	return true, "service healthy", nil
}
