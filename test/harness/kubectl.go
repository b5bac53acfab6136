package harness

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Kubeconfig writes a kubeconfig of the administrator to path.
func (s *Server) Kubeconfig(path string) error {
	c := clientcmdapi.NewConfig()
	c.CurrentContext = "test"
	c.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: "admin"}
	c.Clusters["test"] = &clientcmdapi.Cluster{Server: s.Config.Host, CertificateAuthorityData: s.Config.CAData}
	c.AuthInfos["admin"] = &clientcmdapi.AuthInfo{ClientCertificateData: s.Config.CertData, ClientKeyData: s.Config.KeyData}
	return clientcmd.WriteToFile(*c, path)
}

// Kubectl runs a kubectl against a server.
type Kubectl struct {
	T testing.TB
	// Command is the executable and its first arguments.
	Command []string
	// Env is added to the environment.
	Env []string
	// Config is the kubeconfig; its folder is HOME and takes kubectl's caches.
	Config string
	// Dir is the folder in which kubectl runs. Default: this process's.
	Dir string
}

// Kubectl is the kubectl that command starts, against the server.
func (s *Server) Kubectl(t testing.TB, command ...string) *Kubectl {
	t.Helper()
	config := filepath.Join(t.TempDir(), "config")
	if err := s.Kubeconfig(config); err != nil {
		t.Fatal(err)
	}
	return &Kubectl{T: t, Command: command, Config: config}
}

// In is k for a subtest.
func (k *Kubectl) In(t testing.TB) *Kubectl {
	in := *k
	in.T = t
	return &in
}

// Cmd is the command kubectl args, not started.
func (k *Kubectl) Cmd(args ...string) *exec.Cmd {
	all := append(append([]string{}, k.Command...), args...)
	cmd := exec.CommandContext(k.T.Context(), all[0], all[1:]...)
	cmd.Env = append(append(os.Environ(), "KUBECONFIG="+k.Config, "HOME="+filepath.Dir(k.Config), "EDITOR=sed -i s/zebra/yak/"), k.Env...)
	cmd.Dir = k.Dir
	return cmd
}

// Run returns what kubectl prints, both streams.
func (k *Kubectl) Run(stdin string, args ...string) (string, error) {
	cmd := k.Cmd(args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// Fields splits a line into arguments at its spaces, but not at those in single
// quotes.
func Fields(line string) []string {
	quoted := false
	args := strings.FieldsFunc(line, func(r rune) bool {
		if r == '\'' {
			quoted = !quoted
		}
		return r == ' ' && !quoted
	})
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "'", "")
	}
	return args
}

// Want runs kubectl and demands that it succeeds and that the output has each of
// the texts, or, of one with "!" before it, has it not. stdin is piped in.
func (k *Kubectl) Want(stdin, line string, texts ...string) string {
	k.T.Helper()
	out, err := k.Run(stdin, Fields(line)...)
	if err != nil {
		k.T.Errorf("kubectl %s: %v\n%s", line, err, out)
		return out
	}
	k.has(line, out, texts)
	return out
}

// Refused runs kubectl and demands that it fails and says each of the texts.
func (k *Kubectl) Refused(stdin, line string, texts ...string) string {
	k.T.Helper()
	out, err := k.Run(stdin, Fields(line)...)
	if err == nil {
		k.T.Errorf("kubectl %s: was done: %s", line, out)
	}
	k.has(line, out, texts)
	return out
}

func (k *Kubectl) has(line, out string, texts []string) {
	k.T.Helper()
	for _, text := range texts {
		if not, ok := strings.CutPrefix(text, "!"); ok {
			if strings.Contains(out, not) {
				k.T.Errorf("kubectl %s: %q in\n%s", line, not, out)
			}
		} else if !strings.Contains(out, text) {
			k.T.Errorf("kubectl %s: no %q in\n%s", line, text, out)
		}
	}
}
