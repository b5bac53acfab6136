package store

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
)

// TestChurn rewrites a few objects for a long time: index, disk and goroutines have to stay bounded.
func TestChurn(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 100 MB")
	}
	before := runtime.NumGoroutine()
	ctx, s := newTest(t, fixture{options: Options{CompactionWindow: 100 * time.Millisecond}})
	started := runtime.NumGoroutine() - before
	const objects, rounds = 50, 1000
	data := strings.Repeat("x", 2000)
	var wg sync.WaitGroup
	for i := range objects {
		p := pod("ns", fmt.Sprint(i))
		mustCreate(ctx, t, s, p)
		wg.Go(func() {
			for r := range rounds {
				err := s.GuaranteedUpdate(ctx, podKey(p), &example.Pod{}, false, nil, storage.SimpleUpdate(func(o kruntime.Object) (kruntime.Object, error) {
					o.(*example.Pod).Annotations = map[string]string{"round": fmt.Sprint(r), "data": data}
					return o, nil
				}), nil)
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	waitFor(t, "only current versions are left", func() bool {
		s.db.mu.RLock()
		defer s.db.mu.RUnlock()
		return s.db.state.count == objects
	})
	size := blockBytes(s.db.opts.Dir)
	t.Logf("%d goroutines, %d KiB on disk after writing %d KiB, cache %d bytes", started, size>>10, objects*rounds*2, s.db.cache.bytes)
	if got := size; got > 96<<20 {
		t.Errorf("%d bytes on disk, want at most 96 MiB", got)
	}
	if started > 40 {
		t.Errorf("%d goroutines for an open store, want at most 40", started)
	}
}
