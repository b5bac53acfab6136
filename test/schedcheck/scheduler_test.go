package schedcheck

import (
	"testing"
	"time"

	"keelson.dev/keelson/test/rounds"
)

// TestScheduler runs the scheduler on random clusters and judges all that it did. Pods come
// one by one and in crowds, while nodes come and go, change, and are filled by others, and
// the scheduler is started again. KEELSON_ROUNDS says on how many clusters.
func TestScheduler(t *testing.T) {
	base := uint64(time.Now().UnixNano())
	for i := range rounds.Or(t, 2) {
		seed := base + uint64(i)
		if !t.Run("cluster", func(t *testing.T) {
			t.Logf("Seed %d", seed)
			c := newCluster(t, seed)
			for range 6 + c.random.IntN(6) {
				c.addNode()
			}
			c.settle()
			for range 20 {
				c.decided(c.addPod())
			}
			c.settle()
			c.crowd(false)
			c.crowd(true)
			v := c.history.Judge()
			for _, f := range v.Faults {
				t.Error(f)
			}
			t.Logf("%d bindings, %d of them judged on all rules at once", v.Bindings, v.Strict)
			if v.Bindings == 0 || v.Strict == 0 {
				t.Error("The scheduler has bound next to nothing: the test shows nothing")
			}
		}) {
			break
		}
	}
}

// crowd makes many pods at once, amid disturbances, with a new scheduler or not.
func (c *cluster) crowd(restart bool) {
	for i := range 30 {
		c.addPod()
		if i%2 == 0 {
			c.disturb()
		}
		if restart && i == 15 {
			c.stop()
			c.start()
		}
	}
	c.settle()
}
