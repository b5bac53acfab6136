package review

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	authorizationv1 "keelson.dev/keelson/proto/authorization/v1"
)

// maxCalls is how many batches are under way at once. What comes while all are goes
// together into the next.
const maxCalls = 4

// batcher puts questions that come at the same time into one call.
type batcher struct {
	mu    sync.Mutex // guards what follows
	calls int
	queue []*question
}

// question is one that waits for its answer.
type question struct {
	access *authorizationv1.Access
	answer chan answered // has room for it
}

type answered struct {
	decision *authorizationv1.Decision
	err      error
}

// ask waits for the answer to a question, at most as long as a call may take, or until ctx
// ends.
func (b *batcher) ask(ctx context.Context, p *plugin, access *authorizationv1.Access) (*authorizationv1.Decision, error) {
	q := &question{access: access, answer: make(chan answered, 1)}
	b.mu.Lock()
	b.queue = append(b.queue, q)
	start := b.calls < maxCalls
	if start {
		b.calls++
	}
	b.mu.Unlock()
	if start && !p.spawn(func() { b.work(p) }) { // ends when nothing is left to ask; each call has a timeout
		return nil, errors.New("it is not wanted any more")
	}
	timer := time.NewTimer(authorizationTimeout)
	defer timer.Stop()
	select {
	case a := <-q.answer:
		return a.decision, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timer.C:
		return nil, fmt.Errorf("no answer within %s", authorizationTimeout)
	}
}

// work asks batch by batch until none waits.
func (b *batcher) work(p *plugin) {
	for {
		b.mu.Lock()
		n := min(len(b.queue), authorizationv1.MaxBatch)
		if n == 0 {
			b.calls--
			b.mu.Unlock()
			return
		}
		batch := b.queue[:n:n]
		b.queue = append([]*question(nil), b.queue[n:]...)
		b.mu.Unlock()
		decisions, err := p.reviewBatch(batch)
		for i, q := range batch {
			a := answered{err: err}
			if err == nil {
				a.decision = decisions[i]
			}
			q.answer <- a
		}
	}
}

func (p *plugin) reviewBatch(batch []*question) (decisions []*authorizationv1.Decision, err error) {
	request := &authorizationv1.ReviewRequest{}
	for _, q := range batch {
		request.Accesses = append(request.Accesses, q.access)
	}
	err = p.call(p.life, authorizationTimeout, func(ctx context.Context) error {
		answer, err := authorizationv1.NewAuthorizationServiceClient(p.conn).Review(ctx, request)
		decisions = answer.GetDecisions()
		return err
	})
	if err == nil && len(decisions) != len(batch) {
		err = fmt.Errorf("it answered %d questions with %d decisions", len(batch), len(decisions))
	}
	return decisions, err
}
