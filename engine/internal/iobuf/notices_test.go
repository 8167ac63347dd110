package iobuf

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"pagecache/segments/format"
)

// untilResting waits until the leader waits for a notice, and looks no more until it gets one.
func (r *rig) untilResting() {
	r.t.Helper()
	resting := func() bool {
		n := &r.notices
		n.mu.Lock()
		defer n.mu.Unlock()
		return len(n.commits) == 1
	}
	for start := time.Now(); !resting(); time.Sleep(50 * time.Microsecond) {
		if time.Since(start) > hangLimit/2 {
			r.t.Fatal("no leader waits for a notice")
		}
	}
	time.Sleep(2 * time.Millisecond) // it has looked once more, and waits
}

// A leader that waits for a place in the log goes on at once when the place is filled, however that happens: by a
// message, an aborted one, a group, or the pad at the end of a segment. Proves rule 18: it does not look again by
// itself (see stuckLook).
func TestRestingLeaderGoesOnWhenItsPlaceIsFilled(t *testing.T) {
	reserve := func(r *rig) Reservation {
		res, err := r.Reserve(format.KindAppend, 1, 50)
		if err != nil {
			r.t.Fatal(err)
		}
		return res
	}
	for _, index := range []bool{false, true} {
		for name, hold := range map[string]func(r *rig) (fill func()){
			"message": func(r *rig) func() { res := reserve(r); return res.Complete },
			"aborted": func(r *rig) func() { res := reserve(r); return res.Abort },
			"group": func(r *rig) func() {
				g, err := r.ReserveGroup(1, format.GroupSize(30))
				if err != nil {
					r.t.Fatal(err)
				}
				g.Add(format.KindData, 0, 30)
				return g.Complete
			},
			"end of segment": func(r *rig) func() { // as the writer that crosses it does
				b := r.active.Load()
				off := tailWord(b.tail.Add(uint64(makeTail(len(b.mem), 0)))).off() - len(b.mem)
				return func() { r.sealRest(b, off) }
			},
		} {
			t.Run(name, func(t *testing.T) {
				r := newRig(t, setup{index: index})
				if _, err := r.put(format.KindData, 0, body(100, 1)); err != nil {
					t.Fatal(err)
				}
				fill := hold(r)
				last, err := r.put(format.KindData, 0, body(100, 2))
				if err != nil {
					t.Fatal(err)
				}
				stable := make(chan error)
				go func() { stable <- r.MakeStable(last) }()
				r.untilResting()
				if r.StableEnd() > last {
					t.Error("stable beyond a place that is not filled")
				}
				fill()
				if err := <-stable; err != nil {
					t.Error(err)
				}
				if _, err := r.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// A leader that waits for a reservation goes on when the log fails, and so does a goroutine that waits for a commit.
// Trap 10.
func TestRestingLeaderGoesOnWhenTheLogStops(t *testing.T) {
	r := newRig(t, setup{})
	res, err := r.Reserve(format.KindAppend, 1, 50)
	if err != nil {
		t.Fatal(err)
	}
	stable := make(chan error)
	go func() { stable <- r.MakeStable(res.LSN()) }()
	r.untilResting()
	c := r.NoticeCommit(res.LSN())
	defer c.Stop()
	r.fail(format.ErrGroup)
	<-c.C
	if err := <-stable; err == nil {
		t.Error("a message is stable that was never committed")
	}
	res.Complete()
	if _, err := r.Close(); err == nil {
		t.Error("closed as if nothing had happened")
	}
}

// Reaches is closed by the message that reaches the number, or at once if it was reached before; not one earlier.
func TestReachesIsExact(t *testing.T) {
	r := newRig(t, setup{})
	put := func() {
		lsn, err := r.put(format.KindData, 0, nil)
		if err == nil {
			err = r.MakeStable(lsn)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	closed := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	put()
	for n := r.Messages(); n < 40; n = r.Messages() { // pads count, too
		if !closed(r.Reaches(n)) || !closed(r.Reaches(n-1)) {
			t.Errorf("%d messages are there, and nobody is told", n)
		}
		c := r.Reaches(n + 1)
		if closed(c) {
			t.Errorf("told of %d messages, %d are there", n+1, n)
		}
		put()
		<-c
	}
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// NextWrite is closed by the next message, and not by pads or marks.
func TestNextWriteIsClosedByMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, setup{markAfter: time.Millisecond})
		lsn, err := r.put(format.KindData, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		next := r.NextWrite()
		if err := r.MakeStable(lsn); err != nil { // pads
			t.Fatal(err)
		}
		tail := r.Tail()
		for r.Tail() == tail { // a mark
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		select {
		case <-next:
			t.Error("a pad or a mark counts as a message")
		default:
		}
		if _, err := r.put(format.KindData, 0, nil); err != nil {
			t.Fatal(err)
		}
		<-next
		if _, err := r.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// A writer that waits for a buffer returns when the log stops. Trap 10.
func TestWriterForBufferReturnsWhenTheLogStops(t *testing.T) {
	r := newRig(t, setup{})
	res, err := r.Reserve(format.KindAppend, 1, 20)
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	go func() {
		var err error
		for err == nil {
			_, err = r.put(format.KindAppend, 1, body(500, 1))
		}
		failed <- err
	}()
	r.within("a writer waits for a buffer", func() bool { return r.bufferWaiters.Load() == 1 })
	r.fail(format.ErrGroup)
	select {
	case err := <-failed:
		if !errors.Is(err, ErrFailed) {
			t.Error(err)
		}
	case <-time.After(hangLimit / 4):
		t.Fatal("the writer is not woken")
	}
	res.Complete()
	if _, err := r.Close(); !errors.Is(err, ErrFailed) {
		t.Error(err)
	}
}
