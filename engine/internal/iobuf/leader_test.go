package iobuf

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pagecache/internal/vfs"
	"pagecache/segments/format"
)

// within fails the test unless done becomes true soon.
func (r *rig) within(what string, done func() bool) {
	r.t.Helper()
	for start := time.Now(); !done(); time.Sleep(50 * time.Microsecond) {
		if time.Since(start) > hangLimit/4 {
			r.t.Fatalf("not so after %v: %s", hangLimit/4, what)
		}
	}
}

// untilIdle waits until the flusher has found nothing to write in a segment that was just opened.
func (r *rig) untilIdle() {
	r.t.Helper()
	r.within("the flusher has nothing to do", func() bool {
		r.state.mu.Lock()
		defer r.state.mu.Unlock()
		return len(r.kick) == 0 && !r.state.leading
	})
	time.Sleep(2 * time.Millisecond) // it may have taken the kick, and not lead yet
}

// Whole chunks are written although nobody waits for them, and so is the rest of a segment that no other follows.
func TestChunksAreWrittenAlthoughNobodyWaits(t *testing.T) {
	for _, index := range []bool{false, true} {
		r := newRig(t, setup{slots: 1, index: index})
		if _, err := r.put(format.KindData, 0, nil); err != nil {
			t.Fatal(err)
		}
		r.untilIdle()
		// One chunk after another, since the flusher writes all that it finds. The header takes the first one, and is
		// written with the second.
		for chunk := 2; chunk <= 3; chunk++ {
			for r.Tail() < format.LSN(r.seg/4*chunk+200) {
				if _, err := r.put(format.KindData, 0, body(100, 1)); err != nil {
					t.Fatal(err)
				}
			}
			r.within("the chunk is written", func() bool { return int(r.DurableEnd()) >= r.seg/4*chunk-512 })
		}
		if err := r.EndSegment(); err == nil { // in the last chunk
			t.Fatal("there is room for another segment")
		}
		r.within("the end of the segment is written", func() bool { return int(r.DurableEnd()) == r.seg })
		if _, err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A writer that waits for a buffer goes on as soon as the message is committed that keeps the buffers. Meanwhile the
// flusher waits for that, too, and does not look again and again. Trap 10, and proves rule 18: nothing polls.
func TestWriterWaitsForReservation(t *testing.T) {
	for _, index := range []bool{false, true} {
		r := newRig(t, setup{index: index})
		res, err := r.Reserve(format.KindData, 0, 20)
		if err != nil {
			t.Fatal(err)
		}
		filled := make(chan error)
		go func() {
			var err error
			for r.Tail() < format.LSN(3*r.seg) && err == nil {
				_, err = r.put(format.KindData, 0, body(200, 1))
			}
			filled <- err
		}()
		r.within("a writer waits for a buffer", func() bool { return r.bufferWaiters.Load() == 1 })
		r.untilResting()
		r.notices.mu.Lock()
		c := r.notices.commits[0]
		r.notices.mu.Unlock()
		if c.lsn != res.LSN() {
			t.Errorf("the leader waits for LSN %d, want %d", c.lsn, res.LSN())
		}
		time.Sleep(5 * time.Millisecond)
		r.notices.mu.Lock()
		if len(r.notices.commits) != 1 || r.notices.commits[0] != c {
			t.Error("the leader has looked again without a notice")
		}
		r.notices.mu.Unlock()
		res.Complete()
		select {
		case err := <-filled:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(hangLimit / 4):
			t.Fatal("the writer waits although there is nothing to wait for")
		}
		if _, err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// The lead never goes to a waiter that may give up: it would hang with the device. The flusher leads for it.
func TestLeadGoesToNoWaiterWithDeadline(t *testing.T) {
	for _, hangs := range []bool{false, true} {
		r := newRig(t, setup{})
		put := func(n int) format.LSN {
			lsn, err := r.put(format.KindData, 0, body(n, 1))
			if err != nil {
				t.Fatal(err)
			}
			return lsn
		}
		put(0)
		r.untilIdle() // the header may be written
		calls, begun, go1, go2 := 0, make(chan struct{}), make(chan struct{}), make(chan struct{})
		before := func() {
			switch calls++; calls {
			case 1:
				close(begun)
				<-go1
			case 2:
				<-go2
			}
		}
		r.dev.locked(func(d *memDevice) { d.before = before })
		first, done := put(600), make(chan error, 1)
		go func() { done <- r.MakeStable(first) }()
		<-begun // the waiter leads
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		last := put(600)
		late := make(chan error, 1)
		go func() { late <- r.MakeStableContext(ctx, last) }()
		r.untilWaiting(2)
		close(go1)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if hangs {
			r.untilWaiting(1)
			cancel()
		} else {
			close(go2)
		}
		select {
		case err := <-late:
			if hangs != errors.Is(err, context.Canceled) {
				t.Errorf("the device hangs: %v, and the waiter returns %v", hangs, err)
			}
		case <-time.After(hangLimit / 4):
			t.Fatalf("the device hangs: %v, and the waiter never returns", hangs)
		}
		if hangs {
			close(go2)
		}
		if _, err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// The counts are those of the device, and of the pads that are on it.
func TestStatsCountDeviceWrites(t *testing.T) {
	r := newRig(t, setup{})
	for i := range 10 {
		lsn, err := r.put(format.KindData, 0, body(300, uint64(i)))
		if err == nil {
			err = r.MakeStable(lsn)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	end, err := r.Close()
	if err != nil {
		t.Fatal(err)
	}
	padded := 0
	for _, m := range r.messages(end) {
		if m.h.Kind == format.KindPad {
			padded += m.h.Len
		}
	}
	if s := r.Stats(); s.Flushes != int64(r.dev.writes) || s.BytesWritten != int64(r.dev.bytes) ||
		s.BytesPadded != int64(padded) || padded == 0 {
		t.Errorf("%+v, want %d writes of %d bytes, %d of them pads", s, r.dev.writes, r.dev.bytes, padded)
	}
}

// After a write has failed, those in flight are awaited, and no other begins (memDevice verifies it), although much of
// the log is waiting to be written. Proves rule 8.
func TestNoWriteBeginsAfterAFailure(t *testing.T) {
	for seed := range uint64(10) {
		r := newRig(t, setup{seed: seed})
		filled, calls := make(chan struct{}), 0
		before := func() {
			if calls++; calls == 1 {
				<-filled
			}
		}
		r.dev.locked(func(d *memDevice) { d.before, d.failAt = before, 2 }) // one of several in flight
		for r.Tail() < format.LSN(2*r.seg-1000) {
			if _, err := r.put(format.KindData, 0, body(500, 1)); err != nil {
				t.Fatal(err)
			}
		}
		close(filled)
		if err := r.MakeStable(r.Tail() - 1); !isEIO(err) {
			t.Errorf("MakeStable returns %v", err)
		}
		if _, err := r.Close(); !isEIO(err) {
			t.Errorf("Close returns %v", err)
		}
		if len(r.dev.flight) > 0 {
			t.Errorf("%d writes are in flight after Close", len(r.dev.flight))
		}
	}
}

// A device that works no longer fails the log, wakes every waiter, and leaves no leader at work. Trap 10.
func TestBrokenDeviceFailsTheLog(t *testing.T) {
	r := newRig(t, setup{})
	lsn, err := r.put(format.KindData, 0, body(500, 1))
	if err != nil {
		t.Fatal(err)
	}
	r.dev.locked(func(d *memDevice) { d.broken = syscall.EIO })
	failed := make(chan error)
	for range 3 {
		go func() { failed <- r.MakeStable(lsn) }()
	}
	for range 3 {
		select {
		case err := <-failed:
			if !isEIO(err) {
				t.Errorf("MakeStable returns %v", err)
			}
		case <-time.After(hangLimit / 4):
			t.Fatal("a waiter is not woken")
		}
	}
	if _, err := r.Close(); !isEIO(err) {
		t.Errorf("Close returns %v", err)
	}
}

// parkingDevice counts how the leader waits: by Park, or in Do. Park takes no time.
type parkingDevice struct {
	*memDevice
	parks   bool // what Park returns
	parked  atomic.Int64
	blocked atomic.Int64 // calls of Do that wait for a completion
}

func (d *parkingDevice) Park() bool {
	d.parked.Add(1)
	runtime.Gosched()
	return d.parks
}

func (d *parkingDevice) Do(writes []vfs.Write, need int, dst []vfs.Completion) ([]vfs.Completion, error) {
	if need > 0 {
		d.blocked.Add(1)
	}
	return d.memDevice.Do(writes, need, dst)
}

// While nobody waits for the log, the flusher parks, and blocks no thread; if the device cannot park, it waits in Do.
// For a waiter, the leader waits in Do, also if the flusher leads for it.
func TestFlusherParksWhileNobodyWaits(t *testing.T) {
	for _, parks := range []bool{true, false} {
		d := &parkingDevice{parks: parks}
		r := newRig(t, setup{markAfter: time.Hour, wrap: func(m *memDevice) vfs.Device { d.memDevice = m; return d }})
		for r.Tail() < format.LSN(2*r.seg) {
			if _, err := r.put(format.KindData, 0, body(500, 1)); err != nil {
				t.Fatal(err)
			}
		}
		r.within("a segment is written", func() bool { return int(r.DurableEnd()) >= r.seg })
		r.untilIdle()
		parked, blocked := d.parked.Load(), d.blocked.Load()
		if parked == 0 || (blocked > 0) == parks {
			t.Errorf("Park returns %t: parked %d times, blocked %d times", parks, parked, blocked)
		}
		ctx, cancel := context.WithTimeout(t.Context(), hangLimit)
		for _, ctx := range []context.Context{t.Context(), ctx} { // the waiter leads, and the flusher leads for it
			lsn, err := r.put(format.KindData, 0, body(10, 1))
			if err == nil {
				err = r.MakeStableContext(ctx, lsn)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		if d.parked.Load() != parked || d.blocked.Load() == blocked {
			t.Errorf("Park returns %t: for waiters, parked %d times, blocked %d times", parks, d.parked.Load()-parked,
				d.blocked.Load()-blocked)
		}
		if _, err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
