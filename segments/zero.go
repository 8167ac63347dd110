package segments

import (
	"context"
	"errors"
	"runtime/pprof"
	"strconv"
	"sync"
	"time"

	"pagecache/segments/format"
)

// zeroState is the state of a zeroer.
type zeroState uint8

const (
	zeroIdle    zeroState = iota // no goroutine runs
	zeroWaiting                  // the goroutine waits for Options.ZeroAfter to pass
	zeroWriting                  // the goroutine writes a slot, which is not in the free list meanwhile
)

// String returns the state's name.
func (s zeroState) String() string {
	if names := [...]string{"idle", "waiting", "writing"}; int(s) < len(names) {
		return names[s]
	}
	return "state(" + strconv.FormatUint(uint64(s), 10) + ")"
}

// zeroer writes zeros to the slot that is used next, ahead of need; Options.Zero says why.
//
//	       start             claim              finish
//	idle ─────────▶ waiting ────────▶ writing ──────────▶ idle
//	                   │                                   ▲
//	                   └───────────────────────────────────┘
//	                     claim (nothing to zero), standDown
//
// All fields are guarded by Space.mu.
type zeroer struct {
	zero    func(off, n int64, quit <-chan struct{}) error // Options.Zero
	after   time.Duration                                  // Options.ZeroAfter
	quit    <-chan struct{}                                // closed by Space.Close
	changed *sync.Cond                                     // on Space.mu
	growth  *growth

	state  zeroState
	opened int // segments opened so far
}

// start is the transition idle → waiting. It returns false if a goroutine is at work already, or zeroing is switched
// off; else the caller runs zeroAhead in another goroutine. Space.mu is held.
func (z *zeroer) start() bool {
	if z.zero == nil || z.state != zeroIdle {
		return false
	}
	z.state = zeroWaiting
	return true
}

// claim is the transition waiting → writing: it takes the slot that is used next out of the free list. from is the
// offset in the slot at which zeroing begins. It makes the transition to idle instead, and returns false, if nothing is
// to be zeroed: another segment was opened since opened was read, or the slot was written before. Space.mu is held.
func (z *zeroer) claim(opened int) (id format.SegmentID, from int, ok bool) {
	free := z.growth.free
	if z.opened == opened && free.len() > 0 && !z.growth.ahead {
		from, ok = free.blank[free.next()]
	}
	if !ok {
		z.state = zeroIdle
		return 0, 0, false
	}
	z.state = zeroWriting
	return free.take(), from, true
}

// finish is the transition writing → idle. It puts the slot back, unless the disk does not take writes to it. Space.mu
// is held.
func (z *zeroer) finish(id format.SegmentID, from int, err error) {
	switch {
	case err == nil:
		z.growth.free.put(id)
	case errors.Is(err, ErrBadSlot):
		z.growth.table.outOfUse++
	default:
		z.growth.free.putBlank(id, from)
	}
	z.state = zeroIdle
	z.changed.Broadcast()
}

// standDown is the transition waiting → idle when the Space is closed. Space.mu is held.
func (z *zeroer) standDown() { z.state = zeroIdle }

// zeroerLabels are the profiling labels of the zeroer; it would have those of the goroutine that started it.
var zeroerLabels = pprof.WithLabels(context.Background(), pprof.Labels("pagecache", "zeroer"))

// zeroAhead zeroes the slot that is used next, unless a segment is opened within z.after. opened is the number of
// segments that were opened when it was started. Space.mu is not held; it is released while the disk is written.
func (z *zeroer) zeroAhead(opened int) {
	pprof.SetGoroutineLabels(zeroerLabels)
	closed := false
	select {
	case <-time.After(z.after):
	case <-z.quit:
		closed = true
	}
	mu := z.changed.L
	mu.Lock()
	defer mu.Unlock()
	if closed {
		z.standDown()
		return
	}
	id, from, ok := z.claim(opened)
	if !ok {
		return
	}
	size := z.growth.table.segmentSize
	mu.Unlock()
	err := z.zero(int64(id.Offset(size))+int64(from), int64(size-from), z.quit)
	if err != nil && z.growth.failed != nil {
		z.growth.failed("segment not zeroed ahead", err)
	}
	mu.Lock()
	z.finish(id, from, err)
}
