package chaos

import (
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"
)

// How often what goes wrong, in 1000.
const (
	unsent     = 40 // writes that do not arrive
	unanswered = 80 // writes that are executed, and whose answer is lost
	unread     = 20 // reads that fail
	late       = 100
	cut        = 15 // chunks of a watch after which it ends
)

// lateness bounds how long a chunk of a watch is held back.
const lateness = 60 * time.Millisecond

var (
	errLost = errors.New("chaos: the connection was reset")
	errDead = errors.New("chaos: this process is dead")
)

// Faults stand between a client and its server. Events are spared: nothing depends on them.
type Faults struct {
	mu    sync.Mutex
	rand  *rand.Rand // guarded by mu
	calm  bool       // guarded by mu
	fuse  int        // writes until death, 0 is never; guarded by mu
	death sync.Once
	dead  chan struct{} // closed at death
}

// NewFaults are faults by chance. The client dies at the write numbered fuse; 0 is never.
func NewFaults(seed uint64, fuse int) *Faults {
	return &Faults{rand: rand.New(rand.NewPCG(seed, 1)), fuse: fuse, dead: make(chan struct{})}
}

// Wrap puts the faults before the clients that are made from c.
func (f *Faults) Wrap(c *rest.Config) {
	c.Wrap(func(next http.RoundTripper) http.RoundTripper { return &transport{f, next} })
}

// Calm ends the faults, and the chance of death.
func (f *Faults) Calm() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calm, f.fuse = true, 0
}

// Kill lets no request and no answer through from now on.
func (f *Faults) Kill() { f.death.Do(func() { close(f.dead) }) }

// Dead is closed when the client has died.
func (f *Faults) Dead() <-chan struct{} { return f.dead }

func (f *Faults) isDead() bool {
	select {
	case <-f.dead:
		return true
	default:
		return false
	}
}

// chance is true in n of 1000 calls.
func (f *Faults) chance(n int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.calm && f.rand.IntN(1000) < n
}

func (f *Faults) delay() time.Duration {
	if !f.chance(late) {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Duration(f.rand.Int64N(int64(lateness)))
}

// burn counts a write, and says whether it is the last.
func (f *Faults) burn() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fuse == 0 {
		return false
	}
	f.fuse--
	return f.fuse == 0
}

type transport struct {
	*Faults
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if t.isDead() {
		return nil, refuse(r, errDead)
	}
	if strings.Contains(r.URL.Path, "/events") {
		return t.next.RoundTrip(r)
	}
	if r.Method == http.MethodGet {
		return t.read(r)
	}
	if t.chance(unsent) {
		return nil, refuse(r, errLost)
	}
	last := t.burn()
	resp, err := t.next.RoundTrip(r)
	if last {
		t.Kill()
	}
	if err != nil {
		return nil, err
	}
	if t.isDead() || t.chance(unanswered) {
		_ = resp.Body.Close()
		return nil, errLost
	}
	return resp, nil
}

func (t *transport) read(r *http.Request) (*http.Response, error) {
	watch := r.URL.Query().Get("watch") != ""
	if !watch && t.chance(unread) {
		return nil, errLost
	}
	resp, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if watch && resp.StatusCode == http.StatusOK {
		resp.Body = &stream{ReadCloser: resp.Body, f: t.Faults}
	}
	return resp, nil
}

// refuse closes the body, as a RoundTripper has to.
func refuse(r *http.Request, err error) error {
	if r.Body != nil {
		_ = r.Body.Close()
	}
	return err
}

// stream is a watch that comes late and ends early.
type stream struct {
	io.ReadCloser
	f     *Faults
	ended bool
	some  bool // something has been read: a watch that ends before is retried slowly
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	if s.ended || s.f.isDead() {
		return 0, io.EOF
	}
	n, err := s.ReadCloser.Read(p)
	if d := s.f.delay(); d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-s.f.dead:
		}
	}
	if s.f.isDead() {
		return 0, io.EOF // what nobody has taken is not taken
	}
	if s.some && s.f.chance(cut) {
		s.ended = true
	}
	s.some = true
	return n, err
}
