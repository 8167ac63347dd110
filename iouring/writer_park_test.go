//go:build linux

package iouring

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"pagecache/iouring/internal/ring"
)

// parkedRing returns a ring and its parker, or skips the test.
func parkedRing(t *testing.T) (*ring.Ring, *parker) {
	r := testRing(t, ring.Linux, -1, 4)
	p := newParker(r)
	if p == nil {
		_ = r.Close()
		t.Skip("this kernel signals every completion")
	}
	t.Cleanup(func() {
		if err := p.close(); err != nil {
			t.Error(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r, p
}

// A parked goroutine leaves its processor to others, and a completion wakes it long before its limit.
func TestParkedGoroutineIsWoken(t *testing.T) {
	r, p := parkedRing(t)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for range 20 {
		p.limit = time.Minute
		var parked atomic.Bool
		done := make(chan bool)
		go func() {
			parked.Store(true)
			done <- p.park()
		}()
		for !parked.Load() {
			runtime.Gosched() // there is one processor, which the other goroutine leaves once it has parked
		}
		// A completion that somebody else takes may wake the goroutine, but it parks again.
		if err := r.ProbeNop(); err != nil {
			t.Fatal(err)
		}
		r.Push(1, 0, []byte("x")) // to no file: it fails
		if err := r.Enter(0); err != nil {
			t.Fatal(err)
		}
		select {
		case ok := <-done:
			if !ok {
				t.Fatal("the goroutine could not wait")
			}
		case <-time.After(30 * time.Second):
			t.Fatal("a completion does not wake the goroutine")
		}
		if id, _, ok := r.Pop(); !ok || id != 1 {
			t.Fatalf("popped %d, %t", id, ok)
		}
	}
}

// A goroutine for which no completion comes looks again by itself, ever less often: a completion may have no signal.
func TestParkLooksAgain(t *testing.T) {
	_, p := parkedRing(t)
	for want := 2 * leastPark; want <= 4*mostPark; want *= 2 {
		if !p.park() || p.limit != min(want, mostPark) {
			t.Fatalf("the next limit is %v, want %v", p.limit, min(want, mostPark))
		}
	}
}

// Park waits for writes in flight only, and for no longer than they take. Without a parker it says so.
func TestWriterParks(t *testing.T) {
	const size, block = 1 << 20, 4096
	f := logFile(t, t.TempDir(), size)
	w, report, err := OpenWriter(int(f.Fd()), WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if w.parker == nil {
		t.Skipf("no parking here: %+v", report)
	}
	if !w.Park() {
		t.Error("nothing is in flight, and Park cannot wait")
	}
	buf := memory(t, size)
	var done []Completion
	for off := int64(0); off < size; off += 16 * block {
		if done, err = w.Do([]Write{{Off: off, Buf: buf[off : off+16*block]}}, 0, done[:0]); err != nil {
			t.Fatal(err)
		}
		for len(done) == 0 {
			if !w.Park() {
				t.Fatal("Park cannot wait")
			}
			if done, err = w.Do(nil, 0, done); err != nil {
				t.Fatal(err)
			}
		}
		if done[0].Err != nil {
			t.Fatal(done[0].Err)
		}
	}
	calls, _, err := OpenWriter(int(f.Fd()), WriterOptions{Ring: ModeOff})
	if err != nil {
		t.Fatal(err)
	}
	defer calls.Close()
	if calls.Park() {
		t.Error("a Writer without a ring parks")
	}
}

// Unpark ends the present park, or the next one, and no more than one.
func TestUnparkEndsPark(t *testing.T) {
	_, p := parkedRing(t)
	for range 200 {
		p.limit = time.Minute
		done := make(chan bool)
		go func() { done <- p.park() }()
		p.unpark() // before the goroutine parks, or after
		select {
		case ok := <-done:
			if !ok || p.limit != time.Minute && p.limit != leastPark {
				t.Fatalf("park returns %t, and the next limit is %v", ok, p.limit)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("unpark does not end a park")
		}
	}
	p.limit = leastPark
	for range 2 { // one of them may still be ended by the last unpark
		p.park()
	}
	if p.limit == leastPark {
		t.Error("one unpark ends more than one park")
	}
}

// While one goroutine is in Park, another writes and takes the completions. They count as such for the limit of a park:
// it rises only while nothing completes.
func TestWriterIsUsedBesidePark(t *testing.T) {
	const size, block, writes = 1 << 20, 4096, 500
	f := logFile(t, t.TempDir(), size)
	w, report, err := OpenWriter(int(f.Fd()), WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if w.parker == nil {
		t.Skipf("no parking here: %+v", report)
	}
	var stop atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for !stop.Load() {
			w.Park()
		}
	}()
	buf := memory(t, size)
	var done []Completion
	for i := range writes {
		off := int64(i*block) % size
		if done, err = w.Do([]Write{{Off: off, Buf: buf[off : off+block]}}, i%2, done); err != nil {
			t.Fatal(err)
		}
		for i+1-len(done) == w.Depth() {
			if done, err = w.Do(nil, 0, done); err != nil {
				t.Fatal(err)
			}
		}
	}
	if done, err = w.Do(nil, w.Depth(), done); err != nil {
		t.Fatal(err)
	}
	if len(done) != writes {
		t.Errorf("%d of %d writes have completed", len(done), writes)
	}
	for _, c := range done {
		if c.Err != nil {
			t.Fatal(c.Err)
		}
	}
	stop.Store(true)
	w.Unpark()
	<-ended
	if w.parker.limit > 4*leastPark {
		t.Errorf("the limit of a park has risen to %v", w.parker.limit)
	}
}
