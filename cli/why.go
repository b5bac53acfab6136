package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/plugins/scheduler/why"
)

// whyNodes is how many nodes `keelson why pending` shows unless told to show all.
const whyNodes = 20

func newWhyCommand(streams genericiooptions.IOStreams, config *genericclioptions.ConfigFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "why",
		Short: "Explain the state of an object",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { _ = cmd.Help() },
	}
	var format string
	var all bool
	pending := &cobra.Command{
		Use:   "pending POD",
		Short: "Explain why a pod has no node, and what would help",
		Long: `For each node: every filter that turns the pod down, with the numbers, and what would
help. Worked out from the API's objects alone, so in any cluster, whatever its scheduler.`,
		Example: `  keelson why pending web-0
  keelson why pending -n shop web-0 -o yaml`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "" && format != "json" && format != "yaml" {
				return fmt.Errorf("-o %q: must be json or yaml", format)
			}
			namespace, _, err := config.ToRawKubeConfigLoader().Namespace()
			if err != nil {
				return err
			}
			cfg, err := config.ToRESTConfig()
			if err != nil {
				return err
			}
			client, err := kubernetes.NewForConfig(cfg)
			if err != nil {
				return err
			}
			report, err := whyPending(cmd.Context(), client, namespace, args[0])
			if err != nil {
				return err
			}
			return printWhy(streams.Out, report, format, all)
		},
	}
	pending.Flags().StringVarP(&format, "output", "o", "", "json or yaml instead of a table")
	pending.Flags().BoolVar(&all, "all-nodes", false, fmt.Sprintf("Show all nodes, not the %d that lack the least", whyNodes))
	cmd.AddCommand(pending)
	return cmd
}

func whyPending(ctx context.Context, client kubernetes.Interface, namespace, name string) (*why.Report, error) {
	pod, err := client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if err := why.Check(pod); err != nil {
		return nil, err
	}
	cluster, err := why.Fetch(ctx, client, pod)
	if err != nil {
		return nil, err
	}
	return why.Explain(cluster, pod), nil
}

func printWhy(out io.Writer, r *why.Report, format string, all bool) error {
	if format != "" {
		data, err := json.MarshalIndent(r, "", "  ")
		if err == nil && format == "yaml" {
			data, err = yaml.Marshal(r)
		}
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "%s\n", data)
		return err
	}
	_, _ = fmt.Fprintf(out, "Pod %s/%s has no node.\n", r.Namespace, r.Pod)
	if r.Scheduler != "" {
		_, _ = fmt.Fprintf(out, "The scheduler %s says: %s\n", r.SchedulerName, r.Scheduler)
	}
	for _, f := range r.Blocked {
		_, _ = fmt.Fprintf(out, "On any node: %s (%s)\n", f.Reason, f.Filter)
	}
	if len(r.Nodes) > 0 {
		_, _ = fmt.Fprintln(out)
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(w, "NODE\tFILTER\tWHY NOT")
		for i, n := range r.Nodes {
			if i == whyNodes && !all {
				break
			}
			name := n.Name
			if n.Fits {
				_, _ = fmt.Fprintf(w, "%s\t\tnothing is in the way\n", name)
			}
			for _, f := range n.Failures {
				_, _ = fmt.Fprintf(w, "%s\t%s\t%s\n", name, f.Filter, f.Reason)
				name = ""
			}
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if more := len(r.Nodes) - whyNodes; more > 0 && !all {
			_, _ = fmt.Fprintf(out, "and %d more nodes (--all-nodes)\n", more)
		}
	}
	if len(r.Help) > 0 {
		_, _ = fmt.Fprintln(out, "\nWhat would help, any of:")
		for _, h := range r.Help {
			_, _ = fmt.Fprintln(out, "- "+h)
		}
	}
	return nil
}
