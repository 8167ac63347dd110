package scratch

import (
	"runtime"
	"sync/atomic"
)

// maxKept is the length in bytes of the longest piece of memory that is kept: that of a rare long value is not.
const maxKept = 1 << 20

// A Buffer is memory for one value on its way to the log. Its owner may replace both slices by longer ones.
type Buffer struct {
	Encoded, Packed []byte
	counted         int64 // the bytes that the Keeper knows of
}

// Buffers lends Buffers to calls. Each belongs to one call at a time, so that memory follows the calls under way and
// not the Txs. Safe for concurrent use.
type Buffers struct {
	k     *Keeper
	lanes []lane
}

// lane holds a Buffer that no call uses, or nil. Goroutines swap it, and the swap publishes the Buffer's contents.
type lane struct {
	kept atomic.Pointer[Buffer]
	_    [56]byte // a cache line of its own
}

// NewBuffers returns Buffers whose memory k counts. It keeps one Buffer for each processor.
func NewBuffers(k *Keeper) *Buffers {
	b := &Buffers{k: k, lanes: make([]lane, max(4, runtime.GOMAXPROCS(0)))}
	k.OnTick(b.tick)
	return b
}

// Take lends a Buffer, whose slices have any length. Callers with the same n share what is kept; another number avoids
// that they wait for the same cache line.
func (b *Buffers) Take(n uint32) *Buffer {
	for i := range uint32(len(b.lanes)) {
		l := &b.lanes[(n+i)%uint32(len(b.lanes))]
		if l.kept.Load() != nil {
			if m := l.kept.Swap(nil); m != nil {
				return m
			}
		}
	}
	return &Buffer{}
}

// Put takes a Buffer back, and keeps it unless that exceeds the limit.
func (b *Buffers) Put(n uint32, m *Buffer) {
	if cap(m.Encoded) > maxKept {
		m.Encoded = nil
	}
	if cap(m.Packed) > maxKept {
		m.Packed = nil
	}
	bytes := int64(cap(m.Encoded) + cap(m.Packed))
	within := b.k.Add(bytes - m.counted)
	m.counted = bytes
	for i := uint32(0); within && bytes > 0 && i < uint32(len(b.lanes)); i++ {
		if l := &b.lanes[(n+i)%uint32(len(b.lanes))]; l.kept.Load() == nil && l.kept.CompareAndSwap(nil, m) {
			b.k.Use()
			return
		}
	}
	b.drop(m)
}

// drop leaves a Buffer to the collector.
func (b *Buffers) drop(m *Buffer) { b.k.Add(-m.counted) }

// tick drops what is kept if it was not used for a while.
func (b *Buffers) tick(idle bool) bool {
	for i := range b.lanes {
		if !idle {
			break
		}
		if m := b.lanes[i].kept.Swap(nil); m != nil {
			b.drop(m)
		}
	}
	return false
}
