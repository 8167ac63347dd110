package iobuf

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/segments"
	"pagecache/segments/format"
)

// Each message carries the durable end that was known when it was committed: at most its own LSN, at least what was
// durable when its writer began, and never more than the device has completed, however writes complete. Proves L8, rule
// 13.
func TestMessagesCarryTheDurableEnd(t *testing.T) {
	for seed := range uint64(6) {
		r := newRig(t, setup{slots: 4000, buffers: 3, seed: seed})
		var mu sync.Mutex
		type bounds struct{ least, most format.LSN }
		want := map[format.LSN]bounds{}
		var wg sync.WaitGroup
		for w := range uint64(4) {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(seed, w))
				for range 300 {
					b := bounds{least: r.DurableEnd()}
					lsn, err := r.put(format.KindAppend, 1, make([]byte, rng.IntN(900)))
					b.most = r.DurableEnd()
					if err == nil && rng.IntN(3) == 0 {
						err = r.MakeStable(lsn)
					}
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					want[lsn] = b
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		end, err := r.Close()
		if err != nil {
			t.Fatal(err)
		}
		for lsn, m := range r.messages(end) {
			got := m.h.Durable()
			if got == format.NoLSN || got > lsn || m.h.Kind == format.KindPad && format.PadStable(m.body) >= got {
				t.Fatalf("%v at LSN %v carries %v and stable LSN %v", m.h.Kind, lsn, got, format.PadStable(m.body))
			}
			if b, ok := want[lsn]; ok && (got < b.least || got > b.most) {
				t.Fatalf("the message at LSN %v carries %v; the durable end was %v before and %v after", lsn, got,
					b.least, b.most)
			}
		}
	}
}

// acknowledged writes a message of n bytes, body only, and waits until it is stable. It returns the end of the message.
func (r *rig) acknowledged(n int) format.LSN {
	r.t.Helper()
	res, err := r.Reserve(format.KindAppend, 1, n)
	if err != nil {
		r.t.Fatal(err)
	}
	lsn, end := res.LSN(), res.End()
	res.Complete()
	if err := r.MakeStable(lsn); err != nil {
		r.t.Fatal(err)
	}
	return end
}

// untilProven waits until a message on the device carries a durable end at or above end, and then makes sure that the
// log falls silent.
func (r *rig) untilProven(end format.LSN) {
	r.t.Helper()
	for start := time.Now(); r.proven() < end; time.Sleep(200 * time.Microsecond) {
		if time.Since(start) > hangLimit/2 {
			r.t.Fatalf("acknowledged below %v, proven below %v", end, r.proven())
		}
	}
	time.Sleep(10 * markSoon) // it may have been proven before its mark
	before := r.Stats()
	time.Sleep(20 * markSoon)
	if after := r.Stats(); after != before {
		r.t.Fatalf("an idle log goes on writing: %+v, before %+v", after, before)
	}
}

const markSoon = time.Millisecond

// After the last acknowledgement the log writes one mark, and then nothing: at the end of a block, inside a block, at
// the end of a segment, where the mark opens the next, and after messages that nobody waits for. Proves L8, rule 13,
// trap 25.
func TestIdleLogWritesOneMark(t *testing.T) {
	const block = 512
	for _, every := range []time.Duration{0, 100 * time.Microsecond} {
		r := newRig(t, setup{slots: 50, seed: 1, flushEvery: every, markAfter: markSoon})
		r.untilProven(0) // nothing was acknowledged: nothing is written
		if n := r.Stats().Flushes; n != 0 {
			t.Fatalf("%d writes without an acknowledgement", n)
		}
		for _, n := range []int{block - format.HeaderSize, 3*block - format.HeaderSize, 100, 4 * block} {
			flushes := r.Stats().Flushes
			r.untilProven(r.acknowledged(n))
			if got := r.Stats().Flushes - flushes; got > 3 {
				t.Errorf("%d bytes, acknowledged: %d writes", n, got)
			}
		}
		toEnd := r.seg - int(int64(r.Tail())%int64(r.seg))
		if end := r.acknowledged(toEnd - format.HeaderSize); int64(end)%int64(r.seg) != 0 {
			t.Fatalf("the message ends at %v, not at the end of the segment", end)
		} else {
			r.untilProven(end)
		}
		end := r.acknowledged(10)
		if _, err := r.put(format.KindAppend, 1, make([]byte, 700)); err != nil {
			t.Fatal(err)
		}
		r.untilProven(end)
		// A message that became durable unasked, and is acknowledged later, is proven too.
		lsn, err := r.put(format.KindAppend, 1, make([]byte, 40))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.MakeDurable(lsn - 8); err != nil {
			t.Fatal(err)
		}
		r.untilProven(lsn - 8)
		if err := r.MakeStable(lsn); err != nil {
			t.Fatal(err)
		}
		r.untilProven(lsn + 1)
		flushes := r.Stats().Flushes
		if err := r.MakeStable(lsn); err != nil { // again, which proves nothing new
			t.Fatal(err)
		}
		r.untilProven(lsn + 1)
		if _, err := r.Close(); err != nil || r.Stats().Flushes != flushes {
			t.Errorf("closing: %v, %d writes", err, r.Stats().Flushes-flushes)
		}
	}
}

// A log in use writes no marks, and one that is closed does not either.
func TestMarkWaitsUntilLogIsIdle(t *testing.T) {
	r := newRig(t, setup{slots: 4000, seed: 1, markAfter: 50 * time.Millisecond})
	pads := 0
	for i, start := 0, time.Now(); i < 50_000 && time.Since(start) < 200*time.Millisecond; i++ {
		r.acknowledged(512 - format.HeaderSize) // a pad only at the end of a segment, if at all
	}
	end, err := r.Close()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range r.messages(end) {
		if m.h.Kind == format.KindPad {
			pads++
		}
	}
	if pads > 1 { // a pause of the machine may look idle
		t.Errorf("%d marks in a log in use", pads)
	}
}

// While padding is limited there is no mark; it follows when the limit ends. Proves L7.
func TestMarkWaitsWhilePaddingIsLimited(t *testing.T) {
	r := newRig(t, setup{slots: 50, seed: 1, markAfter: markSoon})
	r.LimitPadding(4096)
	end := r.acknowledged(10)
	before := r.Stats()
	time.Sleep(20 * markSoon)
	if after := r.Stats(); after != before {
		t.Errorf("%+v, before %+v", after, before)
	}
	r.UnlimitPadding()
	r.untilProven(end)
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// A mark that would need a new segment on a full disk, a reserved slot, or a buffer that is not free is given up: it
// neither fails nor stops the log, and the flusher does not wait. Proves rule 9.
func TestMarkGivesUpWithoutRoom(t *testing.T) {
	r := newRig(t, setup{slots: 1, seed: 1, markAfter: markSoon})
	if end := r.acknowledged(format.MaxBody(r.seg)); int64(end) != int64(r.seg) {
		t.Fatalf("the segment ends at %v", end)
	}
	time.Sleep(20 * markSoon)
	if err := r.Err(); err != nil || r.Stats().Flushes > 2 {
		t.Errorf("%v after %d writes", err, r.Stats().Flushes)
	}
	r.space.mu.Lock()
	r.space.limit, r.space.least = 2, segments.UrgencyCleaning
	r.space.mu.Unlock()
	res, err := r.ReserveUrgent(format.KindAppend, 1, 10)
	if err != nil {
		t.Fatal(err)
	}
	lsn := res.LSN()
	res.Complete()
	if err := r.MakeStable(lsn); err != nil {
		t.Fatal(err)
	}
	flushes := r.Stats().Flushes
	time.Sleep(20 * markSoon)
	if got := r.Stats().Flushes; got != flushes {
		t.Errorf("%d writes of marks in a reserved slot", got-flushes)
	}
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// Marks race with writers, rotation, full disks and Close without harm.
func TestMarksBesideWriters(t *testing.T) {
	for seed := range uint64(10) {
		const mark, flush = 20 * time.Microsecond, 30 * time.Microsecond
		r := newRig(t, setup{slots: 60, seed: seed, markAfter: mark, flushEvery: flush})
		var wg sync.WaitGroup
		for w := range uint64(3) {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(seed, w))
				for range 100 {
					lsn, err := r.put(format.KindAppend, 1, make([]byte, rng.IntN(3000)))
					if err == nil && rng.IntN(3) == 0 {
						err = r.MakeStable(lsn)
					}
					if err != nil && !errors.Is(err, segments.ErrNoRoom) {
						t.Error(err)
						return
					}
					time.Sleep(time.Duration(rng.IntN(60)) * time.Microsecond)
				}
			})
		}
		wg.Wait()
		end, err := r.Close()
		if err != nil {
			t.Fatal(err)
		}
		r.messages(end)
	}
}

// The flusher marks a buffer that is retired meanwhile, and opened for another segment. The mark is placed there, or
// not at all: it does not seal the segment before anything is in it. Nobody would commit the rest of the segment then,
// and the log would hang. L8.
func TestMarkBesideReopening(t *testing.T) {
	for _, indexed := range []bool{false, true} {
		b := newBuffer(aligned(16<<10), indexed, 16<<10)
		b.base.Store(0)
		var stop atomic.Bool
		var wg sync.WaitGroup
		wg.Go(func() {
			for !stop.Load() {
				b.mark(4096, format.Known{})
				runtime.Gosched() // on one processor, the other goroutine would wait 10 ms each time it yields
			}
		})
		end := time.Now().Add(2 * time.Second)
		for i := 0; i < 300_000 && time.Now().Before(end); i++ {
			b.tail.Store(uint64(makeTail(len(b.mem)+1, 0))) // it is sealed, or Free
			b.word(format.SegmentStart).Store(0)
			b.tail.Store(uint64(makeTail(format.SegmentStart, 0)))
			for range i % 8 {
				runtime.Gosched()
			}
			if b.sealed() && b.word(format.SegmentStart).Load() == 0 {
				t.Errorf("indexed %v, turn %d: the new segment is sealed, with nothing in it", indexed, i)
				break
			}
		}
		stop.Store(true)
		wg.Wait()
	}
}
