package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/client-go/util/retry"
	"k8s.io/component-helpers/auth/rbac/validation"

	"keelson.dev/keelson/core/pluginverify"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"

	"keelson.dev/keelson/proto/api/v1alpha1"
	"keelson.dev/keelson/proto/api/v1alpha1/client"
)

// change writes a plugin's spec as edit leaves it. It tells whether anything was
// different, and gives the object as it is then.
func change(ctx context.Context, plugins *client.Client, name string, edit func(*v1alpha1.Plugin) error) (now *v1alpha1.Plugin, changed bool, err error) {
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		p, err := plugins.Get(ctx, name)
		if err != nil {
			return err
		}
		before := p.DeepCopy()
		if err := edit(p); err != nil {
			return err
		}
		if changed = !equality.Semantic.DeepEqual(before.Spec, p.Spec); !changed {
			now = p
			return nil
		}
		now, err = plugins.Update(ctx, p)
		return err
	})
	return now, changed, err
}

func (p *pluginsCommand) enable(enabled bool) *cobra.Command {
	verb, short := "enable", "Run a plugin that was disabled"
	if !enabled {
		verb, short = "disable", "Stop a plugin until it is enabled again"
	}
	return p.named(&cobra.Command{
		Use:     verb + " NAME",
		Short:   short,
		Example: "  keelson plugins " + verb + " dns",
		RunE: func(cmd *cobra.Command, args []string) error {
			plugins, err := p.client()
			if err != nil {
				return err
			}
			_, changed, err := change(cmd.Context(), plugins, args[0], func(o *v1alpha1.Plugin) error {
				if (o.Spec.Enabled == nil || *o.Spec.Enabled) != enabled {
					o.Spec.Enabled = &enabled
				}
				return nil
			})
			if err != nil {
				return err
			}
			was := ""
			if !changed {
				was = " already"
			}
			fmt.Fprintf(p.Out, "plugin %s is%s %sd\n", args[0], was, verb)
			return nil
		},
	})
}

func (p *pluginsCommand) accept() *cobra.Command {
	var yes bool
	cmd := p.named(&cobra.Command{
		Use:   "accept NAME",
		Short: "Accept the rights that a plugin's program asks for",
		Long: `Show the RBAC rules that the program of spec.source.path asks for, and write them to
spec.rules: without, the kernel does not start it. The program is started for a moment,
with no access to the cluster, to say them; so this is for the server's machine.
Elsewhere, read them in the condition Accepted, and write spec.rules with kubectl edit.`,
		Example: `  keelson plugins accept namespace-labels
  keelson plugins accept namespace-labels --yes`,
		RunE: func(cmd *cobra.Command, args []string) error {
			plugins, err := p.client()
			if err != nil {
				return err
			}
			plugin, err := plugins.Get(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if plugin.Spec.Source.BuiltIn {
				return fmt.Errorf("plugin %s is built in: its rules come with the kernel and need not be accepted", args[0])
			}
			d, err := described(cmd.Context(), plugin.Spec.Source, plugin.Spec.Args)
			if err != nil {
				return err
			}
			return p.acceptRules(cmd.Context(), plugins, plugin, rulesOf(d), yes)
		},
	})
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "Do not ask")
	return cmd
}

func (p *pluginsCommand) acceptRules(ctx context.Context, plugins *client.Client, plugin *v1alpha1.Plugin, rules []rbacv1.PolicyRule, yes bool) error {
	printRules(p.Out, "accepted", plugin.Spec.Rules)
	printRules(p.Out, "asked for", rules)
	if equality.Semantic.DeepEqual(rules, plugin.Spec.Rules) {
		fmt.Fprintf(p.Out, "plugin %s: nothing to accept\n", plugin.Name)
		return nil
	}
	if !yes && !confirm(p.IOStreams, "Accept what it asks for, and no more? [y/N] ") {
		return errors.New("nothing was changed; --yes answers the question")
	}
	sum := plugin.Spec.Source.SHA256
	_, _, err := change(ctx, plugins, plugin.Name, func(o *v1alpha1.Plugin) error {
		if o.Spec.Source.SHA256 != sum {
			return fmt.Errorf("plugin %s got another program meanwhile: look again", plugin.Name)
		}
		o.Spec.Rules = rules
		return nil
	})
	if err == nil {
		fmt.Fprintf(p.Out, "plugin %s: accepted\n", plugin.Name)
	}
	return err
}

// described is what the program of a source says of itself; it has to lie on this
// machine.
func described(ctx context.Context, s v1alpha1.PluginSource, args []string) (*pluginv1.DescribeResponse, error) {
	sum, err := pluginverify.Sum(s.Path)
	if err != nil {
		return nil, fmt.Errorf("%w: run this on the server's machine", err)
	}
	if sum != s.SHA256 {
		return nil, fmt.Errorf("%s has checksum %s, spec.source.sha256 is %s: this is not the program that the kernel would start", s.Path, sum, s.SHA256)
	}
	quietGRPC()
	return pluginverify.Describe(ctx, pluginverify.Program{Path: s.Path, Args: args})
}

// rulesOf are the rules that a program asks for, as RBAC has them.
func rulesOf(d *pluginv1.DescribeResponse) []rbacv1.PolicyRule {
	var rules []rbacv1.PolicyRule
	for _, r := range d.GetRules() {
		rules = append(rules, rbacv1.PolicyRule{
			Verbs: r.GetVerbs(), APIGroups: r.GetApiGroups(), Resources: r.GetResources(),
			ResourceNames: r.GetResourceNames(), NonResourceURLs: r.GetNonResourceUrls(),
		})
	}
	return rules
}

// beyond are the rules that are not covered by those accepted.
func beyond(asked, accepted []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	_, more := validation.Covers(accepted, asked)
	return more
}

func (p *pluginsCommand) rollback() *cobra.Command {
	var to string
	var o waitOptions
	cmd := p.named(&cobra.Command{
		Use:   "rollback NAME",
		Short: "Write an earlier revision of a plugin into its spec",
		Long: `Write the spec of an earlier revision, by default of the last one that was replaced,
into the Plugin object, and wait until it has taken over. keelson plugins history NAME
lists the revisions.

A swap that failed is taken back by itself and needs no rollback.`,
		Example: `  keelson plugins rollback scheduler
  keelson plugins rollback scheduler --to 1f2e3d4c5b`,
		RunE: func(cmd *cobra.Command, args []string) error {
			plugins, err := p.client()
			if err != nil {
				return err
			}
			var chosen *v1alpha1.PluginRevision
			now, changed, err := change(cmd.Context(), plugins, args[0], func(o *v1alpha1.Plugin) error {
				var err error
				if chosen, err = revisionToGoBackTo(o, to); err != nil {
					return err
				}
				s := chosen.Spec
				o.Spec.Kind, o.Spec.Source, o.Spec.Args, o.Spec.Config = s.Kind, s.Source, s.Args, s.Config
				o.Spec.Rules, o.Spec.Resources = s.Rules, s.Resources
				return nil
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(p.Out, "plugin %s: revision %s (%s) is wanted\n", args[0], chosen.Revision, source(chosen.Spec.Source))
			return p.outcome(cmd.Context(), plugins, now, changed, o)
		},
	})
	cmd.Flags().StringVar(&to, "to", "", "Revision to go back to (default: the last one that was replaced)")
	o.addFlags(cmd)
	return cmd
}

// revisionToGoBackTo finds the revision named, or the last one that worked and was
// replaced.
func revisionToGoBackTo(p *v1alpha1.Plugin, to string) (*v1alpha1.PluginRevision, error) {
	var names []string
	for i := range p.Status.History {
		r := &p.Status.History[i]
		if r.Spec == nil {
			continue
		}
		names = append(names, r.Revision)
		if to == r.Revision || to == "" && r.Outcome == v1alpha1.PluginOutcomeReplaced && r.Revision != p.Status.Revision {
			return r, nil
		}
	}
	if to == "" {
		return nil, fmt.Errorf("plugin %s has no earlier revision that was replaced: keelson plugins history %s lists what ran", p.Name, p.Name)
	}
	slices.Sort(names)
	return nil, fmt.Errorf("--to %s: the history of plugin %s has %s", to, p.Name, orNone(fmt.Sprint(slices.Compact(names))))
}
