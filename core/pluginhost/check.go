package pluginhost

import "encoding/json"

// CheckConfig checks a configuration against the JSON schema that a plugin describes, as
// the host does before Configure. The error names field and value under spec.config.
func CheckConfig(schema string, config json.RawMessage) error { return checkConfig(schema, config) }

// CheckProgram refuses a file that the host would not start whatever its checksum.
func CheckProgram(path string) error { return checkProgram(path, "") }
