package recovery

import (
	"encoding/binary"
	"fmt"

	"pagecache/segments/format"
)

// entry is a message in the index. It takes 16 bytes: the index of a million messages takes 16 MB.
type entry struct {
	page format.PageID
	pos  uint32 // offset in the segment
	word format.Word
}

// walked is the contents of a segment, as far as they are valid.
type walked struct {
	entries []entry    // the messages for Apply
	marks   []mark     // batch markers
	bodies  []byte     // of the counter and meta messages among entries, concatenated
	end     int        // offset of the first byte after the valid messages; the segment size if it is full
	why     error      // why the message at end is not valid; nil if the segment is full
	stable  format.LSN // the highest stable LSN that a pad carries, before or after end; NoLSN if none
	unread  bool       // why says that the disk does not return the message at end
	rest    bool       // something other than zeros follows end
	base    format.LSN // of a probed slot: the base according to its pads; NoLSN if there are none
	err     error      // the segment could not be read
}

// keepsBody reports whether the index keeps a copy of the bodies of messages of kind k.
func keepsBody(k format.Kind) bool { return k == format.KindCounter || k == format.KindMeta }

// walk verifies the messages of a segment up to the first invalid one, and indexes those at and above LSN from. seg
// is the whole segment.
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

// index adds a message with a valid checksum to w. It returns an error if the contents are invalid.
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
		return fmt.Errorf("invalid page id %d: the highest is %d", h.Page, format.MaxPageID)
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

// probe searches a slot without a valid header for pads that verify with one of the seeds.
func (w *walked) probe(seg []byte, seeds []format.Seed) {
	w.base, w.stable = format.NoLSN, format.NoLSN
	w.search(seg[format.SegmentHeaderSize:], format.SegmentHeaderSize, len(seg), seeds)
}

// search tries every offset at which a message could begin. It raises stable to the highest LSN that a pad carries
// which verifies with one of the seeds, and sets rest if anything but zeros is found. tail is the segment from offset
// pos on; size is the segment size.
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
