package sim

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

type due struct {
	entry
	name string
}

// TestAgenda: what is due comes in the order of time, whatever was moved and dropped.
func TestAgenda(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAgenda[*due]()
		items := map[string]*due{}
		for i, name := range []string{"a", "b", "c", "d", "e"} {
			items[name] = &due{name: name}
			a.set(items[name], time.Duration(5-i)*time.Minute)
		}
		a.set(items["a"], 30*time.Second) // was the last
		a.drop(items["c"])
		a.drop(items["c"]) // is not in it
		ctx, cancel := context.WithCancel(t.Context())
		out := make(chan *due)
		go a.run(ctx, out, func(time.Duration) {}) // ends by cancel
		begin := time.Now()
		var names []string
		for range 4 {
			names = append(names, (<-out).name)
		}
		if want := []string{"a", "e", "d", "b"}; !slices.Equal(names, want) {
			t.Errorf("got %v, want %v", names, want)
		}
		if took := time.Since(begin); took != 4*time.Minute {
			t.Errorf("took %s, want 4m", took)
		}
		go func() { time.Sleep(time.Second); a.set(items["c"], 0) }() // while run waits
		if x := <-out; x != items["c"] {
			t.Errorf("got %s, want c", x.name)
		}
		cancel()
		if _, more := <-out; more {
			t.Error("something came after the end")
		}
	})
}
