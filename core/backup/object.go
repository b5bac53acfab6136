package backup

import (
	"bytes"
	"encoding/json"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"keelson.dev/keelson/core/store"
)

// protobufPrefix begins each object that is stored as protobuf.
var protobufPrefix = []byte("k8s\x00")

// Metadata reads kind and metadata of a stored object; false if it is encrypted or no
// object. Protobuf has the metadata of all kinds as field 1.
func Metadata(o *store.Object) (metav1.PartialObjectMetadata, bool) {
	var m metav1.PartialObjectMetadata
	if raw, ok := bytes.CutPrefix(o.Value, protobufPrefix); ok {
		var u runtime.Unknown
		if u.Unmarshal(raw) != nil || m.Unmarshal(u.Raw) != nil {
			return m, false
		}
		m.TypeMeta = metav1.TypeMeta{APIVersion: u.APIVersion, Kind: u.Kind}
		return m, true
	}
	return m, json.Unmarshal(o.Value, &m) == nil && m.Kind != ""
}

// InNamespace tells whether an object is in a namespace, or is the namespace itself. What
// is encrypted is judged by its key.
func InNamespace(o *store.Object, namespace string) bool {
	if m, ok := Metadata(o); ok {
		return m.Namespace == namespace || m.Namespace == "" && m.Kind == "Namespace" && m.Name == namespace
	}
	parts := strings.Split(o.Key, "/") // "", registry, [group,] resource, namespace, name
	return len(parts) >= 5 && parts[len(parts)-2] == namespace
}
