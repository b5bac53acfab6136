package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/kubectl/pkg/util/templates"

	"keelson.dev/keelson/core/atomicfile"
	"keelson.dev/keelson/core/kernel"
	"keelson.dev/keelson/proto/api/v1alpha1"
	"keelson.dev/keelson/proto/api/v1alpha1/client"
)

// settingsFile keeps the flags of the last `up` in the data folder.
const settingsFile = "up.json"

// upCommand starts a cluster in the background and watches it become ready.
type upCommand struct {
	flags   serverFlags
	timeout time.Duration
	out     io.Writer
	// since is when the server was started here; what is reported from before it is
	// of an earlier run. Zero if it ran already.
	since time.Time
}

func newUpCommand(streams genericiooptions.IOStreams) *cobra.Command {
	up := upCommand{out: streams.Out}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a cluster on this machine, in the background, and wait until it is ready",
		Long: templates.LongDesc(`
			Start a cluster on this machine and wait until its node and plugins are ready.

			The server runs as a systemd unit where systemd runs, else detached. The binary is
			copied below --data-dir and linked as /usr/local/bin/keelson. The context "keelson"
			is written to the kubeconfig in use and becomes the current one. Flags are kept:
			a later keelson up without flags starts the same cluster.`),
		Example: templates.Examples(`
			# Start, or start again
			sudo keelson up

			# On a chosen address
			sudo keelson up --node-ip 192.0.2.10 --listen 192.0.2.10:6443`),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needRoot("up"); err != nil {
				return err
			}
			if err := up.recall(cmd.Flags()); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), up.timeout)
			defer cancel()
			return up.run(ctx)
		},
	}
	up.flags.addFlags(cmd.Flags())
	cmd.Flags().DurationVar(&up.timeout, "timeout", 3*time.Minute, "How long to wait until all is ready")
	return cmd
}

// readSettings reads the flags of the last `up` on a data folder; nil: there was none.
func readSettings(dataDir string) (*serverFlags, error) {
	path := filepath.Join(dataDir, settingsFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("settings of the last keelson up: %w", err)
	}
	last := &serverFlags{}
	if err := json.Unmarshal(data, last); err != nil {
		return nil, fmt.Errorf("%s is damaged (%w): remove it, and give the flags of the cluster again", path, err)
	}
	return last, nil
}

// recall takes over the flags of the last `up` on the same data folder, except
// those given now.
func (u *upCommand) recall(given *pflag.FlagSet) error {
	if err := u.flags.complete(); err != nil {
		return err
	}
	last, err := readSettings(u.flags.Data)
	if err != nil {
		return err
	}
	if last == nil {
		return u.flags.givenAPI()
	}
	now := u.flags
	u.flags = *last
	u.flags.Data = now.Data
	u.flags.options, u.flags.api = now.options, now.api
	if err := u.flags.keptAPI(); err != nil {
		return err
	}
	for name, take := range map[string]func(){
		"run-dir": func() { u.flags.Run = now.Run }, "listen": func() { u.flags.Listen = now.Listen },
		"node-name": func() { u.flags.NodeName = now.NodeName }, "node-ip": func() { u.flags.NodeIP = now.NodeIP },
		"cluster-cidr":            func() { u.flags.ClusterCIDRs = now.ClusterCIDRs },
		"service-cidr":            func() { u.flags.ServiceCIDRs = now.ServiceCIDRs },
		"service-node-port-range": func() { u.flags.NodePorts = now.NodePorts },
		"cluster-dns":             func() { u.flags.ClusterDNS = now.ClusterDNS },
		"cluster-domain":          func() { u.flags.ClusterDomain = now.ClusterDomain },
		"log-level":               func() { u.flags.LogLevel = now.LogLevel },
		inProcessFlag:             func() { u.flags.InProcess = now.InProcess },
	} {
		if given.Changed(name) {
			take()
		}
	}
	return u.flags.givenAPI()
}

func (u *upCommand) run(ctx context.Context) error {
	begin := time.Now()
	cfg, err := u.flags.config()
	if err != nil {
		return err
	}
	// The node keeps its name and address when the machine's own change.
	u.flags.NodeName = cfg.Node.Name
	u.flags.NodeIP = joinAddrs(cfg.Node.Addresses)
	pid, err := kernel.ServerPID(u.flags.Run)
	if err != nil {
		return err
	}
	svc := newService(u.flags.dirs)
	if pid != 0 {
		u.say("Server", "runs already, process %d", pid)
	} else {
		found, err := checkMachine()
		if err != nil {
			return err
		}
		u.say("Machine", "%s", found)
		if err := checkListen(u.flags.Listen); err != nil {
			return err
		}
		if err := u.prepare(); err != nil {
			return err
		}
		u.since = time.Now().Truncate(time.Second) // the API's times have whole seconds
		if err := svc.start(u.flags.args()); err != nil {
			return err
		}
		u.say("Server", "started%s; log: %s", svc.how(), svc.logHint())
	}
	api, err := u.waitAPI(ctx, svc)
	if err != nil {
		return err
	}
	u.say("API", "answers at %s", api.Host)
	if err := u.waitPlugins(ctx, api); err != nil {
		return err
	}
	if err := u.waitNode(ctx, api, cfg.Node.Name); err != nil {
		return err
	}
	paths, err := mergeKubeconfigs(filepath.Join(u.flags.Data, adminKubeconfig))
	if err != nil {
		return err
	}
	u.say("Kubeconfig", "context %q in %s", contextName, strings.Join(paths, " and "))
	fmt.Fprintf(u.out, "Ready in %.1f s. Try: keelson get nodes; keelson plugins list\n", time.Since(begin).Seconds())
	return nil
}

func (u *upCommand) say(what, format string, args ...any) {
	fmt.Fprintf(u.out, "  %-10s %s\n", what, fmt.Sprintf(format, args...))
}

// prepare makes the data folder, and puts the binary and the settings there.
func (u *upCommand) prepare() error {
	if err := os.MkdirAll(u.flags.Data, 0o700); err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	if err := installBinary(u.flags.dirs); err != nil {
		return err
	}
	data, err := json.MarshalIndent(u.flags, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(u.flags.Data, settingsFile), append(data, '\n'), 0o600)
}

// checkMachine names what the node needs and finds missing.
func checkMachine() (string, error) {
	oci, err := lookPath("crun", "runc")
	if err != nil {
		return "", errors.New("no OCI runtime: neither crun nor runc is in PATH; install one: apt-get install crun")
	}
	conmon, err := lookPath("conmon")
	if err != nil {
		return "", errors.New("conmon is not in PATH; install it: apt-get install conmon")
	}
	return oci + ", " + conmon, nil
}

func lookPath(names ...string) (string, error) {
	var err error
	for _, name := range names {
		var path string
		if path, err = exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", err
}

func checkListen(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("--listen %s: %w; stop what uses that port (ss -ltnp shows it), or choose another", address, err)
	}
	return l.Close()
}

// waitAPI waits until the server is ready to serve, or has ended.
func (u *upCommand) waitAPI(ctx context.Context, svc *service) (*rest.Config, error) {
	path := filepath.Join(u.flags.Data, adminKubeconfig)
	err := every(ctx, 50*time.Millisecond, func() (bool, string, error) {
		if pid, err := kernel.ServerPID(u.flags.Run); err == nil && pid == 0 && !svc.starting() {
			return false, "", fmt.Errorf("the server ended:\n%s", svc.tail())
		}
		cfg, err := clientcmd.BuildConfigFromFlags("", path)
		if err != nil {
			return false, "no kubeconfig yet", nil
		}
		client, err := kubernetes.NewForConfig(cfg)
		if err != nil {
			return false, "", err
		}
		if err := client.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error(); err != nil {
			return false, err.Error(), nil
		}
		return true, "", nil
	})
	if err != nil {
		return nil, fmt.Errorf("wait for the API: %w", err)
	}
	return clientcmd.BuildConfigFromFlags("", path)
}

// waitPlugins waits until every enabled plugin works, and tells of each when it does.
func (u *upCommand) waitPlugins(ctx context.Context, cfg *rest.Config) error {
	plugins, err := client.New(cfg)
	if err != nil {
		return err
	}
	told := map[string]bool{}
	err = every(ctx, 50*time.Millisecond, func() (bool, string, error) {
		list, err := plugins.List(ctx)
		if err != nil {
			return false, err.Error(), nil
		}
		var waiting []string
		for i := range list.Items {
			p := &list.Items[i]
			switch {
			case p.Spec.Enabled != nil && !*p.Spec.Enabled, told[p.Name]:
			case p.Status.Phase == v1alpha1.PluginRunning && !p.Status.StartedAt.Time.Before(u.since):
				told[p.Name] = true
				u.say("Plugin", "%s runs, %s", p.Name, process(p.Status.PID, p.Status.InProcess))
			default:
				waiting = append(waiting, strings.TrimSpace(fmt.Sprintf("%s is %s %s", p.Name, p.Status.Phase, p.Status.LastError)))
			}
		}
		return len(waiting) == 0 && len(list.Items) > 0, strings.Join(waiting, "; "), nil
	})
	if err != nil {
		return fmt.Errorf("wait for plugins (keelson plugins logs NAME tells more): %w", err)
	}
	return nil
}

func (u *upCommand) waitNode(ctx context.Context, cfg *rest.Config, name string) error {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	err = every(ctx, 50*time.Millisecond, func() (bool, string, error) {
		node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err.Error(), nil
		}
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
				return false, c.Message, nil
			}
			if c.Type == corev1.NodeReady {
				return u.nodeIsAlive(ctx, client, name)
			}
		}
		return false, "the node has reported no condition yet", nil
	})
	if err != nil {
		return fmt.Errorf("wait for node %s: %w", name, err)
	}
	u.say("Node", "%s is Ready", name)
	return nil
}

// nodeIsAlive says whether the node's kubelet has renewed its lease since this
// start: its status may be from before, and unchanged.
func (u *upCommand) nodeIsAlive(ctx context.Context, client kubernetes.Interface, name string) (bool, string, error) {
	lease, err := client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return false, err.Error(), nil
	}
	if lease.Spec.RenewTime == nil || lease.Spec.RenewTime.Time.Before(u.since) {
		return false, "the kubelet has not renewed the node's lease yet", nil
	}
	return true, "", nil
}

// every calls check until it is done, fails, or ctx ends; then the error says
// what was still amiss.
func every(ctx context.Context, interval time.Duration, check func() (done bool, amiss string, err error)) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	last := ""
	for {
		done, amiss, err := check()
		if err != nil || done {
			return err
		}
		if ctx.Err() == nil {
			last = amiss
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", context.Cause(ctx), last)
		case <-ticker.C:
		}
	}
}
