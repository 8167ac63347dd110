package logstore

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"pagecache/internal/invariants"
	"pagecache/internal/vfs"
	"pagecache/segments"
	"pagecache/segments/format"
)

// settleLimit is the longest time that recycling waits for reads ahead to finish.
const settleLimit = 100 * time.Millisecond

// recycleAtOnce is the most headers that are written together.
const recycleAtOnce = sideDepth

// Drained is a Draining segment: nothing in it is live, and it waits to be recycled.
type Drained struct {
	ID    format.SegmentID
	Base  format.LSN
	LSN   format.LSN // once the log is stable below it, so is everything that replaced the segment's contents
	Epoch uint64     // once no reader entered before it, nobody sees the segment's contents
}

// Recycler holds the Draining segments of a store and makes their slots free. Its methods are called by one goroutine
// at a time; Waiting and Recycled by any.
type Recycler struct {
	s        *Store
	drained  []Drained
	failed   error        // why nothing is recycled any more
	waiting  atomic.Int64 // len(drained)
	recycled atomic.Int64 // segments, in this opening
}

// NewRecycler returns the recycler of s.
func NewRecycler(s *Store) *Recycler { return &Recycler{s: s} }

// Err returns the error that stopped recycling for good; nil if there was none.
func (r *Recycler) Err() error { return r.failed }

// Waiting returns how many segments wait to be recycled.
func (r *Recycler) Waiting() int { return int(r.waiting.Load()) }

// Recycled returns how many segments were recycled in this opening.
func (r *Recycler) Recycled() int64 { return r.recycled.Load() }

// Newest returns the LSN of the segment added last; false if none waits.
func (r *Recycler) Newest() (format.LSN, bool) {
	if n := len(r.drained); n > 0 {
		return r.drained[n-1].LSN, true
	}
	return 0, false
}

// Add adds segments that have just begun to drain.
func (r *Recycler) Add(ds ...Drained) {
	r.drained = append(r.drained, ds...)
	r.waiting.Store(int64(len(r.drained)))
}

// Recycle durably frees the slots of all segments whose contents no crash needs any more, and for which unseen says
// that no reader does, and returns their number. After ErrLater it may be tried again. Any other error stops recycling
// for good: the count of recycled segments on the disk is not known.
//
// The recycled headers carry the stable end that decides here, since a later scan accepts that segments are missing
// only below the highest stable end that it finds.
func (r *Recycler) Recycle(unseen func(Drained) bool) (n int, err error) {
	if r.failed != nil {
		return 0, r.failed
	}
	stable := r.s.Log.StableEnd()
	var ids []format.SegmentID
	for _, d := range r.drained {
		if r.s.replacedBelow(stable, d) && unseen(d) {
			ids = append(ids, d.ID)
		}
	}
	for some := range slices.Chunk(ids, recycleAtOnce) {
		if err := r.s.recycleSlots(some, stable-1); err != nil {
			if !errors.Is(err, ErrLater) {
				r.failed = err
			}
			return n, err
		}
		n += len(some)
		r.recycled.Add(int64(len(some)))
		r.drained = slices.DeleteFunc(r.drained, func(d Drained) bool { return slices.Contains(some, d.ID) })
		r.waiting.Store(int64(len(r.drained)))
	}
	return n, nil
}

// replacedBelow reports whether everything that replaced the segment's contents lies below stable, the stable end. The
// first message of the next segment must lie there too, so that a scan finds where the log goes on.
func (s *Store) replacedBelow(stable format.LSN, d Drained) bool {
	return stable >= d.LSN && stable > d.Base+format.LSN(s.Super.SegmentSize)+format.SegmentStart
}

// recycleSlots makes the slots of Draining segments free, durably.
func (s *Store) recycleSlots(ids []format.SegmentID, stable format.LSN) error {
	size := int64(s.Super.SegmentSize)
	// A read ahead may outlast the Tx that started it. It must not read the bytes that are written next.
	if err := s.Reader.Settle(settleLimit); err != nil {
		return fmt.Errorf("%w: %w", ErrLater, err)
	}
	for _, id := range ids {
		// The cached old contents must not hide those that are written next (rule 2).
		off := int64(id.Offset(int(size)))
		if err := errors.Join(s.View.Drop(off, size), s.file.DropCache(off, size)); err != nil {
			return err
		}
		if invariants.Enabled { // a reader that still looks at it crashes (rule 4c)
			if err := s.View.Protect(off, size); err != nil {
				return err
			}
		}
	}
	return s.Space.Recycle(ids, func(recycled uint64) error {
		return s.beside(func(dev vfs.Device, zeros []byte) error {
			h := format.SegmentHeader{State: format.SegmentStateRecycled, Stable: stable, Recycled: recycled}
			return s.markSlots(dev, zeros, ids, h)
		})
	})
}

// Shrink truncates the file if its end has been free for long enough to be more than the next segments need. It reports
// whether it did.
func (s *Store) Shrink() (bool, error) {
	_, used, _ := s.Space.Totals()
	return s.Space.Shrink(s.c.IOBuffers+used/16, func(slot format.SegmentID, recycled uint64) error {
		return s.beside(func(dev vfs.Device, zeros []byte) error {
			h := format.SegmentHeader{State: format.SegmentStateFree, Stable: s.Log.StableLSN(), Recycled: recycled}
			return s.markSlots(dev, zeros, []format.SegmentID{slot}, h)
		})
	})
}

// Below returns, in the order of the log, the stable segments that lie wholly below lsn, and those below first, which a
// crash inside an earlier truncation left. The beginning of the next segment is stable too, so that a scan finds where
// the log goes on.
func (s *Store) Below(lsn, first format.LSN) []segments.Candidate {
	size, stable := format.LSN(s.Super.SegmentSize), s.Log.StableEnd()
	var found []segments.Candidate
	s.Space.Inactive(func(v segments.Candidate) {
		if end := v.Base + size; v.Base < first || end <= lsn && stable > end+format.SegmentStart {
			found = append(found, v)
		}
	})
	slices.SortFunc(found, func(a, b segments.Candidate) int { return cmp.Compare(a.Base, b.Base) })
	return found
}

// unprotecting is the log's Space in builds with the invariants tag: a sealed segment can be looked at again.
type unprotecting struct {
	*segments.Space
	view vfs.Map
	size int
}

// SealSegment implements iobuf.Space.
func (u unprotecting) SealSegment(id format.SegmentID, base format.LSN, pages segments.PageList) {
	_ = u.view.Unprotect(int64(id.Offset(u.size)), int64(u.size)) // if that fails, reading faults
	u.Space.SealSegment(id, base, pages)
}
