package clean

import (
	"slices"
	"testing"

	"pagecache/engine/internal/logstore"
	"pagecache/internal/vfs"
	"pagecache/segments"
	"pagecache/segments/format"
)

// Was looks at exactly the blocks that a message touches, in the segment that Look has looked at.
func TestWarmthOfBlocks(t *testing.T) {
	const b = blockSize
	w := Warmth{extent: Extent{From: 8 * b, To: 12 * b}, warm: []bool{true, true, false, true}}
	for _, c := range []struct {
		off, n int
		want   bool
	}{
		{8 * b, 1, true}, {8 * b, b, true}, {8 * b, 2 * b, true}, {8*b + 5, 2*b - 5, true}, {9 * b, b, true},
		{8 * b, 2*b + 1, false}, {10 * b, 1, false}, {9*b + 1, b, false}, {11 * b, b, true}, {11*b + 7, b - 7, true},
		{10*b + 1, 2*b - 1, false},
		{7 * b, b, false}, {12 * b, 1, false}, {8*b - 1, 2, false}, {11 * b, b + 1, false}, // partly in other segments
	} {
		if got := w.Was(format.DiskPtr{Off: format.Offset(c.off), Len: uint32(c.n)}); got != c.want {
			t.Errorf("%d bytes at %d: warm %v", c.n, c.off, got)
		}
	}
}

// warmMap notes what is read ahead.
type warmMap struct {
	vfs.Map
	read []vfs.Range
}

func (m *warmMap) Warm(xs []vfs.Range) (int, error) {
	m.read = append(m.read, xs...)
	return len(xs), nil
}

// endlessFile is a file that takes everything.
type endlessFile struct{}

func (endlessFile) Allocate(int64, int64) error { return nil }
func (endlessFile) Sync() error                 { return nil }
func (endlessFile) Truncate(int64) error        { return nil }
func (endlessFile) Punch(int64, int64) error    { return nil }

// The new places of warm pages are read once, all blocks of them, when their segments are sealed: earlier they are read
// from an io buffer (rule 2), and places whose segment was recycled belong to others. Trap 53.
func TestWarmthReadsSealedPlacesOnce(t *testing.T) {
	const size, b = 64 << 10, blockSize
	view := &warmMap{}
	s := &logstore.Store{View: view, Space: segments.NewSpace(segments.Options{File: endlessFile{}, SegmentSize: size})}
	s.Super.SegmentSize = size
	w := Warmth{Store: s}
	open := func(base format.LSN) format.SegmentID {
		id, _, err := s.Space.OpenSegment(base, segments.UrgencyOrdinary)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	moved := func(id format.SegmentID, base format.LSN, off, n int) {
		ptr := format.DiskPtr{Off: id.Offset(size) + format.Offset(off), Len: uint32(n)}
		w.Moved(base+format.LSN(off), ptr)
	}
	want := func(xs ...vfs.Range) {
		t.Helper()
		w.Read()
		for i := range xs {
			xs[i] = vfs.Range{Off: xs[i].Off, Len: xs[i].Len}
		}
		if !slices.Equal(view.read, xs) {
			t.Errorf("read %v, want %v", view.read, xs)
		}
		view.read = nil
	}
	at := func(id format.SegmentID, block, blocks int) vfs.Range {
		return vfs.Range{Off: int64(id.Offset(size)) + int64(block)*b, Len: blocks * b}
	}
	first, second := open(0), open(size)
	moved(first, 0, b+10, 100)
	moved(first, 0, b+110, b)     // reaches into block 2
	moved(first, 0, 2*b+110, b/2) // in block 2
	moved(first, 0, 5*b, b)       // exactly block 5
	moved(second, size, b, 2*b+1)
	want()
	s.Space.SealSegment(first, 0, nil)
	want(at(first, 1, 2), at(first, 5, 1))
	want()
	s.Space.SealSegment(second, size, nil)
	want(at(second, 1, 3))
	// A segment that is recycled before it is looked at, its slot used again or not.
	for _, again := range []bool{false, true} {
		base := format.LSN(2 * size)
		if again {
			base = 3 * size
		}
		id := open(base)
		moved(id, base, b, 100)
		s.Space.SealSegment(id, base, nil)
		if !s.Space.Drain(id) {
			t.Fatal("it does not drain")
		}
		s.Space.Recycle([]format.SegmentID{id})
		if again {
			if next := open(4 * size); next != id {
				t.Fatalf("slot %v, want %v", next, id)
			}
			s.Space.SealSegment(id, 4*size, nil)
		}
		want()
		if w.moved != nil {
			t.Errorf("places are remembered: %v", w.moved)
		}
	}
	// Segments that follow each other in the file, but not in the log.
	moved(first, 0, size-b, b)
	moved(first+1, 7*size, 0, b)
	if len(w.moved) != 2 {
		t.Errorf("places in two segments count as one: %v", w.moved)
	}
}
