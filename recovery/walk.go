package recovery

import (
	"bytes"
	"cmp"
	"encoding/binary"

	"pagecache/segments/format"
)

// entry is a message in the index. It takes 16 bytes: the index of a million messages takes 16 MB.
type entry struct {
	place uint64 // bits 35…0 the page id, bits 63…36 the offset in the segment
	word  format.Word
	prev  format.Prev // of a delta
}

const entryPosShift = 36 // the bits of a page id

func makeEntry(page format.PageID, pos int, w format.Word, prev format.Prev) entry {
	return entry{uint64(pos)<<entryPosShift | uint64(page), w, prev}
}

func (e entry) page() format.PageID { return format.PageID(e.place) & format.MaxPageID }

func (e entry) pos() int { return int(e.place >> entryPosShift) }

// walked is the contents of a segment, as far as they are valid.
type walked struct {
	entries []entry // the messages for Apply
	marks   []mark  // batch markers
	leaves  []leave // segments that leave
	// parts are those of groups that have several, and decisions say which of these have taken effect.
	parts     []groupPart
	decisions []format.Decision
	bodies    []byte     // of the counter and root messages among entries, concatenated
	end       int        // offset of the first byte after the valid messages; the segment size if it is full
	why       error      // why the message at end is not valid; nil if the segment is full
	durable   format.LSN // the highest durable end that a message carries, before or after end; 0 if none
	stable    format.LSN // the highest stable LSN that a message carries, before or after end; NoLSN if none
	unread    bool       // why says that the disk does not return the message at end
	toEnd     bool       // unread, and the disk returns nothing behind it up to the segment's end
	rest      bool       // something other than zeros follows end
	passed    bool       // an invalid message below from was passed over
	base      format.LSN // of a probed slot: the base according to its messages; NoLSN if there are none
	first     format.LSN // of a slot whose header cannot be read: the LSN where a message begins first; NoLSN if unread
	err       error      // the segment could not be read

	read     bool              // by readNewest, so that no other goroutine reads it again
	log      bool              // of a standalone log
	used     int               // bytes of the segment that may hold messages; 0: all
	indexed  bool              // only its index was read
	badIndex bool              // what begins at end is an index: no record is missing
	filling  *filling          // while the segment is being read; else nil
	inTail   bool              // see Segment
	outline  *format.IndexView // see Segment; if indexed
}

// leave is a message by which segments leave.
type leave struct {
	lsn format.LSN
	format.Leave
}

// keepsBody reports whether the index keeps a copy of the bodies of messages of kind k.
func keepsBody(k format.Kind) bool { return k == format.KindCounter || k == format.KindRoot }

// walk verifies the messages of a segment up to the first invalid one, and indexes those at and above LSN from. seg
// is the whole segment. If a message below from is not valid, walk goes on at from, which is a message boundary: the
// messages below are not needed now. They are verified when they are read, as those of the segments below.
func (w *walked) walk(seg []byte, base, from format.LSN, seed format.Seed) {
	w.base, w.stable = base, format.NoLSN
	pos, used, have := format.SegmentStart, cmp.Or(w.used, len(seg)), 0
	for used-pos >= format.HeaderSize {
		if w.filling != nil {
			have = w.filling.awaitMessage(seg, pos, have)
		}
		lsn := base + format.LSN(pos)
		h, body, err := format.DecodeMessage(seg[pos:used], lsn, seed)
		if err == nil {
			w.durable = max(w.durable, h.Durable())
			switch h.Kind {
			case format.KindGroup, format.KindGroupPart:
				err = w.group(h, body, pos, from, seed)
			case format.KindIndex:
				if err = w.index(h, body, pos, from); err == nil {
					err = w.checkIndex(h, body, len(seg), seed)
				}
			default:
				err = w.index(h, body, pos, from)
			}
		}
		if err != nil && lsn < from {
			pos, w.passed = int(from-base), true
			continue
		}
		if err != nil {
			w.end, w.why = pos, err
			if w.filling != nil {
				_ = w.filling.await(len(seg))
			}
			w.search(seg, pos, []trial{{seed: seed}})
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
		w.stable = max(w.stable, format.PadStable(body))
		return nil
	case format.KindFailed:
		return nil
	case format.KindIndex:
		if !w.log { // a page store has none
			return format.ErrKind
		}
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
	case format.KindLeave:
		l, err := format.DecodeLeave(body, h.LSN)
		if err == nil {
			w.leaves, w.stable = append(w.leaves, leave{h.LSN, l}), max(w.stable, l.Stable)
		}
		return err
	case format.KindDecided:
		if w.log {
			return format.ErrKind
		}
		return w.addDecisions(body, h.LSN)
	case format.KindRecord, format.KindTruncate, format.KindNote, format.KindRecordPart, format.KindLongRecord:
		if !w.log {
			return format.ErrKind
		}
		return format.CheckStream(h.Kind, body, h.LSN)
	case format.KindCounter:
		if _, err := format.DecodeCounter(body); err != nil {
			return err
		}
	case format.KindRoot:
		if err := format.CheckRoot(body); err != nil {
			return err
		}
	}
	prev, _, err := format.CutPrev(h.Kind, body)
	if err != nil || h.LSN < from || w.log {
		return err
	}
	w.entries = append(w.entries, makeEntry(h.Page, pos, format.MakeWord(h.Kind, h.Len), prev))
	if keepsBody(h.Kind) {
		w.bodies = append(w.bodies, body...)
	}
	return nil
}

// group adds the messages of a group with a valid checksum, or of a part of one, to w: all of them, or, with an error,
// none.
func (w *walked) group(h format.Header, body []byte, pos int, from format.LSN, seed format.Seed) error {
	head, err := format.CheckGroup(h.Kind, body, h.LSN, seed)
	if err != nil {
		return err
	}
	if w.log && head.InParts(h.Kind) { // only a page store has them
		return format.ErrKind
	}
	entries, bodies := len(w.entries), len(w.bodies)
	for at := h.Kind.GroupHeadSize(); at < len(body); {
		lsn := h.LSN + format.HeaderSize + format.LSN(at)
		m, err := format.DecodeHeader(body[at:], len(body)-at, lsn)
		if err == nil {
			err = w.index(m, body[at+format.HeaderSize:at+m.Len], pos+format.HeaderSize+at, from)
		}
		if err != nil {
			w.entries, w.bodies = w.entries[:entries], w.bodies[:bodies]
			return err
		}
		at += format.AlignUp(m.Len)
	}
	if head.InParts(h.Kind) {
		w.addPart(h, pos, head)
	}
	return nil
}

// checkIndex checks an index with a valid checksum.
func (w *walked) checkIndex(h format.Header, body []byte, segmentSize int, seed format.Seed) error {
	v, err := format.DecodeIndex(body, h, segmentSize, seed)
	if err == nil {
		w.stable = max(w.stable, v.Stable)
	}
	return err
}

// trial is a generation that may have written to a slot.
type trial struct {
	seed format.Seed
	void bool // a later generation may have discarded its messages, so the durable ends that they carry are void
}

// probe searches a slot without a valid header for messages of one of the trials.
func (w *walked) probe(seg []byte, trials []trial) {
	w.base, w.stable = format.NoLSN, format.NoLSN
	w.search(seg, format.SegmentStart, trials)
}

// searchEffort is the limit on the bytes that search verifies for each byte of a segment. It is more than any segment
// needs that this program wrote, and limits the time that hostile bytes cost.
const searchEffort = 2 * maxProbeGenerations

// zeros is compared with the bytes of a segment.
var zeros [4096]byte

// search tries every offset from from on at which a message could begin. It raises durable and stable to the highest
// that is carried by a message of one of the trials, and sets rest if anything but zeros is found. It goes backwards:
// later messages carry higher ends, so that few of those before them need to be verified.
func (w *walked) search(seg []byte, from int, trials []trial) {
	highest := format.NoLSN // of the verified messages
	effort := searchEffort * len(seg)
	for pos := (len(seg) - 8) &^ 7; pos >= from; pos -= 8 {
		first := binary.LittleEndian.Uint64(seg[pos:])
		if first == 0 {
			// Most of a segment that was not filled is zeros. Each block is compared once.
			begin := pos + 8 - len(zeros)
			if begin%len(zeros) == 0 && begin >= from && bytes.Equal(seg[begin:pos+8], zeros[:]) {
				pos = begin
			}
			continue
		}
		w.rest = true
		if !format.Kind(uint32(first)>>24).Valid() || len(seg)-pos < format.HeaderSize {
			continue
		}
		lsn := format.LSN(binary.LittleEndian.Uint64(seg[pos+8:]))
		if lsn < 0 || lsn%format.LSN(len(seg)) != format.LSN(pos) {
			continue
		}
		h, err := format.DecodeHeader(seg[pos:], len(seg)-pos, lsn)
		if err != nil || !w.worthVerifying(h, seg[pos:]) {
			continue
		}
		for _, t := range trials {
			if effort -= h.Len; effort < 0 {
				return
			}
			_, body, err := format.DecodeMessage(seg[pos:], lsn, t.seed)
			if err != nil {
				continue
			}
			if !t.void {
				w.durable = max(w.durable, h.Durable())
			}
			w.stable = max(w.stable, w.stableIn(h, body, len(seg), t.seed))
			if lsn > highest {
				highest, w.base = lsn, lsn-format.LSN(pos)
			}
			break
		}
	}
}

// worthVerifying reports whether a message at the beginning of src, if it is valid, may prove more than is known.
func (w *walked) worthVerifying(h format.Header, src []byte) bool {
	return h.Durable() > w.durable || w.base == format.NoLSN || h.Kind == format.KindLeave ||
		h.Kind == format.KindIndex && w.log ||
		h.Kind == format.KindPad && format.PadStable(src[format.HeaderSize:h.Len]) > w.stable
}

// stableIn returns the stable LSN that the body of a valid message carries, and NoLSN if it carries none.
func (w *walked) stableIn(h format.Header, body []byte, segmentSize int, seed format.Seed) format.LSN {
	switch h.Kind {
	case format.KindPad:
		return format.PadStable(body)
	case format.KindLeave:
		if l, err := format.DecodeLeave(body, h.LSN); err == nil {
			return l.Stable
		}
	case format.KindIndex:
		if v, err := format.DecodeIndex(body, h, segmentSize, seed); err == nil && w.log {
			return v.Stable
		}
	}
	return format.NoLSN
}
