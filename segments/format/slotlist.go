package format

import (
	"encoding/binary"
	"slices"
)

// MaxSlotList is the number of slots that a SlotList has room for.
const MaxSlotList = 128

// A SlotList is a set of slots in the superblock. Each is stored plus one, in rising order; unused entries are zero.
type SlotList [MaxSlotList]uint32

const slotListSize = 4 * MaxSlotList

// MakeSlotList returns the list of the given slots, and false if there are too many.
func MakeSlotList(ids []SegmentID) (l SlotList, ok bool) {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if len(ids) > MaxSlotList {
		return SlotList{}, false
	}
	for i, id := range ids {
		l[i] = uint32(id) + 1
	}
	return l, true
}

// Slots returns the slots of the list in rising order.
func (l *SlotList) Slots() (ids []SegmentID) {
	for _, n := range l {
		if n == 0 {
			break
		}
		ids = append(ids, SegmentID(n-1))
	}
	return ids
}

// put encodes l into the first slotListSize bytes of dst.
func (l *SlotList) put(dst []byte) {
	for i, n := range l {
		binary.LittleEndian.PutUint32(dst[4*i:], n)
	}
}

// decode decodes l from src, and returns false if it is not a valid list.
func (l *SlotList) decode(src []byte) bool {
	for i := range l {
		l[i] = binary.LittleEndian.Uint32(src[4*i:])
		if i > 0 && l[i] != 0 && (l[i-1] == 0 || l[i] <= l[i-1]) {
			return false
		}
	}
	return true
}
