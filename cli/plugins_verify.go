package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/grpclog"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"keelson.dev/keelson/core/pluginverify"
)

func newPluginsVerify(streams genericiooptions.IOStreams) *cobra.Command {
	var p pluginverify.Program
	var config, examples string
	cmd := &cobra.Command{
		Use:   "verify PATH|NAME [-- ARG...]",
		Short: "Hold a plugin's program to the contract, without a cluster",
		Long: `Start a plugin's program without a cluster, with an identity that is thrown
away afterwards, and look at all that the kernel looks at: the file, the handshake,
what it describes, its schema, its rules, and the tests of the base contract. NAME is
a built-in plugin's.

The plugin is configured and not activated, so that nothing of this machine changes;
--activate activates it as well, and then runs the tests of its kind too: those of
admission, authentication and authorization with examples of what the plugin has to
decide (--examples); those of network and storage as root, in network and mount
namespaces of their own; of runtime those that need no containers. What was not run is
said. There is no Kubernetes API behind the address that the plugin is given. The exit
code is 0 if nothing is wrong.`,
		Example: `  # A program that was just built
  keelson plugins verify ./my-plugin

  # One that cannot do without a configuration, and whose work does no harm here
  keelson plugins verify ./my-plugin --config config.yaml --activate

  # One that the API server asks, with the tests of its kind
  keelson plugins verify ./guard --activate --examples examples.yaml

  # One that takes arguments
  keelson plugins verify /usr/bin/node -- /srv/my-plugin/index.js`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p.Path, p.Args = args[0], args[1:]
			if _, ok := builtin(args[0]); ok {
				self, err := os.Executable()
				if err != nil {
					return err
				}
				p.Path, p.Args = self, append([]string{pluginRunCommand}, args...)
			}
			quietGRPC()
			if config != "" {
				var err error
				if p.Config, err = readConfig(config); err != nil {
					return err
				}
			}
			if examples != "" {
				var err error
				if p.Examples, err = os.ReadFile(examples); err != nil {
					return fmt.Errorf("--examples: %w", err)
				}
			}
			err := pluginverify.Verify(cmd.Context(), p, func(c pluginverify.Check) { printCheck(streams, c) })
			if errors.Is(err, pluginverify.ErrFaulty) {
				return fmt.Errorf("%s does not fulfil its contract: see the lines with FAULT", args[0])
			}
			if err == nil {
				fmt.Fprintln(streams.Out, "Good: the kernel would run it.")
			}
			return err
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "File with the plugin's configuration, in YAML or JSON")
	cmd.Flags().StringVar(&examples, "examples", "", "File with examples of what the plugin has to decide, in YAML (keelson plugins new writes one)")
	cmd.Flags().BoolVar(&p.Activate, "activate", false, "Activate the plugin too: its work may change this machine")
	return cmd
}

func printCheck(streams genericiooptions.IOStreams, c pluginverify.Check) {
	const indent = "\n             "
	text := c.Detail
	if c.Fault != "" {
		text = strings.TrimSpace("FAULT " + text + "\n" + c.Fault)
	}
	fmt.Fprintf(streams.Out, "  %-10s %s\n", c.Name, strings.ReplaceAll(text, "\n", indent))
}

// quietGRPC keeps gRPC's own remarks on the end of a plugin from the terminal.
func quietGRPC() { grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard)) }
