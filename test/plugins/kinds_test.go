package plugins

import (
	"encoding/json"
	"path/filepath"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/plugins/kit/kittest"
	admissionv1 "keelson.dev/keelson/proto/admission/v1"
	"keelson.dev/keelson/proto/admission/v1/admissiontest"
	authenticationv1 "keelson.dev/keelson/proto/authentication/v1"
	"keelson.dev/keelson/proto/authentication/v1/authenticationtest"
	authorizationv1 "keelson.dev/keelson/proto/authorization/v1"
	"keelson.dev/keelson/proto/authorization/v1/authorizationtest"
	"keelson.dev/keelson/proto/storage/v1/storagetest"
	"keelson.dev/keelson/test/plugins/examples"
)

var buildExamples = sync.OnceValues(func() (string, error) { return build("examples", "./examples/cmd") })

// exampleConfig is what the examples are configured with.
var exampleConfig = map[string]string{
	"admission":      `{"forbidden":"secret"}`,
	"authentication": `{"tokens":{"tick":{"user":"jane","groups":["sailors"]},"tock":{"user":"joe","expired":true}}}`,
	"authorization":  `{"readers":["reader"],"blocked":["blocked"]}`,
}

// TestKindsInMemory passes the examples through the suites of their kinds without a process.
func TestKindsInMemory(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) *grpc.ClientConn {
		p, ok := examples.Plugin(kind, "example")
		if !ok {
			t.Fatalf("there is no example of kind %s", kind)
		}
		env := kittest.NewEnv(t, p)
		env.Listen = filepath.Join(shortDir(t), "x.sock")
		if c := exampleConfig[kind]; c != "" {
			env.Config = json.RawMessage(c)
		}
		runner, err := p.New(env)
		if err != nil {
			t.Fatal(err)
		}
		kittest.Run(t, runner)
		return dial(t, env.Listen)
	})
}

// TestKindsBuilt passes the same examples, built and launched by the plugin host.
func TestKindsBuilt(t *testing.T) {
	path, err := buildExamples()
	if err != nil {
		t.Fatal(err)
	}
	h := start(t)
	kinds(t, func(t *testing.T, kind string) *grpc.ClientConn {
		spec := pluginhost.Spec{Name: kind + "-example", Kind: kind, Path: path, SHA256: sum(t, path), Args: []string{kind, kind + "-example"}, Enabled: true}
		if c := exampleConfig[kind]; c != "" {
			spec.Config = json.RawMessage(c)
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

// kinds runs the suite of each kind.
func kinds(t *testing.T, connect func(t *testing.T, kind string) *grpc.ClientConn) {
	t.Run("admission", func(t *testing.T) {
		review := func(hook, object string) *admissionv1.ReviewRequest {
			return &admissionv1.ReviewRequest{
				Hook: hook, Uid: "1", Name: "a", Namespace: "default", Operation: admissionv1.Operation_OPERATION_CREATE,
				Kind:     &admissionv1.GroupVersionKind{Version: "v1", Kind: "ConfigMap"},
				Resource: &admissionv1.GroupVersionResource{Version: "v1", Resource: "configmaps"},
				User:     &admissionv1.UserInfo{Username: "jane"}, Object: []byte(object),
			}
		}
		admissiontest.Run(t, admissiontest.Options{
			New: func(t *testing.T) admissionv1.AdmissionServiceClient {
				return admissionv1.NewAdmissionServiceClient(connect(t, "admission"))
			},
			Examples: []admissiontest.Example{
				{Name: "unmarked", Request: review("mark", `{"metadata":{"name":"a"}}`), Allowed: true, Patched: true},
				{Name: "with labels", Request: review("mark", `{"metadata":{"labels":{"a":"b"}}}`), Allowed: true, Patched: true},
				{Name: "marked", Request: review("mark", `{"metadata":{"labels":{"example.keelson.dev/seen":"true"}}}`), Allowed: true},
				{Name: "a good key", Request: review("keys", `{"data":{"a":"b"}}`), Allowed: true},
				{Name: "a forbidden key", Request: review("keys", `{"data":{"secret":"b"}}`)},
			},
		})
	})
	t.Run("authentication", func(t *testing.T) {
		authenticationtest.Run(t, authenticationtest.Options{
			New: func(t *testing.T) authenticationv1.AuthenticationServiceClient {
				return authenticationv1.NewAuthenticationServiceClient(connect(t, "authentication"))
			},
			Examples: []authenticationtest.Example{
				{Name: "valid", Token: "tick", User: "jane"},
				{Name: "valid for an audience", Token: "tick", Audiences: []string{"a", "b"}, User: "jane"},
				{Name: "expired", Token: "tock"},
			},
		})
	})
	t.Run("authorization", func(t *testing.T) {
		access := func(user, verb string) *authorizationv1.Access {
			return &authorizationv1.Access{
				User: &authorizationv1.UserInfo{Username: user}, Verb: verb,
				What: &authorizationv1.Access_Resource{Resource: &authorizationv1.ResourceAttributes{Version: "v1", Resource: "pods", Namespace: "default"}},
			}
		}
		authorizationtest.Run(t, authorizationtest.Options{
			New: func(t *testing.T) authorizationv1.AuthorizationServiceClient {
				return authorizationv1.NewAuthorizationServiceClient(connect(t, "authorization"))
			},
			Examples: []authorizationtest.Example{
				{Name: "a reader reads", Access: access("reader", "list"), Outcome: authorizationv1.Outcome_OUTCOME_ALLOW},
				{Name: "a reader writes", Access: access("reader", "create"), Outcome: authorizationv1.Outcome_OUTCOME_NO_OPINION},
				{Name: "blocked", Access: access("blocked", "get"), Outcome: authorizationv1.Outcome_OUTCOME_DENY},
			},
		})
	})
	t.Run("storage", func(t *testing.T) {
		storagetest.Run(t, storagetest.Options{
			New: func(t *testing.T) *grpc.ClientConn { return connect(t, "storage") },
			Dir: func(t *testing.T) string { return t.TempDir() },
		})
	})
}
