package apiserver

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
)

// simpleCRD defines PLURAL.bulk.example.
func simpleCRD(plural string) *apiextensionsv1.CustomResourceDefinition {
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: plural + ".bulk.example"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "bulk.example", Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: plural, Singular: plural + "x", Kind: strings.ToUpper(plural)},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{
					Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{
						"spec": {Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"size": {Type: "integer"}}},
					},
				}},
			}},
		},
	}
}

func bulk(plural string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "bulk.example", Version: "v1", Resource: plural}
}

func (h *harness) crdClient(t testing.TB) apiextensions.Interface {
	t.Helper()
	c, err := apiextensions.NewForConfig(h.as(t, "admin", "system:masters"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// define makes definitions and waits until their resources are served.
func (h *harness) define(t testing.TB, crds ...*apiextensionsv1.CustomResourceDefinition) {
	t.Helper()
	client := h.crdClient(t).ApiextensionsV1().CustomResourceDefinitions()
	for _, crd := range crds {
		if _, err := client.Create(t.Context(), crd, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	objects := dynamicClient(t, h.as(t, "admin", "system:masters"))
	for _, crd := range crds {
		gvr := schema.GroupVersionResource{Group: crd.Spec.Group, Version: crd.Spec.Versions[0].Name, Resource: crd.Spec.Names.Plural}
		eventually(t, crd.Name+" is served", func() bool {
			_, err := objects.Resource(gvr).List(t.Context(), metav1.ListOptions{})
			return err == nil
		})
	}
}

func custom(crd *apiextensionsv1.CustomResourceDefinition, name string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"size": int64(1)}}}
	u.SetAPIVersion(crd.Spec.Group + "/" + crd.Spec.Versions[0].Name)
	u.SetKind(crd.Spec.Names.Kind)
	u.SetName(name)
	return u
}

// TestRestartWithDefinitions checks that custom resources are served as soon as the server is ready.
func TestRestartWithDefinitions(t *testing.T) {
	dir := t.TempDir()
	h, stop := startIn(t, dir, "127.0.0.1:0")
	crd := simpleCRD("as")
	h.define(t, crd)
	objects := dynamicClient(t, h.as(t, "admin", "system:masters"))
	if _, err := objects.Resource(bulk("as")).Namespace("default").Create(t.Context(), custom(crd, "a"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	stop()
	for range 3 {
		h, stop = startIn(t, dir, "127.0.0.1:0")
		got, err := dynamicClient(t, h.as(t, "admin", "system:masters")).Resource(bulk("as")).Namespace("default").Get(t.Context(), "a", metav1.GetOptions{})
		if err != nil {
			t.Errorf("right after the restart: %v", err)
		} else if size, _, _ := unstructured.NestedInt64(got.Object, "spec", "size"); size != 1 {
			t.Errorf("right after the restart: got %v", got.Object)
		}
		groups, err := h.admin.Discovery().ServerResourcesForGroupVersion("bulk.example/v1")
		if err != nil || len(groups.APIResources) != 1 {
			t.Errorf("discovery right after the restart: %v, %v", groups, err)
		}
		stop()
	}
}

// TestDefinitionDeletion checks that a definition goes only when its objects are gone, which waits for their finalizers.
func TestDefinitionDeletion(t *testing.T) {
	h := start(t)
	crd := simpleCRD("ds")
	h.define(t, crd)
	objects := dynamicClient(t, h.as(t, "admin", "system:masters")).Resource(bulk("ds")).Namespace("default")
	held := custom(crd, "held")
	held.SetFinalizers([]string{"bulk.example/hold"})
	for _, u := range []*unstructured.Unstructured{held, custom(crd, "free")} {
		if _, err := objects.Create(t.Context(), u, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	crds := h.crdClient(t).ApiextensionsV1().CustomResourceDefinitions()
	if err := crds.Delete(t.Context(), crd.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the free object is deleted, the held one is not", func() bool {
		_, free := objects.Get(t.Context(), "free", metav1.GetOptions{})
		u, err := objects.Get(t.Context(), "held", metav1.GetOptions{})
		return apierrors.IsNotFound(free) && err == nil && u.GetDeletionTimestamp() != nil
	})
	got, err := crds.Get(t.Context(), crd.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatalf("the definition went before its objects: %v", err)
	}
	var terminating string
	for _, c := range got.Status.Conditions {
		if c.Type == apiextensionsv1.Terminating {
			terminating = string(c.Status)
		}
	}
	if terminating != "True" {
		t.Errorf("condition Terminating: got %q, want True", terminating)
	}
	if _, err := objects.Create(t.Context(), custom(crd, "late"), metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "create not allowed while custom resource definition is terminating") {
		t.Errorf("create while the definition is being deleted: got %v", err)
	}
	if _, err := objects.Patch(t.Context(), "held", types.JSONPatchType, []byte(`[{"op":"remove","path":"/metadata/finalizers"}]`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the definition is gone", func() bool {
		_, err := crds.Get(t.Context(), crd.Name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	// Made anew, it has no objects.
	h.define(t, crd)
	list, err := objects.List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 0 {
		t.Errorf("after the definition was made anew: %v, %v", list, err)
	}
}

// TestNameConflicts checks that the first definition to ask for a name has it, until it goes.
func TestNameConflicts(t *testing.T) {
	h := start(t)
	crds := h.crdClient(t).ApiextensionsV1().CustomResourceDefinitions()
	first, second := simpleCRD("cs"), simpleCRD("es")
	first.Spec.Names.ShortNames, second.Spec.Names.ShortNames = []string{"short"}, []string{"short"}
	second.Spec.Names.Kind = first.Spec.Names.Kind
	h.define(t, first)
	if _, err := crds.Create(t.Context(), second, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	accepted := func() string {
		got, err := crds.Get(t.Context(), second.Name, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		for _, c := range got.Status.Conditions {
			if c.Type == apiextensionsv1.NamesAccepted {
				return string(c.Status) + " " + c.Reason + " " + c.Message
			}
		}
		return ""
	}
	eventually(t, "the second one is refused its names", func() bool {
		return strings.HasPrefix(accepted(), `False`) && strings.Contains(accepted(), `is already in use`)
	})
	if err := crds.Delete(t.Context(), first.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second one has its names", func() bool { return strings.HasPrefix(accepted(), "True") })
}

// TestCustomInformer checks that an informer follows objects under churn.
func TestCustomInformer(t *testing.T) {
	h := start(t)
	crd := simpleCRD("is")
	h.define(t, crd)
	client := dynamicClient(t, h.as(t, "admin", "system:masters"))
	f := dynamicinformer.NewDynamicSharedInformerFactory(client, 0)
	informer := f.ForResource(bulk("is")).Informer()
	ctx, cancel := context.WithCancel(t.Context())
	f.Start(ctx.Done())
	t.Cleanup(func() { cancel(); f.Shutdown() })
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		t.Fatal("the informer does not sync")
	}
	objects := client.Resource(bulk("is")).Namespace("default")
	for i := range 20 {
		u, err := objects.Create(t.Context(), custom(crd, fmt.Sprintf("o%d", i)), metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := unstructured.SetNestedField(u.Object, int64(i), "spec", "size"); err != nil {
			t.Fatal(err)
		}
		if _, err := objects.Update(t.Context(), u, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if i%2 == 1 {
			if err := objects.Delete(t.Context(), u.GetName(), metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "the informer has what is left", func() bool {
		if len(informer.GetStore().List()) != 10 {
			return false
		}
		for _, o := range informer.GetStore().List() {
			u := o.(*unstructured.Unstructured)
			if size, _, _ := unstructured.NestedInt64(u.Object, "spec", "size"); u.GetName() != fmt.Sprintf("o%d", size) {
				return false
			}
		}
		return true
	})
}

// TestManyDefinitions makes a hundred at once, and asks for the documents after it.
func TestManyDefinitions(t *testing.T) {
	h := start(t)
	n := 100
	if testing.Short() {
		n = 20
	}
	var crds []*apiextensionsv1.CustomResourceDefinition
	for i := range n {
		crds = append(crds, simpleCRD(fmt.Sprintf("k%ds", i)))
	}
	began := time.Now()
	h.define(t, crds...)
	t.Logf("%d definitions served after %v", n, time.Since(began))
	last := fmt.Sprintf("k%ds", n-1)
	eventually(t, "discovery has all", func() bool {
		list, err := h.admin.Discovery().ServerResourcesForGroupVersion("bulk.example/v1")
		return err == nil && len(list.APIResources) == n
	})
	for _, path := range []string{"/openapi/v2", "/openapi/v3/apis/bulk.example/v1"} {
		began = time.Now()
		raw, err := h.admin.CoreV1().RESTClient().Get().AbsPath(path).SetHeader("Accept", "application/json").DoRaw(t.Context())
		if err != nil || !strings.Contains(string(raw), "/apis/bulk.example/v1/namespaces/{namespace}/"+last+"/{name}") {
			t.Errorf("%s (%d bytes) lacks %s: %v", path, len(raw), last, err)
		}
		t.Logf("%s: %d bytes after %v", path, len(raw), time.Since(began))
	}
}

// TestWrongDefinitions checks what is said of them against what a kube-apiserver says.
func TestWrongDefinitions(t *testing.T) {
	h := start(t)
	crds := h.crdClient(t).ApiextensionsV1().CustomResourceDefinitions()
	for _, test := range []struct {
		name  string
		spoil func(*apiextensionsv1.CustomResourceDefinition)
		want  string
	}{
		{"another name", func(c *apiextensionsv1.CustomResourceDefinition) { c.Name = "x.bulk.example" },
			`metadata.name: Invalid value: "x.bulk.example": must be spec.names.plural+"."+spec.group`},
		{"no type", schemaOf(func(s *apiextensionsv1.JSONSchemaProps) { s.Type = "" }),
			`spec.validation.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields`},
		{"a rule about a field that is not there", schemaOf(func(s *apiextensionsv1.JSONSchemaProps) {
			s.XValidations = apiextensionsv1.ValidationRules{{Rule: "self.nope < 10"}}
		}), `spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: Invalid value: `},
		{"a rule that costs too much", schemaOf(func(s *apiextensionsv1.JSONSchemaProps) {
			s.Properties["list"] = apiextensionsv1.JSONSchemaProps{Type: "array", Items: &apiextensionsv1.JSONSchemaPropsOrArray{
				Schema: &apiextensionsv1.JSONSchemaProps{Type: "array", Items: &apiextensionsv1.JSONSchemaPropsOrArray{
					Schema: &apiextensionsv1.JSONSchemaProps{Type: "string", XValidations: apiextensionsv1.ValidationRules{{Rule: "self.contains('a')"}}},
				}},
			}}
		}), `Forbidden: estimated rule cost exceeds budget by factor of more than 100x`},
		{"a default of another type", schemaOf(func(s *apiextensionsv1.JSONSchemaProps) {
			s.Properties["size"] = apiextensionsv1.JSONSchemaProps{Type: "integer", Default: &apiextensionsv1.JSON{Raw: []byte(`"x"`)}}
		}), `spec.validation.openAPIV3Schema.properties[spec].properties[size].default: Invalid value: "string":  in body must be of type integer: "string"`},
		{"no stored version", func(c *apiextensionsv1.CustomResourceDefinition) { c.Spec.Versions[0].Storage = false },
			`must have exactly one version marked as storage version`},
		{"a webhook without address", func(c *apiextensionsv1.CustomResourceDefinition) {
			c.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter}
		}, `spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook`},
		{"a selectable field that is not there", func(c *apiextensionsv1.CustomResourceDefinition) {
			c.Spec.Versions[0].SelectableFields = []apiextensionsv1.SelectableField{{JSONPath: ".spec.none"}}
		}, `spec.selectableFields[0].jsonPath: Invalid value: ".spec.none": is an invalid path: does not refer to a valid field`},
		{"a protected group", func(c *apiextensionsv1.CustomResourceDefinition) {
			c.Spec.Group, c.Name = "foo.k8s.io", "ws.foo.k8s.io"
		},
			`metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation`},
	} {
		t.Run(test.name, func(t *testing.T) {
			crd := simpleCRD("ws")
			test.spoil(crd)
			_, err := crds.Create(t.Context(), crd, metav1.CreateOptions{})
			if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

// schemaOf spoils the schema of spec.
func schemaOf(spoil func(*apiextensionsv1.JSONSchemaProps)) func(*apiextensionsv1.CustomResourceDefinition) {
	return func(c *apiextensionsv1.CustomResourceDefinition) {
		s := c.Spec.Versions[0].Schema.OpenAPIV3Schema
		spec := s.Properties["spec"]
		spoil(&spec)
		s.Properties["spec"] = spec
	}
}
