package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"

	"github.com/klauspost/compress/zstd"

	"keelson.dev/keelson/core/internal/wire"
	"keelson.dev/keelson/core/store"
)

// Reader reads a backup and verifies it as it goes. Only when Next has returned
// io.EOF is it known that all is there and right.
type Reader struct {
	raw     *tailReader // the file, without the checksum behind it
	z       *zstd.Decoder
	r       *bufio.Reader
	header  Header
	count   trailer
	lastKey string
	err     error
}

// NewReader reads the beginning of a backup. Errors about its content are ErrBackup.
// The Reader has to be closed, which does not close r.
func NewReader(r io.Reader) (*Reader, error) {
	raw := &tailReader{r: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}
	begin := make([]byte, len(magic)+4)
	if _, err := io.ReadFull(raw, begin); err != nil || string(begin[:len(magic)]) != magic {
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: it does not begin as a backup of Keelson does", ErrBackup)
	}
	if v := binary.BigEndian.Uint32(begin[len(magic):]); v != FormatVersion {
		return nil, fmt.Errorf("%w: it has format %d, this release reads format %d", ErrBackup, v, FormatVersion)
	}
	z, err := zstd.NewReader(raw, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("read backup: %w", err)
	}
	b := &Reader{raw: raw, z: z, r: bufio.NewReaderSize(z, 64<<10)}
	kind, payload, err := b.record()
	if err == nil && kind != recordHeader {
		err = fmt.Errorf("%w: the first record is not a header", ErrBackup)
	}
	if err == nil {
		err = decodeJSON(payload, &b.header)
	}
	if err == nil && b.header.Revision == 0 {
		err = fmt.Errorf("%w: its header names no revision", ErrBackup)
	}
	if err != nil {
		z.Close()
		return nil, err
	}
	return b, nil
}

// Header says what the backup is of.
func (b *Reader) Header() Header { return b.header }

// Counts is how many objects and files were read.
func (b *Reader) Counts() (objects, files uint64) { return b.count.Objects, b.count.Files }

// Close frees memory.
func (b *Reader) Close() { b.z.Close() }

// Next returns the next file or object, the other is nil. io.EOF is the end of a
// backup in which all is right.
func (b *Reader) Next() (*File, *store.Object, error) {
	if b.err != nil {
		return nil, nil, b.err
	}
	f, o, err := b.next()
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("after %d files and %d objects: %w", b.count.Files, b.count.Objects, err)
	}
	b.err = err
	return f, o, err
}

func (b *Reader) next() (*File, *store.Object, error) {
	kind, payload, err := b.record()
	if err != nil {
		return nil, nil, err
	}
	switch kind {
	case recordFile:
		if b.count.Objects > 0 {
			return nil, nil, fmt.Errorf("%w: a file comes after objects", ErrBackup)
		}
		f, err := decodeFile(payload)
		if err == nil {
			b.count.Files++
		}
		return f, nil, err
	case recordObject:
		o, err := b.object(payload)
		if err == nil {
			b.count.Objects++
		}
		return nil, o, err
	case recordEnd:
		return nil, nil, b.end(payload)
	}
	return nil, nil, fmt.Errorf("%w: unknown record %q", ErrBackup, kind)
}

// record reads one, in its parts, so that a wrong length costs no memory.
func (b *Reader) record() (kind byte, payload []byte, err error) {
	if kind, err = b.r.ReadByte(); err != nil {
		return 0, nil, short(err)
	}
	size, err := binary.ReadUvarint(b.r)
	if err != nil {
		return 0, nil, short(err)
	}
	if size > maxRecord {
		return 0, nil, fmt.Errorf("%w: a record of %d bytes", ErrBackup, size)
	}
	var buf bytes.Buffer
	if _, err := io.CopyN(&buf, b.r, int64(size)); err != nil {
		return 0, nil, short(err)
	}
	var sum [4]byte
	if _, err := io.ReadFull(b.r, sum[:]); err != nil {
		return 0, nil, short(err)
	}
	payload = buf.Bytes()
	if got, want := recordSum(kind, payload), binary.BigEndian.Uint32(sum[:]); got != want {
		return 0, nil, fmt.Errorf("%w: a record has checksum %08x, written was %08x", ErrBackup, got, want)
	}
	return kind, payload, nil
}

func short(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it is cut short", ErrBackup)
	}
	if _, ok := errors.AsType[*fs.PathError](err); ok { // the disk's error, not the content's
		return err
	}
	return fmt.Errorf("%w: %w", ErrBackup, err)
}

func (b *Reader) object(payload []byte) (*store.Object, error) {
	d := wire.Reader{Rest: payload}
	o := &store.Object{Mod: d.Uvarint(), Create: d.Uvarint(), Version: d.Uvarint(), Expires: int64(d.Uvarint())}
	o.Key = string(d.Bytes(d.Uvarint()))
	o.Value = d.Rest
	switch {
	case d.Bad || o.Key == "":
		return nil, fmt.Errorf("%w: an object's record has wrong lengths", ErrBackup)
	case o.Key <= b.lastKey:
		return nil, fmt.Errorf("%w: object %q comes after %q", ErrBackup, o.Key, b.lastKey)
	case o.Create == 0 || o.Create > o.Mod || o.Mod > b.header.Revision || o.Expires < 0:
		return nil, fmt.Errorf("%w: object %q has revisions %d and %d in a backup of revision %d", ErrBackup, o.Key, o.Create, o.Mod, b.header.Revision)
	}
	b.lastKey = o.Key
	return o, nil
}

func decodeFile(payload []byte) (*File, error) {
	d := wire.Reader{Rest: payload}
	f := &File{Mode: fs.FileMode(d.Uvarint()) & fs.ModePerm}
	f.Path = string(d.Bytes(d.Uvarint()))
	f.Data = d.Rest
	if d.Bad {
		return nil, fmt.Errorf("%w: a file's record has wrong lengths", ErrBackup)
	}
	if !fs.ValidPath(f.Path) || f.Path == "." || path.Clean(f.Path) != f.Path {
		return nil, fmt.Errorf("%w: file name %q is not below the data folder", ErrBackup, f.Path)
	}
	return f, nil
}

func (b *Reader) end(payload []byte) error {
	var want trailer
	if err := decodeJSON(payload, &want); err != nil {
		return err
	}
	if want != b.count {
		return fmt.Errorf("%w: it was written with %d objects and %d files, read with %d and %d", ErrBackup,
			want.Objects, want.Files, b.count.Objects, b.count.Files)
	}
	if _, err := b.r.ReadByte(); err == nil {
		return fmt.Errorf("%w: something follows its end", ErrBackup)
	} else if !errors.Is(err, io.EOF) {
		return short(err)
	}
	if _, err := io.Copy(io.Discard, b.raw); err != nil {
		return short(err)
	}
	if got := b.raw.sum.Sum(nil); !bytes.Equal(got, b.raw.tail) {
		return fmt.Errorf("%w: its SHA-256 is %x, written was %x", ErrBackup, got, b.raw.tail)
	}
	return io.EOF
}

// tailReader reads all but the last bytes, which are the checksum of the others.
type tailReader struct {
	r    *bufio.Reader
	sum  hash.Hash
	tail []byte // once the end was reached
}

// Read implements io.Reader.
func (t *tailReader) Read(p []byte) (int, error) {
	ahead, err := t.r.Peek(sha256.Size + 1)
	if len(ahead) <= sha256.Size {
		if errors.Is(err, io.EOF) {
			t.tail = bytes.Clone(ahead)
		}
		return 0, err
	}
	n, err := t.r.Read(p[:min(len(p), t.r.Buffered()-sha256.Size)])
	t.sum.Write(p[:n])
	return n, err
}

func decodeJSON(data []byte, into any) error {
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%w: %w", ErrBackup, err)
	}
	return nil
}
