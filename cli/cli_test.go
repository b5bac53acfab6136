package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func parse(t *testing.T, args ...string) *serverFlags {
	t.Helper()
	var f serverFlags
	set := pflag.NewFlagSet("server", pflag.ContinueOnError)
	f.addFlags(set)
	if err := set.Parse(append(args, "--node-ip=192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	return &f
}

func TestServerFlags(t *testing.T) {
	cfg, err := parse(t, "--data-dir=/srv/k", "--node-name=Bow").config()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.DataDir != "/srv/k" || cfg.Node.Name != "bow" || cfg.Listen.Port() != 6443 || cfg.DNSAddress.String() != "10.96.0.10" {
		t.Errorf("config: %+v", cfg)
	}
	if len(cfg.Builtins) != len(builtins) {
		t.Errorf("%d built-in plugins, want %d", len(cfg.Builtins), len(builtins))
	}
	for _, test := range []struct{ arg, want string }{
		{"--listen=6443", "ADDRESS:PORT"},
		{"--cluster-cidr=10.244.0.1/16", "CIDR"},
		{"--cluster-cidr=10.96.0.0/24", "overlaps"},
		{"--cluster-dns=192.0.2.9", "--cluster-dns"},
		{"--service-node-port-range=1", "FROM-TO"},
		{"--service-node-port-range=9-5", "FROM-TO"},
		{"--data-dir=/", "--data-dir"},
		{"--data-dir=/var", "--data-dir"},
	} {
		t.Run(test.arg, func(t *testing.T) {
			_, err := parse(t, test.arg).config()
			value, _ := strings.CutPrefix(test.arg, strings.SplitAfter(test.arg, "=")[0])
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), value) {
				t.Errorf("error should have %q and %q: %v", test.want, value, err)
			}
		})
	}
}

// TestServerFlagsSurvive: what `up` hands to the server is what it was given.
func TestServerFlagsSurvive(t *testing.T) {
	f := parse(t, "--node-name=a", "--cluster-cidr=10.1.0.0/16,fd00::/48", "--log-level=debug", "--listen=192.0.2.1:7443")
	var again serverFlags
	set := pflag.NewFlagSet("server", pflag.ContinueOnError)
	again.addFlags(set)
	args := f.args()
	if args[0] != "server" {
		t.Fatalf("first argument %q", args[0])
	}
	if err := set.Parse(args[1:]); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(again.args(), args) {
		t.Errorf("got %q\nwant %q", again.args(), args)
	}
}

func TestRecall(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	saved := `{"dataDir":"` + dir + `","runDir":"/run/other","listen":"192.0.2.1:7443","nodeName":"a"}`
	if err := os.WriteFile(filepath.Join(dir, settingsFile), []byte(saved), 0o600); err != nil {
		t.Fatal(err)
	}
	var u upCommand
	set := pflag.NewFlagSet("up", pflag.ContinueOnError)
	u.flags.addFlags(set)
	if err := set.Parse([]string{"--data-dir=" + dir, "--node-name=b"}); err != nil {
		t.Fatal(err)
	}
	if err := u.recall(set); err != nil {
		t.Fatal(err)
	}
	if u.flags.Listen != "192.0.2.1:7443" || u.flags.Run != "/run/other" || u.flags.NodeName != "b" {
		t.Errorf("flags: %+v", u.flags)
	}
	if err := os.WriteFile(filepath.Join(dir, settingsFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := u.recall(set); err == nil || !strings.Contains(err.Error(), settingsFile) {
		t.Errorf("damaged settings: %v", err)
	}
}

// TestEveryFlagIsRecalled holds recall's list and addFlags together.
func TestEveryFlagIsRecalled(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, settingsFile), []byte(`{"runDir":"/run/saved"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	values := map[string]string{
		"run-dir": "/run/x", "cluster-cidr": "10.1.0.0/16", "service-cidr": "10.2.0.0/16", "service-node-port-range": "1-2",
		"anonymous-auth": "true", "oidc-required-claim": "a=b",
	}
	byType := map[string]string{"bool": "true", "int": "7", "duration": "9s", "float64": "0.01", "float32": "0.5", "int64": "7", "int32": "7"}
	var flags []*pflag.Flag
	var probe serverFlags
	set := pflag.NewFlagSet("up", pflag.ContinueOnError)
	probe.addFlags(set)
	set.VisitAll(func(f *pflag.Flag) {
		if f.Deprecated == "" {
			flags = append(flags, f)
		}
	})
	for _, f := range flags {
		name := f.Name
		if name == "data-dir" {
			continue
		}
		value := values[name]
		if value == "" {
			value = byType[f.Value.Type()]
		}
		if value == "" {
			value = "/x" // absolute, as paths become
		}
		var u upCommand
		set := pflag.NewFlagSet("up", pflag.ContinueOnError)
		u.flags.addFlags(set)
		if err := set.Parse([]string{"--data-dir=" + dir, "--" + name + "=" + value}); err != nil {
			t.Fatal(err)
		}
		if err := u.recall(set); err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(u.flags.args(), "--"+name+"="+value) {
			t.Errorf("--%s given now is lost: %q", name, u.flags.args())
		}
		if kept := keptArgs(t, u.flags); !slices.Contains(kept, "--"+name+"="+value) {
			t.Errorf("--%s given before is lost: %q", name, kept)
		}
	}
}

// keptArgs is what the next `keelson up` makes of flags when it is given none.
func keptArgs(t *testing.T, flags serverFlags) []string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(flags)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, settingsFile), data, 0o600); err != nil {
		t.Fatal(err)
	}
	var u upCommand
	set := pflag.NewFlagSet("up", pflag.ContinueOnError)
	u.flags.addFlags(set)
	if err := set.Parse([]string{"--data-dir=" + dir}); err != nil {
		t.Fatal(err)
	}
	if err := u.recall(set); err != nil {
		t.Fatal(err)
	}
	return u.flags.args()
}

func TestKubeconfigs(t *testing.T) {
	dir := t.TempDir()
	admin := filepath.Join(dir, "admin")
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["keelson"] = &clientcmdapi.Cluster{Server: "https://127.0.0.1:6443", CertificateAuthorityData: []byte("ca")}
	cfg.AuthInfos["keelson"] = &clientcmdapi.AuthInfo{ClientCertificateData: []byte("c"), ClientKeyData: []byte("k")}
	cfg.Contexts["keelson"] = &clientcmdapi.Context{Cluster: "keelson", AuthInfo: "keelson"}
	if err := clientcmd.WriteToFile(*cfg, admin); err != nil {
		t.Fatal(err)
	}
	fresh := filepath.Join(dir, "fresh", "config")
	t.Setenv("KUBECONFIG", fresh)
	if _, err := mergeKubeconfigs(admin); err != nil {
		t.Fatal(err)
	}
	if got, err := clientcmd.LoadFromFile(fresh); err != nil || got.CurrentContext != contextName {
		t.Errorf("fresh file: %v, %+v", err, got)
	}
	if err := dropKubeconfigs(admin); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(fresh); !os.IsNotExist(err) {
		t.Errorf("a file that was ours alone stays: %v", err)
	}

	used := filepath.Join(dir, "used")
	other := clientcmdapi.NewConfig()
	other.Clusters["kind"] = &clientcmdapi.Cluster{Server: "https://192.0.2.1:1"}
	other.Contexts["kind"] = &clientcmdapi.Context{Cluster: "kind"}
	if err := clientcmd.WriteToFile(*other, used); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", used)
	if _, err := mergeKubeconfigs(admin); err != nil {
		t.Fatal(err)
	}
	if err := dropKubeconfigs(admin); err != nil {
		t.Fatal(err)
	}
	got, err := clientcmd.LoadFromFile(used)
	if err != nil || got.Contexts["kind"] == nil || got.Contexts[contextName] != nil || got.CurrentContext != "" {
		t.Errorf("the user's own context has to stay, and ours to go: %v, %+v", err, got)
	}
}

func TestMountsBelow(t *testing.T) {
	const mountinfo = `22 1 0:20 / /sys rw - sysfs sysfs rw
40 1 0:30 / /run/keelson/runtime/netns/a rw - nsfs nsfs rw
41 1 0:31 / /run/keelson2/x rw - tmpfs tmpfs rw
42 1 0:32 / /run/keelson rw - tmpfs tmpfs rw
short`
	got := mountsBelow(strings.NewReader(mountinfo), "/run/keelson")
	if want := []string{"/run/keelson/runtime/netns/a"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRemoveOwnLeavesWhatIsOthers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	for _, name := range []string{"store/badger/MANIFEST", "pki/ca.key", "up.json", ".up.json-123", "thesis.txt"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := removeOwn(dir, ownInData); err == nil || !strings.Contains(err.Error(), "thesis.txt") || !strings.Contains(err.Error(), dir) {
		t.Errorf("the error should name what stays: %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "thesis.txt" {
		t.Errorf("left are %v, %v", entries, err)
	}
	if err := os.Remove(filepath.Join(dir, "thesis.txt")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // and again, when nothing is left
		if err := removeOwn(dir, ownInData); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("an empty folder stays: %v", err)
	}
}

func TestPrintImages(t *testing.T) {
	var out bytes.Buffer
	err := printImages(&out, []*runtimeapi.Image{
		{Id: "sha256:0123456789abcdef", RepoTags: []string{"docker.io/b:1", "docker.io/a:1"}, Size: 3 << 20},
		{Id: "sha256:fedcba9876543210"},
	})
	want := "IMAGE           ID             SIZE\n<none>          fedcba987654   0Mi\n" +
		"docker.io/a:1   0123456789ab   3Mi\ndocker.io/b:1   0123456789ab   3Mi\n"
	if err != nil || out.String() != want {
		t.Errorf("%v\ngot:\n%s\nwant:\n%s", err, out.String(), want)
	}
}

// TestCommands holds what every command of ours owes its user.
func TestCommands(t *testing.T) {
	streams, _, _, _ := genericiooptions.NewTestIOStreams()
	root := newRoot(streams)
	for _, name := range []string{"up", "down", "uninstall", "server", "agent", "plugins", "image", "get", "apply", "logs", "exec", "rollout"} {
		cmd, _, err := root.Find([]string{name})
		if err != nil || cmd == root {
			t.Errorf("no command %q: %v", name, err)
			continue
		}
		each(cmd, func(c *cobra.Command) {
			if c.Short == "" {
				t.Errorf("%s: no help", c.CommandPath())
			}
		})
	}
}

func each(c *cobra.Command, do func(*cobra.Command)) {
	do(c)
	for _, sub := range c.Commands() {
		each(sub, do)
	}
}
