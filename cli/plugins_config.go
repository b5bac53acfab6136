package main

import (
	"fmt"
	"os"

	"sigs.k8s.io/yaml"
)

// readConfig reads a plugin's configuration, YAML or JSON, as JSON.
func readConfig(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	var object map[string]any
	if err := yaml.UnmarshalStrict(data, &object); err != nil {
		return nil, fmt.Errorf("--config %s: must be a YAML or JSON object: %w", path, err)
	}
	return yaml.YAMLToJSON(data)
}
