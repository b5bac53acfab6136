package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestBackupAndRestore takes a backup of the example while it answers, removes the cluster, and makes it anew
// of the file alone, in another data folder.
func TestBackupAndRestore(t *testing.T) {
	m := newMachine(t, "b", "192.0.2.10")
	plug(t, m, nil)
	c := &cluster{machine: m, url: "http://192.0.2.10:30080/"}
	t.Cleanup(func() {
		if t.Failed() {
			c.diagnose(t)
		}
	})
	c.keelson(t, "up")
	c.testExample(t)
	c.kubectl(t, "create", "secret", "generic", "word", "--from-literal=is=swordfish")
	file := filepath.Join(filepath.Dir(m.data), "cluster.keelson")
	l := startLoad(m, c.url)
	out := c.keelson(t, "backup", file)
	l.endWithoutFailure(t)
	if !strings.Contains(out, "whole and right") || !strings.Contains(out, "their keys are in the file") {
		t.Errorf("keelson backup: %s", out)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s: %v, %v; want mode 0600", file, info, err)
	}
	ca := readFile(t, filepath.Join(m.data, "pki", "ca.crt"))
	uid := c.kubectl(t, "get", "namespace", "example", "--output=jsonpath={.metadata.uid}")
	if out, code := m.try("keelson", "restore", file); code == 0 || !strings.Contains(out, "runs") {
		t.Errorf("restore under a running server: exit code %d: %s", code, out)
	}
	c.keelson(t, "uninstall", "--yes")

	m.data = filepath.Join(filepath.Dir(m.data), "fresh")
	begin := time.Now()
	c.keelson(t, "restore", file)
	c.keelson(t, "up")
	t.Logf("restore and up took %.1f s", time.Since(begin).Seconds())
	importImages(t, c)
	// Images are not in a backup: pods that looked for theirs already would wait up to a minute to look again.
	c.kubectl(t, "--namespace=example", "delete", "pods", "--all", "--wait=false")
	if got := readFile(t, filepath.Join(m.data, "pki", "ca.crt")); got != ca {
		t.Error("the restored cluster has another authority")
	}
	if got := c.kubectl(t, "get", "namespace", "example", "--output=jsonpath={.metadata.uid}"); got != uid {
		t.Errorf("namespace example has uid %s, it was %s", got, uid)
	}
	if got := c.kubectl(t, "get", "secret", "word", "--output=jsonpath={.data.is}"); got != "c3dvcmRmaXNo" {
		t.Errorf("secret: %q", got)
	}
	client := c.client()
	took := eventually(t, 90*time.Second, "an answer of the restored example", func() error { _, err := c.get(client, c.url); return err })
	t.Logf("it answered after %.1f s", took.Seconds())
	c.rolledOut(t)
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
