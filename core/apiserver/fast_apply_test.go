package apiserver

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/yaml"
	kjson "sigs.k8s.io/json"
)

// plainTexts are texts and whether they are plain JSON with or without nulls.
var plainTexts = map[string]bool{
	`{}`: true, `{"a":1}`: true, `{ "a" : [1, -2, true, false, null, {}, []] }`: true, "{\n \"a\": \"b\"\n}\n": true,
	`{"a":"\u003cb\u003e\u0026 \"\\\n\t"}`: true, `{"#":"%& *!|>'@` + "`" + `","yes":"no","~":"0x1","1":"2026-01-01","":" "}`: true,
	``: false, `[]`: false, `1`: false, ` {}`: false, `{}{}`: false, `{} x`: false, "{\"a\":\t1}": false, `{"a":1.0}`: false, `{"a":1e3}`: false,
	`{"a":-0}`: false, `{"a":1234567890123456}`: false, `{"<<":{"a":1}}`: false, `{"a":"\u0000"}`: false, `{"a":"\ud83d\ude00"}`: false, `{"a":"ä"}`: false,
	`{"a":"\/"}`: false, "{\"a\"\n:1}": false, `{"` + strings.Repeat("k", 600) + `":1}`: false, `{"a":"` + strings.Repeat("v", 600) + `"}`: true,
	`{"a"` + strings.Repeat(" ", 600) + `:1}`: false, `{"a":` + strings.Repeat("[", 70) + strings.Repeat("]", 70) + `}`: false, `{"a":`: false, `{"a`: false,
	`{"a":'b'}`: false, `{a: b}`: false, "apiVersion: v1\n": false, `{"a":&x 1}`: false, `{"a":"\`: false,
}

func TestPlainJSON(t *testing.T) {
	for text, want := range plainTexts {
		if got, _ := plainJSON([]byte(text)); got != want {
			t.Errorf("plain is %v of %.80s", got, text)
		}
		sameAsYAML(t, []byte(text))
	}
	if _, nulls := plainJSON([]byte(`{"a":null}`)); !nulls {
		t.Error("a null is not seen")
	}
}

// sameAsYAML checks that what is plain JSON is read by the decoder of JSON as the
// handler of apply reads it, which takes it for YAML.
func sameAsYAML(t *testing.T, data []byte) {
	t.Helper()
	plain, nulls := plainJSON(data)
	if !plain {
		return
	}
	var got, want map[string]any
	strict, err := kjson.UnmarshalStrict(data, &got)
	if err != nil || len(strict) > 0 {
		return // the handler does it
	}
	if err := yaml.Unmarshal(data, &want); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%q\nas JSON %v\nas YAML %v, %v", data, got, want, err)
	}
	if err := yaml.UnmarshalStrict(data, &map[string]any{}); err != nil {
		t.Errorf("%q strictly: %v", data, err)
	}
	if !nulls && hasNil(got) {
		t.Errorf("%q has nulls that are not seen", data)
	}
}

func hasNil(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		return slices.ContainsFunc(slices.Collect(maps.Values(v)), hasNil)
	case []any:
		return slices.ContainsFunc(v, hasNil)
	}
	return v == nil
}

// FuzzPlainJSON looks for texts that JSON and YAML read differently.
func FuzzPlainJSON(f *testing.F) {
	for _, text := range slices.Sorted(maps.Keys(plainTexts)) {
		f.Add([]byte(text))
	}
	f.Fuzz(sameAsYAML)
}
