package wire

import (
	"bytes"
	"encoding/binary"
	"testing"
)

func TestReader(t *testing.T) {
	record := append([]byte{7}, binary.AppendUvarint(nil, 300)...)
	record = append(record, "abcdef"...)
	r := Reader{Rest: record}
	if b := r.Byte(); b != 7 {
		t.Errorf("Byte: got %d, want 7", b)
	}
	if n := r.Uvarint(); n != 300 {
		t.Errorf("Uvarint: got %d, want 300", n)
	}
	if b := r.Bytes(4); string(b) != "abcd" {
		t.Errorf("Bytes: got %q, want abcd", b)
	}
	if r.Bad || string(r.Rest) != "ef" {
		t.Errorf("left: %q, bad %t; want ef, false", r.Rest, r.Bad)
	}
}

// TestReaderStaysBad: nothing is read after a field that was not there, also if it would fit.
func TestReaderStaysBad(t *testing.T) {
	for name, miss := range map[string]func(*Reader){
		"bytes beyond the end":         func(r *Reader) { r.Bytes(4) },
		"bytes beyond any memory":      func(r *Reader) { r.Bytes(1<<64 - 1) },
		"a number that does not end":   func(r *Reader) { r.Rest = []byte{0x80, 0x80}; r.Uvarint() },
		"a number of more than 64 bit": func(r *Reader) { r.Rest = bytes.Repeat([]byte{0xff}, 12); r.Uvarint() },
		"a byte of an empty record":    func(r *Reader) { r.Rest = nil; r.Byte() },
	} {
		t.Run(name, func(t *testing.T) {
			r := &Reader{Rest: []byte{1, 2, 3}}
			miss(r)
			if !r.Bad {
				t.Fatal("Bad: got false, want true")
			}
			r.Rest = []byte{1, 2, 3}
			if b, n, p := r.Byte(), r.Uvarint(), r.Bytes(1); b != 0 || n != 0 || p != nil {
				t.Errorf("read after it: %d, %d, %v; want nothing", b, n, p)
			}
		})
	}
}

// FuzzReader: whatever stands there, nothing panics, and what is read was there.
func FuzzReader(f *testing.F) {
	f.Add([]byte{1, 3, 'a', 'b', 'c'})
	f.Fuzz(func(t *testing.T, record []byte) {
		r := Reader{Rest: record}
		r.Byte()
		field := r.Bytes(r.Uvarint())
		if !r.Bad && 2+len(field)+len(r.Rest) > len(record) {
			t.Errorf("read %d and left %d of %d bytes", len(field), len(r.Rest), len(record))
		}
	})
}
