package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// testWrongInput does what users do wrong on a running cluster: each answer names
// what is wrong and what would be right.
func (c *cluster) testWrongInput(t *testing.T) {
	manifest := func(text string) string {
		path := filepath.Join(t.TempDir(), "manifest.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	bad := filepath.Join(t.TempDir(), "bad.tar")
	if err := os.WriteFile(bad, []byte("this is no archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		command []string
		want    []string
	}{
		{"second server on the same data", []string{"keelson", "server", "--listen=192.0.2.10:7443"}, []string{c.run, "process"}},
		{"port in use", []string{c.bin, "server", "--data-dir=" + t.TempDir(), "--run-dir=" + t.TempDir()},
			[]string{"6443", "--listen"}},
		{"port in use, in the background", []string{c.bin, "up", "--data-dir=" + t.TempDir() + "/d", "--run-dir=" + t.TempDir() + "/r"},
			[]string{"6443", "--listen"}},
		{"bad address", []string{"keelson", "server", "--listen=6443"}, []string{"--listen", `"6443"`, "ADDRESS:PORT"}},
		{"networks overlap", []string{"keelson", "server", "--service-cidr=10.244.0.0/24", "--cluster-dns=10.244.0.10"},
			[]string{"--cluster-cidr", "overlaps"}},
		{"unknown plugin", []string{"keelson", "plugins", "logs", "nope"}, []string{`"nope"`, "not found"}},
		{"unknown plugin process", []string{"keelson", "plugin-run", "nope"}, []string{`"nope"`, "scheduler"}},
		{"image that does not exist", []string{"keelson", "image", "rm", "example/nope:1"}, []string{"example/nope:1"}},
		{"archive that does not exist", []string{"keelson", "image", "import", "/nope.tar"}, []string{"/nope.tar", "no such file"}},
		{"archive that is none", []string{"keelson", "image", "import", bad}, []string{"bad.tar"}},
		{"join without file", []string{"keelson", "agent"}, []string{"--join"}},
		{"unknown field", []string{"kubectl", "apply", "-f", manifest("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndada: {a: b}\n")},
			[]string{"dada", "unknown field"}},
		{"missing image name", []string{"kubectl", "apply", "-f", manifest("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: c}]}\n")},
			[]string{"spec.containers[0].image"}},
		{"plugin without a checksum", []string{"kubectl", "apply", "-f", manifest("apiVersion: keelson.dev/v1alpha1\nkind: Plugin\nmetadata: {name: x}\nspec: {kind: dns, source: {path: /x}}\n")},
			[]string{"spec.source.sha256"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, code := c.try(test.command[0], test.command[1:]...)
			if code == 0 {
				t.Errorf("succeeded: %s", out)
			}
			for _, want := range test.want {
				if !strings.Contains(out, want) {
					t.Errorf("does not say %q: %s", want, out)
				}
			}
			if strings.Contains(out, "panic") || strings.Contains(out, "goroutine ") {
				t.Errorf("panic: %s", out)
			}
		})
	}
	t.Run("unknown built-in plugin", func(t *testing.T) {
		c.kubectl(t, "apply", "-f", manifest("apiVersion: keelson.dev/v1alpha1\nkind: Plugin\nmetadata: {name: nope}\nspec: {kind: dns, source: {builtIn: true}}\n"))
		eventually(t, time.Minute, "a reason in the plugin's status", func() error {
			return contains(c.kubectl(t, "get", "plugin", "nope", "-o", "jsonpath={.status.phase} {.status.lastError}"),
				"Failed", "spec.source.builtIn", `"nope"`)
		})
		c.kubectl(t, "delete", "plugin", "nope")
	})
	t.Run("pod whose image does not exist", func(t *testing.T) {
		c.kubectl(t, "run", "nope", "--image=example/nope:1")
		eventually(t, 60*time.Second, "a reason in the pod's events", func() error {
			return contains(c.kubectl(t, "describe", "pod", "nope"), "example/nope:1", "keelson image import")
		})
		c.kubectl(t, "delete", "pod", "nope")
	})
}

// TestRefused starts a cluster where it cannot start, and reads why.
func TestRefused(t *testing.T) {
	m := newMachine(t, "r", "192.0.2.30")
	plug(t, m, nil)
	empty := t.TempDir()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	public := publicCopy(t, m.bin)
	for _, test := range []struct {
		name    string
		command []string
		want    []string
	}{
		{"no OCI runtime", []string{"env", "PATH=" + empty, m.bin, "up", "--data-dir=" + m.data, "--run-dir=" + m.run},
			[]string{"crun", "apt-get install"}},
		{"no root, up", []string{"setpriv", "--reuid=65534", "--clear-groups", public, "up"}, []string{"root", "sudo"}},
		{"no root, server", []string{"setpriv", "--reuid=65534", "--clear-groups", public, "server"}, []string{"root", "sudo"}},
		{"no root, image", []string{"setpriv", "--reuid=65534", "--clear-groups", public, "image", "list"}, []string{"root", "sudo"}},
		{"data folder is a file", []string{m.bin, "up", "--data-dir=" + file, "--run-dir=" + m.run}, []string{file, "not a directory"}},
		{"root as data folder", []string{m.bin, "uninstall", "--yes", "--data-dir=/", "--run-dir=" + m.run}, []string{"--data-dir", `"/"`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, code := m.try(test.command[0], test.command[1:]...)
			if code == 0 {
				t.Errorf("succeeded: %s", out)
			}
			if err := contains(out, test.want...); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("damaged store", func(t *testing.T) {
		m.keelson(t, "up")
		m.keelson(t, "down")
		manifest := filepath.Join(m.data, "store", "badger", "MANIFEST")
		data, err := os.ReadFile(manifest)
		if err != nil {
			t.Fatal(err)
		}
		damaged := append([]byte{}, data...)
		for i := range damaged {
			damaged[i] ^= 0x55
		}
		if err := os.WriteFile(manifest, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		out, code := m.try("keelson", "up", "--timeout=30s")
		if code == 0 {
			t.Errorf("succeeded: %s", out)
		}
		if err := contains(out, "damaged", manifest); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(manifest, data, 0o600); err != nil {
			t.Fatal(err)
		}
		m.keelson(t, "up")
	})
}

// contains says which text is missing.
func contains(out string, texts ...string) error {
	for _, text := range texts {
		if !strings.Contains(out, text) {
			return fmt.Errorf("%q is not in: %s", text, out)
		}
	}
	return nil
}

// publicCopy puts the binary where every user can run it.
func publicCopy(t *testing.T, bin string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "keelson-public-") //nolint:usetesting // t.TempDir lies in a folder of root alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	data, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "keelson")
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}
