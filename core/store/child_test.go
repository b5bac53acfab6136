package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Crashes and damage are tested on children: this binary again, which TestMain sends into one of the modes below.
const (
	childMode = "KEELSON_STORE_CHILD"
	childDir  = "KEELSON_STORE_DIR"
	childAcks = "KEELSON_STORE_ACKS"

	childMemTable = "KEELSON_STORE_MEMTABLE" // "": as usual
)

func TestMain(m *testing.M) {
	switch os.Getenv(childMode) {
	case "":
		goleak.VerifyTestMain(m,
			goleak.IgnoreTopFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"),
			goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
	case "write":
		childWrite(time.Minute)
	case "template":
		childTemplate()
	case "batched":
		childBatched()
	case "verify":
		childVerify()
	case "verify many":
		childVerifyMany()
	case "full":
		childFull()
	case "churn":
		childCrash()
	}
}

// child starts this binary in a mode.
func child(t *testing.T, mode, dir, acks string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childMode+"="+mode, childDir+"="+dir, childAcks+"="+acks)
	cmd.Stderr = os.Stderr
	return cmd
}

func childOpen(window time.Duration) *DB {
	memTable, _ := strconv.ParseInt(os.Getenv(childMemTable), 10, 64)
	db, err := Open(context.Background(), Options{Dir: os.Getenv(childDir), CompactionWindow: window, memTable: memTable})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(3)
	}
	return db
}

const childWorkers = 8

// writeWorker writes key over and over, every seventh time a deletion, and reports each acknowledged write as
// "ack key number revision". The value says the number, so that a reader can tell what was lost.
func writeWorker(ctx context.Context, db *DB, key string, from, count, size int, report func(string)) error {
	for n := from; n < from+count; n++ {
		v, _, _ := db.latest(key)
		o := &op{kind: opPut, key: key, expect: v.rev, value: childValue(key, n, size)}
		if n%7 == 6 && v.rev != 0 {
			o.kind, o.value = opDelete, nil
		}
		if err := db.submit(ctx, o); err != nil {
			return err
		}
		report(fmt.Sprintf("ack %s %d %d\n", key, n, o.rev))
	}
	return nil
}

func childValue(key string, n, size int) []byte {
	head := fmt.Sprintf("%s %d ", key, n)
	return append([]byte(head), strings.Repeat("x", size)...)
}

// childWrite writes until it is killed.
func childWrite(limit time.Duration) {
	db := childOpen(50 * time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var mu sync.Mutex
	report := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		os.Stdout.WriteString(s)
	}
	var wg sync.WaitGroup
	for i := range childWorkers {
		wg.Go(func() {
			key := fmt.Sprintf("/registry/things/%d", i)
			from := lastNumber(db, key) + 1
			if err := writeWorker(ctx, db, key, from, 1<<30, (i*9973)%60000, report); err != nil {
				report("error " + err.Error() + "\n")
			}
		})
	}
	wg.Wait()
}

// lastNumber returns the number of the newest write of key, -1 if there is none; a deletion counts as the number after
// the version it deleted.
func lastNumber(db *DB, key string) int {
	db.mu.RLock()
	e := db.index.get(key)
	var v version
	if e != nil {
		v = e.versions[len(e.versions)-1]
	}
	db.mu.RUnlock()
	if v.dead || v.rev == 0 {
		return 6 + 7*int(v.rev) // any number after a deletion will do, if it grows and the next one is no deletion
	}
	value, err := childRead(db, key, v.rev)
	if err != nil {
		return -1
	}
	var n int
	fmt.Sscanf(string(value), key+" %d", &n)
	return n
}

func childRead(db *DB, key string, rev uint64) ([]byte, error) {
	s := &Storage{db: db}
	return s.readStored(key, rev)
}

// childTemplate writes a store that has a table, a write-ahead log, a large value and deletions, then waits to be killed.
func childTemplate() {
	report := func(s string) { os.Stdout.WriteString(s) }
	for round := range 2 {
		db := childOpen(time.Hour)
		ctx := context.Background()
		for i := range 20 {
			key := fmt.Sprintf("/registry/things/%d-%d", round, i)
			size := 100 + 3000*(i%5)
			if i == 19 && os.Getenv(childMemTable) == "" {
				size = 1_500_000
			}
			if err := writeWorker(ctx, db, key, 0, 10-9*(i/19), size, report); err != nil {
				report("error " + err.Error() + "\n")
			}
		}
		if round == 0 {
			if err := db.Close(); err != nil {
				report("error " + err.Error() + "\n")
			}
		}
	}
	report("done\n")
	select {}
}

// childVerify opens a store and compares it with the acknowledgements in a file: it prints "whole", or "damaged" and
// the error if the store refuses to open, or what else is wrong.
func childVerify() { verify(os.Getenv(childDir)) }

// childVerifyMany does so for each directory that it reads on stdin; after "check " Check says it.
func childVerifyMany() {
	for sc := bufio.NewScanner(os.Stdin); sc.Scan(); {
		if dir, check := strings.CutPrefix(sc.Text(), "check "); check {
			checkStore(dir)
		} else {
			verify(sc.Text())
		}
	}
}

func checkStore(dir string) {
	memTable, _ := strconv.ParseInt(os.Getenv(childMemTable), 10, 64)
	r, err := Check(context.Background(), CheckOptions{Dir: dir, memTable: memTable})
	switch {
	case err != nil:
		fmt.Println("error", err)
	case r.Whole():
		fmt.Println("whole")
	default:
		fmt.Println("damaged", strings.ReplaceAll(fmt.Sprint(r.Problems), "\n", " "))
	}
}

// verify answers after it closed the store: whoever reads the answer may remove the directory.
func verify(dir string) {
	memTable, _ := strconv.ParseInt(os.Getenv(childMemTable), 10, 64)
	db, err := Open(context.Background(), Options{Dir: dir, CompactionWindow: time.Hour, memTable: memTable})
	switch {
	case errors.Is(err, ErrDamaged):
		fmt.Println("damaged", err)
		return
	case err != nil:
		fmt.Println("error", err)
		return
	}
	answer := compareAcks(db)
	if err := db.Close(); err != nil {
		answer = fmt.Sprint("error ", err)
	}
	fmt.Println(answer)
}

func compareAcks(db *DB) string {
	f, err := os.Open(os.Getenv(childAcks))
	if err != nil {
		return fmt.Sprint("error ", err)
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var key string
		var n int
		var rev uint64
		if _, err := fmt.Sscanf(sc.Text(), "ack %s %d %d", &key, &n, &rev); err != nil {
			continue
		}
		value, err := childRead(db, key, rev)
		if want := fmt.Sprintf("%s %d ", key, n); err != nil || len(value) > 0 && !strings.HasPrefix(string(value), want) {
			return fmt.Sprintf("lost %s: %v", sc.Text(), err)
		}
	}
	return "whole"
}

// childBatched mixes heartbeats with other writes, then waits to be killed.
func childBatched() {
	db, err := Open(context.Background(), Options{Dir: os.Getenv(childDir), BatchInterval: time.Hour, CompactionWindow: time.Hour})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(3)
	}
	for i := range 50 {
		key := lease
		if i%7 == 3 {
			key = "/registry/things/durable"
		}
		v, _, _ := db.latest(key)
		o := &op{kind: opPut, key: key, expect: v.rev, value: fmt.Append(nil, i)}
		if err := db.submit(context.Background(), o); err != nil {
			fmt.Println("error", err)
		}
		fmt.Println("ack", key, i, o.rev)
	}
	fmt.Println("done")
	select {}
}
