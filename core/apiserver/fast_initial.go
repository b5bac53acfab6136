package apiserver

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/metrics"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/server/httplog"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/component-base/tracing"
)

// traceInitialEvents is from when on the log has the steps of a watch until its
// initial events were sent, as the library's.
const traceInitialEvents = 500 * time.Millisecond

// gzipWriters compress as the library does.
var gzipWriters = responsewriters.NewGzipWriterPoolOrDie()

// initialEvents is the part of a stream that asked for initial events and for the
// bookmark that ends them, as informers of client-go do. The library counts how long
// that took, and compresses such a stream for clients that can read it: each event
// for each watch. Here the initial events, which are this watch's own, are compressed
// together, and an event after them is once, for all watches: gzip allows a stream
// of many parts.
type initialEvents struct {
	ctx    context.Context // of the watch: it has the trace
	metric string          // the scope, in the library's metric of latency
	gzip   *gzip.Writer    // of what was written until the bookmark, if that is compressed
	ended  bool            // the bookmark was sent, or the watch is over
}

// asksInitialEvents says whether a watch is one that the library treats as a list.
func asksInitialEvents(opts *internalversion.ListOptions) bool {
	return opts.SendInitialEvents != nil && *opts.SendInitialEvents && opts.AllowWatchBookmarks
}

// beginInitial prepares for initial events.
func (s *eventStream) beginInitial(ctx context.Context, opts *internalversion.ListOptions) {
	s.initial = &initialEvents{ctx: ctx, metric: metrics.CleanListScope(ctx, opts)}
}

// compress has the initial events compressed, and those after them.
func (s *eventStream) compress() {
	s.initial.gzip = gzipWriters.Get().(*gzip.Writer)
	s.initial.gzip.Reset(s.w)
	s.out = s.initial.gzip
}

// endsInitial says whether an event is the bookmark after the initial events.
func (s *eventStream) endsInitial(ev *watch.Event) bool {
	if s.initial == nil || s.initial.ended || ev.Type != watch.Bookmark {
		return false
	}
	ends, err := storage.HasInitialEventsEndBookmarkAnnotation(ev.Object)
	return err == nil && ends
}

// initialSent tells of the initial events as the library does, once the bookmark is
// with the client.
func (s *eventStream) initialSent() {
	s.flush()
	s.closeInitial()
	if received, ok := request.ReceivedTimestampFrom(s.ctx); ok {
		took := time.Since(received)
		metrics.RecordWatchListLatency(s.ctx, s.scope.Resource, s.initial.metric, took)
		httplog.AddKeyValue(s.ctx, "watchlist_init_latency", took)
	}
	tracing.SpanFromContext(s.initial.ctx).End(traceInitialEvents)
}

// closeInitial ends the part of the stream that was compressed in one; events after
// it are compressed each for itself.
func (s *eventStream) closeInitial() {
	if s.initial == nil || s.initial.ended {
		return
	}
	s.initial.ended = true
	w := s.initial.gzip
	if w == nil {
		return
	}
	if err := w.Close(); s.writeFail == nil {
		s.writeFail = err
	}
	w.Reset(nil)
	gzipWriters.Put(w)
	s.initial.gzip, s.out, s.parts = nil, s.w, true
	s.identify()
	s.flusher.Flush()
}

// part compresses an event as a part of its own. It is flushed before it is ended: a
// reader that has seen the end of a part looks for the next one before it gives what
// it has.
func part(event []byte) ([]byte, error) {
	var out bytes.Buffer
	w := gzipWriters.Get().(*gzip.Writer)
	defer gzipWriters.Put(w)
	w.Reset(&out)
	_, err := w.Write(event)
	if err := errors.Join(err, w.Flush(), w.Close()); err != nil {
		return nil, fmt.Errorf("compress watch event: %w", err)
	}
	w.Reset(nil)
	return out.Bytes(), nil
}

// plainSize is how long a part is before it is compressed: its last 4 bytes say so.
func plainSize(part []byte) int {
	return int(binary.LittleEndian.Uint32(part[len(part)-4:]))
}

// encodings says how a watch is to be compressed: wanted is whether the client reads
// it. A client on this machine gets the events as they are, by a request that does
// not say that it reads another form.
func encodings(r *http.Request) (_ *http.Request, wanted bool) {
	if responsewriters.ContentEncodingSupported(r, features.WatchListCompression) == "" {
		return r, false
	}
	if !sameHost(r) {
		return r, true
	}
	plain := r.WithContext(r.Context())
	plain.Header = r.Header.Clone()
	plain.Header.Del("Accept-Encoding")
	return plain, false
}

// sameHost says whether a request came from the address that it came to.
func sameHost(r *http.Request) bool {
	own, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	local, err1 := netip.ParseAddrPort(own.String())
	remote, err2 := netip.ParseAddrPort(r.RemoteAddr)
	return err1 == nil && err2 == nil && local.Addr().Unmap() == remote.Addr().Unmap()
}
