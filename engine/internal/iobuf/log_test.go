package iobuf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"pagecache/segments/format"
)

func body(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 2))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// A message that is stable is on the device as it was written; a closed log takes no more.
func TestStableMessageIsOnTheDevice(t *testing.T) {
	r := newRig(t, setup{slots: 8, seed: 1})
	if r.StableLSN() != format.NoLSN {
		t.Fatal("a new log has stable bytes")
	}
	want := body(100, 1)
	lsn, err := r.put(format.KindAppend, 5, want)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.MakeStable(lsn); err != nil {
		t.Fatal(err)
	}
	if r.StableLSN() < lsn {
		t.Fatalf("stable %d below %d", r.StableLSN(), lsn)
	}
	m := r.messages(r.StableEnd())[lsn]
	if !bytes.Equal(m.body, want) || m.h.Page != 5 || m.h.Kind != format.KindAppend {
		t.Fatalf("read back %+v", m.h)
	}
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.put(format.KindAppend, 5, want); !errors.Is(err, ErrClosed) {
		t.Fatalf("write after Close: %v", err)
	}
}

// Many writers, some waiting for stability, some aborting, with several processor counts, block sizes and completion
// orders: every message that was completed is in the log, and no other. No leader looks again without a notice (see
// stuckLook), so a lost one would stop a writer for an hour. Proves rules 1, 5 and 18.
func TestConcurrentWritersLoseNothing(t *testing.T) {
	for _, procs := range []int{1, 2, 8} {
		for _, block := range []int{512, 4096} {
			for seed := range uint64(6) {
				t.Run(fmt.Sprintf("procs=%d/block=%d/seed=%d", procs, block, seed), func(t *testing.T) {
					defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
					testWriters(t, block, seed)
				})
			}
		}
	}
}

func testWriters(t *testing.T, block int, seed uint64) {
	r := newRig(t, setup{buffers: 2 + int(seed%3), block: block, slots: 4000, seed: seed})
	const writers, each = 6, 150
	var mu sync.Mutex
	want := map[format.LSN][]byte{}
	var wg sync.WaitGroup
	for w := range uint64(writers) {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, w))
			for range each {
				n := rng.IntN(600)
				if rng.IntN(20) == 0 {
					n = rng.IntN(format.MaxBody(r.seg) + 1)
				}
				b := body(n, rng.Uint64())
				res, err := r.Reserve(format.KindAppend, format.PageID(w), n)
				if err != nil {
					t.Error(err)
					return
				}
				copy(res.Body(), b)
				lsn := res.LSN()
				if rng.IntN(10) == 0 {
					res.Abort()
					continue
				}
				res.Complete()
				mu.Lock()
				want[lsn] = b
				mu.Unlock()
				if rng.IntN(4) == 0 {
					if err := r.MakeStable(lsn); err != nil {
						t.Error(err)
						return
					}
					if r.StableLSN() < lsn {
						t.Errorf("LSN %d was called stable, but the stable LSN is %d", lsn, r.StableLSN())
					}
				}
			}
		})
	}
	wg.Wait()
	if err := r.Flush(); err != nil {
		t.Fatal(err)
	}
	end, err := r.Close()
	if err != nil {
		t.Fatal(err)
	}
	got := r.messages(end)
	for lsn, b := range want {
		if m, ok := got[lsn]; !ok || !bytes.Equal(m.body, b) {
			t.Fatalf("message at LSN %d is missing or wrong", lsn)
		}
	}
	for lsn, m := range got {
		if _, ok := want[lsn]; !ok && m.h.Kind != format.KindPad && m.h.Kind != format.KindFailed {
			t.Fatalf("unexpected %v message at LSN %d", m.h.Kind, lsn)
		}
	}
}

// A failed write stops the log: every waiter wakes, and every later call fails with the cause. Proves rule 8; trap 10.
func TestFailedWriteWakesAllWaiters(t *testing.T) {
	for fail := 1; fail < 12; fail++ {
		r := newRig(t, setup{slots: 100, seed: uint64(fail)})
		r.dev.locked(func(d *memDevice) { d.failAt = fail })
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				for i := 0; ; i++ {
					lsn, err := r.put(format.KindAppend, format.PageID(w), body(300+w, uint64(i)))
					if err == nil && i%3 == 0 {
						err = r.MakeStable(lsn)
					}
					if err != nil {
						if !isEIO(err) {
							t.Errorf("got %v, want EIO", err)
						}
						return
					}
				}
			})
		}
		wg.Wait()
		stable := r.StableEnd()
		if err := r.Flush(); !isEIO(err) {
			t.Fatalf("flush after the failure: %v", err)
		}
		if _, err := r.Close(); !isEIO(err) {
			t.Fatalf("close after the failure: %v", err)
		}
		if r.StableEnd() != stable {
			t.Fatalf("stable up to %d after the failure, %d before", r.StableEnd(), stable)
		}
		r.messages(r.DurableEnd()) // the write that failed, and those after it, are not called durable
	}
}

// A leader that resigns while a writer waits for a buffer kicks the flusher: the flusher may have taken the kick of the
// last commit and found a leader, which had walked the buffers before that commit. Trap 10. If there is a buffer, and
// the writer has only not run yet, it does not: the flusher would lead, resign and be kicked until the writer runs.
func TestResigningLeaderKicksForWaitingWriter(t *testing.T) {
	for _, c := range []struct {
		waiting          int32
		free, used       int
		clearing, clears bool // the clearer was started; it clears a buffer
		kicks            int
	}{
		{0, 0, 0, false, false, 0}, {0, 1, 0, false, false, 0}, {1, 1, 0, false, false, 0},
		{1, 0, 0, false, false, 1}, {1, 0, 1, true, false, 0}, {1, 0, 0, true, true, 0},
		{1, 0, 0, true, false, 1}, // the writer has taken the used buffer before the clearer ran, and filled it
	} {
		l := &Log{kick: make(chan struct{}, 1)} // without a flusher
		l.bufferWaiters.Store(c.waiting)
		l.state.free, l.state.used = make([]*buffer, c.free), make([]*buffer, c.used)
		l.state.clearing, l.state.clears = c.clearing, c.clears
		l.state.leading = true
		l.state.mu.Lock()
		l.resignLocked()
		l.state.mu.Unlock()
		if l.state.leading || len(l.kick) != c.kicks {
			t.Errorf("%+v: leading %v, %d kicks", c, l.state.leading, len(l.kick))
		}
	}
}

// A message is read from its buffer, or its segment is sealed.
func TestReadFindsMessageOrSegmentIsSealed(t *testing.T) {
	r := newRig(t, setup{seed: 3})
	for i := range 300 {
		b := body(500, uint64(i))
		lsn, err := r.put(format.KindAppend, 1, b)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, format.HeaderSize+len(b))
		if !r.Read(got, lsn) {
			r.space.mu.Lock()
			sealed := r.space.sealed[lsn-lsn%format.LSN(r.seg)]
			r.space.mu.Unlock()
			if !sealed {
				t.Fatal("message neither in a buffer nor in a sealed segment")
			}
			continue
		}
		if !bytes.Equal(got[format.HeaderSize:], b) {
			t.Fatal("the buffer holds other bytes")
		}
	}
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// Writers that wait for a buffer, a flusher that wakes all the time, and waiters for durability do not wait for each
// other for ever. (The flusher once asked for the tail under a lock that a writer held while it waited for the
// flusher.)
func TestWritersWithoutFreeBuffersProgress(t *testing.T) {
	for seed := range uint64(8) {
		r := newRig(t, setup{slots: 600, seed: seed, delay: 20 * time.Microsecond, flushEvery: 50 * time.Microsecond})
		var wg sync.WaitGroup
		for w := range uint64(4) {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(seed, w))
				for range 250 {
					lsn, err := r.put(format.KindAppend, 1, make([]byte, rng.IntN(8000)))
					if err == nil && rng.IntN(30) == 0 {
						err = r.MakeDurable(lsn)
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		if _, err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A waiter with a deadline does not lead, and returns while the device hangs. Once the device goes on, the message
// becomes stable.
func TestWaiterWithDeadlineReturnsWhileDeviceHangs(t *testing.T) {
	r := newRig(t, setup{seed: 1})
	hang := make(chan struct{})
	r.dev.locked(func(d *memDevice) { d.hang = hang })
	lsn, err := r.put(format.KindAppend, 1, []byte("late"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	err = r.MakeStableContext(ctx, lsn)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "LSN 4096 is not stable yet") {
		t.Errorf("the device hangs, and MakeStableContext returns %v", err)
	}
	r.untilWaiting(0)
	close(hang)
	if err := r.MakeStable(lsn); err != nil {
		t.Error(err)
	}
	if _, err := r.Close(); err != nil {
		t.Error(err)
	}
}

// A read-only log refuses writes and ends where it was opened.
func TestReadOnlyLogTakesNothing(t *testing.T) {
	watchdog(t)
	l := NewReadOnly(4096)
	if _, err := l.Reserve(format.KindAppend, 1, 1); !errors.Is(err, ErrReadOnly) {
		t.Errorf("Reserve: %v", err)
	}
	if _, err := l.BeginBatch(); !errors.Is(err, ErrReadOnly) {
		t.Errorf("BeginBatch: %v", err)
	}
	if err := errors.Join(l.Flush(), l.MakeStable(5000), l.MakeDurable(100)); err != nil {
		t.Errorf("everything is stable, and waiting for it fails: %v", err)
	}
	if end, err := l.Close(); end != 4096 || err != nil || !l.Drained() || l.Tail() != 4096 {
		t.Errorf("Close returns %d, %v; the tail is %d", end, err, l.Tail())
	}
}

// Enumerations print their names, and unknown values their numbers.
func TestEnumerationsPrint(t *testing.T) {
	got := fmt.Sprint(waitStable, waitDurable, waitLevel(9), wakeDone, wakeFailed, wakeLead, wake(9))
	if want := "stable durable waitLevel(9) done failed lead wake(9)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// BenchmarkReserveComplete is a message of 100 bytes, flushing to memory included.
func BenchmarkReserveComplete(b *testing.B) {
	r := newRig(b, setup{segment: 1 << 20, buffers: 3, block: 4096, slots: 1, seed: 1})
	r.dev.locked(func(d *memDevice) { d.data = nil })
	r.space.mu.Lock()
	r.space.limit = math.MaxInt
	r.space.mu.Unlock()
	b.ReportAllocs()
	p := make([]byte, 100)
	for b.Loop() {
		if _, err := r.put(format.KindAppend, 1, p); err != nil {
			b.Fatal(err)
		}
	}
}
