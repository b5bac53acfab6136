package authorizationtest

import (
	"encoding/json"
	"fmt"

	authorizationv1 "keelson.dev/keelson/proto/authorization/v1"
	"keelson.dev/keelson/proto/contracttest"
)

// ReadExamples reads the examples in a file of YAML: name, access (an Access) and outcome.
func ReadExamples(data []byte) ([]Example, error) {
	type written struct {
		Name    string          `json:"name"`
		Access  json.RawMessage `json:"access"`
		Outcome string          `json:"outcome"`
	}
	list, err := contracttest.ReadExamples[written](data)
	if err != nil {
		return nil, err
	}
	examples := make([]Example, len(list))
	for i, w := range list {
		outcome, known := authorizationv1.Outcome_value["OUTCOME_"+w.Outcome]
		if !known {
			return nil, fmt.Errorf("examples[%d].outcome: %q is none of ALLOW, DENY and NO_OPINION", i, w.Outcome)
		}
		e := Example{Name: w.Name, Access: &authorizationv1.Access{}, Outcome: authorizationv1.Outcome(outcome)}
		if err := contracttest.ReadMessage(w.Access, e.Access); err != nil {
			return nil, fmt.Errorf("examples[%d].access: %w", i, err)
		}
		examples[i] = e
	}
	return examples, nil
}
