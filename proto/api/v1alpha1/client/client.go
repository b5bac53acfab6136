// Package client is a typed client of Plugin objects, for the kernel, the CLI
// and whoever else handles plugins from Go.
package client

import (
	"context"
	"io"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/proto/api/v1alpha1"
)

const resource = "plugins"

// Client reads and writes Plugin objects. It may be used concurrently; errors are
// those of the API server.
type Client struct{ rest *rest.RESTClient }

// New makes a client of the API server that cfg leads to; cfg is not changed.
func New(cfg *rest.Config) (*Client, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	cfg = rest.CopyConfig(cfg)
	cfg.APIPath = "/apis"
	cfg.GroupVersion = &v1alpha1.SchemeGroupVersion
	cfg.ContentType, cfg.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c, err := rest.RESTClientFor(cfg)
	if err != nil {
		return nil, err
	}
	return &Client{c}, nil
}

// Get gives one plugin.
func (c *Client) Get(ctx context.Context, name string) (*v1alpha1.Plugin, error) {
	p := &v1alpha1.Plugin{}
	err := c.rest.Get().Resource(resource).Name(name).Do(ctx).Into(p)
	return p, err
}

// List gives all plugins.
func (c *Client) List(ctx context.Context) (*v1alpha1.PluginList, error) {
	list := &v1alpha1.PluginList{}
	err := c.rest.Get().Resource(resource).Do(ctx).Into(list)
	return list, err
}

// Create makes a plugin.
func (c *Client) Create(ctx context.Context, p *v1alpha1.Plugin) (*v1alpha1.Plugin, error) {
	made := &v1alpha1.Plugin{}
	err := c.rest.Post().Resource(resource).Body(p).Do(ctx).Into(made)
	return made, err
}

// UpdateStatus writes the status of a plugin, and nothing else of it.
func (c *Client) UpdateStatus(ctx context.Context, p *v1alpha1.Plugin) (*v1alpha1.Plugin, error) {
	now := &v1alpha1.Plugin{}
	err := c.rest.Put().Resource(resource).Name(p.Name).SubResource("status").Body(p).Do(ctx).Into(now)
	return now, err
}

// Restart ends a plugin's process in good order and has a new one started: on the node
// that is named, or on all.
func (c *Client) Restart(ctx context.Context, name, node string) error {
	return c.rest.Post().Resource(resource).Name(name).SubResource("restart").
		Body(&v1alpha1.PluginRestart{ObjectMeta: metav1.ObjectMeta{Name: name}, Node: node}).Do(ctx).Error()
}

// Swap asks for a swap; body says which.
func (c *Client) Swap(ctx context.Context, name string, body *v1alpha1.PluginSwap) error {
	return c.rest.Post().Resource(resource).Name(name).SubResource("swap").Body(body).Do(ctx).Error()
}

// Comparison is where a plugin's shadow and the active one decide differently.
func (c *Client) Comparison(ctx context.Context, name string) (*v1alpha1.PluginComparison, error) {
	out := &v1alpha1.PluginComparison{}
	err := c.rest.Get().Resource(resource).Name(name).SubResource("comparison").Do(ctx).Into(out)
	return out, err
}

// Update writes a plugin but for its status.
func (c *Client) Update(ctx context.Context, p *v1alpha1.Plugin) (*v1alpha1.Plugin, error) {
	now := &v1alpha1.Plugin{}
	err := c.rest.Put().Resource(resource).Name(p.Name).Body(p).Do(ctx).Into(now)
	return now, err
}

// Patch changes a plugin by a patch of the type given.
func (c *Client) Patch(ctx context.Context, name string, kind types.PatchType, patch []byte) (*v1alpha1.Plugin, error) {
	now := &v1alpha1.Plugin{}
	err := c.rest.Patch(kind).Resource(resource).Name(name).Body(patch).Do(ctx).Into(now)
	return now, err
}

// Logs is what a plugin logged: the last tail lines (all that are kept if tail is
// negative), and with follow those to come, on the node that is named or else on the
// server. The caller closes it.
func (c *Client) Logs(ctx context.Context, name, node string, tail int64, follow bool) (io.ReadCloser, error) {
	req := c.rest.Get().Resource(resource).Name(name).SubResource("log")
	if node != "" {
		req.Param("node", node)
	}
	if tail >= 0 {
		req.Param("tailLines", strconv.FormatInt(tail, 10))
	}
	if follow {
		req.Param("follow", "true")
	}
	return req.Stream(ctx)
}

// ListWatch is for informers of Plugin objects.
func (c *Client) ListWatch() cache.ListerWatcher {
	return cache.NewListWatchFromClient(c.rest, resource, metav1.NamespaceAll, fields.Everything())
}

// Delete removes a plugin, whose process then ends in good order.
func (c *Client) Delete(ctx context.Context, name string) error {
	return c.rest.Delete().Resource(resource).Name(name).Do(ctx).Error()
}
