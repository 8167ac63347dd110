package engine

import (
	"errors"
	"fmt"
	"time"

	"pagecache/internal/invariants"
	"pagecache/internal/vfs"
	"pagecache/segments"
	"pagecache/segments/format"
)

// settleLimit is how long recycling waits for reads ahead.
const settleLimit = 100 * time.Millisecond

// recycleAtOnce is how many headers are written together.
const recycleAtOnce = sideDepth

// recycleSlots makes the slots of Draining segments free, durably.
func (s *store) recycleSlots(ids []format.SegmentID, stable format.LSN) error {
	size := int64(s.super.SegmentSize)
	// What Prefetch has begun may outlast its Tx, and must not read what is written next.
	if s.reader != nil {
		if err := s.reader.Settle(settleLimit); err != nil {
			return fmt.Errorf("%w: %w", errLater, err)
		}
	}
	for _, id := range ids {
		// Nothing of what was read here may be shown for what is written next (rule 2).
		off := int64(id.Offset(int(size)))
		if err := errors.Join(s.view.Drop(off, size), s.file.DropCache(off, size)); err != nil {
			return err
		}
		if invariants.Enabled { // whoever still looks at it dies of it (rule 4c)
			if err := s.view.Protect(off, size); err != nil {
				return err
			}
		}
	}
	return s.space.Recycle(ids, func(recycled uint64) error {
		return s.beside(func(dev vfs.Device, zeros []byte) error {
			h := format.SegmentHeader{State: format.SegmentStateRecycled, Stable: stable, Recycled: recycled}
			return s.markSlots(dev, zeros, ids, h)
		})
	})
}

// shrink makes the file shorter if its end has been free for long enough to be more than what the next segments need.
func (s *store) shrink() (bool, error) {
	_, used, _ := s.space.Totals()
	did, err := s.space.Shrink(s.opts.IOBuffers+used/16, func(slot format.SegmentID, recycled uint64) error {
		return s.beside(func(dev vfs.Device, zeros []byte) error {
			return s.markSlots(dev, zeros, []format.SegmentID{slot}, format.SegmentHeader{State: format.SegmentStateFree, Stable: s.log.StableLSN(), Recycled: recycled})
		})
	})
	return did, logError("clean", err)
}

// unprotecting is the log's Space in builds with the invariants tag: what is sealed can be looked at again.
type unprotecting struct {
	*segments.Space
	view vfs.Map
	size int
}

// SealSegment is iobuf.Space.SealSegment.
func (u unprotecting) SealSegment(id format.SegmentID, base format.LSN, pages segments.PageList) {
	_ = u.view.Unprotect(int64(id.Offset(u.size)), int64(u.size)) // if that fails reading faults
	u.Space.SealSegment(id, base, pages)
}
