package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"keelson.dev/keelson/plugins/kit"
	networkv1 "keelson.dev/keelson/proto/network/v1"
)

// network is a network plugin that notes what it is asked for.
type network struct {
	networkv1.UnimplementedNetworkServiceServer
	setup    *networkv1.SetupRequest
	teardown *networkv1.TeardownRequest
}

func (n *network) Setup(_ context.Context, r *networkv1.SetupRequest) (*networkv1.SetupResponse, error) {
	if n.setup = r; r.GetPodName() == "none" {
		return nil, status.Error(codes.Unavailable, "no pod range yet")
	}
	return &networkv1.SetupResponse{Interface: "eth0", Addresses: []string{"10.244.0.9", "fd00::9"}, Gateways: []string{"10.244.0.1", "fd00::1"}}, nil
}

func (n *network) Teardown(_ context.Context, r *networkv1.TeardownRequest) (*networkv1.TeardownResponse, error) {
	n.teardown = r
	return &networkv1.TeardownResponse{}, nil
}

func (n *network) Status(context.Context, *networkv1.StatusRequest) (*networkv1.StatusResponse, error) {
	return &networkv1.StatusResponse{Message: "no pod range yet"}, nil
}

func serve(t *testing.T) (*network, string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "network.sock")
	listener, err := kit.ListenSocket(socket)
	if err != nil {
		t.Fatal(err)
	}
	n, server := &network{}, grpc.NewServer()
	networkv1.RegisterNetworkServiceServer(server, n)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Stop(); <-done })
	return n, socket
}

func TestCalls(t *testing.T) {
	n, socket := serve(t)
	const ports = `,"runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}`
	config := func(version, more string) string {
		return fmt.Sprintf(`{"cniVersion":%q,"name":"keelson","type":"keelson-cni","socket":%q%s}`, version, socket, more)
	}
	for name, test := range map[string]struct {
		command, in string
		env         map[string]string
		exit        int
		want        []string
	}{
		"add": {"ADD", config("1.0.0", ports), nil, 0, []string{`"cniVersion":"1.0.0"`, `"address":"10.244.0.9/32","gateway":"10.244.0.1"`,
			`"address":"fd00::9/128"`, `{"dst":"::/0","gw":"fd00::1"}`, `"interfaces":[{"name":"eth0","sandbox":"/run/netns/x"}]`}},
		"add of an old version": {"ADD", config("0.4.0", ""), nil, 0, []string{`"version":"4","address":"10.244.0.9/32"`, `"version":"6"`}},
		"try again":             {"ADD", config("1.0.0", ""), map[string]string{"CNI_ARGS": "K8S_POD_NAME=none"}, 1, []string{`"code":11`, "no pod range yet"}},
		"another link":          {"ADD", config("1.0.0", ""), map[string]string{"CNI_IFNAME": "net1"}, 1, []string{`"code":4`, "CNI_IFNAME"}},
		"del":                   {"DEL", config("1.0.0", ""), nil, 0, nil},
		"status":                {"STATUS", config("1.1.0", ""), nil, 1, []string{`"code":50`, "no pod range yet"}},
		"version":               {"VERSION", `{"cniVersion":"0.3.1"}`, nil, 0, []string{`"cniVersion":"0.3.1"`, `"supportedVersions":["0.3.1"`}},
		"unknown version":       {"ADD", config("9.0.0", ""), nil, 1, []string{`"code":1`, `cniVersion: \"9.0.0\"`}},
		"unknown command":       {"EAT", config("1.0.0", ""), nil, 1, []string{`"code":4`, `\"EAT\"`}},
		"no JSON":               {"ADD", `{`, nil, 1, []string{`"code":6`}},
		"no socket":             {"ADD", `{"cniVersion":"1.0.0"}`, nil, 1, []string{`"code":7`, "socket:"}},
	} {
		t.Run(name, func(t *testing.T) {
			env := map[string]string{
				"CNI_COMMAND": test.command, "CNI_CONTAINERID": "abc", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0",
				"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=u",
			}
			maps.Copy(env, test.env)
			var out bytes.Buffer
			exit := Main("/cni/bin/"+Name, func(k string) string { return env[k] }, strings.NewReader(test.in), &out)
			if exit != test.exit {
				t.Errorf("exit status: got %d, want %d: %s", exit, test.exit, out.String())
			}
			if out.Len() > 0 && !json.Valid(out.Bytes()) {
				t.Errorf("no JSON: %s", out.String())
			}
			for _, want := range test.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("answer has no %s: %s", want, out.String())
				}
			}
			switch name {
			case "add":
				r := n.setup
				if r.GetSandboxId() != "abc" || r.GetNetns() != "/run/netns/x" || r.GetPodNamespace() != "default" || r.GetPodName() != "web" || r.GetPodUid() != "u" ||
					len(r.GetPortMappings()) != 1 || r.GetPortMappings()[0].GetProtocol() != "TCP" || r.GetPortMappings()[0].GetHostPort() != 8080 {
					t.Errorf("request: %v", r)
				}
			case "del":
				if n.teardown.GetSandboxId() != "abc" {
					t.Errorf("request: %v", n.teardown)
				}
			}
		})
	}
}

// TestCalled: the binary is a CNI executable under two names only, and only if called so.
func TestCalled(t *testing.T) {
	set := func(string) string { return "ADD" }
	for name, want := range map[string]bool{"/a/keelson-cni": true, "loopback": true, "/a/keelson": false, "kubectl": false} {
		if got := Called(name, set); got != want {
			t.Errorf("%s: got %t, want %t", name, got, want)
		}
	}
	if Called(Name, func(string) string { return "" }) {
		t.Error("called without CNI_COMMAND")
	}
}
