package kit

import (
	"sync"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// Health is the plugin's condition as it sees it. Its methods may be called from any
// goroutine and at any time; each replaces what was said before. The zero value is
// ready to use and says "starting".
type Health struct {
	mu      sync.Mutex // guards all below
	state   pluginv1.State
	message string
	changed chan struct{} // closed and replaced by each change
}

// SetReady says that the plugin does its work. Every Runner calls it in time: until
// then the plugin counts as starting.
func (h *Health) SetReady() { h.set(pluginv1.State_STATE_READY, "") }

// SetDegraded says that it works in part; msg says what is amiss.
func (h *Health) SetDegraded(msg string) { h.set(pluginv1.State_STATE_DEGRADED, msg) }

// SetStarting says that it is not yet able to do its work; msg says what it waits for.
func (h *Health) SetStarting(msg string) { h.set(pluginv1.State_STATE_STARTING, msg) }

// Get is the last thing said.
func (h *Health) Get() (pluginv1.State, string) {
	state, msg, _ := h.watch()
	return state, msg
}

func (h *Health) set(state pluginv1.State, msg string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state == state && h.message == msg {
		return
	}
	h.state, h.message = state, msg
	if h.changed != nil {
		close(h.changed)
		h.changed = nil
	}
}

// watch returns the present state and a channel that closes when it changes.
func (h *Health) watch() (pluginv1.State, string, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.changed == nil {
		h.changed = make(chan struct{})
	}
	state := h.state
	if state == pluginv1.State_STATE_UNSPECIFIED {
		state = pluginv1.State_STATE_STARTING
	}
	return state, h.message, h.changed
}
