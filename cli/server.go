package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/util/templates"

	"keelson.dev/keelson/core/apiserver"
	"keelson.dev/keelson/core/kernel"
)

func newServerCommand(streams genericiooptions.IOStreams) *cobra.Command {
	var flags serverFlags
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run the kernel in the foreground: API, store and plugins",
		Long: templates.LongDesc(`
			Run the kernel in the foreground: the Kubernetes API, the store and the plugins
			of this node. It ends in good order on SIGTERM and SIGINT; containers go on running.

			keelson up does the same in the background and waits until all is ready.`),
		Example: templates.Examples(`
			# A server with its data elsewhere, on one address
			keelson server --data-dir /srv/keelson --listen 192.0.2.10:6443`),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := flags.config()
			if err != nil {
				return err
			}
			if err := needRoot("server"); err != nil {
				return err
			}
			if cfg.Log, err = newLogger(streams.ErrOut, flags.LogLevel); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			return runKernel(func(u *kernel.Upgrade) error {
				cfg.Upgrade = u
				return kernel.RunServer(ctx, cfg)
			})
		},
	}
	flags.addFlags(cmd.Flags())
	return cmd
}

func newLogger(w io.Writer, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level %q: must be debug, info, warn or error", level)
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l})), nil
}

func needRoot(command string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	return fmt.Errorf("keelson %s needs root (it makes network links, mounts and cgroups): run it with sudo", command)
}

func newAgentCommand(streams genericiooptions.IOStreams) *cobra.Command {
	var (
		d             dirs
		join, logging string
		within        []string
		plugins       apiserver.PluginOptions
	)
	cmd := &cobra.Command{
		Use:   "agent --join FILE",
		Short: "Run a further node in the foreground",
		Long: templates.LongDesc(`
			Run a further node in the foreground: the node's plugins, joined to a server.

			The join file is made on the server by keelson agent create-join-file; it holds
			the node's identities, so keep it secret. The node's name and address are in it.`),
		Example: templates.Examples(`
			# On the server
			keelson agent create-join-file worker-1 --address 192.0.2.11 --output worker-1.join

			# On the new node, with that file
			keelson agent --join worker-1.join`),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := d.complete(); err != nil {
				return err
			}
			if join == "" {
				return errors.New("--join: must name the file that keelson agent create-join-file made on the server")
			}
			if err := plugins.Validate(); err != nil {
				return err
			}
			if err := needRoot("agent"); err != nil {
				return err
			}
			log, err := newLogger(streams.ErrOut, logging)
			if err != nil {
				return err
			}
			embedded, err := inProcess(within)
			if err != nil {
				return err
			}
			executable, err := os.Executable()
			if err != nil {
				return fmt.Errorf("own path: %w", err)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			return runKernel(func(u *kernel.Upgrade) error {
				return kernel.RunAgent(ctx, kernel.AgentConfig{
					JoinFile: join, DataDir: d.Data, RunDir: d.Run, LogLevel: logging, Log: log, Upgrade: u,
					Plugins: plugins, Builtins: kernelBuiltins(), Embedded: embedded,
					Command: func(name string) (string, []string) { return executable, []string{pluginRunCommand, name} },
				})
			})
		},
	}
	d.addFlags(cmd.Flags())
	plugins.AddFlags(cmd.Flags())
	cmd.Flags().StringVar(&join, "join", "", "File made on the server by keelson agent create-join-file")
	cmd.Flags().StringVar(&logging, "log-level", "info", "Lowest severity to log: debug, info, warn or error")
	addInProcessFlag(cmd.Flags(), &within)
	cmd.AddCommand(newJoinFileCommand(streams))
	return cmd
}

func newJoinFileCommand(streams genericiooptions.IOStreams) *cobra.Command {
	var (
		d          dirs
		ip, output string
	)
	cmd := &cobra.Command{
		Use:   "create-join-file NAME --address IP",
		Short: "Make the file with which a new node joins (on the server, as root)",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := d.complete(); err != nil {
				return err
			}
			if ip == "" {
				return errors.New("--address: must be the new node's IP address")
			}
			node, err := nodeConfig(args[0], ip)
			if err != nil {
				return err
			}
			if output == "" {
				output = node.Name + ".join"
			}
			if err := kernel.CreateJoinFile(d.Data, node, kernelBuiltins(), output); err != nil {
				return err
			}
			fmt.Fprintf(streams.Out, "%s: take it to node %s and run: keelson agent --join %s\n", output, node.Name, output)
			return nil
		},
	}
	d.addFlags(cmd.Flags())
	cmd.Flags().StringVar(&ip, "address", "", "IP address of the new node")
	cmd.Flags().StringVarP(&output, "output", "o", "", "File to write (default NAME.join)")
	return cmd
}
