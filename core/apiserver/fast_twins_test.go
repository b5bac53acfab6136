package apiserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

// twins are two servers, one without the fast path, that get the same requests.
type twins struct {
	fast, plain *http.Client
	addr        [2]string
}

// differing are what two servers may say differently.
var differing = []struct {
	what *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`"(uid|resourceVersion|continue)":"[^"]*"`), `"$1":"X"`},
	{regexp.MustCompile(`"(creationTimestamp|deletionTimestamp|time|lastTransitionTime)":"[^"]*"`), `"$1":"T"`},
	{regexp.MustCompile(`(\\+"(?:resourceVersion|creationTimestamp|time)\\+":\\+")[^"\\]*`), "${1}X"}, // of objects in messages
	{regexp.MustCompile(`"[0-9]+(s|m|m[0-9]+s)"`), `"AGE"`},                                           // of tables
	{regexp.MustCompile(`kube-api-access-[a-z0-9]{5}`), "kube-api-access-R"},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "U"},
}

// twinAnswer is what is compared.
type twinAnswer struct {
	status  int
	headers string
	body    string
}

func (a twinAnswer) String() string { return fmt.Sprintf("%d\n%s\n%s", a.status, a.headers, a.body) }

func (w *twins) send(t *testing.T, c *http.Client, addr, method, path, contentType, accept string, body []byte) twinAnswer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "https://"+addr+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("User-Agent", "twins/1 (test)")
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := twinAnswer{status: res.StatusCode}
	for _, h := range []string{"Content-Type", "Warning", "Retry-After", "Vary", "Cache-Control", "Content-Encoding"} {
		a.headers += h + ": " + strings.Join(res.Header[h], " | ") + "\n"
	}
	if strings.HasPrefix(res.Header.Get("Content-Type"), runtime.ContentTypeProtobuf) {
		data = asJSON(t, data)
	}
	a.body = string(data)
	for _, d := range differing {
		a.body = d.what.ReplaceAllString(a.body, d.with)
		a.headers = d.what.ReplaceAllString(a.headers, d.with)
	}
	if strings.Contains(a.body, "typed patch object") { // the library lists its faults in the order of a Go map
		lines := strings.FieldsFunc(strings.ReplaceAll(a.body, `","code`, `\n","code`), func(r rune) bool { return r == '\\' })
		slices.Sort(lines)
		a.body = strings.Join(lines, "")
	}
	return a
}

// asJSON turns protobuf into JSON, and checks that it is as the encoder makes it.
func asJSON(t *testing.T, data []byte) []byte {
	t.Helper()
	obj, kind, err := scheme.Codecs.UniversalDeserializer().Decode(data, nil, nil)
	if err != nil {
		t.Fatalf("protobuf of the answer: %v", err)
	}
	info, _ := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	again, err := runtime.Encode(scheme.Codecs.EncoderForVersion(info.Serializer, kind.GroupVersion()), obj)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again, data) {
		t.Errorf("protobuf of %s is not as the encoder makes it", kind)
	}
	out, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// same sends a request to both servers and compares what they say.
func (w *twins) same(t *testing.T, method, path, contentType, accept string, body []byte) {
	t.Helper()
	fast := w.send(t, w.fast, w.addr[0], method, path, contentType, accept, body)
	plain := w.send(t, w.plain, w.addr[1], method, path, contentType, accept, body)
	if fast != plain {
		fast.body, plain.body = anyOrder(t, fast.body), anyOrder(t, plain.body)
	}
	if fast != plain {
		f, p := fast.String(), plain.String()
		at := 0
		for at < min(len(f), len(p)) && f[at] == p[at] {
			at++
		}
		t.Errorf("%s %s (%s, %s)\nfast path:  ...%s\nplain path: ...%s", method, path, contentType, accept,
			f[max(0, at-200):min(at+300, len(f))], p[max(0, at-200):min(at+300, len(p))])
	}
}

// anyOrder sorts the managed fields in an answer. They are in the order of their
// times, and a second may have begun between the requests to the one server, but not
// between those to the other.
func anyOrder(t *testing.T, body string) string {
	t.Helper()
	var sorted func(any) any
	sorted = func(value any) any {
		switch value := value.(type) {
		case map[string]any:
			for name, member := range value {
				value[name] = sorted(member)
				if entries, ok := value[name].([]any); ok && name == "managedFields" {
					slices.SortFunc(entries, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
				}
			}
		case []any:
			for i, item := range value {
				value[i] = sorted(item)
			}
		case string: // a message may have the object in it
			if strings.Contains(value, "managedFields") {
				parts := strings.FieldsFunc(value, func(r rune) bool { return r == '{' || r == ',' })
				slices.Sort(parts)
				return strings.Join(parts, ",")
			}
		}
		return value
	}
	var value any
	if json.Unmarshal([]byte(body), &value) != nil {
		return body
	}
	data, err := json.Marshal(sorted(value))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func newTwins(t *testing.T) *twins {
	t.Helper()
	w := &twins{}
	for i, h := range []*harness{start(t), start(t, func(c *Config) { c.plainPath = true })} {
		if h.config.plainPath != (h.fast.routes == nil) {
			t.Fatal("the fast path is not as chosen")
		}
		c, err := rest.HTTPClientFor(h.as(t, "admin", "system:masters"))
		if err != nil {
			t.Fatal(err)
		}
		w.addr[i] = h.Address().String()
		if i == 0 {
			w.fast = c
		} else {
			w.plain = c
		}
	}
	w.same(t, "POST", "/api/v1/namespaces/default/serviceaccounts", runtime.ContentTypeJSON, "",
		[]byte(`{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"}}`))
	return w
}
