package recovery

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"sync"
	"testing"

	"pagecache/segments/format"
)

func wantCorrupt(t *testing.T, f file, o Options, reason string) *CorruptError {
	t.Helper()
	_, err := Scan(f, o)
	var c *CorruptError
	if !errors.Is(err, ErrCorrupt) || !errors.As(err, &c) || !strings.Contains(err.Error(), reason) {
		t.Fatalf("Scan: %v, want ErrCorrupt with %q", err, reason)
	}
	if strings.Contains(err.Error(), "LSN -") {
		t.Errorf("the text names an unknown LSN: %v", err)
	}
	return c
}

func TestEmptyLogEndsAtZero(t *testing.T) {
	for _, f := range []file{nil, make(file, 10), make(file, testSize), make(file, 3*testSize+100)} {
		b := newBuilder()
		b.file = f
		for _, clean := range []bool{false, true} {
			o := b.options()
			o.Clean = clean
			r := b.scanned(t, o, 0)
			if r.Torn || r.Stable != format.NoLSN || r.MaxGeneration != 1 {
				t.Errorf("%d zeros: %+v", len(f), r)
			}
		}
		o := b.options()
		o.Clean, o.End = true, 4096
		wantCorrupt(t, f, o, notAtCleanEnd)
	}
}

func TestInvalidOptionsAreErrors(t *testing.T) {
	for _, o := range []Options{
		{},
		{SegmentSize: 1 << 30},
		{SegmentSize: testSize + 4},
		{SegmentSize: testSize, From: -1},
		{SegmentSize: testSize, End: -1},
	} {
		if _, err := Scan(file(nil), o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
}

// kinds puts a message of every kind.
func (b *builder) kinds() {
	b.put(format.KindCompact, 2, []byte("whole"))
	b.put(format.KindAppend, 2, []byte("prev"))
	b.put(format.KindAppendBlob, 3, []byte("prev and blob"))
	b.put(format.KindCompactBlob, 4, []byte("blob"))
	b.put(format.KindFree, 4, nil)
	b.put(format.KindFailed, 5, []byte("aborted"))
	b.counter(77)
	b.put(format.KindRoot, 5, format.AppendRoot(nil, format.Root{Name: "root", Target: 2}))
	b.end(b.begin())
	b.put(format.KindData, 0, []byte("record"))
	b.put(format.KindCompact, format.MaxPageID, nil)
}

func TestApplyReturnsEveryKind(t *testing.T) {
	b := newBuilder().open(0, 0, format.SegmentStateInUse)
	b.kinds()
	b.block()
	b.kinds()
	r := b.scanned(t, b.options(), b.lsn())
	if r.Torn || r.Tip != r.End || len(r.Segments) != 1 || r.Segments[0].Used != b.pos || r.Counter != 77 {
		t.Errorf("%+v", r)
	}
	if r.Stable != format.NoLSN || r.Durable != b.durable {
		t.Errorf("stable %v, but the only pad carries NoLSN; durable below %v", r.Stable, r.Durable)
	}
	errVisit := errors.New("enough")
	if err := r.Apply(func(Message) error { return errVisit }); err != errVisit {
		t.Errorf("Apply changed the visitor's error: %v", err)
	}
	o := b.clean(b.lsn())
	b.scanned(t, o, b.lsn())
	for _, d := range []format.LSN{-8, 8, testSize} {
		o.End = b.lsn() + d
		wantCorrupt(t, b.file, o, notAtCleanEnd)
	}
}

// A delta that is too short to name its message is not valid, whatever its checksum says. Proves V4, rule 12.
func TestDeltaWithoutItsMessageIsInvalid(t *testing.T) {
	for _, k := range []format.Kind{format.KindAppend, format.KindAppendBlob, format.KindAppendZstd} {
		for n := range format.PrevSize + 1 {
			b := newBuilder().open(0, 0, format.SegmentStateInUse)
			b.put(format.KindCompact, 2, []byte("whole"))
			end := b.put(k, 2, make([]byte, n))
			if n == format.PrevSize {
				end = b.lsn()
			}
			b.scanned(t, b.options(), end)
		}
	}
}

// threeSegments writes base 0, 1 and 2 into slots 2, 0 and 1.
func threeSegments() *builder {
	b := newBuilder()
	for i, slot := range []int{2, 0, 1} {
		b.open(slot, format.LSN(i*testSize), format.SegmentStateInUse)
		b.pages(3, 1000*(i+1))
		b.block()
		b.pages(2, 10)
		if i < 2 {
			b.fill()
		}
	}
	return b
}

func TestSegmentsAreOrderedByBase(t *testing.T) {
	b := threeSegments()
	r := b.scanned(t, b.options(), b.lsn())
	if len(r.Segments) != 3 || r.Segments[0].Slot != 2 || r.Segments[2].Slot != 1 || r.Segments[1].Used != testSize {
		t.Errorf("%+v", r.Segments)
	}
	// The end of a segment has no room for a header.
	for left := 0; left < format.HeaderSize; left += format.Align {
		b := newBuilder().open(0, 0, format.SegmentStateInUse)
		b.put(format.KindAppend, 2, make([]byte, b.left()-left-format.HeaderSize))
		b.open(1, testSize, format.SegmentStateInUse)
		b.pages(2, 10)
		b.scanned(t, b.options(), b.lsn())
		b.scanned(t, b.clean(b.lsn()), b.lsn())
	}
	// A segment was opened, but not written to.
	b = newBuilder().open(0, 0, format.SegmentStateInUse)
	b.fill()
	b.open(1, testSize, format.SegmentStateInUse)
	for _, end := range []format.LSN{testSize, testSize + format.SegmentStart} {
		b.scanned(t, b.clean(end), b.lsn())
	}
}

// A missing or corrupt segment in the middle, with valid messages after it, is not the end of the log. Proves V1,
// rule 10.
func TestMissingOrCorruptMiddleIsAnError(t *testing.T) {
	b := threeSegments()
	b.open(0, testSize, format.SegmentStateFree)
	wantCorrupt(t, b.file, b.options(), "missing")
	b = threeSegments()
	clear(b.file[:testSize])
	wantCorrupt(t, b.file, b.options(), "missing")
	b = threeSegments()
	b.file[20] ^= 1
	c := wantCorrupt(t, b.file, b.options(), "missing: 1, recycled: 0")
	if errors.Is(c, errMissing) || c.Place != (Place{}).WithSlot(0).WithOffset(0).WithLSN(testSize) || c.File != "log" {
		t.Errorf("%+v", c)
	}
	b = threeSegments()
	b.file[2*testSize+format.SegmentStart+36] ^= 1
	c = wantCorrupt(t, b.file, b.options(), endsBelowDurable)
	first := (Place{}).WithSlot(2).WithOffset(2*testSize + format.SegmentStart).WithLSN(format.SegmentStart)
	if c.Place != first || !errors.Is(c, format.ErrCRC) {
		t.Errorf("%+v", c)
	}
}

// The header of the last segment is corrupt; only its pads show that it held stable data.
func TestSlotWithCorruptHeaderIsProbed(t *testing.T) {
	for _, gens := range [][2]format.Generation{{1, 1}, {1, 2}, {4, 9}} {
		b := newBuilder()
		b.gen = gens[0]
		b.open(0, 0, format.SegmentStateInUse)
		b.pages(2, 100)
		b.fill()
		o := b.options()
		b.gen = gens[1]
		b.open(1, testSize, format.SegmentStateInUse)
		b.pages(2, 100)
		b.block()
		b.pages(2, 100)
		b.block()
		o.Generation = gens[1] + 2
		intact := slices.Clone(b.file)
		b.file[testSize+30] ^= 4
		c := wantCorrupt(t, b.file, o, endsBelowDurable)
		if slot, known := c.Place.Slot(); slot != 1 || !known {
			t.Errorf("generations %v: %+v", gens, c)
		}
		copy(b.file, intact)
		clear(b.file[testSize : testSize+512]) // the header is lost
		wantCorrupt(t, b.file, o, "missing")
	}
}

// Two slots have corrupt headers. The error names the one whose pads show that it held the missing segment, with the
// error in its own header.
func TestMissingSegmentIsReportedWithItsOwnHeader(t *testing.T) {
	b := newBuilder().open(0, 0, format.SegmentStateInUse)
	b.pages(2, 100)
	b.fill()
	b.open(2, testSize, format.SegmentStateInUse)
	b.pages(2, 100)
	b.block()
	b.pages(2, 100)
	b.block()
	b.file[testSize] = 1 // slot 1
	header := b.file[2*testSize:]
	format.SegmentHeader{State: format.SegmentStateInUse, SegmentSize: testSize, BlockSize: 512, Generation: 1,
		Base: testSize, Slot: 7, Store: testStore}.Put(header)
	_, want := format.DecodeSegmentHeader(header, 2, testSize)
	c := wantCorrupt(t, b.file, b.options(), endsBelowDurable)
	place := Place{}.WithSlot(2).WithOffset(2 * testSize).WithLSN(testSize)
	if c.Place != place || fmt.Sprint(c.Err) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", c, want)
	}
}

// A segment below From is missing, but none was recycled. The error names the slot where it was, and its LSN. If two
// are missing, it names none. Proves rule 14.
func TestMissingSegmentBelowFromIsNamed(t *testing.T) {
	b := threeSegments()
	clear(b.file[2*testSize:]) // base 0
	o := b.options()
	o.From = testSize
	c := wantCorrupt(t, b.file, o, "segments missing: 1, recycled: 0; the segment that was in this slot is lost")
	if c.Place != (Place{}).WithSlot(2).WithOffset(2*testSize).WithLSN(0) || !errors.Is(c, format.ErrSegmentZero) {
		t.Errorf("%v", c)
	}
	clear(b.file[:testSize]) // base 1
	o.From = 2 * testSize
	c = wantCorrupt(t, b.file, o, "segments missing: 2, recycled: 0")
	if c.Place != (Place{}) || c.Err != nil {
		t.Errorf("%v", c)
	}
}

func TestSegmentOfAnotherSizeIsAnError(t *testing.T) {
	b := threeSegments()
	o := b.options()
	o.SegmentSize *= 2
	c := wantCorrupt(t, b.file, o, "32768")
	if !errors.Is(c, format.ErrSegmentForeign) {
		t.Error(c)
	}
}

// The durable end in a message of a later segment, of any kind, shows that an invalid message is not the torn tail. A
// valid message there that does not carry it proves nothing: several writes are in flight at once. Proves V1, rule 13.
func TestMessageOfLaterSegmentShowsDurable(t *testing.T) {
	b := newBuilder().open(0, 0, format.SegmentStateInUse)
	b.pages(3, 500)
	at := b.offset()
	b.pages(3, 500)
	b.fill()
	known := b.stable
	b.known(format.NoLSN)
	b.open(1, testSize, format.SegmentStateInUse)
	b.pages(1, 10)
	whole := slices.Clone(b.file)
	b.file[at+30] ^= 1
	b.scanned(t, b.options(), format.LSN(at)) // a later segment with NoLSN proves nothing
	pos := b.pos
	for name, prove := range map[string]func(){
		"pad":     func() { b.known(known); b.pad(format.HeaderSize) },
		"stable":  func() { b.stable = known; b.pad(format.HeaderSize + 8) },
		"message": func() { b.known(known); b.pages(1, 10) },
		"aborted": func() { b.known(known); b.put(format.KindFailed, 2, nil) },
	} {
		copy(b.file, whole)
		clear(b.file[b.at(pos):])
		b.known(format.NoLSN)
		b.pos = pos
		prove()
		b.file[at+30] ^= 1
		if c := wantCorrupt(t, b.file, b.options(), endsBelowDurable); c.Place.lsn != format.LSN(at) {
			t.Errorf("%s: %v", name, c)
		}
	}
}

// The stable LSN in any message that carries one proves, also behind an invalid message and in a slot without a header,
// although the durable end that the message itself carries is older. Proves V1, rule 13.
func TestStableLSNInAnyMessageProves(t *testing.T) {
	for name, prove := range map[string]func(b *builder){
		"pad":   func(b *builder) { b.pad(100) },
		"leave": func(b *builder) { b.recycle(0, 0) },
		"index": func(b *builder) { b.seal() },
	} {
		for _, headless := range []bool{false, true} {
			b := newBuilder()
			b.open(0, 0, format.SegmentStateInUse)
			b.pages(1, 10)
			b.fill()
			b.known(format.NoLSN)
			b.open(1, testSize, format.SegmentStateInUse)
			b.records(1, 10)
			at := b.lsn()
			b.records(3, 100)
			b.stable, b.durable = b.lsn()-1, 0
			if headless {
				b.open(2, 2*testSize, format.SegmentStateInUse)
				clear(b.file[b.at(0):b.at(format.SegmentStart)])
				b.records(1, 10)
			}
			prove(b)
			b.file[testSize+int(at-testSize)+30] ^= 1
			o := b.logOptions()
			if c := wantCorrupt(t, b.file, o, endsBelowDurable); c.Place.lsn != at {
				t.Errorf("%s, without a header %v: %v", name, headless, c)
			}
		}
	}
}

// Every message of a log whose messages were acknowledged one by one is proven by the next one; the last is not,
// unless a mark follows. Proves V1, rule 13, trap 25.
func TestNextMessageProves(t *testing.T) {
	const n = 20
	for _, marked := range []bool{false, true} {
		b := newBuilder().open(0, 0, format.SegmentStateInUse)
		var at []format.LSN
		for range n {
			at = append(at, b.lsn())
			b.pages(1, 200)
			b.durable = b.lsn()
		}
		if marked {
			b.pad(512)
		}
		for i, lsn := range at {
			// In the word, the checksum, the LSN, the page, the distance, and the body.
			for _, off := range []format.LSN{0, 3, 5, 8, 16, 20, 23, 24, 100} {
				b.file[lsn+off] ^= 4
				if i < n-1 || marked {
					c := wantCorrupt(t, b.file, b.options(), endsBelowDurable)
					if got, known := c.Place.LSN(); got != lsn || !known {
						t.Errorf("message %d: %v", i, c)
					}
				} else {
					b.scanned(t, b.options(), lsn)
				}
				b.file[lsn+off] ^= 4
			}
		}
	}
}

// An end that an earlier opening decided on is a floor: the log does not end below it.
func TestLogDoesNotEndBelowFloor(t *testing.T) {
	b := newBuilder().open(0, 0, format.SegmentStateInUse)
	b.pages(3, 100)
	o := b.options()
	o.Floor = b.lsn()
	b.scanned(t, o, b.lsn())
	b.file[b.lsn()-10] ^= 1
	wantCorrupt(t, b.file, o, endsBelowDurable)
	wantCorrupt(t, nil, o, endsBelowDurable) // cut to nothing
}

// A segment of another format version is not corrupt. The error names both versions.
func TestSegmentOfAnotherVersionIsAnError(t *testing.T) {
	b := threeSegments()
	b.file[12] = 1
	binary.LittleEndian.PutUint32(b.file[8:], crc32.Update(crc32.Checksum(b.file[:8], castagnoli), castagnoli,
		b.file[12:format.SegmentHeaderSize]))
	_, err := Scan(b.file, b.options())
	if !errors.Is(err, format.ErrSegmentVersion) || errors.Is(err, ErrCorrupt) ||
		!strings.Contains(err.Error(), fmt.Sprintf("version 1, this program knows %d", format.Version)) {
		t.Error(err)
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func TestFromOmitsMessagesBelow(t *testing.T) {
	const start = format.SegmentStart
	b := threeSegments()
	all := b.want
	for _, from := range []format.LSN{0, start, start + 1024, testSize, testSize + start, testSize + start + 2024,
		2 * testSize, b.lsn()} {
		o := b.options()
		o.From = from
		b.want = slices.DeleteFunc(slices.Clone(all), func(m Message) bool { return m.LSN < from })
		r := b.scanned(t, o, b.lsn())
		if len(r.Segments) != 3 {
			t.Errorf("from %v: %d segments", from, len(r.Segments))
		}
	}
	// Holes are those of recycled segments only, below From, too. An end below From is an error.
	whole, end := slices.Clone(b.file), b.lsn()
	b.open(2, 0, format.SegmentStateFree)
	o := b.options()
	for _, from := range []format.LSN{testSize - 100, testSize, testSize + 100, end} {
		o.From = from
		wantCorrupt(t, b.file, o, "missing")
	}
	copy(b.file, whole)
	b.recycle(1, 0)
	for _, from := range []format.LSN{0, testSize - 100, testSize, 2 * testSize} {
		o.From = from
		if r, err := Scan(b.file, o); err != nil || len(r.Segments) != 2 || r.End != end {
			t.Errorf("from %v: %+v, %v", from, r, err)
		}
	}
	o.From = 3*testSize + 100
	wantCorrupt(t, b.file, o, "missing")
}

// sparseReads notes which bytes of a file are read.
type sparseReads struct {
	file
	mu   *sync.Mutex
	read map[int64]int
}

func (f sparseReads) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	f.read[off] = max(f.read[off], len(p))
	f.mu.Unlock()
	return f.file.ReadAt(p, off)
}

// Of a slot that was never written to, only the header and the first block are read. A slot that lost its header is
// read, and what it proves counts. Proves V9, rule 16.
func TestNeverWrittenSlotIsNotRead(t *testing.T) {
	b := threeSegments()
	for len(b.file) < 6*testSize {
		b.file = append(b.file, 0)
	}
	f := sparseReads{b.file, new(sync.Mutex), map[int64]int{}}
	if _, err := Scan(f, b.options()); err != nil {
		t.Fatal(err)
	}
	for off, n := range f.read {
		if most := int64(format.SegmentStart + 4096); off >= 3*testSize && off%testSize+int64(n) > most {
			t.Errorf("%d bytes at offset %d of slot %d were read", n, off%testSize, off/testSize)
		}
	}
	clear(b.file[2*testSize:][:format.SegmentHeaderSize])
	if _, err := Scan(b.file, b.options()); !errors.Is(err, ErrCorrupt) {
		t.Errorf("header lost: error %v, want ErrCorrupt", err)
	}
}
