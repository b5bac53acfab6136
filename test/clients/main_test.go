package clients

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/component-base/cli"
	"k8s.io/klog/v2"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"keelson.dev/keelson/core/store"
	"keelson.dev/keelson/test/harness"
)

// childMode sends this binary, started again, into one of the modes below.
const childMode = "KEELSON_CLIENTS_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childMode) {
	case "kubectl":
		childKubectl()
		return
	case "server":
		childServer()
		return
	}
	watchForPanics()
	os.Exit(m.Run())
}

// childKubectl is kubectl as our binary has it (cli/root.go).
func childKubectl() {
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	os.Args[0] = "kubectl"
	cmd := kubectl.NewDefaultKubectlCommandWithArgs(kubectl.KubectlOptions{
		PluginHandler: kubectl.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
		Arguments:     os.Args,
		ConfigFlags: genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().
			WithDiscoveryBurst(300).WithDiscoveryQPS(50).WithWarningPrinter(streams),
		IOStreams: streams,
	})
	if err := cli.RunNoErrOutput(cmd); err != nil {
		cmdutil.CheckErr(err)
	}
}

// Where a child server keeps its store, where it listens, and how long it keeps
// old versions.
const (
	childDir    = "KEELSON_CLIENTS_DIR"
	childAddr   = "KEELSON_CLIENTS_ADDR"
	childWindow = "KEELSON_CLIENTS_WINDOW"
)

// childServer runs an API server until SIGTERM, or until somebody kills it.
func childServer() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	window, err := time.ParseDuration(os.Getenv(childWindow))
	if err == nil {
		_, end, openErr := harness.Open(harness.Options{
			Dir: os.Getenv(childDir), Addr: os.Getenv(childAddr), Log: slog.New(slog.DiscardHandler),
			Store: store.Options{CompactionWindow: window},
		})
		if err = openErr; err == nil {
			_, _ = io.WriteString(os.Stdout, "ready\n")
			<-ctx.Done()
			err = end()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// panics are those that Kubernetes' libraries caught in this process, and lines of
// the log that tell of one.
var panics struct {
	mu    sync.Mutex
	lines []string // guarded by mu
}

func recordPanic(line string) {
	if strings.Contains(line, http.ErrAbortHandler.Error()) {
		return // how the generic server breaks a connection on purpose
	}
	panics.mu.Lock()
	defer panics.mu.Unlock()
	panics.lines = append(panics.lines, line)
}

// wantNoPanics fails the test when a server in this process has panicked.
func wantNoPanics(t *testing.T) {
	t.Helper()
	panics.mu.Lock()
	defer panics.mu.Unlock()
	for _, line := range panics.lines {
		t.Errorf("there was a panic: %s", line)
	}
}

// panicFinder is where the logs go: nowhere, but what tells of a panic is kept.
type panicFinder struct{}

func (panicFinder) Write(p []byte) (int, error) {
	line := strings.ReplaceAll(strings.ToLower(string(p)), "panicked: false", "")
	if strings.Contains(strings.ReplaceAll(line, "panic-reason: <nil>", ""), "panic") {
		recordPanic(line)
	}
	return io.Discard.Write(p)
}

func watchForPanics() {
	klog.SetSlogLogger(slog.New(slog.NewTextHandler(panicFinder{}, &slog.HandlerOptions{Level: slog.LevelWarn})))
	runtime.PanicHandlers = append(runtime.PanicHandlers, func(_ context.Context, what any) { recordPanic(fmt.Sprint(what)) })
}
