package clients

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"keelson.dev/keelson/plugins/controllers"
	"keelson.dev/keelson/plugins/scheduler"
	"keelson.dev/keelson/test/harness"
)

// step is one call of kubectl and what it has to say. In all texts $V is the name of
// the kubectl, for names of objects without a namespace, and $D a folder of its own.
type step struct {
	line  string   // arguments; those with spaces in single quotes
	stdin string   // piped in
	texts []string // what the output has; with "!" before it: has not
	fails bool     // it has to refuse
	again bool     // until it succeeds: what it asks for takes a while, or others change kinds meanwhile
	only  string   // the one kubectl that is to do it; empty: both
}

// topics are what both kubectls do, each in a namespace of its own. The first
// shortTopics are done when time is short.
var topics = []struct {
	name  string
	steps []step
}{
	{"create", createSteps}, {"apply", applySteps}, {"nodes", nodeSteps},
	{"look", lookSteps}, {"generators", generatorSteps}, {"change", changeSteps},
	{"rollout", rolloutSteps}, {"get", getSteps}, {"watch", waitSteps}, {"rights", rightsSteps},
	{"custom", customSteps}, {"all", allSteps},
}

const shortTopics = 3

func TestKubectl(t *testing.T) {
	t.Parallel()
	s := harness.Start(t)
	s.Nodes(t, "machine-a", "built-in-a", "machine-b", "built-in-b", "spare")
	s.Run(t, controllers.Plugin, `{}`)
	s.Run(t, scheduler.Plugin, `{"initialBackoff":"100ms"}`)
	for name, k := range kubectls(t, s) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if testing.Short() && name == "built-in" {
				t.Skip("the other one does the same")
			}
			for i, topic := range topics {
				if testing.Short() && i >= shortTopics {
					break
				}
				t.Run(topic.name, func(t *testing.T) {
					t.Parallel()
					dir := t.TempDir()
					k := k.In(t)
					k.Dir = dir
					ns := topic.name + "-" + name
					k.Want("", "create namespace "+ns, "created")
					k.Command = append(append([]string{}, k.Command...), "--namespace="+ns)
					writeFiles(t, dir, strings.NewReplacer("$V", name, "$NS", ns))
					for _, step := range topic.steps {
						if step.only != "" && step.only != name {
							continue
						}
						do(t, k, step, strings.NewReplacer("$V", name, "$D", dir, "$NS", ns))
					}
				})
			}
		})
	}
	t.Cleanup(func() { wantNoPanics(t) })
}

// kubectls are the machine's kubectl and that of our binary.
func kubectls(t *testing.T, s *harness.Server) map[string]*harness.Kubectl {
	t.Helper()
	builtIn := s.Kubectl(t, os.Args[0])
	builtIn.Env = []string{childMode + "=kubectl"}
	all := map[string]*harness.Kubectl{"built-in": builtIn}
	if path, err := exec.LookPath("kubectl"); err == nil {
		all["machine"] = s.Kubectl(t, path)
	} else if os.Getenv("CI") == "true" {
		t.Fatal("the executable kubectl is not installed, and CI has to have it")
	} else {
		t.Log("SKIPPED: the executable kubectl is not installed; only the built-in one is tested")
	}
	return all
}

func do(t *testing.T, k *harness.Kubectl, s step, names *strings.Replacer) {
	t.Helper()
	line, stdin := names.Replace(s.line), names.Replace(s.stdin)
	texts := make([]string, len(s.texts))
	for i, text := range s.texts {
		texts[i] = names.Replace(text)
	}
	switch {
	case s.fails:
		k.Refused(stdin, line, texts...)
	case s.again:
		harness.Eventually(t, "kubectl "+line, func() string {
			out, err := k.Run(stdin, harness.Fields(line)...)
			if err != nil {
				return out
			}
			for _, text := range texts {
				if !strings.Contains(out, text) {
					return fmt.Sprintf("no %q in %s", text, out)
				}
			}
			return ""
		})
	default:
		k.Want(stdin, line, texts...)
	}
}

// writeFiles copies testdata/kubectl to dir, with the names replaced.
func writeFiles(t *testing.T, dir string, names *strings.Replacer) {
	t.Helper()
	const from = "testdata/kubectl"
	err := filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(dir, strings.TrimPrefix(path, from))
		if d.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(to, []byte(names.Replace(string(data))), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}
