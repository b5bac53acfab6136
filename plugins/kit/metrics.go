package kit

import (
	"context"
	"net/http"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// MetricsSocket is the file in a plugin's RunDir at which /metrics is served.
const MetricsSocket = "metrics.sock"

// serveMetrics serves env.Metrics until ctx ends. A plugin works without: trouble is
// logged and no more.
func serveMetrics(ctx context.Context, env *Env) {
	if env.RunDir == "" {
		return
	}
	listener, err := env.Listener(ctx, "unix", filepath.Join(env.RunDir, MetricsSocket))
	if err != nil {
		env.Log.Warn("Metrics are not served", "err", err)
		return
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(env.Metrics, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	_ = server.Serve(listener)
}
