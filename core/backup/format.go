package backup

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"time"

	"github.com/klauspost/compress/zstd"

	"keelson.dev/keelson/core/store"
)

const (
	// magic begins each backup file; the format's number (4 bytes, big endian) follows.
	magic = "KEELSONB"
	// FormatVersion is the number of the format that this package writes.
	FormatVersion = 1
	// maxRecord bounds one record. Objects take 2 MiB here, and in an etcd as much as it is told.
	maxRecord = 64 << 20
	// window is how far back compression looks. It bounds the server's memory.
	window = 1 << 20
)

// Kinds of records.
const (
	recordHeader = 'h' // Header, JSON; the first
	recordFile   = 'f' // a file of the data folder
	recordObject = 'o' // an object; in order of keys
	recordEnd    = 'e' // trailer, JSON; the last
)

// ErrBackup says that a file is no backup, or not what was written once.
var ErrBackup = errors.New("backup is not readable")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Header says what a backup is of.
type Header struct {
	// Revision of the store that all objects are of.
	Revision uint64 `json:"revision"`
	// Created is when the backup was taken.
	Created time.Time `json:"created"`
	// Version is the release of Keelson that took it.
	Version string `json:"version"`
	// Namespace, if not empty, is the only one whose objects are in it.
	Namespace string `json:"namespace,omitempty"`
}

// File is a file of the data folder.
type File struct {
	// Path below the data folder, with slashes.
	Path string
	// Mode has the permissions only.
	Mode fs.FileMode
	Data []byte
}

type trailer struct {
	Objects uint64 `json:"objects"`
	Files   uint64 `json:"files"`
}

// Writer writes a backup.
type Writer struct {
	w     io.Writer
	z     *zstd.Encoder
	sum   hash.Hash // of all bytes of the file
	count trailer
	buf   []byte
}

// NewWriter begins a backup. The Writer has to be closed, which does not close w.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	b := &Writer{w: w, sum: sha256.New()}
	summed := io.MultiWriter(w, b.sum)
	if _, err := summed.Write(binary.BigEndian.AppendUint32([]byte(magic), FormatVersion)); err != nil {
		return nil, err
	}
	z, err := zstd.NewWriter(summed, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(window), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("compress backup: %w", err)
	}
	b.z = z
	data, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode header: %w", err)
	}
	return b, b.record(recordHeader, data)
}

// record writes kind, length, payload, and a CRC-32C of kind and payload.
func (b *Writer) record(kind byte, payload []byte) error {
	if len(payload) > maxRecord {
		return fmt.Errorf("write backup: a record of %d bytes is too large", len(payload))
	}
	head := binary.AppendUvarint([]byte{kind}, uint64(len(payload)))
	sum := binary.BigEndian.AppendUint32(nil, recordSum(kind, payload))
	for _, part := range [][]byte{head, payload, sum} {
		if _, err := b.z.Write(part); err != nil {
			return fmt.Errorf("write backup: %w", err)
		}
	}
	return nil
}

func recordSum(kind byte, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte{kind}, castagnoli), castagnoli, payload)
}

// File adds a file. Files come before objects.
func (b *Writer) File(f *File) error {
	b.count.Files++
	b.buf = binary.AppendUvarint(b.buf[:0], uint64(f.Mode.Perm()))
	b.buf = appendString(b.buf, f.Path)
	b.buf = append(b.buf, f.Data...)
	return b.record(recordFile, b.buf)
}

// Object adds an object. They come in order of their keys.
func (b *Writer) Object(o *store.Object) error {
	b.count.Objects++
	b.buf = b.buf[:0]
	for _, n := range []uint64{o.Mod, o.Create, o.Version, uint64(o.Expires)} {
		b.buf = binary.AppendUvarint(b.buf, n)
	}
	b.buf = appendString(b.buf, o.Key)
	b.buf = append(b.buf, o.Value...)
	return b.record(recordObject, b.buf)
}

// Close writes the end. A backup without it is refused.
func (b *Writer) Close() error {
	data, err := json.Marshal(b.count)
	if err != nil {
		return fmt.Errorf("encode trailer: %w", err)
	}
	if err := b.record(recordEnd, data); err != nil {
		return err
	}
	if err := b.z.Close(); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	if _, err := b.w.Write(b.sum.Sum(nil)); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
