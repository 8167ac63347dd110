package format

import (
	"slices"
	"testing"
)

// A list of slots in the superblock is a set: it survives encoding, has one encoding, and has a limit. Proves F1, rule
// 12.
func TestSlotList(t *testing.T) {
	var many []SegmentID
	for i := range MaxSlotList {
		many = append(many, SegmentID(3*i))
	}
	for _, c := range []struct{ in, want []SegmentID }{
		{nil, nil}, {[]SegmentID{0}, []SegmentID{0}}, {[]SegmentID{7, 0, 7, 3}, []SegmentID{0, 3, 7}}, {many, many},
		{append(many, 0, 3), many},
	} {
		l, ok := MakeSlotList(c.in)
		if !ok || !slices.Equal(l.Slots(), c.want) {
			t.Errorf("%v: %v, %v", c.in, l.Slots(), ok)
		}
		s := Superblock{SegmentSize: MinSegmentSize, OutOfUse: l, Suspects: l}
		if got, err := DecodeSuperblock(s.Append(nil)); err != nil || got != s {
			t.Errorf("%v: %v, %v", c.in, got.OutOfUse.Slots(), err)
		}
	}
	if _, ok := MakeSlotList(append(many, 1)); ok {
		t.Error("the list has no limit")
	}
	for _, l := range []SlotList{{2, 1}, {1, 1}, {0, 1}, {1, 0, 2}} {
		for _, s := range []Superblock{{OutOfUse: l}, {Suspects: l}} {
			s.SegmentSize = MinSegmentSize
			if _, err := DecodeSuperblock(s.Append(nil)); err == nil {
				t.Errorf("%v was accepted", l[:3])
			}
		}
	}
}
