package clients

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"keelson.dev/keelson/test/harness"
)

const (
	mapsPath  = "/api/v1/namespaces/default/configmaps"
	victim    = mapsPath + "/victim"
	bagsPath  = "/apis/abuse.example.org/v1/namespaces/default/bags"
	jsonType  = "application/json"
	yamlType  = "application/yaml"
	protoType = "application/vnd.kubernetes.protobuf"
)

// request is one that a client should not make, and the codes that are a right
// answer to it.
type request struct {
	name, method, path, contentType, accept, body string
	want                                          []int
}

func object(data string) string {
	return `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"abuse"},"data":` + data + `}`
}

func withMeta(fields string) string {
	return `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"abuse-",` + fields + `}}`
}

// many is a JSON list or object of n parts.
func many(n int, part string) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strings.ReplaceAll(part, "%d", fmt.Sprint(i)))
	}
	return b.String()
}

func deep(n int) string {
	return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n)
}

func bag(content string) string {
	return `{"apiVersion":"abuse.example.org/v1","kind":"Bag","metadata":{"generateName":"b-"},"spec":` + content + `}`
}

// laughs is a YAML document whose aliases stand for a billion strings.
func laughs() string {
	s := "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
	for i := 1; i < 9; i++ {
		s += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10), ","))
	}
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: abuse}\n" + s
}

// copies is a JSON patch that doubles a value n times.
func copies(n int) string {
	return `[{"op":"add","path":"/data","value":{"x":"0123456789"}},{"op":"copy","from":"/data","path":"/metadata/annotations"}` +
		strings.Repeat(`,{"op":"copy","from":"/metadata","path":"/metadata/annotations/a"}`, n) + `]`
}

func bodies() []request {
	const (
		post, patch, put = http.MethodPost, http.MethodPatch, http.MethodPut
		merge            = "application/merge-patch+json"
		jsonPatch        = "application/json-patch+json"
		strategic        = "application/strategic-merge-patch+json"
		apply            = "application/apply-patch+yaml"
	)
	mb := func(n int) string { return strings.Repeat("x", n<<20) }
	bad := []int{400}
	list := []request{
		{"empty", post, mapsPath, jsonType, "", "", bad},
		{"null", post, mapsPath, jsonType, "", "null", []int{400, 422}},
		{"list", post, mapsPath, jsonType, "", "[]", bad},
		{"string", post, mapsPath, jsonType, "", `"x"`, bad},
		{"cut", post, mapsPath, jsonType, "", object(`{"a":"b"`)[:40], bad},
		{"no UTF-8", post, mapsPath, jsonType, "", object("{\"a\":\"\xff\xfe\x00\"}"), bad},
		{"number for string", post, mapsPath, jsonType, "", object(`{"a":1}`), bad},
		{"huge number", post, "/api/v1/namespaces/default/pods", jsonType, "", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"priority":1e400}}`, bad},
		{"wrong kind", post, mapsPath, jsonType, "", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"}}`, bad},
		{"no kind", post, mapsPath, jsonType, "", `{"metadata":{}}`, []int{400, 422}},
		{"other namespace", post, mapsPath, jsonType, "", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"other"}}`, bad},
		{"unknown field, strict", post, mapsPath + "?fieldValidation=Strict", jsonType, "", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"x":1}`, bad},
		{"duplicate field, strict", post, mapsPath + "?fieldValidation=Strict", jsonType, "", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"a":"1"},"data":{"a":"1"}}`, bad},
		{"deep JSON", post, mapsPath, jsonType, "", object(deep(10000)), bad},
		{"deeper JSON", post, mapsPath, jsonType, "", object(deep(300000)), bad},
		{"deep lists", post, mapsPath, jsonType, "", strings.Repeat("[", 1_000_000), bad},
		{"deep custom object", post, bagsPath, jsonType, "", bag(deep(20000)), []int{400, 422}},
		{"YAML", post, mapsPath, yamlType, "", "a: b: c: [", bad},
		{"YAML tabs", post, mapsPath, yamlType, "", "\t\ta", bad},
		{"YAML laughs", post, mapsPath, yamlType, "", laughs(), bad},
		{"deep YAML", post, mapsPath, yamlType, "", strings.Repeat("[", 100_000), bad},
		{"deep YAML maps", post, mapsPath, yamlType, "", strings.Repeat("{a: ", 100_000), bad},
		{"YAML that refers to itself", post, mapsPath, yamlType, "", "apiVersion: v1\nkind: ConfigMap\nmetadata: &m {labels: *m}\n", bad},
		{"protobuf without magic", post, mapsPath, protoType, "", "nonsense", bad},
		{"protobuf magic only", post, mapsPath, protoType, "", "k8s\x00", bad},
		{"protobuf garbage", post, mapsPath, protoType, "", "k8s\x00" + strings.Repeat("\xff\xff\xff\xff\x0f", 1000), bad},
		{"protobuf length", post, mapsPath, protoType, "", "k8s\x00\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", bad},
		{"protobuf group", post, mapsPath, protoType, "", "k8s\x00" + strings.Repeat("\x0b", 100_000), bad},
		{"CBOR", post, mapsPath, "application/cbor", "", "\xd9\xd9\xf7\x9f", []int{400, 415}},
		{"text", post, mapsPath, "text/plain", "", "hello", []int{415}},
		{"no type", post, mapsPath, "/;;;", "", object("{}"), []int{400, 415}},
		{"unknown Accept", http.MethodGet, mapsPath, "", "image/png", "", []int{406}},
		{"bad Accept", http.MethodGet, mapsPath, "", ";;;,,,=", "", []int{406}},
		{"Table of the wrong version", http.MethodGet, mapsPath, "", "application/json;as=Table;v=v7;g=meta.k8s.io", "", []int{406}},
		{"too large", post, mapsPath, jsonType, "", object(`{"a":"` + mb(4) + `"}`), []int{413}},
		{"too large a patch", patch, victim, merge, "", `{"data":{"a":"` + mb(4) + `"}}`, []int{413}},
		{"a field too large", post, mapsPath, jsonType, "", object(`{"a":"` + mb(2) + `"}`), []int{422}},
		{"annotations too large", post, mapsPath, jsonType, "", withMeta(`"annotations":{"a":"` + strings.Repeat("x", 300_000) + `"}`), []int{422}},
		{"label too long", post, mapsPath, jsonType, "", withMeta(`"labels":{"a":"` + strings.Repeat("x", 100_000) + `"}`), []int{422}},
		{"name too long", post, mapsPath, jsonType, "", withMeta(`"name":"` + strings.Repeat("x", 1_000_000) + `"`), []int{422}},
		{"bad finalizers", post, mapsPath, jsonType, "", withMeta(`"finalizers":[` + many(500, `"no finalizer %d!"`) + `]`), []int{422}},
		{"merge patch", patch, victim, merge, "", "{", bad},
		{"deep merge patch", patch, victim, merge, "", `{"data":` + deep(20000) + `}`, []int{400, 422}},
		{"strategic patch", patch, victim, strategic, "", `[1]`, bad},
		{"deep strategic patch", patch, victim, strategic, "", `{"metadata":` + deep(20000) + `}`, []int{400, 422}},
		{"directive", patch, victim, strategic, "", `{"metadata":{"$patch":"explode"}}`, []int{400, 422, 500}},
		{"JSON patch", patch, victim, jsonPatch, "", `{"op":"add"}`, bad},
		{"JSON patch path", patch, victim, jsonPatch, "", `[{"op":"replace","path":"/data/x/y/z/-1","value":1}]`, []int{400, 422}},
		{"JSON patch index", patch, victim, jsonPatch, "", `[{"op":"add","path":"/metadata/finalizers","value":[]},{"op":"add","path":"/metadata/finalizers/99999999999999999999","value":"a/b"}]`, []int{400, 422}},
		{"too many operations", patch, victim, jsonPatch, "", "[" + many(10001, `{"op":"test","path":"/kind","value":"ConfigMap"}`) + "]", []int{413}},
		{"copies", patch, victim, jsonPatch, "", copies(9000), []int{400, 413, 422}},
		{"apply", patch, victim + "?fieldManager=x", apply, "", "a: [", bad},
		{"apply without manager", patch, victim, apply, "", "apiVersion: v1\nkind: ConfigMap\n", []int{400, 422}},
		{"apply laughs", patch, victim + "?fieldManager=x", apply, "", laughs(), bad},
		{"unknown patch", patch, victim, "application/x-patch", "", "{}", []int{415}},
		{"selector", http.MethodGet, mapsPath + "?labelSelector=%21%21a%3D%3D%3Db", "", "", "", bad},
		{"field selector", http.MethodGet, mapsPath + "?fieldSelector=a%3Db", "", "", "", bad},
		{"limit", http.MethodGet, mapsPath + "?limit=many", "", "", "", bad},
		{"continue", http.MethodGet, mapsPath + "?limit=1&continue=" + strings.Repeat("A", 10_000), "", "", "", bad},
		{"version", http.MethodGet, mapsPath + "?resourceVersion=-7", "", "", "", bad},
		{"watch of the future", http.MethodGet, mapsPath + "?watch=1&timeoutSeconds=1&resourceVersion=nine", "", "", "", bad},
		{"update without version", put, victim, jsonType, "", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"other"}}`, bad},
		{"method", "BREW", mapsPath, "", "", "", []int{405}},
		{"path", http.MethodGet, "/api/v1/namespaces/default/configmaps/../../../../etc/passwd%00", "", "", "", []int{301, 400, 404}},
		{"delete options", http.MethodDelete, victim, jsonType, "", `{"gracePeriodSeconds":"x"}`, bad},
		{"delete preconditions", http.MethodDelete, victim, jsonType, "", `{"preconditions":{"uid":"no"}}`, []int{409}},
		{"header", http.MethodGet, mapsPath, "", strings.Repeat("a/b,", 20_000), "", []int{406}},
		{"watch with Upgrade", http.MethodGet, mapsPath + "?watch=1&timeoutSeconds=1&resourceVersion=x", "", "", "", bad},
		{"exec without stream", post, "/api/v1/namespaces/default/pods/none/exec?command=x", "", "", "", []int{400, 404}},
	}
	fine := []int{200, 201}
	return append(list,
		request{"many labels", post, mapsPath, jsonType, "", withMeta(`"labels":{` + many(5000, `"l%d":"v"`) + `}`), fine},
		request{"many annotations", post, mapsPath, jsonType, "", withMeta(`"annotations":{` + many(5000, `"a%d":"v"`) + `}`), fine},
		request{"many finalizers", post, mapsPath, jsonType, "", withMeta(`"finalizers":[` + many(3000, `"example.org/f%d"`) + `]`), fine},
		request{"many owners", post, mapsPath, jsonType, "", withMeta(`"ownerReferences":[` + many(1000, `{"apiVersion":"v1","kind":"ConfigMap","name":"o%d","uid":"u%d"}`) + `]`), fine},
		request{"a field as large as may be", post, mapsPath, jsonType, "", strings.Replace(object(`{"a":"`+strings.Repeat("x", 1<<20-1)+`"}`), "abuse", "large", 1), fine},
		request{"a large custom object", post, bagsPath, jsonType, "", bag(`{"a":"` + strings.Repeat("x", 1_400_000) + `"}`), fine},
		request{"long selector", http.MethodGet, mapsPath + "?labelSelector=" + strings.TrimSuffix(strings.Repeat("a%3Db,", 20_000), ","), "", "", "", fine},
	)
}

// abused is a server with a victim and a kind without a schema.
func abused(t *testing.T) (*harness.Server, *http.Client) {
	t.Helper()
	s := harness.Start(t, func(o *harness.Options) { o.Log = panicLog() })
	if _, err := s.Admin.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "victim"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	keep := true
	crd := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "bags.abuse.example.org"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "abuse.example.org", Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "bags", Singular: "bag", Kind: "Bag", ListKind: "BagList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{
				OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &keep},
			}}},
		},
	}
	crds := apiextensions.NewForConfigOrDie(s.Config).ApiextensionsV1().CustomResourceDefinitions()
	if _, err := crds.Create(t.Context(), crd, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	client, err := rest.HTTPClientFor(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	harness.Eventually(t, "the kind is served", func() string {
		resp, err := client.Get(s.Config.Host + bagsPath)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return resp.Status
		}
		return ""
	})
	return s, client
}

// TestBadRequests sends what no client should. Each is answered with a Status that
// says so, and the server goes on.
func TestBadRequests(t *testing.T) {
	s, client := abused(t)
	for _, r := range bodies() {
		t.Run(r.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), r.method, s.Config.Host+r.path, strings.NewReader(r.body))
			if err != nil {
				t.Fatal(err)
			}
			if r.contentType != "" {
				req.Header.Set("Content-Type", r.contentType)
			}
			if r.accept != "" {
				req.Header.Set("Accept", r.accept)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			data, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(r.want, resp.StatusCode) {
				t.Errorf("%s, want one of %v: %.300s", resp.Status, r.want, data)
			}
			if resp.StatusCode >= 400 {
				wantStatus(t, resp, data)
			}
		})
	}
	if m, err := s.Admin.CoreV1().ConfigMaps("default").Get(t.Context(), "victim", metav1.GetOptions{}); err != nil || len(m.Data) > 0 {
		t.Errorf("the victim is %v, %v; want it as it was", m, err)
	}
	wantNoPanics(t)
}

// wantStatus demands that an error's body is a Status that agrees with its code.
// Some errors come before the request is understood, and are plain text as upstream's.
func wantStatus(t *testing.T, resp *http.Response, data []byte) {
	t.Helper()
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), jsonType) {
		if resp.StatusCode != http.StatusNotFound && len(bytes.TrimSpace(data)) == 0 {
			t.Errorf("%s without a word", resp.Status)
		}
		return
	}
	var status metav1.Status
	if err := json.Unmarshal(data, &status); err != nil {
		t.Fatalf("%v: %.300s", err, data)
	}
	if int(status.Code) != resp.StatusCode || status.Status != metav1.StatusFailure || status.Message == "" || len(data) > 5<<20 {
		t.Errorf("status %s, code %d, message of %d bytes in %s", status.Status, status.Code, len(status.Message), resp.Status)
	}
}

// TestLargeList reads 12 MB in one list, in each form, and in pages.
func TestLargeList(t *testing.T) {
	s, _ := abused(t)
	secrets := s.Admin.CoreV1().Secrets("default")
	word := base64.StdEncoding.EncodeToString(make([]byte, 700_000))
	const n = 12
	for i := range n {
		if _, err := secrets.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("s%d", i)}, StringData: map[string]string{"a": word}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, form := range []string{jsonType, protoType} {
		config := rest.CopyConfig(s.Config)
		config.AcceptContentTypes, config.ContentType = form, form
		client, err := corev1Client(config)
		if err != nil {
			t.Fatal(err)
		}
		for _, limit := range []int64{0, 5} {
			got, pages := 0, 0
			for next := ""; ; pages++ {
				list, err := client.Secrets("default").List(t.Context(), metav1.ListOptions{Limit: limit, Continue: next})
				if err != nil {
					t.Fatal(err)
				}
				got += meta.LenList(list)
				if next = list.Continue; next == "" {
					break
				}
			}
			if got != n {
				t.Errorf("%s in pages of %d: %d objects, want %d", form, limit, got, n)
			}
		}
	}
	wantNoPanics(t)
}
