package core

import "time"

// SetRepair sets, for tests, how long a claim may be without a service, and
// how often allocations are repaired. It gives back what puts both back.
func SetRepair(grace, every time.Duration) (restore func()) {
	g, e := claimGrace, repairEvery
	claimGrace, repairEvery = grace, every
	return func() { claimGrace, repairEvery = g, e }
}
