package iobuf

import (
	"testing"
	"time"

	"pagecache/segments"
	"pagecache/segments/format"
)

// opening is a Space that calls f after it has opened a segment.
type opening struct {
	Space
	f func()
}

func (o opening) OpenSegment(base format.LSN, u segments.Urgency) (format.SegmentID, segments.Urgency, error) {
	id, least, err := o.Space.OpenSegment(base, u)
	o.f()
	return id, least, err
}

// A short segment is sealed and retired before the next one is opened, in the same buffer: no writer gets a place in it
// before that is complete.
func TestNoPlaceInShortSegmentThatIsReopened(t *testing.T) {
	const segment, block, limit = 64 << 10, 512, 16 << 10
	r := newRig(t, setup{segment: segment, block: block, slots: 8, limit: limit, seed: 1})
	l := r.Log
	if _, err := r.put(format.KindData, 0, body(8000, 1)); err != nil {
		t.Fatal(err)
	}
	// A writer crosses the end of the short segment, and does not open the next one at once (it is preempted, or the
	// disk is full for a while).
	r.space.limit = 1
	if _, err := r.put(format.KindData, 0, body(6000, 2)); err == nil {
		t.Fatal("the segment has more room than expected")
	}
	r.space.limit = 8
	for free := 0; free < 2; { // the leader retires the segment meanwhile
		if err := r.Flush(); err != nil {
			t.Fatal(err)
		}
		l.state.mu.Lock()
		free = len(l.state.free)
		l.state.mu.Unlock()
	}
	// A writer opens the next segment, and waits in open for state.mu.
	opened := make(chan bool)
	l.space = opening{l.space, func() { l.state.mu.Lock(); close(opened) }}
	done := make(chan error)
	go func() {
		_, err := r.put(format.KindData, 0, body(5000, 3))
		done <- err
	}()
	<-opened
	time.Sleep(10 * time.Millisecond)
	got := make(chan format.LSN, 1)
	go func() {
		res, err := r.Reserve(format.KindData, 0, 100)
		if err != nil {
			t.Error(err)
			got <- format.NoLSN
			return
		}
		got <- res.LSN()
		res.Complete()
	}()
	early := true
	select {
	case <-got:
	case <-time.After(100 * time.Millisecond):
		early = false
	}
	l.state.mu.Unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if early {
		t.Error("a writer got a place in a segment that is not open yet")
	} else if lsn := <-got; lsn < segment {
		t.Errorf("a writer got a place at LSN %d", lsn)
	}
	if _, err := r.Close(); err != nil {
		t.Error(err)
	}
}

// A writer that has added to the tail of a short segment, beyond its end, and is preempted then, gets no place in the
// segment that the same memory is used for next.
func TestLateAddToShortSegmentGetsNoPlace(t *testing.T) {
	const segment, block, limit = 64 << 10, 512, 16 << 10
	r := newRig(t, setup{segment: segment, block: block, slots: 8, limit: limit, seed: 1})
	l := r.Log
	if _, err := r.put(format.KindData, 0, body(8000, 1)); err != nil {
		t.Fatal(err)
	}
	b := l.active.Load()
	if b.sealed() { // what the late writer has seen
		t.Fatal("sealed")
	}
	r.space.limit = 1
	if _, err := r.put(format.KindData, 0, body(9000, 2)); err == nil { // another writer crosses the end
		t.Fatal("the segment has more room than expected")
	}
	need := makeTail(format.AlignUp(format.HeaderSize+100), 0)
	after := tailWord(b.tail.Add(uint64(need))) // the late writer adds
	if !b.full(after) || !b.full(after-need) {
		t.Fatal("the late writer is not beyond the end")
	}
	r.space.limit = 8
	for free := 0; free < 2; { // the leader retires the segment
		if err := r.Flush(); err != nil {
			t.Fatal(err)
		}
		l.state.mu.Lock()
		free = len(l.state.free)
		l.state.mu.Unlock()
	}
	if _, err := r.put(format.KindData, 0, body(500, 3)); err != nil {
		t.Fatal(err)
	}
	if again := l.active.Load(); &again.mem[0] != &b.mem[0] {
		t.Fatal("other memory is used for the next segment")
	}
	if !b.full(after) || !b.sealed() { // the late writer compares
		t.Errorf("the late writer gets offset %d; the next segment is reserved up to %d", (after - need).off(),
			l.active.Load().reserved())
	}
	if _, err := r.Close(); err != nil {
		t.Error(err)
	}
}
