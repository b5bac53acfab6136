package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// options are the flags.
type options struct {
	keelson, kubeconfig, pidfile, label string
	parent                              int
	nodes, zones                        int
	deployments, replicas, more         int
	start                               string
	idle, patience                      time.Duration
	services, zoneDies, foreground      bool
}

func main() {
	var o options
	flag.StringVar(&o.keelson, "keelson", "bin/keelson", "the keelson binary")
	flag.StringVar(&o.kubeconfig, "kubeconfig", os.Getenv("KUBECONFIG"), "the cluster")
	flag.StringVar(&o.pidfile, "pidfile", "", "file with lines NAME PID of processes to measure")
	flag.IntVar(&o.parent, "parent", 0, "a Keelson kernel: it and its plugins are measured")
	flag.StringVar(&o.label, "label", "Keelson", "heading of the figures")
	flag.IntVar(&o.nodes, "nodes", 1000, "simulated nodes")
	flag.IntVar(&o.zones, "zones", 10, "zones that they are in")
	flag.IntVar(&o.deployments, "deployments", 100, "deployments created first")
	flag.IntVar(&o.replicas, "replicas", 200, "pods of each")
	flag.IntVar(&o.more, "more", 50, "deployments created then")
	flag.StringVar(&o.start, "start-latency", "0s", "of pods")
	flag.DurationVar(&o.idle, "idle", 60*time.Second, "how long to measure without any change")
	flag.DurationVar(&o.patience, "patience", 10*time.Minute, "how long one step may take")
	flag.BoolVar(&o.services, "services", true, "a Service for each deployment")
	flag.BoolVar(&o.zoneDies, "zone-dies", true, "let a zone die")
	flag.BoolVar(&o.foreground, "foreground", false, "play the nodes by keelson sim up --foreground: for clusters that are not Keelson's")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, o); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to stop
	}
}

// run does all steps.
func run(ctx context.Context, out io.Writer, o options) error {
	cfg, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return err
	}
	cfg.QPS = -1
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	cfg.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	b := &bench{options: o, out: out, client: client, meter: &meter{parent: o.parent, pidfile: o.pidfile, fixed: map[string]int{}}}
	fmt.Fprintf(out, "%s: %d nodes in %d zones, %d deployments of %d pods, then %d more; %s\n\n", o.label, o.nodes, o.zones, o.deployments, o.replicas, o.more, time.Now().UTC().Format("2006-01-02 15:04"))
	fmt.Fprintln(out, "| step | wall | CPU | CPU of each | memory (Pss) of each |\n|---|---|---|---|---|")
	defer b.stopNodes()
	steps := []struct {
		name string
		do   func(context.Context) error
	}{
		{fmt.Sprintf("%d nodes until ready", o.nodes), b.makeNodes},
		{fmt.Sprintf("%d deployments of %d, until all pods are ready", o.deployments, o.replicas), func(ctx context.Context) error { return b.create(ctx, 0, o.deployments) }},
		{fmt.Sprintf("%d more, %d pods then", o.more, (o.deployments+o.more)*o.replicas), func(ctx context.Context) error { return b.create(ctx, o.deployments, o.more) }},
		{fmt.Sprintf("%s without change: heartbeats", o.idle), b.rest},
		{fmt.Sprintf("churn: %d pods deleted, until replaced", b.churned()), b.churn},
		{fmt.Sprintf("one deployment of %d rolled over", o.replicas), b.roll},
		{"a zone dies, until its pods are replaced", b.killZone},
		{"the zone is back, until its nodes are ready and their dead pods gone", b.reviveZone},
		{"all deployments deleted, until no pod is left", b.deleteAll},
	}
	for _, s := range steps {
		if s.name[0] == '0' || !o.zoneDies && (s.name[0] == 'a' && s.name[1] == ' ' || s.name[0] == 't') {
			continue
		}
		if err := b.step(ctx, s.name, s.do); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// step measures one step and prints its row.
func (b *bench) step(ctx context.Context, name string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, b.patience, fmt.Errorf("took longer than %s", b.patience))
	defer cancel()
	before := b.meter.read()
	begin := time.Now()
	err := do(ctx)
	took := time.Since(begin)
	fmt.Fprintln(b.out, row(name, took, before, b.meter.read(), err))
	return err
}

// command runs keelson; what it prints goes to stderr.
func (b *bench) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.keelson, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+b.kubeconfig)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd
}
