package admissiontest

import (
	"encoding/json"
	"fmt"

	admissionv1 "keelson.dev/keelson/proto/admission/v1"
	"keelson.dev/keelson/proto/contracttest"
)

// ReadExamples reads the examples in a file of YAML: name, request (a ReviewRequest, whose
// object, oldObject and options are written as objects), allowed and patched.
func ReadExamples(data []byte) ([]Example, error) {
	type written struct {
		Name    string          `json:"name"`
		Request json.RawMessage `json:"request"`
		Allowed bool            `json:"allowed"`
		Patched bool            `json:"patched"`
	}
	list, err := contracttest.ReadExamples[written](data)
	if err != nil {
		return nil, err
	}
	examples := make([]Example, len(list))
	for i, w := range list {
		e := Example{Name: w.Name, Request: &admissionv1.ReviewRequest{}, Allowed: w.Allowed, Patched: w.Patched}
		if err := contracttest.ReadMessage(w.Request, e.Request, "object", "oldObject", "options"); err != nil {
			return nil, fmt.Errorf("examples[%d].request: %w", i, err)
		}
		examples[i] = e
	}
	return examples, nil
}
