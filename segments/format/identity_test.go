package format

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
)

// Each field of a segment is part of its identity, and a change of one bit changes about half of all bits. So sets of
// segments that differ have sums that differ. Proves rule 14.
func TestIdentityDependsOnEveryBit(t *testing.T) {
	store, timeline, g, slot, base := testStore, Timeline(5), Generation(6), SegmentID(7), LSN(8<<20)
	id := MakeIdentity(store, timeline, g, slot, base)
	changed, n := 0, 0
	differs := func(what string, i int, other Identity) {
		changed, n = changed+bits.OnesCount64(uint64(other^id)), n+1
		if d := bits.OnesCount64(uint64(other ^ id)); d < 10 {
			t.Errorf("%s, bit %d: %d bits of the identity change", what, i, d)
		}
	}
	for i := range 128 {
		s := store
		s[i/8] ^= 1 << (i % 8)
		differs("store", i, MakeIdentity(s, timeline, g, slot, base))
	}
	for i := range 64 {
		bit := uint64(1) << i
		differs("timeline", i, MakeIdentity(store, timeline^Timeline(bit), g, slot, base))
		differs("generation", i, MakeIdentity(store, timeline, g^Generation(bit), slot, base))
		differs("base", i, MakeIdentity(store, timeline, g, slot, base^LSN(bit)))
		if i < 32 {
			differs("slot", i, MakeIdentity(store, timeline, g, slot^SegmentID(bit), base))
		}
	}
	if mean := float64(changed) / float64(n); mean < 30 || mean > 34 {
		t.Errorf("%.1f of 64 bits change", mean)
	}
	swapped := MakeIdentity(store, timeline, g, 1, 2) + MakeIdentity(store, timeline, g, 3, 4)
	if swapped == MakeIdentity(store, timeline, g, 3, 2)+MakeIdentity(store, timeline, g, 1, 4) {
		t.Error("two segments that swap their slots have the same sum")
	}
	h := SegmentHeader{Store: store, Timeline: timeline, Generation: g, Slot: slot, Base: base, Stable: 9}
	if h.Identity() != id {
		t.Error("the header's identity is another")
	}
}

// The span of a timeline ends where the next newer one that is listed begins.
func TestLineageSpans(t *testing.T) {
	s := Superblock{Timeline: 3, Branch: 300, Ancestors: [MaxAncestors]Ancestor{{2, 200}, {1, 0}}}
	l := s.Lineage()
	for _, c := range []struct {
		t           Timeline
		branch, end LSN
		known       bool
	}{{3, 300, math.MaxInt64, true}, {2, 200, 300, true}, {1, 0, 200, true}, {0, 0, 0, false}, {4, 0, 0, false}} {
		if branch, end, known := l.Span(c.t); branch != c.branch || end != c.end || known != c.known {
			t.Errorf("timeline %v: %v, %v, %v", c.t, branch, end, known)
		}
	}
	if l := (&Superblock{}).Lineage(); l != nil {
		t.Errorf("a new store has the lineage %v", l)
	}
}

// An opening lists the timelines that still own something. If there are too many, the oldest are dropped, and from
// Listed on all are listed: a timeline that is not, owns nothing there. Proves rule 14.
func TestDescendKeepsOwners(t *testing.T) {
	all := func(Timeline) bool { return true }
	s := Superblock{}
	s.Descend(1, 0, 0, all)
	if s.Timeline != 1 || s.Branch != 0 || s.Ancestors[0] != (Ancestor{}) {
		t.Fatalf("the first opening: %+v", s)
	}
	s.Descend(2, 100, 0, all)
	s.Descend(3, 200, 0, func(t Timeline) bool { return t == 1 }) // 2 owns nothing
	if want := (Lineage{{3, 200}, {1, 0}}); !slices.Equal(s.Lineage(), want) || s.Listed != 0 {
		t.Fatalf("%v, listed from %v, want %v", s.Lineage(), s.Listed, want)
	}
	s.Descend(4, 300, 1, func(Timeline) bool { return false })
	if want := (Lineage{{4, 300}, {1, 0}}); !slices.Equal(s.Lineage(), want) {
		t.Fatalf("%v, want %v: the pinned one stays", s.Lineage(), want)
	}

	rng := rand.New(rand.NewPCG(1, 1))
	for _, pinned := range []Timeline{0, 1, 5} {
		s, spans := Superblock{}, map[Timeline][2]LSN{}
		end := LSN(0)
		for next := Timeline(1); next <= 3*MaxAncestors; next++ {
			s.Descend(next, end, pinned, all)
			from := end
			end += LSN(rng.IntN(1000) + 1)
			spans[next] = [2]LSN{from, end}
		}
		l := s.Lineage()
		if len(l) != MaxAncestors+1 {
			t.Fatalf("%d timelines are listed", len(l))
		}
		if _, _, known := l.Span(pinned); known != (pinned != 0) {
			t.Errorf("pinned %v: listed: %v", pinned, known)
		}
		for timeline, span := range spans {
			branch, end, known := l.Span(timeline)
			if !known && span[1] > s.Listed || known && (branch != span[0] || end < span[1]) {
				t.Errorf("pinned %v: timeline %v owns %v, the list says %v … %v, %v, from LSN %v on",
					pinned, timeline, span, branch, end, known, s.Listed)
			}
		}
	}
}
