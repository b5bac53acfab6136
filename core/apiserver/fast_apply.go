package apiserver

import (
	"bytes"
	"crypto/sha256"
	"time"
	"unicode/utf8"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metainternalversionscheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// sameApply names an apply to one version of an object. What it comes to depends on
// nothing else, but for the time that it notes if there is a change.
type sameApply struct {
	uid      types.UID
	revision string
	path     string
	query    string // says whether by force
	manager  string
	config   [sha256.Size]byte
}

// appliedSame bounds how many applies are remembered that changed nothing: some
// hundred bytes each. Controllers and `kubectl apply` repeat theirs.
const appliedSame = 2048

// applied does a server-side apply of a configuration that is JSON, which is
// decoded once and not as YAML.
func (p *fastPatch) applied(old runtime.Object, exists bool, manager string) (runtime.Object, bool) {
	var same sameApply
	if m, ok := old.(metav1.Object); ok && exists && p.same != nil {
		same = sameApply{m.GetUID(), m.GetResourceVersion(), p.r.URL.Path, p.r.URL.RawQuery, manager, sha256.Sum256(p.body.data)}
		if _, known := p.same.Get(same); known {
			p.counts.repeated.Add(1)
			return old.DeepCopyObject(), true
		}
	}
	plain, nulls := plainJSON(p.body.data)
	if !plain {
		return nil, false
	}
	config := &unstructured.Unstructured{}
	if strict, err := kjson.UnmarshalStrict(p.body.data, &config.Object); err != nil || len(strict) > 0 || config.Object == nil {
		return nil, false
	}
	if !exists && !nulls {
		if obj, ok := p.appliedNew(config, manager); ok {
			p.counts.created.Add(1)
			return obj, true
		}
	}
	var options metav1.PatchOptions
	err := metainternalversionscheme.ParameterCodec.DecodeParameters(p.r.URL.Query(), p.scope.MetaGroupVersion, &options)
	if err == nil && !exists {
		old, err = p.scope.Creater.New(p.scope.Kind)
	}
	if err != nil {
		return nil, false
	}
	obj, err := p.scope.FieldManager.Apply(old, config, manager, options.Force != nil && *options.Force)
	if err == nil {
		p.counts.applied.Add(1)
	}
	if err == nil && same.uid != "" && same.revision != "" && equalObjects(obj, old) {
		p.same.Add(same, nil)
	}
	return obj, err == nil
}

// equalObjects compares objects but for their type's name, which those in memory
// have or have not.
func equalObjects(a, b runtime.Object) bool {
	kind := a.GetObjectKind().GroupVersionKind()
	defer a.GetObjectKind().SetGroupVersionKind(kind)
	a.GetObjectKind().SetGroupVersionKind(b.GetObjectKind().GroupVersionKind())
	return apiequality.Semantic.DeepEqual(a, b)
}

// appliedNew makes a new object of a configuration: with nothing there to merge it
// with or to own its fields, it is the configuration and all of it belongs to the
// manager.
func (p *fastPatch) appliedNew(config *unstructured.Unstructured, manager string) (runtime.Object, bool) {
	if config.GroupVersionKind() != p.scope.Kind || !utf8.ValidString(manager) {
		return nil, false
	}
	metadata, ok := config.Object["metadata"].(map[string]any)
	if !ok || metadata["managedFields"] != nil || config.GetAnnotations()["kubectl.kubernetes.io/last-applied-configuration"] != "" {
		return nil, false
	}
	fields, ok := p.typer.Applied(config, p.resets[fieldpath.APIVersion(p.scope.Kind.GroupVersion().String())])
	if !ok {
		return nil, false
	}
	obj, err := p.scope.Creater.New(p.scope.Kind)
	if err != nil {
		return nil, false
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(config.Object, obj); err != nil {
		return nil, false
	}
	if obj, ok = p.defaulted(obj); !ok {
		return nil, false
	}
	m, ok := obj.(metav1.Object)
	if !ok {
		return nil, false
	}
	p.setOwner(m, manager, metav1.ManagedFieldsOperationApply, fields)
	return obj, true
}

// setOwner makes one manager the owner of fields, and the only one.
func (w *fastWrite) setOwner(m metav1.Object, manager string, op metav1.ManagedFieldsOperationType, fields []byte) {
	now := metav1.NewTime(time.Now().UTC())
	entry := metav1.ManagedFieldsEntry{
		Manager: manager, Operation: op, APIVersion: w.scope.Kind.GroupVersion().String(), Time: &now,
		FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{}, Subresource: w.scope.Subresource,
	}
	entry.FieldsV1.SetRawBytes(fields)
	m.SetManagedFields([]metav1.ManagedFieldsEntry{entry})
}

// plainJSON tells whether a text is JSON of a kind that YAML cannot read otherwise,
// if it is JSON at all, and whether there may be nulls in it. What differs: numbers
// that are not small integers, some escapes, characters that are not ASCII's
// visible ones, long keys, merge keys and deep nesting.
func plainJSON(data []byte) (plain, nulls bool) {
	const deepest, digits = 64, 15
	depth, number := 0, 0
	if len(data) == 0 || data[0] != '{' {
		return false, false
	}
	for i := 0; i < len(data); i++ {
		c := data[i]
		if c >= '0' && c <= '9' {
			if number++; number > digits || c == '0' && data[i-1] == '-' {
				return false, false
			}
			continue
		}
		switch c {
		case '"':
			end, ok := plainString(data, i)
			if !ok {
				return false, false
			}
			i = end - 1
		case '{', '[':
			if depth++; depth > deepest {
				return false, false
			}
		case '}', ']':
			if depth--; depth == 0 && len(bytes.Trim(data[i+1:], " \n")) > 0 {
				return false, false
			}
		case 'n', 't', 'r', 'u', 'e', 'f', 'a', 'l', 's': // of null, true and false
			if number > 0 { // as in 1e3
				return false, false
			}
			nulls = nulls || c == 'n'
		case ' ', '\n', ',', ':', '-':
		default:
			return false, false
		}
		number = 0
	}
	return depth == 0, nulls
}

// plainString finds the end of the string that begins at i. As a key it has to be
// on one line with its colon and not be longer than YAML allows.
func plainString(data []byte, begin int) (end int, ok bool) {
	const longest = 512
	for i := begin + 1; i < len(data); i++ {
		switch c := data[i]; {
		case c == '"':
			if string(data[begin:i+1]) == `"<<"` {
				return 0, false
			}
			rest := bytes.TrimLeft(data[i+1:], " \n")
			colon := len(data) - len(rest)
			key := len(rest) > 0 && rest[0] == ':'
			return i + 1, !key || colon-begin < longest && bytes.IndexByte(data[i:colon], '\n') < 0
		case c == '\\':
			n := plainEscape(data[i+1:])
			if n == 0 {
				return 0, false
			}
			i += n
		case c < ' ' || c > '~':
			return 0, false
		}
	}
	return 0, false
}

// plainEscape is the length of what follows a backslash, zero for what is rare.
// encoding/json writes \u003c, \u003e and \u0026.
func plainEscape(data []byte) int {
	switch {
	case len(data) > 0 && bytes.IndexByte([]byte(`"\nt`), data[0]) >= 0:
		return 1
	case bytes.HasPrefix(data, []byte("u003c")), bytes.HasPrefix(data, []byte("u003e")), bytes.HasPrefix(data, []byte("u0026")):
		return 5
	}
	return 0
}
