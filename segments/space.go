package segments

import (
	"context"
	"fmt"
	"sync"
	"time"

	"pagecache/segments/format"
)

// File is the part of the log file that a Space uses.
type File interface {
	// Allocate reserves disk space for n bytes from off on, and makes the file at least that long.
	Allocate(off, n int64) error
	// Sync makes the file's length and its allocation durable.
	Sync() error
	// Punch gives the disk space of a range back; the bytes read as zeros. If the file system cannot do that, the error
	// wraps errors.ErrUnsupported.
	Punch(off, n int64) error
	// Truncate sets the file's length.
	Truncate(size int64) error
}

// Options configure a Space.
type Options struct {
	File        File
	SegmentSize int // bytes
	Slots       int // number of slots that the file holds
	Store       format.StoreID
	Generation  format.Generation
	Timeline    format.Timeline

	// Background lets the file grow ahead of need, in a goroutine of its own.
	Background bool
	// Recycled is the number of segments that were recycled before the store was opened, and Left the sum of their
	// identities.
	Recycled uint64
	Left     format.Identity
	// Shrinks is the number of times that the file was made shorter before the store was opened.
	Shrinks uint32
	// Reserve is the number of free slots that are kept for writes that make room, and one more for each ReservePer
	// slots of the file if ReservePer is positive. See Urgency.
	Reserve, ReservePer int
	// Opened, if not nil, is called after each OpenSegment, under the Space's lock; it must not block or call the
	// Space, except for DiskFull.
	Opened func()
	// Full, if not nil, is called with the error when the file cannot grow although a slot is needed, and with nil when
	// there is room again. Failed, if not nil, is called with errors of work ahead of need, which no call returns. Both
	// may be called under the Space's lock: they must not block or call the Space.
	Full   func(err error)
	Failed func(doing string, err error)
	// Zero writes zeros to a range of the file, durably, or returns an error soon after quit is closed. If the error
	// wraps ErrBadSlot, the slot is not used. With Background, the next slot is zeroed ahead if no segment is opened
	// for ZeroAfter. The first write to space that is only reserved makes the file system change its metadata, so a
	// small durable write takes about twice as long as one to space that was written before. If segments are filled
	// faster than that, bandwidth counts, and writing everything twice would halve it. Nil disables zeroing.
	Zero      func(off, n int64, quit <-chan struct{}) error
	ZeroAfter time.Duration
	// Short, if it is positive, says that the log has at most one segment, which is short: only its first Short bytes,
	// a multiple of 4096, have space on the disk. Nothing is kept free until another one is opened.
	Short int
}

// Space hands out the slots of the log file and counts the live bytes in them. The package comment names its parts.
//
// Adopt, Append and Ready are for opening a store, before the Space is shared. All other methods are safe for
// concurrent use.
type Space struct {
	options Options // constant

	table slotTable // its slots are read without mu

	mu      sync.Mutex
	changed sync.Cond // on mu: a slot was added or recycled, or background work has ended

	free    freeList
	reserve reserve // constant
	growth  growth
	zeroer  zeroer
	// short says that the log has no segment yet, or one that is short.
	short bool
	blank int // what Blank returns
	// punching says that GiveBack has slots that are in no list; noPunch that the file system cannot give space back.
	punching, noPunch bool

	quit chan struct{}  // closed by Close
	work sync.WaitGroup // on the goroutines of growth and zeroer
}

// NewSpace returns a Space for a file that holds o.Slots slots. The caller then calls Adopt for each segment in the
// file, and Ready with the slots that are free.
func NewSpace(o Options) *Space {
	s := &Space{options: o, quit: make(chan struct{}), reserve: reserve{base: o.Reserve, per: o.ReservePer}}
	s.changed.L = &s.mu
	t := &s.table
	t.segmentSize, t.slots, t.newest = o.SegmentSize, o.Slots, format.NoLSN
	t.ledger = format.Ledger{Joined: o.Left, Left: o.Left, Recycled: o.Recycled}
	t.ledger.Shrinks = o.Shrinks
	t.index = map[format.LSN]format.SegmentID{}
	s.short = o.Short > 0
	s.free.partial = map[format.SegmentID]bool{}
	s.free.blank, s.free.unsure = map[format.SegmentID]int{}, map[format.SegmentID]bool{}
	s.growth = growth{file: o.File, changed: &s.changed, table: &s.table, free: &s.free, full: o.Full, failed: o.Failed}
	if o.Background {
		s.growth.backOff = backgroundBackOff
	}
	s.zeroer = zeroer{zero: o.Zero, after: o.ZeroAfter, quit: s.quit, changed: &s.changed, growth: &s.growth}
	return s
}

// A Found segment is one that recovery found in a slot.
type Found struct {
	Slot     format.SegmentID
	Base     format.LSN
	Seed     format.Seed
	Identity format.Identity
	State    State // StateActive if the log goes on in it, else StateInactive
	Unread   bool  // the disk does not return its header, and may not take a new one: the slot is never used again
}

// Adopt records that recovery found a segment in a slot.
func (s *Space) Adopt(f Found) {
	g := s.table.segment(f.Slot)
	g.keep = f.Unread
	g.adopt(f.Base, f.Seed, f.State)
	if s.short {
		s.free.partial[f.Slot] = true
	}
	s.table.enter(f.Slot, f.Base, f.Identity)
}

// Append adds one slot at the end of the file and returns it. The slot belongs to the caller. Errors: as for
// OpenSegment.
func (s *Space) Append() (format.SegmentID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := format.SegmentID(s.table.slots)
	if err := s.growth.allocate([]format.SegmentID{id}); err != nil {
		return 0, err
	}
	s.table.slots++
	return id, nil
}

// Ready adds slots in which recovery found nothing to the free slots. Their space is reserved. Those in fresh were
// never written; only they may be zeroed ahead, since the others hold headers that must stay.
func (s *Space) Ready(free, fresh []format.SegmentID) {
	s.free.add(free, fresh)
	s.free.low = s.free.len()
}

// ReadyHollow adds free slots that may have no space on the disk. It is reserved before a segment uses them.
func (s *Space) ReadyHollow(ids []format.SegmentID) { s.free.addHollow(ids) }

// Kept returns the number of free slots that are kept for urgent writes.
func (s *Space) Kept() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept(UrgencyOrdinary)
}

// OpenSegment takes a free slot for the segment that begins at base. It makes the file longer if too few slots are
// free, and may wait for the disk. If the file cannot grow, u decides whether the reserve may be used; then least is
// the least urgency that may write to the rest of the segment (see Room).
//
// After an error nothing has changed. The call may be repeated if the error is ErrNoRoom; any other error is permanent
// (rule 8).
func (s *Space) OpenSegment(base format.LSN, u Urgency) (id format.SegmentID, least Urgency, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.short && s.table.used == 0 {
		if err := s.fillShort(); err != nil {
			return 0, 0, err
		}
	} else {
		s.short = false
		if err := s.takeable(u); err != nil {
			return 0, 0, err
		}
		least = s.reserve.leastUrgency(s.unused(), s.table.slots)
	}
	s.blank = s.table.segmentSize
	if from, ok := s.free.blank[s.free.next()]; ok {
		s.blank = from
	}
	id = s.free.take()
	s.zeroer.opened++
	o := &s.options
	s.table.segment(id).open(base, format.MakeSeed(o.Store, o.Generation, id))
	s.table.enter(id, base, format.MakeIdentity(o.Store, o.Timeline, o.Generation, id, base))
	if s.options.Background && s.table.used > 1 {
		s.workAhead()
	}
	if s.options.Opened != nil {
		s.options.Opened()
	}
	return id, least, nil
}

// fillShort makes a slot free that has space for a short segment. mu is held.
func (s *Space) fillShort() error {
	if s.free.len() > 0 {
		return s.growth.broken
	}
	return s.growth.extendShort(s.options.Short)
}

// Blank returns from which offset on nothing was written to the slot that OpenSegment has returned last, since its
// space was reserved; the segment's size if all of it may have been written.
func (s *Space) Blank() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blank
}

// Room checks whether writers of urgency u may use a segment that was opened from the reserve, i.e. whether the reserve
// has been refilled. It grows the file if necessary. Errors: as for OpenSegment.
func (s *Space) Room(u Urgency) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ensureFree(s.kept(u), s.kept(u))
}

// kept returns the number of free slots that are kept from writes of urgency u. mu is held.
func (s *Space) kept(u Urgency) int {
	if s.short {
		return 0
	}
	return s.reserve.kept(u, s.table.slots)
}

// ensureFree grows the file until want slots are unused; it succeeds with least if the file cannot grow. mu is held.
// The loop ends because background work ends, after which either enough slots are unused or the file is grown here.
func (s *Space) ensureFree(want, least int) error {
	for s.growth.broken == nil && s.unused() < want {
		if s.growth.ahead || s.punching {
			s.changed.Wait()
			continue
		}
		if err := s.growth.extend(want - s.unused()); err != nil {
			if s.unused() < least {
				return err
			}
			break
		}
	}
	return s.growth.broken
}

// takeable is ensureFree for a segment that is opened for a write of urgency u. It waits for the slot that is being
// zeroed if only the slots that no write may use are free: that one may turn out to be bad. The loop ends because
// zeroing ends. mu is held.
func (s *Space) takeable(u Urgency) error {
	for {
		err := s.ensureFree(s.kept(UrgencyOrdinary)+1, s.kept(u)+1)
		if err != nil || s.free.len() > s.kept(UrgencyCleaning) {
			return err
		}
		s.changed.Wait()
	}
}

// unused returns the number of slots that segments can use soon: those that are free, and the one that is being zeroed.
// It counts for the reserve, though not for its last slot, although the disk may not take the zeros. So a segment that
// is opened meanwhile does not wait for megabytes of them. mu is held.
func (s *Space) unused() int {
	n := s.free.len()
	if s.zeroer.state == zeroWriting {
		n++
	}
	return n
}

// atWork reports whether a goroutine has the end of the file or a free slot. mu is held.
func (s *Space) atWork() bool { return s.growth.ahead || s.zeroer.state == zeroWriting || s.punching }

// workAhead starts the background work that is due. mu is held.
func (s *Space) workAhead() {
	// The file grows before a segment has to wait for it. In a small one that recycles its slots, it is worth more that
	// it does not grow: a segment waits for it a few times at most.
	recycles := s.table.ledger.Recycled > 0 && s.table.slots < fewSlots
	few := s.unused() <= max(s.growth.stride()/2, s.kept(UrgencyOrdinary))
	if !recycles && few && !s.growth.ahead && !s.punching {
		ids := s.growth.startAhead()
		s.work.Go(func() { s.growth.growAhead(ids) })
	}
	if s.zeroer.start() {
		opened := s.zeroer.opened
		s.work.Go(func() { s.zeroer.zeroAhead(opened) })
	}
}

// DiskFull reports whether the file could not grow when a slot was last needed. Recycling resets it once the reserve
// has been refilled.
func (s *Space) DiskFull() bool { return s.growth.diskFull.Load() }

// Whole reports whether as many slots are free as are kept for urgent writes, and the file could grow when a slot was
// last needed. It does not make the file longer to find out.
func (s *Space) Whole() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.DiskFull() && s.free.len() >= s.kept(UrgencyOrdinary)
}

// Close is CloseContext that waits for patience at most.
func (s *Space) Close(patience time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return s.CloseContext(ctx)
}

// CloseContext ends the background work and waits for it until ctx ends. It returns false if the work still uses the
// file. It is called once.
func (s *Space) CloseContext(ctx context.Context) bool {
	close(s.quit)
	done := make(chan struct{})
	go func() {
		s.work.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

// SealSegment records that all of a segment is durable and that no buffer holds it. pages lists the pages in it, nil if
// there is no list; the Space keeps it.
func (s *Space) SealSegment(id format.SegmentID, base format.LSN, pages PageList) {
	if g := s.table.segment(id); !g.seal(base, pages) {
		panic(fmt.Sprintf("segments: sealing %v, which is %v with base %d, as base %d", id, g.State(), g.Base(), base))
	}
}

// Live counts the message at ptr as live.
func (s *Space) Live(ptr format.DiskPtr) { s.count(ptr, 1) }

// Dead counts the message at ptr, which was counted live, as dead.
func (s *Space) Dead(ptr format.DiskPtr) { s.count(ptr, -1) }

func (s *Space) count(ptr format.DiskPtr, sign int64) {
	s.table.at(ptr.Off).live.Add(sign * int64(format.AlignUp(int(ptr.Len))))
}

// AddLive adds n to the live bytes of a slot: n is the sum of several messages, negative if they are dead.
func (s *Space) AddLive(id format.SegmentID, n int64) { s.table.segment(id).live.Add(n) }

// Segment returns the description of a slot, which stays valid for the life of the Space.
func (s *Space) Segment(id format.SegmentID) *Segment { return s.table.segment(id) }

// At returns the description of the slot in which a file offset lies.
func (s *Space) At(off format.Offset) *Segment { return s.table.at(off) }

// LiveIn reports whether a segment with a byte from LSN first to last, other than the one that begins at other, has
// live bytes.
func (s *Space) LiveIn(first, last, other format.LSN) bool {
	size := format.LSN(s.table.segmentSize)
	first -= first % size
	s.mu.Lock()
	defer s.mu.Unlock()
	isLive := func(base format.LSN, id format.SegmentID) bool {
		return base != other && s.table.segment(id).Live() > 0
	}
	if (last-first)/size > format.LSN(len(s.table.index)) { // most of them are not there
		for base, id := range s.table.index {
			if base >= first && base <= last && isLive(base, id) {
				return true
			}
		}
		return false
	}
	for base := first; base <= last; base += size {
		if id, ok := s.table.index[base]; ok && isLive(base, id) {
			return true
		}
	}
	return false
}

// Find returns the slot of the segment that begins at base, and false if there is none.
func (s *Space) Find(base format.LSN) (format.SegmentID, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, ok := s.table.index[base]
	return id, ok
}
