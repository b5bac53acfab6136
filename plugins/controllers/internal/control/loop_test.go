package control

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestLoopPanic: a sync that panics ends the loop with an error, and not the process.
func TestLoopPanic(t *testing.T) {
	metrics, err := NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	c := &Context{Log: slog.New(slog.DiscardHandler), Metrics: metrics}
	l := NewLoop(c, "tester", 2, func(context.Context, string) error { panic("out of order") })
	l.EnqueueKey("a")
	l.EnqueueKey("b")
	if err := l.Run(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "panic: out of order\n") {
		t.Errorf("Run: got %v, want an error that begins with the panic", err)
	}
}
