package recovery

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"testing"

	"pagecache/segments/format"
)

// scanBoth scans a log with and without Options.Tail. It fails if the two do not come to the same.
func scanBoth(t *testing.T, what string, src Source, o Options) (*Result, []byte, error) {
	t.Helper()
	alone, errAlone := Scan(src, o)
	o.Tail = make([]byte, o.SegmentSize)
	r, err := Scan(src, o)
	if fmt.Sprint(err) != fmt.Sprint(errAlone) {
		t.Fatalf("%s: %v with Tail, %v without", what, err, errAlone)
	}
	if err != nil {
		return nil, nil, err
	}
	segs := slices.Clone(r.Segments)
	for i := range segs {
		segs[i].InTail, segs[i].Outline = false, alone.Segments[i].Outline
	}
	if !slices.Equal(segs, alone.Segments) || r.End != alone.End || r.Tip != alone.Tip || r.Stable != alone.Stable ||
		r.Durable != alone.Durable || r.Torn != alone.Torn || r.Why != alone.Why {
		t.Fatalf("%s: %+v with Tail, %+v without", what, r, alone)
	}
	return r, o.Tail, nil
}

// checkTail checks that the newest segment is in tail, as far as it is used, and nothing behind TailFilled.
func checkTail(t *testing.T, what string, b *builder, r *Result, tail []byte) {
	t.Helper()
	g := r.Segments[len(r.Segments)-1]
	if !g.InTail || slices.ContainsFunc(r.Segments[:len(r.Segments)-1], func(g Segment) bool { return g.InTail }) {
		t.Fatalf("%s: not the newest segment alone is in memory: %+v", what, r.Segments)
	}
	if want := b.file[g.Slot.Offset(testSize):][:g.Used]; !bytes.Equal(tail[:g.Used], want) {
		t.Errorf("%s: the memory does not hold the segment", what)
	}
	if !bytes.Equal(tail[r.TailFilled:], make([]byte, testSize-r.TailFilled)) {
		t.Errorf("%s: bytes behind TailFilled were written", what)
	}
}

// A scan leaves the newest segment of a log in memory, and finds the same as one that does not: after a clean close it
// reads no more than the log's end, unless the log goes on there. Proves V10.
func TestNewestSegmentStaysInMemory(t *testing.T) {
	b := sealedLog()
	end := b.lsn()
	at := b.at(0)
	clean := b.logOptions()
	clean.Clean, clean.End, clean.Joined = true, end, b.joined(end)
	for what, o := range map[string]Options{"killed": b.logOptions(), "clean": clean} {
		r, tail, err := scanBoth(t, what, b.file, o)
		if err != nil {
			t.Fatal(err)
		}
		checkTail(t, what, b, r, tail)
		want := testSize
		if o.Clean {
			want = int(end-b.base+BulkAlign-1)/BulkAlign*BulkAlign + BulkAlign
		}
		if r.TailFilled != want {
			t.Errorf("%s: %d bytes of Tail are filled, want %d", what, r.TailFilled, want)
		}
	}
	for pos := format.SegmentStart; pos < testSize; pos += 24 {
		b.file[at+pos] ^= 1
		for what, o := range map[string]Options{"killed": b.logOptions(), "clean": clean} {
			what = fmt.Sprintf("%s, with a flipped bit at %d", what, pos)
			if r, tail, err := scanBoth(t, what, b.file, o); err == nil {
				checkTail(t, what, b, r, tail)
			}
		}
		b.file[at+pos] ^= 1
	}
	early := clean
	early.End -= 104 + format.HeaderSize // the last record lies behind it
	early.Joined = b.joined(early.End)
	if _, _, err := scanBoth(t, "an older clean end", b.file, early); err == nil {
		t.Error("a log that goes on behind its clean end was accepted")
	}
	for b.pos < 3*BulkAlign { // the end is not among the bytes that are read first
		b.records(1, 500)
	}
	if _, _, err := scanBoth(t, "a much older clean end", b.file, early); err == nil {
		t.Error("a log that goes on far behind its clean end was accepted")
	}
	cut, end := b.logOptions(), b.lsn()
	b.begin()
	b.records(2, 10)
	if r, _, err := scanBoth(t, "an open batch", b.file, cut); err != nil || r.End != end {
		t.Errorf("the log ends at %+v, %v, want %v", r, err, end)
	}
}

// A log that was closed cleanly near the end of a segment is read as any other, wherever it ends. Proves V10.
func TestCleanEndAnywhereInSegment(t *testing.T) {
	b := sealedLog()
	for b.left() >= 200+format.HeaderSize {
		b.records(1, 200)
		o := b.logOptions()
		o.Clean, o.End, o.Joined = true, b.lsn(), b.joined(b.lsn())
		what := fmt.Sprintf("closed %d bytes before the end", b.left())
		r, tail, err := scanBoth(t, what, b.file, o)
		if err != nil || r.End != o.End {
			t.Fatalf("%s: %+v, %v", what, r, err)
		}
		checkTail(t, what, b, r, tail)
	}
}

// The newest segment is read from Options.TailSource alone, if that is set.
func TestTailSource(t *testing.T) {
	b := sealedLog()
	o := b.logOptions()
	o.Clean, o.End, o.Joined = true, b.lsn(), b.joined(b.lsn())
	o.Tail, o.TailSource = make([]byte, testSize), slices.Clone(b.file)
	clear(b.file[b.at(format.SegmentStart):b.at(testSize)])
	r, err := Scan(b.file, o)
	if err != nil || r.End != o.End || !r.Segments[len(r.Segments)-1].InTail {
		t.Fatalf("%+v, %v", r, err)
	}
	if !bytes.Equal(o.Tail[:r.TailFilled], o.TailSource.(file)[b.at(0):][:r.TailFilled]) {
		t.Error("Tail does not hold what TailSource has returned")
	}
}

// A newest segment that the disk does not return as a whole is not in memory, nor is a log without one.
func TestNewestSegmentIsNotInMemory(t *testing.T) {
	b := sealedLog()
	o := b.logOptions()
	o.Tail = make([]byte, testSize)
	end := int64(b.at(testSize))
	r, err := Scan(holey{b.file, end - 512, end}, o)
	if err != nil || r.Segments[len(r.Segments)-1].InTail {
		t.Errorf("%+v, %v", r, err)
	}
	for from := int64(b.at(512)); from < end; from += 512 {
		what := fmt.Sprintf("a block at %d that the disk does not return", from-end+testSize)
		if r, _, err := scanBoth(t, what, holey{b.file, from, from + 512}, b.logOptions()); err == nil &&
			r.Segments[len(r.Segments)-1].InTail {
			t.Errorf("%s: the segment is in memory", what)
		}
	}
	o.Tail = make([]byte, testSize)
	if r, err = Scan(file(nil), o); err != nil || r.TailFilled != 0 || len(r.Segments) != 0 {
		t.Errorf("an empty log: %+v, %v", r, err)
	}
}

// A message is verified once it was read as a whole, or no more of the segment will be.
func TestWalkWaitsForTheDisk(t *testing.T) {
	const size, length, piece = 64 << 10, 40_000, 8 << 10
	seg := make([]byte, size)
	format.PutWord(seg[format.SegmentStart:], format.MakeWord(format.KindData, length))
	for _, all := range []int{size, 3 * piece} {
		f := &filling{}
		f.more.L = &f.mu
		go func() {
			for range all / piece {
				f.add(piece, false)
				runtime.Gosched()
			}
			f.add(0, true)
		}()
		want := min(format.SegmentStart+length, all)
		if have := f.awaitMessage(seg, format.SegmentStart, 0); have < want {
			t.Errorf("went on after %d of %d bytes", have, want)
		}
	}
}
