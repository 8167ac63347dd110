package segments

import (
	"slices"
	"testing"

	"pagecache/segments/format"
)

// The sum of the segments that have joined, less that of those that have left, is the digest of the segments that are
// not free, after every transition. A segment joins before its header is made, and leaves once the message that says so
// is durable. Until its slot is marked, a snapshot must not hide that message. Proves rule 14.
func TestLedgerIsDigestOfSegments(t *testing.T) {
	store := format.StoreID{1, 2, 3}
	const timeline, generation = 0xabc, 7
	identity := func(slot format.SegmentID, base format.LSN) format.Identity {
		return format.MakeIdentity(store, timeline, generation, slot, base)
	}
	s := NewSpace(Options{File: new(growFile), SegmentSize: testSize, Slots: 3, Store: store, Timeline: timeline,
		Generation: generation, Recycled: 5, Left: 1000})
	in := map[format.LSN]format.Identity{0: 17, 2 * testSize: 18}
	check := func(what string, left format.Identity, recycled uint64) {
		t.Helper()
		sum := format.Identity(0)
		for _, id := range in {
			sum += id
		}
		if l := s.Ledger(); l.Joined-l.Left != sum || l.Left != left || l.Recycled != recycled {
			t.Fatalf("%s: %+v, want the sum %v and %v, %d", what, l, sum, left, recycled)
		}
	}
	s.Adopt(Found{Slot: 2, Base: 0, Identity: 17, State: StateInactive})
	s.Adopt(Found{Slot: 0, Base: 2 * testSize, Identity: 18, State: StateInactive})
	s.Ready(slots(2)[1:], nil)
	check("adopted", 1000, 5)
	for i := range format.LSN(3) {
		base := (3 + i) * testSize
		id, _, err := s.OpenSegment(base, UrgencyOrdinary)
		if err != nil {
			t.Fatal(err)
		}
		in[base] = identity(id, base)
		check("opened", 1000, 5)
	}
	if got := s.JoinedBelow(4 * testSize); got != 1000+17+18+in[3*testSize] {
		t.Errorf("joined below the last but one: %v", got)
	}
	if s.JoinedBelow(6*testSize) != s.Ledger().Joined || s.JoinedBelow(0) != 1000 {
		t.Error("joined below the end, and below 0")
	}
	for _, slot := range []format.SegmentID{2, 0} {
		if !s.Drain(slot) {
			t.Fatal(slot)
		}
	}
	ids := []format.SegmentID{0, 2}
	l, err := s.Leaving(ids)
	if err != nil || l.Left != 1000+17+18 || l.Recycled != 7 || !slices.Equal(l.Segments, []format.Identity{18, 17}) {
		t.Fatalf("%+v, %v", l, err)
	}
	if _, err := s.Leaving([]format.SegmentID{0, 3}); err == nil {
		t.Error("a segment that is in use can leave")
	}
	const at = 5*testSize + 4096
	s.BeginLeave(at)
	check("leaving", 1000, 5)
	if _, ledger, from := s.Census(at + 1); ledger.Recycled != 5 || from != at {
		t.Errorf("leaving: %+v from %v on", ledger, from)
	}
	s.Leave(l)
	if _, ledger, from := s.Census(at - 1); ledger.Recycled != 7 || from != at-1 {
		t.Errorf("left: %+v from %v on", ledger, from)
	}
	if _, _, from := s.Census(at + 1); from != at {
		t.Errorf("left, and not marked: from %v on", from)
	}
	s.Recycle(ids)
	if _, _, from := s.Census(at + 1); from != at+1 {
		t.Errorf("marked: from %v on", from)
	}
	delete(in, 0)
	delete(in, 2*testSize)
	check("recycled", 1000+17+18, 7)
}
