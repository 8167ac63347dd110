package iobuf

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"pagecache/segments"
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

func TestOneMessage(t *testing.T) {
	r := newRig(t, 16<<10, 2, 512, 8, 1)
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

// Many writers, some waiting for stability, some aborting, with every processor count, block size and completion order.
// Proves rules 1 and 5.
func TestWriters(t *testing.T) {
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
	r := newRig(t, 16<<10, 2+int(seed%3), block, 4000, seed)
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

// A failed write stops the log: everybody waiting wakes, everything later fails with the cause. Proves rule 8; trap 10.
func TestFailureWakesEverybody(t *testing.T) {
	for fail := 1; fail < 12; fail++ {
		r := newRig(t, 16<<10, 2, 512, 100, uint64(fail))
		r.dev.failAt = fail
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
		r.messages(stable) // what was called stable before is whole
	}
}

// No space fails the reservation and nothing else, and goes away with its cause. Proves rule 9.
func TestNoSpace(t *testing.T) {
	r := newRig(t, 16<<10, 2, 512, 3, 1)
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
	if !errors.Is(err, syscall.ENOSPC) || n < 40 {
		t.Fatalf("after %d messages: %v", n, err)
	}
	if err := r.MakeStable(last); err != nil {
		t.Fatalf("what was written cannot be made stable: %v", err)
	}
	for range 100 {
		if _, err := r.put(format.KindAppend, 1, nil); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("still no space, but %v", err)
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

// Room that was got for one segment is not room in the next one that its buffer is opened for, in a slot that is
// kept, before who asked comes to use it. Proves rule 9.
func TestRoomIsForOneSegment(t *testing.T) {
	r := newRig(t, 16<<10, 2, 512, 16, 1)
	r.space.least = segments.UrgencyCleaning
	asked := 0
	r.space.room = func(segments.Urgency) error {
		if asked++; asked > 1 {
			return fmt.Errorf("%w: %w", segments.ErrNoRoom, syscall.ENOSPC)
		}
		for b, base := r.active.Load(), r.active.Load().base.Load(); r.active.Load() != b || b.base.Load() == base; {
			res, err := r.ReserveUrgent(format.KindAppend, 1, 1000)
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
	urgent, err := r.ReserveUrgent(format.KindAppend, 1, 10) // there is an active buffer
	if err != nil {
		t.Fatal(err)
	}
	urgent.Complete()
	if _, err := r.put(format.KindAppend, 1, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := r.put(format.KindAppend, 1, nil); !errors.Is(err, segments.ErrNoRoom) {
		t.Errorf("a second one in what is kept: %v", err)
	}
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// A batch larger than all buffers, with others writing, waiting for durability and sealing. Trap 11.
func TestBatchLargerThanBuffers(t *testing.T) {
	r := newRig(t, 16<<10, 2, 512, 400, 3)
	before, err := r.put(format.KindAppend, 1, body(10, 1))
	if err != nil {
		t.Fatal(err)
	}
	b, err := r.BeginBatch()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.MakeStable(before); err != nil {
		t.Fatal(err)
	}
	var last format.LSN
	for i := range 2000 {
		if last, err = r.put(format.KindAppend, 2, body(200, uint64(i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.MakeDurable(last); err != nil { // ids wait like this
		t.Fatal(err)
	}
	if r.StableLSN() >= b.LSN() {
		t.Fatalf("stable %d inside the open batch at %d", r.StableLSN(), b.LSN())
	}
	done := make(chan error)
	go func() { done <- r.MakeStable(last) }()
	select {
	case err := <-done:
		t.Fatalf("stable inside an open batch: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	if _, err := b.End(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := b.End(); !errors.Is(err, ErrBatchEnded) {
		t.Fatalf("second end: %v", err)
	}
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// The stable LSN never stands inside a batch, however batches overlap.
func TestInterleavedBatches(t *testing.T) {
	for seed := range uint64(30) {
		r := newRig(t, 16<<10, 3, 512, 400, seed)
		rng := rand.New(rand.NewPCG(seed, 5))
		type span struct{ begin, end format.LSN }
		var open []*Batch
		var ended []span
		for i := range 300 {
			switch k := rng.IntN(10); {
			case k == 0 && len(open) < 4:
				b, err := r.BeginBatch()
				if err != nil {
					t.Fatal(err)
				}
				open = append(open, b)
			case k == 1 && len(open) > 0:
				j := rng.IntN(len(open))
				lsn, err := open[j].End()
				if err != nil {
					t.Fatal(err)
				}
				ended = append(ended, span{open[j].LSN(), lsn})
				open = append(open[:j], open[j+1:]...)
			case k == 2:
				lsn, err := r.put(format.KindAppend, 1, nil)
				if err != nil {
					t.Fatal(err)
				}
				if err := r.MakeDurable(lsn); err != nil {
					t.Fatal(err)
				}
			default:
				if _, err := r.put(format.KindAppend, 1, body(rng.IntN(300), uint64(i))); err != nil {
					t.Fatal(err)
				}
			}
			stable := r.StableEnd()
			for _, b := range open {
				if stable > b.LSN() {
					t.Fatalf("seed %d: stable end %d above the open batch at %d", seed, stable, b.LSN())
				}
			}
			for _, s := range ended {
				if stable > s.begin && stable <= s.end {
					t.Fatalf("seed %d: stable end %d inside the batch [%d, %d]", seed, stable, s.begin, s.end)
				}
			}
		}
		for _, b := range open {
			if _, err := b.End(); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Flush(); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What no buffer holds any more is in the file, and what a buffer holds is read from it.
func TestReadFromBuffers(t *testing.T) {
	r := newRig(t, 16<<10, 2, 512, 400, 3)
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
				t.Fatal("neither in a buffer nor sealed")
			}
			continue
		}
		if !bytes.Equal(got[format.HeaderSize:], b) {
			t.Fatal("read something else from the buffer")
		}
	}
	if _, err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// Writers that wait for a buffer, a flusher that wakes all the time, somebody who waits for durability, and nobody
// whose kick is not taken for nothing: none of them may wait for another for ever. (The flusher once asked for the
// tail under the lock that the writer held who waited for it.)
func TestStarvation(t *testing.T) {
	for seed := range uint64(8) {
		d := newMemDevice(t, 512, 16<<10*402, seed)
		d.delay = 20 * time.Microsecond
		s := &memSpace{limit: 400, sealed: map[format.LSN]bool{}, slots: map[format.LSN]format.SegmentID{}}
		l, err := New(Config{Device: d, Space: s, Buffers: [][]byte{aligned(16 << 10), aligned(16 << 10)}, Chunk: 4096,
			FlushEvery: 50 * time.Microsecond})
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{Log: l, t: t, dev: d, space: s, seg: 16 << 10}
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
		done := make(chan struct{})
		go func() { wg.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(30 * time.Second):
			t.Fatal("writers hang")
		}
		if _, err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// BenchmarkReserveComplete is a message of 100 bytes, flushing to memory included.
func BenchmarkReserveComplete(b *testing.B) {
	r := newRig(b, 1<<20, 3, 4096, 0, 1)
	r.dev.data, r.space.limit = nil, math.MaxInt
	b.ReportAllocs()
	p := make([]byte, 100)
	for b.Loop() {
		if _, err := r.put(format.KindAppend, 1, p); err != nil {
			b.Fatal(err)
		}
	}
}
