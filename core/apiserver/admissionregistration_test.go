package apiserver

import (
	"encoding/json"
	"errors"
	"os"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// TestAdmissionRegistrationAnswers creates objects, good and bad, and compares
// the answers with those that kube-apiserver 1.36.3 gave to the same requests.
func TestAdmissionRegistrationAnswers(t *testing.T) {
	data, err := os.ReadFile("testdata/admissionregistration.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name, Resource, Message string
		Code                    int32
		Object                  map[string]any
	}
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	h := start(t)
	d := dynamicClient(t, h.as(t, "admin", "system:masters"))
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			resource := d.Resource(admissionregistrationv1.SchemeGroupVersion.WithResource(c.Resource))
			_, err := resource.Create(t.Context(), &unstructured.Unstructured{Object: c.Object}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			code, message := int32(201), ""
			if err != nil {
				status, ok := errors.AsType[*apierrors.StatusError](err)
				if !ok {
					t.Fatal(err)
				}
				code, message = status.Status().Code, status.Status().Message
			}
			if code != c.Code || message != c.Message {
				t.Errorf("got %d %s\nwant %d %s", code, message, c.Code, c.Message)
			}
		})
	}
}
