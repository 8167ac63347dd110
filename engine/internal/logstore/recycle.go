package logstore

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pagecache/engine/internal/iobuf"
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
	Epoch uint64 // once no reader entered before it, nobody sees the segment's contents
}

// Recycler holds the Draining segments of a store and makes their slots free. Its methods are called by one goroutine
// at a time; Waiting, Held, Recycled and Hold by any.
//
//	        Add           leave              the message is stable, free
//	in use ─────▶ drained ─────▶ leaving ──────────────────────────────▶ free
type Recycler struct {
	s       *Store
	drained []Drained
	leaving leaving // of the first segments that leave, until their slots are free; written with mu held
	failed  error   // why nothing is recycled any more
	// mu is held while a message is written by which segments leave, and while a hold begins: the message lies above or
	// below the cut, for certain. No goroutine holds it while it waits for a batch or a Tx.
	mu       sync.Mutex
	holds    map[*Hold]struct{} // guarded by mu
	waiting  atomic.Int64       // len(drained)
	held     atomic.Int64       // of these: those that a reader or a batch held back when Recycle looked last
	recycled atomic.Int64       // segments, in this opening
}

// leaving is a message by which segments leave.
type leaving struct {
	ids     []format.SegmentID // nil: there is none
	at      format.LSN
	message format.Leave
}

// NewRecycler returns the recycler of s.
func NewRecycler(s *Store) *Recycler { return &Recycler{s: s} }

// Err returns the error that stopped recycling for good; nil if there was none.
func (r *Recycler) Err() error { return r.failed }

// Waiting returns how many segments wait to be recycled.
func (r *Recycler) Waiting() int { return int(r.waiting.Load()) }

// Held returns how many of the segments that wait could not be recycled when Recycle looked last, whatever it did: a
// reader or a batch held them back, or the log does not go on behind them.
func (r *Recycler) Held() int { return int(r.held.Load()) }

// Recycled returns how many segments were recycled in this opening.
func (r *Recycler) Recycled() int64 { return r.recycled.Load() }

// Add adds segments that have just begun to drain.
func (r *Recycler) Add(ds ...Drained) {
	r.drained = append(r.drained, ds...)
	r.waiting.Store(int64(len(r.drained)))
}

// Recycle lets segments leave that hold nothing, and for which unseen says that no reader looks at them, and frees the
// slots of those that have left. It reports whether it did anything.
//
// The log itself says that segments leave. Once that message is stable, so is everything that replaced their contents,
// since it lies before. Then no crash can bring the segments back, and whatever their slots hold means nothing: their
// headers may be torn. These are marked, so that the log need not say it for ever. Recycle does not wait for the
// message to become stable. It shares a flush with the data that was moved, because each flush costs a block.
//
// After ErrLater, or lack of space, Recycle may be tried again. Any other error stops recycling for good. A slot whose
// header cannot be written is no error: it is left out of use.
func (r *Recycler) Recycle(unseen func(Drained) bool) (did bool, err error) {
	did, err = r.free()
	left, failed := r.beginLeave(unseen, err == nil)
	if err == nil {
		err = r.note(failed)
	}
	return did || left, err
}

// beginLeave counts the segments that are held back. If may is true, and no segments are leaving, it writes the message
// by which others leave, and reports whether there are any.
func (r *Recycler) beginLeave(unseen func(Drained) bool, may bool) (did bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	stable, kept := r.s.Log.StableEnd(), r.keptLocked()
	var ids []format.SegmentID
	held := 0
	for _, d := range r.drained {
		switch {
		case d.Base < kept || !r.s.isFollowed(d.Base, stable) || !unseen(d):
			held++
		case len(ids) < recycleAtOnce:
			ids = append(ids, d.ID)
		}
	}
	if r.leaving.ids != nil && r.s.Log.DurableEnd() > r.leaving.at { // but not stable, or held back
		held = len(r.drained)
	}
	r.held.Store(int64(held))
	if !may || r.leaving.ids != nil || len(ids) == 0 {
		return false, nil
	}
	return true, r.leave(ids, stable-1)
}

// Flush makes the message durable by which segments leave, if there is one. It does not wait for batches.
func (r *Recycler) Flush() error {
	if r.leaving.ids == nil || r.failed != nil {
		return r.failed
	}
	return r.note(r.s.Log.MakeDurable(r.leaving.at))
}

// Finish frees the slots of the segments that are leaving, unless a batch is open, and reports whether it did.
func (r *Recycler) Finish() (bool, error) {
	if err := r.Flush(); err != nil {
		return false, err
	}
	return r.free()
}

// All frees the slots of all segments that were added and that unseen says that no reader looks at. While busy returns
// true, it does not wait for the log to become durable, and what is left stays for the next call. A batch that is open
// leaves some, too.
func (r *Recycler) All(unseen func(Drained) bool, busy func() bool) error {
	for {
		did, err := r.Recycle(unseen)
		if err != nil || busy() {
			return err
		}
		finished, err := r.Finish()
		if err != nil || !did && !finished {
			return err
		}
	}
}

// note remembers err, an error of recycling, if it stops recycling for good.
func (r *Recycler) note(err error) error {
	if err != nil && !errors.Is(err, ErrLater) && !IsNoSpace(err) {
		r.failed = err
		if !errors.Is(err, iobuf.ErrClosed) {
			r.s.c.Report.CleaningStopped(err)
		}
	}
	return err
}

// isFollowed reports whether the first message behind the segment with the given base lies below stable, the stable
// end, so that a scan finds where the log goes on.
func (s *Store) isFollowed(base, stable format.LSN) bool {
	return stable > base+format.LSN(s.Super.SegmentSize)+format.SegmentStart
}

// leave writes the message by which segments leave. stable is the stable LSN: a later scan accepts that segments are
// missing only below the highest stable LSN that it finds. mu is held.
func (r *Recycler) leave(ids []format.SegmentID, stable format.LSN) error {
	s := r.s
	// A read ahead may outlast the Tx that started it. It must not read the bytes that are written next.
	if err := s.Reader.Settle(settleLimit); err != nil {
		return fmt.Errorf("%w: %w", ErrLater, err)
	}
	l, err := s.Space.Leaving(ids)
	if err != nil {
		return err
	}
	l.Stable = stable
	m, err := s.Log.ReserveUrgent(format.KindLeave, 0, format.LeaveSize(len(ids)))
	if err != nil {
		return markNoSpace(err)
	}
	r.leaving = leaving{ids, m.LSN(), l}
	l.Put(m.Body())
	s.Space.BeginLeave(m.LSN())
	m.Complete()
	return nil
}

// free makes the slots free of segments that leave, if the message that says so is stable, and reports whether it did.
func (r *Recycler) free() (bool, error) {
	ids := r.leaving.ids
	stable := r.s.Log.StableEnd()
	if ids == nil || r.failed != nil || stable <= r.leaving.at {
		return false, r.failed
	}
	if r.holdsAt(r.leaving.at) { // after stable was read: the cut of a later hold lies above the message
		return false, nil
	}
	r.s.Space.Leave(r.leaving.message)
	// The headers prove that the log does not end before the message. The copies of what the segments held lie there.
	err := r.note(r.s.freeSlots(ids, stable-1))
	if err != nil && !errors.Is(err, errLeftOut) {
		return false, err
	}
	r.mu.Lock()
	r.leaving = leaving{}
	r.mu.Unlock()
	r.recycled.Add(int64(len(ids)))
	r.drained = slices.DeleteFunc(r.drained, func(d Drained) bool { return slices.Contains(ids, d.ID) })
	r.waiting.Store(int64(len(r.drained)))
	return true, err
}

// errLeftOut reports that slots are free although their headers cannot be written.
var errLeftOut = errors.New("slots are left out of use")

// freeSlots marks slots whose segments have left as free, durably, and makes them so. Those that the disk does not let
// it write to are left out of use, with a warning. If the error wraps errLeftOut, all of the slots were freed or left
// out, but no more can be.
func (s *Store) freeSlots(ids []format.SegmentID, stable format.LSN) error {
	err := s.tryFree(ids, stable)
	if err == nil {
		s.recycle(ids)
		return nil
	}
	if errors.Is(err, ErrLater) || IsNoSpace(err) {
		return err
	}
	// Which of them could be written is not known, unless each is written alone.
	marked, lost, inFlight := ids[:0:0], ids[:0:0], errors.Is(err, vfs.ErrInFlight)
	for _, id := range ids {
		if inFlight || s.tryFree([]format.SegmentID{id}, stable) != nil {
			lost = append(lost, id)
		} else {
			marked = append(marked, id)
		}
	}
	if e := s.leaveOut(lost, nil); e != nil {
		return errors.Join(err, e)
	}
	s.recycle(marked)
	s.Space.Retire(lost)
	s.c.Report.Corruption(fmt.Sprintf("slots %v are left out of use, since their headers cannot be written", lost), err)
	if inFlight {
		return fmt.Errorf("%w: %w", errLeftOut, err)
	}
	return nil
}

// tryFree marks slots whose segments have left as free, durably.
func (s *Store) tryFree(ids []format.SegmentID, stable format.LSN) error {
	size := int64(s.Super.SegmentSize)
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
	return s.beside(func(dev vfs.Device, zeros []byte) error {
		return s.markSlots(dev, zeros, ids, s.freeHeader(stable, s.Space.Ledger()))
	})
}

// Shrink truncates the file if more of its end is free than the next segments need. It reports whether it did.
func (s *Store) Shrink() (bool, error) {
	_, used, _ := s.Space.Totals()
	return s.Space.Shrink(max(s.c.IOBuffers+used/16, s.Space.Stride()), s.super.shrink)
}

// GiveBack truncates the file as far as its end is free, and gives the disk space of other free slots back, except for
// those that are kept. It reports whether it did anything. One goroutine at a time calls it, GiveBackUnused or Shrink.
func (s *Store) GiveBack() (bool, error) { return s.giveBack(s.Space.GiveBack) }

// GiveBackUnused is GiveBack for the space of slots that were free ever since the last call.
func (s *Store) GiveBackUnused() (bool, error) { return s.giveBack(s.Space.GiveBackUnused) }

func (s *Store) giveBack(space func() (bool, error)) (bool, error) {
	did, err := s.Space.Shrink(0, s.super.shrink)
	if err != nil {
		return did, err
	}
	gave, err := space()
	return did || gave, err
}

// giveBackAfter is the time after which Dropped gives the space of slots back that stay free.
const giveBackAfter = 10 * time.Second

// Dropped makes the file of a standalone log smaller, after segments were dropped. It keeps the space of slots that the
// log has used again in the last seconds. One goroutine at a time calls it.
func (s *Store) Dropped() error {
	if _, err := s.Shrink(); err != nil || time.Since(s.looked) < giveBackAfter {
		return err
	}
	s.looked = time.Now()
	_, err := s.GiveBackUnused()
	return err
}

// Occupied returns how many bytes of disk space the log file occupies.
func (s *Store) Occupied() int64 {
	n, err := s.file.Occupied()
	if err != nil { // the store is closed
		slots, _, _ := s.Space.Totals()
		n = int64(slots) * int64(s.Super.SegmentSize)
	}
	return n
}

// DrainBelow lets the segments wholly below lsn wait to be recycled, and those below first, which a crash has left. It
// calls raise with the base of the lowest one that stays before any of them can be recycled.
func (r *Recycler) DrainBelow(lsn, first format.LSN, raise func(format.LSN)) {
	found := r.s.Below(lsn, first)
	for _, v := range found { // without a gap from the first
		if v.Base == first {
			first += format.LSN(r.s.Super.SegmentSize)
		}
	}
	raise(first)
	for _, v := range found {
		if v.Base < first && r.s.Space.Drain(v.ID) {
			r.Add(Drained{ID: v.ID, Base: v.Base})
		}
	}
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
