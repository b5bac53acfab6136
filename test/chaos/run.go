package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/test/harness"
)

// maxFuse bounds the writes of one life of the plugin.
const maxFuse = 40

// pause bounds the time between two steps: some meet the controllers at work, some at rest.
const pause = 60 * time.Millisecond

// Step is one change to the cluster, by an administrator whose requests all arrive.
// Errors of a race with others (not found, conflict) are no failure.
type Step func(*rand.Rand) error

// Run is a plugin that lives with faults and is killed and started again. Its methods are
// for the goroutine of the test.
type Run struct {
	T      testing.TB
	Server *harness.Server
	Rand   *rand.Rand
	// Kills counts the deaths so far.
	Kills int

	plugin kit.Plugin
	config string
	faults *Faults
	stop   func()
	faulty []*Pods
}

// Start gives the plugin its rights, and its first life. It ends with the test.
func Start(t testing.TB, s *harness.Server, p kit.Plugin, config string) *Run {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("KEELSON_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("KEELSON_SEED=%q: must be a number", text)
		}
		seed = n
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("to run it again: KEELSON_SEED=%d", seed)
		}
	})
	r := &Run{T: t, Server: s, Rand: rand.New(rand.NewPCG(seed, 0)), plugin: p, config: config}
	s.Grant(t, p.Name, p.Rules)
	r.live()
	return r
}

// live starts the plugin with new faults.
func (r *Run) live() {
	r.T.Helper()
	r.faults = NewFaults(r.Rand.Uint64(), 1+r.Rand.IntN(maxFuse))
	r.stop = r.Server.Launch(r.T, r.plugin, r.config, func(c *rest.Config) { r.faults.Wrap(c) })
}

// Kill ends the plugin as kill -9 does, as far as the server can tell, and starts it again.
func (r *Run) Kill() {
	r.T.Helper()
	r.faults.Kill()
	r.stop()
	r.Kills++
	r.live()
}

// revive starts the plugin again if it has died.
func (r *Run) revive() {
	r.T.Helper()
	if r.faults.isDead() {
		r.Kill()
	}
}

// Steps takes n steps, each one of those given, with pauses of random length.
func (r *Run) Steps(n int, steps ...Step) {
	r.T.Helper()
	for range n {
		err := steps[r.Rand.IntN(len(steps))](r.Rand)
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			r.T.Fatalf("change the cluster: %v", err)
		}
		r.wait(time.Duration(r.Rand.Int64N(int64(pause))))
		r.check()
	}
}

func (r *Run) wait(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.faults.Dead():
	}
	r.revive()
}

// Settle waits, without further faults or deaths, until f returns an empty string, which
// else says what is not so yet. The faults then go on, with a new life.
func (r *Run) Settle(what string, f func() string) {
	r.T.Helper()
	r.faults.Calm()
	harness.Eventually(r.T, what, func() string {
		r.revive() // it may have died at the last moment
		r.faults.Calm()
		return f()
	})
	r.check()
	r.Kill()
}

// check fails the test if a rule has been broken.
func (r *Run) check() {
	r.T.Helper()
	for _, p := range r.faulty {
		if err := p.Err(); err != nil {
			r.T.Fatal(err)
		}
	}
}

// Pods watches the pods of a namespace until the test ends, and checks the rule at every
// change. Steps and Settle fail when it was broken.
func (r *Run) Pods(namespace string, rule func(Change) error) *Pods {
	r.T.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.T.Context()))
	p := &Pods{rule: rule, pods: podMap{}, done: make(chan struct{})}
	if err := p.begin(ctx, r.Server.Admin, namespace); err != nil {
		cancel()
		r.T.Fatal(fmt.Errorf("watch pods: %w", err))
	}
	r.T.Cleanup(func() { cancel(); <-p.done })
	r.faulty = append(r.faulty, p)
	return p
}
