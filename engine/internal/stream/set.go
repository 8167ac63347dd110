package stream

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"pagecache/engine/internal/logstore"
	"pagecache/iouring"
	"pagecache/recovery"
	"pagecache/segments/format"
)

// Errors of this package.
var (
	// ErrOrder reports a record whose number is not above that of the record before it, or is no number at all.
	ErrOrder = errors.New("record number out of order")
	// ErrNoRecord reports that a stream has no record of this number.
	ErrNoRecord = errors.New("no record of that number")
	// ErrDropped reports a record that was dropped.
	ErrDropped = errors.New("record was dropped")
)

// Set is the streams of a log. Its methods are safe for concurrent use.
type Set struct {
	store *logstore.Store
	size  format.LSN // of a segment
	// broken is the error of the first part of the log that could not be read when it was opened. Set by Load.
	broken error

	loading *Stream // of the last message that Load has read one by one

	names   sync.Mutex                  // never held across anything that waits
	streams map[format.StreamID]*Stream // guarded by names

	mu sync.Mutex // held while a message is appended; before names
	// segments are those that hold messages of streams, and the newest of all, in the order of the log.
	segments []*segment
	tables   []*table // of no segment
	// noteBytes is the length of the messages of all notes that have a value.
	noteBytes int
	// writing has the long records that are being written. mu guards it.
	writing map[*Long]bool
	// passed is the base of the newest segment when CarryRecords looked last.
	passed  format.LSN
	made    []*table // all of them
	tidying sync.Mutex
	copied  func(format.StreamID) // nil except in tests, which set it before the Set is shared: see OnCopied
}

// Stream is the records of one stream.
type Stream struct {
	set *Set
	id  format.StreamID
	// state is written under Set.mu, and publishes the runs and segments that it refers to. A stale read is an earlier
	// state of the stream, which is as good.
	state atomic.Pointer[state]
	// run is the run that the next record may join; nil if there is none. Set.mu guards it.
	run *run
	// owed says that the first record of run did not reserve the room that the run needs in the index of its segment.
	owed bool
	// lastCut is the LSN of the newest Cut of this opening; 0 if there is none. Set.mu guards it.
	lastCut format.LSN
	// notes are the *noted of the stream by name. Written under Set.mu. A stale read is the value before.
	notes sync.Map
	// cuts is raised before and after each change of state that removes records at the end. It publishes nothing. A
	// reader that finds the value of an earlier look has seen no record since that follows removed ones. It only rises.
	cuts atomic.Uint64
	// waiters is the number of goroutines in Wait. It publishes nothing: Wait looks at the state after it is raised,
	// and Append changes the state before it looks at waiters.
	waiters atomic.Int32
	wait    sync.Mutex
	changed chan struct{} // closed at the next change; nil if nobody waits. wait guards it
	// marks are the last changes that have removed records at the end, except for those that a later one with a lower
	// number includes; so both their fields rise. wait guards them.
	marks []marked
	long  longState // of this stream. Belongs to CarryRecords
}

// New returns the streams of a store that was prepared. Load reads them.
func New(store *logstore.Store) *Set {
	s := &Set{store: store, size: format.LSN(store.SegmentSize()), streams: map[format.StreamID]*Stream{}}
	store.Attach(s)
	return s
}

// Load reads the streams, beside the start of the store and before any other call. found are the segments of the log,
// in order, and end is where it goes on.
func (s *Set) Load(found []recovery.Segment, end format.LSN) { s.broken = s.load(found, end) }

// Remove implements logstore.Attachment: a Set has no files.
func (s *Set) Remove() {}

// Close implements logstore.Attachment. It releases the tables.
func (s *Set) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.made {
		iouring.FreeBuffer(t.mem)
	}
	s.made, s.tables = nil, nil
}

// Stream returns the stream of that number. It fails if a part of the log could not be read when it was opened: then it
// is not known which records the streams have.
func (s *Set) Stream(id format.StreamID) (*Stream, error) {
	if s.broken != nil {
		return nil, s.broken
	}
	return s.stream(id), nil
}

// stream returns the stream of that number, which it makes if there is none.
func (s *Set) stream(id format.StreamID) *Stream {
	s.names.Lock()
	defer s.names.Unlock()
	t := s.streams[id]
	if t == nil {
		t = &Stream{set: s, id: id}
		t.state.Store(&state{})
		s.streams[id] = t
	}
	return t
}

// IDs returns the numbers of the streams that have records or notes, in rising order.
func (s *Set) IDs() (ids []format.StreamID) {
	for _, t := range s.all() {
		if len(t.state.Load().pieces) > 0 || len(t.Notes()) > 0 {
			ids = append(ids, t.id)
		}
	}
	slices.Sort(ids)
	return ids
}

// all returns the streams, in any order.
func (s *Set) all() []*Stream {
	s.names.Lock()
	defer s.names.Unlock()
	return slices.Collect(maps.Values(s.streams))
}

// Low returns an LSN below which no stream has a record, or a part of one, nor will have one from now on. It is 0 if a
// part of the log could not be read, and the rest has messages of streams: then nobody knows.
func (s *Set) Low() format.LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	low, streams := s.store.Log.StableEnd(), s.all()
	if s.broken != nil && len(streams) > 0 {
		return 0
	}
	for l := range s.writing {
		low = min(low, l.low)
	}
	for _, t := range streams {
		if base := t.base(); base != format.NoLSN {
			low = min(low, base)
		}
	}
	return low
}

// Forget releases what is known of the segments below first, which have left the log or will.
func (s *Set) Forget(first format.LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, _ := slices.BinarySearchFunc(s.segments, first, func(g *segment, first format.LSN) int {
		return cmp.Compare(g.base, first)
	})
	for _, g := range s.segments[:n] {
		s.release(g)
	}
	s.segments = slices.Delete(s.segments, 0, n)
	s.forgetNotes(first)
}

// segmentAt returns the segment that holds the message at lsn and off, which is the newest one of all streams. opened
// says that it is the first message of streams in the segment. The caller holds mu.
func (s *Set) segmentAt(lsn format.LSN, off format.Offset) (g *segment, opened bool, err error) {
	base := lsn - lsn%s.size
	if n := len(s.segments); n > 0 && s.segments[n-1].base == base {
		return s.segments[n-1], false, nil
	}
	g = &segment{base: base, slot: s.store.SlotOf(off)}
	t, err := s.take()
	if err != nil {
		return nil, false, err
	}
	t.owner.Store(int64(base))
	g.table.Store(t)
	s.segments = append(s.segments, g)
	return g, true, nil
}

// take returns a table of no segment. The caller holds mu.
func (s *Set) take() (*table, error) {
	if n := len(s.tables); n > 0 {
		t := s.tables[n-1]
		s.tables = s.tables[:n-1]
		return t, nil
	}
	mem, err := iouring.AllocBuffer(int(s.size))
	if err != nil {
		return nil, err
	}
	t := &table{mem: mem}
	t.owner.Store(int64(format.NoLSN))
	s.made = append(s.made, t)
	return t, nil
}

// release takes its table from a segment. The caller holds mu.
func (s *Set) release(g *segment) {
	if t := g.table.Swap(nil); t != nil {
		t.owner.Store(int64(format.NoLSN)) // before anything is written to the table again
		t.used = 0
		s.tables = append(s.tables, t)
	}
}

// Tidy replaces the tables of sealed segments by the indexes in the map. One goroutine at a time does so; the others
// return at once.
func (s *Set) Tidy() {
	if !s.tidying.TryLock() {
		return
	}
	defer s.tidying.Unlock()
	s.mu.Lock()
	n := max(0, len(s.segments)-1) // the newest may still grow
	sealed := slices.Clone(s.segments[:n])
	s.mu.Unlock()
	for _, g := range sealed {
		if g.kept || g.table.Load() == nil || !s.store.IsSealed(g.slot.Offset(int(s.size))) {
			continue
		}
		v, err := s.readIndex(g)
		s.mu.Lock()
		if g.kept = err != nil || !s.adopt(g, v); !g.kept {
			s.release(g)
		}
		s.mu.Unlock()
	}
}
