// Package nstest gives tests a machine of their own: Main runs a whole test binary in
// a fresh network and mount namespace, where it plays the node, and New makes further
// network namespaces that play pods. Nothing of it reaches the real machine, and all of
// it ends with the process. It starts no goroutine that outlives a call.
package nstest

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"keelson.dev/keelson/proto/network/v1/networktest"
)

const inside = "KEELSON_NSTEST"

// Main is the body of TestMain. As root it starts the test binary again in new
// namespaces (exec keeps those of the calling thread); otherwise the tests run where
// they are, and those that call Require skip.
func Main(m *testing.M) {
	if os.Geteuid() == 0 && os.Getenv(inside) == "" {
		runtime.LockOSThread()
		if err := enter(); err != nil {
			fmt.Fprintln(os.Stderr, "nstest:", err)
		}
	}
	if l, err := net.Listen("tcp", "[::1]:0"); err == nil {
		_ = l.Close() // package net looks once whether there is IPv6: here, not in a bare namespace
	}
	os.Exit(m.Run())
}

func enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	return unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), inside+"=1"))
}

// Require skips the test, loudly, unless Main put it into namespaces of its own; in CI
// (CI=true) it fails.
func Require(t testing.TB) {
	t.Helper()
	if os.Getenv(inside) != "" {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("this test needs root, network and mount namespaces, and CI must have them")
	}
	t.Skip("SKIPPED: needs root, network and mount namespaces")
}

// New makes a network namespace and returns its path, as a container runtime would; it
// is removed with the test.
func New(t testing.TB) string {
	t.Helper()
	Require(t)
	path, _ := networktest.NewNetns(t)
	return path
}

// Remove removes a namespace that New made; repeated, it does nothing.
func Remove(path string) {
	_ = unix.Unmount(path, unix.MNT_DETACH)
	_ = os.Remove(path)
}

// In runs f on a thread in the network namespace. Sockets that f opens stay in it; f
// must not start goroutines that open more.
func In(t testing.TB, path string, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		ns, err := netns.GetFromPath(path)
		if err == nil {
			err = netns.Set(ns)
			_ = ns.Close()
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// Uplink makes a link with an address and a default route, as a node's network card:
// its other end, with the gateway's address, is in a namespace whose path is returned.
func Uplink(t testing.TB, name, address, gateway string) string {
	t.Helper()
	path := New(t)
	ns, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns))}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatalf("add link %s: %v", name, err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(veth) })
	bits := address[strings.Index(address, "/"):]
	if err := up(name, address); err != nil {
		t.Fatal(err)
	}
	node, err := netlink.ParseAddr(address)
	if err != nil {
		t.Fatal(err)
	}
	err = In(t, path, func() error {
		if err := up("eth0", gateway+bits); err != nil {
			return err
		}
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return fmt.Errorf("find eth0: %w", err)
		}
		return netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: node.IP})
	})
	if err != nil {
		t.Fatal(err)
	}
	via, err := netlink.ParseAddr(gateway + bits)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.RouteReplace(&netlink.Route{LinkIndex: veth.Index, Gw: via.IP}); err != nil {
		t.Fatalf("set default route: %v", err)
	}
	return path
}

func up(name, address string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return fmt.Errorf("parse %s: %w", address, err)
	}
	if addr.IP.To4() == nil {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("set address %s of %s: %w", address, name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up %s: %w", name, err)
	}
	return nil
}

// Bridge makes a bridge with the addresses, as the network plugin's.
func Bridge(t testing.TB, name string, addresses ...string) netlink.Link {
	t.Helper()
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
	if err := netlink.LinkAdd(bridge); err != nil {
		t.Fatalf("add bridge %s: %v", name, err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(bridge) })
	for _, a := range addresses {
		if err := up(name, a); err != nil {
			t.Fatal(err)
		}
	}
	for sysctl, value := range map[string]string{
		"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1",
		"ipv4/conf/all/send_redirects": "0", "ipv4/conf/" + name + "/send_redirects": "0",
	} {
		if err := os.WriteFile("/proc/sys/net/"+sysctl, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	return bridge
}

// Join puts a namespace on the bridge, as a pod: address with full length, everything
// through the gateway.
func Join(t testing.TB, bridge netlink.Link, path, address, gateway string) {
	t.Helper()
	ns, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	name := "t" + strings.NewReplacer(".", "", ":", "").Replace(address)
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name[:min(len(name), 15)], MasterIndex: bridge.Attrs().Index},
		PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns))}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatalf("add link for %s: %v", address, err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(veth) })
	if err := netlink.LinkSetHairpin(veth, true); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		t.Fatal(err)
	}
	bits := "/32"
	if strings.Contains(address, ":") {
		bits = "/128"
	}
	err = In(t, path, func() error {
		if err := up("eth0", address+bits); err != nil {
			return err
		}
		gw, err := netlink.ParseAddr(gateway + bits)
		if err != nil {
			return fmt.Errorf("parse %s: %w", gateway, err)
		}
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return fmt.Errorf("find eth0: %w", err)
		}
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: gw.IPNet, Scope: netlink.SCOPE_LINK}); err != nil {
			return fmt.Errorf("set route to %s: %w", gateway, err)
		}
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gw.IP}); err != nil {
			return fmt.Errorf("set default route: %w", err)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("set up %s: %v", address, err)
	}
}

// Echo serves TCP and UDP on a port in the namespace until the test ends: each
// connection or datagram is answered by "NAME CLIENT-ADDRESS". Path "" is the node.
func Echo(t testing.TB, path, name string, port int) {
	t.Helper()
	err := in(t, path, func() error {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		u, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		answer := func(from net.Addr) []byte {
			host, _, _ := net.SplitHostPort(from.String())
			return []byte(name + " " + host)
		}
		var served sync.WaitGroup
		served.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write(answer(c.RemoteAddr()))
				_ = c.Close()
			}
		})
		served.Go(func() {
			buf := make([]byte, 2000)
			for {
				_, from, err := u.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = u.WriteTo(answer(from), from)
			}
		})
		t.Cleanup(func() { _ = l.Close(); _ = u.Close(); served.Wait() })
		return nil
	})
	if err != nil {
		t.Fatalf("serve as %s on port %d: %v", name, port, err)
	}
}

// Ask connects from the namespace and returns the answer of an Echo. Path "" is the
// node.
func Ask(t testing.TB, path, network, target string) (string, error) {
	t.Helper()
	var answer string
	err := in(t, path, func() error {
		c, err := net.DialTimeout(network, target, 3*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(3 * time.Second))
		if network == "udp" {
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
		}
		buf := make([]byte, 2000)
		n, err := c.Read(buf)
		answer = string(buf[:n])
		return err
	})
	return answer, err
}

func in(t testing.TB, path string, f func() error) error {
	if path == "" {
		return f()
	}
	return In(t, path, f)
}
