package controllers

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"keelson.dev/keelson/plugins/controllers"
	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/plugins/scheduler"
	"keelson.dev/keelson/test/harness"
)

// cluster is an API server with the two plugins, nodes and a stand-in kubelet.
type cluster struct {
	t      testing.TB
	ctx    context.Context
	server *harness.Server
	nodes  *harness.Nodes
	admin  kubernetes.Interface
	config *rest.Config
}

// start runs all of it until the test ends. config is that of the controllers.
func start(t testing.TB, config string, nodes ...string) *cluster {
	t.Helper()
	server := harness.Start(t)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(cancel)
	c := &cluster{t: t, ctx: ctx, server: server, admin: server.Admin, config: server.Config}
	c.nodes = server.Nodes(t, nodes...)
	c.run(controllers.Plugin, config)
	c.run(scheduler.Plugin, `{"initialBackoff":"100ms"}`)
	// The controllers make it, and on a busy machine pods do not wait long enough for it.
	c.eventually("the account of pods is there", func() string {
		if _, err := c.admin.CoreV1().ServiceAccounts("default").Get(c.ctx, "default", metav1.GetOptions{}); err != nil {
			return err.Error()
		}
		return ""
	})
	return c
}

// run starts a plugin with its own identity and the rights it asks for.
func (c *cluster) run(p kit.Plugin, config string) (stop func()) {
	c.t.Helper()
	return c.server.Run(c.t, p, config)
}

func (c *cluster) setSilent(node string, silent bool) { c.nodes.SetSilent(node, silent) }

func (c *cluster) setUnwell(f func(*corev1.Pod) bool) { c.nodes.SetUnwell(f) }

// eventually repeats f until it returns an empty string, which else says what
// is not so yet.
func (c *cluster) eventually(what string, f func() string) {
	c.t.Helper()
	harness.Eventually(c.t, what, f)
}
