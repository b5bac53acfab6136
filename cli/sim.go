package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"keelson.dev/keelson/plugins/sim"
	"keelson.dev/keelson/proto/api/v1alpha1/client"
)

// simCommand is what the commands below "sim" share.
type simCommand struct {
	genericiooptions.IOStreams
	config *genericclioptions.ConfigFlags
}

func newSimCommand(streams genericiooptions.IOStreams, config *genericclioptions.ConfigFlags) *cobra.Command {
	s := &simCommand{streams, config}
	cmd := &cobra.Command{
		Use:   "sim",
		Short: "Add simulated nodes to a cluster, thousands on one machine",
		Long: `Nodes without machines, for trials at scale: they take pods, report them running and
ready, send heartbeats, and go silent when told to. Nothing runs on them (docs/sim.md).`,
		Args: cobra.NoArgs,
		Run:  func(cmd *cobra.Command, _ []string) { _ = cmd.Help() },
	}
	cmd.AddCommand(s.up(), s.status(), s.down())
	return cmd
}

// clients are those of the cluster that the flags name.
func (s *simCommand) clients() (*rest.Config, kubernetes.Interface, *client.Client, error) {
	cfg, err := s.config.ToRESTConfig()
	if err != nil {
		return nil, nil, nil, err
	}
	cfg.QPS = -1 // the server has its own fairness
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	cfg.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, nil, nil, err
	}
	plugins, err := client.New(cfg)
	return cfg, kube, plugins, err
}

// simFlags are the flags of up that make the plugin's configuration.
type simFlags struct {
	file                     string
	nodes, zones             int
	prefix                   string
	start, ready, stop, init string
	failures                 float64
	untainted                bool
	silent                   []string
}

func (f *simFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.file, "config", "", "File with the plugin's configuration, YAML or JSON; other flags change single fields of it")
	flags.IntVar(&f.nodes, "nodes", 10, "How many nodes, 1 to 10000")
	flags.IntVar(&f.zones, "zones", 1, "How many zones they are in")
	flags.StringVar(&f.prefix, "prefix", "sim", "Begins the nodes' names")
	flags.StringVar(&f.start, "start-latency", "0s", "From a pod's binding until its containers run: 2s, 1s..3s, exp(2s) or normal(2s,500ms)")
	flags.StringVar(&f.init, "init-latency", "0s", "How long each init container runs")
	flags.StringVar(&f.ready, "ready-latency", "0s", "From then until it is ready")
	flags.StringVar(&f.stop, "stop-latency", "0s", "How long containers take to end, the grace period at most")
	flags.Float64Var(&f.failures, "failures-per-hour", 0, "How often a pod's containers fail, on average")
	flags.BoolVar(&f.untainted, "untainted", false, "No taint on the nodes: any pod may go there, those of real applications too")
	flags.StringSliceVar(&f.silent, "silent-zones", nil, "Zones whose nodes do nothing")
}

// configuration is the plugin's, as JSON: the file with the flags that were given.
func (f *simFlags) configuration(flags *pflag.FlagSet) ([]byte, error) {
	fields := map[string]any{}
	if f.file != "" {
		raw, err := readConfig(f.file)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(raw, &fields); err != nil {
			return nil, fmt.Errorf("--config %s: %w", f.file, err)
		}
	}
	for flag, set := range map[string]struct {
		field string
		value any
	}{
		"nodes": {"nodes", f.nodes}, "zones": {"zones", f.zones}, "prefix": {"namePrefix", f.prefix}, "start-latency": {"startLatency", f.start},
		"init-latency": {"initLatency", f.init}, "ready-latency": {"readyLatency", f.ready}, "stop-latency": {"stopLatency", f.stop},
		"failures-per-hour": {"failuresPerHour", f.failures}, "silent-zones": {"silentZones", f.silent},
	} {
		if flags.Changed(flag) {
			fields[set.field] = set.value
		}
	}
	if flags.Changed("nodes") && f.nodes == 0 { // which the plugin would take for the default
		return nil, errors.New("--nodes 0: must be from 1 to 10000; keelson sim down removes all")
	}
	if f.untainted {
		fields["taints"] = []any{}
	}
	return json.Marshal(fields)
}

func (s *simCommand) up() *cobra.Command {
	var f simFlags
	var foreground, keep bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Add simulated nodes, or change how many there are",
		Long: `Make the Plugin object sim, or change its configuration, and wait until all nodes are
ready. With --foreground the nodes are played by this process instead, in any cluster
that the kubeconfig leads to, until Ctrl-C, which removes them.`,
		Example: `  # 100 nodes in 3 zones; pods take 1 to 3 seconds to start
  keelson sim up --nodes 100 --zones 3 --start-latency 1s..3s

  # In another cluster, from here
  keelson sim up --foreground --kubeconfig other.kubeconfig --nodes 50`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			raw, err := f.configuration(cmd.Flags())
			if err != nil {
				return err
			}
			cfg, err := sim.ReadConfig(raw)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			if foreground {
				return s.foreground(ctx, raw, cfg, keep)
			}
			ctx, cancel := context.WithTimeoutCause(ctx, timeout, errors.New("timed out"))
			defer cancel()
			return s.background(ctx, raw, cfg)
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().BoolVar(&foreground, "foreground", false, "Play the nodes in this process, until Ctrl-C; for clusters that are not Keelson's too")
	cmd.Flags().BoolVar(&keep, "keep", false, "With --foreground: leave nodes and pods behind at the end")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "How long to wait for the nodes")
	return cmd
}

func (s *simCommand) status() *cobra.Command {
	var prefix string
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Count simulated nodes and their pods",
		Example: "  keelson sim status",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, kube, plugins, err := s.clients()
			if err != nil {
				return err
			}
			sum, err := sim.Look(cmd.Context(), kube, prefix)
			if err != nil {
				return err
			}
			switch p, err := plugins.Get(cmd.Context(), sim.Plugin.Name); {
			case err == nil:
				fmt.Fprintf(s.Out, "plugin %s: %s %s\n", p.Name, p.Status.Phase, p.Status.LastError)
			case notThere(err):
				fmt.Fprintln(s.Out, "plugin sim: none")
			default:
				return err
			}
			s.print(sum)
			return nil
		},
	}
	cmd.Flags().StringVar(&prefix, "prefix", "", "Count only nodes of this prefix")
	return cmd
}

func (s *simCommand) print(sum sim.Summary) {
	fmt.Fprintf(s.Out, "nodes: %d, %d of them ready\n", sum.Nodes, sum.Ready)
	for _, zone := range slices.Sorted(maps.Keys(sum.Zones)) {
		fmt.Fprintf(s.Out, "  %s: %d, %d ready\n", zone, sum.Zones[zone].Nodes, sum.Zones[zone].Ready)
	}
	total := 0
	var parts []string
	for _, phase := range slices.Sorted(maps.Keys(sum.Pods)) {
		total += sum.Pods[phase]
		parts = append(parts, fmt.Sprintf("%d %s", sum.Pods[phase], phase))
	}
	fmt.Fprintf(s.Out, "pods on them: %d", total)
	if total > 0 {
		fmt.Fprintf(s.Out, " (%s)", strings.Join(parts, ", "))
	}
	fmt.Fprintln(s.Out)
}

func (s *simCommand) down() *cobra.Command {
	var prefix string
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Remove all simulated nodes, and the pods on them",
		Long: `Delete the Plugin object sim, all nodes with the label keelson.dev/sim, their leases, and
the pods that are on them. Pods that a controller replaces go elsewhere, or wait.
With --prefix only nodes of that prefix are deleted, and the plugin if they are its own.`,
		Example: "  keelson sim down",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, kube, plugins, err := s.clients()
			if err != nil {
				return err
			}
			return s.remove(cmd.Context(), kube, plugins, prefix)
		},
	}
	cmd.Flags().StringVar(&prefix, "prefix", "", "Remove only nodes of this prefix")
	return cmd
}

// notThere tells whether there is no Plugin, or no such kind.
func notThere(err error) bool { return isNotFound(err) || meta.IsNoMatchError(err) }
