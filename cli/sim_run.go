package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"

	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/plugins/sim"
	"keelson.dev/keelson/proto/api/v1alpha1"
	"keelson.dev/keelson/proto/api/v1alpha1/client"
)

// simLook is how often up and down look how far things are.
const simLook = 250 * time.Millisecond

func isNotFound(err error) bool { return apierrors.IsNotFound(err) }

// background has the kernel run the plugin, and waits for its nodes.
func (s *simCommand) background(ctx context.Context, raw []byte, cfg sim.Config) error {
	_, kube, plugins, err := s.clients()
	if err != nil {
		return err
	}
	if _, err := plugins.List(ctx); notThere(err) {
		return errors.New("this cluster has no Plugin objects, so it is not Keelson's: keelson sim up --foreground plays the nodes in its own process")
	}
	enabled := true
	now, err := plugins.Create(ctx, &v1alpha1.Plugin{
		ObjectMeta: metav1.ObjectMeta{Name: sim.Plugin.Name},
		Spec: v1alpha1.PluginSpec{
			Kind: sim.Plugin.Kind, Scope: v1alpha1.PluginScopeCluster, Source: v1alpha1.PluginSource{BuiltIn: true}, Config: &runtime.RawExtension{Raw: raw},
			// What it replaces is at work on the same nodes.
			Swap: &v1alpha1.PluginSwapPolicy{Restart: true},
		},
	})
	if apierrors.IsAlreadyExists(err) {
		now, _, err = change(ctx, plugins, sim.Plugin.Name, func(p *v1alpha1.Plugin) error {
			if p.Spec.Config == nil || !bytes.Equal(p.Spec.Config.Raw, raw) {
				p.Spec.Config = &runtime.RawExtension{Raw: raw}
			}
			p.Spec.Enabled = &enabled
			return nil
		})
	}
	if err != nil {
		return err
	}
	tick := time.NewTicker(simLook)
	defer tick.Stop()
	for {
		sum, err := sim.Look(ctx, kube, cfg.NamePrefix)
		if err == nil && sum.Nodes == cfg.Nodes && sum.Ready >= cfg.Nodes-silent(sum, cfg) && s.running(ctx, plugins, now.Generation) {
			s.print(sum)
			return nil
		}
		if err := s.failed(ctx, plugins); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("only %d of %d nodes are ready: %w; keelson plugins logs sim tells more", sum.Ready, cfg.Nodes, context.Cause(ctx))
		}
	}
}

// silent counts the nodes that do not get ready, as asked.
func silent(sum sim.Summary, cfg sim.Config) int {
	n := 0
	for _, zone := range cfg.SilentZones {
		n += sum.Zones[zone].Nodes
	}
	return n
}

// running tells whether the plugin runs as it is asked for now.
func (s *simCommand) running(ctx context.Context, plugins *client.Client, generation int64) bool {
	p, err := plugins.Get(ctx, sim.Plugin.Name)
	return err == nil && p.Status.Phase == v1alpha1.PluginRunning && p.Status.ObservedGeneration >= generation
}

// failed is the plugin's error if it cannot run.
func (s *simCommand) failed(ctx context.Context, plugins *client.Client) error {
	p, err := plugins.Get(ctx, sim.Plugin.Name)
	if err == nil && p.Status.Phase == v1alpha1.PluginFailed && p.Status.ObservedGeneration >= p.Generation {
		return fmt.Errorf("plugin sim: %s", p.Status.LastError)
	}
	return nil
}

// remove ends the plugin and deletes what it played.
func (s *simCommand) remove(ctx context.Context, kube kubernetes.Interface, plugins *client.Client, prefix string) error {
	p, err := plugins.Get(ctx, sim.Plugin.Name)
	if err != nil && !notThere(err) {
		return err
	}
	if err == nil && (prefix == "" || prefix == pluginPrefix(p)) {
		if err := s.stopPlugin(ctx, plugins); err != nil {
			return err
		}
		fmt.Fprintln(s.Out, "plugin sim removed")
	}
	nodes, pods, err := sim.Remove(ctx, kube, prefix)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "%d nodes and %d pods removed\n", nodes, pods)
	return nil
}

// pluginPrefix is the prefix of the nodes that a Plugin object asks for.
func pluginPrefix(p *v1alpha1.Plugin) string {
	var raw []byte
	if p.Spec.Config != nil {
		raw = p.Spec.Config.Raw
	}
	cfg, err := sim.ReadConfig(raw)
	if err != nil {
		return ""
	}
	return cfg.NamePrefix
}

// stopPlugin has the kernel end the process before the object goes: only then can it
// make no node any more.
func (s *simCommand) stopPlugin(ctx context.Context, plugins *client.Client) error {
	no := false
	if _, _, err := change(ctx, plugins, sim.Plugin.Name, func(p *v1alpha1.Plugin) error { p.Spec.Enabled = &no; return nil }); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("the plugin does not stop"))
	defer cancel()
	tick := time.NewTicker(simLook)
	defer tick.Stop()
	for {
		p, err := plugins.Get(ctx, sim.Plugin.Name)
		if notThere(err) || err == nil && p.Status.Phase == v1alpha1.PluginDisabled {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if err := plugins.Delete(ctx, sim.Plugin.Name); err != nil && !notThere(err) {
		return err
	}
	return nil
}

// foreground plays the nodes in this process.
func (s *simCommand) foreground(ctx context.Context, raw []byte, cfg sim.Config, keep bool) error {
	rest, kube, _, err := s.clients()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(s.ErrOut, &slog.HandlerOptions{Level: slog.LevelInfo}))
	env := &kit.Env{
		Name: sim.Plugin.Name, Log: log, Config: raw, RESTConfig: rest, Health: &kit.Health{}, Metrics: prometheus.NewRegistry(),
	}
	server, err := sim.New(env)
	if err != nil {
		return err
	}
	if err := server.Start(ctx); err != nil || keep {
		return err
	}
	nodes, pods, err := sim.Remove(context.WithoutCancel(ctx), kube, cfg.NamePrefix)
	if err == nil {
		fmt.Fprintf(s.Out, "%d nodes and %d pods removed\n", nodes, pods)
	}
	return err
}
