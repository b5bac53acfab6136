package dns

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/plugins/kit/kittest"
)

// cluster is what the tests ask about.
func cluster() []runtime.Object {
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "default", Name: name} }
	ports := []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}, {Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53}, {Protocol: corev1.ProtocolTCP, Port: 9}}
	slicePorts := []discoveryv1.EndpointPort{{Name: new("http"), Protocol: ptr.To(corev1.ProtocolTCP), Port: new(int32(8080))}}
	slice := func(service string, kind discoveryv1.AddressType, eps ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
		m := meta(service + "-" + strings.ToLower(string(kind)))
		m.Labels = map[string]string{discoveryv1.LabelServiceName: service}
		return &discoveryv1.EndpointSlice{ObjectMeta: m, AddressType: kind, Endpoints: eps, Ports: slicePorts}
	}
	ready := discoveryv1.EndpointConditions{Ready: new(true)}
	many := make([]discoveryv1.Endpoint, 100)
	for i := range many {
		many[i] = discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.244.9.%d", i+1)}, Conditions: ready}
	}
	return []runtime.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}},
		&corev1.Service{ObjectMeta: meta("web"), Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.20", ClusterIPs: []string{"10.96.0.20", "fd96::20"}, Ports: ports}},
		&corev1.Service{ObjectMeta: meta("db"), Spec: corev1.ServiceSpec{ClusterIP: "None", ClusterIPs: []string{"None"}, Ports: ports}},
		slice("db", discoveryv1.AddressTypeIPv4,
			discoveryv1.Endpoint{Addresses: []string{"10.244.1.5"}, Hostname: new("db-0"), Conditions: ready},
			discoveryv1.Endpoint{Addresses: []string{"10.244.1.6"}, Conditions: ready},
			discoveryv1.Endpoint{Addresses: []string{"10.244.1.7"}, Hostname: new("db-2"), Conditions: discoveryv1.EndpointConditions{Ready: new(false)}}),
		slice("db", discoveryv1.AddressTypeIPv6, discoveryv1.Endpoint{Addresses: []string{"fd00::5"}, Hostname: new("db-0"), Conditions: ready}),
		&corev1.Service{ObjectMeta: meta("empty"), Spec: corev1.ServiceSpec{ClusterIP: "None"}},
		&corev1.Service{ObjectMeta: meta("many"), Spec: corev1.ServiceSpec{ClusterIP: "None"}},
		slice("many", discoveryv1.AddressTypeIPv4, many...),
		&corev1.Service{ObjectMeta: meta("outside"), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "www.example.com"}},
		&corev1.Service{ObjectMeta: meta("alias"), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "web.default.svc.cluster.local"}},
		&corev1.Service{ObjectMeta: meta("circle"), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "circle.default.svc.cluster.local"}},
	}
}

// newTestHandler answers from the objects, and asks the resolvers given.
func newTestHandler(t testing.TB, upstreams []string, objects ...runtime.Object) *handler {
	t.Helper()
	env := kittest.NewEnv(t, Plugin)
	cfg := Config{Upstreams: upstreams, ResolvConf: "/dev/null"}
	cfg.SetDefaults()
	s, err := newServer(env, cfg, kittest.Clientset(objects...))
	if err != nil {
		t.Fatal(err)
	}
	s.metrics = newMetrics(prometheus.NewRegistry())
	warm := make(chan struct{})
	kittest.Warm(t, s, func() { close(warm) })
	<-warm
	return s.newHandler(s.zone)
}

// upstream is a resolver that knows example.com, and counts.
func upstream(t testing.TB) (address string, asked func() int) {
	t.Helper()
	var n atomic.Int64
	done := make(chan struct{})
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		n.Add(1)
		m := new(dns.Msg)
		m.SetReply(q)
		soa := &dns.SOA{Hdr: dns.RR_Header{Name: "example.com.", Rrtype: dns.TypeSOA, Class: 1, Ttl: 20}, Ns: "ns.example.com.", Mbox: "x.example.com.", Minttl: 20}
		switch name := strings.ToLower(q.Question[0].Name); {
		case name == "www.example.com." && q.Question[0].Qtype == dns.TypeA:
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: 1, Ttl: 60}, A: net.IPv4(198, 51, 100, 1)}}
		case name == "www.example.com.":
			m.Ns = []dns.RR{soa}
		case name == "broken.example.com.":
			m.Rcode = dns.RcodeServerFailure
		default:
			m.Rcode, m.Ns = dns.RcodeNameError, []dns.RR{soa}
		}
		_ = w.WriteMsg(m)
	})}
	go func() { defer close(done); _ = srv.ActivateAndServe() }()
	t.Cleanup(func() { _ = conn.Close(); <-done })
	return conn.LocalAddr().String(), func() int { return int(n.Load()) }
}

func query(name string, kind uint16) *dns.Msg {
	q := new(dns.Msg)
	q.SetQuestion(name, kind)
	return q
}

// texts are records as "name TYPE data", in the order of the answer.
func texts(rrs []dns.RR) []string {
	got := []string{}
	for _, rr := range rrs {
		if rr.Header().Rrtype == dns.TypeOPT {
			continue
		}
		f := strings.Fields(rr.String())
		got = append(got, strings.Join(append([]string{f[0], f[3]}, f[4:]...), " "))
	}
	return got
}

func TestSpecification(t *testing.T) {
	address, _ := upstream(t)
	h := newTestHandler(t, []string{address}, cluster()...)
	const noError, nxDomain = dns.RcodeSuccess, dns.RcodeNameError
	for _, tc := range []struct {
		name    string
		kind    uint16
		code    int
		answers []string
	}{
		{"web.default.svc.cluster.local.", dns.TypeA, noError, []string{"web.default.svc.cluster.local. A 10.96.0.20"}},
		{"web.default.svc.cluster.local.", dns.TypeAAAA, noError, []string{"web.default.svc.cluster.local. AAAA fd96::20"}},
		{"WEB.Default.SVC.cluster.LOCAL.", dns.TypeA, noError, []string{"WEB.Default.SVC.cluster.LOCAL. A 10.96.0.20"}},
		{"web.default.svc.cluster.local.", dns.TypeMX, noError, nil},
		{"none.default.svc.cluster.local.", dns.TypeA, nxDomain, nil},
		{"web.none.svc.cluster.local.", dns.TypeA, nxDomain, nil},
		{"x.web.default.svc.cluster.local.", dns.TypeA, nxDomain, nil},
		{"cluster.local.", dns.TypeA, noError, nil},
		{"svc.cluster.local.", dns.TypeA, noError, nil},
		{"pod.cluster.local.", dns.TypeA, noError, nil},
		{"default.svc.cluster.local.", dns.TypeA, noError, nil},
		{"none.svc.cluster.local.", dns.TypeA, nxDomain, nil},
		{"www.example.com.default.svc.cluster.local.", dns.TypeA, nxDomain, nil},
		{"www.example.com.cluster.local.", dns.TypeA, nxDomain, nil},
		{"_http._tcp.web.default.svc.cluster.local.", dns.TypeSRV, noError, []string{"_http._tcp.web.default.svc.cluster.local. SRV 0 100 80 web.default.svc.cluster.local."}},
		{"_dns._udp.web.default.svc.cluster.local.", dns.TypeSRV, noError, []string{"_dns._udp.web.default.svc.cluster.local. SRV 0 100 53 web.default.svc.cluster.local."}},
		{"_dns._tcp.web.default.svc.cluster.local.", dns.TypeSRV, nxDomain, nil},
		{"_http._tcp.web.default.svc.cluster.local.", dns.TypeA, noError, nil},
		{"_tcp.web.default.svc.cluster.local.", dns.TypeA, noError, nil},
		{"db.default.svc.cluster.local.", dns.TypeA, noError, []string{"db.default.svc.cluster.local. A 10.244.1.5", "db.default.svc.cluster.local. A 10.244.1.6"}},
		{"db.default.svc.cluster.local.", dns.TypeAAAA, noError, []string{"db.default.svc.cluster.local. AAAA fd00::5"}},
		{"db-0.db.default.svc.cluster.local.", dns.TypeA, noError, []string{"db-0.db.default.svc.cluster.local. A 10.244.1.5"}},
		{"10-244-1-6.db.default.svc.cluster.local.", dns.TypeA, noError, []string{"10-244-1-6.db.default.svc.cluster.local. A 10.244.1.6"}},
		{"db-2.db.default.svc.cluster.local.", dns.TypeA, nxDomain, nil},
		{"_http._tcp.db.default.svc.cluster.local.", dns.TypeSRV, noError, []string{
			"_http._tcp.db.default.svc.cluster.local. SRV 0 100 8080 db-0.db.default.svc.cluster.local.",
			"_http._tcp.db.default.svc.cluster.local. SRV 0 100 8080 10-244-1-6.db.default.svc.cluster.local."}},
		{"_no._tcp.db.default.svc.cluster.local.", dns.TypeSRV, nxDomain, nil},
		{"empty.default.svc.cluster.local.", dns.TypeA, noError, nil},
		{"alias.default.svc.cluster.local.", dns.TypeA, noError, []string{
			"alias.default.svc.cluster.local. CNAME web.default.svc.cluster.local.", "web.default.svc.cluster.local. A 10.96.0.20"}},
		{"outside.default.svc.cluster.local.", dns.TypeA, noError, []string{
			"outside.default.svc.cluster.local. CNAME www.example.com.", "www.example.com. A 198.51.100.1"}},
		{"outside.default.svc.cluster.local.", dns.TypeCNAME, noError, []string{"outside.default.svc.cluster.local. CNAME www.example.com."}},
		{"circle.default.svc.cluster.local.", dns.TypeA, dns.RcodeServerFailure, nil},
		{"10-244-1-9.default.pod.cluster.local.", dns.TypeA, noError, []string{"10-244-1-9.default.pod.cluster.local. A 10.244.1.9"}},
		{"fd00--5.default.pod.cluster.local.", dns.TypeAAAA, noError, []string{"fd00--5.default.pod.cluster.local. AAAA fd00::5"}},
		{"10-244-1-9.none.pod.cluster.local.", dns.TypeA, nxDomain, nil},
		{"nothing.default.pod.cluster.local.", dns.TypeA, nxDomain, nil},
		{"20.0.96.10.in-addr.arpa.", dns.TypePTR, noError, []string{"20.0.96.10.in-addr.arpa. PTR web.default.svc.cluster.local."}},
		{"5.1.244.10.in-addr.arpa.", dns.TypePTR, noError, []string{"5.1.244.10.in-addr.arpa. PTR db-0.db.default.svc.cluster.local."}},
		{"6.1.244.10.in-addr.arpa.", dns.TypePTR, nxDomain, nil},
		{"dns-version.cluster.local.", dns.TypeTXT, noError, []string{`dns-version.cluster.local. TXT "1.1.0"`}},
		{"cluster.local.", dns.TypeSOA, noError, []string{"cluster.local. SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"}},
		{"cluster.local.", dns.TypeNS, noError, []string{"cluster.local. NS ns.dns.cluster.local."}},
		{"ns.dns.cluster.local.", dns.TypeA, noError, []string{"ns.dns.cluster.local. A 10.96.0.10"}},
	} {
		t.Run(tc.name+" "+dns.TypeToString[tc.kind], func(t *testing.T) {
			got, _ := h.answer(t.Context(), query(tc.name, tc.kind))
			if got.Rcode != tc.code {
				t.Errorf("got code %s, want %s", dns.RcodeToString[got.Rcode], dns.RcodeToString[tc.code])
			}
			if tc.answers == nil {
				tc.answers = []string{}
			}
			if diff := cmp.Diff(tc.answers, texts(got.Answer)); diff != "" {
				t.Errorf("answers (-want +got):\n%s", diff)
			}
			if got.Rcode != dns.RcodeServerFailure && !got.Authoritative {
				t.Error("answer is not authoritative")
			}
			if len(got.Answer) == 0 && got.Rcode != dns.RcodeServerFailure && (len(got.Ns) != 1 || got.Ns[0].Header().Rrtype != dns.TypeSOA) {
				t.Errorf("negative answer: got authority %v, want the zone's SOA", got.Ns)
			}
			if _, err := got.Pack(); err != nil {
				t.Errorf("answer cannot be packed: %v", err)
			}
		})
	}
}

func TestServiceGlue(t *testing.T) {
	h := newTestHandler(t, nil, cluster()...)
	got, _ := h.answer(t.Context(), query("_http._tcp.web.default.svc.cluster.local.", dns.TypeSRV))
	want := []string{"web.default.svc.cluster.local. A 10.96.0.20", "web.default.svc.cluster.local. AAAA fd96::20"}
	if diff := cmp.Diff(want, texts(got.Extra)); diff != "" {
		t.Errorf("additional records (-want +got):\n%s", diff)
	}
}

func TestForward(t *testing.T) {
	address, asked := upstream(t)
	h := newTestHandler(t, []string{address}, cluster()...)
	ask := func(name string, kind uint16) *dns.Msg {
		got, _ := h.answer(t.Context(), query(name, kind))
		return got
	}
	for range 3 {
		if got := ask("www.example.com.", dns.TypeA); len(got.Answer) != 1 || got.Authoritative {
			t.Fatalf("got %v, want one answer without authority", got)
		}
		if got := ask("no.example.com.", dns.TypeA); got.Rcode != dns.RcodeNameError || len(got.Ns) != 1 {
			t.Fatalf("got %v, want NXDOMAIN with SOA", got)
		}
		if got := ask("www.example.com.", dns.TypeAAAA); got.Rcode != dns.RcodeSuccess || len(got.Answer) != 0 {
			t.Fatalf("got %v, want no data", got)
		}
	}
	if asked() != 3 {
		t.Errorf("upstream was asked %d times, want 3: the rest is in the cache", asked())
	}
	if got := ask("broken.example.com.", dns.TypeA); got.Rcode != dns.RcodeServerFailure {
		t.Errorf("broken resolver: got %s, want SERVFAIL", dns.RcodeToString[got.Rcode])
	}
	if got := ask("1.2.0.192.in-addr.arpa.", dns.TypePTR); got.Rcode != dns.RcodeNameError || got.Authoritative {
		t.Errorf("foreign reverse name: got %v, want the resolver's NXDOMAIN", got)
	}
	if got, _ := newTestHandler(t, nil).answer(t.Context(), query("www.example.com.", dns.TypeA)); got.Rcode != dns.RcodeServerFailure {
		t.Errorf("no resolver: got %s, want SERVFAIL", dns.RcodeToString[got.Rcode])
	}
}

func TestUpstreamsWithoutOurselves(t *testing.T) {
	h := newTestHandler(t, []string{"10.96.0.10", "169.254.20.10", "192.0.2.53", "[2001:db8::53]:5353"})
	want := []string{"192.0.2.53:53", "[2001:db8::53]:5353"}
	if diff := cmp.Diff(want, h.forward.upstreams()); diff != "" {
		t.Errorf("resolvers (-want +got):\n%s", diff)
	}
}

func TestCache(t *testing.T) {
	c := newCache(2)
	now := time.Now()
	put := func(name string, ttl uint32) {
		m := new(dns.Msg)
		m.SetReply(query(name, dns.TypeA))
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: 1, Ttl: ttl}, A: net.IPv4(1, 2, 3, 4)}}
		c.put(keyOf(query(name, dns.TypeA)), m, now)
	}
	get := func(name string, after time.Duration) *dns.Msg {
		return c.get(keyOf(query(name, dns.TypeA)), now.Add(after))
	}
	put("a.", 60)
	put("b.", 60)
	if got := get("A.", 10*time.Second); got == nil || got.Answer[0].Header().Ttl != 50 {
		t.Errorf("after 10 s: got %v, want TTL 50", got)
	}
	put("c.", 60) // b was used least recently
	if get("b.", 0) != nil || get("a.", 0) == nil || get("c.", 0) == nil {
		t.Error("the entry least recently used was not the one that went")
	}
	if get("a.", time.Minute) != nil {
		t.Error("an answer outlived its TTL")
	}
	put("zero.", 0)
	if get("zero.", 0) != nil {
		t.Error("an answer with TTL 0 was kept")
	}
}

func TestNotSyncedIsServerFailure(t *testing.T) {
	h := newTestHandler(t, nil, cluster()...)
	h.namer.zone.synced = func() bool { return false }
	if got, _ := h.answer(t.Context(), query("none.default.svc.cluster.local.", dns.TypeA)); got.Rcode != dns.RcodeServerFailure {
		t.Errorf("got %s, want SERVFAIL", dns.RcodeToString[got.Rcode])
	}
}

// writer takes what the handler writes.
type writer struct {
	dns.ResponseWriter
	network string
	got     *dns.Msg
}

func (w *writer) RemoteAddr() net.Addr {
	if w.network == "tcp" {
		return &net.TCPAddr{}
	}
	return &net.UDPAddr{}
}
func (w *writer) WriteMsg(m *dns.Msg) error { w.got = m; return nil }

func TestSizes(t *testing.T) {
	h := newTestHandler(t, nil, cluster()...)
	for _, tc := range []struct {
		name      string
		network   string
		edns      uint16
		truncated bool
		limit     int
	}{
		{"UDP", "udp", 0, true, 512},
		{"UDP with EDNS", "udp", 4096, true, 1232},
		{"UDP with small EDNS", "udp", 100, true, 512},
		{"TCP", "tcp", 0, false, 65535},
	} {
		t.Run(tc.name, func(t *testing.T) {
			q := query("many.default.svc.cluster.local.", dns.TypeA)
			if tc.edns > 0 {
				q.SetEdns0(tc.edns, false)
			}
			w := &writer{network: tc.network}
			h.ServeDNS(w, q)
			if w.got.Truncated != tc.truncated || w.got.Len() > tc.limit {
				t.Errorf("got truncated %v and %d bytes, want %v and at most %d", w.got.Truncated, w.got.Len(), tc.truncated, tc.limit)
			}
			if (w.got.IsEdns0() != nil) != (tc.edns > 0) {
				t.Errorf("EDNS in the answer: got %v, want %v", w.got.IsEdns0() != nil, tc.edns > 0)
			}
		})
	}
}

func TestOddQueries(t *testing.T) {
	h := newTestHandler(t, nil, cluster()...)
	version := query("cluster.local.", dns.TypeA)
	version.SetEdns0(1232, false)
	version.IsEdns0().SetVersion(1)
	chaos := query("version.bind.", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	update := query("cluster.local.", dns.TypeSOA)
	update.Opcode = dns.OpcodeUpdate
	for name, tc := range map[string]struct {
		q    *dns.Msg
		code int
	}{
		"EDNS version 1": {version, dns.RcodeBadVers},
		"CHAOS class":    {chaos, dns.RcodeRefused},
		"update":         {update, dns.RcodeNotImplemented},
		"transfer":       {query("cluster.local.", dns.TypeAXFR), dns.RcodeRefused},
		"no question":    {&dns.Msg{}, dns.RcodeFormatError},
	} {
		if got, _ := h.answer(t.Context(), tc.q); got.Rcode != tc.code {
			t.Errorf("%s: got %s, want %s", name, dns.RcodeToString[got.Rcode], dns.RcodeToString[tc.code])
		}
	}
}

func TestConfigFaults(t *testing.T) {
	cfg := Config{TTL: new(uint32(9999)), CacheEntries: new(-1), Upstreams: []string{"1.2.3.4", "here"}}
	cfg.SetDefaults()
	var fields []string
	for _, e := range cfg.Validate() {
		fields = append(fields, e.Field)
	}
	slices.Sort(fields)
	if diff := cmp.Diff([]string{"cacheEntries", "ttl", "upstreams[1]"}, fields); diff != "" {
		t.Errorf("faulty fields (-want +got):\n%s", diff)
	}
	if err := kit.FieldErrors(cfg.Validate()); err == nil || !strings.Contains(err.Error(), `"here"`) {
		t.Errorf("got %v, want the value named", err)
	}
}

func TestDashedAddresses(t *testing.T) {
	for _, text := range []string{"10.0.0.1", "fd00::1", "::1", "2001:db8:1:2:3:4:5:6"} {
		addr := netip.MustParseAddr(text)
		if got, ok := undashed(dashed(addr)); !ok || got != addr {
			t.Errorf("%s: got %v, %v back from %s", text, got, ok, dashed(addr))
		}
	}
}

// Whatever comes, the handler answers with something that can be sent.
func FuzzHandler(f *testing.F) {
	for _, q := range []*dns.Msg{query("web.default.svc.cluster.local.", dns.TypeA), query("5.1.244.10.in-addr.arpa.", dns.TypePTR),
		query(`a\.b.default.pod.cluster.local.`, dns.TypeAAAA), query("_http._tcp.db.default.svc.cluster.local.", dns.TypeSRV)} {
		b, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	h := newTestHandler(f, nil, cluster()...)
	h.forward.log = slog.New(slog.DiscardHandler)
	f.Fuzz(func(t *testing.T, wire []byte) {
		q := new(dns.Msg)
		if q.Unpack(wire) != nil {
			return
		}
		w := &writer{network: "udp"}
		h.ServeDNS(w, q)
		b, err := w.got.Pack()
		if err != nil {
			t.Fatalf("answer to %v cannot be packed: %v", q, err)
		}
		if len(b) > answerSize {
			t.Fatalf("answer to %v has %d bytes", q, len(b))
		}
	})
}

func BenchmarkServiceName(b *testing.B) {
	h := newTestHandler(b, nil, cluster()...)
	q := query("web.default.svc.cluster.local.", dns.TypeA)
	w := &writer{network: "udp"}
	b.ReportAllocs()
	for b.Loop() {
		h.ServeDNS(w, q)
	}
}
