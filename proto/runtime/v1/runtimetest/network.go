package runtimetest

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	networkv1 "keelson.dev/keelson/proto/network/v1"
)

// Network is a network plugin for the suite: a veth pair for each sandbox, and no
// more.
type Network struct {
	networkv1.UnimplementedNetworkServiceServer

	mu    sync.Mutex // guards all below
	next  int
	Links map[string]string // sandbox -> host interface
	Fail  bool              // Setup fails
}

// ServeNetwork serves a Network on a socket until the test ends.
func ServeNetwork(t testing.TB, socket string) *Network {
	t.Helper()
	n := &Network{Links: map[string]string{}}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	networkv1.RegisterNetworkServiceServer(server, n)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		<-done
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, name := range n.Links {
			if link, err := netlink.LinkByName(name); err == nil {
				_ = netlink.LinkDel(link)
			}
		}
	})
	return n
}

// SetFail makes Setup fail, or work again.
func (n *Network) SetFail(fail bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.Fail = fail
}

// Joined is how many sandboxes are set up.
func (n *Network) Joined() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.Links)
}

// Setup implements the contract.
func (n *Network) Setup(_ context.Context, req *networkv1.SetupRequest) (*networkv1.SetupResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.Fail {
		return nil, status.Error(codes.Unavailable, "the node has no pod range yet")
	}
	n.next++
	name := fmt.Sprintf("krt%d-%d", os.Getpid()%100000, n.next)
	address := fmt.Sprintf("10.249.%d.%d", n.next/250, n.next%250+2)
	handle, err := netns.GetFromPath(req.GetNetns())
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	inside, err := netlink.NewHandleAt(handle)
	if err != nil {
		return nil, err
	}
	defer inside.Close()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(handle)}
	if err := netlink.LinkAdd(veth); err != nil {
		return nil, err
	}
	n.Links[req.GetSandboxId()] = name
	peer, err := inside.LinkByName("eth0")
	if err != nil {
		return nil, err
	}
	ip := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(address), Mask: net.CIDRMask(16, 32)}}
	if err := inside.AddrAdd(peer, ip); err != nil {
		return nil, err
	}
	if err := inside.LinkSetUp(peer); err != nil {
		return nil, err
	}
	return &networkv1.SetupResponse{Addresses: []string{address}, Interface: "eth0"}, nil
}

// Teardown implements the contract.
func (n *Network) Teardown(_ context.Context, req *networkv1.TeardownRequest) (*networkv1.TeardownResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if link, err := netlink.LinkByName(n.Links[req.GetSandboxId()]); err == nil {
		_ = netlink.LinkDel(link)
	}
	delete(n.Links, req.GetSandboxId())
	return &networkv1.TeardownResponse{}, nil
}

// Status implements the contract.
func (n *Network) Status(context.Context, *networkv1.StatusRequest) (*networkv1.StatusResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &networkv1.StatusResponse{Ready: !n.Fail, Message: "told to fail"}, nil
}
