package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"keelson.dev/keelson/proto/api/v1alpha1"
	"keelson.dev/keelson/proto/api/v1alpha1/client"
)

func newPluginsCommand(streams genericiooptions.IOStreams, config *genericclioptions.ConfigFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plugins",
		Short: "Look at, change and write the cluster's plugins",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { _ = cmd.Help() },
	}
	cmd.AddCommand(newPluginsList(streams, config), newPluginsLogs(streams, config), newPluginsRestart(streams, config),
		newPluginsVerify(streams))
	return cmd
}

func newPluginsList(streams genericiooptions.IOStreams, config *genericclioptions.ConfigFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List plugins",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			plugins, err := pluginClient(config)
			if err != nil {
				return err
			}
			list, err := plugins.List(cmd.Context())
			if err != nil {
				return err
			}
			return printPlugins(streams.Out, list.Items)
		},
	}
}

func printPlugins(out io.Writer, plugins []v1alpha1.Plugin) error {
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tKIND\tPHASE\tPID\tRESTARTS\tAGE\tMESSAGE")
	for i := range plugins {
		p := &plugins[i]
		age := "<none>"
		if p.Status.StartedAt != nil {
			age = duration.HumanDuration(time.Since(p.Status.StartedAt.Time))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\t%s\n", p.Name, p.Spec.Kind, p.Status.Phase, p.Status.PID,
			p.Status.Restarts, age, p.Status.LastError)
	}
	return w.Flush()
}

func newPluginsLogs(streams genericiooptions.IOStreams, config *genericclioptions.ConfigFlags) *cobra.Command {
	var follow bool
	var tail int64
	cmd := &cobra.Command{
		Use:   "logs NAME",
		Short: "Print what a plugin logged",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			plugins, err := pluginClient(config)
			if err != nil {
				return err
			}
			stream, err := plugins.Logs(cmd.Context(), args[0], tail, follow)
			if err != nil {
				return err
			}
			defer func() { _ = stream.Close() }()
			_, err = io.Copy(streams.Out, stream)
			return err
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "Go on as the plugin logs")
	cmd.Flags().Int64Var(&tail, "tail", -1, "Print only that many of the last lines (-1: all that is kept)")
	return cmd
}

func newPluginsRestart(streams genericiooptions.IOStreams, config *genericclioptions.ConfigFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "restart NAME",
		Short: "Stop a plugin in good order and start it again",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			plugins, err := pluginClient(config)
			if err != nil {
				return err
			}
			if err := plugins.Restart(cmd.Context(), args[0]); err != nil {
				return err
			}
			fmt.Fprintf(streams.Out, "plugin %s restarted\n", args[0])
			return nil
		},
	}
}

func pluginClient(config *genericclioptions.ConfigFlags) (*client.Client, error) {
	cfg, err := config.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	return client.New(cfg)
}
