package salvage

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"pagecache/recovery"
	"pagecache/segments/format"
)

// firstMessage is the offset of the first message in a segment.
const firstMessage = format.SegmentStart

// maxGenerations is the number of openings back from which the messages of a slot with a corrupt header may date.
const maxGenerations = 1000

// A head is the header of a slot.
type head struct {
	slot format.SegmentID
	h    format.SegmentHeader
	err  error // why the header is not valid; nil if it is
}

func (h *head) inUse() bool { return h.err == nil && h.h.State == format.SegmentStateInUse }

// A part is a segment of the log.
type part struct {
	slot     format.SegmentID
	base     format.LSN
	gen      format.Generation
	head     format.SegmentHeader // if it is valid
	header   error                // why the header of the slot is not valid; nil if it is
	messages []Message
	suspects []Message    // see Reader.suspects
	groups   []gap        // see Reader.groups
	shares   []share      // parts of groups that have several
	decided  []format.LSN // first parts of the groups that have taken effect
	holes    []span       // without messages, between messages
	end      int          // where the last message ends
	tried    bool         // a message that is not intact begins at end
	bad      []span       // bytes that the disk does not return
	index    int          // where a corrupt index begins; 0: there is none
	stable   format.LSN
	leaves   []format.Leave
}

// readLog reads every slot and finds the messages and what is missing.
func (r *Reader) readLog(ids []identity) error {
	heads, err := r.readHeads()
	if err != nil {
		return err
	}
	seg := make([]byte, r.Super.SegmentSize)
	if err := r.findKey(heads, ids, seg); err != nil {
		return err
	}
	var parts []part
	var blank []head                // slots whose header is not valid, without messages
	var outOfUse []format.SegmentID // they hold no part of the log, whatever is in them (rule 14)
	if r.trusted {
		outOfUse = r.Super.OutOfUse.Slots()
	}
	for i := range heads {
		h := &heads[i]
		if h.err == nil && !h.inUse() || errors.Is(h.err, format.ErrSegmentZero) || slices.Contains(outOfUse, h.slot) {
			continue
		}
		bad, err := r.readBytes(seg, int64(h.slot.Offset(len(seg))))
		if err != nil {
			return err
		}
		p, ok := r.part(seg, h, bad)
		if ok {
			r.known = max(r.known, p.stable)
			parts = append(parts, p)
		} else {
			blank = append(blank, *h)
			for _, b := range bad {
				r.Unreadable += int64(b.to - b.from)
			}
		}
	}
	r.openSnapshot()
	r.assemble(parts, blank, heads)
	return nil
}

// readHeads reads the headers of all slots. The header of a slot that was never written is format.ErrSegmentZero; one
// of zeros before other bytes is corrupt.
func (r *Reader) readHeads() ([]head, error) {
	size := int64(r.Super.SegmentSize)
	heads := make([]head, (r.size+size-1)/size)
	buf := make([]byte, format.SegmentHeaderSize)
	seg := make([]byte, size)
	for i := range heads {
		h := &heads[i]
		h.slot = format.SegmentID(i)
		bad, err := r.readBytes(buf, int64(i)*size)
		if err != nil {
			return nil, err
		}
		if len(bad) > 0 {
			h.err = bad[0].err
			continue
		}
		h.h, h.err = format.DecodeSegmentHeader(buf, h.slot, int(size))
		if errors.Is(h.err, format.ErrSegmentZero) {
			if bad, err = r.readBytes(seg, int64(i)*size); err != nil {
				return nil, err
			}
			if len(bad) > 0 || slices.ContainsFunc(seg, func(b byte) bool { return b != 0 }) {
				h.err = errZeroed
			}
		}
	}
	return heads, nil
}

var (
	errZeroed = fmt.Errorf("%w: zeros", format.ErrSegmentCorrupt)
	errStore  = errors.New("segment of another store")
)

// findKey finds out what the checksums start from. Without any message in a segment whose header is intact, it takes
// what the superblock, or else a snapshot or a blob says.
func (r *Reader) findKey(heads []head, ids []identity, seg []byte) error {
	b := ballot{ids: ids, votes: map[format.StoreKey]int{}}
	for i := range heads {
		if b.found {
			break
		}
		if !heads[i].inUse() {
			continue
		}
		if _, err := r.readBytes(seg, int64(heads[i].slot.Offset(len(seg)))); err != nil {
			return err
		}
		b.count(seg, heads[i].h)
	}
	b.end()
	switch {
	case b.found:
		r.adopt(b.key, ids)
	case len(ids) > 0 && (b.claims == 0 || r.trusted && b.few()):
		r.adopt(format.KeyOf(ids[0].id), ids)
	default:
		return r.noKey(ids)
	}
	for i := range heads {
		if heads[i].err == nil && heads[i].h.Store != r.Super.Store && r.Super.Store != (format.StoreID{}) {
			heads[i].err = errStore
		}
		if heads[i].err == nil {
			r.Super.Generation = max(r.Super.Generation, heads[i].h.Generation)
			r.known = max(r.known, heads[i].h.Stable)
		}
	}
	if r.trusted {
		r.known = max(r.known, r.Super.Floor-1)
	}
	if r.trusted && r.Super.Clean {
		r.known = max(r.known, r.Super.End-1)
	}
	return nil
}

// part finds the messages in a slot. It returns false if the header is not valid and there are none.
func (r *Reader) part(seg []byte, h *head, bad []span) (part, bool) {
	p := part{slot: h.slot, base: h.h.Base, gen: h.h.Generation, head: h.h, header: h.err, bad: bad}
	p.stable = format.NoLSN
	if h.err != nil {
		var ok bool
		if p.base, p.gen, ok = r.search(seg, h.slot); !ok {
			return p, false
		}
	}
	p.walk(seg, r.Super.Ends.Used(p.base, len(seg)), r.key.Seed(p.gen, p.slot))
	return p, true
}

// search finds out which segment a slot holds whose header is not valid: of those that its messages belong to, the one
// with the highest base, and of these the one of the highest generation. The messages of others are left over from an
// earlier use of the slot.
func (r *Reader) search(seg []byte, slot format.SegmentID) (base format.LSN, gen format.Generation, found bool) {
	seeds := map[format.Seed]format.Generation{}
	for _, g := range r.generations() {
		seeds[r.key.Seed(g, slot)] = g
	}
	for pos := firstMessage; len(seg)-pos >= format.HeaderSize; pos += format.Align {
		lsn := format.LSN(binary.LittleEndian.Uint64(seg[pos+8:]))
		if lsn < 0 || lsn%format.LSN(len(seg)) != format.LSN(pos) {
			continue
		}
		h, seed, err := format.SeedOf(seg[pos:], lsn)
		if err != nil {
			continue
		}
		g, ok := seeds[seed]
		if !ok {
			continue
		}
		b := lsn - format.LSN(pos)
		if !found || b > base || b == base && g > gen {
			base, gen, found = b, g, true
		}
		pos += h.Step() - format.Align
	}
	return base, gen, found
}

// generations returns the generations that a slot whose header is not valid may be of.
func (r *Reader) generations() (gens []format.Generation) {
	for g, n := r.Super.Generation+1, 0; g > 0 && n < maxGenerations; g, n = g-1, n+1 {
		gens = append(gens, g-1)
	}
	if r.Super.Generation == 0 { // it is not known
		for g := range format.Generation(maxGenerations) {
			gens = append(gens, g)
		}
	}
	return gens
}

// walk finds the messages in the first used bytes of a segment. It goes from message to message. Where none is valid,
// it tries each place at which one can begin.
func (p *part) walk(seg []byte, used int, seed format.Seed) {
	start := -1 // of the hole
	pos := firstMessage
	for used-pos >= format.HeaderSize {
		lsn := p.base + format.LSN(pos)
		h, body, err := format.DecodeMessage(seg[pos:used], lsn, seed)
		if err != nil && start < 0 && format.IndexBegins(seg[pos:], seg[len(seg)-format.IndexTrailerSize:], lsn,
			len(seg), seed) {
			p.index = pos
			break
		}
		if err != nil {
			if start < 0 {
				start = pos
			}
			p.suspect(h, seg[pos:used], err)
			pos += format.Align
			continue
		}
		if start >= 0 {
			p.holes = append(p.holes, span{from: start, to: pos})
			start = -1
		}
		p.add(h, body, len(seg), pos, seed)
		pos += h.Step()
	}
	if start >= 0 && used < len(seg) { // the segment ends early
		p.holes = append(p.holes, span{from: start, to: used})
		start = -1
	}
	if p.end = len(seg); start >= 0 {
		p.end = start
		// The bytes of an earlier use of the slot have other LSNs.
		p.tried = binary.LittleEndian.Uint64(seg[start+8:]) == uint64(p.base)+uint64(start)
	}
}

// A share is a part of a group that has several: LSNs [from, to). It is intact if its checksum is right; then its
// messages are, too. If it is not, first may be wrong.
type share struct {
	from, to, first format.LSN
	intact          bool
}

// addShare notes a part of a group that has several, if the message is one, and returns its head.
func (p *part) addShare(h format.Header, body []byte, intact bool) (head format.GroupHead, ok bool) {
	head, err := format.DecodeGroupHead(h.Kind, body, h.LSN)
	if err != nil || !head.InParts(h.Kind) {
		return head, false
	}
	p.shares = append(p.shares, share{h.LSN, h.LSN + format.LSN(h.Len), head.First, intact})
	return head, true
}

// suspect notes a message at the beginning of b whose header looks right while its checksum is wrong.
func (p *part) suspect(h format.Header, b []byte, err error) {
	if errors.Is(err, format.ErrCRC) && h.Kind.OfPage() {
		p.suspects = append(p.suspects, Message{Message: recovery.Message{Kind: h.Kind, LSN: h.LSN, Page: h.Page}})
	}
	if errors.Is(err, format.ErrCRC) && h.Kind.IsGroup() {
		p.groups = append(p.groups, gap{h.LSN, h.LSN + format.LSN(h.Len)})
		p.addShare(h, b[format.HeaderSize:h.Len], false)
	}
}

func (p *part) add(h format.Header, body []byte, size, pos int, seed format.Seed) {
	p.stable = max(p.stable, h.Durable()-1)
	switch h.Kind {
	case format.KindPad:
		p.stable = max(p.stable, format.PadStable(body))
		return
	case format.KindGroup, format.KindGroupPart: // its messages follow
		if head, ok := p.addShare(h, body, true); ok && head.Left == 0 {
			p.decided = append(p.decided, head.First)
		}
		return
	case format.KindDecided:
		if ds, err := format.DecodeDecisions(body, h.LSN); err == nil {
			for _, d := range ds {
				p.decided = append(p.decided, d.First)
			}
		}
		return
	case format.KindFailed, format.KindIndex:
		return
	case format.KindLeave:
		if l, err := format.DecodeLeave(body, h.LSN); err == nil {
			p.leaves, p.stable = append(p.leaves, l), max(p.stable, l.Stable)
		}
		return
	}
	ptr := format.DiskPtr{Off: p.slot.Offset(size) + format.Offset(pos), Len: uint32(h.Len), Blob: h.Kind.Blob()}
	m := recovery.Message{Kind: h.Kind, LSN: h.LSN, Page: h.Page, Ptr: ptr}
	m.Prev, _, _ = format.CutPrev(h.Kind, body) // no message follows one that is not named
	if h.Kind == format.KindRoot || h.Kind == format.KindCounter || h.Kind == format.KindBatchEnd {
		m.Body = slices.Clone(body)
	}
	p.messages = append(p.messages, Message{m, seed})
}

// choose returns the parts that make up the log, in order: of two with the same base the one of the higher generation,
// and none of a lower generation than one before it, which an earlier recovery has discarded.
func choose(parts []part) []part {
	slices.SortFunc(parts, func(a, b part) int {
		return cmp.Or(cmp.Compare(a.base, b.base), cmp.Compare(b.gen, a.gen), cmp.Compare(a.slot, b.slot))
	})
	var highest format.Generation
	var kept []part
	for _, p := range parts {
		if p.gen < highest || len(kept) > 0 && kept[len(kept)-1].base == p.base {
			continue
		}
		highest = p.gen
		kept = append(kept, p)
	}
	return kept
}
