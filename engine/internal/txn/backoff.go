package txn

import (
	"context"
	"math/rand/v2"
	"runtime"
	"time"
)

// Backoff spaces the attempts at a transaction. The zero Backoff is ready for use. End ends it.
type Backoff struct {
	// Fallback has the token that the transaction takes after tokenAfter conflicts; nil: it takes none.
	Fallback  *Fallback
	conflicts int
	token     *Token
}

const (
	// yields is the number of conflicts after which the next attempt only yields the processor.
	yields = 3
	// firstDelay and maxDelay limit the delays after that, which double with each conflict. A commit takes some
	// microseconds.
	firstDelay, maxDelay = 4 * time.Microsecond, time.Millisecond
	// tokenAfter is the number of conflicts after which a transaction takes the token.
	tokenAfter = 8
)

// Token returns the token that the transaction holds, or nil.
func (b *Backoff) Token() *Token { return b.token }

// End gives the token back, if the transaction holds it.
func (b *Backoff) End() {
	b.token.End()
	b.token = nil
}

// Conflicts returns the number of calls of Wait.
func (b *Backoff) Conflicts() int { return b.conflicts }

// Wait waits after an attempt that has failed with a conflict: for a random time, so that transactions that collided do
// not collide again, or until the transaction holds the token. It returns the context's error if ctx has ended, or ends
// meanwhile.
func (b *Backoff) Wait(ctx context.Context) error {
	b.conflicts++
	if b.token != nil && b.token.IsLost() {
		b.End()
	}
	if b.conflicts <= yields || b.token != nil {
		runtime.Gosched()
		return context.Cause(ctx)
	}
	if b.conflicts >= tokenAfter && b.Fallback != nil {
		b.token = b.Fallback.Take(ctx)
		return context.Cause(ctx)
	}
	t := time.NewTimer(rand.N(b.limit()) + 1)
	defer t.Stop()
	select {
	case <-t.C:
		return context.Cause(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// limit returns the longest delay after the last conflict.
func (b *Backoff) limit() time.Duration {
	return min(maxDelay, firstDelay<<min(b.conflicts-yields-1, 20))
}
