package pluginhost

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestComparison: of each key the last decision of both counts, once.
func TestComparison(t *testing.T) {
	type told struct {
		who      side
		key, dec string
	}
	a := func(key, dec string) told { return told{activeSide, key, dec} }
	s := func(key, dec string) told { return told{shadowSide, key, dec} }
	for _, c := range []struct {
		name  string
		told  []told
		after time.Duration
		want  string // same, different, only active, only shadow; differences
	}{
		{"nothing", nil, 0, "0 0 0 0"},
		{"same", []told{a("p", "n1"), s("p", "n1")}, 0, "1 0 0 0"},
		{"the shadow first", []told{s("p", "n1"), a("p", "n1")}, 0, "1 0 0 0"},
		{"different", []told{a("p", "n1"), s("p", "n2")}, 0, "0 1 0 0 p:n1/n2"},
		{"one waits", []told{a("p", "n1")}, 0, "0 0 0 0"},
		{"one waited too long", []told{a("p", "n1"), s("q", "n1")}, pairingTime, "0 0 1 1"},
		{"too late", []told{a("p", "n1")}, pairingTime - 1, "0 0 0 0"},
		{"another thought", []told{a("p", "none"), s("p", "n1"), a("p", "n1")}, 0, "1 0 0 0"},
		{"a worse thought", []told{a("p", "n1"), s("p", "n1"), s("p", "n2")}, 0, "0 1 0 0 p:n1/n2"},
		{"an outdated one", []told{a("p", "none"), a("p", "n1"), s("p", "n1")}, 0, "1 0 0 0"},
		{"said twice", []told{a("p", "n1"), s("p", "n2"), s("p", "n2")}, 0, "0 1 0 0 p:n1/n2"},
		{"newest first", []told{a("p", "1"), s("p", "2"), a("q", "3"), s("q", "4")}, 0, "0 2 0 0 q:3/4 p:1/2"},
		{"counted for good", []told{a("p", "1"), s("p", "2"), a("q", "3"), s("q", "3")}, time.Hour, "1 1 0 0 p:1/2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newComparison()
				for _, d := range c.told {
					k.add(d.who, Decided{Key: d.key, Decision: d.dec})
				}
				time.Sleep(c.after) // of the fake clock
				got := k.get()
				text := fmt.Sprint(got.Same, got.Different, got.ActiveOnly, got.ShadowOnly)
				for _, d := range got.Differences {
					text += " " + d.Key + ":" + d.Active + "/" + d.Shadow
				}
				if text != c.want || got.Dropped != 0 {
					t.Errorf("got %s (%d dropped), want %s", text, got.Dropped, c.want)
				}
			})
		})
	}
}

// TestComparisonIsBounded: what is kept has a bound, whoever tells how much.
func TestComparisonIsBounded(t *testing.T) {
	k := newComparison()
	k.between("a", "b")
	const n = keptDecisions + 5
	for i := range n {
		k.add(activeSide, Decided{Key: fmt.Sprint(i), Decision: "x"})
	}
	if got := k.get(); got.Dropped != 5 || k.order.Len() != keptDecisions || len(k.pairs) != keptDecisions {
		t.Errorf("%d dropped, %d kept", got.Dropped, k.order.Len())
	}
	for i := 5; i < n; i++ { // the first five are gone
		k.add(shadowSide, Decided{Key: fmt.Sprint(i), Decision: "y", Subject: strings.Repeat("s", 10_000), Reason: strings.Repeat("ü", 10_000)})
	}
	got := k.get()
	if len(got.Differences) != keptDifferences || got.Differences[0].Key != fmt.Sprint(n-1) || k.order.Len() > keptDecisions {
		t.Errorf("%d differences, the first %s; %d kept", len(got.Differences), got.Differences[0].Key, k.order.Len())
	}
	if d := got.Differences[0]; len(d.Subject) > subjectBytes+3 || len(d.ShadowReason) > decisionBytes+3 {
		t.Errorf("%d bytes of the subject, %d of the reason", len(d.Subject), len(d.ShadowReason))
	}
	k.lose(7)
	if after := k.get(); after.Dropped != got.Dropped+7 {
		t.Errorf("%d dropped, then %d", got.Dropped, after.Dropped)
	}
	k.between("a", "b")
	if again := k.get(); again.Different != got.Different {
		t.Error("the same revisions began anew")
	}
	k.between("a2", "b")
	if anew := k.get(); anew.Different != 0 || anew.Dropped != 0 || len(anew.Differences) != 0 || anew.Active != "a2" || anew.Shadow != "b" {
		t.Errorf("another revision: got %+v", anew)
	}
}
