package dns

import (
	"container/list"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxTTL bounds how long a foreign answer is kept.
	maxTTL = time.Hour
	// maxNegativeTTL bounds how long a foreign "no" is kept.
	maxNegativeTTL = 30 * time.Second
)

// answerCache keeps foreign answers as long as they say, and at most size of them: the
// one least recently used goes first. Answers in it are shared and never changed.
type answerCache struct {
	size int

	mu      sync.Mutex // guards all below
	entries map[cacheKey]*list.Element
	order   list.List // of *cached, last used first
}

type cacheKey struct {
	name  string
	kind  uint16
	class uint16
	do    bool // with DNSSEC records
	check bool // checking disabled
}

type cached struct {
	key     cacheKey
	msg     *dns.Msg
	stored  time.Time
	expires time.Time
}

func newCache(size int) *answerCache {
	return &answerCache{size: size, entries: map[cacheKey]*list.Element{}}
}

func keyOf(q *dns.Msg) cacheKey {
	question := q.Question[0]
	key := cacheKey{name: strings.ToLower(question.Name), kind: question.Qtype, class: question.Qclass, check: q.CheckingDisabled}
	if opt := q.IsEdns0(); opt != nil {
		key.do = opt.Do()
	}
	return key
}

// get returns a copy of the answer with its TTLs counted down, nil if there is none.
func (c *answerCache) get(key cacheKey, now time.Time) *dns.Msg {
	c.mu.Lock()
	el := c.entries[key]
	if el == nil {
		c.mu.Unlock()
		return nil
	}
	e, _ := el.Value.(*cached)
	if !now.Before(e.expires) {
		c.order.Remove(el)
		delete(c.entries, key)
		c.mu.Unlock()
		return nil
	}
	c.order.MoveToFront(el)
	c.mu.Unlock()
	msg := e.msg.Copy()
	age := uint32(now.Sub(e.stored) / time.Second)
	for _, section := range [][]dns.RR{msg.Answer, msg.Ns, msg.Extra} {
		for _, rr := range section {
			h := rr.Header()
			h.Ttl -= min(h.Ttl, age)
		}
	}
	return msg
}

// put keeps an answer, if it may be kept.
func (c *answerCache) put(key cacheKey, msg *dns.Msg, now time.Time) {
	ttl := lifetime(msg)
	if ttl <= 0 || c.size == 0 {
		return
	}
	e := &cached{key: key, msg: msg.Copy(), stored: now, expires: now.Add(ttl)}
	e.msg.Extra = withoutOPT(e.msg.Extra)
	c.mu.Lock()
	defer c.mu.Unlock()
	if el := c.entries[key]; el != nil {
		el.Value = e
		c.order.MoveToFront(el)
		return
	}
	c.entries[key] = c.order.PushFront(e)
	for len(c.entries) > c.size {
		oldest := c.order.Back()
		if old, ok := oldest.Value.(*cached); ok {
			delete(c.entries, old.key)
		}
		c.order.Remove(oldest)
	}
}

// lifetime is how long an answer holds; 0 if it must not be kept. Negative answers hold
// as long as their SOA record says (RFC 2308), and not without one.
func lifetime(msg *dns.Msg) time.Duration {
	if msg.Truncated || msg.Rcode != dns.RcodeSuccess && msg.Rcode != dns.RcodeNameError {
		return 0
	}
	if len(msg.Answer) == 0 || msg.Rcode == dns.RcodeNameError {
		for _, rr := range msg.Ns {
			if soa, ok := rr.(*dns.SOA); ok {
				return min(time.Duration(min(soa.Hdr.Ttl, soa.Minttl))*time.Second, maxNegativeTTL)
			}
		}
		return 0
	}
	ttl := maxTTL
	for _, rr := range msg.Answer {
		ttl = min(ttl, time.Duration(rr.Header().Ttl)*time.Second)
	}
	return ttl
}

func withoutOPT(rrs []dns.RR) []dns.RR {
	var rest []dns.RR
	for _, rr := range rrs {
		if rr.Header().Rrtype != dns.TypeOPT {
			rest = append(rest, rr)
		}
	}
	return rest
}
