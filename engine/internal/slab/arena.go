package slab

import (
	"sync"
	"sync/atomic"
	"unsafe"
)

// An arena hands out chunks. Stores share the one of the process, and give back what they do not need.
type arena struct {
	reserve func(n int) ([]byte, error)
	table   table

	mu    sync.Mutex // guards the fields below
	free  []*chunk   // that no store has; none of their memory is touched
	fresh []byte     // reserved, not yet handed out
	next  int        // the length in bytes of the next reservation
	bytes int64      // reserved so far
	// rests is the number of calls of take that do not even try to reserve memory.
	rests int
}

// refusedRests is the number of calls of take that do not try again after the system has refused memory.
const refusedRests = 1000

// maxReserve is the most bytes that are reserved at once.
const maxReserve = 64 << 20

// process is the arena of this process.
var process = newArena(reserve)

func newArena(reserve func(int) ([]byte, error)) *arena {
	return &arena{reserve: reserve, next: chunkSize}
}

// take returns a chunk of untouched memory; nil if there is none. Reservations grow with what was reserved before. If
// the system refuses one, because the address space is limited, a smaller one is tried.
func (a *arena) take(huge bool) *chunk {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := len(a.free); n > 0 {
		c := a.free[n-1]
		a.free[n-1] = nil
		a.free = a.free[:n-1]
		c.setHuge(huge)
		return c
	}
	if len(a.fresh) == 0 && a.rests > 0 {
		a.rests--
		return nil
	}
	for n := a.next; len(a.fresh) == 0; n /= 2 {
		if n < chunkSize {
			a.next, a.rests = chunkSize, refusedRests
			return nil
		}
		if b, err := a.reserve(n); err == nil {
			a.fresh, a.next = b, min(2*n, maxReserve)
			a.bytes += int64(n)
		}
	}
	c := &chunk{mem: a.fresh[:chunkSize:chunkSize]}
	a.fresh = a.fresh[chunkSize:]
	a.table.add(c)
	c.setHuge(huge)
	return c
}

// give takes a chunk back, which no goroutine may look at any more. Chunks whose memory the system does not take back
// are lost: they could hold memory that nobody counts.
func (a *arena) give(c *chunk) {
	c.reset()
	if giveBack(c.mem) != nil {
		return
	}
	a.mu.Lock()
	a.free = append(a.free, c)
	a.mu.Unlock()
}

// table finds the chunk of an address: two levels, of 13 bits each, above the 21 bits within a chunk.
type table struct {
	// root and its leaves are written once, by add; the store of a chunk publishes its memory. A stale nil is the
	// answer from before the chunk was handed out, and the goroutine that was handed a value in it reads the chunk.
	root [1 << tableBits]atomic.Pointer[leaf]
}

type leaf [1 << tableBits]atomic.Pointer[chunk]

const (
	chunkBits = 21
	tableBits = 13
)

// find returns the chunk that has the address; nil if none has.
func (t *table) find(at uintptr) *chunk {
	i := at >> chunkBits
	if i>>tableBits >= 1<<tableBits {
		return nil
	}
	l := t.root[i>>tableBits].Load()
	if l == nil {
		return nil
	}
	return l[i&(1<<tableBits-1)].Load()
}

// add adds a chunk. One goroutine at a time calls it.
func (t *table) add(c *chunk) {
	i := address(c.mem) >> chunkBits
	root := &t.root[i>>tableBits]
	l := root.Load()
	if l == nil {
		l = new(leaf)
		root.Store(l)
	}
	l[i&(1<<tableBits-1)].Store(c)
}

// address returns the address of b's first byte.
func address(b []byte) uintptr { return uintptr(pointer(b)) }

func pointer(b []byte) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(b)) }

// unsafeBytes returns the n bytes at p, which were just mapped.
func unsafeBytes(p unsafe.Pointer, n int) []byte { return unsafe.Slice((*byte)(p), n) }
