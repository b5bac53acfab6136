package apiserver

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	crdhelpers "k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdlisters "k8s.io/apiextensions-apiserver/pkg/client/listers/apiextensions/v1"
	crdbuilder "k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// crdDocuments makes the OpenAPI documents of custom resources.
type crdDocuments struct {
	lister crdlisters.CustomResourceDefinitionLister

	mu   sync.Mutex // guards made
	made map[string]crdDocument
}

// crdDocument is version 2 of one definition.
type crdDocument struct {
	version string
	spec    *spec.Swagger
}

func newCRDDocuments(s *Server) *crdDocuments {
	return &crdDocuments{
		lister: s.crds.Informers.Apiextensions().V1().CustomResourceDefinitions().Lister(), made: map[string]crdDocument{},
	}
}

// established are the definitions whose resources are served, by name.
func (d *crdDocuments) established() []*apiextensionsv1.CustomResourceDefinition {
	all, err := d.lister.List(labels.Everything())
	if err != nil {
		return nil // a cache's list does not fail
	}
	all = slices.DeleteFunc(all, func(crd *apiextensionsv1.CustomResourceDefinition) bool {
		return !crdhelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established)
	})
	slices.SortFunc(all, func(a, b *apiextensionsv1.CustomResourceDefinition) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// versionOf differs when what is published of a definition does: its spec, or
// the names that were accepted.
func versionOf(crd *apiextensionsv1.CustomResourceDefinition) string {
	return fmt.Sprintf("%s/%d/%v;", crd.UID, crd.Generation, crd.Status.AcceptedNames)
}

// version differs when any of the documents does.
func (d *crdDocuments) version() string {
	var b strings.Builder
	for _, crd := range d.established() {
		b.WriteString(versionOf(crd))
	}
	return b.String()
}

// v2 gives one document for each definition. What has not changed is kept.
func (d *crdDocuments) v2() []*spec.Swagger {
	d.mu.Lock()
	defer d.mu.Unlock()
	made := map[string]crdDocument{}
	var docs []*spec.Swagger
	for _, crd := range d.established() {
		doc, ok := d.made[crd.Name]
		if version := versionOf(crd); !ok || doc.version != version {
			swagger, err := describeCRD(crd)
			if err != nil {
				continue // a wrong schema keeps a definition from being established
			}
			doc = crdDocument{version, swagger}
		}
		made[crd.Name] = doc
		docs = append(docs, doc.spec)
	}
	d.made = made
	return docs
}

func describeCRD(crd *apiextensionsv1.CustomResourceDefinition) (*spec.Swagger, error) {
	all := &spec.Swagger{}
	for _, v := range crd.Spec.Versions {
		if !v.Served {
			continue
		}
		one, err := crdbuilder.BuildOpenAPIV2(crd, v.Name, crdbuilder.Options{V2: true, IncludeSelectableFields: true})
		if err != nil {
			return nil, fmt.Errorf("describe %s in version %s: %w", crd.Name, v.Name, err)
		}
		one.Definitions = handler.PruneDefaults(one.Definitions) // as in the document it goes into
		if all, err = crdbuilder.MergeSpecs(all, one); err != nil {
			return nil, fmt.Errorf("describe %s in version %s: %w", crd.Name, v.Name, err)
		}
	}
	return all, nil
}

// v3 gives one document for each group and version, by path.
func (d *crdDocuments) v3() map[string]document3 {
	of := map[string][]*apiextensionsv1.CustomResourceDefinition{}
	docs := map[string]document3{}
	for _, crd := range d.established() {
		for _, v := range crd.Spec.Versions {
			if !v.Served {
				continue
			}
			path := "apis/" + crd.Spec.Group + "/" + v.Name
			of[path] = append(of[path], crd)
			doc := docs[path]
			doc.version += versionOf(crd)
			doc.make = func() (*spec3.OpenAPI, error) { return describeCRDs(of[path], v.Name) }
			docs[path] = doc
		}
	}
	return docs
}

func describeCRDs(crds []*apiextensionsv1.CustomResourceDefinition, version string) (*spec3.OpenAPI, error) {
	var (
		all  []*spec3.OpenAPI
		errs []error
	)
	for _, crd := range crds {
		one, err := crdbuilder.BuildOpenAPIV3(crd, version, crdbuilder.Options{IncludeSelectableFields: true})
		if err != nil {
			errs = append(errs, fmt.Errorf("describe %s in version %s: %w", crd.Name, version, err))
			continue
		}
		all = append(all, one)
	}
	if len(all) == 0 {
		return nil, errors.Join(errs...)
	}
	return crdbuilder.MergeSpecsV3(all...)
}
