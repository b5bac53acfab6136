// Package contracttest is what the suites of the contracts have in common: how their tests
// are run, and how the examples that an author gives them are read. The suites themselves
// are beside the contracts: proto/KIND/v1/KINDtest.
package contracttest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"
)

// Timeout bounds each test of a suite.
const Timeout = time.Minute

// Cases are the tests of a suite, each with a subject of type R of its own.
type Cases[R any] []struct {
	Name string
	Test func(*testing.T, R)
}

// Run runs the tests one after the other. subject makes what a test is about; ctx ends with
// the test, after Timeout at the latest.
func Run[R any](t *testing.T, subject func(ctx context.Context, t *testing.T) R, cases Cases[R]) {
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), Timeout)
			defer cancel()
			c.Test(t, subject(ctx, t))
		})
	}
}

// ReadExamples reads a file of examples, in YAML or JSON: a list below the key examples. A
// field that E does not have is an error.
func ReadExamples[E any](data []byte) ([]E, error) {
	text, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, fmt.Errorf("examples: %w", err)
	}
	var file struct {
		Examples []json.RawMessage `json:"examples"`
	}
	if err := strict(text, &file); err != nil {
		return nil, fmt.Errorf("examples: %w", err)
	}
	if len(file.Examples) == 0 {
		return nil, errors.New("examples: Required value: the file has none")
	}
	list := make([]E, len(file.Examples))
	for i, raw := range file.Examples {
		if err := strict(raw, &list[i]); err != nil {
			return nil, fmt.Errorf("examples[%d]: %w", i, err)
		}
	}
	return list, nil
}

func strict(data []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	return dec.Decode(into)
}

// ReadMessage reads a message of a contract from JSON. Of the fields named objects, which
// have bytes, the JSON is their content: a Kubernetes object is written as one.
func ReadMessage(data []byte, into proto.Message, objects ...string) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return err
	}
	for _, name := range objects {
		if object, ok := fields[name]; ok {
			fields[name] = json.RawMessage(`"` + base64.StdEncoding.EncodeToString(object) + `"`)
		}
	}
	text, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	return protojson.Unmarshal(text, into)
}
