package iobuf

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"pagecache/segments"
	"pagecache/segments/format"
)

// Lack of space fails reservations and nothing else, and only while it lasts. Proves rule 9.
func TestNoSpaceFailsReservationsOnly(t *testing.T) {
	r := newRig(t, setup{slots: 3, seed: 1})
	var last format.LSN
	var err error
	n := 0
	for ; ; n++ {
		var lsn format.LSN
		if lsn, err = r.put(format.KindAppend, 1, body(1000, uint64(n))); err != nil {
			break
		}
		last = lsn
	}
	if !errors.Is(err, syscall.ENOSPC) || n < 36 {
		t.Fatalf("after %d messages: %v", n, err)
	}
	if err := r.MakeStable(last); err != nil {
		t.Fatalf("written messages cannot be made stable: %v", err)
	}
	for range 100 {
		if _, err := r.put(format.KindAppend, 1, nil); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("there is still no space, but the error is %v", err)
		}
	}
	r.space.mu.Lock()
	r.space.limit = 5
	r.space.mu.Unlock()
	lsn, err := r.put(format.KindAppend, 1, body(1000, 9))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.MakeStable(lsn); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r.messages(r.StableEnd())
}

// While padding is limited, a flush waits until its block is full or the limit ends; writers go on meanwhile (L7).
func TestFlushWaitsWhilePaddingIsLimited(t *testing.T) {
	r := newRig(t, setup{slots: 100, seed: 1})
	r.LimitPadding(0)
	flushed := make(chan error)
	flush := func(lsn format.LSN) { go func() { flushed <- r.MakeStable(lsn) }() }
	put := func() format.LSN {
		lsn, err := r.put(format.KindAppend, 1, body(100, 1))
		if err != nil {
			t.Fatal(err)
		}
		return lsn
	}
	flush(put())
	r.untilWaiting(1)
	select {
	case err := <-flushed:
		t.Fatalf("flush padded a block: %v", err)
	case <-time.After(10 * time.Millisecond):
	}
	var last format.LSN
	for range 1000 { // many segments, in two buffers
		last = put()
	}
	if err := <-flushed; err != nil {
		t.Fatal(err)
	}
	if n := r.Stats().BytesPadded; n != 0 {
		t.Errorf("%d bytes padded", n)
	}
	flush(last)
	r.untilWaiting(1)
	r.UnlimitPadding()
	if err := <-flushed; err != nil {
		t.Fatal(err)
	}
	r.LimitPadding(4096)
	if err := r.MakeStable(put()); err != nil { // within the allowance
		t.Fatal(err)
	}
	r.LimitPadding(0)
	if err := r.MakeStable(put()); err != nil { // after paddingPatience
		t.Fatal(err)
	}
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// The answer of Room counts for one segment. If the buffer is opened for the next segment, also in a reserved slot,
// before the writer that asked uses it, the writer asks again for its second message. Proves rule 9.
func TestRoomIsForOneSegment(t *testing.T) { testRoomIsForOneSegment(t) }

func testRoomIsForOneSegment(t *testing.T) {
	r := newRig(t, setup{slots: 16, seed: 1})
	asked := 0
	room := func(segments.Urgency) error {
		if asked++; asked > 1 {
			return fmt.Errorf("%w: %w", segments.ErrNoRoom, syscall.ENOSPC)
		}
		for b, base := r.active.Load(), r.active.Load().base.Load(); r.active.Load() != b || b.base.Load() == base; {
			res, err := r.ReserveUrgent(format.KindAppend, 1, 2560-format.HeaderSize) // never fills a segment
			if err != nil {
				t.Fatal(err)
			}
			lsn := res.LSN()
			res.Complete()
			if err := r.MakeStable(lsn); err != nil {
				t.Fatal(err)
			}
		}
		return nil
	}
	r.space.mu.Lock()
	r.space.least, r.space.room = segments.UrgencyCleaning, room
	r.space.mu.Unlock()
	urgent, err := r.ReserveUrgent(format.KindAppend, 1, 10) // there is an active buffer
	if err != nil {
		t.Fatal(err)
	}
	urgent.Complete()
	if _, err := r.put(format.KindAppend, 1, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := r.put(format.KindAppend, 1, nil); !errors.Is(err, segments.ErrNoRoom) {
		t.Errorf("a second ordinary message in a reserved slot: %v", err)
	}
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// While padding is limited, each message lets the leader look whether the block is full now. It does not look again by
// itself before the limit ends. Proves rule 18.
func TestLeaderLooksAtEachMessageWhilePaddingIsLimited(t *testing.T) {
	r := newRig(t, setup{})
	r.LimitPadding(0)
	r.paddingLimited.Store(int64(time.Hour)) // the limit does not end
	first, err := r.put(format.KindAppend, 1, body(100, 1))
	if err != nil {
		t.Fatal(err)
	}
	stable := make(chan error)
	go func() { stable <- r.MakeStable(first) }()
	r.untilResting()
	for range 10 { // more than a block
		if _, err := r.put(format.KindAppend, 1, body(100, 1)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-stable:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(hangLimit / 4):
		t.Fatal("a full block is not written")
	}
	r.UnlimitPadding()
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
}
