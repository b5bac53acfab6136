package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// upstreamTimeout is for one try with one resolver; pods' own resolvers wait 5 s.
	upstreamTimeout = 2 * time.Second
	// rereadEvery is how old the list of resolvers may be.
	rereadEvery = 5 * time.Second
	// maxForwards bounds the questions under way; more get SERVFAIL at once.
	maxForwards = 2000
	// upstreamSize is the size of UDP answers that we take from resolvers.
	upstreamSize = 1232
)

// systemdResolvConf has the real resolvers where /etc/resolv.conf has a stub.
const systemdResolvConf = "/run/systemd/resolve/resolv.conf"

var errNoUpstream = errors.New("no resolver is known")

// forwarder asks the machine's resolvers.
type forwarder struct {
	cfg   Config
	log   *slog.Logger
	cache *answerCache
	own   []netip.Addr // our addresses: asking them would never end
	busy  atomic.Int64

	mu        sync.Mutex // guards all below
	servers   []string
	read      time.Time
	asking    map[cacheKey]*asking
	lastWorks string // the resolver that answered last
}

// asking is a question under way, for all who ask it.
type asking struct {
	done chan struct{}
	msg  *dns.Msg
	err  error
}

func newForwarder(cfg Config, log *slog.Logger, own []netip.Addr) *forwarder {
	return &forwarder{cfg: cfg, log: log, cache: newCache(*cfg.CacheEntries), own: own, asking: map[cacheKey]*asking{}}
}

// resolve answers a question from the cache or from a resolver. The message returned is
// the caller's; its ID and flags are the resolver's.
func (f *forwarder) resolve(ctx context.Context, q *dns.Msg) (*dns.Msg, bool, error) {
	key := keyOf(q)
	if msg := f.cache.get(key, time.Now()); msg != nil {
		return msg, true, nil
	}
	f.mu.Lock()
	a := f.asking[key]
	if a != nil {
		f.mu.Unlock()
		select {
		case <-a.done:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
		if a.err != nil {
			return nil, false, a.err
		}
		return a.msg.Copy(), false, nil
	}
	a = &asking{done: make(chan struct{})}
	f.asking[key] = a
	f.mu.Unlock()
	a.msg, a.err = f.ask(ctx, q)
	if a.err == nil {
		f.cache.put(key, a.msg, time.Now())
	}
	f.mu.Lock()
	delete(f.asking, key)
	f.mu.Unlock()
	close(a.done)
	if a.err != nil {
		return nil, false, a.err
	}
	return a.msg.Copy(), false, nil
}

// ask tries the resolvers, the one that worked last first.
func (f *forwarder) ask(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	if f.busy.Add(1) > maxForwards {
		f.busy.Add(-1)
		return nil, errors.New("too many questions are under way")
	}
	defer f.busy.Add(-1)
	servers := f.upstreams()
	if len(servers) == 0 {
		return nil, errNoUpstream
	}
	out := q.Copy()
	out.Id = dns.Id()
	out.RecursionDesired = true
	do := false
	if opt := q.IsEdns0(); opt != nil {
		do = opt.Do()
	}
	out.Extra = withoutOPT(out.Extra)
	out.SetEdns0(upstreamSize, do)
	var errs []error
	for _, server := range servers {
		msg, err := exchange(ctx, out, server)
		if err == nil && msg.Rcode != dns.RcodeServerFailure && msg.Rcode != dns.RcodeRefused && msg.Rcode != dns.RcodeNotImplemented {
			f.mu.Lock()
			f.lastWorks = server
			f.mu.Unlock()
			return msg, nil
		}
		if err == nil {
			err = fmt.Errorf("answer %s", dns.RcodeToString[msg.Rcode])
		}
		errs = append(errs, fmt.Errorf("resolver %s: %w", server, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func exchange(ctx context.Context, q *dns.Msg, server string) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, upstreamTimeout)
	defer cancel()
	udp := dns.Client{Net: "udp", Timeout: upstreamTimeout, UDPSize: upstreamSize}
	msg, _, err := udp.ExchangeContext(ctx, q, server)
	if err != nil || !msg.Truncated {
		return msg, err
	}
	tcp := dns.Client{Net: "tcp", Timeout: upstreamTimeout}
	if whole, _, err := tcp.ExchangeContext(ctx, q, server); err == nil {
		return whole, nil
	}
	return msg, nil // better than nothing, and it says that it is cut
}

// upstreams are the resolvers, in the order in which to try them.
func (f *forwarder) upstreams() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.read) > rereadEvery {
		f.servers, f.read = f.list(), time.Now()
	}
	servers := slices.Clone(f.servers)
	if i := slices.Index(servers, f.lastWorks); i > 0 {
		servers = append(append([]string{f.lastWorks}, servers[:i]...), servers[i+1:]...)
	}
	return servers
}

func (f *forwarder) list() []string {
	if len(f.cfg.Upstreams) > 0 {
		var servers []string
		for _, u := range f.cfg.Upstreams {
			if s, ok := upstreamAddress(u); ok {
				servers = append(servers, s)
			}
		}
		return f.others(servers)
	}
	servers := f.others(readResolvConf(f.cfg.ResolvConf, f.log))
	loopback := func(s string) bool { ap, err := netip.ParseAddrPort(s); return err == nil && ap.Addr().IsLoopback() }
	if f.cfg.ResolvConf == defaultResolvConf && !slices.ContainsFunc(servers, func(s string) bool { return !loopback(s) }) {
		if _, err := os.Stat(systemdResolvConf); err == nil {
			if real := f.others(readResolvConf(systemdResolvConf, f.log)); len(real) > 0 {
				return real
			}
		}
	}
	return servers
}

// others leaves out ourselves.
func (f *forwarder) others(servers []string) []string {
	return slices.DeleteFunc(servers, func(s string) bool {
		ap, err := netip.ParseAddrPort(s)
		return err == nil && ap.Port() == dnsPort && slices.Contains(f.own, ap.Addr())
	})
}

func readResolvConf(path string, log *slog.Logger) []string {
	conf, err := dns.ClientConfigFromFile(path)
	if err != nil {
		log.Warn("List of resolvers cannot be read", "path", path, "err", err)
		return nil
	}
	var servers []string
	for _, s := range conf.Servers {
		servers = append(servers, net.JoinHostPort(strings.TrimSpace(s), conf.Port))
	}
	return servers
}
