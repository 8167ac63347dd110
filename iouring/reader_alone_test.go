//go:build linux

package iouring

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pagecache/iouring/internal/ring"
	"pagecache/iouring/internal/ringtest"
)

// A caller that reads alone polls, except for the reads that follow one that took longer than it polls.
func TestReadAlone(t *testing.T) {
	var slow atomic.Bool
	held := make(chan uint64, 1) // the id of a slow read
	var r *Reader
	k, side := ringtest.Watch(ring.Linux)
	k.Enter = func(fd int, submit, min, flags uint32) unix.Errno {
		if r == nil { // the probe
			return ring.Linux.Enter(fd, submit, min, flags)
		}
		side.Take(func(e *ringtest.Entry) {
			if slow.Load() {
				held <- e.ID
			} else {
				side.Complete(e.ID, 1)
			}
		})
		return 0
	}
	r = newReader(t, k, ReaderOptions{Ring: ModeOn})
	parking := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.parking
	}
	fetch := func() {
		t.Helper()
		if err := r.Fetch(0, []Range{{0, 1}}); err != nil {
			t.Fatal(err)
		}
	}
	if fetch(); parking() != 0 {
		t.Errorf("%d reads park after a fast one", parking())
	}
	for range 2 {
		slow.Store(true)
		done := make(chan error)
		go func() { done <- r.Fetch(0, []Range{{0, 1}}) }()
		id := <-held
		for end := time.Now().Add(10 * time.Second); parking() == 0 && time.Now().Before(end); {
			runtime.Gosched()
		}
		if n := parking(); n != parkNext {
			t.Fatalf("%d reads park after a slow one, want %d", n, parkNext)
		}
		side.Complete(id, 1)
		r.reap() // the kernel would signal the completion
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		slow.Store(false)
		for left := parkNext - 1; left >= 0; left-- {
			if fetch(); parking() != left {
				t.Fatalf("%d reads will park, want %d", parking(), left)
			}
		}
		fetch() // polls: the next one that is slow ends that
	}
}

// A caller that polls lets other goroutines run: with one processor at once, else when the last time is yieldEvery ago.
func TestReadAloneYields(t *testing.T) {
	for _, procs := range []int{1, 2} {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
		held := make(chan uint64, 1) // the id of a read
		var r *Reader
		k, side := ringtest.Watch(ring.Linux)
		k.Enter = func(fd int, submit, min, flags uint32) unix.Errno {
			if r == nil { // the probe
				return ring.Linux.Enter(fd, submit, min, flags)
			}
			side.Take(func(e *ringtest.Entry) { held <- e.ID })
			return 0
		}
		r = newReader(t, k, ReaderOptions{Ring: ModeOn})
		var stop atomic.Bool
		for range procs - 1 { // so that the caller has the only processor that may be free
			go func() {
				for !stop.Load() {
				}
			}()
		}
		inTime := false
		for n := 0; n < 1000 && !inTime; n++ { // the machine may be busy, and the threads that spin be preempted
			r.mu.Lock()
			if r.parking, r.yielded = 0, time.Now(); procs > 1 {
				r.yielded = r.yielded.Add(-yieldEvery)
			}
			r.mu.Unlock()
			go func() {
				side.Complete(<-held, 1)
				r.reap()
			}()
			if err := r.Fetch(0, []Range{{0, 1}}); err != nil {
				t.Fatal(err)
			}
			r.mu.Lock()
			inTime = r.parking == 0
			if r.mu.Unlock(); procs > 1 && !inTime {
				time.Sleep(time.Millisecond)
			}
		}
		if stop.Store(true); !inTime {
			t.Errorf("%d processors: no goroutine runs while a caller polls", procs)
		}
	}
}
