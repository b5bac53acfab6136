package apiserver

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/test/need"
)

// kubectl runs the real kubectl against the server.
type kubectl struct {
	t      *testing.T
	config string
}

func newKubectl(t *testing.T, h *harness) *kubectl {
	t.Helper()
	need.Program(t, "kubectl")
	pair, err := h.pki.ClientPair("admin", []string{"system:masters"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	enc := base64.StdEncoding.EncodeToString
	config := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://127.0.0.1:%d", certificate-authority-data: %s}}]
users: [{name: u, user: {client-certificate-data: %s, client-key-data: %s}}]
`, h.port(), enc(h.pki.CAPEM()), enc(pair.Certificate), enc(pair.PrivateKey))
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return &kubectl{t: t, config: path}
}

// run returns what kubectl prints, both streams.
func (k *kubectl) run(stdin string, args ...string) (string, error) {
	k.t.Helper()
	cmd := exec.CommandContext(k.t.Context(), "kubectl", args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+k.config, "HOME="+filepath.Dir(k.config), "EDITOR=sed -i s/zebra/yak/")
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// want runs kubectl and demands that the output has each of the texts.
func (k *kubectl) want(stdin, args string, texts ...string) string {
	k.t.Helper()
	out, err := k.run(stdin, strings.Fields(args)...)
	if err != nil {
		k.t.Errorf("kubectl %s: %v\n%s", args, err, out)
		return out
	}
	for _, text := range texts {
		if !strings.Contains(out, text) {
			k.t.Errorf("kubectl %s: no %q in\n%s", args, text, out)
		}
	}
	return out
}

// refused runs kubectl and demands that it fails and says each of the texts.
func (k *kubectl) refused(stdin, args string, texts ...string) {
	k.t.Helper()
	out, err := k.run(stdin, strings.Fields(args)...)
	if err == nil {
		k.t.Errorf("kubectl %s: was done: %s", args, out)
	}
	for _, text := range texts {
		if !strings.Contains(out, text) {
			k.t.Errorf("kubectl %s: no %q in\n%s", args, text, out)
		}
	}
}

const manifests = "../../test/example/manifests"

func TestKubectl(t *testing.T) {
	h := start(t)
	k := newKubectl(t, h)
	if _, err := h.admin.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Run("looking around", func(t *testing.T) {
		k := &kubectl{t, k.config}
		k.want("", "version", "Server Version: v1.37")
		k.want("", "api-resources", "pods", "deploy", "apps/v1", "keelson.dev/v1alpha1")
		k.want("", "api-versions", "apps/v1", "rbac.authorization.k8s.io/v1")
		k.want("", "get all", "service/kubernetes", "10.96.0.1", "443/TCP")
		k.want("", "get ns", "kube-system", "Active")
		k.want("", "explain deployment.spec.strategy", "rollingUpdate", "KIND:", "Deployment")
		k.want("", "explain plugin.spec", "source")
		k.want("", "auth can-i create pods", "yes")
		k.want("", "auth whoami", "admin", "system:masters")
		k.want("", "get --raw /readyz?verbose", "[+]store ok", "[+]bootstrap ok")
		k.want("", "describe clusterrole view", "deployments.apps")
		k.want("", "cluster-info", "is running at")
	})
	t.Run("the example application", func(t *testing.T) {
		k := &kubectl{t, k.config}
		k.want("", "apply -f "+manifests, "created")
		k.want("", "apply -f "+manifests, "unchanged")
		k.want("", "diff -f "+manifests)
		k.want("", "apply --server-side --force-conflicts -f "+manifests, "serverside-applied")
		k.want("", "apply --dry-run=server -f "+manifests)
		k.want("", "get -f "+manifests+" -o name", "deployment.apps/")
		k.want("", "get deploy,svc,cm,secret -A -o wide", "deployment.apps/", "secret/")
		k.want("", "describe -f "+manifests, "Replicas:", "Endpoints:")
		k.want("", "delete -f "+manifests+" --wait=false", "deleted")
	})
	t.Run("one object's life", func(t *testing.T) {
		k := &kubectl{t, k.config}
		k.want("", "create cm animals --from-literal=a=zebra", "configmap/animals created")
		k.want("", "edit cm animals", "edited")
		k.want("", "get cm animals -o jsonpath={.data.a}", "yak")
		k.want("", "label cm animals kind=zoo", "labeled")
		k.want("", "annotate cm animals x=y", "annotated")
		k.want("", "get cm -l kind=zoo", "animals")
		k.want("", "get cm --field-selector metadata.name=animals -o yaml", "kind: zoo")
		k.want("", `patch cm animals --type merge -p {"data":{"b":"c"}}`, "patched")
		k.want("", `patch cm animals --type json -p [{"op":"remove","path":"/data/b"}]`, "patched")
		k.want("", `patch cm animals -p {"data":{"d":"e"}}`, "patched")
		k.want("", "get cm animals --show-managed-fields -o yaml", "kubectl-edit", "kubectl-patch")
		k.want("", "delete cm animals", "deleted")
		k.want("", "run p --image=i --restart=Never", "pod/p created")
		k.want("", "get po p -o wide", "p", "0/1", "Pending")
		k.want("", "describe po p", "Status:", "Pending", "Service Account:")
		k.want("", "delete po p --now", "deleted")
		k.want("", "create deploy d --image=i --replicas=2", "created")
		k.want("", "scale deploy d --replicas=4", "scaled")
		k.want("", "set image deploy/d i=j", "image updated")
		k.want("", "get deploy d", "0/4")
		k.want("", "expose deploy d --port=80", "exposed")
		k.want("", "get svc d", "ClusterIP", "10.")
		k.want("", "delete deploy,svc d", "deleted")
		k.want("", "create sa robot", "created")
		k.want("", "create token robot", "ey")
		k.want("", "create role r --verb=get --resource=pods", "created")
		k.want("", "create rolebinding b --role=r --serviceaccount=default:robot", "created")
		eventually(t, "the robot may get pods", func() bool {
			out, _ := k.run("", "auth", "can-i", "get", "pods", "--as", "system:serviceaccount:default:robot")
			return strings.HasPrefix(out, "yes")
		})
		k.want("", "auth can-i --list --as system:serviceaccount:default:robot", "pods", "[get]")
	})
	t.Run("wrong input", func(t *testing.T) {
		k := &kubectl{t, k.config}
		k.refused("", "get po nope", `Error from server (NotFound): pods "nope" not found`)
		k.refused("", "get cars", `the server doesn't have a resource type "cars"`)
		k.refused(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"container":[]}}`, "create -f -",
			`unknown field "spec.container"`)
		k.refused(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[]}}`, "create -f -",
			"spec.containers: Required value")
		k.refused(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"S"},"spec":{"ports":[{"port":99999}]}}`, "create -f -",
			`metadata.name: Invalid value: "S"`, "spec.ports[0].port: Invalid value: 99999")
		k.refused(`{"apiVersion":"v2","kind":"Pod","metadata":{"name":"p"}}`, "create -f -", `no matches for kind "Pod" in version "v2"`)
		k.refused("", "create ns default", `(AlreadyExists): namespaces "default" already exists`)
		k.refused("", "delete ns kube-system", "this namespace may not be deleted")
		k.refused("", "get po --as ann", `User "ann" cannot list resource "pods" in API group "" in the namespace "default"`)
		k.refused("", "logs nope", `pods "nope" not found`)
		k.refused("", "scale deploy nope --replicas=1", "not found")
	})
}
