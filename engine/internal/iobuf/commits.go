package iobuf

import (
	"math"
	"sync/atomic"

	"pagecache/segments/format"
)

// commits says at which offsets of a buffer committed messages begin. A message is found by its offset, which the
// messages before it determine, so the memory itself need not be zero where none is committed yet: a sixty-fourth of it
// has to be cleared before the buffer is used again.
//
// Bit i%64 of element i/64 is that of offset 8*i, since messages are aligned to 8 bytes. The owner of the message sets
// it, once in a segment, and has written the message before: that publishes the message to the goroutine that
// loads the bit. A stale 0 is a message that is not committed yet.
type commits []atomic.Uint64

const commitsSpan = 64 * format.Align // bytes of the buffer to an element

func makeCommits(size int) commits { return make(commits, (size+commitsSpan-1)/commitsSpan) }

func (c commits) has(off int) bool {
	return c[off/commitsSpan].Load()>>(off/format.Align%64)&1 != 0
}

func (c commits) set(off int) { c[off/commitsSpan].Or(1 << (off / format.Align % 64)) }

// setBelow sets the bits of all offsets below off. No other goroutine uses c.
func (c commits) setBelow(off int) {
	n := off / commitsSpan
	for i := range c[:n] {
		c[i].Store(math.MaxUint64)
	}
	if rest := off % commitsSpan / format.Align; rest > 0 {
		c[n].Store(1<<rest - 1)
	}
}
