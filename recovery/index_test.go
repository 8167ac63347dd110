package recovery

import (
	"encoding/binary"
	"errors"
	"sync/atomic"
	"syscall"
	"testing"

	"pagecache/segments/format"
)

// seal ends the segment with a pad and an index of its messages.
func (b *builder) seal() {
	var x format.Index
	for pos := format.SegmentStart; pos < b.pos; {
		msg := b.file[b.at(pos):]
		w := format.Word(binary.LittleEndian.Uint32(msg))
		x.Add(w.Kind(), pos, msg)
		pos += format.AlignUp(w.Len())
	}
	if n := b.left() - x.Len(); n >= format.HeaderSize {
		b.pad(n)
	}
	msg := b.file[b.at(b.pos):b.at(testSize)]
	k := format.Known{Durable: b.durable, Stable: b.stable}
	format.PutWord(msg, x.Put(msg, b.lsn(), k, b.seed()))
	b.pos = testSize
}

// records writes n records of the given length.
func (b *builder) records(n, length int) {
	for i := range n {
		body := make([]byte, length)
		for j := range body {
			body[j] = byte(i + 1)
		}
		b.put(format.KindData, 0, body)
	}
}

// sealedSegments is the number of sealed segments of sealedLog, and lateSegment the last whose end is proven.
const (
	sealedSegments = 5
	lateSegment    = sealedSegments - 2
)

// sealedLog returns a standalone log of sealed segments, with batches, and a last segment. Each index is longer than a
// sector. The messages show that all sealed segments but the last were durable.
func sealedLog() *builder {
	b := newBuilder()
	for i := range sealedSegments {
		b.open(sealedSegments-i, format.LSN(i*testSize), format.SegmentStateInUse)
		b.records(120, 1)
		b.end(b.begin())
		b.records(120, 0)
		b.seal()
		if i <= lateSegment {
			b.known(b.lsn() - 1)
		}
	}
	b.open(0, sealedSegments*testSize, format.SegmentStateInUse)
	b.records(3, 100)
	return b
}

func (b *builder) logOptions() Options {
	o := b.options()
	o.Log = true
	o.Unreadable = func(err error) bool { return errors.Is(err, syscall.EIO) }
	return o
}

// slotOf returns the offset in the file of segment i of sealedLog.
func slotOf(i int) int { return (sealedSegments - i) * testSize }

// counting counts the bytes that are read.
type counting struct {
	file
	n atomic.Int64
}

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	c.n.Add(int64(len(p)))
	return c.file.ReadAt(p, off)
}

// A standalone log that was closed cleanly is opened by its indexes and its last segment. After a kill the segments
// that are not proven to be durable as a whole are read too. Corrupt records in the others are left to readers. Proves
// V10.
func TestIndexesReplaceSegments(t *testing.T) {
	b := sealedLog()
	end := b.lsn()
	for i := range sealedSegments {
		if i <= lateSegment {
			b.file[slotOf(i)+format.SegmentStart+32+24] ^= 1 // the body of the second record
		}
	}
	for _, clean := range []bool{false, true} {
		o := b.logOptions()
		walked := 2
		if o.Clean = clean; clean {
			o.End, o.Joined, walked = end, b.joined(end), 1
		}
		src := &counting{file: b.file}
		r, err := Scan(src, o)
		if err != nil || r.End != end || r.Tip != end || r.Torn || len(r.BadIndexes) != 0 || r.Len() != 0 ||
			r.Messages() != 0 || len(r.Segments) != sealedSegments+1 || r.Indexed != sealedSegments+1-walked {
			t.Fatalf("clean %v: %+v, %v", clean, r, err)
		}
		for i, g := range r.Segments[:sealedSegments] {
			if g.Used != testSize || int(g.Slot) != sealedSegments-i {
				t.Errorf("clean %v: %+v", clean, g)
			}
		}
		const header = format.SegmentHeaderSize
		if n, most := int(src.n.Load()), walked*testSize+sealedSegments*(indexPiece+header)+header; n > most {
			t.Errorf("clean %v: %d bytes read, want at most %d", clean, n, most)
		}
		if r.Stable != (lateSegment+1)*testSize-1 {
			t.Errorf("clean %v: stable %v", clean, r.Stable)
		}
	}
}

// A valid index proves nothing about the other blocks of its segment: several writes are in flight at once. A segment
// that is not proven to be durable as a whole is read, and may be torn. Proves V10, rule 13; trap 25.
func TestIndexOfTornSegmentIsNotTrusted(t *testing.T) {
	for pos := format.SegmentStart; pos < format.SegmentStart+100*32; pos += 8 {
		b := sealedLog()
		at := slotOf(lateSegment+1) + pos
		clear(b.file[at : at+32])
		b.header(format.SegmentStateFree) // nothing of the last segment was written
		want := format.LSN((lateSegment+1)*testSize + format.SegmentStart + (pos-format.SegmentStart)/32*32)
		r, err := Scan(b.file, b.logOptions())
		if err != nil || r.End != want || !r.Torn || r.Indexed != lateSegment+1 || len(r.BadIndexes) != 0 {
			t.Fatalf("zeros from offset %d on: %+v, %v; want the end at %v", pos, r, err, want)
		}
		o := b.logOptions()
		o.Clean, o.End = true, sealedSegments*testSize
		o.Joined = b.joined(o.End)
		if r, err := Scan(b.file, o); err != nil || r.End != o.End {
			t.Fatalf("closed cleanly: %+v, %v", r, err)
		}
	}
}

// Whichever bit of an index is flipped: if the segment is proven to have been durable as a whole, its records are read
// and the index is reported; if not, the log ends there. Proves V10, rules 10 and 12.
func TestFlippedBitOfIndexCostsNoRecord(t *testing.T) {
	b := sealedLog()
	end := b.lsn()
	length := format.IndexRoom(120*2 + 4)
	o, clean := b.logOptions(), b.logOptions()
	clean.Clean, clean.End, clean.Joined = true, end, b.joined(end)
	last := slotOf(sealedSegments - 1) // not proven
	for bit := (testSize - length) * 8; bit < testSize*8; bit++ {
		for _, o := range []Options{o, clean} {
			at := slotOf(2) + bit/8
			b.file[at] ^= 1 << (bit % 8)
			r, err := Scan(b.file, o)
			if err != nil || r.End != end || len(r.BadIndexes) != 1 {
				t.Fatalf("clean %v, bit %d of byte %d: %+v, %v", o.Clean, bit%8, bit/8, r, err)
			}
			off, _ := r.BadIndexes[0].Place.Offset()
			if want := format.Offset(slotOf(2) + testSize - length); off != want || r.Segments[2].Used != testSize {
				t.Errorf("the bad index is at %v, want %v; %+v", off, want, r.Segments[2])
			}
			b.file[at] ^= 1 << (bit % 8)
		}
		b.file[last+bit/8] ^= 1 << (bit % 8)
		r, err := Scan(b.file, o)
		if want := format.LSN(sealedSegments*testSize - length); err != nil || r.End != want || !r.Torn {
			t.Fatalf("not proven, bit %d of byte %d: %+v, %v; want the end at %v", bit%8, bit/8, r, err, want)
		}
		b.file[last+bit/8] ^= 1 << (bit % 8)
	}
}

// Whichever block of a sealed segment cannot be read, the log is whole. If all of an index lies in the block, the
// records before it are read, and the place is reported. Only where the segment is not known to have been stable, the
// block may hold the beginning of an open batch: the log is refused with the place. Proves V10, rule 10; trap 30.
func TestUnreadableBlockOfSealedSegment(t *testing.T) {
	b := sealedLog()
	end := b.lsn()
	for _, clean := range []bool{false, true} {
		o := b.logOptions()
		if o.Clean = clean; clean {
			o.End, o.Joined = end, b.joined(end)
		}
		for segment := range sealedSegments {
			for pos := int64(format.SegmentStart); pos < testSize; pos += readPiece {
				at := int64(slotOf(segment)) + pos
				r, err := Scan(holey{b.file, at, at + 512}, o)
				atEnd := pos+readPiece == testSize
				if segment > lateSegment && (atEnd || !clean) {
					ce := (*CorruptError)(nil)
					if !errors.Is(err, ErrCorrupt) || !errors.Is(err, syscall.EIO) || !errors.As(err, &ce) {
						t.Fatalf("clean %v, segment %d, block at %d: %+v, %v", clean, segment, pos, r, err)
					}
					if slot, known := ce.Place.Slot(); !known || int(slot) != sealedSegments-segment {
						t.Errorf("clean %v: %v", clean, err)
					}
					continue
				}
				want := 0
				if atEnd {
					want = 1
				}
				if err != nil || r.End != end || len(r.Segments) != sealedSegments+1 || len(r.BadIndexes) != want {
					t.Fatalf("clean %v, segment %d, block at %d: %+v, %v", clean, segment, pos, r, err)
				}
				for _, bad := range r.BadIndexes {
					off, known := bad.Place.Offset()
					if !known || int64(off)+120 < at || int64(off) >= at+readPiece || !errors.Is(bad, syscall.EIO) {
						t.Errorf("clean %v, segment %d, block at %d: %v", clean, segment, at, bad)
					}
				}
			}
		}
	}
}

// The markers of batches may lie where the end of a sealed segment cannot be read. A batch that begins before, and is
// known to be stable, had its end there; one of which that is not known may be open. Proves V2, V10; trap 1.
func TestBatchMarkersInUnreadableEnd(t *testing.T) {
	for _, stable := range []bool{true, false} {
		b := newBuilder()
		b.open(0, 0, format.SegmentStateInUse)
		begin := b.begin()
		for b.left() > 2000 {
			b.records(1, 1000)
		}
		b.end(begin)
		b.begin() // it ends in the next segment
		second := b.lsn() - format.HeaderSize
		b.seal()
		b.durable = b.lsn()
		if stable {
			b.known(b.lsn() - 1)
		}
		b.open(1, testSize, format.SegmentStateInUse)
		b.records(2, 10)
		b.end(second)
		b.records(2, 10)
		src := holey{b.file, testSize - 512, testSize}
		r, err := Scan(src, b.logOptions())
		switch {
		case stable && (err != nil || r.End != b.lsn() || len(r.BadIndexes) != 1):
			t.Errorf("stable: %+v, %v", r, err)
		case !stable && !errors.Is(err, syscall.EIO):
			t.Errorf("not stable: %+v, %v", r, err)
		}
	}
}

// A corrupt record below the index of a segment that must be read is corrupt all the same, and a segment without an
// index is read. Proves rule 10.
func TestSegmentsWithoutIndexAreRead(t *testing.T) {
	b := newBuilder()
	for i := range 3 {
		b.open(i, format.LSN(i*testSize), format.SegmentStateInUse)
		b.records(20, 200)
		if i == 1 {
			b.fill()
		} else {
			b.seal()
			b.known(b.lsn() - 1)
		}
	}
	b.open(3, 3*testSize, format.SegmentStateInUse)
	b.records(3, 100)
	o := b.logOptions()
	if r, err := Scan(b.file, o); err != nil || r.End != b.lsn() || r.Indexed != 2 || len(r.BadIndexes) != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	b.file[testSize+format.SegmentStart+300] ^= 1
	wantCorrupt(t, b.file, o, endsBelowDurable)
	b.file[testSize+format.SegmentStart+300] ^= 1
	// The index of a segment is corrupt, and so is a record: the record decides.
	b.file[2*testSize+format.SegmentStart+300] ^= 1
	b.file[3*testSize-30] ^= 1
	wantCorrupt(t, b.file, o, endsBelowDurable)
	b.file[2*testSize+format.SegmentStart+300] ^= 1
	if r, err := Scan(b.file, o); err != nil || len(r.BadIndexes) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	// In a page store an index is no message.
	p := newBuilder().open(0, 0, format.SegmentStateInUse)
	p.pages(2, 10)
	at := p.lsn()
	p.seal()
	p.open(1, testSize, format.SegmentStateInUse)
	p.pages(1, 10)
	r, err := Scan(p.file, p.options())
	if err != nil || r.End <= at || r.End >= testSize {
		t.Errorf("%+v, %v", r, err)
	}
}

// Batches are cut off in the same way whether their markers come from an index or from the messages. Proves V2; trap 1.
func TestBatchMarkersInIndexes(t *testing.T) {
	build := func(closed bool) (b *builder, open format.LSN) {
		b = newBuilder()
		b.open(0, 0, format.SegmentStateInUse)
		b.end(b.begin())
		early := b.begin()
		b.records(2, 10)
		b.seal()
		b.durable = b.lsn()
		b.open(1, testSize, format.SegmentStateInUse)
		b.records(2, 10)
		first := b.begin()
		open = b.begin()
		b.end(early) // so the cut lies in it
		b.end(first)
		b.records(1, 10)
		b.seal()
		b.durable = b.lsn()
		b.open(2, 2*testSize, format.SegmentStateInUse)
		b.records(1, 10)
		if closed {
			b.end(open)
		}
		return b, early
	}
	for _, closed := range []bool{false, true} {
		for _, byIndex := range []bool{false, true} {
			b, want := build(closed)
			if closed {
				want = b.lsn()
			}
			indexed := 2
			if !byIndex {
				b.file[testSize-30] ^= 1
				b.file[2*testSize-30] ^= 1
				indexed = 0
			}
			r, err := Scan(b.file, b.logOptions())
			if err != nil || r.End != want || r.Indexed != indexed || r.Tip != b.lsn() || r.Torn == closed {
				t.Fatalf("closed %v, by index %v: %+v, %v; want the end at %v", closed, byIndex, r, err, want)
			}
			for _, g := range r.Segments { // what the log does not have of a segment is not passed on either
				if (g.Outline != nil) != (byIndex && g.Used == testSize) {
					t.Errorf("closed %v, by index %v: %+v", closed, byIndex, g)
				}
			}
		}
	}
}

// FuzzScanLog changes a standalone log, repairs the checksums of its messages, and scans. Proves V4, rule 12.
func FuzzScanLog(f *testing.F) {
	f.Add([]byte{}, false, int64(0))
	f.Add([]byte{5, 63, 252, 1, 4, 63, 240, 1}, true, int64(sealedSegments*testSize))
	f.Add([]byte{2, 60, 0, 255, 3, 16, 3, 127}, false, int64(0))
	f.Fuzz(func(t *testing.T, edits []byte, clean bool, end int64) {
		b := sealedLog()
		for ; len(edits) >= 4; edits = edits[4:] {
			at := int(edits[0]&7)%(sealedSegments+1)*testSize + int(binary.BigEndian.Uint16(edits[1:]))%testSize
			b.file[at] ^= edits[3]
			if edits[0]&8 == 0 {
				repair(b.file, at/testSize)
			}
		}
		o := b.logOptions()
		if o.Clean = clean; clean {
			o.End, o.Joined = format.LSN(end), b.joined(format.LSN(end))
		}
		r, err := Scan(b.file, o)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && end >= 0 {
				t.Fatal(err)
			}
			return
		}
		if r.End > r.Tip || r.Durable > r.Tip || r.Indexed+len(r.BadIndexes) > sealedSegments+1 {
			t.Fatalf("%+v", r)
		}
	})
}

// Of a segment that ends early, the index lists messages that were cut off: none of these counts, and the index is not
// passed on. It is still enough for recovery, although the disk does not return messages below the cut. Proves V2,
// V10; trap 30.
func TestIndexOfSegmentThatEndsEarly(t *testing.T) {
	b := newBuilder()
	b.open(0, 0, format.SegmentStateInUse)
	b.end(b.begin())
	early := b.begin()
	b.records(20, 500)
	cut := b.lsn()
	b.begin()
	b.end(early)
	l := format.Leave{Segments: []format.Identity{7}, Left: 7, Recycled: 1}
	body := make([]byte, format.LeaveSize(1))
	l.Put(body)
	b.put(format.KindLeave, 0, body)
	b.seal()
	b.known(b.lsn() - 1)
	for i := 1; i < 3; i++ {
		b.open(i, format.LSN(i*testSize), format.SegmentStateInUse)
		b.records(2, 10)
		if i == 1 {
			b.end(early) // the one that counts
		}
		b.seal()
		b.known(b.lsn() - 1)
	}
	b.open(3, 3*testSize, format.SegmentStateInUse)
	b.records(1, 10)
	o := b.logOptions()
	if _, err := Scan(b.file, o); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
	o.Ends, _ = format.MakeEndList([]format.LSN{cut})
	for _, src := range []Source{b.file, holey{b.file, 4096, 8192}} {
		r, err := Scan(src, o)
		if err != nil || r.End != b.lsn() || r.Tip != b.lsn() || r.Torn || r.Indexed != 3 || r.Recycled != 0 {
			t.Fatalf("%+v, %v; want the end at %v", r, err, b.lsn())
		}
		for _, g := range r.Segments {
			if (g.Outline != nil) != (g.Base == testSize || g.Base == 2*testSize) {
				t.Errorf("%+v", g)
			}
		}
	}
}
