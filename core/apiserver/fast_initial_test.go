package apiserver

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const initialQuery = "&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"

// distantClient speaks HTTP/2 from another address of this machine, which the server
// takes for another machine, and leaves compressed answers as they are.
func distantClient(t *testing.T, h *harness) *http.Client {
	t.Helper()
	conf, err := rest.TLSConfigFor(h.as(t, "admin", "system:masters"))
	if err != nil {
		t.Fatal(err)
	}
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	transport := &http.Transport{TLSClientConfig: conf, DialContext: dialer.DialContext, ForceAttemptHTTP2: true, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// initialStream is the body of a watch until the test ends: as it comes, and as a
// client reads it.
type initialStream struct {
	raw, plain io.Reader
	encoding   string
	version    int // of HTTP
}

func rawInitial(t testing.TB, c *http.Client, h *harness, query, accept, encoding string) initialStream {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+h.Address().String()+"/api/v1/namespaces/default/configmaps?watch=1"+query, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", accept)
	r.Header.Set("Accept-Encoding", encoding)
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	if res.StatusCode != http.StatusOK {
		t.Fatalf("watch %s: %s", query, res.Status)
	}
	got := initialStream{raw: res.Body, plain: res.Body, encoding: res.Header.Get("Content-Encoding"), version: res.ProtoMajor}
	if got.encoding == "gzip" {
		if got.plain, err = gzip.NewReader(res.Body); err != nil {
			t.Fatal(err)
		}
	}
	return got
}

// TestInitialEventsSayTheSame compares, byte by byte, what informers are sent: by the
// library's loop (over HTTP/1), by a stream of the store, and by one that is
// compressed, while objects change.
func TestInitialEventsSayTheSame(t *testing.T) {
	h := start(t)
	one, two := versionClients(t, h)
	far := distantClient(t, h)
	ctx, maps := t.Context(), h.admin.CoreV1().ConfigMaps("default")
	for i := range 100 { // more than are taken at once
		cm := configMap(fmt.Sprintf("m%d", i), map[string]string{"size": strings.Repeat("x", i*i*4)})
		if i%3 == 0 {
			cm.Labels = map[string]string{"third": "yes"}
		}
		if _, err := maps.Create(ctx, cm, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	type watched struct {
		name    string
		streams [3]io.Reader
	}
	var all []watched
	for _, query := range []string{"", "&labelSelector=third%3Dyes", "&labelSelector=third%3Dno", "&resourceVersion=1"} {
		for _, accept := range []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf} {
			w := watched{name: query + " " + accept}
			for i, c := range []struct {
				client *http.Client
				want   string
			}{{one, ""}, {two, ""}, {far, "gzip"}} {
				encoding := "identity"
				if i > 0 {
					encoding = "gzip"
				}
				got := rawInitial(t, c.client, h, initialQuery+query, accept, encoding)
				if got.encoding != c.want {
					t.Fatalf("%s over HTTP/%d: compressed by %q, want %q", w.name, got.version, got.encoding, c.want)
				}
				w.streams[i] = got.plain
			}
			all = append(all, w)
		}
	}
	var said []map[int][]byte
	for _, w := range all { // what was there, before anything changes
		got := map[int][]byte{}
		for i, stream := range w.streams {
			got[i] = readUntil(t, stream, metav1.InitialEventsAnnotationKey)
		}
		said = append(said, got)
	}
	for i := range 30 {
		patch := fmt.Appendf(nil, `{"metadata":{"labels":{"third":"%s"}}}`, []string{"yes", "no"}[i%2])
		if _, err := maps.Patch(ctx, fmt.Sprintf("m%d", i), types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		if i%4 == 0 {
			if err := maps.Delete(ctx, fmt.Sprintf("m%d", i), metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, answer := range []string{"yes", "no"} { // one of them for each selector
		if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "the-end-" + answer, Labels: map[string]string{"third": answer}}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for n, w := range all {
		end := "the-end-no"
		if strings.Contains(w.name, "third%3Dyes") {
			end = "the-end-yes"
		}
		for i, stream := range w.streams {
			if !bytes.Contains(said[n][i], []byte(end)) {
				said[n][i] = append(said[n][i], readUntil(t, stream, end)...)
			}
		}
		want := eventsOf(said[n][0])
		for i := 1; i < len(w.streams); i++ {
			got := eventsOf(said[n][i])
			length := min(len(want), len(got)) // one may have been read further
			if length < 5 || !slices.Equal(want[:length], got[:length]) {
				t.Errorf("%s: stream %d differs from the library's within the first %d events", w.name, i, length)
			}
		}
	}
}

// eventsOf splits a stream into events. Of bookmarks, which tell how far other kinds
// have come, only the end of the initial events is kept.
func eventsOf(stream []byte) (events []string) {
	add := func(event []byte) {
		switch {
		case !bytes.Contains(event, []byte("BOOKMARK")):
			events = append(events, string(event))
		case bytes.Contains(event, []byte(metav1.InitialEventsAnnotationKey)):
			events = append(events, "the initial events end")
		}
	}
	if bytes.HasPrefix(stream, []byte("{")) {
		lines := bytes.SplitAfter(stream, []byte("\n"))
		for _, line := range lines[:len(lines)-1] { // the last has not ended
			add(line)
		}
		return events
	}
	for len(stream) >= 4 {
		length := 4 + int(binary.BigEndian.Uint32(stream))
		if length > len(stream) {
			break
		}
		add(stream[:length])
		stream = stream[length:]
	}
	return events
}

// TestInitialEventsCount checks the metrics of a compressed stream: sizes are those
// before it is compressed, and the latency of the initial events is there.
func TestInitialEventsCount(t *testing.T) {
	h := start(t)
	far := distantClient(t, h)
	maps := h.admin.CoreV1().ConfigMaps("default")
	const series = `{group="",resource="configmaps",version="v1"}`
	const latency = `apiserver_watch_list_duration_seconds_count{group="",resource="configmaps",scope="namespace",version="v1"}`
	sum := func() float64 { return metricOf(t, h, "apiserver_watch_events_sizes_sum"+series) }
	lists := metricOf(t, h, latency)
	body := rawInitial(t, far, h, initialQuery, runtime.ContentTypeJSON, "gzip").plain
	readUntil(t, body, metav1.InitialEventsAnnotationKey)
	waitUntil(t, "the initial events are counted", func() bool { return metricOf(t, h, latency) > lists })
	before := sum()
	const size = 40_000 // of which little is left when it is compressed
	if _, err := maps.Create(t.Context(), configMap("m", map[string]string{"size": strings.Repeat("x", size)}), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	readUntil(t, body, strings.Repeat("x", size))
	waitUntil(t, "the event's size is that of what it says", func() bool { return sum() >= before+size })
}

// TestInformerStreams has an informer of client-go follow objects, over a compressed
// stream.
func TestInformerStreams(t *testing.T) {
	h := start(t)
	maps := h.admin.CoreV1().ConfigMaps("default")
	create := func(name string) {
		t.Helper()
		if _, err := maps.Create(t.Context(), configMap(name, nil), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	create("before")
	conf := h.as(t, "admin", "system:masters")
	conf.Dial = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).DialContext
	ctx, cancel := context.WithCancel(t.Context())
	factory := informers.NewSharedInformerFactoryWithOptions(client(t, conf), 0, informers.WithNamespace("default"))
	informer := factory.Core().V1().ConfigMaps().Informer()
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	defer cancel()
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		t.Fatal("the informer did not sync")
	}
	for i := range 50 {
		create(fmt.Sprintf("m%d", i))
	}
	if err := maps.Delete(t.Context(), "before", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "the informer has what is there", func() bool {
		_, gone, err := informer.GetStore().GetByKey("default/before")
		return err == nil && !gone && len(informer.GetStore().ListKeys()) == 50
	})
}

// TestEncodings checks whose events are compressed.
func TestEncodings(t *testing.T) {
	for _, tt := range []struct {
		name, accept, from, to string
		want, kept             bool
	}{
		{"another machine", "gzip", "10.0.0.2:4000", "10.0.0.1:6443", true, true},
		{"another machine, among others", "br, gzip", "10.0.0.2:4000", "10.0.0.1:6443", true, true},
		{"another machine that reads none", "", "10.0.0.2:4000", "10.0.0.1:6443", false, false},
		{"this machine", "gzip", "10.0.0.1:4000", "10.0.0.1:6443", false, false},
		{"this machine, mapped", "gzip", "[::ffff:10.0.0.1]:4000", "10.0.0.1:6443", false, false},
		{"unknown", "gzip", "pipe", "10.0.0.1:6443", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			to, err := net.ResolveTCPAddr("tcp", tt.to)
			if err != nil {
				t.Fatal(err)
			}
			r := httptest.NewRequestWithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, net.Addr(to)), http.MethodGet, "/", http.NoBody)
			r.RemoteAddr = tt.from
			if tt.accept != "" {
				r.Header.Set("Accept-Encoding", tt.accept)
			}
			passed, got := encodings(r)
			if kept := passed.Header.Get("Accept-Encoding") != ""; got != tt.want || kept != tt.kept {
				t.Errorf("wanted is %v and the header kept %v, want %v and %v", got, kept, tt.want, tt.kept)
			}
			if r.Header.Get("Accept-Encoding") != tt.accept {
				t.Error("the request itself was changed")
			}
		})
	}
}

// BenchmarkInformers measures the CPU of an event to each of 100 watches as informers
// open them, the clients' reading included: on this machine, and as if on another.
func BenchmarkInformers(b *testing.B) {
	const watches = 100
	for _, from := range []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(127, 0, 0, 2)} {
		b.Run(from.String(), func(b *testing.B) {
			h := start(b)
			conf, err := rest.TLSConfigFor(h.as(b, "admin", "system:masters"))
			if err != nil {
				b.Fatal(err)
			}
			dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}
			for range watches {
				transport := &http.Transport{TLSClientConfig: conf.Clone(), DialContext: dialer.DialContext, ForceAttemptHTTP2: true, DisableCompression: true}
				b.Cleanup(transport.CloseIdleConnections)
				stream := rawInitial(b, &http.Client{Transport: transport}, h, initialQuery, runtime.ContentTypeProtobuf, "gzip")
				go func() { _, _ = io.Copy(io.Discard, stream.raw) }() // ends with the body
			}
			sent := func() float64 {
				return metricOf(b, h, `apiserver_watch_events_total{group="",resource="configmaps",version="v1"}`)
			}
			used := func() time.Duration {
				var u syscall.Rusage
				if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
					b.Fatal(err)
				}
				return time.Duration(u.Utime.Nano() + u.Stime.Nano())
			}
			data := map[string]string{"a": strings.Repeat("some text ", 150)}
			n, events, cpu := 0, sent(), used()
			for b.Loop() {
				if _, err := h.admin.CoreV1().ConfigMaps("default").Create(b.Context(), configMap(fmt.Sprintf("m%d", n), data), metav1.CreateOptions{}); err != nil {
					b.Fatal(err)
				}
				n++
			}
			waitUntil(b, "all events are sent", func() bool { return sent() >= events+float64(n*watches) })
			b.ReportMetric(float64(used()-cpu)/float64(n*watches), "cpu-ns/event")
		})
	}
}
