// Package idgen hands out ids that never repeat in the life of a store, crashes included.
//
//   - Each id is handed out once, and ids rise in the order in which they are drawn.
//   - An id is handed out only while it is below the last durable note plus twice the interval. An opening that finds
//     no clean close therefore continues at the last note plus twice the interval, and repeats no id. Config.Limit is
//     that bound before this opening's first note.
//   - A note is durable, not stable. It never waits for a batch (trap 11), and recovery finds it behind an open one.
//   - Notes are written one interval ahead in the background, so a caller waits for the disk only if ids are drawn
//     faster than the note before the limit becomes durable.
//   - A timestamp (Pass) never fails and never waits for a log that has refused the last note, so that a store can be
//     read for ever (rule 19). Such timestamps are not noted. A crash forgets them, but nothing that was written with
//     them: CatchUp notes them before the next write.
//   - After Closed is set, Draw returns no id that Next, read later, does not count.
package idgen

import (
	"context"
	"math"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"

	"pagecache/engine/internal/iobuf"
	"pagecache/segments/format"
)

// Config is what a Generator needs.
type Config struct {
	Next     uint64 // the first id
	Limit    uint64 // the first id that needs a new note
	Interval uint64 // how far notes are apart, in ids; at most Limit

	// ReadOnly ids are handed out without limit and never noted. Stores that are open read-only need them as
	// timestamps.
	ReadOnly bool

	// Closed is set by the store when it begins to close, before it notes Next for the last time.
	Closed *atomic.Bool

	// Write writes the note v to the log and returns its LSN. MakeDurable waits until that is durable. One goroutine
	// at a time calls them, in the foreground or in the background.
	Write       func(v uint64) (format.LSN, error)
	MakeDurable func(format.LSN) error
	// Failed, if not nil, is called with the error of a note in the background, which no caller gets: the Take that
	// reaches the limit tries again.
	Failed func(error)
}

// A Generator hands out ids. The zero Generator is ready for Start. It must not be copied. After Start it is safe for
// concurrent use.
type Generator struct {
	_ [56]byte // no other data shares the cache line of next, wherever the Generator lies in a larger struct
	// next is the next id. Written by every Take and Draw (Add), and by Raise. It only grows.
	next atomic.Uint64
	_    [56]byte

	// soft is the first id that makes a new note due, hard the first that must not be handed out. Written by note;
	// both only grow. A stale soft costs a detour through Approve. A stale hard costs a wait for mu.
	soft atomic.Uint64
	hard atomic.Uint64

	// refused is when the last note failed, in nanoseconds since began; 0 if it succeeded, or there was none. Written
	// by note; publishes nothing. A stale read costs a note that is tried too often, or too late.
	refused atomic.Int64
	began   time.Time

	c  Config
	mu sync.Mutex // held while a note is written

	busy    atomic.Bool // a background note is under way; written by Approve and by that note
	gate    sync.Mutex  // held while a background note is started
	stopped bool        // guarded by gate: no background note starts any more
	wg      sync.WaitGroup
}

// Start makes the Generator ready. No other goroutine may use it before Start returns. Tests may call Start again,
// with another Config, while nobody draws ids.
func (g *Generator) Start(c Config) {
	g.c, g.began = c, time.Now()
	g.next.Store(c.Next)
	g.hard.Store(c.Limit)
	g.soft.Store(c.Limit - min(c.Interval, c.Limit))
	if c.ReadOnly {
		g.hard.Store(math.MaxUint64)
		g.soft.Store(math.MaxUint64)
	}
}

// Try returns the next id, also while the store is being closed: callers that must not return an id after that check
// Closed themselves, after Try. If ok is false, the id may be used only once Approve has returned nil. Try is small
// enough to be inlined.
func (g *Generator) Try() (id uint64, ok bool) {
	id = g.next.Add(1) - 1
	return id, id < g.soft.Load()
}

// Take is Try and, if need be, Approve.
func (g *Generator) Take() (uint64, error) {
	id, ok := g.Try()
	if ok {
		return id, nil
	}
	return id, g.Approve(id)
}

// Draw is Take, but returns iobuf.ErrClosed if the store is being closed.
func (g *Generator) Draw() (uint64, error) {
	id, err := g.Take()
	if err != nil {
		return 0, err
	}
	// Close sets Closed and then notes Next. An id that Next did not count was added after Closed was set, so it is
	// not returned.
	if g.c.Closed.Load() {
		return 0, iobuf.ErrClosed
	}
	return id, nil
}

// Next returns the lowest id that was never taken.
func (g *Generator) Next() uint64 { return g.next.Load() }

// Raise makes the ids that follow at least v.
func (g *Generator) Raise(v uint64) {
	for { // ends: every failed swap means that next has grown
		old := g.next.Load()
		if old >= v || g.next.CompareAndSwap(old, v) {
			return
		}
	}
}

// Approve prepares for id, which is at or above soft, and those after it. Below hard it starts a note in the background
// and returns at once; from hard on it blocks until a higher id is noted durably, and fails with the error of that.
func (g *Generator) Approve(id uint64) error {
	if id >= g.hard.Load() {
		return g.note(id)
	}
	if g.busy.CompareAndSwap(false, true) && !g.noteInBackground(id) {
		g.busy.Store(false)
	}
	return nil
}

// noterLabels are the profiling labels of the id noter; it would have those of the goroutine that started it.
var noterLabels = pprof.WithLabels(context.Background(), pprof.Labels("pagecache", "id noter"))

// retryAfter is the time after which Pass has a note tried again that the log has refused.
const retryAfter = 100 * time.Millisecond

// Pass prepares for id as Approve does, for a caller that uses it as a timestamp. From hard on it waits for a note, and
// if the log refuses that, the id may be used all the same, as may all later ones.
func (g *Generator) Pass(id uint64) {
	at := g.refused.Load()
	if at == 0 {
		_ = g.Approve(id)
		return
	}
	if int64(time.Since(g.began))-at > int64(retryAfter) && g.busy.CompareAndSwap(false, true) &&
		!g.noteInBackground(id) {
		g.busy.Store(false)
	}
}

// Refused reports whether the log has refused the last note, so that timestamps are not noted.
func (g *Generator) Refused() bool { return g.refused.Load() != 0 }

// CatchUp makes a note of all ids so far durable if the log has refused the last one. It comes before every write: if
// there is room again, no timestamp that the write may contain repeats after a crash. It waits for the device only if a
// note was refused. It may fail, as the write may.
func (g *Generator) CatchUp() {
	if g.Refused() {
		_ = g.note(g.next.Load())
	}
}

// noteInBackground starts a note and reports whether it did: after Stop it starts none. Ids are drawn outside of what
// the store's Close waits for, so Close needs Stop.
func (g *Generator) noteInBackground(id uint64) bool {
	g.gate.Lock()
	defer g.gate.Unlock()
	if g.stopped {
		return false
	}
	g.wg.Go(func() {
		pprof.SetGoroutineLabels(noterLabels)
		defer g.busy.Store(false)
		if err := g.note(id); err != nil && g.c.Failed != nil {
			g.c.Failed(err)
		}
	})
	return true
}

// note makes a note of at least id durable, unless another goroutine has already done it.
func (g *Generator) note(id uint64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if id < g.soft.Load() {
		return nil
	}
	v := max(id, g.next.Load())
	lsn, err := g.c.Write(v)
	if err == nil {
		err = g.c.MakeDurable(lsn)
	}
	if err != nil {
		g.refused.Store(max(1, int64(time.Since(g.began))))
		return err
	}
	g.refused.Store(0)
	g.hard.Store(v + 2*g.c.Interval)
	g.soft.Store(v + g.c.Interval)
	return nil
}

// Stop waits for the background note under way, if any, and lets no other start. Ids can still be taken.
func (g *Generator) Stop() {
	g.gate.Lock()
	g.stopped = true
	g.gate.Unlock()
	g.wg.Wait()
}
