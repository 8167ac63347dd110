package slab

import (
	"math/bits"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"pagecache/engine/internal/epoch"
)

// A Pool keeps the values of one store. All methods are safe for concurrent use.
type Pool struct {
	arena   *arena
	domain  *epoch.Domain
	enabled bool
	// classes has one class of each size for each shard. Written once, by classFor; publishes the class. A stale nil
	// costs classFor another look.
	classes [numClasses][maxShards]atomic.Pointer[class]
	shards  uint32 // a power of two

	// limit is the most bytes that are resident. Written by SetLimit; publishes nothing. A stale value lets memory grow
	// up to the previous limit.
	limit atomic.Int64
	// keep is the most bytes of empty spans that are kept. Written by SetLimit.
	keep atomic.Int64
	// resident is the bytes of memory that was touched and not given back. It rises before a slot is handed out.
	resident atomic.Int64
	empty    atomic.Int64 // bytes of the spans that are empty and kept
	// meta is the bytes on the Go heap that describe spans. It belongs to the resident bytes.
	meta   atomic.Int64
	closed atomic.Bool // set by Close: no memory is handed out any more

	limbo limbo
	// left is the bytes of free slots and pages that the last split has left, or less since then. Publishes nothing. A
	// stale value makes a split come sooner or later.
	left atomic.Int64

	mu     sync.Mutex // guards the fields below, and those of the chunks
	chunks []*chunk   // some elements may be nil
	first  int        // no chunk below has room for the shortest span
}

// maxShards is the most classes of one size.
const maxShards = 8

// hugeFrom is the number of resident bytes from which on chunks are huge pages: one that is touched for a single span
// is then a small part of them.
const hugeFrom = 128 << 20

// leastLimit is the limit in bytes below which a Pool hands out nothing: the spans that are partly free, or kept, would
// be too large a part of it.
const leastLimit = 32 << 20

// New returns a Pool for at most limit bytes whose values are released by the epochs of the domain.
func New(d *epoch.Domain, limit int64) *Pool { return newPool(process, d, limit, supported()) }

func newPool(a *arena, d *epoch.Domain, limit int64, enabled bool) *Pool {
	p := &Pool{arena: a, domain: d, enabled: enabled}
	p.shards = min(maxShards, uint32(1)<<bits.Len(uint(runtime.GOMAXPROCS(0)-1)/4))
	p.SetLimit(limit)
	return p
}

// SetLimit sets the most bytes that are resident. Memory above a lower limit is given back as values are released.
func (p *Pool) SetLimit(limit int64) {
	p.limit.Store(limit)
	p.keep.Store(max(limit/128, spanPages*pageSize))
	p.limbo.setLimit(limit)
}

// Alloc returns memory for a value of n bytes, with other bytes in it, clipped to n. It returns nil if the value has to
// live on the Go heap (H5). Goroutines with different lanes seldom wait for each other.
func (p *Pool) Alloc(lane uint32, n int) []byte {
	if !p.enabled || n <= 0 || n > MaxLen || p.limit.Load() < leastLimit || p.limbo.isLong() {
		return nil
	}
	c := p.classFor(lane, classOf(n))
	b := c.alloc(n)
	if b == nil && p.empty.Load() > 0 { // of other sizes
		p.each((*class).trim)
		b = c.alloc(n)
	}
	return b
}

func (p *Pool) classFor(lane uint32, i int) *class {
	at := &p.classes[i][lane&(p.shards-1)]
	if c := at.Load(); c != nil {
		return c
	}
	at.CompareAndSwap(nil, &class{pool: p, size: sizeOf(i), slots: slotsOf(i), pages: pagesOf(i)})
	return at.Load()
}

// grow returns a new span; nil if there is no memory, or not below the limit. The caller holds the class's lock.
func (p *Pool) grow(c *class) *span {
	p.mu.Lock()
	defer p.mu.Unlock()
	ch, at := p.room(c.pages)
	if ch == nil {
		return nil
	}
	s := &span{home: c, chunk: ch, mem: ch.memory(at, c.pages), at: at, size: c.size, slots: c.slots}
	if ch.huge {
		s.touched = c.pages
	}
	for i := at; i < at+c.pages; i++ {
		ch.spans[i] = s
	}
	p.meta.Add(s.meta())
	return s
}

// spanBytes is the size of a span.
const spanBytes = int64(unsafe.Sizeof(span{}))

// meta returns the bytes on the Go heap that describe the span.
func (s *span) meta() int64 { return spanBytes + int64(len(s.mem)/pageSize)*8 }

// room takes n consecutive pages of a chunk. Pages of huge chunks are resident already; others, and new chunks, must
// keep below the limit. The caller holds mu.
func (p *Pool) room(n int) (*chunk, int) {
	left := p.limit.Load() - p.resident.Load() - p.meta.Load()
	grows := int64(n*pageSize) <= left
	for i := p.first; i < len(p.chunks); i++ {
		ch := p.chunks[i]
		if ch == nil || !ch.huge && !grows {
			continue
		}
		if at := ch.take(n); at >= 0 {
			return ch, at
		}
		if i == p.first && ch.most < spanPages {
			p.first++
		}
	}
	if !grows {
		return nil, 0
	}
	huge := p.resident.Load() >= hugeFrom && chunkSize <= left
	ch := p.arena.take(huge)
	if ch == nil {
		return nil, 0
	}
	ch.reset()
	if huge {
		p.resident.Add(chunkSize)
	}
	ch.index = slices.Index(p.chunks, nil)
	if ch.index < 0 {
		ch.index = len(p.chunks)
		p.chunks = append(p.chunks, nil)
	}
	p.chunks[ch.index], p.first = ch, min(p.first, ch.index)
	return ch, ch.take(n)
}

// shrink takes back a span that is empty and on no list, and its memory, unless that is a part of a huge page. The
// caller holds the class's lock.
func (p *Pool) shrink(s *span) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ch := s.chunk
	if !ch.huge {
		if touched := s.mem[:s.touched*pageSize]; len(touched) > 0 && giveBack(touched) == nil {
			p.resident.Add(-int64(len(touched)))
		}
	}
	for i := range s.home.pages {
		ch.spans[s.at+i] = nil
	}
	ch.mark(s.at, s.home.pages)
	p.meta.Add(-s.meta())
	p.first = min(p.first, ch.index)
	if ch.pages == 0 {
		p.chunks[ch.index] = nil
		p.returnChunk(ch)
	}
}

// returnChunk gives a chunk without spans to the arena. The caller holds mu.
func (p *Pool) returnChunk(ch *chunk) {
	if ch.huge {
		p.resident.Add(-chunkSize)
	}
	p.arena.give(ch)
}

// Holds reports whether a value lies in slabs.
func (p *Pool) Holds(b []byte) bool {
	return len(b) > 0 && p.enabled && p.arena.table.find(address(b)) != nil
}

// find returns the span and the slot of a value that lies in slabs; nil if it lies outside.
func (p *Pool) find(b []byte) (*span, int) {
	if len(b) == 0 || !p.enabled {
		return nil, 0
	}
	return p.at(address(b))
}

func (p *Pool) at(at uintptr) (*span, int) {
	ch := p.arena.table.find(at)
	if ch == nil {
		return nil, 0
	}
	s := ch.spans[at&(chunkSize-1)/pageSize]
	if s == nil {
		return nil, 0
	}
	return s, s.slotOf(at)
}

// Free releases a value that was never published. It does nothing for a value outside of slabs.
func (p *Pool) Free(b []byte) {
	if s, slot := p.find(b); s != nil && !p.closed.Load() {
		s.home.release(s, slot)
	}
}

func (p *Pool) release(at uintptr) {
	s, slot := p.at(at)
	s.home.release(s, slot)
}

// each calls f with every class.
func (p *Pool) each(f func(*class)) {
	for i := range p.classes {
		for j := range p.shards {
			if c := p.classes[i][j].Load(); c != nil {
				f(c)
			}
		}
	}
}

// Resident returns the memory that was touched and not given back, and that of the lists of slots, in bytes; and the
// part of it that has retired values.
func (p *Pool) Resident() (all, pinned int64) {
	if all = p.resident.Load(); all == 0 {
		return 0, 0
	}
	return all + p.meta.Load(), p.limbo.pinned()
}

// Stats are the bytes of a Pool.
type Stats struct {
	// Resident is the memory that was touched and not given back, and that of the lists of slots.
	Resident int64
	// Live is that of the slots with values, retired ones included, and Pinned the part that was retired.
	Live, Pinned int64
}

// Stats returns the bytes of the Pool. Values that change meanwhile may be counted in one of them only.
func (p *Pool) Stats() (st Stats) {
	p.each(func(c *class) { st.Live += c.live.Load() * int64(c.size) })
	st.Resident, st.Pinned = p.Resident()
	return st
}
