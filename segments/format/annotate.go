package format

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// annotator writes bytes as annotated hex: a line for each field, with file offset, bytes, name and meaning.
type annotator struct {
	dst  []byte
	src  []byte            // the bytes that are not written yet
	base Offset            // file offset of src
	body int               // bytes of a message's body that are shown at most
	keep func(Header) bool // reports whether a message is shown; nil: all are
}

// hexWidth is the number of bytes of a field in one line.
const hexWidth = 16

// field writes the next n bytes as one field.
func (a *annotator) field(n int, name, form string, args ...any) {
	n = min(n, len(a.src))
	text := fmt.Sprintf(form, args...)
	for first := true; first || n > 0; first = false {
		part := min(n, hexWidth)
		line := fmt.Sprintf("%08x  % -*x  ", int64(a.base), hexWidth*3-1, a.src[:part])
		if first {
			line += fmt.Sprintf("%-12s %s", name, text)
		}
		a.dst = append(append(a.dst, bytes.TrimRight([]byte(line), " ")...), '\n')
		a.src, a.base, n = a.src[part:], a.base+Offset(part), n-part
	}
}

// skip omits the next n bytes.
func (a *annotator) skip(n int) {
	n = min(n, len(a.src))
	a.src, a.base = a.src[n:], a.base+Offset(n)
}

func (a *annotator) note(form string, args ...any) {
	a.dst = fmt.Appendf(a.dst, "%08x  -- "+form+"\n", append([]any{int64(a.base)}, args...)...)
}

// rest writes all other bytes as they are, without the zeros at their end.
func (a *annotator) rest(name string) {
	if n := len(bytes.TrimRight(a.src, "\x00")); n > 0 {
		a.field(n, name, "")
	}
	if n := len(a.src); n > 0 {
		a.note("%d zeros", n)
		a.skip(n)
	}
}

// AnnotateSuperblock appends src, the contents of a superblock file, as annotated hex to dst: both copies, with their
// states. It accepts any bytes; it shows a copy that is not intact as it is, with the reason.
func AnnotateSuperblock(dst, src []byte) []byte {
	a := annotator{dst: dst}
	_, states, err := DecodeSuperCopies(src)
	if err != nil {
		a.note("%v", err)
	}
	for i, state := range states {
		a.src, a.base = superCopy(src, i), Offset(i*SuperCopySize)
		a.note("copy %d: %v", i, state)
		a.superCopy()
	}
	return a.dst
}

// superCopy writes one copy of the superblock.
func (a *annotator) superCopy() {
	s, err := decodeSuperCopy(a.src)
	if err != nil {
		a.note("%v", err)
		a.rest("bytes")
		return
	}
	a.field(8, "magic", "%q", superMagic)
	a.field(4, "crc", "ok")
	a.field(2, "version", "%d", Version)
	a.field(1, "flags", "clean=%t log=%t begun=%t", s.Clean, s.Log, s.Begun)
	a.field(1, "zero", "")
	a.field(16, "store", "%v", s.Store)
	a.field(4, "segment size", "%d", s.SegmentSize)
	a.field(4, "zero", "")
	a.field(8, "generation", "%d", s.Generation)
	a.field(8, "end", "LSN %v", s.End)
	a.field(8, "next id", "%d", s.NextID)
	a.field(8, "next page", "%v", s.NextPage)
	a.field(8, "id interval", "%d", s.IDInterval)
	a.field(8, "sequence", "%d", s.Sequence)
	a.field(8, "floor", "LSN %v", s.Floor)
	a.field(8, "timeline", "%v", s.Timeline)
	a.field(8, "joined", "%v", s.Joined)
	a.field(8, "branch", "LSN %v", s.Branch)
	a.field(1, "name length", "%d", len(s.Name))
	a.field(len(s.Name), "name", "%q", s.Name)
	a.skip(MaxFormatName - len(s.Name))
	used := 0
	for ; used < MaxAncestors && s.Ancestors[used].Timeline != 0; used++ {
		a.field(8, "ancestor", "%v", s.Ancestors[used].Timeline)
		a.field(8, "branch", "LSN %v", s.Ancestors[used].Branch)
	}
	a.skip((MaxAncestors - used) * ancestorSize)
	a.field(8, "listed", "from LSN %v on", s.Listed)
	a.field(4, "slots", "%d", s.Extent.Slots)
	a.field(4, "shrinks", "%d", s.Extent.Shrinks)
	unused := s.OutOfUse.Slots()
	for _, id := range unused {
		a.field(4, "out of use", "slot %v", id)
	}
	a.skip((MaxSlotList - len(unused)) * 4)
	ends := s.Ends.Ends()
	for _, lsn := range ends {
		a.field(8, "segment end", "LSN %v", lsn)
	}
	a.skip((MaxEndList - len(ends)) * 8)
	suspects := s.Suspects.Slots()
	for _, id := range suspects {
		a.field(4, "suspect", "slot %v", id)
	}
	a.skip((MaxSlotList - len(suspects)) * 4)
	a.rest("bytes")
}

// SegmentView selects the segment that AnnotateSegment shows, and the parts of it.
type SegmentView struct {
	Store       StoreID
	Slot        SegmentID
	SegmentSize int               // bytes
	Body        int               // bytes of each message's body that are shown at most
	Keep        func(Header) bool // reports whether a message is shown; nil: all are
}

// AnnotateSegment appends the segment seg as annotated hex to dst: its header, then its messages up to the first that
// is invalid, and the reason why that one is. It accepts any bytes.
func AnnotateSegment(dst, seg []byte, v SegmentView) []byte {
	a := annotator{dst: dst, src: seg, base: v.Slot.Offset(v.SegmentSize), body: v.Body, keep: v.Keep}
	h, err := DecodeSegmentHeader(seg, v.Slot, v.SegmentSize)
	a.note("slot %v", v.Slot)
	if err != nil {
		a.note("%v", err)
		if !errors.Is(err, ErrSegmentZero) {
			a.field(min(len(seg), SegmentHeaderSize), "header", "")
		}
		return a.dst
	}
	a.field(8, "magic", "%q", segmentMagic)
	a.field(4, "crc", "ok")
	a.field(2, "version", "%d", Version)
	a.field(1, "state", "%v", h.State)
	a.field(1, "zero", "")
	a.field(4, "segment size", "%d", h.SegmentSize)
	a.field(4, "block size", "%d", h.BlockSize)
	a.field(8, "generation", "%d", h.Generation)
	a.field(8, "base", "LSN %v", h.Base)
	a.field(8, "stable", "LSN %v", h.Stable)
	a.field(8, "recycled", "%d", h.Ledger.Recycled)
	a.field(4, "slot", "%v", h.Slot)
	a.field(4, "zero", "")
	a.field(16, "store", "%v", h.Store)
	a.field(8, "timeline", "%v", h.Timeline)
	a.field(8, "joined", "%v", h.Ledger.Joined)
	a.field(8, "left", "%v", h.Ledger.Left)
	a.field(4, "slots", "%d", h.Ledger.Slots)
	a.field(4, "shrinks", "%d", h.Ledger.Shrinks)
	a.field(16, "zero", "")
	if h.State == SegmentStateInUse {
		a.skip(SegmentStart - SegmentHeaderSize)
		a.messages(h, v.Store)
	}
	return a.dst
}

// messages writes the messages of a segment. a.src begins at the first of them.
func (a *annotator) messages(h SegmentHeader, store StoreID) {
	seed := MakeSeed(store, h.Generation, h.Slot)
	pos := SegmentStart
	for len(a.src) >= HeaderSize {
		m, body, err := DecodeMessage(a.src, h.Base+LSN(pos), seed)
		if err != nil {
			a.note("LSN %v: %v", h.Base+LSN(pos), err)
			return
		}
		if a.keep == nil || a.keep(m) {
			a.message(m, body)
		} else {
			a.skip(m.Step())
		}
		pos += m.Step()
	}
	if len(a.src) > 0 {
		a.field(len(a.src), "rest", "too short for a message")
	}
	a.note("segment is full")
}

// message writes the message at the beginning of a.src.
func (a *annotator) message(m Header, body []byte) {
	a.field(4, "word", "%v, %d bytes", m.Kind, m.Len)
	a.field(4, "crc", "ok")
	a.field(8, "lsn", "%v", m.LSN)
	if end := m.Durable(); end == NoLSN {
		a.field(8, "page", "%v, durable end not known", m.Page)
	} else {
		a.field(8, "page", "%v, durable below LSN %v", m.Page, end)
	}
	if prev, rest, err := CutPrev(m.Kind, body); err == nil && m.Kind.Delta() {
		a.field(PrevSize, "previous", "LSN %v", prev.Below(m.LSN))
		body = rest
	}
	switch shown := min(len(body), a.body); {
	case m.Kind.IsGroup() && len(body) >= m.Kind.GroupHeadSize():
		a.group(m.Kind, body)
		return // its messages follow
	case len(body) == 0:
	case m.Kind == KindPad:
		a.pad(body)
	default:
		a.field(shown, "body", "%s", describeBody(m, body))
		if rest := len(body) - shown; rest > 0 {
			a.note("%d more bytes", rest)
			a.skip(rest)
		}
	}
	if n := AlignUp(m.Len) - m.Len; n > 0 {
		a.field(n, "align", "")
	}
}

// group writes the head of a group, or of a part of one.
func (a *annotator) group(k Kind, body []byte) {
	if k == KindGroup {
		a.field(4, "parts", "%d", binary.LittleEndian.Uint32(body))
	} else {
		a.field(8, "first", "LSN %v", LSN(binary.LittleEndian.Uint64(body)))
		a.field(4, "left", "%d parts follow", binary.LittleEndian.Uint32(body[8:]))
	}
	head := k.GroupHeadSize()
	a.field(4, "messages", "%d, in %d bytes", binary.LittleEndian.Uint32(body[head-4:]), len(body)-head)
}

// pad writes the body of a pad.
func (a *annotator) pad(body []byte) {
	filler := len(body)
	if filler >= padStableSize {
		a.field(padStableSize, "stable", "LSN %v", PadStable(body))
		filler -= padStableSize
	}
	if filler > 0 {
		a.note("%d bytes of filler", filler)
		a.skip(filler)
	}
}

// describeBody returns the meaning of a body, of a delta without its Prev, or its length for kinds with user data.
func describeBody(m Header, body []byte) string {
	switch m.Kind {
	case KindAppendBlob, KindCompactBlob:
		p, err := DecodeBlobPtr(body)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("blob %v, %d bytes", p.ID, p.Len)
	case KindAppendZstd, KindCompactZstd:
		if len(body) >= 4 {
			return fmt.Sprintf("%d bytes, uncompressed %d", len(body), binary.LittleEndian.Uint32(body))
		}
	case KindLeave:
		l, err := DecodeLeave(body, m.LSN)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%d leave, %d in all, left %v, stable LSN %v", len(l.Segments), l.Recycled, l.Left, l.Stable)
	case KindDecided:
		return describeDecisions(body, m.LSN)
	case KindBatchEnd:
		b, err := DecodeManifest(body, m.LSN)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("batch from LSN %v", b.Begin)
	case KindCounter:
		v, err := DecodeCounter(body)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("next id %d", v)
	case KindRoot:
		r, err := DecodeRoot(body)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("root %q is %v", r.Name, r.Target)
	case KindRecord, KindNote, KindRecordPart, KindLongRecord:
		return describeStream(m, body)
	case KindTruncate:
		c, err := DecodeCut(body)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("stream %d: only records %d to %d count from here", m.Page, c.First, c.Last)
	case KindIndex:
		if t := body[max(0, len(body)-IndexTrailerSize):]; len(t) == IndexTrailerSize {
			entries, begins := binary.LittleEndian.Uint32(t[8:]), binary.LittleEndian.Uint32(t[12:])
			runs, offsets := binary.LittleEndian.Uint32(t[20:]), binary.LittleEndian.Uint32(t[24:])
			text := fmt.Sprintf("%d entries, %d ends of batches, ", entries, begins)
			switch {
			case runs == notListed:
				text += "streams not listed, "
			case runs > 0:
				text += fmt.Sprintf("%d runs of %d records, ", runs, offsets)
			}
			return fmt.Sprintf("%sstable LSN %v", text, LSN(binary.LittleEndian.Uint64(t)))
		}
	}
	return fmt.Sprintf("%d bytes", len(body))
}

// describeDecisions describes the body of a message at lsn that says which groups have taken effect.
func describeDecisions(body []byte, lsn LSN) string {
	ds, err := DecodeDecisions(body, lsn)
	if err != nil {
		return err.Error()
	}
	text := "took effect:"
	for _, d := range ds {
		text += fmt.Sprintf(" LSN %v … %v", d.First, d.Last)
	}
	return text
}

// describeStream describes the body of a record, or of a note, of a stream.
func describeStream(m Header, body []byte) string {
	if err := CheckStream(m.Kind, body, m.LSN); err != nil {
		return err.Error()
	}
	switch m.Kind {
	case KindRecord:
		q, b, _ := CutSeq(body)
		return fmt.Sprintf("record %d of stream %d, %d bytes", q, m.Page, len(b))
	case KindLongRecord:
		r, _ := DecodeLongRecord(body, m.LSN)
		const text = "record %d of stream %d, %d bytes in %d parts from LSN %d on"
		return fmt.Sprintf(text, r.Seq, m.Page, r.Len, len(r.Parts), r.Parts[0])
	case KindRecordPart:
		return fmt.Sprintf("part of a record of stream %d, %d bytes", m.Page, len(body))
	}
	n, _ := DecodeNote(body)
	if !n.Set {
		return fmt.Sprintf("note %q of stream %d is removed", n.Name, m.Page)
	}
	return fmt.Sprintf("note %q of stream %d, %d bytes", n.Name, m.Page, len(n.Value))
}
