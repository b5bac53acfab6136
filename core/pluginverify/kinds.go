package pluginverify

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"

	admissionv1 "keelson.dev/keelson/proto/admission/v1"
	"keelson.dev/keelson/proto/admission/v1/admissiontest"
	authenticationv1 "keelson.dev/keelson/proto/authentication/v1"
	"keelson.dev/keelson/proto/authentication/v1/authenticationtest"
	authorizationv1 "keelson.dev/keelson/proto/authorization/v1"
	"keelson.dev/keelson/proto/authorization/v1/authorizationtest"
	networkv1 "keelson.dev/keelson/proto/network/v1"
	"keelson.dev/keelson/proto/network/v1/networktest"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
	"keelson.dev/keelson/proto/runtime/v1/runtimetest"
	"keelson.dev/keelson/proto/storage/v1/storagetest"
)

// kind is one with a contract beyond the base.
type kind struct {
	examples bool   // its suite wants some
	root     bool   // its suite wants root, and namespaces for what the plugin changes
	left     string // what of the suite cannot be run here; empty: nothing
	run      func(s *suite, t *testing.T, connect func(*testing.T) *grpc.ClientConn)
}

var kinds = map[string]kind{
	"admission":      {examples: true, run: runAdmission},
	"authentication": {examples: true, run: runAuthentication},
	"authorization":  {examples: true, run: runAuthorization},
	"storage":        {root: true, run: runStorage},
	"network":        {root: true, run: runNetwork},
	"runtime": {
		left: "what needs containers, images and a network: runtimetest.Run has it, for go test",
		run: func(_ *suite, t *testing.T, connect func(*testing.T) *grpc.ClientConn) {
			runtimetest.RunIdle(t, runtimetest.IdleOptions{New: connect})
		},
	},
}

// patience bounds how long a plugin may take until it serves its kind's contract.
const patience = 20 * time.Second

// runKind runs the suite of the plugin's kind.
func (s *suite) runKind(t *testing.T) {
	b, err := newBench()
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	kinds[s.Kind].run(s, t, func(t *testing.T) *grpc.ClientConn { return s.connect(t, b) })
}

// connect starts the plugin, activates it and connects with its socket. All ends with the
// test. If that was not possible once it is not tried again.
func (s *suite) connect(t *testing.T, b *bench) *grpc.ClientConn {
	t.Helper()
	if s.mute != "" {
		t.Fatal(s.mute)
	}
	request, err := b.request(t.TempDir(), s.Name, s.Config) // its folder outlives the plugin
	if err != nil {
		t.Fatal(err)
	}
	rpc := s.subject(t, b).Client
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err = rpc.Configure(ctx, request); err == nil {
		_, err = rpc.Activate(ctx, &pluginv1.ActivateRequest{})
	}
	if err != nil {
		s.mute = fmt.Sprintf("configure and activate: %v", err)
		t.Fatal(s.mute)
	}
	conn, err := grpc.NewClient("unix:"+request.GetListen(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		conn.Connect()
		conn.ResetConnectBackoff()
		if !conn.WaitForStateChange(ctx, state) {
			s.mute = fmt.Sprintf("nothing serves the contract of kind %s at ConfigureRequest.listen within %s of Activate", s.Kind, patience)
			t.Fatal(s.mute)
		}
	}
	return conn
}

func runAdmission(s *suite, t *testing.T, connect func(*testing.T) *grpc.ClientConn) {
	examples := examplesOf(t, s, admissiontest.ReadExamples)
	admissiontest.Run(t, admissiontest.Options{Examples: examples, New: func(t *testing.T) admissionv1.AdmissionServiceClient {
		return admissionv1.NewAdmissionServiceClient(connect(t))
	}})
}

func runAuthentication(s *suite, t *testing.T, connect func(*testing.T) *grpc.ClientConn) {
	examples := examplesOf(t, s, authenticationtest.ReadExamples)
	authenticationtest.Run(t, authenticationtest.Options{Examples: examples, New: func(t *testing.T) authenticationv1.AuthenticationServiceClient {
		return authenticationv1.NewAuthenticationServiceClient(connect(t))
	}})
}

func runAuthorization(s *suite, t *testing.T, connect func(*testing.T) *grpc.ClientConn) {
	examples := examplesOf(t, s, authorizationtest.ReadExamples)
	authorizationtest.Run(t, authorizationtest.Options{Examples: examples, New: func(t *testing.T) authorizationv1.AuthorizationServiceClient {
		return authorizationv1.NewAuthorizationServiceClient(connect(t))
	}})
}

// examplesOf reads those that were given. Verify has looked whether they can be read.
func examplesOf[E any](t *testing.T, s *suite, read func([]byte) ([]E, error)) []E {
	t.Helper()
	examples, err := read(s.Examples)
	if err != nil {
		t.Fatal(err)
	}
	return examples
}

// checkExamples reads them as the suite of the kind will.
func checkExamples(kind string, text []byte) (err error) {
	switch kind {
	case "admission":
		_, err = admissiontest.ReadExamples(text)
	case "authentication":
		_, err = authenticationtest.ReadExamples(text)
	case "authorization":
		_, err = authorizationtest.ReadExamples(text)
	}
	return err
}

func runStorage(_ *suite, t *testing.T, connect func(*testing.T) *grpc.ClientConn) {
	storagetest.Run(t, storagetest.Options{New: connect, Dir: func(t *testing.T) string { return t.TempDir() }})
}

// runNetwork leaves the suite out for a plugin that has no pod range: there is no API from
// which it could have one.
func runNetwork(s *suite, t *testing.T, connect func(*testing.T) *grpc.ClientConn) {
	idle := ""
	networktest.Run(t, networktest.Options{Netns: netns, New: func(t *testing.T) networkv1.NetworkServiceClient {
		if idle != "" {
			t.Skip(idle)
		}
		client := networkv1.NewNetworkServiceClient(connect(t))
		for deadline := time.Now().Add(patience / 4); ; time.Sleep(5 * time.Millisecond) {
			got, err := client.Status(t.Context(), &networkv1.StatusRequest{})
			if err != nil {
				t.Fatalf("Status: %v", err)
			}
			if got.GetReady() {
				return client
			}
			if time.Now().After(deadline) {
				idle = fmt.Sprintf("it says that it is not ready (%s); there is no API here to tell it the node's pod range, a configuration could", got.GetMessage())
				t.Skip(idle)
			}
		}
	}})
}

func netns(t *testing.T) (path string, remove func()) { return networktest.NewNetns(t) }
