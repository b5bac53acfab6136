package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"

	"keelson.dev/keelson/proto/api/v1alpha1"
	"keelson.dev/keelson/proto/api/v1alpha1/client"
)

// output is -o: empty and wide for tables, else what kubectl prints.
type output struct {
	format string
	flags  *genericclioptions.PrintFlags
}

func (o *output) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.format, "output", "o", "", "One of wide, json, yaml, name, jsonpath=..., go-template=...")
}

// print prints obj, unless a table is wanted.
func (o *output) print(out io.Writer, obj runtime.Object) (done bool, err error) {
	if o.format == "" || o.format == "wide" {
		return false, nil
	}
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return true, err
	}
	o.flags = genericclioptions.NewPrintFlags("").WithTypeSetter(scheme)
	o.flags.OutputFormat = &o.format
	printer, err := o.flags.ToPrinter()
	if err != nil {
		return true, err
	}
	if o.format == "name" && meta.IsListType(obj) { // as kubectl: one line for each
		return true, meta.EachListItem(obj, func(item runtime.Object) error { return printer.PrintObj(item, out) })
	}
	return true, printer.PrintObj(obj, out)
}

func (p *pluginsCommand) list() *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List plugins: what is active, and how far a swap is",
		Example: `  keelson plugins list
  keelson plugins list -o wide`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			plugins, err := p.client()
			if err != nil {
				return err
			}
			list, err := plugins.List(cmd.Context())
			if err != nil {
				return err
			}
			if done, err := o.print(p.Out, list); done {
				return err
			}
			return printPlugins(p.Out, list.Items, o.format == "wide")
		},
	}
	o.addFlags(cmd)
	return cmd
}

func printPlugins(out io.Writer, plugins []v1alpha1.Plugin, wide bool) error {
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	header := "NAME\tKIND\tPHASE\tREVISION\tCANDIDATE\tGAP\tPID\tRESTARTS\tAGE"
	if wide {
		header += "\tVERSION\tSOURCE"
	}
	fmt.Fprintln(w, header+"\tMESSAGE")
	for i := range plugins {
		p := &plugins[i]
		s := &p.Status
		row := []string{
			p.Name, p.Spec.Kind, string(s.Phase), orNone(s.Revision), candidate(s.Candidate), lastGap(s.History),
			pid(s.PID, s.InProcess), fmt.Sprint(s.Restarts), age(s.StartedAt),
		}
		if wide {
			row = append(row, orNone(s.Version), source(p.Spec.Source))
		}
		fmt.Fprintln(w, strings.Join(append(row, message(p)), "\t"))
	}
	return w.Flush()
}

// pid is a plugin's process, marked where that is the kernel's.
func pid(number int64, inProcess bool) string {
	if inProcess {
		return fmt.Sprintf("%d (kernel)", number)
	}
	return fmt.Sprint(number)
}

// process is pid in words.
func process(number int64, inProcess bool) string {
	if inProcess {
		return fmt.Sprintf("in the kernel's process %d", number)
	}
	return fmt.Sprintf("process %d", number)
}

// candidate is a swap under way: "Standby 1f2e3d4c5b".
func candidate(c *v1alpha1.PluginCandidateStatus) string {
	if c == nil {
		return "<none>"
	}
	return string(c.Phase) + " " + c.Revision
}

// lastGap is that of the last swap.
func lastGap(history []v1alpha1.PluginRevision) string {
	for i := range history {
		if g := history[i].GapMilliseconds; g != nil {
			return fmt.Sprintf("%dms", *g)
		}
	}
	return "<none>"
}

func source(s v1alpha1.PluginSource) string {
	if s.BuiltIn {
		return "built-in"
	}
	return s.Path
}

// message is what an operator should know first, in one line.
func message(p *v1alpha1.Plugin) string {
	text := ""
	switch {
	case meta.IsStatusConditionTrue(p.Status.Conditions, "RolledBack"):
		text = "rolled back: " + meta.FindStatusCondition(p.Status.Conditions, "RolledBack").Message
	case meta.IsStatusConditionFalse(p.Status.Conditions, "Accepted"):
		text = meta.FindStatusCondition(p.Status.Conditions, "Accepted").Message
	case p.Status.Phase != v1alpha1.PluginRunning && meta.IsStatusConditionFalse(p.Status.Conditions, "Ready"):
		text = meta.FindStatusCondition(p.Status.Conditions, "Ready").Message
	}
	if text == "" {
		text = p.Status.LastError
	}
	text, _, _ = strings.Cut(text, "\n")
	return text
}

func (p *pluginsCommand) history() *cobra.Command {
	var o output
	cmd := p.named(&cobra.Command{
		Use:   "history NAME",
		Short: "List what ran as a plugin, and what became of it",
		Example: `  keelson plugins history scheduler

  # Go back to an earlier one
  keelson plugins rollback scheduler --to 1f2e3d4c5b`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.show(cmd.Context(), args[0], &o, func(_ *client.Client, plugin *v1alpha1.Plugin) error {
				return printHistory(p.Out, plugin, o.format == "wide")
			})
		},
	})
	o.addFlags(cmd)
	return cmd
}

// show prints a plugin as -o asks, or else as own does.
func (p *pluginsCommand) show(ctx context.Context, name string, o *output, own func(*client.Client, *v1alpha1.Plugin) error) error {
	plugins, err := p.client()
	if err != nil {
		return err
	}
	plugin, err := plugins.Get(ctx, name)
	if err != nil {
		return err
	}
	if done, err := o.print(p.Out, plugin); done {
		return err
	}
	return own(plugins, plugin)
}

func printHistory(out io.Writer, plugin *v1alpha1.Plugin, wide bool) error {
	if len(plugin.Status.History) == 0 {
		fmt.Fprintf(out, "Plugin %s has not run yet\n", plugin.Name)
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	header := "REVISION\tOUTCOME\tVERSION\tGENERATION\tSTARTED\tENDED\tGAP"
	if wide {
		header += "\tSOURCE"
	}
	fmt.Fprintln(w, header+"\tMESSAGE")
	for i := range plugin.Status.History {
		r := &plugin.Status.History[i]
		row := []string{r.Revision, string(r.Outcome), orNone(r.Version), fmt.Sprint(r.Generation), age(r.StartTime), age(r.EndTime), gap(r)}
		if wide {
			from := "<none>"
			if r.Spec != nil {
				from = source(r.Spec.Source)
			}
			row = append(row, from)
		}
		text, _, _ := strings.Cut(r.Message, "\n")
		fmt.Fprintln(w, strings.Join(append(row, text), "\t"))
	}
	return w.Flush()
}

func gap(r *v1alpha1.PluginRevision) string {
	if r.GapMilliseconds == nil {
		return "<none>"
	}
	return fmt.Sprintf("%dms", *r.GapMilliseconds)
}

func (p *pluginsCommand) compare() *cobra.Command {
	var o output
	cmd := p.named(&cobra.Command{
		Use:   "compare NAME",
		Short: "Show where a plugin's shadow decides differently",
		Long: `Show where the program of spec.shadow decides differently from the active one. The
shadow runs beside it and has no effect (docs/plugins/operating.md). The last 1,000
decisions that differ are kept; what only one of both has decided on within a minute is
counted.`,
		Example: `  keelson plugins compare scheduler

  # All that is known of each
  keelson plugins compare scheduler -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			plugins, err := p.client()
			if err != nil {
				return err
			}
			c, err := plugins.Comparison(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if done, err := o.print(p.Out, c); done {
				return err
			}
			return printComparison(p.Out, c)
		},
	})
	o.addFlags(cmd)
	return cmd
}

func printComparison(out io.Writer, c *v1alpha1.PluginComparison) error {
	fmt.Fprintf(out, "Active %s and shadow %s, for %s: %d the same, %d different, %d of the active one only, %d of the shadow only, %d dropped\n",
		orNone(c.Active), orNone(c.Shadow), age(c.Since), c.Same, c.Different, c.ActiveOnly, c.ShadowOnly, c.Dropped)
	if c.Message != "" {
		fmt.Fprintf(out, "Note: %s\n", c.Message)
	}
	if len(c.Differences) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "AGE\tSUBJECT\tACTIVE\tSHADOW")
	for i := range c.Differences {
		d := &c.Differences[i]
		subject := d.Subject
		if subject == "" {
			subject = d.Key
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", age(d.Time), subject, withReason(d.Active, d.ActiveReason), withReason(d.Shadow, d.ShadowReason))
	}
	return w.Flush()
}

// withReason is a decision with its reason.
func withReason(decision, reason string) string {
	if reason == "" {
		return orNone(decision)
	}
	return orNone(decision) + " (" + reason + ")"
}
