package txn

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// The first conflicts only yield. The delays after them are random below a limit, which doubles up to a millisecond.
func TestBackoffDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Backoff
		for n := 1; n <= 30; n++ {
			begin := time.Now()
			if err := b.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			limit := min(maxDelay, firstDelay<<max(0, n-yields-1))
			if n <= yields {
				limit = 0
			}
			if took := time.Since(begin); took > limit || b.Conflicts() != n {
				t.Errorf("conflict %d: a delay of %v, limit %v; %d conflicts", n, took, limit, b.Conflicts())
			}
		}
		if b.limit() != maxDelay {
			t.Errorf("limit %v", b.limit())
		}
	})
}

// Waiting ends with the context, with its cause.
func TestBackoffEndsWithItsContext(t *testing.T) {
	cause := errors.New("cause")
	for conflicts := range yields + 2 {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		if err := (&Backoff{conflicts: conflicts}).Wait(ctx); !errors.Is(err, cause) {
			t.Errorf("after %d conflicts: %v", conflicts, err)
		}
	}
}
