package binary

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/plugins/kit/nstest"
	"keelson.dev/keelson/plugins/network"
	networkv1 "keelson.dev/keelson/proto/network/v1"
	"keelson.dev/keelson/proto/network/v1/networktest"
	"keelson.dev/keelson/test/harness"
)

// TestRootNetworkBinary: the binary's network plugin fulfils its contract, with the rights
// that it declares, on IPv4 and on dual stack.
func TestRootNetworkBinary(t *testing.T) {
	nstest.Require(t)
	binary := keelson(t)
	for name, cidrs := range map[string][]string{
		"IPv4":      {"10.244.3.0/24"},
		"DualStack": {"10.244.3.0/24", "fd00:10:244:3::/64"},
	} {
		t.Run(name, func(t *testing.T) {
			server := harness.Start(t)
			server.Grant(t, "network", network.Plugin.Rules)
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}, Spec: corev1.NodeSpec{PodCIDR: cidrs[0], PodCIDRs: cidrs}}
			if _, err := server.Admin.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			networktest.Run(t, networktest.Options{
				New: func(t *testing.T) networkv1.NetworkServiceClient { return launchNetwork(t, server, binary) },
				Netns: func(t *testing.T) (string, func()) {
					path := nstest.New(t)
					return path, func() { nstest.Remove(path) }
				},
			})
		})
	}
}

func launchNetwork(t *testing.T, server *harness.Server, binary string) networkv1.NetworkServiceClient {
	t.Helper()
	l := launch(t, server, binary, "network", nil, func(ctx context.Context, data, _ string) error {
		return network.Purge(ctx, data, "", harness.Logger(t))
	})
	conn, err := kit.DialSocket(l.socket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	client := networkv1.NewNetworkServiceClient(conn)
	harness.Eventually(t, "the network is ready", func() string {
		got, err := client.Status(t.Context(), &networkv1.StatusRequest{}, grpc.WaitForReady(true))
		switch {
		case err != nil:
			return err.Error()
		case !got.GetReady():
			s, _ := l.host.Status("network")
			return fmt.Sprintf("%s; the host says %s %s", got.GetMessage(), s.Phase, s.LastError)
		}
		return ""
	})
	return client
}
