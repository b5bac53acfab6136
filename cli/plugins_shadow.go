package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/proto/api/v1alpha1"
	"keelson.dev/keelson/proto/api/v1alpha1/client"
)

// shadowOptions are the flags of shadow.
type shadowOptions struct {
	swapOptions
	off bool
}

func (p *pluginsCommand) shadow() *cobra.Command {
	var o shadowOptions
	cmd := p.named(&cobra.Command{
		Use:   "shadow NAME",
		Short: "Let another program decide beside a plugin, without effect",
		Long: `Run another program, or the same with another configuration, as the shadow of a
plugin of kind scheduler or admission: it decides on all that the plugin decides on, and
nothing becomes of it. "keelson plugins compare NAME" shows where both differ, and
"keelson plugins swap NAME --shadow" puts the shadow in the plugin's place.

A shadow may only read, whatever the program asks for: --accept accepts that part.`,
		Example: `  # A scheduler of one's own beside the one that works
  keelson plugins shadow scheduler --path ./my-scheduler --accept

  # The same scheduler with another configuration
  keelson plugins shadow scheduler --built-in --config scheduler.yaml

  # No shadow any more
  keelson plugins shadow scheduler --off`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.argsGiven = cmd.Flags().Changed("arg")
			return p.doShadow(cmd.Context(), args[0], o)
		},
	})
	f := cmd.Flags()
	f.StringVar(&o.path, "path", "", "File of the shadow's program")
	f.BoolVar(&o.builtIn, "built-in", false, "Take the program of that name that is linked into keelson")
	f.StringVar(&o.config, "config", "", "File with the shadow's configuration, in YAML or JSON; - for none")
	f.StringArrayVar(&o.args, "arg", nil, "Argument for the program (repeatable; replaces the earlier ones)")
	f.BoolVar(&o.accept, "accept", false, "Accept what the program wants to read")
	f.BoolVar(&o.off, "off", false, "End the shadow")
	f.StringVar(&o.dir, "plugin-dir", defaultPluginDir, "The server's plugin folder")
	f.DurationVar(&o.timeout, "timeout", 2*time.Minute, "How long to wait until it decides; 0: not at all")
	cmd.MarkFlagsMutuallyExclusive("path", "built-in", "off")
	return cmd
}

func (p *pluginsCommand) doShadow(ctx context.Context, name string, o shadowOptions) error {
	plugins, err := p.client()
	if err != nil {
		return err
	}
	if o.path == "" && !o.builtIn && o.config == "" && !o.argsGiven && !o.off {
		return errors.New("say what is to be the shadow: --path FILE, --built-in, --config FILE or --arg ARG; or end it with --off")
	}
	edit, err := p.shadowEdit(ctx, name, o)
	if err != nil {
		return err
	}
	now, _, err := change(ctx, plugins, name, edit)
	if err != nil {
		return err
	}
	if o.off {
		fmt.Fprintf(p.Out, "plugin %s has no shadow\n", name)
		return nil
	}
	return p.shadowOutcome(ctx, plugins, now, o.timeout)
}

// shadowEdit is what to write into the object.
func (p *pluginsCommand) shadowEdit(ctx context.Context, name string, o shadowOptions) (func(*v1alpha1.Plugin) error, error) {
	if o.off {
		return func(obj *v1alpha1.Plugin) error { obj.Spec.Shadow = nil; return nil }, nil
	}
	var config *runtime.RawExtension
	if o.config != "" && o.config != "-" {
		raw, err := readConfig(o.config)
		if err != nil {
			return nil, err
		}
		config = &runtime.RawExtension{Raw: raw}
	}
	var found *program
	if o.path != "" {
		var err error
		if found, err = p.install(ctx, name, o.swapOptions); err != nil {
			return nil, err
		}
	}
	return func(obj *v1alpha1.Plugin) error {
		if obj.Spec.Shadow == nil {
			obj.Spec.Shadow = &v1alpha1.PluginShadow{Source: obj.Spec.Source, Args: obj.Spec.Args, Config: obj.Spec.Config}
			if found != nil || o.builtIn { // another program: what is meant for the one is not for the other
				obj.Spec.Shadow = &v1alpha1.PluginShadow{}
			}
		}
		s := obj.Spec.Shadow
		if o.builtIn {
			s.Source = v1alpha1.PluginSource{BuiltIn: true}
		}
		if o.config != "" {
			s.Config = config
		}
		if o.argsGiven {
			s.Args = o.args
		}
		if found == nil {
			return nil
		}
		s.Source = found.source
		return p.acceptReading(obj, found, o.accept)
	}, nil
}

// acceptReading puts what a program wants to read into the object, if that is wanted, and
// else wants it to be there.
func (p *pluginsCommand) acceptReading(obj *v1alpha1.Plugin, found *program, accept bool) error {
	if obj.Spec.Kind != found.kind {
		return fmt.Errorf("plugin %s is of kind %q, the program of kind %q", obj.Name, obj.Spec.Kind, found.kind)
	}
	more := beyond(pluginhost.Reading(found.rules), obj.Spec.Rules)
	if len(more) == 0 {
		return nil
	}
	printRules(p.Out, "to be read", pluginhost.Reading(found.rules))
	if !accept {
		return errors.New("the program asks to read what nobody has accepted: --accept accepts it")
	}
	obj.Spec.Rules = append(append([]rbacv1.PolicyRule(nil), obj.Spec.Rules...), more...)
	return nil
}

// shadowOutcome waits until the shadow decides, or says why it does not.
func (p *pluginsCommand) shadowOutcome(ctx context.Context, plugins *client.Client, now *v1alpha1.Plugin, timeout time.Duration) error {
	if timeout == 0 {
		fmt.Fprintf(p.Out, "plugin %s: changed; keelson plugins inspect %s tells what becomes of its shadow\n", now.Name, now.Name)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(look)
	defer tick.Stop()
	last := "it is not started yet"
	for {
		current, err := plugins.Get(ctx, now.Name)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if err == nil && current.Status.ObservedGeneration >= now.Generation && current.Status.Shadow != nil {
			s := current.Status.Shadow
			last = string(s.Phase) + ", " + orNone(s.Message)
			switch s.Phase {
			case v1alpha1.PluginRunning:
				fmt.Fprintf(p.Out, "plugin %s: revision %s decides beside %s, without effect: keelson plugins compare %s\n",
					now.Name, s.Revision, orNone(current.Status.Revision), now.Name)
				return nil
			case v1alpha1.PluginFailed, v1alpha1.PluginBackOff:
				return fmt.Errorf("the shadow of plugin %s does not run: %s", now.Name, s.Message)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the shadow of plugin %s does not decide after %s: %s", now.Name, timeout, last)
		}
	}
}

// promoteEdit is what puts a plugin's shadow in its place.
func (p *pluginsCommand) promoteEdit(ctx context.Context, plugins *client.Client, name string, accept bool) (func(*v1alpha1.Plugin) error, error) {
	plugin, err := plugins.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	var found *program
	if s := plugin.Spec.Shadow; s != nil && s.Source.Path != "" {
		d, err := described(ctx, s.Source, s.Args)
		if err != nil {
			return nil, err
		}
		found = &program{source: s.Source, kind: d.GetKind(), rules: rulesOf(d)}
	}
	return func(obj *v1alpha1.Plugin) error {
		s := obj.Spec.Shadow
		if s == nil {
			return fmt.Errorf("plugin %s has no shadow", name)
		}
		obj.Spec.Source, obj.Spec.Args, obj.Spec.Config, obj.Spec.Shadow = s.Source, s.Args, s.Config, nil
		switch {
		case found != nil && s.Source == found.source:
			return p.acceptFound(obj, found, accept)
		case s.Source.Path != "":
			return fmt.Errorf("the shadow of plugin %s was changed meanwhile: try again", name)
		case s.Source.Program == "":
			obj.Spec.Rules = nil // a built-in plugin needs none
		}
		return nil
	}, nil
}
