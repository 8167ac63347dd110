package logstore

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"pagecache/segments/format"
)

// Wait returns once the last pin has ended, or when its context ends, and then says how many are open.
func TestWaitForPins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pins
		if n := p.Wait(t.Context()); n != 0 {
			t.Fatalf("%d pins are open before the first", n)
		}
		first := func() format.LSN { return 1 }
		a, b := p.Begin(first), p.Begin(first)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if n := p.Wait(ctx); n != 2 {
			t.Fatalf("%d pins are open, want 2", n)
		}
		time.AfterFunc(time.Second, a.End)
		time.AfterFunc(2*time.Second, b.End)
		start := time.Now()
		if n := p.Wait(t.Context()); n != 0 || time.Since(start) != 2*time.Second {
			t.Errorf("%d pins are open after %v", n, time.Since(start))
		}
	})
}
