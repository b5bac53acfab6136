package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"keelson.dev/keelson/core/internal/wire"
)

// Format is the form of the records in Badger. A store of another form is not opened.
const Format = 1

// Prefixes of the keys in Badger.
const (
	recordPrefix = 'r' // r + revision: what happened at that revision
	piecePrefix  = 'x' // x + revision + number: a piece of a value too large for one entry
	statePrefix  = 's' // s: the counters, rewritten by each group
)

const (
	formatVersion = Format
	// pieceBytes splits large values, so that none reaches Badger's value threshold (1 MiB): everything stays in the
	// LSM tree, the value log stays empty and has no garbage to collect.
	pieceBytes = 512 << 10
	// maxValueBytes is the largest stored object. etcd's default is 1.5 MiB for a whole request; a group has to fit
	// into one Badger transaction, 15% of a 16 MiB memtable.
	maxValueBytes = 2 << 20
)

type recordKind byte

const (
	recordPut    recordKind = 1
	recordDelete recordKind = 2
)

// record is one change of one key.
type record struct {
	rev     uint64     // revision of the change; part of the Badger key
	kind    recordKind // put or delete
	create  uint64     // revision at which the object began
	prev    uint64     // revision of the version that this one replaces, 0 if none
	expires int64      // Unix second at which the object ends, 0 for never
	key     string     // the object's key
	value   []byte     // as the transformer gave it
}

var errRecord = errors.New("record is not readable")

// encodeRecord returns the entry's value, the pieces (nil unless the value is large), and the checksum over all of it.
func encodeRecord(r *record) (entry []byte, pieces [][]byte, sum uint32) {
	for v := r.value; len(r.value) > pieceBytes && len(v) > 0; {
		n := min(len(v), pieceBytes)
		pieces = append(pieces, v[:n])
		v = v[n:]
	}
	b := make([]byte, 0, 64+len(r.key)+len(r.value)*boolToInt(pieces == nil))
	b = append(b, formatVersion, byte(r.kind))
	b = binary.AppendUvarint(b, r.create)
	b = binary.AppendUvarint(b, r.prev)
	b = binary.AppendUvarint(b, uint64(r.expires))
	b = binary.AppendUvarint(b, uint64(len(r.key)))
	b = append(b, r.key...)
	b = binary.AppendUvarint(b, uint64(len(r.value)))
	b = binary.AppendUvarint(b, uint64(len(pieces)))
	if pieces == nil {
		b = append(b, r.value...)
	}
	sum = recordSum(r.rev, b, pieces)
	return binary.BigEndian.AppendUint32(b, sum), pieces, sum
}

func boolToInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func recordSum(rev uint64, entry []byte, pieces [][]byte) uint32 {
	var r [8]byte
	binary.BigEndian.PutUint64(r[:], rev)
	sum := crc32.Update(0, castagnoli, r[:])
	sum = crc32.Update(sum, castagnoli, entry)
	for _, p := range pieces {
		sum = crc32.Update(sum, castagnoli, p)
	}
	return sum
}

// decodeRecord reads an entry; piece returns the numbered piece of a large value. The value is not copied unless it
// comes in pieces.
func decodeRecord(rev uint64, entry []byte, piece func(int) ([]byte, error)) (*record, uint32, error) {
	if len(entry) < 4 {
		return nil, 0, fmt.Errorf("%w: %d bytes", errRecord, len(entry))
	}
	body, want := entry[:len(entry)-4], binary.BigEndian.Uint32(entry[len(entry)-4:])
	d := wire.Reader{Rest: body}
	if v := d.Byte(); v != formatVersion {
		return nil, 0, fmt.Errorf("%w: format %d, this version reads %d", errRecord, v, formatVersion)
	}
	r := &record{rev: rev, kind: recordKind(d.Byte()), create: d.Uvarint(), prev: d.Uvarint(), expires: int64(d.Uvarint())}
	r.key = string(d.Bytes(d.Uvarint()))
	size, count := d.Uvarint(), d.Uvarint()
	if d.Bad || size > maxValueBytes || count > maxValueBytes/pieceBytes {
		return nil, 0, fmt.Errorf("%w: cut short", errRecord)
	}
	var pieces [][]byte
	if count == 0 {
		r.value = d.Bytes(size)
	} else {
		for i := range int(count) {
			p, err := piece(i)
			if err != nil {
				return nil, 0, fmt.Errorf("%w: piece %d: %w", errRecord, i, err)
			}
			pieces = append(pieces, p)
			r.value = append(r.value, p...)
		}
	}
	if d.Bad || len(d.Rest) != 0 || uint64(len(r.value)) != size {
		return nil, 0, fmt.Errorf("%w: lengths differ", errRecord)
	}
	if sum := recordSum(rev, body, pieces); sum != want {
		return nil, 0, fmt.Errorf("%w: checksum %08x, stored %08x", errRecord, sum, want)
	}
	if r.kind != recordPut && r.kind != recordDelete {
		return nil, 0, fmt.Errorf("%w: kind %d", errRecord, r.kind)
	}
	return r, want, nil
}

func recordKey(rev uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{recordPrefix}, rev)
}

func pieceKey(rev uint64, n int) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint64([]byte{piecePrefix}, rev), uint16(n))
}

func pieceCount(size int) int {
	if size <= pieceBytes {
		return 0
	}
	return (size + pieceBytes - 1) / pieceBytes
}

// state are the counters that each group carries. count and sum cover all records there are, so that a missing
// record is noticed although compaction leaves holes in the revisions.
type state struct {
	last    uint64 // revision given last
	compact uint64 // revision up to which history is compacted
	count   uint64 // number of records
	sum     uint64 // sum over mix(revision, checksum) of all records
}

func (s *state) add(rev uint64, sum uint32) {
	s.count++
	s.sum += mix(rev, sum)
}

func (s *state) remove(rev uint64, sum uint32) {
	s.count--
	s.sum -= mix(rev, sum)
}

// mix spreads a record's identity over 64 bits (splitmix64's finish), so that sums of different sets differ.
func mix(rev uint64, sum uint32) uint64 {
	x := rev*0x9e3779b97f4a7c15 + uint64(sum)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func (s *state) encode() []byte {
	b := []byte{formatVersion}
	for _, v := range []uint64{s.last, s.compact, s.count, s.sum} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeState(b []byte) (state, error) {
	const length = 1 + 4*8 + 4
	if len(b) != length || b[0] != formatVersion {
		return state{}, fmt.Errorf("%w: counters", errRecord)
	}
	if crc32.Checksum(b[:length-4], castagnoli) != binary.BigEndian.Uint32(b[length-4:]) {
		return state{}, fmt.Errorf("%w: checksum of the counters", errRecord)
	}
	u := func(i int) uint64 { return binary.BigEndian.Uint64(b[1+8*i:]) }
	return state{last: u(0), compact: u(1), count: u(2), sum: u(3)}, nil
}
