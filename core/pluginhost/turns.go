package pluginhost

import "sync"

// turns has the plugins of an earlier binary swapped one by one.
type turns struct {
	mu      sync.Mutex // guards both
	holder  *supervisor
	waiting []*supervisor
}

// take gives the turn to a plugin, or wakes it when the turn is free.
func (t *turns) take(v *supervisor) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.holder == nil || t.holder == v {
		t.holder = v
		return true
	}
	t.waiting = append(t.waiting, v)
	return false
}

// give frees it and wakes those who wait.
func (t *turns) give(v *supervisor) {
	t.mu.Lock()
	var wake []*supervisor
	if t.holder == v {
		t.holder, wake, t.waiting = nil, t.waiting, nil
	}
	t.mu.Unlock()
	for _, w := range wake {
		w.mu.Lock()
		w.kick()
		w.mu.Unlock()
	}
}

// takeTurn says whether a swap may begin now: those that the kernel's new version alone
// asks for have to wait for each other.
func (v *supervisor) takeTurn(want target) bool {
	if !v.adopted || v.turn || v.host.Revision(v.current.spec) == v.current.revision {
		return true
	}
	if v.host.Revision(v.current.spec) != want.revision {
		return true // its spec was changed as well
	}
	v.turn = v.host.turns.take(v)
	return v.turn
}

// endTurn gives the turn back when the swap has come to its end.
func (v *supervisor) endTurn(want target) {
	ended := v.current.revision == want.revision && (v.trial == nil || v.trial.ready || !v.trial.strict) || v.failed == want.revision
	if v.adopted && ended && v.candidate == nil && v.next == nil && !v.holding() {
		v.adopted = false
		v.rested.Store(true)
		v.giveTurn()
	}
}

func (v *supervisor) giveTurn() {
	if v.turn {
		v.turn = false
		v.host.turns.give(v)
	}
}
