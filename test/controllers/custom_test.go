package controllers

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/utils/ptr"
)

// TestCustomResources checks that objects of a kind defined while the
// controllers run are garbage collected, and deleted with their namespace.
func TestCustomResources(t *testing.T) {
	c := start(t, `{}`)
	crds, err := apiextensions.NewForConfig(c.config)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := dynamic.NewForConfig(c.config)
	if err != nil {
		t.Fatal(err)
	}
	crd := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "boats.late.example"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "late.example", Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "boats", Kind: "Boat"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object"}}}},
		},
	}
	if _, err := crds.ApiextensionsV1().CustomResourceDefinitions().Create(c.ctx, crd, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	boats := objects.Resource(schema.GroupVersionResource{Group: "late.example", Version: "v1", Resource: "boats"})
	boat := func(namespace, name string, owner *unstructured.Unstructured) *unstructured.Unstructured {
		u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "late.example/v1", "kind": "Boat"}}
		u.SetName(name)
		if owner != nil {
			u.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "late.example/v1", Kind: "Boat", Name: owner.GetName(), UID: owner.GetUID(), BlockOwnerDeletion: new(true)}})
		}
		var made *unstructured.Unstructured
		c.eventually("boat "+name+" is made", func() string {
			if made, err = boats.Namespace(namespace).Create(c.ctx, u, metav1.CreateOptions{}); err != nil {
				return err.Error()
			}
			return ""
		})
		return made
	}
	owner := boat("default", "owner", nil)
	boat("default", "dinghy", owner)
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "chart", OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "late.example/v1", Kind: "Boat", Name: owner.GetName(), UID: owner.GetUID()},
	}}}
	if _, err := c.admin.CoreV1().ConfigMaps("default").Create(c.ctx, config, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := boats.Namespace("default").Delete(c.ctx, "owner", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationForeground)}); err != nil {
		t.Fatal(err)
	}
	c.eventually("owner and dependents are gone", func() string {
		for _, name := range []string{"owner", "dinghy"} {
			if _, err := boats.Namespace("default").Get(c.ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return name + " is still there"
			}
		}
		if _, err := c.admin.CoreV1().ConfigMaps("default").Get(c.ctx, "chart", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return "the config map is still there"
		}
		return ""
	})
	if _, err := c.admin.CoreV1().Namespaces().Create(c.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "bay"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	boat("bay", "lone", nil)
	if err := c.admin.CoreV1().Namespaces().Delete(c.ctx, "bay", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("the namespace is gone with its boat", func() string {
		if _, err := c.admin.CoreV1().Namespaces().Get(c.ctx, "bay", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return "it is still there"
		}
		if _, err := boats.Namespace("bay").Get(c.ctx, "lone", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return "the boat is still there"
		}
		return ""
	})
}
