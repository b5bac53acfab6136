package store

import (
	"bufio"
	"fmt"
	"strings"
	"testing"
	"time"
)

const lease = "/registry/leases/kube-node-lease/node-1"

// put writes a key as a client does that has seen its last version.
func put(t *testing.T, db *DB, key, value string) uint64 {
	t.Helper()
	v, _, _ := db.latest(key)
	o := &op{kind: opPut, key: key, expect: v.rev, value: []byte(value)}
	if err := db.submit(t.Context(), o); err != nil {
		t.Fatalf("write %s: %v", key, err)
	}
	return o.rev
}

func remove(t *testing.T, db *DB, key string) {
	t.Helper()
	v, _, _ := db.latest(key)
	if err := db.submit(t.Context(), &op{kind: opDelete, key: key, expect: v.rev}); err != nil {
		t.Fatalf("delete %s: %v", key, err)
	}
}

// is demands that a key has a value, and gives its revision.
func is(t *testing.T, db *DB, key, want string) uint64 {
	t.Helper()
	v, found, _ := db.latest(key)
	if !found {
		t.Fatalf("%s is not there", key)
	}
	got, err := childRead(db, key, v.rev)
	if err != nil || string(got) != want {
		t.Errorf("%s is %q, %v; want %q", key, got, err, want)
	}
	return v.rev
}

// commits is how often the store has waited for the disk.
func commits(db *DB) uint64 { return db.head.seq }

func TestBatchedUpdatesWriteLittle(t *testing.T) {
	dir := t.TempDir()
	db := openTest(t, Options{Dir: dir, BatchInterval: time.Hour})
	put(t, db, lease, "0")
	put(t, db, lease, "1") // the first reserves revisions
	before := commits(db)
	var revs []uint64
	for i := range 400 {
		revs = append(revs, put(t, db, lease, fmt.Sprint("beat ", i)))
	}
	if got := commits(db) - before; got != 0 {
		t.Errorf("400 heartbeats waited %d times for the disk, want 0", got)
	}
	is(t, db, lease, "beat 399")
	if got, err := childRead(db, lease, revs[10]); err != nil || string(got) != "beat 10" {
		t.Errorf("at revision %d: %q, %v", revs[10], got, err)
	}
	for i := 1; i < len(revs); i++ {
		if revs[i] != revs[i-1]+1 {
			t.Fatalf("revision %d follows %d", revs[i], revs[i-1])
		}
	}
	if err := db.flush(); err != nil {
		t.Fatal(err)
	}
	if got := commits(db) - before; got != 1 {
		t.Errorf("the batch took %d commits, want 1", got)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	again := openTest(t, Options{Dir: dir})
	if rev := is(t, again, lease, "beat 399"); rev != revs[399] {
		t.Errorf("revision %d after opening again, want %d", rev, revs[399])
	}
	if got := again.Revision(); got != revs[399] {
		t.Errorf("the store is at %d after it was closed in order, want %d", got, revs[399])
	}
}

func TestCloseSavesTheBatch(t *testing.T) {
	dir := t.TempDir()
	db := openTest(t, Options{Dir: dir, BatchInterval: time.Hour})
	put(t, db, lease, "a")
	put(t, db, lease, "b")
	put(t, db, "/registry/things/x", "1")
	last := put(t, db, lease, "c")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	again := openTest(t, Options{Dir: dir})
	is(t, again, lease, "c")
	if again.Revision() != last {
		t.Errorf("the store is at %d, want %d", again.Revision(), last)
	}
}

func TestWritesAfterBatchedOnes(t *testing.T) {
	dir := t.TempDir()
	db := openTest(t, Options{Dir: dir, BatchInterval: time.Hour, CompactionWindow: time.Hour})
	put(t, db, lease, "a")
	before := put(t, db, lease, "b")
	remove(t, db, lease)
	fresh := put(t, db, lease, "new")
	put(t, db, lease, "newer")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	again := openTest(t, Options{Dir: dir, CompactionWindow: time.Hour})
	is(t, again, lease, "newer")
	for rev, want := range map[uint64]string{before: "b", fresh: "new"} {
		if got, err := childRead(again, lease, rev); err != nil || string(got) != want {
			t.Errorf("at revision %d: %q, %v; want %q, as a deletion and a batch build on it", rev, got, err, want)
		}
	}
}

func TestCompactionKeepsABatchedObject(t *testing.T) {
	dir := t.TempDir()
	db := openTest(t, Options{Dir: dir, BatchInterval: time.Hour, CompactionWindow: time.Hour})
	put(t, db, lease, "a")
	for i := range 10 {
		put(t, db, lease, fmt.Sprint("b", i))
	}
	if err := db.Compact(t.Context(), db.Revision()); err != nil {
		t.Fatal(err)
	}
	is(t, db, lease, "b9")
	db.batch.mu.RLock()
	left := len(db.batch.records)
	db.batch.mu.RUnlock()
	if left > 1 {
		t.Errorf("%d batched versions are kept after compaction, want 1 at most", left)
	}
	if !db.batch.empty() {
		t.Error("the version on disk was compacted, and the current one is in memory only")
	}
}

// TestKillLosesOnlyTheBatch kills a process that batches. Durable writes are
// there, heartbeats may be older, and no revision that was seen is given again.
func TestKillLosesOnlyTheBatch(t *testing.T) {
	dir := t.TempDir()
	var seen uint64
	for round := range 4 {
		cmd := child(t, "batched", dir, "")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		durable := ""
		lines := bufio.NewScanner(out)
		for lines.Scan() && lines.Text() != "done" {
			var key, value string
			var rev uint64
			if _, err := fmt.Sscanf(lines.Text(), "ack %s %s %d", &key, &value, &rev); err != nil {
				t.Fatalf("child says %q", lines.Text())
			}
			if rev <= seen {
				t.Errorf("round %d: revision %d was given before, up to %d", round, rev, seen)
			}
			seen = rev
			if !strings.HasPrefix(key, "/registry/leases/") {
				durable = value
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		db := openTest(t, Options{Dir: dir})
		if db.Revision() < seen {
			t.Errorf("round %d: the store is at %d, %d was acknowledged", round, db.Revision(), seen)
		}
		is(t, db, "/registry/things/durable", durable)
		if _, found, _ := db.latest(lease); !found {
			t.Errorf("round %d: the lease is gone", round)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSnapshotHoldsBatchedVersions takes a snapshot while an object is in memory only, and reads it when that version
// was superseded, put on disk and compacted.
func TestSnapshotHoldsBatchedVersions(t *testing.T) {
	db := openTest(t, Options{BatchInterval: time.Hour, CompactionWindow: time.Hour})
	put(t, db, lease, "a")
	rev := put(t, db, lease, "batched")
	s, err := db.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put(t, db, lease, "later")
	if err := db.flush(); err != nil {
		t.Fatal(err)
	}
	put(t, db, lease, "last")
	if err := db.Compact(t.Context(), db.Revision()); err != nil {
		t.Fatal(err)
	}
	n := 0
	err = s.Each(t.Context(), func(o *Object) error {
		if n++; o.Key != lease || o.Mod != rev || string(o.Value) != "batched" {
			t.Errorf("got %s at %d: %q", o.Key, o.Mod, o.Value)
		}
		return nil
	})
	if err != nil || n != 1 || s.Revision() != rev {
		t.Errorf("%d objects at revision %d, %v; want 1 at %d", n, s.Revision(), err, rev)
	}
}

// TestBatchIsBounded writes large objects where heartbeats are expected.
func TestBatchIsBounded(t *testing.T) {
	db := openTest(t, Options{BatchInterval: time.Hour, CompactionWindow: time.Hour})
	put(t, db, lease, "0")
	before := commits(db)
	put(t, db, lease, strings.Repeat("x", batchedValueBytes+1))
	if commits(db) == before {
		t.Error("a large object was batched")
	}
	value := strings.Repeat("x", batchedValueBytes)
	for range batchedBytes/batchedValueBytes + 2000 {
		put(t, db, lease, value)
	}
	if db.batch.bytes > batchedBytes+2*batchedValueBytes {
		t.Errorf("the batch holds %d bytes, want at most about %d", db.batch.bytes, batchedBytes)
	}
	if err := db.Compact(t.Context(), db.Revision()); err != nil {
		t.Fatal(err)
	}
	if db.batch.bytes > 2*batchedValueBytes {
		t.Errorf("the batch holds %d bytes after compaction", db.batch.bytes)
	}
}

// TestGroupTooLargeIsSplit deletes more batched objects at once than a transaction holds.
func TestGroupTooLargeIsSplit(t *testing.T) {
	o := crashOptions(t.TempDir()) // a transaction of 78 kB
	o.BatchInterval = time.Hour
	db := openTest(t, o)
	const n = 40
	value := strings.Repeat("x", 4000)
	var ops []*op
	for i := range n {
		key := fmt.Sprint(crashLease, i)
		put(t, db, key, value)
		rev := put(t, db, key, value+"2")
		ops = append(ops, &op{kind: opDelete, key: key, expect: rev, done: make(chan struct{})})
	}
	db.commit(ops) // the writer has nothing to do
	for i, o := range ops {
		<-o.done
		if o.err != nil {
			t.Errorf("delete %d: %v", i, o.err)
		}
	}
	for i := range n {
		if _, found, _ := db.latest(fmt.Sprint(crashLease, i)); found {
			t.Errorf("object %d is still there", i)
		}
	}
}
