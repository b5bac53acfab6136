// Package cni is the CNI executable in front of a network plugin: for a container
// runtime that is not ours (containerd, CRI-O), each CNI call becomes one of
// proto/network/v1 on the socket that the configuration names. It speaks CNI 0.3.1 to
// 1.1.0 (github.com/containernetworking/cni, SPEC.md) and starts no goroutine. Under the
// name "loopback" it brings up lo and needs no socket.
package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"keelson.dev/keelson/plugins/kit"
	networkv1 "keelson.dev/keelson/proto/network/v1"
)

// Versions of CNI that are spoken.
var versions = []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"}

// Names that the executable is called by, and so the types in a configuration.
const (
	Name     = "keelson-cni"
	Loopback = "loopback"
)

// patience bounds one call; the runtime has a longer one.
const patience = time.Minute

// Error codes of SPEC.md.
const (
	codeVersion     = 1
	codeEnvironment = 4
	codeDecode      = 6
	codeConfig      = 7
	codeTryAgain    = 11
	codeFailed      = 100
)

// Called says whether a process was started as a CNI executable.
func Called(argv0 string, getenv func(string) string) bool {
	name := filepath.Base(argv0)
	return (name == Name || name == Loopback) && getenv("CNI_COMMAND") != ""
}

// config is the network configuration on standard input.
type config struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	// Socket is that of the network plugin: /run/keelson/network.sock.
	Socket        string `json:"socket"`
	RuntimeConfig struct {
		PortMappings []struct {
			HostPort      int32  `json:"hostPort"`
			ContainerPort int32  `json:"containerPort"`
			Protocol      string `json:"protocol"`
			HostIP        string `json:"hostIP"`
		} `json:"portMappings"`
	} `json:"runtimeConfig"`
	PrevResult json.RawMessage `json:"prevResult"`
}

// fault is an error in CNI's form.
type fault struct {
	CNIVersion string `json:"cniVersion"`
	Code       int    `json:"code"`
	Msg        string `json:"msg"`
}

// Error implements error.
func (f *fault) Error() string { return f.Msg }

func faultf(code int, format string, args ...any) error {
	return &fault{Code: code, Msg: fmt.Sprintf(format, args...)}
}

// Main does what the environment asks for and returns the exit status.
func Main(argv0 string, getenv func(string) string, in io.Reader, out io.Writer) int {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	version := versions[len(versions)-1]
	answer, err := run(ctx, filepath.Base(argv0), getenv, in, &version)
	if err != nil {
		f, ok := errors.AsType[*fault](err)
		if !ok {
			f = &fault{Code: codeFailed, Msg: err.Error()}
		}
		f.CNIVersion = version
		_ = json.NewEncoder(out).Encode(f)
		return 1
	}
	if answer != nil {
		_ = json.NewEncoder(out).Encode(answer)
	}
	return 0
}

func run(ctx context.Context, name string, getenv func(string) string, in io.Reader, version *string) (any, error) {
	data, err := io.ReadAll(io.LimitReader(in, 1<<20))
	if err != nil {
		return nil, faultf(codeDecode, "read the configuration: %v", err)
	}
	command := getenv("CNI_COMMAND")
	var c config
	if err := json.Unmarshal(data, &c); err != nil && command != "VERSION" {
		return nil, faultf(codeDecode, "decode the configuration: %v", err)
	}
	if command == "VERSION" {
		if slices.Contains(versions, c.CNIVersion) {
			*version = c.CNIVersion
		}
		return map[string]any{"cniVersion": *version, "supportedVersions": versions}, nil
	}
	if !slices.Contains(versions, c.CNIVersion) {
		return nil, faultf(codeVersion, "cniVersion: %q is not one of %s", c.CNIVersion, strings.Join(versions, ", "))
	}
	*version = c.CNIVersion
	if name == Loopback {
		return loopback(command, getenv("CNI_NETNS"), &c)
	}
	return call(ctx, command, getenv, &c)
}

// call asks the network plugin.
func call(ctx context.Context, command string, getenv func(string) string, c *config) (any, error) {
	if !filepath.IsAbs(c.Socket) {
		return nil, faultf(codeConfig, "socket: %q is not the absolute path of a network plugin's socket", c.Socket)
	}
	conn, err := kit.DialSocket(c.Socket)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	network := networkv1.NewNetworkServiceClient(conn)
	id, ns := getenv("CNI_CONTAINERID"), getenv("CNI_NETNS")
	switch command {
	case "ADD":
		return add(ctx, network, getenv, c)
	case "DEL":
		_, err := network.Teardown(ctx, &networkv1.TeardownRequest{SandboxId: id, Netns: ns}, grpc.WaitForReady(true))
		return nil, answered("tear down the network", err)
	case "CHECK", "STATUS":
		s, err := network.Status(ctx, &networkv1.StatusRequest{}, grpc.WaitForReady(true))
		if err == nil && !s.GetReady() {
			return nil, faultf(50, "the network plugin is not ready: %s", s.GetMessage())
		}
		return nil, answered("ask for the network's status", err)
	case "GC":
		return nil, nil // the network plugin frees by itself what has no namespace any more
	}
	return nil, faultf(codeEnvironment, "CNI_COMMAND: %q is not ADD, DEL, CHECK, STATUS, GC or VERSION", command)
}

// result is what ADD answers.
type result struct {
	CNIVersion string         `json:"cniVersion"`
	Interfaces []link         `json:"interfaces"`
	IPs        []address      `json:"ips"`
	Routes     []route        `json:"routes,omitempty"`
	DNS        map[string]any `json:"dns"`
}

type link struct {
	Name    string `json:"name"`
	Sandbox string `json:"sandbox,omitempty"`
}

type address struct {
	Version   string `json:"version,omitempty"` // before 1.0.0
	Address   string `json:"address"`
	Gateway   string `json:"gateway,omitempty"`
	Interface int    `json:"interface"`
}

type route struct {
	Dst string `json:"dst"`
	GW  string `json:"gw"`
}

func add(ctx context.Context, network networkv1.NetworkServiceClient, getenv func(string) string, c *config) (any, error) {
	args := map[string]string{}
	for pair := range strings.SplitSeq(getenv("CNI_ARGS"), ";") {
		key, value, _ := strings.Cut(pair, "=")
		args[key] = value
	}
	req := &networkv1.SetupRequest{
		SandboxId: getenv("CNI_CONTAINERID"), Netns: getenv("CNI_NETNS"), PodNamespace: args["K8S_POD_NAMESPACE"],
		PodName: args["K8S_POD_NAME"], PodUid: args["K8S_POD_UID"],
	}
	for _, p := range c.RuntimeConfig.PortMappings {
		req.PortMappings = append(req.PortMappings, &networkv1.PortMapping{
			Protocol: strings.ToUpper(p.Protocol), ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP,
		})
	}
	resp, err := network.Setup(ctx, req, grpc.WaitForReady(true))
	if err != nil {
		return nil, answered("set up the network", err)
	}
	if want := getenv("CNI_IFNAME"); want != resp.GetInterface() {
		return nil, faultf(codeEnvironment, "CNI_IFNAME: %q: the network plugin names the link %s", want, resp.GetInterface())
	}
	out := &result{CNIVersion: c.CNIVersion, DNS: map[string]any{}, Interfaces: []link{{Name: resp.GetInterface(), Sandbox: req.GetNetns()}}}
	for i, text := range resp.GetAddresses() {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("the network plugin answered with address %q: %w", text, err)
		}
		a := address{Address: netip.PrefixFrom(ip, ip.BitLen()).String()}
		dst := "0.0.0.0/0"
		if ip.Is6() {
			dst = "::/0"
		}
		if strings.HasPrefix(c.CNIVersion, "0.") {
			a.Version = map[bool]string{true: "4", false: "6"}[ip.Is4()]
		}
		if i < len(resp.GetGateways()) {
			a.Gateway = resp.GetGateways()[i]
			out.Routes = append(out.Routes, route{dst, a.Gateway})
		}
		out.IPs = append(out.IPs, a)
	}
	return out, nil
}

// answered is a call's error in CNI's form: a plugin that is away is to be asked again.
func answered(what string, err error) error {
	switch status.Code(err) {
	case codes.OK:
		return nil
	case codes.Unavailable:
		return faultf(codeTryAgain, "%s: %s", what, status.Convert(err).Message())
	}
	return faultf(codeFailed, "%s: %s", what, status.Convert(err).Message())
}

// loopback brings up lo in the pod's namespace.
func loopback(command, path string, c *config) (any, error) {
	if command != "ADD" {
		return nil, nil // lo goes with its namespace
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, faultf(codeEnvironment, "CNI_NETNS: open %q: %v", path, err)
	}
	defer func() { _ = ns.Close() }()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return nil, fmt.Errorf("enter %s: %w", path, err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err == nil {
		err = h.LinkSetUp(lo)
	}
	if err != nil {
		return nil, fmt.Errorf("bring up lo in %s: %w", path, err)
	}
	a := address{Address: "127.0.0.1/8"}
	if strings.HasPrefix(c.CNIVersion, "0.") {
		a.Version = "4"
	}
	return &result{CNIVersion: c.CNIVersion, DNS: map[string]any{}, Interfaces: []link{{Name: "lo", Sandbox: path}}, IPs: []address{a}}, nil
}
