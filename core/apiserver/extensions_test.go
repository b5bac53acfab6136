package apiserver

import (
	"strings"
	"testing"
)

// widgets is a definition with most of what one can have.
const widgets = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.ext.example}
spec:
  group: ext.example
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget, shortNames: [wd], categories: [all, toys]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.selector}
    additionalPrinterColumns:
    - {name: Colour, type: string, jsonPath: .spec.colour}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    selectableFields: [{jsonPath: .spec.colour}]
    schema:
      openAPIV3Schema:
        type: object
        description: A widget is a thing to play with.
        properties:
          spec:
            type: object
            required: [size]
            x-kubernetes-validations:
            - {rule: "self.size <= 10 || self.colour == 'red'", message: "only red widgets are large"}
            properties:
              size: {type: integer, minimum: 1, description: How large the widget is.}
              colour: {type: string, default: blue, enum: [red, blue]}
              replicas: {type: integer, default: 1}
              label:
                type: string
                maxLength: 20
                x-kubernetes-validations: [{rule: "self == oldSelf", message: "label is fixed"}]
              parts:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items: {type: object, required: [name], properties: {name: {type: string}, count: {type: integer}}}
              raw: {type: object, x-kubernetes-preserve-unknown-fields: true}
          status:
            type: object
            properties: {replicas: {type: integer}, selector: {type: string}, phase: {type: string}}
`

const widget = `{"apiVersion":"ext.example/v1","kind":"Widget","metadata":{"name":"w"},"spec":{"size":3,"label":"a","raw":{"any":{"thing":1}}}}`

func TestCustomResources(t *testing.T) {
	h := start(t)
	k := newKubectl(t, h)
	k.want(widgets, "apply -f -", "customresourcedefinition.apiextensions.k8s.io/widgets.ext.example created")
	k.want("", "wait --for=condition=established crd/widgets.ext.example --timeout=60s", "condition met")
	t.Run("discovery", func(t *testing.T) {
		k := &kubectl{t, k.config}
		k.want("", "get crd widgets.ext.example -o jsonpath={.status.conditions[*].type}{.status.storedVersions}", "NamesAccepted Established", `["v1"]`)
		eventually(t, "the group is in both forms of discovery", func() bool {
			group, _ := k.run("", "get", "--raw", "/apis/ext.example/v1")
			all, _ := k.run("", "get", "--raw", "/apis")
			resources, _ := k.run("", "api-resources", "--api-group=ext.example", "-o", "wide")
			return strings.Contains(group, `"widgets/scale"`) && strings.Contains(all, `"ext.example"`) &&
				strings.Contains(resources, "wd") && strings.Contains(resources, "toys")
		})
		k.want("", "get apiservice v1.ext.example -o jsonpath={.status.conditions[0].reason}{.metadata.labels}", "Local", `"true"`)
	})
	t.Run("an object's life", func(t *testing.T) {
		k := &kubectl{t, k.config}
		k.want(widget, "apply -f -", "widget.ext.example/w created")
		k.want(widget, "apply -f -", "unchanged")
		k.want("", "get wd", "COLOUR", "blue", "AGE")
		k.want("", "get toys -o name", "widget.ext.example/w")
		k.want("", "get widgets --field-selector spec.colour=blue", "w")
		k.want("", "get widgets --field-selector spec.colour=red", "No resources found")
		k.want("", "get wd w -o jsonpath={.spec}{.metadata.generation}", `"replicas":1`, `"thing":1`, "}1")
		k.want("", "scale wd w --replicas=3", "scaled")
		k.want("", "get --raw /apis/ext.example/v1/namespaces/default/widgets/w/scale", `"replicas":3`)
		k.want("", `patch wd w --subresource=status --type=merge -p {"spec":{"size":9},"status":{"phase":"fine"}}`, "patched")
		k.want("", "get wd w -o jsonpath={.spec.size},{.status.phase},{.metadata.generation}", "3,fine,2")
		k.want(strings.Replace(widget, `"size":3`, `"size":4,"parts":[{"name":"a"}]`, 1), "apply --server-side --force-conflicts --field-manager=x -f -", "serverside-applied")
		k.want(strings.Replace(widget, `"size":3`, `"parts":[{"name":"b","count":2}]`, 1), "apply --server-side --field-manager=y -f -", "serverside-applied")
		k.want("", "get wd w -o jsonpath={.spec.parts[*].name}", "a b")
	})
	t.Run("OpenAPI", func(t *testing.T) {
		k := &kubectl{t, k.config}
		k.want("", "explain widget.spec.size", "FIELD: size <integer>", "How large the widget is.")
		k.want("", "explain widget", "A widget is a thing to play with.")
		k.want("", "explain crd.spec.names", "CustomResourceDefinition", "shortNames")
		k.want("", "explain apiservice.spec", "groupPriorityMinimum")
		k.want("", "get --raw /openapi/v2", `"example.ext.v1.Widget"`, "/apis/ext.example/v1/namespaces/{namespace}/widgets/{name}/scale", "v1.CustomResourceDefinition")
		k.want("", "get --raw /openapi/v3", `"apis/ext.example/v1"`, `"apis/apiextensions.k8s.io/v1"`, `"apis/apiregistration.k8s.io/v1"`, `"apis/apps/v1"`)
		k.want(strings.Replace(widgets, "How large the widget is.", "How broad it is.", 1), "apply -f -", "configured")
		eventually(t, "the documents follow a changed definition", func() bool {
			explained, _ := k.run("", "explain", "widget.spec.size")
			v2, _ := k.run("", "get", "--raw", "/openapi/v2")
			return strings.Contains(explained, "How broad it is.") && strings.Contains(v2, "How broad it is.")
		})
	})
	t.Run("wrong objects", func(t *testing.T) {
		k := &kubectl{t, k.config}
		bad := func(old, new string) string {
			return strings.NewReplacer(old, new, `"name":"w"`, `"name":"bad"`).Replace(widget)
		}
		k.refused(bad(`"size":3`, `"size":0`), "create -f -", "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1")
		k.refused(bad(`"size":3`, `"size":11`), "create -f -", "only red widgets are large")
		k.refused(bad(`"size":3`, `"size":3,"colour":"green"`), "create -f -", `spec.colour: Unsupported value: "green": supported values: "red", "blue"`)
		k.refused(bad(`"size":3`, `"size":3,"shape":"x"`), "create -f -", `strict decoding error: unknown field "spec.shape"`)
		// kubectl itself drops the second of two fields.
		err := h.admin.CoreV1().RESTClient().Post().AbsPath("/apis/ext.example/v1/namespaces/default/widgets").Param("fieldValidation", "Strict").
			SetHeader("Content-Type", "application/json").Body([]byte(bad(`"size":3`, `"size":3,"size":3`))).Do(t.Context()).Error()
		if err == nil || !strings.Contains(err.Error(), `duplicate field "spec.size"`) {
			t.Errorf("an object with a field twice: got %v", err)
		}
		k.refused(bad(`"size":3,`, ``), "create -f -", "spec.size: Required value")
		k.refused("", `patch wd w --type=merge -p {"spec":{"label":"b"}}`, "label is fixed")
		k.refused("", "get widgets --field-selector spec.size=3", "field label not supported")
		k.want(bad(`"size":3`, `"size":3,"shape":"x"`), "create --validate=warn -f -", "unknown field", "created")
		k.want("", "get wd bad -o jsonpath={.spec}", `"size":3`)
		if out, _ := k.run("", "get", "wd", "bad", "-o", "yaml"); strings.Contains(out, "shape") {
			t.Errorf("an unknown field was not pruned:\n%s", out)
		}
	})
	t.Run("deletion", func(t *testing.T) {
		k := &kubectl{t, k.config}
		k.want("", "delete crd widgets.ext.example --timeout=60s", "deleted")
		k.refused("", "get crd widgets.ext.example", "NotFound")
		for _, path := range []string{"/apis", "/apis/apiregistration.k8s.io/v1/apiservices", "/openapi/v2", "/openapi/v3"} {
			eventually(t, "the group is not in "+path, func() bool {
				raw, err := h.admin.CoreV1().RESTClient().Get().AbsPath(path).SetHeader("Accept", "application/json").DoRaw(t.Context())
				return err == nil && !strings.Contains(string(raw), "widgets") && !strings.Contains(string(raw), `"ext.example"`)
			})
		}
	})
}
