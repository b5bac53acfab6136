package pluginhost

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	openapierrors "k8s.io/kube-openapi/pkg/validation/errors"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	"k8s.io/kube-openapi/pkg/validation/validate"
)

// configPath is where a plugin's configuration is in its Plugin object.
const configPath = "spec.config"

// checkConfig checks a configuration against the plugin's JSON schema. Errors name
// field and value under spec.config. A schema that this validator cannot read is left
// to the plugin, which checks for itself as well.
func checkConfig(schema string, config json.RawMessage) (err error) {
	if len(config) == 0 {
		return nil
	}
	var value any
	if err := json.Unmarshal(config, &value); err != nil {
		return fmt.Errorf("spec.config: %w", err)
	}
	object, ok := value.(map[string]any)
	if !ok {
		return fmt.Errorf("spec.config: got %s, want a JSON object", config)
	}
	if schema == "" {
		if len(object) > 0 {
			return errors.New("spec.config: the plugin takes no configuration")
		}
		return nil
	}
	var parsed spec.Schema
	if json.Unmarshal([]byte(schema), &parsed) != nil {
		return nil
	}
	defer func() {
		if recover() != nil { // the validator panics on a $ref
			err = nil
		}
	}()
	result := validate.NewSchemaValidator(&parsed, nil, configPath, strfmt.Default).Validate(value)
	if result.IsValid() {
		return nil
	}
	var faults []string
	for _, e := range result.Errors {
		faults = append(faults, fault(e, value))
	}
	slices.Sort(faults)
	return errors.New(strings.Join(faults, "; "))
}

// fault is an error of the schema validator in Kubernetes' form: the field, the value,
// and what would be right.
func fault(err error, config any) string {
	var v *openapierrors.Validation
	if !errors.As(err, &v) {
		return err.Error()
	}
	text := strings.TrimPrefix(v.Error(), v.Name)
	if before, after, ok := strings.Cut(text, " in "+v.In+" "); ok {
		text = after
		if after == "is a forbidden property" {
			return v.Name + before + ": the plugin knows no such field"
		}
	}
	if strings.HasSuffix(text, "is required") {
		return v.Name + ": Required value"
	}
	text, _, _ = strings.Cut(text, `: "`) // the validator's way to tell the type it found
	value, ok := lookUp(config, strings.TrimPrefix(v.Name, configPath))
	if !ok {
		return v.Name + ": " + text
	}
	return fmt.Sprintf("%s: Invalid value: %s: %s", v.Name, value, text)
}

// lookUp finds the value at a path as the validator writes it (".a.list[0]"), in JSON.
// False: the path is not so simple, as with a key that has a dot.
func lookUp(value any, path string) (string, bool) {
	steps := strings.FieldsFunc(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' })
	for _, step := range steps {
		switch v := value.(type) {
		case map[string]any:
			next, ok := v[step]
			if !ok {
				return "", false
			}
			value = next
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(v) {
				return "", false
			}
			value = v[i]
		default:
			return "", false
		}
	}
	const most = 200 // bytes of a value in an error message
	text, err := json.Marshal(value)
	if len(text) > most {
		text = append(text[:most], "..."...)
	}
	return string(text), err == nil
}
