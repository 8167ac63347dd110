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
	// fewSlots is the number of slots below which a file that recycles them does not grow ahead of need.
	fewSlots = 64
	// smallAhead is the number of bytes that even a small file may grow by at once.
	smallAhead = 16 << 20
	// backgroundBackOff is the time for which a file that could not grow is not asked again. Without it all writers on
	// a full disk would ask the file system again and again, and slow the cleaner down.
	backgroundBackOff = 2 * time.Millisecond
)

// growth reserves space for hollow slots, or makes the log file longer if there are none, and adds the slots to the
// table and the free list. It has two machines: whether a goroutine is at work, and how the last attempt ended.
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
// larger, so one is enough.
func (g *growth) stride() int {
	n := max(g.table.slots/16, min(g.table.slots/4, smallAhead/g.table.segmentSize))
	least := 2
	if g.table.ledger.Recycled > 0 {
		n, least = g.table.slots/64, 1
	}
	return max(least, min(n, maxAhead/g.table.segmentSize))
}

// claim returns n slots that need space, in ascending order: hollow ones, perhaps fewer, or else those that follow the
// end of the file. Space.mu is held. The caller then calls accept or unclaim.
func (g *growth) claim(n int) (ids []format.SegmentID) {
	if ids = g.free.takeHollow(n); len(ids) > 0 {
		return ids
	}
	for i := range n {
		ids = append(ids, format.SegmentID(g.table.slots+i))
	}
	return ids
}

// unclaim puts slots back that claim has returned. Some may have got space, or a part of it, before the disk was full;
// it is given back, unless the slot had it before. Space.mu is held.
func (g *growth) unclaim(ids []format.SegmentID) {
	for _, id := range ids {
		if int(id) >= g.table.slots {
			continue
		}
		if !g.free.unsure[id] {
			off, size := int64(id.Offset(g.table.segmentSize)), int64(g.table.segmentSize)
			_ = g.file.Punch(off+format.SegmentStart, size-format.SegmentStart) // if it fails, the slot keeps its space
		}
		g.free.putHollow(id)
	}
}

// allocate reserves the disk space of slots in ascending order, durably (G1, trap 13). It blocks for the disk.
func (g *growth) allocate(ids []format.SegmentID) error {
	if last := int(ids[len(ids)-1]); last >= MaxSlots {
		return fmt.Errorf("allocate slots beyond %d: %w", MaxSlots, errSegmentLimit)
	}
	size := g.table.segmentSize
	for rest := ids; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n] == rest[0]+format.SegmentID(n) {
			n++
		}
		if err := g.file.Allocate(int64(rest[0].Offset(size)), int64(n)*int64(size)); err != nil {
			return fmt.Errorf("allocate %d slots: %w", len(ids), wrapNoRoom(err))
		}
		rest = rest[n:]
	}
	if err := g.file.Sync(); err != nil {
		return fmt.Errorf("sync %d new slots: %w", len(ids), wrapNoRoom(err))
	}
	return nil
}

// extend reserves space for want slots or a stride, or for one if there is no room for more. During the back-off it
// returns the error of the last attempt. Space.mu is held, and ahead is not set.
func (g *growth) extend(want int) error {
	if g.refused != nil && time.Since(g.refusedAt) <= g.backOff {
		g.setFull(g.refused) // recycling may have reset it
		return g.refused
	}
	ids := g.claim(max(want, g.stride()))
	err := g.allocate(ids)
	if errors.Is(err, ErrNoRoom) && len(ids) > 1 {
		g.unclaim(ids[1:])
		ids = ids[:1]
		err = g.allocate(ids)
	}
	for errors.Is(err, ErrNoRoom) {
		unsure := g.free.takeUnsure(1)
		if len(unsure) == 0 {
			break
		}
		g.unclaim(ids)
		ids = unsure
		if err = g.allocate(ids); err != nil {
			delete(g.free.unsure, ids[0]) // it has no space
		}
	}
	switch {
	case err == nil:
		g.accept(ids)
		return nil
	case errors.Is(err, ErrNoRoom):
		g.refuse(err)
	default:
		g.fail(err)
	}
	g.unclaim(ids)
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

// extendShort is extend for one slot of which only the first n bytes get space. The file gets the length of whole
// slots, durably.
func (g *growth) extendShort(n int) error {
	if g.broken != nil {
		return g.broken
	}
	ids := g.claim(1)
	id := ids[0]
	off, end := int64(id.Offset(g.table.segmentSize)), int64((id + 1).Offset(g.table.segmentSize))
	err := wrapNoRoom(g.file.Allocate(off, int64(n)))
	if err == nil && int(id) >= g.table.slots {
		err = g.file.Truncate(end)
	}
	if err == nil {
		err = g.file.Sync()
	}
	switch {
	case err == nil:
		g.accept(ids)
		g.free.partial[id] = true
		return nil
	case errors.Is(err, ErrNoRoom):
		g.refuse(err)
	default:
		g.fail(err)
	}
	g.unclaim(ids)
	g.setFull(err)
	return fmt.Errorf("allocate the first %d bytes of slot %v: %w", n, id, err)
}

// accept is the transition to accepted: the slots have space.
func (g *growth) accept(ids []format.SegmentID) {
	for _, id := range ids {
		switch {
		case int(id) >= g.table.slots:
			g.free.putBlank(id, 0)
		case g.free.complete(id):
			g.free.put(id)
		default: // it has a header that must stay
			g.free.putBlank(id, format.SegmentStart)
		}
	}
	g.table.slots = max(g.table.slots, int(ids[len(ids)-1])+1)
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
func (g *growth) startAhead() []format.SegmentID {
	g.ahead = true
	return g.claim(g.stride())
}

// growerLabels are the profiling labels of the grower; it would have those of the goroutine that started it.
var growerLabels = pprof.WithLabels(context.Background(), pprof.Labels("pagecache", "grower"))

// growAhead reserves the space of slots in the background and ends with endAhead. Space.mu is not held.
func (g *growth) growAhead(ids []format.SegmentID) {
	pprof.SetGoroutineLabels(growerLabels)
	err := g.allocate(ids)
	g.changed.L.Lock()
	defer g.changed.L.Unlock()
	g.endAhead(ids, err)
}

// endAhead is the transition back to rest. It ignores lack of room: a write that needs a slot finds it, and decides
// then whether the reserve may be used. Space.mu is held.
func (g *growth) endAhead(ids []format.SegmentID, err error) {
	g.ahead = false
	switch {
	case err == nil:
		g.accept(ids)
	case errors.Is(err, ErrNoRoom):
		g.unclaim(ids)
	default:
		g.fail(err)
		if g.failed != nil {
			g.failed("log file not extended ahead of need", err)
		}
	}
	g.changed.Broadcast()
}
