package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"pagecache/engine"
	"pagecache/engine/internal/enginetest"
	"pagecache/internal/simdisk"
	"pagecache/recovery"
)

const cutBlock = 4096 // of the log's device, bytes

// cutSealed returns the disk of a log that was killed with a batch open, which begins in the last block of a sealed
// segment. The segment is read by its index alone. The stream has the records 1 to last; behind says that records of
// the batch lie in the segment, too. cut is the segment as recovery finds it.
func cutSealed(t *testing.T, behind bool) (killed *simdisk.Disk, cut recovery.Segment, last engine.Seq) {
	t.Helper()
	d := simdisk.New(1, simdisk.Options{Block: cutBlock})
	o := enginetest.SimOptions(d)
	l, s := openStream(t, o)
	size := engine.LSN(o.SegmentSize)
	for end := engine.LSN(0); end < 4*size-cutBlock-2000; {
		last++
		lsn, err := s.Append(last, recordOf(last))
		if end = lsn; err != nil {
			t.Fatal(err)
		}
	}
	enginetest.Flush(t, l) // pads the block
	appendRange(t, s, last+1, last+5)
	last += 5
	b, err := l.PinLog()
	if err != nil {
		t.Fatal(err)
	}
	if next := last + 1; behind {
		mustWrite(t, l, 10)
		appendRange(t, s, next, next+4)
	}
	mustWrite(t, l, 12_000) // does not fit
	_, next := s.Bounds()
	appendRange(t, s, next+1, next+500) // in segments that show that the one before is durable
	killed = d.Copy()
	enginetest.NoCheck(t, l)
	if err := b.Seal(); err != nil {
		t.Fatal(err)
	}
	enginetest.Close(t, l)
	r := scannedLog(t, killed)
	cut = r.Segments[len(r.Segments)-1]
	if r.End == r.Tip || r.Indexed < len(r.Segments) || cut.Used <= int(size)-cutBlock || cut.Used == int(size) {
		t.Fatalf("no batch begins in the last block of a segment that is read by its index: %+v", r)
	}
	return killed, cut, last
}

// hasRecords fails the test unless the stream has the records 1 to last and no other, and takes the next one.
func hasRecords(t *testing.T, s *engine.Stream, last engine.Seq) {
	t.Helper()
	if f, l := s.Bounds(); f != 1 || l != last {
		t.Errorf("records %d to %d, want 1 to %d", f, l, last)
	}
	for q := engine.Seq(1); q <= last; q++ {
		if r, err := s.Get(q); err != nil || !bytes.Equal(r.Bytes, recordOf(q)) {
			t.Fatalf("record %d: %v", q, err)
		}
	}
	if _, err := s.Append(last+1, recordOf(last+1)); err != nil {
		t.Error(err)
	}
}

// A crash cuts the log at a batch that begins in the last block of a sealed segment. The tail is written anew up to the
// segment's end, with a pad in place of the index, so the index that recovery has read is of no use: the stream has the
// records below the cut, and no other, in this opening and in the next. Proves S4, rule 14.
func TestStreamCutInLastBlockOfSegment(t *testing.T) {
	for _, behind := range []bool{false, true} {
		t.Run(fmt.Sprintf("behind=%v", behind), func(t *testing.T) {
			d, cut, last := cutSealed(t, behind)
			if cut.Outline != nil {
				t.Error("recovery passes the index of a segment on that lost it")
			}
			for range 3 {
				l, s := openStream(t, enginetest.SimOptions(d))
				hasRecords(t, s, last)
				last++
				enginetest.Close(t, l)
			}
		})
	}
}

// As above, but the disk does not return a block of the segment, which so stays where it is, with its index. Nobody
// knows then which records the stream has. Once the disk returns the block, the stream has the records below the cut
// and no other, and Records of the log ends at the cut too. Proves V2; trap 30.
func TestStreamCutInSegmentThatIsKept(t *testing.T) {
	d, cut, last := cutSealed(t, true)
	o := enginetest.SimOptions(d)
	at := int64(cut.Slot.Offset(o.SegmentSize)) + cutBlock
	for range 3 {
		d.SetUnreadable(logFile, at, cutBlock)
		l := enginetest.OpenLog(t, "/store", o)
		enginetest.NoCheck(t, l)
		if _, err := l.Stream(0); !errors.Is(err, engine.ErrCorrupt) {
			t.Errorf("Stream beside a block that cannot be read: %v", err)
		}
		mustWrite(t, l, 10)
		enginetest.Close(t, l)
		d.SetUnreadable(logFile, 0, 0)
	}
	for range 3 {
		l, s := openStream(t, o)
		n := 0
		for r, err := range l.Records(cut.Base) {
			if n++; err != nil || r.LSN < cut.Base+engine.LSN(o.SegmentSize) {
				t.Errorf("LSN %v, %v", r.LSN, err)
			}
		}
		if n != 3 {
			t.Errorf("%d records without a number", n)
		}
		hasRecords(t, s, last)
		last++
		enginetest.Close(t, l)
	}
}
