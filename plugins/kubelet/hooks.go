package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// runHook runs a life cycle hook of a container.
func (k *Kubelet) runHook(ctx context.Context, pod *corev1.Pod, c *corev1.Container, id, ip string, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		code, output, err := k.execSync(ctx, id, h.Exec.Command, 0)
		if err != nil {
			return fmt.Errorf("exec %q: %w", h.Exec.Command, err)
		}
		if code != 0 {
			return fmt.Errorf("command %q exited with %d: %s", strings.Join(h.Exec.Command, " "), code, output)
		}
		return nil
	case h.HTTPGet != nil:
		req, err := httpRequest(ctx, h.HTTPGet, c, ip, "kube-lifecycle/")
		if err != nil {
			return err
		}
		resp, err := httpClient(0).Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode >= http.StatusBadRequest {
			return fmt.Errorf("HTTP status %d", resp.StatusCode)
		}
		return nil
	case h.Sleep != nil:
		if !sleep(ctx, time.Duration(h.Sleep.Seconds)*time.Second) {
			return ctx.Err()
		}
		return nil
	case h.TCPSocket != nil:
		return nil // defined for the API's sake; upstream does nothing either
	}
	return errors.New("the hook has no handler")
}

// execSync runs a command in a container; output is stdout and stderr, cut at 10 KiB.
func (k *Kubelet) execSync(ctx context.Context, id string, command []string, timeout time.Duration) (int32, string, error) {
	seconds := int64((timeout + time.Second - 1) / time.Second)
	resp, err := k.cri.rt.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: seconds})
	if err != nil {
		return 0, "", err
	}
	out := append(resp.Stdout, resp.Stderr...)
	if len(out) > 10<<10 {
		out = out[:10<<10]
	}
	return resp.ExitCode, string(out), nil
}

// resolvePort finds a port that may be given by name.
func resolvePort(port intstr.IntOrString, c *corev1.Container) (int, error) {
	n := port.IntValue()
	if port.Type == intstr.String {
		for _, p := range c.Ports {
			if p.Name == port.StrVal {
				n = int(p.ContainerPort)
			}
		}
		if n == 0 {
			if v, err := strconv.Atoi(port.StrVal); err == nil {
				n = v
			}
		}
	}
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("invalid port: %s", port.String())
	}
	return n, nil
}

// httpRequest makes the request of a probe or hook.
func httpRequest(ctx context.Context, h *corev1.HTTPGetAction, c *corev1.Container, ip, agent string) (*http.Request, error) {
	port, err := resolvePort(h.Port, c)
	if err != nil {
		return nil, err
	}
	host := h.Host
	if host == "" {
		host = ip
	}
	scheme := strings.ToLower(string(h.Scheme))
	if scheme == "" {
		scheme = "http"
	}
	u, err := url.Parse(h.Path)
	if err != nil {
		u = &url.URL{Path: h.Path}
	}
	u.Scheme, u.Host = scheme, net.JoinHostPort(host, strconv.Itoa(port))
	if !strings.HasPrefix(u.Path, "/") {
		u.Path = "/" + u.Path
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for _, hd := range h.HTTPHeaders {
		if strings.EqualFold(hd.Name, "Host") {
			req.Host = hd.Value
		}
		req.Header.Add(hd.Name, hd.Value)
	}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header.Set("User-Agent", agent+apiMinor)
	}
	switch accept, ok := req.Header["Accept"]; {
	case !ok:
		req.Header.Set("Accept", "*/*")
	case len(accept) == 1 && accept[0] == "":
		req.Header.Del("Accept")
	}
	return req, nil
}

// readLimited reads at most n bytes and drops the rest with the connection.
func readLimited(r io.Reader, n int64) string {
	data, _ := io.ReadAll(io.LimitReader(r, n))
	return string(data)
}
