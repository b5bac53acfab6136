package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"keelson.dev/keelson/core/store"
)

// An etcd snapshot is the bbolt database of a member with a SHA-256 of it behind. Names and keys in it are those of
// etcd 3.4 to 3.7.
const (
	etcdKeys     = "key"
	etcdMeta     = "meta"
	etcdLeases   = "lease"
	etcdCompact  = "finishedCompactRev"
	etcdCompact2 = "scheduledCompactRev"
	// revBytes is main revision, '_', sub revision; a deletion has a 't' behind.
	revBytes = 17
	// etcdSector is what the size of a database divides by, so that the checksum behind it is noticed.
	etcdSector = 512
	// etcdBatch is how many objects go into one transaction.
	etcdBatch = 4096
)

var etcdBuckets = []string{etcdKeys, etcdMeta, etcdLeases, "alarm", "cluster", "members", "members_removed", "auth", "authUsers", "authRoles"}

// DefaultPrefix is where Kubernetes keeps its objects in an etcd.
const DefaultPrefix = "/registry"

// etcdSnapshot is an opened one.
type etcdSnapshot struct {
	db      *bolt.DB
	rev     uint64
	created time.Time
	keys    []string             // in order
	at      map[string]etcdValue // by key
	leases  map[int64]int64      // seconds of life, by lease
	skipped int                  // keys that are not Kubernetes' objects
}

type etcdValue struct{ rev [revBytes]byte }

// openEtcd verifies the snapshot in the file and finds the newest version of each key.
func openEtcd(path string) (s *etcdSnapshot, err error) {
	info, err := checkEtcdSum(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if r := recover(); r != nil { // bbolt, on pages that do not hang together
			s, err = nil, fmt.Errorf("%w: its pages do not fit: %v", ErrBackup, r)
		}
	}()
	db, err := bolt.Open(path, 0o400, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		if errors.Is(err, bolterrors.ErrTimeout) {
			return nil, fmt.Errorf("another process has %s open", path)
		}
		return nil, fmt.Errorf("%w: %w", ErrBackup, err)
	}
	s = &etcdSnapshot{db: db, created: info.ModTime(), at: map[string]etcdValue{}, leases: map[int64]int64{}, rev: 1}
	if err := db.View(s.load); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

func checkEtcdSum(path string) (os.FileInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	head := make([]byte, 20)
	if _, err := io.ReadFull(f, head); err != nil || binary.LittleEndian.Uint32(head[16:]) != 0xED0CDAED {
		return nil, fmt.Errorf("%w: it is neither a backup of Keelson nor a snapshot of etcd", ErrBackup)
	}
	size := info.Size() - sha256.Size
	if size <= 0 || size%etcdSector != 0 {
		return nil, fmt.Errorf("%w: a snapshot of etcd has a SHA-256 behind its database, which is missing here: "+
			"the file is cut short, or was not made by etcdctl snapshot save", ErrBackup)
	}
	sum, want := sha256.New(), make([]byte, sha256.Size)
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, size)); err != nil {
		return nil, err
	}
	if _, err := f.ReadAt(want, size); err != nil {
		return nil, err
	}
	if got := sum.Sum(nil); !bytes.Equal(got, want) {
		return nil, fmt.Errorf("%w: its SHA-256 is %x, written was %x", ErrBackup, got, want)
	}
	return info, nil
}

func (s *etcdSnapshot) load(tx *bolt.Tx) error {
	keys := tx.Bucket([]byte(etcdKeys))
	if keys == nil {
		return fmt.Errorf("%w: the database has no bucket %q", ErrBackup, etcdKeys)
	}
	if meta := tx.Bucket([]byte(etcdMeta)); meta != nil {
		for _, name := range []string{etcdCompact, etcdCompact2} {
			if v := meta.Get([]byte(name)); len(v) >= 8 {
				s.rev = max(s.rev, binary.BigEndian.Uint64(v))
			}
		}
	}
	if leases := tx.Bucket([]byte(etcdLeases)); leases != nil {
		err := leases.ForEach(func(_, v []byte) error {
			l, err := decodeLease(v)
			s.leases[l.id] = l.ttl
			return err
		})
		if err != nil {
			return err
		}
	}
	err := keys.ForEach(func(k, v []byte) error {
		if len(k) < revBytes || len(k) > revBytes+1 {
			return fmt.Errorf("%w: %x is no revision", ErrBackup, k)
		}
		s.rev = max(s.rev, binary.BigEndian.Uint64(k))
		kv, err := decodeKeyValue(v)
		if err != nil {
			return err
		}
		if len(k) > revBytes {
			delete(s.at, string(kv.key))
			return nil
		}
		s.at[string(kv.key)] = etcdValue{rev: [revBytes]byte(k[:revBytes])}
		return nil
	})
	if err != nil {
		return err
	}
	before := len(s.at)
	maps.DeleteFunc(s.at, func(key string, _ etcdValue) bool { return !strings.HasPrefix(key, DefaultPrefix+"/") })
	s.skipped = before - len(s.at)
	s.keys = slices.Sorted(maps.Keys(s.at))
	return nil
}

// each hands out the objects in order of keys. A lease's life begins anew, as with etcd.
func (s *etcdSnapshot) each(ctx context.Context, f func(*store.Object) error) error {
	return s.db.View(func(tx *bolt.Tx) error {
		bucket := tx.Bucket([]byte(etcdKeys))
		for _, key := range s.keys {
			if err := ctx.Err(); err != nil {
				return err
			}
			at := s.at[key]
			kv, err := decodeKeyValue(bucket.Get(at.rev[:]))
			if err != nil {
				return err
			}
			o := &store.Object{
				Key: key, Value: bytes.Clone(kv.value), Create: uint64(kv.create), Version: uint64(kv.version),
				Mod: binary.BigEndian.Uint64(at.rev[:]),
			}
			if ttl, ok := s.leases[kv.lease]; ok && kv.lease != 0 {
				o.Expires = time.Now().Unix() + max(ttl, 1)
			}
			if err := f(o); err != nil {
				return err
			}
		}
		return nil
	})
}

// WriteEtcd writes the objects that each hands out to path as a snapshot of an etcd at revision rev, whose older history
// is compacted. The file must not exist.
func WriteEtcd(path string, rev uint64, each func(func(*store.Object) error) error) (err error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true, OpenFile: openNew})
	if err != nil {
		return err
	}
	w := &etcdWriter{db: db, leases: map[int64]int64{}, now: time.Now().Unix()}
	err = w.begin(rev)
	if err == nil {
		err = each(w.add)
	}
	if err == nil {
		err = w.flush()
	}
	if err == nil {
		err = w.writeLeases()
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	return appendSum(path)
}

func openNew(name string, flag int, mode os.FileMode) (*os.File, error) {
	return os.OpenFile(name, flag|os.O_EXCL, mode)
}

type etcdWriter struct {
	db     *bolt.DB
	batch  []store.Object
	bytes  int
	leases map[int64]int64 // lease by the second at which it ends
	now    int64
}

func (w *etcdWriter) begin(rev uint64) error {
	return w.db.Update(func(tx *bolt.Tx) error {
		for _, name := range etcdBuckets {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		one := binary.BigEndian.AppendUint64(nil, 1)
		compact := etcdRev(rev, 0)
		for key, value := range map[string][]byte{"consistent_index": one, "term": one, etcdCompact: compact[:], etcdCompact2: compact[:]} {
			if err := tx.Bucket([]byte(etcdMeta)).Put([]byte(key), value); err != nil {
				return err
			}
		}
		return nil
	})
}

func etcdRev(main, sub uint64) (b [revBytes]byte) {
	binary.BigEndian.PutUint64(b[:], main)
	b[8] = '_'
	binary.BigEndian.PutUint64(b[9:], sub)
	return b
}

func (w *etcdWriter) add(o *store.Object) error {
	w.batch = append(w.batch, *o)
	w.bytes += len(o.Value)
	if len(w.batch) < etcdBatch && w.bytes < maxRecord {
		return nil
	}
	return w.flush()
}

func (w *etcdWriter) flush() error {
	slices.SortFunc(w.batch, func(a, b store.Object) int { // bbolt fills its pages best in order
		if a.Mod < b.Mod {
			return -1
		}
		return 1
	})
	err := w.db.Update(func(tx *bolt.Tx) error {
		bucket := tx.Bucket([]byte(etcdKeys))
		for i := range w.batch {
			o := &w.batch[i]
			kv := keyValue{key: []byte(o.Key), create: int64(o.Create), mod: int64(o.Mod), version: int64(o.Version), value: o.Value, lease: w.lease(o.Expires)}
			if kv.version == 0 {
				kv.version = 1 // not counted here; 1 is the first
				if o.Mod != o.Create {
					kv.version = 2
				}
			}
			at := etcdRev(o.Mod, 0)
			for sub := uint64(1); bucket.Get(at[:]) != nil; sub++ { // several keys of one transaction
				at = etcdRev(o.Mod, sub)
			}
			if err := bucket.Put(at[:], kv.encode()); err != nil {
				return err
			}
		}
		return nil
	})
	w.batch, w.bytes = w.batch[:0], 0
	return err
}

// lease gives objects that end in the same second the same lease.
func (w *etcdWriter) lease(expires int64) int64 {
	if expires == 0 {
		return 0
	}
	if w.leases[expires] == 0 {
		w.leases[expires] = int64(len(w.leases)) + 1
	}
	return w.leases[expires]
}

func (w *etcdWriter) writeLeases() error {
	return w.db.Update(func(tx *bolt.Tx) error {
		for expires, id := range w.leases {
			key := binary.BigEndian.AppendUint64(nil, uint64(id))
			if err := tx.Bucket([]byte(etcdLeases)).Put(key, lease{id: id, ttl: max(expires-w.now, 1)}.encode()); err != nil {
				return err
			}
		}
		return nil
	})
}

func appendSum(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err == nil && size%etcdSector != 0 {
		err = fmt.Errorf("%s: %d bytes are not whole pages", path, size)
	}
	if err == nil {
		_, err = f.Write(sum.Sum(nil))
	}
	return errors.Join(err, f.Sync(), f.Close())
}
