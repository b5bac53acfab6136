package apiserver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	goruntime "runtime"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
	"k8s.io/apiserver/pkg/endpoints/metrics"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	compbasemetrics "k8s.io/component-base/metrics"
	"k8s.io/klog/v2"

	"keelson.dev/keelson/core/store"
)

const (
	// takeAtOnce is how many events are taken from the store before they are written.
	takeAtOnce = 64
	// dataBytes is what one write takes: with the head of an HTTP/2 frame it fills a
	// TLS record, which is one system call.
	dataBytes = 16<<10 - 9
	// yields is how often a stream that was woken lets others run before it writes.
	yields = 2
)

// watchHandler serves watches. Those of the store over HTTP/2 are served by an
// eventStream, all others by the library's loop alone.
func watchHandler(lister rest.Lister, watcher rest.Watcher, scope *handlers.RequestScope, timeout time.Duration) http.HandlerFunc {
	plain := joinSmallWrites(handlers.ListResource(lister, watcher, scope, false, timeout))
	return func(w http.ResponseWriter, r *http.Request) {
		s := newEventStream(watcher, scope, w, r)
		if s == nil {
			plain(w, r)
			return
		}
		r, s.gzip = encodings(r)
		handlers.ListResource(lister, s, scope, false, timeout)(w, r)
	}
}

// eventStream serves one watch: it takes what the store has, and writes it in as
// few pieces as it can. The library checks the request, begins the answer and
// counts the watch; eventStream stands for the storage there, and serves when it is
// asked for the channel of events. That is then closed, which is how the library
// learns that the watch is over. What is sent is what the library's loop would.
type eventStream struct {
	rest.Watcher
	store.Taken // set by Watch

	scope     *handlers.RequestScope
	w         http.ResponseWriter
	out       io.Writer // w, or what compresses on the way to it
	flusher   http.Flusher
	ctx       context.Context // of the request
	media     runtime.SerializerInfo
	object    runtime.Encoder // of objects
	event     runtime.Encoder // of events around them
	prefix    int             // bytes that framing puts before an event
	ids       map[watch.EventType]runtime.Identifier
	count     compbasemetrics.CounterMetric
	sizes     compbasemetrics.ObserverMetric
	gzip      bool            // the client reads it
	initial   *initialEvents  // of a stream that asked for them
	parts     bool            // each event is compressed for itself
	encoding  watch.EventType // of the event that is encoded
	one       []byte          // the first event of a write, shared with other streams
	some      *bytes.Buffer   // several events
	size      int             // of the event that came last
	writeFail error
}

var (
	_ rest.Watcher    = (*eventStream)(nil)
	_ watch.Interface = (*eventStream)(nil)
	_ runtime.Splice  = (*eventStream)(nil)
)

// streamBuffers are used from the second event of a write to its end: a watch that
// waits has none.
var streamBuffers = sync.Pool{New: func() any { return &bytes.Buffer{} }}

// newEventStream returns nil for requests that the library serves alone: events
// that are tables or metadata, and what goes over WebSockets or HTTP/1.
func newEventStream(watcher rest.Watcher, scope *handlers.RequestScope, w http.ResponseWriter, r *http.Request) *eventStream {
	flusher, ok := w.(http.Flusher)
	if !ok || r.ProtoMajor != 2 {
		return nil
	}
	media, ok := negotiation.NegotiateMediaTypeOptions(r.Header.Get("Accept"), scope.Serializer.SupportedMediaTypes(), scope)
	if !ok || media.Convert != nil || media.Accepted.StreamSerializer == nil || media.Accepted.StreamSerializer.Framer == nil {
		return nil
	}
	return &eventStream{Watcher: watcher, scope: scope, w: w, out: w, flusher: flusher, ctx: r.Context(), media: media.Accepted}
}

// Watch implements rest.Watcher.
func (s *eventStream) Watch(ctx context.Context, opts *internalversion.ListOptions) (watch.Interface, error) {
	got, err := s.Watcher.Watch(store.WithTaken(ctx), opts)
	if err != nil {
		return nil, err
	}
	taken, ok := got.(store.Taken)
	if !ok { // of another data store, or wrapped
		return got, nil
	}
	s.Taken = taken
	if asksInitialEvents(opts) {
		s.beginInitial(ctx, opts)
	}
	return s, nil
}

// ResultChan implements watch.Interface.
func (s *eventStream) ResultChan() <-chan watch.Event {
	s.prepare()
	if s.initial != nil && s.gzip {
		s.compress()
	}
	s.serve()
	s.closeInitial()
	over := make(chan watch.Event)
	close(over)
	return over
}

// prepare makes the encoders, as the library does.
func (s *eventStream) prepare() {
	stream := s.media.StreamSerializer
	s.object = s.scope.Serializer.EncoderForVersion(s.media.Serializer, s.scope.Kind.GroupVersion())
	s.event = s.scope.Serializer.EncoderForVersion(stream.Serializer, s.scope.Kind.GroupVersion())
	var empty bytes.Buffer
	_, _ = stream.Framer.NewFrameWriter(&empty).Write(nil) // a Buffer takes all
	s.prefix = empty.Len()
	s.identify()
	gvr := s.scope.Resource
	s.count = metrics.WatchEvents.WithContext(s.ctx).WithLabelValues(gvr.Group, gvr.Version, gvr.Resource)
	s.sizes = metrics.WatchEventsSizes.WithContext(s.ctx).WithLabelValues(gvr.Group, gvr.Version, gvr.Resource)
}

// identify names the form that events are encoded in.
func (s *eventStream) identify() {
	s.ids = map[watch.EventType]runtime.Identifier{}
	for _, t := range []watch.EventType{watch.Added, watch.Modified, watch.Deleted, watch.Bookmark, watch.Error} {
		s.ids[t] = runtime.Identifier(fmt.Sprintf("frame %t %s %s %s %s", s.parts, t, s.media.MediaType, s.object.Identifier(), s.event.Identifier()))
	}
}

// serve writes events until the watch or the request is over.
func (s *eventStream) serve() {
	var stop <-chan struct{}
	if signals := request.ServerShutdownSignalFrom(s.ctx); signals != nil {
		stop = signals.ShuttingDown()
	}
	events := make([]watch.Event, 0, 1)
	for {
		// Who makes events runs first: where more runs than there are processors, several
		// events go out together, and nothing waits where there is one to spare.
		for range yields {
			goruntime.Gosched()
		}
		var over bool
		events, over = s.Take(events[:0], takeAtOnce)
		for i := range events {
			if err := s.add(&events[i]); err != nil {
				klog.FromContext(s.ctx).Error(err, "Failed to encode watch event")
				over = true
				break
			}
		}
		more := len(events) == takeAtOnce
		clear(events)
		if more && !over && s.writeFail == nil {
			continue
		}
		if s.flush(); over || s.writeFail != nil || !s.Wait(stop) {
			return
		}
	}
}

// add encodes an event, unless another watch has, and writes it or keeps it for
// flush.
func (s *eventStream) add(ev *watch.Event) error {
	s.encoding = ev.Type
	var err error
	if shared, ok := ev.Object.(runtime.CacheableObject); ok {
		err = shared.CacheEncode(s.ids[ev.Type], s.frame, s)
	} else {
		err = s.frame(ev.Object, s)
	}
	if err == nil {
		s.count.Inc()
		s.sizes.Observe(float64(s.size - s.prefix))
		if s.endsInitial(ev) {
			s.initialSent()
		}
	}
	return err
}

// frame encodes the event that add is at.
func (s *eventStream) frame(obj runtime.Object, w io.Writer) error {
	var inner, outer, framed bytes.Buffer
	if err := s.object.Encode(obj, &inner); err != nil {
		return fmt.Errorf("encode object of watch event: %w", err)
	}
	ev := &metav1.WatchEvent{Type: string(s.encoding), Object: runtime.RawExtension{Raw: inner.Bytes()}}
	if err := s.event.Encode(ev, &outer); err != nil {
		return fmt.Errorf("encode watch event: %w", err)
	}
	framed.Grow(outer.Len() + 4)
	if _, err := s.media.StreamSerializer.Framer.NewFrameWriter(&framed).Write(outer.Bytes()); err != nil {
		return fmt.Errorf("frame watch event: %w", err)
	}
	data := framed.Bytes()
	if s.parts {
		var err error
		if data, err = part(data); err != nil {
			return err
		}
	}
	_, err := w.Write(data)
	return err
}

// Splice implements runtime.Splice: raw is never changed, so the first event of a
// write is not copied.
func (s *eventStream) Splice(raw []byte) {
	if s.size = len(raw); s.parts {
		s.size = plainSize(raw)
	}
	if s.one == nil && s.some == nil {
		s.one = raw
		return
	}
	if s.some == nil {
		s.some = streamBuffers.Get().(*bytes.Buffer)
		s.some.Write(s.one)
		s.one = nil
	}
	s.some.Write(raw)
	for s.some.Len() >= dataBytes {
		s.write(s.some.Next(dataBytes))
	}
}

// Write implements runtime.Splice, for bytes that are not kept by the writer.
func (s *eventStream) Write(p []byte) (int, error) {
	s.Splice(bytes.Clone(p))
	return len(p), nil
}

// Reset implements runtime.Splice.
func (s *eventStream) Reset() {}

// Bytes implements runtime.Splice.
func (s *eventStream) Bytes() []byte { return nil }

// flush sends what was kept.
func (s *eventStream) flush() {
	if s.one == nil && s.some == nil {
		return
	}
	s.write(s.one)
	s.one = nil
	if s.some != nil {
		s.write(s.some.Bytes())
		s.some.Reset()
		if s.some.Cap() <= 8*dataBytes {
			streamBuffers.Put(s.some)
		}
		s.some = nil
	}
	if s.initial != nil && s.initial.gzip != nil && s.writeFail == nil {
		s.writeFail = s.initial.gzip.Flush()
	}
	s.flusher.Flush()
}

// write sends p, unless a write has failed: the client is gone then.
func (s *eventStream) write(p []byte) {
	for len(p) > 0 && s.writeFail == nil {
		n := min(len(p), dataBytes)
		_, s.writeFail = s.out.Write(p[:n])
		p = p[n:]
	}
}
