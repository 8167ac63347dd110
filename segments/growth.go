package segments

import (
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"

	"pagecache/segments/format"
)

const (
	// maxAhead limits how far the file grows ahead of need, in bytes.
	maxAhead = 128 << 20
	// smallAhead is the number of bytes that even a small file may grow by at once.
	smallAhead = 16 << 20
	// backgroundBackOff is the time for which a file that could not grow is not asked again. Without it all writers on
	// a full disk would ask the file system again and again, and slow the cleaner down.
	backgroundBackOff = 2 * time.Millisecond
)

// growth makes the log file longer and adds the new slots to the table and the free list. It has two machines:
// whether a goroutine is at work, and how the last attempt ended.
//
//	            startAhead                   endAhead
//	at rest ─────────────────▶ growing ahead ─────────▶ at rest
//
//	              refuse
//	accepted ────────────────▶ refused
//	 │       ◀────────────────  │
//	 │            accept        │
//	 └────────────┬─────────────┘
//	              │ fail
//	              ▼
//	           broken, for good
//
// accepted: the last attempt succeeded. refused: it failed for lack of room; until the back-off ends callers get the
// same error without another attempt. broken: it failed with an I/O error. The file may be shorter than it seems, and
// a sync that failed once may report nothing the second time (rule 8), so no slot is handed out any more.
//
// All fields but diskFull are guarded by Space.mu; allocate runs without it in the background, while ahead is set.
type growth struct {
	file    File
	backOff time.Duration
	changed *sync.Cond // on Space.mu
	table   *slotTable
	free    *freeList

	ahead     bool      // growing ahead: a goroutine has the end of the file
	refused   error     // the error of the last attempt if it wraps ErrNoRoom
	refusedAt time.Time // when refused was set
	broken    error     // the first I/O error

	full   func(err error)               // Options.Full
	failed func(doing string, err error) // Options.Failed

	// diskFull is true if the file could not grow when a slot was last needed, and neither growth nor recycling has
	// made room since. Written under Space.mu, read without. A stale value delays the cleaner's reaction by one step.
	diskFull atomic.Bool
}

// stride returns how many slots are worth adding at once: a sixteenth of the file, or a quarter while it is small, at
// most maxAhead bytes, at least two. Once segments are recycled the file hardly grows, and more room would only make it
// larger.
func (g *growth) stride() int {
	n := max(g.table.slots/16, min(g.table.slots/4, smallAhead/g.table.segmentSize))
	if g.table.ledger.Recycled > 0 {
		n = g.table.slots / 64
	}
	return max(2, min(n, maxAhead/g.table.segmentSize))
}

// allocate reserves the disk space of n slots from first on, durably (G1, trap 13). It blocks for the disk.
func (g *growth) allocate(first, n int) error {
	if first+n > MaxSlots {
		return fmt.Errorf("allocate slots beyond %d: %w", MaxSlots, errSegmentLimit)
	}
	size := int64(g.table.segmentSize)
	if err := g.file.Allocate(int64(first)*size, int64(n)*size); err != nil {
		return fmt.Errorf("allocate %d slots: %w", n, wrapNoRoom(err))
	}
	if err := g.file.Sync(); err != nil {
		return fmt.Errorf("sync %d new slots: %w", n, wrapNoRoom(err))
	}
	return nil
}

// extend makes the file longer by want slots or a stride, or by one if there is no room for more. During the back-off
// it returns the error of the last attempt. Space.mu is held, and ahead is not set.
func (g *growth) extend(want int) error {
	if g.refused != nil && time.Since(g.refusedAt) <= g.backOff {
		g.setFull(g.refused) // recycling may have reset it
		return g.refused
	}
	n := max(want, g.stride())
	err := g.allocate(g.table.slots, n)
	if errors.Is(err, ErrNoRoom) && n > 1 {
		n = 1
		err = g.allocate(g.table.slots, n)
	}
	switch {
	case err == nil:
		g.accept(g.table.slots, n)
		return nil
	case errors.Is(err, ErrNoRoom):
		g.refuse(err)
	default:
		g.fail(err)
	}
	g.setFull(err)
	return err
}

// setFull notes that the file cannot grow because of err, or, if err is nil, that there is room again. Space.mu is
// held.
func (g *growth) setFull(err error) {
	if g.diskFull.Swap(err != nil) != (err != nil) && g.full != nil && (err == nil || errors.Is(err, ErrNoRoom)) {
		g.full(err)
	}
}

// accept is the transition to accepted: the file has n more slots from first on.
func (g *growth) accept(first, n int) {
	for i := first; i < first+n; i++ {
		g.free.put(format.SegmentID(i), false)
	}
	g.table.slots = max(g.table.slots, first+n)
	g.refused = nil
	g.setFull(nil)
}

// refuse is the transition to refused, and begins the back-off.
func (g *growth) refuse(err error) { g.refused, g.refusedAt = err, time.Now() }

// fail is the transition to broken. The first error stays.
func (g *growth) fail(err error) {
	if g.broken == nil {
		g.broken = err
	}
}

// startAhead is the transition to growing ahead. Space.mu is held. The caller then runs growAhead in another goroutine.
func (g *growth) startAhead() (first, n int) {
	g.ahead = true
	return g.table.slots, g.stride()
}

// growerLabels are the profiling labels of the grower; it would have those of the goroutine that started it.
var growerLabels = pprof.WithLabels(context.Background(), pprof.Labels("pagecache", "grower"))

// growAhead makes the file longer in the background and ends with endAhead. Space.mu is not held.
func (g *growth) growAhead(first, n int) {
	pprof.SetGoroutineLabels(growerLabels)
	err := g.allocate(first, n)
	g.changed.L.Lock()
	defer g.changed.L.Unlock()
	g.endAhead(first, n, err)
}

// endAhead is the transition back to rest. It ignores lack of room: a write that needs a slot finds it, and decides
// then whether the reserve may be used. Space.mu is held.
func (g *growth) endAhead(first, n int, err error) {
	g.ahead = false
	switch {
	case err == nil:
		g.accept(first, n)
	case !errors.Is(err, ErrNoRoom):
		g.fail(err)
		if g.failed != nil {
			g.failed("log file not extended ahead of need", err)
		}
	}
	g.changed.Broadcast()
}
