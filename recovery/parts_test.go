package recovery

import (
	"slices"
	"testing"

	"pagecache/segments/format"
)

// part writes a part of a group, which has the given number of parts behind this one: a root and a whole page. first is
// the LSN of the first part, 0 if this is it. Apply must return its messages if counts is set.
func (b *builder) part(first format.LSN, left int, counts bool) format.LSN {
	kind, lsn, seed := format.KindGroup, b.lsn(), b.seed()
	if first > 0 {
		kind = format.KindGroupPart
	}
	dst := b.file[b.at(b.pos):]
	at := format.HeaderSize + kind.GroupHeadSize()
	root := format.AppendRoot(nil, format.Root{Name: "name", Target: 8})
	for _, k := range []format.Kind{format.KindRoot, format.KindCompact} {
		w := format.MakeWord(k, format.HeaderSize+len(root))
		msg := dst[at:]
		format.PutHeader(msg, lsn+format.LSN(at), 7, b.durable)
		copy(msg[format.HeaderSize:], root)
		format.PutCRC(msg, w, seed)
		format.PutWord(msg, w)
		if counts {
			off := b.offset() + format.Offset(at)
			m := Message{Kind: k, LSN: lsn + format.LSN(at), Page: 7}
			m.Ptr = format.DiskPtr{Off: off, Len: uint32(w.Len())}
			if keepsBody(k) {
				m.Body = root
			}
			b.want = append(b.want, m)
		}
		at += format.AlignUp(w.Len())
	}
	format.GroupHead{First: first, Left: left, Messages: 2}.Put(dst[format.HeaderSize:], kind)
	w := format.MakeWord(kind, at)
	format.PutHeader(dst, lsn, 0, b.durable)
	format.PutCRC(dst, w, seed)
	format.PutWord(dst, w)
	b.wrote(at)
	return lsn
}

// decided writes a message that says that a group has taken effect.
func (b *builder) decided(first, last format.LSN) format.LSN {
	body := make([]byte, format.DecisionsSize(1))
	format.PutDecisions(body, []format.Decision{{First: first, Last: last}})
	return b.put(format.KindDecided, 0, body)
}

// root writes a root that must be found between parts.
func (b *builder) root() {
	b.put(format.KindRoot, 9, format.AppendRoot(nil, format.Root{Name: "other", Target: 8}))
}

// The messages of a group in parts count if the last part is in the log, or a message that says that it was, and none
// of them does otherwise. The log goes on behind parts that do not count. Other messages between them always count.
// Proves V12.
func TestPartsCountWithTheLast(t *testing.T) {
	for _, counts := range []bool{false, true} {
		for _, again := range []bool{false, true} {
			b := newBuilder().open(0, 0, format.SegmentStateInUse)
			b.root()
			other := b.part(0, 1, false) // given up
			first := b.part(0, 3, counts)
			b.root()
			b.part(first, 2, counts)
			b.fill()
			b.open(1, testSize, format.SegmentStateInUse)
			b.root()
			b.part(first, 1, counts)
			b.pages(2, 10)
			want := []format.Decision(nil)
			if last := b.lsn(); counts && !again {
				b.part(first, 0, true)
				want = []format.Decision{{First: first, Last: last, At: last}}
			} else if counts {
				b.pages(1, 10) // the last part has left
				at := b.decided(first, last)
				want = []format.Decision{{First: first, Last: last, At: at}}
			}
			b.root()
			r := b.scanned(t, b.options(), b.lsn())
			if !slices.Equal(r.Decisions, want) {
				t.Errorf("counts %v, again %v: decisions %v, want %v; the group at %v is given up", counts, again,
					r.Decisions, want, other)
			}
			// A snapshot needs what lies above its beginning only.
			o := b.options()
			o.From = testSize + format.SegmentStart
			b.want = slices.DeleteFunc(b.want, func(m Message) bool { return m.LSN < o.From })
			b.scanned(t, o, b.lsn())
		}
	}
}

// Of several messages that say that a group has taken effect, the last one is known: it stays in the log for longest.
func TestLastDecisionCounts(t *testing.T) {
	b := newBuilder().open(0, 0, format.SegmentStateInUse)
	first := b.part(0, 1, true)
	last := b.part(first, 0, true)
	b.decided(first, last)
	at := b.decided(first, last)
	r := b.scanned(t, b.options(), b.lsn())
	if want := []format.Decision{{First: first, Last: last, At: at}}; !slices.Equal(r.Decisions, want) {
		t.Errorf("decisions %v, want %v", r.Decisions, want)
	}
}

// Parts do not count if the log ends before the last one: because that is torn, or behind the beginning of a batch that
// was open.
func TestPartsWithoutTheLast(t *testing.T) {
	for _, batch := range []bool{false, true} {
		for cut := format.Align; cut < 200; cut += format.Align {
			b := newBuilder().open(0, 0, format.SegmentStateInUse)
			b.root()
			first := b.part(0, 1, false)
			b.root()
			end := b.lsn()
			if batch {
				end = b.begin()
			}
			last := b.part(first, 0, false)
			if batch {
				b.decided(first, last)
			}
			if n := int(b.lsn() - last); !batch && cut <= n {
				clear(b.file[b.at(b.pos-cut):b.at(b.pos)])
			} else if !batch || cut > format.Align {
				break
			}
			b.scanned(t, b.options(), end)
		}
	}
}

// A standalone log has no groups in parts, and no decisions about them: such a message ends it. Proves rule 12.
func TestStandaloneLogHasNoParts(t *testing.T) {
	for name, put := range map[string]func(b *builder){
		"first part": func(b *builder) { b.part(0, 1, false) },
		"part":       func(b *builder) { b.part(5000, 0, false) },
		"decision":   func(b *builder) { b.decided(4096, 5000) },
	} {
		b := newBuilder().open(0, 0, format.SegmentStateInUse)
		b.put(format.KindData, 0, []byte("a record"))
		b.want = nil
		end := b.lsn()
		if put(b); name == "decision" {
			b.pages(1, 10)
		}
		b.want = nil
		o := b.options()
		o.Log = true
		if r, err := Scan(b.file, o); err != nil || r.End != end {
			t.Errorf("%s: the log ends at %v, want %v; %v", name, r.End, end, err)
		}
	}
}
