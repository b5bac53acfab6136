package dns

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"keelson.dev/keelson/plugins/kit"
)

const (
	// answerSize is the largest UDP answer that we send (DNS flag day 2020: no fragments).
	answerSize = 1232
	// queryTimeout bounds the work on one query.
	queryTimeout = 4 * time.Second
	// maxChain bounds how many aliases are followed.
	maxChain = 8
)

// handler answers queries. It is used by any number of queries at once.
type handler struct {
	namer   *namer
	forward *forwarder
	metrics *metrics
	server  []netip.Addr   // our addresses
	ranges  []netip.Prefix // of pods and services: their reverse names are ours
	env     *kit.Env       // nil in tests
}

// ServeDNS answers one query.
func (h *handler) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	defer h.env.Caught()
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout) // the library gives none
	defer cancel()
	resp, source := h.answer(ctx, q)
	size := dns.MaxMsgSize
	if w.RemoteAddr().Network() == "udp" {
		size = udpSize(q)
	}
	resp.Compress = true
	resp.Truncate(size)
	h.metrics.queries.WithLabelValues(source, dns.RcodeToString[resp.Rcode]).Inc()
	h.metrics.seconds.WithLabelValues(source).Observe(time.Since(start).Seconds())
	_ = w.WriteMsg(resp) // the client asks again
}

// udpSize is how long an answer the client takes.
func udpSize(q *dns.Msg) int {
	if opt := q.IsEdns0(); opt != nil {
		return int(min(max(opt.UDPSize(), dns.MinMsgSize), answerSize))
	}
	return dns.MinMsgSize
}

// answer makes the response to a query, and says who knew.
func (h *handler) answer(ctx context.Context, q *dns.Msg) (resp *dns.Msg, source string) {
	resp = new(dns.Msg)
	resp.SetReply(q)
	resp.RecursionAvailable = true
	opt := q.IsEdns0()
	if opt != nil {
		resp.SetEdns0(answerSize, opt.Do())
	}
	switch {
	case q.Opcode != dns.OpcodeQuery:
		resp.Rcode = dns.RcodeNotImplemented
		return resp, "refused"
	case len(q.Question) != 1:
		resp.Rcode = dns.RcodeFormatError
		return resp, "refused"
	case opt != nil && opt.Version() != 0:
		resp.Rcode = dns.RcodeBadVers
		return resp, "refused"
	}
	question := q.Question[0]
	switch question.Qtype {
	case dns.TypeAXFR, dns.TypeIXFR:
		resp.Rcode = dns.RcodeRefused
		return resp, "refused"
	}
	if question.Qclass != dns.ClassINET && question.Qclass != dns.ClassANY {
		resp.Rcode = dns.RcodeRefused
		return resp, "refused"
	}
	if h.ours(question.Name) {
		h.fromZone(ctx, q, resp)
		return resp, "cluster"
	}
	cachedAnswer, err := h.fromUpstream(ctx, q, resp)
	switch {
	case err != nil:
		resp.Rcode = dns.RcodeServerFailure
		return resp, "upstream"
	case cachedAnswer:
		return resp, "cache"
	}
	return resp, "upstream"
}

// ours says whether a name belongs to the cluster.
func (h *handler) ours(name string) bool {
	lower := strings.ToLower(name)
	if lower == h.namer.domain || strings.HasSuffix(lower, "."+h.namer.domain) {
		return true
	}
	addr, ok := reverseAddress(name)
	return ok && slices.ContainsFunc(h.ranges, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func (h *handler) lookup(name string, kind uint16) result {
	if addr, ok := reverseAddress(name); ok {
		return h.namer.reverse(name, addr, kind)
	}
	return h.namer.lookup(name, kind, h.server)
}

// fromZone answers with authority, following aliases, also out of the cluster.
func (h *handler) fromZone(ctx context.Context, q, resp *dns.Msg) {
	if !h.namer.zone.synced() {
		resp.Rcode = dns.RcodeServerFailure
		return
	}
	resp.Authoritative = true
	name, kind := q.Question[0].Name, q.Question[0].Qtype
	for range maxChain {
		r := h.lookup(name, kind)
		resp.Answer = append(resp.Answer, r.answers...)
		resp.Extra = append(resp.Extra, r.extra...)
		if r.cname == "" {
			if !r.exists {
				resp.Rcode = dns.RcodeNameError
			}
			if len(r.answers) == 0 {
				resp.Ns = append(resp.Ns, h.namer.soa())
			}
			return
		}
		resp.Answer = append(resp.Answer, &dns.CNAME{Hdr: h.namer.header(name, dns.TypeCNAME), Target: r.cname})
		if kind == dns.TypeCNAME {
			return
		}
		name = r.cname
		if !h.ours(name) {
			h.chase(ctx, q, resp, name, kind)
			return
		}
	}
	resp.Answer, resp.Rcode = nil, dns.RcodeServerFailure // aliases in a circle
}

// chase completes an alias that leads out of the cluster. If nobody knows more, the
// alias alone is a good answer still.
func (h *handler) chase(ctx context.Context, q, resp *dns.Msg, name string, kind uint16) {
	next := q.Copy()
	next.Question[0].Name, next.Question[0].Qtype = name, kind
	got, _, err := h.forward.resolve(ctx, next)
	if err != nil {
		return
	}
	resp.Answer = append(resp.Answer, got.Answer...)
	resp.Rcode = got.Rcode
	if len(got.Answer) == 0 {
		resp.Ns = append(resp.Ns, got.Ns...)
	}
}

// fromUpstream takes over a resolver's answer.
func (h *handler) fromUpstream(ctx context.Context, q, resp *dns.Msg) (cachedAnswer bool, err error) {
	got, cachedAnswer, err := h.forward.resolve(ctx, q)
	if err != nil {
		h.forward.log.Debug("Name was not resolved", "name", q.Question[0].Name, "err", err)
		return false, err
	}
	resp.Rcode, resp.AuthenticatedData, resp.Truncated = got.Rcode, got.AuthenticatedData, got.Truncated
	resp.Answer, resp.Ns = got.Answer, got.Ns
	resp.Extra = append(withoutOPT(got.Extra), resp.Extra...)
	if got.Rcode > 0xf && resp.IsEdns0() == nil { // needs EDNS, which the client has not
		resp.Rcode = dns.RcodeServerFailure
	}
	return cachedAnswer, nil
}
