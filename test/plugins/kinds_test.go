package plugins

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/cli/scaffold"
	"keelson.dev/keelson/core/pluginhost"
	admissionv1 "keelson.dev/keelson/proto/admission/v1"
	"keelson.dev/keelson/proto/admission/v1/admissiontest"
	authenticationv1 "keelson.dev/keelson/proto/authentication/v1"
	"keelson.dev/keelson/proto/authentication/v1/authenticationtest"
	authorizationv1 "keelson.dev/keelson/proto/authorization/v1"
	"keelson.dev/keelson/proto/authorization/v1/authorizationtest"
	"keelson.dev/keelson/proto/storage/v1/storagetest"
	"keelson.dev/keelson/test/need"
	"keelson.dev/keelson/test/written"
)

// deciding are plugins that `keelson plugins new` writes, under the names that they have in
// docs/deciding.md.
var deciding = map[string]string{"admission": "guard", "authentication": "tokens", "authorization": "readers", "storage": "folders"}

var buildDeciding = sync.OnceValues(func() (*written.Plugins, error) {
	dir, err := os.MkdirTemp("", "deciding")
	if err != nil {
		return nil, err
	}
	built = append(built, dir)
	var plugins []scaffold.Options
	for _, kind := range slices.Sorted(maps.Keys(deciding)) {
		plugins = append(plugins, scaffold.Options{Name: deciding[kind], Kind: kind, Keelson: "../.."})
	}
	return written.New(dir, plugins...)
})

// TestKindsBuilt passes what `keelson plugins new` writes, built and launched by the plugin
// host, through the suites of their kinds. The tests that it writes with them pass them in memory.
func TestKindsBuilt(t *testing.T) {
	programs, err := buildDeciding()
	if err != nil {
		t.Fatal(err)
	}
	h := start(t)
	kinds(t, programs, func(t *testing.T, kind string) *grpc.ClientConn {
		name := deciding[kind]
		path := programs.Program(name)
		spec := pluginhost.Spec{Name: name, Kind: kind, Path: path, SHA256: sum(t, path), Enabled: true}
		if text, err := os.ReadFile(programs.File(name, "config.yaml")); err == nil {
			if spec.Config, err = yaml.YAMLToJSON(text); err != nil {
				t.Fatal(err)
			}
		}
		h.ensure(t, spec)
		h.wait(t, spec.Name, pluginhost.PhaseRunning)
		return dial(t, pluginhost.Socket(filepath.Join(h.dir, "r"), kind, spec.Name))
	})
}

// dial is a client of a socket that waits for its server.
func dial(t *testing.T, socket string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// examplesOf are those that were written with a plugin.
func examplesOf[E any](t *testing.T, w *written.Plugins, kind string, read func([]byte) ([]E, error)) []E {
	t.Helper()
	text, err := os.ReadFile(w.File(deciding[kind], "examples.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	examples, err := read(text)
	if err != nil {
		t.Fatal(err)
	}
	return examples
}

// kinds runs the suite of each kind.
func kinds(t *testing.T, w *written.Plugins, connect func(t *testing.T, kind string) *grpc.ClientConn) {
	t.Run("admission", func(t *testing.T) {
		admissiontest.Run(t, admissiontest.Options{
			New: func(t *testing.T) admissionv1.AdmissionServiceClient {
				return admissionv1.NewAdmissionServiceClient(connect(t, "admission"))
			},
			Examples: examplesOf(t, w, "admission", admissiontest.ReadExamples),
		})
	})
	t.Run("authentication", func(t *testing.T) {
		authenticationtest.Run(t, authenticationtest.Options{
			New: func(t *testing.T) authenticationv1.AuthenticationServiceClient {
				return authenticationv1.NewAuthenticationServiceClient(connect(t, "authentication"))
			},
			Examples: examplesOf(t, w, "authentication", authenticationtest.ReadExamples),
		})
	})
	t.Run("authorization", func(t *testing.T) {
		authorizationtest.Run(t, authorizationtest.Options{
			New: func(t *testing.T) authorizationv1.AuthorizationServiceClient {
				return authorizationv1.NewAuthorizationServiceClient(connect(t, "authorization"))
			},
			Examples: examplesOf(t, w, "authorization", authorizationtest.ReadExamples),
		})
	})
	t.Run("storage", func(t *testing.T) {
		need.Root(t) // it mounts
		storagetest.Run(t, storagetest.Options{
			New: func(t *testing.T) *grpc.ClientConn { return connect(t, "storage") },
			Dir: func(t *testing.T) string { return t.TempDir() },
		})
	})
}
