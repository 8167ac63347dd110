package recovery

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"pagecache/segments/format"
)

// maxAdopted is the number of generations, down from the newest, that a slot whose header cannot be read may be of.
const maxAdopted = 4096

// adoptUnread decides about the slots whose header the disk does not return. A slot is taken for a segment that the
// snapshot says was in use and that no other slot holds, if no messages of a later segment are in it. Its messages say
// of which generation it is. If the slot was recycled since, nothing refers to it any more, and to take it costs room
// only. All other slots are skipped.
func (s *scanner) adoptUnread() error {
	if len(s.unread) == 0 {
		return nil
	}
	wanted := s.wanted()
	r := reader{s: s, free: func() {}}
	defer func() { r.free() }()
	for _, id := range slices.Sorted(maps.Keys(s.unread)) {
		adopted := false
		if len(wanted) > 0 {
			seg, err := r.buffer()
			if err != nil {
				return err
			}
			base, gen, found, err := s.identify(id, seg)
			if err != nil {
				return err
			}
			if adopted = found && wanted[base]; adopted {
				delete(wanted, base)
				h := format.SegmentHeader{Base: base, Generation: gen, Slot: id, Store: s.o.Store, Stable: format.NoLSN}
				t := slot{id: id, valid: true, unread: true, invalid: s.unread[id], header: h, gen: gen, base: base}
				s.slots = append(s.slots, t)
			}
		}
		if adopted {
			delete(s.unread, id)
		} else {
			s.skipHeader(id, s.unread[id])
		}
	}
	return nil
}

// wanted returns the bases of the segments that the snapshot says were in use, and that no slot with a valid header
// holds.
func (s *scanner) wanted() map[format.LSN]bool {
	wanted := make(map[format.LSN]bool, len(s.o.Known))
	for _, base := range s.o.Known {
		if base < s.o.From {
			wanted[base] = true
		}
	}
	for i := range s.slots {
		if s.slots[i].valid {
			delete(wanted, s.slots[i].base)
		}
	}
	return wanted
}

// identify finds out which segment a slot holds: of those that its messages belong to, one of the highest generation,
// and of these the one with the highest base. seg has room for the slot.
func (s *scanner) identify(id format.SegmentID, seg []byte) (
	base format.LSN, gen format.Generation, found bool, err error,
) {
	if _, err := s.readSegment(seg, int64(id.Offset(s.size))); err != nil {
		return 0, 0, false, fmt.Errorf("slot %d: %w", id, err)
	}
	newest := s.res.MaxGeneration
	gens := make(map[format.Seed]format.Generation, min(newest+1, maxAdopted))
	for g := newest; newest-g < maxAdopted; g-- {
		gens[format.MakeSeed(s.o.Store, g, id)] = g
		if g == 0 {
			break
		}
	}
	effort := searchEffort * len(seg)
	for pos := format.SegmentStart; len(seg)-pos >= format.HeaderSize && effort > 0; pos += format.Align {
		lsn := format.LSN(binary.LittleEndian.Uint64(seg[pos+8:]))
		if lsn < 0 || lsn%format.LSN(len(seg)) != format.LSN(pos) {
			continue
		}
		h, seed, err := format.SeedOf(seg[pos:], lsn)
		if err != nil {
			continue
		}
		effort -= h.Len
		g, ours := gens[seed]
		if !ours {
			continue
		}
		if b := lsn - format.LSN(pos); !found || g > gen || g == gen && b > base {
			base, gen, found = b, g, true
		}
		pos += h.Step() - format.Align
	}
	return base, gen, found, nil
}
