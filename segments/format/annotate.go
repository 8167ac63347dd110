package format

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// An annotator writes bytes as annotated hex: a line for each field, with file offset, bytes, name and meaning.
type annotator struct {
	dst  []byte
	src  []byte            // what is left
	base Offset            // file offset of src
	body int               // bytes of a body that are shown
	keep func(Header) bool // nil: every message
}

// hexWidth is how many bytes of a field stand in one line.
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

// skip leaves out the next n bytes.
func (a *annotator) skip(n int) {
	n = min(n, len(a.src))
	a.src, a.base = a.src[n:], a.base+Offset(n)
}

func (a *annotator) note(form string, args ...any) {
	a.dst = fmt.Appendf(a.dst, "%08x  -- "+form+"\n", append([]any{int64(a.base)}, args...)...)
}

// AnnotateSuperblock appends src, the contents of a superblock file, as annotated hex to dst. It takes any bytes: what cannot
// be decoded is shown as it is, with the reason.
func AnnotateSuperblock(dst, src []byte) []byte {
	a := annotator{dst: dst, src: src}
	s, err := DecodeSuperblock(src)
	if err != nil {
		a.note("%v", err)
		a.field(len(src), "bytes", "")
		return a.dst
	}
	a.field(8, "magic", "%q", superMagic)
	a.field(4, "crc", "ok")
	a.field(2, "version", "%d", Version)
	a.field(1, "flags", "clean=%t log=%t", s.Clean, s.Log)
	a.field(1, "zero", "")
	a.field(16, "store", "%v", s.Store)
	a.field(4, "segment size", "%d", s.SegmentSize)
	a.field(4, "zero", "")
	a.field(8, "generation", "%d", s.Generation)
	a.field(8, "end", "LSN %v", s.End)
	a.field(8, "next id", "%d", s.NextID)
	a.field(8, "next page", "%v", s.NextPage)
	a.field(8, "id interval", "%d", s.IDInterval)
	return a.dst
}

// AnnotateSegment appends a whole segment as annotated hex to dst: its header, then its messages up to the first that is not
// valid, and why that is not. At most body bytes of each message's body are shown, and only messages that keep, if it is not nil, returns true
// for. It takes any bytes.
func AnnotateSegment(dst, seg []byte, store StoreID, slot SegmentID, segmentSize, body int, keep func(Header) bool) []byte {
	a := annotator{dst: dst, src: seg, base: slot.Offset(segmentSize), body: body, keep: keep}
	h, err := DecodeSegmentHeader(seg, slot, segmentSize)
	a.note("slot %v", slot)
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
	a.field(8, "recycled", "%d", h.Recycled)
	a.field(4, "slot", "%v", h.Slot)
	a.field(4, "zero", "")
	if h.State == SegmentInUse {
		a.messages(h, store)
	}
	return a.dst
}

// messages writes the messages of a segment, a.src being what follows its header.
func (a *annotator) messages(h SegmentHeader, store StoreID) {
	seed := MakeSeed(store, h.Generation, h.Slot)
	pos := SegmentHeaderSize
	for len(a.src) >= HeaderSize {
		m, body, err := DecodeMessage(a.src, h.Base+LSN(pos), seed)
		if err != nil {
			a.note("LSN %v: %v", h.Base+LSN(pos), err)
			return
		}
		if a.keep == nil || a.keep(m) {
			a.message(m, body)
		} else {
			a.skip(AlignUp(m.Len))
		}
		pos += AlignUp(m.Len)
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
	if m.Kind == KindPad {
		a.field(8, "stable", "LSN %v", m.PadStable())
	} else {
		a.field(8, "page", "%v", m.Page)
	}
	switch shown := min(len(body), a.body); {
	case len(body) == 0:
	case m.Kind == KindPad:
		a.note("%d bytes of filler", len(body))
		a.skip(len(body))
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

// describeBody says what a body means, where the kind tells.
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
	case KindMeta:
		names, err := DecodeMeta(body)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%d names", len(names))
	}
	return fmt.Sprintf("%d bytes", len(body))
}

// String returns the state's name.
func (s SegmentState) String() string {
	switch s {
	case SegmentInUse:
		return "in use"
	case SegmentFree:
		return "free"
	case SegmentRecycled:
		return "recycled"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}
