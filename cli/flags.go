package main

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"keelson.dev/keelson/core/apiserver"
	"keelson.dev/keelson/core/kernel"
)

// Where things lie unless flags say otherwise.
const (
	defaultDataDir  = "/var/lib/keelson"
	defaultRunDir   = kernel.DefaultRunDir
	adminKubeconfig = kernel.AdminKubeconfig
)

// dirs are the two folders of a node.
type dirs struct {
	Data string `json:"dataDir"`
	Run  string `json:"runDir"`
}

func (d *dirs) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&d.Data, "data-dir", defaultDataDir, "Folder of the store, certificates, images and plugins' data")
	flags.StringVar(&d.Run, "run-dir", defaultRunDir, "Folder of sockets and other files of this boot")
}

// complete makes both absolute and refuses what uninstall must never remove.
func (d *dirs) complete() error {
	for flag, dir := range map[string]*string{"data-dir": &d.Data, "run-dir": &d.Run} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return fmt.Errorf("--%s %q: %w", flag, *dir, err)
		}
		if strings.Count(abs, "/") < 2 {
			return fmt.Errorf("--%s %q: must be a folder of its own below another, such as %s", flag, *dir, defaultDataDir)
		}
		*dir = abs
	}
	return nil
}

func (d *dirs) isDefault() bool { return d.Data == defaultDataDir && d.Run == defaultRunDir }

// serverFlags are the settings of a server, kept by `up` for the next start.
type serverFlags struct {
	dirs
	Listen        string   `json:"listen"`
	NodeName      string   `json:"nodeName,omitempty"`
	NodeIP        string   `json:"nodeIP,omitempty"`
	ClusterCIDRs  []string `json:"clusterCIDRs"`
	ServiceCIDRs  []string `json:"serviceCIDRs"`
	NodePorts     string   `json:"nodePorts"`
	ClusterDNS    string   `json:"clusterDNS"`
	ClusterDomain string   `json:"clusterDomain"`
	LogLevel      string   `json:"logLevel"`
	InProcess     []string `json:"pluginsInProcess,omitempty"`
	// API has the flags of the API server's options that were given, by name.
	API map[string][]string `json:"api,omitempty"`

	options *apiserver.Options
	api     *pflag.FlagSet // sets options
}

func (f *serverFlags) addFlags(flags *pflag.FlagSet) {
	f.dirs.addFlags(flags)
	flags.StringVar(&f.Listen, "listen", "0.0.0.0:6443", "Address and port of the Kubernetes API")
	flags.StringVar(&f.NodeName, "node-name", "", "Name of this node (default: the host name)")
	flags.StringVar(&f.NodeIP, "node-ip", "", "Address of this node (default: that of the default route's link)")
	flags.StringSliceVar(&f.ClusterCIDRs, "cluster-cidr", []string{"10.244.0.0/16"}, "Network of pods")
	flags.StringSliceVar(&f.ServiceCIDRs, "service-cidr", []string{"10.96.0.0/12"}, "Network of services")
	flags.StringVar(&f.NodePorts, "service-node-port-range", "30000-32767", "Ports for services of type NodePort")
	flags.StringVar(&f.ClusterDNS, "cluster-dns", "10.96.0.10", "Address of the cluster's DNS, in the service network")
	flags.StringVar(&f.ClusterDomain, "cluster-domain", "cluster.local", "DNS domain of the cluster")
	flags.StringVar(&f.LogLevel, "log-level", "info", "Lowest severity to log: debug, info, warn or error")
	addInProcessFlag(flags, &f.InProcess)
	f.api = pflag.NewFlagSet("api", pflag.ContinueOnError)
	f.options = apiserver.NewOptions()
	f.options.AddFlags(f.api)
	flags.AddFlagSet(f.api)
}

// givenAPI notes the API server's flags that were given, over those kept from
// before. Paths become absolute: the server runs in another folder.
func (f *serverFlags) givenAPI() error {
	var errs []error
	f.api.VisitAll(func(flag *pflag.Flag) {
		if !flag.Changed {
			return
		}
		values := []string{flag.Value.String()}
		if list, ok := flag.Value.(pflag.SliceValue); ok {
			values = list.GetSlice()
		} else if flag.Value.Type() == "stringToString" { // which prints itself in brackets
			values[0] = strings.TrimSuffix(strings.TrimPrefix(values[0], "["), "]")
		}
		if _, path := flag.Annotations[apiserver.PathFlag]; path {
			for i, value := range values {
				if value == "" || value == "-" { // none, and standard output
					continue
				}
				abs, err := filepath.Abs(value)
				if err != nil {
					errs = append(errs, fmt.Errorf("--%s %q: %w", flag.Name, value, err))
				}
				values[i] = abs
			}
		}
		if f.API == nil {
			f.API = map[string][]string{}
		}
		f.API[flag.Name] = values
	})
	return errors.Join(errs...)
}

// keptAPI sets the options from the flags kept from before, where none was given now.
func (f *serverFlags) keptAPI() error {
	for name, values := range f.API {
		flag := f.api.Lookup(name)
		if flag == nil || flag.Changed {
			continue
		}
		for _, value := range values {
			if err := f.api.Set(name, value); err != nil {
				return fmt.Errorf("--%s, as kept by the last keelson up: %w", name, err)
			}
		}
	}
	return nil
}

// args gives the command line of a server with these settings.
func (f *serverFlags) args() []string {
	args := []string{
		"server",
		"--data-dir=" + f.Data, "--run-dir=" + f.Run,
		"--listen=" + f.Listen, "--node-name=" + f.NodeName, "--node-ip=" + f.NodeIP,
		"--cluster-cidr=" + strings.Join(f.ClusterCIDRs, ","),
		"--service-cidr=" + strings.Join(f.ServiceCIDRs, ","),
		"--service-node-port-range=" + f.NodePorts,
		"--cluster-dns=" + f.ClusterDNS, "--cluster-domain=" + f.ClusterDomain,
		"--log-level=" + f.LogLevel,
	}
	if len(f.InProcess) > 0 {
		args = append(args, "--"+inProcessFlag+"="+strings.Join(f.InProcess, ","))
	}
	for _, name := range slices.Sorted(maps.Keys(f.API)) {
		for _, value := range f.API[name] {
			args = append(args, "--"+name+"="+value)
		}
	}
	return args
}

// config checks every setting and gives the kernel's configuration.
func (f *serverFlags) config() (kernel.Config, error) {
	var cfg kernel.Config
	if err := f.complete(); err != nil {
		return cfg, err
	}
	listen, err := netip.ParseAddrPort(f.Listen)
	if err != nil {
		return cfg, fmt.Errorf("--listen %q: must be ADDRESS:PORT, such as 0.0.0.0:6443", f.Listen)
	}
	pods, err := prefixes("cluster-cidr", f.ClusterCIDRs)
	if err != nil {
		return cfg, err
	}
	services, err := prefixes("service-cidr", f.ServiceCIDRs)
	if err != nil {
		return cfg, err
	}
	for _, p := range pods {
		for _, s := range services {
			if p.Overlaps(s) {
				return cfg, fmt.Errorf("--cluster-cidr %s overlaps --service-cidr %s: choose networks apart", p, s)
			}
		}
	}
	dns, err := netip.ParseAddr(f.ClusterDNS)
	if err != nil || !services[0].Contains(dns) {
		return cfg, fmt.Errorf("--cluster-dns %q: must be an address in the service network %s", f.ClusterDNS, services[0])
	}
	var ports kernel.PortRange
	if n, err := fmt.Sscanf(f.NodePorts, "%d-%d", &ports.Min, &ports.Max); n != 2 || err != nil ||
		ports.Min < 1 || ports.Max > 65535 || ports.Min > ports.Max {
		return cfg, fmt.Errorf("--service-node-port-range %q: must be FROM-TO, such as 30000-32767", f.NodePorts)
	}
	node, err := nodeConfig(f.NodeName, f.NodeIP)
	if err != nil {
		return cfg, err
	}
	embedded, err := inProcess(f.InProcess)
	if err != nil {
		return cfg, err
	}
	executable, err := os.Executable()
	if err != nil {
		return cfg, fmt.Errorf("own path: %w", err)
	}
	if err := errors.Join(f.options.Validate()...); err != nil {
		return cfg, err
	}
	return kernel.Config{
		API:     f.options,
		DataDir: f.Data, RunDir: f.Run, Listen: listen, Node: node,
		PodCIDRs: pods, ServiceCIDRs: services, NodePorts: ports,
		DNSAddress: dns, Domain: f.ClusterDomain, LogLevel: f.LogLevel,
		Builtins: kernelBuiltins(), Embedded: embedded,
		Command: func(name string) (string, []string) { return executable, []string{pluginRunCommand, name} },
	}, nil
}

func nodeConfig(name, ip string) (kernel.Node, error) {
	node := kernel.Node{Name: strings.ToLower(name)}
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return node, fmt.Errorf("host name: %w; give --node-name", err)
		}
		node.Name = strings.ToLower(host)
	}
	if ip == "" {
		addr, err := kernel.DefaultAddress()
		if err != nil {
			return node, fmt.Errorf("%w; give --node-ip", err)
		}
		node.Addresses = []netip.Addr{addr}
		return node, nil
	}
	for s := range strings.SplitSeq(ip, ",") {
		addr, err := netip.ParseAddr(strings.TrimSpace(s))
		if err != nil {
			return node, fmt.Errorf("--node-ip %q: must be an IP address of this machine", s)
		}
		node.Addresses = append(node.Addresses, addr)
	}
	return node, nil
}

func prefixes(flag string, values []string) ([]netip.Prefix, error) {
	if len(values) == 0 {
		return nil, fmt.Errorf("--%s: must have a network in CIDR form", flag)
	}
	list := make([]netip.Prefix, 0, len(values))
	for _, value := range values {
		p, err := netip.ParsePrefix(strings.TrimSpace(value))
		if err != nil || p != p.Masked() {
			return nil, fmt.Errorf("--%s %q: must be a network in CIDR form, such as 10.244.0.0/16", flag, value)
		}
		list = append(list, p)
	}
	return list, nil
}
