package nodes

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	timing := &Timing{EvictionInterval: 10 * time.Second, SlowEvictionInterval: 100 * time.Second, UnhealthyZone: 0.55, LargeZone: 50}
	for _, tt := range []struct {
		name  string
		zone  zone
		state zoneState
		pace  time.Duration // 0 is never
	}{
		{"all ready", zone{ready: 10}, zoneNormal, 10 * time.Second},
		{"one down", zone{9, 1}, zoneNormal, 10 * time.Second},
		{"two of three down", zone{1, 2}, zoneNormal, 10 * time.Second},
		{"three of five down", zone{2, 3}, zonePartial, 0},
		{"just under the threshold", zone{46, 54}, zoneNormal, 10 * time.Second},
		{"at the threshold, large", zone{45, 55}, zonePartial, 100 * time.Second},
		{"as large as small may be", zone{20, 30}, zonePartial, 0},
		{"just large", zone{20, 31}, zonePartial, 100 * time.Second},
		{"all down, few", zone{0, 1}, zoneFull, 10 * time.Second},
		{"all down, many", zone{0, 500}, zoneFull, 10 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.zone.state(timing.UnhealthyZone); got != tt.state {
				t.Errorf("state %s, want %s", got, tt.state)
			}
			if d, ok := timing.pace(tt.zone); ok != (tt.pace > 0) || d != tt.pace {
				t.Errorf("pace %s, %t; want %s", d, ok, tt.pace)
			}
		})
	}
}
