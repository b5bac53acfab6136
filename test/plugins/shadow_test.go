package plugins

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"keelson.dev/keelson/core/pluginhost"
)

// shades is a host with a plugin that decides.
type shades struct {
	*harness

	mu      sync.Mutex // guards all below
	rights  []pluginhost.Description
	revoked int
	events  []pluginhost.Event
}

func startShades(t *testing.T) *shades {
	t.Helper()
	s := &shades{}
	s.harness = start(t, func(c *pluginhost.Config) {
		c.BuiltIn = func(name string) (pluginhost.Command, bool) {
			return pluginhost.Command{Path: os.Args[0], Args: []string{"plugin-decide", name}}, true
		}
		creds := c.Credentials.(issuer)
		c.OnEvent = func(_ string, e pluginhost.Event) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.events = append(s.events, e)
		}
		c.Shadows = &pluginhost.Shadows{
			Client: func(name string) (pluginhost.KeyPair, error) {
				p, err := creds.Authority.ClientPair("system:plugin-shadow:"+name, nil, 0)
				return pluginhost.KeyPair(p), err
			},
			Accept: func(_ context.Context, d pluginhost.Description) error {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.rights = append(s.rights, d)
				return nil
			},
			Revoke: func(context.Context, string) error {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.revoked++
				return nil
			},
		}
	})
	return s
}

func (s *shades) event(reason string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		if e.Reason == reason {
			n++
		}
	}
	return n
}

// spec is the plugin with a shadow, or without.
func (s *shades) spec(config string, shadow *pluginhost.ShadowSpec) pluginhost.Spec {
	return pluginhost.Spec{Name: "worker", Kind: "scheduler", BuiltIn: true, Enabled: true, Config: []byte(config), Shadow: shadow}
}

func mark(m string) *pluginhost.ShadowSpec {
	return &pluginhost.ShadowSpec{BuiltIn: true, Config: []byte(`{"mark":"` + m + `"}`)}
}

// shadow waits for the shadow to be in a phase.
func (s *shades) shadow(t *testing.T, phase pluginhost.Phase, words string) pluginhost.Status {
	t.Helper()
	return s.waitFor(t, "worker", "shadow "+string(phase)+" "+words, func(st pluginhost.Status) bool {
		return st.Shadow.Phase == phase && strings.Contains(st.Shadow.Message, words)
	})
}

// decide has one of both, or both, decide; an empty value is none.
func (s *shades) decide(t *testing.T, key, active, shadow string) {
	t.Helper()
	for folder, value := range map[string]string{"worker": active, "worker.shadow": shadow} {
		if value == "" {
			continue
		}
		dir := filepath.Join(s.dir, "d/plugins", folder)
		err := os.WriteFile(filepath.Join(dir, "new"), []byte(value), 0o600)
		if err == nil {
			err = os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, decidePrefix+key))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// compared waits until so many are the same and different.
func (s *shades) compared(t *testing.T, same, different int64) *pluginhost.Comparison {
	t.Helper()
	var c *pluginhost.Comparison
	poll(t, fmt.Sprintf("%d the same, %d different", same, different), func() bool {
		var err error
		if c, err = s.Comparison("worker"); err != nil {
			t.Fatal(err)
		}
		return c.Same == same && c.Different == different
	})
	return c
}

// TestShadow: a shadow decides beside the active one from its start to its end, through a
// swap of the active one, and nothing of it stays.
func TestShadow(t *testing.T) {
	s := startShades(t)
	s.ensure(t, s.spec("", nil))
	before := s.wait(t, "worker", pluginhost.PhaseRunning)
	if _, err := s.Comparison("worker"); !errors.Is(err, pluginhost.ErrNoShadow) {
		t.Errorf("without a shadow: got %v", err)
	}
	s.ensure(t, s.spec("", mark("new")))
	st := s.shadow(t, pluginhost.PhaseRunning, "")
	if st.PID != before.PID || st.Revision != before.Revision || st.Shadow.PID == st.PID || st.Shadow.Revision == st.Revision {
		t.Errorf("the active one was %+v, both are %+v", before, st)
	}
	s.decide(t, "one", "node-a", "node-a")
	s.decide(t, "two", "node-a", "node-b")
	c := s.compared(t, 1, 1)
	if len(c.Differences) != 1 || c.Active != st.Revision || c.Shadow != st.Shadow.Revision {
		t.Fatalf("got %+v", c)
	}
	if d := c.Differences[0]; d.Key != "two" || d.Subject != "default/two" || d.Active != "node-a" || d.Shadow != "node-b" || d.ShadowReason != "new" || d.Time.IsZero() {
		t.Errorf("got %+v", d)
	}
	s.decide(t, "two", "", "node-a") // it thinks better of it
	s.compared(t, 2, 0)

	s.ensure(t, s.spec(`{"mark":"swapped"}`, mark("new")))
	swapped := s.waitFor(t, "worker", "swapped", func(now pluginhost.Status) bool {
		return now.Revision != st.Revision && now.Phase == pluginhost.PhaseRunning && now.Shadow.Phase == pluginhost.PhaseRunning
	})
	if swapped.Shadow != st.Shadow {
		t.Errorf("a swap of the active one: its shadow was %+v, is %+v", st.Shadow, swapped.Shadow)
	}
	s.decide(t, "three", "node-a", "node-b")
	poll(t, "a comparison with the new one", func() bool {
		c, err := s.Comparison("worker")
		return err == nil && c.Active == swapped.Revision && c.Different == 1
	})

	s.ensure(t, s.spec(`{"mark":"swapped"}`, mark("newer")))
	changed := s.waitFor(t, "worker", "another shadow", func(now pluginhost.Status) bool {
		return now.Shadow.Revision != st.Shadow.Revision && now.Shadow.Phase == pluginhost.PhaseRunning
	})
	if changed.PID != swapped.PID || changed.Shadow.PID == st.Shadow.PID {
		t.Errorf("a change of the shadow: were %+v, are %+v", swapped, changed)
	}
	s.decide(t, "four", "node-a", "node-b")
	s.compared(t, 0, 1)

	s.ensure(t, s.spec(`{"mark":"swapped"}`, nil))
	poll(t, "the shadow's process has ended", func() bool { return syscall.Kill(changed.Shadow.PID, 0) != nil })
	poll(t, "its folders are gone", func() bool {
		for _, dir := range []string{"d/plugins/worker.shadow", "r/plugins/worker.shadow"} {
			if _, err := os.Stat(filepath.Join(s.dir, dir)); err == nil {
				return false
			}
		}
		return true
	})
	poll(t, "its rights are gone", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.revoked == 1 })
	if now, _ := s.Status("worker"); now.PID != swapped.PID || now.Shadow != (pluginhost.ShadowStatus{}) {
		t.Errorf("without a shadow again: got %+v", now)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.rights {
		got := fmt.Sprint(d.Rules)
		if want := "[{[get list] [] [pods] [] []} {[get list watch] [] [nodes] [] []} {[get] [] [] [] [/version]}]"; got != want {
			t.Errorf("rights: got %s, want %s", got, want)
		}
	}
}

// TestShadowThatIsNoGood: whatever a shadow does, the active one does not notice, and the
// status says what is amiss.
func TestShadowThatIsNoGood(t *testing.T) {
	s := startShades(t)
	s.ensure(t, s.spec("", nil))
	before := s.wait(t, "worker", pluginhost.PhaseRunning)
	mode := func(m string) *pluginhost.ShadowSpec {
		return &pluginhost.ShadowSpec{BuiltIn: true, Config: []byte(`{"mode":"` + m + `"}`)}
	}
	byPath := func(sum string) *pluginhost.ShadowSpec {
		return &pluginhost.ShadowSpec{Path: os.Args[0], SHA256: sum, Args: []string{"plugin-decide", "worker"}}
	}
	good := sum(t, os.Args[0])
	for _, c := range []struct {
		name   string
		shadow *pluginhost.ShadowSpec
		phase  pluginhost.Phase
		want   string
	}{
		{"dies", mode("dies"), pluginhost.PhaseBackOff, "the shadow of a doubt"},
		{"has no such mode", mode("blind"), pluginhost.PhaseFailed, "the program has no shadow mode"},
		{"bad config", &pluginhost.ShadowSpec{BuiltIn: true, Config: []byte(`{"x":1}`)}, pluginhost.PhaseFailed, "spec.shadow.config.x: the plugin knows no such field"},
		{"wrong checksum", byPath(strings.Repeat("0", 64)), pluginhost.PhaseFailed, "spec.shadow.source.sha256"},
		{"rules that nobody accepted", byPath(good), pluginhost.PhaseFailed, "more than is accepted: get pods; list pods; get nodes"},
		{"another kind", &pluginhost.ShadowSpec{BuiltIn: true, Args: []string{"dns"}}, pluginhost.PhaseFailed, `plugins of kind "dns" do not decide`},
		{"degraded", mode("half"), pluginhost.PhaseDegraded, "one eye is shut"},
		{"good in the end", mark("good"), pluginhost.PhaseRunning, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.ensure(t, s.spec("", c.shadow))
			st := s.shadow(t, c.phase, c.want)
			if st.PID != before.PID || st.Phase != pluginhost.PhaseRunning || st.LastError != "" {
				t.Errorf("the active one was %+v, is %+v", before, st)
			}
		})
	}
	if s.event(pluginhost.EventShadowFailed) < 5 || s.event(pluginhost.EventShadowStarted) != 1 {
		t.Errorf("events: got %+v", s.events)
	}

	// A crash loop: it is started again and again, and the active one goes on.
	s.ensure(t, s.spec("", mode("dies")))
	st := s.waitFor(t, "worker", "started again", func(st pluginhost.Status) bool { return st.Shadow.Restarts >= 3 })
	if st.PID != before.PID || st.Restarts != before.Restarts {
		t.Errorf("the active one was %+v, is %+v", before, st)
	}

	// The other way round: the active one dies, and the shadow stays.
	s.ensure(t, s.spec("", mark("good")))
	st = s.shadow(t, pluginhost.PhaseRunning, "")
	if err := syscall.Kill(st.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	again := s.waitFor(t, "worker", "the active one is back and heard", func(now pluginhost.Status) bool {
		return now.PID != st.PID && now.Phase == pluginhost.PhaseRunning && now.Shadow.Phase == pluginhost.PhaseRunning
	})
	if again.Shadow.PID != st.Shadow.PID {
		t.Errorf("the shadow was %+v, is %+v", st.Shadow, again.Shadow)
	}
	s.decide(t, "one", "a", "b")
	s.compared(t, 0, 1)
}

// TestShadowOfOneThatTellsNothing: there is nothing to compare with, and the status says so.
func TestShadowOfOneThatTellsNothing(t *testing.T) {
	s := startShades(t)
	s.ensure(t, s.spec(`{"mode":"blind"}`, mark("new")))
	s.shadow(t, pluginhost.PhaseDegraded, "the decisions of the active one are not heard: it tells none")
	st, _ := s.Status("worker")
	s.Remove("worker") // with all that it has
	poll(t, "the shadow's process has ended", func() bool { return syscall.Kill(st.Shadow.PID, 0) != nil })
	s.ensure(t, s.spec("", mark("new")))
	s.shadow(t, pluginhost.PhaseRunning, "")
}
