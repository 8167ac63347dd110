package recovery

import (
	"bytes"
	"io"
	"testing"

	"pagecache/segments/format"
)

const testSize = format.MinSegmentSize

var testStore = format.StoreID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}

// file is a Source in memory.
type file []byte

func (f file) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(f).ReadAt(p, off) }
func (f file) Size() (int64, error)                    { return int64(len(f)), nil }

var _ io.ReaderAt = file(nil)

// builder writes a log by hand.
type builder struct {
	file    file
	gen     format.Generation
	slot    format.SegmentID
	base    format.LSN
	pos     int        // in the segment
	stable  format.LSN // carried by headers and pads
	durable format.LSN // the durable end, carried by messages
	want    []Message  // what Apply must return

	lineage format.Lineage // newest first; the first is the timeline of the headers
	set     map[format.LSN]format.SegmentHeader
	gone    format.Identity // sum of the segments that left the set
	leaves  uint64
}

const testTimeline format.Timeline = 0x7e57

func newBuilder() *builder {
	return &builder{gen: 1, stable: format.NoLSN, set: map[format.LSN]format.SegmentHeader{},
		lineage: format.Lineage{{Timeline: testTimeline}}}
}

// open begins a segment in a slot.
func (b *builder) open(slot int, base format.LSN, state format.SegmentState) *builder {
	if need := (slot + 1) * testSize; len(b.file) < need {
		b.file = append(b.file, make([]byte, need-len(b.file))...)
	}
	b.slot, b.base, b.pos = format.SegmentID(slot), base, format.SegmentStart
	b.header(state)
	return b
}

// header writes the header of the current segment. If the segment is in use, it joins the set of the log's segments in
// place of those that its opening discards.
func (b *builder) header(state format.SegmentState) {
	h := format.SegmentHeader{State: state, SegmentSize: testSize, BlockSize: 512, Generation: b.gen, Base: b.base,
		Stable: b.stable, Slot: b.slot, Store: testStore, Timeline: b.lineage[0].Timeline}
	if state == format.SegmentStateInUse {
		for base, other := range b.set {
			if base == b.base || base > b.base && other.Generation < b.gen {
				delete(b.set, base)
			}
		}
		b.set[b.base] = h
	}
	h.Ledger = format.Ledger{Joined: b.joined(b.base + 1), Left: b.gone, Recycled: b.leaves}
	h.Put(b.file[b.at(0):])
}

// joined returns what all segments add up to that have joined below an LSN.
func (b *builder) joined(below format.LSN) format.Identity {
	sum := b.gone
	for base, h := range b.set {
		if base < below {
			sum += h.Identity()
		}
	}
	return sum
}

// recycle lets segments leave, by a message if there is room for one, and marks their slots as free; but after a crash
// that only the first n marks survive.
func (b *builder) recycle(n int, bases ...format.LSN) {
	l := format.Leave{Stable: b.stable}
	left := make([]format.SegmentHeader, len(bases))
	for i, base := range bases {
		h := b.set[base]
		delete(b.set, base)
		l.Segments = append(l.Segments, h.Identity())
		b.gone, b.leaves = b.gone+h.Identity(), b.leaves+1
		left[i] = h
	}
	l.Left, l.Recycled = b.gone, b.leaves
	if body := make([]byte, format.LeaveSize(len(bases))); b.left() >= format.HeaderSize+len(body) {
		l.Put(body)
		b.put(format.KindLeave, 0, body)
	}
	for _, h := range left[:n] {
		h.State, h.Stable, h.Ledger = format.SegmentStateFree, b.stable, format.Ledger{Left: b.gone, Recycled: b.leaves}
		h.Timeline, h.Generation = b.lineage[0].Timeline, b.gen
		h.Put(b.file[int(h.Slot)*testSize:])
	}
}

// branch begins a new opening at an LSN, with a generation and the given timeline.
func (b *builder) branch(at format.LSN, t format.Timeline) {
	b.gen++
	b.lineage = append(format.Lineage{{Timeline: t, Branch: at}}, b.lineage...)
}

// goOn is an opening in a new timeline: it moves the tail to a slot, marks the old one, and writes n more segments to
// the slots from there on.
func (b *builder) goOn(t format.Timeline, slot, n int) {
	end, old := b.lsn(), int(b.slot)
	b.branch(end, t)
	b.known(end - 1)
	b.open(slot, end-end%testSize, format.SegmentStateInUse)
	for b.lsn() < end {
		b.pages(1, min(500, int(end-b.lsn())-format.HeaderSize))
	}
	b.mark(old)
	for i := range n {
		b.fill()
		b.open(slot+1+i, b.base+testSize, format.SegmentStateInUse)
		b.pages(2, 100*(i+1))
	}
	b.block()
	b.pages(1, 50)
}

// mark marks a slot as free, and does not leave the current segment.
func (b *builder) mark(slot int) {
	current := *b
	b.slot, b.base = format.SegmentID(slot), 0
	b.header(format.SegmentStateFree)
	b.slot, b.base = current.slot, current.base
}

func (b *builder) at(pos int) int        { return int(b.slot)*testSize + pos }
func (b *builder) lsn() format.LSN       { return b.base + format.LSN(b.pos) }
func (b *builder) seed() format.Seed     { return format.MakeSeed(testStore, b.gen, b.slot) }
func (b *builder) left() int             { return testSize - b.pos }
func (b *builder) wrote(n int)           { b.pos += format.AlignUp(n) }
func (b *builder) offset() format.Offset { return format.Offset(b.at(b.pos)) }

// known makes everything up to l stable, and so durable.
func (b *builder) known(l format.LSN) { b.stable, b.durable = l, l+1 }

// put writes a message.
func (b *builder) put(k format.Kind, page format.PageID, body []byte) format.LSN {
	lsn := b.lsn()
	n := format.HeaderSize + len(body)
	msg := b.file[b.at(b.pos):]
	w := format.MakeWord(k, n)
	format.PutHeader(msg, lsn, page, b.durable)
	copy(msg[format.HeaderSize:], body)
	format.PutCRC(msg, w, b.seed())
	format.PutWord(msg, w)
	if k != format.KindFailed && k != format.KindBatchBegin && k != format.KindBatchEnd &&
		k != format.KindLeave && k != format.KindDecided {
		ptr := format.DiskPtr{Off: b.offset(), Len: uint32(n), Blob: k.Blob()}
		m := Message{Kind: k, LSN: lsn, Page: page, Ptr: ptr}
		m.Prev, _, _ = format.CutPrev(k, body)
		if keepsBody(k) {
			m.Body = body
		}
		b.want = append(b.want, m)
	}
	b.wrote(n)
	return lsn
}

// pad writes a pad of n bytes that carries the durable end and the stable LSN.
func (b *builder) pad(n int) {
	msg := b.file[b.at(b.pos):]
	format.PutWord(msg, format.PutPad(msg, b.lsn(), format.Known{Durable: b.durable, Stable: b.stable}, n, b.seed()))
	b.wrote(n)
}

// block pads up to the next block of 512 bytes, and makes everything up to there known-stable.
func (b *builder) block() {
	n := -b.pos & 511
	if n > 0 && n < format.HeaderSize {
		n += 512
	}
	if n > 0 {
		b.pad(min(n, b.left()))
	}
	b.known(b.lsn() - 1)
}

// fill pads up to the segment's end, and makes everything up to there known-stable.
func (b *builder) fill() {
	if n := b.left(); n >= format.HeaderSize {
		b.pad(n)
	}
	b.pos = testSize
	b.known(b.lsn() - 1)
}

// pages writes n appends of the given body length.
func (b *builder) pages(n, length int) {
	for i := range n {
		body := bytes.Repeat([]byte{byte(i + 1)}, length)
		b.put(format.KindAppend, format.PageID(2+i), body)
	}
}

func (b *builder) begin() format.LSN { return b.put(format.KindBatchBegin, 0, nil) }
func (b *builder) end(begin format.LSN) format.LSN {
	return b.put(format.KindBatchEnd, 0, format.Manifest{Begin: begin}.Append(nil))
}
func (b *builder) counter(v uint64) format.LSN {
	return b.put(format.KindCounter, format.CounterPage, format.AppendCounter(nil, v))
}

func (b *builder) options() Options {
	return Options{Store: testStore, SegmentSize: testSize, Generation: b.gen, File: "log", Lineage: b.lineage}
}

// clean returns the options for a log that was closed cleanly at an LSN.
func (b *builder) clean(end format.LSN) Options {
	o := b.options()
	o.Clean, o.End, o.Joined = true, end, b.joined(end)
	return o
}

func collect(t testing.TB, r *Result) []Message {
	t.Helper()
	var got []Message
	if err := r.Apply(func(m Message) error {
		m.Body = bytes.Clone(m.Body)
		got = append(got, m)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return got
}

// upTo returns the messages below an LSN.
func upTo(ms []Message, end format.LSN) []Message {
	n := 0
	for n < len(ms) && ms[n].LSN < end {
		n++
	}
	return ms[:n]
}

func equal(a, b []Message) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		x, y := a[i], b[i]
		if x.Kind != y.Kind || x.LSN != y.LSN || x.Page != y.Page || x.Prev != y.Prev || x.Ptr != y.Ptr ||
			!bytes.Equal(x.Body, y.Body) {
			return false
		}
	}
	return true
}

// scanned scans, and checks that the log ends at end and holds the messages written below it.
func (b *builder) scanned(t testing.TB, o Options, end format.LSN) *Result {
	t.Helper()
	r, err := Scan(b.file, o)
	if err != nil {
		t.Fatalf("Scan: %v", err)
	}
	if r.End != end {
		t.Fatalf("the log ends at %v (%s), want %v", r.End, r.Why, end)
	}
	if got, want := collect(t, r), upTo(b.want, end); !equal(got, want) {
		t.Fatalf("Apply returned %d messages, want %d:\n%+v\n%+v", len(got), len(want), got, want)
	}
	return r
}
