package format

import (
	"slices"
	"testing"
)

// A list of the ends of segments survives encoding, has one encoding, and has a limit. Proves F1, rule 12.
func TestEndList(t *testing.T) {
	var many []LSN
	for i := range MaxEndList {
		many = append(many, LSN(i*MinSegmentSize+SegmentStart))
	}
	for _, c := range []struct{ in, want []LSN }{{nil, nil}, {[]LSN{80, 40}, []LSN{40, 80}}, {many, many}} {
		l, ok := MakeEndList(c.in)
		if !ok || !slices.Equal(l.Ends(), c.want) {
			t.Errorf("%v: %v, %v", c.in, l.Ends(), ok)
		}
		s := Superblock{SegmentSize: MinSegmentSize, Ends: l}
		if got, err := DecodeSuperblock(s.Append(nil)); err != nil || got != s {
			t.Errorf("%v: %v, %v", c.in, got.Ends, err)
		}
	}
	if _, ok := MakeEndList(append(many, 1<<20)); ok {
		t.Error("the list has no limit")
	}
	for _, l := range []EndList{{16, 8}, {8, 8}, {0, 8}, {8, 0, 16}, {-8}, {4}} {
		if _, err := DecodeSuperblock(Superblock{SegmentSize: MinSegmentSize, Ends: l}.Append(nil)); err == nil {
			t.Errorf("%v was accepted", l[:3])
		}
	}
	l, _ := MakeEndList([]LSN{MinSegmentSize + 4104})
	for base, want := range map[LSN]int{0: MinSegmentSize, MinSegmentSize: 4104, 2 * MinSegmentSize: MinSegmentSize} {
		if got := l.Used(base, MinSegmentSize); got != want {
			t.Errorf("base %v: %d, want %d", base, got, want)
		}
	}
}
