package binary

import (
	"context"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/plugins/kit/nstest"
	"keelson.dev/keelson/plugins/runtime"
	"keelson.dev/keelson/proto/runtime/v1/runtimetest"
	"keelson.dev/keelson/test/harness"
	"keelson.dev/keelson/test/need"
)

// TestRootRuntimeBinary: the binary's runtime plugin fulfils its contract with real
// containers, and leaves them alone when it is killed and the plugin host starts it again.
func TestRootRuntimeBinary(t *testing.T) {
	nstest.Require(t)
	need.Program(t, "crun")
	need.Program(t, "conmon")
	server := harness.Start(t)
	runtimetest.Run(t, func(t *testing.T) *runtimetest.Subject {
		var network *runtimetest.Network
		l := launch(t, server, keelson(t), "runtime", func(run string) {
			network = runtimetest.ServeNetwork(t, filepath.Join(run, "network.sock"))
		}, func(ctx context.Context, data, run string) error {
			return runtime.Purge(ctx, data, run, harness.Logger(t))
		})
		running := func() (pid int) {
			harness.Eventually(t, "the runtime runs", func() string {
				s, _ := l.host.Status("runtime")
				if s.Phase != pluginhost.PhaseRunning {
					return strings.TrimSpace(string(s.Phase) + " " + s.LastError)
				}
				pid = s.PID
				return ""
			})
			return pid
		}
		running()
		killed := 0
		return &runtimetest.Subject{Socket: l.socket(), Network: network,
			Kill: func() {
				killed = running()
				if err := syscall.Kill(killed, syscall.SIGKILL); err != nil {
					t.Error(err)
				}
			},
			Start: func() {
				harness.Eventually(t, "another process runs", func() string {
					if running() == killed {
						return "it is still the one that was killed"
					}
					return ""
				})
			},
		}
	})
}
