package job

import (
	"slices"
	"testing"
)

func TestIndexes(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		limit      int
		with       []int
		want       string
		count      int
	}{
		{name: "empty", limit: 5},
		{name: "two in a row are no range", limit: 5, with: []int{1, 0}, want: "0,1", count: 2},
		{name: "three are", limit: 5, with: []int{2, 0, 1}, want: "0-2", count: 3},
		{name: "joined", text: "1,3-5,7", limit: 10, with: []int{2, 6}, want: "1-7", count: 7},
		{name: "known already", text: "1,3-5,7", limit: 10, with: []int{4, 7}, want: "1,3-5,7", count: 5},
		{name: "fewer completions than before", text: "1,3-5,7", limit: 5, want: "1,3,4", count: 3},
		{name: "not a number", text: "1,x,3-y,5", limit: 10, want: "1,5", count: 2},
		{name: "out of order", text: "5,1-3", limit: 10, want: "1-3,5", count: 4},
		{name: "negative", text: "-3,4", limit: 10, want: "4", count: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := parseIndexes(tt.text, tt.limit).with(tt.with)
			if x.String() != tt.want || x.count() != tt.count {
				t.Fatalf("got %q with %d indexes, want %q with %d", x, x.count(), tt.want, tt.count)
			}
			for i := range tt.limit {
				if in := slices.Contains(missing(tt.limit, tt.limit, x), i); in == x.has(i) {
					t.Errorf("index %d: missing %t, has %t", i, in, x.has(i))
				}
			}
		})
	}
}

func TestMissing(t *testing.T) {
	a, b := parseIndexes("0-2,7", 20), parseIndexes("3,5-6", 20)
	if got := missing(3, 20, a, b); !slices.Equal(got, []int{4, 8, 9}) {
		t.Errorf("got %v", got)
	}
	if got := missing(9, 9, a, b); !slices.Equal(got, []int{4, 8}) {
		t.Errorf("got %v below a limit of 9", got)
	}
	if got := a.common(parseIndexes("2-8", 20)); got != 2 {
		t.Errorf("%d in common, want 2", got)
	}
}

// FuzzParseIndexes: no text makes it panic, and what it makes of one is in its own format.
func FuzzParseIndexes(f *testing.F) {
	for _, s := range []string{"", "1,3-5,7", "0-99999999999999999999", "5,1-3,2", ",,-", "3-1"} {
		f.Add(s, 100)
	}
	f.Fuzz(func(t *testing.T, text string, limit int) {
		limit = min(limit, 1000)
		x := parseIndexes(text, limit)
		if again := parseIndexes(x.String(), limit); !slices.Equal(x, again) || x.count() > max(limit, 0) {
			t.Errorf("%q is %v, its text %q is %v", text, x, x, again)
		}
	})
}
