package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// program builds a program of this repository and gives its file.
func program(t *testing.T, path string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "program")
	build := exec.Command("go", "build", "-o", file, path)
	build.Dir = repository
	must(t, build)
	return file
}

// comparison is what keelson plugins compare prints.
type comparison struct {
	Same, Different, Dropped int
	Message                  string
	Differences              []struct{ Subject, Active, Shadow, ShadowReason string }
}

// compared waits until so many decisions are the same and different.
func (d *docs) compared(t *testing.T, name string, same, different int) (c comparison) {
	t.Helper()
	eventually(t, 2*time.Minute, "the comparison of "+name, func() error {
		c = comparison{}
		out := must(t, d.shell(d.dir, "keelson plugins compare "+name+" -o json"))
		if err := json.Unmarshal([]byte(out), &c); err != nil {
			return err
		}
		if c.Same != same || c.Different != different {
			return errors.New(out)
		}
		return nil
	})
	return c
}

// testShadow: a scheduler that decides otherwise, and tries to bind, is the shadow of the
// built-in one: the comparison shows where they differ, and only the active one binds. Then
// the same of an admission plugin.
func (d *docs) testShadow(t *testing.T) {
	run := func(line string) string { t.Helper(); return must(t, d.shell(d.dir, line)) }
	run("keelson plugins shadow scheduler --path " + program(t, "./test/plugins/picky") + " --accept")
	pid := func() string {
		return d.kubectl(t, "get", "plugin", "scheduler", "--output=jsonpath={.status.pid} {.status.shadow.pid}")
	}
	before := pid()
	d.kubectl(t, "create", "namespace", "shadow")
	node := d.kubectl(t, "get", "nodes", "--output=jsonpath={.items[0].metadata.name}")
	for i := range 6 {
		d.kubectl(t, "run", fmt.Sprintf("p%d", i), "--namespace=shadow", "--image=example/counter:v1",
			"--labels="+[]string{"plain=yes", "picky.example.keelson.dev=yes"}[i%2])
	}
	d.kubectl(t, "wait", "--namespace=shadow", "--for=condition=PodScheduled", "pods", "--all", "--timeout=120s")
	c := d.compared(t, "scheduler", 3, 3)
	for _, one := range c.Differences {
		if !strings.HasPrefix(one.Subject, "shadow/p") || one.Active != node || one.Shadow != "unschedulable" || one.ShadowReason != "it is picky" {
			t.Errorf("difference: got %+v", one)
		}
	}
	if c.Message != "" || c.Dropped != 0 {
		t.Errorf("got %+v", c)
	}
	for line := range strings.SplitSeq(d.kubectl(t, "get", "pods", "--namespace=shadow", "--output=jsonpath={range .items[*]}{.spec.nodeName}\n{end}"), "\n") {
		if line = strings.TrimSpace(line); line != "" && line != node {
			t.Errorf("a pod is on %q, want %s", line, node)
		}
	}
	if log := run("keelson plugins logs scheduler"); strings.Count(log, "the shadow of a plugin may only read, not create pods") < 6 {
		t.Errorf("the shadow was not kept from binding:\n%s", log)
	}
	const shadow = " --as=system:plugin-shadow:scheduler --as-group=system:plugin-shadows"
	run("kubectl get pods --namespace=shadow" + shadow)
	for _, write := range []string{
		"run another --image=example/counter:v1", "run another --image=example/counter:v1 --dry-run=server", "delete pods --namespace=shadow --all",
		"create configmap a", "create token default", "auth can-i list pods", "get --raw /api/v1/namespaces/shadow/pods/p0/exec?command=true",
	} {
		out, err := d.shell(d.dir, "kubectl "+write+shadow+" 2>&1").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "the shadow of a plugin may only read") {
			t.Errorf("%s: %v, %s", write, err, out)
		}
	}
	if now := pid(); now != before {
		t.Errorf("the processes were %s, are %s", before, now)
	}
	run("keelson plugins shadow scheduler --off")
	d.kubectl(t, "delete", "namespace", "shadow", "--wait=false")
	d.testAdmissionShadow(t, run)
}

// testAdmissionShadow: the shadow forbids another key than the active one.
func (d *docs) testAdmissionShadow(t *testing.T, run func(string) string) {
	file := program(t, "./cli/scaffold/admission")
	name := strings.TrimSpace(run(`sed -n 's/^\tname = "\(.*\)"$/\1/p' ` + repositoryFile(t, "cli/scaffold/admission/main.go")))
	run("echo 'forbidden: one' >one.yaml; echo 'forbidden: two' >two.yaml")
	run("keelson plugins swap " + name + " --path " + file + " --accept --config one.yaml")
	run("keelson plugins shadow " + name + " --path " + file + " --accept --config two.yaml")
	for _, key := range []string{"one", "two", "three"} {
		out, err := d.shell(d.dir, "kubectl create configmap shadow-"+key+" --from-literal="+key+"=x 2>&1").CombinedOutput()
		if refused := err != nil; refused != (key == "one") {
			t.Errorf("config map %s: %v: %s", key, err, out)
		}
	}
	// Both hooks are asked about each; the first changes all of them alike.
	c := d.compared(t, name, 4, 2)
	var got []string
	for _, one := range c.Differences {
		got = append(got, one.Subject+": "+one.Active+" | "+one.Shadow)
	}
	want := "keys: create configmaps default/shadow-two: allowed | denied: data.two: this key is forbidden; " +
		"keys: create configmaps default/shadow-one: denied: data.one: this key is forbidden | allowed"
	if text := strings.Join(got, "; "); text != want {
		t.Errorf("got %s\nwant %s", text, want)
	}
	run("kubectl delete plugin " + name + " && kubectl delete configmap shadow-two shadow-three && rm one.yaml two.yaml")
}

func repositoryFile(t *testing.T, path string) string {
	t.Helper()
	full, err := filepath.Abs(filepath.Join(repository, path))
	if err != nil {
		t.Fatal(err)
	}
	return full
}
