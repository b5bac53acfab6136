package e2e

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// load is a steady stream of requests to a page, as users would send them.
type load struct {
	stop chan struct{}
	wait sync.WaitGroup

	mu       sync.Mutex // guards the rest
	answers  int
	failures []string
	seen     map[string]int // answers by their text after the visit's number
}

// startLoad sends requests from several workers until end is called.
func startLoad(m *machine, url string) *load {
	l := &load{stop: make(chan struct{}), seen: map[string]int{}}
	for range 4 {
		l.wait.Go(func() {
			client := m.client()
			for {
				select {
				case <-l.stop:
					return
				case <-time.After(10 * time.Millisecond): // about 100 requests a second and worker
				}
				body, err := m.get(client, url)
				l.mu.Lock()
				if err != nil {
					l.failures = append(l.failures, fmt.Sprintf("%s %v", time.Now().Format("15:04:05.000"), err))
				} else {
					l.answers++
					l.seen[versionOf(body)]++
				}
				l.mu.Unlock()
			}
		})
	}
	return l
}

// end stops the load and gives what came of it.
func (l *load) end() (answers int, failures []string, seen map[string]int) {
	close(l.stop)
	l.wait.Wait()
	return l.answers, l.failures, l.seen
}

// endWithoutFailure stops the load, of which every request must have been answered.
func (l *load) endWithoutFailure(t *testing.T) map[string]int {
	t.Helper()
	answers, failures, seen := l.end()
	if answers == 0 {
		t.Fatal("no request was answered")
	}
	if len(failures) > 0 {
		t.Errorf("%d of %d requests failed, the first: %s", len(failures), answers+len(failures), failures[0])
	}
	t.Logf("%d requests answered: %v", answers, seen)
	return seen
}

// versionOf takes "v1" out of an answer of the counter.
func versionOf(body string) string {
	var version, pod string
	var visit int
	if _, err := fmt.Sscanf(body, "Ahoy from Keelson: visit %d, counter %s pod %s", &visit, &version, &pod); err != nil {
		return body
	}
	return version[:len(version)-1]
}
