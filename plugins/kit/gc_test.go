package kit

import "testing"

func TestGCPercentFor(t *testing.T) {
	for _, tt := range []struct {
		name string
		live uint64
		want int64
	}{
		{"nearly nothing", 1, gcMost},
		{"as much as may be added", gcBusyBytes, gcPercent + 100},
		{"much", 100 * gcBusyBytes, gcPercent + 1},
	} {
		if got := gcPercentFor(tt.live); got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.name, got, tt.want)
		}
	}
}
