package store

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Badger writes through mappings of files with holes. When the disk is full, the first touch of a hole kills the
// process (SIGBUS), and statfs before the write does not help if somebody else takes the space in between. So the
// write-ahead logs get their blocks before Badger writes to them, and tables are made only when there is room.

// spaceTick is how often a compaction that waits for space looks again.
const spaceTick = 200 * time.Millisecond

// freeBytes is what an ordinary user may still write to the disk of dir.
func freeBytes(dir string) (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(fs.Bavail) * fs.Bsize, nil
}

// FreeText says how much space the disk of dir has left, for messages.
func FreeText(dir string) string {
	free, err := freeBytes(dir)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d bytes left", free)
}

// noSpace is what clients get when the disk is full: a status that they show as it is.
func noSpace(dir string, free, need int64) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusInsufficientStorage, Reason: metav1.StatusReasonInternalError,
		Message: fmt.Sprintf("the disk of %s has %d bytes left, writes need %d: free some space", dir, free, need),
	}}
}

// tableBytes is the room to have before tables are made: the largest that a memtable becomes, and what compaction
// makes of two, with as much again for what it does at the same time.
func (o *Options) tableBytes() int64 { return 2*o.memTable + o.memTable/4 }

// lacks tells whether the disk has less than need left, and how much that is. With a negative MinFreeBytes nobody looks.
func (o *Options) lacks(need int64) (lacks bool, free int64, err error) {
	if o.MinFreeBytes < 0 {
		return false, 0, nil
	}
	free, err = freeBytes(o.Dir)
	return err == nil && free < need, free, err
}

// diskFull returns the error for writes when the disk is nearly full.
func (db *DB) diskFull() error {
	lacks, free, err := db.opts.lacks(db.opts.MinFreeBytes)
	if lacks {
		return noSpace(db.opts.Dir, free, db.opts.MinFreeBytes)
	}
	return err
}

// checkOpenSpace refuses to open a store on a full disk: Badger makes tables of the write-ahead logs as it opens.
func checkOpenSpace(o *Options) error {
	need := 2 * o.tableBytes()
	lacks, free, err := o.lacks(need)
	if lacks {
		return fmt.Errorf("open store %s: the disk has %d bytes left, opening needs %d: free some space", o.Dir, free, need)
	}
	return err
}

// wal knows Badger's write-ahead logs: the one that is written to, and the next, which lies ready with its blocks
// allocated and no length, as Badger wants a new file. Only the writer uses it.
type wal struct {
	dir   string
	bytes int64 // of one
	open  bool  // the current file has its blocks
	next  int   // number of the next file
	ready bool  // it is there
	used  int64 // of the current one, estimated from above
}

// openWAL finds the current file.
func openWAL(dir string, memTable int64) (*wal, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil {
		return nil, err
	}
	w := &wal{dir: dir, bytes: memTable + memTable/4}
	for _, path := range files {
		if n, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(path), ".mem")); err == nil {
			w.next = max(w.next, n)
		}
	}
	w.next++
	return w, nil
}

func (w *wal) path(n int) string { return filepath.Join(w.dir, fmt.Sprintf("%05d.mem", n)) }

// prepare sees to it that the current file has its blocks and that there is a next one. An error says that there is no
// room for them.
func (w *wal) prepare() error {
	if !w.open {
		if err := allocate(w.path(w.next-1), w.bytes); err != nil {
			return err
		}
		w.open = true
	}
	if w.ready {
		info, err := os.Stat(w.path(w.next))
		if err == nil && info.Size() == 0 {
			return nil
		}
		w.next, w.ready, w.used = w.next+1, false, 0 // Badger has begun to write to it
	}
	if err := allocate(w.path(w.next), w.bytes); err != nil {
		return err
	}
	w.ready = true
	return nil
}

// allocate gives a file its blocks and leaves its length as it is. File systems that cannot do so go without.
func allocate(path string, length int64) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("allocate write-ahead log: %w", err)
	}
	defer f.Close()
	for {
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, length)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("allocate %s: %w", path, err)
	}
	return nil
}

// room says whether a group of so many bytes can be written whatever others do to the disk meanwhile. The error is for
// all of the group's requests, deletions too.
func (db *DB) room(size int64) error {
	if db.opts.MinFreeBytes < 0 {
		return nil
	}
	err := db.wal.prepare()
	db.wal.used += size
	if db.wal.used < db.opts.memTable && db.wal.open {
		return nil // it fits into the current file, which has its blocks
	}
	// Badger may turn to the next file, and make a table of the current one.
	free, statErr := freeBytes(db.opts.Dir)
	if statErr != nil {
		return statErr
	}
	if need := db.opts.tableBytes(); err != nil || free < need {
		db.wal.used -= size
		return noSpace(db.opts.Dir, free, need)
	}
	return nil
}

// compacting is called by Badger's compactors before they make tables, through the log line they write then. It holds
// them back while there is no room.
func (l badgerLog) compacting() {
	for waited := false; ; waited = true {
		free, err := freeBytes(l.dir)
		if err != nil || free >= l.need {
			return
		}
		if !waited {
			l.log.Warn("Compaction waits for space on the disk", "dir", l.dir, "free", free, "needed", l.need)
		}
		if l.guard != nil {
			l.guard.stuck("compaction waits for space on the disk")
		}
		time.Sleep(spaceTick)
	}
}
