package engine

import (
	"math"
	"sync"
	"sync/atomic"

	"pagecache/engine/internal/iobuf"
	"pagecache/engine/internal/pagestack"
	"pagecache/segments/format"
)

// counter hands out ids. Page 1 notes them: an id is handed out only while it is below the last durable note plus
// twice the persist interval, and an opening after a crash goes on there, so none is ever handed out twice. The note is
// durable, not stable: it never waits for a batch (trap 11), and recovery finds it behind an open one.
type counter struct {
	// next is the next id. Written by everybody (Add).
	next atomic.Uint64
	_    [56]byte
	// soft is the id from which on a new note is due, hard the first that must not be handed out. Both only grow; written by
	// note. A stale soft costs the slow path.
	soft atomic.Uint64
	hard atomic.Uint64

	log      *iobuf.Log
	closed   *atomic.Bool // the store's
	interval uint64
	write    func(v uint64) (LSN, error)
	mu       sync.Mutex // held while a note is written
	busy     atomic.Bool
	gate     sync.Mutex // held while a note is begun in the background
	stopped  bool       // under gate: none is begun any more
	wg       sync.WaitGroup
}

func (c *counter) start(s *store, next, limit uint64, write func(uint64) (LSN, error)) {
	c.log, c.closed, c.interval, c.write = s.log, &s.closed, s.opts.IDPersistInterval, write
	c.next.Store(next)
	c.hard.Store(limit)
	c.soft.Store(limit - c.interval)
	if s.opts.ReadOnly { // timestamps are drawn, but not noted
		c.hard.Store(math.MaxUint64)
		c.soft.Store(math.MaxUint64)
	}
}

// draw returns the next id.
func (c *counter) draw() (uint64, error) {
	id := c.next.Add(1) - 1
	if id >= c.soft.Load() {
		if err := c.slow(id); err != nil {
			return 0, err
		}
	}
	if c.closed.Load() { // after Add: Close sets it, then notes next, so that one that it has not counted is not returned
		return 0, iobuf.ErrClosed
	}
	return id, nil
}

// slow is the way of an id that is at or above soft: it starts a note in the background, or waits for one if the id is at or above hard.
func (c *counter) slow(id uint64) error {
	if id >= c.hard.Load() {
		return c.note(id)
	}
	if c.busy.CompareAndSwap(false, true) && !c.begin(id) {
		c.busy.Store(false)
	}
	return nil
}

// begin starts a note in the background, unless stop was called: ids are drawn outside of what Close waits for.
func (c *counter) begin(id uint64) bool {
	c.gate.Lock()
	defer c.gate.Unlock()
	if c.stopped {
		return false
	}
	c.wg.Go(func() {
		defer c.busy.Store(false)
		_ = c.note(id) // an error shows when hard is reached
	})
	return true
}

// note makes an id that is at least id durable, unless that has been done.
func (c *counter) note(id uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id < c.soft.Load() {
		return nil
	}
	v := max(id, c.next.Load())
	lsn, err := c.write(v)
	if err == nil {
		err = c.log.MakeDurable(lsn)
	}
	if err != nil {
		return err
	}
	c.hard.Store(v + 2*c.interval)
	c.soft.Store(v + c.interval)
	return nil
}

// stop waits for the note under way, and lets none begin any more.
func (c *counter) stop() {
	c.gate.Lock()
	c.stopped = true
	c.gate.Unlock()
	c.wg.Wait()
}

// writeCounter writes v to page 1.
func (pc *PageCache[P]) writeCounter(v uint64) (LSN, error) {
	call, err := pc.enter()
	if err != nil {
		return 0, err
	}
	defer call.End()
	s := pc.table.Make(format.CounterPage)
	for {
		h := s.Load()
		r, err := pc.log.Reserve(format.KindCounter, format.CounterPage, 8)
		if err != nil {
			return 0, err
		}
		format.AppendCounter(r.Body()[:0], v)
		e := pagestack.New[P](pagestack.KindCounter, nextTS(h), 1, r.LSN(), r.Ptr())
		e.Ext = &pagestack.Ext{Counter: v}
		if pc.install(call, format.CounterPage, s, h, &e.Head, &r, 0) {
			return e.LSN, nil
		}
	}
}

// GenerateID returns an id that was never returned before in the life of the store, and is higher than all of them. Ids
// skip by up to twice IDPersistInterval over a crash. Errors: ErrClosed, and the log's where ids cannot be noted.
func (pc *PageCache[P]) GenerateID() (uint64, error) {
	if pc.closed.Load() {
		return 0, logError("generate id", iobuf.ErrClosed)
	}
	if pc.opts.ReadOnly {
		return 0, logError("generate id", ErrReadOnly)
	}
	id, err := pc.ids.draw()
	return id, logError("generate id", err)
}
