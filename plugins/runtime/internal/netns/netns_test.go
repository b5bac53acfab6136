package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/sys/mountinfo"

	"keelson.dev/keelson/test/need"
)

func TestRootCreate(t *testing.T) {
	need.Root(t)
	dir := filepath.Join(t.TempDir(), "ns")
	if err := Create(Options{Dir: dir, Network: true, IPC: true, Hostname: "inside", Sysctls: map[string]string{"net.ipv4.ip_forward": "1"}}); err != nil {
		t.Fatal(err)
	}
	before, err := os.Hostname()
	if err != nil || before == "inside" {
		t.Errorf("own host name: %q, %v", before, err)
	}
	file := filepath.Join(dir, "net")
	err = Do(file, func() error {
		data, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil || len(data) == 0 {
			return fmt.Errorf("read devices: %w", err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("loopback: %w", err)
		}
		defer l.Close()
		conn, err := Dial(context.Background(), file, "tcp", l.Addr().String()) // within the namespace's thread
		if err != nil {
			return err
		}
		return conn.Close()
	})
	if err != nil {
		t.Error(err)
	}
	if err := Remove(dir); err != nil {
		t.Fatal(err)
	}
	if mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir)); err != nil || len(mounts) != 0 {
		t.Errorf("mounts left: %v, %v", mounts, err)
	}
	if err := Remove(dir); err != nil {
		t.Errorf("repeated: %v", err)
	}
}

func TestSysctls(t *testing.T) {
	for _, test := range []struct {
		name         string
		network, ipc bool
		ok           bool
	}{
		{"net.core.somaxconn", true, true, true},
		{"net.core.somaxconn", false, true, false},
		{"net/ipv4/ip_forward", true, true, true},
		{"kernel.shmmax", true, true, true},
		{"kernel.shmmax", true, false, false},
		{"kernel.panic", true, true, false},
		{"net.../../kernel.panic", true, true, false},
		{"net/../kernel/panic", true, true, false},
	} {
		err := checkSysctls(Options{Network: test.network, IPC: test.ipc, Sysctls: map[string]string{test.name: "1"}})
		if (err == nil) != test.ok || (err != nil && !errors.Is(err, ErrSysctl)) {
			t.Errorf("%s with network %t, ipc %t: got %v", test.name, test.network, test.ipc, err)
		}
	}
}

func BenchmarkRootCreate(b *testing.B) {
	need.Root(b)
	dir := filepath.Join(b.TempDir(), "ns")
	for b.Loop() {
		if err := Create(Options{Dir: dir, Network: true, IPC: true, Hostname: "x"}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := Remove(dir); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
