package exec

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

// firstPeriod is between two looks until the first success: a swap waits for it.
const firstPeriod = 250 * time.Millisecond

// watch looks at the program until ctx ends. told gets nil when it has come to work, and
// an error when it has ceased to. An error is returned if the program is to be ended.
func (s *Server) watch(ctx context.Context, told func(error)) error {
	h := &s.cfg.Health
	if h.HTTP == "" && h.TCP == "" && h.GRPC == "" && len(h.Exec) == 0 {
		told(nil)
		return nil
	}
	wait, streak, healthy, ever := time.Duration(h.InitialDelaySeconds)*time.Second, int32(0), false, false
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		err := s.look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if streak++; (err == nil) == healthy {
			streak = 0
		}
		switch {
		case err == nil && !healthy && (streak >= h.SuccessThreshold || !ever):
			healthy, ever, streak = true, true, 0
			told(nil)
		case err != nil && healthy && streak >= h.FailureThreshold:
			healthy, streak = false, 0
			told(err)
			if h.Restart {
				return fmt.Errorf("program %s is not healthy: %w", s.cfg.Command, err)
			}
		}
		if wait = time.Duration(h.PeriodSeconds) * time.Second; !ever {
			wait = min(wait, firstPeriod)
		}
	}
}

// look looks once.
func (s *Server) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.cfg.Health.TimeoutSeconds)*time.Second)
	defer cancel()
	switch h := &s.cfg.Health; {
	case h.HTTP != "":
		return lookHTTP(ctx, h.HTTP)
	case h.TCP != "":
		return lookTCP(ctx, h.TCP)
	case h.GRPC != "":
		return lookGRPC(ctx, h.GRPC, h.Service)
	default:
		return s.lookExec(ctx, h.Exec)
	}
}

// prober makes a connection for each look: one that is kept would say less.
var prober = &http.Client{
	Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // programs make their own certificates, and a look sends no secret
	},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func lookHTTP(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "keelson-exec")
	resp, err := prober.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode < http.StatusOK || resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s answered %s", url, resp.Status)
	}
	return nil
}

func lookTCP(ctx context.Context, address string) error {
	network := "tcp"
	if filepath.IsAbs(address) {
		network = "unix"
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	return conn.Close()
}

func lookGRPC(ctx context.Context, target, service string) error {
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	resp, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{Service: service})
	if err == nil && resp.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		err = fmt.Errorf("%s answered %s", target, resp.GetStatus())
	}
	return err
}

// lookExec runs a program. It is a child of the plugin, and ends with the time for a look.
func (s *Server) lookExec(ctx context.Context, argv []string) error {
	cmd := s.command(argv[0], argv[1:]...)
	cmd.SysProcAttr.Pdeathsig = 0 // its parent thread may end before it; the time bounds it
	out := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = lastWords
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the process
	select {
	case err := <-ended:
		if err != nil {
			return errors.Join(err, errorText(out.String()))
		}
		return nil
	case <-ctx.Done():
		_ = cmd.Process.Kill()
		<-ended
		return ctx.Err()
	}
}

// errorText is the last line of an output as an error; nil for none.
func errorText(out string) error {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if last := lines[len(lines)-1]; last != "" {
		return errors.New(last)
	}
	return nil
}
