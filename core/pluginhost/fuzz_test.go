package pluginhost

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// FuzzLastLines: the end of a log has at most as many lines as asked for, and is its end.
func FuzzLastLines(f *testing.F) {
	f.Add([]byte("a\nb\n\nc\n"), int64(2))
	f.Add([]byte(""), int64(1))
	f.Add([]byte("\n\n"), int64(1))
	f.Fuzz(func(t *testing.T, data []byte, n int64) {
		if n < 1 || n > 1000 {
			return
		}
		if len(data) > 0 && data[len(data)-1] != '\n' { // the file has whole lines only
			data = append(data, '\n')
		}
		got := lastLines(data, n)
		all := int64(bytes.Count(data, []byte{'\n'}))
		if lines := int64(bytes.Count(got, []byte{'\n'})); lines != min(n, all) {
			t.Errorf("%q, %d lines: got %d lines %q", data, n, lines, got)
		}
		if !bytes.HasSuffix(data, got) {
			t.Errorf("%q: got %q, which is not its end", data, got)
		}
	})
}

// FuzzCheckConfig: no schema and no configuration makes the check panic, and its errors
// say where they are.
func FuzzCheckConfig(f *testing.F) {
	f.Add(`{"type":"object","properties":{"a":{"type":"string"}}}`, `{"a":1}`)
	f.Add(`{"$ref":"#"}`, `{}`)
	f.Add(`{"type":"object","patternProperties":{"(":{}}}`, `{"x":[{"y":null}]}`)
	f.Fuzz(func(t *testing.T, schema, config string) {
		if err := checkConfig(schema, json.RawMessage(config)); err != nil && !strings.Contains(err.Error(), configPath) {
			t.Errorf("schema %q, config %q: %q does not say where", schema, config, err)
		}
	})
}
