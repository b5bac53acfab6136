package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/y"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// checkTable verifies all checksums of a table. Badger could do it as it opens the table, but crashes on what it finds.
// At a table's end are its index, the index's length (4 bytes), its checksum, and that one's length (4 bytes); the index
// says where the blocks are, and each block ends with its checksum in the same form.
func checkTable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	if info.Size() == 0 {
		return damaged(path, nil, "the file is empty")
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map %s: %w", path, err)
	}
	defer func() { _ = unix.Munmap(data) }()
	if err := verifyTable(data); err != nil {
		return damaged(path, err, "it does not match its checksums")
	}
	return nil
}

var errTable = errors.New("lengths do not fit")

// verifyTable checks a table's bytes; it must not panic whatever they are.
func verifyTable(data []byte) (err error) {
	defer func() {
		if r := recover(); r != nil { // a flatbuffer with right checksum and wrong offsets
			err = fmt.Errorf("index: %v", r)
		}
	}()
	rest, sum, err := cutChecksum(data)
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	rest, length, err := cutLength(rest)
	if err != nil || length == 0 || length > len(rest) {
		return fmt.Errorf("index: %w", errTable)
	}
	raw := rest[len(rest)-length:]
	if err := y.VerifyChecksum(raw, sum); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	index := fb.GetRootAsTableIndex(raw, 0)
	var at fb.BlockOffset
	for i := range index.OffsetsLength() {
		if !index.Offsets(&at, i) {
			return fmt.Errorf("block %d: %w", i, errTable)
		}
		from, to := int(at.Offset()), int(at.Offset())+int(at.Len())
		if to > len(rest)-length {
			return fmt.Errorf("block %d: %w", i, errTable)
		}
		block, sum, err := cutChecksum(data[from:to])
		if err == nil {
			err = y.VerifyChecksum(block, sum)
		}
		if err != nil {
			return fmt.Errorf("block %d: %w", i, err)
		}
	}
	return nil
}

// cutChecksum takes a checksum off the end.
func cutChecksum(b []byte) (rest []byte, sum *pb.Checksum, err error) {
	b, length, err := cutLength(b)
	if err != nil || length > len(b) {
		return nil, nil, errTable
	}
	sum = &pb.Checksum{}
	if err := proto.Unmarshal(b[len(b)-length:], sum); err != nil {
		return nil, nil, fmt.Errorf("checksum: %w", err)
	}
	if sum.Algo != pb.Checksum_CRC32C && sum.Algo != pb.Checksum_XXHash64 {
		return nil, nil, fmt.Errorf("checksum: algorithm %d is not known", sum.Algo)
	}
	return b[:len(b)-length], sum, nil
}

func cutLength(b []byte) (rest []byte, length int, err error) {
	if len(b) < 4 {
		return nil, 0, errTable
	}
	return b[:len(b)-4], int(binary.BigEndian.Uint32(b[len(b)-4:])), nil
}
