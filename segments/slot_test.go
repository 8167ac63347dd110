package segments

import (
	"testing"

	"pagecache/segments/format"
)

// Every enumeration has a String, which accepts unknown values.
func TestStringsOfUnknownValues(t *testing.T) {
	for got, want := range map[string]string{
		StateFree.String(): "free", StateActive.String(): "active", StateInactive.String(): "inactive",
		StateDraining.String(): "draining", State(4).String(): "state(4)",
		UrgencyOrdinary.String(): "ordinary", UrgencyFreeing.String(): "freeing",
		UrgencyCleaning.String(): "cleaning", Urgency(3).String(): "urgency(3)",
		zeroIdle.String(): "idle", zeroWaiting.String(): "waiting", zeroWriting.String(): "writing",
		zeroState(3).String(): "state(3)",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// A slot goes through its states in order: each transition is refused in any other state, and while it must wait.
func TestSlotTransitions(t *testing.T) {
	s := NewSpace(Options{File: new(growFile), SegmentSize: testSize})
	recycled := func(want bool) {
		t.Helper()
		l, err := s.Leaving(slots(1))
		if (err == nil) != want {
			t.Fatalf("leave: %v", err)
		}
		if want {
			s.Leave(l)
			s.Recycle(slots(1))
		}
	}
	g := s.Segment(0)
	recycled(false)
	if s.Drain(0) || g.seal(0, nil) || g.State() != StateFree {
		t.Fatalf("a free slot is %v", g.State())
	}
	if _, err := openMany(s, 1); err != nil || g.State() != StateActive || g.Base() != 0 {
		t.Fatalf("an opened slot is %v, base %v, %v", g.State(), g.Base(), err)
	}
	recycled(false)
	if s.Drain(0) || g.seal(testSize, nil) || g.State() != StateActive {
		t.Fatalf("an active slot is %v", g.State())
	}
	ptr := format.DiskPtr{Off: format.SegmentHeaderSize, Len: 25}
	s.Live(ptr)
	s.SealSegment(0, 0, nil)
	if g.Live() != 32 || s.Drain(0) || g.seal(0, nil) || g.State() != StateInactive {
		t.Fatalf("an inactive slot with %d live bytes is %v", g.Live(), g.State())
	}
	s.Dead(ptr)
	recycled(false)
	if !s.Drain(0) {
		t.Fatal("a segment without live bytes does not drain")
	}
	s.Live(ptr) // a message that is still live must keep the segment
	recycled(false)
	s.Dead(ptr)
	g.state.Store(uint32(StateInactive))
	if !s.Drain(0) || s.Drain(0) || g.seal(0, nil) || g.State() != StateDraining {
		t.Fatalf("a drained slot is %v", g.State())
	}
	recycled(true)
	if _, used, _ := s.Totals(); used != 0 {
		t.Errorf("%d slots are in use", used)
	}
	if _, ok := s.Find(0); ok || g.State() != StateFree || g.Base() != format.NoLSN || s.Ledger().Recycled != 1 {
		t.Fatalf("a recycled slot is %v, base %v", g.State(), g.Base())
	}
}
