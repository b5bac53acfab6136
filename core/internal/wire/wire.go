// Package wire takes apart records that were written field after field.
package wire

import "encoding/binary"

// Reader takes fields off the front of Rest. Bad stays true from the first one that was not there; what is read then is zero.
type Reader struct {
	Rest []byte
	Bad  bool
}

// Byte is the next byte.
func (r *Reader) Byte() byte {
	b := r.Bytes(1)
	if len(b) == 0 {
		return 0
	}
	return b[0]
}

// Uvarint is the next number, as encoding/binary writes it.
func (r *Reader) Uvarint() uint64 {
	v, n := binary.Uvarint(r.Rest)
	if n <= 0 || r.Bad {
		r.Bad = true
		return 0
	}
	r.Rest = r.Rest[n:]
	return v
}

// Bytes is the next n bytes, not a copy.
func (r *Reader) Bytes(n uint64) []byte {
	if r.Bad || n > uint64(len(r.Rest)) {
		r.Bad = true
		return nil
	}
	b := r.Rest[:n]
	r.Rest = r.Rest[n:]
	return b
}
