package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
)

func pod(ns, name string) *example.Pod {
	return &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
}

func podKey(p *example.Pod) string { return "/pods/" + p.Namespace + "/" + p.Name }

func mustCreate(ctx context.Context, t testing.TB, s storage.Interface, p *example.Pod) *example.Pod {
	t.Helper()
	out := &example.Pod{}
	if err := s.Create(ctx, podKey(p), p, out, 0); err != nil {
		t.Fatalf("create %s: %v", podKey(p), err)
	}
	return out
}

// label writes a pod with one label changed.
func label(ctx context.Context, t testing.TB, s storage.Interface, key, value string) *example.Pod {
	t.Helper()
	out := &example.Pod{}
	err := s.GuaranteedUpdate(ctx, key, out, false, nil, storage.SimpleUpdate(func(o runtime.Object) (runtime.Object, error) {
		p := o.(*example.Pod)
		p.Labels = map[string]string{"l": value}
		return p, nil
	}), nil)
	if err != nil {
		t.Fatalf("update %s: %v", key, err)
	}
	return out
}

// waitFor polls until ok returns true.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting until %s", what)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	t.Run("locked", func(t *testing.T) {
		db := openTest(t, Options{})
		_, err := Open(t.Context(), Options{Dir: db.opts.Dir})
		var locked *LockedError
		if !errors.Is(err, ErrLocked) || !errors.As(err, &locked) || locked.PID != os.Getpid() {
			t.Fatalf("got %v, want ErrLocked naming process %d", err, os.Getpid())
		}
	})
	t.Run("no directory given", func(t *testing.T) {
		if _, err := Open(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), "Options.Dir") {
			t.Fatalf("got %v, want an error that names Options.Dir", err)
		}
	})
	t.Run("path is a file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), Options{Dir: path}); err == nil || !strings.Contains(err.Error(), path) {
			t.Fatalf("got %v, want an error that names %s", err, path)
		}
	})
	t.Run("no permission", func(t *testing.T) {
		dir := filepath.Join("/proc", "keelson-store-test") // a place where even root may not make a directory
		_, err := Open(t.Context(), Options{Dir: dir})
		if err == nil || !strings.Contains(err.Error(), dir) || !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("got %v, want an error of the operating system that names %s", err, dir)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		dir := t.TempDir()
		_, s := newTest(t, fixture{options: Options{Dir: dir}})
		mustCreate(t.Context(), t, s, pod("ns", "a"))
		s.db.Close()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := Open(ctx, Options{Dir: dir}); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v, want context.Canceled", err)
		}
	})
}

// TestReopen checks that objects, revisions, history and ends of life survive a restart.
func TestReopen(t *testing.T) {
	dir := t.TempDir()
	ctx, s := newTest(t, fixture{options: Options{Dir: dir}})
	first := mustCreate(ctx, t, s, pod("ns", "a"))
	second := label(ctx, t, s, "/pods/ns/a", "2")
	large := pod("ns", "large")
	large.Annotations = map[string]string{"data": strings.Repeat("x", 1_500_000)}
	mustCreate(ctx, t, s, large)
	if err := s.Create(ctx, "/pods/ns/short", pod("ns", "short"), nil, 2); err != nil {
		t.Fatal(err)
	}
	before := s.db.Revision()
	if err := s.db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(ctx, "/pods/ns/b", pod("ns", "b"), nil, 0); !errors.Is(err, ErrClosed) {
		t.Errorf("create after Close: got %v, want ErrClosed", err)
	}

	ctx, s = newTest(t, fixture{options: Options{Dir: dir}})
	if got := s.db.Revision(); got != before {
		t.Errorf("revision %d after reopening, want %d", got, before)
	}
	got := &example.Pod{}
	if err := s.Get(ctx, "/pods/ns/large", storage.GetOptions{}, got); err != nil || got.Annotations["data"] != large.Annotations["data"] {
		t.Errorf("large object: %v, %d bytes", err, len(got.Annotations["data"]))
	}
	if err := s.Get(ctx, "/pods/ns/a", storage.GetOptions{}, got); err != nil || got.ResourceVersion != second.ResourceVersion {
		t.Errorf("object a: %v, revision %s, want %s", err, got.ResourceVersion, second.ResourceVersion)
	}
	list := &example.PodList{}
	opts := storage.ListOptions{ResourceVersion: first.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact, Predicate: storage.Everything, Recursive: true}
	if err := s.GetList(ctx, "/pods/", opts, list); err != nil || len(list.Items) != 1 || list.Items[0].Labels != nil {
		t.Errorf("list at revision %s: %v, %+v", first.ResourceVersion, err, list.Items)
	}
	if out := mustCreate(ctx, t, s, pod("ns", "b")); out.ResourceVersion != fmt.Sprint(before+1) {
		t.Errorf("next revision is %s, want %d", out.ResourceVersion, before+1)
	}
	waitFor(t, "the object with an end is gone", func() bool {
		return storage.IsNotFound(s.Get(ctx, "/pods/ns/short", storage.GetOptions{}, &example.Pod{}))
	})
	logs, err := filepath.Glob(filepath.Join(dir, "badger", "*.vlog"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if used(b) > 20 { // its header
			t.Errorf("value log %s holds %d bytes, want none: large values are split", path, used(b))
		}
	}
}

// TestGroupCommit holds the writer back and checks that what waits is committed together: one commit, a revision
// each, and preconditions checked against changes of the same group.
func TestGroupCommit(t *testing.T) {
	db := openTest(t, Options{})
	start := db.Revision()
	ops := []*op{
		{kind: opPut, key: "/a", value: []byte("1")},
		{kind: opPut, key: "/a", value: []byte("2")},                      // exists now
		{kind: opPut, key: "/a", expect: start + 1, value: []byte("3")},   // sees the first
		{kind: opPut, key: "/a", expect: start + 1, value: []byte("4")},   // does not see the one before
		{kind: opDelete, key: "/a", expect: start + 2},                    // sees the third
		{kind: opPut, key: "/a", expect: start + 2, value: []byte("5")},   // is gone
		{kind: opPut, key: "/a", value: []byte("6")},                      // may be made again
		{kind: opPut, key: "/b", value: bytes.Repeat([]byte("x"), 600e3)}, // in pieces
	}
	want := []uint64{1, 0, 2, 0, 3, 0, 4, 5}
	for _, o := range ops {
		o.done = make(chan struct{})
	}
	db.commit(ops) // on an idle store the writer waits, so the test may do its work
	for i, o := range ops {
		<-o.done
		if (want[i] == 0) != errors.Is(o.err, errConflict) || want[i] != 0 && o.rev != start+want[i] {
			t.Errorf("request %d: revision %d, error %v, want revision %d more than %d (0: conflict)", i, o.rev, o.err, want[i], start)
		}
	}
	if v, found, rev := db.latest("/a"); !found || v.rev != start+4 || v.create != start+4 || rev != start+5 {
		t.Errorf("got %+v, %v, store at %d; want /a made at %d", v, found, rev, start+4)
	}
	if got := childLen(t, db, "/b", start+5); got != 600e3 {
		t.Errorf("/b has %d bytes, want 600000", got)
	}
}

func childLen(t *testing.T, db *DB, key string, rev uint64) int {
	t.Helper()
	b, err := childRead(db, key, rev)
	if err != nil {
		t.Fatal(err)
	}
	return len(b)
}

// TestSharedSync checks that concurrent writes share a commit and its sync.
func TestSharedSync(t *testing.T) {
	ctx, s := newTest(t, fixture{})
	const writers, each = 32, 20
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for j := range each {
				mustCreate(ctx, t, s, pod("ns", fmt.Sprintf("p-%d-%d", i, j)))
			}
		})
	}
	wg.Wait()
	// The sequence number in HEAD counts commits.
	if commits := s.db.head.seq - 1; commits > writers*each/4 {
		t.Errorf("%d commits for %d writes by %d writers, want a fraction", commits, writers*each, writers)
	}
}

// TestConcurrentUpdates lets many writers count one object up: none may be lost, and revisions are all different.
func TestConcurrentUpdates(t *testing.T) {
	ctx, s := newTest(t, fixture{})
	mustCreate(ctx, t, s, pod("ns", "counter"))
	const writers, each = 16, 20
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]bool{}
	for range writers {
		wg.Go(func() {
			for range each {
				out := &example.Pod{}
				err := s.GuaranteedUpdate(ctx, "/pods/ns/counter", out, false, nil, storage.SimpleUpdate(func(o runtime.Object) (runtime.Object, error) {
					p := o.(*example.Pod)
					p.Generation++
					return p, nil
				}), nil)
				mu.Lock()
				if err != nil || seen[out.ResourceVersion] {
					t.Errorf("update: %v, revision %s seen before: %v", err, out.ResourceVersion, seen[out.ResourceVersion])
				}
				seen[out.ResourceVersion] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	got := &example.Pod{}
	if err := s.Get(ctx, "/pods/ns/counter", storage.GetOptions{}, got); err != nil || got.Generation != writers*each {
		t.Errorf("counted to %d, %v, want %d", got.Generation, err, writers*each)
	}
}

// TestCompaction checks that the DB compacts by itself, that history gets 410, and that the disk gives up what went.
func TestCompaction(t *testing.T) {
	ctx, s := newTest(t, fixture{options: Options{CompactionWindow: 50 * time.Millisecond}})
	first := mustCreate(ctx, t, s, pod("ns", "a"))
	for i := range 20 {
		label(ctx, t, s, "/pods/ns/a", fmt.Sprint(i))
	}
	last := label(ctx, t, s, "/pods/ns/a", "last")
	waitFor(t, "history is compacted", func() bool { return fmt.Sprint(s.db.CompactRevision()) == last.ResourceVersion })
	waitFor(t, "superseded records are dropped", func() bool {
		s.db.mu.RLock()
		defer s.db.mu.RUnlock()
		return s.db.state.count == 1 && len(s.db.index.get("/pods/ns/a").versions) == 1
	})
	opts := storage.ListOptions{ResourceVersion: first.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact, Predicate: storage.Everything, Recursive: true}
	if err := s.GetList(ctx, "/pods/", opts, &example.PodList{}); !apierrors.IsResourceExpired(err) {
		t.Errorf("list at a compacted revision: got %v, want 410 Expired", err)
	}
	if err := s.Delete(ctx, "/pods/ns/a", &example.Pod{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the deletion is forgotten", func() bool {
		s.db.mu.RLock()
		defer s.db.mu.RUnlock()
		return s.db.state.count == 0 && s.db.index.tree.Len() == 0
	})
	dir := s.db.opts.Dir
	if err := s.db.Close(); err != nil {
		t.Fatal(err)
	}
	db := openTest(t, Options{Dir: dir})
	if db.CompactRevision() < db.Revision()-1 || db.state.count != 0 {
		t.Errorf("reopened at compact revision %d of %d with %d records", db.CompactRevision(), db.Revision(), db.state.count)
	}
}

func TestDiskFull(t *testing.T) {
	ctx, s := newTest(t, fixture{})
	mustCreate(ctx, t, s, pod("ns", "a"))
	s.db.opts.MinFreeBytes = 1 << 62
	err := s.Create(ctx, "/pods/ns/b", pod("ns", "b"), nil, 0)
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Code != 507 {
		t.Errorf("create on a full disk: got %v, want status 507", err)
	}
	if err := s.Delete(ctx, "/pods/ns/a", &example.Pod{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Errorf("delete on a full disk: %v, want it to work", err)
	}
}

func TestTooLarge(t *testing.T) {
	ctx, s := newTest(t, fixture{})
	p := pod("ns", "a")
	p.Annotations = map[string]string{"data": strings.Repeat("x", maxValueBytes)}
	if err := s.Create(ctx, "/pods/ns/a", p, nil, 0); !apierrors.IsRequestEntityTooLargeError(err) {
		t.Errorf("got %v, want an error for a request that is too large", err)
	}
}

// TestGetOwned checks that nobody can change the cache through what Get and updates return.
func TestGetOwned(t *testing.T) {
	ctx, s := newTest(t, fixture{})
	p := pod("ns", "a")
	p.Labels = map[string]string{"l": "1"}
	out := mustCreate(ctx, t, s, p)
	out.Labels["l"] = "spoilt"
	for range 2 {
		got := &example.Pod{}
		if err := s.Get(ctx, "/pods/ns/a", storage.GetOptions{}, got); err != nil || got.Labels["l"] != "1" {
			t.Fatalf("got label %q, %v, want 1", got.Labels["l"], err)
		}
		got.Labels["l"] = "spoilt"
	}
	list := &example.PodList{}
	if err := s.GetList(ctx, "/pods/", storage.ListOptions{Predicate: storage.Everything, Recursive: true}, list); err != nil || list.Items[0].Labels["l"] != "1" {
		t.Fatalf("list: %v, %+v", err, list.Items)
	}
}
