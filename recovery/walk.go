package recovery

import (
	"encoding/binary"
	"fmt"

	"pagecache/segments/format"
)

// entry is a message of the index: 16 bytes, so that a log of a million messages is held in 16 MB.
type entry struct {
	page format.PageID
	pos  uint32 // offset in the segment
	word format.Word
}

// walked is what a segment was found to hold.
type walked struct {
	entries []entry    // what Apply hands out
	marks   []mark     // batch markers
	bodies  []byte     // of the counter and meta messages among entries, one after another
	end     int        // offset of the first byte after the last valid message; the segment size if it is full
	why     error      // why the message at end is not valid; nil if the segment is full
	stable  format.LSN // the highest stable LSN that a pad carries, before or after end
	rest    bool       // there is something other than zeros after end
	base    format.LSN // of a probed slot: what the base seems to have been; NoLSN if nothing was found
	err     error      // the segment could not be read
}

// keepsBody reports whether the index keeps a copy of the bodies of messages of kind k.
func keepsBody(k format.Kind) bool { return k == format.KindCounter || k == format.KindMeta }

// walk verifies the messages of a segment from its first to the first that is not valid, and indexes those from LSN from
// on. seg is the whole segment.
func (w *walked) walk(seg []byte, base, from format.LSN, seed format.Seed) {
	w.base, w.stable = base, format.NoLSN
	pos := format.SegmentHeaderSize
	for len(seg)-pos >= format.HeaderSize {
		lsn := base + format.LSN(pos)
		h, body, err := format.DecodeMessage(seg[pos:], lsn, seed)
		if err == nil {
			err = w.index(h, body, pos, from)
		}
		if err != nil {
			w.end, w.why = pos, err
			w.search(seg[pos:], pos, len(seg), []format.Seed{seed})
			return
		}
		pos += format.AlignUp(h.Len)
	}
	w.end = len(seg)
}

// index takes in a valid message, unless its contents make no sense.
func (w *walked) index(h format.Header, body []byte, pos int, from format.LSN) error {
	switch h.Kind {
	case format.KindPad:
		w.stable = max(w.stable, h.PadStable())
		return nil
	case format.KindFailed:
		return nil
	case format.KindBatchBegin, format.KindBatchEnd:
		var m format.Manifest
		if h.Kind == format.KindBatchEnd {
			var err error
			if m, err = format.DecodeManifest(body, h.LSN); err != nil {
				return err
			}
		}
		if h.LSN >= from {
			w.marks = append(w.marks, mark{h.LSN, m.Begin})
		}
		return nil
	case format.KindCounter:
		if _, err := format.DecodeCounter(body); err != nil {
			return err
		}
	}
	if h.Page > format.MaxPageID {
		return fmt.Errorf("message names page %v, the highest is %v", h.Page, format.MaxPageID)
	}
	if h.LSN < from {
		return nil
	}
	w.entries = append(w.entries, entry{h.Page, uint32(pos), format.MakeWord(h.Kind, h.Len)})
	if keepsBody(h.Kind) {
		w.bodies = append(w.bodies, body...)
	}
	return nil
}

// probe looks for evidence in a slot whose header is not valid. Any of the seeds may be the slot's.
func (w *walked) probe(seg []byte, seeds []format.Seed) {
	w.base, w.stable = format.NoLSN, format.NoLSN
	w.search(seg[format.SegmentHeaderSize:], format.SegmentHeaderSize, len(seg), seeds)
}

// search looks at every place where a message could begin for pads that verify with one of the seeds, and raises stable to what
// they carry. It also looks whether there is anything but zeros. tail is the end of the segment, from offset pos on.
func (w *walked) search(tail []byte, pos, size int, seeds []format.Seed) {
	const padKind = uint32(format.KindPad)
	for ; len(tail) >= 8; tail, pos = tail[8:], pos+8 {
		first := binary.LittleEndian.Uint64(tail)
		if first == 0 {
			continue
		}
		w.rest = true
		if uint32(first)>>24 != padKind || len(tail) < format.HeaderSize {
			continue
		}
		lsn := int64(binary.LittleEndian.Uint64(tail[8:]))
		if lsn < 0 || lsn%int64(size) != int64(pos) {
			continue
		}
		for _, seed := range seeds {
			if h, _, err := format.DecodeMessage(tail, format.LSN(lsn), seed); err == nil {
				w.stable = max(w.stable, h.PadStable())
				w.base = format.LSN(lsn - int64(pos))
				break
			}
		}
	}
}
