package recovery

import (
	"errors"
	"slices"
	"strings"
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
	return c
}

func TestEmptyLogs(t *testing.T) {
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
		wantCorrupt(t, f, o, "closed cleanly")
	}
}

func TestOptionsOutOfBounds(t *testing.T) {
	for _, o := range []Options{{}, {SegmentSize: 1 << 30}, {SegmentSize: testSize + 4}, {SegmentSize: testSize, From: -1},
		{SegmentSize: testSize, End: -1}} {
		if _, err := Scan(file(nil), o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
}

// kinds puts a message of every kind.
func (b *builder) kinds() {
	b.put(format.KindCompact, 2, []byte("whole"))
	b.put(format.KindAppend, 2, nil)
	b.put(format.KindAppendBlob, 3, []byte("blob"))
	b.put(format.KindCompactBlob, 4, []byte("blob"))
	b.put(format.KindFree, 4, nil)
	b.put(format.KindFailed, 5, []byte("aborted"))
	b.counter(77)
	b.put(format.KindMeta, format.MetaPage, format.AppendMeta(nil, map[string]format.PageID{"root": 2}))
	b.end(b.begin())
	b.put(format.KindData, 0, []byte("record"))
	b.put(format.KindCompact, format.MaxPageID, nil)
}

func TestEveryKind(t *testing.T) {
	b := newBuilder().open(0, 0, format.SegmentStateInUse)
	b.kinds()
	b.block()
	b.kinds()
	r := b.scanned(t, b.options(), b.lsn())
	if r.Torn || r.Tip != r.End || len(r.Segments) != 1 || r.Segments[0].Used != b.pos || r.Counter != 77 {
		t.Errorf("%+v", r)
	}
	if r.Stable != format.NoLSN {
		t.Errorf("stable %v: the first pad knows of nothing stable", r.Stable)
	}
	errVisit := errors.New("enough")
	if err := r.Apply(func(Message) error { return errVisit }); err != errVisit {
		t.Errorf("Apply changed the visitor's error: %v", err)
	}
	o := b.options()
	o.Clean, o.End = true, b.lsn()
	b.scanned(t, o, b.lsn())
	for _, d := range []format.LSN{-8, 8, testSize} {
		o.End = b.lsn() + d
		wantCorrupt(t, b.file, o, "closed cleanly")
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

func TestManySegments(t *testing.T) {
	b := threeSegments()
	r := b.scanned(t, b.options(), b.lsn())
	if len(r.Segments) != 3 || r.Segments[0].Slot != 2 || r.Segments[2].Slot != 1 || r.Segments[1].Used != testSize {
		t.Errorf("%+v", r.Segments)
	}
	// A segment that ends with fewer bytes than a header takes.
	for left := 0; left < format.HeaderSize; left += format.Align {
		b := newBuilder().open(0, 0, format.SegmentStateInUse)
		b.put(format.KindAppend, 2, make([]byte, b.left()-left-format.HeaderSize))
		b.open(1, testSize, format.SegmentStateInUse)
		b.pages(2, 10)
		b.scanned(t, b.options(), b.lsn())
		b.scanned(t, Options{Store: testStore, SegmentSize: testSize, Clean: true, End: b.lsn()}, b.lsn())
	}
	// A segment that was opened and not written to.
	b = newBuilder().open(0, 0, format.SegmentStateInUse)
	b.fill()
	b.open(1, testSize, format.SegmentStateInUse)
	for _, end := range []format.LSN{testSize, testSize + format.SegmentHeaderSize} {
		b.scanned(t, Options{Store: testStore, SegmentSize: testSize, Clean: true, End: end}, b.lsn())
	}
}

// proves rule 10: damage in the middle, with good records after it, is not the end of the log.
func TestMissingOrDamagedMiddle(t *testing.T) {
	b := threeSegments()
	b.open(0, testSize, format.SegmentStateFree)
	wantCorrupt(t, b.file, b.options(), "missing")
	b = threeSegments()
	clear(b.file[:testSize])
	wantCorrupt(t, b.file, b.options(), "missing")
	b = threeSegments()
	b.file[20] ^= 1
	c := wantCorrupt(t, b.file, b.options(), "damaged")
	if c.Place != (Place{}).WithSlot(0).WithOffset(0).WithLSN(testSize) || c.File != "log" {
		t.Errorf("%+v", c)
	}
	b = threeSegments()
	b.file[2*testSize+100] ^= 1
	c = wantCorrupt(t, b.file, b.options(), "checksum")
	if c.Place != (Place{}).WithSlot(2).WithOffset(2*testSize+64).WithLSN(64) || !errors.Is(c, format.ErrCRC) {
		t.Errorf("%+v", c)
	}
}

// The header of the last segment is damaged; only the pads behind it say that it held stable data.
func TestDamagedHeaderIsProbed(t *testing.T) {
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
		c := wantCorrupt(t, b.file, o, "damaged")
		if slot, known := c.Place.Slot(); slot != 1 || !known {
			t.Errorf("generations %v: %+v", gens, c)
		}
		copy(b.file, intact)
		clear(b.file[testSize : testSize+512]) // the header is lost
		wantCorrupt(t, b.file, o, "missing")
	}
}

func TestForeignSegments(t *testing.T) {
	b := threeSegments()
	o := b.options()
	o.SegmentSize *= 2
	c := wantCorrupt(t, b.file, o, "segment size 16384, want 32768")
	if !errors.Is(c, format.ErrSegmentForeign) {
		t.Error(c)
	}
}

// trap 7: what an earlier recovery has discarded does not come back.
func TestRelocationAndVoid(t *testing.T) {
	b := newBuilder().open(0, 0, format.SegmentStateInUse)
	b.pages(3, 500)
	b.fill()
	b.open(1, testSize, format.SegmentStateInUse)
	b.pages(3, 500)
	kept, keptWant := b.lsn(), slices.Clone(b.want)
	b.pages(3, 600) // torn off by the first crash
	b.fill()
	b.known(testSize - 1)
	b.open(2, 2*testSize, format.SegmentStateInUse) // was not reached by the first recovery
	b.pages(3, 600)

	// The first recovery carries the tail over to slot 3.
	b.gen, b.want = 2, keptWant[:3]
	b.open(3, testSize, format.SegmentStateInUse)
	b.pages(3, 500)
	if b.lsn() != kept {
		t.Fatal("the copy is not as long as the original")
	}
	r := b.scanned(t, b.options(), kept)
	if !slices.Equal(r.Void, []format.SegmentID{1, 2}) || r.MaxGeneration != 2 || r.Segments[1].Slot != 3 || !r.Torn {
		t.Errorf("%+v", r)
	}
	b.pages(1, 40)
	b.fill()
	b.open(4, 2*testSize, format.SegmentStateInUse)
	b.pages(1, 40)
	r = b.scanned(t, b.options(), b.lsn())
	if !slices.Equal(r.Void, []format.SegmentID{1, 2}) {
		t.Errorf("void %v", r.Void)
	}
	// Nor if the new segment is lost that would have taken the place of the discarded one.
	b.open(4, 2*testSize, format.SegmentStateFree)
	b.want = upTo(b.want, 2*testSize)
	b.stable = format.NoLSN
	b.header(format.SegmentStateFree)
	r = b.scanned(t, b.options(), 2*testSize)
	if !slices.Equal(r.Void, []format.SegmentID{1, 2}) || !slices.Equal(r.Free, []format.SegmentID{4}) {
		t.Errorf("%+v", r)
	}
	// Two slots of one generation with the same base were never written by this program.
	b.open(4, testSize, format.SegmentStateInUse)
	wantCorrupt(t, b.file, b.options(), "holds the same segment")
}

// A recovery that crashed before the header of its copy was written leaves the original in force.
func TestHalfRelocated(t *testing.T) {
	b := newBuilder().open(0, 0, format.SegmentStateInUse)
	b.pages(3, 500)
	b.block()
	b.pages(3, 500)
	end, want := b.lsn(), slices.Clone(b.want)
	b.gen = 2
	b.stable = format.NoLSN
	b.open(1, 0, format.SegmentStateInUse)
	b.pages(3, 500)
	b.known(900)
	b.block()
	b.pages(3, 500)
	b.want = want
	clear(b.file[testSize : testSize+64])
	r := b.scanned(t, b.options(), end)
	if !slices.Equal(r.Zero, []format.SegmentID{1}) || r.Stable != 900 {
		t.Errorf("%+v", r)
	}
	b.file[testSize+9] = 1
	r = b.scanned(t, b.options(), end)
	if !slices.Equal(r.Corrupt, []format.SegmentID{1}) {
		t.Errorf("%+v", r)
	}
}

// Claims of any segment count: a pad far behind a torn place says that the place was stable.
func TestClaimsOfLaterSegments(t *testing.T) {
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
	b.scanned(t, b.options(), format.LSN(at)) // a later segment that claims nothing is no evidence
	copy(b.file, whole)
	b.known(known)
	b.block()
	b.file[at+30] ^= 1
	wantCorrupt(t, b.file, b.options(), "known to be stable")
}

func TestFromSkipsSegmentsBelow(t *testing.T) {
	b := threeSegments()
	all := b.want
	for _, from := range []format.LSN{0, 64, 1088, testSize, testSize + 64, testSize + 2088, 2 * testSize, b.lsn()} {
		o := b.options()
		o.From = from
		b.want = slices.DeleteFunc(slices.Clone(all), func(m Message) bool { return m.LSN < from })
		r := b.scanned(t, o, b.lsn())
		if len(r.Segments) != 3 {
			t.Errorf("from %v: %d segments", from, len(r.Segments))
		}
	}
	// Holes below are lawful; above they are not. An end below From is damage.
	b.open(2, 0, format.SegmentStateFree)
	o := b.options()
	o.From = testSize
	if r, err := Scan(b.file, o); err != nil || len(r.Segments) != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	o.From = testSize - 100
	wantCorrupt(t, b.file, o, "missing")
	o.From = 3*testSize + 100
	wantCorrupt(t, b.file, o, "missing")
}

type failingBulk struct {
	failing
	*lending
}

func (f failingBulk) ReadAt(p []byte, off int64) (int, error) { return f.failing.ReadAt(p, off) }

type failing struct{ file }

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off >= testSize {
		return 0, errors.New("medium error")
	}
	return f.file.ReadAt(p, off)
}

func TestReadErrors(t *testing.T) {
	f := threeSegments().file
	o := threeSegments().options()
	bulk := o
	bulk.Bulk = failingBulk{failing{f}, &lending{}}
	for _, c := range []struct {
		Source
		Options
	}{{failing{f}, o}, {f, bulk}} {
		_, err := Scan(c.Source, c.Options)
		if err == nil || errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "medium error") {
			t.Errorf("%v", err)
		}
	}
}

func TestWorkers(t *testing.T) {
	b := newBuilder()
	const n = 200 // 3 MiB
	for i := range n {
		b.open(n-1-i, format.LSN(i*testSize), format.SegmentStateInUse)
		b.pages(5, 1000)
		b.counter(uint64(i)) // whose body is kept
		b.pages(5, 1000)
		b.fill()
	}
	for _, w := range []int{0, 1, 2, 7, 1000} {
		o := b.options()
		o.Workers = w
		b.scanned(t, o, n*testSize)
		bulk := &lending{file: b.file}
		o.Bulk = bulk
		b.scanned(t, o, n*testSize)
		if bulk.buffers == 0 || bulk.freed != bulk.buffers {
			t.Errorf("%d of %d buffers were freed", bulk.freed, bulk.buffers)
		}
		bulk.refuse = bulk.buffers
		bulk.buffers, bulk.freed = 0, 0
		if _, err := Scan(b.file, o); !errors.Is(err, errLent) || bulk.freed != bulk.refuse-1 {
			t.Errorf("%v, with %d of %d buffers", err, bulk.freed, bulk.refuse-1)
		}
	}
}

// lending is a Bulk that overwrites its buffers when they come back.
type lending struct {
	file
	buffers, freed int
	refuse         int // this one fails
}

var errLent = errors.New("no memory")

func (l *lending) Buffer(n int) ([]byte, func(), error) {
	if l.buffers++; l.buffers == l.refuse {
		return nil, nil, errLent
	}
	buf := make([]byte, n)
	return buf, func() {
		l.freed++
		for i := range buf {
			buf[i] = 0xdb
		}
	}, nil
}
