// Package netns makes namespaces that no process has to hold: they are bound to
// files. Each call does its work on an OS thread of its own, which ends with the
// call, as a thread in a foreign namespace must not be used again.
package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"keelson.dev/keelson/plugins/kit/mounts"
)

// Options say which namespaces a sandbox has of its own, and how they are set up.
type Options struct {
	Dir          string // gets the files net, ipc and uts
	Network, IPC bool
	Hostname     string // for the UTS namespace; empty: none of its own
	Sysctls      map[string]string
}

// ErrSysctl is wrapped for a sysctl that belongs to no namespace of the sandbox.
var ErrSysctl = errors.New("sysctl is not of the sandbox's own namespaces")

// Create makes the namespaces and binds them to files in o.Dir. On an error
// nothing stays.
func Create(o Options) error {
	if err := checkSysctls(o); err != nil {
		return err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	err := onThread(func() error { return create(o) })
	if err != nil {
		return errors.Join(err, Remove(o.Dir))
	}
	return nil
}

func checkSysctls(o Options) error {
	for name := range o.Sysctls {
		key := strings.ReplaceAll(name, "/", ".")
		if strings.Contains(key, "..") {
			return fmt.Errorf("%q: %w", name, ErrSysctl)
		}
		ipc := strings.HasPrefix(key, "kernel.shm") || strings.HasPrefix(key, "kernel.msg") || key == "kernel.sem" || strings.HasPrefix(key, "fs.mqueue.")
		if (strings.HasPrefix(key, "net.") && o.Network) || (ipc && o.IPC) {
			continue
		}
		return fmt.Errorf("%q: %w", name, ErrSysctl)
	}
	return nil
}

func create(o Options) error {
	flags := 0
	var files []string
	for _, ns := range []struct {
		want bool
		flag int
		name string
	}{{o.Network, unix.CLONE_NEWNET, "net"}, {o.IPC, unix.CLONE_NEWIPC, "ipc"}, {o.Hostname != "", unix.CLONE_NEWUTS, "uts"}} {
		if ns.want {
			flags |= ns.flag
			files = append(files, ns.name)
		}
	}
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	if o.Hostname != "" {
		if err := unix.Sethostname([]byte(o.Hostname)); err != nil {
			return fmt.Errorf("set host name %q: %w", o.Hostname, err)
		}
	}
	if o.Network {
		if err := loopback(); err != nil {
			return err
		}
	}
	if err := applySysctls(o); err != nil {
		return err
	}
	for _, name := range files {
		file := filepath.Join(o.Dir, name)
		f, err := os.OpenFile(file, os.O_CREATE|os.O_RDONLY, 0o600)
		if err != nil {
			return fmt.Errorf("pin namespace: %w", err)
		}
		if err := f.Close(); err != nil {
			return err
		}
		src := fmt.Sprintf("/proc/self/task/%d/ns/%s", unix.Gettid(), name)
		if err := unix.Mount(src, file, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("pin namespace on %s: %w", file, err)
		}
	}
	return nil
}

func loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback interface: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set the loopback interface up: %w", err)
	}
	return nil
}

func applySysctls(o Options) error {
	values := map[string]string{}
	if o.Network {
		// As other runtimes have it: no capability is needed for ping and low ports.
		values["net.ipv4.ping_group_range"] = "0 2147483647"
		values["net.ipv4.ip_unprivileged_port_start"] = "0"
	}
	for name, value := range o.Sysctls {
		values[strings.ReplaceAll(name, "/", ".")] = value
	}
	for name, value := range values {
		file := filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
		if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
			if _, asked := o.Sysctls[name]; !asked && errors.Is(err, os.ErrNotExist) {
				continue
			}
			return fmt.Errorf("set sysctl %s: %w", name, err)
		}
	}
	return nil
}

// Remove unbinds the namespaces in dir, and removes it.
func Remove(dir string) error {
	var errs []error
	for _, name := range []string{"net", "ipc", "uts"} {
		errs = append(errs, mounts.Detach(filepath.Join(dir, name)))
	}
	errs = append(errs, os.RemoveAll(dir))
	return errors.Join(errs...)
}

// Dial connects to an address from within the network namespace at path.
func Dial(ctx context.Context, path, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := Do(path, func() error {
		var d net.Dialer
		var err error
		// A literal address: no other goroutine takes part in the dialling.
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Do calls f on a thread in the network namespace at path. f starts no goroutine
// that has to be there too.
func Do(path string, f func() error) error {
	return onThread(func() error {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: path, Err: err}
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", path, err)
		}
		return f()
	})
}

func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- f()
	}()
	return <-done
}
