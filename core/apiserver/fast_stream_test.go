package apiserver

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// rawStream is the body of a watch, as it comes, until the test ends.
type rawStream struct {
	io.Reader
	version     int // of HTTP
	contentType string
}

func rawWatch(t *testing.T, c *http.Client, h *harness, query, accept string) rawStream {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+h.Address().String()+"/api/v1/namespaces/default/configmaps?watch=1"+query, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", accept)
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	if res.StatusCode != http.StatusOK {
		t.Fatalf("watch %s: %s", query, res.Status)
	}
	return rawStream{Reader: res.Body, version: res.ProtoMajor, contentType: res.Header.Get("Content-Type")}
}

// versionClients are one for each version of HTTP.
func versionClients(t *testing.T, h *harness) (one, two *http.Client) {
	t.Helper()
	c := h.as(t, "admin", "system:masters")
	two, err := rest.HTTPClientFor(c)
	if err != nil {
		t.Fatal(err)
	}
	conf, err := rest.TLSConfigFor(c)
	if err != nil {
		t.Fatal(err)
	}
	conf.NextProtos = []string{"http/1.1"}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: conf, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}}, two
}

// TestStreamSaysTheSame compares, byte by byte, what a watch sends that is served
// from the store (over HTTP/2) and one by the library's loop (over HTTP/1): history,
// then single events, then many at once, some larger than a write.
func TestStreamSaysTheSame(t *testing.T) {
	h := start(t)
	one, two := versionClients(t, h)
	ctx, maps := t.Context(), h.admin.CoreV1().ConfigMaps("default")
	first, err := maps.Create(ctx, configMap("first", nil), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	change := func(i int) {
		t.Helper()
		cm := configMap(fmt.Sprintf("m%d", i), map[string]string{"size": strings.Repeat("x", i*i*400)})
		if i%3 == 0 {
			cm.Labels = map[string]string{"third": "yes"}
		}
		if _, err := maps.Create(ctx, cm, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := maps.Patch(ctx, cm.Name, types.MergePatchType, []byte(`{"metadata":{"labels":{"second":"yes"}}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			if err := maps.Delete(ctx, cm.Name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range 4 {
		change(i)
	}
	queries := []string{"", "&labelSelector=second%3Dyes", "&labelSelector=%21third", "&fieldSelector=metadata.name%3Dm5", "&resourceVersion=0"}
	accepts := []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON}
	type pair struct {
		name     string
		one, two rawStream
	}
	var pairs []pair
	for _, q := range queries {
		for _, accept := range accepts {
			if !strings.Contains(q, "resourceVersion") {
				q += "&resourceVersion=" + first.ResourceVersion
			}
			p := pair{name: q + " " + accept, one: rawWatch(t, one, h, q, accept), two: rawWatch(t, two, h, q, accept)}
			if p.one.version != 1 || p.two.version != 2 || p.one.contentType != p.two.contentType {
				t.Fatalf("%s: HTTP versions are %d and %d, content types %q and %q", p.name, p.one.version, p.two.version, p.one.contentType, p.two.contentType)
			}
			pairs = append(pairs, p)
		}
	}
	for i := 4; i < 12; i++ {
		change(i)
	}
	// All of them see this one.
	if _, err := maps.Patch(ctx, "m5", types.MergePatchType, []byte(`{"data":{"the":"end"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, p := range pairs {
		ends := []string{`"the":"end"`, "\n\x03the\x12\x03end"}
		a, b := readUntil(t, p.one, ends...), readUntil(t, p.two, ends...)
		n := min(len(a), len(b)) // one may have been read further
		if !bytes.Equal(a[:n], b[:n]) {
			t.Errorf("%s: the streams differ within their first %d bytes", p.name, n)
		}
	}
}

// TestStreamEnds checks how a stream from the store ends: at its timeout, with an
// error, and with the server. What it says is what the library's loop says.
func TestStreamEnds(t *testing.T) {
	h, stop := startIn(t, t.TempDir(), "127.0.0.1:0")
	one, two := versionClients(t, h)
	ctx, maps := t.Context(), h.admin.CoreV1().ConfigMaps("default")
	for i := range 3 {
		if _, err := maps.Create(ctx, configMap(fmt.Sprintf("m%d", i), nil), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	same := func(name, query string) {
		t.Helper()
		var said [2]string
		for i, c := range []*http.Client{one, two} {
			body, err := io.ReadAll(rawWatch(t, c, h, query, runtime.ContentTypeJSON))
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			said[i] = string(body)
		}
		if said[0] != said[1] || said[0] == "" {
			t.Errorf("%s: the library says %q, the stream %q", name, said[0], said[1])
		}
	}
	same("timeout", "&timeoutSeconds=1")
	if testEtcd == nil { // with one, watch caches know some history that the etcd has dropped
		if err := compactNow(ctx, h.db); err != nil {
			t.Fatal(err)
		}
		same("history that is gone", "&resourceVersion=1")
	}
	open := rawWatch(t, two, h, "&resourceVersion=0", runtime.ContentTypeJSON)
	readUntil(t, open, `"m2"`)
	stop()
	_, _ = io.ReadAll(open) // returns; in order or not is a matter of how busy the machine is
}

// TestStreamCounts checks that events are counted as the library does.
func TestStreamCounts(t *testing.T) {
	h := start(t)
	_, two := versionClients(t, h)
	ctx, maps := t.Context(), h.admin.CoreV1().ConfigMaps("default")
	count := func() (events, sized float64) {
		return metricOf(t, h, `apiserver_watch_events_total{group="",resource="configmaps",version="v1"}`),
			metricOf(t, h, `apiserver_watch_events_sizes_count{group="",resource="configmaps",version="v1"}`)
	}
	w := rawWatch(t, two, h, "&resourceVersion=0", runtime.ContentTypeProtobuf)
	before, beforeSized := count()
	for i := range 5 {
		if _, err := maps.Create(ctx, configMap(fmt.Sprintf("m%d", i), nil), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	readUntil(t, w, "m4")
	waitUntil(t, "five more events are counted", func() bool {
		after, afterSized := count()
		return after >= before+5 && afterSized >= beforeSized+5
	})
}

func metricOf(t testing.TB, h *harness, series string) float64 {
	t.Helper()
	data, err := h.admin.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	return 0
}

// readUntil reads until one of ends was seen.
func readUntil(t *testing.T, r io.Reader, ends ...string) []byte {
	t.Helper()
	var got []byte
	buf := make([]byte, 64<<10)
	for {
		for _, end := range ends {
			if bytes.Contains(got, []byte(end)) {
				return got
			}
		}
		n, err := r.Read(buf)
		if got = append(got, buf[:n]...); err != nil {
			t.Fatalf("after %d bytes, without %q: %v", len(got), ends, err)
		}
	}
}
