package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/proto/api/v1alpha1/client"
)

// pluginsCommand is what the commands below "plugins" share.
type pluginsCommand struct {
	genericiooptions.IOStreams
	config *genericclioptions.ConfigFlags
}

func newPluginsCommand(streams genericiooptions.IOStreams, config *genericclioptions.ConfigFlags) *cobra.Command {
	p := &pluginsCommand{streams, config}
	cmd := &cobra.Command{
		Use:   "plugins",
		Short: "Look at, swap and write the cluster's plugins",
		Long: `Everything in a Keelson cluster but the API and its store is a plugin: a process
that can be replaced while the cluster runs (docs/plugins.md, docs/plugins/).`,
		Args: cobra.NoArgs,
		Run:  func(cmd *cobra.Command, _ []string) { _ = cmd.Help() },
	}
	cmd.AddCommand(
		p.list(), p.inspect(), p.history(), p.logs(), p.compare(), // look
		p.enable(true), p.enable(false), p.accept(), p.swap(), p.shadow(), p.rollback(), p.restart(), // change
		newPluginsVerify(streams), newPluginsNew(streams), p.dev(), // write
	)
	return cmd
}

func (p *pluginsCommand) client() (*client.Client, error) {
	cfg, err := p.config.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	cfg.QPS = -1 // the server has its own fairness
	return client.New(cfg)
}

// named makes a command for one plugin, whose name the shell completes.
func (p *pluginsCommand) named(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ExactArgs(1)
	cmd.ValidArgsFunction = p.complete
	return cmd
}

// complete names the cluster's plugins.
func (p *pluginsCommand) complete(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	plugins, err := p.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	list, err := plugins.List(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	names := make([]string, 0, len(list.Items))
	for i := range list.Items {
		names = append(names, list.Items[i].Name+"\t"+list.Items[i].Spec.Kind+", "+string(list.Items[i].Status.Phase))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (p *pluginsCommand) logs() *cobra.Command {
	var follow bool
	var tail int64
	var node string
	cmd := p.named(&cobra.Command{
		Use:   "logs NAME",
		Short: "Print what a plugin logged",
		Example: `  # The last 20 lines, and those to come
  keelson plugins logs scheduler --tail=20 -f
  # Of a plugin that runs on each node, there
  keelson plugins logs kubelet --node=worker`,
		RunE: func(cmd *cobra.Command, args []string) error {
			plugins, err := p.client()
			if err != nil {
				return err
			}
			stream, err := plugins.Logs(cmd.Context(), args[0], node, tail, follow)
			if err != nil {
				return err
			}
			defer func() { _ = stream.Close() }()
			_, err = io.Copy(p.Out, stream)
			return err
		},
	})
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "Go on as the plugin logs")
	cmd.Flags().Int64Var(&tail, "tail", -1, "Print only that many of the last lines (-1: all that is kept)")
	cmd.Flags().StringVar(&node, "node", "", "Of the plugin on that node (default: the server's)")
	return cmd
}

func (p *pluginsCommand) restart() *cobra.Command {
	var node string
	cmd := p.named(&cobra.Command{
		Use:   "restart NAME",
		Short: "Stop a plugin in good order and start it again",
		Example: `  keelson plugins restart dns
  keelson plugins restart kubelet --node=worker`,
		RunE: func(cmd *cobra.Command, args []string) error {
			plugins, err := p.client()
			if err != nil {
				return err
			}
			if err := plugins.Restart(cmd.Context(), args[0], node); err != nil {
				return err
			}
			fmt.Fprintf(p.Out, "plugin %s restarted\n", args[0])
			return nil
		},
	})
	cmd.Flags().StringVar(&node, "node", "", "Only on that node (default: on every one where it runs)")
	return cmd
}

// age is how long ago a time was, as kubectl says it.
func age(t *metav1.Time) string {
	if t.IsZero() {
		return "<none>"
	}
	return duration.HumanDuration(metav1.Now().Sub(t.Time))
}

// orNone is text, or <none> for an empty one.
func orNone(text string) string {
	if text == "" {
		return "<none>"
	}
	return text
}
