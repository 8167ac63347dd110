package segments

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pagecache/segments/format"
)

// File is what Space needs of the log file.
type File interface {
	Allocate(off, n int64) error
	Sync() error
	Truncate(size int64) error
}

// State is what a slot is used for.
type State uint32

// The states of a slot; see the package comment.
const (
	Free State = iota
	Active
	Inactive
	Draining
)

// String returns the state's name.
func (s State) String() string { return [...]string{"free", "active", "inactive", "draining"}[s] }

// Segment describes one slot.
type Segment struct {
	// state is written by Space's transitions only, under Space.mu; read by anyone. A stale read sends a reader to the io
	// buffers, which then point it to the file.
	state atomic.Uint32
	// live is how many bytes of messages in the slot are current, rounded up as on disk. Written by Live and Dead.
	live atomic.Int64
	// base and seed are written before the state leaves Free.
	base atomic.Int64
	seed atomic.Uint32
	// pages is set by SealSegment, if the segment has a list.
	pages atomic.Pointer[PageList]
}

// State returns the slot's state.
func (s *Segment) State() State { return State(s.state.Load()) }

// Live returns the live bytes.
func (s *Segment) Live() int64 { return s.live.Load() }

// Base returns the LSN of the segment's first byte.
func (s *Segment) Base() format.LSN { return format.LSN(s.base.Load()) }

// Pages returns the list of the segment's pages; false: it has none.
func (s *Segment) Pages() (PageList, bool) {
	if l := s.pages.Load(); l != nil {
		return *l, true
	}
	return nil, false
}

// Seed returns what the checksums of the segment's messages start from.
func (s *Segment) Seed() format.Seed { return format.Seed(s.seed.Load()) }

const (
	chunkBits = 10
	chunkSize = 1 << chunkBits
	// maxAhead bounds how far the file grows ahead of need, in bytes.
	maxAhead = 128 << 20
	// smallAhead is how many bytes are few enough even for a small file.
	smallAhead = 16 << 20
)

// Space hands out slots of the log file and counts what lives in them. Safe for concurrent use.
type Space struct {
	o Options

	// chunks grows by whole chunks; each pointer is written once (under mu) and publishes a zeroed chunk.
	chunks [1 << 12]atomic.Pointer[[chunkSize]Segment]

	mu        sync.Mutex
	free      []format.SegmentID              // Free, space reserved; the lowest, which is used next, last
	index     map[format.LSN]format.SegmentID // by base, of the slots that are not Free
	zeroed    map[format.SegmentID]bool       // of free: wholly written with zeros
	slots     int                             // slots that the file holds
	used      int                             // slots that are not Free
	opened    int                             // calls of OpenSegment that got a slot
	growing   bool                            // growAhead is at work
	waiting   bool                            // zeroAhead is at work, or waits whether it is worth it
	zeroing   bool                            // zeroAhead has a slot
	moved     sync.Cond                       // on mu: growing or zeroing has ended
	ahead     sync.WaitGroup                  // on growAhead and zeroAhead
	quit      chan struct{}                   // closed by Close
	recycled  uint64                          // over the life of the store
	newest    format.LSN                      // base of the segment opened last
	tight     atomic.Bool                     // the file could not grow when it was last tried. Written under mu
	broken    error                           // the first I/O error while growing, for good
	refused   error                           // the lack of room that growing met when it was last tried
	refusedAt time.Time
}

// Options say what a Space works on.
type Options struct {
	File        File
	SegmentSize int // bytes
	Slots       int // that the file holds
	Store       format.StoreID
	Generation  format.Generation

	// Background grows the file ahead of need, in a goroutine of its own.
	Background bool
	// Recycled is how many segments were recycled before this opening.
	Recycled uint64
	// Reserve is how many slots are kept for what makes room, and one more for each ReservePer slots of the file, if that is not 0; see Urgency.
	Reserve, ReservePer int
	// Opened, if set, is called after each OpenSegment, and must not block.
	Opened func()
	// Zero writes zeros to a range of the file, durably, or stops with an error once quit is closed. With Background, the next slot is zeroed ahead if the segments last
	// longer than ZeroAfter each: the first write to space that is only reserved costs the file system a change of its own
	// books, so that a small durable write takes about twice as long as one to space that was written before. When
	// segments go by faster than that, bandwidth counts, and writing everything twice would halve it. nil: never.
	Zero      func(off, n int64, quit <-chan struct{}) error
	ZeroAfter time.Duration
}

// Urgency says who wants to write, and how much of what is kept (Options.Reserve) he may use when the file cannot grow.
type Urgency uint32

// How urgent a write is.
const (
	Ordinary Urgency = iota // it may use none of what is kept
	Freeing                 // all but the last KeptForCleaning: it makes room once the cleaner has come by
	Cleaning                // all but the last: it makes room, or what does waits for it
)

const (
	// KeptForCleaning is how many of the slots that are kept are kept from frees, too: two for the cleaner, and the last. One for the cleaner would do if everything that
	// it moves out of a segment fitted into another always; each flush takes the rest of a block besides.
	KeptForCleaning = 3
	// keptForOpening is the last slot: an opening after a crash writes the tail of the log anew (rule 1), and gives the old one back.
	keptForOpening = 1
)

// kept is how many free slots are kept from who is no more urgent than u. mu is held.
func (s *Space) kept(u Urgency) int {
	switch u {
	case Ordinary:
		if s.o.ReservePer > 0 {
			return s.o.Reserve + s.slots/s.o.ReservePer
		}
		return s.o.Reserve
	case Freeing:
		return min(KeptForCleaning, s.o.Reserve)
	}
	return min(keptForOpening, s.o.Reserve)
}

// NewSpace returns a Space; Adopt then says which slots are in use, and Ready which are free.
func NewSpace(o Options) *Space {
	s := &Space{o: o, slots: o.Slots, index: map[format.LSN]format.SegmentID{}, zeroed: map[format.SegmentID]bool{}, quit: make(chan struct{}),
		recycled: o.Recycled, newest: format.NoLSN}
	s.moved.L = &s.mu
	return s
}

// MaxSlots is how many slots a file can have.
const MaxSlots = chunkSize << 12

// Segment returns the slot's description.
func (s *Space) Segment(id format.SegmentID) *Segment {
	p := &s.chunks[id>>chunkBits]
	c := p.Load()
	if c == nil {
		p.CompareAndSwap(nil, new([chunkSize]Segment))
		c = p.Load()
	}
	return &c[id&(chunkSize-1)]
}

// Adopt says that a slot holds a segment found by recovery, Active if it is the one that the log goes on in.
func (s *Space) Adopt(id format.SegmentID, base format.LSN, seed format.Seed, active bool) {
	g := s.Segment(id)
	g.base.Store(int64(base))
	g.seed.Store(uint32(seed))
	state := Inactive
	if active {
		state = Active
	}
	g.state.Store(uint32(state))
	s.index[base] = id
	s.used++
	s.newest = max(s.newest, base)
}

// Append reserves one more slot at the end of the file and returns it. It is the caller's.
func (s *Space) Append() (format.SegmentID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.reserve(s.slots, 1); err != nil {
		return 0, err
	}
	s.slots++
	return format.SegmentID(s.slots - 1), nil
}

// Ready makes the slots given free for use: those that recovery found to hold nothing. fresh are those that were never written. Others are not
// zeroed ahead, which is for fresh ones, and would take their headers away.
func (s *Space) Ready(free, fresh []format.SegmentID) {
	for _, id := range free {
		s.zeroed[id] = true
	}
	s.free = append(s.free, free...)
	slices.SortFunc(s.free, func(a, b format.SegmentID) int { return cmp.Compare(b, a) })
	for _, id := range fresh {
		delete(s.zeroed, id)
	}
}

// put adds a slot to the free ones. mu is held.
func (s *Space) put(id format.SegmentID) {
	i, _ := slices.BinarySearchFunc(s.free, id, func(a, b format.SegmentID) int { return cmp.Compare(b, a) })
	s.free = slices.Insert(s.free, i, id)
}

// OpenSegment takes a slot for the segment that begins at base. When the file cannot grow, what is kept is only for who is urgent enough, and so is what is
// left of a segment that was opened in such a slot: least says who may write into it (Room). OpenSegment grows the file if too few slots are free; where that fails
// nothing has changed. After an ErrNoRoom it may be tried again. Any other error is for good: a sync that failed once tells nobody a second time
// (rule 8).
func (s *Space) OpenSegment(base format.LSN, u Urgency) (id format.SegmentID, least Urgency, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.growTo(s.kept(Ordinary)+1, s.kept(u)+1); err != nil {
		return 0, 0, err
	}
	for len(s.free) <= s.kept(least) {
		least++
	}
	id = s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	delete(s.zeroed, id)
	s.used++
	s.opened++
	s.newest = max(s.newest, base)
	g := s.Segment(id)
	g.base.Store(int64(base))
	g.seed.Store(uint32(format.MakeSeed(s.o.Store, s.o.Generation, id)))
	g.state.Store(uint32(Active))
	s.index[base] = id
	if s.o.Background && s.used > 1 {
		s.workAhead()
	}
	if s.o.Opened != nil {
		s.o.Opened()
	}
	return id, least, nil
}

// Room reports whether who is no more urgent than u may write into a segment that was opened in a slot that was kept from him: whether as many are kept again. It
// grows the file if it must; errors as for OpenSegment.
func (s *Space) Room(u Urgency) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.growTo(s.kept(u), s.kept(u))
}

// growTo grows the file until so many slots are free, and at the least so many. mu is held. The loop ends because the work in the background ends, after which
// either enough are free or the file is grown here.
func (s *Space) growTo(want, least int) error {
	for s.broken == nil && len(s.free) < want {
		if s.growing || s.zeroing {
			s.moved.Wait()
			continue
		}
		err := s.refused
		if err == nil || time.Since(s.refusedAt) > s.o.refusal() {
			err = s.grow(want - len(s.free))
		}
		if err == nil {
			continue
		}
		s.tight.Store(true) // which recycling may have taken back
		if len(s.free) < least {
			return err
		}
		break
	}
	return s.broken
}

// Tight reports whether the file could not grow when it was last tried.
func (s *Space) Tight() bool { return s.tight.Load() }

// Recycled is how many segments have been recycled over the life of the store.
func (s *Space) Recycled() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.recycled
}

// stride is how many slots are worth reserving at once: a sixteenth of the file, or a quarter while it is small, at most maxAhead bytes, at least two. Once segments are
// recycled the file hardly grows, and room that is not needed would only make it larger.
func (s *Space) stride() int {
	n := max(s.slots/16, min(s.slots/4, smallAhead/s.o.SegmentSize))
	if s.recycled > 0 {
		n = s.slots / 64
	}
	return max(2, min(n, maxAhead/s.o.SegmentSize))
}

// growAhead grows the file in the background. Lack of room shows when a slot is needed and there is none, an I/O error at the next
// segment.
func (s *Space) growAhead(first, n int) {
	err := s.reserve(first, n)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.growing = false
	if err == nil {
		s.add(first, n)
		s.refused = nil
		s.tight.Store(false)
	}
	s.breakOn(err)
	s.moved.Broadcast()
}

// breakOn remembers an error that is not lack of room. mu is held.
func (s *Space) breakOn(err error) {
	if err != nil && s.broken == nil && !errors.Is(err, ErrNoRoom) {
		s.broken = err
	}
}

// zeroAhead zeroes the slot that is used next, unless segments go by too fast. While it writes the slot is not free.
func (s *Space) zeroAhead(opened int) {
	closed := false
	select {
	case <-time.After(s.o.ZeroAfter):
	case <-s.quit:
		closed = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.waiting = false }()
	if closed || s.opened != opened || len(s.free) == 0 || s.growing {
		return
	}
	id := s.free[len(s.free)-1]
	if s.zeroed[id] {
		return
	}
	s.free = s.free[:len(s.free)-1]
	s.zeroing = true
	s.mu.Unlock()
	err := s.o.Zero(int64(id.Offset(s.o.SegmentSize)), int64(s.o.SegmentSize), s.quit)
	s.mu.Lock()
	s.zeroing = false
	s.put(id)
	if err == nil {
		s.zeroed[id] = true
	}
	s.moved.Broadcast()
}

// workAhead starts what is worth doing in the background now. mu is held.
func (s *Space) workAhead() {
	if n := s.stride(); len(s.free) <= max(n/2, s.kept(Ordinary)) && !s.growing && !s.zeroing { // before the next has to wait for it
		s.growing = true
		first := s.slots
		s.ahead.Go(func() { s.growAhead(first, n) })
	}
	if opened := s.opened; s.o.Zero != nil && !s.waiting {
		s.waiting = true
		s.ahead.Go(func() { s.zeroAhead(opened) })
	}
}

// Close ends the work in the background and waits for it, so long at most: false means that it still uses the file.
func (s *Space) Close(patience time.Duration) bool {
	close(s.quit)
	done := make(chan struct{})
	go func() {
		s.ahead.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-time.After(patience):
		return false
	}
}

// grow adds slots at the end of the file, fewer than are wanted if there is no room for as many.
func (s *Space) grow(want int) error {
	n := max(want, s.stride())
	err := s.reserve(s.slots, n)
	if errors.Is(err, ErrNoRoom) && n > 1 {
		n = 1
		err = s.reserve(s.slots, n)
	}
	if err == nil {
		s.add(s.slots, n)
	}
	s.breakOn(err)
	s.refused = nil
	if errors.Is(err, ErrNoRoom) {
		s.refused, s.refusedAt = err, time.Now()
	}
	s.tight.Store(s.refused != nil)
	return err
}

// refusal is for how long a file that could not grow is not asked again: on a full disk all who write would stand in the cleaner's way.
func (o *Options) refusal() time.Duration {
	if o.Background {
		return 2 * time.Millisecond
	}
	return 0
}

// reserve takes the disk space of n slots from first on, durably: trap 13.
func (s *Space) reserve(first, n int) error {
	if first+n > MaxSlots {
		return fmt.Errorf("grow log beyond %d segments: %w", MaxSlots, errTooManySegments)
	}
	size := int64(s.o.SegmentSize)
	if err := s.o.File.Allocate(int64(first)*size, int64(n)*size); err != nil {
		return fmt.Errorf("grow log by %d segments: %w", n, noRoom(err))
	}
	if err := s.o.File.Sync(); err != nil {
		return fmt.Errorf("sync log after growing: %w", noRoom(err))
	}
	return nil
}

func (s *Space) add(first, n int) {
	for i := first; i < first+n; i++ {
		s.put(format.SegmentID(i))
	}
	s.slots = max(s.slots, first+n)
}

// SealSegment says that the segment is wholly durable and held by no buffer. pages lists the pages that are in it; nil: there is no list.
func (s *Space) SealSegment(id format.SegmentID, base format.LSN, pages PageList) {
	g := s.Segment(id)
	if g.State() != Active || g.Base() != base {
		panic(fmt.Sprintf("segments: sealing %v, which is %v with base %d, as base %d", id, g.State(), g.Base(), base))
	}
	if pages != nil {
		g.pages.Store(&pages)
	}
	g.state.Store(uint32(Inactive))
}

// Live counts n bytes more alive in the slot where ptr points.
func (s *Space) Live(ptr format.DiskPtr) { s.count(ptr, 1) }

// Dead counts what ptr points to as dead.
func (s *Space) Dead(ptr format.DiskPtr) { s.count(ptr, -1) }

func (s *Space) count(ptr format.DiskPtr, sign int64) {
	id := format.SegmentID(int64(ptr.Off) / int64(s.o.SegmentSize))
	s.Segment(id).live.Add(sign * int64(format.AlignUp(int(ptr.Len))))
}

// At returns the segment in which a file offset lies.
func (s *Space) At(off format.Offset) *Segment {
	return s.Segment(format.SegmentID(int64(off) / int64(s.o.SegmentSize)))
}

// Totals returns the slots of the file, how many of them are in use, and the live bytes in all of them.
func (s *Space) Totals() (slots, used int, live int64) {
	s.mu.Lock()
	slots, used = s.slots, s.used
	s.mu.Unlock()
	for i := range slots {
		live += s.Segment(format.SegmentID(i)).Live()
	}
	return slots, used, live
}

// Find returns the slot that holds the segment that begins at base.
func (s *Space) Find(base format.LSN) (format.SegmentID, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, ok := s.index[base]
	return id, ok
}
