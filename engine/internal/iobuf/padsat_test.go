package iobuf

import (
	"testing"

	"pagecache/segments/format"
)

// While the device takes no more writes, the leader pads nothing: the commits gather for the next one.
func TestNoPadThatCannotBeWritten(t *testing.T) {
	const segment, block = 64 << 10, 512
	r := newRig(t, setup{segment: segment, block: block, slots: 40, seed: 1, buffers: 3})
	l := r.Log
	// The flusher is kept from leading.
	l.state.mu.Lock()
	if !l.state.takeLeadLocked() {
		t.Fatal("there is a leader")
	}
	l.state.mu.Unlock()
	var last format.LSN
	for last < segment+format.SegmentStart+2*block {
		lsn, err := r.put(format.KindData, 0, body(700, uint64(last)))
		if err != nil {
			t.Fatal(err)
		}
		last = lsn
	}
	ld := &l.leader
	// The rest of the first segment takes all writes that the device does at once.
	l.walk(l.state.queue[0])
	for len(ld.pending) < cap(ld.pending)-1 {
		ld.start(l.state.queue[0], 0, block)
	}
	p := &l.state.queue[0].progress
	for p.submitted < segment {
		ld.start(l.state.queue[0], 0, segment-p.submitted)
	}
	if len(ld.pending) != cap(ld.pending) {
		t.Fatalf("%d writes in flight", len(ld.pending))
	}
	before := ld.padded
	ld.gather(l.state.queue, last)
	if ld.padded > before {
		t.Errorf("%d bytes are padded while all writes are in flight", ld.padded-before)
	}
	ld.pending, ld.writes, ld.seq = ld.pending[:0], ld.writes[:0], 0
}
