package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/proto/api/v1alpha1"
)

// operator is what the API server may do to plugins, on this node and, through their
// agents, on others.
type operator struct{ s *server }

// there waits for the plugin host, which comes a moment after the API.
func (o operator) there(ctx context.Context) error {
	select {
	case <-o.s.hosts:
		return nil
	case <-ctx.Done():
		return apierrors.NewServiceUnavailable("the plugin host is not up yet")
	}
}

// Logs is the log of a plugin of a node.
func (o operator) Logs(ctx context.Context, name, node string, tail int64, follow bool) (io.ReadCloser, error) {
	if err := o.there(ctx); err != nil {
		return nil, err
	}
	if node == "" || node == o.s.cfg.Node.Name {
		r, err := o.s.host.Logs(ctx, name, tail, follow)
		return r, operated(name, err)
	}
	if _, err := o.nodes(ctx, name, node); err != nil {
		return nil, err
	}
	return o.s.nodes.logs(ctx, node, name, tail, follow)
}

// Restart restarts a plugin, on every node where it runs if none is named.
func (o operator) Restart(ctx context.Context, name, node string) error {
	nodes, err := o.nodes(ctx, name, node)
	if err != nil {
		return err
	}
	return each(nodes, func(node string) error {
		if node == o.s.cfg.Node.Name {
			return operated(name, o.s.host.Restart(ctx, name))
		}
		return o.s.nodes.restart(ctx, node, name)
	})
}

// SwapAgain tries a revision once more: on the node that is named, or on every one where
// it was refused or rolled back.
func (o operator) SwapAgain(ctx context.Context, name, node string) error {
	nodes, err := o.nodes(ctx, name, node)
	if err != nil {
		return err
	}
	nothing := 0
	var conflict error
	err = each(nodes, func(node string) error {
		var err error
		if node == o.s.cfg.Node.Name {
			err = operated(name, o.s.host.SwapAgain(name))
		} else {
			err = o.s.nodes.swapAgain(ctx, node, name)
		}
		if apierrors.IsConflict(err) { // nothing to try there
			conflict = err
			nothing++
			return nil
		}
		return err
	})
	if err == nil && nothing == len(nodes) {
		return conflict
	}
	return err
}

// nodes are those that are meant: the one that is named, which has to be one where the
// plugin runs, or all of these.
func (o operator) nodes(ctx context.Context, name, node string) ([]string, error) {
	if err := o.there(ctx); err != nil {
		return nil, err
	}
	p, err := o.s.sync.api.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	on := []string{o.s.cfg.Node.Name}
	for _, n := range p.Status.Nodes {
		if n.Name != o.s.cfg.Node.Name {
			on = append(on, n.Name)
		}
	}
	if node == "" {
		return on, nil
	}
	if !slices.Contains(on, node) {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("node: plugin %q does not run on node %q, but on %s", name, node, strings.Join(on, ", ")))
	}
	return []string{node}, nil
}

// each does something for each node. The first error's kind is that of the whole.
func each(nodes []string, do func(node string) error) error {
	if len(nodes) == 1 {
		return do(nodes[0])
	}
	var errs []error
	for _, node := range nodes {
		if err := do(node); err != nil {
			errs = append(errs, fmt.Errorf("on node %s: %w", node, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return apierrors.NewInternalError(err)
	}
	return nil
}

// operated is an error of the plugin host as the API says it.
func operated(name string, err error) error {
	switch {
	case errors.Is(err, pluginhost.ErrNotFound):
		return apierrors.NewNotFound(v1alpha1.Resource("plugins"), name)
	case errors.Is(err, pluginhost.ErrNothingToTry):
		return apierrors.NewConflict(v1alpha1.Resource("plugins"), name, err)
	}
	return err
}
