package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
)

// FuzzRecord decodes anything, and what it accepts has to encode to the same bytes.
func FuzzRecord(f *testing.F) {
	for _, r := range []record{
		{rev: 2, kind: recordPut, create: 2, key: "/registry/pods/a", value: []byte("value")},
		{rev: 3, kind: recordDelete, create: 2, prev: 2, key: "/registry/pods/a"},
		{rev: 1 << 40, kind: recordPut, create: 5, prev: 77, expires: 1 << 33, key: "k", value: bytes.Repeat([]byte("x"), pieceBytes+1)},
	} {
		entry, _, _ := encodeRecord(&r)
		f.Add(r.rev, entry, []byte("piece"))
	}
	f.Fuzz(func(t *testing.T, rev uint64, entry, piece []byte) {
		r, sum, err := decodeRecord(rev, entry, func(int) ([]byte, error) { return piece, nil })
		if err != nil {
			if !errors.Is(err, errRecord) {
				t.Fatalf("error %v is not errRecord", err)
			}
			return
		}
		again, pieces, sum2 := encodeRecord(r)
		if len(pieces) == 0 && (!bytes.Equal(again, entry) || sum != sum2) {
			// A number may be written longer than needed; then the meaning has to be the same.
			r2, _, err := decodeRecord(rev, again, nil)
			if err != nil || r2.key != r.key || !bytes.Equal(r2.value, r.value) || r2.prev != r.prev || r2.create != r.create || r2.kind != r.kind {
				t.Fatalf("decoded %+v, encoded and decoded again %+v, %v", r, r2, err)
			}
		}
	})
}

// TestRecordFlips checks that no flipped bit in a record goes unnoticed.
func TestRecordFlips(t *testing.T) {
	r := record{rev: 9, kind: recordPut, create: 3, prev: 8, expires: 1_800_000_000, key: "/registry/pods/ns/name", value: []byte("some value")}
	entry, _, _ := encodeRecord(&r)
	if got, _, err := decodeRecord(9, entry, nil); err != nil || got.key != r.key || !bytes.Equal(got.value, r.value) || got.expires != r.expires {
		t.Fatalf("round trip: %+v, %v", got, err)
	}
	for i := range len(entry) * 8 {
		spoilt := bytes.Clone(entry)
		spoilt[i/8] ^= 1 << (i % 8)
		if got, _, err := decodeRecord(9, spoilt, func(int) ([]byte, error) { return nil, errors.New("no piece") }); err == nil {
			t.Errorf("bit %d flipped: decoded %+v", i, got)
		}
	}
	if _, _, err := decodeRecord(10, entry, nil); err == nil {
		t.Error("decoded under another revision")
	}
}

func FuzzState(f *testing.F) {
	f.Add((&state{last: 7, compact: 3, count: 2, sum: 99}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := decodeState(b); err == nil && !bytes.Equal(s.encode(), b) {
			t.Fatalf("%x decodes to %+v, which encodes to %x", b, s, s.encode())
		}
	})
}

func FuzzHead(f *testing.F) {
	f.Add(encodeHead(nil, 3, 9))
	f.Fuzz(func(t *testing.T, b []byte) {
		if seq, last, ok := decodeHead(b); ok && !bytes.Equal(encodeHead(nil, seq, last), b[:headLen]) {
			t.Fatalf("%x decodes to %d, %d", b, seq, last)
		}
	})
}

// FuzzTable verifies anything; the seed is a table of Badger's.
func FuzzTable(f *testing.F) {
	_, s := newTest(f, fixture{})
	mustCreate(f.Context(), f, s, pod("ns", "a"))
	if err := s.db.Close(); err != nil {
		f.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(s.db.opts.Dir, "badger", "*.sst"))
	if err != nil || len(paths) == 0 {
		f.Fatalf("no table: %v", err)
	}
	seed, err := os.ReadFile(paths[0])
	if err != nil {
		f.Fatal(err)
	}
	if err := verifyTable(seed); err != nil {
		f.Fatalf("table of Badger's: %v", err)
	}
	f.Add(seed)
	f.Fuzz(func(_ *testing.T, b []byte) { _ = verifyTable(b) })
}

// FuzzContinue lists with any continue token: it must be refused, or list within the prefix.
func FuzzContinue(f *testing.F) {
	_, s := newTest(f, fixture{})
	mustCreate(f.Context(), f, s, pod("ns", "a"))
	mustCreate(f.Context(), f, s, pod("other", "b"))
	token, err := storage.EncodeContinue("/pods/ns/a\x00", "/pods/ns/", 2)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token)
	f.Add("eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6LTEsInN0YXJ0IjoiYSJ9")
	f.Fuzz(func(t *testing.T, token string) {
		pred := storage.Everything
		pred.Continue, pred.Limit = token, 5
		list := &example.PodList{}
		if err := s.GetList(t.Context(), "/pods/ns/", storage.ListOptions{Predicate: pred, Recursive: true}, list); err != nil {
			return
		}
		for _, p := range list.Items {
			if p.Namespace != "ns" {
				t.Fatalf("token %q lists %s/%s", token, p.Namespace, p.Name)
			}
		}
	})
}
