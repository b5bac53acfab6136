package kernel

import (
	"testing"
	"time"
)

// TestGCTuner checks how far the heap may grow.
func TestGCTuner(t *testing.T) {
	const mb = 1 << 20
	for _, tt := range []struct {
		name    string
		streak  int
		started bool
		percent int
		since   time.Duration
		live    uint64
		want    int
	}{
		{"idle", gcBusyStreak, false, gcPercent, time.Minute, 40 * mb, gcPercent},
		{"starting", gcBusyStreak - 2, false, gcPercent, 100 * time.Millisecond, 40 * mb, gcPercent},
		{"busy", gcBusyStreak - 1, false, gcPercent, 100 * time.Millisecond, 40 * mb, gcBusyPercent},
		{"still busy, though collections are rarer now", gcBusyStreak, false, gcBusyPercent, 4 * time.Second, 40 * mb, gcBusyPercent},
		{"busy again after a pause", gcBusyStreak, true, gcBusyPercent, gcCalm - 1, 40 * mb, gcBusyPercent},
		{"busy again after a pause, with little growth", 0, true, gcPercent + 10, gcCalm - 1, 1920 * mb, gcPercent + 10},
		{"memory is given back", gcBusyStreak, true, gcBusyPercent, gcCalm, 40 * mb, gcPercent},
		{"not busy any more", gcBusyStreak, false, gcBusyPercent, 20 * time.Second, 40 * mb, gcPercent},
		{"busy with much alive", gcBusyStreak, false, gcPercent, 100 * time.Millisecond, 1920 * mb, gcPercent + 10},
		{"busy some time after the start", gcBusyAgain - 1, true, gcPercent, 100 * time.Millisecond, 40 * mb, gcBusyPercent},
		{"not for long, after the start", gcBusyAgain - 2, true, gcPercent, 100 * time.Millisecond, 40 * mb, gcPercent},
		{"nothing alive", gcBusyStreak, false, gcPercent, 100 * time.Millisecond, 0, gcPercent},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := &gcTuner{percent: tt.percent, streak: tt.streak}
			g.started.Store(tt.started)
			if got := g.next(tt.since, tt.live); got != tt.want {
				t.Errorf("next(%s, %d) at %d%% = %d%%, want %d%%", tt.since, tt.live, tt.percent, got, tt.want)
			}
		})
	}
}

// TestGiveBack checks after which collections memory is given back.
func TestGiveBack(t *testing.T) {
	const mb = 1 << 20
	g := &gcTuner{}
	for _, step := range []struct {
		name      string
		giving    bool
		percent   int
		allocated uint64
		want      bool
	}{
		{"started", false, gcPercent, 120 * mb, true},
		{"memory was given back", true, gcPercent, 121 * mb, false},
		{"idle", false, gcPercent, 130 * mb, false},
		{"something was done", false, gcPercent, 140 * mb, true},
		{"given back again", true, gcPercent, 141 * mb, false},
		{"busy", false, gcBusyPercent, 142 * mb, true},
	} {
		g.giving.Store(step.giving)
		if got := g.giveBack(step.percent, step.allocated); got != step.want {
			t.Errorf("%s: giveBack(%d, %d) = %v, want %v", step.name, step.percent, step.allocated, got, step.want)
		}
	}
}
