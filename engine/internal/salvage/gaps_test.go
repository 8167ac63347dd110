package salvage

import (
	"testing"

	"pagecache/segments/format"
)

// A message by which segments leave counts once a header knows of it. One that lies behind a hole of the log may have
// had no effect: its segments are still there, and may hold the only copy of a page. Proves rule 14, trap 30.
func TestLeaveCountsOnceItHadEffect(t *testing.T) {
	leave := format.Leave{Recycled: 3, Left: 60, Segments: []format.Identity{20, 30}}
	parts := []part{{leaves: []format.Leave{leave}}}
	for known, want := range map[uint64]bool{1: false, 2: false, 3: true, 4: true} {
		heads := []head{{h: format.SegmentHeader{Ledger: format.Ledger{Recycled: known, Left: format.Identity(known)}}}}
		l, gone := (&Reader{}).ledger(parts, heads)
		if gone[20] != want || gone[30] != want || gone[10] || l.Recycled != known || l.Left != format.Identity(known) {
			t.Errorf("headers know of %d: %+v, %v", known, l, gone)
		}
	}
}
