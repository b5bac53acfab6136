package store

import (
	"bytes"
	"io"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
)

// TestLoan checks that an object that is lent encodes as a copy does, and that
// encoding it changes neither the cache nor who got a copy.
func TestLoan(t *testing.T) {
	ctx, s := newTest(t, fixture{})
	mustCreate(ctx, t, s, pod("ns", "a"))
	label(ctx, t, s, "/pods/ns/a", "x")
	get := func(l *Loan) *example.Pod {
		t.Helper()
		out, with := &example.Pod{}, ctx
		if l != nil {
			with = WithLoan(ctx, l)
		}
		if err := s.Get(with, "/pods/ns/a", storage.GetOptions{}, out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	own := get(nil) // now it is in the cache, too
	want, err := runtime.Encode(s.codec, own)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		var l Loan
		out := get(&l)
		if l.Object == nil {
			t.Fatal("an object in the cache was not lent")
		}
		if out.Name != "a" || out.Labels["l"] != "x" || out.ResourceVersion != own.ResourceVersion {
			t.Errorf("got %v", out)
		}
		got, err := runtime.Encode(s.codec, l.Object)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("lent: %q, %v, want %q", got, err, want)
		}
		mark := func(obj runtime.Object, w io.Writer) error {
			obj.(*example.Pod).Kind = "Pod" // as encoders do
			return nil
		}
		if err := l.Object.(runtime.CacheableObject).CacheEncode("form", mark, io.Discard); err != nil {
			t.Fatal(err)
		}
		if again := get(nil); again.Kind != "" || again.Labels["l"] != "x" {
			t.Errorf("the cache has %v after an encoding", again)
		}
	}
	var l Loan
	if err := s.Get(WithLoan(ctx, &l), "/pods/ns/none", storage.GetOptions{}, &example.Pod{}); !storage.IsNotFound(err) || l.Object != nil {
		t.Errorf("an object that is not there: %v, %v", l.Object, err)
	}
}
