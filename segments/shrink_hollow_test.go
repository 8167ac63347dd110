package segments

import (
	"errors"
	"slices"
	"syscall"
	"testing"

	"pagecache/segments/format"
)

// sparseFile is a file without contents on a disk with room for some slots. As on ext4, an Allocate that fails keeps
// what it has got.
type sparseFile struct {
	size  int // slots
	space map[format.SegmentID]bool
	room  int   // slots
	err   error // of Punch
	// beheaded says that the header of a free slot was punched.
	beheaded bool
}

func (f *sparseFile) ids(off, n int64) (ids []format.SegmentID) {
	for at := off / testSize; at*testSize < off+n; at++ {
		ids = append(ids, format.SegmentID(at))
	}
	return ids
}

func (f *sparseFile) Allocate(off, n int64) error {
	for _, id := range f.ids(off, n) {
		if !f.space[id] && f.room == 0 {
			return syscall.ENOSPC
		}
		if !f.space[id] {
			f.space[id] = true
			f.room--
		}
		f.size = max(f.size, int(id)+1)
	}
	return nil
}

func (f *sparseFile) Punch(off, n int64) error {
	f.beheaded = f.beheaded || off%testSize < format.SegmentStart
	for _, id := range f.ids(off, n) {
		if f.err == nil && f.space[id] {
			delete(f.space, id)
			f.room++
		}
	}
	return f.err
}

func (f *sparseFile) Truncate(size int64) error {
	f.size = int(size / testSize)
	for id := range f.space {
		if int(id) >= f.size {
			delete(f.space, id)
			f.room++
		}
	}
	return nil
}

func (f *sparseFile) Sync() error { return nil }

// sparseSpace returns a Space with n free slots that have space, of which kept are kept, on a disk with room for more.
func sparseSpace(n, kept, room int) (*Space, *sparseFile) {
	f := &sparseFile{space: map[format.SegmentID]bool{}, room: n + room}
	_ = f.Allocate(0, int64(n)*testSize)
	s := NewSpace(Options{File: f, SegmentSize: testSize, Slots: n, Reserve: kept})
	s.Ready(slots(n), nil)
	return s, f
}

// GiveBack leaves the slots that are kept, the lowest ones. Segments use the others before the file becomes longer, and
// no slot that has no space. Proves G1; trap 45.
func TestSpaceIsTakenAgainBeforeTheFileGrows(t *testing.T) {
	s, f := sparseSpace(50, 5, 3)
	if did, err := s.GiveBack(); !did || err != nil || len(f.space) != 5 || f.size != 50 || !f.space[4] {
		t.Fatalf("%v, %v; %v have space", did, err, f.space)
	}
	if did, err := s.GiveBack(); did || err != nil {
		t.Fatalf("again: %v, %v", did, err)
	}
	for i := range 48 {
		id, _, err := s.OpenSegment(format.LSN(i*testSize), UrgencyOrdinary)
		if err != nil || !f.space[id] || int(id) != i {
			t.Fatalf("segment %d: slot %v, has space: %v, %v", i, id, f.space[id], err)
		}
	}
	if f.beheaded {
		t.Error("a free slot has lost its header (rule 4d)")
	}
	if f.size > 55 {
		t.Errorf("the file has %d slots", f.size)
	}
}

// Only slots that nothing has used since the last call lose their space in GiveBackUnused.
func TestGiveBackUnusedKeepsWhatIsUsed(t *testing.T) {
	s, f := sparseSpace(20, 2, 0)
	use := func(n int) {
		for i := range n {
			if _, _, err := s.OpenSegment(format.LSN(i*testSize), UrgencyOrdinary); err != nil {
				t.Fatal(err)
			}
		}
		for i := range n {
			recycle(t, s, format.LSN(i*testSize))
		}
	}
	for _, n := range []int{18, 18, 10, 10, 3} {
		use(n)
		before := len(f.space)
		want := min(before, max(n, 2)+2)
		if _, err := s.GiveBackUnused(); err != nil || len(f.space) != want {
			t.Fatalf("%d used of %d: %d have space, want %d; %v", n, before, len(f.space), want, err)
		}
	}
}

// If the disk is full, slots of which Open does not know whether they have space are tried one by one. The space
// that a vain attempt has taken is given back. Proves rule 9.
func TestFullDiskFindsSlotsWithSpace(t *testing.T) {
	f := &sparseFile{size: 12, space: map[format.SegmentID]bool{3: true, 9: true}}
	s := NewSpace(Options{File: f, SegmentSize: testSize, Slots: 12})
	s.ReadyHollow(slots(12))
	open := func() (format.SegmentID, error) {
		id, _, err := s.OpenSegment(format.LSN(s.table.used*testSize), UrgencyOrdinary)
		if err == nil && !f.space[id] {
			t.Fatalf("slot %v has no space", id)
		}
		return id, err
	}
	for range 2 {
		if _, err := open(); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if _, err := open(); !errors.Is(err, ErrNoRoom) {
			t.Fatal(err)
		}
	}
	f.room = 1 // less than a stride
	if id, err := open(); err != nil || id != 0 || f.room != 0 {
		t.Fatalf("slot %v, %v, %d left", id, err, f.room)
	}
	if _, err := open(); !errors.Is(err, ErrNoRoom) {
		t.Fatal(err)
	}
}

// If the file system cannot give space back, the slots stay as they are. If it fails, the slot in question has perhaps
// lost some of its space, and takes it again.
func TestPunchFails(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EOPNOTSUPP, syscall.EIO} {
		s, f := sparseSpace(10, 1, 0)
		f.err = errno
		did, err := s.GiveBack()
		hollow := []format.SegmentID(nil)
		if errno == syscall.EIO {
			hollow = []format.SegmentID{9}
		}
		if did || (err == nil) != (errno == syscall.EOPNOTSUPP) || !slices.Equal(s.free.hollow, hollow) {
			t.Errorf("%v: %v, %v; hollow: %v", errno, did, err, s.free.hollow)
		}
		if did, err := s.GiveBack(); did || err != nil {
			t.Errorf("%v, again: %v, %v", errno, did, err)
		}
		if n, err := openMany(s, 9); n != 9 || err != nil {
			t.Errorf("%v: %d segments, %v", errno, n, err)
		}
	}
}

// Shrink removes hollow slots at the end, and those with space that are not kept, up to the first slot in use.
func TestShrinkRemovesHollowSlots(t *testing.T) {
	for kept := range 12 {
		s, f := sparseSpace(20, kept, 0)
		if _, err := openMany(s, 3); err != nil {
			t.Fatal(err)
		}
		if _, err := s.GiveBack(); err != nil {
			t.Fatal(err)
		}
		before := len(f.space)
		did, err := s.Shrink(0, func(format.Extent) error { return nil })
		want := 3 + kept
		if did != (20-want >= minShrink) || err != nil || did && f.size != want || len(f.space) != before {
			t.Errorf("%d kept: %v, %v; %d slots, want %d; %d with space, before %d", kept, did, err, f.size, want,
				len(f.space), before)
		}
		if n := len(s.free.hollow); n > 0 && int(s.free.hollow[0]) >= s.table.slots {
			t.Errorf("%d kept: slot %v is free, and the file has %d", kept, s.free.hollow[0], s.table.slots)
		}
		if last, ok := s.Last(); ok {
			t.Errorf("the last slot in use is %v, and a free one with space lies before it", last.ID)
		}
	}
}

// On a disk with less room than the file asked for, the space that it got is given back, except for the slot that is
// used. That slot keeps its header: only the bytes behind may be zeroed ahead. Proves rule 9, G1.
func TestVainAttemptGivesItsSpaceBack(t *testing.T) {
	s, f := sparseSpace(40, 0, 0)
	if _, err := s.GiveBack(); err != nil || len(f.space) != 0 {
		t.Fatalf("%v have space, %v", f.space, err)
	}
	f.room = 3 // less than a stride
	if id, _, err := s.OpenSegment(0, UrgencyOrdinary); err != nil || id != 0 || !f.space[id] {
		t.Fatalf("slot %v, %v", id, err)
	}
	if f.room != 2 || len(f.space) != 1 {
		t.Errorf("%v have space, and there is room for %d more", f.space, f.room)
	}
	if from := s.Blank(); from != format.SegmentStart {
		t.Errorf("blank from offset %d on, want %d: the header must stay", from, format.SegmentStart)
	}
}

// A short segment leaves a slot without space, which gets some before another segment uses it, and is zeroed ahead like
// others. That segment is a whole one. Proves G1.
func TestShortSlotBecomesHollow(t *testing.T) {
	f := &sparseFile{space: map[format.SegmentID]bool{}, room: 100}
	s := NewSpace(Options{File: f, SegmentSize: testSize, Short: 8192})
	next := 0
	open := func() format.SegmentID {
		id, _, err := s.OpenSegment(format.LSN(next*testSize), UrgencyOrdinary)
		if err != nil {
			t.Fatal(err)
		}
		next++
		return id
	}
	if first, second := open(), open(); first != 0 || second != 1 {
		t.Fatalf("slots %v and %v", first, second)
	}
	recycle(t, s, 0)
	if !slices.Equal(s.free.hollow, slots(1)) || slices.Contains(s.free.ids, 0) {
		t.Errorf("hollow %v, with space %v", s.free.hollow, s.free.ids)
	}
	s.mu.Lock()
	err := s.growth.extend(1)
	s.mu.Unlock()
	if from, ok := s.free.blank[0]; err != nil || !ok || from != format.SegmentStart {
		t.Errorf("blank from offset %d on, %t, %v; want %d: the header must stay", from, ok, err, format.SegmentStart)
	}
	if id := open(); id != 0 {
		t.Fatalf("the next slot is %v", id)
	}
	if recycle(t, s, format.LSN((next-1)*testSize)); !slices.Contains(s.free.ids, 0) {
		t.Errorf("after a whole segment: hollow %v, with space %v", s.free.hollow, s.free.ids)
	}
}

// The space of a short segment is given back, too: its slot may stay hollow for ever. Proves trap 45.
func TestShortSlotGivesSpaceBack(t *testing.T) {
	f := &sparseFile{space: map[format.SegmentID]bool{}, room: 100}
	s := NewSpace(Options{File: f, SegmentSize: testSize, Short: 8192, Reserve: 3})
	for i := range 2 {
		if id, _, err := s.OpenSegment(format.LSN(i*testSize), UrgencyOrdinary); err != nil || int(id) != i {
			t.Fatalf("slot %v, %v", id, err)
		}
	}
	recycle(t, s, 0)
	if did, err := s.GiveBackUnused(); !did || err != nil || f.space[0] || f.beheaded {
		t.Errorf("GiveBackUnused: %t, %v; %v have space, header punched: %t", did, err, f.space, f.beheaded)
	}
	if did, err := s.GiveBackUnused(); did || err != nil {
		t.Errorf("again: %t, %v", did, err)
	}
}
