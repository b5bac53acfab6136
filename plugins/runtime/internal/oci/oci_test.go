package oci

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func input(config *cri.ContainerConfig, image v1.Config) Input {
	if config.Linux == nil {
		config.Linux = &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{}}
	}
	return Input{Config: config, Image: &v1.ConfigFile{Config: image}, Limits: Limits{Capabilities: capabilityNames, OOMScoreAdj: -100, FreeOOM: false, OpenFiles: 20000}}
}

func TestArgs(t *testing.T) {
	image := v1.Config{Entrypoint: []string{"e"}, Cmd: []string{"c"}}
	for _, test := range []struct {
		name          string
		image         v1.Config
		command, args []string
		want          string
	}{
		{"image's", image, nil, nil, "e c"},
		{"args replace the image's", image, nil, []string{"a"}, "e a"},
		{"a command drops the image's args", image, []string{"x"}, nil, "x"},
		{"both", image, []string{"x"}, []string{"a"}, "x a"},
		{"only cmd", v1.Config{Cmd: []string{"c"}}, nil, nil, "c"},
		{"none", v1.Config{}, nil, nil, ""},
	} {
		got, err := input(&cri.ContainerConfig{Command: test.command, Args: test.args}, test.image).args()
		if strings.Join(got, " ") != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%s: got %q, %v, want %q", test.name, got, err, test.want)
		}
	}
}

func TestCapabilities(t *testing.T) {
	limits := Limits{Capabilities: slices.DeleteFunc(slices.Clone(capabilityNames), func(c string) bool { return c == "CAP_SYS_RESOURCE" })}
	for _, test := range []struct {
		name      string
		add, drop []string
		has, not  string
		count     int
	}{
		{"default", nil, nil, "CAP_CHOWN", "CAP_SYS_ADMIN", 14},
		{"add", []string{"SYS_ADMIN"}, nil, "CAP_SYS_ADMIN", "CAP_BPF", 15},
		{"drop", nil, []string{"CAP_CHOWN"}, "CAP_KILL", "CAP_CHOWN", 13},
		{"drop all, add one", []string{"net_bind_service"}, []string{"ALL"}, "CAP_NET_BIND_SERVICE", "CAP_KILL", 1},
		{"add all", []string{"ALL"}, nil, "CAP_SYS_ADMIN", "CAP_SYS_RESOURCE", 40},
		{"add all, drop one", []string{"ALL"}, []string{"SYS_ADMIN"}, "CAP_BPF", "CAP_SYS_ADMIN", 39},
		{"not ours to give", []string{"SYS_RESOURCE"}, nil, "CAP_CHOWN", "CAP_SYS_RESOURCE", 14},
	} {
		got, err := capabilities(&cri.LinuxContainerSecurityContext{Capabilities: &cri.Capability{AddCapabilities: test.add, DropCapabilities: test.drop}}, limits)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if len(got.Bounding) != test.count || !slices.Contains(got.Bounding, test.has) || slices.Contains(got.Bounding, test.not) {
			t.Errorf("%s: got %v", test.name, got.Bounding)
		}
	}
	if _, err := capabilities(&cri.LinuxContainerSecurityContext{Capabilities: &cri.Capability{AddCapabilities: []string{"FLY"}}}, limits); !errors.Is(err, ErrInvalid) {
		t.Errorf("unknown capability: got %v", err)
	}
}

func TestParseSignal(t *testing.T) {
	for name, want := range map[string]unix.Signal{"SIGTERM": 15, "term": 15, "9": 9, "SIGQUIT": 3, "SIGRTMIN+3": 37, "RTMIN": 34, "SIGRTMAX-1": 63, "RTMINPLUS5": 39} {
		if got, err := ParseSignal(name); got != want || err != nil {
			t.Errorf("%s: got %d, %v, want %d", name, got, err, want)
		}
	}
	for _, name := range []string{"", "SIGNO", "0", "65", "SIGRTMIN+99"} {
		if got, err := ParseSignal(name); err == nil {
			t.Errorf("%q: got %d", name, got)
		}
	}
}

func TestClampOOM(t *testing.T) {
	for _, test := range []struct {
		limits    Limits
		adj, want int
	}{{Limits{OOMScoreAdj: 0}, -997, 0}, {Limits{OOMScoreAdj: 0}, 500, 500}, {Limits{OOMScoreAdj: -500}, -997, -500}, {Limits{FreeOOM: true}, -997, -997}} {
		if got := test.limits.ClampOOM(test.adj); got != test.want {
			t.Errorf("%+v, %d: got %d, want %d", test.limits, test.adj, got, test.want)
		}
	}
}

func TestUser(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	// The link leads to the image's own file, never to the machine's.
	if err := errors.Join(os.WriteFile(filepath.Join(root, "accounts"), []byte("web:x:33:34::/var/www:/bin/false\n"), 0o644),
		os.Symlink("/accounts", filepath.Join(root, "etc", "passwd")),
		os.WriteFile(filepath.Join(root, "etc", "group"), []byte("web:x:34:\nssl:x:50:web,other\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		image    string
		security *cri.LinuxContainerSecurityContext
		uid, gid uint32
		groups   []uint32
		ok       bool
	}{
		{"", nil, 0, 0, []uint32{0}, true},
		{"web", nil, 33, 34, []uint32{34, 50}, true},
		{"33", nil, 33, 34, []uint32{34, 50}, true},
		{"web:ssl", nil, 33, 50, []uint32{50}, true},
		{"7:8", nil, 7, 8, []uint32{8}, true},
		{"nobody", nil, 0, 0, nil, false},
		{"web:none", nil, 0, 0, nil, false},
		{"web", &cri.LinuxContainerSecurityContext{RunAsUser: &cri.Int64Value{Value: 5}, RunAsGroup: &cri.Int64Value{Value: 6}}, 5, 6, []uint32{6}, true},
		{"web", &cri.LinuxContainerSecurityContext{RunAsGroup: &cri.Int64Value{Value: 6}}, 33, 6, []uint32{6, 50}, true},
		{"", &cri.LinuxContainerSecurityContext{RunAsGroup: &cri.Int64Value{Value: 6}}, 0, 0, nil, false},
	} {
		in := input(&cri.ContainerConfig{}, v1.Config{User: test.image})
		in.Rootfs = root
		got, _, err := in.user(test.security)
		if (err == nil) != test.ok {
			t.Errorf("%q, %v: got error %v", test.image, test.security, err)
			continue
		}
		if test.ok && (got.UID != test.uid || got.GID != test.gid || !slices.Equal(got.AdditionalGids, test.groups)) {
			t.Errorf("%q, %v: got %+v", test.image, test.security, got)
		}
	}
}

func TestMounts(t *testing.T) {
	dir := t.TempDir()
	in := input(&cri.ContainerConfig{Mounts: []*cri.Mount{
		{ContainerPath: "/a/b", HostPath: dir}, {ContainerPath: "/a", HostPath: dir, Readonly: true, RecursiveReadOnly: true},
		{ContainerPath: "/etc/resolv.conf", HostPath: dir}, {ContainerPath: "/s", HostPath: filepath.Join(dir, "new"), Propagation: cri.MountPropagation_PROPAGATION_BIDIRECTIONAL},
	}}, v1.Config{})
	in.ResolvConf = "/x"
	mounts, propagation, err := in.mounts(in.Config.Linux.SecurityContext)
	if err != nil || propagation != "rshared" {
		t.Fatalf("got %s, %v", propagation, err)
	}
	at := map[string]int{}
	for i, m := range mounts {
		if _, twice := at[m.Destination]; twice {
			t.Errorf("%s is mounted twice", m.Destination)
		}
		at[m.Destination] = i
	}
	if at["/a"] > at["/a/b"] {
		t.Error("/a/b is mounted before /a")
	}
	if mounts[at["/etc/resolv.conf"]].Source != dir || !slices.Contains(mounts[at["/a"]].Options, "rro") {
		t.Errorf("got %v", mounts)
	}
	if _, err := os.Stat(filepath.Join(dir, "new")); err != nil {
		t.Errorf("a missing host path is made: %v", err)
	}
}

func TestLocalSeccomp(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "p.json"), []byte(`{"defaultAction":"SCMP_ACT_ALLOW"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := localSeccomp(root, "localhost/p.json"); err != nil || got.DefaultAction != "SCMP_ACT_ALLOW" {
		t.Errorf("got %v, %v", got, err)
	}
	for _, ref := range []string{"../p.json", "none.json"} {
		if _, err := localSeccomp(root, ref); err == nil {
			t.Errorf("%s was taken", ref)
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	in := input(&cri.ContainerConfig{Command: []string{"x"}}, v1.Config{})
	in.Rootfs = b.TempDir()
	in.Config.Linux.SecurityContext.Seccomp = &cri.SecurityProfile{}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Build(in); err != nil {
			b.Fatal(err)
		}
	}
}
