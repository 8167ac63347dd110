package compress

import (
	"runtime"

	"pagecache/engine/internal/scratch"
)

// processors returns the number of calls that compress at a time, and of those that decompress.
func processors() int { return runtime.GOMAXPROCS(0) }

// coders lends the encoders, or the decoders, of one store: one for each processor at most, since each takes much
// memory.
type coders[T any] struct {
	// free has one element for each coder that no call uses; nil stands for one that is not made yet.
	free chan *T
	open func() (*T, error)
	size int64 // of one in bytes
	k    *scratch.Keeper
}

// newCoders returns coders that open makes. open fails for the first of them or for none: its options do not change.
func newCoders[T any](open func() (*T, error), size int64, k *scratch.Keeper) (*coders[T], error) {
	if _, err := open(); err != nil {
		return nil, err
	}
	c := &coders[T]{free: make(chan *T, processors()), open: open, size: size, k: k}
	for range cap(c.free) {
		c.free <- nil
	}
	k.OnTick(c.tick)
	return c, nil
}

// take lends a coder, and makes it if necessary. It waits while all are in use, which ends with a call of put.
func (c *coders[T]) take() *T {
	coder := <-c.free
	if coder == nil {
		coder, _ = c.open()
		c.k.Add(c.size)
	}
	return coder
}

// put takes a coder back.
func (c *coders[T]) put(coder *T) {
	c.k.Use()
	c.free <- coder
}

// tick drops the coders that no call uses if none was used for a while.
func (c *coders[T]) tick(idle bool) bool {
	for range cap(c.free) {
		if !idle {
			break
		}
		select {
		case coder := <-c.free:
			if coder != nil {
				c.k.Add(-c.size)
			}
			c.free <- nil // there is room: one element was taken
		default: // in use
		}
	}
	return false
}
