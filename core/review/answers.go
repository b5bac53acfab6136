package review

import (
	"time"

	"golang.org/x/sync/singleflight"
	utilcache "k8s.io/apimachinery/pkg/util/cache"
)

const (
	// maxAnswers is how many answers of a plugin are remembered.
	maxAnswers = 4096
	// The longest that answers are remembered, as the contracts say.
	longestPositive      = 5 * time.Minute
	longestUnknownToken  = 10 * time.Second
	longestNotAuthorized = 30 * time.Second
)

// answers are what a process of a plugin said. A new process gets new ones.
type answers struct {
	remembered *utilcache.LRUExpireCache
	flying     singleflight.Group
}

// forget drops all that is remembered.
func (p *plugin) forget() {
	if p.kind != Admission {
		p.answers.Store(&answers{remembered: utilcache.NewLRUExpireCache(maxAnswers)})
	}
}

// remember keeps an answer for as long as the plugin allows, and no longer than most.
func (a *answers) remember(key string, answer any, ttl, most time.Duration) {
	if ttl = min(ttl, most); ttl > 0 {
		a.remembered.Add(key, answer, ttl)
	}
}
