package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
)

// headName is the file that remembers, apart from Badger, which revision was acknowledged last.
const headName = "HEAD"

const (
	headSlot = 512 // one disk sector per slot, so that a torn write spoils one slot only
	headLen  = 28  // magic 8, sequence 8, revision 8, checksum 4
)

var headMagic = []byte("KEELHEAD")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// head is the witness against a silent loss: Badger cuts a write-ahead log at its first bad entry without a word, and
// only something outside of it can tell that more had been there. It is written after each group was synced and
// before the group is acknowledged, and not synced itself: after a kill it is exact, after a power loss it may
// be older than the data, never newer. Two slots are written in turn.
type head struct {
	f    *os.File
	seq  uint64
	last uint64
	torn bool // the other entry is not readable: last may be that before the newest
	buf  [headLen]byte
}

// openHead opens or makes the file; fresh is true if it was made.
func openHead(dir string) (h *head, fresh bool, err error) {
	path := filepath.Join(dir, headName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, false, fmt.Errorf("open store %s: %w", dir, err)
	}
	h = &head{f: f}
	buf := make([]byte, 2*headSlot)
	n, _ := f.ReadAt(buf, 0)
	if len(bytes.Trim(buf[:n], "\x00")) == 0 { // new, or the server was killed while it made it
		return h, true, h.init()
	}
	ok := false
	h.torn = n < len(buf)
	for slot := range 2 {
		entry := buf[slot*headSlot : (slot+1)*headSlot]
		_, _, valid := decodeHead(entry)
		h.torn = h.torn || !valid && len(bytes.Trim(entry, "\x00")) > 0
		if seq, last, valid := decodeHead(buf[slot*headSlot:]); valid && (!ok || seq > h.seq) {
			h.seq, h.last, ok = seq, last, true
		}
	}
	if !ok {
		f.Close()
		return nil, false, damaged(path, nil, "neither of its two entries is readable")
	}
	return h, false, nil
}

func (h *head) init() error {
	if err := h.f.Truncate(2 * headSlot); err != nil {
		return fmt.Errorf("write %s: %w", h.f.Name(), err)
	}
	if err := h.write(0); err != nil {
		return err
	}
	return h.sync()
}

// repair makes both entries say what the newest does.
func (h *head) repair() error {
	if err := h.f.Truncate(2 * headSlot); err != nil {
		return fmt.Errorf("write %s: %w", h.f.Name(), err)
	}
	if err := h.write(h.last); err != nil {
		return err
	}
	h.torn = false
	return h.write(h.last)
}

// write notes that revision last was acknowledged.
func (h *head) write(last uint64) error {
	h.seq++
	h.last = last
	encodeHead(h.buf[:0], h.seq, last)
	if _, err := h.f.WriteAt(h.buf[:], int64(h.seq%2)*headSlot); err != nil {
		return fmt.Errorf("write %s: %w", h.f.Name(), err)
	}
	return nil
}

func (h *head) sync() error {
	if err := h.f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", h.f.Name(), err)
	}
	return nil
}

func encodeHead(b []byte, seq, last uint64) []byte {
	b = append(b, headMagic...)
	b = binary.BigEndian.AppendUint64(b, seq)
	b = binary.BigEndian.AppendUint64(b, last)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeHead(b []byte) (seq, last uint64, ok bool) {
	if len(b) < headLen || !bytes.Equal(b[:8], headMagic) {
		return 0, 0, false
	}
	if crc32.Checksum(b[:headLen-4], castagnoli) != binary.BigEndian.Uint32(b[headLen-4:]) {
		return 0, 0, false
	}
	return binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:]), true
}
