package podspec

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// TemplateColumns are the columns of TemplateCells.
var TemplateColumns = []metav1.TableColumnDefinition{
	{Name: "Containers", Type: "string", Description: "Names of each container in the template.", Priority: 1},
	{Name: "Images", Type: "string", Description: "Images referenced by each container in the template.", Priority: 1},
	{Name: "Selector", Type: "string", Description: "Which pods belong to it.", Priority: 1},
}

// TemplateCells shows the containers of a template, and a selector.
func TemplateCells(t *corev1.PodTemplateSpec, selector map[string]string) []any {
	return append(Containers(&t.Spec), orNone(labels.FormatLabels(selector)))
}

// SelectorCells is TemplateCells for a label selector.
func SelectorCells(t *corev1.PodTemplateSpec, selector *metav1.LabelSelector) []any {
	return append(Containers(&t.Spec), metav1.FormatLabelSelector(selector))
}

// Containers gives the names and the images of a spec's containers.
func Containers(spec *corev1.PodSpec) []any {
	var names, images []string
	for _, c := range spec.Containers {
		names, images = append(names, c.Name), append(images, c.Image)
	}
	return []any{strings.Join(names, ","), strings.Join(images, ",")}
}

func orNone(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}
