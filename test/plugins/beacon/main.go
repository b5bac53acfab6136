// Command beacon is a plugin of node scope that comes from elsewhere: it writes on its node
// that it is there. With a file in its configuration it refuses to start while that is there.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/keelson/plugins/kit"
)

var plugin = kit.Plugin{
	Name: "beacon", Kind: "beacon", Version: "0.0.1", Description: "Writes on its node that it is there.", Scope: kit.ScopeNode,
	Rules: []rbacv1.PolicyRule{{Verbs: []string{"get", "patch"}, APIGroups: []string{""}, Resources: []string{"nodes"}}},
	ConfigSchema: `{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "additionalProperties": false,
		"properties": {"unlessFile": {"type": "string"}}}`,
	ServingCertificate: true,
	New:                func(env *kit.Env) (kit.Runner, error) { return newBeacon(env) },
}

func main() { kit.Main(plugin) }

type beacon struct{ env *kit.Env }

func newBeacon(env *kit.Env) (*beacon, error) {
	var config struct {
		UnlessFile string `json:"unlessFile"`
	}
	if err := env.Decode(&config); err != nil {
		return nil, err
	}
	if config.UnlessFile != "" {
		if _, err := os.Stat(config.UnlessFile + "." + env.Node.Name); err == nil {
			return nil, errors.New("the file of its configuration is there")
		}
	}
	if env.Serving == nil {
		return nil, errors.New("it has no certificate to serve with")
	}
	return &beacon{env}, nil
}

// Start implements kit.Runner.
func (b *beacon) Start(ctx context.Context) error {
	client, err := b.env.Clientset()
	if err != nil {
		return err
	}
	patch := fmt.Sprintf(`{"metadata":{"annotations":{"beacon.example.keelson.dev/pid":%s}}}`, strconv.Quote(strconv.Itoa(os.Getpid())))
	if _, err := client.CoreV1().Nodes().Patch(ctx, b.env.Node.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		return err
	}
	b.env.Log.Info("The beacon is lit", "node", b.env.Node.Name)
	b.env.Health.SetReady()
	<-ctx.Done()
	return nil
}
