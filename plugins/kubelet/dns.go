package kubelet

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Limits of resolvers: more is cut off.
const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

// podDNS makes a pod's resolver configuration by its policy; host is what the node's own resolver file says.
func podDNS(pod *corev1.Pod, clusterDNS []string, domain string, host *runtimeapi.DNSConfig) *runtimeapi.DNSConfig {
	conf := &runtimeapi.DNSConfig{}
	policy := pod.Spec.DNSPolicy
	if policy == corev1.DNSClusterFirst && pod.Spec.HostNetwork || policy == "" && pod.Spec.HostNetwork {
		policy = corev1.DNSDefault
	}
	switch policy {
	case corev1.DNSNone:
	case corev1.DNSDefault:
		conf.Servers, conf.Searches, conf.Options = slices.Clone(host.Servers), slices.Clone(host.Searches), slices.Clone(host.Options)
	default:
		conf.Servers = slices.Clone(clusterDNS)
		conf.Searches = append([]string{pod.Namespace + ".svc." + domain, "svc." + domain, domain}, host.Searches...)
		conf.Options = []string{"ndots:5"}
		if len(clusterDNS) == 0 {
			conf.Servers, conf.Searches, conf.Options = slices.Clone(host.Servers), slices.Clone(host.Searches), slices.Clone(host.Options)
		}
	}
	if c := pod.Spec.DNSConfig; c != nil {
		conf.Servers = append(conf.Servers, c.Nameservers...)
		conf.Searches = append(conf.Searches, c.Searches...)
		for _, o := range c.Options {
			text := o.Name
			if o.Value != nil && *o.Value != "" {
				text += ":" + *o.Value
			}
			conf.Options = slices.DeleteFunc(conf.Options, func(s string) bool { name, _, _ := strings.Cut(s, ":"); return name == o.Name })
			conf.Options = append(conf.Options, text)
		}
	}
	conf.Servers = unique(conf.Servers)
	conf.Searches = unique(conf.Searches)
	if len(conf.Servers) > maxNameservers {
		conf.Servers = conf.Servers[:maxNameservers]
	}
	if len(conf.Searches) > maxSearches {
		conf.Searches = conf.Searches[:maxSearches]
	}
	for len(strings.Join(conf.Searches, " ")) > maxSearchChars {
		conf.Searches = conf.Searches[:len(conf.Searches)-1]
	}
	return conf
}

func unique(in []string) []string {
	var out []string
	for _, s := range in {
		if s != "" && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// readResolvConf reads a resolver file; a missing one is empty.
func readResolvConf(path string) (*runtimeapi.DNSConfig, error) {
	conf := &runtimeapi.DNSConfig{}
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return conf, nil
	} else if err != nil {
		return nil, fmt.Errorf("read resolver configuration: %w", err)
	}
	defer f.Close()
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		line, _, _ := strings.Cut(scanner.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			conf.Servers = append(conf.Servers, fields[1])
		case "search":
			conf.Searches = nil
			for _, s := range fields[1:] {
				if s != "." {
					conf.Searches = append(conf.Searches, strings.TrimSuffix(s, "."))
				}
			}
		case "options":
			conf.Options = fields[1:]
		}
	}
	return conf, scanner.Err()
}

// podHostname is the name a pod's processes see as their host's, and the domain that completes it ("" if none).
func podHostname(pod *corev1.Pod, domain, node string) (hostname, fqdn string) {
	hostname = pod.Name
	switch {
	case pod.Spec.HostnameOverride != nil && *pod.Spec.HostnameOverride != "":
		return *pod.Spec.HostnameOverride, ""
	case pod.Spec.Hostname != "":
		hostname = pod.Spec.Hostname
	}
	if len(hostname) > 63 {
		hostname = strings.TrimRight(hostname[:63], "-.")
	}
	if pod.Spec.HostNetwork {
		return node, ""
	}
	if pod.Spec.Subdomain != "" {
		fqdn = fmt.Sprintf("%s.%s.%s.svc.%s", hostname, pod.Spec.Subdomain, pod.Namespace, domain)
		if optional(pod.Spec.SetHostnameAsFQDN) {
			hostname = fqdn
		}
	}
	return hostname, fqdn
}

// hostsFile is the content of a pod's /etc/hosts.
func hostsFile(pod *corev1.Pod, ips []string, hostname, fqdn string, nodeHosts []byte) []byte {
	var b strings.Builder
	if pod.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		b.Write(nodeHosts)
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		short, _, _ := strings.Cut(hostname, ".")
		for _, ip := range ips {
			if fqdn != "" {
				fmt.Fprintf(&b, "%s\t%s\t%s\n", ip, fqdn, short)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, hostname)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
		}
	}
	return []byte(b.String())
}
