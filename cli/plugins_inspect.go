package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/core/pluginverify"
	"keelson.dev/keelson/proto/api/v1alpha1"
	"keelson.dev/keelson/proto/api/v1alpha1/client"
)

func (p *pluginsCommand) inspect() *cobra.Command {
	var o output
	var tail int64
	cmd := p.named(&cobra.Command{
		Use:   "inspect NAME",
		Short: "Show all of a plugin: spec, status, rights, history, last log lines",
		Example: `  keelson plugins inspect scheduler
  keelson plugins inspect scheduler -o yaml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.show(cmd.Context(), args[0], &o, func(plugins *client.Client, plugin *v1alpha1.Plugin) error {
				return p.inspected(cmd.Context(), plugins, plugin, tail)
			})
		},
	})
	o.addFlags(cmd)
	cmd.Flags().Int64Var(&tail, "tail", 10, "How many of the last log lines to show")
	return cmd
}

func (p *pluginsCommand) inspected(ctx context.Context, plugins *client.Client, plugin *v1alpha1.Plugin, tail int64) error {
	s := &plugin.Status
	w := tabwriter.NewWriter(p.Out, 0, 8, 2, ' ', 0)
	line := func(key, value string) { fmt.Fprintf(w, "%s:\t%s\n", key, value) }
	line("Name", plugin.Name)
	line("Kind", plugin.Spec.Kind)
	line("Source", source(plugin.Spec.Source))
	if plugin.Spec.Source.SHA256 != "" {
		line("SHA256", plugin.Spec.Source.SHA256)
	}
	line("Enabled", fmt.Sprint(plugin.Spec.Enabled == nil || *plugin.Spec.Enabled))
	line("Phase", string(s.Phase))
	line("Version", orNone(s.Version))
	line("Revision", orNone(s.Revision))
	line("Candidate", candidate(s.Candidate))
	if s.Candidate != nil && s.Candidate.Message != "" {
		line("", s.Candidate.Message)
	}
	if s.Shadow != nil {
		line("Shadow", strings.TrimSpace(fmt.Sprintf("%s %s, process %d %s", s.Shadow.Phase, s.Shadow.Revision, s.Shadow.PID, s.Shadow.Message)))
	}
	line("Process", fmt.Sprintf("%s, started %s ago, %d restarts", pid(s.PID, s.InProcess), age(s.StartedAt), s.Restarts))
	if s.LastError != "" {
		line("Last error", s.LastError)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	p.section("Spec", func() error { return printYAML(p.Out, plugin.Spec) })
	p.section("Conditions", func() error { return printConditions(p.Out, s.Conditions) })
	if len(s.Nodes) > 0 {
		p.section("Nodes", func() error { return printNodes(p.Out, s.Nodes) })
	}
	p.section("Rights", func() error { return p.printRights(ctx, plugin) })
	p.section("History", func() error { return printHistory(p.Out, plugin, true) })
	p.section(fmt.Sprintf("Last %d lines of the log", tail), func() error {
		stream, err := plugins.Logs(ctx, plugin.Name, "", tail, false)
		if err != nil {
			return err
		}
		defer func() { _ = stream.Close() }()
		_, err = io.Copy(p.Out, stream)
		return err
	})
	return nil
}

// section prints a part under a heading; one that cannot be had says why.
func (p *pluginsCommand) section(heading string, print func() error) {
	fmt.Fprintf(p.Out, "\n%s:\n", heading)
	if err := print(); err != nil {
		fmt.Fprintf(p.Out, "  <%v>\n", err)
	}
}

func printYAML(out io.Writer, value any) error {
	text, err := yaml.Marshal(value)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "  "+strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", "\n  "))
	return nil
}

func printConditions(out io.Writer, conditions []metav1.Condition) error {
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "  TYPE\tSTATUS\tREASON\tSINCE\tMESSAGE")
	for i := range conditions {
		c := &conditions[i]
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\n", c.Type, c.Status, c.Reason, age(&c.LastTransitionTime), c.Message)
	}
	return w.Flush()
}

func printNodes(out io.Writer, nodes []v1alpha1.PluginNodeStatus) error {
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "  NODE\tPHASE\tREVISION\tCANDIDATE\tVERSION\tPID\tRESTARTS\tAGE\tMESSAGE")
	for i := range nodes {
		n := &nodes[i]
		text := n.Message
		if text == "" {
			text = n.LastError
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", n.Name, n.Phase, orNone(n.Revision), candidate(n.Candidate), orNone(n.Version),
			pid(n.PID, n.InProcess), n.Restarts, age(n.StartedAt), text)
	}
	return w.Flush()
}

// printRights prints what the administrator accepts, and what the identity of the
// plugin may in fact do: the role that the kernel made from what it asked for.
func (p *pluginsCommand) printRights(ctx context.Context, plugin *v1alpha1.Plugin) error {
	if !plugin.Spec.Source.BuiltIn {
		printRules(p.Out, "accepted", plugin.Spec.Rules)
	}
	cfg, err := p.config.ToRESTConfig()
	if err != nil {
		return err
	}
	api, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	role, err := api.RbacV1().ClusterRoles().Get(ctx, "system:plugin:"+plugin.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	printRules(p.Out, "asked for and granted", role.Rules)
	return nil
}

func printRules(out io.Writer, what string, rules []rbacv1.PolicyRule) {
	if len(rules) == 0 {
		fmt.Fprintf(out, "  %s: none\n", what)
		return
	}
	fmt.Fprintf(out, "  %s:\n", what)
	for _, r := range rules {
		fmt.Fprintln(out, "    "+pluginverify.RuleLine(r.Verbs, r.APIGroups, r.Resources, r.ResourceNames, r.NonResourceURLs))
	}
}
