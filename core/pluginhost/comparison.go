package pluginhost

import (
	"container/list"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// keptDifferences are remembered of a comparison.
	keptDifferences = 1000
	// keptDecisions bounds the keys of which a decision may still come; what is beyond is
	// dropped, and counted.
	keptDecisions = 10_000
	// pairingTime is how long the other's decision is waited for.
	pairingTime = time.Minute
	// keyBytes, subjectBytes and decisionBytes bound what is kept of one decision.
	keyBytes, subjectBytes, decisionBytes = 256, 512, 2048
)

// Decided is what one of both has decided.
type Decided struct {
	// Key says about what, the same for both; Subject is the same for people.
	Key, Subject string
	// Decision is compared, Reason is not.
	Decision, Reason string
}

// Difference is one decision in which a plugin and its shadow do not agree.
type Difference struct {
	Key, Subject                               string
	Active, ActiveReason, Shadow, ShadowReason string
	// Time is when the later of both decided.
	Time time.Time
}

// Comparison is how a plugin and its shadow have decided.
type Comparison struct {
	// Active and Shadow are the revisions.
	Active, Shadow string
	// Since is when counting began.
	Since time.Time
	// Same and Different count keys on which both have decided, ActiveOnly and ShadowOnly
	// those on which the other has not within a minute.
	Same, Different, ActiveOnly, ShadowOnly int64
	// Dropped counts decisions that were lost: there were too many at a time.
	Dropped int64
	// Differences are the last 1,000, newest first.
	Differences []Difference
}

// side is whose decision it is.
type side int

const (
	activeSide side = iota
	shadowSide
)

// comparison pairs the decisions of a plugin and its shadow by their keys. Of each key the
// last decision of both counts: one that is told again takes the place of the earlier one.
// It has no clock of its own: what waited too long is counted when it is used next.
type comparison struct {
	mu     sync.Mutex // guards all below
	counts Comparison
	pairs  map[string]*list.Element
	order  *list.List // of *couple, that which was touched last at the back
	differ *list.List // of *couple, the newest at the back; outlives order
}

// couple is what both have decided about one key.
type couple struct {
	key, subject string
	has          [2]bool
	decision     [2]string
	reason       [2]string
	touched      time.Time
	differs      *list.Element // in differ; nil: they agree, or one is missing
}

func newComparison() *comparison {
	c := &comparison{}
	c.reset("", "")
	return c
}

// between says which revisions are compared; another one begins anew.
func (c *comparison) between(active, shadow string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts.Active != active || c.counts.Shadow != shadow {
		c.reset(active, shadow)
	}
}

func (c *comparison) reset(active, shadow string) {
	c.counts = Comparison{Active: active, Shadow: shadow, Since: time.Now()}
	c.pairs, c.order, c.differ = map[string]*list.Element{}, list.New(), list.New()
}

// add takes in a decision.
func (c *comparison) add(who side, d Decided) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.age(now)
	key := cut(d.Key, keyBytes)
	at := c.pairs[key]
	if at == nil {
		if c.order.Len() >= keptDecisions {
			c.forget(c.order.Front(), true)
		}
		at = c.order.PushBack(&couple{key: key})
		c.pairs[key] = at
	}
	p := at.Value.(*couple)
	before := p.judged()
	p.subject, p.touched = cut(d.Subject, subjectBytes), now
	p.has[who], p.decision[who], p.reason[who] = true, cut(d.Decision, decisionBytes), cut(d.Reason, decisionBytes)
	c.order.MoveToBack(at)
	c.count(before, -1)
	c.count(p.judged(), 1)
	switch p.judged() {
	case different:
		if p.differs != nil {
			c.differ.Remove(p.differs)
		}
		p.differs = c.differ.PushBack(p)
		if c.differ.Len() > keptDifferences {
			c.differ.Remove(c.differ.Front()).(*couple).differs = nil
		}
	case same:
		if p.differs != nil {
			c.differ.Remove(p.differs)
			p.differs = nil
		}
	}
}

// verdict is how a couple agrees.
type verdict int

const (
	incomplete verdict = iota
	same
	different
)

func (p *couple) judged() verdict {
	switch {
	case !p.has[activeSide] || !p.has[shadowSide]:
		return incomplete
	case p.decision[activeSide] == p.decision[shadowSide]:
		return same
	default:
		return different
	}
}

func (c *comparison) count(v verdict, n int64) {
	switch v {
	case same:
		c.counts.Same += n
	case different:
		c.counts.Different += n
	}
}

// age forgets the couples to which nothing has come for long; c.mu is held.
func (c *comparison) age(now time.Time) {
	for at := c.order.Front(); at != nil && now.Sub(at.Value.(*couple).touched) >= pairingTime; at = c.order.Front() {
		c.forget(at, false)
	}
}

// forget counts a couple for good. dropped: before its time.
func (c *comparison) forget(at *list.Element, dropped bool) {
	p := c.order.Remove(at).(*couple)
	delete(c.pairs, p.key)
	switch {
	case p.judged() != incomplete:
	case dropped:
		c.counts.Dropped++
	case p.has[activeSide]:
		c.counts.ActiveOnly++
	default:
		c.counts.ShadowOnly++
	}
}

// lose counts decisions that never came here.
func (c *comparison) lose(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts.Dropped += n
}

// get is how things stand.
func (c *comparison) get() *Comparison {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.age(time.Now())
	out := c.counts
	out.Differences = make([]Difference, 0, c.differ.Len())
	for at := c.differ.Back(); at != nil; at = at.Prev() {
		p := at.Value.(*couple)
		out.Differences = append(out.Differences, Difference{
			Key: p.key, Subject: p.subject, Active: p.decision[activeSide], ActiveReason: p.reason[activeSide],
			Shadow: p.decision[shadowSide], ShadowReason: p.reason[shadowSide], Time: p.touched,
		})
	}
	out.Differences = slices.Clip(out.Differences)
	return &out
}

// cut bounds a text. The bytes of the whole are not kept alive by it.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.Clone(strings.ToValidUTF8(s[:most], "")) + "..."
}
