package apiserver

import (
	"fmt"
	"log/slog"
	"os"
	"testing"

	"k8s.io/klog/v2"
)

// TestMain silences klog once for all: it may be used by goroutines that outlive
// the test that began them, and cannot be changed under them.
func TestMain(m *testing.M) {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	stop, err := startTestEtcd()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	stop()
	os.Exit(code)
}
