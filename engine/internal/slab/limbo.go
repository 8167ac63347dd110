package slab

import (
	"slices"
	"sync"
	"sync/atomic"
)

// limbo has the values that were retired and not yet released.
//
//	Retire ──▶ a lane ── full ──▶ a batch of the queue, with an epoch ── Collect ──▶ released
type limbo struct {
	lanes [maxShards]lane
	// batch is the most bytes of a lane, and long that of the queue beyond which Alloc returns nil. Written by
	// setLimit. A stale value makes a batch longer or shorter.
	batch, long atomic.Int64
	// queued is the bytes in the queue. Written under mu. A stale value in isLong costs or saves a few values of the Go
	// heap.
	queued atomic.Int64
	// batches is the number of batches in the queue, and one more while Pool.Close waits. Written under mu. Collect
	// looks at it first: see there.
	batches atomic.Int64
	// asked counts the calls of Collect that the one that is under way has to serve.
	asked atomic.Int64

	mu    sync.Mutex
	queue []batch // by epoch; those below head were released
	head  int
	spare [][]uintptr
	// closing is the epoch from which on a closed pool needs no memory; 0: it is open, or was drained.
	closing uint64
}

// lane collects retired values. Goroutines that use different lanes do not wait for each other.
type lane struct {
	mu    sync.Mutex
	at    []uintptr    // addresses of values
	bytes atomic.Int64 // written under mu; read by Stats, for which a stale value is good enough
	_     [64]byte
}

// batch is values that were retired before an epoch began.
type batch struct {
	epoch uint64
	at    []uintptr
	bytes int64
}

// batchLen is the most values of a batch.
const batchLen = 256

// setLimit sets the sizes: all lanes together hold a 128th of the limit at most.
func (l *limbo) setLimit(limit int64) {
	l.batch.Store(limit / 128 / maxShards)
	l.long.Store(limit / 8)
}

// isLong reports whether the queue is above its limit, because a Tx is open for long.
func (l *limbo) isLong() bool { return l.queued.Load() > l.long.Load() }

// pinned returns the bytes of all retired values.
func (l *limbo) pinned() int64 {
	n := l.queued.Load()
	for i := range l.lanes {
		n += l.lanes[i].bytes.Load()
	}
	return n
}

// Retire releases a value once every goroutine that is inside the epoch now has left. No new reader can find the value
// any more, the caller is inside the epoch, and it alone retires the value. It returns false, and does nothing, for a
// value outside of slabs, or after Close.
func (p *Pool) Retire(lane uint32, b []byte) bool {
	s, _ := p.find(b)
	if s == nil || p.closed.Load() {
		return false
	}
	l := &p.limbo.lanes[lane%maxShards]
	l.mu.Lock()
	l.at = append(l.at, address(b))
	if n := l.bytes.Add(int64(s.size)); len(l.at) < batchLen && n < p.limbo.batch.Load() {
		l.mu.Unlock()
		return true
	}
	p.limbo.enqueue(p, l)
	l.mu.Unlock()
	p.Collect()
	return true
}

// enqueue makes a batch of the values of a lane. The caller holds the lane's lock.
func (l *limbo) enqueue(p *Pool, ln *lane) {
	if len(ln.at) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.head > len(l.queue)/2 {
		l.queue = slices.Delete(l.queue, 0, l.head)
		l.head = 0
	}
	// All of them were unlinked before Retire.
	n := ln.bytes.Swap(0)
	l.queue = append(l.queue, batch{p.domain.Retire(), ln.at, n})
	l.queued.Add(n)
	l.batches.Add(1)
	ln.at = nil
	if k := len(l.spare); k > 0 {
		ln.at, l.spare = l.spare[k-1], l.spare[:k-1]
	}
}

// Waits reports whether values wait for a Tx to end: then the goroutine that has ended one calls Collect.
func (p *Pool) Waits() bool { return p.limbo.batches.Load() > 0 }

// collectTurns is the number of turns after which a call of Collect leaves the work to another one.
const collectTurns = 2

// Collect releases the values that no goroutine can look at any more. If another call is under way, that one looks once
// more, or, if it has done so a few times, leaves the work to the next call (rule 18). So the memory of a batch is released when the last Tx ends that could have seen it: a Tx first leaves the
// epoch, then looks at Waits; Retire first queues the batch, then looks for Txs that are inside.
func (p *Pool) Collect() {
	l := &p.limbo
	if l.batches.Load() == 0 || l.asked.Add(1) > 1 {
		return
	}
	released := false
	for turn := 1; ; turn++ {
		asked := l.asked.Load()
		newest := l.newest() // before Oldest: a reader may enter after that and find what is retired later
		oldest := min(newest, p.domain.Oldest())
		for b, ok := l.next(oldest); ok; b, ok = l.next(oldest) {
			for _, at := range b.at {
				p.release(at)
			}
			l.done(b)
			released = true
		}
		if p.closed.Load() {
			p.drain(oldest)
		}
		if l.asked.CompareAndSwap(asked, 0) {
			break
		}
		if turn < collectTurns {
			continue
		}
		// Others ask all the time. One that asks from here on is the next to collect, and looks again; if there is none,
		// this call goes on.
		if l.asked.Store(0); !l.asked.CompareAndSwap(0, 1) {
			break
		}
	}
	if released {
		p.split()
	}
}

// newest returns the newest epoch of a batch, or that of Close.
func (l *limbo) newest() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	newest := l.closing
	if l.head < len(l.queue) {
		newest = max(newest, l.queue[len(l.queue)-1].epoch)
	}
	return newest
}

// next takes the oldest batch off the queue, if its epoch is at most oldest.
func (l *limbo) next(oldest uint64) (batch, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.head == len(l.queue) || l.queue[l.head].epoch > oldest {
		return batch{}, false
	}
	b := l.queue[l.head]
	l.queue[l.head].at = nil
	l.head++
	return b, true
}

// done counts a batch as released and keeps its list for later ones.
func (l *limbo) done(b batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queued.Add(-b.bytes)
	l.batches.Add(-1)
	if len(l.spare) < maxShards {
		l.spare = append(l.spare, b.at[:0])
	}
}

// Flush makes batches of what the lanes hold, and calls Collect.
func (p *Pool) Flush() {
	for i := range p.limbo.lanes {
		l := &p.limbo.lanes[i]
		l.mu.Lock()
		p.limbo.enqueue(p, l)
		l.mu.Unlock()
	}
	p.Collect()
}

// Close gives all memory back once the goroutines that are inside the epoch have left; the last of them does it, if
// there are any. From now on, Alloc returns nil, and Retire and Free do nothing. Goroutines that enter later must not
// look at values.
func (p *Pool) Close() {
	if p.closed.Swap(true) {
		return
	}
	p.limbo.mu.Lock()
	p.limbo.closing = p.domain.Retire()
	p.limbo.batches.Add(1)
	p.limbo.mu.Unlock()
	p.Collect()
}

// drain gives all memory of a closed pool back, if that was closed by the epoch oldest, the oldest one inside. Collect
// calls it, so nothing is released meanwhile.
func (p *Pool) drain(oldest uint64) {
	l := &p.limbo
	l.mu.Lock()
	if l.closing == 0 || l.closing > oldest {
		l.mu.Unlock()
		return
	}
	l.queue, l.head, l.closing = nil, 0, 0 // the batches go with the rest
	l.queued.Store(0)
	l.batches.Store(0)
	l.mu.Unlock()
	for i := range l.lanes {
		ln := &l.lanes[i]
		ln.mu.Lock()
		ln.at = nil
		ln.bytes.Store(0)
		ln.mu.Unlock()
	}
	for i := range p.classes {
		for j := range p.shards {
			p.classes[i][j].Store(nil)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ch := range p.chunks {
		if ch != nil {
			p.returnChunk(ch)
		}
	}
	p.chunks = nil
	p.resident.Store(0)
	p.meta.Store(0)
	p.empty.Store(0)
}
