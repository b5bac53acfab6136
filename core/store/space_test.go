package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"keelson.dev/keelson/test/need"
)

// childFull writes, deletes, renews leases and reads, on a disk that its parent fills. It tells of each kind of success
// with a line, so that the parent sees what goes on.
func childFull() {
	o := crashOptions(os.Getenv(childDir))
	o.memTable, _ = strconv.ParseInt(os.Getenv(childMemTable), 10, 64)
	o.MinFreeBytes = 3 * (2*o.memTable + o.memTable/4) / 2
	o.CompactionWindow = 300 * time.Millisecond
	db, err := Open(context.Background(), o)
	if err != nil {
		fmt.Fprintln(os.Stdout, "error", err)
		os.Exit(3)
	}
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(os.Stdout, format+"\n", args...)
	}
	ctx := context.Background()
	write := func(kind opKind, key, value string) (uint64, error) {
		v, _, _ := db.latest(key)
		o := &op{kind: kind, key: key, expect: v.rev, value: []byte(value)}
		err := db.submit(ctx, o)
		var status apierrors.APIStatus
		if err != nil && (!errors.As(err, &status) || status.Status().Code != http.StatusInsufficientStorage) {
			say("error %s: %v", key, err)
		}
		return o.rev, err
	}
	for i := range 500 { // to be deleted later
		if _, err := write(opPut, fmt.Sprint("/registry/spare/", i), "x"); err != nil {
			say("error %v", err)
		}
	}
	for i := range 3 {
		go func() {
			key := fmt.Sprint("/registry/things/", i)
			for n := 0; ; n++ {
				rev, err := write(opPut, key, fmt.Sprintf("%s %d %s", key, n, strings.Repeat("x", 300)))
				if err == nil {
					say("ack %s %d %d", key, n, rev)
				} else {
					say("full %v", err)
				}
				time.Sleep(2 * time.Millisecond)
			}
		}()
	}
	for spare, n := 0, 0; ; n++ {
		if _, err := write(opPut, crashLease+"node", fmt.Sprint(n)); err == nil {
			say("beat")
		}
		v, found, _ := db.latest("/registry/things/0")
		if value, err := childRead(db, "/registry/things/0", v.rev); found && err == nil && strings.HasPrefix(string(value), "/registry/things/0 ") {
			say("read")
		}
		if n%4 == 0 && spare < 500 {
			if _, err := write(opDelete, fmt.Sprint("/registry/spare/", spare), ""); err == nil {
				say("deleted")
				spare++
			}
		}
		time.Sleep(3 * time.Millisecond)
	}
}

// TestRootFullDisk fills the disk under a serving store, to the last block, without its knowing beforehand. Writes have
// to be refused with status 507; reads, deletions and heartbeats go on; when there is space again, so do writes; and at
// the end all is there that was acknowledged.
func TestRootFullDisk(t *testing.T) {
	for _, c := range []struct {
		name     string
		memTable int64
		size     int64
		gently   bool // leave some space at first, until no more tables are made
	}{
		{name: "at once, into the write-ahead log", memTable: 16 << 20, size: 160 << 20},
		{name: "with tables made", memTable: 1 << 20, size: 32 << 20, gently: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			disk := mountTmpfs(t, c.size)
			f := &fullDisk{t: t, disk: disk, acks: map[string][2]uint64{}}
			cmd := child(t, "full", filepath.Join(disk, "store"), "")
			cmd.Env = append(cmd.Env, childMemTable+"="+fmt.Sprint(c.memTable))
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
			f.lines = bufio.NewReader(out)
			rounds := 6
			if testing.Short() {
				rounds = 2
			}
			for range rounds {
				f.until("ack", 200)
				if c.gently {
					f.fill(c.memTable*5/2 + c.memTable/2)
					f.until("full", 20)
					f.until("deleted", 3)
				}
				f.fill(0)
				f.until("full", 10)
				f.until("beat", 10)
				f.until("read", 5)
				if !c.gently { // else the log may be full, and a table has no room
					f.until("deleted", 3)
				}
				if err := os.Remove(filepath.Join(disk, "filler")); err != nil {
					t.Fatal(err)
				}
			}
			f.until("ack", 100)
			_ = cmd.Process.Kill()
			for f.next() != "" {
			}
			f.verify(filepath.Join(disk, "store"), c.memTable)
		})
	}
}

type fullDisk struct {
	t     *testing.T
	disk  string
	lines *bufio.Reader
	acks  map[string][2]uint64 // key -> number and revision
}

// next reads a line and gives its first word, "" at the end.
func (f *fullDisk) next() string {
	line, err := f.lines.ReadString('\n')
	if err == io.EOF {
		return ""
	}
	word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	switch word {
	case "ack":
		var key string
		var n, rev uint64
		if _, err := fmt.Sscanf(rest, "%s %d %d", &key, &n, &rev); err != nil {
			f.t.Errorf("line %q: %v", line, err)
		}
		f.acks[key] = [2]uint64{n, rev}
	case "full":
		if !strings.Contains(rest, "free some space") {
			f.t.Errorf("refused with %q", rest)
		}
	case "error":
		f.t.Errorf("the child says %q", line)
	}
	return word
}

func (f *fullDisk) until(word string, n int) {
	f.t.Helper()
	for n > 0 {
		got := f.next()
		if got == "" {
			f.t.Fatalf("the child died, waiting for %d times %q", n, word)
		}
		if got == word {
			n--
		}
	}
}

// fill takes all space but so many bytes.
func (f *fullDisk) fill(leave int64) {
	f.t.Helper()
	file, err := os.OpenFile(filepath.Join(f.disk, "filler"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		f.t.Fatal(err)
	}
	defer file.Close()
	for {
		free, err := freeBytes(f.disk)
		if err != nil {
			f.t.Fatal(err)
		}
		info, err := file.Stat()
		if err != nil {
			f.t.Fatal(err)
		}
		if free <= leave {
			return
		}
		err = unix.Fallocate(int(file.Fd()), 0, info.Size(), free-leave)
		if err != nil && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EINTR) {
			f.t.Fatal(err)
		}
	}
}

func (f *fullDisk) verify(dir string, memTable int64) {
	o := crashOptions(dir)
	o.memTable = memTable
	db := openTest(f.t, o)
	for key, want := range f.acks {
		v, found, _ := db.latest(key)
		if !found || v.rev < want[1] {
			f.t.Errorf("%s is at revision %d, %d was acknowledged", key, v.rev, want[1])
			continue
		}
		value, err := childRead(db, key, v.rev)
		if err != nil || !strings.HasPrefix(string(value), key+" ") {
			f.t.Errorf("%s: %.40q, %v", key, value, err)
		}
	}
	f.t.Logf("%d keys, revision %d", len(f.acks), db.Revision())
}

// mountTmpfs gives a file system of limited size.
func mountTmpfs(t *testing.T, size int64) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)); err != nil {
		need.Missing(t, "a mounted tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}
