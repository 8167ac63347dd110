package stream

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"sync/atomic"
	"unsafe"

	"pagecache/internal/vfs"
	"pagecache/mmapread"
	"pagecache/segments/format"
)

// segment is a segment that holds messages of streams. Its slot does not change while the log is open.
type segment struct {
	base format.LSN
	slot format.SegmentID
	// table holds the offsets of the records until mapped is set. Written under Set.mu; publishes the table and its
	// owner. It is nil once mapped is set or the segment was dropped.
	table atomic.Pointer[table]
	// mapped is the index in the map. Set once, before table is cleared.
	mapped atomic.Pointer[mapped]
	// runs are those of the segment until mapped is set; nil for a Cut and a note. Set.mu guards them.
	runs []*run
	// notes is the number of notes whose newest message is in the segment. Set.mu guards it.
	notes int
	kept  bool // the segment has no index of its runs, so the table stays. Belongs to Tidy
}

// mapped is an index in the map.
type mapped struct {
	off    int64    // in the file, of the offsets of all runs
	starts []uint32 // for each run, how many offsets there are before it
	sum    uint32   // of the runs that the segment was adopted with
	// checked is set once the index was read through the map and verified there. It publishes nothing: a stale false
	// costs another look.
	checked atomic.Bool
}

// run is records of one stream that follow each other in a segment, with rising numbers.
type run struct {
	seg     *segment
	ordinal int // in the index of the segment
	first   format.Seq
	last    format.Seq // of the newest record. Set.mu guards it
	long    bool       // it is one long record
	low     format.LSN // the base of seg; of a long record, of the segment of its first part
	// sparse says that numbers are missing between first and last. It is set, once, before a state publishes the record
	// that follows the gap: a reader that finds it false finds all records up to that of its state without gaps.
	sparse atomic.Bool
	// count is the number of records. Written under Set.mu, after the offset of the record; publishes it.
	count atomic.Uint32
	// extents are the offsets in the table of the parts of the list of offsets: the i-th part has firstExtent << i
	// offsets. Each is written before the count that includes its records. nil if the table never had the run.
	extents *[maxExtents]uint32
}

const (
	firstExtent = 4
	maxExtents  = 20
	offsetSize  = 4
)

// table is memory for the offsets of the records of one segment at a time.
type table struct {
	mem  []byte
	used int // bytes. Set.mu guards it
	// owner is the base of the segment whose offsets are here, or NoLSN. Written under Set.mu, NoLSN before the table
	// is used again: a reader that finds the same owner after it has read an offset has read one of that segment. It
	// publishes nothing. Bases rise, so a segment owns one table in its life.
	owner atomic.Int64
}

// word returns the offset at a place of the table.
func (t *table) word(at uint32) *atomic.Uint32 {
	// mem is aligned to a page, and at to 4 bytes.
	return (*atomic.Uint32)(unsafe.Pointer(&t.mem[at]))
}

// extentOf returns the part of a run's list that has offset i, and the place in it.
func extentOf(i int) (extent, at int) {
	extent = bits.Len(uint(i/firstExtent+1)) - 1
	return extent, i - firstExtent*(1<<extent-1)
}

// add adds the offset of a record to r. A table has room for all records of a segment: a run of n records takes less
// than 3·n offsets, or 4, and a record takes 32 bytes of the segment or more. The caller holds Set.mu.
func (t *table) add(r *run, off int) {
	i := int(r.count.Load())
	extent, at := extentOf(i)
	if r.extents == nil {
		r.extents = new([maxExtents]uint32)
	}
	if at == 0 {
		r.extents[extent] = uint32(t.used)
		t.used += firstExtent << extent * offsetSize
	}
	t.word(r.extents[extent] + uint32(at*offsetSize)).Store(uint32(off))
	r.count.Store(uint32(i + 1))
}

// errIndex reports an index that is not one of the segment's runs.
var errIndex = errors.New("offset of a record out of bounds")

// offset returns the offset in its segment of the i-th record of r.
func (s *Set) offset(r *run, i int) (int, error) {
	g := r.seg
	off := 0
	m := g.mapped.Load()
	if m == nil {
		if t := g.table.Load(); t != nil {
			extent, at := extentOf(i)
			off = int(t.word(r.extents[extent] + uint32(at*offsetSize)).Load())
			if t.owner.Load() == int64(g.base) {
				return off, nil
			}
		}
		if m = g.mapped.Load(); m == nil { // the table has gone with the segment
			return 0, ErrDropped
		}
	}
	if !m.checked.Load() {
		if err := s.check(g, m); err != nil {
			return 0, s.corrupt(g, int(m.off-int64(g.slot.Offset(int(s.size)))), err)
		}
		m.checked.Store(true)
	}
	at := m.off + int64(m.starts[r.ordinal]+uint32(i))*offsetSize
	b, err := s.store.View.View(at, offsetSize)
	if err == nil {
		err = mmapread.Guard(func() error { off = int(binary.LittleEndian.Uint32(b)); return nil })
	}
	if err == nil && (off < format.SegmentStart || off > int(s.size)-format.HeaderSize || off%format.Align != 0) {
		err = errIndex
	}
	return off, s.corrupt(g, int(at-int64(g.slot.Offset(int(s.size)))), err)
}

// check verifies, before the first offset is read, that the index which is in the map is the one that the segment was
// adopted with: recovery has read it past the map, or the page cache may have lost it since. The goroutine waits for
// the disk here, and not a thread later.
func (s *Set) check(g *segment, m *mapped) error {
	v, err := s.readIndex(g)
	if err != nil {
		return err
	}
	return mmapread.Guard(func() error {
		if s.offsetsAt(g, v) != m.off || v.RunsSum() != m.sum {
			return errIndex
		}
		return nil
	})
}

// offsetsAt returns where the offsets of an index are in the file.
func (s *Set) offsetsAt(g *segment, v format.IndexView) int64 {
	return int64(g.slot.Offset(int(s.size))) + int64(v.OffsetsAt())
}

// corrupt returns err as one about the bytes at an offset of a segment; nil if err is nil.
func (s *Set) corrupt(g *segment, off int, err error) error {
	if err == nil {
		return nil
	}
	at := format.DiskPtr{Off: g.slot.Offset(int(s.size)) + format.Offset(off), Len: format.HeaderSize}
	return s.store.CorruptMessage(g.base+format.LSN(off), at, err)
}

// readIndex reads the index of a sealed segment. That of one that ends early lists messages that do not count.
func (s *Set) readIndex(g *segment) (v format.IndexView, err error) {
	size := int(s.size)
	if s.store.Used(g.base) < size {
		return v, format.ErrNoIndex
	}
	first := int64(g.slot.Offset(size))
	seed := s.store.Space.At(format.Offset(first)).Seed()
	end, err := s.view(first+int64(size-format.IndexTrailerSize), format.IndexTrailerSize)
	if err != nil {
		return v, err
	}
	var t format.IndexTrailer
	err = mmapread.Guard(func() (err error) {
		t, err = format.DecodeIndexTrailer(end, g.base, size, seed)
		return err
	})
	if err != nil {
		return v, err
	}
	at := size - t.Len
	b, err := s.view(first+int64(at), t.Len)
	if err != nil {
		return v, err
	}
	err = mmapread.Guard(func() error {
		h, body, err := format.DecodeMessage(b, g.base+format.LSN(at), seed)
		if err == nil && h.Kind != format.KindIndex {
			err = format.ErrNoIndex
		}
		if err == nil {
			v, err = format.DecodeIndex(body, h, size, seed)
		}
		if err == nil && !v.Listed() {
			err = format.ErrNoIndex
		}
		return err
	})
	return v, err
}

// view returns a part of the map, once it can be read without waiting for the disk.
func (s *Set) view(off int64, n int) ([]byte, error) {
	_, _ = s.store.View.Warm([]vfs.Range{{Off: off, Len: n}}) // reading shows the error
	return s.store.View.View(off, n)
}

// adopt makes the segment use its index, and reports whether that lists the runs of the segment. The caller holds
// Set.mu; the index was verified, so it needs a Guard alone.
func (s *Set) adopt(g *segment, v format.IndexView) bool {
	m := &mapped{off: s.offsetsAt(g, v), starts: make([]uint32, len(g.runs))}
	same := v.Runs() == len(g.runs)
	err := mmapread.Guard(func() error {
		at := uint32(0)
		for i := 0; same && i < len(g.runs); i++ {
			m.starts[i] = at
			r := v.Run(i)
			switch known := g.runs[i]; {
			case known == nil:
				same = r.Type == format.RunCut || r.Type == format.RunNote
			case known.long:
				same = r.Type == format.RunLong && r.First == known.first
			default:
				same = r.Type == format.RunRecords && r.First == known.first && r.Last == known.last &&
					r.Count == int(known.count.Load())
			}
			at += uint32(r.Count)
		}
		m.sum = v.RunsSum()
		return nil
	})
	if err != nil || !same {
		return false
	}
	g.runs = nil
	g.mapped.Store(m)
	return true
}
