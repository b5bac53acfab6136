package endpoints

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	now := time.Now()
	p := newPace(nil)
	for _, c := range []struct {
		name string
		pods int
		want time.Duration
	}{
		{"a few pods", 5, 0},
		{"many", 200, 400 * time.Millisecond},
		{"very many", 100_000, time.Second},
		{"a few again", 19, 0},
		{"none: the service is gone", 0, 0},
	} {
		p.looked("ns/svc", c.pods, now)
		if got := max(p.wait("ns/svc", now), 0); got != c.want {
			t.Errorf("%s: the next look is in %s, want %s", c.name, got, c.want)
		}
		if got := p.wait("ns/svc", now.Add(time.Second)); got > 0 {
			t.Errorf("%s: a second later it still waits %s", c.name, got)
		}
	}
	if len(p.next) != 0 {
		t.Errorf("%d services are remembered, want none", len(p.next))
	}
}
